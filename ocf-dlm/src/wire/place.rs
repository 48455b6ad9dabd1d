use super::common::{Name, Value, put_token, take_bool, take_name, take_path, take_token};
use super::{ClaimedLock, Refusal, put_instances, take_instances};
use crate::FencingToken;
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};

/// A tree on its way from its master to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MovedTree {
    /// The tree.
    pub tree: Name,
    /// What the sender calls the move.
    pub ticket: u64,
    /// The last token that was given.
    pub token: FencingToken,
    /// How often it has moved; at most 255.
    pub moves: u8,
    /// Who waits to be told of the new master.
    pub waiting: Vec<NodeInstance>,
    /// The resources that have locks.
    pub resources: Vec<MovedResource>,
}

/// One resource of a [`MovedTree`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MovedResource {
    /// The way from the root.
    pub path: Name,
    /// The value block.
    pub value: Value,
    /// It is not valid.
    pub value_invalid: bool,
    /// The place of the next lock that is queued at the tail, and of the first in the queues.
    pub places: (i64, i64),
    /// Granted, then converting, then waiting, each in order.
    pub locks: Vec<MovedLock>,
}

/// One lock of a [`MovedResource`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MovedLock {
    /// Where it lives.
    pub node: NodeInstance,
    /// What a claim would say of it.
    pub lock: ClaimedLock,
    /// The modes that it was told of since its last grant, as bits.
    pub notified: u8,
    /// It holds NL until its conversion ends.
    pub demoted: bool,
    /// How its last operation was refused.
    pub refused: Option<Refusal>,
}

impl MovedTree {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        super::put_tree(kind, &self.tree, out);
        out.extend_from_slice(&self.ticket.to_be_bytes());
        put_token(self.token, out);
        out.push(self.moves);
        put_instances(&self.waiting, out);
        out.put_length(self.resources.len());
        for resource in &self.resources {
            resource.emit(out);
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            tree: take_name(r)?,
            ticket: r.u64("ticket")?,
            token: take_token(r)?,
            moves: r.u8("moves")?,
            waiting: take_instances(r)?,
            resources: {
                let count = r.length("resources", r.remaining() / MovedResource::SIZE_MIN)?;
                (0..count).map(|_| MovedResource::parse(r)).collect::<Result<_, _>>()?
            },
        })
    }
}

impl MovedResource {
    const SIZE_MIN: usize = 1 + 3 + 1 + 16 + 1;

    fn emit(&self, out: &mut Vec<u8>) {
        out.put_prefixed(&self.path);
        Value::emit(Some(&self.value), out);
        out.push(u8::from(self.value_invalid));
        out.extend_from_slice(&self.places.0.to_be_bytes());
        out.extend_from_slice(&self.places.1.to_be_bytes());
        out.put_length(self.locks.len());
        for lock in &self.locks {
            out.put_instance(lock.node);
            lock.lock.emit(out);
            out.push(lock.notified);
            out.push(u8::from(lock.demoted));
            out.push(lock.refused.map_or(0, Refusal::raw));
        }
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let path = take_path(r)?;
        let at = r.clone();
        let value = Value::parse(r)?.ok_or_else(|| at.error("value block", Malformed::OutOfRange))?;
        let value_invalid = take_bool(r, "value invalid")?;
        let places = (i64::from_be_bytes(r.array("place")?), i64::from_be_bytes(r.array("place")?));
        let count = r.length("locks", r.remaining() / (20 + ClaimedLock::SIZE_MIN + 3))?;
        let locks = (0..count).map(|_| MovedLock::parse(r)).collect::<Result<_, _>>()?;
        Ok(Self { path, value, value_invalid, places, locks })
    }
}

impl MovedLock {
    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, lock) = (r.instance("node")?, ClaimedLock::parse(r)?);
        let at = r.clone();
        let notified = r.u8("notified")?;
        if notified >= 1 << 6 {
            return Err(at.error("notified", Malformed::OutOfRange));
        }
        let demoted = take_bool(r, "demoted")?;
        let mut refused = None;
        if r.clone().u8("refusal")? == 0 {
            r.u8("refusal")?;
        } else {
            refused = Some(Refusal::parse(r)?);
        }
        if lock.held.is_none() && lock.asked.is_none() {
            return Err(at.error("lock", Malformed::OutOfRange));
        }
        Ok(Self { node, lock, notified, demoted, refused })
    }
}
