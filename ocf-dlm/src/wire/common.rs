use crate::range::{Range, RangeKind, RangeSet};
use crate::{FencingToken, Mode, ValueBlock};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use std::sync::Arc;

/// Longest canonical name of a tree or of a path within it, in bytes.
pub const TREE_MAX: usize = 4096;

/// Canonical bytes that name a tree, or a resource within one.
pub(crate) type Name = Arc<[u8]>;

/// A resource: its tree, and its place in the tree (empty: the root itself).
///
/// Both are the names along the way, each with its length in front; a tree begins with the name of the lockspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Lockspace and root.
    pub tree: Arc<[u8]>,
    /// The way from the root.
    pub path: Arc<[u8]>,
}

impl Key {
    /// The root resource `name` of `lockspace`.
    #[must_use]
    pub fn root(lockspace: &[u8], name: &[u8]) -> Self {
        let mut tree = Vec::with_capacity(lockspace.len() + name.len() + 4);
        tree.put_prefixed(lockspace);
        tree.put_prefixed(name);
        Self { tree: tree.into(), path: Arc::from([]) }
    }

    /// The lock of who repairs the resources of `lockspace`: see [`Engine::collect`](crate::cluster::Engine::collect). Never
    /// a resource that [`Key::root`] names for a lockspace whose name is text.
    #[must_use]
    pub fn collector(lockspace: &[u8]) -> Self {
        Self::root(&[b"\xfe", lockspace].concat(), b"collector")
    }

    /// The child `name` of this resource.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.path.len() + name.len() + 2);
        path.extend_from_slice(&self.path);
        path.put_prefixed(name);
        Self { tree: Arc::clone(&self.tree), path: path.into() }
    }

    /// The name of its lockspace.
    #[must_use]
    pub fn lockspace(&self) -> Option<&[u8]> {
        Reader::new(&self.tree).bytes("lockspace").ok()
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.put_prefixed(&self.tree);
        out.put_prefixed(&self.path);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(Self { tree: take_name(r)?, path: take_path(r)? })
    }
}

/// A value block with its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The bytes.
    pub block: ValueBlock,
    /// How often the resource's block was written.
    pub sequence: u64,
}

impl Value {
    pub(super) fn emit(value: Option<&Self>, out: &mut Vec<u8>) {
        match value {
            None => out.put_length(0),
            Some(value) => {
                out.put_prefixed(value.block.as_bytes());
                out.put_varint(value.sequence);
            }
        }
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Option<Self>, ParseError> {
        let at = r.clone();
        let bytes = r.bytes("value block")?;
        if bytes.len() > crate::VALUE_MAX {
            return Err(at.error("value block", Malformed::OutOfRange));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { block: ValueBlock::new(bytes), sequence: r.varint("value sequence")? }))
    }
}

pub(super) fn take_name(r: &mut Reader<'_>) -> Result<Name, ParseError> {
    let name = take_path(r)?;
    if name.is_empty() { Err(r.error("tree", Malformed::OutOfRange)) } else { Ok(name) }
}

pub(super) fn take_path(r: &mut Reader<'_>) -> Result<Name, ParseError> {
    let length = r.length("name", TREE_MAX)?;
    Ok(Arc::from(r.take("name", length)?))
}

/// Longest name of a lockspace, in bytes.
const SPACE_MAX: usize = 255;

/// The name of a lockspace.
pub(super) fn take_space(r: &mut Reader<'_>) -> Result<Name, ParseError> {
    let length = r.length("lockspace", SPACE_MAX)?;
    Ok(Arc::from(r.take("lockspace", length)?))
}

/// The lockspace of a tree. `None`: the name is not one that [`Key`] makes.
pub(crate) fn space_of(tree: &[u8]) -> Option<&[u8]> {
    Reader::new(tree).bytes("lockspace").ok()
}

pub(super) fn put_token(token: FencingToken, out: &mut Vec<u8>) {
    out.put_varint(token.epoch);
    out.put_varint(token.sequence);
}

