//! The two message formats of the cluster manager heartbeat, for tools that read what it wrote or speak to what is left of
//! it. They are not value codecs: a message is a list of fields in which a name may occur twice, of text, bytes, lists of
//! text and messages.
//!
//! ```
//! use pils::codec::Limits;
//! use pils::codec::heartbeat::{Field, Message};
//! let message = Message::parse(b">>>\nt=status\nst=active\n(1)uuid=AAEC\n<<<\n", &Limits::default())?;
//! assert_eq!(message.text("st"), Some("active"));
//! assert_eq!(message.field("uuid"), Some(&Field::Bytes(vec![0, 1, 2])));
//! assert_eq!(Message::parse(&message.to_netstrings(), &Limits::default())?, message);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Line format
//! `>>>`, a line `name=value` for each field, `<<<`. The name of what is not text has a number in front: `(1)` bytes, in
//! base64; `(2)` a message, whose line ends are one control character, by depth; `(3)` a list, as netstrings; `(4)` a
//! compressed message, which is kept as it is, in base64. A line end inside text is the character 19. A message in a shell
//! of its own may begin with `!^!` and the name of an interface, which is skipped.
//!
//! # Netstring format
//! `###`, a netstring `(number)name=value` for each field, `%%%`, and perhaps a netstring with the signature, which is kept
//! in [`Message::signature`], as is the field `auth` of the line format. Nobody checks it here: its key is heartbeat's.

use super::{Budget, DecodeError, DecodeReason, Limits};
use crate::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt::Write as _;

/// Messages within messages that heartbeat allows.
pub const DEPTH_MAX: usize = 16;
/// A line end inside text.
const LINE_END: u8 = 19;
/// What a line end is in a message at each depth.
const SEPARATORS: [u8; DEPTH_MAX] = [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 15, 16, 17, 18];

/// A message: fields in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Names and values, as they came.
    pub fields: Vec<(String, Field)>,
    /// `<number of the method> <hexadecimal token>`, as it came.
    pub signature: Option<String>,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Text.
    Text(String),
    /// Bytes, such as the 16 of a UUID.
    Bytes(Vec<u8>),
    /// A message.
    Message(Message),
    /// A list of texts.
    List(Vec<String>),
    /// A compressed message, as it came.
    Compressed(Vec<u8>),
}

/// Why a message cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A field's name is empty, or holds `=`, `(`, or a control character.
    #[error("{0:?} is not the name of a field")]
    Name(String),
    /// The line format has no way to say this.
    #[error("field {0:?} holds a control character that the line format uses itself")]
    Control(String),
    /// More than [`DEPTH_MAX`] messages within each other.
    #[error("nested deeper than {DEPTH_MAX} messages")]
    TooDeep,
}

