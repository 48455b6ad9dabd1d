//! The cluster resource manager of one node.

use crate::book::Book;
use crate::executor::{self, OperationId, Request};
use crate::message::{Failure, Message, Report, short};
use crate::plan::{Marks, Rules};
use crate::state::{Entered, State};
use crate::{
    Action, Command, CommandError, Config, Decision, Event, FenceOutcome, Input, LocalStatus,
    OperationResult, Output, PartitionPolicy, Status,
};
use core::time::Duration;
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use planner::Planner;
use running::Running;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use timers::Expiries;

mod access;
#[cfg(feature = "testing")]
mod check;
mod configure;
mod found;
mod operate;
mod planner;
mod reach;
mod report;
mod running;
mod timers;
mod watchdog;

/// Decides together with the managers of the other nodes what runs where, and has this node's share carried out.
///
/// Every member holds the same replicated state, changed only by the ordered stream ([`Input::View`], [`Input::Ordered`]).
/// After each change every member computes the same plan from it ([`plan`](crate::plan::plan)) and notes its steps in the
/// state; the member that a step names carries it out and broadcasts what came of it.
///
/// **The rule of execution**: a node starts something only because the ordered stream, as delivered to this node, led to
/// that decision, and only while this node is an active member: not when its lease is in doubt, not outside the primary
/// partition. Outside, it stops what it runs by itself and without waiting for anybody (policy `stop`), or leaves
/// everything alone (`freeze`).
pub struct Manager {
    me: NodeInstance,
    given: Config,
    config: Arc<Book>,
    phase: LocalStatus,
    /// Every node that may run something, in the view or not.
    nodes: Vec<NodeId>,
    /// What agents are told as the names of nodes, where that is not their id.
    names: BTreeMap<NodeId, String>,
    state: State,
    /// The cluster was founded with this node in it, and nothing was ordered here since: another founder, which was
    /// first in the stream, may still hand over what it has seen.
    unwritten: bool,
    /// What this node said of the time before when the cluster was founded: said again when it turns out that the
    /// saying was passed over.
    remembered: Vec<NodeInstance>,
    /// What this node knows of that is newer than what the cluster was founded with: it was told, and is ordered soon.
    newer: Option<Arc<Book>>,
    /// Something is kept for the next life, or was.
    keeps: bool,
    /// What this node knows while it waits for the state.
    awaiting: Option<Awaiting>,
    rules: Rules,
    out: VecDeque<Output>,
    /// What the executor is doing for us, by the id we gave it.
    running: Running,
    next_operation: u64,
    /// Resources that are still to be stopped outside the primary partition, one list per group.
    leaving_behind: Vec<VecDeque<Arc<str>>>,
    planner: Planner,
    /// Failures that this node will have forgotten, being the most senior member: their serial, and when.
    expiries: Expiries,
    /// When to ask again for a fencing that did not succeed.
    fence_again: BTreeMap<NodeInstance, Instant>,
    /// When to try again to be given access.
    access_again: Option<Instant>,
    /// The time of the watchdog that is armed and ends this node outside the primary partition; in which view that was last said.
    watchdog: Option<Duration>,
    watchdog_said: Option<u64>,
    reach: reach::Reach,
    left: bool,
    /// Outside the primary partition with the state of the last view, which may go on.
    kept: bool,
    /// Back from outside: until the others have been told, nothing that was decided for this node is carried out.
    returning: bool,
    malformed: u64,
    stale: u64,
}

/// An operation that the executor has.
#[derive(Clone, Debug)]
enum Local {
    /// A step of a plan.
    Step(Decision),
    /// A notice of a step, before (true) or after it.
    Notice(Decision, bool),
    /// The recurring monitor of what a decision made run.
    Watch(Decision, Arc<str>),
    /// A stop outside the primary partition: index into `leaving_behind`.
    Alone(usize),
}

/// Stands for whatever runs on a node of which nobody remembers a life. No real incarnation is zero.
pub(crate) const UNKNOWN_LIFE: Incarnation = Incarnation::new(0);

/// After this time a fencing that was not confirmed is asked for again.
const FENCE_AGAIN: Duration = Duration::from_secs(30);

