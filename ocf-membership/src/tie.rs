//! What decides between two halves: what is asked, what may be answered, and the rule that a tie-breaker keeps.

use crate::{Ballot, ViewNumber};
use core::fmt;
use pils::{NodeId, NodeInstance};

/// A half of the cluster that wants to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The ballot that waits for the answer; its proposer asks.
    pub ballot: Ballot,
    /// The number of the view that it would install.
    pub number: ViewNumber,
    /// The newest primary that anybody in this half knows to be agreed; below `number`.
    pub known: ViewNumber,
    /// The nodes of this half; sorted.
    pub nodes: Vec<NodeId>,
    /// Members of the last primary of which no life is in this half; sorted. With [`EvenSplit::Fences`](crate::EvenSplit::Fences)
    /// each of them must be fenced before the claim is granted.
    pub absent: Vec<NodeInstance>,
    /// How many hosts outside the cluster the asking node reaches: see [`Input::Reach`](crate::Input::Reach).
    pub hosts: u32,
}

/// Who said that a half may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// The tie-breaker granted the claim.
    TieBreaker,
    /// Every member of the last primary that is not in this half has ended: fenced, or by its own word.
    Ended,
    /// An operator, who answers for it that the other half is dead.
    Operator,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TieBreaker => "the tie-breaker granted it",
            Self::Ended => "the others have certainly ended",
            Self::Operator => "an operator decided it",
        })
    }
}

/// The answer to a [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// This half may go on, and no other: see [`GrantRegister`].
    Granted(Evidence),
    /// Another half may go on, or this one lacks what the last primary had. Asking again later may help.
    Refused,
    /// The tie-breaker, or the fence device, cannot be asked.
    Unavailable,
}

/// What a tie-breaker remembers of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The number of the view that may be installed, or was.
    pub number: ViewNumber,
    /// The nodes of the half that it was granted to, or the members of a view that was agreed without help; sorted.
    pub nodes: Vec<NodeId>,
}

/// The rule of every tie-breaker: it grants each view number to one side, and only to one that knows what it granted before.
///
/// A tie-breaker that keeps this register on stable storage, writes it before it answers, and never loses it, makes
/// [`EvenSplit::Asks`](crate::EvenSplit::Asks) as safe as a majority: any two sides that go on share a node or this register.
/// A register that is empty, because it is new or was lost, grants nothing before it has been told of an agreed view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantRegister {
    last: Option<Grant>,
}

impl GrantRegister {
    /// With what it remembers, if anything.
    #[must_use]
    pub const fn new(last: Option<Grant>) -> Self {
        Self { last }
    }

    /// What it remembers.
    #[must_use]
    pub const fn last(&self) -> Option<&Grant> {
        self.last.as_ref()
    }

    /// Whether `claim` may be granted. Changes nothing.
    ///
    /// It may if the claimant knows a later view than the last grant, or that one and brings one of its nodes; or if all nodes of
    /// the last grant are among the claimants, so that nobody else can have used it.
    #[must_use]
    pub fn allows(&self, claim: &Claim) -> bool {
        let Some(last) = &self.last else { return false };
        let here = |n: &NodeId| claim.nodes.contains(n);
        claim.number > claim.known
            && (claim.known > last.number
                || claim.known == last.number && last.nodes.iter().any(here)
                || !last.nodes.is_empty() && last.nodes.iter().all(here))
    }

    /// Grants `claim` if it may be granted, and remembers it. True if so: what it now remembers must be durable before anybody
    /// is told.
    pub fn claim(&mut self, claim: &Claim) -> bool {
        let allowed = self.allows(claim);
        if allowed {
            // Never back: an older number would let others in who lack what was granted since.
            let number = self.last.as_ref().map_or(claim.number, |last| last.number.max(claim.number));
            self.last = Some(Grant { number, nodes: claim.nodes.clone() });
        }
        allowed
    }

    /// Takes the news of an agreed view. True if it is news.
    pub fn note(&mut self, view: &Grant) -> bool {
        let news = self.last.as_ref().is_none_or(|last| last.number <= view.number && last != view);
        if news {
            self.last = Some(view.clone());
        }
        news
    }
}

/// What a node asks in an even split: an arbiter over the network, a shared disk, a function of the program's own. Called on a
/// thread of its own; each call may take as long as [`Config::tie_timeout`](crate::Config::tie_timeout).
///
/// Those who write one keep a [`GrantRegister`] for each cluster, on storage that survives anything, and write it before
/// they answer; `ocf_membership::testing::check_tie_breaker` shows whether they do.
pub trait TieBreaker: fmt::Debug + Send {
    /// What it is, for operators.
    fn name(&self) -> String;
    /// Decides. Never [`Verdict::Granted`] if in doubt: `Unavailable` then.
    fn claim(&mut self, claim: &Claim) -> Verdict;
    /// Takes the news of an agreed view; it may be lost.
    fn note(&mut self, view: &Grant);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().map(|n| NodeId::new(*n)).collect()
    }

    fn claim(number: u64, known: u64, nodes: &[u32]) -> Claim {
        Claim {
            ballot: Ballot::NONE,
            number: ViewNumber(number),
            known: ViewNumber(known),
            nodes: ids(nodes),
            absent: Vec::new(),
            hosts: 0,
        }
    }

    fn told(number: u64, nodes: &[u32]) -> GrantRegister {
        GrantRegister::new(Some(Grant { number: ViewNumber(number), nodes: ids(nodes) }))
    }

    #[test]
    fn one_half_gets_a_number_and_the_other_does_not() {
        let mut register = told(3, &[1, 2, 3, 4]);
        assert!(register.claim(&claim(4, 3, &[3, 4])));
        assert!(!register.claim(&claim(4, 3, &[1, 2])), "the other half");
        assert!(register.claim(&claim(4, 3, &[3, 4])), "the same half once more, in another ballot");
        assert!(register.claim(&claim(5, 4, &[2, 3])), "one of them who knows, with another");
        assert!(!register.claim(&claim(5, 4, &[1, 4])), "who knows the view before only");
        assert!(register.claim(&claim(9, 8, &[1, 4])), "later views were agreed without help");
    }

    #[test]
    fn an_empty_register_grants_nothing_until_it_is_told_of_a_view() {
        let mut register = GrantRegister::default();
        assert!(!register.claim(&claim(4, 3, &[1])));
        assert!(register.note(&Grant { number: ViewNumber(3), nodes: ids(&[1, 2]) }));
        assert!(register.claim(&claim(4, 3, &[1])));
        assert!(!register.note(&Grant { number: ViewNumber(3), nodes: ids(&[1, 2]) }), "old news");
        assert!(!register.claim(&claim(4, 3, &[2])));
    }
}
