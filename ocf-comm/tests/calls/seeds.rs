use super::Node;
use core::time::Duration;
use ocf_comm::rpc::{
    Body, CallBug, CallId, CallLimits, CallOptions, Calls, Fault, Need, Outcome, Output, Target, Ticket,
};
use ocf_comm::{
    Channel, Connectivity, Event, Lane, MemoryHub, MemoryLimits, MemoryNode, PeerStatus, SendError,
};
use pils::{Instant, NodeId, NodeInstance, Rng, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const NODES: u32 = 4;
const STEPS: u32 = 150;
const METHODS: [&str; 3] = ["echo", "later", "never"];

/// A provider that breaks its promise at times: a message comes twice. The second copy is void for calls.
struct Doubling {
    net: MemoryNode,
    again: VecDeque<Event>,
    rng: Rng,
}

impl Connectivity for Doubling {
    fn local(&self) -> NodeInstance {
        self.net.local()
    }

    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: bytes::Bytes,
    ) -> Result<(), SendError> {
        self.net.send(to, lane, channel, message)
    }

    fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.again.pop_front() {
            return Some(event);
        }
        let event = self.net.poll_event()?;
        if matches!(event, Event::Message { .. }) && self.rng.chance(0.05) {
            self.again.push_back(event.clone());
        }
        Some(event)
    }

    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
        self.net.consumed(from, lane, bytes);
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.net.peers()
    }
}

/// What is known of a call that was made.
struct Made {
    content: i64,
    need: Need,
    at: Instant,
    deadline: Instant,
    /// The nodes were named, so that the call goes to no other later.
    named: bool,
}

struct Member {
    net: Doubling,
    calls: Calls,
    /// Requests that are answered later.
    held: Vec<(Ticket, i64)>,
    /// When each incarnation went down last.
    downs: BTreeMap<NodeInstance, Instant>,
    made: BTreeMap<CallId, Made>,
    done: BTreeSet<CallId>,
}

struct World {
    rng: Rng,
    hub: MemoryHub,
    now: Instant,
    members: Vec<Option<Member>>,
    lives: u128,
    contents: i64,
    bug: Option<CallBug>,
    /// Which content ran where.
    ran: BTreeSet<(i64, NodeInstance)>,
    answered: u64,
    lost: u64,
}

impl World {
    fn new(seed: u64, bug: Option<CallBug>) -> Self {
        let mut rng = Rng::new(seed);
        let window = usize::try_from(rng.between(300, 20_000)).expect("it holds in this test");
        let memory = MemoryLimits { send_queue: window, receive_window: window, ..MemoryLimits::default() };
        let mut world = Self {
            hub: MemoryHub::new(memory),
            now: Instant::ZERO,
            members: (0..NODES).map(|_| None).collect(),
            lives: 0,
            contents: 0,
            bug,
            ran: BTreeSet::new(),
            answered: 0,
            lost: 0,
            rng,
        };
        for i in 0..world.members.len() {
            world.start(i);
        }
        world
    }

    fn start(&mut self, i: usize) {
        self.lives += 1;
        let limits = CallLimits { running_max: 6, outstanding_max: 24, ..CallLimits::default() };
        let id = u32::try_from(i).expect("it holds in this test") + 1;
        let Node { net, mut calls } = Node::start(&self.hub, id, self.lives, limits);
        if let Some(bug) = self.bug {
            calls.sabotage(bug);
        }
        let net = Doubling { net, again: VecDeque::new(), rng: self.rng.fork() };
        let member = Member {
            net,
            calls,
            held: Vec::new(),
            downs: BTreeMap::new(),
            made: BTreeMap::new(),
            done: BTreeSet::new(),
        };
        self.members[i] = Some(member);
    }

