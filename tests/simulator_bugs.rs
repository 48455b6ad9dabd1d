//! Every protocol bug that is put back is caught within 200 seeds.
//!
//! Method: the cores have, under the feature `testing`, one switch for each bug: the place that a patch would change.
//! [`Bug`] names them all. A run with the switch thrown must end in a violation, in a cluster that does not become well,
//! or in a core that notices; the same seed without it must pass, so that it is the bug that was seen.

use ocf::sim::Verdict;
use ocf::sim::cluster::{self, Bug, Options};
use std::time::Duration;

const SEEDS: u64 = 200;

fn options(bug: Option<Bug>) -> Options {
    Options { bug, safety: Duration::from_secs(15), ..Options::default() }
}

#[test]
fn every_bug_that_is_put_back_is_caught_within_200_seeds() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let caught =
            (0..SEEDS).find(|seed| cluster::run(*seed, &options(Some(bug))).verdict != Verdict::Passed);
        match caught {
            Some(seed) => {
                let without = cluster::run(seed, &options(None)).verdict;
                assert_eq!(without, Verdict::Passed, "seed {seed} fails without {} too", bug.name());
            }
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not caught within {SEEDS} seeds: {missed:?}");
}
