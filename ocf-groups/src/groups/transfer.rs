//! The state of a group on its way from a donor to a joiner.
//!
//! A small state goes in one message. Of a larger one the donor sends an *index*: length and digest of each piece, in order. The
//! joiner asks for the pieces that it has not, a window of them at a time, from whoever sent the index. What it has stays when the donor is
//! lost: the next donor's index says what of it is still good.

use super::{Groups, sabotaged};
use crate::pieces::{Cutter, Digest};
use crate::wire::{Index, Piece, Pull};
use crate::{MemberId, Output, Position};
use bytes::{Bytes, BytesMut};
use ocf_comm::Lane;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Bytes of a state that are cut in one call, so that cutting a large one holds nobody up.
const SLICE: usize = 1 << 20;

/// Pieces asked for in one message, at most.
const PULL_MAX: usize = 1024;

/// A state that this node gives.
#[derive(Debug)]
pub(super) struct Outgoing {
    position: Position,
    state: Bytes,
    /// So many bytes of it are cut and told.
    cut: usize,
}

/// A part of a state, as its index says.
#[derive(Clone, Copy, Debug)]
struct Part {
    offset: usize,
    length: usize,
    digest: Digest,
}

/// A state that a member of this node gets.
#[derive(Debug)]
pub(super) struct Incoming {
    position: Position,
    donor: NodeInstance,
    total: usize,
    /// What is known of the index, in order and without gap.
    parts: Vec<Part>,
    /// What is here, also of earlier states of the same member.
    have: BTreeMap<Digest, Bytes>,
    /// Places in `parts` of what is to be asked for.
    wanted: VecDeque<usize>,
    asked: BTreeSet<Digest>,
    asked_bytes: usize,
}

impl Incoming {
    const fn new(position: Position, donor: NodeInstance, total: usize) -> Self {
        Self {
            position,
            donor,
            total,
            parts: Vec::new(),
            have: BTreeMap::new(),
            wanted: VecDeque::new(),
            asked: BTreeSet::new(),
            asked_bytes: 0,
        }
    }

    /// Begins with another state. What is here stays.
    fn renew(&mut self, position: Position, donor: NodeInstance, total: usize) {
        *self = Self { have: core::mem::take(&mut self.have), ..Self::new(position, donor, total) };
    }

    /// Bytes that the index covers.
    fn indexed(&self) -> usize {
        self.parts.last().map_or(0, |part| part.offset + part.length)
    }

    /// The whole state, once all of it is here.
    fn whole(&self) -> Option<Bytes> {
        if self.indexed() != self.total {
            return None;
        }
        if let [only] = self.parts.as_slice() {
            return self.have.get(&only.digest).cloned();
        }
        if self.parts.iter().any(|part| !self.have.contains_key(&part.digest)) {
            return None;
        }
        let mut whole = BytesMut::with_capacity(self.total);
        for part in &self.parts {
            whole.extend_from_slice(self.have.get(&part.digest)?);
        }
        Some(whole.freeze())
    }
}

impl Groups {
    pub(super) fn offer(&mut self, number: u32, joiner: MemberId, position: Position, state: Bytes) {
        if joiner.instance == self.local {
            self.on_state(number, joiner.local, position, state);
        } else if state.len() <= self.config.state_piece {
            self.send_piece(number, joiner, position, &state, 0..state.len());
        } else {
            self.outgoing.insert((number, joiner), Outgoing { position, state, cut: 0 });
            self.cut_on();
        }
    }

    #[expect(clippy::too_many_arguments, reason = "of which state, for whom, as of when, which part")]
    fn send_piece(
        &mut self,
        group: u32,
        joiner: MemberId,
        position: Position,
        state: &Bytes,
        part: core::ops::Range<usize>,
    ) {
        let (offset, total, content) = (part.start, state.len(), state.slice(part));
        let piece = Piece { group, local: joiner.local, position, offset, total, content };
        self.send_state(joiner.instance, Lane::Bulk, piece.write());
    }

