//! What a member reports when it stops, and what follows from everybody's reports.

use crate::stream::Stream;
use crate::wire::{Fetch, VERSION};
use bytes::{BufMut, Bytes, BytesMut};
use ocf_membership::{Ballot, Proposal, View, ViewNumber};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer};
use std::collections::BTreeMap;

/// What a member holds of its last view: travels through membership as an opaque value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Zero if it never was in a view.
    pub(crate) view: ViewNumber,
    /// It has the table of groups.
    pub(crate) synced: bool,
    /// Stamps known.
    pub(crate) stamped: u64,
    /// Items held without gap, for each member of the view.
    pub(crate) held: Vec<u64>,
    /// Items delivered, for each member, if some were delivered ahead of their place; else empty.
    pub(crate) ahead: Vec<u64>,
}

impl Report {
    pub(crate) fn of(stream: Option<&Stream>, synced: bool) -> Self {
        match stream {
            None => Self {
                view: ViewNumber::default(),
                synced: false,
                stamped: 0,
                held: Vec::new(),
                ahead: Vec::new(),
            },
            Some(s) => Self {
                view: s.number,
                synced,
                stamped: s.stamped,
                held: s.inboxes.iter().map(|b| b.contiguous).collect(),
                ahead: s.delivered_ahead(),
            },
        }
    }

    pub(crate) fn write(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + 8 * self.held.len());
        out.put_slice(&[VERSION, u8::from(self.synced)]);
        out.put_varint(self.view.0);
        out.put_varint(self.stamped);
        out.put_length(self.held.len());
        for held in &self.held {
            out.put_varint(*held);
        }
        for ahead in &self.ahead {
            out.put_varint(*ahead);
        }
        out.freeze()
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        if r.u8("version")? != VERSION {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let synced = match r.u8("synced")? {
            0 => false,
            1 => true,
            _ => return Err(r.error("synced", Malformed::OutOfRange)),
        };
        let view = ViewNumber(r.varint("view")?);
        let stamped = r.varint("stamped")?;
        let n = r.length("members", r.remaining())?;
        let mut held = Vec::with_capacity(n);
        for _ in 0..n {
            held.push(r.varint("held")?);
        }
        let mut ahead = Vec::new();
        if !r.is_empty() {
            for _ in 0..n {
                ahead.push(r.varint("ahead")?);
            }
        }
        r.finish("report")?;
        Ok(Self { view, synced, stamped, held, ahead })
    }
}

/// How the members that go on together end their old view: a function of the proposal, so the same at each of them.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) ballot: Ballot,
    pub(crate) view: View,
    /// Last place of the order that is delivered in the old view.
    pub(crate) cut: u64,
    stamp_donor: Option<NodeInstance>,
    /// For each member of the old view: the most that anyone reported of it, and the lowest instance that did. What
    /// lies beyond is void, for all.
    pub(crate) known: Vec<(u64, Option<NodeInstance>)>,
    /// For each member of the old view: the most of it that anyone delivered, in its place or ahead. All deliver as much.
    pub(crate) ahead: Vec<u64>,
    /// Members that have the table.
    pub(crate) synced: Vec<NodeInstance>,
    /// Everybody to ask, when the donor of an earlier attempt may be gone; else empty.
    everybody: Vec<NodeInstance>,
    reporters: Vec<NodeInstance>,
    asked_stamps: bool,
    asked_items: bool,
    pub(crate) done: bool,
}

impl Plan {
    /// Asks again, everyone but `me`.
    pub(crate) fn ask_everybody(&mut self, me: NodeInstance) {
        self.everybody = self.reporters.iter().copied().filter(|i| *i != me).collect();
        (self.asked_stamps, self.asked_items) = (false, false);
    }

    /// Reports that do not parse, or are about another view, count as holding nothing.
    ///
    /// In a repeated attempt (`again`) the donors of the reports may be dead though the reports stand: then everyone
    /// is asked, because whoever answered the earlier attempt holds all.
    pub(crate) fn new(ballot: Ballot, proposal: &Proposal, stream: &Stream, again: bool) -> Self {
        let mut plan = Self {
            ballot,
            view: proposal.view.clone(),
            cut: 0,
            stamp_donor: None,
            known: vec![(0, None); stream.inboxes.len()],
            ahead: vec![0; stream.inboxes.len()],
            synced: Vec::new(),
            everybody: Vec::new(),
            reporters: proposal.states.iter().map(|(i, _)| *i).collect(),
            asked_stamps: false,
            asked_items: false,
            done: false,
        };
        for (instance, bytes) in &proposal.states {
            let Ok(report) = Report::read(bytes) else { continue };
            if report.view != stream.number || report.held.len() != plan.known.len() {
                continue;
            }
            if report.synced {
                plan.synced.push(*instance);
            }
            if report.stamped > plan.cut {
                (plan.cut, plan.stamp_donor) = (report.stamped, Some(*instance));
            }
            for (best, held) in plan.known.iter_mut().zip(&report.held) {
                if *held > best.0 {
                    *best = (*held, Some(*instance));
                }
            }
            // Nobody has delivered what it does not hold.
            for ((most, ahead), held) in plan.ahead.iter_mut().zip(&report.ahead).zip(&report.held) {
                *most = (*most).max((*ahead).min(*held));
            }
        }
        if again {
            plan.ask_everybody(stream.inbox(stream.me).instance);
        }
        plan
    }

    /// What must still be asked for, by donor; each thing is returned once. Sets `done` when nothing is missing.
    pub(crate) fn advance(&mut self, stream: &Stream) -> BTreeMap<NodeInstance, Fetch> {
        let mut wanted: BTreeMap<NodeInstance, Fetch> = BTreeMap::new();
        if self.done {
            return wanted;
        }
        if stream.stamped < self.cut {
            if !core::mem::replace(&mut self.asked_stamps, true) {
                for donor in Self::donors(&self.everybody, self.stamp_donor) {
                    wanted.entry(donor).or_default().stamps = (stream.stamped + 1, self.cut);
                }
            }
            return wanted;
        }
        let counts = stream.counts_to(self.cut);
        let mut missing = false;
        let each = counts.iter().zip(&self.ahead).zip(&self.known);
        for (member, ((count, ahead), (known, donor))) in (0_u32..).zip(each) {
            let need = (*count).min(*known).max(*ahead);
            let have = stream.inbox(member).contiguous;
            if have >= need {
                continue;
            }
            missing = true;
            if !self.asked_items {
                for donor in Self::donors(&self.everybody, *donor) {
                    wanted.entry(donor).or_default().items.push((member, have + 1, need));
                }
            }
        }
        self.asked_items = true;
        self.done = !missing;
        wanted
    }

    fn donors(everybody: &[NodeInstance], one: Option<NodeInstance>) -> Vec<NodeInstance> {
        if everybody.is_empty() { one.into_iter().collect() } else { everybody.to_vec() }
    }
}
