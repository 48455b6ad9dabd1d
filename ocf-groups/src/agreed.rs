#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of the layers are open-ended: what concerns neither views nor groups is passed over"
)]

use crate::service::group_service_by;
use crate::{Config, Event, GroupProvider, Groups, Input, Output};
use bytes::Bytes;
use core::fmt;
use ocf_comm::{Channel, Connectivity, Lane, SendError};
use ocf_membership::{
    Consensus, Durability, Event as ViewEvent, Input as ViewInput, Membership, NewError,
    Output as ViewOutput, PersistToken, View, ViewPromises,
};
use pils::{Instant, Layer as _, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Events of node communication taken in one call of [`Membership::process`].
const EVENTS_MAX: usize = 1024;

/// Writes the view record to stable storage before it returns.
pub type WriteRecord = Box<dyn FnMut(&[u8]) -> io::Result<()>>;

/// Membership and groups by the protocols of this project, over any [`Connectivity`]: the UDP node of `ocf_comm`, or its hub in
/// memory. For programs that want these two layers and nothing above; a whole node is `ocf::Node`.
///
/// It decides no even split: with a quorum policy that asks, nobody answers.
///
/// ```
/// use ocf_comm::MemoryHub;
/// use ocf_groups::{AgreedGroups, Config, Event, GroupProvider, GroupService, Guarantee};
/// use ocf_membership::{self as membership, Membership, NodeVotes};
/// use pils::{Incarnation, Instant, NodeId, NodeInstance, Rng};
///
/// let me = NodeInstance::new(NodeId::new(1), Incarnation::new(77));
/// let views = membership::Config {
///     durability: membership::Durability::Volatile,
///     ..membership::Config::new([NodeVotes::new(me.node, 1)])
/// };
/// let below = MemoryHub::default().attach(me)?;
/// let mut now = Instant::ZERO;
/// let mut node = AgreedGroups::volatile(now, views, Config::default(), below, Rng::new(1))?;
/// node.join(now, "chat", 0)?;
/// loop {
///     now = node.poll_timeout().unwrap_or(now).max(now);
///     node.process(now);
///     match node.poll_group_event() {
///         Some(Event::Membership { .. }) => node.send(now, "chat", 0, Guarantee::Safe, "hello".into())?,
///         Some(Event::Message { payload, .. }) => break assert_eq!(payload, "hello"),
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AgreedGroups<C: Connectivity> {
    below: C,
    consensus: Consensus,
    groups: Groups,
    promises: ViewPromises,
    write: Option<WriteRecord>,
    /// What a circuit did not take at once, in order for each peer.
    waiting: BTreeMap<NodeInstance, VecDeque<(Lane, Channel, Bytes)>>,
    primary: bool,
    suspended: bool,
    more: bool,
    now: Instant,
    membership: VecDeque<ViewEvent>,
    events: VecDeque<Event>,
}

impl<C: Connectivity> fmt::Debug for AgreedGroups<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgreedGroups").field("consensus", &self.consensus).finish_non_exhaustive()
    }
}

impl<C: Connectivity> AgreedGroups<C> {
    /// A life of the node that `below` is. `views` must be [`Durability::Volatile`]: nothing is written.
    ///
    /// # Errors
    /// See [`NewError`].
    pub fn volatile(
        now: Instant,
        views: ocf_membership::Config,
        groups: Config,
        below: C,
        rng: Rng,
    ) -> Result<Self, NewError> {
        let consensus = Consensus::new(now, views, below.local(), None, rng)?;
        Ok(Self::on(now, consensus, groups, below))
    }

    /// A life of the node that `below` is, whose views are written by `write`. `record` is what was written last, if anything.
    ///
    /// # Errors
    /// See [`NewError`].
    #[expect(clippy::too_many_arguments, reason = "what two layers are made of")]
    pub fn durable(
        now: Instant,
        views: ocf_membership::Config,
        groups: Config,
        below: C,
        rng: Rng,
        record: Option<&[u8]>,
        write: WriteRecord,
    ) -> Result<Self, NewError> {
        let remembers = views.durability == Durability::Durable;
        let consensus = Consensus::new(now, views, below.local(), record, rng)?;
        let mut provider = Self::on(now, consensus, groups, below);
        provider.promises.remembers = remembers;
        provider.write = Some(write);
        Ok(provider)
    }

