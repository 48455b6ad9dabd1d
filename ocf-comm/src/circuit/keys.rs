use crate::Stats;
use crate::crypto::{KeyLimits, Opener, Sealer, Suite, TAG};
use crate::wire::{HEADER, Header};
use core::time::Duration;
use pils::Instant;

/// Datagrams up to this size are what [`KeyLimits`] count.
const LIMIT_DATAGRAM: usize = 2048;

/// When a key is replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    pub(crate) packets: u64,
    pub(crate) time: Duration,
}

/// The key that seals, its phase, and how often fresh secrets were agreed upon.
#[derive(Debug)]
pub(crate) struct SealKeys {
    sealer: Sealer,
    generation: u8,
    phase: u8,
    sealed: u64,
    /// Packets after which nothing is sealed any more, whatever happens.
    most: u64,
    since: Instant,
    /// The peer acknowledged a packet of this phase; only then may the next begin.
    confirmed: bool,
    /// First packet number of this phase, for each path used in it.
    first: Vec<(u8, u64)>,
}

impl SealKeys {
    pub(crate) fn new(now: Instant, secret: [u8; 32], suite: Suite, datagram: usize) -> Self {
        let sealed = suite.limits().sealed;
        let most = if datagram <= LIMIT_DATAGRAM { sealed } else { sealed / 32 };
        Self {
            sealer: Sealer::new(secret, suite),
            generation: 0,
            phase: 0,
            sealed: 0,
            most,
            since: now,
            confirmed: false,
            first: Vec::new(),
        }
    }

    /// Replaces the key if it is due and the peer has followed.
    pub(crate) fn renew(&mut self, now: Instant, due: Renewal, stats: &mut Stats) {
        if self.confirmed && (self.sealed >= due.packets || now >= self.since + due.time) {
            self.sealer.advance();
            self.phase = self.phase.wrapping_add(1);
            self.begin(now);
            stats.rekeys += 1;
        }
    }

    /// Seals with this fresh secret from now on.
    pub(crate) fn replace(&mut self, now: Instant, secret: [u8; 32]) {
        self.sealer = Sealer::new(secret, self.sealer.suite().clone());
        self.generation = self.generation.wrapping_add(1);
        self.phase = 0;
        self.begin(now);
    }

    fn begin(&mut self, now: Instant) {
        (self.sealed, self.confirmed, self.since) = (0, false, now);
        self.first.clear();
    }

    /// True if the key has sealed all that it safely can. The peer then hears nothing more, and takes this node for silent.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.sealed >= self.most
    }

    pub(crate) const fn phase(&self) -> u8 {
        self.phase
    }

    pub(crate) const fn generation(&self) -> u8 {
        self.generation
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

/// The key before the present one, for packets that were overtaken.
#[derive(Debug)]
struct Previous {
    opener: Opener,
    generation: u8,
    phase: u8,
    until: Instant,
}

/// The keys that open: of this phase, of the one before for a while, of the next, and of the next generation.
#[derive(Debug)]
pub(crate) struct OpenKeys {
    current: Opener,
    generation: u8,
    phase: u8,
    previous: Option<Previous>,
    next: Option<Opener>,
    /// Fresh secrets were agreed upon; the peer's first packet under them is to come.
    fresh: Option<Opener>,
    suite: Suite,
    /// Packets that did not open, since secrets were agreed upon last.
    forged: u64,
}

impl OpenKeys {
    pub(crate) fn new(secret: [u8; 32], suite: Suite) -> Self {
        let current = Opener::new(secret, suite.clone());
        Self { current, generation: 0, phase: 0, previous: None, next: None, fresh: None, suite, forged: 0 }
    }

    /// Opens a datagram in place; gives the length of the content behind the header. The first packet of the next phase,
    /// or generation, moves this end along; the old key is kept until `keep_until`.
    pub(crate) fn open(
        &mut self,
        keep_until: Instant,
        header: Header,
        datagram: &mut [u8],
        stats: &mut Stats,
    ) -> Option<usize> {
        let Header { path, number, phase, generation, .. } = header;
        if (generation, phase) != (self.generation, self.phase) {
            return self.open_other(keep_until, header, datagram, stats);
        }
        let opened = self.current.open(path, number, datagram, HEADER);
        self.forged += u64::from(opened.is_none());
        opened
    }

    /// Opens a packet of another phase or generation than the present one.
    fn open_other(
        &mut self,
        until: Instant,
        header: Header,
        datagram: &mut [u8],
        stats: &mut Stats,
    ) -> Option<usize> {
        let Header { path, number, phase, generation, .. } = header;
        if let Some(p) = self.previous.as_ref().filter(|p| (p.generation, p.phase) == (generation, phase)) {
            let opened = p.opener.open(path, number, datagram, HEADER);
            self.forged += u64::from(opened.is_none());
            return opened;
        }
        let is_next = (generation, phase) == (self.generation, self.phase.wrapping_add(1));
        let is_fresh = (generation, phase) == (self.generation.wrapping_add(1), 0);
        let opener = if is_next {
            let current = &self.current;
            self.next.get_or_insert_with(|| current.next())
        } else if is_fresh {
            self.fresh.as_mut()?
        } else {
            return None;
        };
        let Some(length) = opener.open(path, number, datagram, HEADER) else {
            self.forged += 1;
            return None;
        };
        let moved = if is_next { self.next.take() } else { self.fresh.take() };
        if let Some(moved) = moved {
            let opener = core::mem::replace(&mut self.current, moved);
            let (generation, phase) = (self.generation, self.phase);
            self.previous = Some(Previous { opener, generation, phase, until });
            self.next = None;
            (self.generation, self.phase) = (header.generation, header.phase);
            if is_fresh {
                self.forged = 0;
            }
            stats.rekeys += 1;
        }
        Some(length)
    }

    /// Opens what is sealed with this fresh secret, too.
    pub(crate) fn expect(&mut self, secret: [u8; 32]) {
        self.fresh = Some(Opener::new(secret, self.suite.clone()));
    }

    /// The peer will not use what was agreed upon last.
    pub(crate) fn expect_none(&mut self) {
        self.fresh = None;
    }

    /// True from an agreement on fresh secrets until the peer uses them.
    pub(crate) const fn expects(&self) -> bool {
        self.fresh.is_some()
    }

    pub(crate) const fn generation(&self) -> u8 {
        self.generation
    }

    /// Packets that did not open since secrets were agreed upon last.
    pub(crate) const fn forged(&self) -> u64 {
        self.forged
    }

    pub(crate) fn limits(&self) -> KeyLimits {
        self.suite.limits()
    }

    /// When the old key must be forgotten.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.previous.as_ref().map(|previous| previous.until)
    }

    pub(crate) fn forget(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.previous = None;
        }
    }
}
