//! Changes of the peers and paths of a running endpoint.

use super::Endpoint;
use super::peer::Peer;
use crate::wire::Frame;
use crate::{Change, ChangeError, Config, DownReason, PathId, PathPolicy, PeerConfig};
use pils::{Instant, NodeId};
use std::net::SocketAddr;

/// Removed peers whose ended incarnations are remembered.
const REMOVED_MAX: usize = 255;

impl Endpoint {
    /// Changes peers, paths or their policy.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing has changed.
    pub fn change(&mut self, now: Instant, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::AddPeer(peer) => self.add_peer(now, peer.clone()),
            Change::RemovePeer(node) => self.remove_peer(now, *node),
            Change::AddPath { node, path, address } => self.add_path(now, *node, *path, *address),
            Change::RemovePath { node, path } => self.remove_path(now, *node, *path),
            Change::SetAddress { node, path, address } => self.set_address(now, *node, *path, *address),
            Change::SetPolicy(policy) => self.set_policy(now, *policy),
        }
    }

    /// The configuration with one thing changed, if it is right.
    fn altered(&self, alter: impl FnOnce(&mut Config)) -> Result<Config, ChangeError> {
        let mut config = self.config.clone();
        alter(&mut config);
        config.check(self.local.node).map_err(ChangeError::Invalid)?;
        Ok(config)
    }

    fn start_change(&mut self, now: Instant) -> Result<(), ChangeError> {
        self.begin(now);
        if self.closed { Err(ChangeError::Stopped) } else { Ok(()) }
    }

    /// See [`Change::AddPeer`].
    ///
    /// # Errors
    /// [`ChangeError::KnownPeer`], [`ChangeError::Invalid`], [`ChangeError::Stopped`]; nothing has changed.
    pub fn add_peer(&mut self, now: Instant, peer: PeerConfig) -> Result<(), ChangeError> {
        self.start_change(now)?;
        let Err(at) = self.peers.binary_search_by_key(&peer.node, |p| p.node) else {
            return Err(ChangeError::KnownPeer(peer.node));
        };
        let mut fresh = Peer::new(self.now, &peer);
        self.config = self.altered(|c| c.peers.push(peer))?;
        if let Some(k) = self.removed.iter().position(|(node, _)| *node == fresh.node)
            && let Some((_, dead)) = self.removed.remove(k)
        {
            fresh.dead = dead;
        }
        for circuit in self.circuits.values_mut().filter(|c| c.peer >= at) {
            circuit.peer += 1;
        }
        self.peers.insert(at, fresh);
        Ok(())
    }

    /// See [`Change::RemovePeer`].
    ///
    /// # Errors
    /// [`ChangeError::UnknownPeer`], [`ChangeError::Stopped`]; nothing has changed.
    pub fn remove_peer(&mut self, now: Instant, node: NodeId) -> Result<(), ChangeError> {
        self.start_change(now)?;
        let i = self.peer_index(node).ok_or(ChangeError::UnknownPeer(node))?;
        let (now, current) = (self.now, self.peers[i].current);
        for circuit in self.circuits.values_mut().filter(|c| c.peer == i && c.heard) {
            let farewell = circuit.farewell(now, &Frame::Removed);
            self.control.extend(farewell);
        }
        self.peers[i].contest = None;
        if current.is_some() {
            self.end_current(now, i, DownReason::Removed);
        }
        let candidates: Vec<u32> = self.peers[i].candidates.iter().map(|c| c.id).collect();
        candidates.into_iter().for_each(|id| self.discard(i, id));
        let peer = self.peers.remove(i);
        for circuit in self.circuits.values_mut().filter(|c| c.peer > i) {
            circuit.peer -= 1;
        }
        if self.removed.len() >= REMOVED_MAX {
            self.removed.pop_front();
        }
        self.removed.push_back((node, peer.dead));
        self.config.peers.retain(|p| p.node != node);
        Ok(())
    }

    /// The peer of this node id, and where its path is in the list of them.
    fn path_index(&self, node: NodeId, path: PathId) -> Result<(usize, Option<usize>), ChangeError> {
        let i = self.peer_index(node).ok_or(ChangeError::UnknownPeer(node))?;
        Ok((i, self.peers[i].addresses.iter().position(|(known, _)| *known == path)))
    }

    fn addresses_of(config: &mut Config, node: NodeId) -> Option<&mut Vec<(PathId, SocketAddr)>> {
        config.peers.iter_mut().find(|p| p.node == node).map(|p| &mut p.addresses)
    }

    /// See [`Change::AddPath`].
    ///
    /// # Errors
    /// [`ChangeError::UnknownPeer`], [`ChangeError::KnownPath`], [`ChangeError::Invalid`] (also if there would be more than
    /// 8), [`ChangeError::Stopped`]; nothing has changed.
    pub fn add_path(
        &mut self,
        now: Instant,
        node: NodeId,
        path: PathId,
        address: SocketAddr,
    ) -> Result<(), ChangeError> {
        self.start_change(now)?;
        let (i, None) = self.path_index(node, path)? else { return Err(ChangeError::KnownPath(node, path)) };
        self.config =
            self.altered(|c| Self::addresses_of(c, node).into_iter().for_each(|a| a.push((path, address))))?;
        self.peers[i].addresses.push((path, address));
        let now = self.now;
        for circuit in self.circuits.values_mut().filter(|c| c.peer == i) {
            circuit.add_path(now, path, address, &self.config);
        }
        Ok(())
    }

    /// See [`Change::RemovePath`].
    ///
    /// # Errors
    /// [`ChangeError::UnknownPeer`], [`ChangeError::UnknownPath`], [`ChangeError::LastPath`], [`ChangeError::Stopped`];
    /// nothing has changed.
    pub fn remove_path(&mut self, now: Instant, node: NodeId, path: PathId) -> Result<(), ChangeError> {
        self.start_change(now)?;
        let (i, Some(_)) = self.path_index(node, path)? else {
            return Err(ChangeError::UnknownPath(node, path));
        };
        if self.peers[i].addresses.len() == 1 {
            return Err(ChangeError::LastPath(node, path));
        }
        self.peers[i].addresses.retain(|(known, _)| *known != path);
        Self::addresses_of(&mut self.config, node)
            .into_iter()
            .for_each(|a| a.retain(|(known, _)| *known != path));
        if let Some(attempt) = &mut self.peers[i].attempt {
            attempt.cookie = attempt.cookie.filter(|(known, ..)| *known != path);
        }
        for circuit in self.circuits.values_mut().filter(|c| c.peer == i) {
            circuit.remove_path(path);
        }
        Ok(())
    }

    /// See [`Change::SetAddress`].
    ///
    /// # Errors
    /// [`ChangeError::UnknownPeer`], [`ChangeError::UnknownPath`], [`ChangeError::Invalid`], [`ChangeError::Stopped`];
    /// nothing has changed.
    pub fn set_address(
        &mut self,
        now: Instant,
        node: NodeId,
        path: PathId,
        address: SocketAddr,
    ) -> Result<(), ChangeError> {
        self.start_change(now)?;
        let (i, Some(at)) = self.path_index(node, path)? else {
            return Err(ChangeError::UnknownPath(node, path));
        };
        self.config = self.altered(|c| {
            let known = Self::addresses_of(c, node).into_iter().flatten().filter(|(known, _)| *known == path);
            known.for_each(|(_, a)| *a = address);
        })?;
        self.peers[i].addresses[at].1 = address;
        if let Some(attempt) = &mut self.peers[i].attempt {
            attempt.cookie = attempt.cookie.filter(|(known, ..)| *known != path);
        }
        let now = self.now;
        for circuit in self.circuits.values_mut().filter(|c| c.peer == i) {
            circuit.set_address(now, path, address, &self.config);
        }
        Ok(())
    }

    /// See [`Change::SetPolicy`].
    ///
    /// # Errors
    /// [`ChangeError::Stopped`]; nothing has changed.
    pub fn set_policy(&mut self, now: Instant, policy: PathPolicy) -> Result<(), ChangeError> {
        self.start_change(now)?;
        self.config.policy = policy;
        self.circuits.values_mut().for_each(|c| c.set_policy(policy));
        Ok(())
    }
}
