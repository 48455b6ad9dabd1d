//! Journals of a site: the trait, and how one looks where it is kept, so that being cut off at any byte loses nothing that was durable.

use super::{Record, TxnId};
use pils::wire::ParseError;
use std::collections::BTreeMap;

/// What a journal begins with: the kind, and its version.
pub const MAGIC: [u8; 8] = *b"ocftxn\0\x01";

/// Largest content of a batch, in bytes.
pub const BATCH_MAX: usize = 1 << 30;

/// Length (4), checksum of the content (8), checksum of the place and both (8).
pub(crate) const HEAD: usize = 20;

/// Where a site's records are kept. `ocf_groups::driver::FileJournal` (feature `driver`) is one; a database that carries out the
/// transactions may keep them beside its own.
pub trait Journal {
    /// Why it does not take a record.
    type Error: core::error::Error;

    /// Writes records behind all before them. When this returns, they survive a power failure, all of them or none.
    ///
    /// # Errors
    /// They may or may not be there: the site must end, and be made anew from what the journal holds then.
    fn append(&mut self, records: &[Record]) -> Result<(), Self::Error>;
}

/// What the bytes of a journal hold. See [`read`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The newest record of each transaction that is not forgotten.
    pub live: BTreeMap<TxnId, Record>,
    /// Bytes up to the end of the last whole batch. What follows was cut off while it was written: it must be taken away before
    /// anything is appended. Zero if the journal was not begun: [`MAGIC`] is to be written.
    pub whole: usize,
}

impl Contents {
    /// Takes in a record that is newer than all before it.
    pub fn note(&mut self, record: Record) {
        if let Record::Forget { txn } = record {
            self.live.remove(&txn);
        } else {
            self.live.insert(record.txn(), record);
        }
    }
}

/// Why bytes cannot be read as a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is something else, or of a later version.
    #[error("it is no journal of transactions of this version")]
    Foreign,
    /// A batch that was durable once is not readable.
    #[error("it is damaged at byte {at}: a whole batch follows what is not readable")]
    Damaged {
        /// Where.
        at: usize,
    },
    /// A batch is whole, and holds what is no record of this version.
    #[error("the batch at byte {at} holds no records of this version: {source}")]
    Record {
        /// Where.
        at: usize,
        /// What is wrong.
        source: ParseError,
    },
}

/// Records that are too large to be appended together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are too many for one batch, at most {BATCH_MAX}: append fewer records at once")]
pub struct BatchTooLarge(pub usize);

/// The bytes of one batch that is to stand at byte `at` of a journal. Batches are told apart by their place, so one in the content
/// of a record is never taken for one of the journal.
///
/// # Errors
/// [`BatchTooLarge`].
pub fn batch<'a>(at: usize, records: impl IntoIterator<Item = &'a Record>) -> Result<Vec<u8>, BatchTooLarge> {
    let mut out = vec![0; HEAD];
    for record in records {
        let bytes = record.to_bytes();
        let length = u32::try_from(bytes.len()).map_err(|_too_large| BatchTooLarge(bytes.len()))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    let content = &out[HEAD..];
    let size = content.len();
    let length = u32::try_from(size).ok().filter(|_| size <= BATCH_MAX).ok_or(BatchTooLarge(size))?;
    let sum = checksum(START, content);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out[4..12].copy_from_slice(&sum.to_be_bytes());
    let head = head_checksum(at, &out[..12]);
    out[12..HEAD].copy_from_slice(&head.to_be_bytes());
    Ok(out)
}

/// Reads a journal that may have been cut off anywhere in its last batch. O(bytes).
///
/// A last batch whose bytes changed after it was durable cannot be told from one that was cut off: what keeps the bytes must not
/// lose what it said is written.
///
/// # Errors
/// See [`Unreadable`]. A site must not start without what it promised.
pub fn read(bytes: &[u8]) -> Result<Contents, Unreadable> {
    let mut contents = Contents::default();
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        // Begun, and cut off before anything was durable.
        return if MAGIC.starts_with(bytes) { Ok(contents) } else { Err(Unreadable::Foreign) };
    };
    let mut at = bytes.len() - rest.len();
    while let Some(content) = batch_at(bytes, at) {
        let records = records_of(content).map_err(|source| Unreadable::Record { at, source })?;
        records.into_iter().for_each(|record| contents.note(record));
        at += HEAD + content.len();
    }
    // No batch is begun before the one before it is durable: nothing whole can follow what was cut off.
    if (at + 1..bytes.len()).any(|later| batch_at(bytes, later).is_some()) {
        return Err(Unreadable::Damaged { at });
    }
    contents.whole = at;
    Ok(contents)
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn checksum(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn head_checksum(at: usize, head: &[u8]) -> u64 {
    checksum(checksum(START, &(at as u64).to_be_bytes()), head)
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The content of the batch at `at`, if it is whole.
fn batch_at(file: &[u8], at: usize) -> Option<&[u8]> {
    let head = file.get(at..at.checked_add(HEAD)?)?;
    if u64::from_be_bytes(word(head, 12)?) != head_checksum(at, &head[..12]) {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes(word(head, 0)?)).ok()?;
    let content = file.get(at + HEAD..(at + HEAD).checked_add(length)?)?;
    (u64::from_be_bytes(word(head, 4)?) == checksum(START, content)).then_some(content)
}

/// The records of a batch.
fn records_of(mut content: &[u8]) -> Result<Vec<Record>, ParseError> {
    let mut records = Vec::new();
    while !content.is_empty() {
        let length = word(content, 0).map(u32::from_be_bytes).and_then(|n| usize::try_from(n).ok());
        let record = length.and_then(|n| content.get(4..4_usize.checked_add(n)?)).unwrap_or_default();
        records.push(Record::parse(record)?);
        content = &content[4 + record.len()..];
    }
    Ok(records)
}
