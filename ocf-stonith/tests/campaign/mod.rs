//! Many histories of a simulated world, each from a seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Every seed keeps its promises, and each of `cases` happens in one of them at least. `history` panics where a promise is broken, and
/// returns how often each case happened.
pub(crate) fn all_hold(
    seeds: Range<u64>,
    cases: &[&str],
    history: impl Fn(u64) -> BTreeMap<&'static str, u64>,
) {
    let mut sometimes: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| history(seed)));
        for (case, times) in run.unwrap_or_else(|_said| panic!("seed {seed}")) {
            *sometimes.entry(case).or_default() += times;
        }
    }
    let missing: Vec<_> = cases.iter().filter(|case| !sometimes.contains_key(*case)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?} of {sometimes:?}");
}

/// The first of `seeds` whose history breaks a promise, and what it says.
pub(crate) fn caught(seeds: u64, history: impl Fn(u64)) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let broken = catch_unwind(AssertUnwindSafe(|| history(seed))).err()?;
        let said = broken.downcast_ref::<String>().cloned();
        Some((seed, said.or_else(|| broken.downcast_ref::<&str>().map(|s| (*s).to_owned()))?))
    })
}
