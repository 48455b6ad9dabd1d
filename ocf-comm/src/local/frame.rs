//! What a server and a local program say to each other, for those who write either in another way, or a fuzz target. The layout
//! is in `RPC.md`.

use crate::rpc::{Body, Fault};
use bytes::{Buf as _, Bytes, BytesMut};
use pils::codec::Limits;
use pils::topic::{Delivery, Event, Pattern};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use pils::{NodeInstance, Value, ValueCodec as _};
use std::sync::Arc;

/// The protocol version that this library speaks.
pub(crate) const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"OCFL";
/// Bytes in front of each frame: its length.
pub(crate) const HEADER: usize = 4;
/// Longest name of a client, service, method or topic in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// What the framing of a message may add to its size.
pub(crate) const FRAMING_MAX: usize = 1024;

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The first frame.
    Hello {
        /// Oldest version spoken.
        oldest: u8,
        /// Newest version spoken.
        newest: u8,
        /// What the client calls itself.
        name: String,
    },
    /// Run a method.
    Call {
        /// Chosen by the client; not in use.
        id: u64,
        /// False if nothing is to come back.
        answer: bool,
        /// Which service; empty for the dispatcher's methods.
        service: String,
        /// Which method.
        method: String,
        /// With what.
        body: Body,
    },
    /// Nobody waits for this answer any more.
    Cancel {
        /// Of the call.
        id: u64,
    },
    /// Deliver events of these topics. Answered like a call.
    Subscribe {
        /// Chosen by the client; names the subscription too.
        id: u64,
        /// Which topics.
        pattern: Pattern,
    },
    /// No more events of this subscription.
    Unsubscribe {
        /// Of the subscription.
        id: u64,
    },
    /// Publish an event. Answered like a call, with its number.
    Publish {
        /// Chosen by the client.
        id: u64,
        /// On which topic.
        topic: String,
        /// Named values.
        properties: Value,
        /// Opaque.
        data: Bytes,
    },
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// The client is registered.
    Welcome {
        /// The version to speak.
        version: u8,
        /// Number of the client in this life of the server.
        client: u64,
        /// Which node serves, if it is one.
        node: Option<NodeInstance>,
        /// Largest frame the server takes.
        frame_max: usize,
    },
    /// The client is not served; the connection ends.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// What became of a call.
    Answer {
        /// Of the call.
        id: u64,
        /// Its result.
        result: Result<Body, Fault>,
    },
    /// Something on a topic.
    Delivered {
        /// Of the subscription.
        id: u64,
        /// What.
        delivery: Delivery,
    },
    /// Something from a service.
    Stream {
        /// Which service.
        service: String,
        /// What.
        body: Body,
    },
    /// Events of a service are missing here, because the client was too slow.
    Lost {
        /// Which service.
        service: String,
        /// How many.
        lost: u64,
    },
}

fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = vec![0; HEADER];
    write(&mut out);
    let length = u32::try_from(out.len() - HEADER).expect("no frame is as long as 4 GiB");
    out[..HEADER].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// The body, or nil in its place if it has no form in bytes: a value deeper than any codec takes.
fn put_body(out: &mut Vec<u8>, body: &Body) {
    let at = out.len();
    if body.emit(out).is_err() {
        out.truncate(at);
        Body::default().emit(out).expect("nil can be written");
    }
}

fn name(r: &mut Reader<'_>, field: &'static str) -> Result<String, ParseError> {
    let text = r.text(field)?;
    if text.len() > NAME_MAX { Err(r.error(field, Malformed::OutOfRange)) } else { Ok(text.to_owned()) }
}

fn body(r: &Reader<'_>, frame: &Bytes) -> Result<Body, ParseError> {
    let limits = Limits { bytes_max: frame.len(), ..Limits::default() };
    Body::parse(&frame.slice(r.position()..), &limits).ok_or_else(|| r.error("body", Malformed::OutOfRange))
}