    fn send_state(&mut self, to: NodeInstance, lane: Lane, message: Bytes) {
        self.sends.push_back(Output::Send { to: Arc::from([to]), lane, message });
    }

    /// Cuts the next slice of a state that this node gives, and tells the joiner what it is made of.
    pub(super) fn cut_slice(&mut self) {
        let cutter = Cutter::new(self.config.state_piece);
        let blind = sabotaged!(self, BlindPieces);
        let slice = SLICE.min(self.config.state_window).max(self.config.state_piece);
        let uncut = |(_, o): &(&(u32, MemberId), &mut Outgoing)| o.cut < o.state.len();
        let Some(((group, joiner), outgoing)) = self.outgoing.iter_mut().find(uncut) else { return };
        let (group, joiner, position) = (*group, *joiner, outgoing.position);
        let (offset, total) = (outgoing.cut, outgoing.state.len());
        let mut parts = Vec::new();
        while outgoing.cut < total && outgoing.cut - offset < slice {
            let rest = &outgoing.state[outgoing.cut..];
            let length = cutter.first(rest);
            let place = outgoing.cut.to_be_bytes();
            parts.push((length, Digest::of(if blind { &place } else { &rest[..length] })));
            outgoing.cut += length;
        }
        let index = Index { group, local: joiner.local, position, offset, total, parts };
        self.send_state(joiner.instance, Lane::Bulk, index.write());
        self.cut_on();
    }

    /// True while a state that this node gives is not cut to its end.
    pub(super) fn is_cutting(&self) -> bool {
        self.outgoing.values().any(|o| o.cut < o.state.len())
    }

    fn cut_on(&mut self) {
        self.cut_at = self.is_cutting().then_some(self.now);
    }

    pub(super) fn drop_outgoing(&mut self) {
        self.outgoing.clear();
        self.cut_on();
    }

    /// Forgets states that nobody waits for any more.
    pub(super) fn drop_unwanted(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let mut outgoing = core::mem::take(&mut self.outgoing);
        outgoing.retain(|(number, joiner), o| self.is_wanted_from_here(*number, *joiner, o.position));
        self.outgoing = outgoing;
        self.cut_on();
    }

    /// A view: what came before it is kept for members that are still to get a state.
    pub(super) fn drop_passed(&mut self, start: Position) {
        let mut incoming = core::mem::take(&mut self.incoming);
        incoming.retain(|(number, local), i| {
            let name = self.table.get(*number).map(|group| &group.name);
            i.position >= start || name.is_some_and(|name| self.phase(name, *local).is_some())
        });
        self.incoming = incoming;
    }

    pub(super) fn on_pull(&mut self, from: NodeInstance, pull: &Pull) {
        let joiner = MemberId { instance: from, local: pull.local };
        let outgoing = self.outgoing.get(&(pull.group, joiner)).filter(|o| o.position == pull.position);
        let Some(state) = outgoing.map(|o| o.state.clone()) else {
            self.stats.dropped.state += 1;
            return;
        };
        for (offset, length) in pull.parts.iter().take(PULL_MAX) {
            match offset.checked_add(*length) {
                Some(end) if end <= state.len() && *length <= self.config.state_piece => {
                    self.send_piece(pull.group, joiner, pull.position, &state, *offset..end);
                }
                Some(_) | None => self.stats.dropped.state += 1,
            }
        }
    }

    /// The state that `position` tells, if it may be taken in: nothing newer is on its way, and there is room.
    fn incoming(
        &mut self,
        key: (u32, u32),
        position: Position,
        donor: NodeInstance,
        total: usize,
    ) -> Option<&mut Incoming> {
        let passed = position < self.position() && !self.is_awaited(key, position);
        if passed || total > self.config.state_max {
            return None;
        }
        let forgets = sabotaged!(self, ForgetPieces);
        let old = |i: &Incoming| i.position.view < position.view;
        if !self.incoming.contains_key(&key) && self.incoming.len() >= self.config.transfers_max {
            let stale = self.incoming.iter().find(|(_, i)| old(i)).map(|(key, _)| *key)?;
            self.incoming.remove(&stale);
        }
        let incoming = self.incoming.entry(key).or_insert_with(|| Incoming::new(position, donor, total));
        if incoming.position > position {
            return None;
        }
        if incoming.position < position {
            incoming.renew(position, donor, total);
            if forgets {
                incoming.have.clear();
            }
        }
        (incoming.total == total).then_some(incoming)
    }

