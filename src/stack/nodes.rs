//! The set of nodes changes while the cluster runs: whom node communication talks to follows what membership has agreed.

use super::Stack;
use bytes::{BufMut as _, Bytes};
use ocf_comm::{ChangeError, PathId, PeerConfig};
use ocf_membership::{Contact, NodeVotes, Removal, VotesError};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use pils::{Instant, NodeId};
use std::net::{IpAddr, SocketAddr};

/// Paths to a node.
const PATHS_MAX: usize = 8;
/// The first byte of what is agreed about a node; another one is of a version that is not known here.
const VERSION: u8 = 1;
/// Longest name of a node that is agreed, in bytes.
const NAME_MAX: usize = 255;

/// What is agreed about a node that is added: where it is and what people call it.
///
/// | offset | size | meaning |
/// |---|---|---|
/// | 0 | 1 | version, 1 |
/// | 1 | | number of addresses, at most 8 |
/// | | 19 each | path 1, IPv6 or mapped IPv4 address 16, port 2 |
/// | | | name, prefixed by its length; empty: none |
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct NewNode {
    pub(crate) addresses: Vec<(PathId, SocketAddr)>,
    pub(crate) name: String,
}

impl NewNode {
    pub(crate) fn emit(&self) -> Bytes {
        let mut out = vec![VERSION];
        let addresses = &self.addresses[..self.addresses.len().min(PATHS_MAX)];
        out.put_length(addresses.len());
        for (path, address) in addresses {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.put_u8(path.0);
            out.put_slice(&ip.octets());
            out.put_u16(address.port());
        }
        out.put_text(&self.name);
        out.into()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        if r.u8("version")? != VERSION {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let mut addresses = Vec::new();
        for _ in 0..r.length("addresses", PATHS_MAX)? {
            let path = PathId(r.u8("path")?);
            let ip = IpAddr::from(r.array::<16>("address")?).to_canonical();
            addresses.push((path, SocketAddr::new(ip, r.u16("port")?)));
        }
        let name = r.text("name")?;
        if name.len() > NAME_MAX {
            return Err(r.error("name", Malformed::OutOfRange));
        }
        let name = name.to_owned();
        r.finish("node")?;
        Ok(Self { addresses, name })
    }
}

impl Stack {
    /// Adds a node to the set while the cluster runs: see [`ocf_membership::Consensus::add_node`]. `addresses` say on which path it
    /// is reached where, at most 8; none: the configuration of every node says so, or it is found. `name` is what agents are told, at
    /// most 255 bytes.
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn add_node(
        &mut self,
        now: Instant,
        node: NodeVotes,
        addresses: &[(PathId, SocketAddr)],
        name: &str,
    ) -> Result<(), VotesError> {
        self.now = now;
        let known = addresses.is_empty() && name.is_empty();
        let new = NewNode { addresses: addresses.to_vec(), name: name.to_owned() };
        let contact = if known { Bytes::new() } else { new.emit() };
        self.consensus.add_node(now, node, contact)
    }

    /// Removes a node that has ended from the set: see [`ocf_membership::Consensus::remove_node`].
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn remove_node(&mut self, now: Instant, node: NodeId, why: Removal) -> Result<(), VotesError> {
        self.now = now;
        self.consensus.remove_node(now, node, why)
    }

    /// The set of nodes is another: talks to those who are new, and to those who were removed no more.
    pub(super) fn on_peers(&mut self, now: Instant, peers: &[Contact], removed: &[NodeId]) {
        for node in removed {
            match self.endpoint.remove_peer(now, *node) {
                Ok(()) | Err(ChangeError::UnknownPeer(_)) => {}
                Err(error) => tracing::warn!(%node, %error, "a removed node is still talked to"),
            }
        }
        let nodes: Vec<NodeId> = peers.iter().map(|peer| peer.node).collect();
        self.endpoint.accept_found(&nodes, removed);
        self.manager.set_nodes(nodes.iter().copied().chain([self.local.node]));
        for peer in peers {
            let new = if peer.address.is_empty() {
                NewNode::default()
            } else {
                NewNode::parse(&peer.address).unwrap_or_else(|error| {
                    tracing::warn!(node = %peer.node, %error, "what was agreed about a node cannot be read");
                    NewNode::default()
                })
            };
            if !new.name.is_empty() {
                self.manager.set_name(peer.node, new.name);
            }
            self.talk_to(now, peer.node, new.addresses);
        }
    }

    /// Makes a node a peer that is none: at the addresses that were agreed, or else at those of the configuration.
    fn talk_to(&mut self, now: Instant, node: NodeId, addresses: Vec<(PathId, SocketAddr)>) {
        let listed = self.listed.iter().find(|peer| peer.node == node).map(|peer| peer.addresses.clone());
        let known = if addresses.is_empty() { listed.unwrap_or_default() } else { addresses };
        if known.is_empty() || self.endpoint.config().peers.iter().any(|peer| peer.node == node) {
            return;
        }
        if let Err(error) = self.endpoint.add_peer(now, PeerConfig { node, addresses: known }) {
            tracing::error!(%node, %error, "a node that was added cannot be talked to");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_agreed_about_a_node_reads_back_and_nothing_else_does() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let addresses = vec![(PathId(0), at("192.0.2.1:5405")), (PathId(2), at("[2001:db8::1]:9"))];
        let node = NewNode { addresses, name: "kiwi".to_owned() };
        let bytes = node.emit();
        assert_eq!(NewNode::parse(&bytes), Ok(node));
        for end in 0..bytes.len() {
            assert!(NewNode::parse(&bytes[..end]).is_err(), "length {end}");
        }
        let mut newer = bytes.to_vec();
        newer[0] += 1;
        assert!(NewNode::parse(&newer).is_err(), "of another version");
    }
}
