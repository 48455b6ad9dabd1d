use super::frame::{FRAMING_MAX, HEADER, Response};
use super::service::SinkError;
use super::wake::Wake;
use crate::rpc::{Body, Fault};
use bytes::Bytes;
use core::fmt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Bytes taken together from the frames that wait.
const CHUNK: usize = 64 << 10;
/// Bytes that a thread writes that is not the server's.
const WRITE_NOW: usize = 1 << 20;

/// What waits to be written to one client. Filled from any thread, emptied by the server's.
pub(super) struct Outbox {
    client: u64,
    wake: Arc<Wake>,
    bytes_max: usize,
    frame_max: usize,
    state: Mutex<State>,
    /// Locked before the state. Who has it writes; another thread has the server's come back.
    writer: Mutex<Writer>,
}

struct Writer {
    /// The client's, not blocking; none before it is attached and once the client is gone.
    stream: Option<UnixStream>,
    /// Taken from the state, not written yet.
    out: Bytes,
    written: usize,
    /// When the client last took a byte, or had nothing to take.
    moved: Instant,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All is written.
    All,
    /// The socket takes no more now; that it does again is an event.
    Blocked,
    /// So much as was asked for; the socket may take more.
    Some,
    /// The other end has closed.
    Closed,
}

struct State {
    open: bool,
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Calls that have not been answered.
    in_flight: BTreeSet<u64>,
    /// Events that were dropped, by service, and not told yet.
    lost: BTreeMap<Arc<str>, u64>,
    lost_ever: u64,
    /// Why the client is to be let go.
    ended: Option<String>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("client", &self.client)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    pub(super) fn new(client: u64, wake: Arc<Wake>, bytes_max: usize, frame_max: usize) -> Self {
        let state = State {
            open: true,
            frames: VecDeque::new(),
            bytes: 0,
            in_flight: BTreeSet::new(),
            lost: BTreeMap::new(),
            lost_ever: 0,
            ended: None,
        };
        let writer = Writer { stream: None, out: Bytes::new(), written: 0, moved: Instant::now() };
        let (state, writer) = (Mutex::new(state), Mutex::new(writer));
        Self { client, wake, bytes_max, frame_max, state, writer }
    }

    /// What is written goes there: a second descriptor of the client's socket.
    pub(super) fn attach(&self, stream: UnixStream) {
        self.writer.lock().stream = Some(stream);
    }

    /// As [`Outbox::push`], and writes at once what the socket takes.
    pub(super) fn push_now(&self, frame: Bytes) -> bool {
        if !self.queue(frame) {
            return false;
        }
        // Who has the writer may have looked for frames before this one came.
        let wrote = self.writer.try_lock().map(|mut writer| self.write_with(&mut writer, WRITE_NOW));
        if !matches!(wrote, Some(Wrote::All | Wrote::Blocked)) {
            self.wake.client(self.client);
        }
        true
    }

    /// Writes about so many bytes.
    pub(super) fn write(&self, budget: usize) -> Wrote {
        self.write_with(&mut self.writer.lock(), budget)
    }

