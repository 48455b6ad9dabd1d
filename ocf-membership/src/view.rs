use crate::Evidence;
use core::fmt;
use core::time::Duration;
use ocf_comm::DownReason;
use pils::wire::{ParseError, Reader};
use pils::{Incarnation, NodeId, NodeInstance};

/// Number of a view along the chain of primaries: grows by one with each, never used twice, even across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ViewNumber(pub u64);

impl fmt::Debug for ViewNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ViewNumber {
    /// `v7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// One attempt to agree on the next view. Ordered; two attempts never share a ballot, because it names the
/// incarnation that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Raised above every round seen.
    pub round: u64,
    /// Who proposes.
    pub proposer: NodeInstance,
}

impl Ballot {
    /// Below every real ballot.
    pub const NONE: Self =
        Self { round: 0, proposer: NodeInstance::new(NodeId::new(0), Incarnation::new(0)) };
}

impl fmt::Display for Ballot {
    /// `12@n3/5f0a11c2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.round, self.proposer)
    }
}

/// A member of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Which life of which node.
    pub instance: NodeInstance,
    /// Number of the view in which this instance joined (for the last time). Members are senior by this, then by id.
    pub joined: ViewNumber,
    /// Votes of the node in the vote configuration of this view.
    pub votes: u32,
}

/// Why a view differs from the one before: one cause for each instance that came or went, one for each that went earlier and is known to
/// have ended now, and one for the node that won an even split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The instance that came or went.
    pub instance: NodeInstance,
    /// What happened to it.
    pub reason: ChangeReason,
}

/// What happened to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeReason {
    /// It was reachable and asked to join.
    Joined,
    /// It went down, as the proposer heard.
    Down(DownReason),
    /// It is up, but not everybody in the view can talk to it.
    PartlyConnected,
    /// It did not answer in time while the view was being agreed.
    NoAnswer,
    /// It is well, and was put out because the others had to wait for it ([`Consensus::evict`](crate::Consensus::evict)).
    Evicted(Lag),
    /// It neither came nor went: it asked on behalf of this half of an even split, and was allowed to go on.
    TieWon(Evidence),
    /// It neither came nor went: it proposed this view, from which on other votes count, or which has votes that a view before brought that
    /// may not have been agreed.
    VotesChanged,
}

/// How a member held up the others. The same at every node that installs the view that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lag {
    /// It took nothing at all; else it took some, too slowly.
    pub stalled: bool,
    /// For how long, in whole microseconds.
    pub lasted: Duration,
    /// Bytes that it had not taken when it was evicted, of those of the member that waited for it.
    pub behind: u64,
}

impl fmt::Display for Lag {
    /// `took nothing for 10s and has 8388608 bytes to take`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stalled, lasted, behind } = self;
        let how = if *stalled { "took nothing" } else { "was too slow" };
        write!(f, "{how} for {lasted:?} and has {behind} bytes to take")
    }
}

impl fmt::Display for ChangeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined => f.write_str("joined"),
            Self::VotesChanged => f.write_str("changed the votes"),
            Self::Down(reason) => reason.fmt(f),
            Self::PartlyConnected => f.write_str("cannot talk to every member"),
            Self::NoAnswer => f.write_str("did not answer while the view was agreed"),
            Self::Evicted(lag) => write!(f, "was evicted: it {lag}"),
            Self::TieWon(evidence) => write!(f, "half of the votes go on: {evidence}"),
        }
    }
}

impl ChangeReason {
    /// True if the instance is known to have ended by its own declaration, so nothing of it can still act.
    #[must_use]
    pub const fn is_proof_of_death(self) -> bool {
        matches!(self, Self::Down(reason) if reason.is_proof_of_death())
    }
}

