//! For tests that explore every state an engine can be in: what tells two of them apart, and how to keep them small.

use super::{Engine, slot_number};
use crate::directory::Slot;
use core::hash::{Hash, Hasher};

/// Engines with equal hashes go on alike, hash collisions apart, if they were made alike (configuration, victim policy,
/// bugs put back) and all their outputs were taken. What is only counted ([`Stats`](super::Stats)) does not count.
impl Hash for Engine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Every field is named: a new one has to be thought of here.
        let Self {
            local,
            seed: _,
            config: _,
            now,
            standing,
            epoch,
            members,
            // Follows from the members.
            placement: _,
            departed,
            proven,
            slots,
            entries,
            waiting_lookups,
            moving_lookups,
            moving,
            handing,
            to_move,
            to_hand,
            trees,
            mastering,
            holders,
            locks,
            waiting,
            lookups,
            searched,
            haunted,
            unsettled,
            leaving,
            idle,
            idle_due,
            stopping,
            signals,
            orphans,
            kept,
            range_owners,
            orders,
            next_ticket,
            proofs,
            next_lock,
            next_order,
            timers,
            recovery,
            loopback,
            batches,
            held,
            held_bytes: _,
            domains,
            outputs,
            stats: _,
            victims: _,
            sabotage: _,
        } = self;
        (local, now, standing, epoch, members, departed, proven).hash(state);
        (slots, entries, waiting_lookups, trees, mastering, holders, locks, waiting, lookups).hash(state);
        (searched, haunted, unsettled, leaving, idle, idle_due, stopping, proofs).hash(state);
        (signals, orphans, kept, range_owners, orders, next_ticket, domains).hash(state);
        (moving_lookups, moving, handing, to_move, to_hand).hash(state);
        (next_lock, next_order, timers, recovery, loopback, batches, held, outputs.len()).hash(state);
    }
}

impl Engine {
    /// Forgets the directory slots that are not among `slots`. Slots have nothing to do with each other: as long as all
    /// trees that are locked belong to `slots`, the engine does what it would do, but is much smaller.
    pub fn keep_slots(&mut self, slots: &[Slot]) {
        self.slots.retain(|number, _| slots.iter().any(|slot| slot_number(*slot) == *number));
        self.recovery.keep_slots(slots);
    }
}
