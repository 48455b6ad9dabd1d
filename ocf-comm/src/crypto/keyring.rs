//! The cluster's keys: which this node accepts, and which it sends with.

use super::Mac;
use core::fmt;
use core::time::Duration;
use pils::{Instant, NodeId};

/// Keys that a node can hold at a time.
const KEYS_MAX: usize = 8;
/// Shortest secret, in bytes.
pub(crate) const SECRET_MIN: usize = 32;

/// Tells the keys of a cluster apart on the wire: every handshake message names the key that its code is of. No secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u8);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key of the cluster. Whoever has it is a member. Never printed.
#[derive(Clone)]
pub struct ClusterKey {
    /// Its id, the same at every node.
    pub id: KeyId,
    /// At least 32 random bytes.
    pub secret: Vec<u8>,
    /// It is accepted at once, but not used for sending before this. [`Instant::ZERO`]: no restriction.
    pub not_before: Instant,
}

impl ClusterKey {
    /// A key that may be used at once.
    #[must_use]
    pub fn new(id: KeyId, secret: impl Into<Vec<u8>>) -> Self {
        Self { id, secret: secret.into(), not_before: Instant::ZERO }
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({}, {} bytes)", self.id, self.secret.len())
    }
}

/// Why a key was not learned, used or forgotten. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret is too short to be one.
    #[error("key {id} has {len} bytes: make it of at least 32 random bytes")]
    TooShort {
        /// Of which key.
        id: KeyId,
        /// Its length in bytes.
        len: usize,
    },
    /// This node has another secret under the same id. Ids are not used again: give the new key another one.
    #[error("key {id} is known with another secret: give the new key an id of its own")]
    OtherSecret {
        /// Which id.
        id: KeyId,
    },
    /// This secret is known under another id, so that a change of keys would change nothing.
    #[error("key {id} has the secret of key {known}: make a new secret")]
    SameSecret {
        /// The new id.
        id: KeyId,
        /// The id it is known under.
        known: KeyId,
    },
    /// Too many keys are known. Forget one first.
    #[error(
        "key {id} is one too many: forget one that is not needed any more; at most 8 are known at a time"
    )]
    Full {
        /// The new id.
        id: KeyId,
    },
    /// This node does not have this key. Learn it first, at every node.
    #[error("key {id} is not known: learn it first, at every node")]
    Unknown {
        /// Which id.
        id: KeyId,
    },
    /// The key may not be used for sending yet.
    #[error("key {id} must not be used for another {} s", wait.as_secs())]
    TooEarly {
        /// Which id.
        id: KeyId,
        /// How long it takes until it may.
        wait: Duration,
    },
    /// This node sends with this key: without it, it would be locked out. Use another one first, at every node.
    #[error("key {id} is the one in use: use another key first, at every node")]
    InUse {
        /// Which id.
        id: KeyId,
    },
    /// The node does not run any more.
    #[error("the node has stopped")]
    Stopped,
    /// Circuits to these peers still rest on this key. Use the new key at those nodes, too, and wait until they have moved;
    /// or, if they will never come back or must not, revoke the key.
    #[error(
        "key {id} still protects what goes to {}: use the new key there, too, or revoke this one",
        list(peers)
    )]
    StillNeeded {
        /// Which id.
        id: KeyId,
        /// By whom.
        peers: Vec<NodeId>,
    },
}

