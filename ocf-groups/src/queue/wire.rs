//! Layout of commands and the state. See `PROTOCOL.md`, section 14.

use super::content::{Get, Queue};
use super::group::Group;
use super::*;
use crate::replicated::service::Layout;
use crate::replicated::wire::{
    put_member, put_time, put_time_or_none, read_bytes, read_count, read_flag, read_member, read_time,
    read_time_or_none, read_u32,
};
use pils::wire::{Malformed, VARINT_MAX, Writer};
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open { name: Arc<str>, create: Option<Attributes>, empty: bool },
    Close(Handle),
    Unlink(Arc<str>),
    Retention(Handle, Option<Duration>),
    Thresholds(Handle, [Threshold; PRIORITIES]),
    Send { to: Arc<str>, message: Message },
    Call { to: Arc<str>, message: Message, reply_max: u32, timeout: Option<Duration> },
    Reply(CallId, Message),
    Get(Handle, Option<Duration>),
    Cancel(Handle),
    CreateGroup(Arc<str>, Policy),
    DeleteGroup(Arc<str>),
    Insert { group: Arc<str>, queue: Arc<str> },
    Remove { group: Arc<str>, queue: Arc<str> },
}

fn put_kind(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.put_varint(number);
}

fn put_named(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.put_text(name);
}

impl Layout for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Close(handle) => put_kind(out, 1, handle.0),
            Self::Retention(handle, retention) => {
                put_kind(out, 2, handle.0);
                put_time_or_none(out, *retention);
            }
            Self::Thresholds(handle, thresholds) => {
                put_kind(out, 3, handle.0);
                thresholds.iter().for_each(|threshold| threshold.put(out));
            }
            Self::Reply(call, message) => {
                put_kind(out, 4, call.0);
                message.put(out);
            }
            Self::Get(handle, timeout) => {
                put_kind(out, 5, handle.0);
                put_time_or_none(out, *timeout);
            }
            Self::Cancel(handle) => put_kind(out, 6, handle.0),
            Self::Open { name, create, empty } => {
                put_named(out, 7, name);
                out.push(u8::from(*empty));
                out.push(u8::from(create.is_some()));
                create.iter().for_each(|attributes| attributes.put(out));
            }
            Self::Unlink(name) => put_named(out, 8, name),
            Self::Send { to, message } => {
                put_named(out, 9, to);
                message.put(out);
            }
            Self::Call { to, message, reply_max, timeout } => {
                put_named(out, 10, to);
                message.put(out);
                out.put_varint(u64::from(*reply_max));
                put_time_or_none(out, *timeout);
            }
            Self::CreateGroup(name, policy) => {
                put_named(out, 11, name);
                policy.put(out);
            }
            Self::DeleteGroup(name) => put_named(out, 12, name),
            Self::Insert { group, queue } => {
                put_named(out, 13, group);
                out.put_text(queue);
            }
            Self::Remove { group, queue } => {
                put_named(out, 14, group);
                out.put_text(queue);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        match r.u8("kind")? {
            kind @ ..7 => Self::take_numbered(kind, r),
            kind => Self::take_named(kind, r),
        }
    }
}

