//! The messages between lock managers: batches of items, each about one tree, one lock or one recovery.
//!
//! The layouts stand in PROTOCOL.md, section 10. Parsing never panics, allocates at most in proportion to the input, and
//! accepts exactly what emitting produces.

mod answer;
mod common;
mod order;
mod place;
mod recovery;
mod request;
mod search;
#[cfg(test)]
mod tests;

pub use answer::{Answer, RangeBlocker, Refusal};
pub use common::{Key, TREE_MAX, Value};
pub use order::{
    Danger, MARKS_MAX, Mark, NewOwner, Order, OrderRefusal, OrphanLock, Outcome, REASON_MAX, REPORTED_MAX,
    ReleaseGuard, ReportedLock, ResourceReport, Wanted,
};
pub use place::{MovedLock, MovedResource, MovedTree};
pub use recovery::{Barrier, Claim, ClaimedLock, Handover, Phase, Proof};
pub use request::{AskedRanges, Convert, Request, Unlock};
pub use search::{Hop, InTheWay, PATH_MAX, Probe};

use crate::identity::FencingToken;
use bytes::Bytes;
pub(crate) use common::{Name, space_of};
use common::{put_token, take_bool, take_name, take_space, take_token};
use pils::NodeInstance;
use pils::wire::{ParseError, Reader, Writer as _};
use std::sync::Arc;

/// First byte of every message.
pub const VERSION: u8 = 8;
/// Most items of one message that a parser accepts.
pub const ITEMS_MAX: usize = 1 << 16;
/// Most lockspaces of whose domains the programs of one node take part.
pub const DOMAINS_MAX: usize = 64;

/// One thing said between two lock managers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Item {
    /// To the directory: I want this lock; whoever masters the tree shall answer me.
    Lookup(Request),
    /// From the directory to the master: a [`Item::Lookup`] of `origin`.
    Forward {
        /// Whose request it is.
        origin: NodeInstance,
        /// The request.
        request: Request,
    },
    /// To the master that the sender knows.
    Request(Request),
    /// To the master: another mode for a lock.
    Convert(Convert),
    /// To the master: a lock is gone. Never answered.
    Unlock(Unlock),
    /// To the master: stop operation `op` of lock `lock` if it still waits.
    Cancel {
        /// The requester's id of the lock.
        lock: u64,
        /// Which operation.
        op: u32,
    },
    /// From the directory: nobody masters this tree, so do you.
    Own {
        /// The tree.
        tree: Name,
        /// Grants must carry tokens above this one.
        floor: FencingToken,
        /// Departed nodes that may have held locks of this tree and are not proven dead.
        suspects: Vec<NodeInstance>,
    },
    /// To the directory: this tree has no locks any more and I no longer master it.
    Forget {
        /// The tree.
        tree: Name,
        /// The last token.
        floor: FencingToken,
    },
    /// From the master (or who was taken for it) to the requester.
    Answer(Answer),
    /// I master this tree.
    Master {
        /// The tree.
        tree: Name,
    },
    /// To the new keeper of the directory slot: I master this tree.
    ClaimTree {
        /// The tree.
        tree: Name,
    },
    /// To the new master: my locks of a resource whose master is gone.
    Claim(Claim),
    /// From the old keeper of a slot to the new one: what the masters cannot tell.
    Handover(Handover),
    /// The sender has sent everything of this phase of recovery.
    Barrier(Barrier),
    /// This instance is proven to act no more.
    Proven {
        /// Which life of which node.
        instance: NodeInstance,
        /// By what.
        proof: Proof,
    },
    /// A deadlock search.
    Probe(Probe),
    /// To the home of a lock: its operation was chosen to end a deadlock.
    Victim {
        /// The lock.
        lock: u64,
        /// Which operation.
        op: u32,
    },
    /// To who claims in a recovery: so many claims, locks' or trees', were taken since the last time.
    Taken {
        /// How many.
        claims: u32,
    },
    /// What an operator asks for: to the directory, the master, or the home of a lock.
    Order(Order),
    /// To where an [`Item::Order`] was given: what became of it.
    Report {
        /// What the receiver calls it.
        ticket: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// To the master: a lock outlived its client, or was adopted by another. Never answered.
    NewOwner(NewOwner),
    /// From the master: the tree is to move. Say nothing of it to me after your answer, until the new master, or I, speak.
    Move {
        /// The tree.
        tree: Name,
        /// What the sender calls the move.
        ticket: u64,
        /// Who is to master it.
        to: NodeInstance,
    },
    /// To the master: all that I had to say of the tree was said before this.
    Moved {
        /// The tree.
        tree: Name,
        /// The move.
        ticket: u64,
        /// False: it must not move now, since I do not know you as its master.
        ready: bool,
    },
    /// From the master to the next one: the tree.
    Take(MovedTree),
    /// To the last master: the tree is, or is not, mastered here.
    Mastering {
        /// The tree.
        tree: Name,
        /// The move.
        ticket: u64,
        /// True: it is.
        taken: bool,
    },
    /// From the master: the tree does not move.
    Stay {
        /// The tree.
        tree: Name,
        /// The move.
        ticket: u64,
    },
    /// The sender has programs in the recovery domains of these lockspaces, and of no others.
    Domains {
        /// They. At most [`DOMAINS_MAX`].
        spaces: Vec<Arc<[u8]>>,
    },
}

