/// Counters of a [`Groups`](crate::Groups) since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Own messages that were given a place in this node's sequence (again after a view change).
    pub sent: u64,
    /// Places of the order that were delivered, of all groups.
    pub delivered: u64,
    /// FIFO messages that were delivered before their place in the order was known, of all groups.
    pub ahead: u64,
    /// Places stamped by this node.
    pub stamped: u64,
    /// Batches written.
    pub batches: u64,
    /// Stamped messages that no survivor of a view change held.
    pub voids: u64,
    /// Own messages that a view change left unordered, and that were sent again in the next view.
    pub resubmitted: u64,
    /// Items got from others in a flush.
    pub fetched: u64,
    /// Bytes of states that came for members here.
    pub state_received: u64,
    /// Bytes of states that need not come, because they were here from an earlier donor or another place of the same state.
    pub state_kept: u64,
    /// Local members that dropped out because too much waited for their state.
    pub dropped_out: u64,
    /// How often membership was asked to evict a member that this node waited for.
    pub evictions: u64,
    /// Views that this node could not enter with its state, though a member of the one before.
    pub lost: u64,
    /// Messages dropped, by reason.
    pub dropped: Drops,
}

/// Messages from peers that were dropped, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// The bytes do not parse.
    pub malformed: u64,
    /// Sent in a view that is over here.
    pub stale: u64,
    /// Arrived after this node stopped for a view change.
    pub frozen: u64,
    /// The sender is not in the view, or not the one that may send this.
    pub foreign: u64,
    /// Content that is here already, or joins nothing that is here.
    pub unexpected: u64,
    /// For a view not installed here, and beyond [`Config::early_max`](crate::Config::early_max).
    pub early: u64,
    /// State that nobody here waits for (any more), or beyond the limits.
    pub state: u64,
}

/// How full the window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bytes of own messages that are queued, or not yet consumed by every member.
    pub used: usize,
    /// The limit.
    pub limit: usize,
}

/// What decides whether a message may be sent; see [`Groups::sending`](crate::Groups::sending).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Inside the primary partition, as far as membership said.
    pub primary: bool,
    /// How full the window is.
    pub window: Window,
    /// Largest payload in bytes.
    pub message_max: usize,
    /// Own messages, joins and the like that were not delivered here yet.
    pub undelivered: usize,
    /// Grows when what [`Groups::senders`](crate::Groups::senders) says may have changed.
    pub version: u64,
}

impl Window {
    /// Bytes that a message counts: its payload and [`MESSAGE_COST`].
    #[must_use]
    pub const fn cost(payload: usize) -> usize {
        payload.saturating_add(MESSAGE_COST)
    }

    /// True if a message with this much payload may be sent: it fits, or half of the window is free.
    #[must_use]
    pub const fn admits(self, payload: usize) -> bool {
        self.used.saturating_add(Self::cost(payload)) <= self.limit || self.used <= self.limit / 2
    }
}

/// Bytes that each message counts against the window beside its payload.
pub const MESSAGE_COST: usize = 64;
