//! How much faster than real time the whole stack is simulated: T-1.
//!
//! `cargo bench --bench sim [-- --json] [--quick]`. Five whole nodes with an application each, a service of two resources
//! under monitors, light load and no faults; then the mix of faults that `simulate` uses.

mod support;

use ocf::sim::Verdict;
use ocf::sim::cluster::{self, Options as Run};
use std::time::{Duration, Instant};
use support::{Figure, Goal, Options, Report, Samples, machine};

fn factor(seed: u64, run: &Run) -> f64 {
    let began = Instant::now();
    let report = cluster::run(seed, run);
    assert_eq!(report.verdict, Verdict::Passed, "seed {seed}");
    report.length.as_secs_f64() / began.elapsed().as_secs_f64()
}

fn main() {
    let options = Options::from_args();
    let mut report = Report::default();
    machine::on_one(|| {
        let light = Run {
            nodes: Some(5),
            safety: options.time(Duration::from_secs(600)),
            idle: true,
            ..Run::default()
        };
        let rounds = options.rounds() as u64;
        let idle = Samples::new((0..rounds).map(|seed| factor(seed, &light)).collect());
        report.add(Figure {
            id: "T-1",
            what: "virtual over real time, 5 whole nodes, light load",
            value: idle.median(),
            unit: "x",
            against: Some(("real time", 1.0)),
            goal: Some(Goal::AtLeast(1000.0)),
        });
        let faults = Run { nodes: Some(5), safety: Duration::from_secs(30), ..Run::default() };
        let busy = Samples::new((0..options.count(50) as u64).map(|seed| factor(seed, &faults)).collect());
        report.add(Figure {
            id: "T-1 faults",
            what: "the same with the load and faults of `simulate`",
            value: busy.median(),
            unit: "x",
            against: Some(("real time", 1.0)),
            goal: None,
        });
    });
    report.note(
        "one thread, one processor; each seed is a run of its own, so that more processors take more seeds",
    );
    report.print(options);
}