impl Message {
    /// Reads a message in either format. `limits` count each field, and each text of a list, as a value; messages lie
    /// within each other at most [`DEPTH_MAX`] deep.
    ///
    /// # Errors
    /// If the bytes are not one message, or exceed a limit.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut budget = Budget::new(limits, bytes)?;
        let text = core::str::from_utf8(bytes)
            .map_err(|error| DecodeError { at: error.valid_up_to(), reason: DecodeReason::Encoding });
        if bytes.starts_with(b"###\n") {
            let (message, end) = netstrings(bytes, 0, &mut budget)?;
            return if end == bytes.len() {
                Ok(message)
            } else {
                Err(broken(end, "bytes after the message"))
            };
        }
        lines(text?, b'\n', 0, &mut budget)
    }

    /// The first text field of this name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.field(name) {
            Some(Field::Text(text)) => Some(text),
            Some(Field::Bytes(_) | Field::Message(_) | Field::List(_) | Field::Compressed(_)) | None => None,
        }
    }

    /// The first field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, field)| field)
    }

    /// The message as a struct. Of fields of one name the last counts; the signature is left out.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let value = |field: &Field| match field {
            Field::Text(text) => Value::Text(text.clone()),
            Field::Bytes(bytes) | Field::Compressed(bytes) => Value::Bytes(bytes.clone()),
            Field::Message(message) => message.to_value(),
            Field::List(items) => items.iter().cloned().map(Value::Text).collect(),
        };
        self.fields.iter().map(|(name, field)| (name.clone(), value(field))).collect()
    }

    /// Writes the line format.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn to_lines(&self) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::new();
        self.emit_lines(b'\n', 0, &mut out)?;
        Ok(out)
    }

    fn emit_lines(&self, separator: u8, depth: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        let below = *SEPARATORS.get(depth).ok_or(WriteError::TooDeep)?;
        out.extend_from_slice(b">>>");
        out.push(separator);
        for (name, field) in &self.fields {
            if !is_name(name) {
                return Err(WriteError::Name(name.clone()));
            }
            out.extend_from_slice(field.prefix().as_bytes());
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            let plain = |text: &[u8], out: &mut Vec<u8>| {
                let taken = |b: &u8| *b == LINE_END || SEPARATORS.contains(b) || *b == 0;
                if text.iter().any(taken) {
                    return Err(WriteError::Control(name.clone()));
                }
                out.extend(text.iter().map(|b| if *b == b'\n' { LINE_END } else { *b }));
                Ok(())
            };
            match field {
                Field::Text(text) => plain(text.as_bytes(), out)?,
                Field::Bytes(bytes) | Field::Compressed(bytes) => {
                    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                }
                Field::List(items) => plain(&emit_list(items), out)?,
                Field::Message(message) => message.emit_lines(below, depth + 1, out)?,
            }
            out.push(separator);
        }
        if let Some(signature) = &self.signature {
            out.extend_from_slice(b"auth=");
            out.extend_from_slice(signature.as_bytes());
            out.push(separator);
        }
        out.extend_from_slice(b"<<<");
        // a message within another ends where its field ends
        if depth == 0 {
            out.push(separator);
        }
        Ok(())
    }

    /// Writes the netstring format.
    #[must_use]
    pub fn to_netstrings(&self) -> Vec<u8> {
        let mut out = b"###\n".to_vec();
        for (name, field) in &self.fields {
            let mut body = format!("({}){name}=", field.number()).into_bytes();
            match field {
                Field::Text(text) => body.extend_from_slice(text.as_bytes()),
                Field::Bytes(bytes) | Field::Compressed(bytes) => body.extend_from_slice(bytes),
                Field::List(items) => body.extend(emit_list(items)),
                Field::Message(message) => body.extend(message.to_netstrings()),
            }
            put_netstring(&body, &mut out);
        }
        out.extend_from_slice(b"%%%\n");
        if let Some(signature) = &self.signature {
            put_netstring(signature.as_bytes(), &mut out);
        }
        out
    }
}

impl Field {
    const fn number(&self) -> u8 {
        match self {
            Self::Text(_) => 0,
            Self::Bytes(_) => 1,
            Self::Message(_) => 2,
            Self::List(_) => 3,
            Self::Compressed(_) => 4,
        }
    }

    fn prefix(&self) -> String {
        if self.number() == 0 { String::new() } else { format!("({})", self.number()) }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| !c.is_control() && c != '=' && c != '(' && c != ')')
}

fn put_netstring(body: &[u8], out: &mut Vec<u8>) {
    let mut length = String::new();
    write!(length, "{}:", body.len()).expect("a string takes all that is written");
    out.extend_from_slice(length.as_bytes());
    out.extend_from_slice(body);
    out.push(b',');
}

fn emit_list(items: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| put_netstring(item.as_bytes(), &mut out));
    out
}

const fn broken(at: usize, rule: &'static str) -> DecodeError {
    DecodeError { at, reason: DecodeReason::Grammar(rule) }
}

/// The netstring at `at`, and where it ends.
fn netstring(bytes: &[u8], at: usize) -> Result<(&[u8], usize), DecodeError> {
    let rest = &bytes[at..];
    let colon =
        rest.iter().take(11).position(|b| *b == b':').ok_or_else(|| broken(at, "expected a length"))?;
    let length = core::str::from_utf8(&rest[..colon]).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let length: usize = length.and_then(|d| d.parse().ok()).ok_or_else(|| broken(at, "expected a length"))?;
    let body = rest.get(colon + 1..).and_then(|r| r.get(..length));
    let body = body.ok_or_else(|| broken(at, "a netstring is longer than what is there"))?;
    if rest.get(colon + 1 + length) != Some(&b',') {
        return Err(broken(at + colon + 1 + length, "a netstring ends with a comma"));
    }
    Ok((body, at + colon + length + 2))
}

fn parse_list(bytes: &[u8], at: usize, budget: &mut Budget) -> Result<Field, DecodeError> {
    let (mut items, mut next) = (Vec::new(), 0);
    while next < bytes.len() {
        budget.value().map_err(|reason| DecodeError { at, reason })?;
        let (item, end) = netstring(bytes, next)?;
        let item = core::str::from_utf8(item);
        items.push(item.map_err(|_error| DecodeError { at, reason: DecodeReason::Encoding })?.to_owned());
        next = end;
    }
    Ok(Field::List(items))
}

