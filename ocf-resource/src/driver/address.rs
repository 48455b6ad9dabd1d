//! An agent for an IP address that goes from node to node, without any program.

mod announce;
mod netlink;

use super::InProcess;
use crate::{Action, Metadata, OcfCode, Operation, Parameter, SupportedAction};
use core::time::Duration;
use netlink::{Assigned, Connected, Netlink};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::{io, thread};

/// Time between two announcements.
const PAUSE: Duration = Duration::from_millis(200);

type Failure = (OcfCode, String);

/// An IP address as a resource: added to an interface, and announced to the neighbours, where it starts; removed where it stops.
///
/// Interface and network are found out if they are not given: those of the network without a gateway that the address is in.
/// IPv4 and IPv6. Needs the right to administer the network (root, or `CAP_NET_ADMIN` and `CAP_NET_RAW`).
///
/// | parameter | |
/// |---|---|
/// | `ip` | the address; required |
/// | `prefix` | bits of its network |
/// | `interface` | name of the interface |
/// | `announcements` | how often neighbours are told, 200 ms apart; default 5, 0 for never, at most 100 |
#[derive(Clone, Copy, Debug, Default)]
pub struct Address;

/// The parameters, read.
struct Wanted {
    ip: IpAddr,
    prefix: Option<u8>,
    interface: Option<u32>,
    announcements: u32,
}

impl Wanted {
    fn read(parameters: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let wrong = |name: &str, why: &str| (OcfCode::Configured, format!("parameter {name} {why}"));
        let given = |name: &str| parameters.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let ip: IpAddr = given("ip")
            .ok_or_else(|| wrong("ip", "is missing"))?
            .parse()
            .map_err(|_text| wrong("ip", "is no address"))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = given("prefix").map(|text| text.parse().ok().filter(|bits| (1..=most).contains(bits)));
        let prefix =
            prefix.map(|bits| bits.ok_or_else(|| wrong("prefix", "is no number of bits"))).transpose()?;
        let announcements = given("announcements").map_or(Some(5), |n| n.parse().ok().filter(|n| *n <= 100));
        let announcements =
            announcements.ok_or_else(|| wrong("announcements", "is not between 0 and 100"))?;
        let interface = given("interface").map(|name| {
            let missing = |_| (OcfCode::Arguments, format!("this node has no interface {name}"));
            nix::net::if_::if_nametoindex(name).map_err(missing)
        });
        Ok(Self { ip, prefix, interface: interface.transpose()?, announcements })
    }

    /// Where it would be added.
    fn place(&self, connected: &[Connected]) -> Result<Assigned, Failure> {
        let fits = |c: &&Connected| {
            self.interface.is_none_or(|i| i == c.interface) && netlink::contains(c.network, c.prefix, self.ip)
        };
        let found = connected.iter().filter(fits).max_by_key(|c| c.prefix);
        let interface = self.interface.or_else(|| found.map(|c| c.interface));
        let alone = if self.ip.is_ipv4() { 32 } else { 128 };
        let prefix = self.prefix.or_else(|| found.map(|c| c.prefix)).unwrap_or(alone);
        match interface {
            Some(interface) => Ok(Assigned { ip: self.ip, prefix, interface }),
            None => Err((
                OcfCode::Arguments,
                format!("no interface of this node is in the network of {}; name one", self.ip),
            )),
        }
    }
}

impl InProcess for Address {
    fn operate(&self, operation: &Operation) -> Result<String, Failure> {
        let wanted = Wanted::read(&operation.parameters);
        match operation.action {
            Action::Start => start(&wanted?),
            // What cannot be read was never started; an interface that is gone took the address along.
            Action::Stop => match wanted {
                Ok(wanted) => stop(&wanted),
                Err((OcfCode::Arguments, why)) => Ok(why),
                Err(wrong) => Err(wrong),
            },
            Action::Monitor => match wanted {
                Ok(wanted) => monitor(&wanted),
                Err((OcfCode::Arguments, why)) => Err((OcfCode::NotRunning, why)),
                Err(wrong) => Err(wrong),
            },
            Action::ValidateAll => {
                let wanted = wanted?;
                let place = wanted.place(&open()?.connected().map_err(system)?)?;
                Ok(format!("{}/{} on {}", place.ip, place.prefix, announce::name(place.interface)))
            }
            Action::MetaData => Ok(String::new()),
            other @ (Action::Promote
            | Action::Demote
            | Action::Notify
            | Action::MigrateTo
            | Action::MigrateFrom
            | Action::Reload
            | Action::ReloadAgent) => Err((OcfCode::Unimplemented, format!("there is no {other}"))),
        }
    }

