mod incoming;
mod types;

pub use types::{
    CallError, CallId, CallLimits, CallOptions, CallStats, Completion, Need, Outcome, Output, Target, Ticket,
};

use super::Body;
use super::wire::{METHOD_MAX, Message};
use crate::{Channel, Connectivity, DownReason, Event, Lane, SendError};
use bytes::Bytes;
use core::time::Duration;
use incoming::{Answers, Running};
use pils::codec::{Limits, xmlrpc::Fault};
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The calls of one node: those it makes, and those it is asked to run. A sans-IO core over any [`Connectivity`].
///
/// Give it every event of the provider with [`Calls::handle`]; it returns those that are not its own. It sends through the
/// provider that it is handed, which is itself a value, so that it runs in a simulator as it stands.
///
/// ```
/// use ocf_comm::rpc::{Body, CallOptions, Calls, CallLimits, Outcome, Output, Target};
/// use ocf_comm::{Connectivity, MemoryHub};
/// use pils::{Incarnation, Instant, NodeId, NodeInstance};
///
/// let hub = MemoryHub::default();
/// let mut net = [1, 2].map(|n| hub.attach(NodeInstance::new(NodeId::new(n), Incarnation::new(n.into()))).unwrap());
/// let mut calls = [1, 2].map(|_| Calls::new(CallLimits::default()));
/// let now = Instant::ZERO;
/// # fn turn(i: usize, now: Instant, net: &mut [ocf_comm::MemoryNode; 2], calls: &mut [Calls; 2]) {
/// while let Some(event) = net[i].poll_event() { calls[i].handle(now, event, &mut net[i]); }
/// # }
/// # for i in 0..2 { turn(i, now, &mut net, &mut calls); }
/// let b = net[1].local();
/// calls[0].call(now, &mut net[0], (Target::One(b), "ping", Body::default()), &CallOptions::default())?;
/// # turn(1, now, &mut net, &mut calls);
/// let Some(Output::Request { ticket: Some(ticket), .. }) = calls[1].poll_output() else { panic!("it was sent") };
/// calls[1].answer(&mut net[1], ticket, Ok(Body::Value("pong".into())));
/// # turn(0, now, &mut net, &mut calls);
/// let Some(Output::Completed(done)) = calls[0].poll_output() else { panic!("it was answered") };
/// assert_eq!(done.results, [(b, Outcome::Answered(Body::Value("pong".into())))]);
/// # Ok::<(), ocf_comm::rpc::CallError>(())
/// ```
#[derive(Debug)]
pub struct Calls {
    limits: CallLimits,
    peers: BTreeMap<NodeInstance, Peer>,
    calls: BTreeMap<CallId, Call>,
    /// Nodes that all calls together wait for.
    outstanding: usize,
    running: BTreeMap<Ticket, Running>,
    timers: BTreeSet<(Instant, Due)>,
    outputs: VecDeque<Output>,
    stats: CallStats,
    last_call: u64,
    last_ticket: u64,
    #[cfg(any(test, feature = "testing"))]
    bug: Option<CallBug>,
}

/// A defect to be put in, so that a test shows that it would be seen.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallBug {
    /// A request that comes again runs again.
    RunsDuplicates,
    /// A call that timed out still takes its answer.
    CompletesTwice,
    /// A node that goes down does not complete the calls that wait for it.
    ForgetsLostNodes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Call(CallId),
    Ticket(Ticket),
}

/// One incarnation of another node.
#[derive(Debug, Default)]
struct Peer {
    up: bool,
    /// Number of the last request sent, by lane.
    sent: [u64; 3],
    /// Requests that wait for an answer.
    waiting: BTreeMap<(Lane, u64), CallId>,
    /// Number of the last request accepted, by lane.
    seen: [u64; 3],
    running: BTreeMap<(Lane, u64), Ticket>,
    answers: Answers,
}

/// A call that is not complete.
#[derive(Debug)]
struct Call {
    at: Instant,
    options: CallOptions,
    /// Each node, and what became of it there.
    results: Vec<(NodeInstance, Slot)>,
    /// Other nodes to try, and what to send them.
    spare: Option<Spare>,
}

#[derive(Debug)]
struct Spare {
    nodes: Vec<NodeInstance>,
    method: String,
    body: Body,
}

#[derive(Debug)]
enum Slot {
    Waiting(u64),
    Done(Outcome),
}

