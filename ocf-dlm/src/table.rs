use crate::index::Index;
use crate::name;
use core::iter;
use pils::NodeInstance;
use std::sync::Arc;

/// What a [`Table`] finds its values by.
pub(crate) trait Hashed: Eq {
    fn hash(&self, seed: u64) -> u64;
}

impl Hashed for Arc<[u8]> {
    fn hash(&self, seed: u64) -> u64 {
        name::hash(seed, self)
    }
}

impl Hashed for u64 {
    fn hash(&self, seed: u64) -> u64 {
        mix(*self ^ seed)
    }
}

impl Hashed for crate::cluster::Holder {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn hash(&self, seed: u64) -> u64 {
        let NodeInstance { node, incarnation } = self.node;
        let incarnation = incarnation.raw();
        let node = u64::from(node.raw()) ^ (incarnation >> 64) as u64 ^ incarnation as u64;
        mix(self.lock ^ mix(node ^ seed))
    }
}

/// Spreads the bits of a number (the finalizer of splitmix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Values that are allocated together: growth never moves what is there.
const CHUNK: usize = 256;

/// Values by hash, each at a place that it keeps as long as it is there. A walk goes by places: the same on every run, and
/// it can stop at any place and go on from there later, whatever comes and goes meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    seed: u64,
    index: Index,
    chunks: Vec<Vec<Option<(K, V)>>>,
    free: Vec<u32>,
    /// The place that was changed last: one operation looks for the same key many times.
    recent: u32,
}

impl<K: Hashed, V> Table<K, V> {
    /// An empty table. `seed`: of the hash.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, index: Index::new(), chunks: Vec::new(), free: Vec::new(), recent: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.index.len()
    }

    /// One more than the last place that has a value.
    pub(crate) fn end(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        u32::try_from(self.chunks.len().saturating_sub(1) * CHUNK + last).unwrap_or(u32::MAX)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lowest 32 bits of a hash")]
    fn tag(&self, key: &K) -> u32 {
        key.hash(self.seed) as u32
    }

    fn slot(&self, place: u32) -> Option<&(K, V)> {
        let place = place as usize;
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)?.as_ref()
    }

    fn slot_mut(&mut self, place: u32) -> Option<&mut (K, V)> {
        let place = place as usize;
        self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK)?.as_mut()
    }

    /// Where the value of `key` is.
    pub(crate) fn place(&self, key: &K) -> Option<u32> {
        if self.slot(self.recent).is_some_and(|(known, _)| known == key) {
            return Some(self.recent);
        }
        self.index.find(self.tag(key), |place| self.slot(place).is_some_and(|(known, _)| known == key))
    }

    /// Key and value at a place.
    pub(crate) fn at(&self, place: u32) -> Option<(&K, &V)> {
        self.slot(place).map(|(key, value)| (key, value))
    }

    /// The key at a place; what is there is found without its hash next.
    pub(crate) fn key_at(&mut self, place: u32) -> Option<K>
    where
        K: Clone,
    {
        self.recent = place;
        self.at(place).map(|(key, _)| key.clone())
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.slot(self.place(key)?).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find_mut(key).map(|(_, value)| value)
    }

    /// The value of `key`, and its place.
    pub(crate) fn find_mut(&mut self, key: &K) -> Option<(u32, &mut V)> {
        let place = self.place(key)?;
        self.recent = place;
        self.slot_mut(place).map(|(_, value)| (place, value))
    }

    /// The value at a place.
    pub(crate) fn at_mut(&mut self, place: u32) -> Option<&mut V> {
        self.slot_mut(place).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    fn add(&mut self, key: K, value: V) -> u32 {
        let tag = self.tag(&key);
        let place = self.free.pop().unwrap_or_else(|| {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.push(None);
            }
            self.end() - 1
        });
        self.chunks[place as usize / CHUNK][place as usize % CHUNK] = Some((key, value));
        self.index.insert(tag, place);
        self.recent = place;
        place
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(core::mem::replace(known, value));
        }
        self.add(key, value);
        None
    }

    /// The value of `key`, which is made if there is none.
    pub(crate) fn or_insert_with(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        let place = self.place(key).unwrap_or_else(|| self.add(key.clone(), make()));
        self.recent = place;
        &mut self.slot_mut(place).expect("it was found or added").1
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key)?;
        let tag = self.tag(key);
        self.index.remove(tag, place);
        let (_, value) = self.chunks[place as usize / CHUNK][place as usize % CHUNK].take()?;
        self.free.push(place);
        if self.index.len() == 0 && self.chunks.len() > 1 {
            // What was large once need not stay so, nor be walked over.
            self.clear();
        }
        Some(value)
    }

    /// Takes out what is at a place.
    pub(crate) fn take_at(&mut self, place: u32) -> Option<(K, V)>
    where
        K: Clone,
    {
        let key = self.key_at(place)?;
        self.remove(&key).map(|value| (key, value))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.seed);
    }

    /// Everything, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flatten().flatten().map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Takes everything out, by place.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let mut chunks = core::mem::take(&mut self.chunks).into_iter();
        self.clear();
        let mut chunk = Vec::new().into_iter();
        iter::from_fn(move || {
            loop {
                match chunk.next() {
                    Some(Some(pair)) => return Some(pair),
                    Some(None) => {}
                    None => chunk = chunks.next()?.into_iter(),
                }
            }
        })
    }
}

/// Two tables are told apart by what is in them, where it is, and where the next value goes.
impl<K: core::hash::Hash, V: core::hash::Hash> core::hash::Hash for Table<K, V> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let Self { seed: _, index: _, recent: _, chunks, free } = self;
        (chunks, free).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_holds_what_a_map_holds_and_places_stay() {
        let mut rng = pils::Rng::new(11);
        let (mut table, mut model) = (Table::new(3), BTreeMap::new());
        let mut places: BTreeMap<u64, u32> = BTreeMap::new();
        for step in 0..20_000_u64 {
            let key = rng.below(700);
            if rng.chance(0.6) {
                assert_eq!(table.insert(key, step), model.insert(key, step));
                places.entry(key).or_insert_with(|| table.place(&key).unwrap());
            } else {
                assert_eq!(table.remove(&key), model.remove(&key));
                places.remove(&key);
            }
            assert_eq!(table.get(&key), model.get(&key));
            assert_eq!(table.len(), model.len());
            if step % 997 == 0 {
                let mut all: Vec<(u64, u64)> = table.iter().map(|(key, value)| (*key, *value)).collect();
                all.sort_unstable();
                assert!(all.iter().copied().eq(model.iter().map(|(key, value)| (*key, *value))));
                assert!(places.iter().all(|(key, place)| table.at(*place).is_some_and(|(at, _)| at == key)));
            }
        }
        let (length, end) = (table.len(), table.end());
        assert!(end as usize >= length && end <= 700, "{length} values end at place {end}");
        assert_eq!(table.drain().count(), length);
        assert_eq!((table.len(), table.end()), (0, 0));
    }
}
