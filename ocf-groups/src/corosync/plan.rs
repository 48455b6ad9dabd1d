//! Who goes on, who joins and who proposes: a function of what all in a configuration reported, the same at each of them.

use super::Process;
use super::wire::{Report, Stand};
use ocf_membership::{View, ViewNumber};
use pils::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The next view, but for its number, its votes and its causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The newest view that anybody knows of.
    pub(super) known: ViewNumber,
    /// One process of each node.
    pub(super) members: BTreeMap<Process, Report>,
    /// Those of them who enter with what they have: all were delivered the same in the newest view. Empty if nobody has its state.
    pub(super) stay: BTreeSet<Process>,
    /// Who proposes: the most senior of those who stay, else the lowest.
    pub(super) leader: Process,
}

impl Plan {
    /// None if nobody reported.
    pub(super) fn of(reports: &BTreeMap<Process, Report>) -> Option<Self> {
        let known = reports.values().map(|r| r.known).max()?;
        let stand = |p: &Process| reports.get(p).and_then(|r| r.stand).filter(|s| s.view == known);
        let mut sides: BTreeMap<(u64, u64), Vec<Process>> = BTreeMap::new();
        for process in reports.keys() {
            if let Some(Stand { sequence, digest, .. }) = stand(process) {
                sides.entry((sequence, digest)).or_default().push(*process);
            }
        }
        // Parts of a view that were apart may have been delivered different ends of it: the larger part goes on, then the one that
        // was delivered more.
        let largest = sides
            .into_iter()
            .max_by_key(|((sequence, _), side)| (side.len(), *sequence, Reverse(side.first().copied())));
        let stay: BTreeSet<Process> = largest.map(|(_, side)| side.into_iter().collect()).unwrap_or_default();
        let mut of_node: BTreeMap<NodeId, Process> = BTreeMap::new();
        for process in stay.iter().chain(reports.keys()) {
            of_node.entry(process.node).or_insert(*process);
        }
        let members: BTreeMap<Process, Report> =
            of_node.values().filter_map(|p| Some((*p, *reports.get(p)?))).collect();
        let joined = |p: &&Process| (stand(p).map(|s| s.joined), **p);
        let leader = *stay.iter().min_by_key(joined).or_else(|| members.keys().next())?;
        Some(Self { known, members, stay, leader })
    }

    /// True if the view is what this plan leads to.
    pub(super) fn agrees(&self, view: &View) -> bool {
        let joined = |p: &Process, r: &Report| match r.stand {
            Some(stand) if self.stay.contains(p) => stand.joined,
            _ => view.number,
        };
        let named = |(p, r): (&Process, &Report)| {
            view.members.iter().any(|m| m.instance == r.instance && m.joined == joined(p, r))
        };
        view.number > self.known && view.members.len() == self.members.len() && self.members.iter().all(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeInstance};

    fn process(node: u32, pid: u32) -> Process {
        Process { node: NodeId::new(node), pid }
    }

    fn report(of: Process, known: u64, stand: Option<(u64, u64, u64)>) -> (Process, Report) {
        let incarnation = Incarnation::new(u128::from(of.pid));
        let stand = stand.map(|(view, sequence, joined)| Stand {
            view: ViewNumber(view),
            sequence,
            digest: sequence,
            joined: ViewNumber(joined),
        });
        let instance = NodeInstance::new(of.node, incarnation);
        (of, Report { instance, known: ViewNumber(known), stand })
    }

    fn plan(reports: impl IntoIterator<Item = (Process, Report)>) -> Plan {
        Plan::of(&reports.into_iter().collect()).unwrap()
    }

    #[test]
    fn the_most_senior_of_those_who_stay_proposes() {
        let p = [process(1, 10), process(2, 10), process(3, 10)];
        let plan =
            plan([report(p[0], 0, None), report(p[1], 5, Some((5, 7, 3))), report(p[2], 5, Some((5, 7, 2)))]);
        assert_eq!((plan.leader, plan.known), (p[2], ViewNumber(5)));
        assert_eq!(plan.stay, BTreeSet::from([p[1], p[2]]));
        assert_eq!(plan.members.len(), 3);
    }

    #[test]
    fn parts_that_were_delivered_different_ends_do_not_go_on_together() {
        let p = [process(1, 10), process(2, 10), process(3, 10)];
        let stand = |n| Some((5, n, 1));
        let plan = plan([report(p[0], 5, stand(8)), report(p[1], 5, stand(7)), report(p[2], 5, stand(7))]);
        assert_eq!(plan.stay, BTreeSet::from([p[1], p[2]]), "the larger part goes on");
    }

    #[test]
    fn nobody_goes_on_from_a_view_that_somebody_knows_to_be_old() {
        let p = [process(1, 10), process(2, 11)];
        let plan = plan([report(p[0], 5, Some((5, 7, 1))), report(p[1], 6, None)]);
        assert!(plan.stay.is_empty());
        assert_eq!(plan.leader, p[0]);
    }

    #[test]
    fn a_second_process_of_a_node_is_no_member() {
        let p = [process(1, 10), process(1, 20), process(2, 10)];
        let plan =
            plan([report(p[0], 5, None), report(p[1], 5, Some((5, 0, 1))), report(p[2], 5, Some((5, 0, 1)))]);
        assert_eq!(plan.members.keys().copied().collect::<Vec<_>>(), [p[1], p[2]], "who is in it stays");
    }
}
