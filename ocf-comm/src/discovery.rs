//! Finding the other nodes: who announces itself where, and what follows from what is heard.

use crate::crypto::{KeyId, KeyRing};
use crate::wire::{Announce, CLUSTER_HASH};
use crate::{DropReason, PathId, Transmit};
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// The first announcements come this fast, then half as often each time until the interval is reached.
const FIRST: Duration = Duration::from_millis(50);
/// Datagrams sent in answer to others: as many at once, and one more per [`ANSWER_EVERY`].
const ANSWERS_MAX: u32 = 64;
const ANSWER_EVERY: Duration = Duration::from_millis(20);

/// How nodes find each other. Part of [`Config`](crate::Config).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// Where this node is reached, path by path; at most 8. May differ from where it listens. An unspecified IP address
    /// means the one that the announcement comes from, which holds only for those who hear it directly.
    pub advertise: Vec<(PathId, SocketAddr)>,
    /// Where to announce it: multicast and broadcast addresses, and the addresses of *seeds*, nodes that are likely to be
    /// there and introduce the others; with the path on which they are reached. At most 64.
    pub announce_to: Vec<(PathId, SocketAddr)>,
    /// Which nodes may become peers; `None` for whoever has the key. Configured peers always may.
    pub accept: Option<BTreeSet<NodeId>>,
    /// Time between announcements: 100 ms to 1 min, default 1 s. The first come faster.
    pub interval: Duration,
    /// A discovered peer that is down, and not announced for so long, is forgotten: 3 intervals to 1 day, default 1 min.
    pub forget_after: Duration,
}

impl DiscoveryConfig {
    /// Defaults for a node that is reached at `advertise` and announces itself to `announce_to`.
    #[must_use]
    pub fn new(
        advertise: impl IntoIterator<Item = (PathId, SocketAddr)>,
        announce_to: impl IntoIterator<Item = (PathId, SocketAddr)>,
    ) -> Self {
        Self {
            advertise: advertise.into_iter().collect(),
            announce_to: announce_to.into_iter().collect(),
            accept: None,
            interval: Duration::from_secs(1),
            forget_after: Duration::from_secs(60),
        }
    }
}

/// Nodes that are remembered.
pub(crate) const NODES_MAX: usize = 255;

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A node is reached at these addresses: it is new, or they have changed.
    At(NodeId, Vec<(PathId, SocketAddr)>),
    /// Nothing was heard of it for [`DiscoveryConfig::forget_after`].
    Silent(NodeId),
}

#[derive(Debug)]
struct Known {
    from: NodeInstance,
    serial: u64,
    addresses: Vec<(PathId, SocketAddr)>,
    /// The announcement as it came, to pass on: whoever has the key can check it.
    datagram: Vec<u8>,
    heard_at: Instant,
    answered_at: Option<Instant>,
    told_silent: bool,
}

/// The protocol; a sans-IO core that an endpoint drives.
#[derive(Debug)]
pub(crate) struct Discovery {
    config: DiscoveryConfig,
    local: NodeInstance,
    cluster: [u8; CLUSTER_HASH],
    rng: Rng,
    serial: u64,
    next_at: Instant,
    pause: Duration,
    /// It was reached elsewhere before, so that those it knows must be told, not only the seeds.
    moved: bool,
    known: BTreeMap<NodeId, Known>,
    /// Answers that may be sent now, and when that was true.
    answers: u32,
    counted_at: Instant,
    pub(crate) found: VecDeque<Found>,
    pub(crate) transmits: VecDeque<Transmit>,
}

