use super::{Agreeing, Drbg, EphemeralKey, KeyAgreement};
use core::task::Poll;
use ring::hmac;

/// A deterministic stand-in for key agreement, for simulators and tests. **Not secret**: anyone who sees both public
/// halves knows the result.
#[derive(Debug)]
pub struct SimulatedAgreement {
    random: Drbg,
    /// How often a secret that need not be there at once is asked for in vain.
    patience: u32,
}

impl SimulatedAgreement {
    /// Key pairs that are a function of `seed`. Give each node, and each of its lives, a seed of its own.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self { random: Drbg::new(&bytes), patience: 0 }
    }

    /// A secret that need not be there at once is there only when it was asked for so often and once more.
    #[must_use]
    pub const fn slow(self, patience: u32) -> Self {
        Self { patience, ..self }
    }
}

struct Key([u8; 32]);

impl KeyAgreement for SimulatedAgreement {
    fn generate(&mut self) -> Option<Box<dyn EphemeralKey>> {
        Some(Box::new(Key(self.random.bytes())))
    }

    fn agree_in_time(&mut self, key: Box<dyn EphemeralKey>, peer: [u8; 32]) -> Box<dyn Agreeing> {
        Box::new(Slow { left: self.patience, secret: key.agree(&peer) })
    }
}

struct Slow {
    left: u32,
    secret: Option<[u8; 32]>,
}

impl Agreeing for Slow {
    fn poll(&mut self) -> Poll<Option<[u8; 32]>> {
        if self.left > 0 {
            self.left -= 1;
            return Poll::Pending;
        }
        Poll::Ready(self.secret.take())
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
