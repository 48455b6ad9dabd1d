//! The libraries of corosync, through `rust-corosync`. Its callbacks carry no context, so they note what they are told in a list of
//! the thread that dispatches; whoever dispatches takes it from there.
#![expect(
    clippy::disallowed_methods,
    reason = "a driver: it is a process of the machine, and waits for a daemon that is busy"
)]

use super::{Cpg, Departure, Input, OverCpg, Process, RingId, RingQuorum, Sent};
use crate::{Config, GROUP_NAME_MAX};
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use ocf_membership::{NodeVotes, ViewNumber};
use pils::{Incarnation, NodeId};
use rust_corosync::{CsError, DispatchFlags, TrackFlags, cmap, cpg, quorum, votequorum};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::thread;

/// Membership and groups on the corosync that runs on this machine.
pub type Corosync = OverCpg<Libraries>;

/// The longest name of a process group.
const NAME_MAX: usize = GROUP_NAME_MAX - 1;
/// Messages of the process group that are taken in one piece.
const CALLS_MAX: usize = 256;
/// How often, and how far apart, a request is tried that a busy daemon refuses.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no provider on the corosync of this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorosyncError {
    /// Corosync did not answer: it does not run here, it is busy for more than 5 s, or this user may not talk to it.
    #[error(
        "corosync's {service} service did not take {call}: {error}; is corosync running, and is this user root or allowed by a uidgid file?"
    )]
    Refused {
        /// Which of its services.
        service: &'static str,
        /// What was asked.
        call: &'static str,
        /// What it answered.
        error: CsError,
    },
    /// `corosync.conf` names no quorum provider, so that every part of a broken cluster would act.
    #[error("corosync decides no quorum: put quorum {{ provider: corosync_votequorum }} into corosync.conf")]
    NoQuorum,
    /// A name of a process group has 1 to 127 bytes, of letters, digits, `.`, `_` and `-`.
    #[error("{0:?} is no name of a process group: 1 to {NAME_MAX} letters, digits, '.', '_' or '-'")]
    Name(String),
}

/// Connections to the services of corosync.
pub struct Libraries {
    process: Process,
    name: String,
    cpg: cpg::Handle,
    quorum: quorum::Handle,
    votes: votequorum::Handle,
    map: cmap::Handle,
    inbox: VecDeque<Input>,
    lost: bool,
}

impl fmt::Debug for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libraries")
            .field("process", &self.process)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a callback was told.
enum Told {
    Message(Process, Bytes),
    Configuration(Vec<Process>, Vec<(Process, Departure)>),
    Ring(RingId),
    Quorum(bool, RingId, Vec<NodeId>),
}

thread_local! {
    /// What callbacks were told while this thread dispatches.
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
}

fn tell(told: Told) {
    TOLD.with_borrow_mut(|list| list.push(told));
}

fn id(node: rust_corosync::NodeId) -> NodeId {
    NodeId::new(u32::from(node))
}

impl OverCpg<Libraries> {
    /// Joins the process group `ocf.<name>` of the corosync that runs on this machine. All nodes of one cluster use the same name;
    /// each has one provider under it. `incarnation` must be new: 128 random bits.
    ///
    /// Waits up to 5 s for a daemon that is busy. Corosync must run, with a quorum provider, and this user must be root or allowed
    /// by a `uidgid` entry.
    ///
    /// # Errors
    /// See [`CorosyncError`].
    pub fn open(name: &str, config: Config, incarnation: Incarnation) -> Result<Self, CorosyncError> {
        Ok(Self::new(config, Libraries::open(name)?, incarnation))
    }

    /// Descriptors that are readable when [`Membership::process`](ocf_membership::Membership::process) has something to do. They
    /// are closed when this is dropped.
    ///
    /// # Errors
    /// [`CorosyncError::Refused`] if corosync is gone.
    pub fn descriptors(&self) -> Result<[i32; 2], CorosyncError> {
        let of = |service, result: Result<i32, CsError>| result.map_err(refused(service, "fd_get"));
        let Libraries { cpg, quorum, .. } = self.cpg();
        Ok([of("cpg", cpg::fd_get(cpg))?, of("quorum", quorum::fd_get(quorum))?])
    }
}

