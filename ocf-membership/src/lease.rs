//! The lease of a primary: while a quorum has confirmed it recently, nobody else may act.

use crate::{Ballot, View};
use core::time::Duration;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, VecDeque};

/// Renewals in flight that are remembered.
const IN_FLIGHT_MAX: usize = 64;

/// How long an accepter's confirmation of another's lease binds it: the lease and what two clocks that are each
/// wrong by 1 % can differ in that time (1.01 / 0.99 < 1 + 1/40).
pub(crate) fn binding_time(lease: Duration) -> Duration {
    lease + lease / 40
}

/// One node's lease for one view value.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    /// The value it is for.
    pub(crate) value: Ballot,
    /// A time before which a quorum is known to have confirmed this node: when it answered the PREPARE of the ballot
    /// that all candidates then accepted.
    pub(crate) base: Option<Instant>,
    /// Confirmations of renewals sent before this do not count: this node did not run for a while.
    pub(crate) distrust: Option<Instant>,
    /// When this node answered the PREPARE of the first ballot in which it accepted the value. Who was a quorum alone is bound to others from
    /// then on.
    pub(crate) answered: Option<Instant>,
    /// This node has helped to agree on a view that it does not continue into: it acts no more in this one.
    pub(crate) surrendered: bool,
    sent: VecDeque<(u64, Instant)>,
    next: u64,
    acked: BTreeMap<NodeInstance, Instant>,
}

impl Lease {
    pub(crate) fn new(value: Ballot) -> Self {
        Self {
            value,
            base: None,
            distrust: None,
            answered: None,
            surrendered: false,
            sent: VecDeque::new(),
            next: 1,
            acked: BTreeMap::new(),
        }
    }

    /// Number of the renewal that is sent now.
    pub(crate) fn send(&mut self, now: Instant) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.sent.push_back((sequence, now));
        if self.sent.len() > IN_FLIGHT_MAX {
            self.sent.pop_front();
        }
        sequence
    }

    /// Takes a confirmation by `from` of the renewal `sequence`.
    pub(crate) fn ack(&mut self, from: NodeInstance, sequence: u64) {
        if let Some((_, at)) = self.sent.iter().find(|(s, _)| *s == sequence) {
            let newest = self.acked.entry(from).or_insert(*at);
            *newest = (*newest).max(*at);
        }
    }

    /// Until when this node, a quorum alone in its view, may go on in that though it accepted `next`, which is this lease's value and may be
    /// agreed without its knowledge. Whoever accepted it too did so after this node's answer.
    pub(crate) fn until_next(&self, next: &View, local: NodeInstance, lease: Duration) -> Option<Instant> {
        self.until(next, local, lease).max(self.answered.map(|at| at + lease))
    }

    /// Until when the lease is confirmed by a quorum of `view`, `local` included; `None` if it never was, or not since
    /// this node distrusts itself.
    pub(crate) fn until(&self, view: &View, local: NodeInstance, lease: Duration) -> Option<Instant> {
        if self.surrendered {
            return None;
        }
        let own = view.members.iter().find(|m| m.instance == local).map_or(0, |m| m.votes);
        if own >= view.quorum {
            return Some(Instant::MAX);
        }
        let mut times: Vec<(Instant, u32)> = view
            .members
            .iter()
            .filter(|m| m.instance != local)
            .filter_map(|m| self.acked.get(&m.instance).map(|at| (*at, m.votes)))
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = own;
        let confirmed = times.into_iter().find_map(|(at, votes)| {
            sum = sum.saturating_add(votes);
            (sum >= view.quorum).then_some(at)
        });
        let newest = confirmed.max(self.base)?;
        if self.distrust.is_some_and(|since| newest < since) { None } else { Some(newest + lease) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, ViewNumber};
    use pils::{Incarnation, NodeId};

    const LEASE: Duration = Duration::from_millis(500);

    fn instance(n: u32) -> NodeInstance {
        NodeInstance::new(NodeId::new(n), Incarnation::new(1))
    }

    fn view(n: u32) -> View {
        let members = (1..=n).map(|n| Member { instance: instance(n), joined: ViewNumber(1), votes: 1 });
        View {
            number: ViewNumber(1),
            ballot: Ballot::NONE,
            members: members.collect(),
            previous: Vec::new(),
            causes: Vec::new(),
            quorum: n / 2 + 1,
            level: 1,
            unproven: Vec::new(),
        }
    }

    #[test]
    fn the_lease_runs_from_the_sending_of_the_newest_renewal_that_a_quorum_confirmed() {
        let mut lease = Lease::new(Ballot::NONE);
        let until = |l: &Lease| l.until(&view(5), instance(1), LEASE);
        assert_eq!(until(&lease), None);
        let first = lease.send(Instant::from_millis(100));
        let second = lease.send(Instant::from_millis(200));
        lease.ack(instance(2), second);
        assert_eq!(until(&lease), None, "two of five");
        lease.ack(instance(3), first);
        assert_eq!(until(&lease), Some(Instant::from_millis(600)));
        lease.ack(instance(4), second);
        assert_eq!(until(&lease), Some(Instant::from_millis(700)));
        lease.ack(instance(4), 99);
        assert_eq!(until(&lease), Some(Instant::from_millis(700)), "a number never sent counts for nothing");
        lease.distrust = Some(Instant::from_millis(201));
        assert_eq!(until(&lease), None, "confirmations from before a stall do not count");
    }

    #[test]
    fn who_is_a_quorum_alone_needs_no_confirmation() {
        let lease = Lease::new(Ballot::NONE);
        assert_eq!(lease.until(&view(1), instance(1), LEASE), Some(Instant::MAX));
    }

    #[test]
    fn a_confirmation_binds_longer_than_any_lease_by_a_clock_two_percent_off() {
        assert!(binding_time(LEASE).as_secs_f64() / 1.01 > LEASE.as_secs_f64() / 0.99);
    }
}
