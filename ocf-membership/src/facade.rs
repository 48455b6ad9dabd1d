//! The membership interfaces of the Open Clustering Framework, as a thin façade over this crate's events.
//!
//! * [`Callbacks`]: the event API 0.2 as it was shipped: classes, callbacks, cookies, one array of nodes with three lists in it.
//! * [`Change`] and [`Subscriber`]: the draft of the membership API 0.1: full or incremental events, and unique ids that compare.
//!
//! A token or a descriptor of the interfaces is the value itself here: who dropped it cannot name it any more, so `EINVAL` for a bad
//! token and `EBADF` are errors of the compiler. `docs/ocf-api.md` has every call, event and error line by line, with the test of each;
//! the draft of the event API by topics is `pils::topic`.
//!
//! Neither does I/O: who has a [`Consensus`](crate::Consensus), or the events of a node, hands them in by [`Callbacks::tell`] and
//! [`Subscriber::tell`].

use crate::{Ballot, Event, Member, View, ViewNumber};
use core::fmt;
use pils::wire::Writer as _;
use pils::{NodeId, NodeInstance};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Events that wait for a program which does not fetch them; then the oldest is forgotten.
const WAITING_MAX: usize = 64;

/// A class of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Class {
    /// Connectivity. Nothing is told here: see `ocf_comm`.
    Connectivity = 1,
    /// Node membership.
    Membership = 2,
    /// Groups. Nothing is told here: see `ocf_groups`.
    Group = 3,
}

/// Class in the upper 10 bits, event in the lower 22.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u32);

impl EventId {
    /// A membership without quorum. Told only to those who asked for it: [`Callbacks::special`].
    pub const INVALID: Self = Self::new(Class::Membership, 0);
    /// A new membership with quorum, or the same one that has it now.
    pub const NEW_MEMBERSHIP: Self = Self::new(Class::Membership, 1);
    /// The membership is in flux; the data are those of the old one.
    pub const NOT_PRIMARY: Self = Self::new(Class::Membership, 2);
    /// The membership before the flux holds again.
    pub const PRIMARY_RESTORED: Self = Self::new(Class::Membership, 3);
    /// This node was removed: others go on without it. No data.
    pub const EVICTED: Self = Self::new(Class::Membership, 4);
    /// Connectivity: not told here, and so are the next three.
    pub const CONN_INVALID: Self = Self::new(Class::Connectivity, 0);
    /// Connectivity: an interface.
    pub const CONN_INTERFACE: Self = Self::new(Class::Connectivity, 1);
    /// Connectivity: a node that may be a member.
    pub const CONN_ELIGIBLE: Self = Self::new(Class::Connectivity, 2);
    /// Connectivity: a node can be talked to.
    pub const CONN_CONNECT: Self = Self::new(Class::Connectivity, 3);
    /// Groups: not told here, and so are the next four.
    pub const GROUP_INVALID: Self = Self::new(Class::Group, 0);
    /// Groups: a member came.
    pub const GROUP_JOIN: Self = Self::new(Class::Group, 1);
    /// Groups: a member went.
    pub const GROUP_LEAVE: Self = Self::new(Class::Group, 2);
    /// Groups: a message to all.
    pub const GROUP_CAST: Self = Self::new(Class::Group, 3);
    /// Groups: an answer to one.
    pub const GROUP_REPLY: Self = Self::new(Class::Group, 4);

    /// Puts a number together.
    #[must_use]
    pub const fn new(class: Class, event: u32) -> Self {
        Self((class as u32) << 22 | event & 0x3f_ffff)
    }

    /// Number of the class.
    #[must_use]
    pub const fn class(self) -> u32 {
        self.0 >> 22
    }

    /// Number of the event in its class.
    #[must_use]
    pub const fn event(self) -> u32 {
        self.0 & 0x3f_ffff
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class(), self.event())
    }
}

