//! Keys, seals and strong generators. Every call of the cryptography library is in this module.

mod authenticator;
mod drbg;
mod keyring;
mod seal;
mod simulated;
mod x25519;

pub use authenticator::{Authenticator, Cipher, KeyLimits, NONCE, PacketKey, Protection, authenticators};
pub(crate) use drbg::Drbg;
pub use keyring::{ClusterKey, KeyError, KeyId, KeyRing, KeyStatus};
pub(crate) use seal::{Direction, Mac, Opener, Sealer, Suite, Transcript, circuit_secrets};
pub use simulated::SimulatedAgreement;
pub use x25519::X25519;

use core::fmt;
use core::task::Poll;

/// Bytes of an authentication tag.
pub const TAG: usize = 16;

/// Agreement on a secret that a listener cannot know, with keys that are forgotten afterwards.
///
/// Object-safe. Implementations: [`X25519`] and, on a thread of its own, `driver::Agreement` for real nodes,
/// [`SimulatedAgreement`] for simulators.
pub trait KeyAgreement: Send {
    /// A fresh key pair; `None` if the system gives no randomness (the handshake is tried again later).
    fn generate(&mut self) -> Option<Box<dyn EphemeralKey>>;

    /// As [`EphemeralKey::agree`], where the secret need not be there at once: messages go on meanwhile. By default it is.
    fn agree_in_time(&mut self, key: Box<dyn EphemeralKey>, peer: [u8; 32]) -> Box<dyn Agreeing> {
        Box::new(Agreed(key.agree(&peer)))
    }
}

/// An agreement that may be under way. Object-safe.
pub trait Agreeing: Send {
    /// The shared secret, once it is there; `None` in its place if the peer's public key was not valid. Not called again after
    /// that.
    fn poll(&mut self) -> Poll<Option<[u8; 32]>>;
}

/// An agreement that was over at once.
struct Agreed(Option<[u8; 32]>);

impl Agreeing for Agreed {
    fn poll(&mut self) -> Poll<Option<[u8; 32]>> {
        Poll::Ready(self.0.take())
    }
}

/// One key pair, good for one agreement.
pub trait EphemeralKey: Send {
    /// The half that the peer is told.
    fn public(&self) -> [u8; 32];
    /// The shared secret; `None` if `peer` is not a valid public key.
    fn agree(self: Box<Self>, peer: &[u8; 32]) -> Option<[u8; 32]>;
}

/// What an endpoint must keep to itself.
pub struct Secrets {
    /// The keys that every node of the cluster has. Whoever has one is a member. Of plain bytes: `bytes.into()`.
    pub keys: KeyRing,
    /// Seed of the generator for nonces and circuit ids: 32 bytes, fresh and secret for each life of the node.
    pub seed: [u8; 32],
    /// How fresh secrets are agreed upon.
    pub agreement: Box<dyn KeyAgreement>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}
