//! What is drawn of locks: how long one takes, by where it is mastered and who holds it, and how long a recovery takes.

use crate::support::plot::{Axes, Line, draw as paint, number};
use crate::support::{Samples, machine};
use crate::{Crowd, Killed, contended, first_use, kill_one, remote_lock, space, timed};
use ocf_dlm::Mode;

/// Locks of each case between nodes.
const REMOTE: usize = 10_000;
/// Locks of each case on one node.
const LOCAL: usize = 500_000;
/// Resources of the recoveries, over three nodes.
const RECOVERED: [usize; 6] = [3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];

/// Draws both, and says where they are.
pub(crate) fn draw() -> [String; 2] {
    [latency(), recovery()]
}

fn latency() -> String {
    let hot = space();
    let owner = hot.client().expect("one client");
    let crowd = Crowd::new();
    let hot = machine::on_one(|| timed(LOCAL, || drop(owner.lock("hot", Mode::Ex).expect("free"))));
    let lines = [
        ("here, hot (and unlock)", hot),
        ("here, one of a million (and unlock)", machine::on_one(|| crowd.samples(LOCAL))),
        ("elsewhere, master known", machine::on_one(|| remote_lock(REMOTE))),
        ("elsewhere, first use, three nodes", machine::on_one(|| first_use(REMOTE))),
        ("elsewhere, a third node holds it", machine::on_one(|| contended(REMOTE))),
    ];
    let axes = Axes {
        title: "How long a lock takes, by case",
        x: "one of so many locks takes longer",
        y: "microseconds",
    };
    paint("dlm-latency", &axes, &lines.map(|(name, samples)| (name, tail(&samples))))
}

/// For one of 2, 5, 10 .. 5,000 locks: what only that one exceeds.
fn tail(samples: &Samples) -> Vec<(f64, f64)> {
    let each = [2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000].map(number);
    each.into_iter().map(|one_of| (one_of, samples.percentile(1.0 - 1.0 / one_of))).collect()
}

fn recovery() -> String {
    let taken: Vec<Killed> = RECOVERED.into_iter().map(kill_one).collect();
    let against = |of: fn(&Killed) -> f64| -> Vec<(f64, f64)> {
        taken.iter().map(|killed| (f64::from(killed.affected), of(killed))).collect()
    };
    let lines: [Line; 3] = [
        ("all are back", against(|killed| killed.recovery)),
        ("longest wait for another lock meanwhile", against(|killed| killed.stall)),
        ("1 us each", against(|killed| f64::from(killed.affected) / 1e3)),
    ];
    let axes = Axes {
        title: "Recovery after one of three nodes is lost",
        x: "locks that others hold of what it mastered",
        y: "milliseconds after the view",
    };
    paint("dlm-recovery", &axes, &lines)
}
