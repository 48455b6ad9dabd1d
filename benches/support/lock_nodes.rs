//! Lock managers on endpoints over loopback: the engine runs on its reactor's thread, and so does the program that locks.
//!
//! There is no membership here: all three nodes are in the first view as soon as they hear each other, and the bench says
//! when one is gone. No engine timer runs but for what a recovery leaves to be gone on with at once.
#![expect(clippy::wildcard_enum_match_arm, reason = "what a measurement does not expect ends it")]

use super::Samples;
use super::circuit::{Application, CHANNEL, Order, PATIENCE, Started, ports, run};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use ocf_comm::driver::Remote;
use ocf_comm::{Endpoint, Event, Lane, SendError};
use ocf_dlm::cluster::{Ask, ClusterView, Completed, Config, Engine, Input, Output, ViewMember};
use ocf_dlm::directory::{Placement, Slot, Weighted};
use ocf_dlm::wire::Key;
use ocf_dlm::{ClientId, Flags, Mode, Status};
use pils::{Instant, Layer, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{self, Duration};

/// Nodes, as in all figures of three.
pub const NODES: usize = 3;
/// Locks that are asked for without waiting for the first of them.
const WINDOW: usize = 256;

/// What a node is to do.
#[derive(Debug)]
pub enum Task {
    /// Lock each name in this mode and keep it; then report `Done`.
    Hold(Vec<Key>, Mode),
    /// Give back what is held in NL; then report `Done`.
    Release,
    /// Lock in EX and unlock, one after the other, the names in turn, this many times; then report `Samples`.
    OneByOne(Vec<Key>, usize),
    /// The same without an end, until `Stop`.
    Forever(Key),
    /// Ends `Forever`; then report `Samples`.
    Stop,
    /// Lock in EX and unlock, `WINDOW` at a time, this many times; then report `Rate`.
    Pipelined(Vec<Key>, usize),
    /// Hold the name in EX, give it back to whoever wants it, and ask for it again, for ever; report `Done` when it is held first.
    GiveWay(Key),
    /// A node is gone.
    View(ClusterView),
}

/// What a node has to say.
#[derive(Debug)]
pub enum Report {
    /// It is in the first view.
    Ready,
    /// Everything is held, or given back.
    Done,
    /// How long each lock took, in microseconds.
    Samples(Samples),
    /// Pairs of lock and unlock in a second.
    Rate(f64),
    /// The recovery of a view is over on every member.
    Recovered(time::Instant),
}

enum Work {
    Nothing,
    GiveWay { key: Key, reported: bool },
    Hold { keys: VecDeque<Key>, mode: Mode, open: usize },
    OneByOne { keys: Vec<Key>, left: usize, sent: time::Instant, samples: Vec<Duration> },
    Pipelined { keys: Vec<Key>, to_ask: usize, left: usize, total: usize, started: time::Instant },
}

pub struct LockNode {
    engine: Engine,
    peers: BTreeSet<NodeInstance>,
    waiting: BTreeMap<NodeInstance, VecDeque<Bytes>>,
    held: Vec<u64>,
    keys: BTreeMap<u64, Key>,
    work: Work,
    reports: Sender<Report>,
    /// To come back to what the engine left to be done.
    remote: Option<Remote<Order<Self>>>,
    coming_back: bool,
    /// The turn in which the engine last went on.
    worked: Option<Instant>,
}

/// What is measured are locks of another node: they must not move to where they are used.
fn config() -> Config {
    Config { move_after: Duration::ZERO, ..Config::default() }
}

impl LockNode {
    fn new(local: NodeInstance, reports: Sender<Report>) -> Self {
        Self {
            engine: Engine::new(config(), local).expect("the default configuration is good"),
            peers: BTreeSet::from([local]),
            waiting: BTreeMap::new(),
            held: Vec::new(),
            keys: BTreeMap::new(),
            work: Work::Nothing,
            reports,
            remote: None,
            coming_back: false,
            worked: None,
        }
    }

    /// The engine goes on with what it left to be done, when packets that are here already were looked at.
    fn come_back(&mut self, now: Instant) {
        let due = self.engine.poll_timeout().is_some_and(|due| due <= now);
        let Some(remote) = self.remote.as_ref().filter(|_| due && !self.coming_back) else { return };
        let order: Order<Self> = Box::new(|node, endpoint, now| {
            node.coming_back = false;
            // Once in each turn of the reactor, as it calls a layer whose timer is due again.
            if node.worked.replace(now) != Some(now) {
                node.engine.handle_timeout(now);
            }
            node.turn(endpoint, now);
        });
        self.coming_back = remote.post(order).is_ok();
    }

    fn report(&self, report: Report) {
        self.reports.send(report).expect("someone waits for it");
    }

    fn take(&mut self, endpoint: &mut Endpoint, now: Instant, task: Task) {
        match task {
            Task::Hold(keys, mode) => {
                self.work = Work::Hold { keys: keys.into(), mode, open: 0 };
                self.hold_more(now);
            }
            Task::Release => {
                for lock in std::mem::take(&mut self.held) {
                    self.engine.unlock(now, lock, Flags::NONE, None).expect("it is held");
                }
                self.report(Report::Done);
            }
            Task::OneByOne(keys, left) => {
                let (sent, samples) = (time::Instant::now(), Vec::new());
                self.work = Work::OneByOne { keys, left, sent, samples };
                self.next(now);
            }
            Task::Forever(key) => self.take(endpoint, now, Task::OneByOne(vec![key], usize::MAX >> 32)),
            Task::Stop => {
                if let Work::OneByOne { left, .. } = &mut self.work {
                    *left = 1;
                }
            }
            Task::Pipelined(keys, total) => {
                let started = time::Instant::now();
                let first: Vec<Key> = keys.iter().take(WINDOW).cloned().collect();
                let to_ask = total - first.len();
                self.work = Work::Pipelined { keys, to_ask, left: total, total, started };
                for key in first {
                    self.ask(now, key, Mode::Ex);
                }
            }
            Task::GiveWay(key) => {
                self.work = Work::GiveWay { key: key.clone(), reported: false };
                self.ask(now, key, Mode::Ex);
            }
            Task::View(view) => {
                self.waiting.retain(|to, _| view.members.iter().any(|m| m.instance == *to));
                self.engine.handle(now, Input::View(&view));
            }
        }
        self.turn(endpoint, now);
    }

    fn ask(&mut self, now: Instant, key: Key, mode: Mode) {
        let gives_way = matches!(self.work, Work::GiveWay { .. });
        let ask = Ask {
            client: ClientId::new(1),
            key: key.clone(),
            parent: None,
            mode,
            flags: if gives_way { Flags::NOTIFY } else { Flags::NONE },
            transaction: None,
            deadline: None,
            signal: 0,
        };
        let lock = self.engine.lock(now, ask).expect("there is room");
        if matches!(self.work, Work::Pipelined { .. }) {
            self.keys.insert(lock, key);
        }
    }

    fn hold_more(&mut self, now: Instant) {
        while let Work::Hold { keys, mode, open } = &mut self.work {
            if *open == WINDOW {
                return;
            }
            let Some(key) = keys.pop_front() else {
                if *open == 0 {
                    self.work = Work::Nothing;
                    self.report(Report::Done);
                }
                return;
            };
            *open += 1;
            let mode = *mode;
            self.ask(now, key, mode);
        }
    }

    /// Asks for the next of locks that are taken one after the other.
    fn next(&mut self, now: Instant) {
        let Work::OneByOne { keys, left, sent, .. } = &mut self.work else { return };
        let key = keys[*left % keys.len()].clone();
        *sent = time::Instant::now();
        self.ask(now, key, Mode::Ex);
    }

    fn completed(&mut self, now: Instant, done: &Completed) {
        assert_eq!(done.status, Status::Granted, "nobody is in the way");
        match &mut self.work {
            Work::Hold { open, .. } => {
                *open -= 1;
                if done.held == Some(Mode::Nl) {
                    self.held.push(done.lock);
                }
                self.hold_more(now);
            }
            Work::OneByOne { left, sent, samples, .. } => {
                samples.push(sent.elapsed());
                *left -= 1;
                let over = *left == 0;
                self.engine.unlock(now, done.lock, Flags::NONE, None).expect("it is held");
                if !over {
                    self.next(now);
                } else if let Work::OneByOne { samples, .. } =
                    std::mem::replace(&mut self.work, Work::Nothing)
                {
                    self.report(Report::Samples(Samples::micros(samples)));
                }
            }
            Work::Pipelined { to_ask, left, .. } => {
                *left -= 1;
                let (over, more) = (*left == 0, *to_ask > 0);
                *to_ask = to_ask.saturating_sub(1);
                self.engine.unlock(now, done.lock, Flags::NONE, None).expect("it is held");
                let key = self.keys.remove(&done.lock).expect("it was asked for");
                if more {
                    self.ask(now, key, Mode::Ex);
                } else if over
                    && let Work::Pipelined { total, started, .. } =
                        std::mem::replace(&mut self.work, Work::Nothing)
                {
                    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
                    let rate = total as f64 / started.elapsed().as_secs_f64();
                    self.report(Report::Rate(rate));
                }
            }
            Work::GiveWay { reported, .. } => {
                if !std::mem::replace(reported, true) {
                    self.report(Report::Done);
                }
            }
            Work::Nothing => {}
        }
    }

    /// Another wants what is held.
    fn wanted(&mut self, now: Instant, lock: u64) {
        let Work::GiveWay { key, .. } = &self.work else { return };
        let key = key.clone();
        self.engine.unlock(now, lock, Flags::NONE, None).expect("it is held");
        self.ask(now, key, Mode::Ex);
    }

    fn send(&mut self, endpoint: &mut Endpoint, now: Instant, to: NodeInstance, message: Bytes) {
        let queue = self.waiting.entry(to).or_default();
        queue.push_back(message);
        while let Some(message) = queue.front() {
            match endpoint.send(now, to, Lane::Urgent, CHANNEL, message.clone()) {
                Ok(()) => drop(queue.pop_front()),
                Err(SendError::Full { .. } | SendError::Down(_)) => return,
                Err(error) => panic!("a quiet loopback, yet {error}"),
            }
        }
    }

    fn flush(&mut self, endpoint: &mut Endpoint, now: Instant, to: NodeInstance) {
        if let Some(message) = self.waiting.get_mut(&to).and_then(VecDeque::pop_back) {
            self.send(endpoint, now, to, message);
        }
    }
}

impl Application for LockNode {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        match event {
            Event::Up { peer } => {
                let known = !self.peers.insert(peer);
                if !known && self.peers.len() == NODES {
                    let view = view(1, self.peers.iter().copied(), &[]);
                    self.engine.handle(now, Input::View(&view));
                }
                self.flush(endpoint, now, peer);
            }
            Event::Message { from, lane, message, .. } => {
                self.engine.handle(now, Input::Message { from, message: &message });
                endpoint.consumed(now, from, lane, message.len());
            }
            Event::Writable { peer, .. } => self.flush(endpoint, now, peer),
            // The bench kills one, and says so itself.
            _ => {}
        }
    }

    fn turn(&mut self, endpoint: &mut Endpoint, now: Instant) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { to, message } => self.send(endpoint, now, to, message),
                Output::Completed(done) => self.completed(now, &done),
                Output::Blocking { lock, .. } => self.wanted(now, lock),
                Output::Recovered { epoch: 1 } => self.report(Report::Ready),
                Output::Recovered { .. } => self.report(Report::Recovered(time::Instant::now())),
                Output::FenceWanted(_) => {}
                other => panic!("nothing else happens here, yet {other:?}"),
            }
        }
        self.come_back(now);
    }
}

