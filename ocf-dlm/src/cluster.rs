//! The distributed lock manager of one node, without I/O.
//!
//! [`Engine`] is a [`pils::Layer`]: it is told of views, leases, deaths and messages ([`Input`]), takes requests of
//! local clients, and says what to send and whom to tell ([`Output`]). It needs messages between each pair of members in
//! order, exactly once, as long as both live; views as [`ClusterView`] says; and a word when the holders of a departed
//! instance are certain to act no more ([`Proof`]).
//!
//! PROTOCOL.md of this crate, sections 8 to 10, has the states, messages, timers and limits.

mod answers;
mod client;
mod config;
#[cfg(feature = "testing")]
mod digest;
mod domain;
mod event;
mod flow;
mod idle;
mod keep;
mod lookup;
mod master;
mod orders;
mod orphan;
mod own;
mod place;
mod queue;
mod range_queue;
mod ranges;
mod snapshot;
mod tree;
mod waits;

pub use client::LockState;
pub use config::Config;
pub use event::{Ask, ClusterView, Completed, Input, Output, ViewMember, WaitReason, Waiting};
pub use keep::KEPT_USES;
pub use orders::{ORDERS_MAX, OrderError};
pub use place::MOVED_MAX;
pub use queue::Holder;
pub use ranges::{RangeAsk, RangeStep};
pub use snapshot::{MasteredLock, Snapshot, Stats, TreeSnapshot, TreeState};

use crate::deadlock::{Mark, VictimPolicy, Youngest};
use crate::directory::Placement;
use crate::recovery::Recovery;
use crate::table::Table;
use crate::wire::{Batch, Item, Key, Name, Proof, Request};
use bytes::Bytes;
pub(crate) use client::Stop;
use client::Timer;
use domain::Domains;
use keep::KeptLocks;
pub(crate) use lookup::{Entry, SlotState, slot_number};
use own::ClientLock;
use pils::{Instant, Layer, NodeInstance};
pub(crate) use queue::{Effects, Queues};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
pub(crate) use tree::{Mastered, Route, Tree};

/// Bugs that can be put back, to prove that the tests see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(feature = "testing")]
pub enum Sabotage {
    /// Releases the locks of a departed node at once, without proof that it is dead.
    ReleaseWithoutProof,
    /// Recovers a tree as if nobody but the survivors could have held locks of it.
    ForgetSuspects,
    /// Serves a directory slot before everybody's claims are in.
    SkipBarrier,
    /// Starts the tokens of a tree anew when it changes its master.
    TokensStartAnew,
    /// Keeps a value block as valid whoever died with the right to write it.
    TrustValue,
    /// Rebuilds the waiting queue in the order of the claims instead of the old order.
    ForgetOrder,
    /// Goes on granting while the lease is in doubt.
    IgnoreSuspension,
    /// Takes messages of an earlier epoch for messages of this one.
    IgnoreEpoch,
    /// Does not ask again when a lookup may have been lost with a member.
    ForgetLookups,
    /// Does not notify holders again of what waits when a tree was rebuilt.
    ForgetNotices,
    /// Follows deadlock searches but never ends one.
    SpareVictims,
    /// Follows a deadlock search to who was in the way when it was sent and is no more.
    FollowOldEdges,
    /// Gives a new tree away without telling of holders that may be alive.
    OwnWithoutSuspects,
    /// Sends nothing of locks that wait to a new master.
    ClaimOnlyHeld,
    /// Sends to a new master also what no master is known to have queued, as if it had been.
    ClaimUndecided,
    /// Does not note that a lock that converts went down to NL to end a deadlock.
    ForgetDemotions,
    /// Drops what was given back while the directory was asked for the master, if another view comes first.
    ForgetReleases,
    /// Releases a lock by an operator's order at its master, and its home goes on using it.
    RevokeUnseen,
    /// Releases with its client also what is to outlive it.
    ForgetOrphans,
    /// Does not tell the master of bytes that an owner gave up with the grant of others.
    KeepGivenUp,
    /// Tells a new master only the first range of each owner.
    ClaimFirstRange,
    /// Takes what a departed owner of ranges may hold for what modes allow it.
    SuspectNoRanges,
    /// Sends a tree to its next master while others may have something of it under way to this one.
    MoveUndrained,
    /// Sends nothing to the next master but the locks of its own node.
    MoveOwnOnly,
    /// Does not tell the directory that a tree has come here.
    MoveUnlisted,
    /// Goes on in a view without knowing whether a tree that was sent away has arrived.
    MoveUnsettled,
    /// Takes tokens for a kept grant that did not go with it.
    KeepMoreTokens,
    /// Gives a kept grant back without what was written under it.
    ForgetUnwritten,
    /// Gives a kept grant to a client while the lease is in doubt.
    ReuseInDoubt,
    /// Keeps nothing for repair of what only a lost node knew.
    ForgetFailures,
    /// Takes for repaired what became invalid after it was collected.
    ValidateAnew,
    /// Lets a tree move although its root is kept for repair.
    MoveMarked,
    /// Says of a wait first who only waits ahead, and then who holds what excludes it.
    ExplainOutOfOrder,
    /// Tells who is in the way the signal of who asked last, whatever that asks for.
    TellAnother,
}