    fn on(now: Instant, consensus: Consensus, config: Config, below: C) -> Self {
        let mut promises = ViewPromises::NONE;
        (promises.lease, promises.one_chain) = (true, true);
        (promises.consecutive, promises.excludes_hung) = (true, true);
        Self {
            groups: Groups::new(config, below.local()),
            below,
            consensus,
            promises,
            write: None,
            waiting: BTreeMap::new(),
            primary: false,
            suspended: false,
            more: false,
            now,
            membership: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What it runs on.
    pub const fn below(&self) -> &C {
        &self.below
    }

    /// The agreement, to look at, and to change votes and nodes.
    pub const fn consensus(&mut self) -> &mut Consensus {
        &mut self.consensus
    }

    const fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    const fn groups_ref(&self) -> &Groups {
        &self.groups
    }

    fn settle(&mut self, now: Instant) {
        self.now = now;
        loop {
            if let Some(output) = self.consensus.poll_output() {
                self.on_views(output);
            } else if let Some(output) = self.groups.poll_output() {
                self.on_groups(output);
            } else {
                return;
            }
        }
    }

    fn on_below(&mut self, event: ocf_comm::Event) {
        use ocf_comm::Event as From;
        let now = self.now;
        match event {
            From::Up { peer } => {
                self.flush(peer);
                self.consensus.handle(now, ViewInput::Up(peer));
            }
            From::Down { peer, reason } => {
                if reason.is_final() {
                    self.waiting.remove(&peer);
                }
                self.consensus.handle(now, ViewInput::Down(peer, reason));
            }
            From::Message { from, lane, channel, message } => {
                let bytes = message.len();
                match channel {
                    Channel::MEMBERSHIP => {
                        self.consensus.handle(now, ViewInput::Message { from, message: &message });
                    }
                    Channel::GROUPS => self.groups.handle(now, Input::Message { from, message: &message }),
                    Channel(other) => tracing::debug!(%from, other, "message on an unknown channel dropped"),
                }
                self.below.consumed(from, lane, bytes);
            }
            From::Writable { peer, .. } => self.flush(peer),
            _ => {}
        }
    }

    fn on_views(&mut self, output: ViewOutput) {
        let now = self.now;
        match output {
            ViewOutput::Send { to, lane, message } => self.send_to(to, (lane, Channel::MEMBERSHIP, message)),
            ViewOutput::Persist { token, record } => self.persist(token, &record),
            ViewOutput::Block { ballot } => self.groups.handle(now, Input::Block(ballot)),
            ViewOutput::Flush { ballot, proposal } => {
                self.groups.handle(now, Input::Flush(ballot, &proposal));
            }
            ViewOutput::Event(event) => self.on_view_event(event),
            _ => {}
        }
    }

    fn on_view_event(&mut self, event: ViewEvent) {
        let now = self.now;
        match &event {
            ViewEvent::Installed(view) => {
                (self.primary, self.suspended) = (true, false);
                for (to, queue) in &mut self.waiting {
                    queue.retain(|(_, channel, _)| *channel != Channel::GROUPS || view.contains(*to));
                }
                self.groups.handle(now, Input::Installed(view));
            }
            ViewEvent::NonPrimary(_) => {
                (self.primary, self.suspended) = (false, false);
                self.groups.handle(now, Input::NonPrimary);
            }
            ViewEvent::Suspended => {
                self.suspended = true;
                self.groups.handle(now, Input::Suspended);
            }
            ViewEvent::Resumed => {
                self.suspended = false;
                self.groups.handle(now, Input::Resumed);
            }
            _ => {}
        }
        self.membership.push_back(event);
    }

    fn persist(&mut self, token: PersistToken, record: &[u8]) {
        let written = self.write.as_mut().map_or(Ok(()), |write| write(record));
        let input = match written {
            Ok(()) => ViewInput::Persisted(token),
            Err(error) => {
                tracing::warn!(%error, "the view record was not written: this node steps down");
                ViewInput::PersistFailed(token)
            }
        };
        self.consensus.handle(self.now, input);
    }

    fn on_groups(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Send { to, lane, message } => {
                for peer in to.iter() {
                    self.send_to(*peer, (lane, Channel::GROUPS, message.clone()));
                }
            }
            Output::Blocked(ballot, state) => {
                self.consensus.handle(now, ViewInput::Blocked { ballot, state });
            }
            Output::Flushed(ballot) => self.consensus.handle(now, ViewInput::Flushed { ballot }),
            Output::Evict { instance, lag } => {
                if !self.consensus.evict(now, instance, lag) {
                    tracing::debug!(%instance, "it is to be evicted already, or is no member");
                }
            }
            Output::Synced(number) => self.consensus.handle(now, ViewInput::Synced(number)),
            Output::Event(event) => self.events.push_back(event),
        }
    }

    fn send_to(&mut self, to: NodeInstance, parcel: (Lane, Channel, Bytes)) {
        self.waiting.entry(to).or_default().push_back(parcel);
        self.flush(to);
    }

    /// Sends what waits for a peer, as far as its circuit takes it. A lane that is full does not hold up the others.
    fn flush(&mut self, to: NodeInstance) {
        let Some(queue) = self.waiting.remove(&to) else { return };
        let mut full = [false; Lane::ALL.len()];
        let mut left = VecDeque::new();
        for (lane, channel, message) in queue {
            let full = &mut full[lane as usize];
            if !*full {
                match self.below.send(to, lane, channel, message.clone()) {
                    Ok(()) => continue,
                    Err(SendError::Full { .. } | SendError::Down(_)) => *full = true,
                    Err(error) => {
                        tracing::debug!(%to, %error, "message dropped");
                        continue;
                    }
                }
            }
            left.push_back((lane, channel, message));
        }
        if !left.is_empty() {
            self.waiting.insert(to, left);
        }
    }
}

impl<C: Connectivity> Membership for AgreedGroups<C> {
    fn local(&self) -> NodeInstance {
        self.groups.local()
    }

    fn view_promises(&self) -> ViewPromises {
        self.promises
    }

    fn process(&mut self, now: Instant) {
        self.now = now;
        self.more = true;
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.below.poll_event() else {
                self.more = false;
                break;
            };
            self.on_below(event);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.consensus.poll_timeout()) {
            self.consensus.handle_timeout(now);
        }
        if due(self.groups.poll_timeout()) {
            self.groups.handle_timeout(now);
        }
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.more {
            return Some(self.now);
        }
        self.consensus.poll_timeout().into_iter().chain(self.groups.poll_timeout()).min()
    }

    fn poll_event(&mut self) -> Option<ViewEvent> {
        self.membership.pop_front()
    }

    fn view(&self) -> Option<&View> {
        self.groups.view()
    }

    fn is_primary(&self) -> bool {
        self.primary && !self.suspended
    }
}

group_service_by!(C: Connectivity; AgreedGroups<C>);

impl<C: Connectivity> GroupProvider for AgreedGroups<C> {
    fn poll_group_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
