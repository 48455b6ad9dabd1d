use core::fmt;

/// Longest name of a resource, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest name that needs no allocation of its own, in bytes.
const INLINE: usize = 30;

/// The name of a resource within its lockspace and parent: 1 to [`NAME_MAX`] bytes, any bytes.
#[derive(Clone)]
pub struct ResourceName(Repr);

#[derive(Clone)]
enum Repr {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

/// A name that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_MAX} bytes, not {0}")]
pub struct NameError(pub usize);

impl ResourceName {
    /// The name with those bytes.
    ///
    /// # Errors
    /// If there is none, or more than [`NAME_MAX`].
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let name = name.as_ref();
        match u8::try_from(name.len()) {
            Ok(length @ 1..) if name.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..name.len()].copy_from_slice(name);
                Ok(Self(Repr::Inline(length, bytes)))
            }
            Ok(1..) => Ok(Self(Repr::Heap(name.into()))),
            Ok(0) | Err(_) => Err(NameError(name.len())),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

/// Says that `name` can be one, without keeping it.
pub(crate) fn check(name: &[u8]) -> Result<(), NameError> {
    if (1..=NAME_MAX).contains(&name.len()) { Ok(()) } else { Err(NameError(name.len())) }
}

/// 64 bits of `bytes` under `seed`: the same on every machine, well mixed in all bits. Not for keys.
///
/// Folded multiplication: each word is multiplied with a key to 128 bits and the halves are added without carry.
#[must_use]
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves of the product are used")]
    const fn fold(a: u64, b: u64) -> u64 {
        let wide = (a as u128) * (b as u128);
        (wide as u64) ^ ((wide >> 64) as u64)
    }
    let (k0, k1) = (0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db);
    let mut state = seed ^ k0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), k1).rotate_left(23);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let length = bytes.len() as u64;
    fold(fold(state ^ u64::from_le_bytes(last), k1 ^ length), k0)
}

impl PartialEq for ResourceName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ResourceName {}

impl PartialOrd for ResourceName {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ResourceName {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ResourceName {
    /// The bytes, with escapes for those that are not printable ASCII.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_come_back_and_others_are_refused() {
        for length in 1..=NAME_MAX {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            assert_eq!(ResourceName::new(&bytes).unwrap().as_bytes(), bytes);
        }
        assert_eq!(ResourceName::new([]).unwrap_err(), NameError(0));
        assert_eq!(ResourceName::new([7; NAME_MAX + 1]).unwrap_err(), NameError(256));
        assert!(size_of::<ResourceName>() <= 32);
    }

    #[test]
    fn the_hash_depends_on_every_byte_the_length_and_the_seed() {
        let base = [7_u8; 40];
        let first = hash(1, &base);
        for at in 0..base.len() {
            let mut other = base;
            other[at] ^= 1;
            let differing = (hash(1, &other) ^ first).count_ones();
            assert!((12..=52).contains(&differing), "byte {at}: {differing} bits differ");
        }
        assert_ne!(hash(1, &base[..39]), first);
        assert_ne!(hash(1, &[0]), hash(1, &[0, 0]));
        assert_ne!(hash(2, &base), first);
    }

    #[test]
    fn counted_names_spread_evenly_over_the_high_and_the_low_bits() {
        let mut high = [0_u32; 64];
        let mut low = [0_u32; 64];
        for i in 0..64_000_u32 {
            let h = hash(5, format!("resource-{i}").as_bytes());
            high[usize::try_from(h >> 58).unwrap()] += 1;
            low[usize::try_from(h & 63).unwrap()] += 1;
        }
        assert!(high.iter().chain(&low).all(|n| (850..1150).contains(n)), "{high:?} {low:?}");
    }
}
