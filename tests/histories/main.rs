//! Goal: what real nodes promise of views, quorum, order and virtual synchrony holds while processes are killed and stopped, while
//! links are cut, cut one way, and lose a tenth of what passes, and while the clocks that tell the date are set.
//!
//! Method: `record_history` processes with sentinels and records on disk, in network namespaces on a switch or on loopback; a seeded
//! order of bad days; what they wrote, by the one monotonic clock of the machine, is judged by the checkers that judge the simulator.
//! Bugs that are put back are found by them. What no history shows (M5, V9) the cores check themselves, in the simulator.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may fail by panicking and says how far it got"
)]

#[path = "../lab/example.rs"]
mod example;
mod judge;
mod lab;
mod partitions;

use judge::{History, Life};
use lab::{DETECTION, Lab, Setup};
use ocf::sim::cluster::Record;
use pils::Rng;
use std::thread;

/// What happens to one node, as long as the number says in detection times.
#[derive(Clone, Copy, Debug)]
enum Day {
    Killed,
    Stopped(f64),
    Cut(f64),
    /// Nothing reaches it.
    Deaf(f64),
    /// Nothing of it reaches others.
    Mute(f64),
    /// A tenth of what passes between any two nodes is lost.
    Lossy(f64),
    /// Its date is set, by so many seconds from the right one.
    Dated(i64),
}

const DAYS: [Day; 14] = [
    Day::Killed,
    Day::Stopped(0.5),
    Day::Stopped(1.0),
    Day::Stopped(1.5),
    Day::Stopped(4.0),
    Day::Stopped(20.0),
    Day::Cut(1.0),
    Day::Cut(4.0),
    Day::Deaf(3.0),
    Day::Mute(3.0),
    Day::Lossy(8.0),
    Day::Dated(86_400),
    Day::Dated(-7_200),
    Day::Killed,
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
        Day::Cut(times) => lab.filtered(&[node], &["input drop", "output drop"], || wait(times)),
        Day::Deaf(times) => lab.filtered(&[node], &["input drop"], || wait(times)),
        Day::Mute(times) => lab.filtered(&[node], &["output drop"], || wait(times)),
        Day::Lossy(times) => {
            lab.filtered(&[1, 2, 3], &["input numgen random mod 10 < 1 drop"], || wait(times));
        }
        Day::Dated(seconds) => {
            lab.set_clock(node, seconds);
            wait(1.0);
        }
    }
}

/// The days in an order and to nodes that the seed draws; then a calm moment, in which nothing may change any more.
fn live_through_all(lab: &mut Lab, days: &[Day], seed: u64) {
    let mut rng = Rng::new(seed);
    let mut days = days.to_vec();
    for i in (1..days.len()).rev() {
        days.swap(i, usize::try_from(rng.below(i as u64 + 1)).unwrap());
    }
    lab.until_well();
    for day in days {
        let node = usize::try_from(rng.below(3)).unwrap() + 1;
        eprintln!("node {node}: {day:?}");
        live_through(lab, day, node);
        // Not always well again in between: what follows may meet a view that is still being agreed.
        if rng.chance(0.7) {
            lab.until_well();
        }
    }
    lab.calm();
}

/// Judges, and sees that there was enough to judge.
fn keeps_every_promise(history: &History, views: usize, messages: usize) {
    let judged = history.judge().unwrap_or_else(|why| panic!("{why}"));
    let told = history.count(|record| matches!(record, Record::View(_)));
    let delivered = history.count(|record| matches!(record, Record::Delivered(..)));
    eprintln!("{} lives, {told} views told, {delivered} messages: {judged:?}", history.lives.len());
    assert!(told >= views && delivered >= messages, "{told} views and {delivered} messages prove little");
    // Nobody changed the set of nodes, and only two nodes need a tie-breaker.
    let idle = judged.iter().filter(|(name, judged)| **judged == 0 && !name.starts_with(['S', 'Q']));
    assert_eq!(idle.count(), 0, "{judged:?}");
}

#[test]
#[ignore = "needs root and network namespaces, and takes a minute"]
fn what_real_nodes_saw_on_bad_days_keeps_every_promise() {
    let mut lab = Lab::new("week", Setup { clocks: true, ..Setup::THREE });
    live_through_all(&mut lab, &DAYS, 1);
    let history = lab.finish();
    keeps_every_promise(&history, 20, 5_000);
    let set = history.lives.iter().map(|life| life.date_steps).sum::<usize>();
    assert!(set >= 2, "the nodes saw their date change {set} times");
}

#[test]
#[ignore = "needs root and network namespaces, and takes half a minute"]
fn of_two_halves_that_are_cut_apart_one_goes_on() {
    let mut lab = Lab::new("tie", Setup { nodes: 2, tie_breaker: true, ..Setup::THREE });
    lab.until_well();
    for day in [Day::Cut(6.0), Day::Stopped(4.0), Day::Cut(6.0)] {
        live_through(&mut lab, day, 2);
        lab.until_well();
    }
    lab.calm();
    let history = lab.finish();
    keeps_every_promise(&history, 8, 200);
    assert!(history.judge().unwrap()["Q5 one half"] >= 2, "the tie-breaker was hardly asked");
}