    pub(super) fn on_index(&mut self, from: NodeInstance, index: &Index) {
        let key = (index.group, index.local);
        let mut reused = 0;
        let Some(incoming) = self.incoming(key, index.position, from, index.total) else {
            self.stats.dropped.state += 1;
            return;
        };
        if incoming.donor != from || incoming.indexed() != index.offset {
            self.stats.dropped.state += 1;
            return;
        }
        let mut offset = index.offset;
        for (length, digest) in &index.parts {
            if incoming.have.contains_key(digest) {
                reused += *length as u64;
            } else if incoming.asked.insert(*digest) {
                incoming.wanted.push_back(incoming.parts.len());
            }
            incoming.parts.push(Part { offset, length: *length, digest: *digest });
            offset += length;
        }
        if offset == incoming.total {
            let good: BTreeSet<Digest> = incoming.parts.iter().map(|part| part.digest).collect();
            incoming.have.retain(|digest, _| good.contains(digest));
        }
        self.stats.state_kept += reused;
        self.advance_incoming(key);
    }

    pub(super) fn on_piece(&mut self, from: NodeInstance, piece: &Piece) {
        let key = (piece.group, piece.local);
        let Some(incoming) = self.incoming(key, piece.position, from, piece.total) else {
            self.stats.dropped.state += 1;
            return;
        };
        if incoming.parts.is_empty() && piece.content.len() == piece.total {
            // The whole state at once: there is no index.
            let digest = Digest::of(&piece.content);
            incoming.parts.push(Part { offset: 0, length: piece.total, digest });
            incoming.have.insert(digest, piece.content.clone());
        } else {
            let found = incoming.parts.binary_search_by_key(&piece.offset, |part| part.offset);
            let part = found.ok().map(|at| incoming.parts[at]).filter(|p| p.length == piece.content.len());
            let Some(part) = part.filter(|p| incoming.asked.remove(&p.digest)) else {
                self.stats.dropped.state += 1;
                return;
            };
            incoming.asked_bytes = incoming.asked_bytes.saturating_sub(part.length);
            incoming.have.insert(part.digest, piece.content.clone());
        }
        self.stats.state_received += piece.content.len() as u64;
        self.advance_incoming(key);
    }

    /// Asks for what is missing, within the window; hands the state on when all is here and it is awaited.
    fn advance_incoming(&mut self, key: (u32, u32)) {
        let Some(incoming) = self.incoming.get_mut(&key) else { return };
        let mut parts = Vec::new();
        while (incoming.asked_bytes == 0 || incoming.asked_bytes < self.config.state_window)
            && parts.len() < PULL_MAX
            && let Some(at) = incoming.wanted.pop_front()
        {
            let part = incoming.parts[at];
            incoming.asked_bytes += part.length;
            parts.push((part.offset, part.length));
        }
        let (position, donor) = (incoming.position, incoming.donor);
        if !parts.is_empty() {
            let pull = Pull { group: key.0, local: key.1, position, parts };
            self.send_state(donor, Lane::Small, pull.write());
        } else if self.is_awaited(key, position)
            && let Some(state) = self.take_incoming(key, position)
        {
            self.on_state(key.0, key.1, position, state);
        }
    }

    /// The state of a member as of this point, if it is here.
    pub(super) fn take_incoming(&mut self, key: (u32, u32), position: Position) -> Option<Bytes> {
        let whole = self.incoming.get(&key).filter(|i| i.position == position)?.whole()?;
        self.incoming.remove(&key);
        Some(whole)
    }
}