/// The number of a field's type, its name and its value.
fn split_field(text: &[u8], at: usize) -> Result<(u8, &str, &[u8]), DecodeError> {
    let (number, rest) = match text {
        [b'(', digit @ b'0'..=b'4', b')', rest @ ..] => (digit - b'0', rest),
        [b'(', ..] => return Err(broken(at, "a type of field that heartbeat does not have")),
        rest => (0, rest),
    };
    let equals = rest.iter().position(|b| *b == b'=').ok_or_else(|| broken(at, "a field without a value"))?;
    let name = core::str::from_utf8(&rest[..equals]).ok().filter(|name| is_name(name));
    Ok((number, name.ok_or_else(|| broken(at, "not the name of a field"))?, &rest[equals + 1..]))
}

fn deeper(depth: usize, at: usize) -> Result<(), DecodeError> {
    let reason = DecodeReason::TooDeep(DEPTH_MAX);
    if depth >= DEPTH_MAX { Err(DecodeError { at, reason }) } else { Ok(()) }
}

fn lines(text: &str, separator: u8, depth: usize, budget: &mut Budget) -> Result<Message, DecodeError> {
    deeper(depth, 0)?;
    let below = SEPARATORS[depth];
    let mut message = Message::default();
    let (mut at, mut begun, mut ended) = (0, false, false);
    let mut all = text.split(char::from(separator));
    while let Some(line) = all.next() {
        match line {
            "!^!" if depth == 0 && !begun && at == 0 => {
                at += all.next().map_or(0, str::len) + 1;
            }
            ">>>" if !begun => begun = true,
            "<<<" if begun && !ended => ended = true,
            "" if ended => {}
            _ if !begun || ended => return Err(broken(at, "text outside >>> and <<<")),
            line => {
                budget.value().map_err(|reason| DecodeError { at, reason })?;
                let (number, name, value) = split_field(line.as_bytes(), at)?;
                let value = core::str::from_utf8(value).unwrap_or_default();
                let plain = || value.replace(char::from(LINE_END), "\n");
                if number == 0 && name == "auth" {
                    message.signature = Some(plain());
                } else {
                    let bytes = || STANDARD.decode(value).map_err(|_error| broken(at, "not base64"));
                    let field = match number {
                        0 => Field::Text(plain()),
                        1 => Field::Bytes(bytes()?),
                        2 => Field::Message(lines(value, below, depth + 1, budget)?),
                        3 => parse_list(plain().as_bytes(), at, budget)?,
                        _ => Field::Compressed(bytes()?),
                    };
                    message.fields.push((name.to_owned(), field));
                }
            }
        }
        at += line.len() + 1;
    }
    if ended { Ok(message) } else { Err(broken(text.len(), "a message without <<<")) }
}

/// The message at the start of `bytes`, and where it ends.
fn netstrings(bytes: &[u8], depth: usize, budget: &mut Budget) -> Result<(Message, usize), DecodeError> {
    deeper(depth, 0)?;
    if !bytes.starts_with(b"###\n") {
        return Err(broken(0, "expected ###"));
    }
    let (mut message, mut at) = (Message::default(), 4);
    while !bytes[at..].starts_with(b"%%%\n") {
        budget.value().map_err(|reason| DecodeError { at, reason })?;
        let (body, end) = netstring(bytes, at)?;
        let (number, name, value) = split_field(body, at)?;
        let field = match number {
            0 => {
                let text = core::str::from_utf8(value);
                let encoding = |_error| DecodeError { at, reason: DecodeReason::Encoding };
                Field::Text(text.map_err(encoding)?.to_owned())
            }
            1 => Field::Bytes(value.to_vec()),
            2 => {
                let (inner, end) = netstrings(value, depth + 1, budget)?;
                if end != value.len() {
                    return Err(broken(at, "bytes after a message"));
                }
                Field::Message(inner)
            }
            3 => parse_list(value, at, budget)?,
            _ => Field::Compressed(value.to_vec()),
        };
        message.fields.push((name.to_owned(), field));
        at = end;
    }
    at += 4;
    if at < bytes.len() {
        let (body, end) = netstring(bytes, at)?;
        let text = core::str::from_utf8(body);
        message.signature =
            Some(text.map_err(|_error| DecodeError { at, reason: DecodeReason::Encoding })?.to_owned());
        at = end;
    }
    Ok((message, at))
}
