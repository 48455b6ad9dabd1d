//! The ordered stream of one view: what each member sent, the stamps that order it, and who holds how much of it.

use crate::wire::Item;
use ocf_membership::{View, ViewNumber};
use pils::NodeInstance;
use std::collections::VecDeque;
use std::sync::Arc;

/// How far ahead of a gap a member's items are kept. A sender's window holds fewer.
const AHEAD_MAX: u64 = 1 << 20;

/// `count` messages of one member, next to each other in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    member: u32,
    count: u64,
}

/// A place between two messages of the order: `used` messages into run number `run`.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    run: u64,
    used: u64,
}

/// What one member sent in this view, and what it reported.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) instance: NodeInstance,
    votes: u32,
    /// Items `base + 1 ..`; `None` is not here yet.
    items: VecDeque<Option<Item>>,
    /// Items that were freed.
    pub(crate) base: u64,
    /// Items that are or were here without gap.
    pub(crate) contiguous: u64,
    /// Items covered by stamps up to the hold, delivery and free cursors.
    hold: u64,
    deliver: u64,
    /// Items up to here were delivered; those beyond `deliver` ahead of their place in the order.
    pub(crate) ahead: u64,
    /// What the member said it holds and has consumed of the order.
    pub(crate) held: u64,
    pub(crate) consumed: u64,
}

impl Inbox {
    fn item(&self, lseq: u64) -> Option<&Item> {
        let index = usize::try_from(lseq.checked_sub(self.base + 1)?).ok()?;
        self.items.get(index)?.as_ref()
    }

    /// Puts an item in its place; returns how many more are here without gap, or `None` if it was not wanted.
    fn insert(&mut self, lseq: u64, item: Item) -> Option<u64> {
        let next = self.contiguous + 1;
        if lseq < next || lseq - next > AHEAD_MAX {
            return None;
        }
        let index = usize::try_from(lseq - self.base - 1).ok()?;
        if index == self.items.len() {
            self.items.push_back(Some(item));
        } else {
            if index > self.items.len() {
                self.items.resize(index + 1, None);
            }
            let slot = &mut self.items[index];
            if slot.is_some() {
                return None;
            }
            *slot = Some(item);
        }
        if lseq != next {
            return Some(0);
        }
        let before = self.contiguous;
        self.contiguous = lseq;
        while self.item(self.contiguous + 1).is_some() {
            self.contiguous += 1;
        }
        Some(self.contiguous - before)
    }
}

/// The ordered stream of one view.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) number: ViewNumber,
    /// Everyone but this node.
    pub(crate) peers: Arc<[NodeInstance]>,
    /// Index of this node.
    pub(crate) me: u32,
    quorum: u32,
    pub(crate) inboxes: Vec<Inbox>,
    runs: VecDeque<Run>,
    /// Number of the first run in `runs`.
    first_run: u64,
    /// Stamps known: places `1..=stamped` of the order.
    pub(crate) stamped: u64,
    hold: Cursor,
    /// Places `1..=held` are here: stamp and message.
    pub(crate) held: u64,
    deliver: Cursor,
    /// Places `1..=delivered` have left the stream.
    pub(crate) delivered: u64,
    free: Cursor,
    /// Places `1..=freed` are forgotten.
    pub(crate) freed: u64,
    /// Safe messages that are here and not delivered.
    pub(crate) safe_waiting: u64,
    /// FIFO messages that are here and not delivered.
    pub(crate) fifo_waiting: u64,
    /// Held by a quorum of votes.
    pub(crate) stable_quorum: u64,
    /// Held by every member.
    pub(crate) stable_all: u64,
    /// Consumed by every member.
    pub(crate) consumed_all: u64,
    scratch: Vec<(u64, u32)>,
}

