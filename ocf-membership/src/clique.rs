//! The heaviest set of nodes that can all talk to each other.
//!
//! Computed as all nodes minus a minimum-weight vertex cover of the broken links: broken links are few, so an exact
//! branch and bound ends at once; beyond its budget of steps a greedy rule takes over (drop the worst connected).

/// Steps of the exact search before the greedy rule takes over.
pub(crate) const STEPS_MAX: u32 = 20_000;

/// Vertices are bits 0..64. `weight[i]` belongs to vertex i; `broken[i]` has the vertices that i cannot talk to
/// (symmetric, never i itself).
///
/// Returns the vertices of the heaviest clique; of equally heavy ones, the one that has the lowest vertex in which
/// they differ. O(2^c) in the size c of the cover, at most `steps_max` steps, then O(n^3).
pub(crate) fn heaviest_clique(weight: &[u128], broken: &[u64], steps_max: u32) -> u64 {
    assert!(weight.len() <= 64 && weight.len() == broken.len(), "at most 64 vertices, one row each");
    let all = if weight.len() == 64 { u64::MAX } else { (1 << weight.len()) - 1 };
    let mut search = Search { weight, broken, best: greedy(weight, broken, all), steps_left: steps_max };
    search.descend(all);
    search.best
}

struct Search<'a> {
    weight: &'a [u128],
    broken: &'a [u64],
    best: u64,
    steps_left: u32,
}

impl Search<'_> {
    fn descend(&mut self, left: u64) {
        if self.steps_left == 0 || !better(self.weight, left, self.best) {
            return;
        }
        self.steps_left -= 1;
        match worst(self.broken, left) {
            None => self.best = left,
            Some(v) => {
                // With v, and so without those that it cannot talk to; then without v.
                self.descend(left & !self.broken[v]);
                self.descend(left & !(1 << v));
            }
        }
    }
}

fn greedy(weight: &[u128], broken: &[u64], mut left: u64) -> u64 {
    while worst(broken, left).is_some() {
        let links = |v: usize| (broken[v] & left).count_ones();
        let drop = bits(left)
            .filter(|v| links(*v) > 0)
            .max_by_key(|v| (links(*v), core::cmp::Reverse(weight[*v]), *v))
            .expect("a vertex with a broken link was found");
        left &= !(1 << drop);
    }
    left
}

/// A set that is no heavier, and not the same weight with lower vertices, cannot contain a better clique.
fn better(weight: &[u128], a: u64, b: u64) -> bool {
    let sum = |set: u64| bits(set).map(|v| weight[v]).sum::<u128>();
    let (wa, wb) = (sum(a), sum(b));
    if wa != wb {
        return wa > wb;
    }
    let differ = a ^ b;
    differ != 0 && a & (differ & differ.wrapping_neg()) != 0
}

/// The vertex with the most broken links within `left`, the lowest of equals; `None` if no link is broken.
fn worst(broken: &[u64], left: u64) -> Option<usize> {
    let count = |v: usize| (broken[v] & left).count_ones();
    bits(left).filter(|v| count(*v) > 0).max_by_key(|v| (count(*v), core::cmp::Reverse(*v)))
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let v = set.trailing_zeros();
        set &= set - 1;
        usize::try_from(v).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symmetric(n: usize, pairs: &[(usize, usize)]) -> Vec<u64> {
        let mut broken = vec![0; n];
        for (a, b) in pairs.iter().map(|(a, b)| (a % n, b % n)).filter(|(a, b)| a != b) {
            broken[a] |= 1 << b;
            broken[b] |= 1 << a;
        }
        broken
    }

    fn is_clique(broken: &[u64], set: u64) -> bool {
        bits(set).all(|v| broken[v] & set == 0)
    }

    /// Tries every subset.
    fn obvious(weight: &[u128], broken: &[u64]) -> u64 {
        let mut best = 0;
        for set in 0..1_u64 << weight.len() {
            if is_clique(broken, set) && better(weight, set, best) {
                best = set;
            }
        }
        best
    }

    #[test]
    fn one_broken_link_costs_one_vertex_and_the_heavier_end_stays() {
        assert_eq!(heaviest_clique(&[1, 2, 1], &symmetric(3, &[(0, 1)]), STEPS_MAX), 0b110);
        assert_eq!(heaviest_clique(&[1, 1, 1], &symmetric(3, &[(0, 1)]), STEPS_MAX), 0b101);
        assert_eq!(heaviest_clique(&[1; 64], &[0; 64], STEPS_MAX), u64::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_search_finds_what_trying_every_subset_finds(
            weight in proptest::collection::vec(1_u128..5, 1..10),
            pairs in proptest::collection::vec((0_usize..10, 0_usize..10), 0..14),
        ) {
            let broken = symmetric(weight.len(), &pairs);
            prop_assert_eq!(heaviest_clique(&weight, &broken, STEPS_MAX), obvious(&weight, &broken));
        }

        #[test]
        fn without_any_budget_the_result_is_still_a_clique_that_cannot_be_extended_by_a_whole_vertex(
            n in 1_usize..64,
            pairs in proptest::collection::vec((0_usize..64, 0_usize..64), 0..200),
        ) {
            let broken = symmetric(n, &pairs);
            let set = heaviest_clique(&vec![1; n], &broken, 0);
            prop_assert!(is_clique(&broken, set));
            for v in (0..n).filter(|v| broken[*v] == 0) {
                prop_assert!(set & 1 << v != 0, "an unbroken vertex is missing");
            }
        }
    }
}
