use std::collections::VecDeque;

/// The last bytes of a stream. Memory grows with what is kept, never beyond `max`.
#[derive(Debug)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    max: usize,
    pub(super) dropped: u64,
}

impl Tail {
    pub(super) const fn new(max: usize) -> Self {
        Self { kept: VecDeque::new(), max, dropped: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let skip = bytes.len().saturating_sub(self.max);
        let news = &bytes[skip..];
        let excess = (self.kept.len() + news.len()).saturating_sub(self.max);
        drop(self.kept.drain(..excess));
        self.kept.extend(news);
        self.dropped += (skip + excess) as u64;
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_and_the_others_counted() {
        let mut tail = Tail::new(4);
        tail.push(b"ab");
        tail.push(b"cde");
        assert_eq!((tail.dropped, tail.kept.make_contiguous() as &[u8]), (1, b"bcde".as_slice()));
        tail.push(b"0123456");
        assert_eq!((tail.dropped, tail.take()), (8, b"3456".to_vec()));
        let mut none = Tail::new(0);
        none.push(b"xyz");
        assert_eq!((none.dropped, none.take()), (3, Vec::new()));
    }
}
