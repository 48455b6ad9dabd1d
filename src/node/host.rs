use super::recorder::Recorder;
use crate::event::{NodeEvent, Numbered};
use crate::stack::{Input, Output, Stack};
use crossbeam_channel::Sender;
use ocf_comm::Received;
use ocf_comm::driver::{Host, Io, Remote};
use ocf_membership::PersistToken;
use ocf_resource::OperationResult;
use ocf_resource::driver::AgentHost;
use ocf_resource::executor::RunId;
use ocf_stonith::DeviceReport;
use ocf_stonith::driver::DeviceHost;
use pils::{Instant, Layer as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
}

/// Counts the bytes of messages that the application has not taken, so that it cannot be buried under them: beyond
/// the limit the stack stops handing out messages, does not report them as consumed, and so stops all senders.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes: AtomicUsize,
    limit: usize,
    held: AtomicBool,
}

impl Backlog {
    pub(super) const fn new(limit: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), limit, held: AtomicBool::new(false) }
    }

    fn size(event: &NodeEvent) -> usize {
        if let NodeEvent::Group(ocf_groups::Event::Message { payload, .. }) = event {
            payload.len() + 128
        } else {
            0
        }
    }

    /// Counts an event that was queued. True if the limit is reached by it.
    fn queued(&self, event: &NodeEvent) -> bool {
        let size = Self::size(event);
        let before = self.bytes.fetch_add(size, Ordering::SeqCst);
        before + size > self.limit && !self.held.swap(true, Ordering::SeqCst)
    }

    /// False if the application has caught up since the limit was reached; then nothing is held.
    fn still_full(&self) -> bool {
        let full = self.bytes.load(Ordering::SeqCst) > self.limit / 2;
        if !full {
            self.held.store(false, Ordering::SeqCst);
        }
        full
    }

    /// Counts an event that was taken. True if deliveries were held and may go on.
    pub(super) fn taken(&self, event: &Numbered) -> bool {
        let size = Self::size(&event.event);
        let before = self.bytes.fetch_sub(size, Ordering::SeqCst);
        before - size <= self.limit / 2
            && self.held.load(Ordering::SeqCst)
            && self.held.swap(false, Ordering::SeqCst)
    }
}

/// Carries out what the stack wants.
pub(super) struct NodeHost {
    events: Sender<Numbered>,
    number: u64,
    backlog: Arc<Backlog>,
    hold: bool,
    remote: Remote<Command>,
    recorder: Option<Recorder>,
    agents: AgentHost,
    devices: DeviceHost,
}

impl NodeHost {
    pub(super) fn new(
        (events, backlog): (Sender<Numbered>, Arc<Backlog>),
        remote: Remote<Command>,
        recorder: Option<Recorder>,
        agents: AgentHost,
        devices: DeviceHost,
    ) -> Self {
        Self { events, number: 0, backlog, hold: false, remote, recorder, agents, devices }
    }

    /// Number of the last event.
    pub(super) const fn number(&self) -> u64 {
        self.number
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
            Output::Event(event) => {
                self.number += 1;
                self.hold |= self.backlog.queued(&event);
                if self.events.send(Numbered { number: self.number, at: now, event }).is_err() {
                    tracing::debug!("nobody listens to events any more");
                }
            }
        }
    }

    fn command(&mut self, layer: &mut Stack, now: Instant, command: Command) {
        layer.handle(
            now,
            match command {
                Command::Persisted(token) => Input::Persisted(token),
                Command::PersistFailed(token) => Input::PersistFailed(token),
                Command::Operated(run, result) => Input::Operated { run, result },
                Command::Device(report) => Input::Device(report),
            },
        );
    }

    fn settled(&mut self, layer: &mut Stack, now: Instant) -> bool {
        let hold = std::mem::take(&mut self.hold) && self.backlog.still_full();
        if hold {
            layer.hold_deliveries(now, true);
        }
        hold
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
}
