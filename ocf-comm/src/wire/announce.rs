use super::header::{Kind, VERSION};
use crate::crypto::{KeyId, KeyRing, Mac};
use crate::{DropReason, PathId};
use bytes::BufMut as _;
use pils::NodeInstance;
use pils::wire::{Reader, Writer as _};
use std::net::{IpAddr, SocketAddr};

/// Paths that a node can say its address on.
pub(crate) const ADDRESSES_MAX: usize = 8;
const ADDRESS: usize = 1 + 16 + 2;
const MAC: usize = 32;
/// Bytes of every announcement: one size, so that no answer is larger than its question.
pub(crate) const ANNOUNCE_LEN: usize = 57 + ADDRESSES_MAX * ADDRESS + MAC;

/// "I am here, and reached there."
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | kind 8, version |
/// | 1 | 1 | 1: answer me, 0: not |
/// | 2 | 1 | reserved, 0 |
/// | 3 | 1 | id of the cluster key that the code is of |
/// | 4 | 20 | sender: node id, incarnation |
/// | 24 | 16 | hash of the cluster's name |
/// | 40 | 8 | features: bits that this version sends as 0 and does not look at |
/// | 48 | 8 | serial number, grows with each announcement of an incarnation |
/// | 56 | 1 | number of addresses, at most 8 |
/// | 57 | 152 | addresses: path 1, IPv6 or mapped IPv4 address 16, port 2; the rest zeros |
/// | 209 | 32 | HMAC-SHA256 over the rest |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announce {
    pub(crate) asks: bool,
    pub(crate) from: NodeInstance,
    pub(crate) serial: u64,
    /// At most [`ADDRESSES_MAX`].
    pub(crate) addresses: Vec<(PathId, SocketAddr)>,
}

impl Announce {
    pub(crate) fn emit(&self, cluster: &[u8; 16], (key, mac): (KeyId, &Mac)) -> Vec<u8> {
        let mut out = Vec::with_capacity(ANNOUNCE_LEN);
        out.put_slice(&[Kind::Announce.byte(), u8::from(self.asks), 0, key.0]);
        out.put_instance(self.from);
        out.put_slice(cluster);
        out.put_u64(0);
        out.put_u64(self.serial);
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        out.put_u8(u8::try_from(addresses.len()).unwrap_or(0));
        for (path, address) in addresses {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.put_u8(path.0);
            out.put_slice(&ip.octets());
            out.put_u16(address.port());
        }
        out.resize(ANNOUNCE_LEN - MAC, 0);
        let code = mac.sign(&out);
        out.put_slice(&code);
        out
    }

    /// Checks code, cluster and form.
    pub(crate) fn open(keys: &KeyRing, cluster: &[u8; 16], datagram: &[u8]) -> Result<Self, DropReason> {
        if datagram.len() != ANNOUNCE_LEN {
            return Err(DropReason::Length);
        }
        if datagram[0] != Kind::Announce.byte() {
            return Err(DropReason::OtherVersion);
        }
        let mac = keys.handshake(KeyId(datagram[3])).ok_or(DropReason::UnknownKey)?;
        let (content, code) = datagram.split_at(ANNOUNCE_LEN - MAC);
        if !mac.verify(content, code) {
            return Err(DropReason::BadMac);
        }
        if content[24..40] != cluster[..] {
            return Err(DropReason::OtherCluster);
        }
        Self::parse(content).ok_or(DropReason::Malformed)
    }

    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut r = Reader::new(content.get(1..)?);
        let asks = r.u8("asks").ok()? == 1;
        r.take("reserved", 2).ok()?;
        let from = r.instance("from").ok()?;
        r.take("cluster and features", 24).ok()?;
        let serial = u64::from_be_bytes(r.array("serial").ok()?);
        let count = usize::from(r.u8("count").ok()?);
        if count > ADDRESSES_MAX {
            return None;
        }
        let mut addresses: Vec<(PathId, SocketAddr)> = Vec::with_capacity(count);
        for _ in 0..count {
            let path = PathId(r.u8("path").ok()?);
            let ip = IpAddr::from(r.array::<16>("address").ok()?).to_canonical();
            let port = u16::from_be_bytes(r.array("port").ok()?);
            if port == 0 || addresses.iter().any(|(known, _)| *known == path) {
                return None;
            }
            addresses.push((path, SocketAddr::new(ip, port)));
        }
        Some(Self { asks, from, serial, addresses })
    }
}

const _: () = assert!(VERSION == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ClusterKey;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    fn keys() -> KeyRing {
        KeyRing::new(ClusterKey::new(KeyId(5), [7; 32]))
    }

    fn announce() -> Announce {
        let addresses = vec![
            (PathId(0), SocketAddr::from(([10, 0, 0, 1], 5405))),
            (PathId(3), "[2001:db8::1]:9".parse().unwrap()),
        ];
        let from = NodeInstance::new(NodeId::new(1), Incarnation::new(77));
        Announce { asks: true, from, serial: 9, addresses }
    }

    fn emit(announce: &Announce) -> Vec<u8> {
        let keys = keys();
        announce.emit(&[9; 16], (KeyId(5), keys.handshake(KeyId(5)).unwrap()))
    }

    #[test]
    fn an_announcement_has_one_size_and_round_trips() {
        let none = Announce { addresses: Vec::new(), asks: false, ..announce() };
        for one in [announce(), none] {
            let bytes = emit(&one);
            assert_eq!(bytes.len(), ANNOUNCE_LEN);
            assert_eq!(Announce::open(&keys(), &[9; 16], &bytes), Ok(one));
            assert_eq!(Announce::open(&keys(), &[8; 16], &bytes), Err(DropReason::OtherCluster));
        }
    }

    #[test]
    fn any_altered_byte_is_found() {
        let bytes = emit(&announce());
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 0x40;
            assert!(Announce::open(&keys(), &[9; 16], &altered).is_err(), "byte {i}");
        }
    }

    proptest! {
        #[test]
        fn any_signed_content_parses_or_fails_without_panic(content in proptest::collection::vec(any::<u8>(), 209)) {
            if let Some(parsed) = Announce::parse(&content) {
                prop_assert!(parsed.addresses.len() <= ADDRESSES_MAX);
                prop_assert!(parsed.addresses.iter().all(|(_, a)| a.port() != 0));
            }
        }
    }
}
