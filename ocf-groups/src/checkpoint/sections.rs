//! The sections of one checkpoint.

use super::{Checkpoint, Piece, Refusal};
use bytes::{Bytes, BytesMut};
use core::time::Duration;

/// A section of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its content.
    pub data: Bytes,
    /// When it is deleted, in the time of the group; `None`: never.
    pub expires: Option<Duration>,
    /// When it was written last, in the time of the group.
    pub updated: Duration,
}

impl Section {
    pub(super) const fn new(data: Bytes, expires: Option<Duration>, updated: Duration) -> Self {
        Self { data, expires, updated }
    }
}

/// Which sections are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `ANY`. There are no corrupted ones: every write is carried out whole or not at all.
    Any,
    /// `FOREVER`: those that never expire.
    Forever,
    /// `LEQ_EXPIRATION`: those that expire then or before.
    Until(Duration),
    /// `GEQ_EXPIRATION`: those that expire then or later.
    From(Duration),
}

impl Filter {
    pub(super) fn takes(self, section: &Section) -> bool {
        match self {
            Self::Any => true,
            Self::Forever => section.expires.is_none(),
            Self::Until(at) => section.expires.is_some_and(|expires| expires <= at),
            Self::From(at) => section.expires.is_none_or(|expires| expires >= at),
        }
    }
}

fn length(data: &Bytes) -> u64 {
    data.len() as u64
}

impl Checkpoint {
    pub(super) fn used(&self) -> u64 {
        self.sections.values().map(|s| length(&s.data)).sum()
    }

    /// True if a section of `before` bytes may have `after`.
    fn has_room(&self, before: u64, after: u64) -> bool {
        self.used().saturating_sub(before).saturating_add(after) <= self.attributes.size
    }

    pub(super) fn create(
        &mut self,
        time: Duration,
        section: Option<Bytes>,
        data: Bytes,
        expires: Option<Duration>,
    ) -> Result<u64, Refusal> {
        // The default section of a checkpoint with one is there.
        if self.attributes.sections_max == 1 {
            return Err(Refusal::Exist);
        }
        if self.sections.len() as u64 >= u64::from(self.attributes.sections_max) {
            return Err(Refusal::NoSpace);
        }
        let number = if section.is_none() { self.generated + 1 } else { 0 };
        let id = section.unwrap_or_else(|| Bytes::from(format!("g{number}")));
        let too_long = id.len() as u64 > u64::from(self.attributes.section_id_max);
        if id.is_empty() || too_long || length(&data) > self.attributes.section_size_max {
            return Err(Refusal::InvalidParam);
        }
        if self.sections.contains_key(&id) {
            return Err(Refusal::Exist);
        }
        if !self.has_room(0, length(&data)) {
            return Err(Refusal::NoSpace);
        }
        self.generated = self.generated.max(number);
        let expires = expires.map(|after| time.saturating_add(after));
        self.sections.insert(id, Section::new(data, expires, time));
        Ok(number)
    }

    pub(super) fn remove(&mut self, section: &Bytes) -> Result<u64, Refusal> {
        if section.is_empty() {
            return Err(Refusal::InvalidParam);
        }
        self.sections.remove(section).map(|_| 0).ok_or(Refusal::NotExist)
    }

    pub(super) fn expire(
        &mut self,
        time: Duration,
        section: &Bytes,
        after: Option<Duration>,
    ) -> Result<u64, Refusal> {
        if section.is_empty() {
            return Err(Refusal::InvalidParam);
        }
        let found = self.sections.get_mut(section).ok_or(Refusal::NotExist)?;
        found.expires = after.map(|after| time.saturating_add(after));
        Ok(0)
    }

    /// All pieces or none.
    pub(super) fn write(&mut self, time: Duration, pieces: &[Piece]) -> Result<u64, Refusal> {
        let mut written = self.sections.clone();
        for piece in pieces {
            let end = piece.offset.saturating_add(length(&piece.data));
            if piece.data.is_empty() || end > self.attributes.section_size_max {
                return Err(Refusal::InvalidParam);
            }
            let section = written.get_mut(&piece.section).ok_or(Refusal::NotExist)?;
            let at = usize::try_from(piece.offset).map_err(|_too_big| Refusal::InvalidParam)?;
            let mut data = BytesMut::from(&section.data[..]);
            if data.len() < at + piece.data.len() {
                // What was never written reads as zeros. No more than the size of the checkpoint.
                if !self.has_room(length(&section.data), end) {
                    return Err(Refusal::NoSpace);
                }
                data.resize(at + piece.data.len(), 0);
            }
            data[at..at + piece.data.len()].copy_from_slice(&piece.data);
            section.data = data.freeze();
            section.updated = time;
        }
        let used: u64 = written.values().map(|s| length(&s.data)).sum();
        if used > self.attributes.size {
            return Err(Refusal::NoSpace);
        }
        self.sections = written;
        Ok(0)
    }

    pub(super) fn overwrite(&mut self, time: Duration, section: &Bytes, data: Bytes) -> Result<u64, Refusal> {
        if length(&data) > self.attributes.section_size_max {
            return Err(Refusal::InvalidParam);
        }
        let before = length(&self.sections.get(section).ok_or(Refusal::NotExist)?.data);
        if !self.has_room(before, length(&data)) {
            return Err(Refusal::NoSpace);
        }
        if let Some(section) = self.sections.get_mut(section) {
            (section.data, section.updated) = (data, time);
        }
        Ok(0)
    }

    /// Removes what is due; returns the names.
    pub(super) fn expire_due(&mut self, time: Duration) -> Vec<Bytes> {
        let is_due = |s: &Section| s.expires.is_some_and(|at| at <= time);
        let due: Vec<Bytes> =
            self.sections.iter().filter(|(_, s)| is_due(s)).map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|id| drop(self.sections.remove(id)));
        due
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.sections.values().filter_map(|s| s.expires).chain(self.ends).min()
    }
}
