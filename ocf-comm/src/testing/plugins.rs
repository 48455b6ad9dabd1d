//! What authenticators and codecs must keep.

use crate::PacketCodec;
use crate::codec::ENCODE_MIN;
use crate::crypto::{Authenticator, NONCE, Protection, TAG};
use pils::Rng;

/// Bytes of the header in this suite.
const HEADER: usize = 16;

/// Examines an authenticator: what it seals opens at the other end and nowhere else, forged and altered bytes do not open,
/// secrets do not show, and no bytes make it panic. What does not [protect](Protection::Plain) only has to be harmless.
///
/// ```
/// use ocf_comm::crypto::authenticators;
/// for plugin in authenticators().list() {
///     ocf_comm::testing::check_authenticator(&*authenticators().get(&plugin.name)?);
/// }
/// # Ok::<(), pils::plugin::PluginError>(())
/// ```
///
/// # Panics
/// Where the authenticator does not conform, with the promise that it does not keep.
pub fn check_authenticator(authenticator: &dyn Authenticator) {
    let name = authenticator.name();
    assert!(!name.is_empty() && name.len() <= 64, "a name has 1 to 64 bytes: {name:?}");
    let limits = authenticator.limits();
    assert!(limits.sealed >= 1 << 16 && limits.forged >= 2, "{name}: keys must last for a while: {limits:?}");
    let protects = authenticator.protection() > Protection::Plain;
    let (key, same) = (authenticator.key(&[1; 32]), authenticator.key(&[1; 32]));
    let other = authenticator.key(&[2; 32]);
    let (nonce, another) = ([3; NONCE], [4; NONCE]);
    for size in [0, 1, 15, 16, 17, 1000, 1384, 8956] {
        let content: Vec<u8> = (0..size).map(|i: usize| ((i * 31) >> 2).to_le_bytes()[0]).collect();
        let clear = [&[9; HEADER], &content[..]].concat();
        let mut sealed = clear.clone();
        let tag = key.seal(&nonce, &mut sealed, HEADER);
        assert_eq!(sealed[..HEADER], clear[..HEADER], "{name}: the header stays readable");
        if size >= 16 && authenticator.protection() == Protection::Encrypt {
            assert!(
                !sealed.windows(16).any(|w| clear[HEADER..].windows(16).any(|c| c == w)),
                "{name}: it shows"
            );
        }
        sealed.extend_from_slice(&tag);
        let open = |key: &dyn crate::crypto::PacketKey, nonce: &[u8; NONCE], packet: &[u8]| {
            let mut packet = packet.to_vec();
            let length = key.open(nonce, &mut packet, HEADER)?;
            Some(packet[HEADER..HEADER + length].to_vec())
        };
        let opened = open(&*same, &nonce, &sealed);
        assert_eq!(opened.as_deref(), Some(&content[..]), "{name}: the same secret opens, {size} bytes");
        if !protects {
            continue;
        }
        assert_eq!(open(&*other, &nonce, &sealed), None, "{name}: another secret does not open");
        assert_eq!(open(&*same, &another, &sealed), None, "{name}: another nonce does not open");
        for at in (0..sealed.len()).step_by(sealed.len() / 40 + 1).chain([sealed.len() - 1]) {
            let mut altered = sealed.clone();
            altered[at] ^= 0x10;
            assert_eq!(open(&*same, &nonce, &altered), None, "{name}: altered at byte {at}, yet it opens");
            let cut = open(&*same, &nonce, &sealed[..at.max(HEADER)]);
            assert_eq!(cut, None, "{name}: cut at byte {at}, yet it opens");
        }
        sealed.push(0);
        assert_eq!(open(&*same, &nonce, &sealed), None, "{name}: a byte longer, yet it opens");
    }
    let mut rng = Rng::new(7);
    for round in 0..2000_u64 {
        let mut noise = vec![0; HEADER + usize::try_from(round % 100).unwrap_or(0)];
        rng.fill(&mut noise);
        let length = key.open(&nonce, &mut noise, HEADER);
        assert!(length.is_none_or(|n| n + HEADER + TAG <= noise.len()), "{name}: opens more than there is");
        assert!(!protects || length.is_none(), "{name}: noise opens");
    }
}

