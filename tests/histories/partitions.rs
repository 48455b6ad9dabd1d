//! Groups that go on in any partition: what `record_partitions` processes wrote while their network was cut in two and some of them were
//! killed, judged by the checkers of `ocf_groups`.

use crate::judge::{instance, members, number, position, small};
use crate::lab::{DETECTION, Lab, Setup};
use bytes::Bytes;
use ocf_groups::testing::{Entry, History, Partitions, check, check_partitions};
use ocf_groups::{Event, Guarantee, MemberId};
use ocf_membership::partitionable::{Parent, PartitionView};
use ocf_membership::{Ballot, View, ViewNumber};
use pils::NodeInstance;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

const GROUP: &str = "history";

fn number_of(entry: &Entry) -> Option<ViewNumber> {
    match entry {
        Entry::Event(Event::View(view)) => Some(view.number),
        _ => None,
    }
}

/// What all lives of all nodes wrote.
#[derive(Default)]
struct Seen {
    history: History,
    partitions: Partitions,
    /// In which life of the test each instance was.
    lives: Vec<Option<NodeInstance>>,
}

fn member(value: &Value) -> MemberId {
    MemberId { instance: instance(value), local: 0 }
}

fn list(value: &Value) -> Vec<MemberId> {
    value.as_array().unwrap().iter().map(member).collect()
}

fn guarantee(line: &Value) -> Guarantee {
    let all = [Guarantee::Fifo, Guarantee::Agreed, Guarantee::Safe];
    all.into_iter().find(|g| line["guarantee"] == format!("{g:?}")).unwrap()
}

fn payload(line: &Value) -> Bytes {
    Bytes::from(line["payload"].as_str().unwrap().to_owned())
}

fn view(line: &Value) -> PartitionView {
    let parent = |parent: &Value| Parent {
        number: ViewNumber(number(&parent[0])),
        came: parent[1].as_array().unwrap().iter().map(instance).collect(),
    };
    PartitionView {
        view: View {
            number: ViewNumber(number(&line["number"])),
            ballot: Ballot { round: number(&line["round"]), proposer: instance(&line["proposer"]) },
            members: members(&line["members"]),
            previous: members(&line["previous"]),
            causes: Vec::new(),
            quorum: small(&line["quorum"]),
            level: small(&line["level"]),
            unproven: Vec::new(),
        },
        parents: line["parents"].as_array().unwrap().iter().map(parent).collect(),
        primary: line["primary"].as_u64().map(ViewNumber),
    }
}

/// What a node was told of its group.
fn event(me: NodeInstance, line: &Value) -> Event {
    let (group, position) = (Arc::from(GROUP), || position(&line["place"]));
    let (at, member_here) = (|| member(&line["sender"]), MemberId { instance: me, local: 0 });
    match line["what"].as_str().unwrap() {
        "message" => Event::Message {
            group,
            sender: at(),
            position: position(),
            guarantee: guarantee(line),
            payload: payload(line),
        },
        "fifo" => Event::Fifo {
            group,
            sender: at(),
            view: ViewNumber(number(&line["view"])),
            number: number(&line["number"]),
            payload: payload(line),
        },
        "membership" => Event::Membership {
            group,
            position: position(),
            members: list(&line["members"]),
            joined: list(&line["joined"]),
            left: list(&line["left"]),
        },
        "state" => Event::State { group, member: member_here, position: position(), state: Bytes::new() },
        "state lost" => Event::StateLost { group, member: member_here, position: position() },
        "reset" => Event::Reset { group, member: member_here },
        other => panic!("no line is called {other}"),
    }
}

impl Seen {
    /// From what each life wrote, and whether it was killed.
    fn read(lives: &[(String, bool)]) -> Self {
        let mut seen = Self::default();
        seen.history.ends_are_agreed = true;
        for (text, killed) in lives {
            let who = seen.life(text);
            if let Some(log) = who.and_then(|who| seen.history.logs.get_mut(&who)) {
                log.dead = *killed;
            }
            seen.lives.push(who);
        }
        seen
    }

    /// The last line may be cut off: the node was killed. `None` if that was before it began.
    fn life(&mut self, text: &str) -> Option<NodeInstance> {
        let (whole, _) = text.rsplit_once('\n')?;
        let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let me = instance(&lines.next()?["who"]);
        let group: Arc<str> = Arc::from(GROUP);
        let sender = MemberId { instance: me, local: 0 };
        let mut log = Vec::new();
        for line in lines {
            match line["what"].as_str().unwrap() {
                "sent" => log.push(Entry::Sent {
                    group: Arc::clone(&group),
                    sender,
                    guarantee: guarantee(&line),
                    payload: payload(&line),
                }),
                "refused" => drop(log.pop()),
                "digest" => log.extend(line["digest"].as_u64().map(|digest| Entry::Digest {
                    group: Arc::clone(&group),
                    member: sender,
                    position: position(&line["place"]),
                    digest,
                })),
                "view" => {
                    let view = view(&line);
                    log.push(Entry::Event(Event::View(view.view.clone())));
                    self.partitions.views.entry(me).or_default().push(view);
                }
                "primary" => {
                    for member in line["members"].as_array().unwrap() {
                        let said = self.partitions.primaries.entry(instance(member)).or_default();
                        said.insert(ViewNumber(number(&line["number"])));
                    }
                }
                _ => log.push(Entry::Event(event(me, &line))),
            }
        }
        log.into_iter().for_each(|entry| self.history.push(me, entry));
        Some(me)
    }

