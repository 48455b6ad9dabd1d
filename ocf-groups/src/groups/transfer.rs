//! The state of a group on its way from a donor to a joiner.
//!
//! A small state goes in one message. Of a larger one the donor sends an *index*: length and digest of each piece, in order. The
//! joiner asks for the pieces that it has not, a window of them at a time, from whoever sent the index. What it has stays when the donor is
//! lost: the next donor's index says what of it is still good. Where the level of the view, or whoever makes the order, does not allow
//! that, the donor sends one piece after the other unasked, and the joiner puts them together as they come.

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

/// Pieces of one state, at most: a donor cuts larger ones instead, and a joiner takes no more.
const PIECES_MAX: usize = 1 << 16;

/// The level of a view from which on its members know an index.
const INDEX_LEVEL: u32 = 2;

/// A state that this node gives.
#[derive(Debug)]
pub(super) struct Outgoing {
    position: Position,
    state: Bytes,
    /// So many bytes of it are cut and told.
    cut: usize,
    /// Bytes of a piece, at most.
    piece: usize,
    /// The joiner is told of pieces and asks for them; else it is sent them.
    indexed: bool,
}

/// What a piece is known by. Its length is a part of that, so that no peer can have a state made of more than was announced.
type Known = (Digest, usize);

/// A part of a state, as its index says.
#[derive(Clone, Copy, Debug)]
struct Part {
    offset: usize,
    length: usize,
    digest: Digest,
}

impl Part {
    const fn known(&self) -> Known {
        (self.digest, self.length)
    }
}

/// A state that a member of this node gets.
#[derive(Debug)]
pub(super) struct Incoming {
    position: Position,
    donor: NodeInstance,
    total: usize,
    /// Its donor told of pieces that are to be asked for.
    indexed: bool,
    /// What is known of the index, or came unasked, in order and without gap.
    parts: Vec<Part>,
    /// What is here, also of earlier states of the same member.
    have: BTreeMap<Known, Bytes>,
    /// Places in `parts` of what is to be asked for.
    wanted: VecDeque<usize>,
    asked: BTreeSet<Known>,
    asked_bytes: usize,
}

impl Incoming {
    const fn new(position: Position, donor: NodeInstance, total: usize) -> Self {
        Self {
            position,
            donor,
            total,
            indexed: false,
            parts: Vec::new(),
            have: BTreeMap::new(),
            wanted: VecDeque::new(),
            asked: BTreeSet::new(),
            asked_bytes: 0,
        }
    }

    /// Begins with another state. What is here stays, as long as it is no more than one state may have.
    fn renew(&mut self, position: Position, donor: NodeInstance, total: usize, state_max: usize) {
        if self.have.values().map(Bytes::len).sum::<usize>() > state_max || self.have.len() > PIECES_MAX {
            self.keep_own_parts();
        }
        *self = Self { have: core::mem::take(&mut self.have), ..Self::new(position, donor, total) };
    }

    /// What is here of this state and of earlier ones is no more than twice what one may have.
    pub(super) fn is_bounded(&self, state_max: usize) -> bool {
        let bytes: usize = self.have.values().map(Bytes::len).sum();
        let counted = self.parts.len() <= PIECES_MAX && self.have.len() <= 2 * PIECES_MAX;
        counted && bytes <= state_max.saturating_mul(2)
    }

    /// Forgets what is no part of this state.
    fn keep_own_parts(&mut self) {
        let good: BTreeSet<Known> = self.parts.iter().map(Part::known).collect();
        self.have.retain(|known, _| good.contains(known));
    }

    /// Bytes that are known of, from the start.
    fn covered(&self) -> usize {
        self.parts.last().map_or(0, |part| part.offset + part.length)
    }

    /// Takes in what comes next of the index. False if that cannot be.
    fn on_index(&mut self, index: &Index) -> bool {
        let unasked = !self.indexed && !self.parts.is_empty();
        let many = self.parts.len().saturating_add(index.parts.len()) > PIECES_MAX;
        if unasked || many || self.covered() != index.offset {
            return false;
        }
        self.indexed = true;
        let mut offset = index.offset;
        for (length, digest) in &index.parts {
            let part = Part { offset, length: *length, digest: *digest };
            if !self.have.contains_key(&part.known()) && self.asked.insert(part.known()) {
                self.wanted.push_back(self.parts.len());
            }
            self.parts.push(part);
            offset += length;
        }
        if offset == self.total {
            self.keep_own_parts();
        }
        true
    }

    /// Takes in a piece that was asked for, or the next one if there is no index. False if it is neither.
    fn on_piece(&mut self, piece: &Piece) -> bool {
        let (offset, length) = (piece.offset, piece.content.len());
        if self.indexed {
            let found = self.parts.binary_search_by_key(&offset, |part| part.offset);
            let part = found.ok().map(|at| self.parts[at]).filter(|part| part.length == length);
            let Some(part) = part.filter(|part| self.asked.remove(&part.known())) else { return false };
            self.asked_bytes = self.asked_bytes.saturating_sub(part.length);
            self.have.insert(part.known(), piece.content.clone());
            return true;
        }
        let empty = length == 0 && self.total > 0;
        if empty || self.covered() != offset || self.parts.len() >= PIECES_MAX {
            return false;
        }
        let part = Part { offset, length, digest: Digest::of(&piece.content) };
        self.parts.push(part);
        self.have.insert(part.known(), piece.content.clone());
        true
    }