    fn metadata(&self) -> Metadata {
        let parameter = |name: &str, kind: &str, default: Option<&str>, summary: &str| Parameter {
            name: name.to_owned(),
            kind: kind.to_owned(),
            default: default.map(str::to_owned),
            summary: summary.to_owned(),
            ..Parameter::default()
        };
        let ip = parameter("ip", "string", None, "the address");
        let action = |name: &str, seconds: u64| SupportedAction {
            name: name.to_owned(),
            timeout: Some(Duration::from_secs(seconds)),
            ..SupportedAction::default()
        };
        let every = SupportedAction { interval: Some(Duration::from_secs(10)), ..action("monitor", 20) };
        Metadata {
            name: "address".to_owned(),
            api_version: Some("1.1".to_owned()),
            summary: "an IP address that goes from node to node".to_owned(),
            description: "Adds an address to an interface and tells the neighbours. Interface and network are found out if they \
                          are not given."
                .to_owned(),
            parameters: vec![
                Parameter { required: true, unique: Some("ip".to_owned()), ..ip },
                parameter("prefix", "integer", None, "bits of its network"),
                parameter("interface", "string", None, "name of the interface"),
                parameter("announcements", "integer", Some("5"), "how often neighbours are told"),
            ],
            actions: vec![action("start", 20), action("stop", 20), every, action("validate-all", 20)],
            ..Metadata::default()
        }
    }
}

fn system(error: io::Error) -> Failure {
    let code =
        if error.kind() == io::ErrorKind::PermissionDenied { OcfCode::Permission } else { OcfCode::Generic };
    (code, error.to_string())
}

fn open() -> Result<Netlink, Failure> {
    Netlink::open().map_err(system)
}

/// Where the address is on this machine; only on the interface that is asked for, if one is.
fn found(netlink: &mut Netlink, wanted: &Wanted) -> Result<Vec<Assigned>, Failure> {
    let mut all = netlink.addresses().map_err(system)?;
    all.retain(|a| a.ip == wanted.ip && wanted.interface.is_none_or(|i| i == a.interface));
    Ok(all)
}

fn start(wanted: &Wanted) -> Result<String, Failure> {
    let mut netlink = open()?;
    let place = match found(&mut netlink, wanted)?.first() {
        Some(there) => *there,
        None => {
            let place = wanted.place(&netlink.connected().map_err(system)?)?;
            netlink.add(place).map_err(system)?;
            place
        }
    };
    let name = announce::name(place.interface);
    if wanted.announcements > 0 {
        announce::announce(place.ip, place.interface).map_err(system)?;
        let more = wanted.announcements - 1;
        // The service need not wait for the rest.
        let spawned = thread::Builder::new().name("announce".to_owned()).spawn(move || again(place, more));
        if let Err(error) = spawned {
            tracing::warn!(%error, "neighbours are told once only");
        }
    }
    Ok(format!("{}/{} on {name}", place.ip, place.prefix))
}

/// Tells neighbours again, as long as the address is here.
fn again(place: Assigned, times: u32) {
    for _ in 0..times {
        thread::sleep(PAUSE);
        let here = Netlink::open().and_then(|mut n| n.addresses()).is_ok_and(|all| all.contains(&place));
        if !here {
            return;
        }
        if let Err(error) = announce::announce(place.ip, place.interface) {
            tracing::debug!(%error, ip = %place.ip, "neighbours are not told once more");
        }
    }
}

fn stop(wanted: &Wanted) -> Result<String, Failure> {
    let mut netlink = open()?;
    for there in found(&mut netlink, wanted)? {
        netlink.remove(there).map_err(system)?;
    }
    match found(&mut netlink, wanted)?.is_empty() {
        true => Ok(String::new()),
        false => Err((OcfCode::Generic, format!("{} is still here", wanted.ip))),
    }
}

fn monitor(wanted: &Wanted) -> Result<String, Failure> {
    match found(&mut open()?, wanted)?.first() {
        Some(there) => Ok(format!("{}/{} on {}", there.ip, there.prefix, announce::name(there.interface))),
        None => Err((OcfCode::NotRunning, format!("{} is not here", wanted.ip))),
    }
}
