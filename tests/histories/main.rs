//! Goal: what real nodes promise of views, quorum, order and virtual synchrony holds while processes are killed and stopped, and while
//! links are cut, cut one way, and lose a tenth of what passes.
//!
//! Method: three `record_history` processes in network namespaces on a switch, with sentinels and records on disk; a seeded order of
//! bad days; what they wrote, by the one monotonic clock of the machine, is judged by the checkers that judge the simulator. Steps of the clock that
//! tells the date are not among the bad days: it belongs to the whole machine, and no core ever reads it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may fail by panicking and says how far it got"
)]

mod judge;
mod lab;

use judge::{Life, judge};
use lab::{DETECTION, Lab};
use ocf::sim::cluster::Record;
use pils::Rng;
use std::thread;
use std::time::Duration;

/// What happens to one node, as long as the second says in detection times.
#[derive(Clone, Copy, Debug)]
enum Day {
    Killed,
    Stopped(f64),
    Cut(f64),
    Deaf(f64),
    Mute(f64),
    Lossy(f64),
}

const DAYS: [Day; 12] = [
    Day::Killed,
    Day::Stopped(0.5),
    Day::Stopped(1.0),
    Day::Stopped(3.0),
    Day::Stopped(20.0),
    Day::Cut(1.0),
    Day::Cut(4.0),
    Day::Deaf(3.0),
    Day::Mute(3.0),
    Day::Lossy(8.0),
    Day::Killed,
    Day::Stopped(1.5),
];

fn live_through(lab: &mut Lab, day: Day, node: usize) {
    let wait = |times: f64| thread::sleep(DETECTION.mul_f64(times));
    match day {
        Day::Killed => {
            lab.kill(node);
            wait(1.0);
            lab.start(node);
        }
        Day::Stopped(times) => {
            lab.signal(node, "STOP");
            wait(times);
            lab.signal(node, "CONT");
        }
        Day::Cut(times) => lab.filtered(node, &["input drop", "output drop"], || wait(times)),
        Day::Deaf(times) => lab.filtered(node, &["input drop"], || wait(times)),
        Day::Mute(times) => lab.filtered(node, &["output drop"], || wait(times)),
        Day::Lossy(times) => {
            lab.filtered(node, &["input numgen random mod 10 < 1 drop"], || wait(times));
        }
    }
}

/// All the bad days, in an order and to nodes that the seed draws; then what was written is judged.
fn a_bad_week(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut days = DAYS.to_vec();
    for i in (1..days.len()).rev() {
        days.swap(i, usize::try_from(rng.below(i as u64 + 1)).unwrap());
    }
    let mut lab = Lab::new(seed);
    for day in days {
        let node = usize::try_from(rng.below(3)).unwrap() + 1;
        // Not always well again in between: what follows may meet a view that is still being agreed.
        if rng.chance(0.7) {
            lab.until_well();
        }
        eprintln!("seed {seed}: node {node}: {day:?}");
        live_through(&mut lab, day, node);
    }
    lab.until_well();
    lab.stop_sending();
    thread::sleep(Duration::from_secs(2));
    let lives = lab.finish();
    let count = |wanted: fn(&Record) -> bool| lives.iter().map(|life| life.count(wanted)).sum::<usize>();
    let views = count(|record| matches!(record, Record::View(_)));
    let delivered = count(|record| matches!(record, Record::Delivered(..)));
    let judged = judge(&lives).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    eprintln!("seed {seed}: {} lives, {views} views told, {delivered} messages: {judged:?}", lives.len());
    assert!(views > 20 && delivered > 1_000, "{views} views and {delivered} messages prove little");
    assert!(judged.iter().all(|(_, judged)| *judged > 0), "{judged:?}");
}

#[test]
#[ignore = "needs root and network namespaces, and takes two minutes"]
fn what_real_nodes_saw_on_bad_days_keeps_every_promise() {
    a_bad_week(1);
    a_bad_week(2);
}

/// What three nodes might have written, and what is wrong with it if the second of them had acted too long.
#[test]
fn a_history_with_a_primary_too_many_is_refused() {
    let line = |at: u64, rest: &str| format!("{{\"at\":{at},{rest}}}\n");
    let view = |number: u64, members: &[u32]| {
        let member = |n: &u32| format!("[[{n},\"{n}\"],1,1]");
        let list = members.iter().map(member).collect::<Vec<_>>().join(",");
        format!(
            "\"what\":\"view\",\"number\":{number},\"round\":{number},\"proposer\":[1,\"1\"],\"members\":[{list}],\
             \"previous\":[[[1,\"1\"],1,1],[[2,\"2\"],1,1],[[3,\"3\"],1,1]],\"quorum\":2,\"level\":1,\"log\":null"
        )
    };
    let started = |n: u32| line(1, &format!("\"what\":\"started\",\"who\":[{n},\"{n}\"]"));
    let acts = |at: u64, view: u64| line(at, &format!("\"what\":\"acts\",\"view\":{view}"));
    let sent = |n: u64| line(20 + n, &format!("\"what\":\"sent\",\"epoch\":0,\"number\":{n},\"safe\":true"));
    let lives = |second: String| {
        let whole = line(10, &view(1, &[1, 2, 3]));
        let rest = line(100, &view(2, &[1, 3]));
        let texts = [
            started(1) + &whole + &sent(0) + &acts(50, 1) + &rest + &acts(200, 2),
            started(2) + &whole + &second,
            started(3) + &whole + &rest + "{\"at\":150,\"what\":\"act",
        ];
        texts.map(|text| Life::read(&text).unwrap())
    };
    let why = judge(&lives(acts(90, 1) + &acts(150, 1))).unwrap_err();
    assert!(why.contains("sent"), "nobody delivered what was sent: {why}");
    let delivered = |n: u32| {
        let place =
            "\"place\":[1,1],\"sender\":[1,\"1\"],\"epoch\":0,\"number\":0,\"safe\":true,\"log\":[1,7]";
        (n, line(40, &format!("\"what\":\"delivered\",{place}")))
    };
    let with = |second: &str| {
        let whole = line(10, &view(1, &[1, 2, 3]));
        let rest = line(100, &view(2, &[1, 3]));
        let all = [1, 2, 3].map(delivered);
        let texts = all.map(|(n, delivered)| match n {
            1 => started(n) + &whole + &sent(0) + &delivered + &acts(50, 1) + &rest + &acts(200, 2),
            2 => started(n) + &whole + &delivered + second,
            _ => started(n) + &whole + &delivered + &rest,
        });
        texts.map(|text| Life::read(&text).unwrap())
    };
    assert!(judge(&with(&acts(90, 1))).is_ok(), "{:?}", judge(&with(&acts(90, 1))));
    let why = judge(&with(&(acts(90, 1) + &acts(150, 1)))).unwrap_err();
    assert!(why.contains("Q1"), "{why}");
}