/// An agreed view of the primary partition. Every node that installs `number` installs exactly this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Position in the chain of primaries.
    pub number: ViewNumber,
    /// The ballot in which it was agreed.
    pub ballot: Ballot,
    /// Who is in it, **most senior first**: by `joined`, then by node id. Never empty.
    pub members: Vec<Member>,
    /// The members of the primary view before this one, most senior first; empty for the first view of a cluster.
    pub previous: Vec<Member>,
    /// Why members came and went, sorted by instance.
    pub causes: Vec<Cause>,
    /// Votes that are needed for a primary in the vote configuration of this view.
    pub quorum: u32,
    /// The feature level at which its members talk to each other: the layers above use nothing that came with a higher one. Never lower than
    /// that of the view before.
    pub level: u32,
    /// Who left an **earlier** primary than [`previous`](Self::previous) and is not proven to have ended, as the layers above told
    /// ([`Input::Unproven`](crate::Input::Unproven)) those who agreed on this view; sorted, none of them a member. At most
    /// [`UNPROVEN_MAX`].
    pub unproven: Vec<NodeInstance>,
}

/// The most instances that [`View::unproven`] names, with those who leave in that view. Beyond it no view is agreed until some of
/// them are proven to have ended: nobody is forgotten.
pub const UNPROVEN_MAX: usize = 1024;

impl View {
    /// The most senior member: coordinator and sequencer.
    ///
    /// # Panics
    /// Never for an agreed view: it has at least one member.
    #[must_use]
    pub fn senior(&self) -> Member {
        *self.members.first().expect("an agreed view has a member")
    }

    /// True if `instance` is in this view.
    #[must_use]
    pub fn contains(&self, instance: NodeInstance) -> bool {
        self.members.iter().any(|m| m.instance == instance)
    }

    /// Position of `instance` in `members`.
    #[must_use]
    pub fn index_of(&self, instance: NodeInstance) -> Option<usize> {
        self.members.iter().position(|m| m.instance == instance)
    }

    /// Members that were not in the previous primary view, or came back into it as fresh members: they have no state.
    pub fn joiners(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().copied().filter(|m| m.joined == self.number)
    }

    /// Appends the layout in which a view travels, for providers that carry it themselves.
    pub fn write(&self, out: &mut Vec<u8>) {
        crate::wire::put_view(out, self);
    }

    /// Reads what [`Self::write`] wrote. Memory is bounded by the input.
    ///
    /// # Errors
    /// The bytes are no view.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        crate::wire::view(r)
    }

    /// Members of the previous primary view that are not in this one (as the same instance).
    pub fn departed(&self) -> impl Iterator<Item = Member> + '_ {
        self.previous.iter().copied().filter(|m| !self.contains(m.instance))
    }
}

/// The next primary view as its proposer sends it, with what the layers above need to enter it together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The view.
    pub view: View,
    /// What each continuing member (a member of the previous primary that is also in this view) reported through
    /// [`Input::Blocked`](crate::Input::Blocked), sorted by instance. Opaque to membership.
    pub states: Vec<(NodeInstance, bytes::Bytes)>,
}

/// What a node outside the primary partition does with what it runs and serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutsidePolicy {
    /// Stops it, so that others may take it over.
    #[default]
    Stop,
    /// Leaves it as it is and does nothing more: only if whoever takes over fences first.
    Freeze,
    /// Goes on to serve what it has, and changes nothing.
    ReadOnly,
    /// Ends the whole node at once, by its watchdog or a reset.
    SelfFence,
}

impl fmt::Display for OutsidePolicy {
    /// `stop`, `freeze`, `read-only` or `self-fence`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::ReadOnly => "read-only",
            Self::SelfFence => "self-fence",
        })
    }
}

/// The situation of a node outside the primary partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonPrimary {
    /// Number of the last primary view that this node knows of; zero if it never saw one.
    pub last_primary: ViewNumber,
    /// The nodes it can talk to, itself included, sorted.
    pub reachable: Vec<NodeInstance>,
    /// Votes of those nodes.
    pub votes: u32,
    /// Votes that a primary needs.
    pub quorum: u32,
    /// True if this node keeps what it had in its last view, and goes on with it if no primary was without it meanwhile.
    pub dormant: bool,
    /// What the layers above do: [`Config::outside`](crate::Config::outside). Membership itself does nothing for it.
    pub policy: OutsidePolicy,
}