fn value(r: &mut Reader<'_>, field: &'static str) -> Result<Value, ParseError> {
    let bytes = r.bytes(field)?;
    let limits = Limits { bytes_max: bytes.len(), ..Limits::default() };
    pils::codec::Binary.decode(bytes, &limits).map_err(|_why| r.error(field, Malformed::OutOfRange))
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let bytes = pils::codec::Binary.encode(value);
    out.put_prefixed(
        &bytes.unwrap_or_else(|_deep| pils::codec::Binary.encode(&Value::Nil).unwrap_or_default()),
    );
}

impl Request {
    /// The whole frame, its length included.
    #[must_use]
    pub fn emit(&self) -> Bytes {
        framed(|out| match self {
            Self::Hello { oldest, newest, name } => {
                out.push(1);
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&[*oldest, *newest]);
                out.put_text(name);
            }
            Self::Call { id, answer, service, method, body } => {
                out.push(2);
                out.put_varint(*id);
                out.push(u8::from(*answer));
                out.put_text(service);
                out.put_text(method);
                out.put_prefixed(&[]);
                put_body(out, body);
            }
            Self::Cancel { id } => {
                out.push(3);
                out.put_varint(*id);
            }
            Self::Subscribe { id, pattern } => {
                out.push(4);
                out.put_varint(*id);
                let (kind, topic) = match pattern {
                    Pattern::Exact(topic) => (0, topic),
                    Pattern::Prefix(topic) => (1, topic),
                };
                out.push(kind);
                out.put_text(topic);
            }
            Self::Unsubscribe { id } => {
                out.push(5);
                out.put_varint(*id);
            }
            Self::Publish { id, topic, properties, data } => {
                out.push(6);
                out.put_varint(*id);
                out.put_text(topic);
                put_value(out, properties);
                out.put_prefixed(&[]);
                out.extend_from_slice(data);
            }
        })
    }

    /// Reads a frame without its length, from bytes that may be hostile.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(frame: &Bytes) -> Result<Self, ParseError> {
        let mut r = Reader::new(frame);
        match r.u8("kind")? {
            1 => {
                if r.array::<4>("magic")? != MAGIC {
                    return Err(r.error("magic", Malformed::OutOfRange));
                }
                let (oldest, newest) = (r.u8("oldest version")?, r.u8("newest version")?);
                Ok(Self::Hello { oldest, newest, name: name(&mut r, "name")? })
            }
            2 => {
                let id = r.varint("id")?;
                let answer = r.u8("flags")? & 1 == 1;
                let (service, method) = (name(&mut r, "service")?, name(&mut r, "method")?);
                r.bytes("extension")?;
                Ok(Self::Call { id, answer, service, method, body: body(&r, frame)? })
            }
            3 => Ok(Self::Cancel { id: r.varint("id")? }),
            4 => {
                let id = r.varint("id")?;
                let kind = r.u8("pattern")?;
                let topic = name(&mut r, "topic")?;
                let pattern = match kind {
                    0 => Pattern::Exact(topic),
                    1 => Pattern::Prefix(topic),
                    _ => return Err(r.error("pattern", Malformed::OutOfRange)),
                };
                Ok(Self::Subscribe { id, pattern })
            }
            5 => Ok(Self::Unsubscribe { id: r.varint("id")? }),
            6 => {
                let id = r.varint("id")?;
                let topic = name(&mut r, "topic")?;
                let properties = value(&mut r, "properties")?;
                r.bytes("extension")?;
                Ok(Self::Publish { id, topic, properties, data: frame.slice(r.position()..) })
            }
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}