#[cfg(feature = "testing")]
impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::ReleaseWithoutProof,
        Self::ForgetSuspects,
        Self::SkipBarrier,
        Self::TokensStartAnew,
        Self::TrustValue,
        Self::ForgetOrder,
        Self::IgnoreSuspension,
        Self::IgnoreEpoch,
        Self::ForgetLookups,
        Self::ForgetNotices,
        Self::SpareVictims,
        Self::FollowOldEdges,
        Self::OwnWithoutSuspects,
        Self::ClaimOnlyHeld,
        Self::ClaimUndecided,
        Self::ForgetDemotions,
        Self::ForgetReleases,
        Self::RevokeUnseen,
        Self::ForgetOrphans,
        Self::KeepGivenUp,
        Self::ClaimFirstRange,
        Self::SuspectNoRanges,
        Self::MoveUndrained,
        Self::MoveOwnOnly,
        Self::MoveUnlisted,
        Self::MoveUnsettled,
        Self::KeepMoreTokens,
        Self::ForgetUnwritten,
        Self::ReuseInDoubt,
        Self::ForgetFailures,
        Self::ValidateAnew,
        Self::MoveMarked,
        Self::ExplainOutOfOrder,
        Self::TellAnother,
    ];
}

/// How a lock is released whose holder failed, or that is taken away.
pub(crate) const FAILED: crate::Flags = crate::Flags::IVVALBLK.with(crate::Flags::FAILURE);

/// Whether this node may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    Outside,
    Active,
    Suspended,
}

