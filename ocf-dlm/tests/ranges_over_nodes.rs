//! Goal: byte ranges that owners on three nodes lock are what the kernel makes of the same calls.
//!
//! Method: three production engines in one thread, messages in random order between nodes and in order within each pair; the
//! same random calls as locks of open file descriptions on a real file. After each call what was answered is compared, and from
//! time to time what each byte is locked by.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};
use ocf_dlm::cluster::{
    ClusterView, Completed, Config, Engine, Input, Output, RangeAsk, RangeStep, ViewMember, WaitReason,
};
use ocf_dlm::range::RangeKind::{self, Exclusive, Shared};
use ocf_dlm::range::{RANGES_PER_OWNER_MAX, Range};
use ocf_dlm::wire::{Key, RangeBlocker};
use ocf_dlm::{ClientId, Flags, Mode, RequestError, Status};
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::time::Duration;

/// Bytes that are locked: few, so that ranges meet.
const BYTES: u64 = 40;
/// Two on each node.
const OWNERS: usize = 6;

fn instance(node: usize) -> NodeInstance {
    NodeInstance::new(NodeId::new(u32::try_from(node).unwrap()), Incarnation::new(1 << 96))
}

fn client(owner: usize) -> ClientId {
    ClientId::new(u32::try_from(owner).unwrap())
}

fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).unwrap()
}

/// Three engines, and what each pair has to say.
struct Nodes {
    engines: Vec<Engine>,
    circuits: BTreeMap<(usize, usize), VecDeque<Bytes>>,
    now: Instant,
    rng: Rng,
    ended: Vec<Completed>,
    tested: Vec<Option<RangeBlocker>>,
    /// Locks that others want something of.
    wanted: Vec<(u64, Mode)>,
}

impl Nodes {
    fn new(seed: u64) -> Self {
        let config = Config { deadlock_delay: Duration::from_millis(10), ..Config::default() };
        let engine = |node| Engine::new(config.clone(), instance(node)).unwrap();
        let member = |node| ViewMember { instance: instance(node), weight: 1, joined: 1 };
        let view = ClusterView {
            number: 1,
            members: (0..3).map(member).collect(),
            previous: Vec::new(),
            unproven: Vec::new(),
        };
        let mut nodes = Self {
            engines: (0..3).map(engine).collect(),
            circuits: BTreeMap::new(),
            now: Instant::from_millis(1),
            rng: Rng::new(seed),
            ended: Vec::new(),
            tested: Vec::new(),
            wanted: Vec::new(),
        };
        for engine in &mut nodes.engines {
            engine.handle(nodes.now, Input::View(&view));
        }
        nodes.settle();
        nodes
    }

    fn at(&mut self, owner: usize) -> &mut Engine {
        &mut self.engines[owner % 3]
    }

    /// Until nobody has anything to say or to do at this time.
    fn settle(&mut self) {
        loop {
            for from in 0..3 {
                while self.engines[from].poll_timeout().is_some_and(|due| due <= self.now) {
                    self.engines[from].handle_timeout(self.now);
                }
                while let Some(output) = self.engines[from].poll_output() {
                    match output {
                        Output::Send { to, message } => {
                            let to = usize::try_from(to.node.raw()).unwrap();
                            self.circuits.entry((from, to)).or_default().push_back(message);
                        }
                        Output::Completed(completed) => self.ended.push(completed),
                        Output::Tested { blocker, .. } => self.tested.push(blocker),
                        Output::Blocking { lock, wanted, .. } => self.wanted.push((lock, wanted)),
                        Output::Lost { .. }
                        | Output::Overrun
                        | Output::Revoked { .. }
                        | Output::Reported { .. } => panic!("{output:?}"),
                        Output::FenceWanted(_) | Output::Recovered { .. } | _ => {}
                    }
                }
            }
            let busy: Vec<(usize, usize)> =
                self.circuits.iter().filter(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair).collect();
            let Some((from, to)) = self.rng.pick(&busy).copied() else { return };
            let message = self.circuits.get_mut(&(from, to)).and_then(VecDeque::pop_front).unwrap();
            self.engines[to].handle(self.now, Input::Message { from: instance(from), message: &message });
        }
    }