impl Command {
    fn take_numbered(kind: u8, r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let number = r.varint("number")?;
        let handle = Handle(number);
        Ok(match kind {
            1 => Self::Close(handle),
            2 => Self::Retention(handle, read_time_or_none(r)?),
            3 => Self::Thresholds(handle, read_thresholds(r)?),
            4 => Self::Reply(CallId(number), Message::take(r)?),
            5 => Self::Get(handle, read_time_or_none(r)?),
            6 => Self::Cancel(handle),
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }

    fn take_named(kind: u8, r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let name: Arc<str> = Arc::from(r.text("name")?);
        Ok(match kind {
            7 => {
                let empty = read_flag(r)?;
                let create = if read_flag(r)? { Some(Attributes::take(r)?) } else { None };
                Self::Open { name, create, empty }
            }
            8 => Self::Unlink(name),
            9 => Self::Send { to: name, message: Message::take(r)? },
            10 => {
                let (message, reply_max) = (Message::take(r)?, read_u32(r, "reply")?);
                Self::Call { to: name, message, reply_max, timeout: read_time_or_none(r)? }
            }
            11 => Self::CreateGroup(name, Policy::take(r)?),
            12 => Self::DeleteGroup(name),
            13 => Self::Insert { group: name, queue: Arc::from(r.text("queue")?) },
            14 => Self::Remove { group: name, queue: Arc::from(r.text("queue")?) },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

impl Layout for Attributes {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.persistent));
        self.sizes.iter().for_each(|size| out.put_varint((*size).min(VARINT_MAX)));
        put_time_or_none(out, self.retention);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let persistent = read_flag(r)?;
        let mut sizes = [0; PRIORITIES];
        for size in &mut sizes {
            *size = r.varint("size")?;
        }
        Ok(Self { persistent, sizes, retention: read_time_or_none(r)? })
    }
}

impl Layout for Threshold {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_varint(self.reached.min(VARINT_MAX));
        out.put_varint(self.available.min(VARINT_MAX));
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { reached: r.varint("reached")?, available: r.varint("available")? })
    }
}

fn read_thresholds(r: &mut Reader<'_>) -> Result<[Threshold; PRIORITIES], ParseError> {
    let mut thresholds = [Threshold { reached: 0, available: 0 }; PRIORITIES];
    for threshold in &mut thresholds {
        *threshold = Threshold::take(r)?;
    }
    Ok(thresholds)
}

impl Layout for Policy {
    fn put(&self, out: &mut Vec<u8>) {
        // The numbers of the standard.
        out.push(1 + *self as u8);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("policy")? {
            1 => Self::RoundRobin,
            2 => Self::LocalRoundRobin,
            3 => Self::LocalBestQueue,
            4 => Self::Broadcast,
            _ => return Err(r.error("policy", Malformed::OutOfRange)),
        })
    }
}

impl Layout for Message {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.kind));
        out.put_varint(u64::from(self.version));
        out.push(self.priority);
        out.push(u8::from(self.sender.is_some()));
        self.sender.iter().for_each(|name| out.put_text(name));
        out.put_prefixed(&self.data);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (kind, version) = (read_u32(r, "type")?, read_u32(r, "version")?);
        let priority = r.u8("priority")?;
        let sender = if read_flag(r)? { Some(Arc::from(r.text("sender")?)) } else { None };
        Ok(Self { kind, version, priority, sender, data: read_bytes(r)? })
    }
}

impl Layout for Received {
    fn put(&self, out: &mut Vec<u8>) {
        put_member(out, self.from);
        // 0: none.
        out.put_varint(self.call.map_or(0, |call| call.0));
        put_time(out, self.sent_at);
        self.message.put(out);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (from, call) = (read_member(r)?, r.varint("call")?);
        let call = (call > 0).then_some(CallId(call));
        Ok(Self { from, call, sent_at: read_time(r)?, message: Message::take(r)? })
    }
}

