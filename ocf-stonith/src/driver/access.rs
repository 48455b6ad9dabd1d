use super::tool::Tool;
use crate::{
    AttemptId, Capabilities, DeviceResult, Done, Failure, FenceAction, FenceDevice, Operation, ReadBack,
    ResourceFence,
};
use core::time::Duration;
use parking_lot::Mutex;
use pils::NodeId;
use pils::process::Runner;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

/// Makes a fence device of a [`ResourceFence`]: off takes the access, on gives it, status reads it.
///
/// Give its configuration `unfence = true`: a node needs its access before it may run anything.
#[derive(Clone, Debug)]
pub struct AccessDevice {
    fence: Arc<dyn ResourceFence>,
}

impl AccessDevice {
    /// A device that works on this resource.
    pub fn new(fence: impl ResourceFence + 'static) -> Self {
        Self { fence: Arc::new(fence) }
    }

    fn carry_out(&self, action: FenceAction, node: NodeId) -> DeviceResult {
        let done = |read_back| DeviceResult::Done { read_back, detail: Arc::from("") };
        let result = match action {
            FenceAction::Off => self.fence.revoke(node).map(|()| done(ReadBack::Off)),
            FenceAction::On => self.fence.grant(node).map(|()| done(ReadBack::On)),
            FenceAction::Status => {
                let read = |has| done(if has { ReadBack::On } else { ReadBack::Off });
                self.fence.has_access(node).map(read)
            }
            FenceAction::Monitor => self.fence.has_access(node).map(|_| done(ReadBack::NotRead)),
            FenceAction::Reboot | FenceAction::List => {
                Err(Failure::Refused { detail: Arc::from("access is taken and given, and nothing else") })
            }
        };
        result.unwrap_or_else(DeviceResult::Failed)
    }
}

impl FenceDevice for AccessDevice {
    fn capabilities(&self) -> Capabilities {
        let actions = vec![FenceAction::Off, FenceAction::On, FenceAction::Status, FenceAction::Monitor];
        Capabilities { actions, verifies_off: true }
    }

    fn execute(&self, operation: Operation, done: Done) {
        let own = self.clone();
        let (tell, told) = channel();
        let (action, node) = (operation.action, operation.node);
        let work = move || tell.send(own.carry_out(action, node)).unwrap_or(());
        // What hangs holds a thread of its own; its late result is nobody's.
        let wait = move || {
            let after = operation.timeout;
            let result = told.recv_timeout(after);
            done(result.unwrap_or(DeviceResult::Failed(Failure::TimedOut { after })));
        };
        let start = |name: &str, what: Box<dyn FnOnce() + Send>| {
            if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(what) {
                // What is dropped reports a failure.
                tracing::error!(%error, "cannot start a thread for a fence operation");
            }
        };
        start("fence-access", Box::new(work));
        start("fence-access-wait", Box::new(wait));
    }

    /// It ends by itself, at its timeout at the latest.
    fn cancel(&self, _: AttemptId) {}
}

/// Shuts nodes out of what this machine offers (an export, a service): packets from their addresses are dropped before
/// anything else sees them. Uses `nft`, and needs the right to change the packet filter.
///
/// It owns the table `inet ocf_fence` of its network namespace, and looking at it restores its rules. Every node that offers something has to revoke.
#[derive(Clone, Debug)]
pub struct AddressFence {
    addresses: BTreeMap<NodeId, Vec<IpAddr>>,
    nft: Tool,
}

/// The table, its sets and its chain; adding what is there changes nothing.
const TABLE: &str = "add table inet ocf_fence\n\
    add set inet ocf_fence revoked4 { type ipv4_addr; }\n\
    add set inet ocf_fence revoked6 { type ipv6_addr; }\n\
    add chain inet ocf_fence input { type filter hook prerouting priority -310; policy accept; }\n\
    flush chain inet ocf_fence input\n\
    add rule inet ocf_fence input ip saddr @revoked4 drop\n\
    add rule inet ocf_fence input ip6 saddr @revoked6 drop\n";

