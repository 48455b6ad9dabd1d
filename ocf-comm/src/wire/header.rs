use bytes::BufMut as _;

/// The newest, and so far only, version of the protocol.
pub(crate) const VERSION: u8 = 1;
/// Bytes of the clear header of a sealed packet.
pub(crate) const HEADER: usize = 16;

/// What a datagram is: the high half of its first byte. The low half is the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sealed,
    Hello,
    Init,
    Cookie,
    Response,
    Refuse,
    /// Not a handshake: see [`Obituary`](super::Obituary).
    Obituary,
    /// Not a handshake: see [`Announce`](super::Announce).
    Announce,
}

impl Kind {
    /// The kind and version that this first byte names.
    pub(crate) const fn parse(first: u8) -> Option<(Self, u8)> {
        let kind = match first >> 4 {
            1 => Self::Sealed,
            2 => Self::Hello,
            3 => Self::Init,
            4 => Self::Cookie,
            5 => Self::Response,
            6 => Self::Refuse,
            7 => Self::Obituary,
            8 => Self::Announce,
            _ => return None,
        };
        Some((kind, first & 0x0f))
    }

    /// The first byte of this kind in [`VERSION`].
    pub(crate) const fn byte(self) -> u8 {
        let kind = match self {
            Self::Sealed => 1,
            Self::Hello => 2,
            Self::Init => 3,
            Self::Cookie => 4,
            Self::Response => 5,
            Self::Refuse => 6,
            Self::Obituary => 7,
            Self::Announce => 8,
        };
        kind << 4 | VERSION
    }
}

/// The clear header of a sealed packet; authenticated with it.
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | kind 1, version 1 |
/// | 1 | 1 | key phase |
/// | 2 | 1 | path id |
/// | 3 | 1 | generation: how often fresh secrets were agreed upon in this circuit, modulo 256 |
/// | 4 | 4 | circuit id, chosen by the receiver |
/// | 8 | 8 | packet number, counts per path and direction, below 2^62 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) phase: u8,
    pub(crate) path: u8,
    pub(crate) generation: u8,
    pub(crate) circuit: u32,
    pub(crate) number: u64,
}

impl Header {
    /// Reads the header of a datagram of kind [`Kind::Sealed`]; `None` if it is too short or a bit that must be 0 is set.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = datagram.first_chunk()?;
        let [_, phase, path, generation, c0, c1, c2, c3, number @ ..] = *header;
        let number = u64::from_be_bytes(number);
        if number >> 62 != 0 {
            return None;
        }
        Some(Self { phase, path, generation, circuit: u32::from_be_bytes([c0, c1, c2, c3]), number })
    }

    pub(crate) fn emit(self, out: &mut Vec<u8>) {
        out.put_slice(&[Kind::Sealed.byte(), self.phase, self.path, self.generation]);
        out.put_u32(self.circuit);
        out.put_u64(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_the_documented_bytes() {
        let header = Header { phase: 3, path: 1, generation: 5, circuit: 0x0102_0304, number: 0x0a0b };
        let mut out = Vec::new();
        header.emit(&mut out);
        assert_eq!(out, [0x11, 3, 1, 5, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 10, 11]);
        assert_eq!(Header::parse(&out), Some(header));
        assert_eq!(Header::parse(&out[..15]), None);
        out[8] = 0x40;
        assert_eq!(Header::parse(&out), None);
    }

    #[test]
    fn every_kind_survives_its_byte() {
        for kind in [
            Kind::Sealed,
            Kind::Hello,
            Kind::Init,
            Kind::Cookie,
            Kind::Response,
            Kind::Obituary,
            Kind::Announce,
        ] {
            assert_eq!(Kind::parse(kind.byte()), Some((kind, VERSION)));
        }
        assert_eq!(Kind::parse(0x01), None);
    }
}
