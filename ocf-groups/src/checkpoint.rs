//! Checkpoints of a group: data in named sections, on every member, that outlive the program that wrote them.
//!
//! The behaviour of the checkpoint service of the Service Availability Forum (AIS B.02) behind a [`Machine`](crate::Machine): run [`Checkpoints`]
//! with [`Replicated`]. A program *opens* a checkpoint, writes sections, and after its death another one opens it and reads
//! them, without a disk. Reading asks the own replica and needs no network. See `PROTOCOL.md`, section 12.

mod sections;
mod wire;

pub use sections::{Filter, Section};

use crate::MemberId;
use crate::replicated::service::{self, Layout, Service, service};
use crate::replicated::{Context, Replicated, Request, SubmitError};
use bytes::Bytes;
use core::time::Duration;
use pils::Instant;
use pils::wire::{ParseError, Reader};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::Command;

/// Longest name of a checkpoint, in bytes.
pub const NAME_MAX: usize = 256;
/// Longest name of a section, in bytes.
pub const SECTION_ID_MAX: usize = 256;
/// Most checkpoints of a group, those unlinked and open included.
pub const CHECKPOINTS_MAX: usize = 256;
/// Most handles that are open in a group.
pub const HANDLES_MAX: usize = 4096;
/// Most sections of a checkpoint.
pub const SECTIONS_MAX: u32 = 65_536;
/// Most bytes of all checkpoints of a group together, by their announced sizes.
pub const BYTES_MAX: u64 = 32 << 20;

/// Names an open checkpoint for the member that opened it. Never used twice in a life of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// When a write returns, by the word of the standard. Here every member carries out every write at one place of the
/// stream, whichever was asked for, so each gives what the strongest promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `WR_ALL_REPLICAS`: synchronous.
    AllReplicas,
    /// `WR_ACTIVE_REPLICA`.
    ActiveReplica,
    /// `WR_ACTIVE_REPLICA_WEAK`.
    ActiveReplicaWeak,
}

/// What a checkpoint is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Creation flags.
    pub mode: Mode,
    /// With an asynchronous mode: usable only while a member that has it open is its active replica
    /// ([`Replicated::activate`]).
    pub collocated: bool,
    /// Most bytes of all sections; at most `sections_max * section_size_max`.
    pub size: u64,
    /// How long it is kept after its last close, in the time of the group; `None`: for ever (`TIME_END`).
    pub retention: Option<Duration>,
    /// 1 to [`SECTIONS_MAX`]. With 1 there is one section from the start, with the empty name.
    pub sections_max: u32,
    /// Most bytes of a section.
    pub section_size_max: u64,
    /// Longest name of a section; at most [`SECTION_ID_MAX`].
    pub section_id_max: u32,
}

impl Attributes {
    fn check(&self) -> Result<(), Refusal> {
        let room = u64::from(self.sections_max).saturating_mul(self.section_size_max);
        let names = usize::try_from(self.section_id_max).is_ok_and(|n| n <= SECTION_ID_MAX);
        let sections = (1..=SECTIONS_MAX).contains(&self.sections_max);
        if self.size <= room && names && sections { Ok(()) } else { Err(Refusal::InvalidParam) }
    }

    fn is_same(&self, other: &Self) -> bool {
        Self { retention: None, ..*self } == Self { retention: None, ..*other }
    }

    const fn waits_for_a_replica(&self) -> bool {
        self.collocated && !matches!(self.mode, Mode::AllReplicas)
    }
}

/// What a handle may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `READ`.
    pub read: bool,
    /// `WRITE`.
    pub write: bool,
}

/// Why a call changed nothing; each has its number in the standard ([`Refusal::code`]). The same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no command: another program is in this group.
    #[error("no command of a checkpoint")]
    Malformed,
    /// An argument is outside its limits, or contradicts another.
    #[error("an argument is out of its limits")]
    InvalidParam,
    /// Closed, or of another member.
    #[error("this handle is not open here")]
    BadHandle,
    /// The handle was not opened for this.
    #[error("the handle was not opened for this")]
    Access,
    /// No such checkpoint or section, or it has no active replica.
    #[error("does not exist, or has no active replica")]
    NotExist,
    /// It exists, in another way.
    #[error("exists")]
    Exist,
    /// As many sections or bytes as the checkpoint may have.
    #[error("the checkpoint is full")]
    NoSpace,
    /// As many checkpoints, handles or bytes as a group may have.
    #[error("the group has as many checkpoints as it may")]
    NoResources,
    /// Not for a checkpoint of this mode, or one that is unlinked.
    #[error("not for this checkpoint")]
    BadOperation,
}

