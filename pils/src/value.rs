//! The value that configuration, control messages and remote calls are made of.
//!
//! ```
//! use pils::Value;
//! let ports = Value::from(vec![Value::from(694), Value::from(695)]);
//! let media = Value::from([("tty", Value::from("/dev/ttyS1")), ("ports", ports)]);
//! assert_eq!(media.get("ports").and_then(|p| p.at(1)), Some(&Value::Int(695)));
//! assert_eq!(media.to_string(), r#"{"ports": [694, 695], "tty": "/dev/ttyS1"}"#);
//! let name: Result<String, _> = media.try_into();
//! assert_eq!(name.unwrap_err().to_string(), "expected text, found a struct");
//! ```
//!
//! Whatever serde can write or read passes through a value, and so through any codec: [`to_value`] and [`from_value`].

mod convert;
mod datetime;
mod from;
mod mismatch;
mod serde;
mod to;

pub use convert::WrongKind;
pub use datetime::{BadDateTime, DateTime};
pub use from::from_value;
pub use mismatch::Mismatch;
pub use to::to_value;

use core::fmt::{self, Write as _};
use std::collections::BTreeMap;

/// One value, without a schema. The kinds are those of XML-RPC with its usual extensions `nil` and `i8`.
///
/// Built locally it may be as deep as the caller makes it, but no codec writes or reads more than
/// [`DEPTH_MAX`](crate::codec::DEPTH_MAX) levels.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// No value.
    #[default]
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number. Not every codec takes infinities and NaN.
    Double(f64),
    /// Text.
    Text(String),
    /// Opaque bytes.
    Bytes(Vec<u8>),
    /// A date and time, without a zone.
    DateTime(DateTime),
    /// Values in order.
    List(Vec<Self>),
    /// Named values, ordered by name; a name occurs once.
    Struct(BTreeMap<String, Self>),
}

/// Which kind a [`Value`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Value::Nil`].
    Nil,
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Int`].
    Int,
    /// [`Value::Double`].
    Double,
    /// [`Value::Text`].
    Text,
    /// [`Value::Bytes`].
    Bytes,
    /// [`Value::DateTime`].
    DateTime,
    /// [`Value::List`].
    List,
    /// [`Value::Struct`].
    Struct,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nil => "nil",
            Self::Bool => "a boolean",
            Self::Int => "an integer",
            Self::Double => "a double",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::DateTime => "a date and time",
            Self::List => "a list",
            Self::Struct => "a struct",
        })
    }
}

impl Value {
    /// An empty struct.
    #[must_use]
    pub const fn empty_struct() -> Self {
        Self::Struct(BTreeMap::new())
    }

    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Nil => Kind::Nil,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Double(_) => Kind::Double,
            Self::Text(_) => Kind::Text,
            Self::Bytes(_) => Kind::Bytes,
            Self::DateTime(_) => Kind::DateTime,
            Self::List(_) => Kind::List,
            Self::Struct(_) => Kind::Struct,
        }
    }

    /// The member `name`, if this is a struct that has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_struct()?.get(name)
    }

    /// The item at `index`, if this is a list that long.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&Self> {
        self.as_list()?.get(index)
    }

    /// How many lists and structs lie within each other: 0 for a plain value, 1 for a list of those. O(values).
    #[must_use]
    pub fn depth(&self) -> usize {
        let (mut depth, mut level) = (0, vec![self]);
        loop {
            let mut below = Vec::new();
            let mut nested = false;
            for value in level {
                if let Self::List(items) = value {
                    nested = true;
                    below.extend(items);
                } else if let Self::Struct(members) = value {
                    nested = true;
                    below.extend(members.values());
                }
            }
            if !nested {
                return depth;
            }
            depth += 1;
            level = below;
        }
    }
}

impl fmt::Display for Value {
    /// For people: JSON-like, with `b"..."` for bytes and a bare date and time. Not meant to be parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Bool(x) => x.fmt(f),
            Self::Int(x) => x.fmt(f),
            Self::Double(x) => write!(f, "{x:?}"),
            Self::Text(x) => write!(f, "{x:?}"),
            Self::Bytes(x) => write!(f, "b\"{}\"", x.escape_ascii()),
            Self::DateTime(x) => x.fmt(f),
            Self::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_char(']')
            }
            Self::Struct(members) => {
                f.write_char('{')?;
                for (i, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}{name:?}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_char('}')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_takes_no_more_than_its_limits_are_reckoned_with() {
        // what `codec::Limits` says about memory follows from this
        assert!(size_of::<Value>() <= 32);
    }

    #[test]
    fn depth_counts_the_lists_and_structs_within_each_other() {
        let depth = |value: Value| value.depth();
        assert_eq!(depth(Value::Nil), 0);
        assert_eq!(depth(Value::List(Vec::new())), 1);
        let inner = Value::from([("a", Value::from(vec![Value::Nil])), ("b", Value::Nil)]);
        assert_eq!(depth(Value::from(vec![Value::Nil, inner])), 3);
    }
}
