//! A node that writes down what it sees, sends and delivers, a JSON object a line with the time of the machine's monotonic clock, so that the
//! histories of several nodes on one machine can be put together and judged by the checkers of the simulator.
//!
//! `record_history CONFIG HISTORY STOP [BUG]`: sends a message after the other until there is a file STOP. With BUG, the name of one of
//! `ocf::sim::cluster::Bug`, the node has that bug. `tests/histories` runs three of them, does bad things to them, and judges.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]

use bytes::{BufMut, Bytes, BytesMut};
use ocf::sim::cluster::Bug;
use ocf::{Application, Here, Node, NodeConfig, NodeEvent, Numbered};
use ocf_comm::Lane;
use ocf_groups::{Event, Guarantee, Position};
use ocf_membership::{Member, Sabotage, View};
use pils::NodeInstance;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

const GROUP: &str = "history";
/// Between two looks at whether this node may act.
const LOOK: Duration = Duration::from_millis(1);
/// A look that took longer says nothing: the process stood still. In nanoseconds.
const PROMPT: u64 = 1_000_000;
/// Between two messages of a node, at least, in nanoseconds: enough to have some under way whenever something happens.
const PACE: u64 = 2_000_000;

/// Nanoseconds of the clock that all processes of a machine share.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

fn instance(i: NodeInstance) -> Value {
    json!([i.node.raw(), i.incarnation.raw().to_string()])
}

fn place(position: Position) -> Value {
    json!([position.view.0, position.sequence])
}

/// Where the lines go. A line that was written stays, also if the process is killed.
#[derive(Clone)]
struct History(Arc<Mutex<File>>);

impl History {
    fn write(&self, at: u64, what: &str, mut line: Value) {
        (line["at"], line["what"]) = (json!(at), json!(what));
        let mut file = self.0.lock().expect("nobody panics while writing");
        writeln!(file, "{line}").expect("the history can be written");
    }
}

/// The application: a log, folded into a number, of messages that name their sender, its epoch and their number.
struct Recorder {
    history: History,
    stop: std::path::PathBuf,
    count: u64,
    digest: u64,
    synced: bool,
    epoch: u32,
    next: u64,
    /// An own message is under way.
    waits: bool,
    /// When the last was sent.
    last: u64,
    /// The newest view that was known in this half when the tie-breaker was asked.
    asked: u64,
}

impl Recorder {
    fn log(&self) -> Value {
        json!([self.count, self.digest])
    }

    fn state(&self) -> Bytes {
        let mut state = BytesMut::new();
        state.put_u64(self.count);
        state.put_u64(self.digest);
        state.freeze()
    }

    fn send(&mut self, here: &mut Here<'_>) {
        let at = now();
        if self.waits || at - self.last < PACE || self.stop.exists() {
            return;
        }
        let guarantee = if self.next.is_multiple_of(3) { Guarantee::Safe } else { Guarantee::Agreed };
        let mut payload = BytesMut::new();
        payload.put_u32(here.local().node.raw());
        payload.put_u128(here.local().incarnation.raw());
        payload.put_u32(self.epoch);
        payload.put_u64(self.next);
        if here.send(GROUP, 0, guarantee, payload.freeze()).is_err() {
            return;
        }
        let safe = guarantee == Guarantee::Safe;
        self.history.write(at, "sent", json!({ "epoch": self.epoch, "number": self.next, "safe": safe }));
        self.next += 1;
        (self.waits, self.last) = (true, at);
    }

