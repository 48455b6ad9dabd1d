use core::fmt;

/// Longest value block, in bytes.
pub const VALUE_MAX: usize = 64;

/// A few bytes that travel with the locks of a resource, written by who held it in PW or EX, read by who is granted it.
///
/// 1 to [`VALUE_MAX`] bytes; how many is a setting of the lockspace. A new resource has zeros.
#[derive(Clone, Copy)]
pub struct ValueBlock {
    length: u8,
    bytes: [u8; VALUE_MAX],
}

impl ValueBlock {
    /// A block of `length` zeros, at most [`VALUE_MAX`].
    #[must_use]
    pub fn zero(length: usize) -> Self {
        let length = u8::try_from(length.min(VALUE_MAX)).unwrap_or(0);
        Self { length, bytes: [0; VALUE_MAX] }
    }

    /// The block with the first [`VALUE_MAX`] of those bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut block = Self::zero(bytes.len());
        let length = usize::from(block.length);
        block.bytes[..length].copy_from_slice(&bytes[..length]);
        block
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// This block cut or filled up with zeros to `length`, at most [`VALUE_MAX`].
    #[must_use]
    pub fn resized(&self, length: usize) -> Self {
        let mut block = Self::zero(length);
        let both = usize::from(block.length.min(self.length));
        block.bytes[..both].copy_from_slice(&self.bytes[..both]);
        block
    }

    /// The first eight bytes as a number, lowest first; missing ones are zero.
    #[must_use]
    pub fn number(&self) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[..8]);
        u64::from_le_bytes(word)
    }

    /// This block with `number` in its first eight bytes.
    #[must_use]
    pub fn with_number(mut self, number: u64) -> Self {
        let length = usize::from(self.length).min(8);
        self.bytes[..length].copy_from_slice(&number.to_le_bytes()[..length]);
        self
    }
}

impl core::hash::Hash for ValueBlock {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialEq for ValueBlock {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ValueBlock {}

impl fmt::Debug for ValueBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_and_numbers() {
        let block = ValueBlock::new(b"abc");
        assert_eq!(block.as_bytes(), b"abc");
        assert_eq!(block.resized(5).as_bytes(), b"abc\0\0");
        assert_eq!(block.resized(2).as_bytes(), b"ab");
        assert_eq!(ValueBlock::zero(32).with_number(7).number(), 7);
        assert_eq!(ValueBlock::zero(1).with_number(258).number(), 2);
        assert_eq!(ValueBlock::new(&[1; 99]).as_bytes().len(), VALUE_MAX);
    }
}
