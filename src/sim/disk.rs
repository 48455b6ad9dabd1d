use bytes::Bytes;
use core::time::Duration;
use pils::Rng;

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

    pub(crate) fn lose(&mut self) {
        self.content = None;
        self.writing.clear();
    }

    pub(crate) fn content(&self) -> Option<Bytes> {
        self.content.clone()
    }
}
