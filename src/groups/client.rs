//! Groups for a program beside a node: it connects to the node of its machine, which is a member for it.

use super::member::{Members, check_name};
use super::wire::{self, Packer, SAY, SERVICE, Told, Unpacker};
use crate::Standing;
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use ocf_comm::local::{Address, CallFailure, Client, ClientError, ClientEvent};
use ocf_comm::rpc::Body;
use ocf_groups::{
    Event, GroupPromises, Guarantee, JoinError, LeaveError, MemberId, OfferError, Position, SendError, Window,
};
use ocf_membership::View;
use parking_lot::{Mutex, MutexGuard};
use pils::NodeInstance;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// How long a node may take to answer a greeting or a join.
const ANSWER: Duration = Duration::from_secs(10);
/// The node is told what was taken when it is so much, or after a while.
const TOOK: usize = 256 << 10;
const TOOK_WITHIN: Duration = Duration::from_millis(250);

/// Groups of a program beside a node, as [`Node`](crate::Node) has them for the program that the node is in.
///
/// It connects to the socket that the node's configuration names (`[api] local`); the kernel tells the node who that is, and
/// `[[api.groups]]` says which users and groups may join which groups of messages. `docs/groups.md` has the rules.
///
/// Everything is done in the threads that call: there is none beside them. Any thread may call, also while another waits for an
/// event. A cheap clone is the same program; when the last is dropped its members leave, and so they do if the program ends in any other way.
///
/// ```no_run
/// use ocf::{GroupClient, GroupNews};
/// use ocf_groups::{Event, Guarantee};
/// use std::time::Duration;
///
/// let client = GroupClient::connect("/run/ocf/api", "chat")?;
/// let me = client.join("chat")?;
/// while let Some(news) = client.next_event(Duration::from_secs(10)) {
///     match news {
///         GroupNews::Group(Event::Membership { members, joined, .. }) if joined.contains(&me) => {
///             println!("{} are here", members.len());
///             client.send("chat", me.local, Guarantee::Agreed, b"hello")?;
///         }
///         GroupNews::Group(Event::Message { sender, payload, .. }) => println!("{sender:?}: {payload:?}"),
///         GroupNews::Group(Event::StateWanted { group, joiner, position }) => {
///             client.offer_state(&group, joiner, position, b"what has been said")?;
///         }
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct GroupClient(Arc<Shared>);

/// What a program hears of its groups, in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupNews {
    /// A view, or something in a group in which the program has a member.
    Group(Event),
    /// The node is outside of the primary partition, until the next view.
    NonPrimary,
    /// The lease is in doubt: do nothing that others must not do at the same time.
    Suspended,
    /// The lease is confirmed again.
    Resumed,
}

/// Why a request did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError<E> {
    /// The connection has ended, and every membership with it.
    #[error(transparent)]
    Ended(ClientError),
    /// The node does not allow it, and says why.
    #[error("{0}")]
    Denied(String),
    /// Refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] E),
}

struct Shared {
    state: Mutex<State>,
    /// The same as the client's, to wait for without the lock.
    socket: OwnedFd,
    /// Wakes who waits for the socket, to write as well.
    bell: OwnedFd,
    node: NodeInstance,
    /// The process that connected.
    process: u32,
}

struct State {
    client: Client,
    unpacker: Unpacker<Told>,
    nodes: Vec<NodeInstance>,
    /// Names of groups by their numbers.
    names: BTreeMap<u32, Arc<str>>,
    waiting: VecDeque<Waiting>,
    members: Members,
    standing: Standing,
    packer: Packer,
    message_max: usize,
    state_max: usize,
    /// What is on its way to the node.
    window: Window,
    full: bool,
    /// Bytes of events that were taken, and when the node was last told.
    took: usize,
    told: Instant,
    /// Threads that wait for the socket.
    sleeping: usize,
    ended: Option<ClientError>,
}

/// What waits to be taken.
enum Waiting {
    News(GroupNews),
    /// A join was taken back.
    Gone(Arc<str>, u32),
}