/// The distributed lock manager of one node. See the [module](self).
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) local: NodeInstance,
    /// Of the tables' hashes.
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) standing: Standing,
    /// Number of the newest view.
    pub(crate) epoch: u64,
    /// Members of it, with the view in which each joined.
    pub(crate) members: BTreeMap<NodeInstance, u64>,
    pub(crate) placement: Option<Placement>,
    /// Gone, and not proven dead; with the view that said so.
    pub(crate) departed: BTreeMap<NodeInstance, u64>,
    /// Proven to act no more, newest last; true: for good, because it is dead.
    pub(crate) proven: VecDeque<(NodeInstance, bool)>,
    pub(crate) slots: BTreeMap<u16, SlotState>,
    pub(crate) entries: Table<Name, Entry>,
    pub(crate) waiting_lookups: VecDeque<(NodeInstance, Request)>,
    /// Those that wait for a tree that moves.
    pub(crate) moving_lookups: VecDeque<(NodeInstance, Request)>,
    pub(crate) trees: Table<Name, Tree>,
    /// How many of them are mastered here.
    pub(crate) mastering: usize,
    /// Resource of each lock that is mastered here.
    pub(crate) holders: Table<Holder, Key>,
    pub(crate) locks: Table<u64, ClientLock>,
    /// The lock by which each client has ranges of an object.
    pub(crate) range_owners: BTreeMap<(u32, Key), u64>,
    /// Locks with an operation under way.
    pub(crate) waiting: BTreeSet<u64>,
    /// Trees that the directory is asked for, by the lock in whose name.
    pub(crate) lookups: BTreeMap<u64, Name>,
    /// What deadlock searches have looked at here.
    pub(crate) searched: BTreeSet<Mark>,
    /// Trees mastered here in which instances that are not proven dead have locks, or may have; by place. Also some where
    /// none has any more.
    pub(crate) haunted: BTreeSet<u32>,
    /// Trees of which something could not be sent because the lease was in doubt; by place.
    pub(crate) unsettled: BTreeSet<u32>,
    /// Locks whose release waits to be sent.
    pub(crate) leaving: BTreeSet<u64>,
    /// Trees that were idle at that time; by place.
    pub(crate) idle: VecDeque<(Instant, u32)>,
    /// The first of them may have been idle for long enough.
    pub(crate) idle_due: bool,
    /// Operations that are to be stopped and whose master was not told yet, or did not answer.
    pub(crate) stopping: BTreeSet<u64>,
    /// Proofs that came while the lease was in doubt, and in which epoch.
    pub(crate) proofs: Vec<(NodeInstance, Proof, u64)>,
    /// What those are told that are in the way of a lock of this node, for the few locks that were asked for with a signal.
    pub(crate) signals: BTreeMap<u64, u64>,
    /// Locks of this node that outlived their client.
    pub(crate) orphans: BTreeSet<u64>,
    /// Locks of this node that nobody here has.
    pub(crate) kept: KeptLocks,
    /// Trees that are to move from here, by ticket.
    pub(crate) moving: BTreeMap<u64, Name>,
    /// Trees that were sent to their next master, which has not answered, by ticket.
    pub(crate) handing: BTreeMap<u64, Name>,
    /// Trees that another member uses most.
    pub(crate) to_move: VecDeque<(Name, NodeInstance)>,
    /// Trees that are ready to be sent.
    pub(crate) to_hand: VecDeque<Name>,
    /// Orders that were given here and not answered yet.
    pub(crate) orders: BTreeSet<u64>,
    pub(crate) domains: Domains,
    pub(crate) next_ticket: u64,
    pub(crate) next_lock: u64,
    pub(crate) next_order: u64,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    pub(crate) recovery: Recovery,
    pub(crate) loopback: VecDeque<Item>,
    pub(crate) batches: BTreeMap<NodeInstance, Batch>,
    /// Messages that wait for a view or for the lease.
    pub(crate) held: BTreeMap<NodeInstance, VecDeque<Bytes>>,
    pub(crate) held_bytes: usize,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) stats: Stats,
    pub(crate) victims: Arc<dyn VictimPolicy>,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($engine:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $engine.is(crate::cluster::Sabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}
pub(crate) use sabotaged;

impl Engine {
    /// An engine that has seen no view. Requests wait until it has.
    ///
    /// # Errors
    /// If the configuration is not in order.
    pub fn new(config: Config, local: NodeInstance) -> Result<Self, pils::ConfigErrors> {
        config.check()?;
        let seed = seed_of(local);
        Ok(Self {
            local,
            seed,
            config,
            now: Instant::ZERO,
            standing: Standing::Outside,
            epoch: 0,
            members: BTreeMap::new(),
            placement: None,
            departed: BTreeMap::new(),
            proven: VecDeque::new(),
            slots: BTreeMap::new(),
            entries: Table::new(seed),
            waiting_lookups: VecDeque::new(),
            moving_lookups: VecDeque::new(),
            moving: BTreeMap::new(),
            handing: BTreeMap::new(),
            to_move: VecDeque::new(),
            to_hand: VecDeque::new(),
            trees: Table::new(seed),
            mastering: 0,
            holders: Table::new(seed),
            locks: Table::new(seed),
            range_owners: BTreeMap::new(),
            waiting: BTreeSet::new(),
            lookups: BTreeMap::new(),
            searched: BTreeSet::new(),
            haunted: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            leaving: BTreeSet::new(),
            idle: VecDeque::new(),
            idle_due: false,
            stopping: BTreeSet::new(),
            proofs: Vec::new(),
            signals: BTreeMap::new(),
            orphans: BTreeSet::new(),
            kept: KeptLocks::default(),
            orders: BTreeSet::new(),
            domains: Domains::default(),
            next_ticket: 0,
            next_lock: 1,
            next_order: 0,
            timers: BTreeSet::new(),
            recovery: Recovery::new(seed),
            loopback: VecDeque::new(),
            batches: BTreeMap::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            outputs: VecDeque::new(),
            stats: Stats::default(),
            victims: Arc::new(Youngest),
            #[cfg(feature = "testing")]
            sabotage: None,
        })
    }

    /// This engine with another rule for who is the victim of a deadlock. The same on every node.
    #[must_use]
    pub fn with_victims(mut self, policy: Arc<dyn VictimPolicy>) -> Self {
        self.victims = policy;
        self
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// True if that instance left and is not proven to act no more.
    #[must_use]
    pub fn is_unproven(&self, instance: NodeInstance) -> bool {
        self.departed.contains_key(&instance)
    }

    /// Who left and is not proven to act no more, sorted: what the next view must say ([`ClusterView::unproven`]). What is said
    /// here may have changed after each view and each message.
    pub fn unproven(&self) -> impl Iterator<Item = NodeInstance> + '_ {
        self.departed.keys().copied()
    }

    /// Number of the newest view; zero before the first.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is(&self, bug: Sabotage) -> bool {
        self.sabotage == Some(bug)
    }

    pub(crate) fn is_proven(&self, instance: NodeInstance) -> bool {
        self.proven.iter().any(|(proven, _)| *proven == instance)
    }

    /// True if nothing of an earlier time of this instance can be in the way: it is dead, or back with nothing.
    pub(crate) fn is_innocent(&self, instance: NodeInstance) -> bool {
        self.is_proven(instance) || self.is_member(instance)
    }

    pub(crate) fn is_member(&self, instance: NodeInstance) -> bool {
        self.members.contains_key(&instance)
    }

    /// True if this node is in the primary and its lease is not in doubt.
    pub(crate) fn acts(&self) -> bool {
        match self.standing {
            Standing::Active => true,
            Standing::Suspended => sabotaged!(self, IgnoreSuspension),
            Standing::Outside => false,
        }
    }
}

impl Layer for Engine {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::View(view) => self.on_view(view),
            Input::NonPrimary => self.on_non_primary(),
            Input::Dormant => self.on_dormant(),
            Input::Suspended => {
                if self.standing == Standing::Active {
                    self.standing = Standing::Suspended;
                }
            }
            Input::Resumed => {
                if self.standing == Standing::Suspended {
                    self.standing = Standing::Active;
                    self.go_on();
                }
            }
            Input::Proven { instance, proof } => self.on_proof(instance, proof),
        }
        self.settle();
        self.finish();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.on_timer(timer);
        }
        self.settle();
        self.work();
    }

    fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.flush();
        }
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.next_task().is_some() {
            return Some(self.now);
        }
        self.timers.first().map(|(at, _)| *at)
    }
}

/// What the hashes of this node's tables begin with: not the same in another life.
#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn seed_of(local: NodeInstance) -> u64 {
    let incarnation = local.incarnation.raw();
    (incarnation >> 64) as u64 ^ (incarnation as u64).rotate_left(17)
}