#[test]
#[ignore = "needs root and network namespaces, and takes half a minute"]
fn a_bug_that_is_put_back_shows_in_what_real_nodes_saw() {
    // Each of two halves goes on without asking the disk.
    let two = Setup { nodes: 2, tie_breaker: true, bug: Some("NoTieBreak"), ..Setup::THREE };
    let mut lab = Lab::new("halves", two);
    lab.until_well();
    live_through(&mut lab, Day::Cut(6.0), 1);
    let why = lab.finish().judge().unwrap_err();
    assert!(why.starts_with("M1-M3"), "{why}");
    // What the first node sent, and only the third has, is not fetched when the first dies.
    let mut lab = Lab::new("fetch", Setup { bug: Some("SkipFetch"), ..Setup::THREE });
    lab.until_well();
    lab.filtered(&[2], &["input ip saddr 10.96.0.1 drop"], || {
        thread::sleep(DETECTION.mul_f64(0.3));
        lab.signal(1, "KILL");
    });
    // Time to agree on a view without it.
    thread::sleep(DETECTION * 4);
    let why = lab.finish().judge().unwrap_err();
    assert!(why.starts_with('V'), "{why}");
    // What was under way when the first node, which orders, died is not sent again.
    let mut lab = Lab::new("order", Setup { bug: Some("ForgetUnordered"), ..Setup::THREE });
    lab.until_well();
    for node in 1..=3 {
        live_through(&mut lab, Day::Killed, node);
        lab.until_well();
    }
    let why = lab.finish().judge().unwrap_err();
    assert!(why.starts_with('V'), "{why}");
}

/// Without root: what can be done to a process.
#[test]
fn what_real_nodes_saw_on_loopback_while_processes_were_killed_and_stopped_keeps_every_promise() {
    let mut lab = Lab::new("loop", Setup { namespaces: false, ..Setup::THREE });
    live_through_all(&mut lab, &[Day::Killed, Day::Stopped(0.5), Day::Stopped(4.0)], 1);
    keeps_every_promise(&lab.finish(), 10, 500);
}

fn line(at: u64, rest: &str) -> String {
    format!("{{\"at\":{at},{rest}}}\n")
}

fn view(number: u64, members: &[u32]) -> String {
    let member = |n: &u32| format!("[[{n},\"{n}\"],1,1]");
    let list = members.iter().map(member).collect::<Vec<_>>().join(",");
    format!(
        "\"what\":\"view\",\"number\":{number},\"round\":{number},\"proposer\":[1,\"1\"],\"members\":[{list}],\
         \"previous\":[[[1,\"1\"],1,1],[[2,\"2\"],1,1],[[3,\"3\"],1,1]],\"quorum\":2,\"level\":1,\"log\":null"
    )
}

fn acts(at: u64, view: u64) -> String {
    line(at, &format!("\"what\":\"acts\",\"view\":{view}"))
}

/// What three nodes might write: a view of all, a message if it arrived, then a view without the second, which saw `second` of it.
fn three(arrived: bool, second: &str) -> History {
    let started = |n: u32| line(1, &format!("\"what\":\"started\",\"who\":[{n},\"{n}\"]"));
    let sent = line(20, "\"what\":\"sent\",\"epoch\":0,\"number\":0,\"safe\":true");
    let place = "\"place\":[1,1],\"sender\":[1,\"1\"],\"epoch\":0,\"number\":0,\"safe\":true,\"log\":[1,7]";
    let delivered = line(40, &format!("\"what\":\"delivered\",{place}"));
    let (whole, rest) = (line(10, &view(1, &[1, 2, 3])), line(100, &view(2, &[1, 3])));
    let told = if arrived { delivered } else { String::new() };
    let texts = [
        started(1) + &whole + &sent + &told + &acts(50, 1) + &rest + &acts(200, 2),
        started(2) + &whole + &told + second,
        started(3) + &whole + &told + &rest + "{\"at\":150,\"what\":\"act",
    ];
    History { lives: texts.iter().map(|text| Life::read(text).unwrap()).collect(), calm: None }
}

#[test]
fn a_history_that_breaks_a_promise_is_refused() {
    assert_eq!(three(true, &acts(90, 1)).judge().map(|judged| judged.len()), Ok(12));
    let why = three(true, &(acts(90, 1) + &acts(150, 1))).judge().unwrap_err();
    assert!(why.contains("Q1"), "it acts although it is excluded: {why}");
    let why = three(false, &acts(90, 1)).judge().unwrap_err();
    assert!(why.contains("sent"), "nobody delivered what was sent: {why}");
    let why = three(true, &line(120, &view(2, &[1, 2]))).judge().unwrap_err();
    assert!(why.contains("M1"), "two views have one number: {why}");
    let table =
        |at, members| line(at, &format!("\"what\":\"table\",\"place\":[1,9],\"members\":[{members}]"));
    let why = three(true, &(table(50, "[1,\"1\"]") + &table(51, "[2,\"2\"]"))).judge().unwrap_err();
    assert!(why.contains("V11"), "the group has different members: {why}");
    let calm = Some((pils::Instant::from_nanos(60), pils::Instant::from_nanos(100)));
    let why = History { calm, ..three(true, &acts(90, 1)) }.judge().unwrap_err();
    assert!(why.contains("M6"), "a view comes though nothing happened: {why}");
}
