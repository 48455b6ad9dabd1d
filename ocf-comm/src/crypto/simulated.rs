use super::{Drbg, EphemeralKey, KeyAgreement};
use ring::hmac;

/// A deterministic stand-in for key agreement, for simulators and tests. **Not secret**: anyone who sees both public
/// halves knows the result.
#[derive(Debug)]
pub struct SimulatedAgreement(Drbg);

impl SimulatedAgreement {
    /// Key pairs that are a function of `seed`. Give each node, and each of its lives, a seed of its own.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self(Drbg::new(&bytes))
    }
}

struct Key([u8; 32]);

impl KeyAgreement for SimulatedAgreement {
    fn generate(&mut self) -> Option<Box<dyn EphemeralKey>> {
        Some(Box::new(Key(self.0.bytes())))
    }
}

impl EphemeralKey for Key {
    fn public(&self) -> [u8; 32] {
        self.0
    }

    fn agree(self: Box<Self>, peer: &[u8; 32]) -> Option<[u8; 32]> {
        let (low, high) = if self.0 < *peer { (&self.0, peer) } else { (peer, &self.0) };
        let key = hmac::Key::new(hmac::HMAC_SHA256, low);
        hmac::sign(&key, high).as_ref().try_into().ok()
    }
}
