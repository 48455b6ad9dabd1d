//! How many hosts outside the cluster members reach: what they said, and what of it counts.

use super::State;
use pils::{NodeId, NodeInstance};
use std::collections::BTreeMap;

/// What members said of the hosts that they reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// What each said last.
    pub(crate) said: BTreeMap<NodeId, Said>,
    /// What counts for each, once it has settled.
    pub(crate) counts: BTreeMap<NodeId, u32>,
}

/// How many hosts a member says that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) hosts: u32,
    /// To tell it from what it says later.
    pub(crate) serial: u64,
}

impl Reach {
    /// What was said and does not count.
    pub(crate) fn open(&self) -> impl Iterator<Item = (NodeId, Said)> + '_ {
        let counts = |node: &NodeId, said: &Said| self.counts.get(node) == Some(&said.hosts);
        self.said.iter().filter(move |(node, said)| !counts(node, said)).map(|(node, said)| (*node, *said))
    }
}

impl State {
    pub(super) fn on_reach(&mut self, node: NodeId, hosts: u32) {
        self.decisions += 1;
        let serial = self.decisions;
        self.reach.said.insert(node, Said { hosts, serial });
        if self.hurry {
            self.reach.counts.insert(node, hosts);
        }
    }

    /// What these said has stayed as it is. False if all of them have said something else since.
    pub(super) fn on_reach_settled(&mut self, settled: &[(NodeId, u64)]) -> bool {
        let Reach { said, counts } = &mut self.reach;
        let valid = |(node, serial): &&(NodeId, u64)| said.get(node).is_some_and(|s| s.serial == *serial);
        let mut any = false;
        for (node, _) in settled.iter().filter(valid) {
            counts.insert(*node, said[node].hosts);
            any = true;
        }
        any
    }

    /// Only what members said in this life counts.
    pub(super) fn forget_reach(&mut self, joined: &[NodeInstance]) {
        let stays = |node: &NodeId| {
            self.members.iter().any(|m| m.node == *node) && joined.iter().all(|j| j.node != *node)
        };
        self.reach.said.retain(|node, _| stays(node));
        self.reach.counts.retain(|node, _| stays(node));
    }
}
