//! Members that hold up the senders here: how long, and from when on they are to be evicted.

use super::{Groups, Sync, sabotaged};
use crate::config::{Patience, SlowMembers};
use crate::wire::Evicted;
use crate::{Event, Output};
use core::time::Duration;
use ocf_comm::Lane;
use ocf_membership::{ChangeReason, Lag, View, ViewNumber};
use pils::{Instant, NodeInstance};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shortest time after which anybody is evicted.
const LEAST: Duration = Duration::from_secs(1);

/// A member that has not taken half of a window of this node's messages that another has taken.
#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Instant,
    consumed: u64,
    /// When that last grew.
    moved: Instant,
}

/// Who holds up this node.
#[derive(Debug, Default)]
pub(super) struct Lags {
    behind: BTreeMap<u32, Behind>,
    /// How far the others were at the last look, for each member.
    ahead: BTreeMap<u32, u64>,
    /// When to look next; `None` while nobody can be behind.
    pub(super) due: Option<Instant>,
    /// The newest view of whose eviction of this node the application was told.
    told: ViewNumber,
}

impl Lags {
    /// What was seen says nothing any more.
    pub(super) fn forget(&mut self) {
        self.behind.clear();
        self.ahead.clear();
        self.due = None;
    }
}

impl Patience {
    fn interval(&self) -> Duration {
        (self.stalled.max(LEAST) / 8).min(Duration::from_secs(1))
    }

    /// How a member holds up the others that is to be evicted.
    fn exceeded(&self, now: Instant, seen: Behind) -> Option<(bool, Duration)> {
        let (stood, lasted) = (now.since(seen.moved), now.since(seen.since));
        if stood >= self.stalled.max(LEAST) {
            return Some((true, stood));
        }
        self.slow.is_some_and(|slow| lasted >= slow.max(LEAST)).then_some((false, lasted))
    }
}

impl Groups {
    /// Begins to look, once so much of this node's window is used that a member may hold it up.
    pub(super) fn watch_lags(&mut self) {
        if let SlowMembers::Evict(patience) = &self.config.slow
            && self.lags.due.is_none()
            && self.own_bytes >= self.config.window / 2
        {
            self.lags.due = Some(self.now + patience.interval());
        }
    }

    /// Looks who is behind, and asks membership to evict whose time is over.
    pub(super) fn check_lags(&mut self) {
        let SlowMembers::Evict(patience) = self.config.slow.clone() else { return };
        let now = self.now;
        let late = self.lags.due.is_some_and(|due| now.since(due) > patience.interval());
        let idle = self.is_frozen() || self.suspended || self.sync != Sync::Synced;
        if late || idle {
            // This node stood still itself, or its view does: what did not move says nothing of others.
            self.lags.behind.clear();
            self.lags.ahead.clear();
        } else {
            self.look(now, &patience);
        }
        let used = self.own_bytes >= self.config.window / 4;
        self.lags.due = (used || !self.lags.behind.is_empty()).then(|| now + patience.interval());
    }

    fn look(&mut self, now: Instant, patience: &Patience) {
        let unforgiving = sabotaged!(self, Unforgiving);
        let Some(stream) = &self.stream else { return };
        let mut exceeded = Vec::new();
        for (member, inbox) in (0_u32..).zip(&stream.inboxes).filter(|(member, _)| *member != stream.me) {
            // Against another that is ahead: what is on its way to all says nothing of one.
            let others = (0_u32..).zip(&stream.inboxes).filter(|(i, _)| *i != member && *i != stream.me);
            let ahead = others.map(|(_, other)| other.consumed).max().unwrap_or(stream.delivered);
            let first = self.ledger.partition_point(|(place, _)| *place <= inbox.consumed);
            let last = self.ledger.partition_point(|(place, _)| *place <= ahead).max(first);
            let mut bytes: usize = self.ledger.range(first..last).map(|(_, cost)| cost).sum();
            if self.crowded == Some(inbox.instance) {
                // What waits to be sent waits for this one.
                bytes += self.queue.iter().map(crate::wire::Item::cost).sum::<usize>();
            }
            let consumed = inbox.consumed;
            let caught_up = consumed >= self.lags.ahead.insert(member, ahead).unwrap_or(0);
            let Some(seen) = self.lags.behind.get_mut(&member) else {
                if bytes >= self.config.window / 2 && !caught_up {
                    self.lags.behind.insert(member, Behind { since: now, consumed, moved: now });
                }
                continue;
            };
            if (bytes < self.config.window / 4 || caught_up) && !unforgiving {
                self.lags.behind.remove(&member);
                continue;
            }
            if consumed > seen.consumed {
                (seen.consumed, seen.moved) = (consumed, now);
            }
            if let Some((stalled, lasted)) = patience.exceeded(now, *seen) {
                let lasted = Duration::from_micros(u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX));
                let lag = Lag { stalled, lasted, behind: bytes as u64 };
                exceeded.push((inbox.instance, lag));
                // If it is still there after as long again, membership is asked again.
                (seen.since, seen.moved) = (now, now);
            }
        }
        for (instance, lag) in exceeded {
            self.stats.evictions += 1;
            self.sends.push_back(Output::Evict { instance, lag });
        }
    }

    /// Tells those whom the view that was entered evicted why they are out.
    pub(super) fn tell_evicted(&mut self, view: &View) {
        for cause in view.causes.iter().filter(|c| !view.contains(c.instance)) {
            if let ChangeReason::Evicted(lag) = cause.reason {
                let message = Evicted { view: view.number, lag }.write();
                let to = Arc::from([cause.instance]);
                self.sends.push_back(Output::Send { to, lane: Lane::Small, message });
            }
        }
    }

    /// A member of a view without this node says that it was evicted.
    pub(super) fn on_evicted(&mut self, from: NodeInstance, evicted: Evicted) {
        let Evicted { view, lag } = evicted;
        let known = self.view.as_ref().is_some_and(|v| v.number < view && v.contains(from));
        if !known || view <= self.lags.told {
            self.stats.dropped.unexpected += 1;
            return;
        }
        self.lags.told = view;
        self.outputs.push_back(Output::Event(Event::Evicted { view, lag }));
    }
}