impl Calls {
    /// No calls yet, and no peer known to be up: those that are must be told by an `Up` event.
    #[must_use]
    pub const fn new(limits: CallLimits) -> Self {
        Self {
            limits,
            peers: BTreeMap::new(),
            calls: BTreeMap::new(),
            outstanding: 0,
            running: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            stats: CallStats {
                requests_sent: 0,
                requests_run: 0,
                answers: 0,
                late_answers: 0,
                duplicates: 0,
                busy: 0,
                answers_dropped: 0,
                malformed: 0,
                strangers: 0,
            },
            last_call: 0,
            last_ticket: 0,
            #[cfg(any(test, feature = "testing"))]
            bug: None,
        }
    }

    /// Puts a defect in. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub const fn sabotage(&mut self, bug: CallBug) {
        self.bug = Some(bug);
    }

    #[cfg(any(test, feature = "testing"))]
    fn has(&self, bug: CallBug) -> bool {
        self.bug == Some(bug)
    }

    /// Makes a call. Its one [`Completion`] is among the outputs, at once or later, at the latest when its deadline passed.
    ///
    /// # Errors
    /// [`CallError`]; nothing was sent and there will be no completion.
    pub fn call<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        net: &mut C,
        (target, method, body): (Target, &str, Body),
        options: &CallOptions,
    ) -> Result<CallId, CallError> {
        self.check(method, &body)?;
        let (nodes, spare) = match target {
            Target::One(node) => (vec![node], None),
            Target::Many(nodes) => (nodes, None),
            Target::Any(nodes) => {
                let mut nodes = if nodes.is_empty() { self.up().collect() } else { nodes };
                let first = self.pick(&mut nodes).ok_or(CallError::BadTarget)?;
                (vec![first], Some(Spare { nodes, method: method.to_owned(), body: body.clone() }))
            }
        };
        let distinct: BTreeSet<&NodeInstance> = nodes.iter().collect();
        if nodes.is_empty() || distinct.len() < nodes.len() {
            return Err(CallError::BadTarget);
        }
        if self.outstanding + nodes.len() > self.limits.outstanding_max {
            return Err(CallError::TooMany(self.outstanding));
        }
        self.last_call += 1;
        let id = CallId(self.last_call);
        let mut options = options.clone();
        options.deadline = options.deadline.clamp(Duration::from_millis(1), self.limits.deadline_max);
        let at = now + options.deadline;
        let results = nodes.into_iter().map(|node| {
            let slot = self.send_request(net, (node, id), (method, &body), &options);
            (node, slot)
        });
        let call = Call { at, results: results.collect(), options, spare };
        self.outstanding += call.results.iter().filter(|(_, slot)| matches!(slot, Slot::Waiting(_))).count();
        self.timers.insert((at, Due::Call(id)));
        self.calls.insert(id, call);
        self.settle(now, net, id);
        Ok(id)
    }

    fn check(&self, method: &str, body: &Body) -> Result<(), CallError> {
        if method.is_empty() || method.len() > METHOD_MAX {
            return Err(CallError::BadMethod);
        }
        let mut bytes = Vec::new();
        body.emit(&mut bytes)?;
        // What the framing takes at most besides name and body.
        let size = bytes.len() + method.len() + 32;
        let limit = self.limits.message_max;
        if size > limit { Err(CallError::TooLarge { size, limit }) } else { Ok(()) }
    }

    /// Takes the candidate with the fewest calls of ours outstanding.
    fn pick(&self, nodes: &mut Vec<NodeInstance>) -> Option<NodeInstance> {
        let load = |node: &NodeInstance| self.peers.get(node).map_or(usize::MAX, |peer| peer.waiting.len());
        // Among equals another one each time.
        let turn = usize::try_from(self.last_call).unwrap_or(0);
        let count = nodes.len();
        let best = (0..count).map(|i| (i + turn) % count).min_by_key(|i| load(&nodes[*i]))?;
        Some(nodes.remove(best))
    }

    fn send_request<C: Connectivity + ?Sized>(
        &mut self,
        net: &mut C,
        (node, call): (NodeInstance, CallId),
        (method, body): (&str, &Body),
        options: &CallOptions,
    ) -> Slot {
        let Some(peer) = self.peers.get_mut(&node) else {
            return Slot::Done(Outcome::NotSent(SendError::UnknownPeer(node)));
        };
        let lane = options.lane;
        let id = peer.sent[index(lane)] + 1;
        let CallOptions { need, deadline, .. } = *options;
        let request = Message::Request { id, need, deadline, method: method.to_owned(), body: body.clone() };
        let message = request.emit().expect("the arguments were written before");
        if let Err(error) = net.send(node, lane, Channel::CALLS, message) {
            return Slot::Done(Outcome::NotSent(error));
        }
        peer.sent[index(lane)] = id;
        self.stats.requests_sent += 1;
        if need == Need::Nothing {
            return Slot::Done(Outcome::Sent);
        }
        peer.waiting.insert((lane, id), call);
        Slot::Waiting(id)
    }

    /// Ends a call: those who have not answered are told that nobody waits. Its completion follows. False if it is
    /// complete already.
    pub fn cancel<C: Connectivity + ?Sized>(&mut self, net: &mut C, call: CallId) -> bool {
        if !self.calls.contains_key(&call) {
            return false;
        }
        self.end(net, call, &Outcome::Cancelled, true);
        true
    }

    /// Takes an event of the provider; returns it if others may want it: all but the messages of calls.
    pub fn handle<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        event: Event,
        net: &mut C,
    ) -> Option<Event> {
        match &event {
            Event::Up { peer } => self.on_up(now, net, *peer),
            Event::Down { peer, reason } => self.on_down(now, net, *peer, *reason),
            Event::Writable { peer, lane } => self.flush(net, *peer, *lane),
            Event::Message { from, lane, channel, message } if *channel == Channel::CALLS => {
                net.consumed(*from, *lane, message.len());
                self.on_message(now, net, (*from, *lane), message);
                return None;
            }
            Event::Message { .. }
            | Event::Stalled { .. }
            | Event::Refused { .. }
            | Event::Renewed { .. }
            | Event::PathUp { .. }
            | Event::PathDoubtful { .. }
            | Event::PathDown { .. }
            | Event::PeerDiscovered { .. }
            | Event::PathDiscovered { .. }
            | Event::PeerForgotten { .. }
            | Event::Ping(_)
            | Event::Misbehaved { .. } => {}
        }
        Some(event)
    }

    /// Fires what is due: calls whose deadline passed.
    pub fn handle_timeout<C: Connectivity + ?Sized>(&mut self, now: Instant, net: &mut C) {
        while let Some((at, due)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match due {
                Due::Call(call) => self.expire(net, call),
                Due::Ticket(ticket) => self.abandon(ticket),
            }
        }
    }

    /// What to do next. Call until `None` after everything else.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Calls::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The incarnations that are up.
    pub fn up(&self) -> impl Iterator<Item = NodeInstance> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.up).map(|(node, _)| *node)
    }

    /// Nodes that calls of this node wait for, and requests of others that run or whose answers wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.outstanding, self.running.len() + self.peers.values().map(|p| p.answers.len()).sum::<usize>())
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &CallStats {
        &self.stats
    }

    fn on_up<C: Connectivity + ?Sized>(&mut self, now: Instant, net: &mut C, node: NodeInstance) {
        // An earlier life of the node is over, whether or not its end was told.
        let earlier: Vec<NodeInstance> =
            self.peers.keys().copied().filter(|p| p.node == node.node && *p != node).collect();
        for life in earlier {
            self.on_down(now, net, life, DownReason::Superseded);
        }
        self.peers.entry(node).or_default().up = true;
        for lane in Lane::ALL {
            self.flush(net, node, lane);
        }
    }

    fn on_down<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        net: &mut C,
        node: NodeInstance,
        reason: DownReason,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.up = false;
        let waiting = core::mem::take(&mut peer.waiting);
        #[cfg(any(test, feature = "testing"))]
        if self.has(CallBug::ForgetsLostNodes) {
            return;
        }
        for call in waiting.into_values() {
            self.slot_done(now, net, (node, call), Outcome::NodeLost(reason));
        }
        if reason.is_final() {
            self.forget(node);
        }
    }

    fn on_message<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        net: &mut C,
        (from, lane): (NodeInstance, Lane),
        bytes: &Bytes,
    ) {
        let limits = Limits { bytes_max: self.limits.message_max, ..Limits::default() };
        if bytes.len() > self.limits.message_max {
            self.stats.malformed += 1;
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else {
            self.stats.strangers += 1;
            return;
        };
        match Message::parse(bytes, &limits) {
            Ok(Message::Answer { id, result }) => match peer.waiting.remove(&(lane, id)) {
                Some(call) => {
                    self.stats.answers += 1;
                    let optional = self.calls.get(&call).is_some_and(|c| c.options.need == Need::Optional);
                    let outcome = match result {
                        Some(Ok(body)) => Outcome::Answered(body),
                        Some(Err(fault)) => Outcome::Refused(fault),
                        None if optional => Outcome::Unanswered,
                        None => {
                            Outcome::Refused(Fault::new(Fault::INTERNAL, "the method declined to answer"))
                        }
                    };
                    self.slot_done(now, net, (from, call), outcome);
                }
                None => self.stats.late_answers += 1,
            },
            Ok(Message::Request { id, need, deadline, method, body }) => {
                self.on_request(now, net, (from, lane, id), (need, deadline, method, body));
            }
            Ok(Message::Cancel { id }) => {
                if let Some(ticket) = peer.running.get(&(lane, id)).copied() {
                    self.abandon(ticket);
                }
            }
            Err(_) => self.stats.malformed += 1,
        }
    }

    /// Something became of a call at one node.
    fn slot_done<C: Connectivity + ?Sized>(
        &mut self,
        now: Instant,
        net: &mut C,
        (node, id): (NodeInstance, CallId),
        outcome: Outcome,
    ) {
        let Some(call) = self.calls.get_mut(&id) else {
            #[cfg(any(test, feature = "testing"))]
            if self.has(CallBug::CompletesTwice) {
                let results = vec![(node, outcome)];
                self.outputs.push_back(Output::Completed(Completion { call: id, results }));
            }
            return;
        };
        let slot = call.results.iter_mut().find(|(of, slot)| *of == node && matches!(slot, Slot::Waiting(_)));
        let Some((_, slot)) = slot else { return };
        *slot = Slot::Done(outcome);
        self.outstanding -= 1;
        self.settle(now, net, id);
    }

    /// Tries another node, or completes the call if there is nothing more to wait for.
    fn settle<C: Connectivity + ?Sized>(&mut self, now: Instant, net: &mut C, id: CallId) {
        while self.try_another(now, net, id) {}
        let Some(call) = self.calls.get(&id) else { return };
        let waiting = call.results.iter().any(|(_, slot)| matches!(slot, Slot::Waiting(_)));
        let answered =
            call.results.iter().filter(|(_, slot)| matches!(slot, Slot::Done(Outcome::Answered(_)))).count();
        let enough = call.options.enough.is_some_and(|enough| answered >= enough);
        if !waiting || enough {
            self.end(net, id, &Outcome::Cancelled, true);
        }
    }

    /// True if the call was to any node, the one that was tried does not do, and another was tried just now.
    fn try_another<C: Connectivity + ?Sized>(&mut self, now: Instant, net: &mut C, id: CallId) -> bool {
        let Some(call) = self.calls.get_mut(&id) else { return false };
        let repeatable = call.options.repeatable;
        let again = match call.results.as_slice() {
            [(_, Slot::Done(Outcome::NotSent(_)))] => true,
            [(_, Slot::Done(Outcome::NodeLost(_)))] => repeatable,
            [(_, Slot::Done(Outcome::Refused(fault)))] => repeatable && fault.code == Fault::BUSY,
            _ => false,
        };
        if !again || call.at <= now {
            return false;
        }
        let Some(mut spare) = call.spare.take() else { return false };
        let mut options = call.options.clone();
        options.deadline = call.at - now;
        let next = self.pick(&mut spare.nodes);
        let Some(next) = next else { return false };
        let slot = self.send_request(net, (next, id), (&spare.method, &spare.body), &options);
        self.outstanding += usize::from(matches!(slot, Slot::Waiting(_)));
        if let Some(call) = self.calls.get_mut(&id) {
            call.results = vec![(next, slot)];
            call.spare = Some(spare);
        }
        true
    }

    fn expire<C: Connectivity + ?Sized>(&mut self, net: &mut C, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        let outcome =
            if call.options.need == Need::Optional { Outcome::Unanswered } else { Outcome::TimedOut };
        // The other side has the same deadline.
        self.end(net, id, &outcome, false);
    }

    /// Completes a call with `outcome` where nothing else became of it.
    fn end<C: Connectivity + ?Sized>(&mut self, net: &mut C, id: CallId, outcome: &Outcome, tell: bool) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.timers.remove(&(call.at, Due::Call(id)));
        let lane = call.options.lane;
        let mut results = Vec::with_capacity(call.results.len());
        for (node, slot) in call.results {
            let outcome = match slot {
                Slot::Done(outcome) => outcome,
                Slot::Waiting(number) => {
                    self.outstanding -= 1;
                    self.unwait(node, (lane, number));
                    let cancel = Message::Cancel { id: number }.emit().expect("a number can be written");
                    if tell && net.send(node, lane, Channel::CALLS, cancel).is_err() {
                        tracing::trace!(%node, "a cancel found no room; the deadline ends it there");
                    }
                    outcome.clone()
                }
            };
            results.push((node, outcome));
        }
        self.outputs.push_back(Output::Completed(Completion { call: id, results }));
    }

    fn unwait(&mut self, node: NodeInstance, number: (Lane, u64)) {
        #[cfg(any(test, feature = "testing"))]
        if self.has(CallBug::CompletesTwice) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.waiting.remove(&number);
        }
    }
}

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 0,
        Lane::Small => 1,
        Lane::Bulk => 2,
    }
}
