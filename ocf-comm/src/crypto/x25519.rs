use super::{EphemeralKey, KeyAgreement};
use core::fmt;
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519 as ALGORITHM, agree_ephemeral};
use ring::rand::SystemRandom;

/// X25519 with private keys from the operating system: for drivers, never inside a simulator.
pub struct X25519(SystemRandom);

impl X25519 {
    /// An agreement that draws its keys from the operating system.
    #[must_use]
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Default for X25519 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for X25519 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X25519")
    }
}

struct Key {
    private: EphemeralPrivateKey,
    public: [u8; 32],
}

impl KeyAgreement for X25519 {
    fn generate(&mut self) -> Option<Box<dyn EphemeralKey>> {
        let private = EphemeralPrivateKey::generate(&ALGORITHM, &self.0).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Box::new(Key { private, public }))
    }
}

impl EphemeralKey for Key {
    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn agree(self: Box<Self>, peer: &[u8; 32]) -> Option<[u8; 32]> {
        let peer = UnparsedPublicKey::new(&ALGORITHM, peer);
        agree_ephemeral(self.private, &peer, |secret| secret.try_into().ok()).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_get_the_same_secret_and_a_null_key_is_refused() {
        let mut x = X25519::new();
        let (a, b, c) = (x.generate().unwrap(), x.generate().unwrap(), x.generate().unwrap());
        let (pa, pb) = (a.public(), b.public());
        let shared = a.agree(&pb).unwrap();
        assert_eq!(Some(shared), b.agree(&pa));
        assert_eq!(c.agree(&[0; 32]), None);
    }
}
