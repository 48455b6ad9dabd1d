//! Who should be in the next view.

use super::{Consensus, sorted};
use crate::links::{Links, MOST, bits_of};
use crate::quorum::VoteConfig;
use crate::{EvenSplit, Standing};
use pils::{NodeId, NodeInstance};

/// Those of `row` whose node is not among `nodes`. Both sorted.
fn beyond<'a>(row: &'a [NodeInstance], nodes: &'a [NodeId]) -> impl Iterator<Item = NodeInstance> + 'a {
    let mut nodes = nodes.iter().copied().peekable();
    row.iter().copied().filter(move |p| {
        while nodes.next_if(|node| *node < p.node).is_some() {}
        nodes.peek() != Some(&p.node)
    })
}

impl Consensus {
    /// Everybody who might be a member: this node, peers that are up, and whom those see. Sorted, at most [`MOST`].
    fn vertices(&self) -> Vec<NodeInstance> {
        let level = self.level();
        let admitted = |p: &NodeInstance| self.config.criterion.admits(p.node);
        let answers =
            |p: &NodeInstance| self.status_of(*p).is_some_and(|s| s.fit) && self.speaks_at(level, *p);
        let direct = self.up.iter().copied().filter(answers).chain([self.local]).filter(admitted);
        let mut vertices = sorted(direct.collect());
        let mut near: Vec<NodeId> = self.up.iter().chain([&self.local]).map(|p| p.node).collect();
        near.sort_unstable();
        let ended = |p: &NodeInstance| self.down.get(p).is_some_and(|reason| reason.is_final());
        let seen: Vec<NodeInstance> = vertices
            .iter()
            .filter_map(|p| self.statuses.get(p))
            .flat_map(|s| beyond(&s.row, &near))
            .filter(|p| self.is_peer(p.node) && admitted(p) && !ended(p))
            .collect();
        if !seen.is_empty() {
            vertices.extend(seen);
            vertices = sorted(vertices);
        }
        vertices.truncate(MOST);
        vertices
    }

    /// Whom `x` says that it hears, of `nodes`. One whose row is unknown is taken at the word of others.
    fn hears(&self, x: NodeInstance, nodes: &[NodeInstance]) -> u64 {
        if x == self.local {
            return bits_of(nodes, self.up.iter().copied());
        }
        let unknown = if self.up.contains(&x) { 0 } else { u64::MAX };
        self.statuses.get(&x).map_or(unknown, |s| bits_of(nodes, s.row.iter().copied()))
    }

    /// What is broken between those of `nodes`, which are sorted and at most [`MOST`]. O(n²) comparisons.
    fn links(&self, nodes: Vec<NodeInstance>) -> Links {
        let hears: Vec<u64> = nodes.iter().map(|x| self.hears(*x, &nodes)).collect();
        Links::new(nodes, &hears, |a, b| self.config.criterion.must_see(a, b))
    }

    /// True if the two can be in one view.
    pub(super) fn are_linked(&self, a: NodeInstance, b: NodeInstance) -> bool {
        self.links(sorted(vec![a, b])).is_whole()
    }

    /// Who should be in the next view: the heaviest set of nodes that can all talk to each other. Sorted.
    ///
    /// Weighed by votes, then members of the newest primary, then those whom nobody misses, then the senior of that primary,
    /// then the count, then the lowest ids.
    pub(super) fn desired(&self) -> Vec<NodeInstance> {
        let links = self.links(self.vertices());
        let all = links.all();
        let (number, members) = self.newest_primary();
        // Who is in the primary is not sent away for the past.
        let inside = |p: NodeInstance| {
            members.iter().any(|m| m.instance == p) && self.active_number(p) == Some(number)
        };
        let free = |p: NodeInstance| {
            p == self.local || !self.is_held(p) || inside(p) && !self.is_held_to_stay_out(p)
        };
        let allowed = links.select(free);
        let chosen = self.heaviest(&links, allowed);
        if allowed == all || self.standing_of(&chosen) == Standing::Quorum {
            return chosen;
        }
        // Better an unstable primary than none.
        if self.rules.even_split != EvenSplit::Stops {
            // But a half need not wait for one that does not answer.
            let answering = links.select(|p| !self.is_held_for_no_answer(p));
            let chosen = self.heaviest(&links, answering);
            if self.standing_of(&chosen) > Standing::Short {
                return chosen;
            }
        }
        self.heaviest(&links, all)
    }

    fn heaviest(&self, links: &Links, within: u64) -> Vec<NodeInstance> {
        let nodes = links.nodes();
        let (number, members) = self.newest_primary();
        let position = |p: NodeInstance| nodes.binary_search(&p).ok().filter(|i| within & 1 << i != 0);
        let counts = |p: NodeInstance| self.status_of(p).is_none() || self.active_number(p) == Some(number);
        let here = members.iter().map(|m| m.instance).filter(|p| counts(*p)).filter_map(position);
        let mut insiders = here.peekable();
        let senior = insiders.peek().map_or(0, |i| 1_u64 << i);
        let inside = insiders.fold(0_u64, |set, i| set | 1 << i);
        let missed = links.missed(within);
        let is = |set: u64, i: usize| u128::from(set >> i & 1);
        let weight = |(i, p): (usize, &NodeInstance)| {
            u128::from(self.votes.votes(p.node)) << 60
                | is(inside, i) << 40
                | is(!missed, i) << 30
                | is(senior, i) << 20
                | 1 << 10
        };
        let weights: Vec<u128> = nodes.iter().enumerate().map(weight).collect();
        links.list(links.heaviest(within, &weights))
    }

    /// What the votes of `candidates` that count are worth.
    fn standing_of(&self, candidates: &[NodeInstance]) -> Standing {
        self.standing_in(&self.votes, candidates)
    }

    /// The same, with these votes.
    pub(super) fn standing_in(&self, votes: &VoteConfig, candidates: &[NodeInstance]) -> Standing {
        let everybody = votes.all_present(candidates);
        let counts = |p: &NodeInstance| {
            everybody
                || if *p == self.local {
                    !self.voteless
                } else {
                    self.statuses.get(p).is_some_and(|s| s.has_vote)
                }
        };
        let sum = votes.sum(candidates.iter().copied().filter(counts));
        self.worth(votes, sum)
    }

    /// Whom this node would propose now, if it should propose anybody.
    pub(super) fn candidates(&self) -> Option<Vec<NodeInstance>> {
        let desired = self.desired();
        let follows = self.config.criterion.head().is_some_and(|head| head != self.local.node);
        let listed = self.is_peer(self.local.node);
        let fit = self.unfit_until.is_none() && self.speaks(self.local);
        let me = listed && desired.contains(&self.local) && fit && !follows;
        (me && self.standing_of(&desired) > Standing::Short).then_some(desired)
    }
}

#[cfg(test)]
mod tests;