/// A node of a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What people call it.
    pub uname: String,
    /// Its id.
    pub node_id: u32,
    /// The membership in which it joined.
    pub born_on: u64,
}

/// A membership: one array of nodes that holds three lists, each by its first index and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Number of the membership.
    pub m_instance: u64,
    /// Members, sorted by `born_on`, then id: how many, and where they begin.
    pub m_n_member: usize,
    /// See `m_n_member`.
    pub m_memb_idx: usize,
    /// Those who went.
    pub m_n_out: usize,
    /// See `m_n_out`.
    pub m_out_idx: usize,
    /// Those who came. In the first membership that is told these are all members, at index 0.
    pub m_n_in: usize,
    /// See `m_n_in`.
    pub m_in_idx: usize,
    /// Members, then those who came, then those who went.
    pub m_array: Vec<Node>,
}

impl Membership {
    /// The members.
    #[must_use]
    pub fn members(&self) -> &[Node] {
        &self.m_array[self.m_memb_idx..self.m_memb_idx + self.m_n_member]
    }

    /// Those who came.
    #[must_use]
    pub fn came(&self) -> &[Node] {
        &self.m_array[self.m_in_idx..self.m_in_idx + self.m_n_in]
    }

    /// Those who went.
    #[must_use]
    pub fn went(&self) -> &[Node] {
        &self.m_array[self.m_out_idx..self.m_out_idx + self.m_n_out]
    }
}

/// What a callback is given: the data stay valid until [`Callbacks::callback_done`] with this cookie.
pub type Cookie = u64;

/// Called with the event, its cookie and its data, if it has any.
pub type Callback = Box<dyn FnMut(EventId, Cookie, Option<&Membership>) + Send>;

/// Why a call failed; each has the number of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// EINVAL: no such cookie.
    #[error("not a cookie that is in use")]
    Invalid,
    /// EMFILE: no class has a callback.
    #[error("no class has a callback")]
    NoClass,
    /// EL2HLT: this node was removed from the set of nodes, and nothing will be told any more.
    #[error("this node was removed from the cluster: add it again, and start it anew")]
    Halted,
    /// ENOSYS: an incremental event has no list of those who stayed.
    #[error("an incremental event does not tell who stayed")]
    NotTold,
}

impl CallError {
    /// The number of the error in the interface.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Invalid => 22,
            Self::NoClass => 24,
            Self::NotTold => 38,
            Self::Halted => 51,
        }
    }
}

