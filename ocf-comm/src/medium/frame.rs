//! Datagrams on a line of bytes: flag, content and checksum with the flag and the control characters escaped, flag.
//!
//! Source: RFC 1662 (framing of octets). Deviation: the checksum is CRC-32 in network byte order.

const FLAG: u8 = 0x7e;
const ESCAPE: u8 = 0x7d;
const FLIP: u8 = 0x20;
/// Software flow control: escaped, so that a line that uses it works.
const XON: u8 = 0x11;
const XOFF: u8 = 0x13;
const CHECKSUM: usize = 4;

/// Remainders of CRC-32 (the polynomial of Ethernet, reflected) for each byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let (mut i, mut byte) = (0, 0_u32);
    while i < 256 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ 0xedb8_8320 } else { rest >> 1 };
            bit += 1;
        }
        table[i] = rest;
        i += 1;
        byte += 1;
    }
    table
};

fn checksum(content: &[u8]) -> u32 {
    !content.iter().fold(!0, |rest: u32, byte| {
        let [low, ..] = rest.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ rest >> 8
    })
}

/// Appends the frame of one datagram to `out`.
pub(super) fn encode(datagram: &[u8], out: &mut Vec<u8>) {
    out.push(FLAG);
    for byte in datagram.iter().chain(&checksum(datagram).to_be_bytes()) {
        if matches!(*byte, FLAG | ESCAPE | XON | XOFF) {
            out.extend([ESCAPE, byte ^ FLIP]);
        } else {
            out.push(*byte);
        }
    }
    out.push(FLAG);
}

/// Finds frames in bytes as they come.
#[derive(Debug)]
pub(super) struct Decoder {
    content: Vec<u8>,
    escaped: bool,
    /// The frame is spoilt: everything to the next flag is passed over.
    spoilt: bool,
    datagram_max: usize,
}

/// What ended a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    Datagram(&'a mut [u8]),
    /// The checksum is wrong, or it is too long or too short.
    Bad,
}

impl Decoder {
    pub(super) fn new(datagram_max: usize) -> Self {
        // What comes before the first flag is the rest of something.
        Self { content: Vec::new(), escaped: false, spoilt: true, datagram_max }
    }

    /// Takes bytes and gives each frame to `take` as it ends.
    pub(super) fn take(&mut self, bytes: &[u8], mut take: impl FnMut(Decoded<'_>)) {
        for byte in bytes {
            match *byte {
                FLAG => {
                    if let Some(decoded) = self.end() {
                        take(decoded);
                    }
                    self.content.clear();
                    (self.escaped, self.spoilt) = (false, false);
                }
                _ if self.spoilt => {}
                ESCAPE => self.escaped = true,
                byte => {
                    let flip = if core::mem::take(&mut self.escaped) { FLIP } else { 0 };
                    self.content.push(byte ^ flip);
                    if self.content.len() > self.datagram_max + CHECKSUM {
                        self.spoilt = true;
                        take(Decoded::Bad);
                    }
                }
            }
        }
    }

    fn end(&mut self) -> Option<Decoded<'_>> {
        if self.spoilt || self.content.is_empty() {
            return None;
        }
        let Some(length) = self.content.len().checked_sub(CHECKSUM).filter(|n| *n > 0 && !self.escaped)
        else {
            return Some(Decoded::Bad);
        };
        let (datagram, sum) = self.content.split_at_mut(length);
        let right = checksum(datagram).to_be_bytes() == *sum;
        Some(if right { Decoded::Datagram(datagram) } else { Decoded::Bad })
    }
}

/// Feeds bytes to a decoder piece by piece.
#[cfg(any(test, fuzzing, feature = "testing"))]
pub(crate) fn fuzz_frames(datagram_max: usize, step: usize, bytes: &[u8]) {
    let mut decoder = Decoder::new(datagram_max);
    for piece in bytes.chunks(step) {
        decoder.take(piece, |decoded| {
            if let Decoded::Datagram(datagram) = decoded {
                let right = (1..=datagram_max).contains(&datagram.len());
                assert!(right, "{} bytes of at most {datagram_max}", datagram.len());
            }
        });
        assert!(decoder.content.len() <= datagram_max + CHECKSUM + 1, "memory is bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, usize) {
        let mut decoder = Decoder::new(2000);
        let (mut found, mut bad) = (Vec::new(), 0);
        for chunk in bytes.chunks(step) {
            decoder.take(chunk, |decoded| match decoded {
                Decoded::Datagram(datagram) => found.push(datagram.to_vec()),
                Decoded::Bad => bad += 1,
            });
        }
        (found, bad)
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_frame_too_long_is_bad_once_and_the_next_is_found() {
        let mut line = Vec::new();
        encode(&[5; 2001], &mut line);
        encode(b"next", &mut line);
        assert_eq!(decode(&line, 7), (vec![b"next".to_vec()], 1));
    }

    proptest! {
        #[test]
        fn datagrams_survive_the_line_however_it_is_cut(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..20),
            step in 1..300_usize,
            before in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut line: Vec<u8> = before.into_iter().filter(|b| *b != FLAG).collect();
            datagrams.iter().for_each(|d| encode(d, &mut line));
            prop_assert_eq!(decode(&line, step), (datagrams, 0));
        }

        #[test]
        fn one_altered_byte_loses_at_most_two_datagrams_and_invents_none(
            at in any::<proptest::sample::Index>(), flip in 1..=255_u8,
        ) {
            let datagrams: Vec<Vec<u8>> = (0..10_u8).map(|i| vec![i, FLAG, ESCAPE, i, 9]).collect();
            let mut line = Vec::new();
            datagrams.iter().for_each(|d| encode(d, &mut line));
            let at = at.index(line.len());
            line[at] ^= flip;
            let (found, _) = decode(&line, 64);
            prop_assert!(found.len() >= 8);
            prop_assert!(found.iter().all(|d| datagrams.contains(d)));
        }

        #[test]
        fn any_bytes_decode_without_panic_and_within_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let (found, _) = decode(&bytes, 100);
            prop_assert!(found.iter().all(|d| d.len() <= 2000));
        }
    }
}