impl fmt::Debug for GroupClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupClient").field("node", &self.node()).field("ended", &self.ended()).finish()
    }
}

impl GroupClient {
    /// Connects to the node that listens there (a path, or `@` and an abstract name), as a program that calls itself `name`,
    /// which need not be unique. Waits at most 10 s for the node to greet.
    ///
    /// # Errors
    /// [`ClientError`]: nobody listens, it is no node, this user may not connect, or the system has no descriptor left.
    pub fn connect(address: &str, name: &str) -> Result<Self, ClientError> {
        let system = |error: &dyn fmt::Display| ClientError::System(error.to_string());
        let mut client = Client::connect(&Address::from(address), name)?;
        let node = client.node().ok_or_else(|| ClientError::Broken("no node serves here".to_owned()))?;
        let greeting = match client.call_wait(SERVICE, "hello", Body::default(), ANSWER) {
            Ok(body) => body.read::<wire::Welcome>(),
            Err(CallFailure::Fault(fault)) => return Err(ClientError::Refused(fault.text)),
            Err(CallFailure::Client(error)) => return Err(error),
        };
        let welcome = greeting.map_err(|fault| ClientError::Broken(fault.text))?;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let socket = client.as_fd().try_clone_to_owned()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| system(&e))?;
        let state = State {
            client,
            unpacker: Unpacker::default(),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            waiting: VecDeque::new(),
            members: Members::new(node),
            standing: Standing::NonPrimary,
            packer: Packer::default(),
            message_max: size(welcome.message_max),
            state_max: size(welcome.state_max),
            window: Window { used: 0, limit: size(welcome.window) },
            full: false,
            took: 0,
            told: Instant::now(),
            sleeping: 0,
            ended: None,
        };
        let process = std::process::id();
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), socket, bell, node, process })))
    }

    /// The node that is a member for this program.
    #[must_use]
    pub fn node(&self) -> NodeInstance {
        self.0.node
    }

    /// Why the connection ended, and every membership with it; `None` while it is there. What was told before can still be taken.
    #[must_use]
    pub fn ended(&self) -> Option<ClientError> {
        self.0.state.lock().ended.clone()
    }

    /// Where the node stands, as far as the program has taken its events.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.0.state.lock().standing
    }

    /// The view that the program took last, also while the node is outside of the primary partition.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        self.0.state.lock().members.view.clone()
    }

    /// What can be relied upon.
    #[must_use]
    pub fn promises(&self) -> GroupPromises {
        let state = self.0.state.lock();
        GroupPromises::whole(state.message_max, state.state_max)
    }

    /// Members of a group in which this program has one, most senior first, as of the last event taken.
    #[must_use]
    pub fn members(&self, group: &str) -> Vec<MemberId> {
        self.0.state.lock().members.of(group)
    }

    /// True if that member of this program is in the group, or on its way into or out of it.
    #[must_use]
    pub fn is_local(&self, group: &str, local: u32) -> bool {
        self.0.state.lock().members.is_local(group, local)
    }

    /// Joins a group, and creates it if nobody is in it, as one more member. Effective at the `Membership` event that names it.
    /// Waits for the node to give it a number, not for the group.
    ///
    /// # Errors
    /// See [`JoinError`]; [`GroupError::Denied`] if this user may not join the group.
    pub fn join(&self, group: &str) -> Result<MemberId, GroupError<JoinError>> {
        check_name(group)?;
        let mut state = self.alive()?;
        let body = Body::Value(group.into());
        let answer = match state.client.call_wait(SERVICE, "join", body, ANSWER) {
            Ok(body) => body.read::<wire::Joined>(),
            Err(CallFailure::Fault(fault)) => return Err(GroupError::Denied(fault.text)),
            // It may have joined, or not.
            Err(CallFailure::Client(error)) => return Err(GroupError::Ended(state.end(error))),
        };
        let joined = answer.map_err(|fault| GroupError::Ended(state.end(ClientError::Broken(fault.text))))?;
        if let Some(most) = joined.too_many {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            return Err(JoinError::TooManyMembers(most).into());
        }
        let name: Arc<str> = Arc::from(group);
        state.members.joining((&name, joined.group), joined.local);
        state.names.insert(joined.group, name);
        Ok(MemberId { instance: self.0.node, local: joined.local })
    }

    /// Leaves a group, behind what was sent before. Nothing is told of the group after the `Membership` event that says so, unless
    /// another member of this program is in it. A join that was not effective may be taken back without an event;
    /// [`GroupClient::is_local`] is false then, once all that came before was taken.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub fn leave(&self, group: &str, local: u32) -> Result<(), GroupError<LeaveError>> {
        let mut state = self.alive()?;
        let life = state.members.leave(group, local)?;
        state.packer.leave((local, life));
        self.say(state).map_err(GroupError::Ended)
    }

    /// Sends to all members of a group, this one included. Never waits: a full window is an error, and a `Writable` event follows
    /// when there is room.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(
        &self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: &[u8],
    ) -> Result<(), GroupError<SendError>> {
        let mut state = self.alive()?;
        let life = state.sender(group, local)?;
        state.admit(payload.len())?;
        state.packer.send((local, life), guarantee, payload);
        self.say(state).map_err(GroupError::Ended)
    }

    /// As [`GroupClient::send`], for many messages at the cost of one: takes them from the front of `payloads` as far as the window
    /// goes, and leaves the rest. On success at least one was taken, if there was one.
    ///
    /// # Errors
    /// As [`GroupClient::send`], if not even the first is accepted.
    pub fn send_all(
        &self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payloads: &mut VecDeque<Bytes>,
    ) -> Result<(), GroupError<SendError>> {
        let mut state = self.alive()?;
        let life = state.sender(group, local)?;
        let mut first = true;
        while let Some(payload) = payloads.front() {
            match state.admit(payload.len()) {
                Ok(()) => {}
                Err(refused) if first => return Err(refused.into()),
                Err(_) => break,
            }
            first = false;
            state.packer.send((local, life), guarantee, payload);
            payloads.pop_front();
        }
        self.say(state).map_err(GroupError::Ended)
    }

    /// Answers a `StateWanted` event, with the state as of that event. That the joiner is gone meanwhile is no error.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_state(
        &self,
        group: &str,
        joiner: MemberId,
        position: Position,
        content: &[u8],
    ) -> Result<(), GroupError<OfferError>> {
        let mut state = self.alive()?;
        let limit = state.state_max;
        if content.len() > limit {
            return Err(OfferError::TooLarge { size: content.len(), limit }.into());
        }
        let number = state.members.answer(group, joiner, position)?;
        state.packer.offer(number, joiner, position, content);
        self.say(state).map_err(GroupError::Ended)
    }

    /// The next event, waiting for it at most so long. `None` if there was none, or if the connection has ended and every event was
    /// taken. Each is given once, to one of the threads that ask.
    #[must_use]
    pub fn next_event(&self, wait: Duration) -> Option<GroupNews> {
        let mut state = self.wait(wait);
        let news = state.take();
        self.account(state);
        news
    }

    /// Appends every event that waits to `events`, waiting for the first at most so long, and tells how many there were.
    pub fn next_events(&self, wait: Duration, events: &mut VecDeque<GroupNews>) -> usize {
        let mut state = self.wait(wait);
        let mut count = 0;
        while let Some(news) = state.take() {
            events.push_back(news);
            count += 1;
        }
        self.account(state);
        count
    }

    /// True while something waits to be written: then wait until [`AsFd`] is writable as well as readable, and ask for an event.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.0.state.lock().client.wants_write()
    }

    fn alive<E>(&self) -> Result<MutexGuard<'_, State>, GroupError<E>> {
        let state = self.0.state.lock();
        let ended = state.ended.clone();
        let forked = self.0.process != std::process::id();
        match ended.or_else(|| forked.then_some(ClientError::Closed)) {
            Some(why) => Err(GroupError::Ended(why)),
            None => Ok(state),
        }
    }

    /// Writes what was packed, as far as the socket takes it.
    fn say(&self, mut state: MutexGuard<'_, State>) -> Result<(), ClientError> {
        state.say()?;
        if state.sleeping > 0 && state.client.wants_write() {
            drop(state);
            self.ring();
        }
        Ok(())
    }

    fn ring(&self) {
        // A counter that is full rings as well.
        if let Err(error) = rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes()) {
            tracing::trace!(%error, "the bell rings already");
        }
    }

    /// Waits until something can be taken, at most so long.
    fn wait(&self, wait: Duration) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock();
        if !state.waiting.is_empty() {
            return state;
        }
        state.absorb();
        let until = Instant::now().checked_add(wait);
        while state.waiting.is_empty() && state.ended.is_none() && !wait.is_zero() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            state.sleeping += 1;
            let flags =
                if state.client.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let failed = MutexGuard::unlocked(&mut state, || self.sleep(flags, left));
            state.sleeping -= 1;
            match failed {
                Some(error) => drop(state.end(error)),
                None => state.absorb(),
            }
        }
        state
    }

    /// Sleeps until the socket has something, or the bell rings.
    fn sleep(&self, flags: PollFlags, left: Option<Duration>) -> Option<ClientError> {
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut fds = [PollFd::new(&self.0.socket, flags), PollFd::new(&self.0.bell, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Some(ClientError::System(error.to_string())),
        }
        if !fds[1].revents().is_empty() {
            let mut count = [0; 8];
            if rustix::io::read(&self.0.bell, &mut count).is_err() {
                tracing::trace!("another thread heard the bell");
            }
        }
        None
    }

    /// Tells the node what was taken, if it is much or some time ago.
    fn account(&self, mut state: MutexGuard<'_, State>) {
        if state.ended.is_some() || !state.is_to_tell() {
            return;
        }
        let took = core::mem::take(&mut state.took);
        state.told = Instant::now();
        state.packer.took(took);
        // That it has ended is told by the next call.
        if let Err(error) = self.say(state) {
            tracing::debug!(%error, "nobody hears what was taken");
        }
    }
}

