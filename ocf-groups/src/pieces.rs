//! Where a state is cut into pieces: by its content, so that what stands behind a change is cut as before, and is known again by
//! who has it from an earlier state.

use core::fmt;
use ring::digest;

/// What a piece is known by: the first half of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(pub(crate) [u8; Self::LENGTH]);

impl Digest {
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn of(piece: &[u8]) -> Self {
        let whole = digest::digest(&digest::SHA256, piece);
        let mut half = [0; Self::LENGTH];
        half.copy_from_slice(&whole.as_ref()[..Self::LENGTH]);
        Self(half)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Bytes that decide whether a piece ends: the last 64, by which a shift of one bit for each has pushed all others out.
const REACH: usize = 64;

/// A number for each byte, by which the end of a piece is found.
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let (mut at, mut seed) = (0, 0_u64);
    while at < table.len() {
        // SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = z ^ (z >> 31);
        at += 1;
    }
    table
}

/// Cuts states: pieces have between a quarter of `most` and `most` bytes, about half of it on average; the last may be shorter.
/// Source: the gear hash of Xia et al., "Ddelta" (2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutter {
    least: usize,
    most: usize,
    mask: u64,
}

impl Cutter {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let bits = (most / 4).max(1).ilog2();
        // The high bits: those that all bytes within reach have a part in.
        let mask = u64::MAX.checked_shl(u64::BITS - bits).unwrap_or(0);
        Self { least: (most / 4).max(1), most, mask }
    }

    /// Length of the first piece of what is not empty. O(length).
    pub(crate) fn first(&self, state: &[u8]) -> usize {
        let most = state.len().min(self.most);
        let from = self.least.saturating_sub(REACH);
        let mut hash = 0_u64;
        for (at, byte) in state.iter().enumerate().take(most).skip(from) {
            hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
            if at + 1 >= self.least && hash & self.mask == 0 {
                return at + 1;
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::Rng;
    use std::collections::BTreeSet;

    fn pieces(state: &[u8], most: usize) -> Vec<&[u8]> {
        let cutter = Cutter::new(most);
        let (mut rest, mut found) = (state, Vec::new());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cutter.first(rest));
            found.push(piece);
            rest = more;
        }
        found
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut rng = Rng::new(7);
        (0..length).map(|_| rng.below(256).try_into().unwrap()).collect()
    }

    #[test]
    fn pieces_make_the_whole_and_keep_their_bounds() {
        for most in [1, 2, 7, 64, 1000, 4096] {
            for state in [noise(20_000), vec![0; 20_000], noise(1), Vec::new()] {
                let pieces = pieces(&state, most);
                assert_eq!(pieces.concat(), state);
                assert!(pieces.iter().all(|p| !p.is_empty() && p.len() <= most));
                let whole = pieces.len().saturating_sub(1);
                assert!(pieces.iter().take(whole).all(|p| p.len() >= most / 4));
            }
        }
    }

    #[test]
    fn an_insertion_changes_the_pieces_around_it_and_no_others() {
        let before = noise(200_000);
        let mut after = before.clone();
        after.splice(50_000..50_000, *b"something new");
        let known: BTreeSet<Digest> = pieces(&before, 4096).into_iter().map(Digest::of).collect();
        let all = pieces(&after, 4096);
        let new = all.iter().filter(|p| !known.contains(&Digest::of(p))).count();
        assert!((1..=3).contains(&new), "{new} of {} pieces are new", all.len());
    }
}
