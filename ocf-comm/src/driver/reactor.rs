use super::inbox::{Inbox, Wake};
use super::io::{Io, LINKS, MediumStatus, PINGS, Ports, Report, TIMER, WAKER};
use super::pace::Pace;
use super::{Clock, Stopped};
use crate::Received;
use crate::ping::PingChange;
use mio::{Events, Poll};
use parking_lot::{Mutex, MutexGuard};
use pils::{Instant, Layer};
use std::any::Any;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Buffers read in one turn, so that timers are never late by more than about a millisecond.
const READS_PER_TURN: usize = 64;
/// Rounds of outputs that lead to commands that lead to outputs, in one turn.
const ROUNDS_PER_TURN: usize = 16;
/// A layer whose timer is due again at once is called again in the same turn for so long; then the sockets are looked at
/// first. It may have much to do, a part in each call, and must hear its peers meanwhile.
const TIMER_AGAIN_FOR: Duration = Duration::from_micros(200);
/// A caller that comes back sooner than this after having sent something leaves the sending to the reactor, which
/// then sends many messages in one burst.
const CALLER_SENDS_AGAIN_AFTER: Duration = Duration::from_micros(10);

/// What a reactor needs to know of the layer it runs: how to carry out its outputs.
///
/// Called with the reactor's lock held: do not block, and do not use a [`Handle`] of the same reactor; post to its
/// [`Remote`](super::Remote) instead.
pub trait Host<L: Layer> {
    /// What other threads may ask for: completions of outputs, requests.
    type Command: Send + 'static;

    /// Makes an input of received datagrams.
    fn input<'a>(&mut self, received: Received<'a>) -> L::Input<'a>;

    /// The sockets have something to say about what was sent. A host whose layer does not care leaves this as it is.
    fn report(&mut self, layer: &mut L, now: Instant, report: Report) {
        let _: (&mut L, Instant, Report) = (layer, now, report);
    }

    /// Everything that arrived in this turn was handled, and no output was asked for yet. An application that lives on
    /// the reactor's thread answers here: what it sends shares packets with what the layer sends anyway.
    fn answer(&mut self, layer: &mut L, now: Instant) {
        let _: (&mut L, Instant) = (layer, now);
    }

    /// Carries out one output. Outputs come in the order in which the layer gave them.
    fn carry_out(&mut self, now: Instant, output: L::Output, io: &mut Io);

    /// Runs a command from the inbox: by `layer.handle` or a request. What the layer then wants is carried out next.
    fn command(&mut self, layer: &mut L, now: Instant, command: Self::Command);

    /// Every output so far was carried out. For work once per turn, such as waking the application. Returns true if it
    /// called the layer: what that leads to is then carried out in this turn.
    fn settled(&mut self, layer: &mut L, now: Instant) -> bool {
        let _: (&mut L, Instant) = (layer, now);
        false
    }

    /// How many messages were handled since the start. A reactor whose host counts them spaces its turns, by about 0.1 ms, while
    /// more than 100,000 pass in a second and few in each turn, and calls leave what they send to the next turn: what they all cost is
    /// then shared by many. A host that leaves this as it is has every turn at once.
    fn handled(&self) -> u64 {
        0
    }

    /// Takes back the buffer of a transmitted output, so that the layer can use it again.
    fn recycle(&mut self, layer: &mut L, buffer: Vec<u8>) {
        drop(buffer);
        let _: &mut L = layer;
    }

    /// The medium of a path has another address, or its link went up or down.
    fn medium_changed(&mut self, layer: &mut L, now: Instant, changed: &MediumStatus) {
        let _: (&mut L, Instant, &MediumStatus) = (layer, now, changed);
    }

    /// A host outside the cluster that is [watched](Ports::ping) answers, or does no more.
    fn ping_changed(&mut self, layer: &mut L, now: Instant, change: &PingChange) {
        let _: (&mut L, Instant, &PingChange) = (layer, now, change);
    }

    /// The layer or this host panicked and will not be called again after this: the last chance to send something.
    fn last_words(&mut self, layer: &mut L, now: Instant, io: &mut Io) {
        let _: (&mut L, Instant, &mut Io) = (layer, now, io);
    }

    /// The reactor has stopped and calls nothing after this. For telling whoever waits for this host.
    fn stopped(&mut self, why: &Stopped) {
        let _: &Stopped = why;
    }
}

