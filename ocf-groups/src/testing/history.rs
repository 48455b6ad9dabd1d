use crate::{Event, Guarantee, MemberId, Position};
use bytes::Bytes;
use ocf_membership::{View, ViewNumber};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `V1` to `V11`.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(super) const fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what }
    }
}

/// What happened at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `Groups::send` accepted a message. Its payload must be unlike every other of the run.
    Sent {
        /// To which group.
        group: Arc<str>,
        /// By whom.
        sender: MemberId,
        /// With what promise.
        guarantee: Guarantee,
        /// The content.
        payload: Bytes,
    },
    /// `Groups::leave` accepted that a member leaves. What it is allowed to send after that is sent as a new member, which
    /// the application may not have been told of yet.
    Leaving {
        /// Which group.
        group: Arc<str>,
        /// Who.
        member: MemberId,
    },
    /// The core told the application.
    Event(Event),
    /// After the event before this one the member's replica had this digest: a function of the state it got and the
    /// messages since. Only written while the replica has a state.
    Digest {
        /// The group.
        group: Arc<str>,
        /// The local member.
        member: MemberId,
        /// The point of the stream it reflects.
        position: Position,
        /// The digest.
        digest: u64,
    },
}

/// All that happened at one instance of a node, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// In order.
    pub entries: Vec<Entry>,
    /// It was stopped before the end of the run.
    pub dead: bool,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// By instance.
    pub logs: BTreeMap<NodeInstance, Log>,
    /// Who did not go on from a view may have been delivered another end of it: see
    /// [`GroupPromises::one_end`](crate::GroupPromises::one_end).
    pub ends_may_differ: bool,
    /// Of partitions ([`Config::partitions`](crate::Config::partitions)): what was sent safe may be told as agreed.
    pub ends_are_agreed: bool,
}

/// From where to where a member had the group's state and was in the group; both ends excluded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) from: Position,
    pub(super) to: Position,
}

/// After every position.
pub(super) const END: Position = Position { view: ViewNumber(u64::MAX), sequence: u64::MAX };

impl History {
    /// Appends to the log of `instance`.
    pub fn push(&mut self, instance: NodeInstance, entry: Entry) {
        self.logs.entry(instance).or_default().entries.push(entry);
    }
}

impl Log {
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries.iter().filter_map(|e| if let Entry::Event(event) = e { Some(event) } else { None })
    }

    pub(super) fn views(&self) -> impl Iterator<Item = &View> {
        self.events().filter_map(|e| if let Event::View(view) = e { Some(view) } else { None })
    }

    /// The views whose end this instance was delivered as all others who go on were: those it went on from, and the last one.
    pub(super) fn lasting(&self, instance: NodeInstance) -> BTreeSet<ViewNumber> {
        let left = self.transitions(instance).into_iter().map(|(from, _)| from);
        left.chain(self.views().last().map(|v| v.number).filter(|_| !self.dead)).collect()
    }

    /// The views that this instance entered as a member of the one before, with the number of that one.
    pub(super) fn transitions(&self, instance: NodeInstance) -> Vec<(ViewNumber, &View)> {
        let views: Vec<&View> = self.views().collect();
        let stays = |v: &View| v.members.iter().any(|m| m.instance == instance && m.joined < v.number);
        views.windows(2).filter(|w| stays(w[1])).map(|w| (w[0].number, w[1])).collect()
    }

    /// When local members of each group were ready. With `ended`, one that begins anew because of a view was so until the end of
    /// the view before.
    pub(super) fn ready(&self, instance: NodeInstance, ended: bool) -> BTreeMap<Arc<str>, Vec<Ready>> {
        let mut open: BTreeMap<(Arc<str>, u32), Position> = BTreeMap::new();
        let mut found: BTreeMap<Arc<str>, Vec<Ready>> = BTreeMap::new();
        let mut close =
            |open: &mut BTreeMap<(Arc<str>, u32), Position>, key: (Arc<str>, u32), to: Position| {
                if let Some(from) = open.remove(&key) {
                    found.entry(key.0).or_default().push(Ready { from, to });
                }
            };
        let (mut last, mut current) = (Position::default(), ViewNumber::default());
        for event in self.events() {
            match event {
                Event::Membership { group, position, members, joined, left } => {
                    last = last.max(*position);
                    for gone in left.iter().filter(|m| m.instance == instance) {
                        close(&mut open, (Arc::clone(group), gone.local), *position);
                    }
                    if let ([only], [new]) = (&members[..], &joined[..])
                        && only == new
                        && new.instance == instance
                    {
                        open.insert((Arc::clone(group), new.local), *position);
                    }
                }
                Event::State { group, member, position, .. }
                | Event::StateLost { group, member, position } => {
                    open.insert((Arc::clone(group), member.local), *position);
                }
                // What the reset node delivered last is where its readiness ends.
                Event::Reset { group, member } => {
                    let end = Position { sequence: last.sequence.saturating_add(1), ..last };
                    close(&mut open, (Arc::clone(group), member.local), end);
                }
                Event::Message { position, .. } => last = last.max(*position),
                Event::Fifo { .. }
                | Event::StateWanted { .. }
                | Event::Refused { .. }
                | Event::Evicted { .. }
                | Event::Writable => {}
                Event::View(view) => {
                    if ended {
                        last = last.max(Position { view: current, sequence: u64::MAX });
                    }
                    current = view.number;
                }
            }
        }
        for key in open.keys().cloned().collect::<Vec<_>>() {
            close(&mut open, key, END);
        }
        found
    }
}
