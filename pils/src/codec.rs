//! How a [`Value`] becomes bytes and comes back.
//!
//! ```
//! use pils::codec::{Binary, LiXml, Limits, NameValue, XmlRpc};
//! use pils::{Value, ValueCodec};
//! let value = Value::from([("node", Value::from("alpha")), ("weight", Value::from(3))]);
//! for codec in [&Binary as &dyn ValueCodec, &XmlRpc, &LiXml, &NameValue] {
//!     let bytes = codec.encode(&value)?;
//!     assert_eq!(codec.decode(&bytes, &Limits::default())?, value);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | codec | for | bytes |
//! |---|---|---|
//! | [`Binary`] | between nodes; compared and hashed | compact, one form for each value |
//! | [`XmlRpc`] | calls by foreign programs | XML, verbose |
//! | [`LiXml`] | lists and tables that a person edits | XML, short |
//! | [`NameValue`] | shell scripts, `grep`, line by line | text, `name=value` |
//!
//! [`register_codecs`] makes them plug-ins. [`heartbeat`] reads what the cluster manager of that name wrote.

mod binary;
pub mod heartbeat;
mod li;
mod name_value;
mod xml;
pub mod xmlrpc;

pub use binary::Binary;
pub use li::LiXml;
pub use name_value::NameValue;
pub(crate) use name_value::escape;
pub use xmlrpc::XmlRpc;

use crate::Value;
use crate::plugin::{PluginError, Registry, Universe};
use crate::value::Kind;
use crate::wire::Malformed;
use core::fmt::Debug;
use std::sync::Arc;

/// Levels of lists and structs within each other that no codec exceeds, in either direction.
pub const DEPTH_MAX: usize = 128;

/// A way to write values as bytes. Plug-ins of the type `value codec`.
///
/// `decode(encode(v))` is `v` for every `v` that `encode` accepts; a conformance suite is `pils::testing::check_codec`
/// (feature `testing`).
pub trait ValueCodec: Send + Sync + Debug {
    /// Short and stable, lower case: `binary`.
    fn name(&self) -> &'static str;

    /// Writes `value`.
    ///
    /// # Errors
    /// If `value` is too deep, or holds what this encoding cannot express.
    fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError>;

    /// Reads exactly one value, from bytes that may be hostile.
    ///
    /// Never panics; takes memory for what is there, never for what is announced. [`Limits`] says how much at most.
    ///
    /// # Errors
    /// If the bytes are not one value of this encoding, or exceed a limit.
    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError>;
}

/// The plug-in type of codecs.
pub const CODEC: &str = "value codec";

/// Introduces the plug-in type [`CODEC`] and registers the four codecs of this crate.
///
/// # Errors
/// [`PluginError::Duplicate`] if the type has a handler already; nothing changed.
pub fn register_codecs(universe: &Universe) -> Result<Arc<Registry<dyn ValueCodec>>, PluginError> {
    let codecs = universe.add_type::<dyn ValueCodec>(CODEC)?;
    let all: [Arc<dyn ValueCodec>; 4] =
        [Arc::new(Binary), Arc::new(XmlRpc), Arc::new(LiXml), Arc::new(NameValue)];
    for codec in all {
        codecs.register(codec.name(), env!("CARGO_PKG_VERSION"), Arc::clone(&codec))?;
    }
    Ok(codecs)
}

/// What [`ValueCodec::decode`] accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of input, default 1 MiB; text and bytes take at most twice what they are long.
    pub bytes_max: usize,
    /// Lists and structs within each other. Default 32, at most [`DEPTH_MAX`]: more is taken as that.
    pub depth_max: usize,
    /// Values in all, lists and structs counted. Default 65,536. A value takes 32 bytes in a list, twice that while the
    /// list grows, and some 650 as the only member of a struct: it is this that bounds the memory for many small values,
    /// to about 20 MiB.
    pub values_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 1 << 20, depth_max: 32, values_max: 1 << 16 }
    }
}

/// Why a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// More than [`DEPTH_MAX`] lists and structs within each other.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The encoding has no form for this value.
    #[error("{kind} with {what} cannot be written as {codec}")]
    Unrepresentable {
        /// Name of the codec.
        codec: &'static str,
        /// Kind of the value.
        kind: Kind,
        /// What about it: `a control character`.
        what: &'static str,
    },
}

/// Why bytes are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {reason}")]
pub struct DecodeError {
    /// Offset from the start of the input, near the cause.
    pub at: usize,
    /// What is wrong.
    pub reason: DecodeReason,
}

/// What is wrong with bytes that should be a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeReason {
    /// [`Limits::bytes_max`].
    #[error("input is longer than {0} bytes")]
    TooLarge(usize),
    /// [`Limits::depth_max`].
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// [`Limits::values_max`].
    #[error("more than {0} values")]
    TooMany(usize),
    /// A struct has two members of one name.
    #[error("a struct has two members of this name")]
    DuplicateKey,
    /// Not UTF-8, or declared to be something else.
    #[error("not utf-8")]
    Encoding,
    /// A field of a binary encoding.
    #[error("{0}: {1}")]
    Field(&'static str, Malformed),
    /// A rule of a text encoding is broken.
    #[error("{0}")]
    Grammar(&'static str),
}

/// Keeps count while a value is decoded.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    values: usize,
}

impl Budget {
    /// Starts on `input`.
    pub(crate) fn new(limits: &Limits, input: &[u8]) -> Result<Self, DecodeError> {
        let mut limits = limits.clone();
        limits.depth_max = limits.depth_max.min(DEPTH_MAX);
        if input.len() > limits.bytes_max {
            return Err(DecodeError {
                at: limits.bytes_max,
                reason: DecodeReason::TooLarge(limits.bytes_max),
            });
        }
        Ok(Self { limits, values: 0 })
    }

    /// Accounts for one value.
    pub(crate) const fn value(&mut self) -> Result<(), DecodeReason> {
        if self.values >= self.limits.values_max {
            return Err(DecodeReason::TooMany(self.limits.values_max));
        }
        self.values += 1;
        Ok(())
    }

    /// The level inside a list or struct that lies at `level`; the outermost value lies at 0.
    pub(crate) const fn below(&self, level: usize) -> Result<usize, DecodeReason> {
        if level >= self.limits.depth_max {
            return Err(DecodeReason::TooDeep(self.limits.depth_max));
        }
        Ok(level + 1)
    }
}

/// The level inside a list or struct that lies at `level`, when writing.
pub(crate) const fn deeper(level: usize) -> Result<usize, EncodeError> {
    if level >= DEPTH_MAX { Err(EncodeError::TooDeep) } else { Ok(level + 1) }
}
