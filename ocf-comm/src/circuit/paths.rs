//! The paths of a circuit together: which of them carries data, and changes of their set.

use super::path::Path;
use super::recovery::{Content, Part};
use super::sabotage::Sabotage;
use super::{Circuit, Stage};
use crate::wire::{lane_index, lane_number};
use crate::{Config, Event, Lane, PathId, PathPolicy, PathState, PathStatus};
use core::ops::Range;
use core::time::Duration;
use pils::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;

impl Circuit {
    /// The data goes on the best path from now on: of equally good ones, on the first.
    pub(super) fn choose_path(&mut self) {
        if self.bug.is(Sabotage::StickToDeadPath) && self.active < self.paths.len() {
            return;
        }
        let best = (0..self.paths.len()).min_by_key(|i| (self.paths[*i].rank(), *i)).unwrap_or(0);
        if best != self.active {
            tracing::debug!(peer = %self.instance, to = self.paths[best].id.0, "path");
            self.active = best;
        }
    }

    /// True if a path other than `i` answers.
    pub(super) fn has_other(&self, i: usize) -> bool {
        (0..self.paths.len()).any(|k| k != i && self.paths[k].rank() <= 1)
    }

    /// True if path `i` carries data and control.
    pub(super) fn carries(&self, i: usize) -> bool {
        i == self.active || self.policy == PathPolicy::Balance && self.paths[i].is_up()
    }

    /// With [`PathPolicy::Balance`], the path on which the next packet arrives earliest. That may be the fastest although it
    /// has no room now: waiting for it can be faster than any other.
    pub(super) fn earliest(&self) -> usize {
        let usable = || (0..self.paths.len()).filter(|i| self.carries(*i));
        let completion = |i: &usize| self.paths[*i].completion();
        let roomy = |i: &usize| self.paths[*i].recovery.has_room(false);
        let fastest = usable().min_by_key(completion).unwrap_or(self.active);
        if roomy(&fastest) {
            return fastest;
        }
        let Some(second) = usable().filter(roomy).min_by_key(completion) else { return fastest };
        let waiting: usize = self.outgoing.iter().map(super::Outgoing::unsent).sum();
        let (fast, slow) = (&self.paths[fastest].recovery, &self.paths[second].recovery);
        let rounds = u32::try_from(1 + waiting / fast.window().max(1)).unwrap_or(u32::MAX);
        let margin = fast.rtt_variance().max(slow.rtt_variance()).unwrap_or_default();
        let waited = completion(&fastest) + fast.rtt_guess().saturating_mul(rounds - 1);
        if waited < completion(&second) + margin { fastest } else { second }
    }

    /// Sends a piece that goes out on path `i` on the other paths too, as far as the policy wants it.
    pub(super) fn send_copies(&mut self, i: usize, lane: Lane, range: &Range<u64>) {
        let Self { paths, outgoing, policy, .. } = self;
        if paths.len() < 2 {
            return;
        }
        let mut copy = |piece: Range<u64>| {
            let part = Part { lane: lane_number(lane), start: piece.start, end: piece.end };
            paths
                .iter_mut()
                .enumerate()
                .filter(|(k, p)| *k != i && p.is_up())
                .for_each(|(_, p)| p.copy(part));
        };
        match policy {
            PathPolicy::Redundant => copy(range.clone()),
            PathPolicy::Failover if lane == Lane::Urgent => {
                outgoing[lane_index(lane)].small_in(range, copy);
            }
            PathPolicy::Failover | PathPolicy::Balance => {}
        }
    }

    /// Forgets copies of what has arrived meanwhile.
    pub(super) fn prune_copies(&mut self) {
        let Self { paths, outgoing, .. } = self;
        for path in paths {
            while let Some(part) = path.copies.front() {
                if !outgoing[usize::from(part.lane)].unacknowledged(part.start..part.end).is_empty() {
                    break;
                }
                path.copies.pop_front();
            }
        }
    }

    /// What was under way on a path must go out again, on another.
    fn abandon(&mut self, i: usize) {
        let Self { paths, outgoing, credit_due, accept_due, .. } = self;
        paths[i].copies.clear();
        paths[i].recovery.abandon(|content: &Content| {
            content.again(outgoing);
            *credit_due |= content.credit;
            *accept_due |= content.accept;
        });
    }

