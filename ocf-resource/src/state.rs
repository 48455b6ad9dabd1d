//! The replicated state: a function of the ordered stream, the same at every member.

use crate::book::Book;
use crate::message::{Message, short};
use crate::plan::{Plan, Step};
use crate::{
    Action, Config, Decision, Departed, Event, FenceCause, FenceOutcome, Health, Promotion, Severity, Why,
};
use core::time::Duration;
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod access;
mod commands;
mod configure;
mod notices;
mod reach;
mod reports;

pub(crate) use reach::{Reach, Said};

/// What all members know of the cluster's resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) view: u64,
    pub(crate) members: Vec<NodeInstance>,
    pub(crate) config: Option<Arc<Book>>,
    pub(crate) decisions: u64,
    /// Members, and those who are gone and may still run something.
    pub(crate) nodes: BTreeMap<NodeInstance, Node>,
    pub(crate) groups: BTreeMap<Arc<str>, Group>,
    pub(crate) standby: BTreeSet<NodeId>,
    /// Hands off everything.
    pub(crate) maintenance: bool,
    pub(crate) health: BTreeMap<(NodeId, Arc<str>), Health>,
    /// The newest life of each node that was fenced, until another one of that node joins.
    pub(crate) over: BTreeSet<NodeInstance>,
    /// What members reach outside the cluster.
    pub(crate) reach: Reach,
    /// Notices that are not answered, of steps that will not be carried out.
    pub(crate) overtaken: notices::Overtaken,
    /// A known mistake, for tests: answers to old decisions count.
    pub(crate) believe_old: bool,
    /// A known mistake, for tests: nobody expects what is being moved where it goes to.
    pub(crate) forget_incoming: bool,
    /// A known mistake, for tests: steps do not wait until all have heard of them.
    pub(crate) skip_notices: bool,
    /// A known mistake, for tests: nobody waits for notices of a step that was decided anew.
    pub(crate) forget_overtaken: bool,
    /// A known mistake, for tests: what runs is not told of changed parameters.
    pub(crate) forget_parameters: bool,
    /// A known mistake, for tests: a member that was outside is no end of a move any more.
    pub(crate) forget_ends: bool,
    /// A known mistake, for tests: what is removed is forgotten at once.
    pub(crate) forget_running: bool,
    /// A known mistake, for tests: a change counts whatever it was made from.
    pub(crate) overwrite: bool,
    /// A known mistake, for tests: what a member says of hosts counts at once.
    pub(crate) hurry: bool,
}

/// Most health attributes of a node; one more drops the first by name.
const ATTRIBUTES_MAX: usize = 32;

/// A view, as it is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entered<'a> {
    pub(crate) number: u64,
    pub(crate) members: &'a [NodeInstance],
    pub(crate) joined: &'a [NodeInstance],
    pub(crate) departed: &'a [Departed],
}

/// One life of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) member: bool,
    pub(crate) leaving: bool,
    /// Proven dead though still listed in the view.
    pub(crate) dead: bool,
    /// Whether it has what it needs before it may run anything, if it needs that.
    pub(crate) access: Access,
    /// The time of the watchdog that it said is armed in this life, and ends it outside the primary partition.
    pub(crate) watchdog: Option<Duration>,
    /// Why it has to be fenced if it is not a member.
    pub(crate) lost: Option<FenceCause>,
    pub(crate) fence: Option<Fence>,
    /// By resource; complete for members.
    pub(crate) spots: BTreeMap<Arc<str>, Spot>,
}

/// What a node needs before it may run anything: access to what the cluster shares.
///
/// While somebody may be giving it, nothing runs there: so a node that is lost in that time need not be fenced, and access that comes
/// late does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody knows that it has it.
    #[default]
    Lacks,
    /// It is being given to it.
    Asked {
        decision: Decision,
        /// Why the last try failed.
        last: Option<Arc<str>>,
    },
    Has,
}

/// A standing request to fence a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) cause: FenceCause,
    /// The member that sees to it; none if no other member is left.
    pub(crate) asker: Option<NodeInstance>,
    pub(crate) last: Option<(FenceOutcome, Arc<str>)>,
}