impl AsFd for GroupClient {
    /// Readable when an event may wait. Take events until there is none before waiting again.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl State {
    /// The connection ends here. Returns why it ended first.
    fn end(&mut self, why: ClientError) -> ClientError {
        self.ended.get_or_insert(why).clone()
    }

    fn sender(&self, group: &str, local: u32) -> Result<u64, SendError> {
        if self.standing == Standing::NonPrimary {
            return Err(SendError::NotPrimary);
        }
        self.members.sender(group, local)
    }

    /// Counts a message with this much payload, if it may be sent.
    fn admit(&mut self, payload: usize) -> Result<(), SendError> {
        if payload > self.message_max {
            return Err(SendError::TooLarge { size: payload, limit: self.message_max });
        }
        if !self.window.admits(payload) {
            // The node may have said that there is room.
            self.absorb();
        }
        if !self.window.admits(payload) {
            self.full = true;
            let Window { used, limit } = self.window;
            return Err(SendError::Full { queued: used, limit });
        }
        self.window.used += Window::cost(payload);
        Ok(())
    }

    fn say(&mut self) -> Result<(), ClientError> {
        self.packer.finish();
        while let Some(frame) = self.packer.next_full() {
            if let Err(error) = self.client.tell_bounded(SERVICE, SAY, Body::Bytes(frame)) {
                return Err(self.end(error));
            }
        }
        Ok(())
    }