    /// Time passes: timers come.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    fn ask(owner: usize, object: &[u8], range: Range, kind: RangeKind, wait: bool) -> RangeAsk {
        let flags = if wait { Flags::NONE } else { Flags::NOQUEUE };
        RangeAsk {
            client: client(owner),
            key: Key::object(b"ls", object),
            range,
            kind,
            flags,
            transaction: None,
            deadline: None,
        }
    }

    fn lock(&mut self, owner: usize, range: Range, kind: RangeKind) -> Status {
        let (now, ask) = (self.now, Self::ask(owner, b"file", range, kind, false));
        match self.at(owner).lock_range(now, ask).unwrap() {
            RangeStep::Held => self.settle(),
            RangeStep::Asked(lock) => {
                self.settle();
                let ended = self.ended.pop().unwrap();
                assert!(self.ended.is_empty() && ended.lock == lock);
                return ended.status;
            }
        }
        Status::Granted
    }

    /// Asks for bytes of an object, and does not look at what comes of it.
    fn begin(&mut self, owner: usize, object: &[u8], range: Range, kind: RangeKind) -> RangeStep {
        let (now, ask) = (self.now, Self::ask(owner, object, range, kind, true));
        let step = self.at(owner).lock_range(now, ask).unwrap();
        self.settle();
        step
    }

    fn unlock_of(&mut self, owner: usize, object: &[u8], range: Range) {
        let now = self.now;
        self.at(owner).unlock_range(now, client(owner), &Key::object(b"ls", object), range).unwrap();
        self.settle();
    }

    fn unlock(&mut self, owner: usize, range: Range) {
        self.unlock_of(owner, b"file", range);
    }

    fn test(&mut self, owner: usize, range: Range, kind: RangeKind) -> Option<RangeBlocker> {
        let (now, ask) = (self.now, Self::ask(owner, b"file", range, kind, false));
        self.at(owner).test_range(now, ask).unwrap();
        self.settle();
        self.tested.pop().unwrap()
    }

    fn held(&self, owner: usize, object: &[u8]) -> Vec<(u64, u64, RangeKind)> {
        let engine = &self.engines[owner % 3];
        let lock = engine.range_owner(client(owner), &Key::object(b"ls", object));
        let held = lock.and_then(|lock| engine.lock_ranges(lock));
        held.map_or_else(Vec::new, |set| {
            set.as_slice().iter().map(|(range, kind)| (range.first(), range.last(), *kind)).collect()
        })
    }

    fn statuses(&mut self) -> Vec<Status> {
        core::mem::take(&mut self.ended).into_iter().map(|ended| ended.status).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "small constants of the C library")]
fn as_flock(kind: i32, range: Range) -> flock {
    let (first, last) = (range.first(), range.last());
    let length = if last == u64::MAX { 0 } else { i64::try_from(last - first + 1).unwrap() };
    flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: i64::try_from(first).unwrap(),
        l_len: length,
        l_pid: 0,
    }
}

const fn kind_of(kind: RangeKind) -> i32 {
    match kind {
        Shared => libc::F_RDLCK,
        Exclusive => libc::F_WRLCK,
    }
}

/// What the kernel says is in the way: first byte, length (0: to the end), kind.
fn in_the_way(file: &File, kind: RangeKind, range: Range) -> Option<(i64, i64, i32)> {
    let mut asked = as_flock(kind_of(kind), range);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
    let found = i32::from(asked.l_type);
    (found != libc::F_UNLCK).then_some((asked.l_start, asked.l_len, found))
}

/// The calls of one step on both.
fn step(nodes: &mut Nodes, files: &[File], rng: &mut Rng) {
    let owner = rng.below(OWNERS as u64);
    let owner = usize::try_from(owner).unwrap();
    let file = &files[owner];
    let first = rng.below(BYTES);
    let last = if rng.chance(0.1) { u64::MAX } else { rng.between(first, BYTES - 1) };
    let range = range(first, last);
    let kind = if rng.chance(0.5) { Shared } else { Exclusive };
    if rng.chance(0.35) {
        nodes.unlock(owner, range);
        fcntl(file, FcntlArg::F_OFD_SETLK(&as_flock(libc::F_UNLCK, range))).unwrap();
        return;
    }
    let (ours, theirs) = (nodes.test(owner, range, kind), in_the_way(file, kind, range));
    assert_eq!(ours.is_some(), theirs.is_some(), "{owner} {range:?} {kind:?}: {ours:?} {theirs:?}");
    if let Some(blocker) = ours {
        // The kernel names any of those in the way; that we name one of them shows where the owner says it is.
        let other = usize::try_from(blocker.client.raw()).unwrap();
        let held = (blocker.range.first(), blocker.range.last(), blocker.kind);
        assert!(other != owner && nodes.held(other, b"file").contains(&held), "{blocker:?}");
    }
    let status = nodes.lock(owner, range, kind);
    assert!(matches!(status, Status::Granted | Status::NotQueued), "{status:?}");
    let ours = if status == Status::Granted { 0 } else { Errno::EAGAIN as i32 };
    let theirs = fcntl(file, FcntlArg::F_OFD_SETLK(&as_flock(kind_of(kind), range)));
    assert_eq!(ours, theirs.err().map_or(0, |error| error as i32));
}

