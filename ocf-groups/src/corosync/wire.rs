//! Layout of the messages in the process group. See `PROTOCOL.md`, section 15.

use crate::wire::{Frame, Item};
use bytes::{BufMut, Bytes, BytesMut};
use ocf_membership::{View, ViewNumber};
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer};

/// Batches of version 1 had no number.
const VERSION: u8 = 2;
const REPORT: u8 = 1;
const INSTALL: u8 = 2;
const BATCH: u8 = 3;
const CARRIED: u8 = 4;

/// Where a member stands in a view: equal at two members if and only if they were delivered the same in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    pub(super) view: ViewNumber,
    /// Items that were delivered.
    pub(super) sequence: u64,
    /// Of their senders, in order. Items of one sender come in order, so this tells which they were.
    pub(super) digest: u64,
    /// The view in which this member joined.
    pub(super) joined: ViewNumber,
}

/// What each process says of itself when the configuration changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) instance: NodeInstance,
    /// The newest view that its node knows of.
    pub(super) known: ViewNumber,
    /// None if it has no state.
    pub(super) stand: Option<Stand>,
}

/// A message of the process group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Report(Report),
    Install {
        view: View,
        /// The table of groups as the old view ended, if anybody goes on from it.
        table: Option<Bytes>,
    },
    Batch {
        view: ViewNumber,
        /// Items that their sender sent in this view before.
        before: u64,
        items: Vec<Item>,
    },
    /// For one node alone.
    Carried {
        to: NodeInstance,
        message: Bytes,
    },
}

impl Message {
    pub(super) fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::Report(report) => {
                out.put_u8(REPORT);
                out.put_instance(report.instance);
                out.put_varint(report.known.0);
                out.put_u8(u8::from(report.stand.is_some()));
                if let Some(stand) = report.stand {
                    out.put_varint(stand.view.0);
                    out.put_varint(stand.sequence);
                    out.put_u64(stand.digest);
                    out.put_varint(stand.joined.0);
                }
            }
            Self::Install { view, table } => {
                out.put_u8(INSTALL);
                let mut bytes = Vec::new();
                view.write(&mut bytes);
                out.put_slice(&bytes);
                out.put_u8(u8::from(table.is_some()));
                out.put_slice(table.as_deref().unwrap_or_default());
            }
            Self::Batch { view, before, items } => {
                out.put_u8(BATCH);
                out.put_varint(view.0);
                out.put_varint(*before);
                items.iter().for_each(|item| item.write(&mut out));
            }
            Self::Carried { to, message } => {
                out.put_u8(CARRIED);
                out.put_instance(*to);
                out.put_slice(message);
            }
        }
        out.freeze()
    }

    pub(super) fn read(whole: &Bytes) -> Result<Self, ParseError> {
        let mut r = Reader::new(whole);
        if r.u8("version")? != VERSION {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let message = match r.u8("kind")? {
            REPORT => Self::Report(read_report(&mut r)?),
            INSTALL => {
                let view = View::read(&mut r)?;
                if view.number.0 > VARINT_MAX {
                    return Err(r.error("number", Malformed::OutOfRange));
                }
                let has_table = r.u8("table")? != 0;
                let table = has_table.then(|| whole.slice(r.position()..));
                if has_table {
                    r.rest();
                }
                Self::Install { view, table }
            }
            BATCH => {
                let view = ViewNumber(r.varint("view")?);
                let before = r.varint("before")?;
                let mut items = Vec::new();
                while !r.is_empty() {
                    let Frame::Own(item) = Frame::read(&mut r, whole)? else {
                        return Err(r.error("item", Malformed::OutOfRange));
                    };
                    items.push(item);
                }
                Self::Batch { view, before, items }
            }
            CARRIED => {
                let to = r.instance("to")?;
                let message = whole.slice(r.position()..);
                r.rest();
                Self::Carried { to, message }
            }
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        };
        r.finish("message")?;
        Ok(message)
    }
}

fn read_report(r: &mut Reader<'_>) -> Result<Report, ParseError> {
    let instance = r.instance("instance")?;
    let known = ViewNumber(r.varint("known")?);
    let stand = if r.u8("stand")? == 0 {
        None
    } else {
        Some(Stand {
            view: ViewNumber(r.varint("view")?),
            sequence: r.varint("sequence")?,
            digest: r.u64("digest")?,
            joined: ViewNumber(r.varint("joined")?),
        })
    };
    Ok(Report { instance, known, stand })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_membership::{Ballot, Member};
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    fn instance(n: u32) -> NodeInstance {
        NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 90))
    }

    #[test]
    fn what_is_written_is_read() {
        let stand = Stand { view: ViewNumber(9), sequence: 70, digest: u64::MAX, joined: ViewNumber(4) };
        let number = ViewNumber(9 << 16);
        let view = View {
            number,
            ballot: Ballot { round: 9, proposer: instance(1) },
            members: vec![Member { instance: instance(1), joined: number, votes: 1 }],
            previous: Vec::new(),
            causes: Vec::new(),
            quorum: 1,
            level: 1,
            unproven: Vec::new(),
        };
        let items = vec![
            Item::Join { local: 7, name: "g".into() },
            Item::Data { group: 1, local: 7, guarantee: crate::Guarantee::Fifo, payload: "hello".into() },
        ];
        for message in [
            Message::Report(Report { instance: instance(3), known: ViewNumber(9), stand: Some(stand) }),
            Message::Report(Report { instance: instance(3), known: ViewNumber(0), stand: None }),
            Message::Install { view: view.clone(), table: None },
            Message::Install { view, table: Some(Bytes::from_static(b"table")) },
            Message::Batch { view: number, before: 300, items },
            Message::Carried { to: instance(2), message: Bytes::from_static(b"piece") },
        ] {
            assert_eq!(Message::read(&message.write()), Ok(message));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            if let Ok(message) = Message::read(&bytes) {
                prop_assert_eq!(Message::read(&message.write()), Ok(message));
            }
        }
    }
}
