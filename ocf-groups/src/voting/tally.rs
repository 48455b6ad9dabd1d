//! Counting: a function of the rule, the weights and the votes so far.

use super::{Certainty, Outcome, Rule, Undecided};
use crate::MemberId;
use std::collections::BTreeMap;

/// What was counted. Weights, not heads; with equal weights they are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// For each option, in their order.
    pub votes: Vec<u64>,
    /// Answered, but for no option.
    pub abstained: u64,
    /// Eligible, in the group, and not answered.
    pub missing: u64,
}

impl Tally {
    /// For any option.
    #[must_use]
    pub fn cast(&self) -> u64 {
        self.votes.iter().sum()
    }

    /// Of all who are eligible and in the group.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.cast() + self.abstained + self.missing
    }

    pub(super) fn count(
        options: usize,
        eligible: &BTreeMap<MemberId, u32>,
        votes: &BTreeMap<MemberId, Option<usize>>,
    ) -> Self {
        let mut tally = Self { votes: vec![0; options], abstained: 0, missing: 0 };
        for (member, weight) in eligible {
            let slot = match votes.get(member) {
                None => &mut tally.missing,
                Some(None) => &mut tally.abstained,
                Some(Some(option)) => match tally.votes.get_mut(*option) {
                    Some(slot) => slot,
                    None => continue,
                },
            };
            *slot += u64::from(*weight);
        }
        tally
    }

    /// The option with the most, and how much that and the next best have. The first of equals.
    fn lead(&self) -> (usize, u64, u64) {
        let mut order: Vec<(usize, u64)> = self.votes.iter().copied().enumerate().collect();
        order.sort_by_key(|(option, n)| (u64::MAX - n, *option));
        let (option, most) = order.first().copied().unwrap_or_default();
        (option, most, order.get(1).map_or(0, |(_, n)| *n))
    }

    /// The outcome, if what is missing cannot change it.
    pub(super) fn certain(&self, rule: Rule) -> Option<(Outcome, Certainty)> {
        if self.missing == 0 {
            return Some((self.final_outcome(rule), Certainty::AllAnswered));
        }
        let (option, most, next) = self.lead();
        let (open, total) = (self.missing, self.total());
        let elected = match rule {
            // With one option all it takes is a single vote.
            Rule::Plurality => most > next + open || (self.votes.len() == 1 && most > 0),
            Rule::MajorityOfVoters => 2 * most > self.cast() + open,
            Rule::MajorityOfMembers => 2 * most > total,
            Rule::AtLeast(weight) => most >= u64::from(weight) && next + open < u64::from(weight),
            Rule::Unanimous => false,
        };
        if elected {
            return Some((Outcome::Elected(option), Certainty::RestCannotChangeIt));
        }
        let lost = match rule {
            Rule::Plurality | Rule::MajorityOfVoters => None,
            Rule::MajorityOfMembers => (2 * (most + open) <= total).then_some(Undecided::TooFew),
            Rule::AtLeast(weight) => (most + open < u64::from(weight)).then_some(Undecided::TooFew),
            Rule::Unanimous => (next > 0).then_some(Undecided::NotUnanimous),
        };
        lost.map(|why| (Outcome::Undecided(why), Certainty::RestCannotChangeIt))
    }

    /// The outcome if nobody votes any more.
    pub(super) fn final_outcome(&self, rule: Rule) -> Outcome {
        let (option, most, next) = self.lead();
        let why = if most == 0 {
            Undecided::NobodyVoted
        } else {
            match rule {
                Rule::Plurality if most == next => Undecided::Tie,
                Rule::AtLeast(weight) if most >= u64::from(weight) && most == next => Undecided::Tie,
                Rule::MajorityOfVoters if 2 * most <= self.cast() => Undecided::TooFew,
                Rule::MajorityOfMembers if 2 * most <= self.total() => Undecided::TooFew,
                Rule::AtLeast(weight) if most < u64::from(weight) => Undecided::TooFew,
                Rule::Unanimous if next > 0 => Undecided::NotUnanimous,
                Rule::Unanimous if self.missing > 0 => Undecided::Missing,
                Rule::Plurality
                | Rule::MajorityOfVoters
                | Rule::MajorityOfMembers
                | Rule::Unanimous
                | Rule::AtLeast(_) => return Outcome::Elected(option),
            }
        };
        Outcome::Undecided(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(votes: &[u64], abstained: u64, missing: u64) -> Tally {
        Tally { votes: votes.to_vec(), abstained, missing }
    }

    #[test]
    fn the_rules_differ_where_they_should() {
        let split = tally(&[3, 2, 0], 4, 0);
        let elected = Outcome::Elected(0);
        assert_eq!(split.final_outcome(Rule::Plurality), elected);
        assert_eq!(split.final_outcome(Rule::MajorityOfVoters), elected);
        assert_eq!(split.final_outcome(Rule::MajorityOfMembers), Outcome::Undecided(Undecided::TooFew));
        assert_eq!(split.final_outcome(Rule::Unanimous), Outcome::Undecided(Undecided::NotUnanimous));
        assert_eq!(split.final_outcome(Rule::AtLeast(3)), elected);
        assert_eq!(split.final_outcome(Rule::AtLeast(4)), Outcome::Undecided(Undecided::TooFew));
        assert_eq!(tally(&[2, 2], 0, 0).final_outcome(Rule::Plurality), Outcome::Undecided(Undecided::Tie));
        assert_eq!(
            tally(&[0, 0], 2, 0).final_outcome(Rule::Unanimous),
            Outcome::Undecided(Undecided::NobodyVoted)
        );
        assert_eq!(
            tally(&[2, 0], 1, 1).final_outcome(Rule::Unanimous),
            Outcome::Undecided(Undecided::Missing)
        );
    }

    fn rules() -> impl Strategy<Value = Rule> {
        prop_oneof![
            Just(Rule::Plurality),
            Just(Rule::MajorityOfVoters),
            Just(Rule::MajorityOfMembers),
            Just(Rule::Unanimous),
            (1_u32..8).prop_map(Rule::AtLeast),
        ]
    }

    /// All tallies in which the missing have answered, for the slow and obvious version.
    fn completions(tally: &Tally, found: &mut Vec<Tally>) {
        if tally.missing == 0 {
            found.push(tally.clone());
            return;
        }
        for option in 0..=tally.votes.len() {
            let mut next = tally.clone();
            next.missing -= 1;
            match next.votes.get_mut(option) {
                Some(slot) => *slot += 1,
                None => next.abstained += 1,
            }
            completions(&next, found);
        }
    }

    proptest! {
        /// VT4: what is certain before all answered is the outcome whatever the rest does.
        #[test]
        fn what_is_certain_early_is_so_however_the_rest_votes(
            votes in proptest::collection::vec(0_u64..4, 1..4), abstained in 0_u64..3, missing in 0_u64..4,
            rule in rules(),
        ) {
            let tally = tally(&votes, abstained, missing);
            let mut all = Vec::new();
            completions(&tally, &mut all);
            if let Some((outcome, _)) = tally.certain(rule) {
                for end in &all {
                    let final_outcome = end.final_outcome(rule);
                    match (outcome, final_outcome) {
                        (Outcome::Elected(a), Outcome::Elected(b)) => prop_assert_eq!(a, b),
                        // The words may differ: nobody reaches the threshold either way.
                        (Outcome::Undecided(_), Outcome::Undecided(_)) => {}
                        other => prop_assert!(false, "{tally:?} {rule:?}: {other:?} in {end:?}"),
                    }
                }
            }
        }
    }
}
