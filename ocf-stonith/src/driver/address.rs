use super::{AccessDevice, AddressFence, DeviceClass, classes};
use crate::{DeviceConfig, FenceDevice, TargetConfig};
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The program that changes the packet filter, if none is named.
const NFT: &str = "/usr/sbin/nft";

/// The class `address`: nodes are shut out by their addresses where something is offered, an export or a service, and let in again
/// before they run anything ([`AddressFence`]).
///
/// A node's addresses are its `plug`, with spaces between them: all that it may come from. `command` is the program `nft` with what
/// stands before its arguments, an absolute path first. One packet filter has to serve all nodes, so each has to reach the same one: by
/// `/usr/bin/ssh root@storage nft`, say. Without it, it is the packet filter of this machine, which protects what this machine offers
/// and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressClass;

impl DeviceClass for AddressClass {
    fn name(&self) -> &str {
        "address"
    }

    fn describe(&self) -> &str {
        "takes a node its access to what is offered at one place, by its addresses"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &["command"], errors);
        let command = words(device);
        let program = command.first().map_or("", String::as_str);
        if !Path::new(program).is_absolute() {
            let fix = format!("give the program as an absolute path, such as {NFT}");
            errors.push("parameters.command", program, "is not an absolute path", fix);
        } else if !Path::new(program).is_file() {
            errors.push("parameters.command", program, "is not there", "install it (package nftables)");
        }
        if !device.unfence {
            let fix = "write unfence = true, so that a node is let in again before it runs anything";
            errors.push("unfence", "false", "a node that was shut out would stay so", fix);
        }
        if device.listed().is_empty() {
            let fix = "list the nodes, each with its addresses as plug";
            errors.push("nodes", "all", "does not say which addresses they have", fix);
        }
        for (i, target) in device.listed().iter().enumerate() {
            if let Err(wrong) = addresses(target) {
                let fix = "give the addresses of the node, with spaces between them";
                errors.push(format!("nodes[{i}].plug"), wrong, "is not an address", fix);
            }
        }
    }

    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let known = device.listed().iter().filter_map(|t| Some((t.node, addresses(t).ok()?)));
        let known: BTreeMap<NodeId, Vec<IpAddr>> = known.collect();
        let fence = AddressFence::new(known, words(device), runner, device.timeout());
        Ok(Arc::new(AccessDevice::new(fence)))
    }
}

fn words(device: &DeviceConfig) -> Vec<String> {
    let command = device.parameters.get("command").unwrap_or(NFT);
    command.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The addresses of a node, or the first word that is none.
fn addresses(target: &TargetConfig) -> Result<Vec<IpAddr>, String> {
    let plug = target.plug.as_deref().unwrap_or_default();
    let read = |word: &str| word.parse().map_err(|_no_address: std::net::AddrParseError| word.to_owned());
    let all: Vec<IpAddr> = plug.split_ascii_whitespace().map(read).collect::<Result<_, _>>()?;
    if all.is_empty() { Err(String::new()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn every_mistake_is_told_with_what_to_do() {
        let config: Config = toml::from_str(
            r#"
            [[devices]]
            name = "export"
            class = "address"
            nodes = [{ node = 1, plug = "192.0.2.1 2001:db8::1" }, { node = 2 }, { node = 3, plug = "192.0.2" }]
            parameters = { command = "nft", table = "mine" }
            "#,
        )
        .expect("well-formed");
        let mut errors = ConfigErrors::default();
        AddressClass.check(&config.devices[0], &mut errors);
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        let wrong = ["parameters.table", "parameters.command", "unfence", "nodes[1].plug", "nodes[2].plug"];
        assert_eq!(paths, wrong);
        assert!(errors.0.iter().all(|e| !e.fix.is_empty()));
    }
}
