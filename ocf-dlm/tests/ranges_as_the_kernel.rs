//! Goal: range locks do what the kernel's own do.
//!
//! Method: the same random calls on a table and, as locks of open file descriptions, on a real file; after each call, what
//! was answered, and from time to time what each byte is locked by.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, flock};
use ocf_dlm::range::{Range, RangeKind, RangeLocks, RangeOwner};
use pils::Rng;
use std::fs::File;

/// Bytes that are locked: few, so that ranges meet.
const BYTES: u64 = 40;
const OWNERS: u64 = 4;

#[expect(clippy::cast_possible_truncation, reason = "small constants of the C library")]
fn lock(kind: i32, first: u64, last: u64) -> flock {
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
        RangeKind::Shared => libc::F_RDLCK,
        RangeKind::Exclusive => libc::F_WRLCK,
    }
}

/// What the kernel says is in the way: first byte, length (0: to the end), kind.
fn in_the_way(file: &File, kind: RangeKind, first: u64, last: u64) -> Option<(i64, i64, i32)> {
    let mut asked = lock(kind_of(kind), first, last);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
    let found = i32::from(asked.l_type);
    (found != libc::F_UNLCK).then_some((asked.l_start, asked.l_len, found))
}

struct Both {
    table: RangeLocks,
    files: Vec<File>,
    /// Owns nothing: sees all locks.
    observer: File,
}

impl Both {
    fn new(path: &std::path::Path) -> Self {
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        Self { table: RangeLocks::default(), files: (0..OWNERS).map(|_| open()).collect(), observer: open() }
    }

    fn step(&mut self, rng: &mut Rng) {
        let owner = rng.below(OWNERS);
        let file = &self.files[usize::try_from(owner).unwrap()];
        let owner = RangeOwner(owner);
        let first = rng.below(BYTES);
        let last = if rng.chance(0.1) { u64::MAX } else { rng.between(first, BYTES - 1) };
        let range = Range::new(first, last).unwrap();
        let kind = if rng.chance(0.5) { RangeKind::Shared } else { RangeKind::Exclusive };
        if rng.chance(0.35) {
            self.table.unlock(owner, b"file", range).unwrap();
            fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK, first, last))).unwrap();
            return;
        }
        let ours = self.table.test(owner, b"file", range, kind);
        let theirs = in_the_way(file, kind, first, last);
        assert_eq!(
            ours.is_some(),
            theirs.is_some(),
            "{owner:?} {range:?} {kind:?}: {:?}",
            self.table.held(b"file")
        );
        if let Some(theirs) = theirs {
            // The kernel names any of those in the way.
            let known = self.table.held(b"file").iter().any(|held| self.as_kernel(held) == theirs);
            assert!(known, "{theirs:?} is not in {:?}", self.table.held(b"file"));
        }
        let ours = self.table.lock(owner, b"file", range, kind);
        let theirs = fcntl(file, FcntlArg::F_OFD_SETLK(&lock(kind_of(kind), first, last)));
        let code = ours.err().map_or(0, ocf_dlm::range::RangeError::linux);
        assert_eq!(code, theirs.err().map_or(0, |error: Errno| -(error as i32)));
    }

    fn as_kernel(&self, held: &ocf_dlm::range::HeldRange) -> (i64, i64, i32) {
        let as_flock = lock(kind_of(held.kind), held.range.first(), held.range.last());
        (as_flock.l_start, as_flock.l_len, kind_of(held.kind))
    }

    /// Every byte, and the first beyond, as an outsider sees it.
    fn compare(&self) {
        for byte in 0..=BYTES {
            for kind in [RangeKind::Shared, RangeKind::Exclusive] {
                let ours = self.table.test(RangeOwner(99), b"file", Range::new(byte, byte).unwrap(), kind);
                let theirs = in_the_way(&self.observer, kind, byte, byte);
                assert_eq!(ours.is_some(), theirs.is_some(), "byte {byte} {kind:?}");
            }
        }
    }
}

#[test]
fn random_histories_end_as_the_kernel_ends_them() {
    let path = std::env::temp_dir().join(format!("ocf-ranges-{}", std::process::id()));
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut both = Both::new(&path);
        for step in 0..400 {
            both.step(&mut rng);
            if step % 20 == 0 {
                both.compare();
            }
        }
        // An owner that dies: its file is closed.
        both.table.drop_owner(RangeOwner(OWNERS - 1));
        drop(both.files.pop());
        both.compare();
    }
    std::fs::remove_file(path).unwrap();
}