/// The layer, its host and the sockets: everything behind the lock.
struct Engine<L: Layer, H: Host<L>> {
    layer: L,
    host: H,
    io: Io,
    inbox: Inbox<H::Command>,
    deadline: Option<Instant>,
    /// When a caller, not the reactor, last sent something.
    caller_sent: Instant,
    pace: Pace,
    stopped: Option<Stopped>,
}

impl<L: Layer, H: Host<L>> Engine<L, H> {
    /// Reads and handles what is ready, then settles. True if there is more to do at once.
    fn turn(&mut self) -> bool {
        let Self { layer, host, io, .. } = self;
        let more = io.receive(READS_PER_TURN, |now, received| {
            let input = host.input(received);
            layer.handle(now, input);
        });
        let now = self.io.clock().now();
        while let Some(change) = self.io.ping(now) {
            self.host.ping_changed(&mut self.layer, now, &change);
        }
        self.settle(now) | more
    }

    /// Binds again what the change of an interface took away, and tells the host.
    fn interfaces_changed(&mut self) {
        let now = self.io.clock().now();
        for changed in self.io.interfaces_changed() {
            tracing::info!(path = changed.path.0, medium = changed.name, link = ?changed.link, "medium");
            self.host.medium_changed(&mut self.layer, now, &changed);
        }
    }

    /// Runs commands, fires the timer, carries out outputs until there are none, arms the timer. True if something is left
    /// to be done at once, but after a look at the sockets: the layer has more to do than it does in one call, or the layer
    /// and the host keep each other busy.
    fn settle(&mut self, now: Instant) -> bool {
        let (mut busy, mut again) = (true, true);
        for _ in 0..ROUNDS_PER_TURN {
            // Not those that these post: they would keep the layer from its peers for as long as they go on.
            for command in (0..self.inbox.len()).map_while(|_| self.inbox.next()) {
                self.host.command(&mut self.layer, now, command);
            }
            if again && self.is_due(now) {
                self.layer.handle_timeout(now);
                again = self.io.clock().now().since(now) < TIMER_AGAIN_FOR;
            }
            self.host.answer(&mut self.layer, now);
            while let Some(output) = self.layer.poll_output() {
                self.host.carry_out(now, output, &mut self.io);
                self.recycle();
            }
            let mut reported = false;
            while let Some(report) = self.io.take_report() {
                self.host.report(&mut self.layer, now, report);
                reported = true;
            }
            let called = self.host.settled(&mut self.layer, now) | reported;
            if !called {
                self.deadline = self.layer.poll_timeout();
            }
            let asked = called || !self.inbox.is_empty();
            let due = self.is_due(now);
            busy = asked || due;
            if !(asked || due && again) {
                break;
            }
        }
        self.recycle();
        let earlier = self.io.earlier(self.deadline);
        self.io.timer.arm(now, earlier);
        busy
    }

    fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Gives sent buffers back at once, so that the layer fills a buffer that is still in the processor's cache.
    fn recycle(&mut self) {
        while let Some(buffer) = self.io.spent.pop() {
            self.host.recycle(&mut self.layer, buffer);
        }
    }

