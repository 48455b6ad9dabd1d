//! The conformance suite for those who write a [`Medium`].

use crate::driver::IoStats;
use crate::medium::{Burst, Medium, PIECE, PIECES, Reach, Sent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::SocketAddr;

/// How long the suite waits for a datagram before it sends it again.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 150_000_000 };
/// How often a datagram is sent before it counts as not carried: any medium may lose some.
const TRIES: usize = 20;
/// Bytes sent to see what a full medium does.
const FLOOD: usize = 4 << 20;

/// Two ends that reach each other: the second is what the first sends to.
pub type MediumPair = (Box<dyn Medium>, Box<dyn Medium>);

/// Examines a medium: every promise of [`Medium`] that can be seen from outside. `make` opens two fresh ends of it that
/// reach each other and nobody else.
///
/// ```
/// use ocf_comm::medium::{MemoryPort, memory_hub};
/// use ocf_comm::testing::check_medium;
/// let hub = memory_hub("conformance");
/// check_medium(|| {
///     let open = |number| Box::new(MemoryPort::open(&hub, number).expect("the port is free"));
///     (open(1), open(2))
/// });
/// ```
///
/// # Panics
/// Where the medium does not conform, with the promise that it does not keep.
pub fn check_medium(mut make: impl FnMut() -> MediumPair) {
    check_description(&make());
    check_quiet(make());
    check_sizes(make());
    check_bursts(make());
    check_every_byte(make());
    check_too_large(make());
    check_flood(make());
}

/// A datagram with its length and number in it.
fn datagram(number: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| number.wrapping_add((i % 251).to_le_bytes()[0])).collect()
}

struct End {
    medium: Box<dyn Medium>,
    buffer: Vec<u8>,
    stats: IoStats,
}

impl End {
    fn new(medium: Box<dyn Medium>) -> Self {
        Self { medium, buffer: vec![0; PIECE * PIECES], stats: IoStats::default() }
    }

    fn address(&self) -> SocketAddr {
        self.medium.local().expect("an open medium knows its address")
    }

    /// What arrives until nothing does for [`WAIT`], or `enough` says so.
    fn read(
        &mut self,
        mut enough: impl FnMut(&[(SocketAddr, Vec<u8>)]) -> bool,
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        loop {
            let reading = self.medium.receive(&mut self.buffer, &mut self.stats, &mut |arrival| {
                assert!(arrival.segment > 0, "a segment is at least 1");
                for one in arrival.data.chunks(arrival.segment) {
                    got.push((arrival.from, one.to_vec()));
                }
            });
            if enough(&got) {
                return got;
            }
            if reading.more {
                continue;
            }
            let mut ready = [PollFd::from_borrowed_fd(self.medium.fd(), PollFlags::IN)];
            if poll(&mut ready, Some(&WAIT)) == Ok(0) {
                return got;
            }
        }
    }

    /// Sends all, waiting for room as often as needed.
    fn send(&mut self, to: SocketAddr, segment: usize, data: &[u8]) {
        let mut from = 0;
        while from < data.len() {
            let burst = Burst { to, segment, data: &data[from..] };
            let Sent::Blocked(taken) = self.medium.send(burst, &mut self.stats) else { break };
            assert!(
                taken.is_multiple_of(segment) || from + taken == data.len(),
                "only whole datagrams count as taken"
            );
            from += taken;
            self.wait_for_room();
        }
        for _ in 0..TRIES {
            if self.medium.flush() {
                return;
            }
            self.wait_for_room();
        }
        panic!("{} never writes what it took", self.medium.name());
    }

    fn wait_for_room(&self) {
        let mut ready = [PollFd::from_borrowed_fd(self.medium.fd(), PollFlags::OUT)];
        let polled = poll(&mut ready, Some(&WAIT));
        assert!(polled.is_ok(), "the descriptor can be watched");
    }
}

fn ends((a, b): MediumPair) -> (End, End) {
    (End::new(a), End::new(b))
}

fn check_description(pair: &MediumPair) {
    for medium in [&pair.0, &pair.1] {
        assert!(!medium.name().is_empty(), "a medium has a name");
        let limits = medium.limits();
        assert!(limits.datagram_max >= 1200, "{} carries datagrams of 1200 bytes", medium.name());
        let one = limits.reach == Reach::AnyAddress;
        let (a, b) = (pair.0.local().expect("an address"), pair.1.local().expect("an address"));
        assert_eq!(a != b, one, "two ends have two addresses only where an address names one end");
    }
}