impl Response {
    /// The whole frame, its length included.
    #[must_use]
    pub fn emit(&self) -> Bytes {
        framed(|out| match self {
            Self::Welcome { version, client, node, frame_max } => {
                out.push(0x81);
                out.push(*version);
                out.put_varint(*client);
                out.put_length(*frame_max);
                out.push(u8::from(node.is_some()));
                if let Some(node) = node {
                    out.put_instance(*node);
                }
            }
            Self::Refused { reason } => {
                out.push(0x82);
                out.put_text(reason);
            }
            Self::Answer { id, result } => {
                out.push(0x83);
                out.put_varint(*id);
                out.push(u8::from(result.is_err()));
                out.put_prefixed(&[]);
                match result {
                    Ok(body) => put_body(out, body),
                    Err(fault) => {
                        out.extend_from_slice(&fault.code.to_be_bytes());
                        out.put_text(&fault.text);
                    }
                }
            }
            Self::Delivered { id, delivery: Delivery::Lost(lost) } => {
                out.push(0x84);
                out.put_varint(*id);
                out.push(1);
                out.put_varint(*lost);
            }
            Self::Delivered { id, delivery: Delivery::Event(event) } => {
                out.push(0x84);
                out.put_varint(*id);
                out.push(0);
                out.put_varint(event.id);
                out.put_varint(event.regarding.map_or(0, |id| id + 1));
                out.put_varint(event.seq);
                out.put_text(&event.topic);
                put_value(out, &Value::Struct(event.properties.clone()));
                out.put_prefixed(&[]);
                out.extend_from_slice(&event.data);
            }
            Self::Stream { service, body } => {
                out.push(0x85);
                out.put_text(service);
                out.put_prefixed(&[]);
                put_body(out, body);
            }
            Self::Lost { service, lost } => {
                out.push(0x86);
                out.put_text(service);
                out.put_varint(*lost);
            }
        })
    }

    /// Reads a frame without its length, from bytes that may be hostile.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(frame: &Bytes) -> Result<Self, ParseError> {
        let mut r = Reader::new(frame);
        match r.u8("kind")? {
            0x81 => {
                let version = r.u8("version")?;
                let client = r.varint("client")?;
                let frame_max = usize::try_from(r.varint("frame_max")?).unwrap_or(usize::MAX);
                let node = if r.u8("node")? == 1 { Some(r.instance("node")?) } else { None };
                Ok(Self::Welcome { version, client, node, frame_max })
            }
            0x82 => Ok(Self::Refused { reason: r.text("reason")?.to_owned() }),
            0x83 => {
                let id = r.varint("id")?;
                let failed = r.u8("status")? != 0;
                r.bytes("extension")?;
                let result = if failed {
                    let code = i32::from_be_bytes(r.array("fault code")?);
                    Err(Fault::new(code, r.text("fault text")?))
                } else {
                    Ok(body(&r, frame)?)
                };
                Ok(Self::Answer { id, result })
            }
            0x84 => {
                let id = r.varint("id")?;
                if r.u8("delivery")? == 1 {
                    return Ok(Self::Delivered { id, delivery: Delivery::Lost(r.varint("lost")?) });
                }
                let (event, regarding) = (r.varint("event")?, r.varint("regarding")?);
                let seq = r.varint("seq")?;
                let topic: Arc<str> = Arc::from(name(&mut r, "topic")?);
                let Value::Struct(properties) = value(&mut r, "properties")? else {
                    return Err(r.error("properties", Malformed::OutOfRange));
                };
                r.bytes("extension")?;
                let data = frame.slice(r.position()..);
                let event =
                    Event { id: event, regarding: regarding.checked_sub(1), topic, seq, properties, data };
                Ok(Self::Delivered { id, delivery: Delivery::Event(Arc::new(event)) })
            }
            0x85 => {
                let service = name(&mut r, "service")?;
                r.bytes("extension")?;
                Ok(Self::Stream { service, body: body(&r, frame)? })
            }
            0x86 => Ok(Self::Lost { service: name(&mut r, "service")?, lost: r.varint("lost")? }),
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    frame_max: usize,
}

/// From so many bytes on a frame is not copied, but keeps what it was read into.
const KEPT: usize = 16 << 10;

impl Frames {
    /// Takes frames of up to `frame_max` bytes.
    #[must_use]
    pub fn new(frame_max: usize) -> Self {
        Self { buffer: BytesMut::new(), frame_max }
    }