/// One resource on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) presence: Presence,
    pub(crate) pending: Option<(Decision, Action)>,
    /// It was seen running here, or was told to start, since the node joined.
    pub(crate) seen: bool,
    /// It was never seen running here since the node joined or it was added to its group, and nothing of the group was told to start here
    /// since: where other resources of the group run, it was not stopped.
    pub(crate) fresh: bool,
    /// It is, or may be, in the promoted role.
    pub(crate) promoted: bool,
    /// Instances that have to hear of the pending step before it is carried out.
    pub(crate) notices: BTreeSet<NodeInstance>,
    /// Where it goes to, or comes from, while it is moved without a stop.
    pub(crate) peer: Option<NodeInstance>,
    /// What its agent says here of promoting it.
    pub(crate) promotion: Option<Promotion>,
    /// It runs, or may run, with other parameters than those that it is to have.
    pub(crate) outdated: Option<Box<Outdated>>,
}

/// Parameters of an agent.
pub(crate) type Parameters = Arc<BTreeMap<String, String>>;

/// What is known of a resource that runs with other parameters than those that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outdated {
    pub(crate) runs_with: Parameters,
    /// Those that it is being told, if they are not the newest any more.
    pub(crate) told: Option<Parameters>,
    /// Its agent cannot take what changed without a restart.
    pub(crate) refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Unknown,
    Stopped,
    Running(Decision),
    Failed(Arc<str>),
    StopFailed {
        decision: Decision,
        why: Arc<str>,
        severity: Severity,
    },
    /// Was handed over to the peer without a stop; something of it may still be here.
    Handed,
    /// Is being handed over by the peer, or was: it may run here.
    Incoming,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) wanted: bool,
    /// Hands off.
    pub(crate) maintenance: bool,
    /// One of its agents has said which of its copies to promote: those of which nothing is said are not.
    pub(crate) scored: bool,
    pub(crate) pin: Option<NodeId>,
    pub(crate) home: Option<NodeInstance>,
    pub(crate) fatal: Option<(Arc<str>, Arc<str>)>,
    pub(crate) failures: BTreeMap<NodeId, Failures>,
    /// Conditions from outside that do not hold, and why.
    pub(crate) unmet: BTreeMap<Condition, Arc<str>>,
}

/// A condition from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Condition {
    /// The group, or the resource.
    pub(crate) of: Arc<str>,
    /// The node that it is about, if it is about one.
    pub(crate) node: Option<NodeId>,
    pub(crate) name: Arc<str>,
}

/// Failures of a group on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    pub(crate) hard: bool,
    /// Number of the newest one, to tell an expiry of these from one of older failures.
    pub(crate) serial: u64,
    pub(crate) why: Arc<str>,
}

impl Spot {
    pub(crate) const fn unknown() -> Self {
        Self {
            presence: Presence::Unknown,
            pending: None,
            seen: false,
            fresh: true,
            promoted: false,
            notices: BTreeSet::new(),
            peer: None,
            promotion: None,
            outdated: None,
        }
    }

    /// Known to be down, with nothing going on.
    pub(crate) const fn is_clear(&self) -> bool {
        matches!(self.presence, Presence::Stopped) && self.pending.is_none()
    }

    /// It runs, has failed, or is on its way here. Not if nobody has looked yet.
    pub(crate) const fn is_there(&self) -> bool {
        match self.presence {
            Presence::Unknown => false,
            Presence::Stopped => matches!(self.pending, Some((_, Action::Start | Action::MigrateFrom))),
            Presence::Running(_)
            | Presence::Failed(_)
            | Presence::StopFailed { .. }
            | Presence::Handed
            | Presence::Incoming => true,
        }
    }

    /// The decision that made it run, or found it running.
    pub(crate) const fn decision(&self) -> Option<Decision> {
        if let Presence::Running(decision) = self.presence { Some(decision) } else { None }
    }

    pub(crate) const fn is_running(&self) -> bool {
        matches!(self.presence, Presence::Running(_)) && self.pending.is_none()
    }

    /// Has it looked at anew. A stop that failed stays one: it may be what the node is fenced for. An end of a move stays one:
    /// a look there says nothing of what is still to arrive.
    fn look_anew(&mut self) {
        let keeps =
            matches!(self.presence, Presence::StopFailed { .. } | Presence::Handed | Presence::Incoming);
        if !keeps {
            (self.presence, self.peer) = (Presence::Unknown, None);
        }
    }

    /// Runs, and need not be stopped to run with the parameters that it is to have. It may be taking them.
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.presence, Presence::Running(_))
            && matches!(self.pending, None | Some((_, Action::ReloadAgent)))
            && !self.outdated.as_ref().is_some_and(|o| o.refused)
    }
}

impl Node {
    pub(crate) fn spot(&self, resource: &str) -> Option<&Spot> {
        self.spots.get(resource)
    }