fn check_quiet(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    assert!(a.read(|_| false).is_empty(), "nothing arrives if nobody sends");
    assert!(b.read(|_| false).is_empty(), "nothing arrives if nobody sends");
}

/// Sends `data` from `a` to `b` until `arrived` has seen what it wants.
fn insist(a: &mut End, b: &mut End, (segment, data): (usize, &[u8]), what: &str) {
    let (to, expected) = (b.address(), data.chunks(segment).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let from = a.address();
    let mut seen = vec![false; expected.len()];
    for _ in 0..TRIES {
        a.send(to, segment, data);
        for (sender, one) in b.read(|got| got.len() >= expected.len()) {
            assert_eq!(sender, from, "what arrives names the address of its sender");
            let at = expected.iter().position(|e| *e == one);
            seen[at.unwrap_or_else(|| panic!("{what}: {} bytes that nobody sent", one.len()))] = true;
        }
        if seen.iter().all(|s| *s) {
            return;
        }
    }
    panic!("{what} does not arrive");
}

fn check_sizes(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    let most = a.medium.limits().datagram_max.min(9000);
    for length in [1, 2, 63, 1200, most - 1, most] {
        let data = datagram(1, length);
        insist(&mut a, &mut b, (length, &data), &format!("a datagram of {length} bytes"));
        insist(&mut b, &mut a, (length, &data), &format!("a datagram of {length} bytes the other way"));
    }
}

fn check_bursts(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    for (segment, count, last) in [(100, 5, 100), (100, 5, 1), (1200, 12, 700), (1, 1, 1)] {
        let data: Vec<u8> =
            (1..=count).flat_map(|i| datagram(i, if i == count { last } else { segment })).collect();
        let before = a.stats.datagrams_out;
        insist(&mut a, &mut b, (segment, &data), &format!("a burst of {count} datagrams of {segment} bytes"));
        assert!(a.stats.datagrams_out >= before + u64::from(count), "what is sent is counted");
    }
}

fn check_every_byte(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    let data: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    insist(&mut a, &mut b, (data.len(), &data), "a datagram of every byte");
    for byte in [0, 0x11, 0x13, 0x7d, 0x7e, 0xff] {
        insist(&mut a, &mut b, (300, &[byte; 300]), "a datagram of one byte repeated");
    }
}

fn check_too_large(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    let length = a.medium.limits().datagram_max + 1;
    a.send(b.address(), length, &datagram(1, length));
    assert_eq!(
        (a.stats.too_large, a.stats.datagrams_out),
        (1, 0),
        "a datagram over the limit is counted, not sent"
    );
    assert!(b.read(|_| false).is_empty(), "a datagram over the limit does not arrive in pieces");
    insist(&mut a, &mut b, (4, b"next"), "the datagram after one that was too large");
}

fn check_flood(pair: MediumPair) {
    let (mut a, mut b) = ends(pair);
    let to = b.address();
    let burst: Vec<u8> = (1..=40).flat_map(|i| datagram(i, 1000)).collect();
    let budget = a.medium.limits().queue_max.map_or(FLOOD, |queue| queue * 8);
    let mut sent = 0;
    while sent < budget {
        match a.medium.send(Burst { to, segment: 1000, data: &burst }, &mut a.stats) {
            Sent::All => sent += burst.len(),
            // Full: it takes more once the other end reads.
            Sent::Blocked(taken) => {
                assert!(
                    taken <= burst.len() && taken.is_multiple_of(1000),
                    "only whole datagrams count as taken"
                );
                break;
            }
        }
    }
    let got = b.read(|_| {
        a.medium.flush();
        false
    });
    assert!(!got.is_empty(), "a full medium still carries something");
    for (_, one) in got {
        let whole = (1..=40).contains(&one[0]) && one == datagram(one[0], 1000);
        assert!(whole, "a full medium loses datagrams, it does not cut them");
    }
    insist(&mut a, &mut b, (5, b"after"), "a datagram after a flood");
}
