//! Groups that go on in any partition, on real nodes: each side goes on, a merge names both, and nothing takes that for the primary. What
//! the nodes saw under load is judged by the checkers that judge the simulator.

use crate::support::{Crowd, Plan, members};
use bytes::Bytes;
use ocf::{NodeEvent, PartitionEvent, PartitionGroups};
use ocf_dlm::{Mode, Wait};
use ocf_groups::testing::{Entry, History, Partitions, check, check_partitions};
use ocf_groups::{Event, Guarantee, MemberId};
use ocf_membership::partitionable::PartitionView;
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "board";
const LOCAL: u32 = 1;

fn plan() -> Plan {
    let equip = |node: ocf::NodeBuilder| node.locks(ocf_dlm::cluster::Config::default());
    Plan { equip: Box::new(equip), partition_groups: true, ..Plan::default() }
}

fn groups(crowd: &Crowd, index: usize) -> PartitionGroups<'_> {
    crowd.nodes[index].partition().expect("its configuration asks for such groups")
}

fn view(crowd: &Crowd, index: usize) -> PartitionView {
    groups(crowd, index).view().expect("the node runs")
}

/// True if these, and nobody else, are in one view.
fn together(crowd: &Crowd, nodes: &[usize]) -> bool {
    let views: Vec<_> = nodes.iter().map(|i| view(crowd, *i)).collect();
    views.windows(2).all(|pair| pair[0] == pair[1]) && views[0].view.members.len() == nodes.len()
}

fn all_members(crowd: &Crowd, nodes: &[usize]) -> bool {
    nodes.iter().all(|i| groups(crowd, *i).members(GROUP).len() == nodes.len())
}

/// The applications of all nodes: each folds what its group was sent into a number, which is its state.
#[derive(Default)]
struct Board {
    history: History,
    partitions: Partitions,
    /// How many events of each node were looked at.
    read: BTreeMap<NodeInstance, usize>,
    digests: BTreeMap<NodeInstance, u64>,
    /// Every node sends, at every fourth turn.
    busy: bool,
    turns: usize,
    /// Messages that each node was given.
    heard: BTreeMap<NodeInstance, Vec<Bytes>>,
    dead: BTreeSet<usize>,
}

