use crate::flush::Plan;
use crate::stats::{Sending, Stats, Window};
use crate::stream::Stream;
use crate::table::{Status, Table};
use crate::wire::Item;
use crate::{
    Config, GROUP_NAME_MAX, Guarantee, Input, JoinError, LeaveError, MemberId, OfferError, Output, Position,
    SendError,
};
use bytes::{Bytes, BytesMut};
use lag::Lags;
use local::{Gates, Phase};
use ocf_membership::{Ballot, View};
use pils::buffer::Recycler;
use pils::{Instant, Layer, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use transfer::{Incoming, Outgoing};

/// From this level on all members understand FIFO messages.
const FIFO_LEVEL: u32 = 2;

mod change;
mod elsewhere;
mod lag;
mod local;
mod receive;
mod transfer;
mod turn;

/// Process groups on one ordered stream: a sans-IO [`Layer`].
///
/// Below it are circuits: reliable, FIFO in each lane, broken only by the death of an incarnation. Beside it is
/// membership. Requests and inputs only change memory; the batch for the peers is closed when
/// [`poll_output`](Layer::poll_output) has nothing else to return, so a caller that handles several inputs before it
/// polls gets larger batches.
///
/// ```
/// use bytes::Bytes;
/// use ocf_groups::{Config, Event, Groups, Guarantee, Input, Output};
/// use ocf_membership::{Ballot, Member, View, ViewNumber};
/// use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
///
/// let me = NodeInstance::new(NodeId::new(1), Incarnation::new(77));
/// let member = Member { instance: me, joined: ViewNumber(1), votes: 1 };
/// let view = View {
///     number: ViewNumber(1),
///     ballot: Ballot { round: 1, proposer: me },
///     members: vec![member],
///     previous: vec![],
///     causes: vec![],
///     quorum: 1,
///     level: 1,
///     unproven: vec![],
/// };
/// let mut groups = Groups::new(Config::default(), me);
/// groups.handle(Instant::ZERO, Input::Installed(&view));
/// groups.join(Instant::ZERO, "chat", 0)?;
/// while groups.poll_output().is_some() {}
/// groups.send(Instant::ZERO, "chat", 0, Guarantee::Safe, Bytes::from_static(b"hello"))?;
/// let Some(Output::Event(Event::Message { payload, .. })) = groups.poll_output() else { panic!() };
/// assert_eq!(payload, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Groups {
    config: Config,
    local: NodeInstance,
    now: Instant,
    view: Option<View>,
    /// Inside the primary partition, as far as membership said.
    primary: bool,
    suspended: bool,
    /// The application cannot keep up: nothing is delivered outside a flush.
    on_hold: bool,
    /// A view change is under way; its latest ballot.
    blocked: Option<Ballot>,
    /// Of the view installed last.
    stream: Option<Stream>,
    /// Somebody else makes the order: the place that was delivered last. There is no stream then.
    elsewhere: Option<Position>,
    sync: Sync,
    /// Proposals for the next view, latest last.
    plans: Vec<Plan>,
    table: Table,
    locals: BTreeMap<Arc<str>, BTreeMap<u32, Phase>>,
    /// Local members that wait for the state of their group.
    unstated: BTreeSet<(u32, u32)>,
    gates: BTreeMap<u32, Gates>,
    /// States on their way to members that live here: group, local member.
    incoming: BTreeMap<(u32, u32), Incoming>,
    /// States that this node gives, of more than one message: group, joiner.
    outgoing: BTreeMap<(u32, MemberId), Outgoing>,
    /// When to cut more of them.
    cut_at: Option<Instant>,
    /// Own items that have no place in this node's sequence yet.
    queue: VecDeque<Item>,
    /// Cost of own items that are queued or not consumed by every member.
    own_bytes: usize,
    /// Own items delivered here and not consumed by every member: place in the order, cost.
    ledger: VecDeque<(u64, usize)>,
    /// A send was refused.
    full: bool,
    /// So much waits to be sent to this peer that own items stay in the queue.
    crowded: Option<NodeInstance>,
    /// Who holds up this node.
    lags: Lags,
    /// Counts what happened to the members that live here.
    locals_version: u64,
    /// Items here without gap that have no stamp yet, in order of arrival (sequencer only).
    to_stamp: VecDeque<(u32, u64)>,
    batch: BytesMut,
    /// Of batches that were sent.
    memory: Recycler,
    /// Last report of (held, consumed).
    reported: (u64, u64),
    report_at: Option<Instant>,
    report_now: bool,
    /// When to ask again for what a flush misses.
    fetch_at: Option<Instant>,
    early: VecDeque<(NodeInstance, Bytes)>,
    early_bytes: usize,
    sends: VecDeque<Output>,
    outputs: VecDeque<Output>,
    /// Something changed since the last turn.
    dirty: bool,
    stats: Stats,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

/// Whether this node has the table of groups of its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Synced,
    /// It is on its way; the ordered stream waits.
    Waiting,
    /// It cannot come before the next view; the ordered stream is passed over.
    Lost,
}

