//! The failure cases that the protocol design names do occur: a simulator that never meets them proves nothing.
//!
//! Method: a fixed batch of seeds; the cases are counted by what happened in them. If a change of the protocol moves a case
//! out of the first seeds, the following ones are tried too, so that only a case that no longer occurs fails.

use ocf::sim::cluster::{self, EXPECTED, Options};
use ocf::sim::{PATH_CASES, Verdict, circuits};
use std::collections::BTreeSet;
use std::time::Duration;

/// Seeds that met every case between them when this was written.
const FIRST: [u64; 6] = [6, 13, 54, 137, 14, 75];
/// The same for the cases of paths, in node communication alone.
const FIRST_OF_PATHS: [u64; 3] = [16, 7, 0];
/// How many others are tried.
const MORE: u64 = 300;

/// Runs seeds until every case was met between them.
fn meet(first: &[u64], cases: &[&str], run: impl Fn(u64) -> (Verdict, BTreeSet<&'static str>)) {
    let mut met = BTreeSet::new();
    for seed in first.iter().copied().chain(0..MORE) {
        let (verdict, seen) = run(seed);
        assert_eq!(verdict, Verdict::Passed, "seed {seed}");
        met.extend(seen);
        if cases.iter().all(|case| met.contains(case)) {
            return;
        }
    }
    let never: Vec<_> = cases.iter().filter(|case| !met.contains(**case)).collect();
    panic!("never in {MORE} runs: {never:#?}");
}

#[test]
fn the_named_failure_cases_occur_in_a_fixed_batch_of_seeds() {
    let options = Options { safety: Duration::from_secs(20), paths: Some(1), ..Options::default() };
    meet(&FIRST, &EXPECTED, |seed| {
        let report = cluster::run(seed, &options);
        (report.verdict, report.coverage.into_keys().collect())
    });
}

#[test]
fn paths_fail_fall_back_and_take_over_in_a_fixed_batch_of_seeds() {
    let options = circuits::Options { safety: Duration::from_secs(10), ..Default::default() };
    meet(&FIRST_OF_PATHS, &PATH_CASES, |seed| {
        let report = circuits::run(seed, &options);
        (report.verdict, report.coverage.into_keys().collect())
    });
}