pub(super) fn take_token(r: &mut Reader<'_>) -> Result<FencingToken, ParseError> {
    Ok(FencingToken { epoch: r.varint("token epoch")?, sequence: r.varint("token sequence")? })
}

pub(super) fn take_mode(r: &mut Reader<'_>) -> Result<Mode, ParseError> {
    let at = r.clone();
    Mode::from_raw(r.u8("mode")?).ok_or_else(|| at.error("mode", Malformed::OutOfRange))
}

/// No mode is 255 on the wire.
pub(super) fn put_mode_or_none(mode: Option<Mode>, out: &mut Vec<u8>) {
    out.push(mode.map_or(u8::MAX, Mode::raw));
}

pub(super) fn take_mode_or_none(r: &mut Reader<'_>) -> Result<Option<Mode>, ParseError> {
    let at = r.clone();
    match r.u8("mode")? {
        u8::MAX => Ok(None),
        raw => match Mode::from_raw(raw) {
            Some(mode) => Ok(Some(mode)),
            None => Err(at.error("mode", Malformed::OutOfRange)),
        },
    }
}

pub(super) fn take_flags(r: &mut Reader<'_>) -> Result<crate::Flags, ParseError> {
    let at = r.clone();
    let bits = r.u32("flags")?;
    let flags = crate::Flags::from_bits(bits);
    if flags.bits() == bits { Ok(flags) } else { Err(at.error("flags", Malformed::OutOfRange)) }
}

pub(super) fn take_bool(r: &mut Reader<'_>, field: &'static str) -> Result<bool, ParseError> {
    let at = r.clone();
    match r.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(at.error(field, Malformed::OutOfRange)),
    }
}

/// Counters that begin near the wrap in tests are 64 bits; zero means none.
pub(super) fn put_option(value: Option<i64>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

pub(super) fn take_option(r: &mut Reader<'_>, field: &'static str) -> Result<Option<i64>, ParseError> {
    Ok(if take_bool(r, field)? { Some(i64::from_be_bytes(r.array(field)?)) } else { None })
}

/// A signal that is none is one byte.
pub(super) fn put_signal(signal: u64, out: &mut Vec<u8>) {
    out.push(u8::from(signal != 0));
    if signal != 0 {
        out.extend_from_slice(&signal.to_be_bytes());
    }
}

pub(super) fn take_signal(r: &mut Reader<'_>) -> Result<u64, ParseError> {
    let at = r.clone();
    if !take_bool(r, "signal")? {
        return Ok(0);
    }
    let signal = r.u64("signal")?;
    if signal == 0 { Err(at.error("signal", Malformed::OutOfRange)) } else { Ok(signal) }
}

/// One range on the wire: first and last byte, kind.
const RANGE_SIZE: usize = 8 + 8 + 1;

pub(super) fn put_range((range, kind): (Range, RangeKind), out: &mut Vec<u8>) {
    out.extend_from_slice(&range.first().to_be_bytes());
    out.extend_from_slice(&range.last().to_be_bytes());
    out.push(u8::from(kind == RangeKind::Exclusive));
}

pub(super) fn take_range(r: &mut Reader<'_>) -> Result<(Range, RangeKind), ParseError> {
    let at = r.clone();
    let (first, last) = (r.u64("first byte")?, r.u64("last byte")?);
    let Ok(range) = Range::new(first, last) else { return Err(at.error("range", Malformed::OutOfRange)) };
    let kind = if take_bool(r, "kind")? { RangeKind::Exclusive } else { RangeKind::Shared };
    Ok((range, kind))
}

pub(super) fn put_ranges(set: &RangeSet, out: &mut Vec<u8>) {
    out.put_length(set.len());
    set.as_slice().iter().for_each(|part| put_range(*part, out));
}

pub(super) fn take_ranges(r: &mut Reader<'_>) -> Result<RangeSet, ParseError> {
    let at = r.clone();
    let count = r.length("ranges", r.remaining() / RANGE_SIZE)?;
    let parts = (0..count).map(|_| take_range(r)).collect::<Result<Vec<_>, _>>()?;
    RangeSet::from_parts(parts).ok_or_else(|| at.error("ranges", Malformed::OutOfRange))
}
