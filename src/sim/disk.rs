use bytes::Bytes;
use core::time::Duration;
use pils::{Incarnation, Rng};

/// How the disks of a run behave.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskProfile {
    /// Time of one durable write, lowest and highest.
    pub latency: (Duration, Duration),
    /// Chance that one write fails and changes nothing.
    pub failure: f64,
}

impl Default for DiskProfile {
    fn default() -> Self {
        Self { latency: (Duration::from_micros(50), Duration::from_millis(5)), failure: 0.0 }
    }
}

/// The record file of one node: replaced as a whole, durable when the write completes.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    content: Option<Bytes>,
    writing: Vec<(u64, Bytes)>,
    pub(crate) full: bool,
    /// Nothing that is being written completes.
    pub(crate) hung: bool,
    /// Writes that would have ended, and whether they would have worked.
    pub(crate) stuck: Vec<(Incarnation, u64, bool)>,
}

impl Disk {
    pub(crate) fn begin(&mut self, token: u64, record: Bytes) {
        self.writing.push((token, record));
    }

    /// The write completes; returns whether it worked.
    pub(crate) fn complete(&mut self, token: u64, failed: bool) -> bool {
        let Some(i) = self.writing.iter().position(|(t, _)| *t == token) else { return false };
        let (_, record) = self.writing.remove(i);
        if failed || self.full {
            return false;
        }
        self.content = Some(record);
        true
    }

    /// The writer died: of the writes under way, in their order, some have happened.
    pub(crate) fn interrupt(&mut self, rng: &mut Rng) {
        let landed = rng.below(self.writing.len() as u64 + 1);
        for (i, (_, record)) in self.writing.drain(..).enumerate() {
            if (i as u64) < landed && !self.full {
                self.content = Some(record);
            }
        }
    }

    /// Turns a bit of the record or cuts off its end.
    pub(crate) fn damage(&mut self, rng: &mut Rng) {
        let Some(content) = &mut self.content else { return };
        let mut bytes = content.to_vec();
        let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap_or(0);
        if rng.chance(0.5) {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        *content = bytes.into();
    }

    pub(crate) fn lose(&mut self) {
        self.content = None;
        self.writing.clear();
    }

    pub(crate) fn content(&self) -> Option<Bytes> {
        self.content.clone()
    }
}