/// A bug put back, to prove that the checkers find it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Delivers safe messages as if they were agreed.
    SafeWithoutQuorum,
    /// Answers a flush as soon as the stamps are here, whatever messages are missing.
    SkipFetch,
    /// Frees a message when it is delivered here, whoever else holds it.
    FreeOnOwnDelivery,
    /// Puts a member's messages in the order of their arrival over all lanes.
    IgnoreSequence,
    /// Leaves the view change's own unordered messages behind.
    ForgetUnordered,
    /// Lets the stream of a group go on before the state has come.
    OpenGates,
    /// Leaves FIFO messages that a member delivered before a view change to that member.
    ForgetAhead,
    /// Drops what was delivered and not told when the node was outside, though it goes on.
    ForgetUntold,
    /// Begins a state anew when its donor is lost.
    ForgetPieces,
    /// Counts the time of a member that holds up the others on, though it has caught up.
    Unforgiving,
    /// In partitions, tells what is left at the end of a view as safe, though others may not hold it.
    SafeAtTheEnd,
    /// Takes pieces of a state for the same if they stand at the same place.
    BlindPieces,
    /// Tells what a state is made of at a level whose builds do not know that message.
    IndexAnyway,
}

impl Groups {
    /// A core that has seen no view. Until it has, joins are kept and sends refused.
    #[must_use]
    pub fn new(config: Config, local: NodeInstance) -> Self {
        let table = Table::new(&config, local);
        let batch = config.batch.saturating_mul(2);
        Self {
            config,
            local,
            now: Instant::ZERO,
            view: None,
            primary: false,
            suspended: false,
            on_hold: false,
            blocked: None,
            stream: None,
            elsewhere: None,
            sync: Sync::Waiting,
            plans: Vec::new(),
            table,
            locals: BTreeMap::new(),
            unstated: BTreeSet::new(),
            gates: BTreeMap::new(),
            incoming: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            cut_at: None,
            queue: VecDeque::new(),
            own_bytes: 0,
            ledger: VecDeque::new(),
            full: false,
            crowded: None,
            lags: Lags::default(),
            locals_version: 0,
            to_stamp: VecDeque::new(),
            batch: BytesMut::new(),
            memory: Recycler::new(batch, 32),
            reported: (0, 0),
            report_at: None,
            report_now: false,
            fetch_at: None,
            early: VecDeque::new(),
            early_bytes: 0,
            sends: VecDeque::new(),
            outputs: VecDeque::new(),
            dirty: false,
            stats: Stats::default(),
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// Joins a group, and creates it if nobody is in it. Allowed at any time: it becomes effective at an
    /// [`Event::Membership`](crate::Event::Membership) that names the member, once this node is in the primary
    /// partition. `local` tells the members of this node apart.
    ///
    /// # Errors
    /// See [`JoinError`]; nothing changed.
    pub fn join(&mut self, now: Instant, group: &str, local: u32) -> Result<MemberId, JoinError> {
        if group.is_empty() || group.len() > GROUP_NAME_MAX {
            return Err(JoinError::Name(group.len()));
        }
        if self.phase(group, local).is_some() {
            return Err(JoinError::AlreadyMember { group: Arc::from(group), local });
        }
        let members: usize = self.locals.values().map(BTreeMap::len).sum();
        if members >= self.config.members_max {
            return Err(JoinError::TooManyMembers(members));
        }
        self.now = now;
        let sent = self.sync == Sync::Synced;
        let name: Arc<str> = Arc::from(group);
        if sent {
            self.enqueue(Item::Join { local, name: Arc::clone(&name) });
        }
        self.locals.entry(name).or_default().insert(local, Phase::Joining { sent });
        Ok(MemberId { instance: self.local, local })
    }

    /// Leaves a group. Nothing is delivered to it after the [`Event::Membership`](crate::Event::Membership) that says
    /// so; a join that was not sent yet is taken back without an event ([`Groups::is_local`] is false then).
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing changed.
    pub fn leave(&mut self, now: Instant, group: &str, local: u32) -> Result<(), LeaveError> {
        let name = || Arc::from(group);
        match self.phase(group, local) {
            None | Some(Phase::Leaving) => return Err(LeaveError::NotMember(name())),
            Some(Phase::Joining { sent: false }) => self.forget_local(group, local),
            Some(Phase::Joining { sent: true } | Phase::Member { .. }) => {
                self.set_phase(group, local, Phase::Leaving);
                self.enqueue(Item::Leave { local, name: name() });
            }
        }
        self.now = now;
        Ok(())
    }

    /// Sends to all members of a group, the sender included. During a view change the message is queued and ordered in
    /// the next view. If this node is excluded before the message is ordered, it is lost, and the members get
    /// [`Event::Reset`](crate::Event::Reset).
    ///
    /// `payload` is not copied here; it is kept until every member has consumed the message.
    ///
    /// # Errors
    /// See [`SendError`]; nothing changed. After [`SendError::Full`], [`Event::Writable`](crate::Event::Writable) says
    /// when half of the window is free; then one message of any size is accepted.
    #[expect(
        clippy::too_many_arguments,
        reason = "the contract of the request: time, from whom, to whom, what"
    )]
    pub fn send(
        &mut self,
        now: Instant,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), SendError> {
        if !self.primary {
            return Err(SendError::NotPrimary);
        }
        let Some(Phase::Member { group: number }) = self.phase(group, local) else {
            return Err(SendError::NotMember(Arc::from(group)));
        };
        if guarantee > self.promised().strongest {
            return Err(SendError::NotOffered(guarantee));
        }
        if payload.len() > self.config.message_max {
            return Err(SendError::TooLarge { size: payload.len(), limit: self.config.message_max });
        }
        let window = self.window();
        if !window.admits(payload.len()) {
            self.full = true;
            return Err(SendError::Full { queued: window.used, limit: window.limit });
        }
        self.now = now;
        let guarantee = self.understood(guarantee);
        self.enqueue(Item::Data { group: number, local, guarantee, payload });
        Ok(())
    }