    fn is_to_tell(&self) -> bool {
        self.took >= TOOK || self.took > 0 && self.told.elapsed() >= TOOK_WITHIN
    }

    /// Reads what the node says, and writes what did not fit.
    fn absorb(&mut self) {
        if self.ended.is_some() {
            return;
        }
        loop {
            let processed = self.client.process();
            let mut any = false;
            while let Some(event) = self.client.poll_event() {
                any = true;
                let ClientEvent::Service { service, body } = event else { continue };
                match body {
                    Body::Bytes(frame) if service == SERVICE => {
                        if let Err(broken) = self.hear(&frame) {
                            self.end(ClientError::Broken(broken.to_string()));
                            return;
                        }
                    }
                    Body::Value(value) if service == SERVICE => self.credit(wire::read_credit(value)),
                    Body::Bytes(_) | Body::Value(_) => {}
                }
            }
            if let Err(error) = processed {
                self.end(error);
                return;
            }
            // What was read and not taken yet is not seen at the socket.
            if !any {
                return;
            }
        }
    }

    /// The node has handed in so much.
    fn credit(&mut self, bytes: Option<usize>) {
        self.window.used = self.window.used.saturating_sub(bytes.unwrap_or(0));
        if self.full && self.window.used <= self.window.limit / 2 {
            self.full = false;
            self.waiting.push_back(Waiting::News(GroupNews::Group(Event::Writable)));
        }
    }

