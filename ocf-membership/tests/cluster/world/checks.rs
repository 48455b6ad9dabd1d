//! The properties that every run is checked for after every step.
//!
//! | property | source |
//! |---|---|
//! | M1 one view per number | agreement on a chain of primaries |
//! | M2 numbers grow at each node | across restarts too |
//! | M3 self in every installed view | self inclusion |
//! | M4 members of a fresh view see each other when they accept it | mutual connection |
//! | Q1 active periods of primaries that exclude each other never overlap | lease, in the time of the world |
//! | Q2 each primary remembers the one before | memory rule |
//! | Q3 no view counts by older votes than the one before | a change is agreed and never forgotten |
//! | S1 one set of nodes and votes per view | agreement on the set |
//! | S2 a set differs from the one before by one node at most | an order is carried out on what it was given for |
//! | S3 members are in the set of their view | who was removed never counts |
//! | S4 nobody leaves the set who was a member of the view before | a removal needs an end |
//! | U1 a view names all who left a primary and may not have ended | whoever joins must know |
//! | U2 who is said to have ended has ended | its own word, or that of a later life alone on its node |
//! | S5 a node is told that it was removed only if a view did it | agreement on the set |
//! | S6 whoever counts by a set knows how each of its nodes is reached | the address travels and is recorded with the set |
//! | L1 the level of the chain never falls | an older build never comes back in by a view |
//! | L2 every member speaks the level of its view | agreement on the level |
//! | Q4 nobody acts for longer than a lease without a quorum | lease |

#![expect(unreachable_pub, reason = "a module of a test program has no outside")]

use super::{DETECTION, MS, World};
use ocf_membership::{Levels, NodeVotes, Proposal, View, ViewNumber};
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Checks {
    pub violation: Option<String>,
    pub views: BTreeMap<ViewNumber, View>,
    last: BTreeMap<NodeId, ViewNumber>,
    /// What each view counts by.
    sets: BTreeMap<ViewNumber, Vec<NodeVotes>>,
    /// Of which revision that is.
    revisions: BTreeMap<ViewNumber, u64>,
    /// Who was told that a set counts without it.
    pub told: Vec<(NodeInstance, Vec<NodeVotes>)>,
    lives: BTreeMap<NodeInstance, ViewNumber>,
    pub flushes: u64,
    /// Who is proven to have ended, or forgotten.
    pub ended: BTreeSet<NodeInstance>,
    /// How many views named somebody.
    pub naming: u64,
    /// Views that the tie-breaker was told of.
    pub notes: u64,
    /// Views of a higher level than the one before.
    pub rises: u64,
}

