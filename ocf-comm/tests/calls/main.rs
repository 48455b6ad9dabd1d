//! Calls between nodes: what becomes of a call, one behaviour at a time and over thousands of seeds with loss of nodes.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one kind of output and leaves the others"
)]

mod behaviour;
mod seeds;

use ocf_comm::rpc::{CallLimits, Calls, Completion, Output, Ticket};
use ocf_comm::{Connectivity as _, MemoryHub, MemoryLimits, MemoryNode};
use pils::{Incarnation, Instant, NodeId, NodeInstance};

/// A node: its end of the network and its calls.
pub(crate) struct Node {
    pub(crate) net: MemoryNode,
    pub(crate) calls: Calls,
}

impl Node {
    pub(crate) fn start(hub: &MemoryHub, id: u32, life: u128, limits: CallLimits) -> Self {
        let instance = NodeInstance::new(NodeId::new(id), Incarnation::new(life << 96 | u128::from(id)));
        Self { net: hub.attach(instance).expect("no life of it is attached"), calls: Calls::new(limits) }
    }

    pub(crate) fn local(&self) -> NodeInstance {
        self.net.local()
    }

    /// Takes every event that waits.
    pub(crate) fn poll(&mut self, now: Instant) {
        while let Some(event) = self.net.poll_event() {
            self.calls.handle(now, event, &mut self.net);
        }
    }

    /// The completions that wait.
    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        let mut all = Vec::new();
        while let Some(output) = self.calls.poll_output() {
            match output {
                Output::Completed(completion) => all.push(completion),
                other => panic!("expected completions only, not {other:?}"),
            }
        }
        all
    }

    /// The next request, which wants an answer.
    pub(crate) fn request(&mut self) -> (Ticket, String) {
        match self.calls.poll_output() {
            Some(Output::Request { ticket: Some(ticket), method, .. }) => (ticket, method),
            other => panic!("expected a request, not {other:?}"),
        }
    }
}

pub(crate) fn cluster(count: u32, memory: MemoryLimits, limits: &CallLimits) -> (MemoryHub, Vec<Node>) {
    let hub = MemoryHub::new(memory);
    let mut nodes: Vec<Node> = (1..=count).map(|id| Node::start(&hub, id, 1, limits.clone())).collect();
    for node in &mut nodes {
        node.poll(Instant::ZERO);
    }
    (hub, nodes)
}
