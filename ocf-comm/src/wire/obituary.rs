use super::header::VERSION;
use pils::NodeInstance;
use pils::wire::Reader;
use ring::digest::{SHA256, digest};

/// Bytes of an obituary.
pub(crate) const OBITUARY_LEN: usize = 56;

/// "This incarnation is dead": the one statement that a sentinel can make. Not sealed: its secret was never seen before, and
/// says nothing else.
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | kind 7, version |
/// | 1 | 1 | 1 if the processes of its resources are dead, too, else 0 |
/// | 2 | 2 | reserved, 0 |
/// | 4 | 20 | the dead: node id, incarnation |
/// | 24 | 32 | the secret |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Obituary {
    pub(crate) of: NodeInstance,
    pub(crate) resources: bool,
    pub(crate) secret: [u8; 32],
}

impl Obituary {
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != OBITUARY_LEN {
            return None;
        }
        let mut r = Reader::new(datagram.get(1..)?);
        let resources = match r.u8("resources").ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let reserved: [u8; 2] = r.array("reserved").ok()?;
        let (of, secret) = (r.instance("of").ok()?, r.array("secret").ok()?);
        (reserved == [0; 2]).then_some(Self { of, resources, secret })
    }

    #[cfg(any(test, fuzzing, feature = "driver", feature = "testing"))]
    pub(crate) fn emit(&self) -> Vec<u8> {
        use bytes::BufMut as _;
        use pils::wire::Writer as _;
        let mut out = Vec::with_capacity(OBITUARY_LEN);
        out.put_slice(&[super::Kind::Obituary.byte(), u8::from(self.resources), 0, 0]);
        out.put_instance(self.of);
        out.put_slice(&self.secret);
        out
    }

    /// True if the secret is the one that `commitment` was made of.
    pub(crate) fn proves(&self, commitment: &[u8; 32]) -> bool {
        let once = hash(&self.secret);
        if self.resources { hash(&once) == *commitment } else { once == *commitment }
    }
}

/// One step of the chain from the secret that covers the resources to the one that does not, and on to what peers are
/// told. Nobody can go back.
pub(crate) fn hash(secret: &[u8; 32]) -> [u8; 32] {
    digest(&SHA256, secret).as_ref().try_into().expect("sha-256 gives 32 bytes")
}

// The version is in the first byte with the kind; another one is not looked at.
const _: () = assert!(VERSION == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    #[test]
    fn each_secret_proves_its_own_statement_and_no_more() {
        let of = NodeInstance::new(NodeId::new(1), Incarnation::new(7));
        let both = [9; 32];
        let process = hash(&both);
        let commitment = hash(&process);
        let says = |resources, secret| Obituary { of, resources, secret }.proves(&commitment);
        assert!(says(false, process) && says(true, both));
        // Who heard that the process is dead cannot say that its resources are; the other way is true anyway.
        assert!(!says(true, process) && !says(false, both));
        assert!(!says(false, [0; 32]) && !says(false, commitment));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_to_what_emits_them_or_not_at_all(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), full in any::<bool>()) {
            if full {
                bytes.resize(OBITUARY_LEN, 0);
                bytes[1] &= 1;
                bytes[2..4].fill(0);
            }
            if let Some(obituary) = Obituary::parse(&bytes) {
                bytes[0] = crate::wire::Kind::Obituary.byte();
                prop_assert_eq!(obituary.emit(), bytes);
            } else {
                prop_assert!(!full);
            }
        }
    }
}
