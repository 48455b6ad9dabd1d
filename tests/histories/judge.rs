//! Puts the histories of real nodes together and has the simulator's checkers judge them.

use ocf::sim::checkers::{
    DeadMembers, NodeSet, OneView, PrimaryOverlap, QuorumChain, SenderOrder, StateKept, Steady, TotalOrder,
    VirtualSynchrony,
};
use ocf::sim::cluster::{Log, MessageId, Record, ViewRecord};
use ocf::sim::{Checker, Entry, Stop, What};
use ocf_groups::{Guarantee, Position};
use ocf_membership::{Ballot, Member, ViewNumber};
use pils::{Incarnation, Instant, NodeId, NodeInstance};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The default of `ocf_membership::Config::forget_after`.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// A date that changes by more seconds than this from one look to the next was set.
const DATE_STEP: u64 = 1_000;

/// What one life of a node wrote, in its order.
pub(crate) struct Life {
    who: NodeInstance,
    entries: Vec<Entry<Record>>,
    /// Who was in the group from this place of the stream on.
    tables: Vec<(Position, Vec<NodeInstance>)>,
    /// The newest views that were known in the half of this node when the tie-breaker let it go on.
    ties: Vec<ViewNumber>,
    /// How often the date was set.
    pub(crate) date_steps: usize,
}

/// What all lives of all nodes wrote.
pub(crate) struct History {
    pub(crate) lives: Vec<Life>,
    /// From when to when nothing may change.
    pub(crate) calm: Option<(Instant, Instant)>,
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub(crate) fn small(value: &Value) -> u32 {
    u32::try_from(number(value)).unwrap()
}

pub(crate) fn instance(value: &Value) -> NodeInstance {
    let incarnation = value[1].as_str().unwrap().parse().unwrap();
    NodeInstance::new(NodeId::new(small(&value[0])), Incarnation::new(incarnation))
}

pub(crate) fn position(value: &Value) -> Position {
    Position { view: ViewNumber(number(&value[0])), sequence: number(&value[1]) }
}

fn log(value: &Value) -> Log {
    Log { count: number(&value[0]), digest: number(&value[1]) }
}

pub(crate) fn members(value: &Value) -> Vec<Member> {
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
        "set" => {
            let votes = line["votes"].as_array().unwrap().iter();
            let votes = votes.map(|v| (NodeId::new(small(&v[0])), small(&v[1]))).collect();
            Record::Set(number(&line["revision"]), votes)
        }
        other => panic!("no line is called {other}"),
    }
}

/// How often a date was set, by the lines that have one.
fn date_steps(lines: &[Value]) -> usize {
    let dates: Vec<u64> = lines.iter().filter_map(|line| line["date"].as_u64()).collect();
    dates.windows(2).filter(|two| two[0].abs_diff(two[1]) > DATE_STEP).count()
}

impl Life {
    /// From what the node wrote. The last line may be cut off: the node was killed. `None` if it was killed before it began.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let started = lines.iter().position(|line| line["what"] == "started")?;
        let first = lines.remove(started);
        let who = instance(&first["who"]);
        // By the clock, because two threads write.
        lines.sort_by_key(|line| number(&line["at"]));
        let what = |line: &Value| line["what"].as_str().unwrap().to_owned();
        let table = |line: &Value| {
            let members = line["members"].as_array().unwrap().iter().map(instance).collect();
            (position(&line["place"]), members)
        };
        let tables = lines.iter().filter(|line| what(line) == "table").map(table).collect();
        let won = lines.iter().filter(|line| what(line) == "tie won");
        let ties = won.map(|line| ViewNumber(number(&line["known"]))).collect();
        let date_steps = date_steps(&lines);
        let mut view = None;
        lines.retain(|line| {
            if what(line) == "view" {
                view = line["number"].as_u64();
            }
            // A look may be ahead of the news of the view that it was in.
            !["table", "tie won"].contains(&what(line).as_str())
                && (what(line) != "acts" || line["view"].as_u64() == view)
        });
        let begun = Entry {
            at: Instant::from_nanos(number(&first["at"])),
            what: What::Started { instance: who, remembers: false },
        };
        let entry = |line: &Value| Entry {
            at: Instant::from_nanos(number(&line["at"])),
            what: What::Program(Some(who), record(who, line)),
        };
        let entries = core::iter::once(begun).chain(lines.iter().map(entry)).collect();
        Some(Self { who, entries, tables, ties, date_steps })
    }

    /// It was killed at this time at the latest.
    pub(crate) fn killed(&mut self, at: Instant) {
        let last = self.entries.iter().map(|entry| entry.at).max().unwrap_or(at);
        let what = What::Stopped { instance: self.who, how: Stop::Killed };
        self.entries.push(Entry { at: at.max(last), what });
    }
}