    /// Runs `work` unless stopped; a panic in it stops the engine.
    fn guard<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Result<R, Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(result) => Ok(result),
            Err(panic) => {
                let stopped = Stopped::Panicked { message: message(panic.as_ref()) };
                tracing::error!(%stopped, "reactor stops");
                let now = self.io.clock().now();
                let Self { layer, host, io, .. } = self;
                if catch_unwind(AssertUnwindSafe(|| host.last_words(layer, now, io))).is_err() {
                    tracing::error!("a second panic while saying the last words");
                }
                self.stop(stopped.clone());
                Err(stopped)
            }
        }
    }

    /// Stops for good; only the first reason counts.
    fn stop(&mut self, why: Stopped) {
        if self.stopped.is_none() {
            self.stopped = Some(why.clone());
            if catch_unwind(AssertUnwindSafe(|| self.host.stopped(&why))).is_err() {
                tracing::error!("a panic while being told of the stop");
            }
            self.io.close();
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

pub(crate) struct Shared<L: Layer, H: Host<L>> {
    engine: Mutex<Engine<L, H>>,
    wake: Arc<Wake>,
    clock: Clock,
}

impl<L: Layer, H: Host<L>> Shared<L, H> {
    pub(crate) fn stop(&self, why: Stopped) {
        self.engine.lock().stop(why);
        self.wake.wake();
    }
}

/// Calls the layer of a reactor from any thread. Cheap to clone.
pub struct Handle<L: Layer, H: Host<L>> {
    pub(crate) shared: Arc<Shared<L, H>>,
}

impl<L: Layer, H: Host<L>> Clone for Handle<L, H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<L: Layer, H: Host<L>> fmt::Debug for Handle<L, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl<L: Layer, H: Host<L>> Handle<L, H> {
    /// Calls `request` and carries out what follows from it: at once in this thread, or, in a burst of calls, in the
    /// reactor's next turn. Waits while another thread is inside, at most for a turn. Never call it from a [`Host`].
    ///
    /// # Errors
    /// [`Stopped`] if the reactor stopped, also by a panic in `request`.
    pub fn call<R>(&self, request: impl FnOnce(&mut L, &mut H, Instant) -> R) -> Result<R, Stopped> {
        self.call_locked(self.shared.engine.lock(), request)
    }

    /// As [`Handle::call`], but if another thread is inside, does nothing and returns `None`.
    pub fn try_call<R>(
        &self,
        request: impl FnOnce(&mut L, &mut H, Instant) -> R,
    ) -> Option<Result<R, Stopped>> {
        Some(self.call_locked(self.shared.engine.try_lock()?, request))
    }

    fn call_locked<R>(
        &self,
        mut engine: MutexGuard<'_, Engine<L, H>>,
        request: impl FnOnce(&mut L, &mut H, Instant) -> R,
    ) -> Result<R, Stopped> {
        let now = self.shared.clock.now();
        let called = engine.guard(|engine| {
            let result = request(&mut engine.layer, &mut engine.host, now);
            if now.since(engine.caller_sent) < CALLER_SENDS_AGAIN_AFTER || engine.pace.is_dense(now) {
                return (result, true);
            }
            let sends = engine.io.stats().sends;
            let busy = engine.settle(now);
            if engine.io.stats().sends != sends {
                engine.caller_sent = now;
            }
            (result, busy)
        });
        drop(engine);
        match called {
            Ok((result, left)) => {
                if left {
                    self.shared.wake.wake();
                }
                Ok(result)
            }
            Err(stopped) => {
                self.shared.wake.wake();
                Err(stopped)
            }
        }
    }

    /// Carries out at once, in this thread, what a burst of calls left to the reactor's next turn.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn flush(&self) -> Result<(), Stopped> {
        let now = self.shared.clock.now();
        let busy = self.shared.engine.lock().guard(|engine| engine.settle(now))?;
        if busy {
            self.shared.wake.wake();
        }
        Ok(())
    }

    /// As [`Handle::flush`], but never waits: if another thread is inside, has the reactor run a turn soon instead.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn try_flush(&self) -> Result<(), Stopped> {
        self.try_settle(|_, _| true)
    }

    /// As [`Handle::try_flush`], but leaves it to the reactor's next turn while very many messages pass through: see
    /// [`Host::handled`].
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn nudge(&self) -> Result<(), Stopped> {
        self.try_settle(|engine, now| !engine.pace.is_dense(now))
    }

    fn try_settle(&self, here: impl FnOnce(&Engine<L, H>, Instant) -> bool) -> Result<(), Stopped> {
        let now = self.shared.clock.now();
        let busy = match self.shared.engine.try_lock() {
            Some(mut engine) if here(&engine, now) => engine.guard(|engine| engine.settle(now))?,
            _ => true,
        };
        if busy {
            self.shared.wake.wake();
        }
        Ok(())
    }

    /// Has the reactor run a turn soon. One system call, or none if a turn is due already.
    pub fn wake(&self) {
        self.shared.wake.wake();
    }

    /// Looks at the layer, the host and the sockets, and changes nothing.
    ///
    /// # Errors
    /// [`Stopped`] after a panic: what is left is not to be trusted.
    pub fn inspect<R>(&self, look: impl FnOnce(&L, &H, &Io) -> R) -> Result<R, Stopped> {
        let engine = self.shared.engine.lock();
        match &engine.stopped {
            Some(stopped @ Stopped::Panicked { .. }) => Err(stopped.clone()),
            _ => Ok(look(&engine.layer, &engine.host, &engine.io)),
        }
    }

    /// Asks the reactor to stop. Nothing more is read or sent.
    pub fn stop(&self) {
        self.shared.stop(Stopped::Requested);
    }

    /// Why it stopped, or `None` while it runs.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.shared.engine.lock().stopped.clone()
    }

    /// The clock of the reactor.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }
}