/// A registration of the event API 0.2: one program's callbacks.
pub struct Callbacks {
    local: NodeId,
    names: BTreeMap<NodeId, String>,
    callbacks: BTreeMap<Class, Callback>,
    active: bool,
    special: bool,
    current: Option<Arc<Membership>>,
    /// It was told of a membership with quorum, and of nothing since that ends it.
    primary: bool,
    first: bool,
    waiting: VecDeque<(EventId, Option<Arc<Membership>>)>,
    in_use: BTreeMap<Cookie, Option<Arc<Membership>>>,
    next: Cookie,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Callbacks {
    /// Registers a program of the node `local`; `names` is what people call the nodes.
    #[must_use]
    pub fn register(local: NodeId, names: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        Self {
            local,
            names: names.into_iter().collect(),
            callbacks: BTreeMap::new(),
            active: false,
            special: false,
            current: None,
            primary: false,
            first: true,
            waiting: VecDeque::new(),
            in_use: BTreeMap::new(),
            next: 1,
        }
    }

    /// Sets the callback of a class, and gives the one before. `None` ends the interest in it.
    pub fn set_callback(&mut self, class: Class, callback: Option<Callback>) -> Option<Callback> {
        match callback {
            Some(callback) => self.callbacks.insert(class, callback),
            None => self.callbacks.remove(&class),
        }
    }

    /// Ends the registration: what waits is forgotten, and no callback comes any more.
    ///
    /// ```compile_fail,E0382
    /// # use ocf_membership::facade::Callbacks;
    /// let mut program = Callbacks::register(pils::NodeId::new(1), []);
    /// program.unregister();
    /// program.handle_event(); // EINVAL in the interface, an error of the compiler here
    /// ```
    pub fn unregister(self) {
        drop(self);
    }

    /// Asks for memberships without quorum, too, or no more. Of the class of membership alone; for others it means nothing.
    pub const fn special(&mut self, class: Class, wanted: bool) {
        if matches!(class, Class::Membership) {
            self.special = wanted;
        }
    }

    /// Begins to collect events. There is no descriptor, as nothing here does I/O: after each [`Self::tell`], [`Self::waiting`] says
    /// whether there is something to handle.
    ///
    /// # Errors
    /// [`CallError::NoClass`] if no class has a callback.
    pub fn activate(&mut self) -> Result<(), CallError> {
        if self.callbacks.is_empty() {
            return Err(CallError::NoClass);
        }
        self.active = true;
        Ok(())
    }

    /// True for the node that the program runs on.
    #[must_use]
    pub fn is_my_nodeid(&self, node: &Node) -> bool {
        node.node_id == self.local.raw()
    }

    /// Events that wait for [`Self::handle_event`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an event of the membership layer.
    pub fn tell(&mut self, event: &Event) {
        match event {
            Event::Installed(view) => {
                let membership = Arc::new(self.membership(view));
                self.current = Some(Arc::clone(&membership));
                (self.first, self.primary) = (false, true);
                self.queue(EventId::NEW_MEMBERSHIP, Some(membership));
            }
            Event::Suspended => self.in_flux(),
            Event::Resumed => {
                self.primary = true;
                self.queue(EventId::PRIMARY_RESTORED, self.current.clone());
            }
            Event::NonPrimary(situation) if self.current.is_some() && !situation.dormant => self.evicted(),
            Event::Removed { .. } => self.evicted(),
            Event::NonPrimary(situation) => {
                // Who does not hear of memberships without quorum must hear that the one it knows has none.
                self.in_flux();
                if !self.special {
                    return;
                }
                let nodes: Vec<Node> = situation.reachable.iter().map(|i| self.node(*i, 0)).collect();
                let membership = Membership {
                    m_instance: situation.last_primary.0,
                    m_n_member: nodes.len(),
                    m_array: nodes,
                    ..Membership::default()
                };
                self.queue(EventId::INVALID, Some(Arc::new(membership)));
            }
            Event::TieWon { .. }
            | Event::Merged { .. }
            | Event::VotesChanged { .. }
            | Event::VotesNotChanged { .. }
            | Event::Incompatible { .. } => {}
        }
    }

    fn in_flux(&mut self) {
        if core::mem::take(&mut self.primary) {
            self.queue(EventId::NOT_PRIMARY, self.current.clone());
        }
    }

    /// Once, however many events say so.
    fn evicted(&mut self) {
        self.primary = false;
        if self.current.take().is_some() {
            self.queue(EventId::EVICTED, None);
        }
    }

    /// Calls back for one event. False if none waits.
    pub fn handle_event(&mut self) -> bool {
        let Some((id, data)) = self.waiting.pop_front() else { return false };
        if let Some(callback) = self.callbacks.get_mut(&Class::Membership) {
            let cookie = self.next;
            self.next += 1;
            self.in_use.insert(cookie, data.clone());
            callback(id, cookie, data.as_deref());
        }
        true
    }

    /// The data of a cookie that is in use.
    #[must_use]
    pub fn data(&self, cookie: Cookie) -> Option<&Membership> {
        self.in_use.get(&cookie)?.as_deref()
    }

    /// The program needs the data of this cookie no more.
    ///
    /// # Errors
    /// [`CallError::Invalid`] if it is not in use.
    pub fn callback_done(&mut self, cookie: Cookie) -> Result<(), CallError> {
        self.in_use.remove(&cookie).map(|_| ()).ok_or(CallError::Invalid)
    }

    fn queue(&mut self, id: EventId, data: Option<Arc<Membership>>) {
        if !self.active || !self.callbacks.contains_key(&Class::Membership) {
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, data));
    }