const REFUSALS: [Refusal; 9] = [
    Refusal::Malformed,
    Refusal::InvalidParam,
    Refusal::BadHandle,
    Refusal::Access,
    Refusal::NotExist,
    Refusal::Exist,
    Refusal::NoSpace,
    Refusal::NoResources,
    Refusal::BadOperation,
];

impl Refusal {
    /// The error code of the standard (AIS B.02).
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Malformed => 22,
            Self::InvalidParam => 7,
            Self::BadHandle => 9,
            Self::Access => 11,
            Self::NotExist => 12,
            Self::Exist => 14,
            Self::NoSpace => 15,
            Self::NoResources => 18,
            Self::BadOperation => 20,
        }
    }
}

/// What checkpoints tell every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A checkpoint is gone, with all its data: unlinked and closed, or its retention ended.
    Deleted {
        /// Its name.
        name: Arc<str>,
    },
    /// A section reached its expiration.
    Expired {
        /// Of which checkpoint.
        name: Arc<str>,
        /// Which section.
        section: Bytes,
    },
}

/// A piece of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which section; empty: the default one.
    pub section: Bytes,
    /// From which byte on.
    pub offset: u64,
    /// What; not empty.
    pub data: Bytes,
}

/// What a checkpoint is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its attributes; the retention as it is now.
    pub attributes: Attributes,
    /// How many sections it has.
    pub sections: usize,
    /// Bytes in them.
    pub used: u64,
    /// The member whose replica is active, where the mode has one that is chosen.
    pub active: Option<MemberId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Checkpoint {
    name: Arc<str>,
    attributes: Attributes,
    unlinked: bool,
    active: Option<MemberId>,
    /// End of the retention, if nobody has it open.
    ends: Option<Duration>,
    generated: u64,
    sections: BTreeMap<Bytes, Section>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opened {
    member: MemberId,
    checkpoint: u64,
    access: Access,
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A member that leaves keeps its handles.
    HandlesOutliveMembers,
    /// A state has no handles.
    SnapshotWithoutHandles,
}

/// The checkpoints of a group. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    next: u64,
    checkpoints: BTreeMap<u64, Checkpoint>,
    handles: BTreeMap<Handle, Opened>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Checkpoints {
    /// Names of the checkpoints that can be opened.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.checkpoints.values().filter(|c| !c.unlinked).map(|c| &c.name)
    }

    /// Who has handles open.
    pub fn holders(&self) -> impl Iterator<Item = MemberId> {
        self.handles.values().map(|opened| opened.member)
    }

    /// `CheckpointRead`: up to `length` bytes of a section from `offset` on, as of the last input of this member.
    ///
    /// # Errors
    /// [`Refusal::BadHandle`], [`Refusal::Access`], [`Refusal::NotExist`]; [`Refusal::InvalidParam`] if `offset` is beyond the
    /// end.
    pub fn read(
        &self,
        me: MemberId,
        handle: Handle,
        section: &[u8],
        (offset, length): (u64, usize),
    ) -> Result<Bytes, Refusal> {
        let (_, checkpoint) = self.opened(me, handle, |access| access.read)?;
        let data = &checkpoint.sections.get(section).ok_or(Refusal::NotExist)?.data;
        let from = usize::try_from(offset).ok().filter(|n| *n <= data.len()).ok_or(Refusal::InvalidParam)?;
        Ok(data.slice(from..data.len().min(from.saturating_add(length))))
    }

    /// `CheckpointStatusGet`.
    ///
    /// # Errors
    /// [`Refusal::BadHandle`], or [`Refusal::NotExist`] without an active replica.
    pub fn status(&self, me: MemberId, handle: Handle) -> Result<Status, Refusal> {
        let (_, c) = self.opened(me, handle, |_| true)?;
        let (sections, used) = (c.sections.len(), c.used());
        Ok(Status { attributes: c.attributes, sections, used, active: c.active })
    }

    /// `SectionIteration`: the sections as of now, by name; what is written later does not change what is returned.
    ///
    /// # Errors
    /// As [`Checkpoints::status`].
    pub fn sections(
        &self,
        me: MemberId,
        handle: Handle,
        filter: Filter,
    ) -> Result<Vec<(Bytes, Section)>, Refusal> {
        let (_, checkpoint) = self.opened(me, handle, |_| true)?;
        let chosen = checkpoint.sections.iter().filter(|(_, s)| filter.takes(s));
        Ok(chosen.map(|(id, section)| (id.clone(), section.clone())).collect())
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    #[cfg(feature = "testing")]
    fn is(&self, bug: Sabotage) -> bool {
        self.sabotage == Some(bug)
    }

    fn handle(&self, member: MemberId, handle: Handle) -> Result<Opened, Refusal> {
        self.handles.get(&handle).filter(|o| o.member == member).copied().ok_or(Refusal::BadHandle)
    }

    /// The checkpoint of a handle, for a use that needs an active replica.
    fn opened(
        &self,
        member: MemberId,
        handle: Handle,
        may: impl Fn(Access) -> bool,
    ) -> Result<(u64, &Checkpoint), Refusal> {
        let opened = self.handle(member, handle)?;
        if !may(opened.access) {
            return Err(Refusal::Access);
        }
        let checkpoint = self.checkpoints.get(&opened.checkpoint).ok_or(Refusal::BadHandle)?;
        if checkpoint.attributes.waits_for_a_replica() && checkpoint.active.is_none() {
            return Err(Refusal::NotExist);
        }
        Ok((opened.checkpoint, checkpoint))
    }

    fn writable(&mut self, member: MemberId, handle: Handle) -> Result<&mut Checkpoint, Refusal> {
        let (id, _) = self.opened(member, handle, |access| access.write)?;
        self.checkpoints.get_mut(&id).ok_or(Refusal::BadHandle)
    }

    fn named(&self, name: &str) -> Option<u64> {
        self.checkpoints.iter().find(|(_, c)| !c.unlinked && &*c.name == name).map(|(id, _)| *id)
    }

    fn open(
        &mut self,
        context: &Context<'_>,
        member: MemberId,
        (name, access, create): (Arc<str>, Access, Option<Attributes>),
    ) -> Result<u64, Refusal> {
        if name.is_empty() || name.len() > NAME_MAX || !(access.read || access.write) {
            return Err(Refusal::InvalidParam);
        }
        if self.handles.len() >= HANDLES_MAX {
            return Err(Refusal::NoResources);
        }
        create.as_ref().map_or(Ok(()), Attributes::check)?;
        let found = self.named(&name);
        let checkpoint = match (found, create) {
            (None, None) => return Err(Refusal::NotExist),
            (Some(id), Some(wanted)) if !self.checkpoints[&id].attributes.is_same(&wanted) => {
                return Err(Refusal::Exist);
            }
            (Some(id), _) => id,
            (None, Some(attributes)) => self.create(context, name, attributes)?,
        };
        if let Some(checkpoint) = self.checkpoints.get_mut(&checkpoint) {
            checkpoint.ends = None;
        }
        self.next += 1;
        self.handles.insert(Handle(self.next), Opened { member, checkpoint, access });
        Ok(self.next)
    }

    fn create(
        &mut self,
        context: &Context<'_>,
        name: Arc<str>,
        attributes: Attributes,
    ) -> Result<u64, Refusal> {
        let announced: u64 = self.checkpoints.values().map(|c| c.attributes.size).sum();
        let fits = attributes.size <= BYTES_MAX.saturating_sub(announced);
        if self.checkpoints.len() >= CHECKPOINTS_MAX || !fits {
            return Err(Refusal::NoResources);
        }
        self.next += 1;
        let mut sections = BTreeMap::new();
        if attributes.sections_max == 1 {
            sections.insert(Bytes::new(), Section::new(Bytes::new(), None, context.time));
        }
        let (unlinked, active, ends, generated) = (false, None, None, 0);
        let checkpoint = Checkpoint { name, attributes, unlinked, active, ends, generated, sections };
        self.checkpoints.insert(self.next, checkpoint);
        Ok(self.next)
    }

    fn close(&mut self, context: &Context<'_>, handle: Handle, events: &mut Vec<Event>) {
        let Some(opened) = self.handles.remove(&handle) else { return };
        let id = opened.checkpoint;
        let left: Vec<MemberId> =
            self.handles.values().filter(|o| o.checkpoint == id).map(|o| o.member).collect();
        let Some(checkpoint) = self.checkpoints.get_mut(&id) else { return };
        // Who has it open no more is not its active replica.
        checkpoint.active = checkpoint.active.filter(|active| left.contains(active));
        if !left.is_empty() {
            return;
        }
        if checkpoint.unlinked || checkpoint.attributes.retention == Some(Duration::ZERO) {
            self.delete(id, events);
        } else {
            checkpoint.ends = checkpoint.attributes.retention.map(|r| context.time.saturating_add(r));
        }
    }

    fn delete(&mut self, id: u64, events: &mut Vec<Event>) {
        if let Some(checkpoint) = self.checkpoints.remove(&id) {
            events.push(Event::Deleted { name: checkpoint.name });
        }
    }

    fn unlink(&mut self, name: &str, events: &mut Vec<Event>) -> Result<u64, Refusal> {
        let id = self.named(name).ok_or(Refusal::NotExist)?;
        if self.handles.values().any(|o| o.checkpoint == id) {
            if let Some(checkpoint) = self.checkpoints.get_mut(&id) {
                checkpoint.unlinked = true;
            }
        } else {
            self.delete(id, events);
        }
        Ok(0)
    }
}

service!(Checkpoints, Event);

impl Service for Checkpoints {
    type Command = Command;
    type Refusal = Refusal;
    const REFUSALS: &'static [Refusal] = &REFUSALS;

    fn carry_out(
        &mut self,
        context: &Context<'_>,
        member: MemberId,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        match command {
            Command::Open { name, access, create } => self.open(context, member, (name, access, create)),
            Command::Close(handle) => {
                self.handle(member, handle)?;
                self.close(context, handle, events);
                Ok(0)
            }
            Command::Unlink(name) => self.unlink(&name, events),
            Command::Retention(handle, retention) => {
                let opened = self.handle(member, handle)?;
                let checkpoint = self.checkpoints.get_mut(&opened.checkpoint).ok_or(Refusal::BadHandle)?;
                if checkpoint.unlinked {
                    return Err(Refusal::BadOperation);
                }
                checkpoint.attributes.retention = retention;
                Ok(0)
            }
            Command::Activate(handle) => {
                let opened = self.handle(member, handle)?;
                if !opened.access.write {
                    return Err(Refusal::Access);
                }
                let checkpoint = self.checkpoints.get_mut(&opened.checkpoint).ok_or(Refusal::BadHandle)?;
                if !checkpoint.attributes.waits_for_a_replica() {
                    return Err(Refusal::BadOperation);
                }
                checkpoint.active = Some(member);
                Ok(0)
            }
            Command::Create { handle, section, data, expires } => {
                self.writable(member, handle)?.create(context.time, section, data, expires)
            }
            Command::Delete(handle, section) => self.writable(member, handle)?.remove(&section),
            Command::Expire(handle, section, expires) => {
                self.writable(member, handle)?.expire(context.time, &section, expires)
            }
            Command::Write(handle, pieces) => self.writable(member, handle)?.write(context.time, &pieces),
            Command::Overwrite(handle, section, data) => {
                self.writable(member, handle)?.overwrite(context.time, &section, data)
            }
            Command::Synchronize(handle) => {
                let (_, checkpoint) = self.opened(member, handle, |_| true)?;
                let synchronous = checkpoint.attributes.mode == Mode::AllReplicas;
                if synchronous { Err(Refusal::BadOperation) } else { Ok(0) }
            }
        }
    }

    fn members_left(&mut self, context: &Context<'_>, left: &[MemberId], events: &mut Vec<Event>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::HandlesOutliveMembers) {
            return;
        }
        let gone: Vec<Handle> =
            self.handles.iter().filter(|(_, o)| left.contains(&o.member)).map(|(h, _)| *h).collect();
        gone.into_iter().for_each(|handle| self.close(context, handle, events));
    }

    fn time_passed(&mut self, context: &Context<'_>, events: &mut Vec<Event>) {
        let ended = |c: &Checkpoint| c.ends.is_some_and(|at| at <= context.time);
        let ids: Vec<u64> = self.checkpoints.iter().filter(|(_, c)| ended(c)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.delete(id, events));
        for checkpoint in self.checkpoints.values_mut() {
            for section in checkpoint.expire_due(context.time) {
                events.push(Event::Expired { name: Arc::clone(&checkpoint.name), section });
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        self.checkpoints.values().filter_map(Checkpoint::due).min()
    }

    fn put_state(&self, out: &mut Vec<u8>) {
        #[cfg(feature = "testing")]
        if self.is(Sabotage::SnapshotWithoutHandles) {
            Self { handles: BTreeMap::new(), ..self.clone() }.write(out);
            return;
        }
        self.write(out);
    }

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Self::read_state(r)
    }

    fn become_state(&mut self, state: Self) {
        #[cfg(feature = "testing")]
        let state = Self { sabotage: self.sabotage, ..state };
        *self = state;
    }
}

/// What a member asks of the checkpoints of its group. Each request ends in an [`Outcome`](crate::replicated::Outcome); [`answer`]
/// reads it. Errors of all are those of [`Replicated::submit`]; the command has the sizes of its data.
impl Replicated<Checkpoints> {
    /// `CheckpointOpen`, with `create`: `CREATE`. The answer is the [`Handle`]; it closes when this member leaves the group.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn open_checkpoint(
        &mut self,
        now: Instant,
        name: &str,
        access: Access,
        create: Option<Attributes>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Open { name: Arc::from(name), access, create }.write())
    }

    /// `CheckpointClose`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn close_checkpoint(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Close(handle).write())
    }

    /// `CheckpointUnlink`: the name is free at once, the data lives until the last close.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn unlink(&mut self, now: Instant, name: &str) -> Result<Request, SubmitError> {
        self.submit(now, Command::Unlink(Arc::from(name)).write())
    }

    /// `CheckpointRetentionDurationSet`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn set_retention(
        &mut self,
        now: Instant,
        handle: Handle,
        retention: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Retention(handle, retention).write())
    }

    /// `ActiveReplicaSet`: this member's replica is the active one of a collocated checkpoint.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn activate(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Activate(handle).write())
    }

    /// `SectionCreate`, with a name of its own if `section` is `None` (`g` and the answer's number). It expires after
    /// `expires`, in the time of the group.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn create_section(
        &mut self,
        now: Instant,
        handle: Handle,
        (section, data): (Option<Bytes>, Bytes),
        expires: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Create { handle, section, data, expires }.write())
    }

    /// `SectionDelete`.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn delete_section(
        &mut self,
        now: Instant,
        handle: Handle,
        section: Bytes,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Delete(handle, section).write())
    }

    /// `SectionExpirationTimeSet`, from now on in the time of the group; `None`: never.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn set_expiration(
        &mut self,
        now: Instant,
        handle: Handle,
        section: Bytes,
        expires: Option<Duration>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Expire(handle, section, expires).write())
    }

    /// `CheckpointWrite`: all pieces, or none if one of them is refused.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn write(
        &mut self,
        now: Instant,
        handle: Handle,
        pieces: Vec<Piece>,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Write(handle, pieces).write())
    }

    /// `SectionOverwrite`: replaces all of a section.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn overwrite(
        &mut self,
        now: Instant,
        handle: Handle,
        section: Bytes,
        data: Bytes,
    ) -> Result<Request, SubmitError> {
        self.submit(now, Command::Overwrite(handle, section, data).write())
    }

    /// `CheckpointSynchronize`: done when all members have what was written before.
    ///
    /// # Errors
    /// As [`Replicated::submit`].
    pub fn synchronize(&mut self, now: Instant, handle: Handle) -> Result<Request, SubmitError> {
        self.submit(now, Command::Synchronize(handle).write())
    }
}

/// Reads the reply to a request: the handle of an open, the number of a generated section, otherwise 0.
///
/// # Errors
/// Why it changed nothing.
pub fn answer(reply: &[u8]) -> Result<u64, Refusal> {
    service::answer::<Checkpoints>(reply)
}

#[cfg(test)]
mod tests;