/// Examines a codec: what it encodes is smaller and comes back the same, and no bytes make it panic or write beyond the
/// length that was announced.
///
/// ```
/// use ocf_comm::codecs;
/// for plugin in codecs().list() {
///     ocf_comm::testing::check_codec(&*codecs().get(&plugin.name)?);
/// }
/// # Ok::<(), pils::plugin::PluginError>(())
/// ```
///
/// # Panics
/// Where the codec does not conform, with the promise that it does not keep.
pub fn check_codec(codec: &dyn PacketCodec) {
    let name = codec.name();
    assert!(!name.is_empty() && name.len() <= 64, "a name has 1 to 64 bytes: {name:?}");
    let mut rng = Rng::new(11);
    for size in [ENCODE_MIN, ENCODE_MIN + 1, 4096, 70_000, 1 << 20] {
        let mut noise = vec![0; size];
        rng.fill(&mut noise);
        let text: Vec<u8> =
            b"a member of the cluster, a member of the view; ".iter().copied().cycle().take(size).collect();
        for message in [vec![0; size], noise, text] {
            let mut encoded = b"before".to_vec();
            if !codec.encode(&message, &mut encoded) {
                continue;
            }
            assert_eq!(&encoded[..6], b"before", "{name}: encode appends");
            let encoded = &encoded[6..];
            assert!(encoded.len() < message.len(), "{name}: it says smaller and is not");
            let mut back = vec![1; size];
            assert!(codec.decode(encoded, &mut back) && back == message, "{name}: it does not come back");
            for wrong in [size - 1, size + 1, 0] {
                assert!(
                    !codec.decode(encoded, &mut vec![0; wrong]),
                    "{name}: decodes into {wrong} of {size} bytes"
                );
            }
            for _ in 0..200 {
                let mut altered = encoded.to_vec();
                let at = usize::try_from(rng.below(altered.len() as u64)).unwrap_or(0);
                altered[at] ^= 1 << rng.below(8);
                altered.truncate(usize::try_from(rng.below(altered.len() as u64 + 1)).unwrap_or(0).max(1));
                // Whether it still decodes is the cipher's business; that nothing worse happens is the codec's.
                let _decoded: bool = codec.decode(&altered, &mut back);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codecs;
    use crate::crypto::{KeyLimits, PacketKey, authenticators};

    #[test]
    fn the_built_in_authenticators_conform() {
        let registry = authenticators();
        assert_eq!(registry.list().len(), 5);
        for plugin in registry.list() {
            check_authenticator(&*registry.get(&plugin.name).unwrap());
        }
    }

    #[test]
    fn the_built_in_codecs_conform() {
        let registry = codecs();
        assert_eq!(registry.list().len(), 2);
        for plugin in registry.list() {
            check_codec(&*registry.get(&plugin.name).unwrap());
        }
    }

    /// Says that it protects, and leaves out the header.
    #[derive(Debug)]
    struct Careless;

    impl Authenticator for Careless {
        fn name(&self) -> &str {
            "careless"
        }

        fn protection(&self) -> Protection {
            Protection::Integrity
        }

        fn is_portable(&self) -> bool {
            true
        }

        fn limits(&self) -> KeyLimits {
            KeyLimits { sealed: 1 << 30, forged: 1 << 30 }
        }

        fn key(&self, secret: &[u8; 32]) -> Box<dyn PacketKey> {
            Box::new(CarelessKey(authenticators().get("aes-256-gcm-integrity").unwrap().key(secret)))
        }
    }

    struct CarelessKey(Box<dyn PacketKey>);

    impl PacketKey for CarelessKey {
        fn seal(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> [u8; TAG] {
            self.0.seal(nonce, &mut packet[header..], 0)
        }

        fn open(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> Option<usize> {
            self.0.open(nonce, &mut packet[header..], 0)
        }
    }

    #[test]
    #[should_panic(expected = "altered at byte 0")]
    fn an_authenticator_that_leaves_the_header_out_is_found_out() {
        check_authenticator(&Careless);
    }

    /// Drops the last byte.
    #[derive(Debug)]
    struct Lossy;

    impl PacketCodec for Lossy {
        fn name(&self) -> &str {
            "lossy"
        }

        fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(&message[..message.len() - 1]);
            true
        }

        fn decode(&self, encoded: &[u8], out: &mut [u8]) -> bool {
            let length = encoded.len().min(out.len().saturating_sub(1));
            out[..length].copy_from_slice(&encoded[..length]);
            true
        }
    }

    #[test]
    #[should_panic(expected = "it does not come back")]
    fn a_codec_that_loses_a_byte_is_found_out() {
        check_codec(&Lossy);
    }
}