fn fold(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl Board {
    /// All nodes of a new cluster are members, in one partition.
    fn open(count: usize) -> (Crowd, Self) {
        let mut crowd = Crowd::form(count, &plan());
        let mut board = Self::default();
        board.history.ends_are_agreed = true;
        let all: Vec<usize> = (0..count).collect();
        board.until(&mut crowd, "one partition of all", |crowd, _| together(crowd, &all));
        for index in &all {
            groups(&crowd, *index).join(GROUP, LOCAL).unwrap();
        }
        board.until(&mut crowd, "everybody in the group", |crowd, board| {
            all_members(crowd, &all) && board.digests.len() == count
        });
        (crowd, board)
    }

    fn note(&mut self, at: NodeInstance, position: ocf_groups::Position, digest: u64) {
        self.digests.insert(at, digest);
        let (group, member) = (Arc::from(GROUP), MemberId { instance: at, local: LOCAL });
        self.history.push(at, Entry::Digest { group, member, position, digest });
    }

    fn told(&mut self, crowd: &Crowd, index: usize, event: &Event) {
        let at = crowd.nodes[index].local();
        self.history.push(at, Entry::Event(event.clone()));
        if let Event::Message { payload, .. } | Event::Fifo { payload, .. } = event {
            self.heard.entry(at).or_default().push(payload.clone());
        }
        match event {
            Event::Message { position, payload, .. } => {
                if let Some(digest) = self.digests.get(&at) {
                    self.note(at, *position, fold(*digest, payload));
                }
            }
            Event::Membership { members, joined, .. } if members == joined && members[0].instance == at => {
                self.digests.insert(at, 0);
            }
            Event::State { position, state, .. } => {
                self.note(at, *position, u64::from_be_bytes(state[..].try_into().unwrap()));
            }
            Event::Reset { .. } => {
                self.digests.remove(&at);
            }
            Event::StateWanted { group, joiner, position } => {
                if let Some(digest) = self.digests.get(&at) {
                    let state = Bytes::copy_from_slice(&digest.to_be_bytes());
                    // Refused if the joiner is to get a later state: then there is another question.
                    groups(crowd, index).offer_state(group, *joiner, *position, state).unwrap_or_default();
                }
            }
            _ => {}
        }
    }

    /// Takes what a node has said since the last turn.
    fn read(&mut self, crowd: &Crowd, index: usize) {
        let at = crowd.nodes[index].local();
        let from = self.read.insert(at, crowd.seen(index).len()).unwrap_or(0);
        for event in &crowd.seen(index)[from..] {
            match event {
                NodeEvent::Partition(PartitionEvent::Group(event)) => self.told(crowd, index, event),
                NodeEvent::Partition(PartitionEvent::View(view)) => {
                    self.history.push(at, Entry::Event(Event::View(view.view.clone())));
                    self.partitions.views.entry(at).or_default().push((**view).clone());
                }
                NodeEvent::Group(Event::View(view)) => {
                    for member in &view.members {
                        self.partitions.primaries.entry(member.instance).or_default().insert(view.number);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes what the nodes have said, and now and then has each send.
    fn turn(&mut self, crowd: &Crowd) {
        self.turns += 1;
        for index in 0..crowd.nodes.len() {
            if self.dead.contains(&index) {
                continue;
            }
            self.read(crowd, index);
            if self.busy && self.turns.is_multiple_of(4) {
                let guarantee = [Guarantee::Safe, Guarantee::Agreed, Guarantee::Fifo][self.turns / 4 % 3];
                let text = format!("message {} of node {index}", self.turns);
                self.send(crowd, index, guarantee, Bytes::from(text));
            }
        }
    }

    /// Sends, if it may: not while it waits to be a member again.
    fn send(&mut self, crowd: &Crowd, index: usize, guarantee: Guarantee, payload: Bytes) -> bool {
        let sender = MemberId { instance: crowd.nodes[index].local(), local: LOCAL };
        let taken = groups(crowd, index).send(GROUP, LOCAL, guarantee, payload.clone()).is_ok();
        if taken {
            let group = Arc::from(GROUP);
            self.history.push(sender.instance, Entry::Sent { group, sender, guarantee, payload });
        }
        taken
    }

    fn until(&mut self, crowd: &mut Crowd, what: &str, mut done: impl FnMut(&Crowd, &Self) -> bool) {
        crowd.until(what, |crowd| {
            self.turn(crowd);
            done(crowd, self)
        });
        self.turn(crowd);
    }

    fn heard_by(&self, crowd: &Crowd, index: usize) -> &[Bytes] {
        self.heard.get(&crowd.nodes[index].local()).map_or(&[], Vec::as_slice)
    }

    fn has_heard(&self, crowd: &Crowd, index: usize, text: &str) -> bool {
        self.heard_by(crowd, index).iter().rev().any(|payload| payload == text)
    }

    fn was_reset(&self, crowd: &Crowd, index: usize) -> bool {
        let log = self.history.logs.get(&crowd.nodes[index].local());
        log.is_some_and(|log| log.entries.iter().any(|e| matches!(e, Entry::Event(Event::Reset { .. }))))
    }

    /// The last view that a node was told of, if that is a merge.
    fn merge(&self, crowd: &Crowd, index: usize) -> Option<&PartitionView> {
        self.partitions.views.get(&crowd.nodes[index].local())?.last().filter(|view| view.is_merge())
    }

    /// Nothing was delivered twice or lost within a side, nor taken for what it is not.
    fn judge(&self) {
        if let Err(broken) =
            check(&self.history, true).and_then(|()| check_partitions(&self.history, &self.partitions))
        {
            panic!("{} is broken: {}", broken.rule, broken.what);
        }
    }
}

#[test]
fn a_group_goes_on_in_a_minority_that_may_not_lock_and_begins_anew_at_the_merge() {
    let (mut crowd, mut board) = Board::open(3);
    crowd.wire.split(&[0, 0, 1]);
    board.until(&mut crowd, "two partitions", |crowd, _| together(crowd, &[0, 1]) && together(crowd, &[2]));
    board.until(&mut crowd, "the minority to be outside the primary", |crowd, _| {
        crowd.nodes[2].view().is_none() && crowd.nodes[..2].iter().all(|n| members(n) == 2)
    });
    for (index, text) in [(0, "of the majority"), (2, "of the minority")] {
        let taken = board.send(&crowd, index, Guarantee::Safe, Bytes::from_static(text.as_bytes()));
        assert!(taken, "each side goes on");
    }
    board.until(&mut crowd, "both sides to go on", |crowd, board| {
        [(0, "of the majority"), (1, "of the majority"), (2, "of the minority")]
            .into_iter()
            .all(|(index, text)| board.has_heard(crowd, index, text))
    });
    assert!(!board.has_heard(&crowd, 2, "of the majority") && !board.has_heard(&crowd, 0, "of the minority"));
    let alone = view(&crowd, 2);
    assert_eq!(alone.primary, None, "a minority says that it is none: {alone:?}");
    assert!(crowd.nodes[2].send(GROUP, LOCAL, Guarantee::Agreed, Bytes::new()).is_err(), "another group");
    let locks = crowd.nodes[2].locks().expect("it has locks");
    let refused = locks.lock("files", "one", Mode::Ex, Wait::For(Duration::from_millis(300)));
    assert!(refused.is_err(), "a lock needs the primary, whatever goes on beside it");

    crowd.wire.split(&[0, 0, 0]);
    board.until(&mut crowd, "one partition again", |crowd, _| together(crowd, &[0, 1, 2]));
    board.until(&mut crowd, "the merge to be told", |crowd, board| {
        (0..3).all(|i| board.merge(crowd, i).is_some())
    });
    let ids: Vec<_> = crowd.nodes.iter().map(ocf::Node::local).collect();
    let merge = board.merge(&crowd, 2).expect("it was told");
    assert_eq!(merge.parents.len(), 2, "{merge:?}");
    assert_eq!(merge.transitional_set(ids[0]), &ids[..2], "the side of the primary goes on: {merge:?}");
    assert_eq!(merge.transitional_set(ids[2]), &ids[2..]);
    assert_eq!(merge.view.joiners().map(|m| m.instance).collect::<Vec<_>>(), &ids[2..]);
    board.until(
        &mut crowd,
        "the lonely member to begin anew with the state of the others",
        |crowd, board| {
            board.was_reset(crowd, 2) && all_members(crowd, &[0, 1, 2]) && board.digests.len() == 3
        },
    );
    assert!(board.digests.values().all(|digest| *digest == board.digests[&ids[0]]), "{:?}", board.digests);
    assert!(!board.was_reset(&crowd, 0) && !board.was_reset(&crowd, 1), "who goes on keeps its state");
    assert!(board.send(&crowd, 2, Guarantee::Safe, Bytes::from_static(b"together again")));
    board.until(&mut crowd, "all to hear each other", |crowd, board| {
        (0..3).all(|i| board.has_heard(crowd, i, "together again"))
    });
    board.judge();
}

#[test]
fn both_sides_of_a_cut_go_on_under_load_and_lose_and_repeat_nothing_though_one_of_the_minority_dies() {
    let (mut crowd, mut board) = Board::open(5);
    board.busy = true;
    board.until(&mut crowd, "load", |crowd, board| board.heard_by(crowd, 0).len() > 200);
    crowd.wire.split(&[0, 1, 0, 1, 0]);
    board.until(&mut crowd, "two partitions", |crowd, _| {
        together(crowd, &[0, 2, 4]) && together(crowd, &[1, 3])
    });
    let before: Vec<usize> = (0..5).map(|i| board.heard_by(&crowd, i).len()).collect();
    board.until(&mut crowd, "both sides to go on", |crowd, board| {
        (0..5).all(|i| board.heard_by(crowd, i).len() > before[i] + 100)
    });
    // As if its process had been killed: without a word.
    crowd.nodes[3].kill();
    board.turn(&crowd);
    board.dead.insert(3);
    let killed = crowd.nodes[3].local();
    board.history.logs.get_mut(&killed).expect("it was there").dead = true;
    board.digests.remove(&killed);
    board.until(&mut crowd, "the rest of the minority to go on alone", |crowd, _| together(crowd, &[1]));
    let alone = board.heard_by(&crowd, 1).len();
    board.until(&mut crowd, "it to send to itself", |crowd, board| {
        board.heard_by(crowd, 1).len() > alone + 50
    });

    crowd.wire.split(&[0; 5]);
    let living = [0, 1, 2, 4];
    board.until(&mut crowd, "one partition again, and its group", |crowd, board| {
        together(crowd, &living) && all_members(crowd, &living) && board.digests.len() == living.len()
    });
    let after: Vec<usize> = (0..5).map(|i| board.heard_by(&crowd, i).len()).collect();
    board.until(&mut crowd, "all to go on", |crowd, board| {
        living.iter().all(|i| board.heard_by(crowd, *i).len() > after[*i] + 100)
    });
    board.busy = false;
    board.until(&mut crowd, "all to have heard the same", |_, board| {
        board.digests.values().all(|digest| Some(digest) == board.digests.values().next())
    });
    // What was sent last, and by the sender's order alone, is on its way no more when this came.
    for index in living {
        assert!(board.send(&crowd, index, Guarantee::Safe, Bytes::from(format!("the end of {index}"))));
    }
    board.until(&mut crowd, "the end", |crowd, board| {
        living
            .iter()
            .all(|i| living.iter().all(|from| board.has_heard(crowd, *i, &format!("the end of {from}"))))
    });
    for index in living {
        let merge = board.merge(&crowd, index).expect("each was told of the merge");
        let came: Vec<usize> = merge.parents.iter().map(|p| p.came.len()).collect();
        assert_eq!(came, [3, 1], "node {index}: {merge:?}");
        assert_eq!(board.was_reset(&crowd, index), index == 1, "node {index}");
    }
    board.judge();
}

#[test]
fn a_node_that_was_not_told_to_has_no_such_groups_and_is_in_nobodys_partition() {
    let crowd = Crowd::form(1, &Plan::default());
    assert!(crowd.nodes[0].partition().is_none());
    assert_eq!(crowd.snapshot(0).partition.map(|partition| partition.number), None);
    let told = Plan { partition_groups: true, ..Plan::default() };
    let config = &Crowd::form(1, &told).configs[0];
    assert!(config.stack().unwrap().partitions.is_some(), "the configuration is what tells it");
}
