use core::fmt;
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance};

/// One thing that happened in a run.
#[derive(Clone, Debug)]
pub struct Entry<R> {
    /// When, in true time since the start of the run: no node's clock shows it.
    pub at: Instant,
    /// What.
    pub what: What<R>,
}

/// What happened: done by the engine to nodes and network, or recorded by the program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What<R> {
    /// The node's software started as a new incarnation.
    Started {
        /// Who.
        instance: NodeInstance,
        /// True if it found a record on its disk.
        remembers: bool,
    },
    /// The node's software is gone.
    Stopped {
        /// Who.
        instance: NodeInstance,
        /// How.
        how: Stop,
    },
    /// The machine lost power; its software, if it ran, is reported by [`What::Stopped`] first.
    PoweredOff(NodeId),
    /// The machine has power again.
    PoweredOn(NodeId),
    /// The node's software was stopped like by SIGSTOP.
    Paused(NodeId, Duration),
    /// It goes on.
    Resumed(NodeId),
    /// It takes so long for each event from now on.
    Slowed(NodeId, Duration),
    /// The disk's content is lost.
    DiskLost(NodeId),
    /// The disk's content is damaged.
    DiskDamaged(NodeId),
    /// Writes to the disk fail from now on, or work again.
    DiskFull(NodeId, bool),
    /// Writes to the disk do not end from now on, or end again.
    DiskHangs(NodeId, bool),
    /// The network changed.
    Network(Change),
    /// All faults ended; the liveness phase begins.
    Healed,
    /// All is well for the first time after the last fault, and must stay so.
    Settled,
    /// What the program recorded, and at which node if at one.
    Program(Option<NodeInstance>, R),
}

/// How a node's software ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stop {
    /// The process was killed; other processes of the machine live on.
    Killed,
    /// The machine lost power.
    PowerLost,
    /// It ended by itself, in order.
    Exited,
}

/// A change of the network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// Nothing passes between nodes of different sides.
    Partition(Vec<Vec<NodeId>>),
    /// Nothing passes from the first node to the second.
    OneWay(NodeId, NodeId),
    /// Nothing passes between the two.
    Pair(NodeId, NodeId),
    /// The link between the two goes up and down so many times.
    Flap(NodeId, NodeId, u32),
    /// Nodes are cut off one by one, in this order, and later come back in another order.
    Swizzle(Vec<NodeId>),
    /// The link from the first to the second is bad in this way.
    Worse(NodeId, NodeId, &'static str),
    /// One path from the first node to the second, or between the two, fails in this way.
    Path(NodeId, NodeId, u8, &'static str),
    /// The interface of a node under one path went down, or works again.
    Interface(NodeId, u8, bool),
    /// The interface of a node under one path has another address.
    Address(NodeId, u8),
    /// An earlier change ended.
    Restored(&'static str),
    /// The links of a node are cut in two steps.
    Closing(NodeId),
}

impl<R: fmt::Debug> fmt::Display for Entry<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.at)?;
        match &self.what {
            What::Program(Some(instance), record) => write!(f, "{instance} {record:?}"),
            What::Program(None, record) => write!(f, "world {record:?}"),
            what @ (What::Started { .. }
            | What::Stopped { .. }
            | What::PoweredOff(_)
            | What::PoweredOn(_)
            | What::Paused(..)
            | What::Resumed(_)
            | What::Slowed(..)
            | What::DiskLost(_)
            | What::DiskDamaged(_)
            | What::DiskFull(..)
            | What::DiskHangs(..)
            | What::Network(_)
            | What::Healed
            | What::Settled) => write!(f, "** {what:?}"),
        }
    }
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{checker}: {text}")]
pub struct Violation {
    /// Which checker says so.
    pub checker: &'static str,
    /// What is wrong, with the values.
    pub text: String,
}

/// Judges a history while it grows. One promised property each; linear in the length of the history.
pub trait Checker<R> {
    /// The property, as reports print it: `V1 total order`.
    fn name(&self) -> &'static str;

    /// Looks at the next entry.
    ///
    /// # Errors
    /// What is wrong, with the values; the run ends here.
    fn observe(&mut self, entry: &Entry<R>) -> Result<(), String>;

    /// Judges what can be judged only at the end of a run that healed.
    ///
    /// # Errors
    /// What is wrong, with the values.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// How many facts were judged so far: a checker that judged nothing proves nothing.
    fn judged(&self) -> u64;
}
