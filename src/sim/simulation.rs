use super::clock::Clock;
use super::history::{Checker, Entry, Violation, What};
use super::network::Burst;
use super::profile::Profile;
use super::program::{Ctx, Datagrams, Moved, Program, Scheduled, Wake};
use super::world::{Event, World, id};
use core::hash::Hasher;
use core::time::Duration;
use pils::{Incarnation, Instant, Layer, NodeInstance, Rng};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A node that wants its timer so often at one instant is spinning.
const SPINS_MAX: u32 = 1_000;
/// How often a healed cluster is asked whether all is well.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// One run: a program on simulated machines and a simulated network, judged by checkers.
///
/// Everything is a function of the profile, the seed and the program.
#[expect(missing_debug_implementations, reason = "checkers are trait objects without a useful debug form")]
pub struct Simulation<P: Program> {
    program: P,
    world: World<P>,
    layers: Vec<Option<P::Layer>>,
    checkers: Vec<Box<dyn Checker<P::Record>>>,
    history: Vec<Entry<P::Record>>,
    events: u64,
    spins: (Instant, u32),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every property held.
    Passed,
    /// A checker objects.
    Correctness(Violation),
    /// All faults ended and yet not all became well, or a node spins.
    Liveness(String),
    /// A node's software panicked.
    Crash(String),
}

/// What a run leaves behind.
#[derive(Debug)]
pub struct Report<R> {
    /// How it ended.
    pub verdict: Verdict,
    /// Virtual time that passed.
    pub length: Duration,
    /// Events that were simulated.
    pub events: u64,
    /// Datagrams that were sent, and bursts or datagrams that were lost.
    pub datagrams: (u64, u64),
    /// A fold of everything that happened; equal for equal runs.
    pub trace: u64,
    /// Named cases that occurred, and how often.
    pub coverage: BTreeMap<&'static str, u64>,
    /// Facts judged, by checker.
    pub judged: Vec<(&'static str, u64)>,
    /// All that happened.
    pub history: Vec<Entry<R>>,
    /// What the seed had decided beforehand.
    pub profile: Profile,
}

impl<P: Program> Simulation<P> {
    /// A run of `program` that has not begun.
    #[must_use]
    pub fn new(program: P, profile: Profile, seed: u64, checkers: Vec<Box<dyn Checker<P::Record>>>) -> Self {
        let mut world = World::new(profile, Rng::new(seed));
        for i in 0..world.hosts.len() {
            let at = world.rng.duration(Duration::ZERO, world.profile.start_spread);
            world.queue.push(Instant::ZERO + at, Event::Start(i, 0));
        }
        if !world.profile.faults.is_empty() {
            world.queue.push(Instant::ZERO + world.profile.fault_interval, Event::NextFault);
        }
        let layers = world.hosts.iter().map(|_| None).collect();
        Self { program, world, layers, checkers, history: Vec::new(), events: 0, spins: (Instant::ZERO, 0) }
    }

    /// Schedules something in the world before the run.
    pub fn schedule(&mut self, after: Duration, event: P::Event) {
        self.world.schedule(after, event);
    }

    /// Runs to the end: the phase with faults, the healing, the calm after it.
    #[must_use]
    pub fn run(mut self) -> Report<P::Record> {
        let verdict = match catch_unwind(AssertUnwindSafe(|| self.phases())) {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(verdict)) => verdict,
            Err(panic) => Verdict::Crash(text_of(&*panic)),
        };
        self.history.append(&mut self.world.fresh);
        Report {
            verdict,
            length: self.world.now() - Instant::ZERO,
            events: self.events,
            datagrams: (self.world.network.carried, self.world.network.lost),
            trace: self.world.fold.finish(),
            coverage: self.world.coverage,
            judged: self.checkers.iter().map(|c| (c.name(), c.judged())).collect(),
            history: self.history,
            profile: self.world.profile,
        }
    }

    fn phases(&mut self) -> Result<(), Verdict> {
        self.run_until(Instant::ZERO + self.world.profile.safety)?;
        self.world.heal();
        let healed = self.world.now();
        loop {
            self.run_until(self.world.now() + CHECK_EVERY)?;
            let Err(missing) = self.program.settled(self.world.now(), &self.layers) else { break };
            if self.world.now() - healed > self.world.profile.heal_limit {
                return Err(Verdict::Liveness(missing));
            }
        }
        self.world.note(What::Settled);
        let calm = self.world.now();
        while self.world.now() - calm < self.world.profile.calm {
            self.run_until(self.world.now() + CHECK_EVERY)?;
            if let Err(missing) = self.program.settled(self.world.now(), &self.layers) {
                return Err(Verdict::Liveness(format!("all was well, and then not any more: {missing}")));
            }
        }
        for checker in &mut self.checkers {
            if let Err(text) = checker.finish() {
                return Err(Verdict::Correctness(Violation { checker: checker.name(), text }));
            }
        }
        Ok(())
    }

