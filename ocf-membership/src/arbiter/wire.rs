//! What nodes and an arbiter say to each other, and what is remembered of a cluster.

use crate::{Ballot, Claim, Evidence, Grant, NODES_MAX, Verdict, ViewNumber};
use bytes::{BufMut, Bytes};
use pils::wire::{Malformed, ParseError, Reader, Writer};
use pils::{NodeId, NodeInstance};

const MAGIC: &[u8; 6] = b"ocfarb";
const VERSION: u8 = 1;

/// Longest name of a cluster, in bytes.
pub const CLUSTER_NAME_MAX: usize = 64;

/// A message between a node and an arbiter, without frame and authentication, which the driver adds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArbiterMessage {
    /// A node asks for its half.
    Ask {
        /// The cluster.
        cluster: String,
        /// What it claims.
        claim: Claim,
    },
    /// A node tells of an agreed view. Not answered.
    Note {
        /// The cluster.
        cluster: String,
        /// The view.
        view: Grant,
    },
    /// The arbiter answers.
    Answer {
        /// [`Claim::ballot`].
        ballot: Ballot,
        /// What it says.
        verdict: Verdict,
    },
}

impl ArbiterMessage {
    /// As it travels.
    #[must_use]
    pub fn emit(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        match self {
            Self::Ask { cluster, claim } => {
                out.put_u8(1);
                out.put_text(cluster);
                put_claim(&mut out, claim);
            }
            Self::Note { cluster, view } => {
                out.put_u8(2);
                out.put_text(cluster);
                put_grant(&mut out, view);
            }
            Self::Answer { ballot, verdict } => {
                out.put_u8(3);
                put_ballot(&mut out, *ballot);
                out.put_u8(match verdict {
                    Verdict::Granted(_) => 0,
                    Verdict::Refused => 1,
                    Verdict::Unavailable => 2,
                });
            }
        }
        out.into()
    }

    /// Reads what [`Self::emit`] wrote. Never panics, whatever the bytes are.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        if r.array::<6>("magic")? != *MAGIC || r.u8("version")? != VERSION {
            return Err(r.error("magic", Malformed::OutOfRange));
        }
        let message = match r.u8("kind")? {
            1 => Self::Ask { cluster: cluster(&mut r)?, claim: claim(&mut r)? },
            2 => Self::Note { cluster: cluster(&mut r)?, view: grant(&mut r)? },
            3 => {
                let ballot = ballot(&mut r)?;
                let verdict = match r.u8("verdict")? {
                    0 => Verdict::Granted(Evidence::TieBreaker),
                    1 => Verdict::Refused,
                    2 => Verdict::Unavailable,
                    _ => return Err(r.error("verdict", Malformed::OutOfRange)),
                };
                Self::Answer { ballot, verdict }
            }
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        };
        r.finish("message")?;
        Ok(message)
    }
}

fn cluster(r: &mut Reader<'_>) -> Result<String, ParseError> {
    let name = r.text("cluster")?;
    if name.is_empty() || name.len() > CLUSTER_NAME_MAX {
        return Err(r.error("cluster", Malformed::OutOfRange));
    }
    Ok(name.to_owned())
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.put_u64(ballot.round);
    out.put_instance(ballot.proposer);
}

fn ballot(r: &mut Reader<'_>) -> Result<Ballot, ParseError> {
    Ok(Ballot { round: r.u64("round")?, proposer: r.instance("proposer")? })
}

pub(crate) fn put_grant(out: &mut Vec<u8>, grant: &Grant) {
    out.put_u64(grant.number.0);
    put_nodes(out, &grant.nodes);
}

pub(crate) fn grant(r: &mut Reader<'_>) -> Result<Grant, ParseError> {
    Ok(Grant { number: ViewNumber(r.u64("number")?), nodes: nodes(r)? })
}

fn put_nodes(out: &mut Vec<u8>, nodes: &[NodeId]) {
    out.put_length(nodes.len());
    for node in nodes {
        out.put_node(*node);
    }
}

fn nodes(r: &mut Reader<'_>) -> Result<Vec<NodeId>, ParseError> {
    let n = r.length("nodes", NODES_MAX)?;
    let mut nodes: Vec<NodeId> = Vec::with_capacity(n.min(r.remaining() / 4));
    for _ in 0..n {
        let node = r.node("node")?;
        if nodes.last().is_some_and(|last| *last >= node) {
            return Err(r.error("nodes", Malformed::OutOfRange));
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(r.error("nodes", Malformed::OutOfRange));
    }
    Ok(nodes)
}

fn put_claim(out: &mut Vec<u8>, claim: &Claim) {
    put_ballot(out, claim.ballot);
    out.put_u64(claim.number.0);
    out.put_u64(claim.known.0);
    put_nodes(out, &claim.nodes);
    out.put_length(claim.absent.len());
    for instance in &claim.absent {
        out.put_instance(*instance);
    }
    out.put_u32(claim.hosts);
}

fn claim(r: &mut Reader<'_>) -> Result<Claim, ParseError> {
    let ballot = ballot(r)?;
    let (number, known) = (ViewNumber(r.u64("number")?), ViewNumber(r.u64("known")?));
    let nodes = nodes(r)?;
    let n = r.length("absent", 4 * NODES_MAX)?;
    let mut absent: Vec<NodeInstance> = Vec::with_capacity(n.min(r.remaining() / 20));
    for _ in 0..n {
        absent.push(r.instance("absent")?);
    }
    Ok(Claim { ballot, number, known, nodes, absent, hosts: r.u32("hosts")? })
}

/// What is written of a cluster, with a checksum.
pub(crate) fn seal(cluster: &str, grant: &Grant) -> Bytes {
    let mut out = Vec::with_capacity(96);
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_text(cluster);
    put_grant(&mut out, grant);
    let sum = crate::record::checksum(&out);
    out.put_u64(sum);
    out.into()
}

/// Reads what [`seal`] wrote.
pub(crate) fn open(bytes: &[u8]) -> Result<(String, Grant), ParseError> {
    let bad = |field| Reader::new(bytes).error(field, Malformed::OutOfRange);
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or_else(|| bad("checksum"))?;
    if crate::record::checksum(body) != u64::from_be_bytes(*sum) {
        return Err(bad("checksum"));
    }
    let mut r = Reader::new(body);
    if r.array::<6>("magic")? != *MAGIC || r.u8("version")? != VERSION {
        return Err(r.error("magic", Malformed::OutOfRange));
    }
    let read = (cluster(&mut r)?, grant(&mut r)?);
    r.finish("record")?;
    Ok(read)
}