fn view(number: u64, members: impl Iterator<Item = NodeInstance>, previous: &[NodeInstance]) -> ClusterView {
    ClusterView {
        number,
        members: members.map(|instance| ViewMember { instance, weight: 1, joined: 1 }).collect(),
        previous: previous.iter().map(|instance| Weighted { instance: *instance, weight: 1 }).collect(),
        unproven: Vec::new(),
    }
}

/// Three nodes that have met.
pub struct Three {
    nodes: Vec<(Started<LockNode>, Receiver<Report>)>,
    placement: Placement,
}

impl Three {
    pub fn start() -> Self {
        let bound: Vec<_> = (1..).zip((0..NODES).map(|_| ports())).collect();
        let addresses: Vec<_> = bound.iter().map(|(id, (_, address))| (*id, *address)).collect();
        let start = |(id, (ports, _))| {
            let (reports, heard) = unbounded();
            let peers: Vec<_> = addresses.iter().copied().filter(|(peer, _)| *peer != id).collect();
            (run((ports, id), &peers, |local| LockNode::new(local, reports)), heard)
        };
        let nodes: Vec<(Started<LockNode>, Receiver<Report>)> = bound.into_iter().map(start).collect();
        let weighted: Vec<_> =
            nodes.iter().map(|(node, _)| Weighted { instance: node.local, weight: 1 }).collect();
        for (node, _) in &nodes {
            let remote = node.remote.clone();
            node.order(move |node, endpoint, now| {
                node.remote = Some(remote);
                node.turn(endpoint, now);
            });
        }
        let three = Self { nodes, placement: Placement::new(&weighted) };
        for at in 0..NODES {
            assert!(matches!(three.hear(at), Report::Ready), "nodes on loopback meet");
        }
        three
    }