impl core::fmt::Debug for Manager {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Manager").field("me", &self.me).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// The newest view of a node that waits for the state, and who went while it waited.
#[derive(Debug)]
struct Awaiting {
    number: u64,
    members: Vec<NodeInstance>,
    departed: Vec<crate::Departed>,
}

impl Manager {
    /// The manager of one life of a node. `config` counts only if this node is the most senior one of those that found
    /// the cluster; otherwise the cluster's configuration comes with the state. It should have passed
    /// [`Config::check`].
    #[must_use]
    pub fn new(me: NodeInstance, config: Config) -> Self {
        Self {
            me,
            config: Arc::new(Book::new(config.clone())),
            given: config,
            phase: LocalStatus::NonPrimary,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            state: State::default(),
            unwritten: false,
            remembered: Vec::new(),
            newer: None,
            keeps: false,
            awaiting: None,
            rules: Rules::default(),
            out: VecDeque::new(),
            running: Running::default(),
            next_operation: 0,
            leaving_behind: Vec::new(),
            planner: Planner::default(),
            expiries: Expiries::default(),
            fence_again: BTreeMap::new(),
            access_again: None,
            watchdog: None,
            watchdog_said: None,
            reach: reach::Reach::default(),
            left: false,
            kept: false,
            returning: false,
            malformed: 0,
            stale: 0,
        }
    }

    /// Names every configured node. When a cluster is founded, those that are absent may still run something from before
    /// anybody's memory (a majority lost its memory while they were cut off), so they are fenced before anything is
    /// started. Their life is not known: the request names incarnation zero, which stands for whatever runs there.
    /// Without this, a node that nobody remembers is taken to be off.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.set_nodes(nodes);
        self
    }

    /// Nodes were added to the cluster or removed from it: counts from now on as [`Manager::with_nodes`] says.
    pub fn set_nodes(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.nodes = nodes.into_iter().collect();
    }

    /// What agents are told as the names of nodes, in notices and when something moves: the names that the agents of these nodes
    /// are told as their own. Default: the id, as it is printed.
    pub fn set_names(&mut self, names: impl IntoIterator<Item = (NodeId, String)>) {
        self.names = names.into_iter().collect();
    }

    /// As [`Manager::set_names`], for one node more.
    pub fn set_name(&mut self, node: NodeId, name: String) {
        self.names.insert(node, name);
    }

    /// Asks the cluster for something. The answer is what the events show once the command is ordered.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was sent.
    pub fn request(&mut self, _now: Instant, command: Command) -> Result<(), CommandError> {
        if !self.is_member() {
            return Err(CommandError::NotPrimary);
        }
        let group = match &command {
            Command::MoveGroup { group, .. }
            | Command::StopGroup(group)
            | Command::StartGroup(group)
            | Command::ClearFailures(group) => Some(group),
            Command::Maintenance { group, .. } => group.as_ref(),
            Command::Standby(_) | Command::Online(_) => None,
            Command::Condition { of, node, name, unmet } => {
                if self.state.has_no_room((of, *node, name)) && unmet.is_some() {
                    return Err(CommandError::Conditions {
                        of: Arc::clone(of),
                        most: Config::CONDITIONS_MAX,
                    });
                }
                Some(of).filter(|of| self.config.resource(of).is_none())
            }
            Command::SetParameters { resource, parameters } => {
                self.check_parameters(resource, parameters)?;
                None
            }
            Command::Configure(config) => {
                self.check_configuration(config)?;
                None
            }
        };
        if let Some(group) = group
            && self.config.group_at(group).is_none()
        {
            let known = self.config.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(CommandError::UnknownGroup { group: Arc::clone(group), known });
        }
        self.broadcast(&Message::Command(command));
        Ok(())
    }

    /// Asks that everything is moved away from this node. [`Event::ReadyToLeave`] says when it is done: whoever leaves
    /// after that need not be fenced.
    ///
    /// # Errors
    /// [`CommandError::NotPrimary`].
    pub fn leave(&mut self, _now: Instant) -> Result<(), CommandError> {
        if !self.is_member() {
            return Err(CommandError::NotPrimary);
        }
        self.broadcast(&Message::Leave);
        Ok(())
    }

    /// Sets one attribute of this node's health, or removes it. What follows from it, the configuration's strategy says.
    ///
    /// # Errors
    /// [`CommandError::NotPrimary`].
    pub fn set_health(&mut self, attribute: &str, value: Option<crate::Health>) -> Result<(), CommandError> {
        if !self.is_member() {
            return Err(CommandError::NotPrimary);
        }
        self.broadcast(&Message::Health { attribute: short(attribute), value });
        Ok(())
    }

    /// Why a group is as it is, and what can be done about it; `None` if there is no such group.
    #[must_use]
    pub fn explain(&self, group: &str) -> Option<crate::Explanation> {
        crate::explain(&self.state, group)
    }

    /// What this node is doing. Costs nothing, where [`Manager::status`] goes through everything.
    #[must_use]
    pub const fn local(&self) -> LocalStatus {
        self.phase
    }

