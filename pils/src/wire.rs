//! Reading and writing bytes that came from, or go to, another node.
//!
//! Network byte order throughout. Lengths and counters are variable-length integers in the encoding of RFC 9000,
//! section 16: the two highest bits of the first byte give the length (1, 2, 4 or 8 bytes), so values below 2^62 fit.
//!
//! ```
//! use pils::wire::{Reader, Writer};
//! let mut out = Vec::new();
//! out.put_varint(1500);
//! out.put_prefixed(b"abc");
//! let mut r = Reader::new(&out);
//! assert_eq!(r.varint("length")?, 1500);
//! assert_eq!(r.bytes("name")?, b"abc");
//! r.finish("message")?;
//! # Ok::<(), pils::wire::ParseError>(())
//! ```

use crate::{Incarnation, NodeId, NodeInstance};
use bytes::BufMut;

/// The largest value [`Writer::put_varint`] can write: 2^62 - 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Bytes from outside that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {at}: {reason}")]
pub struct ParseError {
    /// The field that was being read.
    pub field: &'static str,
    /// Offset from the start of the input.
    pub at: usize,
    /// What is wrong.
    pub reason: Malformed,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The input ends inside the field.
    #[error("input ends here")]
    Truncated,
    /// The value is outside what the field allows.
    #[error("value out of range")]
    OutOfRange,
    /// The value has a shorter encoding; only the shortest is valid, so that an encoding is unique.
    #[error("not the shortest encoding")]
    NotCanonical,
    /// Bytes are left after the last field.
    #[error("bytes left over")]
    TrailingBytes,
    /// Text that is not UTF-8.
    #[error("not valid utf-8")]
    NotUtf8,
}

/// Reads fields from a byte slice, front to back. Never panics, never allocates.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `input`.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// Offset of the next byte; with it a caller that owns the input as `Bytes` can slice instead of copy.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    /// True if nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// An error about `field` at the current position, for checks that the caller makes.
    #[must_use]
    pub const fn error(&self, field: &'static str, reason: Malformed) -> ParseError {
        ParseError { field, at: self.at, reason }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if fewer are left; nothing is consumed.
    pub fn take(&mut self, field: &'static str, n: usize) -> Result<&'a [u8], ParseError> {
        let rest = &self.input[self.at..];
        if rest.len() < n {
            return Err(self.error(field, Malformed::Truncated));
        }
        self.at += n;
        Ok(&rest[..n])
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.input[self.at..];
        self.at = self.input.len();
        rest
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// A variable-length integer, at most [`VARINT_MAX`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::NotCanonical`] if a shorter encoding exists.
    pub fn varint(&mut self, field: &'static str) -> Result<u64, ParseError> {
        let start = self.clone();
        let first = self.u8(field)?;
        let more = (1_usize << (first >> 6)) - 1;
        let mut value = u64::from(first & 0x3f);
        let tail = match self.take(field, more) {
            Ok(tail) => tail,
            Err(error) => {
                *self = start;
                return Err(error);
            }
        };
        for byte in tail {
            value = value << 8 | u64::from(*byte);
        }
        if varint_len(value) != more + 1 {
            return Err(start.error(field, Malformed::NotCanonical));
        }
        Ok(value)
    }

    /// A count or length that must not exceed `max`.
    ///
    /// # Errors
    /// As [`Reader::varint`], and [`Malformed::OutOfRange`].
    pub fn length(&mut self, field: &'static str, max: usize) -> Result<usize, ParseError> {
        let at = self.clone();
        match usize::try_from(self.varint(field)?) {
            Ok(n) if n <= max => Ok(n),
            _ => Err(at.error(field, Malformed::OutOfRange)),
        }
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// As [`Reader::varint`].
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], ParseError> {
        let n = self.length(field, self.remaining().max(1))?;
        self.take(field, n)
    }

    /// UTF-8 text with its length in bytes in front.
    ///
    /// # Errors
    /// As [`Reader::bytes`], and [`Malformed::NotUtf8`].
    pub fn text(&mut self, field: &'static str) -> Result<&'a str, ParseError> {
        let at = self.clone();
        core::str::from_utf8(self.bytes(field)?).map_err(|_utf8| at.error(field, Malformed::NotUtf8))
    }

    /// A node id, 4 bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn node(&mut self, field: &'static str) -> Result<NodeId, ParseError> {
        Ok(NodeId::new(self.u32(field)?))
    }

    /// A node id and an incarnation, 20 bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn instance(&mut self, field: &'static str) -> Result<NodeInstance, ParseError> {
        let node = self.node(field)?;
        Ok(NodeInstance::new(node, Incarnation::new(u128::from_be_bytes(self.array(field)?))))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`Malformed::TrailingBytes`].
    pub fn finish(&self, field: &'static str) -> Result<(), ParseError> {
        if self.is_empty() { Ok(()) } else { Err(self.error(field, Malformed::TrailingBytes)) }
    }
}

/// Bytes that [`Writer::put_varint`] needs for `value`: 1, 2, 4 or 8.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Writes fields to anything that takes bytes (`Vec<u8>`, `BytesMut`); the counterpart of [`Reader`].
pub trait Writer: BufMut {
    /// A variable-length integer.
    ///
    /// # Panics
    /// If `value` exceeds [`VARINT_MAX`].
    fn put_varint(&mut self, value: u64) {
        match varint_len(value) {
            1 => self.put_u8(value.to_be_bytes()[7]),
            2 => self.put_slice(&(value | 0x4000).to_be_bytes()[6..]),
            4 => self.put_slice(&(value | 0x8000_0000).to_be_bytes()[4..]),
            _ => {
                assert!(value <= VARINT_MAX, "{value} does not fit a variable-length integer");
                self.put_u64(value | 0xc000_0000_0000_0000);
            }
        }
    }

    /// A count or length.
    fn put_length(&mut self, n: usize) {
        self.put_varint(n as u64);
    }

    /// Bytes with their length in front.
    fn put_prefixed(&mut self, bytes: &[u8]) {
        self.put_length(bytes.len());
        self.put_slice(bytes);
    }

    /// Text with its length in bytes in front.
    fn put_text(&mut self, text: &str) {
        self.put_prefixed(text.as_bytes());
    }

    /// A node id, 4 bytes.
    fn put_node(&mut self, node: NodeId) {
        self.put_u32(node.raw());
    }

    /// A node id and an incarnation, 20 bytes.
    fn put_instance(&mut self, instance: NodeInstance) {
        self.put_node(instance.node);
        self.put_u128(instance.incarnation.raw());
    }
}

impl<B: BufMut + ?Sized> Writer for B {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_longer_encoding_of_a_small_number_is_refused() {
        let mut r = Reader::new(&[0x40, 0x05]);
        assert_eq!(r.varint("x").unwrap_err().reason, Malformed::NotCanonical);
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error() {
        let mut out = Vec::new();
        out.put_varint(1 << 40);
        assert_eq!(Reader::new(&out).bytes("x").unwrap_err().reason, Malformed::OutOfRange);
    }

    proptest! {
        #[test]
        fn varints_round_trip(value in 0..=VARINT_MAX) {
            let mut out = Vec::new();
            out.put_varint(value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.varint("x"), Ok(value));
            prop_assert!(r.is_empty());
        }

        #[test]
        fn any_bytes_parse_or_fail_without_panic(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut r = Reader::new(&input);
            while r.varint("v").is_ok() && r.bytes("b").is_ok() && r.instance("i").is_ok() {}
            prop_assert!(r.position() <= input.len());
        }
    }
}
