//! The failure cases that the protocol design names do occur: a simulator that never meets them proves nothing.
//!
//! Method: a fixed batch of seeds; the cases are counted by what happened in them.

use ocf::sim::Verdict;
use ocf::sim::cluster::{self, EXPECTED, Options};
use std::collections::BTreeSet;
use std::time::Duration;

/// Stops as soon as all cases were met; this many runs are the limit.
const SEEDS: u64 = 300;

#[test]
fn the_named_failure_cases_occur_in_a_fixed_batch_of_seeds() {
    let mut met = BTreeSet::new();
    let options = Options { safety: Duration::from_secs(20), ..Options::default() };
    for seed in 1000..1000 + SEEDS {
        let report = cluster::run(seed, &options);
        assert_eq!(report.verdict, Verdict::Passed, "seed {seed}");
        met.extend(report.coverage.into_keys());
        if EXPECTED.iter().all(|case| met.contains(case)) {
            return;
        }
    }
    let never: Vec<_> = EXPECTED.iter().filter(|case| !met.contains(**case)).collect();
    panic!("never in {SEEDS} runs: {never:#?}");
}