impl Checks {
    pub fn fail(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub fn flush(&mut self, local: NodeInstance, proposal: &Proposal, connected: bool) {
        self.flushes += 1;
        if !connected {
            self.fail(format!("M4: {local} accepts {} without seeing all members", proposal.view.number));
        }
        let (view, states) = (&proposal.view, &proposal.states);
        if !states.iter().any(|(i, _)| *i == local) || states.windows(2).any(|p| p[0].0 >= p[1].0) {
            self.fail(format!("flush of {local} for {} without its state, or unsorted", view.number));
        }
        for (instance, _) in states {
            if !view.members.iter().any(|m| m.instance == *instance && m.joined < view.number) {
                self.fail(format!("{instance} has a state but does not continue into {}", view.number));
            }
        }
    }

    /// `local` counts by a set with `peer` in it.
    pub fn reached(&mut self, local: NodeInstance, peer: NodeId, known: bool) {
        if !known {
            self.fail(format!("S6: {local} does not know how {peer} is reached, which is in the set"));
        }
    }

    /// `amnesia`: nobody is in a primary and nothing is ever written, so that a new chain may begin.
    pub fn installed(&mut self, local: NodeInstance, view: &View, amnesia: bool) {
        if amnesia
            && view.joiners().count() == view.members.len()
            && self.views.get(&view.number) != Some(view)
        {
            self.views.clear();
            self.last.clear();
            self.revisions.clear();
        }
        if !view.contains(local) {
            self.fail(format!("M3: {local} installed {} without itself", view.number));
        }
        match self.views.get(&view.number) {
            Some(other) if other != view => {
                let text = format!("M1: two views {}: {other:?} and, at {local}, {view:?}", view.number);
                self.fail(text);
            }
            Some(_) => {}
            None => {
                self.remembers(view);
                self.views.insert(view.number, view.clone());
            }
        }
        if self.last.get(&local.node).is_some_and(|last| *last >= view.number) {
            self.fail(format!("M2: {local} installed {} after {:?}", view.number, self.last[&local.node]));
        }
        self.last.insert(local.node, view.number);
        let own = view.members.iter().find(|m| m.instance == local).expect("checked");
        let left = self.lives.get(&local).and_then(|number| self.views.get(number));
        if own.joined < view.number && left.is_none_or(|left| left.members != view.previous) {
            self.fail(format!("{local} continues into {} without the view before", view.number));
        }
        self.lives.insert(local, view.number);
    }

    /// The view is of a level that `local` speaks, and not of a lower one than the view before.
    pub fn speaks(&mut self, local: NodeInstance, view: &View, levels: Levels) {
        if !levels.include(view.level) {
            self.fail(format!("L2: {local} speaks {levels}, and {} is of level {}", view.number, view.level));
        }
        let Some((before, former)) = self.views.range(..view.number).next_back() else { return };
        if former.level > view.level {
            let text =
                format!("L1: {} is of level {} and {before} of {}", view.number, view.level, former.level);
            self.fail(text);
        } else if former.level < view.level {
            self.rises += 1;
        }
    }

    /// Everybody who was in an earlier primary is in this one, or in the one before, or named, or has ended. Where nobody goes on,
    /// what was known may be `forgotten`, for good.
    pub fn names_all(&mut self, view: &View, forgotten: bool) {
        if self.views.contains_key(&view.number) {
            return;
        }
        let earlier = self.views.range(..view.number).flat_map(|(_, earlier)| &earlier.members);
        let before = |x: NodeInstance| view.previous.iter().any(|m| m.instance == x);
        let known = |x: NodeInstance| view.contains(x) || before(x) || view.unproven.contains(&x);
        let missing: Vec<NodeInstance> = earlier.map(|m| m.instance).filter(|x| !known(*x)).collect();
        if forgotten {
            self.ended.extend(missing);
            return;
        }
        self.naming += u64::from(!view.unproven.is_empty());
        if let Some(x) = missing.iter().find(|x| !self.ended.contains(x)) {
            self.fail(format!("U1: {x} was in a primary, and {} does not name it: {view:?}", view.number));
        }
        if let Some(x) = view.unproven.iter().find(|x| view.contains(**x)) {
            self.fail(format!("U1: {} names its member {x}", view.number));
        }
    }

    /// What `view` counts by, as `local` has it.
    pub fn counted(&mut self, local: NodeInstance, view: &View, set: &[NodeVotes]) {
        let number = view.number;
        let listed = |set: &[NodeVotes], node: NodeId| set.iter().any(|n| n.node == node);
        if self.sets.get(&number).is_some_and(|other| other != set) {
            self.fail(format!("S1: {number} counts by {:?} and, at {local}, by {set:?}", self.sets[&number]));
        }
        if let Some(former) = number.0.checked_sub(1).and_then(|n| self.sets.get(&ViewNumber(n))) {
            let new = set.iter().filter(|n| !listed(former, n.node)).count();
            let gone = former.iter().filter(|n| !listed(set, n.node)).count();
            if new + gone > 1 {
                self.fail(format!("S2: {former:?} is followed by {set:?} in {number}"));
            }
        }
        if let Some(m) = view.members.iter().find(|m| !listed(set, m.instance.node)) {
            self.fail(format!("S3: {} is in {number} and not in {set:?}", m.instance));
        }
        if let Some(m) = view.previous.iter().find(|m| !listed(set, m.instance.node)) {
            self.fail(format!("S4: {} was a member, and {number} counts by {set:?}", m.instance));
        }
        self.sets.insert(number, set.to_vec());
    }

    /// No view counts by older votes than the one before.
    pub fn keeps_votes(&mut self, view: &View, revision: u64) {
        let before = self.revisions.range(..view.number).next_back();
        if let Some((number, before)) = before.filter(|(_, before)| **before > revision) {
            let text =
                format!("Q3: {number} counts by votes of revision {before}, {} of {revision}", view.number);
            self.fail(text);
        }
        self.revisions.insert(view.number, revision);
    }

    /// Whoever was told that it was removed was told of a set that some view counted by, when or after it was agreed.
    pub fn removals_were_agreed(&mut self) {
        let unknown = |told: &&(NodeInstance, Vec<NodeVotes>)| self.sets.values().all(|set| *set != told.1);
        if let Some((local, set)) = self.told.iter().find(unknown).cloned() {
            self.fail(format!("S5: {local} was told that {set:?} counts, which was never agreed"));
        }
    }

    fn remembers(&mut self, view: &View) {
        let Some(former) = self.views.get(&ViewNumber(view.number.0 - 1)) else { return };
        let all: u32 = former.members.iter().map(|m| m.votes).sum();
        let continues =
            |x: NodeInstance| view.members.iter().any(|m| m.instance == x && m.joined < view.number);
        let here = |node: NodeId| view.members.iter().any(|m| m.instance.node == node);
        let sum = |keep: &dyn Fn(NodeInstance) -> bool| -> u32 {
            former.members.iter().filter(|m| keep(m.instance)).map(|m| m.votes).sum()
        };
        let remember = sum(&continues);
        let forgot = sum(&|x| here(x.node) && !continues(x));
        let everybody = former.members.iter().all(|m| here(m.instance.node));
        if remember + former.quorum <= all && forgot < former.quorum && !everybody {
            let (a, b) = (former.clone(), view.clone());
            self.fail(format!("Q2: {a:?} is followed by {b:?}"));
        }
    }

    pub fn active(&mut self, world: &World) {
        if self.violation.is_some() {
            return;
        }
        let acting = |i: &usize| world.nodes[*i].active.is_some() && !world.is_paused(*i);
        let acting: Vec<usize> = (0..world.nodes.len()).filter(acting).collect();
        for i in &acting {
            let (node, number) = (&world.nodes[*i], world.nodes[*i].active.expect("acting"));
            for j in &acting {
                let newer = world.nodes[*j].active.expect("acting");
                if newer > number && self.views.get(&newer).is_some_and(|v| !v.contains(node.local)) {
                    let text = format!(
                        "Q1: at {} ms {} acts in {number} while {} acts in {newer} without it",
                        world.now / MS,
                        node.local,
                        world.nodes[*j].local
                    );
                    self.fail(text);
                }
            }
            // Who is a quorum alone needs nobody.
            let own = |v: &View| v.members.iter().find(|m| m.instance == node.local).map_or(0, |m| m.votes);
            let needs = self.views.get(&number).is_some_and(|v| own(v) < v.quorum);
            let alone = node.alone_since.is_some_and(|at| world.now - at > DETECTION * 102 / 100 + 40 * MS);
            if alone && needs {
                self.fail(format!("Q4: {} acts in {number} though it is alone", node.local));
            }
        }
    }
}