    fn step(&mut self, faults: bool) {
        self.now += Duration::from_millis(self.rng.between(0, 30));
        let i = usize::try_from(self.rng.below(NODES.into())).expect("it holds in this test");
        let node = NodeId::new(u32::try_from(i).expect("it holds in this test") + 1);
        let other =
            NodeId::new(u32::try_from(self.rng.below(NODES.into())).expect("it holds in this test") + 1);
        match self.rng.below(100) {
            0..2 if faults => {
                self.hub.kill(node);
                self.members[i] = None;
            }
            2..6 if self.members[i].is_none() => self.start(i),
            6..9 if faults && node != other => self.hub.cut(node, other),
            9..14 if node != other => self.hub.heal(node, other),
            14..50 if faults => self.call(i),
            50..55 => self.cancel(i),
            _ => {}
        }
        // Some nodes are slow: what waits for them is their delay.
        for i in 0..self.members.len() {
            if self.rng.chance(0.5) {
                self.turn(i);
            }
        }
    }

    fn call(&mut self, i: usize) {
        let everyone: Vec<NodeInstance> = self.members.iter().flatten().map(|m| m.net.local()).collect();
        let Some(member) = &mut self.members[i] else { return };
        let others: Vec<_> = everyone.into_iter().filter(|n| *n != member.net.local()).collect();
        let Some(one) = self.rng.pick(&others).copied() else { return };
        let target = match self.rng.below(4) {
            0 => Target::Many(others.clone()),
            1 => Target::Any(others),
            2 => Target::Any(Vec::new()),
            _ => Target::One(one),
        };
        let named = !matches!(target, Target::Any(_));
        let need = *self
            .rng
            .pick(&[Need::Required, Need::Required, Need::Optional, Need::Nothing])
            .expect("it holds in this test");
        let options = CallOptions {
            need,
            deadline: Duration::from_millis(self.rng.between(20, 1500)),
            lane: *self.rng.pick(&Lane::ALL).expect("it holds in this test"),
            enough: self.rng.chance(0.3).then_some(1),
            repeatable: self.rng.chance(0.5),
        };
        self.contents += 1;
        let method = self.rng.pick(&METHODS).expect("it holds in this test");
        let body = Body::Value(self.contents.into());
        if let Ok(id) = member.calls.call(self.now, &mut member.net, (target, method, body), &options) {
            let deadline = self.now + options.deadline;
            member.made.insert(id, Made { content: self.contents, need, at: self.now, deadline, named });
        }
    }

    fn cancel(&mut self, i: usize) {
        let Some(member) = &mut self.members[i] else { return };
        let open: Vec<CallId> = member.made.keys().copied().filter(|id| !member.done.contains(id)).collect();
        if let Some(id) = self.rng.pick(&open) {
            let known = member.calls.cancel(&mut member.net, *id);
            assert!(known || !member.done.contains(id), "a call that is not complete can be cancelled");
        }
    }

    fn turn(&mut self, i: usize) {
        let Some(member) = &mut self.members[i] else { return };
        // Sometimes only a few events: the rest is late.
        let budget = if self.rng.chance(0.3) { 2 } else { usize::MAX };
        let mut taken = 0;
        while taken < budget
            && let Some(event) = member.net.poll_event()
        {
            if let Event::Down { peer, .. } = &event {
                member.downs.insert(*peer, self.now);
            }
            member.calls.handle(self.now, event, &mut member.net);
            taken += 1;
        }
        if self.rng.chance(0.5)
            && let Some((ticket, content)) = member.held.pop()
        {
            let me = member.net.local();
            member.calls.answer(&mut member.net, ticket, Ok(echo(content, me)));
        }
        member.calls.handle_timeout(self.now, &mut member.net);
        self.outputs(i);
    }