impl Discovery {
    pub(crate) fn new(
        now: Instant,
        config: DiscoveryConfig,
        (local, cluster): (NodeInstance, [u8; CLUSTER_HASH]),
        rng: Rng,
    ) -> Self {
        Self {
            config,
            local,
            cluster,
            rng,
            serial: 0,
            next_at: now,
            pause: FIRST,
            moved: false,
            known: BTreeMap::new(),
            answers: ANSWERS_MAX,
            counted_at: now,
            found: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    fn announcement(&mut self, keys: &KeyRing, asks: bool) -> Option<Vec<u8>> {
        let key: KeyId = keys.sends_with();
        self.serial += 1;
        let announce = Announce {
            asks,
            from: self.local,
            serial: self.serial,
            addresses: self.config.advertise.clone(),
        };
        Some(announce.emit(&self.cluster, (key, keys.handshake(key)?)))
    }

    pub(crate) fn deadline(&self) -> Instant {
        let silent =
            self.known.values().filter(|k| !k.told_silent).map(|k| k.heard_at + self.config.forget_after);
        silent.chain([self.next_at]).min().unwrap_or(self.next_at)
    }

    pub(crate) fn on_timeout(&mut self, now: Instant, keys: &KeyRing) {
        if self.next_at <= now {
            if let Some(datagram) = self.announcement(keys, true) {
                let mut to: BTreeSet<_> = self.config.announce_to.iter().copied().collect();
                if self.moved {
                    let own = |path: PathId| self.config.advertise.iter().any(|(own, _)| *own == path);
                    let heard = self.known.values().filter(|known| !known.told_silent);
                    let addresses = heard.flat_map(|known| known.addresses.iter().copied());
                    to.extend(addresses.filter(|(path, _)| own(*path)));
                }
                for (path, to) in to {
                    self.send(path, to, datagram.clone());
                }
            }
            let pause = self.pause;
            self.pause = (self.pause * 2).min(self.config.interval);
            self.next_at = now + self.rng.duration(pause * 3 / 4, pause * 5 / 4);
        }
        for (node, known) in &mut self.known {
            if !known.told_silent && known.heard_at + self.config.forget_after <= now {
                known.told_silent = true;
                self.found.push_back(Found::Silent(*node));
            }
        }
    }

    /// This node is reached elsewhere on a path. Announced at once, and often at first, to everybody it knows.
    pub(crate) fn readvertise(&mut self, now: Instant, path: PathId, (was, is): (SocketAddr, SocketAddr)) {
        for (own, address) in &mut self.config.advertise {
            if *own == path && *address == was {
                *address = is;
                (self.next_at, self.pause, self.moved) = (now, FIRST, true);
            }
        }
    }

    /// True if this node becomes a peer when it is found.
    pub(crate) fn accepts(&self, node: NodeId) -> bool {
        self.config.accept.as_ref().is_none_or(|accept| accept.contains(&node))
    }

    /// Who may become a peer, if not everybody may: these as well, and those not.
    pub(crate) fn accept(&mut self, more: &[NodeId], fewer: &[NodeId]) {
        if let Some(accept) = &mut self.config.accept {
            accept.extend(more);
            accept.retain(|node| !fewer.contains(node));
        }
    }

    /// The endpoint does not know this node any more; what is heard of it is news again.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.known.remove(&node);
    }

    fn send(&mut self, path: PathId, to: SocketAddr, data: Vec<u8>) {
        self.transmits.push_back(Transmit { path, to, segment: data.len(), data });
    }

    /// True if one more datagram may be sent in answer to another.
    fn may_answer(&mut self, now: Instant) -> bool {
        let more = now.since(self.counted_at).as_nanos() / ANSWER_EVERY.as_nanos();
        if more > 0 {
            self.answers =
                ANSWERS_MAX.min(self.answers.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)));
            self.counted_at = now;
        }
        let may = self.answers > 0;
        self.answers = self.answers.saturating_sub(1);
        may
    }

    pub(crate) fn on_announce(
        &mut self,
        now: Instant,
        (path, from): (PathId, SocketAddr),
        datagram: &[u8],
        keys: &KeyRing,
    ) -> Result<(), DropReason> {
        let mut announce = Announce::open(keys, &self.cluster, datagram)?;
        let node = announce.from.node;
        if node == self.local.node {
            // Its own, come back, or one of another life.
            return Err(DropReason::UnknownPeer);
        }
        if !self.accepts(node) {
            return Err(DropReason::UnknownPeer);
        }
        for (_, address) in announce.addresses.iter_mut().filter(|(_, a)| a.ip().is_unspecified()) {
            address.set_ip(from.ip());
        }
        let direct = announce.addresses.iter().any(|(_, address)| *address == from);
        let news = self.learn(now, &announce, datagram)?;
        if news {
            self.found.push_back(Found::At(node, announce.addresses.clone()));
        }
        if direct && news {
            self.introduce(now, (path, from), node);
        }
        if announce.asks {
            self.answer(now, (path, from), node, keys);
        }
        Ok(())
    }

    /// Remembers what an announcement says. True if it says something new.
    fn learn(&mut self, now: Instant, announce: &Announce, datagram: &[u8]) -> Result<bool, DropReason> {
        let Announce { from, serial, addresses, .. } = announce;
        let fresh = Known {
            from: *from,
            serial: *serial,
            addresses: addresses.clone(),
            datagram: datagram.to_vec(),
            heard_at: now,
            answered_at: None,
            told_silent: false,
        };
        let Some(known) = self.known.get_mut(&from.node) else {
            if self.known.len() >= NODES_MAX {
                return Err(DropReason::NoRoom);
            }
            self.known.insert(from.node, fresh);
            return Ok(true);
        };
        if known.from == *from && known.serial >= *serial {
            return Err(DropReason::Replayed);
        }
        // Of another life at another place: perhaps a replay. It counts once the one that is known has been silent.
        let quiet = known.heard_at + self.config.interval * 3 <= now;
        if known.from != *from && known.addresses != *addresses && !quiet {
            return Err(DropReason::StaleHandshake);
        }
        let news = known.addresses != *addresses || known.told_silent;
        let answered_at = known.answered_at.filter(|_| known.from == *from);
        *known = Known { answered_at, ..fresh };
        Ok(news)
    }

    /// Tells the others of a node that spoke to this one, and it of them, in their own words.
    fn introduce(&mut self, now: Instant, (path, to): (PathId, SocketAddr), node: NodeId) {
        let Some(own) = self.known.get(&node).map(|k| k.datagram.clone()) else { return };
        let others: Vec<(Option<SocketAddr>, Vec<u8>)> = self
            .known
            .iter()
            .filter(|(other, k)| **other != node && !k.told_silent)
            .map(|(_, k)| {
                let on_path = k.addresses.iter().find(|(p, _)| *p == path);
                (on_path.map(|(_, address)| *address), k.datagram.clone())
            })
            .collect();
        for (address, datagram) in others {
            if self.may_answer(now) {
                self.send(path, to, datagram);
            }
            if let Some(address) = address
                && self.may_answer(now)
            {
                self.send(path, address, own.clone());
            }
        }
    }

    /// Says to a node that asked, at most once per interval, where this one is.
    fn answer(&mut self, now: Instant, (path, to): (PathId, SocketAddr), node: NodeId, keys: &KeyRing) {
        let shortly = self.config.interval / 2;
        let Some(known) = self.known.get_mut(&node) else { return };
        let lately = known.answered_at.is_some_and(|at| now < at + shortly);
        // Who asks in the first second asks often: it is answered each time its pause has doubled.
        if lately && known.serial > 4 || self.config.announce_to.contains(&(path, to)) {
            return;
        }
        known.answered_at = Some(now);
        if self.may_answer(now)
            && let Some(datagram) = self.announcement(keys, false)
        {
            self.send(path, to, datagram);
        }
    }
}

#[cfg(test)]
mod tests;