    fn node(&self, instance: NodeInstance, born_on: u64) -> Node {
        let uname = self.names.get(&instance.node).cloned().unwrap_or_else(|| instance.node.to_string());
        Node { uname, node_id: instance.node.raw(), born_on }
    }

    fn membership(&self, view: &View) -> Membership {
        let node = |m: &Member| self.node(m.instance, m.joined.0);
        let mut array: Vec<Node> = view.members.iter().map(node).collect();
        let n_member = array.len();
        let (m_n_in, m_in_idx) = if self.first {
            (n_member, 0)
        } else {
            array.extend(view.joiners().map(|m| node(&m)));
            (array.len() - n_member, n_member)
        };
        let m_out_idx = array.len();
        if !self.first {
            array.extend(view.departed().map(|m| node(&m)));
        }
        Membership {
            m_instance: view.number.0,
            m_n_member: n_member,
            m_memb_idx: 0,
            m_n_out: array.len() - m_out_idx,
            m_out_idx,
            m_n_in,
            m_in_idx,
            m_array: array,
        }
    }
}

/// A node of the draft API: 16 bytes, equal for all lives of a node. Compared as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeUuid(pub [u8; 16]);

impl From<NodeId> for NodeUuid {
    fn from(node: NodeId) -> Self {
        Self(u128::from(node.raw()).to_be_bytes())
    }
}

/// What tells two memberships apart, also those that have the same number after all nodes lost their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UniqueId {
    /// Number of the membership.
    pub m_instance: u64,
    /// Of the ballot in which it was agreed.
    pub unique: [u8; 16],
}

/// How two unique ids compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Compared {
    /// The first is older.
    Older = -1,
    /// They are the same.
    Same = 0,
    /// The first is newer.
    Newer = 1,
    /// They have the same number and are different: of two clusters, or of two lives of one.
    NotComparable = 2,
}

impl UniqueId {
    fn of(view: &View) -> Self {
        let Ballot { round, proposer } = view.ballot;
        let mut bytes = Vec::with_capacity(28);
        bytes.put_instance(proposer);
        bytes.extend_from_slice(&round.to_be_bytes());
        // Two sums from different ends: not against forgery.
        let forward = crate::record::checksum(&bytes);
        bytes.reverse();
        let unique = u128::from(forward) << 64 | u128::from(crate::record::checksum(&bytes));
        Self { m_instance: view.number.0, unique: unique.to_be_bytes() }
    }

    /// Compares.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Compared {
        match self.m_instance.cmp(&other.m_instance) {
            core::cmp::Ordering::Less => Compared::Older,
            core::cmp::Ordering::Greater => Compared::Newer,
            core::cmp::Ordering::Equal if self.unique == other.unique => Compared::Same,
            core::cmp::Ordering::Equal => Compared::NotComparable,
        }
    }
}

/// What a program of the draft API wants to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing (yet).
    #[default]
    Not,
    /// Every membership whole.
    Full,
    /// One whole, then who came and went.
    Incremental,
}

/// An event of the draft API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which membership.
    pub id: UniqueId,
    /// `Full` or `Incremental`.
    pub kind: Wanted,
    joined: Vec<NodeInstance>,
    gone: Vec<NodeInstance>,
    stayed: Vec<NodeInstance>,
}

impl Change {
    /// Who came; all members in the first event.
    #[must_use]
    pub fn joined(&self) -> &[NodeInstance] {
        &self.joined
    }

    /// Who went.
    #[must_use]
    pub fn gone(&self) -> &[NodeInstance] {
        &self.gone
    }