fn list(peers: &[NodeId]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

struct Held {
    key: ClusterKey,
    /// For the codes of handshake messages.
    handshake: Mac,
    /// For what is agreed inside a circuit.
    renewal: Mac,
}

impl Held {
    fn new(key: ClusterKey) -> Self {
        let handshake = Mac::new(&key.secret, "ocf-comm 1 handshake");
        let renewal = Mac::new(&key.secret, "ocf-comm 1 renewal");
        Self { key, handshake, renewal }
    }
}

/// The keys that a node knows. All of them are accepted; one of them is used for sending.
///
/// ```
/// use ocf_comm::{ClusterKey, KeyId, KeyRing};
/// let ring = KeyRing::new(ClusterKey::new(KeyId(7), [1; 32])).with(ClusterKey::new(KeyId(8), [2; 32]))?;
/// assert_eq!((ring.sends_with(), ring.len()), (KeyId(7), 2));
/// # Ok::<(), ocf_comm::KeyError>(())
/// ```
pub struct KeyRing {
    /// In order of their ids.
    keys: Vec<Held>,
    sends_with: KeyId,
}

impl KeyRing {
    /// A ring of one key, which is used for sending.
    #[must_use]
    pub fn new(key: ClusterKey) -> Self {
        let sends_with = key.id;
        Self { keys: vec![Held::new(key)], sends_with }
    }

    /// Adds a key that is accepted, too.
    ///
    /// # Errors
    /// As [`Endpoint::learn_key`](crate::Endpoint::learn_key).
    pub fn with(mut self, key: ClusterKey) -> Result<Self, KeyError> {
        self.learn(key)?;
        Ok(self)
    }

    /// Number of keys, 1 to 8.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a ring is never empty")]
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key that this node sends with.
    #[must_use]
    pub const fn sends_with(&self) -> KeyId {
        self.sends_with
    }

    /// The ids of all keys, in order.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|held| held.key.id)
    }

    /// All keys, in order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &ClusterKey> {
        self.keys.iter().map(|held| &held.key)
    }

    /// Checks the secrets that the ring was made of.
    pub(crate) fn check(&self) -> Result<(), KeyError> {
        self.keys.iter().try_for_each(|held| check_secret(&held.key))
    }

    pub(crate) fn learn(&mut self, key: ClusterKey) -> Result<(), KeyError> {
        check_secret(&key)?;
        let id = key.id;
        let at = match self.find(id) {
            Ok(known) if self.keys[known].key.secret == key.secret => return Ok(()),
            Ok(_) => return Err(KeyError::OtherSecret { id }),
            Err(at) => at,
        };
        if let Some(same) = self.keys.iter().find(|held| held.key.secret == key.secret) {
            return Err(KeyError::SameSecret { id, known: same.key.id });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyError::Full { id });
        }
        self.keys.insert(at, Held::new(key));
        Ok(())
    }

    pub(crate) fn send_with(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        let held = self.held(id).ok_or(KeyError::Unknown { id })?;
        if held.key.not_before > now {
            return Err(KeyError::TooEarly { id, wait: held.key.not_before.since(now) });
        }
        self.sends_with = id;
        Ok(())
    }

    /// Checks whether a key can be forgotten as far as the ring can tell.
    pub(crate) fn may_forget(&self, id: KeyId) -> Result<(), KeyError> {
        if self.held(id).is_none() {
            return Err(KeyError::Unknown { id });
        }
        if id == self.sends_with { Err(KeyError::InUse { id }) } else { Ok(()) }
    }

    /// Forgets a key for which [`KeyRing::may_forget`] holds.
    pub(crate) fn forget(&mut self, id: KeyId) {
        debug_assert!(id != self.sends_with, "the key in use is kept");
        self.keys.retain(|held| held.key.id != id);
    }

    fn find(&self, id: KeyId) -> Result<usize, usize> {
        self.keys.binary_search_by_key(&id, |held| held.key.id)
    }

    fn held(&self, id: KeyId) -> Option<&Held> {
        self.find(id).ok().map(|at| &self.keys[at])
    }

    /// The bytes of a key.
    pub(crate) fn secret(&self, id: KeyId) -> Option<&[u8]> {
        self.held(id).map(|held| &*held.key.secret)
    }

    /// What makes and checks the codes of handshake messages.
    pub(crate) fn handshake(&self, id: KeyId) -> Option<&Mac> {
        self.held(id).map(|held| &held.handshake)
    }

    /// What proves, inside a circuit, that an end has a key.
    pub(crate) fn renewal(&self, id: KeyId) -> Option<&Mac> {
        self.held(id).map(|held| &held.renewal)
    }
}

