//! Who knows where a resource is mastered: 4096 slots, spread over the members by weighted rendezvous hashing.

use pils::NodeInstance;
use std::sync::Arc;

/// Slots of the directory. A tree of resources belongs to the slot that the hash of its root names.
pub const SLOTS: usize = 4096;

/// One of the [`SLOTS`] parts of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a tree, by the canonical bytes of its root. The same on every node and in every release.
    #[must_use]
    pub fn of(root: &[u8]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in root {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(u16::try_from(mix(hash) >> 52).unwrap_or(0))
    }

    /// The slot with this number; `None` from [`SLOTS`] on.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u16::try_from(index).ok().filter(|_| index < SLOTS).map(Self)
    }

    /// Its number, below [`SLOTS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).filter_map(Self::new)
    }
}

/// A member as the directory sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weighted {
    /// Which life of which node.
    pub instance: NodeInstance,
    /// Its share of the directory, relative to the others. Zero: none, unless everybody has zero.
    pub weight: u16,
}

/// Which member keeps which slot: a pure function of the members of a view.
///
/// A member that goes gives up its own slots and no others move; one that comes takes its share and no others move.
/// Cost of building: [`SLOTS`] times members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    owners: Arc<[NodeInstance]>,
}

impl Placement {
    /// The placement over these members.
    ///
    /// # Panics
    /// If `members` is empty: there is no directory without a view.
    #[must_use]
    pub fn new(members: &[Weighted]) -> Self {
        assert!(!members.is_empty(), "a view has members");
        let level = members.iter().all(|m| m.weight == 0);
        let seeds: Vec<(u64, u64, NodeInstance)> = members
            .iter()
            .filter(|m| level || m.weight > 0)
            .map(|m| (seed_of(m.instance), u64::from(m.weight.max(1)), m.instance))
            .collect();
        let owner = |slot: Slot| {
            let mut best: Option<(u128, u64, NodeInstance)> = None;
            for (seed, weight, instance) in &seeds {
                let distance = u128::from(negative_log2(mix(seed ^ mix(slot.index() as u64 + 1))));
                // distance / weight, compared without division
                let nearer = best.is_none_or(|(other, its_weight, holder)| {
                    let (ours, theirs) = (distance * u128::from(its_weight), other * u128::from(*weight));
                    ours < theirs || (ours == theirs && *instance < holder)
                });
                if nearer {
                    best = Some((distance, *weight, *instance));
                }
            }
            best.expect("at least one member has a share").2
        };
        Self { owners: Slot::all().map(owner).collect() }
    }

    /// Who keeps the slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> NodeInstance {
        self.owners[slot.index()]
    }

    /// Slots whose keeper differs between the two placements, in order.
    pub fn moved<'a>(&'a self, since: &'a Self) -> impl Iterator<Item = Slot> + 'a {
        Slot::all().filter(|slot| self.owner(*slot) != since.owner(*slot))
    }
}

/// Spreads the bits of a number (the finalizer of splitmix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
const fn seed_of(instance: NodeInstance) -> u64 {
    let incarnation = instance.incarnation.raw();
    let (high, low) = ((incarnation >> 64) as u64, incarnation as u64);
    mix(mix(mix(instance.node.raw() as u64 + 1) ^ high) ^ low)
}

/// Minus the binary logarithm of `x / 2^64`, in units of 2^-16: exact integer arithmetic, so that every machine agrees.
fn negative_log2(x: u64) -> u64 {
    let x = x | 1;
    let zeros = x.leading_zeros();
    // In [1, 2) with 31 fractional bits.
    let mut mantissa = (x << zeros) >> 32;
    let mut fraction = 0_u64;
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >= 1 << 32 {
            fraction |= 1;
            mantissa >>= 1;
        }
    }
    ((u64::from(zeros) + 1) << 16) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};

    fn members(weights: &[u16]) -> Vec<Weighted> {
        let numbered = weights.iter().zip(1_u32..);
        let member = |(weight, node): (&u16, u32)| Weighted {
            instance: NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) * 77)),
            weight: *weight,
        };
        numbered.map(member).collect()
    }

    fn share(placement: &Placement, of: NodeInstance) -> usize {
        Slot::all().filter(|slot| placement.owner(*slot) == of).count()
    }

    #[test]
    fn slots_are_divided_evenly_and_by_weight() {
        let even = members(&[1; 5]);
        let placement = Placement::new(&even);
        for member in &even {
            let share = share(&placement, member.instance);
            assert!((720..920).contains(&share), "{share} of 4096 for one of five");
        }
        let skewed = members(&[1, 3]);
        let share = share(&Placement::new(&skewed), skewed[1].instance);
        assert!((2950..3200).contains(&share), "{share} of 4096 for three quarters");
    }

    #[test]
    fn who_goes_gives_up_its_own_slots_and_no_others_move() {
        let all = members(&[1, 2, 1, 1]);
        let before = Placement::new(&all);
        let after = Placement::new(&all[..3]);
        for slot in Slot::all() {
            if before.owner(slot) != all[3].instance {
                assert_eq!(before.owner(slot), after.owner(slot));
            }
        }
        assert_eq!(after.moved(&before).count(), share(&before, all[3].instance));
    }

    #[test]
    fn a_weight_of_zero_keeps_no_slot_unless_all_have_it() {
        let some = members(&[0, 1]);
        assert_eq!(share(&Placement::new(&some), some[0].instance), 0);
        let none = members(&[0, 0]);
        assert!(share(&Placement::new(&none), none[0].instance) > 1500);
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let mut all = members(&[1, 2, 3]);
        let one = Placement::new(&all);
        all.reverse();
        assert_eq!(one, Placement::new(&all));
    }

    #[test]
    fn logarithms_are_right_to_the_last_bit_but_one() {
        for x in [1_u64, 3, 1 << 20, 0x8000_0000_0000_0000, u64::MAX, 0x1234_5678_9abc_def0] {
            let exact = (64.0 - (x as f64).log2()) * 65536.0;
            let ours = negative_log2(x) as f64;
            assert!((exact - ours).abs() < 2.0, "{x}: {exact} against {ours}");
        }
    }

    #[test]
    fn names_spread_over_slots() {
        let mut hit = vec![0_u32; SLOTS];
        for i in 0..32_768_u32 {
            hit[Slot::of(format!("resource {i}").as_bytes()).index()] += 1;
        }
        assert!(
            hit.iter().filter(|n| **n == 0).count() < 8,
            "eight names for each slot leave almost none empty"
        );
        assert!(hit.iter().max().is_some_and(|most| *most < 40));
    }
}