    /// Carries out every event up to `end`, in order.
    fn run_until(&mut self, end: Instant) -> Result<(), Verdict> {
        while let Some(at) = self.world.queue.next_at().filter(|at| *at <= end) {
            let Some((_, event)) = self.world.queue.pop() else { break };
            self.world.advance_to(at.max(self.world.now()));
            self.events += 1;
            self.dispatch(event)?;
            self.account()?;
        }
        self.world.advance_to(end);
        self.account()
    }

    fn dispatch(&mut self, event: Scheduled<P>) -> Result<(), Verdict> {
        match event {
            Event::Arrival(burst) => {
                self.world.trace(burst.to, &burst.data);
                if self.world.hosts[burst.to].running.is_some() {
                    self.wake(burst.to, Wake::Datagrams(burst));
                }
            }
            Event::Wake(i, life, wake) => {
                if self.world.hosts[i].running == Some(life) {
                    if let Wake::Persisted(token, worked) = wake
                        && self.world.hosts[i].disk.hung
                    {
                        self.world.sometimes("a disk hung while a view was agreed");
                        self.world.hosts[i].disk.stuck.push((life, token, worked));
                        return Ok(());
                    }
                    let wake = match wake {
                        Wake::Persisted(token, worked) => {
                            Wake::Persisted(token, self.world.hosts[i].disk.complete(token, !worked))
                        }
                        // Words that overtake one another end with the truth.
                        Wake::Carrier(path, _) => Wake::Carrier(path, !self.world.is_dark(i, path)),
                        Wake::Moved(Moved { node, path, was, .. }) => {
                            Wake::Moved(Moved { node, path, was, is: self.world.address(node, path) })
                        }
                        other @ (Wake::Datagrams(_) | Wake::Completion(_) | Wake::Timer) => other,
                    };
                    self.wake(i, wake);
                }
            }
            Event::Timer(i) => {
                if self.world.hosts[i].timer_at == Some(self.world.now()) {
                    self.world.hosts[i].timer_at = None;
                    self.check_spin()?;
                    self.wake(i, Wake::Timer);
                }
            }
            Event::Drain(i) => self.drain(i),
            Event::Start(i, turn) => self.start(i, turn),
            Event::Resume(i, turn) => self.resume(i, turn),
            Event::PowerOn(i, turn) => {
                if self.world.hosts[i].turn == turn && !self.world.hosts[i].powered {
                    self.world.hosts[i].powered = true;
                    self.world.note(What::PoweredOn(id(i)));
                    self.start(i, turn);
                }
            }
            Event::World(event) => self.program.happens(&mut self.world, event),
            Event::NextFault => self.world.next_fault(),
            Event::Undo(undo, phase) => self.world.undo(undo, phase),
        }
        Ok(())
    }

    fn check_spin(&mut self) -> Result<(), Verdict> {
        if self.spins.0 == self.world.now() {
            self.spins.1 += 1;
        } else {
            self.spins = (self.world.now(), 0);
        }
        if self.spins.1 > SPINS_MAX {
            return Err(Verdict::Liveness(format!("a node's timer is always due at {}", self.world.now())));
        }
        Ok(())
    }

    /// Shows what was recorded to the program and to the checkers, and drops the software that died.
    fn account(&mut self) -> Result<(), Verdict> {
        while let Some(i) = self.world.stopped.pop() {
            self.layers[i] = None;
        }
        while !self.world.fresh.is_empty() {
            for entry in core::mem::take(&mut self.world.fresh) {
                self.program.noticed(&mut self.world, &entry);
                let judged = self
                    .checkers
                    .iter_mut()
                    .find_map(|c| c.observe(&entry).err().map(|text| Violation { checker: c.name(), text }));
                self.history.push(entry);
                if let Some(violation) = judged {
                    return Err(Verdict::Correctness(violation));
                }
            }
            while let Some(i) = self.world.stopped.pop() {
                self.layers[i] = None;
            }
        }
        Ok(())
    }

    fn start(&mut self, i: usize, turn: u64) {
        let world = &mut self.world;
        if world.hosts[i].turn != turn || !world.hosts[i].powered || world.hosts[i].running.is_some() {
            return;
        }
        let incarnation = Incarnation::new(world.rng.next_u128());
        let drift = u64::try_from(world.profile.drift_ppm).unwrap_or(0);
        let ppm = i32::try_from(world.rng.below(2 * drift + 1)).unwrap_or(0) - world.profile.drift_ppm;
        let reading = Instant::from_millis(world.rng.between(0, 100_000_000));
        let now = world.now();
        let host = &mut world.hosts[i];
        host.turn += 1;
        host.running = Some(incarnation);
        host.clock = Clock::new(now, reading, ppm);
        host.busy_until = now;
        let record = host.disk.content();
        let instance = NodeInstance::new(id(i), incarnation);
        world.note(What::Started { instance, remembers: record.is_some() });
        let layer = self.program.boot(&mut Ctx::new(world, i, instance), record);
        self.layers[i] = Some(layer);
        self.settle(i, instance);
        for path in 0..self.world.profile.paths {
            if self.world.is_dark(i, path) {
                self.world.tell_carrier(i, path, false);
            }
        }
    }