impl Libraries {
    fn open(name: &str) -> Result<Self, CorosyncError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let group = format!("ocf.{name}");
        if name.is_empty() || group.len() > NAME_MAX || !name.chars().all(plain) {
            return Err(CorosyncError::Name(name.to_owned()));
        }
        let model = quorum::ModelData::ModelV1(quorum::Model1Data {
            flags: quorum::Model1Flags::None,
            quorum_notification_fn: Some(on_quorum),
            nodelist_notification_fn: None,
        });
        let (quorum, kind) = patiently("quorum", "initialize", || quorum::initialize(&model, 0))?;
        if matches!(kind, quorum::QuorumType::Free) {
            return Err(CorosyncError::NoQuorum);
        }
        let callbacks = votequorum::Callbacks {
            quorum_notification_fn: None,
            nodelist_notification_fn: None,
            expectedvotes_notification_fn: None,
        };
        let votes = patiently("votequorum", "initialize", || votequorum::initialize(&callbacks))?;
        let map = patiently("cmap", "initialize", || cmap::initialize(cmap::Map::Icmap))?;
        let model = cpg::ModelData::ModelV1(cpg::Model1Data {
            flags: cpg::Model1Flags::None,
            deliver_fn: Some(on_message),
            confchg_fn: Some(on_configuration),
            totem_confchg_fn: Some(on_ring),
        });
        let cpg = patiently("cpg", "initialize", || cpg::initialize(&model, 0))?;
        let node = patiently("cpg", "local_get", || cpg::local_get(&cpg))?;
        patiently("quorum", "trackstart", || quorum::trackstart(&quorum, TrackFlags::Changes))?;
        patiently("cpg", "join", || cpg::join(&cpg, &group))?;
        let process = Process { node: id(node), pid: std::process::id() };
        Ok(Self { process, name: group, cpg, quorum, votes, map, inbox: VecDeque::new(), lost: false })
    }

    /// Takes what both services have to tell.
    fn dispatch(&mut self) {
        let mut heard = vec![quorum::dispatch(&self.quorum, DispatchFlags::OneNonblocking)];
        for _ in 0..CALLS_MAX {
            let before = TOLD.with_borrow(Vec::len);
            let dispatched = cpg::dispatch(&self.cpg, DispatchFlags::OneNonblocking);
            if dispatched.is_err() || TOLD.with_borrow(Vec::len) == before {
                heard.push(dispatched);
                break;
            }
        }
        for told in TOLD.take() {
            let input = self.input(told);
            self.inbox.push_back(input);
        }
        if let Some(error) = heard.into_iter().filter_map(Result::err).find(|error| !is_busy(*error)) {
            tracing::warn!(%error, "corosync is gone");
            self.lost = true;
            self.inbox.push_back(Input::Lost);
        }
    }

    fn input(&self, told: Told) -> Input {
        match told {
            Told::Message(from, message) => Input::Message { from, message },
            Told::Configuration(members, left) => Input::Configuration { members, left },
            Told::Ring(ring) => Input::Ring(ring),
            Told::Quorum(quorate, ring, nodes) => {
                let info = |node: NodeId| {
                    patiently("votequorum", "getinfo", || {
                        votequorum::get_info(&self.votes, node.raw().into())
                    })
                };
                let mut votes = Vec::new();
                for node in nodes {
                    votes.push(NodeVotes::new(node, info(node).map_or(0, |i| i.node_votes)));
                }
                votes.sort_by_key(|v| v.node);
                // Without an answer nothing is known to be enough.
                let needed = info(self.process.node).map_or(u32::MAX, |i| i.quorum);
                Input::Quorum(RingQuorum { ring, quorate: quorate && needed < u32::MAX, needed, votes })
            }
        }
    }

    fn key(&self) -> String {
        format!("{}.view", self.name)
    }
}

