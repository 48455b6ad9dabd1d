use super::parts::{ballot, instances, micros, number, put_ballot, put_instances, put_number};
use super::parts::{put_vote_config, unproven, upper_state, vote_config};
use super::{Accept, put_view, view};
use crate::quorum::VoteConfig;
use crate::record::Record;
use crate::{Ballot, NODES_MAX, View, ViewNumber};
use bytes::{BufMut, Bytes};
use core::time::Duration;
use pils::NodeInstance;
use pils::wire::{ParseError, Reader, Writer};

/// The answer to PREPARE: everything the coordinator needs to know of one candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateReport {
    pub(crate) ballot: Ballot,
    pub(crate) has_vote: bool,
    pub(crate) synced: bool,
    /// Time since this incarnation started, rounded down.
    pub(crate) life: Duration,
    /// The primary view it is in.
    pub(crate) active: Option<ViewNumber>,
    /// The newest view it knows to be agreed, whole, with its vote configuration.
    pub(crate) chosen: Option<(View, VoteConfig)>,
    /// What it accepted last in this life, if that is not known to be agreed.
    pub(crate) accepted: Option<Accept>,
    /// What an earlier life accepted last, as its record says.
    pub(crate) record: Option<Record>,
    /// Age of the last lease confirmation given to each instance, rounded down; sorted.
    pub(crate) acks: Vec<(NodeInstance, Duration)>,
    /// Instances that declared their own end; sorted.
    pub(crate) dead: Vec<NodeInstance>,
    /// No earlier life of its node can still run.
    pub(crate) sole: bool,
    /// Who left and is not known to have ended; sorted.
    pub(crate) unproven: Vec<NodeInstance>,
    pub(crate) upper: Bytes,
}

const ACKS_MAX: usize = 4 * NODES_MAX;

impl StateReport {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_ballot(out, self.ballot);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            flag(self.has_vote, 1)
                | flag(self.synced, 2)
                | flag(self.active.is_some(), 4)
                | flag(self.chosen.is_some(), 8)
                | flag(self.accepted.is_some(), 16)
                | flag(self.record.is_some(), 32)
                | flag(!self.unproven.is_empty(), 64)
                | flag(self.sole, 128),
        );
        out.put_varint(micros(self.life));
        if let Some(active) = self.active {
            put_number(out, active);
        }
        if let Some((view, votes)) = &self.chosen {
            put_view(out, view);
            put_vote_config(out, votes);
        }
        if let Some(accepted) = &self.accepted {
            accepted.put(out);
        }
        if let Some(record) = &self.record {
            record.put(out);
        }
        out.put_length(self.acks.len());
        for (instance, age) in &self.acks {
            out.put_instance(*instance);
            out.put_varint(micros(*age));
        }
        put_instances(out, &self.dead);
        out.put_prefixed(&self.upper);
        if !self.unproven.is_empty() {
            put_instances(out, &self.unproven);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let ballot = ballot(r)?;
        let flags = r.u8("flags")?;
        let life = Duration::from_micros(r.varint("life")?);
        let active = if flags & 4 != 0 { Some(number(r)?) } else { None };
        let chosen = if flags & 8 != 0 { Some((view(r)?, vote_config(r)?)) } else { None };
        let accepted = if flags & 16 != 0 { Some(Accept::read(r)?) } else { None };
        let record = if flags & 32 != 0 { Some(Record::read(r)?) } else { None };
        let n = r.length("acks", ACKS_MAX)?;
        let mut acks = Vec::with_capacity(n.min(r.remaining() / 21));
        for _ in 0..n {
            acks.push((r.instance("ack")?, Duration::from_micros(r.varint("age")?)));
        }
        let dead = instances(r, "dead")?;
        let upper = upper_state(r)?;
        let unproven = if flags & 64 != 0 { unproven(r)? } else { Vec::new() };
        let (has_vote, synced, sole) = (flags & 1 != 0, flags & 2 != 0, flags & 128 != 0);
        Ok(Self {
            ballot,
            has_vote,
            synced,
            life,
            active,
            chosen,
            accepted,
            record,
            acks,
            dead,
            sole,
            unproven,
            upper,
        })
    }
}
