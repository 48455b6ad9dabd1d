//! Applications that lock byte ranges.

use crate::world::World;
use ocf_dlm::cluster::{RangeAsk, RangeStep};
use ocf_dlm::range::{Range, RangeKind, RangeSet};
use ocf_dlm::wire::Key;
use ocf_dlm::{ClientId, Flags};
use pils::NodeInstance;
use std::time::Duration;

/// Bytes that are locked: few, so that ranges meet.
pub(crate) const BYTES: u64 = 16;

impl World {
    /// An application locks, unlocks or asks about some bytes.
    pub(crate) fn range_operation(&mut self, at: NodeInstance) {
        let key = Key::object(b"ls", if self.rng.chance(0.7) { b"f" } else { b"g" });
        let client = ClientId::new(self.rng.below(3) as u32);
        let first = self.rng.below(BYTES);
        let last = if self.rng.chance(0.05) { u64::MAX } else { self.rng.between(first, BYTES - 1) };
        let range = Range::new(first, last).unwrap();
        let kind = if self.rng.chance(0.5) { RangeKind::Shared } else { RangeKind::Exclusive };
        let flags = Flags::NOTIFY | if self.rng.chance(0.15) { Flags::NOQUEUE } else { Flags::NONE };
        let deadline = self.rng.chance(0.1).then(|| self.now + Duration::from_millis(4));
        let ask = RangeAsk { client, key: key.clone(), range, kind, flags, transaction: None, deadline };
        let what = self.rng.below(10);
        let now = self.now;
        let engine = &mut self.nodes.get_mut(&at).unwrap().engine;
        let owned = engine.range_owner(client, &key);
        match what {
            0 => {
                engine.test_range(now, ask).unwrap();
                self.count("range test");
            }
            1..4 => {
                let (Some(lock), Ok(())) = (owned, engine.unlock_range(now, client, &key, range)) else {
                    return;
                };
                match engine.lock_ranges(lock).cloned() {
                    Some(left) => self.checkers.lowered(at, lock, left),
                    None => self.checkers.unlocked(at, lock, None, 0),
                }
                self.count("range given up");
            }
            _ => {
                let held = owned.and_then(|lock| engine.lock_ranges(lock).cloned()).unwrap_or_default();
                let mut then: RangeSet = held.clone();
                then.set(range, Some(kind));
                match engine.lock_range(now, ask) {
                    Ok(RangeStep::Held) => {
                        if let Some(lock) = owned {
                            self.checkers.lowered(at, lock, then);
                        }
                        self.count("range held before");
                    }
                    Ok(RangeStep::Asked(lock)) => {
                        let exchange = !then.covers(&held);
                        self.checkers.asked_ranges((at, lock), (client, key), then, flags);
                        self.count(if exchange { "range exchange" } else { "range asked" });
                    }
                    // Something of it is under way.
                    Err(_) => {}
                }
            }
        }
    }
}
