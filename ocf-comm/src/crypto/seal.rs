use super::TAG;
use core::fmt;
use pils::NodeInstance;
use pils::wire::Writer as _;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::hmac;

/// A key for message authentication codes of 32 bytes.
pub(crate) struct Mac(hmac::Key);

impl Mac {
    /// A key derived from `secret` for the use that `label` names.
    pub(crate) fn new(secret: &[u8], label: &str) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, label.as_bytes()).as_ref()))
    }

    pub(crate) fn sign(&self, content: &[u8]) -> [u8; 32] {
        hmac::sign(&self.0, content).as_ref().try_into().expect("sha-256 gives 32 bytes")
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, content: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.0, content, mac).is_ok()
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mac").finish_non_exhaustive()
    }
}

/// Everything both ends must agree on for their keys to be equal.
#[derive(Debug)]
pub(crate) struct Transcript {
    pub(crate) cluster: [u8; 16],
    pub(crate) initiator: NodeInstance,
    pub(crate) responder: NodeInstance,
    pub(crate) initiator_nonce: [u8; 16],
    pub(crate) responder_nonce: [u8; 16],
    pub(crate) initiator_public: [u8; 32],
    pub(crate) responder_public: [u8; 32],
    pub(crate) initiator_circuit: u32,
    pub(crate) responder_circuit: u32,
}

/// Which way a key seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromInitiator,
    FromResponder,
}

/// The first secret of one direction of a circuit.
///
/// HKDF-SHA256: salt is both nonces, key material is the agreed secret and then the cluster key, info is a label, the
/// direction and the rest of the transcript.
pub(crate) fn circuit_secrets(
    shared: &[u8; 32],
    cluster_key: &[u8],
    transcript: &Transcript,
    direction: Direction,
) -> [u8; 32] {
    let t = transcript;
    let mut salt = [0; 32];
    salt[..16].copy_from_slice(&t.initiator_nonce);
    salt[16..].copy_from_slice(&t.responder_nonce);
    let material = [&shared[..], cluster_key].concat();
    let mut info = Vec::with_capacity(256);
    info.extend_from_slice(match direction {
        Direction::FromInitiator => b"ocf-comm 1 from initiator",
        Direction::FromResponder => b"ocf-comm 1 from responder",
    });
    info.extend_from_slice(&t.cluster);
    info.put_instance(t.initiator);
    info.put_instance(t.responder);
    info.extend_from_slice(&t.initiator_public);
    info.extend_from_slice(&t.responder_public);
    info.extend_from_slice(&t.initiator_circuit.to_be_bytes());
    info.extend_from_slice(&t.responder_circuit.to_be_bytes());
    expand(&Salt::new(HKDF_SHA256, &salt).extract(&material), &info)
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(prk: &Prk, info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    prk.expand(&[info], Len(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("the output is far shorter than hkdf allows");
    out
}

struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    secret: [u8; 32],
}

impl Keys {
    fn new(secret: [u8; 32]) -> Self {
        let prk = Prk::new_less_safe(HKDF_SHA256, &secret);
        let key: [u8; 32] = expand(&prk, b"key");
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("aes-256 takes 32 bytes");
        Self { key: LessSafeKey::new(key), iv: expand(&prk, b"iv"), secret }
    }

    fn next(&self) -> Self {
        Self::new(expand(&Prk::new_less_safe(HKDF_SHA256, &self.secret), b"next"))
    }

    /// IV xor (path id, packet number): unique as long as no path repeats a number under this key.
    fn nonce(&self, path: u8, number: u64) -> Nonce {
        let mut nonce = self.iv;
        nonce[3] ^= path;
        for (byte, n) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= n;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals the packets of one direction.
pub(crate) struct Sealer(Keys);

impl Sealer {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self(Keys::new(secret))
    }

    /// Replaces the key by its successor.
    pub(crate) fn advance(&mut self) {
        self.0 = self.0.next();
    }

    /// Seals `packet[header..]` in place, with `packet[..header]` as additional data.
    pub(crate) fn seal(&self, path: u8, number: u64, packet: &mut [u8], header: usize) -> [u8; TAG] {
        let (clear, body) = packet.split_at_mut(header);
        let tag = self.0.key.seal_in_place_separate_tag(self.0.nonce(path, number), Aad::from(&*clear), body);
        let tag = tag.expect("a packet is far shorter than the cipher allows");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

/// Opens the packets of one direction.
pub(crate) struct Opener(Keys);

impl Opener {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self(Keys::new(secret))
    }

    /// The key after this one.
    pub(crate) fn next(&self) -> Self {
        Self(self.0.next())
    }

    /// Opens `packet[header..]` in place and returns the length of the content, which starts at `header`; `None` if it
    /// was not sealed by the peer with this key, path and number.
    pub(crate) fn open(&self, path: u8, number: u64, packet: &mut [u8], header: usize) -> Option<usize> {
        let (clear, body) = packet.split_at_mut(header);
        let content = self.0.key.open_in_place(self.0.nonce(path, number), Aad::from(&*clear), body).ok()?;
        Some(content.len())
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(sealer: &Sealer, path: u8, number: u64) -> Vec<u8> {
        let mut packet = b"headertext".to_vec();
        let tag = sealer.seal(path, number, &mut packet, 6);
        packet.extend_from_slice(&tag);
        packet
    }

    #[test]
    fn only_the_same_key_path_and_number_open_a_packet() {
        let mut sealer = Sealer::new([1; 32]);
        let opener = Opener::new([1; 32]);
        let good = seal(&sealer, 2, 77);
        assert_eq!(opener.open(2, 77, &mut good.clone(), 6), Some(4));
        assert_eq!(opener.open(1, 77, &mut good.clone(), 6), None);
        assert_eq!(opener.open(2, 78, &mut good.clone(), 6), None);
        assert_eq!(opener.next().open(2, 77, &mut good.clone(), 6), None);
        for i in 0..good.len() {
            let mut altered = good.clone();
            altered[i] ^= 4;
            assert_eq!(opener.open(2, 77, &mut altered, 6), None);
        }
        sealer.advance();
        assert_eq!(opener.next().open(2, 77, &mut seal(&sealer, 2, 77), 6), Some(4));
    }

    #[test]
    fn a_mac_depends_on_key_label_and_content() {
        let mac = Mac::new(&[1; 32], "a");
        let signed = mac.sign(b"x");
        assert!(mac.verify(b"x", &signed) && !mac.verify(b"y", &signed));
        assert!(!Mac::new(&[1; 32], "b").verify(b"x", &signed));
        assert!(!Mac::new(&[2; 32], "a").verify(b"x", &signed));
    }
}