macro_rules! kinds {
    ($($name:ident = $value:literal,)*) => {
        mod kind { $(pub(super) const $name: u8 = $value;)* }
    };
}

kinds! {
    LOOKUP = 1, FORWARD = 2, REQUEST = 3, CONVERT = 4, UNLOCK = 5, CANCEL = 6, OWN = 7, FORGET = 8, ANSWER = 9,
    MASTER = 10, CLAIM_TREE = 11, CLAIM = 12, HANDOVER = 13, BARRIER = 14, PROVEN = 15, PROBE = 16, VICTIM = 17,
    TAKEN = 18, ORDER = 19, REPORT = 20, NEW_OWNER = 21, MOVE = 22, MOVED = 23, TAKE = 24, MASTERING = 25, STAY = 26,
    DOMAINS = 27,
}

impl Item {
    fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Lookup(request) => request.emit(kind::LOOKUP, out),
            Self::Forward { origin, request } => {
                request.emit(kind::FORWARD, out);
                out.put_instance(*origin);
            }
            Self::Request(request) => request.emit(kind::REQUEST, out),
            Self::Convert(convert) => convert.emit(kind::CONVERT, out),
            Self::Unlock(unlock) => unlock.emit(kind::UNLOCK, out),
            Self::Cancel { lock, op } => put_operation(kind::CANCEL, *lock, *op, out),
            Self::Own { tree, floor, suspects } => {
                put_tree(kind::OWN, tree, out);
                put_token(*floor, out);
                put_instances(suspects, out);
            }
            Self::Forget { tree, floor } => {
                put_tree(kind::FORGET, tree, out);
                put_token(*floor, out);
            }
            Self::Answer(answer) => answer.emit(kind::ANSWER, out),
            Self::Master { tree } => put_tree(kind::MASTER, tree, out),
            Self::ClaimTree { tree } => put_tree(kind::CLAIM_TREE, tree, out),
            Self::Claim(claim) => claim.emit(kind::CLAIM, out),
            Self::Handover(handover) => handover.emit(kind::HANDOVER, out),
            Self::Barrier(barrier) => barrier.emit(kind::BARRIER, out),
            Self::Proven { instance, proof } => {
                out.push(kind::PROVEN);
                out.put_instance(*instance);
                out.push(proof.raw());
            }
            Self::Probe(probe) => probe.emit(kind::PROBE, out),
            Self::Victim { lock, op } => put_operation(kind::VICTIM, *lock, *op, out),
            Self::Taken { claims } => {
                out.push(kind::TAKEN);
                out.extend_from_slice(&claims.to_be_bytes());
            }
            Self::Order(order) => order.emit(kind::ORDER, out),
            Self::Report { ticket, outcome } => {
                out.push(kind::REPORT);
                out.extend_from_slice(&ticket.to_be_bytes());
                outcome.emit(out);
            }
            Self::NewOwner(owner) => owner.emit(kind::NEW_OWNER, out),
            Self::Move { tree, ticket, to } => {
                put_move(kind::MOVE, tree, *ticket, out);
                out.put_instance(*to);
            }
            Self::Moved { tree, ticket, ready } => {
                put_move(kind::MOVED, tree, *ticket, out);
                out.push(u8::from(*ready));
            }
            Self::Take(moved) => moved.emit(kind::TAKE, out),
            Self::Mastering { tree, ticket, taken } => {
                put_move(kind::MASTERING, tree, *ticket, out);
                out.push(u8::from(*taken));
            }
            Self::Stay { tree, ticket } => put_move(kind::STAY, tree, *ticket, out),
            Self::Domains { spaces } => {
                out.push(kind::DOMAINS);
                out.put_length(spaces.len());
                spaces.iter().for_each(|space| out.put_prefixed(space));
            }
        }
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("kind")? {
            kind::LOOKUP => Self::Lookup(Request::parse(r)?),
            kind::FORWARD => {
                let request = Request::parse(r)?;
                Self::Forward { origin: r.instance("origin")?, request }
            }
            kind::REQUEST => Self::Request(Request::parse(r)?),
            kind::CONVERT => Self::Convert(Convert::parse(r)?),
            kind::UNLOCK => Self::Unlock(Unlock::parse(r)?),
            kind::CANCEL => Self::Cancel { lock: r.u64("lock")?, op: r.u32("operation")? },
            kind::OWN => {
                Self::Own { tree: take_name(r)?, floor: take_token(r)?, suspects: take_instances(r)? }
            }
            kind::FORGET => Self::Forget { tree: take_name(r)?, floor: take_token(r)? },
            kind::ANSWER => Self::Answer(Answer::parse(r)?),
            kind::MASTER => Self::Master { tree: take_name(r)? },
            kind::CLAIM_TREE => Self::ClaimTree { tree: take_name(r)? },
            kind::CLAIM => Self::Claim(Claim::parse(r)?),
            kind::HANDOVER => Self::Handover(Handover::parse(r)?),
            kind::BARRIER => Self::Barrier(Barrier::parse(r)?),
            kind::PROVEN => Self::Proven { instance: r.instance("instance")?, proof: Proof::parse(r)? },
            kind::PROBE => Self::Probe(Probe::parse(r)?),
            kind::VICTIM => Self::Victim { lock: r.u64("lock")?, op: r.u32("operation")? },
            kind::TAKEN => Self::Taken { claims: r.u32("claims")? },
            kind::ORDER => Self::Order(Order::parse(r)?),
            kind::REPORT => Self::Report { ticket: r.u64("ticket")?, outcome: Outcome::parse(r)? },
            kind::NEW_OWNER => Self::NewOwner(NewOwner::parse(r)?),
            kind::MOVE => Self::Move { tree: take_name(r)?, ticket: r.u64("ticket")?, to: r.instance("to")? },
            kind::MOVED => {
                Self::Moved { tree: take_name(r)?, ticket: r.u64("ticket")?, ready: take_bool(r, "ready")? }
            }
            kind::TAKE => Self::Take(MovedTree::parse(r)?),
            kind::MASTERING => Self::Mastering {
                tree: take_name(r)?,
                ticket: r.u64("ticket")?,
                taken: take_bool(r, "taken")?,
            },
            kind::STAY => Self::Stay { tree: take_name(r)?, ticket: r.u64("ticket")? },
            kind::DOMAINS => {
                let count = r.length("lockspaces", DOMAINS_MAX)?;
                Self::Domains { spaces: (0..count).map(|_| take_space(r)).collect::<Result<_, _>>()? }
            }
            _ => return Err(r.error("kind", pils::wire::Malformed::OutOfRange)),
        })
    }
}