    /// The replicated state, for comparison: members that have seen the same stream have the same.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// What a person wants to know.
    #[must_use]
    pub fn status(&self) -> Status {
        report::status(self)
    }

    /// True if the decisions for this node are carried out.
    const fn acts(&self) -> bool {
        self.is_member() && !self.returning
    }

    const fn is_member(&self) -> bool {
        matches!(self.phase, LocalStatus::Active | LocalStatus::Suspended)
    }

    fn broadcast(&mut self, message: &Message) {
        self.out.push_back(Output::Broadcast(message.emit()));
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    fn execute(&mut self, local: Local, make: impl FnOnce(OperationId) -> Request) {
        self.next_operation += 1;
        let id = OperationId(self.next_operation);
        self.running.insert(id, local);
        self.out.push_back(Output::Execute(make(id)));
    }

    fn on_view(&mut self, now: Instant, view: &Entered<'_>) {
        let Entered { members, joined, .. } = *view;
        let mut events = Vec::new();
        if !members.contains(&self.me) {
            return self.on_non_primary();
        }
        let founding = members.iter().all(|m| joined.contains(m));
        if founding {
            self.found(view, members.first() == Some(&self.me));
        } else if joined.contains(&self.me) || !self.is_member() && !self.kept {
            if self.is_member() {
                self.running.clear();
                self.out.push_back(Output::Execute(Request::Drop));
            }
            self.phase = LocalStatus::Joining;
            (self.kept, self.returning) = (false, false);
            let mut gone = self.awaiting.take().map(|w| w.departed).unwrap_or_default();
            gone.extend(view.departed.iter().cloned());
            self.awaiting = Some(Awaiting { number: view.number, members: members.to_vec(), departed: gone });
            return;
        } else {
            let fenced = |s: &State| {
                s.nodes.iter().filter(|(_, n)| n.fence.is_some()).map(|(i, _)| *i).collect::<Vec<_>>()
            };
            let before = fenced(&self.state);
            self.state.on_view(view, &mut events);
            let after = fenced(&self.state);
            for target in before.into_iter().filter(|t| !after.contains(t)) {
                self.out.push_back(Output::WithdrawFence { target });
            }
        }
        self.resume();
        if core::mem::take(&mut self.kept) {
            self.come_back();
        }
        if self.state.config.is_none() && members.first() == Some(&self.me) {
            self.bring();
        }
        self.advance(now, &Marks::ALL, events);
    }

    /// Takes a whole state in place of what there was.
    fn begin(&mut self, state: State) {
        self.running.retain_alone();
        self.leaving_behind.clear();
        self.planner.begin();
        self.expiries = Expiries::default();
        self.fence_again.clear();
        self.access_again = None;
        self.left = false;
        (self.kept, self.returning) = (false, false);
        self.unwritten = false;
        self.awaiting = None;
        let old = core::mem::replace(&mut self.state, state);
        self.state.believe_old = old.believe_old;
        self.state.forget_incoming = old.forget_incoming;
        self.state.skip_notices = old.skip_notices;
        self.state.forget_overtaken = old.forget_overtaken;
        self.state.forget_parameters = old.forget_parameters;
        self.state.forget_ends = old.forget_ends;
        self.state.forget_running = old.forget_running;
        self.state.overwrite = old.overwrite;
        self.state.hurry = old.hurry;
        self.adopt_config(true);
    }

    fn on_state(&mut self, now: Instant, bytes: &[u8]) {
        if self.phase != LocalStatus::Joining && !self.unwritten {
            self.stale += 1;
            return;
        }
        match State::parse(bytes) {
            Ok(state) => {
                let remembered = core::mem::take(&mut self.remembered);
                let unwritten = self.unwritten;
                self.compare_given(&state, unwritten);
                self.begin(state);
                self.resume();
                if self.newer.is_some() {
                    self.bring();
                }
                if unwritten && remembered.iter().any(|i| !self.state.nodes.contains_key(i)) {
                    // The giver may have begun anew after what this node said was ordered.
                    self.broadcast(&Message::Remember(remembered));
                }
                if self.is_over() {
                    self.tell(Event::LifeIsOver { node: self.me });
                }
                self.take_up();
                // It may have been chosen to ask for a fence before it had the state.
                self.ask_for_my_fences();
                self.advance(now, &Marks::ALL, Vec::new());
            }
            Err(error) => {
                self.malformed += 1;
                self.tell(Event::Malformed { sender: None, error });
            }
        }
    }

    fn on_ordered(&mut self, now: Instant, sender: NodeInstance, payload: &[u8]) {
        if !self.is_member() && !self.kept {
            return;
        }
        self.unwritten = false;
        self.remembered.clear();
        match Message::parse(payload) {
            Ok(message) => {
                let mut events = Vec::new();
                if message == Message::Returned && sender == self.me {
                    self.returning = false;
                }
                let found = matches!(message, Message::Found(_));
                let mine = Arc::clone(&self.config);
                let marks = self.touched(&message);
                if !self.state.on_message(sender, message, &mut events) {
                    self.stale += 1;
                }
                if found {
                    self.compare_founders(mine);
                }
                self.adopt_config(found);
                self.advance(now, &marks, events);
            }
            Err(error) => {
                self.malformed += 1;
                self.tell(Event::Malformed { sender: Some(sender), error });
            }
        }
    }

    fn on_executor(&mut self, event: executor::Event) {
        match event {
            executor::Event::Finished { id, resource, result } => match self.running.remove(id) {
                Some(Local::Step(decision)) if self.is_member() => {
                    self.broadcast(&Message::Report(Report::new(decision, resource, &result)));
                }
                Some(Local::Alone(list)) => {
                    self.tell(Event::StoppedAlone { resource, result });
                    self.stop_next_alone(list);
                }
                Some(Local::Notice(decision, true)) if self.is_member() => {
                    // What came of it does not matter.
                    self.broadcast(&Message::Noticed { decision, resource });
                }
                Some(Local::Step(_) | Local::Watch(..) | Local::Notice(..)) => {}
                None => self.stale += 1,
            },
            executor::Event::Failed { id, resource, result } => self.on_watch_failed(id, resource, &result),
            executor::Event::Promotion { resource, promotion } => self.on_promotion(resource, promotion),
            executor::Event::Notified { resource, result } => self.on_notified(resource, &result),
            executor::Event::Observed { .. } | executor::Event::Interrupted { .. } => {}
        }
    }

    fn on_watch_failed(&mut self, id: OperationId, resource: Arc<str>, result: &OperationResult) {
        let Some(Local::Watch(decision, _)) = self.running.remove(id) else {
            self.stale += 1;
            return;
        };
        if self.is_member() {
            let severity = result.outcome.severity();
            let why = short(&result.explain());
            self.broadcast(&Message::MonitorFailed(Failure { decision, resource, severity, why }));
        }
    }

    /// A failure that was told from outside, of a resource whose monitor has not begun.
    fn on_notified(&mut self, resource: Arc<str>, result: &OperationResult) {
        let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(&resource));
        let decision = spot.and_then(|s| s.decision().filter(|_| s.is_running()));
        if let Some(decision) = decision.filter(|_| self.is_member()) {
            let severity = result.outcome.severity();
            let why = short(&result.explain());
            self.broadcast(&Message::MonitorFailed(Failure { decision, resource, severity, why }));
        }
    }

