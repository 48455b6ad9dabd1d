//! What an exploration is of.

use core::time::Duration;
use ocf_membership::{Coordinator, Sabotage};

/// What an exploration is of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Of each node.
    pub(crate) votes: &'static [u32],
    pub(crate) policy: &'static str,
    pub(crate) coordinator: Coordinator,
    /// It begins before the first view; else with all in one.
    pub(crate) cold: bool,
    /// What has happened since the first view when the exploration begins.
    pub(crate) scene: &'static [Scene],
    /// How many faults of all kinds there may be.
    pub(crate) faults: u8,
    /// Which there may be, and whom each may hit, as bits.
    pub(crate) kinds: &'static [(Kind, u8)],
    /// Nodes that may start again once they ended, as bits. What they wrote to their disks is still there.
    pub(crate) returns: u8,
    /// How long after its start.
    pub(crate) horizon: Duration,
    pub(crate) bug: Option<Sabotage>,
}

/// A part of what has happened before an exploration begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// This happened.
    Step(Act),
    /// Everything went on without faults, in one order, until that node was in that state, by its name.
    Until(usize, &'static str),
    /// What was on its way arrived, and what was being written is on the disks.
    Rest,
    /// The same until these nodes, as bits, were in the view of that number.
    Agreed(u64, u8),
    /// These pairs hear each other from now on, and no others, which notice it at once. What was on its way between those is lost.
    Links(&'static [(usize, usize)]),
    /// The disks of these nodes, as bits, write nothing for now.
    Slow(u8),
    /// That node was told to change to these votes.
    Order(usize, &'static [u32]),
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A node is killed; what it sent arrives, or is lost.
    Crash,
    /// Nothing passes between a node and the others.
    Isolate,
    /// The same for good: what was on its way is lost, and so is what is sent.
    Sever,
    /// Nothing that a node sends arrives.
    Mute,
    /// A node stands still.
    Pause,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The first message from the one to the other arrives.
    Deliver(usize, usize),
    /// The disk of a node has written the next record.
    Write(usize),
    /// The tie-breaker, or the fence device, answers; or says that it cannot.
    Answer(usize, bool),
    /// A node hears early that it does not hear another.
    Notice(usize, usize),
    Fault(Kind, usize, bool),
    /// What ails a node ends.
    Heal(usize),
    Restart(usize),
    /// The next timer of anybody.
    Time,
}
