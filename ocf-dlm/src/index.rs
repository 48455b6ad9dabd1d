use crate::slab::NONE;

/// From a 32-bit tag to the places that have it: a flat table of 8-byte slots with linear probing.
///
/// Deletion shifts back, so nothing is left behind; growth needs the tags only. At most 3/4 of the slots are used.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    place: u32,
}

const EMPTY: Slot = Slot { tag: 0, place: NONE };
const LEAST: usize = 8;

impl Index {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), used: 0 }
    }

    const fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The first place with `tag` that `is_it` accepts.
    pub(crate) fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = tag as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.place == NONE {
                return None;
            }
            if slot.tag == tag && is_it(slot.place) {
                return Some(slot.place);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds a place that is not in the table yet.
    pub(crate) fn insert(&mut self, tag: u32, place: u32) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let larger = vec![EMPTY; (self.slots.len() * 2).max(LEAST)];
            let old = core::mem::replace(&mut self.slots, larger);
            for slot in old.into_iter().filter(|slot| slot.place != NONE) {
                self.put(slot);
            }
        }
        self.put(Slot { tag, place });
        self.used += 1;
    }

    fn put(&mut self, slot: Slot) {
        let mut at = slot.tag as usize & self.mask();
        while self.slots[at].place != NONE {
            at = (at + 1) & self.mask();
        }
        self.slots[at] = slot;
    }

    /// Removes a place that is in the table.
    pub(crate) fn remove(&mut self, tag: u32, place: u32) {
        let mask = self.mask();
        let mut hole = tag as usize & mask;
        while self.slots[hole].place != place {
            assert!(self.slots[hole].place != NONE, "place {place} is not in the index");
            hole = (hole + 1) & mask;
        }
        self.used -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.place == NONE {
                break;
            }
            // It may move into the hole if its home is not between the hole and where it is.
            let home = slot.tag as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }

    /// How many places are in it.
    pub(crate) const fn len(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_finds_exactly_what_a_set_holds_whatever_the_tags() {
        let mut rng = pils::Rng::new(3);
        for spread in [1, 4, 1 << 20] {
            let (mut index, mut model) = (Index::new(), BTreeSet::new());
            for step in 0..4000_u32 {
                let tag = u32::try_from(rng.below(spread)).unwrap().wrapping_sub(2);
                if rng.chance(0.5) || model.is_empty() {
                    index.insert(tag, step);
                    model.insert((tag, step));
                } else {
                    let (tag, place) = *rng.pick(&model.iter().copied().collect::<Vec<_>>()).unwrap();
                    index.remove(tag, place);
                    model.remove(&(tag, place));
                    assert_eq!(index.find(tag, |at| at == place), None);
                }
                assert_eq!(index.len(), model.len());
                if step % 97 == 0 {
                    assert!(
                        model.iter().all(|(tag, place)| index.find(*tag, |at| at == *place) == Some(*place))
                    );
                }
            }
        }
    }
}