    fn hear(&mut self, frame: &Bytes) -> Result<(), pils::wire::ParseError> {
        let Self { unpacker, nodes, names, waiting, message_max, state_max, .. } = self;
        let most = |told: &Told| if matches!(told, Told::State { .. }) { *state_max } else { *message_max };
        let name = |number: &u32| names.get(number).cloned();
        unpacker.feed(
            frame,
            |r| Told::read(r, nodes),
            most,
            |told, payload| {
                if let Told::Gone { group, local } = told {
                    waiting.extend(name(&group).map(|group| Waiting::Gone(group, local)));
                } else {
                    waiting.extend(news(told, payload, name).map(Waiting::News));
                }
            },
        )
    }

    /// The next event, as the program takes it.
    fn take(&mut self) -> Option<GroupNews> {
        loop {
            let news = match self.waiting.pop_front()? {
                Waiting::News(news) => news,
                Waiting::Gone(group, local) => {
                    self.members.gone(&group, local);
                    continue;
                }
            };
            match &news {
                GroupNews::NonPrimary => self.standing = Standing::NonPrimary,
                GroupNews::Suspended => self.standing = Standing::Suspended,
                GroupNews::Resumed => self.standing = Standing::Primary,
                GroupNews::Group(event) => {
                    if matches!(event, Event::View(_)) {
                        self.standing = Standing::Primary;
                    }
                    if !matches!(event, Event::Writable) {
                        self.took += wire::cost(event);
                    }
                    self.members.take(event);
                }
            }
            return Some(news);
        }
    }
}

/// What a program is told as an event.
fn news(told: Told, payload: Bytes, name: impl Fn(&u32) -> Option<Arc<str>>) -> Option<GroupNews> {
    Some(GroupNews::Group(match told {
        Told::Message { group, sender, position, guarantee } => {
            Event::Message { group: name(&group)?, sender, position, guarantee, payload }
        }
        Told::Fifo { group, sender, view, number } => {
            Event::Fifo { group: name(&group)?, sender, view, number, payload }
        }
        Told::Membership { group, position, lists: [members, joined, left] } => {
            Event::Membership { group: name(&group)?, position, members, joined, left }
        }
        Told::StateWanted { group, joiner, position } => {
            Event::StateWanted { group: name(&group)?, joiner, position }
        }
        Told::State { group, member, position } => {
            Event::State { group: name(&group)?, member, position, state: payload }
        }
        Told::StateLost { group, member, position } => {
            Event::StateLost { group: name(&group)?, member, position }
        }
        Told::Reset { group, member } => Event::Reset { group: name(&group)?, member },
        Told::Refused { group, member } => Event::Refused { group: name(&group)?, member },
        Told::Evicted { view, lag } => Event::Evicted { view, lag },
        Told::View(view) => Event::View(view),
        Told::Standing(Standing::NonPrimary) => return Some(GroupNews::NonPrimary),
        Told::Standing(Standing::Suspended) => return Some(GroupNews::Suspended),
        Told::Standing(Standing::Primary) => return Some(GroupNews::Resumed),
        Told::Gone { .. } | Told::Node => return None,
    }))
}
