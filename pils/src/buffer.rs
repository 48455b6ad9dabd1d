//! Memory for messages that is used again.

use bytes::BytesMut;
use std::collections::VecDeque;

/// Buffers that were handed out as [`bytes::Bytes`] slices and come back by themselves once the last slice is dropped.
///
/// [`Recycler::exchange`] takes a buffer that is used up and gives one with room: one that was given before and that
/// nobody uses any more, or a new one. So whoever appends messages to a buffer, splits them off and hands them on stops
/// allocating after a while.
///
/// ```
/// use bytes::BytesMut;
/// use pils::buffer::Recycler;
///
/// let mut recycler = Recycler::new(1024, 4);
/// let mut buffer = BytesMut::new();
/// let mut addresses = std::collections::BTreeSet::new();
/// for round in 0..100 {
///     recycler.exchange(&mut buffer, 1000);
///     addresses.insert(buffer.as_ptr());
///     buffer.extend_from_slice(&[round; 1000]);
///     let message = buffer.split().freeze();
///     assert_eq!(message[999], round);
/// }
/// assert_eq!(addresses.len(), 2, "two buffers take turns");
/// ```
#[derive(Debug)]
pub struct Recycler {
    size: usize,
    most: usize,
    used: VecDeque<BytesMut>,
}

/// Used buffers that are looked at before a new one is made: they mostly come back in the order they went.
const LOOK: usize = 4;

impl Recycler {
    /// Makes buffers of `size` bytes and remembers at most `most` that were used up. What it keeps alive is at most
    /// `size * most` bytes, and larger buffers that were asked for.
    #[must_use]
    pub const fn new(size: usize, most: usize) -> Self {
        Self { size, most, used: VecDeque::new() }
    }

    /// Gives `buffer`, which must be empty, room for `room` bytes at least: the room it has, or another buffer.
    pub fn exchange(&mut self, buffer: &mut BytesMut, room: usize) {
        debug_assert!(buffer.is_empty(), "the content would be lost");
        if buffer.capacity() >= room {
            return;
        }
        let free = self.used.iter_mut().take(LOOK).position(|used| used.try_reclaim(room));
        let fresh = free.and_then(|index| self.used.remove(index));
        let fresh = fresh.unwrap_or_else(|| BytesMut::with_capacity(room.max(self.size)));
        let old = core::mem::replace(buffer, fresh);
        self.used.push_back(old);
        if self.used.len() > self.most {
            self.used.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_in_use_is_never_given_again_and_few_are_kept() {
        let mut recycler = Recycler::new(100, 3);
        let mut buffer = BytesMut::new();
        let mut held = Vec::new();
        for round in 0..10 {
            recycler.exchange(&mut buffer, 80);
            buffer.extend_from_slice(&[round; 80]);
            held.push(buffer.split().freeze());
        }
        assert!(recycler.used.len() <= 3);
        for (round, message) in (0..).zip(&held) {
            assert!(message.iter().all(|byte| *byte == round), "message {round} is whole");
        }
    }

    #[test]
    fn room_that_is_there_is_used_first_and_large_requests_are_served() {
        let mut recycler = Recycler::new(100, 3);
        let mut buffer = BytesMut::new();
        recycler.exchange(&mut buffer, 10);
        let first = buffer.as_ptr();
        buffer.extend_from_slice(&[0; 10]);
        drop(buffer.split());
        recycler.exchange(&mut buffer, 60);
        assert_eq!(buffer.as_ptr(), first.wrapping_add(10));
        recycler.exchange(&mut buffer, 5000);
        assert!(buffer.capacity() >= 5000);
    }
}
