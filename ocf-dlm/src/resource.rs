use crate::flags::Flags;
use crate::identity::{FencingToken, NodeSlot, Owner};
use crate::mode::Mode;
use crate::name::ResourceName;
use crate::slab::{NONE, Slab};

/// Which queue of its resource a lock is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Queue {
    /// Held.
    Granted = 0,
    /// Held, and a conversion waits.
    Converting = 1,
    /// A new request waits.
    Waiting = 2,
    /// A request that its master has not answered: the resource is mastered elsewhere, or frozen.
    Outside = 3,
}

/// Where the master copy of a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Here: its queues are decided here.
    Local,
    /// On another node: here is a shadow with the locks of this node.
    Remote(NodeSlot),
    /// Not known yet: a directory is asked.
    Unknown,
}

/// A lock of a shard. 64 bytes.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) owner: Owner,
    /// Order of queueing, over all queues of the shard: recovery rebuilds by it.
    pub(crate) sequence: u64,
    pub(crate) resource: u32,
    pub(crate) next: u32,
    pub(crate) previous: u32,
    pub(crate) generation: u32,
    /// The lock above it, or `NONE`.
    pub(crate) parent: u32,
    pub(crate) children: u32,
    pub(crate) flags: Flags,
    pub(crate) held: Option<Mode>,
    pub(crate) asked: Option<Mode>,
    pub(crate) queue: Queue,
    /// The modes of others that its owner was told about, as bits.
    pub(crate) notified: u8,
    pub(crate) demoted: bool,
    pub(crate) orphan: bool,
    /// The operation waits for the resource to be thawed.
    pub(crate) parked: bool,
    /// It asks for, or was granted, its alternative mode.
    pub(crate) alternative: bool,
}

/// A resource of a shard. 96 bytes.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) name: ResourceName,
    pub(crate) token: FencingToken,
    /// Heads of the queues; a queue is a ring.
    heads: [u32; 4],
    /// How many locks hold each mode.
    counts: [u16; 6],
    /// How many locks there are, waiting ones too: so no count overflows.
    pub(crate) locks: u16,
    home: NodeSlot,
    /// The modes with a count, as bits.
    pub(crate) held: u8,
    /// Some lock in a queue may be granted out of order.
    pub(crate) any_order: bool,
    pub(crate) value_invalid: bool,
    pub(crate) frozen: bool,
    pub(crate) tag: u32,
    /// The resource above it, or `NONE`.
    pub(crate) parent: u32,
    /// The place of its value block, or `NONE`: zeros.
    pub(crate) value: u32,
}

/// The home that is not known.
const UNKNOWN: NodeSlot = NodeSlot::new(u16::MAX);

impl Resource {
    pub(crate) const fn new(name: ResourceName, parent: u32, tag: u32, token: FencingToken) -> Self {
        Self {
            name,
            token,
            heads: [NONE; 4],
            counts: [0; 6],
            locks: 0,
            home: NodeSlot::LOCAL,
            held: 0,
            any_order: false,
            value_invalid: false,
            frozen: false,
            tag,
            parent,
            value: NONE,
        }
    }

    /// Where the master copy is.
    pub(crate) fn home(&self) -> Home {
        match self.home {
            NodeSlot::LOCAL => Home::Local,
            UNKNOWN => Home::Unknown,
            node => Home::Remote(node),
        }
    }

    pub(crate) const fn set_home(&mut self, home: Home) {
        self.home = match home {
            Home::Local => NodeSlot::LOCAL,
            Home::Remote(node) => node,
            Home::Unknown => UNKNOWN,
        };
    }

    /// True if requests are decided here and now.
    pub(crate) const fn is_open(&self) -> bool {
        self.home.is_local() && !self.frozen
    }

    /// The first lock of a queue, or `NONE`.
    pub(crate) const fn head(&self, queue: Queue) -> u32 {
        self.heads[queue as usize]
    }

    /// True if no lock is in that queue.
    pub(crate) const fn is_empty(&self, queue: Queue) -> bool {
        self.head(queue) == NONE
    }

    /// True if nobody waits.
    pub(crate) const fn is_calm(&self) -> bool {
        self.is_empty(Queue::Converting) && self.is_empty(Queue::Waiting)
    }

    /// True if it has no lock at all.
    pub(crate) const fn is_idle(&self) -> bool {
        self.is_calm() && self.is_empty(Queue::Granted) && self.is_empty(Queue::Outside)
    }

    /// How many locks hold `mode`.
    pub(crate) const fn count(&self, mode: Mode) -> u16 {
        self.counts[mode as usize]
    }

    /// Changes what a lock holds.
    pub(crate) const fn recount(&mut self, from: Option<Mode>, to: Option<Mode>) {
        if let Some(to) = to {
            self.counts[to as usize] += 1;
            self.held |= to.bit();
        }
        if let Some(from) = from {
            let count = &mut self.counts[from as usize];
            *count -= 1;
            if *count == 0 {
                self.held &= !from.bit();
            }
        }
    }

    /// True if a lock that holds `held` and asks for `asked` is in conflict with what another holds.
    pub(crate) const fn is_in_conflict(&self, held: Option<Mode>, asked: Mode) -> bool {
        let conflicts = asked.conflicts() & self.held;
        if conflicts == 0 {
            return false;
        }
        match held {
            Some(held) => conflicts != held.bit() || self.count(held) > 1,
            None => true,
        }
    }

    /// Puts a lock that is in no queue at the end, or at the head, of one.
    pub(crate) fn link(&mut self, locks: &mut Slab<Lock>, at: u32, queue: Queue, first: bool) {
        locks[at].queue = queue;
        let head = self.heads[queue as usize];
        if head == NONE {
            (locks[at].next, locks[at].previous) = (at, at);
            self.heads[queue as usize] = at;
            return;
        }
        let tail = locks[head].previous;
        (locks[at].next, locks[at].previous) = (head, tail);
        locks[tail].next = at;
        locks[head].previous = at;
        if first {
            self.heads[queue as usize] = at;
        }
    }

    /// Takes a lock out of its queue.
    pub(crate) fn unlink(&mut self, locks: &mut Slab<Lock>, at: u32) {
        let Lock { next, previous, queue, .. } = locks[at];
        let head = &mut self.heads[queue as usize];
        if next == at {
            *head = NONE;
        } else {
            locks[previous].next = next;
            locks[next].previous = previous;
            if *head == at {
                *head = next;
            }
        }
        if queue != Queue::Granted && self.is_calm() {
            self.any_order = false;
        }
    }

    /// The lock after `at` in its queue, or `NONE` at the end.
    pub(crate) fn after(&self, locks: &Slab<Lock>, at: u32) -> u32 {
        let Lock { next, queue, .. } = locks[at];
        if next == self.head(queue) { NONE } else { next }
    }

    /// The locks of a queue, in order.
    pub(crate) fn queued<'a>(
        &'a self,
        locks: &'a Slab<Lock>,
        queue: Queue,
    ) -> impl Iterator<Item = u32> + 'a {
        let first = Some(self.head(queue)).filter(|at| *at != NONE);
        core::iter::successors(first, |at| Some(self.after(locks, *at)).filter(|at| *at != NONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_and_a_lock_are_as_small_as_they_say() {
        assert!(size_of::<Resource>() <= 96, "{}", size_of::<Resource>());
        assert!(size_of::<Lock>() <= 64, "{}", size_of::<Lock>());
    }
}
