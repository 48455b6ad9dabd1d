use core::ops::{Index, IndexMut};

/// No place: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;

/// Values at `u32` places that are given again after use, last freed first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: u32,
    used: u32,
}

#[derive(Debug)]
enum Place<T> {
    Free(u32),
    Used(T),
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: NONE, used: 0 }
    }

    /// How many values there are.
    pub(crate) const fn len(&self) -> u32 {
        self.used
    }

    /// Puts `value` at a free place.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        let at = self.free;
        if at == NONE {
            self.places.push(Place::Used(value));
            return u32::try_from(self.places.len() - 1).expect("the limit on places is below 2^32");
        }
        let place = &mut self.places[at as usize];
        if let Place::Free(next) = *place {
            self.free = next;
        }
        *place = Place::Used(value);
        at
    }

    /// Takes the value from a place.
    pub(crate) fn remove(&mut self, at: u32) -> T {
        let place = core::mem::replace(&mut self.places[at as usize], Place::Free(self.free));
        let Place::Used(value) = place else { unreachable!("place {at} is free") };
        self.free = at;
        self.used -= 1;
        value
    }

    /// The value at a place, if there is one.
    pub(crate) fn find(&self, at: u32) -> Option<&T> {
        match self.places.get(at as usize) {
            Some(Place::Used(value)) => Some(value),
            Some(Place::Free(_)) | None => None,
        }
    }

    /// All values with their places, in order of places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.places).filter_map(|(at, place)| match place {
            Place::Used(value) => Some((at, value)),
            Place::Free(_) => None,
        })
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, at: u32) -> &T {
        match &self.places[at as usize] {
            Place::Used(value) => value,
            Place::Free(_) => unreachable!("place {at} is free"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        match &mut self.places[at as usize] {
            Place::Used(value) => value,
            Place::Free(_) => unreachable!("place {at} is free"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_again() {
        let mut slab = Slab::new();
        let places: Vec<u32> = (0..4).map(|n| slab.insert(n)).collect();
        assert_eq!(places, [0, 1, 2, 3]);
        assert_eq!((slab.remove(1), slab.remove(3), slab.len()), (1, 3, 2));
        assert_eq!(slab.find(1), None);
        assert_eq!((slab.insert(10), slab.insert(11), slab.insert(12)), (3, 1, 4));
        assert_eq!(
            slab.iter().map(|(at, value)| (at, *value)).collect::<Vec<_>>(),
            [(0, 0), (1, 11), (2, 2), (3, 10), (4, 12)]
        );
    }
}
