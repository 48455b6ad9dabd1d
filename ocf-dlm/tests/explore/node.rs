//! One engine, and what one input does to it. The same input at the same state is worked out once.

use bytes::Bytes;
use core::hash::{BuildHasherDefault, Hash, Hasher};
use ocf_dlm::cluster::{Ask, ClusterView, Config, Engine, Input, Output, Sabotage};
use ocf_dlm::directory::Slot;
use ocf_dlm::wire::{Key, Proof, Value};
use ocf_dlm::{ClientId, Flags, Mode};
use pils::{Instant, Layer, NodeInstance};
use std::collections::HashMap;
use std::rc::Rc;

/// Spreads what is hashed over 64 bits by folded multiplication.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, x: u8) {
        self.write_u64(u64::from(x));
    }

    fn write_u16(&mut self, x: u16) {
        self.write_u64(u64::from(x));
    }

    fn write_u32(&mut self, x: u32) {
        self.write_u64(u64::from(x));
    }

    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }

    fn write_u64(&mut self, x: u64) {
        let product = u128::from(self.0 ^ x ^ 0x9e37_79b9_7f4a_7c15) * u128::from(0xd6e8_feb8_6659_fd93_u64);
        self.0 = (product >> 64) as u64 ^ product as u64 ^ self.0.rotate_left(23);
    }
}

pub(crate) type Maps = BuildHasherDefault<Mix>;

pub(crate) fn digest(what: &impl Hash) -> u64 {
    let mut mix = Mix::default();
    what.hash(&mut mix);
    mix.finish()
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    pub(crate) digest: u64,
}

/// What an engine is told, or asked.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    Message(NodeInstance, Rc<Sent>),
    View(Rc<ClusterView>),
    NonPrimary,
    Proven(NodeInstance, Proof),
    /// Its time has come to go on with what is left to be done.
    Turn,
    /// Its clock has come to the first of its timers.
    Timer,
    Ask(ClientId, Key, Mode, Flags),
    Convert(u64, Mode, Flags, u64),
    Unlock(u64, u64),
    Cancel(u64),
    Move(Key, NodeInstance),
}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        core::mem::discriminant(self).hash(state);
        match self {
            Self::Message(from, sent) => (from, sent.digest).hash(state),
            Self::View(view) => hash_view(view, state),
            Self::NonPrimary | Self::Turn | Self::Timer => {}
            Self::Proven(instance, proof) => (instance, proof).hash(state),
            Self::Ask(client, key, mode, flags) => (client, key, mode, flags).hash(state),
            Self::Convert(lock, mode, flags, value) => (lock, mode, flags, value).hash(state),
            Self::Unlock(lock, value) => (lock, value).hash(state),
            Self::Cancel(lock) => lock.hash(state),
            Self::Move(key, to) => (key, to).hash(state),
        }
    }
}

pub(crate) fn hash_view<H: Hasher>(view: &ClusterView, state: &mut H) {
    view.number.hash(state);
    for member in &view.members {
        (member.instance, member.joined).hash(state);
    }
    (&view.previous, &view.unproven).hash(state);
}

/// An engine between two inputs. All its outputs were taken.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) engine: Engine,
    clock: Instant,
    pub(crate) digest: u64,
    /// Something is left to be done at once.
    pub(crate) busy: bool,
    /// A timer runs.
    pub(crate) timed: bool,
}

/// What an input did.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) after: Rc<Local>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) sent: Vec<(NodeInstance, Rc<Sent>)>,
    /// Of a request: the lock, if it was accepted.
    pub(crate) lock: Option<u64>,
    /// An invariant of the engine that does not hold afterwards.
    pub(crate) broken: Option<&'static str>,
}

/// Works out steps, and remembers them.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) config: Config,
    pub(crate) bug: Option<Sabotage>,
    pub(crate) slots: Vec<Slot>,
    /// What is left to be done is done at once, not between other inputs.
    pub(crate) at_once: bool,
    known: HashMap<(u64, u64), Rc<Step>, Maps>,
    /// Steps that were worked out.
    pub(crate) worked_out: u64,
}