impl Stream {
    /// The empty stream of a view that contains `local`.
    pub(crate) fn new(view: &View, local: NodeInstance) -> Option<Self> {
        let me = u32::try_from(view.index_of(local)?).ok()?;
        let inbox = |m: &ocf_membership::Member| Inbox {
            instance: m.instance,
            votes: m.votes,
            items: VecDeque::new(),
            base: 0,
            contiguous: 0,
            hold: 0,
            deliver: 0,
            ahead: 0,
            held: 0,
            consumed: 0,
        };
        Some(Self {
            number: view.number,
            peers: view.members.iter().map(|m| m.instance).filter(|i| *i != local).collect(),
            me,
            quorum: view.quorum,
            inboxes: view.members.iter().map(inbox).collect(),
            runs: VecDeque::new(),
            first_run: 0,
            stamped: 0,
            hold: Cursor::default(),
            held: 0,
            deliver: Cursor::default(),
            delivered: 0,
            free: Cursor::default(),
            freed: 0,
            safe_waiting: 0,
            fifo_waiting: 0,
            stable_quorum: 0,
            stable_all: 0,
            consumed_all: 0,
            scratch: Vec::with_capacity(view.members.len()),
        })
    }

    /// True if this node gives the stamps: the most senior member does.
    pub(crate) const fn is_sequencer(&self) -> bool {
        self.me == 0
    }

    pub(crate) fn index_of(&self, instance: NodeInstance) -> Option<u32> {
        let index = self.inboxes.iter().position(|b| b.instance == instance)?;
        u32::try_from(index).ok()
    }

    pub(crate) fn inbox(&self, member: u32) -> &Inbox {
        &self.inboxes[member as usize]
    }

    pub(crate) fn item(&self, member: u32, lseq: u64) -> Option<&Item> {
        self.inboxes.get(member as usize)?.item(lseq)
    }

    /// Takes in a member's item; `Some(n)` if it was wanted and `n` more items of the member are here without gap.
    pub(crate) fn insert(&mut self, member: u32, lseq: u64, item: Item) -> Option<u64> {
        let (safe, fifo) = (item.is_safe(), item.is_fifo());
        let more = self.inboxes.get_mut(member as usize)?.insert(lseq, item)?;
        self.safe_waiting += u64::from(safe);
        self.fifo_waiting += u64::from(fifo);
        Some(more)
    }

    /// Appends one's own next item; returns its place in this node's sequence.
    pub(crate) fn append(&mut self, item: Item) -> u64 {
        let lseq = self.inbox(self.me).contiguous + 1;
        let inserted = self.insert(self.me, lseq, item);
        debug_assert_eq!(inserted, Some(1), "an own item is always the next one");
        lseq
    }

    /// Own items in their place that were not delivered here.
    pub(crate) fn own_undelivered(&self) -> u64 {
        let own = self.inbox(self.me);
        own.contiguous - own.deliver
    }

    /// Takes in stamps from place `first` on. False if they do not join what is known.
    pub(crate) fn stamp(&mut self, first: u64, runs: &[(u32, u64)]) -> bool {
        let members = self.inboxes.len();
        if first == 0 || first > self.stamped + 1 || runs.iter().any(|(m, _)| *m as usize >= members) {
            return false;
        }
        let mut known = self.stamped + 1 - first;
        for (member, count) in runs {
            let skip = known.min(*count);
            known -= skip;
            let count = count - skip;
            if count == 0 {
                continue;
            }
            self.stamped += count;
            match self.runs.back_mut() {
                Some(last) if last.member == *member => last.count += count,
                _ => self.runs.push_back(Run { member: *member, count }),
            }
        }
        true
    }

    /// The run under the cursor, moved to the next one if this one is used up; `None` at the end of the stamps.
    fn settle(runs: &VecDeque<Run>, first_run: u64, cursor: &mut Cursor) -> Option<Run> {
        let index = usize::try_from(cursor.run - first_run).ok()?;
        let run = *runs.get(index)?;
        if cursor.used < run.count {
            return Some(run);
        }
        let next = *runs.get(index + 1)?;
        *cursor = Cursor { run: cursor.run + 1, used: 0 };
        Some(next)
    }