    /// Nothing came back on path `i`: moves what is under way to a path that answers. False if there is none.
    pub(super) fn move_away(&mut self, i: usize) -> bool {
        let moves = self.has_other(i);
        if moves {
            self.abandon(i);
        }
        moves
    }

    /// Uses one more path from now on.
    pub(crate) fn add_path(&mut self, now: Instant, id: PathId, address: SocketAddr, config: &Config) {
        let earlier = self.retired.iter().position(|p| p.id == id).map(|at| self.retired.swap_remove(at));
        let mut path = earlier.unwrap_or_else(|| Path::new(now, id, address, config));
        path.bug = self.bug;
        path.renew(now, address, config.datagram);
        self.paths.push(path);
        self.choose_path();
    }

    /// Uses a path no more; not the last.
    pub(crate) fn remove_path(&mut self, id: PathId) {
        let Some(i) = self.paths.iter().position(|p| p.id == id).filter(|_| self.paths.len() > 1) else {
            return;
        };
        self.abandon(i);
        let path = self.paths.remove(i);
        self.retired.push(path);
        self.active = 0;
        self.choose_path();
    }

    /// The peer has another address on this path, which it must prove.
    pub(crate) fn set_address(&mut self, now: Instant, id: PathId, address: SocketAddr, config: &Config) {
        if self.bug.is(Sabotage::KeepOldAddress) {
            return;
        }
        if let Some(i) = self.paths.iter().position(|p| p.id == id) {
            self.abandon(i);
            self.paths[i].renew(now, address, config.datagram);
            self.choose_path();
        }
    }

    /// This node has another address on this path: what was learnt of it, and what is under way, holds no more.
    pub(crate) fn restart_path(&mut self, now: Instant, id: PathId, config: &Config) {
        if let Some(i) = self.paths.iter().position(|p| p.id == id) {
            self.abandon(i);
            let address = self.paths[i].address;
            self.paths[i].renew(now, address, config.datagram);
            self.choose_path();
        }
    }

    /// Shares messages among the paths in another way.
    pub(crate) fn set_policy(&mut self, policy: PathPolicy) {
        self.policy = policy;
        self.paths.iter_mut().for_each(|p| p.copies.clear());
    }

    /// Sends on this path, to this address, from now on.
    pub(crate) fn redirect(&mut self, path: PathId, address: SocketAddr) {
        if let Some(index) = self.paths.iter().position(|p| p.id == path) {
            self.paths[index].address = address;
            self.active = index;
        }
    }

    /// This machine says that datagrams of this size do not pass to this address. What was under way goes again.
    pub(crate) fn on_too_large(&mut self, now: Instant, (id, to): (PathId, SocketAddr), size: usize) {
        let at = self.paths.iter().position(|p| p.id == id && p.address == to);
        let Some(i) = at.filter(|i| size <= self.paths[*i].mtu.size()) else {
            if let Some(i) = at {
                self.paths[i].on_too_large(now, size);
            }
            return;
        };
        self.paths[i].on_too_large(now, size);
        self.abandon(i);
    }

    /// The interface under a path lost or got its carrier.
    pub(crate) fn on_carrier(&mut self, now: Instant, id: PathId, carrier: bool) {
        let Some(i) = self.paths.iter().position(|p| p.id == id) else { return };
        if self.paths[i].on_carrier(now, carrier) {
            if !carrier {
                self.move_away(i);
            }
            self.choose_path();
        }
    }

    /// Tells the layer above what changed about the paths.
    pub(crate) fn tell_paths(&mut self, now: Instant, heartbeat: Duration, events: &mut VecDeque<Event>) {
        if self.stage != Stage::Open {
            return;
        }
        let peer = self.instance;
        for p in &mut self.paths {
            let Some(state) = p.take_news(now, heartbeat) else { continue };
            let (path, address, reason) = (p.id, p.address, p.reason);
            tracing::debug!(%peer, path = path.0, ?state, ?reason, "path");
            events.push_back(match state {
                PathState::Up => Event::PathUp { peer, path, address },
                PathState::Doubtful => Event::PathDoubtful { peer, path, address, reason },
                PathState::Down => Event::PathDown { peer, path, address, reason },
            });
        }
    }

    /// What is known of each path.
    pub(crate) fn path_status(&self, now: Instant) -> Vec<PathStatus> {
        self.paths.iter().enumerate().map(|(i, p)| p.status(now, i == self.active)).collect()
    }
}
