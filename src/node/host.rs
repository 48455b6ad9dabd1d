use super::alive::Alive;
use super::application::{Application, Here};
use super::calls::Callers;
use super::gate::{Gate, Offers};
use super::locks::Table;
use super::outside::Outside;
use super::programs::{Program, Programs};
use super::queue::EventQueue;
use super::recorder::{Keeper, Recorder};
use super::services::Seats;
use super::tie::Decider;
use crate::Standing;
use crate::event::{NodeEvent, Numbered, PartitionEvent};
use crate::stack::{Input, Output, Stack};
use ocf_comm::Received;
use ocf_comm::driver::sentinel::Sentinel;
use ocf_comm::driver::{Clock, Host, Io, MediumStatus, Remote, Report, Stopped};
use ocf_comm::medium::Link;
use ocf_comm::ping::PingChange;
use ocf_comm::rpc::{Body, Fault, Ticket};
use ocf_groups::Event;
use ocf_membership::{Ballot, PersistToken, Verdict};
use ocf_resource::OperationResult;
use ocf_resource::apphb::EventKind;
use ocf_resource::driver::AgentHost;
use ocf_resource::driver::apphb::{AppHeartbeatServer, Told};
use ocf_resource::executor::RunId;
use ocf_stonith::DeviceReport;
use ocf_stonith::driver::DeviceHost;
use pils::topic::Bus;
use pils::{Instant, Layer as _};
use std::collections::VecDeque;
use std::sync::Arc;

/// What other threads report to the reactor.
#[derive(Debug)]
pub(super) enum Command {
    /// A record is on disk.
    Persisted(PersistToken),
    /// It is not.
    PersistFailed(PersistToken),
    /// An operation ended.
    Operated(RunId, OperationResult),
    /// A fence device answered.
    Device(DeviceReport),
    /// The tie-breaker answered.
    Tie(Ballot, Verdict),
    /// A method that another node called answered.
    Answered(Ticket, Result<Body, Fault>),
    /// An application of this machine is well, or is not.
    Application(Told),
    /// The node is to say that it is well, if it is.
    Alive,
}

/// Messages after which those of a turn are handed over before its end: the application begins meanwhile.
const EARLY: usize = 1024;

/// A message of a group: all that is done with it is to hand it over.
const fn is_message(event: &NodeEvent) -> bool {
    matches!(
        event,
        NodeEvent::Group(Event::Message { .. } | Event::Fifo { .. })
            | NodeEvent::Partition(PartitionEvent::Group(Event::Message { .. } | Event::Fifo { .. }))
    )
}

/// Carries out what the stack wants.
pub(super) struct NodeHost {
    events: Arc<EventQueue>,
    gate: Arc<Gate>,
    offers: Offers,
    number: u64,
    /// Events, those for programs alone among them.
    handled: u64,
    /// Events of this turn, not handed over yet.
    turn: VecDeque<Numbered>,
    /// None of those needs more than to be handed over.
    only_messages: bool,
    /// The application has more than it should: deliveries must be held.
    hold: bool,
    application: Option<Box<dyn Application>>,
    remote: Remote<Command>,
    recorder: Option<Recorder>,
    keeper: Option<Keeper>,
    decider: Option<Decider>,
    /// Hosts outside that are watched.
    watched: usize,
    agents: AgentHost,
    devices: DeviceHost,
    sentinel: Option<Sentinel>,
    bus: Option<Bus>,
    /// `None` once stopped, so that whoever waits is told.
    callers: Option<Callers>,
    locks: Arc<Table>,
    programs: Option<Programs>,
    seats: Seats,
    outside: Option<Outside>,
    heartbeats: Option<AppHeartbeatServer>,
    alive: Option<(Arc<Alive>, Clock)>,
}