/// Most steps that are remembered.
const KNOWN_MAX: usize = 300_000;

impl Nodes {
    pub(crate) fn new(config: Config, bug: Option<Sabotage>, slots: Vec<Slot>, at_once: bool) -> Self {
        Self { config, bug, slots, at_once, known: HashMap::default(), worked_out: 0 }
    }

    pub(crate) fn start(&self, instance: NodeInstance) -> Rc<Local> {
        let mut engine = Engine::new(self.config.clone(), instance).unwrap();
        if let Some(bug) = self.bug {
            engine.sabotage(bug);
        }
        Rc::new(local(engine, Instant::from_millis(1)))
    }

    pub(crate) fn step(&mut self, at: &Local, word: &Word) -> Rc<Step> {
        let key = (at.digest, digest(word));
        if let Some(step) = self.known.get(&key) {
            return Rc::clone(step);
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let step = Rc::new(self.work_out(at, word));
        self.worked_out += 1;
        self.known.insert(key, Rc::clone(&step));
        step
    }

    fn work_out(&self, at: &Local, word: &Word) -> Step {
        let (mut engine, mut clock) = (at.engine.clone(), at.clock);
        let mut lock = None;
        let value = |number: &u64| {
            let block = ocf_dlm::ValueBlock::zero(self.config.value_length).with_number(*number);
            Some(Value { block, sequence: 0 })
        };
        match word {
            Word::Message(from, sent) => {
                engine.handle(clock, Input::Message { from: *from, message: &sent.bytes });
            }
            Word::View(view) => engine.handle(clock, Input::View(view)),
            Word::NonPrimary => engine.handle(clock, Input::NonPrimary),
            Word::Proven(instance, proof) => {
                engine.handle(clock, Input::Proven { instance: *instance, proof: *proof });
            }
            Word::Turn => engine.handle_timeout(clock),
            Word::Timer => {
                clock = engine.poll_timeout().unwrap_or(clock);
                engine.handle_timeout(clock);
            }
            Word::Ask(client, key, mode, flags) => {
                let (parent, transaction, deadline) = (None, None, None);
                let (client, key, mode, flags) = (*client, key.clone(), *mode, *flags);
                let ask = Ask { client, key, parent, mode, flags, transaction, deadline, signal: 0 };
                lock = engine.lock(clock, ask).ok();
            }
            Word::Convert(id, mode, flags, number) => {
                let done = engine.convert(clock, *id, (*mode, *flags, value(number)), None);
                lock = done.ok().map(|()| *id);
            }
            Word::Unlock(id, number) => {
                let flags = Flags::VALBLK | Flags::FORCEUNLOCK;
                lock = engine.unlock(clock, *id, flags, value(number)).ok().map(|()| *id);
            }
            Word::Cancel(id) => lock = engine.cancel(clock, *id).ok().map(|()| *id),
            Word::Move(key, to) => lock = engine.move_tree(clock, key, *to).then_some(0),
        }
        let (mut outputs, mut sent) = (Vec::new(), Vec::new());
        loop {
            while let Some(output) = engine.poll_output() {
                if let Output::Send { to, message } = output {
                    let digest = digest(&message);
                    sent.push((to, Rc::new(Sent { bytes: message, digest })));
                } else {
                    outputs.push(output);
                }
            }
            if !self.at_once || engine.poll_timeout() != Some(clock) {
                break;
            }
            engine.handle_timeout(clock);
        }
        let broken = engine.check_invariants().err();
        engine.keep_slots(&self.slots);
        Step { after: Rc::new(local(engine, clock)), outputs, sent, lock, broken }
    }
}

fn local(engine: Engine, clock: Instant) -> Local {
    let due = engine.poll_timeout();
    let busy = due.is_some_and(|due| due <= clock);
    Local { digest: digest(&(&engine, clock)), busy, timed: due.is_some() && !busy, engine, clock }
}
