use super::header::{Kind, VERSION};
use crate::DropReason;
use crate::crypto::{KeyId, KeyRing, Mac};
use crate::suite::{Choice, Offer};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use pils::{NodeId, NodeInstance};

use bytes::BufMut as _;

/// Bytes of the hash of the cluster's name.
pub(crate) const CLUSTER_HASH: usize = 16;
/// Bytes of a code over a handshake message.
const MAC: usize = 32;
/// Bytes of [`Envelope`] on the wire.
const ENVELOPE: usize = 44;
/// Where the id of the key is.
const KEY_AT: usize = 3;
/// Bytes of an INIT before its padding.
const INIT_CONTENT: usize = 160;
/// [`Handshake::Refuse`]: another living node has your id.
pub(crate) const REFUSED_DOUBLE: u8 = 0;
/// [`Handshake::Refuse`]: no authenticator in common.
pub(crate) const REFUSED_OFFER: u8 = 1;
/// [`Handshake::Refuse`]: the receiver has no such peer.
pub(crate) const REFUSED_STRANGER: u8 = 2;
/// Size of an INIT: padded so that no answer to it is larger.
pub(crate) const INIT_LEN: usize = 224;

/// What every handshake message, of every version, starts with. The last 32 bytes are an HMAC-SHA256 over the rest.
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | kind 2 to 6, version |
/// | 1 | 1 | newest version the sender speaks |
/// | 2 | 1 | path id |
/// | 3 | 1 | id of the cluster key that the code is of |
/// | 4 | 20 | sender: node id, incarnation |
/// | 24 | 4 | node id of the receiver |
/// | 28 | 16 | hash of the cluster's name |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) kind: Kind,
    pub(crate) version: u8,
    pub(crate) newest: u8,
    pub(crate) path: u8,
    pub(crate) key: KeyId,
    pub(crate) from: NodeInstance,
    pub(crate) to: NodeId,
    pub(crate) cluster: [u8; CLUSTER_HASH],
}

/// The body of a handshake message, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// "I am here, and have no circuit with you": from the larger node id to the smaller, which then initiates.
    ///
    /// | 44 | 16 | salt, random |
    /// | 60 | 1 | 0 |
    Hello { salt: [u8; 16] },
    /// The request, without and then with a cookie.
    ///
    /// | 44 | 16 | nonce |
    /// | 60 | 4 | circuit id that the responder shall use |
    /// | 64 | 32 | public key |
    /// | 96 | 32 | cookie, zeros if none |
    /// | 128 | 16 | authenticators offered, 4 bytes each, best first, zeros at the end |
    /// | 144 | 16 | codecs offered, in the same way |
    /// | 160 | 32 | zeros |
    Init { nonce: [u8; 16], circuit: u32, public: [u8; 32], cookie: [u8; 32], offer: Offer },
    /// "Prove that you receive at this address."
    ///
    /// | 44 | 16 | nonce of the INIT |
    /// | 60 | 32 | cookie |
    Cookie { nonce: [u8; 16], cookie: [u8; 32] },
    /// The answer; both ends have the keys now.
    ///
    /// | 44 | 16 | nonce of the INIT |
    /// | 60 | 16 | incarnation that the INIT came from |
    /// | 76 | 16 | nonce of the responder |
    /// | 92 | 4 | circuit id that the initiator shall use |
    /// | 96 | 32 | public key |
    /// | 128 | 8 | authenticator, codec |
    Response {
        nonce: [u8; 16],
        to: u128,
        own_nonce: [u8; 16],
        circuit: u32,
        public: [u8; 32],
        choice: Choice,
    },
    /// "Not like this": the answer to a HELLO from an address that is not the peer's, or to an INIT whose offer has
    /// nothing that the responder takes.
    ///
    /// | 44 | 16 | salt of the HELLO, nonce of the INIT |
    /// | 60 | 1 | 0: another living node has your id; 1: no authenticator in common |
    Refuse { salt: [u8; 16], reason: u8 },
}