impl NodeHost {
    pub(super) fn new(
        (events, gate): (Arc<EventQueue>, Arc<Gate>),
        remote: Remote<Command>,
        (recorder, keeper): (Option<Recorder>, Option<Keeper>),
        agents: AgentHost,
        devices: DeviceHost,
    ) -> Self {
        Self {
            events,
            gate,
            offers: Offers::default(),
            number: 0,
            handled: 0,
            turn: VecDeque::new(),
            only_messages: true,
            hold: false,
            application: None,
            remote,
            recorder,
            keeper,
            decider: None,
            watched: 0,
            agents,
            devices,
            sentinel: None,
            bus: None,
            callers: None,
            locks: Arc::default(),
            programs: None,
            seats: Seats::default(),
            outside: None,
            heartbeats: None,
            alive: None,
        }
    }

    /// Says to a watchdog that the node is well.
    pub(super) fn with_alive(mut self, alive: Option<Arc<Alive>>, clock: Clock) -> Self {
        self.alive = alive.map(|alive| (alive, clock));
        self
    }

    /// Who waits for what about locks.
    pub(super) fn locks(&self) -> &Table {
        &self.locks
    }

    /// Machines that live here.
    pub(super) const fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Tells programs and people outside, and listens to applications.
    pub(super) fn with_outside(
        mut self,
        outside: Option<Outside>,
        heartbeats: Option<AppHeartbeatServer>,
    ) -> Self {
        (self.outside, self.heartbeats) = (outside, heartbeats);
        self
    }

    /// Asks in even splits, of a node that watches so many hosts outside.
    pub(super) fn with_decider(mut self, decider: Option<Decider>, watched: usize) -> Self {
        (self.decider, self.watched) = (decider, watched);
        self
    }

    /// Tells a sentinel whom to tell.
    pub(super) fn with_sentinel(mut self, sentinel: Option<Sentinel>) -> Self {
        self.sentinel = sentinel;
        self
    }

    /// Publishes events for programs outside, too.
    pub(super) fn with_bus(mut self, bus: Option<Bus>) -> Self {
        self.bus = bus;
        self
    }

    /// Has programs beside the node as members of groups.
    pub(super) fn with_programs(mut self, programs: Option<Programs>) -> Self {
        self.programs = programs;
        self
    }

    /// Programs that are members of groups.
    pub(super) const fn programs(&mut self) -> Option<&mut Programs> {
        self.programs.as_mut()
    }

    /// Has deliveries go on if nobody has too much to take.
    pub(super) fn resume(&mut self, stack: &mut Stack, now: Instant) {
        let for_program = self.programs.as_mut().is_some_and(Programs::holds);
        // Unless the limit was exceeded again meanwhile.
        if !for_program && !self.events.is_held() {
            stack.hold_deliveries(now, false);
        }
    }

    /// Does what a program has ordered, as far as it goes.
    pub(super) fn drain(&mut self, stack: &mut Stack, now: Instant, program: &Program) {
        self.hand_in(stack, now);
        if let Some(programs) = &mut self.programs
            && programs.drain(stack, now, (&self.gate, program))
        {
            self.hand_in(stack, now);
        }
        self.publish(stack, now);
    }

    /// Tells programs. False if the event is not for the application.
    fn tell_programs(&mut self, event: &NodeEvent) -> bool {
        let Some(programs) = &mut self.programs else { return true };
        if let NodeEvent::Group(event) = event {
            return programs.take(event, &self.gate);
        } else if let NodeEvent::NonPrimary(_) = event {
            programs.stands(Standing::NonPrimary);
        } else if let NodeEvent::Suspended = event {
            programs.stands(Standing::Suspended);
        } else if let NodeEvent::Resumed = event {
            programs.stands(Standing::Primary);
        }
        true
    }

    /// Makes calls to other nodes and serves theirs.
    pub(super) fn with_callers(mut self, callers: Callers) -> Self {
        self.callers = Some(callers);
        self
    }

    pub(super) const fn callers(&mut self) -> Option<&mut Callers> {
        self.callers.as_mut()
    }