    fn count(&self, life: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        let log = self.lives[life].and_then(|who| self.history.logs.get(&who));
        let is = |entry: &&Entry| matches!(entry, Entry::Event(event) if wanted(event));
        log.map_or(0, |log| log.entries.iter().filter(is).count())
    }

    /// What a node was told since it was cut off for the first time, or others were from it: they may have met one by one at the start.
    fn since_the_cut(&self, life: usize) -> &[Entry] {
        let log = self.lives[life].and_then(|who| self.history.logs.get(&who));
        let entries = log.map_or(&[][..], |log| &log.entries);
        let size = |entry: &Entry| match entry {
            Entry::Event(Event::View(view)) => Some(view.members.len()),
            _ => None,
        };
        let whole = entries.iter().position(|entry| size(entry) == Some(5)).unwrap_or(entries.len());
        let cut = entries[whole..].iter().position(|entry| size(entry).is_some_and(|size| size < 5));
        &entries[whole + cut.unwrap_or(entries.len() - whole)..]
    }

    /// The views that it was told since then.
    fn views(&self, life: usize) -> impl Iterator<Item = &PartitionView> {
        let told: BTreeSet<ViewNumber> = self.since_the_cut(life).iter().filter_map(number_of).collect();
        let views = self.lives[life].and_then(|who| self.partitions.views.get(&who));
        views.into_iter().flatten().filter(move |view| told.contains(&view.view.number))
    }

    /// In how many of them the node of the life `who` came from another side to three or more who kept their state.
    fn merges(&self, life: usize, who: usize) -> usize {
        let came = |parent: &Parent| self.lives[who].is_some_and(|who| parent.came.contains(&who));
        self.views(life)
            .filter(|v| {
                v.parents.first().is_some_and(|p| p.came.len() >= 3) && v.parents[1..].iter().any(came)
            })
            .count()
    }

    /// Messages since then by what their view was: that of so many members, in a primary or not.
    fn delivered(&self, life: usize) -> BTreeMap<(usize, bool), usize> {
        let mut found = BTreeMap::new();
        for view in self.views(life) {
            let number = view.view.number;
            let here = |event: &Event| match event {
                Event::Message { position, .. } => position.view == number,
                Event::Fifo { view, .. } => *view == number,
                _ => false,
            };
            let kind = (view.view.members.len(), view.primary.is_some());
            *found.entry(kind).or_default() += self.count(life, here);
        }
        found
    }

    fn judge(&self) -> Result<(), String> {
        let judged = check(&self.history, true);
        let judged = judged.and_then(|()| check_partitions(&self.history, &self.partitions));
        judged.map_err(|broken| format!("{}: {}", broken.rule, broken.what))
    }
}

/// Two of five nodes are cut off twice; one of them is killed while it is, and starts again.
fn two_cuts() -> Seen {
    let mut lab = Lab::new("sides", Setup { nodes: 5, partitions: true, ..Setup::THREE });
    lab.until_well();
    for dies in [false, true] {
        lab.split(&[1, 2, 3], &[4, 5], || {
            thread::sleep(DETECTION * 5);
            if dies {
                lab.signal(5, "KILL");
                thread::sleep(DETECTION * 3);
            }
        });
        if dies {
            lab.kill(5);
            lab.start(5);
        }
        lab.until_well();
        // Time to be given the state again.
        thread::sleep(DETECTION * 2);
    }
    Seen::read(&lab.finish_texts())
}

#[test]
#[ignore = "needs root and network namespaces, and takes half a minute"]
fn both_sides_of_a_cut_network_go_on_and_merge_though_one_of_the_minority_is_killed() {
    let seen = two_cuts();
    seen.judge().unwrap_or_else(|why| panic!("{why}"));
    let resets = |life| {
        let is = |entry: &&Entry| matches!(entry, Entry::Event(Event::Reset { .. }));
        seen.since_the_cut(life).iter().filter(is).count()
    };
    for life in 0..=3 {
        let delivered = seen.delivered(life);
        let messages = |of, primary| delivered.get(&(of, primary)).copied().unwrap_or(0);
        let apart = if life < 3 { messages(3, true) + messages(3, false) } else { messages(2, false) };
        let whole = messages(5, true) + messages(5, false);
        assert!(apart > 100 && whole > 200, "life {life} goes on apart and together: {delivered:?}");
        assert!(life < 3 || messages(2, true) == 0, "no minority says that it is a primary: {delivered:?}");
        // Who hears of the cut a moment before the others may be alone until they do.
        let (fourth, fifth) = (seen.merges(life, 3), seen.merges(life, 4));
        assert!(fourth >= 2 && fifth >= 1, "life {life} is told from where these come: {fourth}, {fifth}");
    }
    assert!(resets(3) >= 2, "the fourth node begins anew at each merge");
    assert!(
        seen.count(5, |event| matches!(event, Event::State { .. })) >= 1,
        "a fresh life is given the state"
    );
}
