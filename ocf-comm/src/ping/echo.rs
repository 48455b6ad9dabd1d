//! Echo messages of ICMP (RFC 792) and ICMPv6 (RFC 4443).
//!
//! | offset | size | meaning |
//! |---|---|---|
//! | 0 | 1 | type: 8 request, 0 reply; ICMPv6 128, 129 |
//! | 1 | 1 | code 0 |
//! | 2 | 2 | checksum; of ICMPv6, and on a datagram socket, the kernel's work |
//! | 4 | 2 | identifier: on a datagram socket the kernel's choice |
//! | 6 | 2 | sequence number |
//! | 8 | 16 | token |

use super::PING_TOKEN;

/// Bytes of a message.
pub(crate) const ECHO: usize = 8 + PING_TOKEN;

/// A request. `checksum` where the kernel does not write it: raw sockets of IPv4.
pub(crate) fn request(v6: bool, identifier: u16, sequence: u16, token: &[u8; PING_TOKEN]) -> [u8; ECHO] {
    let mut message = [0; ECHO];
    message[0] = if v6 { 128 } else { 8 };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..].copy_from_slice(token);
    if !v6 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// What a reply repeats: the sequence number and the token. `None` for anything else. `raw`: a raw socket's, which gives the
/// header of IPv4, too, and replies to others; those have another `identifier`.
pub(crate) fn reply(data: &[u8], v6: bool, raw: Option<u16>) -> Option<(u16, &[u8])> {
    let message = match data.first()? {
        version if raw.is_some() && !v6 && version >> 4 == 4 => data.get(usize::from(version & 15) * 4..)?,
        _ => data,
    };
    let (head, token) = message.split_first_chunk::<8>()?;
    let kind = if v6 { 129 } else { 0 };
    let identifier = u16::from_be_bytes([head[4], head[5]]);
    let ours = head[0] == kind && head[1] == 0 && raw.is_none_or(|own| own == identifier);
    (ours && token.len() == PING_TOKEN).then(|| (u16::from_be_bytes([head[6], head[7]]), token))
}

/// The ones' complement sum of RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_the_checksum_that_makes_its_sum_zero() {
        for sequence in [0, 1, 0x7fff, 0xffff] {
            let message = request(false, 0xbeef, sequence, &[sequence.to_be_bytes()[1]; 16]);
            assert_eq!(checksum(&message), 0, "{message:?}");
        }
    }

    #[test]
    fn a_reply_is_known_with_and_without_the_header_of_ip_and_a_request_is_none() {
        let mut message = request(false, 7, 9, &[5; 16]).to_vec();
        assert_eq!(reply(&message, false, None), None, "a request of our own, as loopback gives it");
        message[0] = 0;
        assert_eq!(reply(&message, false, None), Some((9, &[5; 16][..])));
        let mut with_header = vec![0x46; 24];
        with_header.extend(&message);
        assert_eq!(reply(&with_header, false, Some(7)), Some((9, &[5; 16][..])));
        assert_eq!(reply(&with_header, false, Some(8)), None, "somebody else's");
        message[0] = 129;
        assert_eq!(reply(&message, true, Some(7)), Some((9, &[5; 16][..])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(data in proptest::collection::vec(any::<u8>(), 0..100), v6: bool, raw: Option<u16>) {
            if let Some((_, token)) = reply(&data, v6, raw) {
                prop_assert_eq!(token.len(), PING_TOKEN);
            }
        }
    }
}
