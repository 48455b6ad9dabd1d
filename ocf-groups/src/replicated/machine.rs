use crate::{MemberId, Position};
use core::time::Duration;
use pils::wire::{ParseError, Reader};

/// A life of a group: it begins with a member that has no state to take over, and ends when nobody has it any more.
/// A later life of the same name is another birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Birth {
    /// Who began it.
    pub founder: MemberId,
    /// Where in the stream.
    pub position: Position,
}

/// Where in the stream of its group a machine stands.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Place of this input.
    pub position: Position,
    /// Which life of the group this is.
    pub birth: Birth,
    /// Time of the group: since it began, the same at every member at this place; never goes back.
    pub time: Duration,
    /// Members now, most senior first.
    pub members: &'a [MemberId],
}

impl Context<'_> {
    /// True if `member` is in the group now.
    #[must_use]
    pub fn has(&self, member: MemberId) -> bool {
        self.members.contains(&member)
    }
}

/// A deterministic state machine, fed the ordered stream of one group: the same inputs make the same state, the same
/// events and the same replies at every member.
///
/// So it uses nothing but its inputs: no clock, no chance, nothing that only this member knows. Object-safe.
pub trait Machine {
    /// What it tells the application of every member.
    type Event;

    /// Begins anew, with what the first member of a group has.
    fn reset(&mut self);

    /// Carries out a command that `sender` submitted; what it returns is the reply to the submitter.
    /// Bytes that are no command are no error of this member: they change nothing, and the reply says so.
    fn on_command(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: &[u8],
        events: &mut Vec<Self::Event>,
    ) -> Vec<u8>;

    /// Members came or went; `context` has those who are in the group now.
    fn on_members(
        &mut self,
        context: &Context<'_>,
        joined: &[MemberId],
        left: &[MemberId],
        events: &mut Vec<Self::Event>,
    );

    /// The time of the group reached [`Machine::due`]: does all that is due at `context.time`, after which `due` is later.
    fn on_time(&mut self, _context: &Context<'_>, _events: &mut Vec<Self::Event>) {}

    /// When it wants to be told the time.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Appends the state: a function of the inputs alone, so equal at all members.
    fn snapshot(&self, out: &mut Vec<u8>);

    /// Takes the state of another member; reads to the end.
    ///
    /// # Errors
    /// The bytes are no snapshot of this machine. What the machine has then does not matter: it is reset before use.
    fn restore(&mut self, snapshot: &mut Reader<'_>) -> Result<(), ParseError>;
}

impl<M: Machine + ?Sized> Machine for Box<M> {
    type Event = M::Event;

    fn reset(&mut self) {
        (**self).reset();
    }

    fn on_command(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: &[u8],
        events: &mut Vec<Self::Event>,
    ) -> Vec<u8> {
        (**self).on_command(context, sender, command, events)
    }

    fn on_members(
        &mut self,
        context: &Context<'_>,
        joined: &[MemberId],
        left: &[MemberId],
        events: &mut Vec<Self::Event>,
    ) {
        (**self).on_members(context, joined, left, events);
    }

    fn on_time(&mut self, context: &Context<'_>, events: &mut Vec<Self::Event>) {
        (**self).on_time(context, events);
    }

    fn due(&self) -> Option<Duration> {
        (**self).due()
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        (**self).snapshot(out);
    }

    fn restore(&mut self, snapshot: &mut Reader<'_>) -> Result<(), ParseError> {
        (**self).restore(snapshot)
    }
}
