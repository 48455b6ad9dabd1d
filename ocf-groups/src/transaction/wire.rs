//! Layout of commands, of the state and of journal records. See `PROTOCOL.md`, section 11.

use super::*;
use crate::replicated::wire::{
    put_birth, put_time_or_none, read_birth, read_count, read_flag, read_time_or_none, read_u32,
};
use pils::wire::{Malformed, Writer};

const BEGIN: u8 = 1;
const VOTE: u8 = 2;
const ABORT: u8 = 3;
const ACK: u8 = 4;
const REPORT: u8 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Begin { participants: Vec<Site>, content: Bytes, limit: Option<Duration> },
    Vote { txn: TxnId, yes: bool },
    Abort { txn: TxnId },
    Ack { txn: TxnId },
    Report { txn: TxnId, parties: Parties, committed: bool },
}

impl Layout for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Begin { participants, content, limit } => {
                out.push(BEGIN);
                put_sites(out, participants);
                put_time_or_none(out, *limit);
                out.extend_from_slice(content);
            }
            Self::Vote { txn, yes } => {
                out.push(VOTE);
                put_txn(out, *txn);
                out.push(u8::from(*yes));
            }
            Self::Abort { txn } => {
                out.push(ABORT);
                put_txn(out, *txn);
            }
            Self::Ack { txn } => {
                out.push(ACK);
                put_txn(out, *txn);
            }
            Self::Report { txn, parties, committed } => {
                out.push(REPORT);
                put_txn(out, *txn);
                parties.write(out);
                out.push(u8::from(*committed));
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match r.u8("kind")? {
            BEGIN => {
                let participants = read_sites(r)?;
                let limit = read_time_or_none(r)?;
                Self::Begin { participants, limit, content: Bytes::copy_from_slice(r.rest()) }
            }
            VOTE => Self::Vote { txn: read_txn(r)?, yes: read_flag(r)? },
            ABORT => Self::Abort { txn: read_txn(r)? },
            ACK => Self::Ack { txn: read_txn(r)? },
            REPORT => {
                let (txn, parties) = (read_txn(r)?, Parties::read(r)?);
                Self::Report { txn, parties, committed: read_flag(r)? }
            }
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        })
    }
}

fn put_txn(out: &mut Vec<u8>, txn: TxnId) {
    put_birth(out, txn.birth);
    out.put_varint(txn.number);
}

fn read_txn(r: &mut Reader<'_>) -> Result<TxnId, ParseError> {
    Ok(TxnId { birth: read_birth(r)?, number: r.varint("transaction")? })
}

fn put_site(out: &mut Vec<u8>, site: Site) {
    out.put_node(site.node);
    out.put_varint(u64::from(site.local));
}

fn read_site(r: &mut Reader<'_>) -> Result<Site, ParseError> {
    Ok(Site { node: r.node("node")?, local: read_u32(r, "local")? })
}

fn put_sites<'a>(out: &mut Vec<u8>, sites: impl IntoIterator<Item = &'a Site, IntoIter: ExactSizeIterator>) {
    let sites = sites.into_iter();
    out.put_length(sites.len());
    sites.for_each(|site| put_site(out, *site));
}

fn read_sites<T: FromIterator<Site>>(r: &mut Reader<'_>) -> Result<T, ParseError> {
    let n = read_count(r, 5)?;
    (0..n).map(|_| read_site(r)).collect()
}

impl Parties {
    fn write(&self, out: &mut Vec<u8>) {
        put_site(out, self.coordinator);
        put_sites(out, &self.participants);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { coordinator: read_site(r)?, participants: read_sites(r)? })
    }
}

impl Transactions {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_varint(self.next);
        out.put_length(self.live.len());
        for (id, txn) in &self.live {
            put_txn(out, *id);
            txn.parties.write(out);
            match &txn.state {
                State::Preparing { due, content, yes } => {
                    out.push(0);
                    put_time_or_none(out, *due);
                    out.put_prefixed(content);
                    put_sites(out, yes);
                }
                State::Committed { acked } => {
                    out.push(1);
                    put_sites(out, acked);
                }
                State::Recovering { reported } => {
                    out.push(2);
                    put_sites(out, reported);
                }
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = r.varint("next")?;
        let mut live = BTreeMap::new();
        for _ in 0..r.length("live", LIVE_MAX)? {
            let id = read_txn(r)?;
            let parties = Parties::read(r)?;
            let state = match r.u8("state")? {
                0 => {
                    let due = read_time_or_none(r)?;
                    let content = Bytes::copy_from_slice(r.bytes("content")?);
                    State::Preparing { due, content, yes: read_sites(r)? }
                }
                1 => State::Committed { acked: read_sites(r)? },
                2 => State::Recovering { reported: read_sites(r)? },
                _ => return Err(r.error("state", Malformed::OutOfRange)),
            };
            live.insert(id, Txn { parties, state });
        }
        Ok(Self { next, live })
    }
}

impl Record {
    /// The bytes for a journal: one version byte, then the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![1];
        match self {
            Self::Prepared { txn, parties, content } => {
                out.push(0);
                put_txn(&mut out, *txn);
                parties.write(&mut out);
                out.extend_from_slice(content);
            }
            Self::Committed { txn, parties, content } => {
                out.push(1);
                put_txn(&mut out, *txn);
                parties.write(&mut out);
                out.extend_from_slice(content);
            }
            Self::Forget { txn } => {
                out.push(2);
                put_txn(&mut out, *txn);
            }
        }
        out
    }

    /// Reads what [`Record::to_bytes`] wrote.
    ///
    /// # Errors
    /// The bytes are no record of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        if r.u8("version")? != 1 {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let kind = r.u8("kind")?;
        let txn = read_txn(&mut r)?;
        if kind == 2 {
            r.finish("record")?;
            return Ok(Self::Forget { txn });
        }
        let parties = Parties::read(&mut r)?;
        let content = Bytes::copy_from_slice(r.rest());
        match kind {
            0 => Ok(Self::Prepared { txn, parties, content }),
            1 => Ok(Self::Committed { txn, parties, content }),
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}