/// V11: who is in the group from a place of the stream on is the same for everybody.
fn one_table(lives: &[Life]) -> Result<u64, String> {
    let mut first: BTreeMap<Position, &[NodeInstance]> = BTreeMap::new();
    for (life, (place, members)) in lives.iter().flat_map(|life| life.tables.iter().map(move |t| (life, t))) {
        let there = *first.entry(*place).or_insert(members);
        if there != members {
            return Err(format!("from {place} on {} sees {members:?}, another {there:?}", life.who));
        }
    }
    Ok(lives.iter().map(|life| life.tables.len() as u64).sum())
}

/// Q5: of the halves that know the same newest view one goes on.
fn one_half(lives: &[Life]) -> Result<u64, String> {
    let mut won: BTreeMap<ViewNumber, NodeInstance> = BTreeMap::new();
    for (life, known) in lives.iter().flat_map(|life| life.ties.iter().map(move |known| (life, *known))) {
        let other = *won.entry(known).or_insert(life.who);
        if other.node != life.who.node {
            return Err(format!("{other} and {} both went on after {known}", life.who));
        }
    }
    Ok(lives.iter().map(|life| life.ties.len() as u64).sum())
}

/// What is no act: a message or a view that a process is told of late, because it stood still. Whoever acts asks whether it may.
fn told_late(newest: &mut Option<Arc<ViewRecord>>, entry: &Entry<Record>) -> bool {
    match &entry.what {
        What::Program(_, Record::Delivered(..)) => true,
        What::Program(Some(who), Record::View(view)) => {
            if newest.as_ref().is_none_or(|n| n.number < view.number) {
                *newest = Some(Arc::clone(view));
            }
            newest.as_ref().is_some_and(|n| n.number > view.number && !n.contains(*who))
        }
        _ => false,
    }
}

impl History {
    pub(crate) fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        let is = |entry: &&Entry<Record>| matches!(&entry.what, What::Program(_, record) if wanted(record));
        self.lives.iter().flat_map(|life| &life.entries).filter(is).count()
    }

    /// Sorts what all lives saw, and returns how much each checker judged, or what is wrong.
    pub(crate) fn judge(&self) -> Result<BTreeMap<&'static str, u64>, String> {
        let mut all: Vec<Entry<Record>> =
            self.lives.iter().flat_map(|life| life.entries.iter().cloned()).collect();
        all.extend(self.calm.map(|(at, _)| Entry { at, what: What::Settled }));
        // Stable: what one node wrote stays in its order.
        all.sort_by_key(|entry| entry.at);
        let checkers: [Box<dyn Checker<Record>>; 8] = [
            Box::new(OneView::default()),
            Box::new(DeadMembers::default()),
            Box::new(QuorumChain::default()),
            Box::new(NodeSet::default()),
            Box::new(TotalOrder::default()),
            Box::new(VirtualSynchrony::default()),
            Box::new(SenderOrder::default()),
            Box::new(StateKept::new(FORGET_AFTER, false)),
        ];
        let mut judged = BTreeMap::new();
        let mut steady = Steady::default();
        let until_end = all.iter().filter(|entry| self.calm.is_none_or(|(_, end)| entry.at <= end));
        judged.insert(steady.name(), run(&mut steady, until_end)?);
        for mut checker in checkers {
            judged.insert(checker.name(), run(&mut *checker, all.iter())?);
        }
        let mut newest = None;
        let acts = all.iter().filter(|entry| !told_late(&mut newest, entry));
        let mut overlap = PrimaryOverlap::default();
        judged.insert(overlap.name(), run(&mut overlap, acts)?);
        judged.insert("V11 one table", one_table(&self.lives).map_err(|why| format!("V11: {why}"))?);
        judged.insert("Q5 one half", one_half(&self.lives).map_err(|why| format!("Q5: {why}"))?);
        if self.count(|record| *record == Record::Resumed) == 0 {
            return Err("nobody ever acted".to_owned());
        }
        Ok(judged)
    }
}

fn run<'a>(
    checker: &mut dyn Checker<Record>,
    entries: impl Iterator<Item = &'a Entry<Record>>,
) -> Result<u64, String> {
    for entry in entries {
        checker.observe(entry).map_err(|why| format!("{}: at {}: {why}", checker.name(), entry.at))?;
    }
    checker.finish().map_err(|why| format!("{}: {why}", checker.name()))?;
    Ok(checker.judged())
}