    /// Who was there before and still is.
    ///
    /// # Errors
    /// [`CallError::NotTold`] (ENOSYS) for an incremental event.
    pub fn stayed(&self) -> Result<&[NodeInstance], CallError> {
        if self.kind == Wanted::Incremental { Err(CallError::NotTold) } else { Ok(&self.stayed) }
    }
}

/// Where the draft API sees this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In a primary subcluster that stands.
    Stable,
    /// In one of which it is not sure at the moment.
    InTransition,
    /// In no primary subcluster.
    Outside,
}

/// A program of the draft API.
///
/// ```compile_fail,E0382
/// # use ocf_membership::facade::Subscriber;
/// # let local = pils::NodeInstance::new(pils::NodeId::new(1), pils::Incarnation::new(1));
/// let mut program = Subscriber::new(local);
/// drop(program);
/// program.event(); // EBADF in the interface, an error of the compiler here
/// ```
#[derive(Clone, Debug)]
pub struct Subscriber {
    local: NodeInstance,
    wanted: Wanted,
    told_full: bool,
    phase: Phase,
    halted: bool,
    view: Option<View>,
    waiting: VecDeque<Change>,
}

impl Subscriber {
    /// A program of this life of a node, that is told nothing until [`Self::request`].
    #[must_use]
    pub const fn new(local: NodeInstance) -> Self {
        Self {
            local,
            wanted: Wanted::Not,
            told_full: false,
            phase: Phase::Outside,
            halted: false,
            view: None,
            waiting: VecDeque::new(),
        }
    }

    /// The local node.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// Whether what was told last stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Asks for full or incremental events. A full one follows soon: at once, if there is a membership.
    ///
    /// # Errors
    /// [`CallError::Halted`] (EL2HLT) if this node was removed; nothing has changed.
    pub fn request(&mut self, wanted: Wanted) -> Result<(), CallError> {
        if self.halted {
            return Err(CallError::Halted);
        }
        self.wanted = wanted;
        self.told_full = false;
        if let Some(view) = self.view.clone() {
            self.queue(&view, ViewNumber(0));
        }
        Ok(())
    }

    /// Takes an event of the membership layer.
    pub fn tell(&mut self, event: &Event) {
        match event {
            Event::Installed(view) => {
                let before = self.view.as_ref().map_or(ViewNumber(0), |v| v.number);
                self.queue(view, before);
                self.view = Some(view.clone());
                self.phase = Phase::Stable;
            }
            Event::NonPrimary(_) => self.outside(),
            Event::Removed { .. } => {
                self.outside();
                self.halted = true;
            }
            Event::Suspended => self.phase = Phase::InTransition,
            Event::Resumed => self.phase = Phase::Stable,
            Event::TieWon { .. }
            | Event::Merged { .. }
            | Event::VotesChanged { .. }
            | Event::VotesNotChanged { .. }
            | Event::Incompatible { .. } => {}
        }
    }

    fn outside(&mut self) {
        self.view = None;
        self.told_full = false;
        self.phase = Phase::Outside;
    }

    /// The next event, if any.
    pub fn event(&mut self) -> Option<Change> {
        self.waiting.pop_front()
    }

    fn queue(&mut self, view: &View, before: ViewNumber) {
        if self.wanted == Wanted::Not {
            return;
        }
        let first = before == ViewNumber(0) || !self.told_full;
        let instances = |members: &[Member]| members.iter().map(|m| m.instance).collect::<Vec<_>>();
        let joined =
            if first { instances(&view.members) } else { view.joiners().map(|m| m.instance).collect() };
        let gone = if first { Vec::new() } else { view.departed().map(|m| m.instance).collect() };
        let stayed = view.members.iter().map(|m| m.instance).filter(|i| !joined.contains(i)).collect();
        let kind = if first { Wanted::Full } else { self.wanted };
        self.told_full = true;
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Change { id: UniqueId::of(view), kind, joined, gone, stayed });
    }
}

#[cfg(test)]
mod tests;
