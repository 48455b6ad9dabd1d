//! Layout of commands, replies and the state. See `PROTOCOL.md`, section 9.

use super::*;
use crate::replicated::wire::{
    put_member, put_time_or_none, read_count, read_flag, read_member, read_time_or_none, read_u32,
};
use pils::wire::{Malformed, ParseError, Reader, Writer};

const OPEN: u8 = 1;
const VOTE: u8 = 2;
const CLOSE: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open(Ballot),
    Vote { ballot: BallotId, option: Option<usize> },
    Close { ballot: BallotId, cancel: bool },
}

impl Layout for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open(ballot) => {
                out.push(OPEN);
                ballot.write(out);
            }
            Self::Vote { ballot, option } => {
                out.push(VOTE);
                out.put_varint(ballot.0);
                put_option(out, *option);
            }
            Self::Close { ballot, cancel } => {
                out.push(CLOSE);
                out.put_varint(ballot.0);
                out.push(u8::from(*cancel));
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("kind")? {
            OPEN => Self::Open(Ballot::read(r)?),
            VOTE => Self::Vote { ballot: BallotId(r.varint("ballot")?), option: read_option(r)? },
            CLOSE => Self::Close { ballot: BallotId(r.varint("ballot")?), cancel: read_flag(r)? },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

/// 0: none, else the number and one.
fn put_option(out: &mut Vec<u8>, option: Option<usize>) {
    out.put_length(option.map_or(0, |n| n + 1));
}

fn read_option(r: &mut Reader<'_>) -> Result<Option<usize>, ParseError> {
    Ok(r.length("option", OPTIONS_MAX)?.checked_sub(1))
}

impl Rule {
    fn write(self, out: &mut Vec<u8>) {
        let (kind, weight) = match self {
            Self::Plurality => (0, None),
            Self::MajorityOfVoters => (1, None),
            Self::MajorityOfMembers => (2, None),
            Self::Unanimous => (3, None),
            Self::AtLeast(weight) => (4, Some(weight)),
        };
        out.push(kind);
        if let Some(weight) = weight {
            out.put_varint(u64::from(weight));
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("rule")? {
            0 => Self::Plurality,
            1 => Self::MajorityOfVoters,
            2 => Self::MajorityOfMembers,
            3 => Self::Unanimous,
            4 => Self::AtLeast(read_u32(r, "weight")?),
            _ => return Err(r.error("rule", Malformed::OutOfRange)),
        })
    }
}

impl Ballot {
    fn write(&self, out: &mut Vec<u8>) {
        out.put_text(&self.question);
        out.put_length(self.options.len());
        self.options.iter().for_each(|option| out.put_text(option));
        self.rule.write(out);
        put_weights(out, &self.weights);
        put_time_or_none(out, self.limit);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let question = r.text("question")?.to_owned();
        let n = read_count(r, 1)?;
        let options = (0..n).map(|_| r.text("option").map(str::to_owned)).collect::<Result<_, _>>()?;
        let rule = Rule::read(r)?;
        let weights = read_weights(r)?;
        Ok(Self { question, options, rule, weights, limit: read_time_or_none(r)? })
    }
}

fn put_weights(out: &mut Vec<u8>, weights: &BTreeMap<MemberId, u32>) {
    out.put_length(weights.len());
    for (member, weight) in weights {
        put_member(out, *member);
        out.put_varint(u64::from(*weight));
    }
}

fn read_weights(r: &mut Reader<'_>) -> Result<BTreeMap<MemberId, u32>, ParseError> {
    let n = read_count(r, 22)?;
    (0..n).map(|_| Ok((read_member(r)?, read_u32(r, "weight")?))).collect()
}

impl Outcome {
    fn write(self, out: &mut Vec<u8>) {
        let (kind, option) = match self {
            Self::Elected(option) => (0, option),
            Self::Undecided(why) => (1 + why as u8, 0),
        };
        out.push(kind);
        out.put_length(option);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let kind = r.u8("outcome")?;
        let option = r.length("option", OPTIONS_MAX)?;
        Ok(match kind {
            0 => Self::Elected(option),
            n => {
                let why = Undecided::ALL.get(usize::from(n) - 1);
                Self::Undecided(*why.ok_or_else(|| r.error("outcome", Malformed::OutOfRange))?)
            }
        })
    }
}

impl Closed {
    fn write(&self, out: &mut Vec<u8>) {
        out.put_varint(self.ballot.0);
        self.outcome.write(out);
        out.push(self.reason as u8);
        out.put_length(self.tally.votes.len());
        self.tally.votes.iter().for_each(|n| out.put_varint(*n));
        out.put_varint(self.tally.abstained);
        out.put_varint(self.tally.missing);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let ballot = BallotId(r.varint("ballot")?);
        let outcome = Outcome::read(r)?;
        let reason = usize::from(r.u8("reason")?);
        let reason = *Certainty::ALL.get(reason).ok_or_else(|| r.error("reason", Malformed::OutOfRange))?;
        let n = read_count(r, 1)?;
        let votes = (0..n).map(|_| r.varint("votes")).collect::<Result<_, _>>()?;
        let tally = Tally { votes, abstained: r.varint("abstained")?, missing: r.varint("missing")? };
        Ok(Self { ballot, outcome, reason, tally })
    }
}

impl Voting {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_varint(self.next);
        out.put_length(self.open.len());
        for (id, open) in &self.open {
            out.put_varint(id.0);
            put_member(out, open.proposer);
            open.ballot.write(out);
            put_time_or_none(out, open.due);
            put_weights(out, &open.eligible);
            out.put_length(open.votes.len());
            for (member, option) in &open.votes {
                put_member(out, *member);
                put_option(out, *option);
            }
        }
        out.put_length(self.closed.len());
        self.closed.iter().for_each(|closed| closed.write(out));
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = r.varint("next")?;
        let mut open = BTreeMap::new();
        for _ in 0..r.length("open", OPEN_MAX)? {
            let id = BallotId(r.varint("ballot")?);
            let proposer = read_member(r)?;
            let ballot = Ballot::read(r)?;
            ballot.check().map_err(|_refusal| r.error("ballot", Malformed::OutOfRange))?;
            let due = read_time_or_none(r)?;
            let eligible = read_weights(r)?;
            let n = read_count(r, 22)?;
            let votes = (0..n).map(|_| Ok((read_member(r)?, read_option(r)?))).collect::<Result<_, _>>()?;
            open.insert(id, Open { proposer, ballot, due, eligible, votes });
        }
        let n = r.length("closed", CLOSED_MAX)?;
        let closed = (0..n).map(|_| Closed::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { next, open, closed, ..Self::default() })
    }
}
