//! Messages between two cores; layouts in `PROTOCOL.md`, section 16.

use super::agree::ROUND_MAX;
use crate::wire::parts::{
    ballot, instances, members, number, put_ballot, put_instances, put_members, put_number, upper_state,
};
use crate::{Ballot, Member, ViewNumber};
use bytes::{BufMut, Bytes};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer};

/// What a node tells every peer about itself, each time it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The view it is in.
    pub(super) view: ViewNumber,
    /// It has stopped for a round, and entered nothing since.
    pub(super) stopped: bool,
    /// The highest that it has seen.
    pub(super) round: u64,
    /// Whom it hears, itself included; sorted, as the following.
    pub(super) row: Vec<NodeInstance>,
    /// With whom it would be in a view, as far as rows say.
    pub(super) clique: Vec<NodeInstance>,
}

/// Where a node is that has stopped for a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Join {
    /// The round, and the lowest of those who are to take part.
    pub(super) ballot: Ballot,
    /// Who are, all that tell the same clique; sorted.
    pub(super) candidates: Vec<NodeInstance>,
    /// Its view, and who was in that.
    pub(super) number: ViewNumber,
    pub(super) members: Vec<Member>,
    pub(super) primary: Option<ViewNumber>,
    /// Of the layer above.
    pub(super) state: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Status(Status),
    Join(Box<Join>),
    /// The sender has ended its old view.
    Done {
        ballot: Ballot,
    },
}

fn put_primary(out: &mut Vec<u8>, primary: Option<ViewNumber>) {
    put_number(out, primary.unwrap_or_default());
}

/// Views of the primary are numbered from 1.
fn primary(r: &mut Reader<'_>) -> Result<Option<ViewNumber>, ParseError> {
    Ok(Some(number(r)?).filter(|n| n.0 > 0))
}

fn round(r: &mut Reader<'_>) -> Result<Ballot, ParseError> {
    let at = r.clone();
    let ballot = ballot(r)?;
    if ballot.round < ROUND_MAX { Ok(ballot) } else { Err(at.error("round", Malformed::OutOfRange)) }
}

impl Message {
    pub(super) fn emit(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Status(status) => {
                out.put_u8(1);
                put_number(&mut out, status.view);
                out.put_u8(u8::from(status.stopped));
                out.put_u64(status.round);
                put_instances(&mut out, &status.row);
                put_instances(&mut out, &status.clique);
            }
            Self::Join(join) => {
                out.put_u8(2);
                put_ballot(&mut out, join.ballot);
                put_instances(&mut out, &join.candidates);
                put_number(&mut out, join.number);
                put_members(&mut out, &join.members);
                put_primary(&mut out, join.primary);
                out.put_prefixed(&join.state);
            }
            Self::Done { ballot } => {
                out.put_u8(3);
                put_ballot(&mut out, *ballot);
            }
        }
        Bytes::from(out)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let r = &mut Reader::new(bytes);
        let message = match r.u8("kind")? {
            1 => {
                let view = number(r)?;
                let stopped = match r.u8("stopped")? {
                    0 => false,
                    1 => true,
                    _ => return Err(r.error("stopped", Malformed::OutOfRange)),
                };
                let round = r.u64("round")?;
                if round >= ROUND_MAX {
                    return Err(r.error("round", Malformed::OutOfRange));
                }
                let row = instances(r, "row")?;
                Self::Status(Status { view, stopped, round, row, clique: instances(r, "clique")? })
            }
            2 => Self::Join(Box::new(Join {
                ballot: round(r)?,
                candidates: instances(r, "candidates")?,
                number: number(r)?,
                members: members(r)?,
                primary: primary(r)?,
                state: upper_state(r)?,
            })),
            3 => Self::Done { ballot: round(r)? },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        };
        r.finish("message")?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    fn instance(n: u32) -> NodeInstance {
        NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 64 | 5))
    }

    fn samples(size: u32, text: &[u8]) -> Vec<Message> {
        let ballot = Ballot { round: u64::from(size), proposer: instance(size) };
        let all: Vec<NodeInstance> = (1..=size).map(instance).collect();
        let number = ViewNumber(7 << 32 | 1);
        let members: Vec<Member> =
            all.iter().map(|i| Member { instance: *i, joined: ViewNumber(3), votes: 1 }).collect();
        let state = Bytes::copy_from_slice(text);
        vec![
            Message::Status(Status {
                view: number,
                stopped: size.is_multiple_of(2),
                round: 9,
                row: all.clone(),
                clique: vec![instance(1)],
            }),
            Message::Join(Box::new(Join { ballot, candidates: all, number, members, primary: None, state })),
            Message::Done { ballot },
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_any_bytes_parse_or_fail_without_panic(size in 1..9_u32, text in proptest::collection::vec(any::<u8>(), 0..60), kind in 0..5_u8) {
            for message in samples(size, &text) {
                let bytes = message.emit();
                prop_assert_eq!(Message::parse(&bytes), Ok(message.clone()));
                for cut in 0..bytes.len() {
                    prop_assert!(Message::parse(&bytes[..cut]).is_err());
                }
            }
            let mut wild = vec![kind];
            wild.extend_from_slice(&text);
            if let Ok(message) = Message::parse(&wild) {
                prop_assert_eq!(&message.emit()[..], &wild[..]);
            }
        }
    }
}