/// Every byte, and the first beyond, as an outsider sees it.
fn compare(nodes: &mut Nodes, observer: &File) {
    for byte in 0..=BYTES {
        for kind in [Shared, Exclusive] {
            let ours = nodes.test(99, range(byte, byte), kind);
            let theirs = in_the_way(observer, kind, range(byte, byte));
            assert_eq!(ours.is_some(), theirs.is_some(), "byte {byte} {kind:?}: {ours:?}");
        }
    }
}

fn histories(seeds: core::ops::Range<u64>, name: &str) {
    let path = std::env::temp_dir().join(format!("ocf-ranges-{name}-{}", std::process::id()));
    for seed in seeds {
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (mut files, observer): (Vec<File>, File) = ((0..OWNERS).map(|_| open()).collect(), open());
        let (mut rng, mut nodes) = (Rng::new(seed), Nodes::new(seed));
        for at in 0..400 {
            step(&mut nodes, &files, &mut rng);
            if at % 40 == 0 {
                compare(&mut nodes, &observer);
            }
        }
        // An owner that dies: its file is closed.
        let (gone, now) = (OWNERS - 1, nodes.now);
        assert!(nodes.at(gone).end_client(now, client(gone)) <= 1, "an owner has one lock of an object");
        nodes.settle();
        drop(files.pop());
        compare(&mut nodes, &observer);
        for owner in 0..OWNERS - 1 {
            nodes.unlock(owner, Range::WHOLE);
        }
        nodes.pass(Duration::from_secs(30));
        for engine in &nodes.engines {
            engine.check_invariants().unwrap();
            let left = engine.snapshot();
            assert_eq!((left.locks, left.trees, left.listed), (0, 0, 0), "{left:?}");
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn random_histories_over_three_nodes_end_as_the_kernel_ends_them() {
    histories(0..12, "few");
}

#[test]
#[ignore = "many seeds: for release builds"]
fn more_random_runs_over_three_nodes_end_as_the_kernel_ends_them() {
    histories(1000..1040, "many");
}

#[test]
fn a_wait_that_ends_without_a_grant_leaves_what_was_held() {
    let mut nodes = Nodes::new(1);
    assert_eq!(nodes.lock(0, range(0, 99), Exclusive), Status::Granted);
    assert_eq!(nodes.lock(1, range(100, 199), Shared), Status::Granted);
    // Exclusive to shared on the one half, and new bytes on the other: neither is done before both can be.
    let RangeStep::Asked(lock) = nodes.begin(0, b"file", range(50, 149), Exclusive) else {
        panic!("it is new")
    };
    assert_eq!((nodes.statuses(), nodes.held(0, b"file")), (vec![], vec![(0, 99, Exclusive)]));
    let busy = Nodes::ask(0, b"file", range(5, 5), Shared, true);
    let now = nodes.now;
    assert_eq!(nodes.at(0).lock_range(now, busy), Err(RequestError::Busy));
    nodes.at(0).cancel(now, lock).unwrap();
    nodes.settle();
    assert_eq!(
        (nodes.statuses(), nodes.held(0, b"file")),
        (vec![Status::Cancelled], vec![(0, 99, Exclusive)])
    );
    let mut timed = Nodes::ask(0, b"file", range(90, 100), Exclusive, true);
    timed.deadline = Some(now + Duration::from_millis(5));
    nodes.at(0).lock_range(now, timed).unwrap();
    nodes.settle();
    nodes.pass(Duration::from_millis(6));
    assert_eq!(
        (nodes.statuses(), nodes.held(0, b"file")),
        (vec![Status::TimedOut], vec![(0, 99, Exclusive)])
    );
    assert_eq!(nodes.lock(1, range(99, 99), Shared), Status::NotQueued);
}

#[test]
fn an_exchange_gives_up_only_with_the_grant() {
    let mut nodes = Nodes::new(2);
    assert_eq!(nodes.lock(0, range(0, 9), Exclusive), Status::Granted);
    assert_eq!(nodes.lock(1, range(10, 19), Exclusive), Status::Granted);
    nodes.begin(0, b"file", range(5, 14), Shared);
    nodes.begin(2, b"file", range(5, 5), Shared);
    assert_eq!(nodes.statuses(), []);
    nodes.unlock(1, range(12, 19));
    assert_eq!(nodes.statuses(), [], "bytes 10 and 11 are not free");
    nodes.unlock(1, range(10, 11));
    assert_eq!(nodes.statuses(), [Status::Granted, Status::Granted]);
    assert_eq!(nodes.held(0, b"file"), [(0, 4, Exclusive), (5, 14, Shared)]);
    assert_eq!(nodes.held(2, b"file"), [(5, 5, Shared)], "what was given up is shared");
}

#[test]
fn a_circle_within_an_object_is_refused_at_once_and_one_over_several_is_found() {
    let mut nodes = Nodes::new(3);
    for owner in 0..3 {
        let first = owner as u64 * 10;
        assert_eq!(nodes.lock(owner, range(first, first + 9), Exclusive), Status::Granted);
    }
    nodes.begin(0, b"file", range(10, 10), Shared);
    nodes.begin(1, b"file", range(20, 20), Shared);
    assert_eq!(nodes.statuses(), []);
    nodes.begin(2, b"file", range(0, 0), Shared);
    assert_eq!(nodes.statuses(), [Status::Deadlock]);
    assert_eq!(nodes.held(2, b"file"), [(20, 29, Exclusive)]);
    nodes.unlock(2, Range::WHOLE);
    nodes.unlock(1, Range::WHOLE);
    assert_eq!(nodes.statuses(), [Status::Granted, Status::Granted]);

    let mut nodes = Nodes::new(4);
    for (owner, object) in [b"a", b"b", b"c"].into_iter().enumerate() {
        nodes.begin(owner, object, Range::WHOLE, Exclusive);
    }
    for (owner, object) in [b"b", b"c", b"a"].into_iter().enumerate() {
        nodes.pass(Duration::from_millis(1));
        nodes.begin(owner, object, range(7, 7), Shared);
    }
    assert_eq!(nodes.statuses(), [Status::Granted; 3]);
    nodes.pass(Duration::from_millis(20));
    assert_eq!(nodes.statuses(), [Status::Deadlock], "the last that waits is denied, as the kernel does");
    assert_eq!(nodes.held(2, b"a"), []);
}

#[test]
fn owners_that_lock_bytes_for_one_transaction_wait_as_one() {
    for transaction in [None, Some(7)] {
        let mut nodes = Nodes::new(9);
        let mut begin = |owner: usize, object: &[u8]| {
            // The first and the fourth are of one node.
            let transaction = transaction.filter(|_| owner != 1);
            let ask = RangeAsk { transaction, ..Nodes::ask(owner, object, range(0, 9), Exclusive, true) };
            let now = nodes.now;
            nodes.at(owner).lock_range(now, ask).unwrap();
            nodes.pass(Duration::from_millis(1));
        };
        begin(0, b"a");
        begin(1, b"b");
        begin(3, b"b");
        begin(1, b"a");
        nodes.ended.clear();
        nodes.pass(Duration::from_millis(20));
        let denied = nodes.statuses().iter().filter(|end| **end == Status::Deadlock).count();
        assert_eq!(denied, usize::from(transaction.is_some()), "{transaction:?}");
    }
}

#[test]
fn who_is_in_the_way_is_named_and_told() {
    let mut nodes = Nodes::new(5);
    let (now, mut ask) = (nodes.now, Nodes::ask(4, b"file", range(10, 19), Shared, true));
    ask.flags = Flags::NOTIFY;
    let RangeStep::Asked(held) = nodes.at(4).lock_range(now, ask).unwrap() else { panic!("it is new") };
    nodes.settle();
    let found = nodes.test(0, range(0, u64::MAX), Exclusive).unwrap();
    assert_eq!((found.node, found.client, found.kind), (instance(1), client(4), Shared));
    assert_eq!((found.range, nodes.test(0, range(0, 9), Exclusive)), (range(10, 19), None));
    assert_eq!(nodes.test(4, Range::WHOLE, Exclusive), None, "nobody is in its own way");
    nodes.begin(1, b"file", range(0, 9), Exclusive);
    assert_eq!(nodes.wanted, [], "other bytes");
    let RangeStep::Asked(lock) = nodes.begin(0, b"file", range(19, 30), Exclusive) else {
        panic!("it is new")
    };
    assert_eq!(nodes.wanted, [(held, Mode::Ex)]);
    let waits = nodes.engines[0].wait_reason(lock);
    assert!(matches!(waits, Some(WaitReason::AtMaster(_) | WaitReason::BlockedBy(_))), "{waits:?}");
}

#[test]
fn an_owner_has_so_many_ranges_and_no_more() {
    let mut nodes = Nodes::new(6);
    let now = nodes.now;
    for n in 0..RANGES_PER_OWNER_MAX as u64 {
        assert_eq!(nodes.lock(0, range(n * 4 + 1, n * 4 + 3), Exclusive), Status::Granted);
    }
    let limit = Err(RequestError::Limit("RANGES_PER_OWNER_MAX"));
    let one_more = Nodes::ask(0, b"file", range(1 << 20, 1 << 20), Exclusive, true);
    assert_eq!(nodes.at(0).lock_range(now, one_more), limit.map(|()| RangeStep::Held));
    let key = Key::object(b"ls", b"file");
    assert_eq!(nodes.at(0).unlock_range(now, client(0), &key, range(2, 2)), limit);
    assert_eq!(nodes.lock(0, range(0, 1 << 20), Shared), Status::Granted);
    assert_eq!(nodes.held(0, b"file"), [(0, 1 << 20, Shared)]);
}
