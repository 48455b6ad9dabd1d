use crate::{Event, View};
use pils::{Instant, NodeInstance};

/// Agreed views: what a layer above needs to know of membership, whoever agrees on them.
///
/// Object-safe. A provider runs by itself: whoever holds it calls [`process`](Self::process) when something may have arrived, and
/// at [`poll_timeout`](Self::poll_timeout) at the latest, and then takes the events. Providers: `ocf_groups::AgreedGroups` (this
/// crate's [`Consensus`](crate::Consensus) over any `Connectivity`) and `ocf_groups::corosync::Corosync`. Those who write another run
/// [`check_membership`](crate::testing::check_membership) of the feature `testing`.
///
/// What every provider keeps: an installed view contains this node; numbers grow and are never used twice; all who install a number
/// install the same view; of two views that follow each other somewhere one is primary after the other, never beside it, as far as
/// [`ViewPromises::lease`] says; members are told most senior first; who is told [`Event::NonPrimary`] acts as no member until the
/// next [`Event::Installed`]. What providers differ in is told by [`view_promises`](Self::view_promises).
pub trait Membership {
    /// Which life of which node this is.
    fn local(&self) -> NodeInstance;

    /// What can be relied upon. It never changes.
    fn view_promises(&self) -> ViewPromises;

    /// Takes in what has arrived, and does what is due at `now`. Bounded work; to be called again at once if it left something.
    fn process(&mut self, now: Instant);

    /// When to call [`process`](Self::process) though nothing arrived.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The next event, if one waits.
    fn poll_event(&mut self) -> Option<Event>;

    /// The view that was installed last, also while this node is outside the primary partition.
    fn view(&self) -> Option<&View>;

    /// True from [`Event::Installed`] to [`Event::NonPrimary`], but for the time between [`Event::Suspended`] and
    /// [`Event::Resumed`]: this node may act for the cluster now, as far as [`ViewPromises::lease`] says.
    fn is_primary(&self) -> bool;
}

/// What a provider of [`Membership`] promises beyond what every one keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewPromises {
    /// An old primary has certainly stopped when a new one begins, and a node that was paused distrusts itself before it acts.
    /// Without it a node that was cut off or paused may act as a primary beside the new one until it is told: what must not
    /// happen twice is fenced first.
    pub lease: bool,
    /// Every view follows the newest before it. Without it a node that is just being cut off may install a view that the others go on
    /// without, from the one before; it is told soon that it is outside.
    pub one_chain: bool,
    /// View numbers grow by one, not only by something.
    pub consecutive: bool,
    /// The chain of primaries outlives the restart of any nodes: who comes back does not take an old state for the newest.
    pub remembers: bool,
    /// A member whose process hangs is excluded, not only one whose node does.
    pub excludes_hung: bool,
    /// [`View::unproven`] names who left earlier and may not have ended.
    pub names_unproven: bool,
}

impl ViewPromises {
    /// None of them.
    pub const NONE: Self = Self {
        lease: false,
        one_chain: false,
        consecutive: false,
        remembers: false,
        excludes_hung: false,
        names_unproven: false,
    };
}