    fn active(&self) -> Vec<Arc<str>> {
        self.spots.iter().filter(|(_, s)| !s.is_clear()).map(|(name, _)| Arc::clone(name)).collect()
    }
}

impl State {
    /// The configuration that is agreed on, with all that commands have changed, and with what was removed and is not gone yet. None
    /// before there is one.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref().map(|book| &***book)
    }

    /// The state of a cluster that is founded by a view.
    pub(crate) fn found(view: &Entered<'_>) -> Self {
        let mut state = Self::default();
        // Nobody remembers what those who left were doing. One whose node is here with a new life is not fenced: that
        // would hit the new life, which is going to say what runs there.
        for gone in view.departed.iter().filter(|d| !view.members.iter().any(|m| m.node == d.instance.node)) {
            state.nodes.insert(gone.instance, Node { member: true, ..Node::default() });
        }
        state.on_view(view, &mut Vec::new());
        state
    }

    /// Members that can act, most senior first.
    pub(crate) fn living(&self) -> impl Iterator<Item = (NodeInstance, &Node)> + '_ {
        self.members.iter().filter_map(|m| self.nodes.get(m).filter(|n| !n.dead).map(|n| (*m, n)))
    }

    /// Instances that are gone and may still run something.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (NodeInstance, &Node)> + '_ {
        self.nodes.iter().filter(|(_, n)| !n.member).map(|(i, n)| (*i, n))
    }

    /// The member that asks for the fencing of `target`: not a later life on the same node, which cannot fence its own.
    pub(crate) fn asker(&self, target: NodeInstance) -> Option<NodeInstance> {
        self.living().map(|(i, _)| i).find(|i| i.node != target.node)
    }

    /// Enters a view.
    pub(crate) fn on_view(&mut self, view: &Entered<'_>, events: &mut Vec<Event>) {
        let Entered { number, members, joined, departed } = *view;
        self.view = number;
        self.members = members.to_vec();
        let gone: Vec<NodeInstance> =
            self.nodes.iter().filter(|(i, n)| n.member && !members.contains(i)).map(|(i, _)| *i).collect();
        for instance in gone {
            self.lose(instance, departed.iter().find(|d| d.instance == instance));
        }
        for member in members {
            let known = self.nodes.get(member).is_some_and(|n| n.member);
            if known && !joined.contains(member) {
                continue;
            }
            // It is here now, and its probes say what runs there.
            self.nodes.remove(&NodeInstance::new(member.node, crate::manager::UNKNOWN_LIFE));
            self.health.retain(|(node, _), _| *node != member.node);
            // A joiner has forgotten everything: whatever was known of this instance has to be found out again.
            self.admit(*member, events);
            for group in self.groups.values_mut() {
                group.unmet.retain(|condition, _| condition.node != Some(member.node));
                if let Some(failures) = group.failures.get_mut(&member.node) {
                    failures.count = 0;
                    failures.hard = false;
                }
            }
        }
        self.forget_listeners(|i| !members.contains(i) || joined.contains(i), events);
        self.forget_reach(joined);
        for group in self.groups.values_mut() {
            group.home = group.home.filter(|h| members.contains(h) && !joined.contains(h));
        }
        self.complete();
    }

    /// Gives every member a spot for every resource.
    fn complete(&mut self) {
        let Some(config) = self.config.clone() else { return };
        for group in &config.groups {
            self.groups
                .entry(group.name.as_str().into())
                .or_insert_with(|| Group { wanted: group.started, ..Group::default() });
            for resource in &group.resources {
                // Those who left before there was a configuration may run anything.
                for node in self.nodes.values_mut().filter(|n| n.member || n.lost_unseen()) {
                    if !node.spots.contains_key(resource.name.as_str()) {
                        let presence = if node.dead { Presence::Stopped } else { Presence::Unknown };
                        let spot = Spot { presence, ..Spot::unknown() };
                        node.spots.insert(resource.name.as_str().into(), spot);
                    }
                }
            }
        }
        self.nodes.retain(|_, node| node.member || !node.spots.is_empty());
    }

    fn lose(&mut self, instance: NodeInstance, departed: Option<&Departed>) {
        let Some(mut node) = self.nodes.remove(&instance) else { return };
        let unseen = self.config.is_none();
        for spot in node.spots.values_mut() {
            if matches!(spot.pending, Some((_, Action::Start | Action::MigrateFrom))) {
                spot.presence = Presence::Failed("was being started".into());
            }
        }
        self.overtake(instance.node, node.drop_steps());
        let resources = node.active();
        if node.dead || (resources.is_empty() && !unseen) {
            return;
        }
        node.member = false;
        node.lost = Some(FenceCause::Lost {
            view: self.view,
            why: departed.map_or_else(|| "left the view".into(), |d| short(&d.why)),
            proof_of_death: departed.is_some_and(|d| d.proof_of_death),
            resources,
        });
        self.nodes.insert(instance, node);
    }

    /// Takes an ordered message. Returns false if it answers a question that is no longer asked.
    pub(crate) fn on_message(
        &mut self,
        sender: NodeInstance,
        message: Message,
        events: &mut Vec<Event>,
    ) -> bool {
        if !self.members.contains(&sender) {
            return false;
        }
        match message {
            Message::Found(book) => return self.on_found(sender, book, events),
            Message::Report(report) => return self.on_report(sender, &report, events),
            Message::MonitorFailed(failure) => return self.on_monitor_failed(sender, &failure, events),
            Message::Fenced { target, outcome, detail } => {
                return self.on_fenced(target, outcome, detail, events);
            }
            Message::Command(command) => return self.on_command(sender, command, events),
            Message::Noticed { decision, resource } => {
                return self.on_noticed(sender, decision, &resource, events);
            }
            Message::Promotion { resource, promotion } => {
                return self.on_promotion(sender, &resource, promotion);
            }
            Message::Health { attribute, value } => self.on_health(sender.node, attribute, value),
            Message::Reach { hosts } => self.on_reach(sender.node, hosts),
            Message::ReachSettled(settled) => return self.on_reach_settled(&settled),
            Message::Leave => match self.nodes.get_mut(&sender) {
                Some(node) => node.leaving = true,
                None => return false,
            },
            Message::Remember(instances) => {
                for instance in instances {
                    self.remember(instance);
                }
                self.complete();
            }
            Message::Armed { watchdog } => match self.nodes.get_mut(&sender) {
                Some(node) => node.watchdog = Some(watchdog),
                None => return false,
            },
            Message::Access { decision, why } => return self.on_access(sender, decision, why, events),
            Message::Returned => {
                let Some(node) = self.nodes.get_mut(&sender).filter(|n| !n.dead) else { return false };
                let dropped = node.drop_steps();
                node.forget_operations(self.forget_ends);
                self.overtake(sender.node, dropped);
                // What it was to hear of it has not heard, and nobody asks it again.
                self.forget_listeners(|i| *i == sender, events);
            }
            Message::Expire { group, node, serial } => {
                let Some(group) = self.groups.get_mut(&group) else { return false };
                match group.failures.get_mut(&node) {
                    Some(failures) if failures.serial == serial => failures.count = 0,
                    _ => return false,
                }
            }
        }
        true
    }

    fn on_health(&mut self, node: NodeId, attribute: Arc<str>, value: Option<Health>) {
        let key = (node, attribute);
        match value {
            Some(value) => self.health.insert(key, value),
            None => self.health.remove(&key),
        };
        let mine: Vec<_> = self.health.keys().filter(|(n, _)| *n == node).cloned().collect();
        for key in mine.iter().take(mine.len().saturating_sub(ATTRIBUTES_MAX)) {
            self.health.remove(key);
        }
    }

    /// An instance of an earlier founding of the cluster: nobody here knows what became of it.
    fn remember(&mut self, instance: NodeInstance) {
        if self.members.iter().any(|m| m.node == instance.node) || self.nodes.contains_key(&instance) {
            return;
        }
        let lost = FenceCause::Lost {
            view: self.view,
            why: "a member before the cluster was founded anew".into(),
            proof_of_death: false,
            resources: Vec::new(),
        };
        self.nodes.insert(instance, Node { lost: Some(lost), ..Node::default() });
    }

    fn on_fenced(
        &mut self,
        target: NodeInstance,
        outcome: FenceOutcome,
        detail: Arc<str>,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(&target) else { return false };
        if outcome != FenceOutcome::Confirmed {
            let Some(fence) = &mut node.fence else { return false };
            fence.last = Some((outcome, Arc::clone(&detail)));
            events.push(Event::FenceUnconfirmed { target, outcome, detail });
            return true;
        }
        if node.dead {
            return false;
        }
        let dropped = node.drop_steps();
        node.fence = None;
        node.dead = true;
        self.over.retain(|i| i.node != target.node);
        self.over.insert(target);
        for spot in node.spots.values_mut() {
            *spot = Spot { presence: Presence::Stopped, ..Spot::unknown() };
        }
        if !node.member {
            self.nodes.remove(&target);
        }
        self.overtake(target.node, dropped);
        for group in self.groups.values_mut() {
            group.home = group.home.filter(|h| *h != target);
        }
        events.push(Event::Fenced { target, detail });
        true
    }

    /// Carries out the part of a plan that concerns the state: from now on its steps are going on.
    pub(crate) fn issue(&mut self, plan: &Plan, events: &mut Vec<Event>) {
        for (group, home) in &plan.homes {
            if let Some(group) = self.groups.get_mut(group) {
                group.home = *home;
            }
        }
        for (target, cause, asker) in &plan.fences {
            if let Some(node) = self.nodes.get_mut(target) {
                let last = node.fence.take().and_then(|f| f.last);
                node.fence = Some(Fence { cause: cause.clone(), asker: *asker, last });
            }
        }
        for node in &plan.access {
            self.ask_access(*node);
        }
        for step in &plan.steps {
            self.issue_step(step, events);
        }
    }

    /// From now on all of the group of `resource` is to run on `node`: what does not is missing.
    fn begin_copy(&mut self, node: NodeInstance, resource: &str) {
        let Some(book) = self.config.clone() else { return };
        let names = book.owner(resource).into_iter().flat_map(|group| &group.resources);
        let Some(node) = self.nodes.get_mut(&node) else { return };
        for name in names {
            if let Some(spot) = node.spots.get_mut(name.name.as_str()) {
                spot.fresh = false;
            }
        }
    }

    fn issue_step(&mut self, step: &Step, events: &mut Vec<Event>) {
        let Step { node, resource, action, why } = step;
        self.decisions += 1;
        let decision = Decision { view: self.view, number: self.decisions };
        let listeners = self.listeners(resource, *action);
        if *action == Action::Start {
            self.begin_copy(*node, resource);
        }
        let Some(spot) = self.nodes.get_mut(node).and_then(|n| n.spots.get_mut(resource)) else { return };
        spot.pending = Some((decision, *action));
        if let (Action::ReloadAgent, Some(outdated)) = (*action, &mut spot.outdated) {
            outdated.told = None;
        }
        spot.seen |= matches!(action, Action::Start | Action::MigrateFrom);
        spot.promoted |= *action == Action::Promote;
        spot.notices.clone_from(&listeners);
        if let (Action::MigrateTo, Why::Move { to: Some(to) }) = (*action, why) {
            spot.peer = Some(*to);
            let there = self.nodes.get_mut(to).and_then(|n| n.spots.get_mut(resource));
            if let Some(there) = there.filter(|_| !self.forget_incoming) {
                (there.presence, there.peer, there.seen) = (Presence::Incoming, Some(*node), true);
            }
        }
        events.push(Event::Decided {
            decision,
            resource: Arc::clone(resource),
            node: *node,
            action: *action,
            why: why.clone(),
        });
        if !listeners.is_empty() {
            events.push(Event::Notifying {
                decision,
                resource: Arc::clone(resource),
                node: *node,
                action: *action,
                before: true,
                listeners: listeners.into_iter().collect(),
            });
        }
    }
}

impl Node {
    /// Nothing that was decided is carried out any more. Of which decisions some were still to hear, and who.
    fn drop_steps(&mut self) -> Vec<(Arc<str>, Decision, BTreeSet<NodeInstance>)> {
        let mut unheard = Vec::new();
        for (name, spot) in &mut self.spots {
            let listeners = core::mem::take(&mut spot.notices);
            if let Some((decision, _)) = spot.pending.take().filter(|_| !listeners.is_empty()) {
                unheard.push((Arc::clone(name), decision, listeners));
            }
        }
        unheard
    }

    /// Everything here has to be looked at anew, where a look says what is there. What was going on was dropped before.
    /// `ends` of moves too: a mistake.
    fn forget_operations(&mut self, ends: bool) {
        if self.access != Access::Has {
            self.access = Access::Lacks;
        }
        for spot in self.spots.values_mut() {
            spot.promotion = None;
            if ends && matches!(spot.presence, Presence::Handed | Presence::Incoming) {
                (spot.presence, spot.peer) = (Presence::Unknown, None);
            }
            spot.look_anew();
        }
    }

    fn lost_unseen(&self) -> bool {
        matches!(&self.lost, Some(FenceCause::Lost { resources, .. }) if resources.is_empty())
    }
}
