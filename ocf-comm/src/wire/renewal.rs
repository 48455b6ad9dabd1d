use pils::wire::Reader;

/// Bytes of an OFFER or ANSWER after its kind.
pub(crate) const RENEWAL: usize = 86;

/// One half of an agreement on fresh secrets inside a circuit: the content of OFFER and ANSWER.
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | generation that it leads to |
/// | 1 | 1 | id of the cluster key |
/// | 2 | 4 | serial number: grows with each offer of one end; an answer repeats that of the offer |
/// | 6 | 16 | nonce |
/// | 22 | 32 | public key |
/// | 54 | 32 | HMAC-SHA256 that proves the cluster key |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) generation: u8,
    pub(crate) key: u8,
    pub(crate) serial: u32,
    pub(crate) nonce: [u8; 16],
    pub(crate) public: [u8; 32],
    pub(crate) proof: [u8; 32],
}

impl Renewal {
    pub(crate) fn bytes(&self) -> [u8; RENEWAL] {
        let mut out = [0; RENEWAL];
        (out[0], out[1]) = (self.generation, self.key);
        out[2..6].copy_from_slice(&self.serial.to_be_bytes());
        out[6..22].copy_from_slice(&self.nonce);
        out[22..54].copy_from_slice(&self.public);
        out[54..].copy_from_slice(&self.proof);
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; RENEWAL]) -> Self {
        let [generation, key, s0, s1, s2, s3, rest @ ..] = bytes;
        let serial = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        let (mut nonce, mut public, mut proof) = ([0; 16], [0; 32], [0; 32]);
        nonce.copy_from_slice(&rest[..16]);
        public.copy_from_slice(&rest[16..48]);
        proof.copy_from_slice(&rest[48..]);
        Self { generation: *generation, key: *key, serial, nonce, public, proof }
    }
}

/// Why an OFFER is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declined {
    /// 0: its key is not known.
    Unknown,
    /// 1: its key is known with another secret.
    Differs,
}

impl Declined {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Differs => 1,
        }
    }

    pub(crate) const fn parse(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Unknown),
            1 => Some(Self::Differs),
            _ => None,
        }
    }
}

/// Takes the content of an OFFER or ANSWER without a copy.
pub(crate) fn take_renewal<'a>(r: &mut Reader<'a>) -> Result<&'a [u8; RENEWAL], pils::wire::ParseError> {
    let at = r.clone();
    let bytes = r.take("renewal", RENEWAL)?;
    bytes.try_into().map_err(|_length| at.error("renewal", pils::wire::Malformed::Truncated))
}