    pub fn tell(&self, at: usize, task: Task) {
        self.nodes[at].0.order(move |node, endpoint, now| node.take(endpoint, now, task));
    }

    pub fn hear(&self, at: usize) -> Report {
        self.nodes[at].1.recv_timeout(PATIENCE).expect("the measurement goes on")
    }

    /// Does it, and waits until it is done.
    pub fn done(&self, at: usize, task: Task) {
        self.tell(at, task);
        assert!(matches!(self.hear(at), Report::Done), "nothing else is under way");
    }

    pub fn samples(&self, at: usize, task: Task) -> Samples {
        self.tell(at, task);
        match self.hear(at) {
            Report::Samples(samples) => samples,
            other => panic!("samples were asked for, not {other:?}"),
        }
    }

    /// Does it on all nodes at once, and waits until all are done.
    pub fn all(&self, task: impl Fn(usize) -> Task) {
        (0..NODES).for_each(|at| self.tell(at, task(at)));
        (0..NODES).for_each(|at| assert!(matches!(self.hear(at), Report::Done), "nothing else is under way"));
    }

    pub fn rate(&self, at: usize, task: Task) -> f64 {
        self.tell(at, task);
        match self.hear(at) {
            Report::Rate(rate) => rate,
            other => panic!("a rate was asked for, not {other:?}"),
        }
    }

    /// When that node has heard that the recovery is over everywhere.
    pub fn recovered(&self, at: usize) -> time::Instant {
        match self.hear(at) {
            Report::Recovered(when) => when,
            other => panic!("it is recovering, yet {other:?}"),
        }
    }

    /// `count` names that begin with `what` and whose directory entry that node keeps.
    pub fn kept_by(&self, at: usize, what: &str, count: usize) -> Vec<Key> {
        let local = self.nodes[at].0.local;
        let keys = (0_u32..).map(|number| Key::root(b"bench", format!("{what}{number}").as_bytes()));
        keys.filter(|key| self.placement.owner(Slot::of(&key.tree)) == local).take(count).collect()
    }

    /// The last node dies, and the others hear of it. When they do.
    pub fn kill_the_last(&mut self) -> time::Instant {
        let all: Vec<NodeInstance> = self.nodes.iter().map(|(node, _)| node.local).collect();
        let (last, _) = self.nodes.pop().expect("three nodes");
        last.kill();
        let view = view(2, all[..NODES - 1].iter().copied(), &all);
        let started = time::Instant::now();
        for at in 0..self.nodes.len() {
            self.tell(at, Task::View(view.clone()));
        }
        started
    }
}
