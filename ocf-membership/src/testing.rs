//! Conformance suites for those who write a part of their own. Feature `testing`.

mod providers;

pub use providers::{Cluster, Fabric, check_membership, node};

use crate::quorum::total_votes;
use crate::{
    Ballot, Claim, Criterion, EvenSplit, Evidence, Grant, NodeVotes, QuorumPolicy, Standing, TieBreaker,
    Verdict, ViewNumber, standing,
};
use pils::{Incarnation, NodeId, NodeInstance, Rng};

/// Checks that `policy` can be trusted with a cluster, on 2000 generated configurations of 1 to 16 nodes.
///
/// What must hold: the quorum is more than half of all votes and not more than all; it is the same each time it is
/// asked for; it does not depend on which node has which weight; its weights are for the same nodes, and whoever has votes, and nobody
/// else, has some; an even split is decided only where half of the votes are one short of the quorum, and by fencing only if
/// nodes wait for all; of any two sides that share no node, at most one has a quorum, and not beside another that has half of
/// the votes; the name is not empty, does not change, and finds a policy of this crate that is the same.
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
        let weighed = policy.weigh(&nodes);
        let same = weighed.len() == nodes.len() && weighed.iter().zip(&nodes).all(|(w, n)| w.node == n.node);
        assert!(same, "{name} weighs other nodes than {nodes:?}: {weighed:?}");
        let fair = weighed.iter().zip(&nodes).all(|(w, n)| (w.votes > 0) == (n.votes > 0));
        assert!(fair, "{name} gives weight without votes, or none for them, in {nodes:?}: {weighed:?}");
        assert_eq!(weighed, policy.weigh(&nodes), "{name} changes its mind about {nodes:?}");
        check_sides(policy, &nodes);
        let nodes = weighed;
        let (quorum, total) = (policy.quorum(&nodes), total_votes(&nodes));
        assert!(quorum > total / 2, "{name} lets two halves be primaries: {quorum} of {total} in {nodes:?}");
        assert!(
            quorum <= total,
            "{name} asks for more votes than there are: {quorum} of {total} in {nodes:?}"
        );
        assert_eq!(quorum, policy.quorum(&nodes), "{name} changes its mind about {nodes:?}");
        let mut turned = nodes.clone();
        for (to, from) in turned.iter_mut().zip(nodes.iter().rev()) {
            to.votes = from.votes;
        }
        assert_eq!(quorum, policy.quorum(&turned), "{name} depends on who has the votes: {nodes:?}");
    }
    assert_eq!(name, policy.name(), "the name of a policy is fixed");
    let rules = policy.rules();
    assert!(
        rules.even_split != EvenSplit::Fences || rules.wait_for_all,
        "{name} fences and does not wait for all: two nodes would fence each other in turn"
    );
    if let Some(found) = crate::policy_by_name(&name) {
        assert_eq!(found.rules(), rules, "{name} is the name of a policy with other rules");
    }
}

/// Checks a criterion on the nodes 1 to 16: it is symmetric, says the same each time, admits its head, and its head is one whom
/// everybody must see; a criterion of this crate is found by its name.
///
/// # Panics
/// If a rule is broken, with the rule in the text.
pub fn check_criterion(criterion: &dyn Criterion) {
    let name = criterion.name();
    assert!(!name.is_empty() && name == criterion.name(), "a criterion has a name that is fixed");
    let found = crate::criterion_by_name(&name);
    for (a, b) in (1..=16).flat_map(|a| (1..=16).map(move |b| (NodeId::new(a), NodeId::new(b)))) {
        let must = criterion.must_see(a, b);
        assert_eq!(must, criterion.must_see(b, a), "{name} is not symmetric for {a} and {b}");
        assert_eq!(must, criterion.must_see(a, b), "{name} changes its mind about {a} and {b}");
        if let Some(head) = criterion.head() {
            assert!(criterion.admits(head), "{name} does not admit its head");
            assert!(head != a || a == b || must, "{name} has a head whom {b} need not see");
        }
        if let Some(found) = &found {
            assert_eq!(
                (found.must_see(a, b), found.admits(a)),
                (must, criterion.admits(a)),
                "{name} names another"
            );
        }
    }
}

/// Two sides without a common node never both go on, and a half never beside one that goes on.
fn check_sides(policy: &dyn QuorumPolicy, nodes: &[NodeVotes]) {
    let mut rng = Rng::new(7);
    for _ in 0..8 {
        let (one, other): (Vec<NodeVotes>, Vec<NodeVotes>) = nodes.iter().partition(|_| rng.chance(0.5));
        let stands = |side: &[NodeVotes]| {
            standing(policy, nodes, &side.iter().map(|n| n.node).collect::<Vec<NodeId>>())
        };
        let (a, b) = (stands(&one), stands(&other));
        let name = policy.name();
        let alone = (a == Standing::Quorum) <= (b == Standing::Short)
            && (b == Standing::Quorum) <= (a == Standing::Short);
        assert!(alone, "{name} lets {one:?} and {other:?} be {a:?} and {b:?}");
    }
}