    fn delivered(&mut self, here: &Here<'_>, position: Position, guarantee: Guarantee, payload: &[u8]) {
        let at = now();
        self.count += 1;
        for byte in payload {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let field = |from: usize, to: usize| payload[from..to].iter().fold(0, |n, b| n << 8 | u128::from(*b));
        let (node, incarnation) = (field(0, 4), field(4, 20));
        let safe = guarantee == Guarantee::Safe;
        let sender = json!([u64::try_from(node).unwrap_or(0), incarnation.to_string()]);
        let id = [field(20, 24), field(24, 32)].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        let line = json!({
            "place": place(position), "sender": sender, "epoch": id[0], "number": id[1], "safe": safe, "log": self.log(),
        });
        self.history.write(at, "delivered", line);
        let local = here.local();
        if (node, incarnation) == (u128::from(local.node.raw()), local.incarnation.raw()) {
            self.waits = false;
        }
    }

    fn view(&self, view: &View) {
        let members = |list: &[Member]| -> Vec<Value> {
            list.iter().map(|m| json!([instance(m.instance), m.joined.0, m.votes])).collect()
        };
        let line = json!({
            "number": view.number.0, "round": view.ballot.round, "proposer": instance(view.ballot.proposer),
            "members": members(&view.members), "previous": members(&view.previous), "quorum": view.quorum, "level": view.level,
            "log": self.synced.then(|| self.log()),
        });
        self.history.write(now(), "view", line);
    }

    fn group(&mut self, here: &mut Here<'_>, event: Event) {
        match event {
            Event::View(view) => self.view(&view),
            Event::Message { position, guarantee, payload, .. } => {
                self.delivered(here, position, guarantee, &payload);
            }
            Event::Membership { position, members, joined, .. } => {
                let me = here.local();
                let table: Vec<Value> = members.iter().map(|m| instance(m.instance)).collect();
                self.history.write(now(), "table", json!({ "place": place(position), "members": table }));
                if joined.iter().any(|m| m.instance == me) && members.iter().all(|m| m.instance == me) {
                    (self.count, self.digest, self.synced) = (0, 0, true);
                }
            }
            Event::StateWanted { group, joiner, position } => {
                let at = now();
                if here.offer_state(&group, joiner, position, self.state()).is_ok() {
                    let line = json!({ "place": place(position), "log": self.log() });
                    self.history.write(at, "offered", line);
                }
            }
            Event::State { position, state, .. } => {
                let number =
                    |from: usize| state[from..from + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
                (self.count, self.digest, self.synced) = (number(0), number(8), true);
                self.history.write(now(), "taken", json!({ "place": place(position), "log": self.log() }));
            }
            Event::StateLost { position, .. } => {
                (self.count, self.digest, self.synced) = (0, 0, true);
                self.history.write(now(), "state lost", json!({ "place": place(position) }));
            }
            Event::Reset { .. } => {
                self.synced = false;
                self.epoch += 1;
                (self.next, self.waits) = (0, false);
                self.history.write(now(), "reset", json!({}));
            }
            _ => {}
        }
    }
}

impl Application for Recorder {
    fn on_event(&mut self, here: &mut Here<'_>, event: Numbered) {
        match event.event {
            NodeEvent::Group(event) => self.group(here, event),
            NodeEvent::VotesChanged { revision, votes, .. } => {
                let votes: Vec<Value> = votes.iter().map(|v| json!([v.node.raw(), v.votes])).collect();
                self.history.write(now(), "set", json!({ "revision": revision, "votes": votes }));
            }
            NodeEvent::TieAsked(claim) => self.asked = claim.known.0,
            NodeEvent::TieWon { .. } => {
                self.history.write(now(), "tie won", json!({ "known": self.asked }));
            }
            _ => {}
        }
        // Others' messages outside the order come often enough to go on after a message was refused.
        self.send(here);
    }
}

/// Looks all the time whether this node acts, and has the others go on.
fn watch(node: &Node, history: &History) {
    let mut looks = 0_u32;
    while node.stopped().is_none() {
        let at = now();
        let view = || node.view().map(|view| view.number.0);
        let (before, acts, after) = (view(), node.is_active(), view());
        if acts && before == after && now() - at < PROMPT {
            // By the clock that tells the date, which tests set: nothing depends on it.
            let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            history.write(at, "acts", json!({ "view": before, "date": date }));
        }
        looks += 1;
        if looks.is_multiple_of(3) {
            for peer in node.snapshot().map(|snapshot| snapshot.peers).unwrap_or_default() {
                // One that is down needs none.
                let _sent = peer.instance.map(|i| node.send_to(i, Lane::Small, Bytes::from_static(b"go on")));
            }
        }
        thread::sleep(LOOK);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    ocf::run_sentinel_if_asked();
    let words: Vec<String> = env::args().skip(1).collect();
    let [config, path, stop, bug @ ..] = words.as_slice() else {
        return Err("CONFIG HISTORY STOP [BUG]".into());
    };
    let config = NodeConfig::from_toml(&fs::read_to_string(config)?)?;
    let history = History(Arc::new(Mutex::new(File::create(path)?)));
    let recorder = Recorder {
        history: history.clone(),
        stop: Path::new(stop).to_owned(),
        count: 0,
        digest: 0,
        synced: false,
        epoch: 0,
        next: 0,
        waits: false,
        last: 0,
        asked: 0,
    };
    let mut builder = Node::builder(config).application(recorder);
    for name in bug {
        let mut bugs = Bug::ALL.into_iter().chain([Bug::Membership(Sabotage::NoTieBreak)]);
        let bug = bugs.find(|bug| bug.name() == *name).ok_or("no bug has this name")?;
        builder = builder.put_back(bug);
    }
    let began = now();
    let node = builder.start()?;
    history.write(began, "started", json!({ "who": instance(node.local()) }));
    node.join(GROUP, 0)?;
    watch(&node, &history);
    Ok(())
}
