//! What a core must be given because it cannot draw it itself: unpredictable seeds and fresh incarnations.

use pils::Incarnation;
use ring::rand::{SecureRandom, SystemRandom};

/// `N` bytes from the operating system's generator; fit for keys.
///
/// # Panics
/// If the operating system has no random bytes: nothing safe can be done then.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).expect("the operating system gives random bytes");
    out
}

/// A seed for [`pils::Rng`].
///
/// # Panics
/// As [`bytes()`].
#[must_use]
pub fn seed() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// The incarnation of a node that starts now.
///
/// # Panics
/// As [`bytes()`].
#[must_use]
pub fn incarnation() -> Incarnation {
    Incarnation::new(u128::from_ne_bytes(bytes()))
}
