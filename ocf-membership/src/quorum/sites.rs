//! Votes that are counted by sites.

use super::{NodeVotes, QuorumPolicy, total_votes};
use pils::NodeId;
use std::collections::BTreeMap;

/// A majority of sites: every site has the same weight, however many nodes stand there, and its nodes share it by their votes.
///
/// So a side goes on if it has, for example, two whole sites of three; a site with more nodes than all others together is not a
/// majority, and can be lost. Where sites are only partly there, their parts count: two thirds of one site and a whole
/// other one of three are more than half. Safe for the same reason as a majority: it is one, of these weights. A node that is listed at no
/// site is one by itself. Two sites make even splits: combine it with `+tie-breaker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BySite {
    sites: Vec<Vec<NodeId>>,
}

impl BySite {
    /// The nodes of each site. `None` if a site is empty or a node is at two.
    #[must_use]
    pub fn new(sites: impl IntoIterator<Item = Vec<NodeId>>) -> Option<Self> {
        let sites: Vec<Vec<NodeId>> = sites.into_iter().collect();
        let mut nodes: Vec<NodeId> = sites.iter().flatten().copied().collect();
        let listed = nodes.len();
        nodes.sort_unstable();
        nodes.dedup();
        (nodes.len() == listed && !sites.is_empty() && sites.iter().all(|site| !site.is_empty()))
            .then_some(Self { sites })
    }

    /// From `1,2/3,4/5`: nodes with commas between them, sites with slashes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let node = |id: &str| id.parse().ok().map(NodeId::new);
        let sites: Option<Vec<Vec<NodeId>>> =
            text.split('/').map(|site| site.split(',').map(node).collect()).collect();
        Self::new(sites?)
    }

    /// The site of a node: listed ones by their place, others by themselves.
    fn site_of(&self, node: NodeId) -> (usize, Option<NodeId>) {
        let listed = self.sites.iter().position(|site| site.contains(&node));
        listed.map_or((self.sites.len(), Some(node)), |at| (at, None))
    }
}

impl QuorumPolicy for BySite {
    fn name(&self) -> String {
        let site = |site: &Vec<NodeId>| {
            site.iter().map(|node| node.raw().to_string()).collect::<Vec<String>>().join(",")
        };
        format!("sites:{}", self.sites.iter().map(site).collect::<Vec<String>>().join("/"))
    }

    fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
        total_votes(nodes) / 2 + 1
    }

    fn weigh(&self, nodes: &[NodeVotes]) -> Vec<NodeVotes> {
        let mut sums: BTreeMap<(usize, Option<NodeId>), u64> = BTreeMap::new();
        for n in nodes.iter().filter(|n| n.votes > 0) {
            *sums.entry(self.site_of(n.node)).or_default() += u64::from(n.votes);
        }
        // What a site weighs: the smallest number that the votes of each divide.
        let weight = sums.values().fold(1, |common, sum| multiple(common, *sum));
        let share = |n: &NodeVotes| {
            let sum = sums.get(&self.site_of(n.node)).copied().unwrap_or(1);
            let votes = u64::from(n.votes).saturating_mul(weight / sum);
            NodeVotes::new(n.node, u32::try_from(votes).unwrap_or(u32::MAX))
        };
        nodes.iter().map(share).collect()
    }
}

/// The least common multiple; at most 2^32, which is refused as too many votes.
fn multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x).saturating_mul(b).min(1 << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Standing, standing};

    fn nodes(votes: &[u32]) -> Vec<NodeVotes> {
        (1..).map(NodeId::new).zip(votes).map(|(node, votes)| NodeVotes::new(node, *votes)).collect()
    }

    fn goes_on(policy: &BySite, votes: &[u32], side: &[u32]) -> bool {
        let side: Vec<NodeId> = side.iter().copied().map(NodeId::new).collect();
        standing(policy, &nodes(votes), &side) == Standing::Quorum
    }

    #[test]
    fn a_large_site_can_be_lost_and_is_no_majority_alone() {
        let policy = BySite::parse("1,2,3/4/5").expect("three sites");
        let votes = [1; 5];
        assert!(goes_on(&policy, &votes, &[4, 5]), "two sites of three, two nodes of five");
        assert!(!goes_on(&policy, &votes, &[1, 2, 3]), "three nodes of five, one site");
        assert!(goes_on(&policy, &votes, &[1, 2, 4]), "most of one site and another");
        assert!(!goes_on(&policy, &votes, &[1, 4]), "a third of one site and another");
    }

    #[test]
    fn nodes_share_the_weight_of_their_site_by_their_votes() {
        let policy = BySite::parse("1,2/3,4,5").expect("two sites");
        let weighed = policy.weigh(&nodes(&[1, 3, 1, 1, 0, 2]));
        let votes: Vec<u32> = weighed.iter().map(|n| n.votes).collect();
        assert_eq!(votes, [1, 3, 2, 2, 0, 4], "each site has 4; the node that is listed at none is one");
    }

    #[test]
    fn sites_that_share_a_node_or_have_none_are_refused() {
        for text in ["", "1,2/", "1/1", "1,x", "1,2/2,3"] {
            assert_eq!(BySite::parse(text), None, "{text}");
        }
        let most = BySite::parse("1/2").expect("two sites").weigh(&nodes(&[u32::MAX, u32::MAX - 1]));
        assert!(total_votes(&most) >= 1 << 20, "too many to be taken by a configuration: {most:?}");
    }
}