    fn resume(&mut self) {
        if self.phase != LocalStatus::Active {
            self.phase = LocalStatus::Active;
            self.out.push_back(Output::Execute(Request::Release));
        }
    }

    fn on_suspended(&mut self) {
        if self.phase == LocalStatus::Active {
            self.phase = LocalStatus::Suspended;
            self.out.push_back(Output::Execute(Request::Hold));
        }
    }

    fn on_non_primary(&mut self) {
        let was_member = self.is_member();
        self.phase = LocalStatus::NonPrimary;
        self.kept |= was_member;
        if !was_member {
            return;
        }
        self.running.clear();
        self.out.push_back(Output::Execute(Request::Drop));
        self.out.push_back(Output::Execute(Request::Release));
        if self.config.on_partition == PartitionPolicy::Freeze {
            return;
        }
        let mut lists: Vec<VecDeque<Arc<str>>> = Vec::new();
        let mine = self.state.nodes.get(&self.me);
        for group in &self.config.groups {
            let active = group.resources.iter().rev().filter_map(|resource| {
                let (name, spot) = mine?.spots.get_key_value(resource.name.as_str())?;
                (spot.seen && !spot.is_clear()).then(|| Arc::clone(name))
            });
            lists.push(active.collect());
        }
        let resources: Vec<Arc<str>> = lists.iter().flatten().map(Arc::clone).collect();
        self.leaving_behind = lists;
        if !resources.is_empty() {
            self.tell(Event::StoppingAll { resources });
        }
        for list in 0..self.leaving_behind.len() {
            self.stop_next_alone(list);
        }
    }

