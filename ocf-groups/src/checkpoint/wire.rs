//! Layout of commands and the state. See `PROTOCOL.md`, section 12.

use super::*;
use crate::replicated::wire::{
    put_member, put_time, put_time_or_none, read_bytes, read_count, read_flag, read_member, read_time,
    read_time_or_none, read_u32,
};
use pils::wire::{Malformed, Writer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open { name: Arc<str>, access: Access, create: Option<Attributes> },
    Close(Handle),
    Unlink(Arc<str>),
    Retention(Handle, Option<Duration>),
    Activate(Handle),
    Create { handle: Handle, section: Option<Bytes>, data: Bytes, expires: Option<Duration> },
    Delete(Handle, Bytes),
    Expire(Handle, Bytes, Option<Duration>),
    Write(Handle, Vec<Piece>),
    Overwrite(Handle, Bytes, Bytes),
    Synchronize(Handle),
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
                access.write(out);
                out.push(u8::from(create.is_some()));
                if let Some(attributes) = create {
                    attributes.write(out);
                }
            }
            Self::Close(handle) => put_kind(out, 2, *handle),
            Self::Unlink(name) => {
                out.push(3);
                out.put_text(name);
            }
            Self::Retention(handle, retention) => {
                put_kind(out, 4, *handle);
                put_time_or_none(out, *retention);
            }
            Self::Activate(handle) => put_kind(out, 5, *handle),
            Self::Create { handle, section, data, expires } => {
                put_kind(out, 6, *handle);
                out.push(u8::from(section.is_some()));
                out.put_prefixed(section.as_deref().unwrap_or_default());
                put_time_or_none(out, *expires);
                out.put_prefixed(data);
            }
            Self::Delete(handle, section) => {
                put_kind(out, 7, *handle);
                out.put_prefixed(section);
            }
            Self::Expire(handle, section, expires) => {
                put_kind(out, 8, *handle);
                out.put_prefixed(section);
                put_time_or_none(out, *expires);
            }
            Self::Write(handle, pieces) => {
                put_kind(out, 9, *handle);
                out.put_length(pieces.len());
                for piece in pieces {
                    out.put_prefixed(&piece.section);
                    out.put_varint(piece.offset);
                    out.put_prefixed(&piece.data);
                }
            }
            Self::Overwrite(handle, section, data) => {
                put_kind(out, 10, *handle);
                out.put_prefixed(section);
                out.put_prefixed(data);
            }
            Self::Synchronize(handle) => put_kind(out, 11, *handle),
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let kind = r.u8("kind")?;
        Ok(match kind {
            1 => {
                let name = Arc::from(r.text("name")?);
                let access = Access::read(r)?;
                let create = if read_flag(r)? { Some(Attributes::read(r)?) } else { None };
                Self::Open { name, access, create }
            }
            3 => Self::Unlink(Arc::from(r.text("name")?)),
            _ => Self::parse_of_handle(kind, r)?,
        })
    }
}

impl Command {
    fn parse_of_handle(kind: u8, r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let handle = Handle(r.varint("handle")?);
        Ok(match kind {
            2 => Self::Close(handle),
            4 => Self::Retention(handle, read_time_or_none(r)?),
            5 => Self::Activate(handle),
            6 => {
                let named = read_flag(r)?;
                let section = read_bytes(r)?;
                let expires = read_time_or_none(r)?;
                Self::Create { handle, section: named.then_some(section), expires, data: read_bytes(r)? }
            }
            7 => Self::Delete(handle, read_bytes(r)?),
            8 => Self::Expire(handle, read_bytes(r)?, read_time_or_none(r)?),
            9 => {
                let n = read_count(r, 3)?;
                let piece = |r: &mut Reader<'_>| {
                    Ok(Piece { section: read_bytes(r)?, offset: r.varint("offset")?, data: read_bytes(r)? })
                };
                Self::Write(handle, (0..n).map(|_| piece(r)).collect::<Result<_, ParseError>>()?)
            }
            10 => Self::Overwrite(handle, read_bytes(r)?, read_bytes(r)?),
            11 => Self::Synchronize(handle),
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

impl Access {
    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self.read));
        out.push(u8::from(self.write));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { read: read_flag(r)?, write: read_flag(r)? })
    }
}

