//! | property | source |
//! |---|---|
//! | F1 a dead incarnation is suspected by every live peer within 1.25 T_d and a probe | protocols 11.2 |
//! | F1 the same where gaps were irregular: within 1.25 of the cap of the adaptive timeout | protocols 4 |
//! | F2 no suspicion of a living peer on a good network | protocols 11.2 |
//! | F2 nor while one path of each pair is whole, whatever becomes of the others | protocols 11.2 |
//! | F4 an own stall never yields suspicion within one heartbeat | protocols 11.2 |

use crate::sim::cluster::Record;
use crate::sim::{Change, Checker, Entry, What};
use core::time::Duration;
use ocf_comm::{DownReason, Timers};
use pils::{Instant, NodeId, NodeInstance};
use std::collections::{BTreeMap, BTreeSet};

/// How much the adaptive timeout may grow: four times for irregular arrivals, eight times for a node that is often late.
const GROWTH_MAX: u32 = 32;

/// The dead are suspected in time; the living, on a good network, never.
#[derive(Debug)]
pub struct Suspicion {
    timers: Timers,
    slack: Duration,
    up: BTreeSet<(NodeInstance, NodeInstance)>,
    running: BTreeMap<NodeId, (NodeInstance, Instant)>,
    /// Nodes that did not run freely, and since when they do again.
    hampered: BTreeMap<NodeId, Option<Instant>>,
    stalled_at: BTreeMap<NodeId, (Instant, Duration)>,
    due: BTreeSet<(Instant, NodeInstance, NodeInstance, Instant)>,
    /// When network or nodes were last not as they should be; gaps between arrivals are irregular for a while then.
    disturbed: Instant,
    /// The network of this run is so good that gaps are regular when nothing disturbs it.
    regular: bool,
    good_since: Option<Instant>,
    /// Nothing but single paths failed so far in the network.
    spared: bool,
    judged: u64,
}

impl Suspicion {
    /// A checker for detectors with these times. `slack` covers late timers and clocks that drift; `regular` says that
    /// the run's network delays and timers do not make gaps between arrivals irregular.
    #[must_use]
    pub const fn new(timers: Timers, slack: Duration, regular: bool) -> Self {
        Self {
            timers,
            slack,
            up: BTreeSet::new(),
            running: BTreeMap::new(),
            hampered: BTreeMap::new(),
            stalled_at: BTreeMap::new(),
            due: BTreeSet::new(),
            disturbed: Instant::ZERO,
            regular,
            good_since: None,
            spared: true,
            judged: 0,
        }
    }

    /// Within this time of a death on a quiet network; `GROWTH_MAX` times that at worst.
    fn limit(&self) -> Duration {
        self.timers.detection.mul_f64(1.25) + self.timers.heartbeat + self.slack
    }

    /// F1: looks at every suspicion that should have come by now.
    fn overdue(&mut self, now: Instant) -> Result<(), String> {
        while let Some((due, at, dead, died)) = self.due.first().copied().filter(|(due, ..)| *due < now) {
            self.due.pop_first();
            let free = match self.hampered.get(&at.node) {
                None => true,
                Some(Some(since)) => *since < died,
                Some(None) => false,
            };
            let lives = self.running.get(&at.node).is_some_and(|(instance, _)| *instance == at);
            if !lives || !free || !self.up.contains(&(at, dead)) {
                self.judged += 1;
                continue;
            }
            let quiet = self.regular && self.disturbed + self.timers.heartbeat * 60 < died;
            let last = died + self.limit() * GROWTH_MAX;
            if quiet || due >= last {
                return Err(format!("{dead} died at {died}, and {at} has not noticed by {due}"));
            }
            self.due.insert((last, at, dead, died));
        }
        Ok(())
    }

    fn suspected(&mut self, now: Instant, at: NodeInstance, peer: NodeInstance) -> Result<(), String> {
        self.judged += 1;
        if let Some((resumed, length)) = self.stalled_at.get(&at.node)
            && *length >= self.timers.detection
            && now - *resumed < self.timers.heartbeat.mul_f64(0.9)
        {
            return Err(format!(
                "{at} suspects {peer} {:?} after its own stall of {length:?}",
                now - *resumed
            ));
        }
        let alive = self.running.get(&peer.node).is_some_and(|(instance, _)| *instance == peer);
        let good = self.good_since.is_some_and(|since| now - since > self.timers.detection * 4);
        if alive && good {
            return Err(format!("{at} suspects {peer}, which lives, on a good network"));
        }
        let free = !self.hampered.contains_key(&at.node) && !self.hampered.contains_key(&peer.node);
        if alive && free && self.regular && self.spared {
            return Err(format!("{at} suspects {peer}, which lives, over a path that is whole"));
        }
        Ok(())
    }

    fn hampered(&mut self, node: NodeId, until: Option<Instant>) {
        self.hampered.insert(node, until);
    }
}

impl Checker<Record> for Suspicion {
    fn name(&self) -> &'static str {
        "F1 F2 F4 suspicion"
    }

    fn observe(&mut self, entry: &Entry<Record>) -> Result<(), String> {
        let now = entry.at;
        self.overdue(now)?;
        if matches!(
            entry.what,
            What::Network(_) | What::Paused(..) | What::Resumed(_) | What::Slowed(..) | What::Healed
        ) {
            self.disturbed = now;
        }
        if let What::Network(change) = &entry.what {
            self.spared &= is_of_path(change);
        }
        match &entry.what {
            What::Started { instance, .. } => {
                self.running.insert(instance.node, (*instance, now));
                self.hampered.remove(&instance.node);
                self.stalled_at.remove(&instance.node);
            }
            What::Stopped { instance, .. } => {
                self.running.remove(&instance.node);
                let watchers = self.up.iter().filter(|(_, peer)| peer == instance).map(|(at, _)| *at);
                let limit = now + self.limit();
                self.due.extend(watchers.map(|at| (limit, at, *instance, now)));
                self.up.retain(|(at, _)| at != instance);
            }
            What::Paused(node, length) => {
                self.hampered(*node, None);
                self.stalled_at.insert(*node, (now, *length));
            }
            What::Resumed(node) => {
                self.hampered(*node, Some(now));
                if let Some((began, length)) = self.stalled_at.get_mut(node) {
                    *length = now - *began;
                    *began = now;
                }
            }
            What::Slowed(node, cost) => self.hampered(*node, cost.is_zero().then_some(now)),
            What::Healed => self.good_since = Some(now),
            What::Program(Some(at), Record::PeerUp(peer)) => {
                self.up.insert((*at, *peer));
            }
            What::Program(Some(at), Record::PeerDown(peer, reason)) => {
                self.up.remove(&(*at, *peer));
                if matches!(reason, DownReason::Silent { .. }) {
                    return self.suspected(now, *at, *peer);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn judged(&self) -> u64 {
        self.judged
    }
}

/// True if the change leaves the spared path of each pair alone.
fn is_of_path(change: &Change) -> bool {
    match change {
        Change::Path(..) | Change::Interface(..) | Change::Address(..) => true,
        Change::Restored(name) => name.starts_with("path"),
        Change::Partition(_)
        | Change::OneWay(..)
        | Change::Pair(..)
        | Change::Flap(..)
        | Change::Swizzle(_)
        | Change::Closing(_)
        | Change::Worse(..) => false,
    }
}
