//! The conformance suites for those who write a [`Connectivity`] provider, an
//! [`Authenticator`](crate::crypto::Authenticator), a [`PacketCodec`](crate::PacketCodec) or a medium.
//!
//! ```
//! use ocf_comm::testing::{Fabric, check_connectivity};
//! use ocf_comm::{Connectivity, MemoryHub, MemoryNode};
//! use pils::{Incarnation, NodeId, NodeInstance};
//!
//! #[derive(Default)]
//! struct InMemory {
//!     hub: MemoryHub,
//!     lives: u128,
//! }
//!
//! impl Fabric for InMemory {
//!     type Node = MemoryNode;
//!     fn start(&mut self, node: NodeId) -> MemoryNode {
//!         self.lives += 1;
//!         self.hub.attach(NodeInstance::new(node, Incarnation::new(self.lives))).expect("not attached")
//!     }
//!     fn kill(&mut self, node: MemoryNode) {
//!         self.hub.kill(node.local().node);
//!     }
//!     fn leave(&mut self, node: MemoryNode) {
//!         drop(node);
//!     }
//!     fn wait(&mut self) {}
//!     fn message_max(&self) -> usize {
//!         16 << 20
//!     }
//! }
//!
//! check_connectivity(InMemory::default);
//! ```
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a case waits for one kind of event and leaves the others"
)]

mod cases;
#[cfg(feature = "driver")]
mod medium;
mod plugins;

#[cfg(feature = "driver")]
pub use medium::{MediumPair, check_medium};
pub use plugins::{check_authenticator, check_codec};

use crate::wire::{Header, Kind};
use crate::{Connectivity, Event, Lane, PathId};
use pils::{NodeId, NodeInstance};

/// The circuit, named by its receiver, the path and the number of a sealed packet; `None` if the datagram is none. Whoever
/// carries packets can judge by it that no number is used twice.
#[must_use]
pub fn sealed_number(datagram: &[u8]) -> Option<(u32, PathId, u64)> {
    let (kind, _) = Kind::parse(*datagram.first()?)?;
    let header = Header::parse(datagram).filter(|_| kind == Kind::Sealed)?;
    Some((header.circuit, PathId(header.path), header.number))
}

/// Makes the nodes that the suite examines. One value is one cluster; nodes 1 to 3 are each other's peers in it.
pub trait Fabric {
    /// What is examined.
    type Node: Connectivity;
    /// Starts a node as a new incarnation, on the addresses that it had before.
    fn start(&mut self, node: NodeId) -> Self::Node;
    /// Ends a node without warning, as a power cut would.
    fn kill(&mut self, node: Self::Node);
    /// Ends a node in an orderly way.
    fn leave(&mut self, node: Self::Node);
    /// Lets some time pass: sleeps for a moment, or does a step of a simulation. Nothing if all is immediate.
    fn wait(&mut self);
    /// Largest message that a node takes.
    fn message_max(&self) -> usize;
}

/// Examines a provider: every promise of [`Connectivity`] that can be seen from outside, each on a fresh cluster.
///
/// # Panics
/// Where the provider does not conform, with the promise that it does not keep.
pub fn check_connectivity<F: Fabric>(mut make: impl FnMut() -> F) {
    cases::peers_come_up_and_are_listed(make());
    cases::each_lane_is_in_order_and_exactly_once(make());
    cases::a_big_message_arrives_intact(make());
    cases::a_full_queue_is_refused_then_writable(make());
    cases::impossible_sends_are_refused(make());
    cases::a_killed_node_goes_down_and_comes_back_as_another(make());
    cases::an_orderly_leave_is_told_as_such(make());
}

/// A cluster under examination: remembers the events that a case has not looked at yet.
struct Cluster<F: Fabric> {
    fabric: F,
    nodes: Vec<Member<F::Node>>,
}

struct Member<N> {
    node: N,
    /// Taken, not examined yet.
    seen: Vec<Event>,
}

/// Calls of [`Fabric::wait`] before the suite gives up.
const PATIENCE: usize = 30_000;

impl<F: Fabric> Cluster<F> {
    /// Starts nodes 1 to `count` and waits until all are up for all.
    fn start(mut fabric: F, count: u32) -> Self {
        let nodes = (1..=count).map(|id| Member { node: fabric.start(NodeId::new(id)), seen: Vec::new() });
        let nodes = nodes.collect();
        let mut cluster = Self { fabric, nodes };
        for i in 0..cluster.nodes.len() {
            for k in 0..cluster.nodes.len() {
                let peer = cluster.local(k);
                if i != k {
                    cluster.expect(i, "an Up of every peer", |event| match event {
                        Event::Up { peer: up } if *up == peer => Some(()),
                        _ => None,
                    });
                }
            }
        }
        cluster
    }

