//! From a change of the state to what follows from it: only what was touched is planned anew.

use super::Manager;
use crate::executor::Request;
use crate::message::Message;
use crate::plan::{Marks, Plan, plan_marked};
use crate::{Blocked, Event, Output};
use pils::{Instant, NodeInstance};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of plans that were made.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// Where each group is to run, and why it does not get on: as a plan for everything would say.
    pub(super) targets: BTreeMap<Arc<str>, Option<NodeInstance>>,
    pub(super) blocked: BTreeMap<Arc<str>, Blocked>,
    /// What of `blocked` was told.
    told: BTreeMap<Arc<str>, Blocked>,
    /// A known mistake, for tests: nothing is planned because a monitor failed.
    pub(super) forgets: bool,
    #[cfg(feature = "testing")]
    pub(super) check: super::check::Check,
}

impl Planner {
    /// There is another state.
    pub(super) fn begin(&mut self) {
        self.targets.clear();
        self.blocked.clear();
        self.told.clear();
    }

    /// Groups of which this does not hold are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.targets.retain(|group, _| is_there(group));
        self.blocked.retain(|group, _| is_there(group));
        self.told.retain(|group, _| is_there(group));
    }

    /// Where a group is to run, and why it does not get on.
    pub(super) fn of(&self, group: &str) -> (Option<NodeInstance>, Option<Blocked>) {
        (self.targets.get(group).copied().flatten(), self.blocked.get(group).cloned())
    }

    /// Takes what a plan says of the groups that it looked at.
    fn take(&mut self, plan: &mut Plan, looked_at: &mut Vec<Arc<str>>) {
        for (group, target) in core::mem::take(&mut plan.targets) {
            match plan.blocked.remove(&group) {
                Some(why) => self.blocked.insert(Arc::clone(&group), why),
                None => self.blocked.remove(&group),
            };
            looked_at.push(Arc::clone(&group));
            self.targets.insert(group, target);
        }
    }

    /// What of `blocked` is to be told, of these groups: first what is not blocked any more.
    fn tell(&mut self, mut looked_at: Vec<Arc<str>>, events: &mut Vec<Event>) {
        looked_at.sort_unstable();
        looked_at.dedup();
        let mut changed = Vec::new();
        for group in looked_at {
            // Waiting for a probe is the ordinary course of things.
            let now = self.blocked.get(&group).filter(|why| !matches!(why, Blocked::Probing { .. }));
            if self.told.get(&group) == now {
                continue;
            }
            let because = now.cloned();
            match because.clone() {
                None => {
                    self.told.remove(&group);
                    events.push(Event::Blocked { group, because });
                }
                Some(why) => {
                    self.told.insert(Arc::clone(&group), why);
                    changed.push(Event::Blocked { group, because });
                }
            }
        }
        events.extend(changed);
    }
}

impl Manager {
    /// The groups that an ordered message touches.
    pub(super) fn touched(&self, message: &Message) -> Marks {
        if self.planner.forgets && matches!(message, Message::MonitorFailed(_)) {
            return Marks::NONE;
        }
        Marks::of_message(message, self.state.config.as_deref())
    }

    /// Plans until nothing is left to plan, and has this node's share carried out. `touched`: what has to be planned.
    pub(super) fn advance(&mut self, now: Instant, touched: &Marks, mut events: Vec<Event>) {
        let removed = self.state.forget_removed(&mut events);
        if removed {
            self.drop_removed(now);
        }
        // What is behind something that is gone has another number now.
        let mut marks = if removed { Marks::ALL } else { touched.clone() };
        if let Some(book) = self.state.config.clone() {
            let mut next = marks.clone();
            let mut looked_at = Vec::new();
            loop {
                #[cfg(feature = "testing")]
                self.widen(&mut next);
                let mut plan = plan_marked(&book, &self.state, self.rules, &next);
                self.planner.take(&mut plan, &mut looked_at);
                #[cfg(feature = "testing")]
                self.compare(&plan);
                if plan.is_empty() {
                    break;
                }
                self.state.issue(&plan, &mut events);
                next = Marks::of_plan(&plan, &book, &self.state);
                marks.add(&next);
                if plan.access.contains(&self.me) {
                    self.take_access();
                }
                for (target, cause, asker) in plan.fences {
                    if asker == Some(self.me) && self.is_member() {
                        self.out.push_back(Output::Fence { target, cause });
                    }
                }
            }
            self.planner.tell(looked_at, &mut events);
        }
        self.say_watchdog();
        self.watch_reach(now);
        self.unwatch_maintained(&marks);
        for event in events {
            self.follow(&event);
            self.tell(event);
        }
        self.arm(now, &marks);
        let mine = self.state.nodes.get(&self.me);
        let idle = mine.is_some_and(|n| n.leaving && n.spots.values().all(|s| s.is_clear()));
        if idle && !self.left && self.acts() {
            self.left = true;
            self.tell(Event::ReadyToLeave);
        }
    }

    /// Numbers of the groups that are marked.
    fn marked(&self, marks: &Marks) -> Vec<usize> {
        match marks.groups() {
            Some(groups) => groups.iter().copied().collect(),
            None => (0..self.config.groups.len()).collect(),
        }
    }

    /// Ends the monitors of what is in maintenance.
    fn unwatch_maintained(&mut self, marks: &Marks) {
        let whole = self.state.maintenance;
        if !whole && !self.state.groups.values().any(|g| g.maintenance) {
            return;
        }
        let book = Arc::clone(&self.config);
        let mut ended = Vec::new();
        for group in self.marked(marks).into_iter().filter_map(|at| book.groups.get(at)) {
            if whole || self.state.groups.get(group.name.as_str()).is_some_and(|g| g.maintenance) {
                ended.extend(group.resources.iter().flat_map(|r| self.running.watches(&r.name)));
            }
        }
        ended.sort_unstable();
        for id in ended {
            self.running.remove(id);
            self.out.push_back(Output::Execute(Request::Cancel { id }));
        }
    }

    /// Arms the timers that follow from the state.
    fn arm(&mut self, now: Instant, marks: &Marks) {
        let state = &self.state;
        self.fence_again.retain(|target, _| {
            state.nodes.get(target).and_then(|n| n.fence.as_ref()).is_some_and(|f| f.asker == Some(self.me))
        });
        let senior = state.members.first() == Some(&self.me);
        for group in self.marked(marks).into_iter().filter_map(|at| self.config.groups.get(at)) {
            let Some((name, current)) = self.state.groups.get_key_value(group.name.as_str()) else {
                continue;
            };
            let counts = senior && !group.failure_window.is_zero();
            let failures = current.failures.iter().filter(|(_, f)| counts && f.count > 0);
            let wanted: BTreeMap<_, _> = failures.map(|(node, f)| (*node, f.serial)).collect();
            self.expiries.arm(name, &wanted, now + group.failure_window);
        }
    }
}
