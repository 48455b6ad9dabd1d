//! The heaviest set of nodes that can all talk to each other.
//!
//! Computed as all nodes minus a minimum-weight vertex cover of the broken links: broken links are few, so an exact
//! branch and bound ends at once; beyond its budget of steps a greedy rule takes over (drop the worst connected).

/// Steps of the exact search before the greedy rule takes over.
pub(crate) const STEPS_MAX: u32 = 20_000;

/// Vertices are bits 0..64. `weight[i]` belongs to vertex i; `broken[i]` has the vertices that i cannot talk to
/// (symmetric, never i itself).
///
/// Returns the vertices of the heaviest clique within `all`; of equally heavy ones, the one that has the lowest vertex in which
/// they differ. O(2^c) in the size c of the cover, at most `steps_max` steps of O(n), then O(n^3).
pub(crate) fn heaviest_clique(weight: &[u128], broken: &[u64], all: u64, steps_max: u32) -> u64 {
    assert!(weight.len() <= 64 && weight.len() == broken.len(), "at most 64 vertices, one row each");
    let best = greedy(weight, broken, all);
    let mut search = Search { weight, broken, best, heaviest: sum(weight, best), steps_left: steps_max };
    search.descend(all);
    search.best
}

struct Search<'a> {
    weight: &'a [u128],
    broken: &'a [u64],
    best: u64,
    /// The weight of `best`.
    heaviest: u128,
    steps_left: u32,
}

impl Search<'_> {
    fn descend(&mut self, left: u64) {
        if self.steps_left == 0 || !self.may_be_better(left) {
            return;
        }
        self.steps_left -= 1;
        match worst(self.broken, left) {
            None => (self.best, self.heaviest) = (left, sum(self.weight, left)),
            Some(v) => {
                // With v, and so without those that it cannot talk to; then without v.
                self.descend(left & !self.broken[v]);
                self.descend(left & !(1 << v));
            }
        }
    }

    /// False if no clique within `left` is better than the best so far. Of equally heavy ones, none has lower vertices than `left` itself.
    fn may_be_better(&self, left: u64) -> bool {
        let most = self.at_most(left);
        most > self.heaviest || most == self.heaviest && is_lower(left, self.best)
    }

    /// No clique within `left` weighs more: of nodes none of which can talk to another, it has one at most.
    fn at_most(&self, mut left: u64) -> u128 {
        let mut most = 0;
        while left != 0 {
            let (mut heaviest, mut apart) = (0, left);
            while apart != 0 {
                let v = first(apart);
                left &= !(1 << v);
                apart &= self.broken[v];
                heaviest = self.weight[v].max(heaviest);
            }
            most += heaviest;
        }
        most
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

fn sum(weight: &[u128], set: u64) -> u128 {
    bits(set).map(|v| weight[v]).sum()
}

/// True if `a` has the lowest vertex in which it differs from `b`.
const fn is_lower(a: u64, b: u64) -> bool {
    let differ = a ^ b;
    a & differ & differ.wrapping_neg() != 0
}

/// The vertex with the most broken links within `left`, the lowest of equals; `None` if no link is broken.
fn worst(broken: &[u64], left: u64) -> Option<usize> {
    let count = |v: usize| (broken[v] & left).count_ones();
    bits(left).filter(|v| count(*v) > 0).max_by_key(|v| (count(*v), core::cmp::Reverse(*v)))
}

/// The positions of the bits of `set`, from the lowest.
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (set != 0).then(|| {
            let v = first(set);
            set &= set - 1;
            v
        })
    })
}

/// The lowest bit of a set that is not empty.
const fn first(set: u64) -> usize {
    set.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::Rng;
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

    /// Tries every subset of `all`.
    fn obvious(weight: &[u128], broken: &[u64], all: u64) -> u64 {
        let sets = (0..1_u64 << weight.len()).filter(|set| set & !all == 0 && is_clique(broken, *set));
        sets.fold(0, |best, set| {
            let (a, b) = (sum(weight, set), sum(weight, best));
            if a > b || a == b && is_lower(set, best) { set } else { best }
        })
    }

    fn heaviest(weight: &[u128], broken: &[u64], steps_max: u32) -> u64 {
        let all = if weight.len() == 64 { u64::MAX } else { (1 << weight.len()) - 1 };
        heaviest_clique(weight, broken, all, steps_max)
    }

    /// Of `n`, each pair broken with the probability `p`; symmetric.
    fn random(rng: &mut Rng, n: usize, p: f64) -> Vec<u64> {
        let pairs: Vec<(usize, usize)> =
            (0..n).flat_map(|a| (0..a).map(move |b| (a, b))).filter(|_| rng.chance(p)).collect();
        symmetric(n, &pairs)
    }

    #[test]
    fn one_broken_link_costs_one_vertex_and_the_heavier_end_stays() {
        assert_eq!(heaviest(&[1, 2, 1], &symmetric(3, &[(0, 1)]), STEPS_MAX), 0b110);
        assert_eq!(heaviest(&[1, 1, 1], &symmetric(3, &[(0, 1)]), STEPS_MAX), 0b101);
        assert_eq!(heaviest(&[1; 64], &[0; 64], STEPS_MAX), u64::MAX);
    }

    #[test]
    fn the_search_within_a_part_finds_the_best_of_that_part() {
        let mut rng = Rng::new(3);
        for _ in 0..200 {
            let broken = random(&mut rng, 12, 0.3);
            let within = rng.next_u64() & 0xfff;
            let weight: Vec<u128> = (0..12).map(|_| u128::from(rng.between(1, 3))).collect();
            let expected = obvious(&weight, &broken, within);
            assert_eq!(heaviest_clique(&weight, &broken, within, STEPS_MAX), expected);
        }
    }

    #[test]
    fn the_budget_suffices_for_sixty_four_nodes_however_many_links_are_broken() {
        let mut rng = Rng::new(64);
        for p in [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9] {
            for _ in 0..4 {
                let broken = random(&mut rng, 64, p);
                let weight: Vec<u128> = (0..64).map(|_| 1 << 60 | u128::from(rng.below(2)) << 40).collect();
                let (best, all) = (greedy(&weight, &broken, u64::MAX), u64::MAX);
                let heaviest = sum(&weight, best);
                let (weight, broken) = (&weight[..], &broken[..]);
                let mut search = Search { weight, broken, best, heaviest, steps_left: STEPS_MAX };
                search.descend(all);
                assert!(search.steps_left > 0, "{p} of the links broken");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_search_finds_what_trying_every_subset_finds(
            weight in proptest::collection::vec(1_u128..5, 1..10),
            pairs in proptest::collection::vec((0_usize..10, 0_usize..10), 0..14),
        ) {
            let broken = symmetric(weight.len(), &pairs);
            prop_assert_eq!(heaviest(&weight, &broken, STEPS_MAX), obvious(&weight, &broken, u64::MAX));
        }

        #[test]
        fn without_any_budget_the_result_is_still_a_clique_that_cannot_be_extended_by_a_whole_vertex(
            n in 1_usize..64,
            pairs in proptest::collection::vec((0_usize..64, 0_usize..64), 0..200),
        ) {
            let broken = symmetric(n, &pairs);
            let set = heaviest(&vec![1; n], &broken, 0);
            prop_assert!(is_clique(&broken, set));
            for v in (0..n).filter(|v| broken[*v] == 0) {
                prop_assert!(set & 1 << v != 0, "an unbroken vertex is missing");
            }
        }
    }
}
