//! Conformance suites for those who write a part of their own. Feature `testing`.

use crate::quorum::total_votes;
use crate::{NodeVotes, QuorumPolicy};
use pils::{NodeId, Rng};

/// Checks that `policy` can be trusted with a cluster, on 2000 generated configurations of 1 to 16 nodes.
///
/// What must hold: the quorum is more than half of all votes and not more than all; it is the same each time it is
/// asked for; it does not depend on which node has which votes; the name is not empty and does not change.
///
/// ```
/// ocf_membership::testing::check_policy(&ocf_membership::Majority);
/// ```
///
/// # Panics
/// If `policy` breaks a rule, with the rule and the configuration in the text.
pub fn check_policy(policy: &dyn QuorumPolicy) {
    let name = policy.name();
    assert!(!name.is_empty(), "a policy has a name");
    let mut rng = Rng::new(1);
    for _ in 0..2_000 {
        let mut nodes: Vec<NodeVotes> = Vec::new();
        for n in 1..=rng.between(1, 16) {
            let node = NodeId::new(u32::try_from(n).expect("at most 16"));
            nodes.push(NodeVotes::new(node, u32::try_from(rng.below(5)).expect("below 5")));
        }
        nodes[0].votes += 1;
        let (quorum, total) = (policy.quorum(&nodes), total_votes(&nodes));
        assert!(quorum > total / 2, "{name} lets two halves be primaries: {quorum} of {total} in {nodes:?}");
        assert!(
            quorum <= total,
            "{name} asks for more votes than there are: {quorum} of {total} in {nodes:?}"
        );
        assert_eq!(quorum, policy.quorum(&nodes), "{name} changes its mind about {nodes:?}");
        let mut turned = nodes.clone();
        let n = turned.len();
        for i in 0..n {
            turned[i].votes = nodes[n - 1 - i].votes;
        }
        assert_eq!(quorum, policy.quorum(&turned), "{name} depends on who has the votes: {nodes:?}");
    }
    assert_eq!(name, policy.name(), "the name of a policy is fixed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Majority, StaticThreshold, Unanimous};

    #[test]
    fn the_policies_of_this_crate_conform() {
        for policy in [&Majority as &dyn QuorumPolicy, &Unanimous, &StaticThreshold(3), &StaticThreshold(0)] {
            check_policy(policy);
        }
    }

    #[derive(Debug)]
    struct Half;

    impl QuorumPolicy for Half {
        fn name(&self) -> String {
            "half".to_owned()
        }

        fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
            total_votes(nodes).div_ceil(2)
        }
    }

    #[test]
    #[should_panic(expected = "two halves")]
    fn half_of_the_votes_is_refused() {
        check_policy(&Half);
    }
}
