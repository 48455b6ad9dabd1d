use core::time::Duration;

/// Limits and timers of [`Groups`](crate::Groups). The fields marked *cluster-wide* must be equal at all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one's own messages (payload plus 64 for each) that may be queued or not yet consumed by every member,
    /// default 8 MiB. Memory held for the ordered stream is at most this times the number of nodes. Too low: senders
    /// wait for the slowest member; too high: a stopped member costs memory everywhere until it is excluded.
    pub window: usize,
    /// Largest payload of a message in bytes, default 16 MiB less 4 KiB: what a circuit carries.
    pub message_max: usize,
    /// A batch is closed when it has this many bytes, default 32 KiB. A message that is larger travels alone, in the
    /// bulk lane.
    pub batch: usize,
    /// Bytes of batches that may wait to be sent for the first time to the peer that has most of them, default 512 KiB: beyond it own
    /// messages wait before they are made into batches, until it is half. What orders the messages of others travels behind what waits: too
    /// high, and on a link that is full everybody else waits for that; too low, and the link runs dry between two turns. Of
    /// who says it ([`Groups::note_backlog`](crate::Groups::note_backlog)); without a word nothing waits.
    pub backlog: usize,
    /// How long a report of what is held may wait for a batch to travel in, default 1 ms. It goes at once if a safe
    /// message waits for it.
    pub report_delay: Duration,
    /// In a view change, how long to wait for what one member was asked for before everyone is asked, default 50 ms.
    pub fetch_retry: Duration,
    /// Largest state that `offer_state` takes, in bytes, default 64 MiB.
    pub state_max: usize,
    /// A state larger than this travels in pieces of a quarter of it to all of it, default 1 MiB; between 1 byte and 15 MiB. When a donor is
    /// lost, what was got of it is kept piece by piece: smaller ones keep more, and cost more messages.
    pub state_piece: usize,
    /// Bytes of a state that a joiner has asked a donor for and not got, default 8 MiB. Too low: the transfer waits for round
    /// trips; too high: memory at the donor, and other bulk messages wait behind it.
    pub state_window: usize,
    /// Bytes of ordered messages that are kept while the table of groups or the state of one group is under way,
    /// default 64 MiB. Beyond it the local member drops out of the group and joins again.
    pub transfer_buffer: usize,
    /// States on their way here that are kept at one time, default 64. With what is kept of an earlier one, each takes up to twice
    /// `state_max`.
    pub transfers_max: usize,
    /// Bytes of messages kept for a view that is not installed here yet, default 64 MiB.
    pub early_max: usize,
    /// Groups in the cluster, default 4096. *Cluster-wide.*
    pub groups_max: usize,
    /// Members of one group, default 1024. *Cluster-wide.*
    pub members_max: usize,
    /// Views are those of any partition (`ocf_membership::partitionable`), not of a primary; default false. Who comes from another side than
    /// the one that goes on ends its old view like all others, and begins anew then. What was sent safe, and is not known to be held by all
    /// members when the view ends, is told as agreed. *Cluster-wide.*
    pub partitions: bool,
    /// What is done with a member that does not take what was delivered, so that senders wait for it. Default: they wait.
    pub slow: SlowMembers,
}

/// What is done with a member of the view that senders wait for. Memory is bounded by [`Config::window`] either way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlowMembers {
    /// Senders wait for it, however long: everybody is as slow as the slowest.
    #[default]
    Throttle,
    /// Senders wait for it for a while, then it is put out of the primary, if the others have a quorum. Whoever fences
    /// members that leave without proof of their end will fence it.
    Evict(Patience),
}

/// How long senders wait. A member is *behind* from when there is half of a sender's window that another member has taken and it has not, until
/// there is no more than a quarter, or it has what others had an eighth of `stalled` ago.
/// A pause is forgiven in which the sender did not run itself, or its view stood still; with another view all begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A member that is behind and takes nothing at all is evicted after so long, default 10 s; less than 1 s counts as 1 s. Longer than the longest
    /// pause of a healthy application, or that is evicted for it.
    pub stalled: Duration,
    /// One that takes something, and stays behind, is evicted after so long; `None`, the default, never: senders go at its pace. Less than 1 s
    /// counts as 1 s.
    pub slow: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stalled: Duration::from_secs(10), slow: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            window: 8 * MIB,
            message_max: 16 * MIB - 4096,
            batch: 32 * 1024,
            backlog: MIB / 2,
            report_delay: Duration::from_millis(1),
            fetch_retry: Duration::from_millis(50),
            state_max: 64 * MIB,
            state_piece: MIB,
            state_window: 8 * MIB,
            transfer_buffer: 64 * MIB,
            transfers_max: 64,
            early_max: 64 * MIB,
            groups_max: 4096,
            members_max: 1024,
            partitions: false,
            slow: SlowMembers::Throttle,
        }
    }
}
