//! Layout of commands and the state. See `PROTOCOL.md`, section 10.

use super::*;
use crate::replicated::wire::{
    put_members, put_time_or_none, read_flag, read_members, read_time_or_none, read_u32,
};
use pils::wire::{Malformed, Writer};

const ENTER: u8 = 1;
const CANCEL: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Enter { name: Arc<str>, generation: u64, terms: Terms },
    Cancel { name: Arc<str> },
}

impl Layout for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Enter { name, generation, terms } => {
                out.push(ENTER);
                out.put_text(name);
                out.put_varint(*generation);
                terms.write(out);
            }
            Self::Cancel { name } => {
                out.push(CANCEL);
                out.put_text(name);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("kind")? {
            ENTER => {
                let (name, generation) = (Arc::from(r.text("name")?), r.varint("generation")?);
                Self::Enter { name, generation, terms: Terms::read(r)? }
            }
            CANCEL => Self::Cancel { name: Arc::from(r.text("name")?) },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

impl Terms {
    fn write(&self, out: &mut Vec<u8>) {
        // 0: all.
        out.put_varint(self.count.map_or(0, u64::from));
        out.push(u8::from(self.shrink));
        put_time_or_none(out, self.limit);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let count = read_u32(r, "count")?;
        let count = (count > 0).then_some(count);
        Ok(Self { count, shrink: read_flag(r)?, limit: read_time_or_none(r)? })
    }
}

impl Barriers {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_length(self.running.len());
        for (name, running) in &self.running {
            out.put_text(name);
            out.put_varint(running.generation);
            running.terms.write(out);
            put_time_or_none(out, running.due);
            put_members(out, running.awaited.iter());
            put_members(out, running.arrived.iter());
        }
        out.put_length(self.generations.len());
        for (name, (generation, used)) in &self.generations {
            out.put_text(name);
            out.put_varint(*generation);
            out.put_varint(*used);
        }
        out.put_varint(self.uses);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let name = |r: &mut Reader<'_>| r.text("name").map(Arc::<str>::from);
        let mut running = BTreeMap::new();
        for _ in 0..r.length("running", RUNNING_MAX)? {
            let name = name(r)?;
            let generation = r.varint("generation")?;
            let terms = Terms::read(r)?;
            let due = read_time_or_none(r)?;
            let (awaited, arrived) = (read_members(r)?, read_members(r)?);
            let awaited = awaited.into_iter().collect();
            running.insert(name, Running { generation, terms, due, awaited, arrived });
        }
        let mut generations = BTreeMap::new();
        for _ in 0..r.length("generations", NAMES_MAX)? {
            generations.insert(name(r)?, (r.varint("generation")?, r.varint("used")?));
        }
        let uses = r.varint("uses")?;
        Ok(Self { running, generations, uses, ..Self::default() })
    }
}