fn check_secret(key: &ClusterKey) -> Result<(), KeyError> {
    let (id, len) = (key.id, key.secret.len());
    if len < SECRET_MIN { Err(KeyError::TooShort { id, len }) } else { Ok(()) }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.ids().map(|id| id.0).collect();
        f.debug_struct("KeyRing").field("ids", &ids).field("sends_with", &self.sends_with.0).finish()
    }
}

impl From<ClusterKey> for KeyRing {
    fn from(key: ClusterKey) -> Self {
        Self::new(key)
    }
}

impl From<Vec<u8>> for KeyRing {
    /// A ring of one key, with the id 0.
    fn from(secret: Vec<u8>) -> Self {
        Self::new(ClusterKey::new(KeyId(0), secret))
    }
}

impl From<&[u8]> for KeyRing {
    /// A ring of one key, with the id 0.
    fn from(secret: &[u8]) -> Self {
        secret.to_vec().into()
    }
}

impl<const N: usize> From<&[u8; N]> for KeyRing {
    /// A ring of one key, with the id 0.
    fn from(secret: &[u8; N]) -> Self {
        secret.to_vec().into()
    }
}

/// What is known about one key of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// Which.
    pub id: KeyId,
    /// True if this node sends with it.
    pub sends: bool,
    /// Peers whose circuit rests on it: it cannot be forgotten while there are any.
    pub peers: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, byte: u8) -> ClusterKey {
        ClusterKey::new(KeyId(id), [byte; 32])
    }

    #[test]
    fn a_ring_refuses_what_would_confuse_or_lock_out_and_then_is_unchanged() {
        let mut ring = KeyRing::new(key(1, 1));
        let now = Instant::from_millis(5000);
        assert_eq!(ring.learn(key(1, 1)), Ok(()), "what is known may be learned again");
        assert_eq!(ring.learn(key(1, 2)), Err(KeyError::OtherSecret { id: KeyId(1) }));
        assert_eq!(ring.learn(key(2, 1)), Err(KeyError::SameSecret { id: KeyId(2), known: KeyId(1) }));
        let short = ClusterKey::new(KeyId(2), [9; 31]);
        assert_eq!(ring.learn(short), Err(KeyError::TooShort { id: KeyId(2), len: 31 }));
        assert_eq!(ring.send_with(now, KeyId(2)), Err(KeyError::Unknown { id: KeyId(2) }));
        assert_eq!(ring.may_forget(KeyId(1)), Err(KeyError::InUse { id: KeyId(1) }));
        assert_eq!(ring.may_forget(KeyId(2)), Err(KeyError::Unknown { id: KeyId(2) }));
        assert_eq!((ring.len(), ring.sends_with()), (1, KeyId(1)));
        for id in 2..=8 {
            ring.learn(key(id, id)).unwrap();
        }
        assert_eq!(ring.learn(key(9, 9)), Err(KeyError::Full { id: KeyId(9) }));
    }

    #[test]
    fn a_key_is_not_sent_with_before_its_time_and_the_old_one_can_go_afterwards() {
        let mut late = key(2, 2);
        late.not_before = Instant::from_millis(10_000);
        let mut ring = KeyRing::new(key(1, 1)).with(late).unwrap();
        let early = KeyError::TooEarly { id: KeyId(2), wait: Duration::from_secs(4) };
        assert_eq!(ring.send_with(Instant::from_millis(6000), KeyId(2)), Err(early));
        assert_eq!(ring.send_with(Instant::from_millis(10_000), KeyId(2)), Ok(()));
        ring.may_forget(KeyId(1)).unwrap();
        ring.forget(KeyId(1));
        assert_eq!(ring.ids().collect::<Vec<_>>(), [KeyId(2)]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?} {:?}", key(3, 0x5a), KeyRing::new(key(3, 0x5a)));
        assert!(!text.contains("90") && !text.contains("5a"), "{text}");
    }
}
