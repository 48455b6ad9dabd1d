//! Machines that every node of a cluster runs for a program: votes, barriers, checkpoints, or your own.

mod seat;

pub(crate) use seat::{Closing, Resident, Seat};
pub use seat::{Reply, SERVICE_EVENTS_MAX, ServiceEvent};

use crate::node::{Node, RequestError};
use core::fmt;
use core::time::Duration;
use ocf_comm::driver::Stopped;
use ocf_groups::replicated::{Machine, Phase, Replicated, Request, SubmitError};
use ocf_groups::{JoinError, MemberId};
use pils::Instant;
use std::sync::Arc;

/// A machine of a group, run by a node: each command is carried out at every member, once, in one order, and answered once.
///
/// The machine lives inside the node; no thread is woken for what happens to it. Any number of threads may use this at once, and
/// a clone is the same member of the group. When the last clone is dropped, the member leaves. Machines that are ready are those
/// of `ocf-groups`:
/// [`Voting`](ocf_groups::voting::Voting), [`Barriers`](ocf_groups::barrier::Barriers),
/// [`Transactions`](ocf_groups::transaction::Transactions), [`Checkpoints`](ocf_groups::checkpoint::Checkpoints),
/// [`Channels`](ocf_groups::channel::Channels) and [`Queues`](ocf_groups::queue::Queues).
///
/// ```
/// use ocf::ServiceEvent;
/// use ocf_groups::replicated::{Config, Outcome};
/// use ocf_groups::voting::{Ballot, Event, Rule, Voting, answer};
/// use std::time::Duration;
///
/// let patience = Duration::from_secs(10);
/// let cluster = ocf::Cluster::builder("votes").local(3)?;
/// let votes = cluster
///     .running()
///     .map(|node| node.service(Config::new("votes", 1), Voting::default()))
///     .collect::<Result<Vec<_>, _>>()?;
/// assert!(votes.iter().all(|service| service.wait_ready(patience)));
///
/// let options = ["yes", "no"];
/// let ballot = Ballot::new("Shall we?", options, Rule::MajorityOfVoters);
/// let opened = votes[0].ask(|voting, now| voting.open(now, ballot))?;
/// let Some(Outcome::Applied(reply)) = opened.wait(patience)? else { panic!("three nodes are here") };
/// let ballot = answer(&reply)?;
/// for service in &votes[1..] {
///     let voted = service.ask(|voting, now| voting.vote(now, ballot, Some(0)))?;
///     assert!(matches!(voted.wait(patience)?, Some(Outcome::Applied(_))));
/// }
/// let closed = loop {
///     match votes[0].next_event(patience) {
///         Some(ServiceEvent::Event(Event::Closed(closed))) => break closed,
///         Some(_) => {}
///         None => panic!("two of three are a majority"),
///     }
/// };
/// assert_eq!(closed.ballot, ballot);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Service<M: Machine<Event: Send> + Send + 'static> {
    member: Arc<Membership<M>>,
}

impl<M: Machine<Event: Send> + Send + 'static> Clone for Service<M> {
    fn clone(&self) -> Self {
        Self { member: Arc::clone(&self.member) }
    }
}

impl<M: Machine<Event: Send> + Send + 'static> fmt::Debug for Service<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Membership { group, me, .. } = &*self.member;
        f.debug_struct("Service").field("group", group).field("me", me).finish_non_exhaustive()
    }
}

/// Leaves when it is dropped.
struct Membership<M: Machine<Event: Send> + Send + 'static> {
    node: Node,
    group: Arc<str>,
    me: MemberId,
    seat: Arc<Seat<M>>,
}

impl<M: Machine<Event: Send> + Send + 'static> Drop for Membership<M> {
    fn drop(&mut self) {
        self.node.remove_resident(&self.group, self.me.local);
    }
}

impl<M: Machine<Event: Send> + Send + 'static> Service<M> {
    pub(crate) fn new(node: Node, group: Arc<str>, me: MemberId, seat: Arc<Seat<M>>) -> Self {
        Self { member: Arc::new(Membership { node, group, me, seat }) }
    }

    /// Who this is.
    #[must_use]
    pub fn me(&self) -> MemberId {
        self.member.me
    }

    /// Submits a command with the calls that the machine has for that: `service.ask(|votes, now| votes.vote(now, ballot, None))`.
    /// It does not wait for the answer. Call nothing of this service or its node in `submit`.
    ///
    /// # Errors
    /// [`SubmitError`] as the call said, or that the node has stopped; nothing was sent.
    pub fn ask(
        &self,
        submit: impl FnOnce(&mut Replicated<M>, Instant) -> Result<Request, SubmitError>,
    ) -> Result<Reply, RequestError<SubmitError>> {
        let seat = &self.member.seat;
        self.member.node.ask_resident(|now| seat.submit(now, submit))
    }

    /// Looks at the machine as of what this node has seen of the stream; asks nothing of the network, and does not wait for the
    /// node, but for its turn of this machine. Other members may be further. Call nothing of this service in `look`, and be brief:
    /// the node waits meanwhile.
    pub fn look<R>(&self, look: impl FnOnce(&Replicated<M>) -> R) -> R {
        self.member.seat.look(look)
    }

    /// How far this member is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.look(Replicated::phase)
    }

    /// Waits at most so long until this member has the state of the group. False if it has not by then, or the node has stopped.
    #[must_use]
    pub fn wait_ready(&self, wait: Duration) -> bool {
        self.member.seat.wait_ready(wait)
    }

    /// What the machine tells, in the one order of the group, waiting for it at most so long. `None` if there was nothing, or if the
    /// node has stopped and everything was taken. Each is given once, to one of the clones.
    ///
    /// Who takes nothing loses the oldest beyond [`SERVICE_EVENTS_MAX`], and is told how many.
    #[must_use]
    pub fn next_event(&self, wait: Duration) -> Option<ServiceEvent<M::Event>> {
        self.member.seat.next_event(wait)
    }

    /// Why nothing happens to this member any more, or `None` while its node runs.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.member.node.stopped()
    }
}

/// Why a machine does not run: the node has stopped, or its group cannot be joined.
pub type ServiceError = RequestError<JoinError>;
