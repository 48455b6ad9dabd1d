use core::fmt;
use ring::hmac;

/// A strong deterministic generator: HMAC-SHA256 in counter mode, whose key is replaced after each draw so that a
/// captured state does not tell earlier output.
pub(crate) struct Drbg {
    key: hmac::Key,
}

impl Drbg {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, seed);
        Self { key: derive(&root, b"ocf-comm generator") }
    }

    /// `N` bytes, at most 64.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for (i, chunk) in (0_u8..).zip(out.chunks_mut(32)) {
            let block = hmac::sign(&self.key, &[i, 0]);
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
        self.key = derive(&self.key, &[0xff, 1]);
        out
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }
}

fn derive(key: &hmac::Key, label: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(key, label).as_ref())
}

impl fmt::Debug for Drbg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drbg").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_a_function_of_the_seed_and_does_not_repeat() {
        let draw = |seed: u8| {
            let mut d = Drbg::new(&[seed; 32]);
            (d.bytes::<48>(), d.bytes::<16>(), d.u32())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let (a, b, _) = draw(1);
        assert!(a[..16] != b && a[..16] != a[32..]);
    }
}