impl Envelope {
    /// Checks code and form of what comes before the body.
    ///
    /// # Errors
    /// Why the datagram is dropped.
    pub(crate) fn open(keys: &KeyRing, datagram: &[u8]) -> Result<(Self, usize), DropReason> {
        let content = datagram.len().checked_sub(MAC).filter(|n| *n >= ENVELOPE).ok_or(DropReason::BadMac)?;
        let key = KeyId(datagram[KEY_AT]);
        let mac = keys.handshake(key).ok_or(DropReason::UnknownKey)?;
        if !mac.verify(&datagram[..content], &datagram[content..]) {
            return Err(DropReason::BadMac);
        }
        let envelope = Self::parse(&datagram[..content]).map_err(|_parse| DropReason::Malformed)?;
        Ok((envelope, content))
    }

    fn parse(content: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(content);
        let bad = r.error("kind", Malformed::OutOfRange);
        let (kind, version) = Kind::parse(r.u8("kind")?).ok_or(bad)?;
        let newest = r.u8("newest version")?;
        let path = r.u8("path")?;
        let key = KeyId(r.u8("key")?);
        let (from, to) = (r.instance("sender")?, r.node("receiver")?);
        Ok(Self { kind, version, newest, path, key, from, to, cluster: r.array("cluster")? })
    }
}

impl Handshake {
    /// Reads the body that follows the envelope in `content` (the datagram without its code).
    pub(crate) fn parse(kind: Kind, content: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(content);
        r.take("envelope", ENVELOPE)?;
        let body = match kind {
            Kind::Sealed | Kind::Obituary | Kind::Announce => {
                return Err(r.error("kind", Malformed::OutOfRange));
            }
            Kind::Hello => {
                let salt = r.array("salt")?;
                r.u8("reserved")?;
                Self::Hello { salt }
            }
            Kind::Init => {
                let (nonce, circuit) = (r.array("nonce")?, r.u32("circuit")?);
                let (public, cookie) = (r.array("public key")?, r.array("cookie")?);
                let offer = Offer::from_bytes(&r.array("offer")?);
                let at = r.clone();
                if r.take("padding", INIT_LEN - MAC - INIT_CONTENT)?.iter().any(|b| *b != 0) {
                    return Err(at.error("padding", Malformed::OutOfRange));
                }
                Self::Init { nonce, circuit, public, cookie, offer }
            }
            Kind::Cookie => Self::Cookie { nonce: r.array("nonce")?, cookie: r.array("cookie")? },
            Kind::Refuse => Self::Refuse { salt: r.array("salt")?, reason: r.u8("reason")? },
            Kind::Response => Self::Response {
                nonce: r.array("nonce")?,
                to: u128::from_be_bytes(r.array("incarnation")?),
                own_nonce: r.array("own nonce")?,
                circuit: r.u32("circuit")?,
                public: r.array("public key")?,
                choice: Choice::from_bytes(r.array("choice")?),
            },
        };
        r.finish("handshake")?;
        Ok(body)
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Hello { .. } => Kind::Hello,
            Self::Init { .. } => Kind::Init,
            Self::Cookie { .. } => Kind::Cookie,
            Self::Response { .. } => Kind::Response,
            Self::Refuse { .. } => Kind::Refuse,
        }
    }
}