impl Layout for Queue {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_text(&self.name);
        self.attributes.put(out);
        put_time_or_none(out, self.retention);
        out.push(u8::from(self.unlinked));
        out.push(u8::from(self.owner.is_some()));
        if let Some((handle, member)) = self.owner {
            out.put_varint(handle.0);
            put_member(out, member);
        }
        put_time_or_none(out, self.closed_at);
        put_time_or_none(out, self.ends);
        for area in &self.areas {
            out.put_length(area.len());
            area.iter().for_each(|message| message.put(out));
        }
        out.put_length(self.gets.len());
        for get in &self.gets {
            out.put_varint(get.id.0);
            put_time_or_none(out, get.due);
        }
        self.thresholds.iter().for_each(|threshold| threshold.put(out));
        self.is_reached.iter().for_each(|reached| out.push(u8::from(*reached)));
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let mut queue = Self::new(Arc::from(r.text("name")?), Attributes::take(r)?);
        queue.attributes.check().map_err(|_refusal| r.error("attributes", Malformed::OutOfRange))?;
        queue.retention = read_time_or_none(r)?;
        queue.unlinked = read_flag(r)?;
        if read_flag(r)? {
            queue.owner = Some((Handle(r.varint("handle")?), read_member(r)?));
        }
        queue.closed_at = read_time_or_none(r)?;
        queue.ends = read_time_or_none(r)?;
        for (priority, area) in (0_u8..).zip(&mut queue.areas) {
            for _ in 0..r.length("messages", MESSAGES_MAX)? {
                let message = Received::take(r)?;
                if message.message.priority != priority {
                    return Err(r.error("priority", Malformed::OutOfRange));
                }
                area.push_back(Arc::new(message));
            }
        }
        let n = r.length("gets", GETS_MAX)?;
        let get = |r: &mut Reader<'_>| {
            Ok::<_, ParseError>(Get { id: GetId(r.varint("get")?), due: read_time_or_none(r)? })
        };
        queue.gets = (0..n).map(|_| get(r)).collect::<Result<VecDeque<_>, _>>()?;
        queue.thresholds = read_thresholds(r)?;
        for reached in &mut queue.is_reached {
            *reached = read_flag(r)?;
        }
        Ok(queue)
    }
}

impl Layout for Group {
    fn put(&self, out: &mut Vec<u8>) {
        self.policy.put(out);
        out.put_length(self.queues.len());
        self.queues.iter().for_each(|id| out.put_varint(*id));
        out.put_length(self.turns.len());
        for (node, turn) in &self.turns {
            out.push(u8::from(node.is_some()));
            node.iter().for_each(|node| out.put_node(*node));
            out.put_varint(*turn);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let policy = Policy::take(r)?;
        let n = r.length("queues", QUEUES_PER_GROUP_MAX)?;
        let queues = (0..n).map(|_| r.varint("queue")).collect::<Result<_, _>>()?;
        let mut turns = BTreeMap::new();
        for _ in 0..read_count(r, 2)? {
            let node = if read_flag(r)? { Some(r.node("node")?) } else { None };
            turns.insert(node, r.varint("turn")?);
        }
        Ok(Self { policy, queues, turns })
    }
}

impl Queues {
    pub(super) fn put_queues(&self, out: &mut Vec<u8>) {
        out.put_varint(self.next);
        out.put_length(self.queues.len());
        for (id, queue) in &self.queues {
            out.put_varint(*id);
            queue.put(out);
        }
        out.put_length(self.groups.len());
        for (name, group) in &self.groups {
            out.put_text(name);
            group.put(out);
        }
        out.put_length(self.calls.len());
        for (id, call) in &self.calls {
            out.put_varint(id.0);
            put_member(out, call.member);
            out.put_varint(u64::from(call.reply_max));
            put_time_or_none(out, call.due);
        }
    }

    pub(super) fn take_queues(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = r.varint("next")?;
        let n = r.length("queues", QUEUES_MAX)?;
        let queue = |r: &mut Reader<'_>| Ok::<_, ParseError>((r.varint("queue")?, Queue::take(r)?));
        let queues = (0..n).map(|_| queue(r)).collect::<Result<_, _>>()?;
        let n = r.length("groups", GROUPS_MAX)?;
        let group = |r: &mut Reader<'_>| Ok::<_, ParseError>((Arc::from(r.text("name")?), Group::take(r)?));
        let groups = (0..n).map(|_| group(r)).collect::<Result<_, _>>()?;
        let mut calls = BTreeMap::new();
        for _ in 0..r.length("calls", CALLS_MAX)? {
            let id = CallId(r.varint("call")?);
            let (member, reply_max) = (read_member(r)?, read_u32(r, "reply")?);
            calls.insert(id, Call { member, reply_max, due: read_time_or_none(r)? });
        }
        Ok(Self { next, queues, groups, calls, ..Self::default() })
    }
}
