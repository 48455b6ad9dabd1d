//! The failure cases that the protocol design names do occur: a simulator that never meets them proves nothing.
//!
//! Method: a fixed batch of seeds; the cases are counted by what happened in them. If a change of the protocol moves a case
//! out of the first seeds, the following ones are tried too, so that only a case that no longer occurs fails.

use ocf::sim::Verdict;
use ocf::sim::cluster::{self, EXPECTED, Options};
use std::collections::BTreeSet;
use std::time::Duration;

/// Seeds that met every case between them when this was written.
const FIRST: [u64; 6] = [69, 209, 25, 7, 96, 134];
/// How many others are tried.
const MORE: u64 = 300;

#[test]
fn the_named_failure_cases_occur_in_a_fixed_batch_of_seeds() {
    let mut met = BTreeSet::new();
    let options = Options { safety: Duration::from_secs(20), ..Options::default() };
    for seed in FIRST.into_iter().chain(0..MORE) {
        let report = cluster::run(seed, &options);
        assert_eq!(report.verdict, Verdict::Passed, "seed {seed}");
        met.extend(report.coverage.into_keys());
        if EXPECTED.iter().all(|case| met.contains(case)) {
            return;
        }
    }
    let never: Vec<_> = EXPECTED.iter().filter(|case| !met.contains(**case)).collect();
    panic!("never in {MORE} runs: {never:#?}");
}
