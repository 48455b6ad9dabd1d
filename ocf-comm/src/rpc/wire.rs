//! Messages of calls between nodes. The layout is in `RPC.md`.
use super::{Body, Fault, Need};
use bytes::Bytes;
use core::time::Duration;
use pils::codec::{EncodeError, Limits};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const CANCEL: u8 = 3;
const OK: u8 = 0;
const FAULT: u8 = 1;
const DECLINED: u8 = 2;

/// Longest name of a method in bytes.
pub(crate) const METHOD_MAX: usize = 255;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// Run this.
    Request {
        /// Ascending per incarnation of the receiver and lane, from 1.
        id: u64,
        /// What is expected back.
        need: Need,
        /// How long the caller waits; whole milliseconds.
        deadline: Duration,
        /// Which method.
        method: String,
        /// Its arguments.
        body: Body,
    },
    /// What became of it.
    Answer {
        /// Of the request, in the same lane.
        id: u64,
        /// `None` if there is no answer.
        result: Option<Result<Body, Fault>>,
    },
    /// Nobody waits any more.
    Cancel {
        /// Of the request.
        id: u64,
    },
}

impl Message {
    pub(crate) fn emit(&self) -> Result<Bytes, EncodeError> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Request { id, need, deadline, method, body } => {
                out.push(REQUEST);
                out.push(match need {
                    Need::Nothing => 0,
                    Need::Optional => 1,
                    Need::Required => 2,
                });
                out.put_varint(*id);
                out.put_varint(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX >> 2));
                out.put_text(method);
                out.put_prefixed(&[]);
                body.emit(&mut out)?;
            }
            Self::Answer { id, result } => {
                out.push(ANSWER);
                out.put_varint(*id);
                out.push(match result {
                    Some(Ok(_)) => OK,
                    Some(Err(_)) => FAULT,
                    None => DECLINED,
                });
                out.put_prefixed(&[]);
                match result {
                    Some(Ok(body)) => body.emit(&mut out)?,
                    Some(Err(fault)) => {
                        out.extend_from_slice(&fault.code.to_be_bytes());
                        out.put_text(&fault.text);
                    }
                    None => {}
                }
            }
            Self::Cancel { id } => {
                out.push(CANCEL);
                out.put_varint(*id);
            }
        }
        Ok(out.into())
    }

    /// Reads a message from bytes that may be hostile.
    pub(crate) fn parse(bytes: &Bytes, limits: &Limits) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        match r.u8("kind")? {
            REQUEST => {
                let need = match r.u8("need")? & 3 {
                    0 => Need::Nothing,
                    1 => Need::Optional,
                    _ => Need::Required,
                };
                let id = r.varint("id")?;
                let deadline = Duration::from_millis(r.varint("deadline")?);
                let method = r.text("method")?;
                if method.len() > METHOD_MAX {
                    return Err(r.error("method", Malformed::OutOfRange));
                }
                let method = method.to_owned();
                r.bytes("extension")?;
                let body = parse_body(&r, bytes, limits)?;
                Ok(Self::Request { id, need, deadline, method, body })
            }
            ANSWER => {
                let id = r.varint("id")?;
                let status = r.u8("status")?;
                r.bytes("extension")?;
                let result = match status {
                    OK => Some(Ok(parse_body(&r, bytes, limits)?)),
                    FAULT => {
                        let code = i32::from_be_bytes(r.array("fault code")?);
                        Some(Err(Fault::new(code, r.text("fault text")?)))
                    }
                    DECLINED => None,
                    _ => return Err(r.error("status", Malformed::OutOfRange)),
                };
                Ok(Self::Answer { id, result })
            }
            CANCEL => Ok(Self::Cancel { id: r.varint("id")? }),
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}

fn parse_body(r: &Reader<'_>, bytes: &Bytes, limits: &Limits) -> Result<Body, ParseError> {
    Body::parse(&bytes.slice(r.position()..), limits).ok_or_else(|| r.error("body", Malformed::OutOfRange))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Message> {
        let deadline = Duration::from_millis(1500);
        let request =
            |need, body| Message::Request { id: 70, need, deadline, method: "a.b".to_owned(), body };
        vec![
            request(Need::Nothing, Body::default()),
            request(Need::Optional, Body::Bytes(Bytes::from_static(b"\0\xff"))),
            request(Need::Required, Body::Value(vec![pils::Value::from("x")].into())),
            Message::Answer { id: 1, result: Some(Ok(Body::Value(7.into()))) },
            Message::Answer { id: 1, result: Some(Err(Fault::new(-5, "no"))) },
            Message::Answer { id: 1, result: None },
            Message::Cancel { id: 1 << 40 },
        ]
    }

    #[test]
    fn messages_round_trip_and_ignore_what_a_newer_node_adds() {
        for message in examples() {
            let bytes = message.emit().unwrap();
            assert_eq!(Message::parse(&bytes, &Limits::default()), Ok(message));
        }
        // A request with an extension, and a cancel with bytes after it.
        let mut newer = vec![1, 2 | 0x80, 5, 10];
        newer.put_text("m");
        newer.put_prefixed(b"new");
        newer.extend_from_slice(&[1, 9]);
        let parsed = Message::parse(&newer.into(), &Limits::default()).unwrap();
        assert!(
            matches!(parsed, Message::Request { id: 5, need: Need::Required, body: Body::Bytes(b), .. } if b[..] == [9])
        );
        let cancel = Message::parse(&Bytes::from_static(&[3, 4, 1, 2]), &Limits::default());
        assert_eq!(cancel, Ok(Message::Cancel { id: 4 }));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_panic(kind in 0..5_u8, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = vec![kind];
            bytes.extend(rest);
            if let Ok(message) = Message::parse(&bytes.into(), &Limits::default()) {
                let again = message.emit().unwrap();
                let back = Message::parse(&again, &Limits::default()).unwrap();
                prop_assert_eq!(format!("{back:?}"), format!("{message:?}"));
            }
        }
    }
}