    /// Gives the events to a program that lives here, instead of the queue.
    pub(super) fn with_application(mut self, application: Option<Box<dyn Application>>) -> Self {
        self.application = application;
        self
    }

    /// Number of the last event.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Hands in what was sent to groups so far: before anything that must not overtake it.
    pub(super) fn hand_in(&mut self, stack: &mut Stack, now: Instant) {
        self.gate.hand_in(stack, now, &mut self.offers);
    }

    /// Tells senders what changed. True if the stack was called.
    pub(super) fn publish(&self, stack: &mut Stack, now: Instant) -> bool {
        self.gate.publish(stack, now)
    }

    /// The next event for the application.
    fn tell(&mut self, now: Instant, event: NodeEvent) {
        self.handled += 1;
        let own = self.tell_programs(&event);
        self.number += u64::from(own);
        if let Some(bus) = &self.bus {
            super::api::publish(bus, own.then_some(self.number), &event);
        }
        if !own {
            return;
        }
        self.only_messages &= is_message(&event);
        self.turn.push_back(Numbered { number: self.number, at: now, event });
        if self.turn.len() >= EARLY && self.only_messages && self.application.is_none() {
            self.hold |= self.events.hand_over(&mut self.turn);
        }
    }

    /// What is heard of an application: one that has the name of a resource is that resource.
    fn heard(&mut self, layer: &mut Stack, now: Instant, told: Told) {
        match told {
            Told::Event(event) => {
                if event.kind.is_failure() {
                    let (who, silent) = (&event.application, event.silent);
                    let why = if event.kind == EventKind::HangUp {
                        format!("{who} died: its heartbeats ended without goodbye")
                    } else {
                        format!("no heartbeat of {who} for {silent:?}")
                    };
                    layer.notify_failure(now, &event.application.name, &why);
                }
                self.tell(now, NodeEvent::Application(event));
            }
            Told::Reboot(application) => self.tell(now, NodeEvent::RebootWanted(application)),
            _ => {}
        }
    }

    fn post(&self, command: Command) {
        if self.remote.post(command).is_err() {
            tracing::debug!("a report came after the node stopped");
        }
    }
}

impl Host<Stack> for NodeHost {
    type Command = Command;