impl Cpg for Libraries {
    fn process(&self) -> Process {
        self.process
    }

    fn poll(&mut self) -> Option<Input> {
        if self.inbox.is_empty() && !self.lost {
            self.dispatch();
        }
        self.inbox.pop_front()
    }

    fn multicast(&mut self, message: &Bytes) -> Sent {
        match cpg::mcast_joined(&self.cpg, cpg::Guarantee::TypeAgreed, message) {
            Ok(()) => Sent::Taken,
            Err(error) if is_busy(error) => Sent::Later,
            Err(error) => {
                tracing::warn!(%error, "corosync takes no message any more");
                Sent::Never
            }
        }
    }

    fn remember(&mut self, number: ViewNumber) {
        if let Err(error) = cmap::set_u64(&self.map, &self.key(), number.0) {
            tracing::warn!(%error, %number, "corosync's map did not take the number of a view");
        }
    }

    fn remembered(&mut self) -> ViewNumber {
        match cmap::get(&self.map, &self.key()) {
            Ok(cmap::Data::UInt64(number)) => ViewNumber(number),
            _ => ViewNumber(0),
        }
    }

    fn leave(&mut self) {
        if let Err(error) = patiently("cpg", "leave", || cpg::leave(&self.cpg, &self.name)) {
            tracing::debug!(%error, "a provider ends without a word");
        }
    }
}

const fn is_busy(error: CsError) -> bool {
    matches!(
        error,
        CsError::CsErrTryAgain | CsError::CsErrQueueFull | CsError::CsErrTimeout | CsError::CsErrBusy
    )
}

fn refused(service: &'static str, call: &'static str) -> impl Fn(CsError) -> CorosyncError {
    move |error| CorosyncError::Refused { service, call, error }
}

/// Asks again while the daemon is busy, as it is when its ring changes.
fn patiently<T>(
    service: &'static str,
    call: &'static str,
    ask: impl Fn() -> Result<T, CsError>,
) -> Result<T, CorosyncError> {
    for _ in 1..TRIES {
        match ask() {
            Err(error) if is_busy(error) => thread::sleep(PAUSE),
            answer => return answer.map_err(refused(service, call)),
        }
    }
    ask().map_err(refused(service, call))
}

#[expect(clippy::too_many_arguments, reason = "the callback of rust-corosync")]
fn on_message(
    _: &cpg::Handle,
    _group: String,
    node: rust_corosync::NodeId,
    pid: u32,
    message: &[u8],
    _length: usize,
) {
    tell(Told::Message(Process { node: id(node), pid }, Bytes::copy_from_slice(message)));
}

fn on_configuration(
    _: &cpg::Handle,
    _group: &str,
    members: Vec<cpg::Address>,
    left: Vec<cpg::Address>,
    _joined: Vec<cpg::Address>,
) {
    let process = |a: &cpg::Address| Process { node: id(a.nodeid), pid: a.pid };
    let why = |a: &cpg::Address| match a.reason {
        cpg::Reason::Leave => Departure::Left,
        cpg::Reason::ProcDown => Departure::ProcessDown,
        cpg::Reason::Undefined | cpg::Reason::Join | cpg::Reason::NodeDown | cpg::Reason::NodeUp => {
            Departure::NodeDown
        }
    };
    let left = left.iter().map(|a| (process(a), why(a))).collect();
    tell(Told::Configuration(members.iter().map(process).collect(), left));
}

fn on_ring(_: &cpg::Handle, ring: cpg::RingId, _members: Vec<rust_corosync::NodeId>) {
    tell(Told::Ring(RingId { sequence: ring.seq, representative: id(ring.nodeid) }));
}

fn on_quorum(_: &quorum::Handle, quorate: bool, ring: quorum::RingId, members: Vec<rust_corosync::NodeId>) {
    let ring = RingId { sequence: ring.seq, representative: id(ring.nodeid) };
    tell(Told::Quorum(quorate, ring, members.into_iter().map(id).collect()));
}
