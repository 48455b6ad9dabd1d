//! Who can talk to whom, as one bit for each node that might be a member.

use crate::clique::{STEPS_MAX, bits, heaviest_clique};
use pils::{NodeId, NodeInstance};

/// Most nodes that fit.
pub(crate) const MOST: usize = 64;

/// What is broken between nodes that might be members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// Sorted; each is a bit, the first the lowest.
    nodes: Vec<NodeInstance>,
    /// With whom each cannot be in one view.
    broken: Vec<u64>,
    /// Whom each hears, and who should hear it and does not.
    deaf: Vec<u64>,
}

/// Which of `nodes` are in `row`. Both sorted; O(n).
pub(crate) fn bits_of(nodes: &[NodeInstance], row: impl IntoIterator<Item = NodeInstance>) -> u64 {
    let mut nodes = nodes.iter().enumerate().peekable();
    let mut set = 0;
    for p in row {
        while nodes.next_if(|(_, node)| **node < p).is_some() {}
        if let Some((i, _)) = nodes.next_if(|(_, node)| **node == p) {
            set |= 1 << i;
        }
    }
    set
}

impl Links {
    /// Of at most [`MOST`] nodes, sorted, and whom each says that it hears. `must_see` is symmetric, and asked only where
    /// somebody is not heard: O(n + holes).
    pub(crate) fn new(
        nodes: Vec<NodeInstance>,
        hears: &[u64],
        must_see: impl Fn(NodeId, NodeId) -> bool,
    ) -> Self {
        assert!(nodes.len() <= MOST && nodes.len() == hears.len(), "at most 64 nodes, a row for each");
        let (mut broken, mut deaf) = (vec![0; nodes.len()], vec![0; nodes.len()]);
        let mut cut = |i: usize, j: usize| {
            broken[i] |= 1 << j;
            broken[j] |= 1 << i;
        };
        let all = whole(nodes.len());
        for (i, x) in nodes.iter().enumerate() {
            for j in bits(all & !hears[i] & !(1 << i)) {
                let y = nodes[j];
                if x.node == y.node || !must_see(x.node, y.node) {
                    continue;
                }
                cut(i, j);
                if hears[j] & 1 << i != 0 {
                    deaf[j] |= 1 << i;
                }
            }
            // Two lives of a node are never members together.
            let lives = nodes[i + 1..].iter().take_while(|other| other.node == x.node).count();
            (i + 1..=i + lives).for_each(|j| cut(i, j));
        }
        Self { nodes, broken, deaf }
    }

    pub(crate) const fn all(&self) -> u64 {
        whole(self.nodes.len())
    }

    pub(crate) fn nodes(&self) -> &[NodeInstance] {
        &self.nodes
    }

    /// True if all can be in one view.
    pub(crate) fn is_whole(&self) -> bool {
        self.broken.iter().all(|row| *row == 0)
    }

    /// Those of whom `which` is true.
    pub(crate) fn select(&self, which: impl Fn(NodeInstance) -> bool) -> u64 {
        let chosen = self.nodes.iter().enumerate().filter(|(_, p)| which(**p));
        chosen.fold(0, |set, (i, _)| set | 1 << i)
    }

    /// The nodes of a set, sorted.
    pub(crate) fn list(&self, set: u64) -> Vec<NodeInstance> {
        bits(set).map(|i| self.nodes[i]).collect()
    }

    /// Those whom somebody of `within` should hear and does not, though they hear it: they stood still, or what they send gets lost.
    pub(crate) fn missed(&self, within: u64) -> u64 {
        let missed = self.deaf.iter().enumerate().filter(|(_, deaf)| *deaf & within != 0);
        missed.fold(0, |set, (i, _)| set | 1 << i)
    }

    /// The heaviest set within `within` of nodes that can all be in one view. `weight` by bit.
    pub(crate) fn heaviest(&self, within: u64, weight: &[u128]) -> u64 {
        heaviest_clique(weight, &self.broken, within, STEPS_MAX)
    }
}

/// The bits of the first `n`.
const fn whole(n: usize) -> u64 {
    if n == MOST { u64::MAX } else { (1 << n) - 1 }
}