    fn input<'a>(&mut self, received: Received<'a>) -> Input<'a> {
        Input::Received(received)
    }

    fn report(&mut self, layer: &mut Stack, now: Instant, report: Report) {
        layer.handle(now, Input::Network(report.into()));
    }

    fn carry_out(&mut self, now: Instant, output: Output, io: &mut Io) {
        match output {
            Output::Transmit(transmit) => io.transmit(transmit),
            Output::Persist { token, record } => match &self.recorder {
                None => self.post(Command::Persisted(token)),
                Some(recorder) if recorder.write(token, record) => {}
                Some(_) => self.post(Command::PersistFailed(token)),
            },
            Output::Operate { run, operation } => self.agents.run(run, &operation),
            Output::CancelOperation(run) => self.agents.cancel(run),
            Output::Fence(run) => self.devices.run(run),
            Output::CancelFence(attempt) => self.devices.cancel(attempt),
            Output::Lock(told) => self.locks.tell(told),
            Output::Call(output) => {
                if let Some(callers) = &mut self.callers {
                    callers.carry_out(output, &self.remote);
                }
            }
            Output::AskTie(claim) => {
                let ballot = claim.ballot;
                if !self.decider.as_ref().is_some_and(|decider| decider.ask(claim)) {
                    self.post(Command::Tie(ballot, Verdict::Unavailable));
                }
            }
            Output::NoteTie(view) => {
                if let Some(decider) = &self.decider {
                    decider.note(view);
                }
            }
            Output::Keep(kept) => {
                if let Some(keeper) = &self.keeper {
                    keeper.keep(kept);
                }
            }
            Output::Donor(donor) => {
                if let Some(programs) = &mut self.programs {
                    programs.donor_is(donor);
                }
            }
            Output::Event(event) => self.tell(now, event),
        }
    }

    fn command(&mut self, layer: &mut Stack, now: Instant, command: Command) {
        let input = match command {
            Command::Persisted(token) => Input::Persisted(token),
            Command::PersistFailed(token) => Input::PersistFailed(token),
            Command::Operated(run, result) => Input::Operated { run, result },
            Command::Device(report) => Input::Device(report),
            Command::Tie(ballot, verdict) => Input::Tie { ballot, verdict },
            Command::Application(told) => return self.heard(layer, now, told),
            Command::Alive => {
                if let Some((alive, clock)) = &self.alive {
                    alive.say(|| layer.may_live(clock.now()));
                }
                return;
            }
            Command::Answered(ticket, answer) => {
                // Nobody may wait for it any more; that is counted.
                let _taken: bool = layer.answer(now, ticket, answer);
                return;
            }
        };
        layer.handle(now, input);
    }

    fn medium_changed(&mut self, layer: &mut Stack, now: Instant, changed: &MediumStatus) {
        let up = changed.link != Link::Down;
        layer.handle(now, Input::Network(ocf_comm::Input::Carrier { path: changed.path, up }));
        if let (Some(was), Some(address)) = (changed.was, changed.address)
            && was != address
        {
            layer.readvertise(now, changed.path, (was, address));
        }
    }

    fn ping_changed(&mut self, layer: &mut Stack, now: Instant, change: &PingChange) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        layer.handle(now, Input::Reach { hosts: count(change.reachable), of: count(self.watched) });
        self.tell(now, NodeEvent::Ping(change.clone()));
    }

    fn answer(&mut self, layer: &mut Stack, now: Instant) {
        self.hand_in(layer, now);
    }

    fn settled(&mut self, layer: &mut Stack, now: Instant) -> bool {
        if let Some(sentinel) = &mut self.sentinel {
            sentinel.tell(now, layer.comm());
        }
        // Before the events: who reads that it is a member may send.
        let mut called = self.publish(layer, now);
        if let Some(programs) = &mut self.programs {
            called |= programs.retry(layer, now, &self.gate);
            if programs.flush() {
                layer.hold_deliveries(now, true);
                called = true;
            }
        }
        if let Some(outside) = &self.outside {
            outside.tell(&self.turn, layer);
        }
        // After the packets of this turn: other nodes wait for those.
        self.only_messages = true;
        let Self { application, gate, offers, turn, .. } = self;
        if let Some(application) = application {
            let any = !turn.is_empty();
            for event in turn.drain(..) {
                application.on_event(&mut Here::new(layer, (gate, offers), now), event);
            }
            return any || called;
        }
        let hold = self.events.hand_over(&mut self.turn) | core::mem::take(&mut self.hold);
        if hold {
            layer.hold_deliveries(now, true);
        }
        hold || called
    }

    fn handled(&self) -> u64 {
        self.handled
    }

    fn recycle(&mut self, layer: &mut Stack, buffer: Vec<u8>) {
        layer.recycle(buffer);
    }

    fn last_words(&mut self, layer: &mut Stack, now: Instant, io: &mut Io) {
        layer.last_gasp(now);
        while let Some(output) = layer.poll_output() {
            if let Output::Transmit(transmit) = output {
                io.transmit(transmit);
            }
        }
    }

    fn stopped(&mut self, why: &Stopped) {
        tracing::debug!(%why, "no more events");
        self.gate.close(why);
        self.sentinel = None;
        self.agents.stop_asking();
        self.heartbeats = None;
        self.callers = None;
        self.locks.close();
        self.seats.close(why);
        match &mut self.application {
            Some(application) => application.on_stopped(why),
            None => _ = self.events.hand_over(&mut self.turn),
        }
        self.events.close();
        // Last, since both may take a while.
        if let Some(keeper) = self.keeper.take() {
            keeper.close();
        }
        if let Some(outside) = self.outside.take() {
            outside.close(why);
        }
    }
}