    /// Counts what is here, stamp and message. O(runs).
    pub(crate) fn advance_held(&mut self) {
        while let Some(run) = Self::settle(&self.runs, self.first_run, &mut self.hold) {
            let inbox = &mut self.inboxes[run.member as usize];
            let left = run.count - self.hold.used;
            let here = left.min(inbox.contiguous.saturating_sub(inbox.hold));
            inbox.hold += here;
            self.hold.used += here;
            self.held += here;
            if here < left {
                break;
            }
        }
    }

    /// The next message to deliver: the sender, its place in the sender's sequence, its place in the order. `None` if
    /// it is not here, or if it is safe and no quorum holds it.
    pub(crate) fn next(&mut self, ignore_quorum: bool) -> Option<(u32, u64, u64)> {
        if self.delivered >= self.held {
            return None;
        }
        let (member, lseq) = self.peek()?;
        let place = self.delivered + 1;
        if place > self.stable_quorum && !ignore_quorum && self.item(member, lseq)?.is_safe() {
            return None;
        }
        Some((member, lseq, place))
    }

    /// The next place to deliver, whether its message is here or not: the sender and the place in its sequence.
    pub(crate) fn peek(&mut self) -> Option<(u32, u64)> {
        let run = Self::settle(&self.runs, self.first_run, &mut self.deliver)?;
        Some((run.member, self.inbox(run.member).deliver + 1))
    }

    /// Moves past the place that [`Self::peek`] or [`Self::next`] returned.
    pub(crate) fn pass(&mut self, member: u32) {
        let inbox = &mut self.inboxes[member as usize];
        inbox.deliver += 1;
        if inbox.item(inbox.deliver).is_some_and(Item::is_safe) {
            self.safe_waiting -= 1;
        }
        if inbox.ahead < inbox.deliver {
            inbox.ahead = inbox.deliver;
            self.fifo_waiting -= u64::from(inbox.item(inbox.deliver).is_some_and(Item::is_fifo));
        }
        self.deliver.used += 1;
        self.delivered += 1;
    }

    /// The next message of a member that need not wait for its place in the order: its place in the member's sequence.
    pub(crate) fn next_fifo(&self, member: u32) -> Option<u64> {
        let inbox = self.inbox(member);
        let lseq = inbox.ahead + 1;
        (lseq <= inbox.contiguous && inbox.item(lseq).is_some_and(Item::is_fifo)).then_some(lseq)
    }

    /// Moves past the message that [`Self::next_fifo`] returned.
    pub(crate) fn pass_ahead(&mut self, member: u32) {
        self.inboxes[member as usize].ahead += 1;
        self.fifo_waiting -= 1;
    }

    /// Takes in what a member says of itself; older reports change nothing.
    pub(crate) fn report(&mut self, member: u32, held: u64, consumed: u64) {
        let inbox = &mut self.inboxes[member as usize];
        inbox.held = inbox.held.max(held);
        inbox.consumed = inbox.consumed.max(consumed);
    }

    /// Recomputes what is stable. O(members log members).
    pub(crate) fn advance_stable(&mut self) {
        let (held, delivered) = (self.held, self.delivered);
        self.report(self.me, held, delivered);
        self.stable_all = self.inboxes.iter().map(|b| b.held).min().unwrap_or(0);
        self.consumed_all = self.inboxes.iter().map(|b| b.consumed).min().unwrap_or(0);
        if self.safe_waiting == 0 {
            return;
        }
        self.scratch.clear();
        self.scratch.extend(self.inboxes.iter().map(|b| (b.held, b.votes)));
        self.scratch.sort_unstable_by_key(|(held, _)| core::cmp::Reverse(*held));
        let mut votes = 0_u64;
        for (held, weight) in &self.scratch {
            votes += u64::from(*weight);
            if votes >= u64::from(self.quorum) {
                self.stable_quorum = self.stable_quorum.max(*held);
                break;
            }
        }
    }