    /// The pieces to ask for now, so that no more than `window` bytes are on their way.
    fn next_asked(&mut self, window: usize) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        while (self.asked_bytes == 0 || self.asked_bytes < window)
            && parts.len() < PULL_MAX
            && let Some(at) = self.wanted.pop_front()
        {
            let part = self.parts[at];
            if self.asked.contains(&part.known()) {
                self.asked_bytes += part.length;
                parts.push((part.offset, part.length));
            }
        }
        parts
    }

    /// The whole state, once all of it is here.
    fn whole(&self) -> Option<Bytes> {
        if self.covered() != self.total {
            return None;
        }
        if let [only] = self.parts.as_slice() {
            return self.have.get(&only.known()).cloned();
        }
        if self.parts.iter().any(|part| !self.have.contains_key(&part.known())) {
            return None;
        }
        let mut whole = BytesMut::with_capacity(self.total);
        for part in &self.parts {
            whole.extend_from_slice(self.have.get(&part.known())?);
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
            // So large that there are not too many, as none but the last is shorter than a quarter.
            let piece = self.config.state_piece.max(state.len().div_ceil(PIECES_MAX).saturating_mul(4));
            let indexed = self.may_index();
            let outgoing = Outgoing { position, state, cut: 0, piece, indexed };
            self.outgoing.insert((number, joiner), outgoing);
            self.cut_on();
        }
    }

    /// True if joiners know what an index is, and their answers come here.
    fn may_index(&self) -> bool {
        let known = self.view.as_ref().is_some_and(|view| view.level >= INDEX_LEVEL);
        self.elsewhere.is_none() && (known || sabotaged!(self, IndexAnyway))
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

    /// Cuts the next slice of a state that this node gives, and tells the joiner what it is made of, or sends it.
    pub(crate) fn cut_slice(&mut self) {
        let blind = sabotaged!(self, BlindPieces);
        let uncut = |(_, o): &(&(u32, MemberId), &mut Outgoing)| o.cut < o.state.len();
        let Some(((group, joiner), outgoing)) = self.outgoing.iter_mut().find(uncut) else { return };
        let (group, joiner, position) = (*group, *joiner, outgoing.position);
        let (offset, total) = (outgoing.cut, outgoing.state.len());
        let slice = SLICE.min(self.config.state_window).max(outgoing.piece);
        if !outgoing.indexed {
            let (piece, state) = (outgoing.piece, outgoing.state.clone());
            while outgoing.cut < total && outgoing.cut - offset < slice {
                outgoing.cut = outgoing.cut.saturating_add(piece).min(total);
            }
            let end = outgoing.cut;
            for from in (offset..end).step_by(piece) {
                self.send_piece(group, joiner, position, &state, from..end.min(from + piece));
            }
            self.outgoing.retain(|_, o| o.indexed || o.cut < o.state.len());
            self.cut_on();
            return;
        }
        let cutter = Cutter::new(outgoing.piece);
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
    pub(crate) fn is_cutting(&self) -> bool {
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
        let Some((state, piece)) = outgoing.filter(|o| o.indexed).map(|o| (o.state.clone(), o.piece)) else {
            self.stats.dropped.state += 1;
            return;
        };
        let asked = pull.parts.iter().fold(0_usize, |sum, (_, length)| sum.saturating_add(*length));
        if asked > state.len() {
            // Nobody asks twice for the same.
            self.stats.dropped.state += 1;
            return;
        }
        for (offset, length) in pull.parts.iter().take(PULL_MAX) {
            match offset.checked_add(*length) {
                Some(end) if end <= state.len() && *length <= piece => {
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
            incoming.renew(position, donor, total, self.config.state_max);
            if forgets {
                incoming.have.clear();
            }
        }
        (incoming.donor == donor && incoming.total == total).then_some(incoming)
    }

    pub(super) fn on_index(&mut self, from: NodeInstance, index: &Index) {
        let key = (index.group, index.local);
        let Some(incoming) = self.incoming(key, index.position, from, index.total) else {
            self.stats.dropped.state += 1;
            return;
        };
        let is_here = |(length, digest): &&(usize, Digest)| incoming.have.contains_key(&(*digest, *length));
        let reused: usize = index.parts.iter().filter(is_here).map(|(length, _)| length).sum();
        if incoming.on_index(index) {
            self.stats.state_kept += reused as u64;
            self.advance_incoming(key);
        } else {
            self.stats.dropped.state += 1;
        }
    }

    pub(super) fn on_piece(&mut self, from: NodeInstance, piece: &Piece) {
        let key = (piece.group, piece.local);
        let incoming = self.incoming(key, piece.position, from, piece.total);
        if incoming.is_some_and(|incoming| incoming.on_piece(piece)) {
            self.stats.state_received += piece.content.len() as u64;
            self.advance_incoming(key);
        } else {
            self.stats.dropped.state += 1;
        }
    }

    /// Asks for what is missing, within the window; hands the state on when all is here and it is awaited.
    fn advance_incoming(&mut self, key: (u32, u32)) {
        let window = self.config.state_window;
        let Some(incoming) = self.incoming.get_mut(&key) else { return };
        let parts = incoming.next_asked(window);
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

#[cfg(test)]
mod tests;
