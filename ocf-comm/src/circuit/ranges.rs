use core::ops::Range;

/// A set of numbers as sorted ranges that neither touch nor overlap. Meant for few ranges: O(ranges) to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.0.first().cloned()
    }

    pub(crate) fn last(&self) -> Option<Range<u64>> {
        self.0.last().cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> core::slice::Iter<'_, Range<u64>> {
        self.0.iter()
    }

    /// Adds `new`. Appending at the end is O(1).
    pub(crate) fn insert(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut() {
            if last.end == new.start {
                last.end = new.end;
                return;
            }
            if last.end < new.start {
                self.0.push(new);
                return;
            }
        }
        let low = self.0.partition_point(|r| r.end < new.start);
        let high = self.0.partition_point(|r| r.start <= new.end);
        if low == high {
            self.0.insert(low, new);
            return;
        }
        let merged = new.start.min(self.0[low].start)..new.end.max(self.0[high - 1].end);
        self.0[low] = merged;
        self.0.drain(low + 1..high);
    }

    /// Removes `old`.
    pub(crate) fn remove(&mut self, old: Range<u64>) {
        let low = self.0.partition_point(|r| r.end <= old.start);
        let high = self.0.partition_point(|r| r.start < old.end);
        if old.is_empty() || low >= high {
            return;
        }
        let left = self.0[low].start..old.start;
        let right = old.end..self.0[high - 1].end;
        let keep = [left, right].into_iter().filter(|r| !r.is_empty());
        self.0.splice(low..high, keep);
    }

    /// Drops the lowest range.
    pub(crate) fn forget_first(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_the_set_that_the_obvious_one_is(steps in proptest::collection::vec((any::<bool>(), 0..60_u64, 0..12_u64), 0..40)) {
            let mut fast = Ranges::default();
            let mut slow = BTreeSet::new();
            for (add, start, length) in steps {
                let range = start..start + length;
                if add {
                    fast.insert(range.clone());
                    slow.extend(range);
                } else {
                    fast.remove(range.clone());
                    slow.retain(|x| !range.contains(x));
                }
                prop_assert!((0..80).all(|x| fast.0.iter().any(|r| r.contains(&x)) == slow.contains(&x)));
                prop_assert!(fast.0.iter().all(|r| !r.is_empty()));
                prop_assert!(fast.0.windows(2).all(|w| w[0].end < w[1].start));
            }
        }
    }
}
