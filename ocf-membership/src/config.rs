use crate::{
    Coordinator, Criterion, EvenSplit, LEVEL_MAX, Levels, Majority, Mesh, NodeVotes, OutsidePolicy,
    QuorumPolicy,
};
use core::time::Duration;
use std::sync::Arc;

/// The most nodes a configuration may list.
pub const NODES_MAX: usize = 64;

/// Whether what a node accepts survives its restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Each accepted view is on stable storage before it is answered for; a restarted node remembers.
    Durable,
    /// Nothing is written. A restarted node has no vote until a living primary admits it, or until every configured
    /// node is present.
    Volatile,
}

/// What a durable node that finds no record at its start is worth: it is new, or it lost its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlankRecord {
    /// Safe whatever happened: it has no vote until a living primary admits it, or until every configured node is
    /// present. The first start of a cluster therefore waits for all nodes.
    WaitForAll,
    /// It votes at once. **Only safe if no node ever loses its record**: with a lost record, two primaries can form.
    Trusted,
}

/// How the nodes of a cluster agree. The same on every node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The nodes that may be members, with their votes. At most [`NODES_MAX`], each once.
    pub nodes: Vec<NodeVotes>,
    /// Counts more than votes that were changed at run time if it is higher than their revision, which a
    /// [`Snapshot`](crate::Snapshot) shows. Every node must have the same. Default: 0.
    pub votes_revision: u64,
    /// Members that have stayed the same for so long take the votes from those who are away, and give them back the same
    /// way, so that a cluster can shrink node by node to two. Needs nodes that remember their views, and a policy that counts votes as
    /// they are and stops both sides of an even split, such as [`Majority`]. Default: none.
    pub last_man_standing: Option<Duration>,
    /// The layer above says who left and may not have ended ([`Input::Unproven`](crate::Input::Unproven)), and views name them. A lock
    /// manager needs it. Default: no; then no view names anybody.
    pub names_unproven: bool,
    /// No earlier life of this node can still run, whatever machine it ran on: whoever starts this one has made sure of it, for example by the
    /// kernel's lock on the file of its record. Then its earlier lives count as ended as soon as this one takes part in a view, and need not be
    /// fenced. Default: no.
    pub sole_life: bool,
    /// The feature levels that this node speaks. Default: [`Levels::THIS`]. Lower, a node behaves in the agreement as an older build does: for
    /// tests of an upgrade.
    pub levels: Levels,
    /// How many votes a primary needs. Default: [`Majority`].
    pub policy: Arc<dyn QuorumPolicy>,
    /// Who must see whom to be in one view. Default: [`Mesh`], everybody everybody. Groups and locks need that.
    pub criterion: Arc<dyn Criterion>,
    /// Who starts ballots first. Default: the most senior member.
    pub coordinator: Coordinator,
    /// What a node outside the primary is told to do, in [`NonPrimary::policy`](crate::NonPrimary::policy). Default: stop.
    pub outside: OutsidePolicy,
    /// Default: [`Durability::Durable`].
    pub durability: Durability,
    /// What a durable node without a record is worth. Default: [`BlankRecord::WaitForAll`].
    pub blank_record: BlankRecord,
    /// The detection timeout of node communication: silence after which it reports a peer down. Default 500 ms.
    pub detection: Duration,
    /// How long a confirmation by a quorum lets a primary act. At most `detection`, else a failover waits for the
    /// rest of it. Shorter: more confirmations, more suspensions on busy machines. Default 500 ms, at least 10 ms.
    pub lease: Duration,
    /// How long to collect nodes that want to join, so that they come in one view. Default 50 ms.
    pub join_debounce: Duration,
    /// How long to wait for siblings when a node fell silent or a link broke, so that one view drops them all.
    /// Default 20 ms.
    pub silent_debounce: Duration,
    /// How long a live node may take to answer a PREPARE (that is, its upper layer to block). Default 1 s.
    pub answer_timeout: Duration,
    /// How long a live node may take to answer an ACCEPT: to write its record and to flush. Default 5 s.
    pub flush_timeout: Duration,
    /// How long the tie-breaker, or fencing, may take to answer in an even split. Default 30 s.
    pub tie_timeout: Duration,
    /// How long a half of an even split waits before it asks if it is at a disadvantage: with `two-node`, if the most senior
    /// member of the last primary is in the other half; with any policy, if this node reaches fewer hosts outside the cluster than
    /// it watches. Longer than fencing takes, or the two nodes may switch each other off. Default 5 s.
    pub tie_delay: Duration,
    /// How long a member waits for those more senior to act before it starts a ballot itself, per rank.
    /// Default 150 ms.
    pub stagger: Duration,
    /// How long a primary member goes on suspended before it declares itself outside the primary;
    /// it keeps its state for the next view, which it may go on into. Default 2 s.
    pub give_up: Duration,
    /// How long a quorum that lacks the memory of the last primary waits for more of it, before all go on as joiners
    /// without the state that some of them still have. At least 10 ms. Default 10 s. Too low: state is dropped although
    /// the node that completes it was about to come. Too high: with that node gone for good, the cluster stands still
    /// for as long.
    pub forget_after: Duration,
    /// How long the row of a partly connected node must be whole before it may come back, after the first exclusion;
    /// doubles with each. Default 1 s (twice `detection`).
    pub flap_hold: Duration,
    /// Upper limit of the doubling. Default 60 s.
    pub flap_hold_max: Duration,
    /// How long a member that was evicted ([`Consensus::evict`](crate::Consensus::evict)) stays out, the first time; doubles with each.
    /// Default 30 s, at least 10 ms. Too low: who is too slow comes and goes, and each time its state is transferred.
    pub evict_hold: Duration,
    /// Upper limit of the doubling. Default 30 min.
    pub evict_hold_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            votes_revision: 0,
            last_man_standing: None,
            names_unproven: false,
            sole_life: false,
            levels: Levels::THIS,
            policy: Arc::new(Majority),
            criterion: Arc::new(Mesh),
            coordinator: Coordinator::Senior,
            outside: OutsidePolicy::Stop,
            durability: Durability::Durable,
            blank_record: BlankRecord::WaitForAll,
            detection: Duration::from_millis(500),
            lease: Duration::from_millis(500),
            join_debounce: Duration::from_millis(50),
            silent_debounce: Duration::from_millis(20),
            answer_timeout: Duration::from_secs(1),
            flush_timeout: Duration::from_secs(5),
            tie_timeout: Duration::from_secs(30),
            tie_delay: Duration::from_secs(5),
            stagger: Duration::from_millis(150),
            give_up: Duration::from_secs(2),
            forget_after: Duration::from_secs(10),
            flap_hold: Duration::from_secs(1),
            flap_hold_max: Duration::from_secs(60),
            evict_hold: Duration::from_secs(30),
            evict_hold_max: Duration::from_secs(30 * 60),
        }
    }
}