impl Attributes {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.mode as u8);
        out.push(u8::from(self.collocated));
        out.put_varint(self.size.min(pils::wire::VARINT_MAX));
        put_time_or_none(out, self.retention);
        out.put_varint(u64::from(self.sections_max));
        out.put_varint(self.section_size_max.min(pils::wire::VARINT_MAX));
        out.put_varint(u64::from(self.section_id_max));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let mode = match r.u8("mode")? {
            0 => Mode::AllReplicas,
            1 => Mode::ActiveReplica,
            2 => Mode::ActiveReplicaWeak,
            _ => return Err(r.error("mode", Malformed::OutOfRange)),
        };
        Ok(Self {
            mode,
            collocated: read_flag(r)?,
            size: r.varint("size")?,
            retention: read_time_or_none(r)?,
            sections_max: read_u32(r, "sections")?,
            section_size_max: r.varint("section size")?,
            section_id_max: read_u32(r, "section id")?,
        })
    }
}

impl Checkpoint {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_text(&self.name);
        self.attributes.write(out);
        out.push(u8::from(self.unlinked));
        out.push(u8::from(self.active.is_some()));
        if let Some(active) = self.active {
            put_member(out, active);
        }
        put_time_or_none(out, self.ends);
        out.put_varint(self.generated);
        out.put_length(self.sections.len());
        for (id, section) in &self.sections {
            out.put_prefixed(id);
            out.put_prefixed(&section.data);
            put_time_or_none(out, section.expires);
            put_time(out, section.updated);
        }
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let name = Arc::from(r.text("name")?);
        let attributes = Attributes::read(r)?;
        attributes.check().map_err(|_refusal| r.error("attributes", Malformed::OutOfRange))?;
        let unlinked = read_flag(r)?;
        let active = if read_flag(r)? { Some(read_member(r)?) } else { None };
        let ends = read_time_or_none(r)?;
        let generated = r.varint("generated")?;
        let mut sections = BTreeMap::new();
        for _ in 0..read_count(r, 4)? {
            let (id, data) = (read_bytes(r)?, read_bytes(r)?);
            let expires = read_time_or_none(r)?;
            sections.insert(id, Section { data, expires, updated: read_time(r)? });
        }
        Ok(Self { name, attributes, unlinked, active, ends, generated, sections })
    }
}

impl Checkpoints {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_varint(self.next);
        out.put_length(self.checkpoints.len());
        for (id, checkpoint) in &self.checkpoints {
            out.put_varint(*id);
            checkpoint.put(out);
        }
        out.put_length(self.handles.len());
        for (handle, opened) in &self.handles {
            out.put_varint(handle.0);
            put_member(out, opened.member);
            out.put_varint(opened.checkpoint);
            opened.access.write(out);
        }
    }

    pub(super) fn read_state(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = r.varint("next")?;
        let mut checkpoints = BTreeMap::new();
        for _ in 0..r.length("checkpoints", CHECKPOINTS_MAX)? {
            checkpoints.insert(r.varint("checkpoint")?, Checkpoint::parse(r)?);
        }
        let mut handles = BTreeMap::new();
        for _ in 0..r.length("handles", HANDLES_MAX)? {
            let handle = Handle(r.varint("handle")?);
            let (member, checkpoint) = (read_member(r)?, r.varint("checkpoint")?);
            handles.insert(handle, Opened { member, checkpoint, access: Access::read(r)? });
        }
        Ok(Self { next, checkpoints, handles, ..Self::default() })
    }
}
