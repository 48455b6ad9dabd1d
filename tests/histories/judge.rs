//! Puts the histories of real nodes together and has the simulator's checkers judge them.

use ocf::sim::checkers::{OneView, PrimaryOverlap, QuorumChain, SenderOrder, TotalOrder, VirtualSynchrony};
use ocf::sim::cluster::{Log, MessageId, Record, ViewRecord};
use ocf::sim::{Checker, Entry, Stop, What};
use ocf_groups::{Guarantee, Position};
use ocf_membership::{Ballot, Member, ViewNumber};
use pils::{Incarnation, Instant, NodeId, NodeInstance};
use serde_json::Value;
use std::sync::Arc;

/// What one life of a node wrote, in its order.
pub(crate) struct Life {
    pub(crate) who: NodeInstance,
    entries: Vec<Entry<Record>>,
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn small(value: &Value) -> u32 {
    u32::try_from(number(value)).unwrap()
}

fn instance(value: &Value) -> NodeInstance {
    let incarnation = value[1].as_str().unwrap().parse().unwrap();
    NodeInstance::new(NodeId::new(small(&value[0])), Incarnation::new(incarnation))
}

fn position(value: &Value) -> Position {
    Position { view: ViewNumber(number(&value[0])), sequence: number(&value[1]) }
}

fn log(value: &Value) -> Log {
    Log { count: number(&value[0]), digest: number(&value[1]) }
}

fn members(value: &Value) -> Vec<Member> {
    let member = |m: &Value| Member {
        instance: instance(&m[0]),
        joined: ViewNumber(number(&m[1])),
        votes: small(&m[2]),
    };
    value.as_array().unwrap().iter().map(member).collect()
}

fn guarantee(line: &Value) -> Guarantee {
    if line["safe"] == true { Guarantee::Safe } else { Guarantee::Agreed }
}

fn id(sender: NodeInstance, line: &Value) -> MessageId {
    MessageId { sender, epoch: small(&line["epoch"]), number: number(&line["number"]) }
}

/// The entry of a line of the node `who`.
fn record(who: NodeInstance, line: &Value) -> Record {
    let place = || position(&line["place"]);
    match line["what"].as_str().unwrap() {
        "sent" => Record::Sent(id(who, line), guarantee(line), 32),
        "delivered" => {
            let id = id(instance(&line["sender"]), line);
            Record::Delivered(place(), id, guarantee(line), log(&line["log"]))
        }
        "view" => Record::View(Arc::new(ViewRecord {
            number: ViewNumber(number(&line["number"])),
            ballot: Ballot { round: number(&line["round"]), proposer: instance(&line["proposer"]) },
            members: members(&line["members"]),
            previous: members(&line["previous"]),
            quorum: small(&line["quorum"]),
            level: small(&line["level"]),
            log: Some(&line["log"]).filter(|log| !log.is_null()).map(log),
        })),
        "offered" => Record::StateOffered(place(), log(&line["log"])),
        "taken" => Record::StateTaken(place(), log(&line["log"])),
        "state lost" => Record::StateLost(place()),
        "reset" => Record::Reset,
        "acts" => Record::Resumed,
        other => panic!("no line is called {other}"),
    }
}

impl Life {
    /// From what the node wrote. The last line may be cut off: the node was killed.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let started = lines.iter().position(|line| line["what"] == "started")?;
        let first = lines.remove(started);
        let who = instance(&first["who"]);
        let entry = |line: &Value| Entry {
            at: Instant::from_nanos(number(&line["at"])),
            what: What::Program(Some(who), record(who, line)),
        };
        let mut entries =
            vec![Entry { at: Instant::ZERO, what: What::Started { instance: who, remembers: false } }];
        // By the clock, because two threads write.
        lines.sort_by_key(|line| number(&line["at"]));
        let mut view = None;
        lines.retain(|line| {
            if line["what"] == "view" {
                view = line["number"].as_u64();
            }
            // A look may be ahead of the news of the view that it was in.
            line["what"] != "acts" || line["view"].as_u64() == view
        });
        entries.extend(lines.iter().map(entry));
        let start = number(&first["at"]).min(lines.first().map_or(u64::MAX, |line| number(&line["at"])));
        entries[0].at = Instant::from_nanos(start);
        Some(Self { who, entries })
    }

    /// It was killed at this time at the latest.
    pub(crate) fn killed(&mut self, at: Instant) {
        let last = self.entries.iter().map(|entry| entry.at).max().unwrap_or(at);
        let what = What::Stopped { instance: self.who, how: Stop::Killed };
        self.entries.push(Entry { at: at.max(last), what });
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        let is = |entry: &&Entry<Record>| matches!(&entry.what, What::Program(_, record) if wanted(record));
        self.entries.iter().filter(is).count()
    }
}

/// Sorts what all lives saw, and returns how much each checker judged, or what is wrong.
pub(crate) fn judge(lives: &[Life]) -> Result<Vec<(&'static str, u64)>, String> {
    let mut all: Vec<Entry<Record>> = lives.iter().flat_map(|life| life.entries.iter().cloned()).collect();
    // Stable: what one node wrote stays in its order.
    all.sort_by_key(|entry| entry.at);
    let mut judged = Vec::new();
    let looks = |entry: &&Entry<Record>| matches!(&entry.what, What::Program(_, Record::Resumed));
    let mut run = |checker: &mut dyn Checker<Record>, skip: &dyn Fn(&Entry<Record>) -> bool| {
        for entry in all.iter().filter(|entry| !skip(entry)) {
            checker.observe(entry).map_err(|why| format!("{}: at {}: {why}", checker.name(), entry.at))?;
        }
        checker.finish().map_err(|why| format!("{}: {why}", checker.name()))?;
        judged.push((checker.name(), checker.judged()));
        Ok::<(), String>(())
    };
    run(&mut OneView::default(), &|_| false)?;
    run(&mut QuorumChain::default(), &|_| false)?;
    run(&mut TotalOrder::default(), &|_| false)?;
    run(&mut VirtualSynchrony::default(), &|_| false)?;
    run(&mut SenderOrder::default(), &|_| false)?;
    // What is delivered late, because its process stood still, is not an act: whoever acts asks whether it may.
    let delivered = |entry: &Entry<Record>| matches!(&entry.what, What::Program(_, Record::Delivered(..)));
    run(&mut PrimaryOverlap::default(), &delivered)?;
    if all.iter().filter(looks).count() == 0 {
        return Err("nobody ever acted".to_owned());
    }
    Ok(judged)
}