    /// Forgets what every member holds and this one has delivered. O(runs), and O(1) for each message freed.
    pub(crate) fn release(&mut self, upto: u64) {
        let upto = upto.min(self.delivered);
        while self.freed < upto {
            let Some(run) = Self::settle(&self.runs, self.first_run, &mut self.free) else { break };
            let take = (run.count - self.free.used).min(upto - self.freed);
            let inbox = &mut self.inboxes[run.member as usize];
            let items = usize::try_from(take).unwrap_or(usize::MAX).min(inbox.items.len());
            inbox.items.drain(..items);
            inbox.base += take;
            self.free.used += take;
            self.freed += take;
        }
        while self.first_run < self.free.run {
            self.runs.pop_front();
            self.first_run += 1;
        }
    }

    /// Stamps of places `from..=to` as far as they are known: the first place and the runs.
    pub(crate) fn stamps(&self, from: u64, to: u64) -> Option<(u64, Vec<(u32, u64)>)> {
        // The first run kept starts this many places into the order.
        let mut place = self.freed - self.free.used;
        let (first, to) = (from.max(self.freed + 1), to.min(self.stamped));
        if first > to {
            return None;
        }
        let mut found = Vec::new();
        for run in &self.runs {
            let (low, high) = (place + 1, place + run.count);
            place = high;
            let (low, high) = (low.max(first), high.min(to));
            if low <= high {
                found.push((run.member, high - low + 1));
            }
        }
        Some((first, found))
    }

    /// How many items of each member stand in places `1..=cut`, which must be stamped.
    pub(crate) fn counts_to(&self, cut: u64) -> Vec<u64> {
        let mut counts: Vec<u64> = self.inboxes.iter().map(|b| b.base).collect();
        if let Some((_, runs)) = self.stamps(self.freed + 1, cut) {
            for (member, count) in runs {
                counts[member as usize] += count;
            }
        }
        counts
    }

    /// How many items of each member were delivered, if some were ahead of their place; else nothing.
    pub(crate) fn delivered_ahead(&self) -> Vec<u64> {
        let any = self.inboxes.iter().any(|b| b.ahead > b.deliver);
        self.inboxes.iter().filter(|_| any).map(|b| b.ahead).collect()
    }

    /// Takes out this node's own items that were not delivered, in order.
    pub(crate) fn take_undelivered(&mut self) -> Vec<Item> {
        let me = self.me as usize;
        let inbox = &mut self.inboxes[me];
        let skip = usize::try_from(inbox.ahead - inbox.base).unwrap_or(usize::MAX).min(inbox.items.len());
        inbox.items.drain(skip..).flatten().collect()
    }

    /// What must hold between calls.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let ensure = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
        ensure(self.freed <= self.delivered, "freed no more than delivered")?;
        ensure(self.delivered <= self.stamped, "delivered no more than stamped")?;
        ensure(self.held <= self.stamped, "held no more than stamped")?;
        ensure(self.freed <= self.stable_all, "freed only what every member holds")?;
        ensure(self.freed >= self.free.used, "the free cursor stands where it says")?;
        let in_runs: u64 = self.runs.iter().map(|r| r.count).sum();
        ensure(self.freed - self.free.used + in_runs == self.stamped, "runs cover exactly the stamps")?;
        let safe = self.inboxes.iter().flat_map(|b| {
            let skip = usize::try_from(b.deliver.saturating_sub(b.base)).unwrap_or(usize::MAX);
            b.items.iter().skip(skip).flatten().filter(|i| i.is_safe())
        });
        ensure(safe.count() as u64 == self.safe_waiting, "waiting safe messages are counted")?;
        ensure(self.inboxes.iter().all(|b| b.ahead >= b.deliver), "nothing is delivered twice")?;
        let fifo = self.inboxes.iter().flat_map(|b| {
            let skip = usize::try_from(b.ahead.saturating_sub(b.base)).unwrap_or(usize::MAX);
            b.items.iter().skip(skip).flatten().filter(|i| i.is_fifo())
        });
        ensure(fifo.count() as u64 == self.fifo_waiting, "waiting FIFO messages are counted")
    }
}
