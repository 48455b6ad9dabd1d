//! A tie-breaker on a disk that all nodes share, without a server: the sans-IO core.
//!
//! Each node owns one block and only it writes there; everybody reads all. The blocks agree, one after the other, on the
//! contents of a [`GrantRegister`], by Disk Paxos with one disk: a node writes its ballot, reads all blocks, and goes on if none
//! has a higher one; then it writes its value, and reads again. Any number of nodes may be dead or slow.
//!
//! Source: Gafni and Lamport, Disk Paxos, sections 3 and 5.

use crate::arbiter::{grant, put_grant};
use crate::{Ballot, Claim, Evidence, Grant, GrantRegister, Verdict};
use bytes::{BufMut, Bytes};
use pils::Rng;
use pils::wire::{Malformed, ParseError, Reader, Writer};

/// Size of a block in bytes; that of slot n lies at n times this.
pub const DISK_BLOCK: usize = 4096;
/// The most blocks, and so nodes, of a disk.
pub const DISK_SLOTS_MAX: usize = 64;
/// Tries against others before a claim counts as `Unavailable`.
const TRIES_MAX: u32 = 32;
const MAGIC: &[u8; 8] = b"ocfdisk1";

/// What the register shall become, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decree {
    grant: Grant,
    by: Ballot,
}

/// What one node has written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Block {
    /// The newest decree that it knows to be agreed, and its number.
    done: (u64, Option<Decree>),
    /// The highest ballot in which it has begun to agree on the next.
    promised: u64,
    /// The ballot in which it has written `value`.
    accepted: u64,
    value: Option<Decree>,
}

impl Block {
    fn emit(&self) -> Bytes {
        let mut out = Vec::with_capacity(DISK_BLOCK);
        out.put_slice(MAGIC);
        let put = |out: &mut Vec<u8>, decree: &Option<Decree>| match decree {
            Some(decree) => {
                out.put_u8(1);
                out.put_u64(decree.by.round);
                out.put_instance(decree.by.proposer);
                put_grant(out, &decree.grant);
            }
            None => out.put_u8(0),
        };
        out.put_u64(self.done.0);
        put(&mut out, &self.done.1);
        out.put_u64(self.promised);
        out.put_u64(self.accepted);
        put(&mut out, &self.value);
        out.put_u64(crate::record::checksum(&out));
        out.resize(DISK_BLOCK, 0);
        out.into()
    }

    /// An empty block is all zeros. Anything that is neither empty nor whole is an error, never "empty".
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() == DISK_BLOCK && bytes.iter().all(|b| *b == 0) {
            return Ok(Self::default());
        }
        let mut r = Reader::new(bytes);
        if r.array::<8>("magic")? != *MAGIC {
            return Err(r.error("magic", Malformed::OutOfRange));
        }
        let decree = |r: &mut Reader<'_>| -> Result<Option<Decree>, ParseError> {
            if r.u8("decree")? == 0 {
                return Ok(None);
            }
            let by = Ballot { round: r.u64("round")?, proposer: r.instance("proposer")? };
            Ok(Some(Decree { by, grant: grant(r)? }))
        };
        let done = (r.u64("done")?, decree(&mut r)?);
        let (promised, accepted) = (r.u64("promised")?, r.u64("accepted")?);
        let value = decree(&mut r)?;
        let at = r.position();
        let sum = r.u64("checksum")?;
        if crate::record::checksum(&bytes[..at]) != sum {
            return Err(r.error("checksum", Malformed::OutOfRange));
        }
        Ok(Self { done, promised, accepted, value })
    }
}

/// What is wanted of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOutput {
    /// Read all blocks, from the medium and not from a cache, and report them to [`DiskRace::read`].
    Read,
    /// Write this node's block through to the medium, then call [`DiskRace::written`].
    Write(Bytes),
    /// Wait for this many milliseconds: another node is at it. Then call [`DiskRace::waited`].
    Wait(u64),
    /// Done.
    Finished(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Learn,
    Promise,
    CheckPromise,
    Accept,
    CheckAccept,
    Tell,
    Over,
}

#[derive(Clone, Debug)]
enum Wish {
    Claim(Claim),
    Note(Grant),
}

/// One claim, or one piece of news, on its way into the blocks.
#[derive(Clone, Debug)]
pub struct DiskRace {
    slot: u64,
    slots: u64,
    wish: Wish,
    ballot: Ballot,
    rng: Rng,
    step: Step,
    own: Block,
    /// What the register would become.
    decree: Option<Decree>,
    tries: u32,
}

impl DiskRace {
    /// A claim of the node whose block is `slot` of `slots`. Begin with [`Self::start`].
    ///
    /// # Panics
    /// If `slot` is not below `slots`, or that is more than [`DISK_SLOTS_MAX`].
    #[must_use]
    pub fn claim(slot: usize, slots: usize, claim: Claim, rng: Rng) -> Self {
        let ballot = claim.ballot;
        Self::new(slot, slots, Wish::Claim(claim), ballot, rng)
    }