    /// Adds what was read. The memory is what is there, never what is announced.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// If a frame is longer than allowed: the stream cannot go on.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, ParseError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > self.frame_max {
            return Err(ParseError { field: "frame", at: 0, reason: Malformed::OutOfRange });
        }
        let Some(frame) = self.buffer.get(HEADER..HEADER + length) else { return Ok(None) };
        if length >= KEPT {
            self.buffer.advance(HEADER);
            return Ok(Some(self.buffer.split_to(length).freeze()));
        }
        let frame = Bytes::copy_from_slice(frame);
        self.buffer.advance(HEADER + length);
        Ok(Some(frame))
    }

    /// Bytes that are not a whole frame yet, or were not asked for.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    fn requests() -> Vec<Request> {
        let text = || "a.b".to_owned();
        vec![
            Request::Hello { oldest: 1, newest: 3, name: text() },
            Request::Call {
                id: 9,
                answer: true,
                service: text(),
                method: text(),
                body: Body::Value(5.into()),
            },
            Request::Call {
                id: 1 << 33,
                answer: false,
                service: String::new(),
                method: text(),
                body: Body::default(),
            },
            Request::Cancel { id: 3 },
            Request::Subscribe { id: 4, pattern: Pattern::exact("link") },
            Request::Subscribe { id: 4, pattern: Pattern::all() },
            Request::Unsubscribe { id: 4 },
            Request::Publish {
                id: 5,
                topic: text(),
                properties: Value::empty_struct(),
                data: Bytes::from_static(b"x"),
            },
        ]
    }

    fn responses() -> Vec<Response> {
        let node = NodeInstance::new(NodeId::new(3), Incarnation::new(9));
        let event = Event {
            id: 7,
            regarding: Some(0),
            topic: Arc::from("link"),
            seq: 2,
            properties: [("up".to_owned(), true.into())].into(),
            data: Bytes::from_static(b"d"),
        };
        vec![
            Response::Welcome { version: 1, client: 8, node: Some(node), frame_max: 1 << 20 },
            Response::Welcome { version: 1, client: 8, node: None, frame_max: 1 << 20 },
            Response::Refused { reason: "no".to_owned() },
            Response::Answer { id: 2, result: Ok(Body::Bytes(Bytes::from_static(b"z"))) },
            Response::Answer { id: 2, result: Err(Fault::new(-1, "no")) },
            Response::Delivered { id: 1, delivery: Delivery::Lost(12) },
            Response::Delivered { id: 1, delivery: Delivery::Event(Arc::new(event)) },
            Response::Stream { service: "locks".to_owned(), body: Body::Value("granted".into()) },
            Response::Lost { service: "locks".to_owned(), lost: 3 },
        ]
    }

    #[test]
    fn frames_round_trip_however_the_stream_is_cut() {
        let stream: Vec<u8> = requests().iter().flat_map(|r| r.emit().to_vec()).collect();
        for size in [1, 3, 7, 1000] {
            let mut frames = Frames::new(1 << 16);
            let mut got = Vec::new();
            for piece in stream.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    got.push(Request::parse(&frame).unwrap());
                }
            }
            assert_eq!(got, requests());
            assert_eq!(frames.waiting(), 0);
        }
        for response in responses() {
            assert_eq!(Response::parse(&response.emit().slice(HEADER..)), Ok(response));
        }
    }

    #[test]
    fn a_frame_that_is_announced_too_long_ends_the_stream_before_it_takes_memory() {
        let mut frames = Frames::new(100);
        frames.push(&[0xff; 8]);
        assert!(frames.next_frame().is_err());
        assert!(frames.buffer.capacity() < 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_panic(
            kind in prop_oneof![0..8_u8, 0x80..0x88_u8],
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = vec![kind];
            bytes.extend(rest);
            let bytes = Bytes::from(bytes);
            if let Ok(request) = Request::parse(&bytes) {
                let again = Request::parse(&request.emit().slice(HEADER..)).unwrap();
                prop_assert_eq!(format!("{again:?}"), format!("{request:?}"));
            }
            if let Ok(response) = Response::parse(&bytes) {
                Response::parse(&response.emit().slice(HEADER..)).unwrap();
            }
        }
    }
}