impl AddressFence {
    /// Knows the nodes by these addresses, all of each. `nft`: the program with its first arguments, such as `ip netns exec NAME nft`,
    /// the program as an absolute path. Each call of it may take `timeout`.
    pub fn new(
        addresses: BTreeMap<NodeId, Vec<IpAddr>>,
        nft: impl IntoIterator<Item = String>,
        runner: &Runner,
        timeout: Duration,
    ) -> Self {
        Self { addresses, nft: Tool::new(nft, runner, timeout) }
    }

    fn of(&self, node: NodeId) -> Result<&[IpAddr], Failure> {
        let known = self.addresses.get(&node).filter(|all| !all.is_empty());
        let detail = || Failure::Refused { detail: Arc::from("no address of the node is known") };
        known.map(Vec::as_slice).ok_or_else(detail)
    }

    /// The addresses that are shut out, as the packet filter has them.
    fn shut_out(&self) -> Result<Vec<IpAddr>, Failure> {
        let text = self.nft.succeed(&["list", "table", "inet", "ocf_fence"], String::new())?;
        if !text.contains("@revoked4 drop") || !text.contains("@revoked6 drop") {
            return Err(Failure::NotVerified {
                detail: Arc::from("the rules of the packet filter are gone"),
            });
        }
        let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == '{' || c == '}');
        Ok(words.filter_map(|word| word.parse().ok()).collect())
    }

    fn change(&self, verb: &str, addresses: &[IpAddr]) -> Result<(), Failure> {
        let mut script = TABLE.to_owned();
        for address in addresses {
            let set = if address.is_ipv4() { "revoked4" } else { "revoked6" };
            script.push_str("add element inet ocf_fence ");
            script.push_str(&format!("{set} {{ {address} }}\n"));
            if verb == "delete" {
                script.push_str(&format!("delete element inet ocf_fence {set} {{ {address} }}\n"));
            }
        }
        self.nft.succeed(&["-f", "-"], script).map(drop)
    }
}

impl ResourceFence for AddressFence {
    fn revoke(&self, node: NodeId) -> Result<(), Failure> {
        let addresses = self.of(node)?;
        self.change("add", addresses)?;
        let shut_out = self.shut_out()?;
        if addresses.iter().all(|a| shut_out.contains(a)) {
            Ok(())
        } else {
            Err(Failure::NotVerified { detail: Arc::from("the packet filter does not have the address") })
        }
    }

    fn grant(&self, node: NodeId) -> Result<(), Failure> {
        let addresses = self.of(node)?;
        self.change("delete", addresses)?;
        let shut_out = self.shut_out()?;
        if addresses.iter().any(|a| shut_out.contains(a)) {
            Err(Failure::NotVerified { detail: Arc::from("the packet filter still has the address") })
        } else {
            Ok(())
        }
    }

    fn has_access(&self, node: NodeId) -> Result<bool, Failure> {
        let addresses = self.of(node)?;
        // Only what is not there yet is made: this changes no element.
        self.change("add", &[])?;
        let shut_out = self.shut_out()?;
        Ok(!addresses.iter().all(|a| shut_out.contains(a)))
    }
}

/// A resource in memory: for tests of what stands above. Nodes have access until it is revoked.
#[derive(Debug, Default)]
pub struct SimulatedAccess {
    revoked: Mutex<BTreeMap<NodeId, bool>>,
}

impl ResourceFence for SimulatedAccess {
    fn revoke(&self, node: NodeId) -> Result<(), Failure> {
        self.revoked.lock().insert(node, true);
        Ok(())
    }

    fn grant(&self, node: NodeId) -> Result<(), Failure> {
        self.revoked.lock().insert(node, false);
        Ok(())
    }

    fn has_access(&self, node: NodeId) -> Result<bool, Failure> {
        Ok(!self.revoked.lock().get(&node).copied().unwrap_or(false))
    }
}