/// A message as it is filled: the sender's epoch, then items.
#[derive(Clone, Debug, Hash)]
pub struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty message of a sender in `epoch`.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        let mut bytes = vec![VERSION];
        bytes.put_varint(epoch);
        Self { bytes }
    }

    /// Appends an item.
    pub fn push(&mut self, item: &Item) {
        item.emit(&mut self.bytes);
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True as long as no item was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= 9 && Message::parse(&self.bytes).is_ok_and(|m| m.items.is_empty())
    }

    /// The message.
    #[must_use]
    pub fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the view in which it was sent.
    pub epoch: u64,
    /// What it says, in order.
    pub items: Vec<Item>,
}

impl Message {
    /// Reads a whole message.
    ///
    /// # Errors
    /// If the bytes are not exactly one message of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (mut r, epoch) = Self::open(bytes)?;
        let mut items = Vec::new();
        while !r.is_empty() {
            if items.len() == ITEMS_MAX {
                return Err(r.error("items", pils::wire::Malformed::OutOfRange));
            }
            items.push(Item::parse(&mut r)?);
        }
        Ok(Self { epoch, items })
    }

    /// Reads the epoch alone.
    ///
    /// # Errors
    /// If the front of the bytes is not that of a message.
    pub fn epoch(bytes: &[u8]) -> Result<u64, ParseError> {
        Self::open(bytes).map(|(_, epoch)| epoch)
    }

    fn open(bytes: &[u8]) -> Result<(Reader<'_>, u64), ParseError> {
        let mut r = Reader::new(bytes);
        if r.u8("version")? != VERSION {
            return Err(r.error("version", pils::wire::Malformed::OutOfRange));
        }
        let epoch = r.varint("epoch")?;
        Ok((r, epoch))
    }
}

fn put_tree(kind: u8, tree: &Name, out: &mut Vec<u8>) {
    out.push(kind);
    out.put_prefixed(tree);
}

fn put_move(kind: u8, tree: &Name, ticket: u64, out: &mut Vec<u8>) {
    put_tree(kind, tree, out);
    out.extend_from_slice(&ticket.to_be_bytes());
}

fn put_operation(kind: u8, lock: u64, op: u32, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&lock.to_be_bytes());
    out.extend_from_slice(&op.to_be_bytes());
}

fn put_instances(instances: &[NodeInstance], out: &mut Vec<u8>) {
    out.put_length(instances.len());
    for instance in instances {
        out.put_instance(*instance);
    }
}

fn take_instances(r: &mut Reader<'_>) -> Result<Vec<NodeInstance>, ParseError> {
    let count = r.length("instances", r.remaining() / 20)?;
    (0..count).map(|_| r.instance("instance")).collect()
}