    fn write_with(&self, writer: &mut Writer, mut budget: usize) -> Wrote {
        let Writer { stream: Some(stream), out, written, moved } = writer else { return Wrote::Blocked };
        loop {
            if *written == out.len() {
                *written = 0;
                *out = self.take();
                if out.is_empty() {
                    *moved = Instant::now();
                    return Wrote::All;
                }
            }
            match stream.write(&out[*written..]) {
                Ok(0) => return Wrote::Closed,
                Ok(wrote) => {
                    *written += wrote;
                    *moved = Instant::now();
                    budget = budget.saturating_sub(wrote);
                    if budget == 0 {
                        return Wrote::Some;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Wrote::Blocked,
                Err(_) => return Wrote::Closed,
            }
        }
    }

    /// What the client is told last, behind what was begun.
    pub(super) fn last_word(&self, frame: &Bytes) {
        let mut writer = self.writer.lock();
        let rest = writer.out.slice(writer.written..);
        (writer.out, writer.written) = ([rest, frame.clone()].concat().into(), 0);
    }

    /// When the client last took a byte, or had nothing to take.
    pub(super) fn moved(&self) -> Instant {
        self.writer.lock().moved
    }

    /// Queues a frame whatever the quota: answers, and what its sender bounds. False once closed.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        let queued = self.queue(frame);
        if queued {
            self.wake.client(self.client);
        }
        queued
    }

    fn queue(&self, frame: Bytes) -> bool {
        let mut state = self.state.lock();
        if !state.open {
            return false;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        true
    }

    /// Queues an event if there is room; otherwise it counts as lost.
    pub(super) fn event(&self, service: &Arc<str>, body: Body) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        if !state.open {
            return Err(SinkError::Gone);
        }
        let frame = Response::Stream { service: service.to_string(), body }.emit();
        if state.bytes + frame.len() > self.bytes_max || frame.len() > self.frame_max {
            *state.lost.entry(Arc::clone(service)).or_default() += 1;
            state.lost_ever += 1;
            return Err(SinkError::Lost);
        }
        if let Some(lost) = state.lost.remove(service) {
            let told = Response::Lost { service: service.to_string(), lost }.emit();
            state.bytes += told.len();
            state.frames.push_back(told);
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        drop(state);
        self.wake.client(self.client);
        Ok(())
    }

    /// A call begins. False if its number is in use.
    pub(super) fn begin(&self, id: u64) -> bool {
        self.state.lock().in_flight.insert(id)
    }

    /// A call is answered, unless it was cancelled.
    pub(super) fn answer(&self, id: u64, result: Result<Body, Fault>) {
        let mut frame = Response::Answer { id, result }.emit();
        if frame.len() > self.frame_max + HEADER {
            let text =
                format!("the answer takes {} bytes, more than the {} allowed", frame.len(), self.frame_max);
            frame = Response::Answer { id, result: Err(Fault::new(Fault::INTERNAL, text)) }.emit();
        }
        let wanted = self.state.lock().in_flight.remove(&id);
        if wanted && !self.push(frame) {
            tracing::trace!(client = self.client, "an answer came after the client had gone");
        }
    }

    pub(super) fn cancel(&self, id: u64) {
        self.state.lock().in_flight.remove(&id);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// True while the client must not ask for more: it does not take what it asked for.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() + FRAMING_MAX > self.bytes_max
    }

    /// What is to be written next: one frame as it is, or small ones together.
    fn take(&self) -> Bytes {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        while let Some(next) = state.frames.front()
            && (out.is_empty() || out.len() + next.len() <= CHUNK)
            && let Some(frame) = state.frames.pop_front()
        {
            state.bytes -= frame.len();
            let alone = state.frames.is_empty() && state.lost.is_empty();
            if out.is_empty() && (alone || frame.len() >= CHUNK / 2) {
                return frame;
            }
            out.extend_from_slice(&frame);
        }
        // The quota has room again: say what was lost even if no event follows.
        if state.frames.is_empty() {
            for (service, lost) in core::mem::take(&mut state.lost) {
                out.extend_from_slice(&Response::Lost { service: service.to_string(), lost }.emit());
            }
        }
        out.into()
    }

    /// Comes back to this client soon.
    pub(super) fn touch(&self) {
        self.wake.client(self.client);
    }

    /// Lets the client go, once, and takes nothing more for it.
    pub(super) fn end(&self, reason: &str) {
        {
            let mut state = self.state.lock();
            if !state.open {
                return;
            }
            state.ended = Some(reason.to_owned());
            state.shut();
        }
        self.wake.client(self.client);
    }

    /// Why the client is to be let go, if it is.
    pub(super) fn ended(&self) -> Option<String> {
        self.state.lock().ended.clone()
    }

    /// The client is gone.
    pub(super) fn close(&self) {
        self.state.lock().shut();
        // Its socket closes only when nobody has it.
        drop(self.writer.lock().stream.take());
    }

    pub(super) fn lost_ever(&self) -> u64 {
        self.state.lock().lost_ever
    }
}

impl State {
    fn shut(&mut self) {
        self.open = false;
        self.frames.clear();
        self.bytes = 0;
        self.in_flight.clear();
    }
}
