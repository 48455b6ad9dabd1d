use super::app::{self, App};
use super::boards::Boards;
use super::cases::Cases;
use super::record::{MessageId, Record, ViewRecord};
use super::set::ORDER_PATIENCE;
use super::{Plan, agents::Agents, fence, fence::Answer};
use crate::event::NodeEvent;
use crate::sim::paths::{LOOK_EVERY, Watch};
use crate::sim::{Ctx, Datagrams, Entry, Moved, Program, What, World};
use crate::stack::{Birth, Input, Output, Stack, StackError};
use bytes::Bytes;
use core::time::Duration;
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{PathId, Received, Secrets};
use ocf_groups::Event as GroupEvent;
use ocf_groups::{Guarantee, SendError};
use ocf_membership::{Levels, NewError, PersistToken};
use ocf_resource::executor::RunId;
use ocf_resource::{Action, Command, OperationResult};
use ocf_stonith::{DeviceReport, Run};
use pils::{Instant, Layer, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Once in so many sends the layers of the sender check what they promise themselves, which takes long.
const CHECK_EVERY: u64 = 16;
/// The group of the workload.
const GROUP: &str = "log";
/// The resource group of the workload.
pub(crate) const SERVICE: &str = "service";

/// What a node waits for.
#[derive(Debug)]
pub enum Completion {
    /// The application's next message.
    Send,
    /// An agent ended.
    Operated(RunId, OperationResult),
    /// A fence device answered about this target; true if the answer proves its death.
    Device(NodeInstance, bool, DeviceReport),
    /// The application asks for a lock.
    AskLock,
    /// The application gives a lock back.
    Unlock(u64),
    /// Its paths are looked at.
    Look,
    /// The node leaves in order, as soon as nothing runs on it any more.
    Leave,
    /// It has said good-bye.
    Exit,
    /// An operator has this node add another to the set.
    AddNode(NodeId),
    /// An operator has this node remove another from the set, whose machine he has switched off.
    RemoveNode(NodeId),
    /// An operator looks after the cluster: forgets the failures of resources, and confirms what devices could not tell.
    Care,
}

/// What happens in the world.
#[derive(Debug)]
pub enum Happening {
    /// An agent has done its work, or its time is over.
    AgentEnds(NodeInstance, RunId),
    /// A fence device acts.
    FenceActs(NodeInstance, Run, Answer),
    /// A machine is started anew, if this life of it still runs.
    StartsAnew(NodeInstance),
    /// One of the running resources fails.
    ResourceFails,
    /// A node is told to leave in order.
    SomebodyLeaves,
    /// An operator adds a node to the set, or removes one.
    SetChanges,
}

/// The world of a whole cluster: stacks, an application on each, resources, fence devices.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) plan: Plan,
    pub(super) apps: Vec<App>,
    pub(super) boards: Boards,
    agents: Agents,
    cases: Cases,
    watch: Watch,
    quiet: bool,
    /// Times that an application was asked to send.
    sends: u64,
    /// Fence devices at work.
    fences: usize,
    changed: Instant,
    lives: BTreeMap<NodeId, Vec<NodeInstance>>,
    /// Lives that ended with their machine's power.
    dead: BTreeSet<NodeInstance>,
    /// Targets about which a fence device could not tell.
    untold: BTreeSet<NodeInstance>,
    /// Nodes whose record is damaged.
    damaged: BTreeSet<NodeId>,
    /// The newest set of nodes that somebody was told of, and the view that brought it.
    pub(super) set: (u64, BTreeSet<NodeId>),
    /// When the set was ordered to change last.
    pub(super) ordered: Option<Instant>,
    /// Machines that began without access.
    closed: BTreeSet<NodeId>,
    /// How often each node started.
    starts: BTreeMap<NodeId, u32>,
}

impl Cluster {
    /// What the next life of a node speaks: of those that the cluster begins with every second one is of an older build, until it is
    /// upgraded before it starts again.
    fn levels(&mut self, node: NodeId) -> Levels {
        let starts = self.starts.entry(node).or_default();
        *starts += 1;
        let old = *starts == 1 && node.raw() % 2 == 1 && self.plan.first_set().any(|n| n == node);
        if self.plan.upgrades && old { Levels::FIRST } else { Levels::THIS }
    }

