//! The durable view record: what a node must remember of the views it accepted.

use crate::quorum::VoteConfig;
use crate::wire::{put_view, put_vote_config, view, vote_config};
use crate::{Ballot, RecordError, View};
use bytes::{BufMut, Bytes};
use pils::wire::{ParseError, Reader, Writer};
use pils::{NodeId, NodeInstance};

const MAGIC: &[u8; 7] = b"ocfview";
const VERSION: u8 = 1;

/// The newest proposal that a node accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Written by an incarnation whose voice did not count yet.
    pub(crate) voteless: bool,
    /// The ballot it was accepted in (the view's own ballot is the one it was first proposed in).
    pub(crate) ballot: Ballot,
    /// Everybody who had to accept in that ballot; sorted.
    pub(crate) candidates: Vec<NodeInstance>,
    pub(crate) votes: VoteConfig,
    pub(crate) view: View,
}

impl Record {
    /// As it is written to stable storage by `node`.
    pub(crate) fn seal(&self, node: NodeId) -> Bytes {
        let mut out = Vec::with_capacity(256);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_node(node);
        self.put(&mut out);
        let sum = checksum(&out);
        out.put_u64(sum);
        out.into()
    }

    /// Reads what [`Record::seal`] wrote for `node`.
    pub(crate) fn open(bytes: &[u8], node: NodeId) -> Result<Self, RecordError> {
        if bytes.len() < MAGIC.len() + 1 || !bytes.starts_with(MAGIC) {
            return Err(RecordError::NotARecord);
        }
        let found = bytes[MAGIC.len()];
        if found != VERSION {
            return Err(RecordError::Version { found, known: VERSION });
        }
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(RecordError::Checksum)?;
        if checksum(body) != u64::from_be_bytes(*sum) {
            return Err(RecordError::Checksum);
        }
        let mut r = Reader::new(body.get(MAGIC.len() + 1..).unwrap_or_default());
        let owner = r.node("owner")?;
        if owner != node {
            return Err(RecordError::OtherNode(owner));
        }
        let record = Self::read(&mut r)?;
        r.finish("record")?;
        Ok(record)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.voteless));
        out.put_u64(self.ballot.round);
        out.put_instance(self.ballot.proposer);
        out.put_length(self.candidates.len());
        for c in &self.candidates {
            out.put_instance(*c);
        }
        put_vote_config(out, &self.votes);
        put_view(out, &self.view);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let voteless = r.u8("voteless")? != 0;
        let ballot = Ballot { round: r.u64("round")?, proposer: r.instance("proposer")? };
        let n = r.length("candidates", 2 * crate::NODES_MAX)?;
        let mut candidates = Vec::with_capacity(n.min(r.remaining() / 20));
        for _ in 0..n {
            candidates.push(r.instance("candidate")?);
        }
        Ok(Self { voteless, ballot, candidates, votes: vote_config(r)?, view: view(r)? })
    }
}

/// FNV-1a, 64 bits: notices torn and damaged records; no protection against forgery.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, NodeVotes, ViewNumber};
    use pils::Incarnation;

    fn sample() -> Record {
        let me = NodeInstance::new(NodeId::new(1), Incarnation::new(7));
        let ballot = Ballot { round: 4, proposer: me };
        let members = vec![Member { instance: me, joined: ViewNumber(2), votes: 1 }];
        let view = View {
            number: ViewNumber(3),
            ballot,
            members: members.clone(),
            previous: members,
            causes: Vec::new(),
            quorum: 1,
            level: 3,
            unproven: vec![NodeInstance::new(NodeId::new(3), Incarnation::new(5))],
        };
        let votes =
            VoteConfig { nodes: vec![NodeVotes::new(me.node, 1)], quorum: 1, ..VoteConfig::default() };
        Record { voteless: false, ballot, candidates: vec![me], votes, view }
    }

    #[test]
    fn a_record_reads_back() {
        let sealed = sample().seal(NodeId::new(1));
        assert_eq!(Record::open(&sealed, NodeId::new(1)), Ok(sample()));
        assert_eq!(Record::open(&sealed, NodeId::new(2)), Err(RecordError::OtherNode(NodeId::new(1))));
    }

    #[test]
    fn any_damaged_byte_and_any_truncation_is_noticed() {
        let sealed = sample().seal(NodeId::new(1));
        for i in 0..sealed.len() {
            let mut bad = sealed.to_vec();
            bad[i] ^= 0x10;
            assert!(Record::open(&bad, NodeId::new(1)).is_err(), "byte {i}");
            assert!(Record::open(&sealed[..i], NodeId::new(1)).is_err(), "length {i}");
        }
    }
}
