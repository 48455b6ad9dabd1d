//! Layout of commands and the state. See `PROTOCOL.md`, section 13.

use super::*;
use crate::replicated::service::Layout;
use crate::replicated::wire::{
    put_member, put_time, put_time_or_none, read_bytes, read_count, read_flag, read_member, read_time,
    read_time_or_none, read_u32,
};
use pils::wire::{Malformed, Writer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open { name: Arc<str>, access: Access, create: bool },
    Close(Handle),
    Unlink(Arc<str>),
    Publish(Handle, Content),
    Subscribe { handle: Handle, subscription: u32, filters: Vec<Filter> },
    Unsubscribe(Handle, u32),
    Clear(Handle, EventId),
}

fn put_kind(out: &mut Vec<u8>, kind: u8, handle: Handle) {
    out.push(kind);
    out.put_varint(handle.0);
}

impl Layout for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open { name, access, create } => {
                out.push(1);
                out.put_text(name);
                access.put(out);
                out.push(u8::from(*create));
            }
            Self::Unlink(name) => {
                out.push(2);
                out.put_text(name);
            }
            Self::Close(handle) => put_kind(out, 3, *handle),
            Self::Publish(handle, content) => {
                put_kind(out, 4, *handle);
                content.put(out);
            }
            Self::Subscribe { handle, subscription, filters } => {
                put_kind(out, 5, *handle);
                put_filters(out, *subscription, filters);
            }
            Self::Unsubscribe(handle, subscription) => {
                put_kind(out, 6, *handle);
                out.put_varint(u64::from(*subscription));
            }
            Self::Clear(handle, event) => {
                put_kind(out, 7, *handle);
                out.put_varint(event.0);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let kind = r.u8("kind")?;
        if kind == 1 {
            let (name, access) = (Arc::from(r.text("name")?), Access::take(r)?);
            return Ok(Self::Open { name, access, create: read_flag(r)? });
        }
        if kind == 2 {
            return Ok(Self::Unlink(Arc::from(r.text("name")?)));
        }
        let handle = Handle(r.varint("handle")?);
        Ok(match kind {
            3 => Self::Close(handle),
            4 => Self::Publish(handle, Content::take(r)?),
            5 => {
                let (subscription, filters) = read_filters(r)?;
                Self::Subscribe { handle, subscription, filters }
            }
            6 => Self::Unsubscribe(handle, read_u32(r, "subscription")?),
            7 => Self::Clear(handle, EventId(r.varint("event")?)),
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

impl Layout for Access {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.publish));
        out.push(u8::from(self.subscribe));
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { publish: read_flag(r)?, subscribe: read_flag(r)? })
    }
}

impl Layout for Content {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_length(self.patterns.len());
        self.patterns.iter().for_each(|pattern| out.put_prefixed(pattern));
        out.push(self.priority);
        put_time_or_none(out, self.retention);
        out.put_text(&self.publisher);
        out.put_prefixed(&self.data);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let n = read_count(r, 1)?;
        let patterns = (0..n).map(|_| read_bytes(r)).collect::<Result<_, _>>()?;
        let (priority, retention) = (r.u8("priority")?, read_time_or_none(r)?);
        let publisher = Arc::from(r.text("publisher")?);
        Ok(Self { patterns, priority, retention, publisher, data: read_bytes(r)? })
    }
}

impl Layout for Filter {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, wanted) = match self {
            Self::Prefix(wanted) => (1, wanted),
            Self::Suffix(wanted) => (2, wanted),
            Self::Exact(wanted) => (3, wanted),
            Self::PassAll => {
                out.push(4);
                return;
            }
        };
        out.push(kind);
        out.put_prefixed(wanted);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("filter")? {
            1 => Self::Prefix(read_bytes(r)?),
            2 => Self::Suffix(read_bytes(r)?),
            3 => Self::Exact(read_bytes(r)?),
            4 => Self::PassAll,
            _ => return Err(r.error("filter", Malformed::OutOfRange)),
        })
    }
}

fn put_filters(out: &mut Vec<u8>, subscription: u32, filters: &[Filter]) {
    out.put_varint(u64::from(subscription));
    out.put_length(filters.len());
    filters.iter().for_each(|filter| filter.put(out));
}

fn read_filters(r: &mut Reader<'_>) -> Result<(u32, Vec<Filter>), ParseError> {
    let subscription = read_u32(r, "subscription")?;
    let n = read_count(r, 1)?;
    Ok((subscription, (0..n).map(|_| Filter::take(r)).collect::<Result<_, _>>()?))
}

impl Layout for Published {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_varint(self.id.0);
        put_member(out, self.by);
        put_time(out, self.at);
        self.content.put(out);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (id, by) = (EventId(r.varint("event")?), read_member(r)?);
        Ok(Self { id, by, at: read_time(r)?, content: Content::take(r)? })
    }
}

impl Layout for Opened {
    fn put(&self, out: &mut Vec<u8>) {
        put_member(out, self.member);
        out.put_varint(self.channel);
        self.access.put(out);
        out.put_length(self.subscriptions.len());
        self.subscriptions.iter().for_each(|(id, filters)| put_filters(out, *id, filters));
        out.put_length(self.told.len());
        self.told.iter().for_each(|event| out.put_varint(event.0));
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (member, channel) = (read_member(r)?, r.varint("channel")?);
        let access = Access::take(r)?;
        let n = r.length("subscriptions", SUBSCRIPTIONS_MAX)?;
        let subscriptions = (0..n).map(|_| read_filters(r)).collect::<Result<_, _>>()?;
        let n = r.length("told", RETAINED_MAX)?;
        let told = (0..n).map(|_| r.varint("event").map(EventId)).collect::<Result<_, _>>()?;
        Ok(Self { member, channel, access, subscriptions, told })
    }
}

impl Channels {
    pub(super) fn put_channels(&self, out: &mut Vec<u8>) {
        out.put_varint(self.next);
        out.put_length(self.channels.len());
        for (id, channel) in &self.channels {
            out.put_varint(*id);
            out.put_text(&channel.name);
            out.push(u8::from(channel.unlinked));
            out.put_length(channel.retained.len());
            channel.retained.values().for_each(|event| event.put(out));
        }
        out.put_length(self.handles.len());
        for (handle, opened) in &self.handles {
            out.put_varint(handle.0);
            opened.put(out);
        }
    }

    pub(super) fn take_channels(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = r.varint("next")?;
        let mut channels = BTreeMap::new();
        for _ in 0..r.length("channels", CHANNELS_MAX)? {
            let (id, name) = (r.varint("channel")?, Arc::from(r.text("name")?));
            let unlinked = read_flag(r)?;
            let n = r.length("retained", RETAINED_MAX)?;
            let event = |r: &mut Reader<'_>| Published::take(r).map(|event| (event.id, Arc::new(event)));
            let retained = (0..n).map(|_| event(r)).collect::<Result<_, _>>()?;
            channels.insert(id, Channel { name, unlinked, retained });
        }
        let mut handles = BTreeMap::new();
        for _ in 0..r.length("handles", HANDLES_MAX)? {
            handles.insert(Handle(r.varint("handle")?), Opened::take(r)?);
        }
        Ok(Self { next, channels, handles, ..Self::default() })
    }
}