    /// What a caller on another thread must know to decide, without this core at hand, whether a message may be sent:
    /// then it keeps the message and gives it to [`Groups::admit`] soon.
    #[must_use]
    pub fn sending(&self) -> Sending {
        let placed = self.stream.as_ref().map_or(0, |s| s.own_undelivered());
        let undelivered = self.queue.len().saturating_add(usize::try_from(placed).unwrap_or(usize::MAX));
        Sending {
            primary: self.primary,
            window: self.window(),
            message_max: self.config.message_max,
            undelivered,
            version: self.locals_version,
        }
    }

    /// The members of this node that may send: group and local number, sorted. Changes only if
    /// [`Sending::version`] does.
    pub fn senders(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        let is_member = |phase: &Phase| matches!(phase, Phase::Member { .. });
        self.locals.iter().flat_map(move |(name, members)| {
            members.iter().filter(move |(_, phase)| is_member(phase)).map(move |(local, _)| (name, *local))
        })
    }

    /// Takes a message that was accepted on the word of [`Groups::sending`] a moment ago, so that it is not refused
    /// because something changed since: outside the primary partition it waits for the next view as any queued message
    /// does. False if the member is in the group no more; the message is dropped, as if sent before the member left.
    #[expect(
        clippy::too_many_arguments,
        reason = "the contract of the request: time, from whom, to whom, what"
    )]
    pub fn admit(
        &mut self,
        now: Instant,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> bool {
        let Some(Phase::Member { group: number }) = self.phase(group, local) else { return false };
        self.now = now;
        let guarantee = self.understood(guarantee);
        self.enqueue(Item::Data { group: number, local, guarantee, payload });
        true
    }

    /// What all members of the view understand: at the level of older builds a FIFO message is an agreed one.
    fn understood(&self, guarantee: Guarantee) -> Guarantee {
        let fifo = self.view.as_ref().is_some_and(|view| view.level >= FIFO_LEVEL);
        if guarantee == Guarantee::Fifo && !fifo { Guarantee::Agreed } else { guarantee }
    }

    /// A message was refused on the word of [`Groups::sending`] because the window is full:
    /// [`Event::Writable`](crate::Event::Writable) will say when half of it is free.
    pub const fn note_full(&mut self, now: Instant) {
        self.now = now;
        self.full = true;
        self.dirty = true;
    }

    /// Says to which peer most bytes wait in the small lane to be sent for the first time, and how many; none if no peer answers: who does not
    /// answer counts as little as who is down. After each [`Output::Send`] in that lane, and, while [`Self::is_crowded`], when something was
    /// sent.
    pub fn note_backlog(&mut self, now: Instant, most: Option<(NodeInstance, usize)>) {
        let limit = if self.is_crowded() { self.config.backlog / 2 } else { self.config.backlog };
        let crowded = most.filter(|(_, bytes)| *bytes > limit).map(|(peer, _)| peer);
        if self.is_crowded() && crowded.is_none() {
            self.now = now;
            self.dirty = true;
        }
        self.crowded = crowded;
    }

    /// True while own messages wait for others to be sent.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.crowded.is_some()
    }

    /// Stops or resumes handing out messages, for an application that cannot keep up. What is not handed out does not
    /// count as consumed, so every sender's window closes in time. A view change delivers what it must all the same.
    pub const fn hold(&mut self, now: Instant, hold: bool) {
        self.now = now;
        self.on_hold = hold;
        self.dirty = true;
    }

    /// Answers [`Event::StateWanted`](crate::Event::StateWanted) with the state as of that event.
    ///
    /// # Errors
    /// See [`OfferError`]; nothing changed. [`OfferError::NotWanted`] is no fault of the caller: the joiner may be gone
    /// by now, or another event may follow that asks for a later state.
    #[expect(
        clippy::too_many_arguments,
        reason = "the contract of the request: time, for whom, as of when, what"
    )]
    pub fn offer_state(
        &mut self,
        now: Instant,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), OfferError> {
        if state.len() > self.config.state_max {
            return Err(OfferError::TooLarge { size: state.len(), limit: self.config.state_max });
        }
        let Some(number) = self.wanted_from_here(group, joiner, position) else {
            return Err(OfferError::NotWanted { group: Arc::from(group), position });
        };
        self.now = now;
        self.offer(number, joiner, position, state);
        Ok(())
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The view installed last, also while outside the primary partition.
    #[must_use]
    pub const fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// True if this node is in the primary partition and has the table of groups.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.primary && self.sync == Sync::Synced
    }

    /// Members of a group, most senior first, as of the last position delivered here; empty if there is no such group.
    #[must_use]
    pub fn members(&self, group: &str) -> Vec<MemberId> {
        self.table.named(group).map(|(_, g)| g.members.iter().map(|e| e.id).collect()).unwrap_or_default()
    }

    /// Which member was asked for the state that this joiner needs as of this position; `None` if another state is wanted by now.
    #[must_use]
    pub fn donor(&self, group: &str, joiner: MemberId, position: Position) -> Option<MemberId> {
        let (_, group) = self.table.named(group)?;
        match group.entry(joiner)?.status {
            Status::Pending { donor, position: asked } if asked == position => Some(donor),
            Status::Pending { .. } | Status::Ready | Status::Orphan | Status::Denied => None,
        }
    }

    /// True if that member of this node is in the group, or on its way into or out of it.
    #[must_use]
    pub fn is_local(&self, group: &str, local: u32) -> bool {
        self.phase(group, local).is_some()
    }

    /// Names of all groups of the cluster, sorted.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.table.names().map(|n| &**n)
    }

    /// How full the window of this node is.
    #[must_use]
    pub const fn window(&self) -> Window {
        Window { used: self.own_bytes, limit: self.config.window }
    }

    /// Last position delivered here.
    #[must_use]
    pub fn position(&self) -> Position {
        let of_stream = |s: &Stream| Position { view: s.number, sequence: s.delivered };
        self.elsewhere.or_else(|| self.stream.as_ref().map(of_stream)).unwrap_or_default()
    }

    /// How much of the order of the current view this node holds without gap, and how much of it was freed because
    /// every member holds it. For tests of the latter.
    #[must_use]
    pub fn held_and_freed(&self) -> (u64, u64) {
        self.stream.as_ref().map_or((0, 0), |s| (s.held, s.freed))
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    /// Checks what must hold between calls; for tests and simulators. O(everything).
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn check_invariants(&self) -> Result<(), &'static str> {
        if let Some(stream) = &self.stream {
            stream.check()?;
        }
        self.table.check()?;
        let queued: usize = self.queue.iter().map(Item::cost).sum();
        if queued > self.own_bytes {
            return Err("queued messages count against the window");
        }
        if self.own_bytes > self.config.window.saturating_add(self.config.message_max).saturating_add(1 << 20)
        {
            return Err("the window bounds one's own messages");
        }
        if self.early_bytes > self.config.early_max || self.incoming.len() > self.config.transfers_max {
            return Err("what waits is bounded");
        }
        if !self.incoming.values().all(|incoming| incoming.is_bounded(self.config.state_max)) {
            return Err("what is kept of states on their way is bounded");
        }
        if self.cut_at.is_some() != self.is_cutting() {
            return Err("a timer for cutting states runs while there is one to cut");
        }
        Ok(())
    }

    /// Nothing is taken in, ordered or delivered.
    const fn is_frozen(&self) -> bool {
        !self.primary || self.blocked.is_some()
    }

    fn enqueue(&mut self, item: Item) {
        self.own_bytes += item.cost();
        self.queue.push_back(item);
        self.dirty = true;
    }

    #[cfg(feature = "testing")]
    fn is(&self, bug: Sabotage) -> bool {
        self.sabotage == Some(bug)
    }
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($groups:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $groups.is(crate::groups::Sabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}
use sabotaged;

impl Layer for Groups {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::Block(ballot) => self.on_block(ballot),
            Input::Flush(ballot, proposal) => self.on_flush(ballot, proposal),
            Input::Installed(view) => self.on_installed(view),
            Input::NonPrimary => self.on_non_primary(),
            Input::Suspended => self.suspended = true,
            Input::Resumed => {
                self.suspended = false;
                self.dirty = true;
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = None;
            self.report_now = true;
            self.dirty = true;
        }
        if self.lags.due.is_some_and(|at| at <= now) {
            self.check_lags();
        }
        if self.cut_at.is_some_and(|at| at <= now) {
            self.cut_slice();
        }
        if self.fetch_at.is_some_and(|at| at <= now) {
            self.fetch_at = None;
            self.retry_flush();
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.sends.pop_front().or_else(|| self.next_output()) {
                return Some(output);
            }
            if !self.dirty {
                return None;
            }
            self.turn();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.report_at, self.fetch_at, self.cut_at, self.lags.due].into_iter().flatten().min()
    }
}
