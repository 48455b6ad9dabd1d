//! What the groups promise holds in random runs: crashes at every step of a view change, repeated ballots, adopted
//! proposals, partitions, restarts, suspensions, joins and leaves, full windows, large messages. The method: some
//! thousand seeds, each judged by every checker; bugs put back must be found.

mod sim;

use ocf_groups::Sabotage;
use sim::{Cluster, Coverage};

fn run(seed: u64, bug: Option<Sabotage>) -> Result<Coverage, String> {
    let run = Cluster::new(seed, bug).run(25);
    run.map(|(coverage, _)| coverage).map_err(|v| format!("seed {seed}: {} broken: {}", v.rule, v.what))
}

#[test]
fn every_promise_holds_in_a_thousand_random_runs() {
    let seeds = std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1000);
    let first = std::env::var("FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut total = Coverage::new();
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        match run(seed, None) {
            Ok(coverage) => coverage.into_iter().for_each(|(k, n)| *total.entry(k).or_default() += n),
            Err(what) => failures.push(what),
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {seeds} fail, coverage {total:?}:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
    if std::env::var("SHOW").is_ok() {
        panic!("{total:#?}");
    }
}
