//! The messages of the agreement; layouts in PROTOCOL.md.

pub(crate) mod parts;
mod state;

pub(crate) use state::StateReport;

use crate::quorum::VoteConfig;
use crate::{Ballot, LEVEL_MAX, Levels, Member, NodeVotes, Proposal, ViewNumber};
use bytes::{BufMut, Bytes};
use parts::{
    ballot, contact, instances, members, node_votes, number, proposal, put_ballot, put_contact,
    put_instances, put_members, put_node_votes, put_number, put_proposal,
};
pub(crate) use parts::{put_view, put_vote_config, view, vote_config};
use pils::wire::{Malformed, ParseError, Reader, Writer};
use pils::{NodeId, NodeInstance};

/// Longest opaque text that says how a node is reached, in bytes.
pub(crate) const CONTACT_MAX: usize = 512;
/// Longest opaque state of an upper layer that is carried.
pub(crate) const UPPER_STATE_MAX: usize = 1 << 20;

/// The newest primary view that a node knows to be agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) number: ViewNumber,
    /// Tells the values proposed for one number apart: the ballot they were first proposed in.
    pub(crate) value: Ballot,
    pub(crate) members: Vec<Member>,
}

/// What a node tells every peer about itself, each time it changes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Status {
    /// False while the node remembers nothing that a primary could rely on.
    pub(crate) has_vote: bool,
    /// False while the node cannot write its record.
    pub(crate) fit: bool,
    /// The primary view it is in.
    pub(crate) active: Option<ViewNumber>,
    pub(crate) known: Option<Known>,
    /// Who is up for it, itself included; sorted.
    pub(crate) row: Vec<NodeInstance>,
    pub(crate) wanted: Option<Wish>,
    /// The votes it knows to be in force, if those are not from a file.
    pub(crate) votes: Option<VoteConfig>,
}

/// The votes that a node would have changed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The revision of those to change: it is carried out on that alone.
    pub(crate) base: u64,
    /// Before a policy weighs them.
    pub(crate) nodes: Vec<NodeVotes>,
    /// How the node that it adds is reached.
    pub(crate) contact: Option<(NodeId, Bytes)>,
}

/// A proposal on its way to an accepter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) ballot: Ballot,
    /// Everybody who must accept in this ballot.
    pub(crate) candidates: Vec<NodeInstance>,
    pub(crate) votes: VoteConfig,
    pub(crate) proposal: Proposal,
}

/// A message between two consensus cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Status(Status),
    Prepare {
        ballot: Ballot,
        candidates: Vec<NodeInstance>,
    },
    /// `promised` equals `ballot` if the refusal is for a missing connection.
    Nack {
        ballot: Ballot,
        promised: Ballot,
    },
    State(Box<StateReport>),
    Accept(Box<Accept>),
    Accepted {
        ballot: Ballot,
    },
    Install {
        ballot: Ballot,
        known: Known,
    },
    Renew {
        value: Ballot,
        sequence: u64,
    },
    RenewAck {
        value: Ballot,
        sequence: u64,
    },
    /// What its sender speaks, and at which level the newest view is that it knows; zero: it knows none.
    Levels {
        levels: Levels,
        in_force: u32,
    },
}