    /// News of an agreed view. `ballot` names the node that brings it.
    ///
    /// # Panics
    /// As [`Self::claim`].
    #[must_use]
    pub fn note(slot: usize, slots: usize, view: Grant, ballot: Ballot, rng: Rng) -> Self {
        Self::new(slot, slots, Wish::Note(view), ballot, rng)
    }

    fn new(slot: usize, slots: usize, wish: Wish, ballot: Ballot, rng: Rng) -> Self {
        assert!(slot < slots && slots <= DISK_SLOTS_MAX, "each node has a block");
        let (slot, slots) = (slot as u64, slots as u64);
        let own = Block::default();
        Self { slot, slots, wish, ballot, rng, step: Step::Learn, own, decree: None, tries: 0 }
    }

    /// What to do first.
    pub const fn start(&mut self) -> DiskOutput {
        self.step = Step::Learn;
        DiskOutput::Read
    }

    /// The time is over.
    pub const fn waited(&mut self) -> DiskOutput {
        self.start()
    }

    /// All blocks, in the order of their slots.
    pub fn read(&mut self, blocks: &[&[u8]]) -> DiskOutput {
        let parsed: Result<Vec<Block>, ParseError> = blocks.iter().map(|b| Block::parse(b)).collect();
        let blocks = match parsed {
            Ok(blocks) if blocks.len() as u64 == self.slots => blocks,
            _ => return self.finish(Verdict::Unavailable),
        };
        let newest = blocks.iter().map(|b| b.done.0).max().unwrap_or(0);
        match self.step {
            Step::Learn => self.learn(&blocks),
            Step::CheckPromise | Step::CheckAccept if newest > self.own.done.0 => self.learn(&blocks),
            Step::CheckPromise | Step::CheckAccept if self.is_beaten(&blocks) => self.again(),
            Step::CheckPromise => {
                let rivals = blocks.iter().filter(|b| b.done.0 == self.own.done.0 && b.accepted > 0);
                let value = rivals.max_by_key(|b| b.accepted).and_then(|b| b.value.clone());
                self.own.value = value.or_else(|| self.decree.clone());
                self.own.accepted = self.own.promised;
                self.write(Step::Accept)
            }
            Step::CheckAccept => {
                let next = self.own.done.0 + 1;
                self.own = Block { done: (next, self.own.value.take()), ..Block::default() };
                self.write(Step::Tell)
            }
            Step::Promise | Step::Accept | Step::Tell | Step::Over => self.finish(Verdict::Unavailable),
        }
    }

    /// The block is on the medium.
    pub fn written(&mut self) -> DiskOutput {
        self.step = match self.step {
            Step::Promise => Step::CheckPromise,
            Step::Accept => Step::CheckAccept,
            Step::Tell if self.own.done.1 == self.decree => {
                return self.finish(Verdict::Granted(Evidence::TieBreaker));
            }
            // Somebody else's was agreed: is ours still wanted?
            Step::Tell => Step::Learn,
            Step::Learn | Step::CheckPromise | Step::CheckAccept | Step::Over => {
                return self.finish(Verdict::Unavailable);
            }
        };
        DiskOutput::Read
    }

    /// Takes what is agreed, and begins to agree on the next if it may.
    fn learn(&mut self, blocks: &[Block]) -> DiskOutput {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return self.finish(Verdict::Unavailable);
        }
        let Some(newest) = blocks.iter().max_by_key(|b| b.done.0) else {
            return self.finish(Verdict::Unavailable);
        };
        let number = newest.done.0;
        let mut register = GrantRegister::new(newest.done.1.as_ref().map(|d| d.grant.clone()));
        let wanted = match &self.wish {
            Wish::Claim(claim) => register.claim(claim),
            Wish::Note(view) => register.note(view),
        };
        let Some(grant) = register.last().filter(|_| wanted).cloned() else {
            return self.finish(Verdict::Refused);
        };
        self.decree = Some(Decree { grant, by: self.ballot });
        // What this node wrote before, perhaps in an earlier life, still binds it.
        let own =
            usize::try_from(self.slot).ok().and_then(|slot| blocks.get(slot)).cloned().unwrap_or_default();
        self.own = if own.done.0 == number {
            own
        } else {
            Block { done: (number, newest.done.1.clone()), ..Block::default() }
        };
        let highest = blocks.iter().filter(|b| b.done.0 == number).map(|b| b.promised).max().unwrap_or(0);
        self.own.promised = (highest / self.slots + 1) * self.slots + self.slot;
        self.write(Step::Promise)
    }

    fn is_beaten(&self, blocks: &[Block]) -> bool {
        blocks.iter().any(|b| b.done.0 == self.own.done.0 && b.promised > self.own.promised)
    }

    fn again(&mut self) -> DiskOutput {
        let most = 10_u64 << self.tries.min(6);
        DiskOutput::Wait(self.rng.between(5, most))
    }

    fn write(&mut self, step: Step) -> DiskOutput {
        self.step = step;
        DiskOutput::Write(self.own.emit())
    }

    const fn finish(&mut self, verdict: Verdict) -> DiskOutput {
        self.step = Step::Over;
        DiskOutput::Finished(verdict)
    }
}

#[cfg(test)]
mod tests;
