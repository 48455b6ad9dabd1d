//! A group of one service for its unit tests: no stream, one copy of the machine.

use super::{Layout, Service, answer};
use crate::replicated::{Birth, Context};
use crate::{MemberId, Position};
use core::time::Duration;
use pils::wire::Reader;
use pils::{Incarnation, NodeId, NodeInstance};

pub(crate) fn member(n: u32) -> MemberId {
    MemberId { instance: NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 96)), local: 0 }
}

/// A machine with its members, at a time.
pub(crate) struct Group<S: Service> {
    pub(crate) machine: S,
    pub(crate) members: Vec<MemberId>,
    pub(crate) birth: Birth,
    pub(crate) time: Duration,
    pub(crate) events: Vec<S::Event>,
}

impl<S: Service> Group<S> {
    /// Members 1 to `members`.
    pub(crate) fn new(members: u32) -> Self {
        let birth = Birth { founder: member(1), position: Position::default() };
        let (machine, members) = (S::default(), (1..=members).map(member).collect());
        Self { machine, members, birth, time: Duration::ZERO, events: Vec::new() }
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut S, &Context<'_>, &mut Vec<S::Event>) -> T) -> T {
        let (birth, time) = (self.birth, self.time);
        let context = Context { position: Position::default(), birth, time, members: &self.members };
        f(&mut self.machine, &context, &mut self.events)
    }

    pub(crate) fn ask(&mut self, sender: u32, command: &S::Command) -> Result<u64, S::Refusal> {
        self.ask_bytes(sender, &command.write())
    }

    fn ask_bytes(&mut self, sender: u32, bytes: &[u8]) -> Result<u64, S::Refusal> {
        answer::<S>(
            &self.with(|machine, context, events| machine.on_command(context, member(sender), bytes, events)),
        )
    }

    pub(crate) fn leave(&mut self, n: u32) {
        self.members.retain(|m| *m != member(n));
        self.with(|machine, context, events| machine.on_members(context, &[], &[member(n)], events));
    }

    /// Lets time pass, and tells the machine if it is due.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.time += time;
        if self.machine.due().is_some_and(|due| due <= self.time) {
            self.with(|machine, context, events| machine.on_time(context, events));
        }
    }

    /// The machine as it is read from the state it writes.
    pub(crate) fn copy(&self) -> S {
        let (mut bytes, mut copy) = (Vec::new(), S::default());
        self.machine.snapshot(&mut bytes);
        let mut r = Reader::new(&bytes);
        copy.restore(&mut r).expect("its own state");
        assert!(r.is_empty(), "reads all it wrote");
        copy
    }
}

/// Bytes from anywhere: a command or a refusal that changes nothing, a state or an error.
pub(crate) fn takes_any_bytes<S: Service + Clone + PartialEq>(bytes: &[u8]) {
    let mut group = Group::<S>::new(2);
    let before = group.machine.clone();
    if group.ask_bytes(1, bytes).is_err() {
        assert!(group.machine == before, "a refusal changed something");
    }
    if let Err(error) = group.machine.restore(&mut Reader::new(bytes)) {
        assert!(error.at <= bytes.len());
    }
}