    fn local(&self, i: usize) -> NodeInstance {
        self.nodes[i].node.local()
    }

    fn node(&mut self, i: usize) -> &mut F::Node {
        &mut self.nodes[i].node
    }

    /// Takes what is there; true if there was anything.
    fn poll(&mut self) -> bool {
        let mut any = false;
        for member in &mut self.nodes {
            while let Some(event) = member.node.poll_event() {
                member.seen.push(event);
                any = true;
            }
        }
        any
    }

    /// Waits for the first event at node `i` that `pick` takes, and returns what it made of it. Other events stay.
    fn expect<R>(&mut self, i: usize, what: &str, pick: impl Fn(&Event) -> Option<R>) -> R {
        for _ in 0..PATIENCE {
            self.poll();
            let seen = &mut self.nodes[i].seen;
            if let Some((at, found)) = seen.iter().enumerate().find_map(|(at, e)| Some((at, pick(e)?))) {
                seen.remove(at);
                return found;
            }
            self.fabric.wait();
        }
        panic!("{} never saw {what}; it saw {:?}", self.local(i), self.nodes[i].seen);
    }

    /// Waits for a message in `lane` and consumes it.
    fn expect_message(&mut self, i: usize, from: NodeInstance, lane: Lane) -> (crate::Channel, bytes::Bytes) {
        let got = self.expect(i, "a message", |event| match event {
            Event::Message { from: f, lane: l, channel, message } if (*f, *l) == (from, lane) => {
                Some((*channel, message.clone()))
            }
            _ => None,
        });
        self.node(i).consumed(from, lane, got.1.len());
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryHub, MemoryNode};
    use pils::Incarnation;

    #[derive(Default)]
    struct InMemory {
        hub: MemoryHub,
        lives: u128,
    }

    impl Fabric for InMemory {
        type Node = MemoryNode;

        fn start(&mut self, node: NodeId) -> MemoryNode {
            self.lives += 1;
            self.hub.attach(NodeInstance::new(node, Incarnation::new(self.lives))).unwrap()
        }

        fn kill(&mut self, node: MemoryNode) {
            self.hub.kill(node.local().node);
        }

        fn leave(&mut self, node: MemoryNode) {
            drop(node);
        }

        fn wait(&mut self) {}

        fn message_max(&self) -> usize {
            16 << 20
        }
    }

    #[test]
    fn the_in_memory_provider_conforms() {
        check_connectivity(InMemory::default);
    }

    /// Delivers everything twice.
    struct Doubling(MemoryNode, Option<Event>);

    impl Connectivity for Doubling {
        fn local(&self) -> NodeInstance {
            self.0.local()
        }

        fn send(
            &mut self,
            to: NodeInstance,
            lane: Lane,
            channel: crate::Channel,
            message: bytes::Bytes,
        ) -> Result<(), crate::SendError> {
            self.0.send(to, lane, channel, message)
        }

        fn poll_event(&mut self) -> Option<Event> {
            if let Some(again) = self.1.take() {
                return Some(again);
            }
            self.1 = self.0.poll_event();
            self.1.clone()
        }

        fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
            self.0.consumed(from, lane, bytes);
        }

        fn peers(&self) -> Vec<crate::PeerStatus> {
            self.0.peers()
        }

        fn change(&mut self, change: crate::Change) -> Result<(), crate::ChangeError> {
            self.0.change(change)
        }
    }

    #[derive(Default)]
    struct DoublingFabric(InMemory);

    impl Fabric for DoublingFabric {
        type Node = Doubling;

        fn start(&mut self, node: NodeId) -> Doubling {
            Doubling(self.0.start(node), None)
        }

        fn kill(&mut self, node: Doubling) {
            self.0.kill(node.0);
        }

        fn leave(&mut self, node: Doubling) {
            self.0.leave(node.0);
        }

        fn wait(&mut self) {}

        fn message_max(&self) -> usize {
            self.0.message_max()
        }
    }

    #[test]
    #[should_panic(expected = "in order and once")]
    fn a_provider_that_delivers_twice_is_found_out() {
        check_connectivity(DoublingFabric::default);
    }
}