impl Message {
    pub(crate) fn emit(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Status(status) => {
                out.put_u8(1);
                status.put(&mut out);
            }
            Self::Prepare { ballot, candidates } => {
                out.put_u8(2);
                put_ballot(&mut out, *ballot);
                put_instances(&mut out, candidates);
            }
            Self::Nack { ballot, promised } => {
                out.put_u8(3);
                put_ballot(&mut out, *ballot);
                put_ballot(&mut out, *promised);
            }
            Self::State(state) => {
                out.put_u8(4);
                state.put(&mut out);
            }
            Self::Accept(accept) => {
                out.put_u8(5);
                accept.put(&mut out);
            }
            Self::Accepted { ballot } => {
                out.put_u8(6);
                put_ballot(&mut out, *ballot);
            }
            Self::Install { ballot, known } => {
                out.put_u8(7);
                put_ballot(&mut out, *ballot);
                known.put(&mut out);
            }
            Self::Renew { value, sequence } | Self::RenewAck { value, sequence } => {
                out.put_u8(if matches!(self, Self::Renew { .. }) { 8 } else { 9 });
                put_ballot(&mut out, *value);
                out.put_varint(*sequence);
            }
            Self::Levels { levels, in_force } => {
                out.put_u8(10);
                out.put_u32(levels.oldest);
                out.put_u32(levels.newest);
                out.put_u32(*in_force);
            }
        }
        out.into()
    }

    pub(crate) fn parse(input: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(input);
        let kind = r.u8("kind")?;
        let message = match kind {
            1 => Self::Status(Status::read(&mut r)?),
            2 => Self::Prepare { ballot: ballot(&mut r)?, candidates: instances(&mut r, "candidates")? },
            3 => Self::Nack { ballot: ballot(&mut r)?, promised: ballot(&mut r)? },
            4 => Self::State(Box::new(StateReport::read(&mut r)?)),
            5 => Self::Accept(Box::new(Accept::read(&mut r)?)),
            6 => Self::Accepted { ballot: ballot(&mut r)? },
            7 => Self::Install { ballot: ballot(&mut r)?, known: Known::read(&mut r)? },
            8 => Self::Renew { value: ballot(&mut r)?, sequence: r.varint("sequence")? },
            9 => Self::RenewAck { value: ballot(&mut r)?, sequence: r.varint("sequence")? },
            10 => {
                let levels = Levels { oldest: r.u32("oldest level")?, newest: r.u32("newest level")? };
                let in_force = r.u32("level in force")?;
                if !levels.are_sound() || in_force > LEVEL_MAX {
                    return Err(r.error("levels", Malformed::OutOfRange));
                }
                Self::Levels { levels, in_force }
            }
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        };
        r.finish("message")?;
        Ok(message)
    }
}

impl Known {
    fn put(&self, out: &mut Vec<u8>) {
        put_number(out, self.number);
        put_ballot(out, self.value);
        put_members(out, &self.members);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { number: number(r)?, value: ballot(r)?, members: members(r)? })
    }
}

impl Status {
    const HAS_VOTE: u8 = 1;
    const FIT: u8 = 2;
    const ACTIVE: u8 = 4;
    const KNOWN: u8 = 8;
    const WANTED: u8 = 16;
    const VOTES: u8 = 32;
    const CONTACT: u8 = 64;

    fn contact(&self) -> Option<&(NodeId, Bytes)> {
        self.wanted.as_ref()?.contact.as_ref()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(
            flag(self.has_vote, Self::HAS_VOTE)
                | flag(self.fit, Self::FIT)
                | flag(self.active.is_some(), Self::ACTIVE)
                | flag(self.known.is_some(), Self::KNOWN)
                | flag(self.wanted.is_some(), Self::WANTED)
                | flag(self.votes.is_some(), Self::VOTES)
                | flag(self.contact().is_some(), Self::CONTACT),
        );
        if let Some(active) = self.active {
            put_number(out, active);
        }
        if let Some(known) = &self.known {
            known.put(out);
        }
        put_instances(out, &self.row);
        if let Some(wanted) = &self.wanted {
            out.put_u64(wanted.base);
            put_node_votes(out, &wanted.nodes);
        }
        if let Some(contact) = self.contact() {
            put_contact(out, contact);
        }
        if let Some(votes) = &self.votes {
            put_vote_config(out, votes);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let flags = r.u8("flags")?;
        if flags >= 128 || flags & (Self::WANTED | Self::CONTACT) == Self::CONTACT {
            return Err(r.error("flags", Malformed::OutOfRange));
        }
        Ok(Self {
            has_vote: flags & Self::HAS_VOTE != 0,
            fit: flags & Self::FIT != 0,
            active: if flags & Self::ACTIVE != 0 { Some(number(r)?) } else { None },
            known: if flags & Self::KNOWN != 0 { Some(Known::read(r)?) } else { None },
            row: instances(r, "row")?,
            wanted: if flags & Self::WANTED != 0 {
                let (base, nodes) = (r.u64("base")?, node_votes(r)?);
                let contact = if flags & Self::CONTACT != 0 { Some(contact(r)?) } else { None };
                Some(Wish { base, nodes, contact })
            } else {
                None
            },
            votes: if flags & Self::VOTES != 0 { Some(vote_config(r)?) } else { None },
        })
    }
}

impl Accept {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_ballot(out, self.ballot);
        put_instances(out, &self.candidates);
        put_vote_config(out, &self.votes);
        put_proposal(out, &self.proposal);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            ballot: ballot(r)?,
            candidates: instances(r, "candidates")?,
            votes: vote_config(r)?,
            proposal: proposal(r)?,
        })
    }
}

#[cfg(test)]
mod tests;
