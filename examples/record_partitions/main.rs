//! A node that writes down what it sees, sends and delivers in a group that goes on in any partition, a JSON object a line. The histories of
//! several nodes are put together and judged by `ocf_groups::testing::check_partitions`.
//!
//! `record_partitions CONFIG HISTORY STOP`: sends a message after the other until there is a file STOP. `tests/histories` cuts a cluster of
//! them in two, kills some, and judges.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]

use bytes::Bytes;
use ocf::{Node, NodeConfig, NodeEvent, PartitionEvent, PartitionGroups};
use ocf_groups::{Event, Guarantee, MemberId, Position};
use ocf_membership::Member;
use ocf_membership::partitionable::PartitionView;
use pils::NodeInstance;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, io};

const GROUP: &str = "history";
/// Between two messages of a node, at least: enough to have some under way whenever something happens.
const PACE: Duration = Duration::from_millis(5);

fn instance(i: NodeInstance) -> Value {
    json!([i.node.raw(), i.incarnation.raw().to_string()])
}

fn place(position: Position) -> Value {
    json!([position.view.0, position.sequence])
}

fn list(members: &[MemberId]) -> Value {
    members.iter().map(|m| instance(m.instance)).collect()
}

fn view(entered: &PartitionView) -> Value {
    let members = |list: &[Member]| -> Value {
        list.iter().map(|m| json!([instance(m.instance), m.joined.0, m.votes])).collect()
    };
    let came = |list: &[NodeInstance]| -> Value { list.iter().copied().map(instance).collect() };
    let parents: Value = entered.parents.iter().map(|p| json!([p.number.0, came(&p.came)])).collect();
    let view = &entered.view;
    json!({
        "number": view.number.0, "round": view.ballot.round, "proposer": instance(view.ballot.proposer),
        "members": members(&view.members), "previous": members(&view.previous), "quorum": view.quorum, "level": view.level,
        "parents": parents, "primary": entered.primary.map(|primary| primary.0),
    })
}

/// The application: what was delivered in order, folded into a number.
struct Recorder<'a> {
    file: File,
    local: NodeInstance,
    groups: PartitionGroups<'a>,
    /// `None` while it waits for the state.
    digest: Option<u64>,
    sent: u64,
}

impl Recorder<'_> {
    /// A line that was written stays, also if the process is killed.
    fn write(&mut self, what: &str, mut line: Value) -> io::Result<()> {
        let time = clock_gettime(ClockId::Monotonic);
        (line["what"], line["at"]) = (json!(what), json!(time.tv_sec * 1_000_000_000 + time.tv_nsec));
        writeln!(self.file, "{line}")
    }

    fn write_digest(&mut self, position: Position) -> io::Result<()> {
        let line = json!({ "place": place(position), "digest": self.digest });
        self.write("digest", line)
    }

    fn send(&mut self) -> io::Result<()> {
        let kinds = [Guarantee::Safe, Guarantee::Agreed, Guarantee::Fifo];
        let guarantee = kinds[usize::try_from(self.sent % 3).unwrap_or(0)];
        let payload = format!("{} {}", self.local, self.sent);
        // Before it is sent: nobody may have what no history says was sent, also if this process is killed now.
        self.write("sent", json!({ "guarantee": format!("{guarantee:?}"), "payload": payload }))?;
        if self.groups.send(GROUP, 0, guarantee, Bytes::from(payload)).is_err() {
            // It waits to be a member again.
            return self.write("refused", json!({}));
        }
        self.sent += 1;
        Ok(())
    }

    fn told(&mut self, event: Event) -> io::Result<()> {
        let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
        match event {
            Event::Message { position, sender, guarantee, payload, .. } => {
                self.write(
                    "message",
                    json!({
                        "place": place(position), "sender": instance(sender.instance),
                        "guarantee": format!("{guarantee:?}"), "payload": text(&payload),
                    }),
                )?;
                if let Some(digest) = &mut self.digest {
                    *digest =
                        payload.iter().fold(*digest, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
                    self.write_digest(position)?;
                }
                Ok(())
            }
            Event::Fifo { sender, view, number, payload, .. } => self.write(
                "fifo",
                json!({ "view": view.0, "number": number, "sender": instance(sender.instance), "payload": text(&payload) }),
            ),
            Event::Membership { position, members, joined, left, .. } => {
                if members == joined && members.iter().all(|m| m.instance == self.local) {
                    self.digest = Some(0);
                }
                let (members, joined, left) = (list(&members), list(&joined), list(&left));
                let at = place(position);
                self.write("membership", json!({ "place": at, "members": members, "joined": joined, "left": left }))
            }
            Event::StateWanted { group, joiner, position } => {
                let state = self.digest.map(|digest| Bytes::copy_from_slice(&digest.to_be_bytes()));
                // Refused if the joiner is to get a later state: then there is another question.
                state.map(|state| self.groups.offer_state(&group, joiner, position, state).is_ok());
                Ok(())
            }
            Event::State { position, state, .. } => {
                self.digest = Some(state.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
                self.write("state", json!({ "place": place(position) }))?;
                self.write_digest(position)
            }
            Event::StateLost { position, .. } => {
                self.digest = Some(0);
                self.write("state lost", json!({ "place": place(position) }))
            }
            Event::Reset { .. } => {
                self.digest = None;
                self.write("reset", json!({}))
            }
            _ => Ok(()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    ocf::run_sentinel_if_asked();
    let words: Vec<String> = env::args().skip(1).collect();
    let [config, path, stop] = words.as_slice() else { return Err("CONFIG HISTORY STOP".into()) };
    let node = Node::builder(NodeConfig::from_toml(&fs::read_to_string(config)?)?).start()?;
    let groups = node.partition().ok_or("the configuration does not say partition_groups = true")?;
    let (local, file) = (node.local(), File::create(path)?);
    let mut recorder = Recorder { file, local, groups, digest: None, sent: 0 };
    recorder.write("started", json!({ "who": instance(local) }))?;
    groups.join(GROUP, 0)?;
    let mut last = Instant::now();
    while node.stopped().is_none() {
        match node.next_event(PACE).map(|numbered| numbered.event) {
            Some(NodeEvent::Partition(PartitionEvent::View(entered))) => {
                recorder.write("view", view(&entered))?;
            }
            Some(NodeEvent::Partition(PartitionEvent::Group(event))) => recorder.told(event)?,
            Some(NodeEvent::Group(Event::View(primary))) => {
                let members: Value = primary.members.iter().map(|m| instance(m.instance)).collect();
                recorder.write("primary", json!({ "number": primary.number.0, "members": members }))?;
            }
            _ => {}
        }
        if last.elapsed() >= PACE && !Path::new(stop).exists() {
            last = Instant::now();
            recorder.send()?;
        }
    }
    Ok(())
}