/// The datagram of a handshake message: envelope, body, code.
pub(crate) fn seal_handshake(
    (key, mac): (KeyId, &Mac),
    path: u8,
    from: NodeInstance,
    to: NodeId,
    body: (&[u8; CLUSTER_HASH], &Handshake),
) -> Vec<u8> {
    let (cluster, body) = body;
    let mut out = Vec::with_capacity(INIT_LEN);
    out.put_slice(&[body.kind().byte(), VERSION, path, key.0]);
    out.put_instance(from);
    out.put_node(to);
    out.put_slice(cluster);
    match body {
        Handshake::Hello { salt } => {
            out.put_slice(salt);
            out.put_u8(0);
        }
        Handshake::Refuse { salt, reason } => {
            out.put_slice(salt);
            out.put_u8(*reason);
        }
        Handshake::Init { nonce, circuit, public, cookie, offer } => {
            out.put_slice(nonce);
            out.put_u32(*circuit);
            out.put_slice(public);
            out.put_slice(cookie);
            out.put_slice(&offer.bytes());
            out.put_bytes(0, INIT_LEN - MAC - INIT_CONTENT);
        }
        Handshake::Cookie { nonce, cookie } => {
            out.put_slice(nonce);
            out.put_slice(cookie);
        }
        Handshake::Response { nonce, to, own_nonce, circuit, public, choice } => {
            out.put_slice(nonce);
            out.put_u128(*to);
            out.put_slice(own_nonce);
            out.put_u32(*circuit);
            out.put_slice(public);
            out.put_slice(&choice.bytes());
        }
    }
    let code = mac.sign(&out);
    out.put_slice(&code);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ClusterKey;
    use pils::Incarnation;
    use proptest::prelude::*;

    fn bodies() -> [Handshake; 5] {
        [
            Handshake::Hello { salt: [1; 16] },
            Handshake::Init { nonce: [2; 16], circuit: 3, public: [4; 32], cookie: [5; 32], offer: OFFER },
            Handshake::Cookie { nonce: [6; 16], cookie: [7; 32] },
            Handshake::Response {
                nonce: [8; 16],
                to: 9,
                own_nonce: [10; 16],
                circuit: 11,
                public: [12; 32],
                choice: Choice { authenticator: 1, codec: 2 },
            },
            Handshake::Refuse { salt: [13; 16], reason: 1 },
        ]
    }

    const OFFER: Offer = Offer { authenticators: [1, 2, 3, 4], codecs: [5, 6, 0, 0] };

    fn keys() -> KeyRing {
        KeyRing::new(ClusterKey::new(KeyId(5), [7; 32]))
    }

    fn sealed(body: &Handshake) -> Vec<u8> {
        let from = NodeInstance::new(NodeId::new(1), Incarnation::new(77));
        seal_handshake(
            (KeyId(5), keys().handshake(KeyId(5)).unwrap()),
            3,
            from,
            NodeId::new(2),
            (&[9; 16], body),
        )
    }

    #[test]
    fn messages_round_trip_and_answers_are_not_larger_than_the_request() {
        for body in bodies() {
            let datagram = sealed(&body);
            assert!(datagram.len() <= INIT_LEN);
            let (envelope, content) = Envelope::open(&keys(), &datagram).unwrap();
            assert_eq!((envelope.path, envelope.to, envelope.cluster), (3, NodeId::new(2), [9; 16]));
            assert_eq!(Handshake::parse(envelope.kind, &datagram[..content]), Ok(body));
        }
        assert_eq!(sealed(&bodies()[1]).len(), INIT_LEN);
        assert_eq!(sealed(&bodies()[4]).len(), sealed(&bodies()[0]).len(), "a refusal answers a HELLO");
    }

    #[test]
    fn any_altered_or_missing_byte_fails_the_code() {
        for body in bodies() {
            let datagram = sealed(&body);
            for i in 0..datagram.len() {
                let mut altered = datagram.clone();
                altered[i] ^= 0x20;
                let reason = if i == KEY_AT { DropReason::UnknownKey } else { DropReason::BadMac };
                assert_eq!(Envelope::open(&keys(), &altered), Err(reason));
                assert_eq!(Envelope::open(&keys(), &datagram[..i]), Err(DropReason::BadMac));
            }
        }
    }

    proptest! {
        #[test]
        fn any_body_parses_or_fails_without_panic(content in proptest::collection::vec(any::<u8>(), 0..256)) {
            for kind in [Kind::Sealed, Kind::Hello, Kind::Init, Kind::Cookie, Kind::Response, Kind::Refuse] {
                if let Ok(body) = Handshake::parse(kind, &content) {
                    prop_assert_eq!(body.kind(), kind);
                }
            }
        }
    }
}