    fn resume(&mut self, i: usize, turn: u64) {
        let world = &mut self.world;
        if world.hosts[i].turn != turn || !world.hosts[i].paused {
            return;
        }
        world.hosts[i].paused = false;
        world.note(What::Resumed(id(i)));
        if world.rng.chance(0.5) {
            world.hosts[i].inbox.push_front(Wake::Timer);
        } else {
            world.hosts[i].inbox.push_back(Wake::Timer);
        }
        self.drain(i);
    }

    /// Gives a wake-up to a node now, or later if it cannot run now.
    fn wake(&mut self, i: usize, wake: Wake<P::Completion>) {
        let now = self.world.now();
        let limit = self.world.profile.socket_buffer;
        let host = &mut self.world.hosts[i];
        if !host.paused && now >= host.busy_until && host.inbox.is_empty() {
            self.process(i, wake);
            return;
        }
        if host.inbox_bytes + wake.bytes() > limit && wake.bytes() > 0 {
            self.world.network.lost += 1;
            return;
        }
        host.inbox_bytes += wake.bytes();
        host.inbox.push_back(wake);
        if !host.draining && !host.paused {
            host.draining = true;
            let at = host.busy_until.max(now);
            self.world.queue.push(at, Event::Drain(i));
        }
    }

    fn drain(&mut self, i: usize) {
        self.world.hosts[i].draining = false;
        loop {
            let now = self.world.now();
            let host = &mut self.world.hosts[i];
            if host.paused || host.running.is_none() || host.inbox.is_empty() {
                return;
            }
            if now < host.busy_until {
                if !host.draining {
                    host.draining = true;
                    let at = host.busy_until;
                    self.world.queue.push(at, Event::Drain(i));
                }
                return;
            }
            let Some(wake) = host.inbox.pop_front() else { return };
            host.inbox_bytes -= wake.bytes();
            self.process(i, wake);
        }
    }

    fn process(&mut self, i: usize, wake: Wake<P::Completion>) {
        let Some(incarnation) = self.world.hosts[i].running else { return };
        let instance = NodeInstance::new(id(i), incarnation);
        let Some(layer) = self.layers[i].as_mut() else { return };
        let ctx = &mut Ctx::new(&mut self.world, i, instance);
        match wake {
            Wake::Datagrams(Burst { from, path, segment, mut data, .. }) => {
                self.program.received(ctx, layer, Datagrams { from, path, segment, data: &mut data });
            }
            Wake::Persisted(token, durable) => self.program.persisted(ctx, layer, token, durable),
            Wake::Completion(completion) => self.program.completed(ctx, layer, completion),
            Wake::Carrier(path, up) => self.program.carrier(ctx, layer, path, up),
            Wake::Moved(moved) => self.program.moved(ctx, layer, moved),
            Wake::Timer => layer.handle_timeout(ctx.now()),
        }
        self.settle(i, instance);
        let now = self.world.now();
        let host = &mut self.world.hosts[i];
        host.busy_until = now + host.cost;
    }

    /// Carries out what the node wants done, and arms its timer.
    fn settle(&mut self, i: usize, instance: NodeInstance) {
        let Some(layer) = self.layers[i].as_mut() else { return };
        loop {
            let host = &mut self.world.hosts[i];
            if host.running != Some(instance.incarnation) {
                return;
            }
            let Some(output) = layer.poll_output() else { break };
            if let Some(left) = &mut host.outputs_left {
                if *left == 0 {
                    self.world.sometimes("a node died between two of its outputs");
                    let back =
                        self.world.rng.duration(self.world.profile.restart.0, self.world.profile.restart.1);
                    self.world.kill(instance.node, Some(back));
                    return;
                }
                *left -= 1;
            }
            self.program.carry_out(&mut Ctx::new(&mut self.world, i, instance), layer, output);
        }
        let Some(deadline) = layer.poll_timeout() else { return };
        if deadline == Instant::MAX {
            return;
        }
        let world = &mut self.world;
        if world.hosts[i].timer_at.is_some() && world.hosts[i].deadline == Some(deadline) {
            return;
        }
        world.hosts[i].deadline = Some(deadline);
        let mut at = world.hosts[i].clock.when(deadline);
        let slack = world.profile.timer_slack;
        if slack > Duration::ZERO {
            at += world.rng.duration(Duration::ZERO, slack);
        }
        let at = at.max(world.now());
        if world.hosts[i].timer_at.is_none_or(|armed| at < armed) {
            world.hosts[i].timer_at = Some(at);
            world.queue.push(at, Event::Timer(i));
        }
    }
}

fn text_of(panic: &(dyn core::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without text".to_owned()
    }
}