    fn stop_next_alone(&mut self, list: usize) {
        let Some(resource) = self.leaving_behind.get_mut(list).and_then(VecDeque::pop_front) else { return };
        if let Some(operation) = self.operation(&resource, Action::Stop) {
            self.execute(Local::Alone(list), |id| Request::StopNow { id, operation });
        }
    }

    fn on_fenced(&mut self, now: Instant, target: NodeInstance, outcome: FenceOutcome, detail: &str) {
        if !self.is_member() {
            return;
        }
        if outcome != FenceOutcome::Confirmed {
            self.fence_again.insert(target, now + FENCE_AGAIN);
        }
        self.broadcast(&Message::Fenced { target, outcome, detail: short(detail) });
    }

    /// Puts a known mistake back, to prove that tests notice it: resources start without waiting for fencing.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self) {
        self.put_back(crate::testing::Bug::StartBeforeFence);
    }

    /// Puts a known mistake back, to prove that tests notice it.
    #[cfg(feature = "testing")]
    pub const fn put_back(&mut self, bug: crate::testing::Bug) {
        use crate::testing::Bug;
        match bug {
            Bug::StartBeforeFence => self.rules.skip_fencing = true,
            Bug::StartBesideOthers => self.rules.ignore_others = true,
            Bug::StartBackwards => self.rules.ignore_order = true,
            Bug::TooManyCopies => self.rules.ignore_copies = true,
            Bug::TwoPromoted => self.rules.ignore_roles = true,
            Bug::ForgetFailures => self.rules.ignore_failures = true,
            Bug::BelieveOldAnswers => self.state.believe_old = true,
            Bug::ForgetIncoming => self.state.forget_incoming = true,
            Bug::ActBeforeNotice => self.state.skip_notices = true,
            Bug::ForgetOvertaken => self.state.forget_overtaken = true,
            Bug::ForgetToPlan => self.planner.forgets = true,
            Bug::ForgetParameters => self.state.forget_parameters = true,
            Bug::IgnorePromotion => self.rules.ignore_promotion = true,
            Bug::IgnorePreferences => self.rules.ignore_preferences = true,
            Bug::ForgetEnds => self.state.forget_ends = true,
            Bug::StartWithoutAccess => self.rules.ignore_access = true,
            Bug::ForgetRemoved => self.state.forget_running = true,
            Bug::OverwriteConfiguration => self.state.overwrite = true,
            Bug::IgnoreReach => self.rules.ignore_reach = true,
            Bug::IgnoreQuorum => self.rules.ignore_quorum = true,
            Bug::RestartAllAtOnce => self.rules.ignore_restarts = true,
            Bug::CountReachAtOnce => self.state.hurry = true,
        }
    }
}

impl Layer for Manager {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::View { number, members, joined, departed } => {
                self.on_view(now, &Entered { number, members, joined, departed });
            }
            Input::Ordered { sender, payload } => self.on_ordered(now, sender, payload),
            Input::StateWanted { token } => {
                if self.is_member() {
                    self.out.push_back(Output::OfferState { token, state: self.state.emit() });
                }
            }
            Input::First => self.on_first(now),
            Input::StateLost => self.on_state_lost(now),
            Input::State(bytes) => self.on_state(now, bytes),
            Input::NonPrimary => self.on_non_primary(),
            Input::Suspended => self.on_suspended(),
            Input::Resumed => {
                if self.phase == LocalStatus::Suspended {
                    self.resume();
                }
            }
            Input::Executor(event) => self.on_executor(event),
            Input::Fenced { target, outcome, detail } => self.on_fenced(now, target, outcome, detail),
            Input::Access { why } => self.on_access(now, why),
            Input::Reach { hosts, of } => self.on_reach(now, hosts, of),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.is_member() {
            return;
        }
        while let Some(((group, node), serial)) = self.expiries.due(now) {
            self.expiries.set((Arc::clone(&group), node), serial, now + FENCE_AGAIN);
            self.broadcast(&Message::Expire { group, node, serial });
        }
        let due: Vec<_> = self.fence_again.iter().filter(|(_, at)| **at <= now).map(|(i, _)| *i).collect();
        for target in due {
            self.fence_again.remove(&target);
            if let Some(fence) = self.state.nodes.get(&target).and_then(|n| n.fence.as_ref()) {
                self.out.push_back(Output::Fence { target, cause: fence.cause.clone() });
            }
        }
        self.try_access_again(now);
        if self.reach.due().is_some_and(|at| at <= now) {
            self.watch_reach(now);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_member() {
            return None;
        }
        let timers = self.expiries.next().into_iter().chain(self.access_again).chain(self.reach.due());
        timers.chain(self.fence_again.values().copied()).min()
    }
}
