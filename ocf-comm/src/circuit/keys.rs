use crate::Stats;
use crate::crypto::{Opener, Sealer, TAG};
use crate::wire::{HEADER, Header};
use pils::Instant;

/// The key that seals, and its phase.
#[derive(Debug)]
pub(crate) struct SealKeys {
    sealer: Sealer,
    phase: u8,
    sealed: u64,
    /// The peer acknowledged a packet of this phase; only then may the next begin.
    confirmed: bool,
    /// First packet number of this phase, for each path used in it.
    first: Vec<(u8, u64)>,
}

impl SealKeys {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { sealer: Sealer::new(secret), phase: 0, sealed: 0, confirmed: false, first: Vec::new() }
    }

    /// Replaces the key if `limit` packets were sealed with it and the peer has followed.
    pub(crate) fn renew(&mut self, limit: u64, stats: &mut Stats) {
        if self.sealed >= limit && self.confirmed {
            self.sealer.advance();
            self.phase = self.phase.wrapping_add(1);
            (self.sealed, self.confirmed) = (0, false);
            self.first.clear();
            stats.rekeys += 1;
        }
    }

    pub(crate) const fn phase(&self) -> u8 {
        self.phase
    }

    /// Seals the packet that starts at `start` of `buffer` and appends its tag.
    pub(crate) fn seal(&mut self, path: u8, number: u64, buffer: &mut Vec<u8>, start: usize) {
        if !self.confirmed && !self.first.iter().any(|(p, _)| *p == path) {
            self.first.push((path, number));
        }
        self.sealed += 1;
        let tag: [u8; TAG] = self.sealer.seal(path, number, &mut buffer[start..], HEADER);
        buffer.extend_from_slice(&tag);
    }

    /// The peer acknowledged up to this number.
    pub(crate) fn on_acked(&mut self, path: u8, largest: u64) {
        if !self.confirmed && self.first.iter().any(|(p, first)| *p == path && largest >= *first) {
            self.confirmed = true;
        }
    }
}

/// The keys that open: of this phase, of the one before for a while, and of the next.
#[derive(Debug)]
pub(crate) struct OpenKeys {
    current: Opener,
    phase: u8,
    previous: Option<(Opener, Instant)>,
    next: Option<Opener>,
}

impl OpenKeys {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { current: Opener::new(secret), phase: 0, previous: None, next: None }
    }

    /// Opens a datagram in place; gives the length of the content behind the header. The first packet of the next phase
    /// moves this end along; the old key is kept until `keep_until`.
    pub(crate) fn open(
        &mut self,
        keep_until: Instant,
        header: Header,
        datagram: &mut [u8],
        stats: &mut Stats,
    ) -> Option<usize> {
        let Header { path, number, phase, .. } = header;
        if phase == self.phase {
            return self.current.open(path, number, datagram, HEADER);
        }
        if phase == self.phase.wrapping_sub(1) {
            return self.previous.as_ref()?.0.open(path, number, datagram, HEADER);
        }
        if phase != self.phase.wrapping_add(1) {
            return None;
        }
        let current = &self.current;
        let length = self.next.get_or_insert_with(|| current.next()).open(path, number, datagram, HEADER)?;
        if let Some(next) = self.next.take() {
            self.previous = Some((core::mem::replace(&mut self.current, next), keep_until));
            self.phase = phase;
            stats.rekeys += 1;
        }
        Some(length)
    }

    /// When the old key must be forgotten.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.previous.as_ref().map(|(_, until)| *until)
    }

    pub(crate) fn forget(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.previous = None;
        }
    }
}