    fn outputs(&mut self, i: usize) {
        let Some(member) = &mut self.members[i] else { return };
        let me = member.net.local();
        while let Some(output) = member.calls.poll_output() {
            match output {
                Output::Request { ticket, method, body, .. } => {
                    let Body::Value(Value::Int(content)) = body else {
                        panic!("a body arrives as it was sent")
                    };
                    assert!(self.ran.insert((content, me)), "call {content} ran twice at {me}");
                    match (ticket, method.as_str()) {
                        (Some(ticket), "echo") => {
                            member.calls.answer(&mut member.net, ticket, Ok(echo(content, me)));
                        }
                        (Some(ticket), "later") => member.held.push((ticket, content)),
                        _ => {}
                    }
                }
                Output::Abandoned(ticket) => member.held.retain(|(held, _)| *held != ticket),
                Output::Completed(completion) => {
                    let id = completion.call;
                    assert!(member.done.insert(id), "{id:?} of {me} completed twice");
                    let made = &member.made.get(&id);
                    // A call that was complete before `call` returned is not known yet.
                    let Some(made) = made else { continue };
                    assert!(made.at <= self.now && !completion.results.is_empty());
                    for (node, outcome) in &completion.results {
                        self.answered += u64::from(matches!(outcome, Outcome::Answered(_)));
                        self.lost += u64::from(matches!(outcome, Outcome::NodeLost(_)));
                        check(&self.ran, made, *node, outcome);
                        let down = member.downs.get(node).is_some_and(|at| made.named && made.at < *at);
                        assert!(
                            !down || *outcome != Outcome::TimedOut,
                            "{id:?} waits for a node that went down"
                        );
                    }
                }
                other => panic!("{other:?} is new"),
            }
        }
        for (id, made) in &member.made {
            let open = !member.done.contains(id);
            assert!(!open || self.now < made.deadline, "{id:?} of {me} is open after its deadline");
        }
    }

    fn run(mut self) -> (u64, u64) {
        for _ in 0..STEPS {
            self.step(true);
        }
        for _ in 0..STEPS {
            self.step(false);
        }
        self.now += Duration::from_secs(1000);
        for _ in 0..3 {
            for i in 0..self.members.len() {
                self.turn(i);
            }
        }
        for member in self.members.iter().flatten() {
            assert_eq!(member.calls.load().0, 0, "every call is complete at the end");
            let running = member.calls.load().1;
            assert!(running <= 6 * 4, "{running} requests are kept");
        }
        (self.answered, self.lost)
    }
}

fn echo(content: i64, node: NodeInstance) -> Body {
    Body::Value(vec![Value::Int(content), Value::Text(node.to_string())].into())
}

fn check(ran: &BTreeSet<(i64, NodeInstance)>, made: &Made, node: NodeInstance, outcome: &Outcome) {
    match outcome {
        Outcome::Answered(body) => {
            assert_eq!(
                *body,
                echo(made.content, node),
                "the answer is that of this call at this incarnation"
            );
            assert!(ran.contains(&(made.content, node)), "what answered ran");
            assert_ne!(made.need, Need::Nothing);
        }
        Outcome::Refused(fault) => assert_eq!(fault.code, Fault::BUSY, "{fault}"),
        Outcome::Sent => assert_eq!(made.need, Need::Nothing),
        Outcome::Unanswered => assert_eq!(made.need, Need::Optional),
        Outcome::NotSent(_) => assert!(!ran.contains(&(made.content, node)), "what was not sent did not run"),
        Outcome::TimedOut => assert_eq!(made.need, Need::Required),
        Outcome::NodeLost(_) | Outcome::Cancelled => {}
        other => panic!("{other:?} is new"),
    }
}

#[test]
fn every_call_completes_once_in_time_and_runs_at_most_once_at_an_incarnation() {
    let (mut answered, mut lost) = (0, 0);
    for seed in 0..2000 {
        let (a, l) = World::new(seed, None).run();
        answered += a;
        lost += l;
    }
    assert!(answered > 10_000 && lost > 1_000, "the seeds try both: {answered} answered, {lost} lost");
}

fn is_found(bug: CallBug) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found =
        (0..300).find_map(|seed| std::panic::catch_unwind(|| World::new(seed, Some(bug)).run()).err());
    std::panic::set_hook(hook);
    let found = found.expect("three hundred seeds find the defect");
    found.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn defects_that_are_put_in_are_found() {
    let twice = is_found(CallBug::RunsDuplicates);
    assert!(twice.contains("ran twice"), "{twice}");
    let completes = is_found(CallBug::CompletesTwice);
    assert!(completes.contains("completed twice"), "{completes}");
    let forgets = is_found(CallBug::ForgetsLostNodes);
    assert!(forgets.contains("went down"), "{forgets}");
}
