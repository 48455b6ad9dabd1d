use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};

/// Longest way of a deadlock search, in transactions: longer cycles are not found.
pub const PATH_MAX: usize = 64;

/// One transaction on the way of a search, with the operation by which it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The node that the transaction lives on.
    pub home: NodeInstance,
    /// The transaction, as its node calls it.
    pub transaction: u64,
    /// The lock that waits.
    pub lock: u64,
    /// Which of its operations.
    pub op: u32,
    /// How long it has waited, in milliseconds, when the search passed.
    pub waited_ms: u64,
}

/// What a search looks at next: a transaction, and the lock by which it is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InTheWay {
    /// The transaction, as its node calls it.
    pub transaction: u64,
    /// Its lock that is in the way.
    pub lock: u64,
    /// The last operation of that lock that its master knows of.
    pub op: u32,
}

/// A search for a cycle of waiting transactions that walks along the edges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The way so far; the first is where it began. The last waits for `next`, or is asked for whom it waits.
    pub path: Vec<Hop>,
    /// What to look at next, at its home; `None`: to the master, for the last of `path`.
    pub next: Option<InTheWay>,
}

impl Probe {
    pub(super) fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        out.put_length(self.path.len());
        for hop in &self.path {
            out.put_instance(hop.home);
            out.extend_from_slice(&hop.transaction.to_be_bytes());
            out.extend_from_slice(&hop.lock.to_be_bytes());
            out.extend_from_slice(&hop.op.to_be_bytes());
            out.put_varint(hop.waited_ms.min(pils::wire::VARINT_MAX));
        }
        match self.next {
            None => out.push(0),
            Some(next) => {
                out.push(1);
                out.extend_from_slice(&next.transaction.to_be_bytes());
                out.extend_from_slice(&next.lock.to_be_bytes());
                out.extend_from_slice(&next.op.to_be_bytes());
            }
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let count = r.length("path", PATH_MAX)?;
        if count == 0 {
            return Err(at.error("path", Malformed::OutOfRange));
        }
        let mut path = Vec::new();
        for _ in 0..count {
            path.push(Hop {
                home: r.instance("home")?,
                transaction: r.u64("transaction")?,
                lock: r.u64("lock")?,
                op: r.u32("operation")?,
                waited_ms: r.varint("waited")?,
            });
        }
        let at = r.clone();
        let next = match r.u8("next")? {
            0 => None,
            1 => Some(InTheWay {
                transaction: r.u64("transaction")?,
                lock: r.u64("lock")?,
                op: r.u32("operation")?,
            }),
            _ => return Err(at.error("next", Malformed::OutOfRange)),
        };
        Ok(Self { path, next })
    }
}
