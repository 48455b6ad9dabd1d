//! How messages are encoded before they are sealed: the plug-in type, and the built-in plug-ins.

use core::fmt;
use pils::Registry;
use std::sync::Arc;

/// Messages shorter than this are not worth encoding.
pub(crate) const ENCODE_MIN: usize = 512;

/// A way to encode what is sent, before it is sealed: a plug-in type. Object-safe.
///
/// Built in, by [`codecs`]: `none` and `lz4`. A codec encodes the messages of the bulk lane, one by one and without memory
/// of earlier ones, from 512 bytes on, and a message that does not become smaller travels as it is. Those who write
/// another run `ocf_comm::testing::check_codec` on it, register it at every node under one name and put the name into
/// [`Config::codec`](crate::Config::codec).
///
/// **Not for secrets**: how long a compressed message is tells something about what is in it, which an attacker who can
/// choose a part of the message turns into the rest of it.
pub trait PacketCodec: Send + Sync + fmt::Debug {
    /// Its name, the same at every node: what ends agree upon in the handshake is a hash of it.
    fn name(&self) -> &str;
    /// Appends the encoded form of `message` to `out` and returns true; or, if that would not be smaller, returns false,
    /// and what it appended is ignored.
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> bool;
    /// Decodes into exactly `out`, whose length the sender has said. False, whatever the bytes are, if they are not the
    /// encoded form of a message of that length. Takes no memory that depends on `encoded`.
    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> bool;
}

/// Leaves every message as it is.
#[derive(Debug)]
struct Identity;

impl PacketCodec for Identity {
    fn name(&self) -> &str {
        "none"
    }

    fn encode(&self, _message: &[u8], _out: &mut Vec<u8>) -> bool {
        false
    }

    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> bool {
        let whole = encoded.len() == out.len();
        if whole {
            out.copy_from_slice(encoded);
        }
        whole
    }
}

/// LZ4 blocks.
#[derive(Debug)]
struct Lz4;

impl PacketCodec for Lz4 {
    fn name(&self) -> &str {
        "lz4"
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.resize(start + lz4_flex::block::get_maximum_output_size(message.len()), 0);
        let length = lz4_flex::block::compress_into(message, &mut out[start..]).unwrap_or(usize::MAX);
        let smaller = length < message.len();
        out.truncate(if smaller { start + length } else { start });
        smaller
    }

    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> bool {
        lz4_flex::block::decompress_into(encoded, out).is_ok_and(|length| length == out.len())
    }
}

/// A fresh registry with the built-in codecs.
///
/// # Panics
/// Never: the built-in names differ.
#[must_use]
pub fn codecs() -> Registry<dyn PacketCodec> {
    let registry: Registry<dyn PacketCodec> = Registry::new("packet codec");
    for plugin in [Arc::new(Identity) as Arc<dyn PacketCodec>, Arc::new(Lz4)] {
        let name = plugin.name().to_owned();
        registry.register(&name, env!("CARGO_PKG_VERSION"), plugin).expect("the built-in names differ");
    }
    registry
}