/// Checks that a tie-breaker keeps the rules of [`GrantRegister`](crate::GrantRegister), and keeps what it granted.
///
/// `open` makes the tie-breaker of a node as if that had just started, of a cluster of so many nodes (4); it is called again and
/// again, and what it makes must remember what the ones before were told. The first call finds it empty.
///
/// # Panics
/// If a rule is broken, with the rule in the text.
pub fn check_tie_breaker(open: &mut dyn FnMut(NodeInstance, u32) -> Box<dyn TieBreaker>) {
    let instance = |n: u32| NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n)));
    let nodes = |list: &[u32]| list.iter().map(|n| NodeId::new(*n)).collect::<Vec<_>>();
    let mut round = 0;
    let mut ask =
        |open: &mut dyn FnMut(NodeInstance, u32) -> Box<dyn TieBreaker>, known: u64, side: &[u32]| {
            round += 1;
            let mut breaker = open(instance(side[0]), 4);
            assert!(!breaker.name().is_empty(), "a tie-breaker has a name");
            let claim = Claim {
                ballot: Ballot { round, proposer: instance(side[0]) },
                number: ViewNumber(known + 1),
                known: ViewNumber(known),
                nodes: nodes(side),
                absent: Vec::new(),
                hosts: 0,
            };
            breaker.claim(&claim)
        };
    let told = |open: &mut dyn FnMut(NodeInstance, u32) -> Box<dyn TieBreaker>, number: u64, side: &[u32]| {
        // News may be lost, and need not be taken at once.
        let mut breaker = open(instance(side[0]), 4);
        for _ in 0..3 {
            breaker.note(&Grant { number: ViewNumber(number), nodes: nodes(side) });
        }
        breaker
    };
    let granted = Verdict::Granted(Evidence::TieBreaker);
    assert_eq!(ask(open, 3, &[1, 2]), Verdict::Refused, "an empty one grants nothing");
    let mut breaker = told(open, 3, &[1, 2, 3, 4]);
    let claim = |round: u64, side: &[u32]| Claim {
        ballot: Ballot { round: 1_000 + round, proposer: instance(side[0]) },
        number: ViewNumber(4),
        known: ViewNumber(3),
        nodes: nodes(side),
        absent: Vec::new(),
        hosts: 0,
    };
    let first =
        (0..1_000).map(|round| breaker.claim(&claim(round, &[1, 2]))).find(|v| *v != Verdict::Refused);
    assert_eq!(first, Some(granted), "a half that knows the last view gets the next");
    drop(breaker);
    assert_eq!(ask(open, 3, &[3, 4]), Verdict::Refused, "the other half does not");
    assert_eq!(ask(open, 3, &[1, 2]), granted, "the same half does again");
    assert_eq!(ask(open, 4, &[3, 4]), Verdict::Refused, "who knows of it but has nobody of it does not");
    assert_eq!(ask(open, 4, &[2, 3]), granted, "who has one of it and knows it gets the next");
    assert_eq!(ask(open, 4, &[1, 4]), Verdict::Refused, "and then the others do not");
    assert_eq!(ask(open, 7, &[1, 4]), granted, "who knows a later view gets what follows that");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_by_name;

    #[test]
    fn the_policies_of_this_crate_conform() {
        for name in [
            "majority",
            "unanimous",
            "threshold:3",
            "threshold:0",
            "auto-tie-breaker:lowest",
            "auto-tie-breaker:highest",
            "auto-tie-breaker:3",
            "majority+tie-breaker",
            "majority+tie-breaker+wait-for-all",
            "unanimous+wait-for-all",
            "two-node",
            "sites:1,2,3/4/5,6",
            "sites:1,3/2,4+tie-breaker",
        ] {
            check_policy(&*policy_by_name(name).expect(name));
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
    #[should_panic(expected = "half lets")]
    fn half_of_the_votes_is_refused() {
        check_policy(&Half);
    }

    #[test]
    fn the_criteria_of_this_crate_conform() {
        for name in ["mesh", "star:1", "star:9", "list:1,2,5"] {
            check_criterion(&*crate::criterion_by_name(name).expect(name));
        }
    }

    #[derive(Debug)]
    struct OneWay;

    impl Criterion for OneWay {
        fn name(&self) -> String {
            "one-way".to_owned()
        }

        fn must_see(&self, a: NodeId, b: NodeId) -> bool {
            a < b
        }
    }

    #[test]
    #[should_panic(expected = "not symmetric")]
    fn a_criterion_that_depends_on_the_direction_is_refused() {
        check_criterion(&OneWay);
    }

    #[derive(Debug)]
    struct Duel;

    impl QuorumPolicy for Duel {
        fn name(&self) -> String {
            "duel".to_owned()
        }

        fn quorum(&self, nodes: &[NodeVotes]) -> u32 {
            total_votes(nodes) / 2 + 1
        }

        fn rules(&self) -> crate::Rules {
            crate::Rules { wait_for_all: false, even_split: EvenSplit::Fences }
        }
    }

    #[test]
    #[should_panic(expected = "in turn")]
    fn fencing_without_waiting_for_all_is_refused() {
        check_policy(&Duel);
    }
}