/// Runs one layer on real sockets. See the [module](super) for the ways to run it.
pub struct Reactor<L: Layer, H: Host<L>> {
    shared: Arc<Shared<L, H>>,
    poll: Poll,
    events: Events,
    spin: Duration,
    /// Spins in a row that did not pay, and turns to skip before the next attempt.
    unpaid: u32,
    skip: u32,
    /// Until when the next turn is to wait.
    rest_until: Option<Instant>,
}

impl<L: Layer, H: Host<L>> fmt::Debug for Reactor<L, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").finish_non_exhaustive()
    }
}

impl<L: Layer, H: Host<L>> AsFd for Reactor<L, H> {
    /// Readable when [`Reactor::process`] has something to do, deadlines included.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

impl<L: Layer, H: Host<L>> Reactor<L, H> {
    /// Puts a layer on bound sockets. Nothing runs until the first [`Reactor::process`] or [`Reactor::spawn`].
    #[must_use]
    pub fn new(ports: Ports, inbox: Inbox<H::Command>, layer: L, host: H) -> Self {
        let Ports { io, poll, wake, spin } = ports;
        let clock = io.clock();
        // The first turn finds out what the layer wants: its timer is not armed yet.
        wake.wake();
        let engine = Engine {
            layer,
            host,
            io,
            inbox,
            deadline: Some(Instant::ZERO),
            caller_sent: Instant::ZERO,
            pace: Pace::new(),
            stopped: None,
        };
        let shared = Arc::new(Shared { engine: Mutex::new(engine), wake, clock });
        Self { shared, poll, events: Events::with_capacity(64), spin, unpaid: 0, skip: 0, rest_until: None }
    }

    /// A handle for calls into the layer.
    #[must_use]
    pub fn handle(&self) -> Handle<L, H> {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Does what is due now, without waiting. For use in the caller's own loop.
    ///
    /// # Errors
    /// [`Stopped`]; every later call says the same.
    pub fn process(&mut self) -> Result<(), Stopped> {
        self.process_within(Some(Duration::ZERO))
    }

    /// As [`Reactor::process`], but waits until something is due; at most for `wait` if given (whole milliseconds).
    ///
    /// # Errors
    /// [`Stopped`]; every later call says the same.
    pub fn process_within(&mut self, wait: Option<Duration>) -> Result<(), Stopped> {
        if let Err(error) = self.wait(wait) {
            let stopped = Stopped::System { message: error.to_string() };
            self.shared.stop(stopped.clone());
            return Err(stopped);
        }
        let mut engine = self.shared.engine.lock();
        let mut links = false;
        for event in &self.events {
            match event.token() {
                WAKER => self.shared.wake.clear(),
                TIMER => {}
                LINKS => links = true,
                ping if PINGS.contains(&ping) => engine.io.ping_readable(ping),
                path => {
                    if event.is_writable() {
                        engine.io.writable(path);
                    }
                    if event.is_error() {
                        engine.io.errors(path);
                    }
                    if event.is_readable() || event.is_error() {
                        engine.io.readable(path);
                    }
                }
            }
        }
        let turned = engine.guard(|engine| {
            if links {
                engine.interfaces_changed();
            }
            engine.turn()
        });
        let handled = engine.host.handled();
        self.rest_until = engine.pace.turned(self.shared.clock.now(), handled);
        drop(engine);
        if turned? {
            self.shared.wake.wake();
        }
        Ok(())
    }

    /// When [`Reactor::process`] is due at the latest. The descriptor becomes readable then, so that only loops that
    /// cannot watch a descriptor need this.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let engine = self.shared.engine.lock();
        engine.io.earlier(engine.deadline)
    }

    fn wait(&mut self, wait: Option<Duration>) -> std::io::Result<()> {
        if wait != Some(Duration::ZERO)
            && let Some(until) = self.rest_until.take()
        {
            std::thread::sleep(until.since(self.shared.clock.now()));
        }
        if !self.spin.is_zero() && wait != Some(Duration::ZERO) && self.spin_for_events()? {
            return Ok(());
        }
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    /// Looks for events without sleeping. Backs off after eight attempts in a row that found nothing.
    fn spin_for_events(&mut self) -> std::io::Result<bool> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(false);
        }
        let end = self.shared.clock.now() + self.spin;
        while self.shared.clock.now() < end {
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            if !self.events.is_empty() {
                self.unpaid = 0;
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        self.unpaid += 1;
        if self.unpaid >= 8 {
            self.skip = 16;
        }
        Ok(false)
    }
}
