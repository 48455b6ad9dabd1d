//! What discovery finds becomes peers and paths.

use super::Endpoint;
use crate::discovery::Found;
use crate::{DropReason, Event, PathId, PeerConfig};
use pils::{Instant, NodeId};
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Endpoint {
    pub(super) fn on_announce(
        &mut self,
        now: Instant,
        came: (PathId, SocketAddr),
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let discovery = self.discovery.as_mut().ok_or(DropReason::UnknownKind)?;
        let heard = discovery.on_announce(now, came, datagram, &self.keys);
        self.settle_discovery(now);
        heard
    }

    /// Fires the timer of discovery, if it is due.
    pub(super) fn discover(&mut self, now: Instant) {
        if let Some(discovery) = self.discovery.as_mut().filter(|d| d.deadline() <= now) {
            discovery.on_timeout(now, &self.keys);
            self.settle_discovery(now);
        }
    }

    fn settle_discovery(&mut self, now: Instant) {
        while let Some(discovery) = self.discovery.as_mut() {
            if let Some(transmit) = discovery.transmits.pop_front() {
                self.send_control(transmit.path, transmit.to, transmit.data);
            } else if let Some(found) = discovery.found.pop_front() {
                match found {
                    Found::At(node, addresses) => self.on_found(now, node, addresses),
                    Found::Silent(node) => self.on_silent(now, node),
                }
            } else {
                return;
            }
        }
    }

    fn on_found(&mut self, now: Instant, node: NodeId, addresses: Vec<(PathId, SocketAddr)>) {
        let Some(i) = self.peer_index(node) else {
            let peer = PeerConfig { node, addresses: addresses.clone() };
            return match self.add_peer(now, peer) {
                Ok(()) => {
                    self.discovered.insert(node);
                    self.events.push_back(Event::PeerDiscovered { node });
                    let found = addresses.into_iter();
                    let events = found.map(|(path, address)| Event::PathDiscovered { node, path, address });
                    self.events.extend(events);
                }
                Err(error) => tracing::debug!(%node, %error, "discovered, and not taken"),
            };
        };
        let known: Vec<(PathId, SocketAddr)> = self.peers[i].addresses.clone();
        for (path, address) in addresses {
            let done = match known.iter().find(|(p, _)| *p == path) {
                Some((_, same)) if *same == address => continue,
                // What an operator wrote down is not changed by what is heard.
                Some(_) if !self.discovered.contains(&node) => continue,
                Some(_) => self.set_address(now, node, path, address),
                None => self.add_path(now, node, path, address),
            };
            match done {
                Ok(()) => self.events.push_back(Event::PathDiscovered { node, path, address }),
                Err(error) => tracing::debug!(%node, %error, "path discovered, and not taken"),
            }
        }
    }

    fn on_silent(&mut self, now: Instant, node: NodeId) {
        let up = self.peer_index(node).is_some_and(|i| self.peers[i].up);
        if up || !self.discovered.contains(&node) {
            return;
        }
        if let Err(error) = self.remove_peer(now, node) {
            tracing::debug!(%node, %error, "not forgotten");
        }
        self.discovered.remove(&node);
        if let Some(discovery) = &mut self.discovery {
            discovery.forget(node);
        }
        self.events.push_back(Event::PeerForgotten { node });
    }

    /// This node has another address on a path, which starts anew. If it announced the one before, it announces the new one
    /// at once, and from then on also to every node it knows: their addresses may be newer than those of the seeds.
    pub fn readvertise(&mut self, now: Instant, path: PathId, (was, is): (SocketAddr, SocketAddr)) {
        self.begin(now);
        for circuit in self.circuits.values_mut() {
            circuit.restart_path(self.now, path, &self.config);
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.readvertise(self.now, path, (was, is));
        }
    }

    /// Changes who may be found, if not everybody may ([`DiscoveryConfig::accept`](crate::DiscoveryConfig::accept)): `more` as well,
    /// and `fewer` no more. Who is a peer stays one.
    pub fn accept_found(&mut self, more: &[NodeId], fewer: &[NodeId]) {
        if let Some(discovery) = &mut self.discovery {
            discovery.accept(more, fewer);
            fewer.iter().for_each(|node| discovery.forget(*node));
        }
    }

    /// The peers that were found, not configured.
    #[must_use]
    pub const fn discovered(&self) -> &BTreeSet<NodeId> {
        &self.discovered
    }
}