    pub(crate) fn new(plan: Plan) -> Self {
        let apps = (0..plan.nodes).map(|_| App::default()).collect();
        let cases = Cases::new(&plan);
        let set = (0, plan.first_set().collect());
        Self {
            plan,
            apps,
            boards: Boards::default(),
            agents: Agents::default(),
            cases,
            watch: Watch::default(),
            quiet: false,
            sends: 0,
            fences: 0,
            changed: Instant::ZERO,
            lives: BTreeMap::new(),
            dead: BTreeSet::new(),
            untold: BTreeSet::new(),
            damaged: BTreeSet::new(),
            set,
            ordered: None,
            closed: BTreeSet::new(),
            starts: BTreeMap::new(),
        }
    }

    fn send(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack) {
        if !self.quiet {
            self.send_to_board(ctx, layer);
        }
        let app = &mut self.apps[ctx.index()];
        let wait = self.plan.send_interval.mul_f64(0.2 + 1.6 * ctx.world().rng().unit());
        ctx.later(wait, Completion::Send);
        if self.sends.is_multiple_of(CHECK_EVERY) {
            layer.check_invariants();
        }
        self.sends += 1;
        if self.quiet || !app.synced {
            return;
        }
        let burst = if ctx.world().rng().chance(0.1) { self.plan.burst } else { 1 };
        for _ in 0..burst {
            let rng = ctx.world().rng();
            let guarantee =
                if rng.chance(self.plan.safe_share) { Guarantee::Safe } else { Guarantee::Agreed };
            let largest = if rng.chance(self.plan.large_share) { self.plan.large } else { 1_200 };
            let size = usize::try_from(rng.below(largest)).unwrap_or(0);
            let id = MessageId { sender: ctx.instance(), epoch: app.epoch, number: app.next };
            match layer.send(ctx.now(), (GROUP, 0), guarantee, app::content(id, size)) {
                Ok(()) => {
                    app.next += 1;
                    ctx.record(Record::Sent(id, guarantee, size));
                }
                Err(SendError::Full { .. }) => {
                    ctx.world().sometimes("a window was full");
                    app.full = true;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn event(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, event: NodeEvent) {
        let app = &mut self.apps[ctx.index()];
        match event {
            NodeEvent::PeerUp(peer) => ctx.record(Record::PeerUp(peer)),
            NodeEvent::PeerDown { peer, reason } => ctx.record(Record::PeerDown(peer, reason)),
            NodeEvent::Path { peer, path, state, reason, .. } => {
                ctx.record(Record::Path(peer, path, state, reason));
            }
            NodeEvent::NonPrimary(situation) => {
                app.view = 0;
                ctx.record(Record::NonPrimary(situation.last_primary));
            }
            NodeEvent::Suspended => {
                app.suspended = true;
                ctx.record(Record::Suspended);
            }
            NodeEvent::Resumed => {
                app.suspended = false;
                ctx.record(Record::Resumed);
            }
            NodeEvent::Group(event) => self.group_event(ctx, layer, event),
            NodeEvent::Partition(event) => self.board_event(ctx, layer, event),
            NodeEvent::Resource(event) => self.resource_event(ctx, layer, event),
            NodeEvent::Fencing(ocf_stonith::Event::Withdrawn { target, .. }) => {
                ctx.record(Record::FenceWithdrawn(target));
            }
            NodeEvent::VotesChanged { revision, votes, .. } => self.set_changed(ctx, revision, &votes),
            NodeEvent::Misbehaved { peer, rule } => panic!("{peer} broke the rule {rule:?} without malice"),
            _ => {}
        }
    }

    fn group_event(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, event: GroupEvent) {
        let app = &mut self.apps[ctx.index()];
        match event {
            GroupEvent::View(view) => {
                app.view = view.number.0;
                app.suspended = false;
                if layer.groups.stats().lost > 0 {
                    ctx.world().sometimes("a member missed the flush of its old view");
                }
                ctx.record(Record::View(Arc::new(ViewRecord {
                    number: view.number,
                    ballot: view.ballot,
                    members: view.members,
                    previous: view.previous,
                    quorum: view.quorum,
                    level: view.level,
                    log: app.synced.then_some(app.log),
                })));
            }
            GroupEvent::Message { position, guarantee, payload, .. } => {
                let Some(id) = app::check(&payload) else {
                    ctx.record(Record::Garbled(position));
                    return;
                };
                app.take(position, id);
                if ctx.world().healed() && !app.heard.contains(&id.sender) {
                    app.heard.push(id.sender);
                }
                ctx.record(Record::Delivered(position, id, guarantee, app.log));
            }
            GroupEvent::Membership { members, joined, .. } => {
                let me = ctx.instance();
                if joined.iter().any(|m| m.instance == me) && members.iter().all(|m| m.instance == me) {
                    app.log = super::record::Log::default();
                    app.synced = true;
                }
            }
            GroupEvent::StateWanted { group, joiner, position } => {
                // Refused if the joiner is gone already: later events of the same turn say so.
                let offered = layer.offer_state(ctx.now(), (&group, joiner, position), app.state());
                if offered.is_ok() {
                    ctx.record(Record::StateOffered(position, app.log));
                }
            }
            GroupEvent::State { position, state, .. } => match app.load(&state) {
                Ok(()) => ctx.record(Record::StateTaken(position, app.log)),
                Err(_) => ctx.record(Record::Garbled(position)),
            },
            GroupEvent::StateLost { position, .. } => {
                app.log = super::record::Log::default();
                app.synced = true;
                ctx.record(Record::StateLost(position));
            }
            GroupEvent::Reset { .. } => {
                app.synced = false;
                app.epoch += 1;
                app.next = 0;
                ctx.record(Record::Reset);
            }
            GroupEvent::Writable => app.full = false,
            _ => {}
        }
    }

    fn resource_event(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, event: ocf_resource::Event) {
        use ocf_resource::Event;
        self.changed = ctx.world().now();
        match event {
            Event::Decided { decision, resource, node, action, .. } => {
                ctx.record(Record::Decided { decision, resource, node, action });
            }
            Event::Blocked { because, .. } => {
                ctx.record(Record::Blocked(because.map(|b| b.to_string()).unwrap_or_default()));
            }
            Event::Fenced { target, .. } => {
                ctx.record(Record::Fenced(target));
                self.life_is_over(ctx, target);
            }
            Event::LifeIsOver { node } => self.life_is_over(ctx, node),
            Event::ReadyToLeave => {
                ctx.world().sometimes("a node left in order");
                Self::depart(ctx, layer);
            }
            Event::Malformed { sender, error } => panic!("{sender:?} sent what cannot be read: {error}"),
            _ => {}
        }
    }

    /// A node that learns that it was fenced has its machine started anew.
    fn life_is_over(&self, ctx: &mut Ctx<'_, Self>, life: NodeInstance) {
        if self.plan.access && life == ctx.instance() {
            ctx.world().sometimes("a node that was fenced learned of it");
            ctx.world().schedule(Duration::from_millis(50), Happening::StartsAnew(life));
        }
    }

    fn secrets(ctx: &mut Ctx<'_, Self>) -> Secrets {
        let rng = ctx.world().rng();
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        let agreement = Box::new(SimulatedAgreement::new(rng.next_u64()));
        Secrets { keys: vec![0x5a; 32].into(), seed, agreement }
    }

    /// Says good-bye. What the node sends now is still carried out; then the process ends.
    fn depart(ctx: &mut Ctx<'_, Self>, layer: &mut Stack) {
        layer.depart(ctx.now());
        ctx.later(Duration::from_millis(1), Completion::Exit);
    }

    fn leave(ctx: &mut Ctx<'_, Self>, layer: &mut Stack) {
        if layer.prepare_to_leave(ctx.now()).is_err() {
            ctx.world().sometimes("a node left from outside the primary partition");
            Self::depart(ctx, layer);
        }
    }

    /// What an operator does after the last fault, at each node, until all is well.
    fn care(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack) {
        if self.quiet {
            return;
        }
        ctx.later(Duration::from_secs(2), Completion::Care);
        // Both are refused where they do not apply; the next round tries again.
        let mut done = layer.command(ctx.now(), Command::ClearFailures(Arc::from(SERVICE))).is_ok();
        for target in self.untold.intersection(&self.dead) {
            done |= layer.confirm_fenced(ctx.now(), *target, "operator").is_ok();
        }
        if done {
            ctx.world().sometimes("an operator helped");
        }
        // What is still to be fenced and no device could, a person switches off.
        for target in layer.fencer.standing().map(|s| s.target).filter(|t| self.untold.contains(t)) {
            ctx.world().power_off(target.node, Some(Duration::from_secs(1)));
            self.dead.insert(target);
        }
    }

    /// What is still missing for one node to be well.
    fn missing(&self, at: NodeId, node: &Stack, app: &App) -> Option<String> {
        let n = self.set.1.len();
        let Some(view) = node.view() else { return Some(format!("{at} is in no primary view")) };
        if view.members.len() != n {
            return Some(format!("{at} is in {} with {} of {n} members", view.number, view.members.len()));
        }
        if app.view != view.number.0 {
            return Some(format!("{at} was not told of {}", view.number));
        }
        if app.suspended {
            return Some(format!("{at} is suspended"));
        }
        if !app.synced {
            return Some(format!("{at} has no state"));
        }
        if self.plan.locks && !app.locks.granted {
            return Some(format!("{at} was granted no lock since the last fault"));
        }
        if let Some(lacks) = self.board_lacks(at, node, n) {
            return Some(lacks);
        }
        let members = node.members(GROUP).len();
        if members != n {
            return Some(format!("{at} sees {members} of {n} members of the group"));
        }
        let heard = view.members.iter().filter(|m| app.heard.contains(&m.instance)).count();
        (heard != n).then(|| format!("{at} heard {heard} of {n} members since the last fault"))
    }
}

impl Program for Cluster {
    type Layer = Stack;
    type Completion = Completion;
    type Event = Happening;
    type Record = Record;

    fn boot(&mut self, ctx: &mut Ctx<'_, Self>, record: Option<Bytes>) -> Stack {
        let local = ctx.instance();
        self.apps[ctx.index()] = App::default();
        let secrets = Self::secrets(ctx);
        let rng = ctx.world().rng();
        let birth = Birth { local, secrets, record: record.map(|r| r.to_vec()), rng: rng.fork() };
        let mut config = self.plan.stack(local.node);
        let levels = self.levels(local.node);
        config.membership.levels = levels;
        for peer in &mut config.comm.peers {
            peer.addresses = ctx.world().addresses(peer.node);
        }
        let mut stack = Stack::new(ctx.now(), config.clone(), birth);
        if let Err(StackError::Membership(NewError::Record(_))) = &stack
            && self.damaged.contains(&local.node)
        {
            // The operator throws the damaged record away: from here on the node remembers nothing.
            ctx.world().sometimes("a damaged record was refused");
            let secrets = Self::secrets(ctx);
            let birth = Birth { local, secrets, record: None, rng: ctx.world().rng().fork() };
            stack = Stack::new(ctx.now(), config, birth);
        }
        let mut stack = match stack {
            Ok(stack) => stack,
            Err(error) => panic!("{local} cannot start: {error}"),
        };
        ctx.record(Record::Speaks(levels));
        if let Some(bug) = self.plan.bug {
            bug.put_back(&mut stack);
        }
        if self.plan.access && self.closed.insert(local.node) {
            ctx.world().record(None, Record::AccessTaken(local.node));
        }
        stack.join(ctx.now(), GROUP, 0).expect("a fresh node is in no group");
        self.join_board(ctx, &mut stack);
        ctx.later(self.plan.send_interval, Completion::Send);
        if self.plan.locks {
            ctx.later(Duration::from_millis(20), Completion::AskLock);
        }
        if self.plan.profile.paths > 1 {
            ctx.later(LOOK_EVERY, Completion::Look);
        }
        stack
    }

    fn carrier(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, path: u8, up: bool) {
        let path = PathId(path);
        layer.handle(ctx.now(), Input::Network(ocf_comm::Input::Carrier { path, up }));
    }

    fn moved(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, moved: Moved) {
        let Moved { node, path, was, is } = moved;
        let path = PathId(path);
        if node == ctx.instance().node {
            return layer.readvertise(ctx.now(), path, (was, is));
        }
        let change = ocf_comm::Change::SetAddress { node, path, address: is };
        if layer.comm().peers.iter().all(|peer| peer.node != node) {
            return;
        }
        match layer.change_paths(ctx.now(), &change) {
            // One that leaves talks to nobody any more.
            Ok(()) | Err(ocf_comm::ChangeError::Stopped) => {}
            Err(error) => panic!("{} cannot learn the address of {node}: {error}", ctx.instance()),
        }
    }

    fn received(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, datagrams: Datagrams<'_>) {
        let Datagrams { from, path, segment, data } = datagrams;
        layer.handle(ctx.now(), Input::Received(Received { path: PathId(path), from, segment, data }));
    }

    fn persisted(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, token: u64, durable: bool) {
        if durable {
            self.damaged.remove(&ctx.instance().node);
        }
        let token = PersistToken(token);
        layer.handle(ctx.now(), if durable { Input::Persisted(token) } else { Input::PersistFailed(token) });
    }

    fn completed(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, completion: Completion) {
        match completion {
            Completion::Send => self.send(ctx, layer),
            Completion::Operated(run, result) => layer.handle(ctx.now(), Input::Operated { run, result }),
            Completion::Device(target, proof, report) => {
                ctx.record(Record::FenceAnswered(target, report.attempt, proof));
                if !proof {
                    self.untold.insert(target);
                }
                layer.handle(ctx.now(), Input::Device(report));
            }
            Completion::Look => {
                let (me, now) = (ctx.instance(), ctx.now());
                self.watch.look(ctx.world(), me, layer.peers(now));
                ctx.later(LOOK_EVERY, Completion::Look);
            }
            Completion::AskLock => self.ask_lock(ctx, layer),
            Completion::Unlock(lock) => self.give_back(ctx, layer, lock),
            Completion::Care => self.care(ctx, layer),
            Completion::Leave => Self::leave(ctx, layer),
            Completion::AddNode(node) => self.add_node(ctx, layer, node),
            Completion::RemoveNode(node) => self.remove_node(ctx, layer, node),
            Completion::Exit => {
                let (low, high) = ctx.world().profile().restart;
                let back = ctx.world().rng().duration(low, high);
                ctx.exit(Some(back));
            }
        }
    }

    fn carry_out(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, output: Output) {
        let who = ctx.instance();
        self.note_primary(who, layer);
        match output {
            Output::Transmit(t) => {
                self.watch.number(who, &t);
                ctx.transmit(t.path.0, t.to, t.segment, t.data);
            }
            Output::Persist { token, record } => ctx.persist(token.0, record),
            Output::Operate { run, operation } => {
                if operation.action != Action::Monitor {
                    self.changed = ctx.world().now();
                }
                self.agents.begin(ctx.world(), &self.plan, who, (run, operation));
            }
            Output::CancelOperation(run) => self.agents.cancel(ctx.world(), who, run),
            Output::Fence(run) => {
                self.fences += 1;
                fence::ask(ctx.world(), &self.plan, who, &run);
            }
            // The simulated cluster makes no calls; those of `ocf-comm` have a simulation of their own.
            // A tie-breaker is simulated with the membership core alone.
            Output::CancelFence(_) | Output::Call(_) | Output::AskTie(_) | Output::NoteTie(_) => {}
            Output::Donor(_) => {}
            // No command changes what these clusters run.
            Output::Keep(_) => {}
            Output::Lock(told) => self.told_of_lock(ctx, &told),
            Output::Event(event) => self.event(ctx, layer, event),
        }
    }

    fn happens(&mut self, world: &mut World<Self>, event: Happening) {
        match event {
            Happening::AgentEnds(who, run) => self.agents.end(world, who, run),
            Happening::FenceActs(who, run, answer) => {
                self.fences -= 1;
                fence::act(world, self.plan.access, (who, &run, answer));
            }
            Happening::StartsAnew(life) => {
                if world.running(life.node) == Some(life) {
                    world.power_off(life.node, Some(Duration::from_secs(1)));
                }
            }
            Happening::SomebodyLeaves => {
                let Some(mean) = self.plan.leaves.filter(|_| !world.healed()) else { return };
                let wait = mean.mul_f64(0.2 + 1.6 * world.rng().unit());
                world.schedule(wait, Happening::SomebodyLeaves);
                let nodes: Vec<NodeId> = world.nodes().collect();
                if let Some(who) = world.rng().pick(&nodes).copied().and_then(|n| world.running(n)) {
                    world.complete(who, Duration::ZERO, Completion::Leave);
                }
            }
            Happening::SetChanges => self.change_set(world),
            Happening::ResourceFails => {
                if !world.healed() {
                    let wait = self.plan.resource_failures.mul_f64(0.2 + 1.6 * world.rng().unit());
                    world.schedule(wait, Happening::ResourceFails);
                    self.agents.fail_one(world);
                }
            }
        }
    }

    fn noticed(&mut self, world: &mut World<Self>, entry: &Entry<Record>) {
        self.cases.observe(world, entry);
        match &entry.what {
            What::Stopped { instance, .. } => {
                self.apps[instance.node.raw() as usize - 1] = App::default();
                self.agents.orphan(world, *instance);
                self.watch.ended(*instance);
                self.boards.stopped(*instance);
            }
            What::PoweredOff(node) => {
                self.dead.extend(self.lives.remove(node).unwrap_or_default());
                self.agents.power_lost(world, *node);
            }
            What::DiskDamaged(node) => {
                self.damaged.insert(*node);
            }
            What::Started { instance, .. } => {
                self.lives.entry(instance.node).or_default().push(*instance);
                if world.healed() {
                    world.complete(*instance, Duration::from_secs(1), Completion::Care);
                }
            }
            What::Healed => {
                for node in world.nodes() {
                    if let Some(who) = world.running(node) {
                        world.complete(who, Duration::from_secs(1), Completion::Care);
                    }
                }
            }
            What::Settled => self.quiet = true,
            _ => {}
        }
    }

    fn settled(&self, now: Instant, nodes: &[Option<Stack>]) -> Result<(), String> {
        let mut views = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let at = NodeId::new(u32::try_from(i + 1).unwrap_or(0));
            let Some(node) = node else { return Err(format!("{at} does not run")) };
            if !self.set.1.contains(&at) {
                if let Some(view) = node.view() {
                    return Err(format!("{at} is in {} and not in the set", view.number));
                }
                continue;
            }
            if let Some(missing) = self.missing(at, node, &self.apps[i]) {
                return Err(missing);
            }
            views.extend(node.view().map(|v| v.number));
        }
        if views.windows(2).any(|w| w[0] != w[1]) {
            return Err(format!("nodes are in different views: {views:?}"));
        }
        if !self.quiet && self.ordered.is_some_and(|at| now - at < ORDER_PATIENCE) {
            return Err("an order to change the set of nodes may be under way".to_owned());
        }
        if self.fences > 0 {
            return Err("a fence device is still at work".to_owned());
        }
        if self.plan.resources > 0 {
            let running = self.agents.running.len();
            if running != self.plan.resources {
                return Err(format!("{running} of {} resources run", self.plan.resources));
            }
            if !self.quiet && (!self.agents.idle() || now - self.changed < self.plan.monitor * 4) {
                return Err("the resource manager is still busy".to_owned());
            }
        }
        Ok(())
    }
}