impl Config {
    /// The defaults for `nodes`.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = NodeVotes>) -> Self {
        Self { nodes: nodes.into_iter().collect(), ..Self::default() }
    }

    /// Checks everything, and reports every error at once.
    ///
    /// # Errors
    /// One [`ConfigError`] for each thing that is wrong, in the order of the fields.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = self.check_votes();
        let durations = [
            ("lease", self.lease),
            ("answer_timeout", self.answer_timeout),
            ("flush_timeout", self.flush_timeout),
            ("tie_timeout", self.tie_timeout),
            ("stagger", self.stagger),
            ("give_up", self.give_up),
            ("forget_after", self.forget_after),
            ("evict_hold", self.evict_hold),
        ];
        for (field, value) in durations {
            if value < Duration::from_millis(10) {
                errors.push(ConfigError::TooShort { field, value, least: Duration::from_millis(10) });
            }
        }
        if let Some(value) = self.last_man_standing.filter(|w| *w < self.detection) {
            errors.push(ConfigError::TooShort { field: "last_man_standing", value, least: self.detection });
        }
        if self.lease > self.detection {
            errors.push(ConfigError::LeaseTooLong { lease: self.lease, detection: self.detection });
        }
        if !self.levels.are_sound() {
            errors.push(ConfigError::Levels(self.levels));
        }
        if self.flap_hold_max < self.flap_hold {
            errors.push(ConfigError::FlapHold { hold: self.flap_hold, max: self.flap_hold_max });
        }
        if self.evict_hold_max < self.evict_hold {
            errors.push(ConfigError::EvictHold { hold: self.evict_hold, max: self.evict_hold_max });
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_votes(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if self.nodes.len() > NODES_MAX {
            errors.push(ConfigError::TooManyNodes { nodes: self.nodes.len() });
        }
        let nodes = self.sorted_nodes();
        for pair in nodes.windows(2) {
            if pair[0].node == pair[1].node {
                errors.push(ConfigError::DuplicateNode(pair[0].node));
            }
        }
        let add = |nodes: &[NodeVotes]| {
            let total = nodes.iter().try_fold(0_u32, |sum, n| sum.checked_add(n.votes));
            total.filter(|t| (1..1 << 20).contains(t))
        };
        if add(&nodes).is_none() {
            errors.push(ConfigError::Votes);
            return errors;
        }
        let weighed = self.policy.weigh(&nodes);
        let Some(total) = add(&weighed) else {
            errors.push(ConfigError::Votes);
            return errors;
        };
        let quorum = self.policy.quorum(&weighed);
        if quorum <= total / 2 || quorum > total {
            errors.push(ConfigError::UnsafeQuorum { policy: self.policy.name(), quorum, total });
        }
        let rules = self.policy.rules();
        if rules.even_split != EvenSplit::Stops && quorum != total / 2 + 1 {
            errors.push(ConfigError::TieWithoutMajority { policy: self.policy.name() });
        }
        if rules.even_split == EvenSplit::Asks && self.durability == Durability::Volatile {
            errors.push(ConfigError::TieWithoutRecord { policy: self.policy.name() });
        }
        if rules.even_split == EvenSplit::Fences {
            let voters: Vec<u32> = weighed.iter().map(|n| n.votes).filter(|v| *v > 0).collect();
            if !rules.wait_for_all || voters.len() != 2 || voters[0] != voters[1] {
                errors.push(ConfigError::NotTwoNodes { policy: self.policy.name(), voters: voters.len() });
            }
        }
        let counts = weighed == nodes && rules.even_split == EvenSplit::Stops;
        let remembers = self.durability == Durability::Durable;
        if self.last_man_standing.is_some() && !(counts && remembers) {
            errors.push(ConfigError::LastManStanding { policy: self.policy.name() });
        }
        let sum = |keep: &dyn Fn(&NodeVotes) -> bool| {
            weighed.iter().filter(|n| keep(n)).map(|n| n.votes).sum::<u32>()
        };
        let votes = match self.criterion.head() {
            Some(head) => sum(&|n| n.node == head),
            None => sum(&|n| self.criterion.admits(n.node)),
        };
        if votes < quorum {
            errors.push(ConfigError::CriterionWithoutQuorum {
                criterion: self.criterion.name(),
                votes,
                quorum,
            });
        }
        errors
    }

    pub(crate) fn sorted_nodes(&self) -> Vec<NodeVotes> {
        let mut nodes = self.nodes.clone();
        nodes.sort_unstable();
        nodes
    }
}

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The list of nodes is too long.
    #[error("{nodes} nodes are configured, at most {NODES_MAX} can be")]
    TooManyNodes {
        /// How many there are.
        nodes: usize,
    },
    /// A node is listed twice.
    #[error("{0} is configured twice")]
    DuplicateNode(pils::NodeId),
    /// All votes together are none, or too many to add up.
    #[error("the votes of all nodes must add up to at least 1 and less than 2^20")]
    Votes,
    /// Two primaries could form beside each other, or none ever.
    #[error(
        "policy {policy} asks for {quorum} of {total} votes, which is not more than half or more than all"
    )]
    UnsafeQuorum {
        /// The policy's name.
        policy: String,
        /// What it asks for.
        quorum: u32,
        /// All votes.
        total: u32,
    },
    /// An even split can only be decided where half of the votes are one short of a quorum.
    #[error(
        "policy {policy} decides even splits but asks for more than a bare majority: combine +tie-breaker with majority"
    )]
    TieWithoutMajority {
        /// The policy's name.
        policy: String,
    },
    /// A tie-breaker remembers view numbers, so the nodes must too.
    #[error("policy {policy} asks a tie-breaker, so nodes must remember their views: make them durable")]
    TieWithoutRecord {
        /// The policy's name.
        policy: String,
    },
    /// Votes that follow who is there need nodes that remember, and a policy that counts them as they are.
    #[error(
        "last_man_standing needs durable nodes and a policy that counts votes as they are and decides no even split, such as \
         majority; not {policy}"
    )]
    LastManStanding {
        /// The policy's name.
        policy: String,
    },
    /// A policy that fences in an even split is for two nodes that have equally many votes, and wait for each other at their
    /// start.
    #[error(
        "policy {policy} needs exactly two nodes with votes, equally many, and to wait for all; {voters} nodes have votes: \
         use majority+tie-breaker for more"
    )]
    NotTwoNodes {
        /// The policy's name.
        policy: String,
        /// Nodes that have votes.
        voters: usize,
    },
    /// Those whom the criterion lets in never have a quorum; or the head of a star does not have one alone.
    #[error(
        "criterion {criterion} leaves {votes} votes and a primary needs {quorum}: \
         give the votes to the head of the star, or list more nodes"
    )]
    CriterionWithoutQuorum {
        /// The criterion's name.
        criterion: String,
        /// Votes of its head, or of those it admits.
        votes: u32,
        /// Votes that a primary needs.
        quorum: u32,
    },
    /// No level, or one that cannot be told.
    #[error("levels {0}: the oldest must be at least 1 and the newest not below it, at most {LEVEL_MAX}")]
    Levels(Levels),
    /// A duration is below its minimum.
    #[error("{field} is {value:?}, must be at least {least:?}")]
    TooShort {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: Duration,
        /// The minimum.
        least: Duration,
    },
    /// A lease that outlives detection makes each failover wait.
    #[error("lease {lease:?} is longer than the detection timeout {detection:?}")]
    LeaseTooLong {
        /// The lease.
        lease: Duration,
        /// The detection timeout.
        detection: Duration,
    },
    /// The cap of the doubling is below its start.
    #[error("evict_hold_max {max:?} is below evict_hold {hold:?}")]
    EvictHold {
        /// The first hold.
        hold: Duration,
        /// The cap.
        max: Duration,
    },
    /// The cap of the doubling is below its start.
    #[error("flap_hold_max {max:?} is below flap_hold {hold:?}")]
    FlapHold {
        /// The first hold.
        hold: Duration,
        /// The cap.
        max: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::NodeId;

    #[test]
    fn every_error_is_reported_at_once() {
        let node = NodeVotes::new(NodeId::new(1), 0);
        let config =
            Config { lease: Duration::from_secs(9), stagger: Duration::ZERO, ..Config::new([node, node]) };
        let errors = config.check().unwrap_err();
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors.contains(&ConfigError::DuplicateNode(NodeId::new(1))));
        assert!(errors.contains(&ConfigError::Votes));
    }

    #[test]
    fn a_policy_for_two_nodes_is_refused_for_three_and_a_tie_breaker_beside_a_threshold() {
        let nodes = |n: u32| (1..=n).map(|n| NodeVotes::new(NodeId::new(n), 1));
        let check = |name: &str, n: u32| {
            let policy = crate::policy_by_name(name).expect("a policy");
            Config { policy, ..Config::new(nodes(n)) }.check()
        };
        assert_eq!(check("two-node", 2), Ok(()));
        assert!(matches!(
            check("two-node", 3).unwrap_err()[..],
            [ConfigError::NotTwoNodes { voters: 3, .. }]
        ));
        assert_eq!(check("majority+tie-breaker", 4), Ok(()));
        let errors = check("threshold:4+tie-breaker", 4).unwrap_err();
        assert!(matches!(errors[..], [ConfigError::TieWithoutMajority { .. }]), "{errors:?}");
    }

    #[test]
    fn the_defaults_are_valid() {
        let nodes = (1..=3).map(|n| NodeVotes::new(NodeId::new(n), 1));
        assert_eq!(Config::new(nodes).check(), Ok(()));
    }
}
