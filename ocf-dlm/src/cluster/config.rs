use core::time::Duration;
use pils::ConfigErrors;

/// Times and limits of one node's part of the distributed lock manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a value block: 1 to [`VALUE_MAX`](crate::VALUE_MAX). The same on every node. Default 32.
    pub value_length: usize,
    /// How long an operation waits before a deadlock is searched for, and between searches. Shorter finds deadlocks
    /// sooner and costs messages for waits that are none. Default 1 s; at least 10 ms.
    pub deadlock_delay: Duration,
    /// How long a tree without locks stays mastered here, or a hint to its master is kept. Longer saves a directory
    /// lookup when it is used again, and costs memory. Default 10 s.
    pub idle_after: Duration,
    /// Most trees without locks that are kept; beyond it the rule of `idle_after` is applied at once. Default 65 536.
    pub idle_max: usize,
    /// A message is closed when it has this many bytes. At most 64 KiB, so that it never waits for its own fragments.
    /// Default 48 KiB.
    pub batch_bytes: usize,
    /// Most locks of this node. A request beyond it is refused. Default 16 Mi.
    pub locks_max: usize,
    /// Most bytes of messages that wait here for a view or for the lease. Beyond it this node can no longer follow and
    /// gives up its locks. Default 64 MiB.
    pub held_bytes_max: usize,
    /// Most trees, directory entries or claims that one call works through when a view, a proof or the lease changed many;
    /// what is left is gone on with at once, in a later call. More is done sooner, and other locks wait longer meanwhile:
    /// up to about three microseconds for each. At least 1. Default 128.
    pub turn_max: usize,
    /// Most claims that are on their way to a member in a recovery: what is said of other locks waits behind them. At least
    /// 1. Default 1024, about 90 KB.
    pub claims_ahead_max: usize,
    /// For how long a member uses a tree more than twice as much as its master does until it masters it; after each move of
    /// that tree twice as long, 64 times at most. Zero: trees stay where they are. Default 1 s.
    pub move_after: Duration,
    /// Least uses (requests and conversions) in that time, or it is not worth it. Default 100.
    pub move_uses_min: u32,
    /// How long a move may wait for members to answer; then the tree stays. Their requests wait meanwhile. Default 100 ms.
    pub move_patience: Duration,
    /// Most grants, of trees mastered elsewhere, that this node keeps when its last client lets go: the next one that asks for the
    /// same has it without a message. One more, and the one kept for longest is given back. Who wants it on another node waits for
    /// one message more. Zero: none is kept. Default 0, because trees go where they are used (`move_after`), and then locks cost no
    /// message either; worth it where many nodes read the same, or a tree has users with names of their own on several nodes.
    pub kept_max: usize,
    /// How long a grant is kept that nobody asks for. Default 10 s.
    pub kept_for: Duration,
    /// Most resources mastered here that are kept for their recovery domain, also without locks, until they are repaired. More that
    /// become invalid are not kept, and who collects is told that some are missing. Default 1 Mi, about half a GB.
    pub repair_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            value_length: 32,
            deadlock_delay: Duration::from_secs(1),
            idle_after: Duration::from_secs(10),
            idle_max: 1 << 16,
            batch_bytes: 48 << 10,
            locks_max: 1 << 24,
            held_bytes_max: 64 << 20,
            turn_max: 128,
            claims_ahead_max: 1024,
            move_after: Duration::from_secs(1),
            move_uses_min: 100,
            move_patience: Duration::from_millis(100),
            kept_max: 0,
            kept_for: Duration::from_secs(10),
            repair_max: 1 << 20,
        }
    }
}

impl Config {
    /// Checks every field.
    ///
    /// # Errors
    /// All that is out of range, each with its path and what to do.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if !(1..=crate::VALUE_MAX).contains(&self.value_length) {
            errors.push("value_length", self.value_length, "out of range", "1 to 64");
        }
        if self.deadlock_delay < Duration::from_millis(10) {
            let given = format!("{:?}", self.deadlock_delay);
            errors.push("deadlock_delay", given, "searches would be most of the traffic", "at least 10 ms");
        }
        if !(256..=64 << 10).contains(&self.batch_bytes) {
            errors.push("batch_bytes", self.batch_bytes, "out of range", "256 to 65536");
        }
        if self.locks_max == 0 {
            errors.push("locks_max", self.locks_max, "no lock could be taken", "at least 1");
        }
        for (field, value) in [("turn_max", self.turn_max), ("claims_ahead_max", self.claims_ahead_max)] {
            if value == 0 {
                errors.push(field, value, "no recovery would go on", "at least 1");
            }
        }
        if self.move_uses_min == 0 {
            errors.push("move_uses_min", self.move_uses_min, "any use would move a tree", "at least 1");
        }
        errors.into_result()
    }
}
