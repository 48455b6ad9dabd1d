use super::{Authenticator, KeyId, NONCE, PacketKey, TAG};
use core::fmt;
use pils::NodeInstance;
use pils::plugin::Plugin;
use pils::wire::Writer as _;
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
    pub(crate) key: KeyId,
    pub(crate) initiator: NodeInstance,
    pub(crate) responder: NodeInstance,
    pub(crate) initiator_nonce: [u8; 16],
    pub(crate) responder_nonce: [u8; 16],
    pub(crate) initiator_public: [u8; 32],
    pub(crate) responder_public: [u8; 32],
    pub(crate) initiator_circuit: u32,
    pub(crate) responder_circuit: u32,
    /// What the initiator offered, as it was on the wire.
    pub(crate) offer: [u8; 32],
    /// What the responder chose of it, as it was on the wire; for an agreement inside the circuit, the number of the offer.
    pub(crate) choice: [u8; 8],
    /// 0 for a handshake; counts the times that fresh secrets were agreed upon inside the circuit.
    pub(crate) generation: u8,
}

/// Which way a key seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromInitiator,
    FromResponder,
}

impl Direction {
    /// The direction of what the initiator, or the responder, of a circuit sends.
    pub(crate) const fn from(initiator: bool) -> Self {
        if initiator { Self::FromInitiator } else { Self::FromResponder }
    }
}

impl Transcript {
    /// All of it, unambiguously: every part has a fixed length.
    pub(crate) fn content(&self, label: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(288);
        out.extend_from_slice(label);
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&[self.key.0, self.generation]);
        out.put_instance(self.initiator);
        out.put_instance(self.responder);
        out.extend_from_slice(&self.initiator_nonce);
        out.extend_from_slice(&self.responder_nonce);
        out.extend_from_slice(&self.initiator_public);
        out.extend_from_slice(&self.responder_public);
        out.extend_from_slice(&self.initiator_circuit.to_be_bytes());
        out.extend_from_slice(&self.responder_circuit.to_be_bytes());
        out.extend_from_slice(&self.offer);
        out.extend_from_slice(&self.choice);
        out
    }
}

/// The first secret of one direction of a circuit.
///
/// HKDF-SHA256: salt is both nonces, key material is the agreed secret and then the cluster key, info is a label, which
/// names the direction, and the transcript.
pub(crate) fn circuit_secrets(
    shared: &[u8; 32],
    cluster_key: &[u8],
    transcript: &Transcript,
    direction: Direction,
) -> [u8; 32] {
    let mut salt = [0; 32];
    salt[..16].copy_from_slice(&transcript.initiator_nonce);
    salt[16..].copy_from_slice(&transcript.responder_nonce);
    let material = [&shared[..], cluster_key].concat();
    let info = transcript.content(match direction {
        Direction::FromInitiator => b"ocf-comm 1 from initiator",
        Direction::FromResponder => b"ocf-comm 1 from responder",
    });
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

/// How both ends of a circuit seal.
pub(crate) type Suite = Plugin<dyn Authenticator>;

struct Keys {
    key: Box<dyn PacketKey>,
    iv: [u8; NONCE],
    secret: [u8; 32],
    suite: Suite,
}

impl Keys {
    fn new(secret: [u8; 32], suite: Suite) -> Self {
        let prk = Prk::new_less_safe(HKDF_SHA256, &secret);
        Self { key: suite.key(&expand(&prk, b"key")), iv: expand(&prk, b"iv"), secret, suite }
    }

    fn next(&self) -> Self {
        let secret = expand(&Prk::new_less_safe(HKDF_SHA256, &self.secret), b"next");
        Self::new(secret, self.suite.clone())
    }

    /// IV xor (path id, packet number): unique as long as no path repeats a number under this key.
    fn nonce(&self, path: u8, number: u64) -> [u8; NONCE] {
        let mut nonce = self.iv;
        nonce[3] ^= path;
        for (byte, n) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= n;
        }
        nonce
    }
}

/// Seals the packets of one direction.
pub(crate) struct Sealer(Keys);

impl Sealer {
    pub(crate) fn new(secret: [u8; 32], suite: Suite) -> Self {
        Self(Keys::new(secret, suite))
    }

    /// Replaces the key by its successor.
    pub(crate) fn advance(&mut self) {
        self.0 = self.0.next();
    }

    /// How it seals.
    pub(crate) const fn suite(&self) -> &Suite {
        &self.0.suite
    }

    /// Seals `packet[header..]` in place, with `packet[..header]` as additional data.
    pub(crate) fn seal(&self, path: u8, number: u64, packet: &mut [u8], header: usize) -> [u8; TAG] {
        self.0.key.seal(&self.0.nonce(path, number), packet, header)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("suite", &self.0.suite.name()).finish_non_exhaustive()
    }
}

/// Opens the packets of one direction.
pub(crate) struct Opener(Keys);

impl Opener {
    pub(crate) fn new(secret: [u8; 32], suite: Suite) -> Self {
        Self(Keys::new(secret, suite))
    }

    /// The key after this one.
    pub(crate) fn next(&self) -> Self {
        Self(self.0.next())
    }

    /// Opens `packet[header..]` in place and returns the length of the content, which starts at `header`; `None` if it
    /// was not sealed by the peer with this key, path and number.
    pub(crate) fn open(&self, path: u8, number: u64, packet: &mut [u8], header: usize) -> Option<usize> {
        // A plug-in that opens more than there is must not harm the reader.
        let most = packet.len().checked_sub(header + TAG)?;
        self.0.key.open(&self.0.nonce(path, number), packet, header).filter(|length| *length <= most)
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
    use crate::crypto::{Protection, authenticators};

    fn seal(sealer: &Sealer, path: u8, number: u64) -> Vec<u8> {
        let mut packet = b"headertext".to_vec();
        let tag = sealer.seal(path, number, &mut packet, 6);
        packet.extend_from_slice(&tag);
        packet
    }

    #[test]
    fn only_the_same_key_path_and_number_open_a_packet() {
        for plugin in authenticators().list() {
            let suite = authenticators().get(&plugin.name).unwrap();
            if suite.protection() == Protection::Plain {
                continue;
            }
            let mut sealer = Sealer::new([1; 32], suite.clone());
            let opener = Opener::new([1; 32], suite);
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
