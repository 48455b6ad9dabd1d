//! A group that goes on in any partition, with a member on every node: each folds what it was delivered into a number, which is its state.
//! What the nodes saw is judged by the checkers of `ocf_groups`.

use super::{Cluster, Record};
use crate::event::PartitionEvent;
use crate::sim::{Checker, Ctx, Entry};
use crate::stack::Stack;
use bytes::Bytes;
use ocf_groups::testing::{Entry as Seen, History, Partitions, check, check_partitions};
use ocf_groups::{Event, Guarantee, MemberId, Position};
use pils::{NodeId, NodeInstance};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const GROUP: &str = "board";

/// What all nodes saw, for those who write and for the checker.
#[derive(Clone, Debug, Default)]
pub(super) struct Boards(Rc<RefCell<Board>>);

#[derive(Debug, Default)]
struct Board {
    history: History,
    partitions: Partitions,
    /// Of those who have the state.
    digests: BTreeMap<NodeInstance, u64>,
    sent: u64,
    delivered: u64,
}

/// A state that is wanted: by whom, as of when, and what it is.
type Wanted = (Arc<str>, MemberId, Position, Bytes);

const fn member(instance: NodeInstance) -> MemberId {
    MemberId { instance, local: 0 }
}

fn fold(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl Board {
    fn has(&mut self, me: NodeInstance, position: Position, digest: u64) {
        self.digests.insert(me, digest);
        let group = Arc::from(GROUP);
        self.history.push(me, Seen::Digest { group, member: member(me), position, digest });
    }

    fn told(&mut self, me: NodeInstance, event: Event) -> Option<Wanted> {
        self.history.push(me, Seen::Event(event.clone()));
        let digest = self.digests.get(&me).copied();
        match event {
            Event::Message { position, payload, .. } => {
                self.delivered += 1;
                if let Some(digest) = digest {
                    self.has(me, position, fold(digest, &payload));
                }
            }
            Event::Membership { members, joined, .. } if members == joined && members == [member(me)] => {
                self.digests.insert(me, 0);
            }
            Event::StateWanted { group, joiner, position } => {
                let state = Bytes::copy_from_slice(&digest?.to_be_bytes());
                return Some((group, joiner, position, state));
            }
            Event::State { position, state, .. } => {
                self.has(me, position, state.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
            }
            Event::StateLost { .. } => {
                self.digests.insert(me, 0);
            }
            Event::Reset { .. } => {
                self.digests.remove(&me);
            }
            _ => {}
        }
        None
    }
}

impl Boards {
    /// This life of a node has ended.
    pub(super) fn stopped(&self, instance: NodeInstance) {
        let mut board = self.0.borrow_mut();
        board.digests.remove(&instance);
        if let Some(log) = board.history.logs.get_mut(&instance) {
            log.dead = true;
        }
    }
}

impl Cluster {
    pub(super) fn join_board(&self, ctx: &Ctx<'_, Self>, layer: &mut Stack) {
        if let Some(groups) = layer.partition_groups(ctx.now()) {
            groups.join(ctx.now(), GROUP, 0).expect("a fresh node is in no group");
        }
    }

    pub(super) fn send_to_board(&self, ctx: &Ctx<'_, Self>, layer: &mut Stack) {
        let Some(groups) = layer.partition_groups(ctx.now()) else { return };
        let (me, mut board) = (ctx.instance(), self.boards.0.borrow_mut());
        let guarantee = match board.sent % 3 {
            0 => Guarantee::Safe,
            1 => Guarantee::Agreed,
            _ => Guarantee::Fifo,
        };
        let payload = Bytes::copy_from_slice(&board.sent.to_be_bytes());
        // Refused while it waits to be a member, or because the window is full.
        if groups.send(ctx.now(), GROUP, 0, guarantee, payload.clone()).is_ok() {
            board.sent += 1;
            board
                .history
                .push(me, Seen::Sent { group: Arc::from(GROUP), sender: member(me), guarantee, payload });
        }
    }

    /// The primary view that a node says it is in, before anybody hears it.
    pub(super) fn note_primary(&self, me: NodeInstance, layer: &Stack) {
        if let Some(view) = layer.view().filter(|_| self.plan.partitions) {
            self.boards.0.borrow_mut().partitions.primaries.entry(me).or_default().insert(view.number);
        }
    }

    pub(super) fn board_event(&self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, event: PartitionEvent) {
        let me = ctx.instance();
        let event = match event {
            PartitionEvent::View(view) => {
                if view.is_merge() && view.view.previous.len() > 1 {
                    ctx.world().sometimes("sides of a partition met");
                }
                let mut board = self.boards.0.borrow_mut();
                board.history.push(me, Seen::Event(Event::View(view.view.clone())));
                board.partitions.views.entry(me).or_default().push(*view);
                return;
            }
            PartitionEvent::Group(event) => event,
        };
        if matches!(event, Event::Reset { .. }) {
            ctx.world().sometimes("a member began anew where partitions met");
        }
        let wanted = self.boards.0.borrow_mut().told(me, event);
        if let (Some((group, joiner, position, state)), Some(groups)) =
            (wanted, layer.partition_groups(ctx.now()))
        {
            // Refused if the joiner is gone already: later events of the same turn say so.
            let _taken: bool = groups.offer_state(ctx.now(), &group, joiner, position, state).is_ok();
        }
    }

    /// What is still missing for a node to be in one partition with all `n` of them, and its member to have the state.
    pub(super) fn board_lacks(&self, at: NodeId, node: &Stack, n: usize) -> Option<String> {
        let (view, groups) = (node.partition()?, node.partition_table()?);
        let (members, listed) = (view.view.members.len(), groups.members(GROUP).len());
        let ready = self.boards.0.borrow().digests.contains_key(&node.local());
        (members != n || listed != n || !ready).then(|| {
            format!(
                "{at} is in a partition of {members}, with {listed} of {n} members; has the state: {ready}"
            )
        })
    }
}

/// V1 to V11 and P1 to P5 of the groups that go on in any partition.
impl Checker<Record> for Boards {
    fn name(&self) -> &'static str {
        "P1-P5 partitions"
    }

    fn judged(&self) -> u64 {
        self.0.borrow().delivered
    }

    fn observe(&mut self, _: &Entry<Record>) -> Result<(), String> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        let mut board = self.0.borrow_mut();
        board.history.ends_are_agreed = true;
        let judged = check(&board.history, true);
        let judged = judged.and_then(|()| check_partitions(&board.history, &board.partitions));
        judged.map_err(|broken| format!("{}: {}", broken.rule, broken.what))
    }
}
