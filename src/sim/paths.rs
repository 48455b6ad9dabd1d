//! What nodes say about their paths to one another, looked at now and then: the cases that several paths are there for.

use super::network::owner;
use super::program::Program;
use super::world::World;
use core::time::Duration;
use ocf_comm::testing::sealed_number;
use ocf_comm::{PathId, PathReason, PathState, PathStatus, PeerStatus, Transmit};
use pils::{NodeId, NodeInstance};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How often a node with several paths is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Cases that runs with several paths must meet within a few hundred seeds.
pub const PATH_CASES: [&str; 9] = [
    "a path was in doubt",
    "a path was down while its peer was not",
    "messages moved to another path",
    "a flapping path was held back",
    "a path that was held back came back",
    "a path fell back to small datagrams",
    "an interface was down under a path",
    "a path was slow in one direction",
    "an address changed under a path",
];

/// The latest that each node said, and the packet numbers it used.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: BTreeMap<(NodeInstance, NodeInstance), Vec<PathStatus>>,
    /// By sender, path, receiver and circuit, whatever their addresses are.
    numbers: BTreeMap<(NodeInstance, PathId, NodeId, u32), u64>,
}

impl Watch {
    /// Compares what a node says about its paths with what it said before.
    pub(crate) fn look<P: Program>(
        &mut self,
        world: &mut World<P>,
        me: NodeInstance,
        peers: Vec<PeerStatus>,
    ) {
        for peer in peers {
            let Some(instance) = peer.instance.filter(|_| peer.up) else { continue };
            let before = self.seen.insert((me, instance), peer.paths.clone()).unwrap_or_default();
            for path in &peer.paths {
                let earlier = before.iter().find(|p| p.path == path.path);
                cases(earlier, path).for_each(|case| world.sometimes(case));
            }
        }
    }

    /// C3: no number is used twice under one key. Numbers of a path count over all keys of its circuit.
    pub(crate) fn number(&mut self, me: NodeInstance, sent: &Transmit) {
        for datagram in sent.data.chunks(sent.segment.max(1)) {
            let Some((circuit, path, number)) = sealed_number(datagram) else { continue };
            assert_eq!(path, sent.path, "the header names the path");
            let Some((to, _)) = owner(sent.to) else { continue };
            let last = self.numbers.insert((me, path, to, circuit), number);
            assert!(
                last.is_none_or(|last| last < number),
                "C3: {me} uses packet number {number} after {last:?} on path {} to {}",
                path.0,
                sent.to
            );
        }
    }

    /// Forgets a life.
    pub(crate) fn ended(&mut self, who: NodeInstance) {
        self.seen.retain(|(me, _), _| *me != who);
        self.numbers.retain(|(me, ..), _| *me != who);
    }
}

fn cases(before: Option<&PathStatus>, now: &PathStatus) -> impl Iterator<Item = &'static str> {
    let held = |p: &PathStatus| matches!(p.reason, PathReason::Flapping { .. });
    let [doubt, down, moved, flaps, back, small, dark, _, _] = PATH_CASES;
    [
        (now.state == PathState::Doubtful, doubt),
        (now.state == PathState::Down && now.reason == PathReason::ProbesLost, down),
        (now.active && before.is_some_and(|b| !b.active), moved),
        (held(now), flaps),
        (now.state == PathState::Up && before.is_some_and(held), back),
        (before.is_some_and(|b| now.mtu < b.mtu), small),
        (now.reason == PathReason::NoCarrier, dark),
    ]
    .into_iter()
    .filter_map(|(occurs, case)| occurs.then_some(case))
}

/// The address of a node on each path.
pub(crate) fn addresses(node: NodeId, paths: u8) -> Vec<(PathId, SocketAddr)> {
    (0..paths).map(|path| (PathId(path), super::address(node, path))).collect()
}

/// The case of a change of the network, if it is one of [`PATH_CASES`].
pub(crate) fn case_of(change: &super::Change) -> Option<&'static str> {
    let [.., late, moved] = PATH_CASES;
    let is_late = matches!(change, super::Change::Path(.., "late"));
    let case = if is_late { late } else { moved };
    (is_late || matches!(change, super::Change::Address(..))).then_some(case)
}
