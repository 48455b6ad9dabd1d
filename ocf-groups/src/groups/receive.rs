//! What comes from the peers.

use super::turn::note_arrival;
use super::{Groups, Sync, sabotaged};
use crate::Output;
use crate::table::Table;
use crate::wire::{Fetch, Frame, Message, start_fetched, write_of, write_stamp};
use bytes::{Bytes, BytesMut};
use ocf_comm::Lane;
use ocf_membership::ViewNumber;
use pils::NodeInstance;
use pils::wire::Reader;
use std::sync::Arc;

impl Groups {
    pub(super) fn on_message(&mut self, from: NodeInstance, message: &Bytes) {
        let mut r = Reader::new(message);
        let Ok(head) = Message::read(&mut r, message) else {
            self.stats.dropped.malformed += 1;
            return;
        };
        let view = match &head {
            Message::State(piece) => return self.on_piece(from, piece),
            Message::Index(index) => return self.on_index(from, index),
            Message::Pull(pull) => return self.on_pull(from, pull),
            Message::Evicted(evicted) => return self.on_evicted(from, *evicted),
            Message::Batch { view, .. }
            | Message::Fetch { view, .. }
            | Message::Fetched { view }
            | Message::Table { view } => *view,
        };
        let current = self.stream.as_ref().map_or_else(ViewNumber::default, |s| s.number);
        if view < current {
            self.stats.dropped.stale += 1;
            return;
        }
        if view > current {
            if self.early_bytes + message.len() > self.config.early_max {
                self.stats.dropped.early += 1;
                return;
            }
            self.early_bytes += message.len();
            self.early.push_back((from, message.clone()));
            return;
        }
        let Some(member) = self.stream.as_ref().and_then(|s| s.index_of(from)) else {
            self.stats.dropped.foreign += 1;
            return;
        };
        match head {
            Message::Batch { base, .. } => self.on_batch(member, base, &mut r, message),
            Message::Fetch { wanted, .. } => self.on_fetch(from, &wanted),
            Message::Fetched { .. } => self.on_fetched(&mut r, message),
            Message::Table { .. } => self.on_table(&mut r),
            Message::State(_) | Message::Index(_) | Message::Pull(_) | Message::Evicted(_) => {}
        }
    }

    fn on_batch(&mut self, member: u32, base: u64, r: &mut Reader<'_>, whole: &Bytes) {
        let scrambled = sabotaged!(self, IgnoreSequence);
        if self.is_frozen() {
            self.stats.dropped.frozen += 1;
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        if member == stream.me {
            self.stats.dropped.foreign += 1;
            return;
        }
        let mut lseq = base;
        let mut more = 0;
        while !r.is_empty() {
            let Ok(frame) = Frame::read(r, whole) else {
                self.stats.dropped.malformed += 1;
                break;
            };
            match frame {
                Frame::Own(item) => {
                    let at = if scrambled { stream.inbox(member).contiguous + 1 } else { lseq };
                    match stream.insert(member, at, item) {
                        Some(n) => more += n,
                        None => self.stats.dropped.unexpected += 1,
                    }
                    lseq = lseq.saturating_add(1);
                }
                Frame::Stamp { first, runs } if member == 0 => {
                    self.stats.dropped.unexpected += u64::from(!stream.stamp(first, &runs));
                }
                Frame::Have { held, consumed } => stream.report(member, held, consumed),
                Frame::Stamp { .. } | Frame::Of { .. } => self.stats.dropped.foreign += 1,
            }
        }
        if more > 0 && stream.is_sequencer() {
            note_arrival(&mut self.to_stamp, member, more);
        }
        self.dirty = true;
    }

    /// Answers with what is held here, in messages of about one batch (one item at least).
    fn on_fetch(&mut self, from: NodeInstance, wanted: &Fetch) {
        let Some(stream) = &self.stream else { return };
        let to: Arc<[NodeInstance]> = Arc::from([from]);
        let mut out = BytesMut::new();
        let mut send = |out: &mut BytesMut| {
            let message = out.split().freeze();
            self.sends.push_back(Output::Send { to: Arc::clone(&to), lane: Lane::Bulk, message });
        };
        if wanted.stamps.1 > 0
            && let Some((first, runs)) = stream.stamps(wanted.stamps.0, wanted.stamps.1)
        {
            start_fetched(&mut out, stream.number);
            write_stamp(&mut out, first, &runs);
        }
        for (member, first, last) in &wanted.items {
            let Some(inbox) = stream.inboxes.get(*member as usize) else { continue };
            for lseq in (*first).max(inbox.base + 1)..=(*last).min(inbox.contiguous) {
                let Some(item) = stream.item(*member, lseq) else { continue };
                if !out.is_empty() && out.len() + item.wire_len() > self.config.batch {
                    send(&mut out);
                }
                if out.is_empty() {
                    start_fetched(&mut out, stream.number);
                }
                write_of(&mut out, *member, lseq, item);
            }
        }
        if !out.is_empty() {
            send(&mut out);
        }
    }

    fn on_fetched(&mut self, r: &mut Reader<'_>, whole: &Bytes) {
        if self.blocked.is_none() || self.plans.is_empty() {
            self.stats.dropped.unexpected += 1;
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        while !r.is_empty() {
            match Frame::read(r, whole) {
                Ok(Frame::Stamp { first, runs }) => {
                    self.stats.dropped.unexpected += u64::from(!stream.stamp(first, &runs));
                }
                Ok(Frame::Of { member, lseq, item }) => match stream.insert(member, lseq, item) {
                    Some(_) => self.stats.fetched += 1,
                    None => self.stats.dropped.unexpected += 1,
                },
                Ok(Frame::Own(_) | Frame::Have { .. }) => self.stats.dropped.foreign += 1,
                Err(_) => {
                    self.stats.dropped.malformed += 1;
                    break;
                }
            }
        }
        self.advance_flush();
    }

    fn on_table(&mut self, r: &mut Reader<'_>) {
        if self.sync != Sync::Waiting || self.is_frozen() {
            self.stats.dropped.unexpected += 1;
            return;
        }
        match Table::read(r, &self.config, self.local) {
            Ok(table) => {
                self.table = table;
                self.disown_stale();
                self.become_synced();
            }
            Err(_) => self.stats.dropped.malformed += 1,
        }
    }

    /// Takes in again what came before its view.
    pub(super) fn replay_early(&mut self) {
        self.early_bytes = 0;
        for (from, message) in core::mem::take(&mut self.early) {
            self.on_message(from, &message);
        }
    }
}
