use crate::transaction::journal::{BatchTooLarge, Contents, HEAD, MAGIC, Unreadable, batch, read};
use crate::transaction::{Journal, Record};
use pils::durable::{self, Claim};
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A file with less dead content than this is not written anew.
const COMPACT_LEAST: usize = 1 << 20;

/// What a transaction is about is for its owner alone.
const OWN: u32 = 0o600;

/// A journal in a file: what is appended together is one batch, which is there as a whole after a crash or not at all.
///
/// The file grows with each batch and is written anew, without what was forgotten, when more than half of it and more than 1 MiB is of
/// no use any more. The records that are not forgotten stay in memory, too. While it is open, nobody else can open it (`flock` on `<path>.lock`).
///
/// ```
/// use ocf_groups::driver::FileJournal;
/// use ocf_groups::transaction::{Journal as _, Record, TxnId};
/// # use ocf_groups::{MemberId, Position, replicated::Birth};
/// # use pils::{Incarnation, NodeId, NodeInstance};
/// # let founder = MemberId { instance: NodeInstance::new(NodeId::new(1), Incarnation::new(1)), local: 0 };
/// # let birth = Birth { founder, position: Position::default() };
/// # let folder = std::env::temp_dir().join(format!("ocf-journal-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("journal");
/// let (mut journal, records) = FileJournal::open(&path)?;
/// assert!(records.is_empty(), "give these to `TransactionSite::new`");
/// // For each `Output::Write { token, record }`: append it, then call `TransactionSite::durable` with the token.
/// journal.append(&[Record::Forget { txn: TxnId { birth, number: 1 } }])?;
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: File,
    /// Held as long as the journal is open.
    _lock: Option<File>,
    contents: Contents,
    /// Bytes that the live records take.
    useful: usize,
    failed: bool,
}

/// Why a journal cannot be opened, or does not take a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file cannot be read or written. After a failed append nobody knows what is on the disk: end the program, and open the
    /// journal anew.
    #[error("journal {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else, or damaged. Restore the file, or decide by hand what became of the transactions in it; the site must not
    /// start without what it promised.
    #[error("journal {path:?} cannot be used: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Unreadable,
    },
    /// Another process has it open.
    #[error("another process uses journal {0:?}: end it first, or give the site a file of its own")]
    InUse(PathBuf),
    /// An append failed before.
    #[error("an append to journal {0:?} failed before: open it anew")]
    Failed(PathBuf),
    /// What is to be appended together is too large. Nothing changed.
    #[error(transparent)]
    TooLarge(#[from] BatchTooLarge),
}

impl FileJournal {
    /// Opens the journal at `path`, whose folder must exist, or begins one there that only its owner can read: with the records that are
    /// not forgotten, the newest of each transaction. A batch that was cut off in the middle at the end, by a crash, was never durable and
    /// is taken away.
    ///
    /// # Errors
    /// See [`JournalError`]. The site must not start without its journal: it may have promised something it forgot.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Vec<Record>), JournalError> {
        let path = path.into();
        let failed = |source| JournalError::Io { path: path.clone(), source };
        let lock = hold(&path)?;
        let found = match fs::read(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut contents =
            read(&found).map_err(|source| JournalError::Unreadable { path: path.clone(), source })?;
        let file = begin(&path, &mut contents).map_err(failed)?;
        let records: Vec<Record> = contents.live.values().cloned().collect();
        let useful = records.iter().map(size_of).sum();
        Ok((Self { path, file, _lock: lock, contents, useful, failed: false }, records))
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.contents.whole
    }

    /// The records that are not forgotten, by transaction.
    pub fn live(&self) -> impl Iterator<Item = &Record> {
        self.contents.live.values()
    }

    /// Writes the file anew with what is live.
    fn compact(&mut self) -> io::Result<()> {
        let mut content = MAGIC.to_vec();
        for record in self.contents.live.values() {
            let batch = batch(content.len(), [record]).map_err(io::Error::other)?;
            content.extend_from_slice(&batch);
        }
        let file = durable::replace(&self.path, OWN, &content)?;
        (self.file, self.contents.whole) = (file, content.len());
        Ok(())
    }

    fn put(&mut self, batch: &[u8]) -> io::Result<()> {
        self.file.write_all(batch)?;
        self.file.sync_data()?;
        self.contents.whole += batch.len();
        if self.size() > COMPACT_LEAST.saturating_add(self.useful.saturating_mul(2)) {
            self.compact()?;
        }
        Ok(())
    }

    fn live_size(&self, of: &Record) -> usize {
        self.contents.live.get(&of.txn()).map_or(0, size_of)
    }
}

impl Journal for FileJournal {
    type Error = JournalError;

    fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed(self.path.clone()));
        }
        let batch = batch(self.size(), records)?;
        for record in records {
            self.useful -= self.live_size(record);
            self.contents.note(record.clone());
            self.useful += self.live_size(record);
        }
        self.put(&batch).map_err(|source| {
            self.failed = true;
            JournalError::Io { path: self.path.clone(), source }
        })
    }
}

/// Bytes of a record alone in a batch.
fn size_of(record: &Record) -> usize {
    HEAD + 4 + record.to_bytes().len()
}

/// Takes away what is not whole, and begins the journal if it is not.
fn begin(path: &Path, contents: &mut Contents) -> io::Result<File> {
    let mut file = File::options().create(true).truncate(false).write(true).mode(OWN).open(path)?;
    file.set_len(contents.whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    if contents.whole == 0 {
        file.write_all(&MAGIC)?;
        contents.whole = MAGIC.len();
    }
    file.sync_all()?;
    durable::sync_folder(path)?;
    Ok(file)
}

/// The kernel gives the lock to another process only when the one that holds it is gone. `None`: the file system has no locks, and it is as safe
/// as whoever gives each site a file of its own.
fn hold(path: &Path) -> Result<Option<File>, JournalError> {
    match durable::claim(&durable::beside(path, ".lock"), OWN) {
        Ok(Claim::Held(lock)) => Ok(Some(lock)),
        Ok(Claim::InUse) => Err(JournalError::InUse(path.to_owned())),
        Ok(Claim::Unsupported(error)) => {
            tracing::warn!(%error, journal = %path.display(), "the file system has no locks: give each site a journal of its own");
            Ok(None)
        }
        Err(source) => Err(JournalError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicated::Birth;
    use crate::transaction::{Parties, Site, TxnId};
    use crate::{MemberId, Position};
    use bytes::Bytes;
    use pils::{Incarnation, NodeId, NodeInstance};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("ocf-journal-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("journal")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn txn(number: u64) -> TxnId {
        let instance = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
        let founder = MemberId { instance, local: 0 };
        TxnId { birth: Birth { founder, position: Position::default() }, number }
    }

    fn prepared(number: u64, size: usize) -> Record {
        let site = Site { node: NodeId::new(1), local: 0 };
        let parties = Parties { coordinator: site, participants: [site].into() };
        Record::Prepared { txn: txn(number), parties, content: Bytes::from(vec![7; size]) }
    }

    fn committed(number: u64) -> Record {
        let Record::Prepared { txn, parties, content } = prepared(number, 3) else { unreachable!() };
        Record::Committed { txn, parties, content }
    }

    fn open(path: &Path) -> (FileJournal, Vec<Record>) {
        FileJournal::open(path).unwrap()
    }

    #[test]
    fn the_newest_record_of_each_transaction_survives_and_what_is_forgotten_does_not() {
        let folder = Folder::new("keeps");
        let (mut journal, records) = open(&folder.path());
        assert_eq!(records, []);
        journal.append(&[prepared(1, 9), prepared(2, 9)]).unwrap();
        journal.append(&[committed(1)]).unwrap();
        journal.append(&[prepared(3, 0), Record::Forget { txn: txn(2) }]).unwrap();
        let in_use = FileJournal::open(folder.path()).unwrap_err();
        assert!(matches!(in_use, JournalError::InUse(_)), "{in_use}");
        drop(journal);
        let (_, records) = open(&folder.path());
        assert_eq!(records, [committed(1), prepared(3, 0)]);
    }

    #[test]
    fn wherever_a_write_is_cut_off_all_that_was_durable_before_is_there() {
        let folder = Folder::new("cut");
        let (mut journal, _) = open(&folder.path());
        journal.append(&[prepared(1, 9)]).unwrap();
        let durable = journal.size();
        journal.append(&[committed(1), prepared(2, 40)]).unwrap();
        drop(journal);
        let whole = fs::read(folder.path()).unwrap();
        for cut in 0..whole.len() {
            fs::write(folder.path(), &whole[..cut]).unwrap();
            let (mut journal, records) = open(&folder.path());
            let before = if cut < durable { vec![] } else { vec![prepared(1, 9)] };
            assert_eq!(records, before, "cut at {cut}");
            journal.append(&[prepared(5, 1)]).unwrap();
            drop(journal);
            let records = open(&folder.path()).1;
            assert_eq!(records.last(), Some(&prepared(5, 1)), "it goes on after a cut at {cut}");
        }
    }

    #[test]
    fn any_wrong_byte_before_the_last_batch_is_an_error_and_never_a_shorter_journal() {
        let folder = Folder::new("damaged");
        let (mut journal, _) = open(&folder.path());
        journal.append(&[prepared(1, 9)]).unwrap();
        let last = journal.size();
        journal.append(&[committed(1)]).unwrap();
        drop(journal);
        let whole = fs::read(folder.path()).unwrap();
        for at in 0..last {
            let mut wrong = whole.clone();
            wrong[at] ^= 0x10;
            fs::write(folder.path(), &wrong).unwrap();
            let error = FileJournal::open(folder.path()).unwrap_err();
            let JournalError::Unreadable { source, .. } = &error else { panic!("byte {at}: {error}") };
            let told = matches!(source, Unreadable::Foreign | Unreadable::Damaged { .. });
            assert!(told, "byte {at}: {error}");
        }
        fs::write(folder.path(), b"something else").unwrap();
        let error = FileJournal::open(folder.path()).unwrap_err();
        assert!(matches!(error, JournalError::Unreadable { source: Unreadable::Foreign, .. }), "{error}");
    }

    #[test]
    fn a_journal_in_the_content_of_a_transaction_is_not_taken_for_what_follows_a_batch_that_was_cut_off() {
        let folder = Folder::new("nested");
        let (mut journal, _) = open(&folder.path());
        journal.append(&[prepared(1, 9)]).unwrap();
        let durable = journal.size();
        let within = fs::read(folder.path()).unwrap();
        let Record::Prepared { txn, parties, .. } = prepared(2, 0) else { unreachable!() };
        journal.append(&[Record::Prepared { txn, parties, content: Bytes::from(within) }]).unwrap();
        drop(journal);
        let whole = fs::read(folder.path()).unwrap();
        for cut in durable..whole.len() {
            fs::write(folder.path(), &whole[..cut]).unwrap();
            assert_eq!(open(&folder.path()).1, [prepared(1, 9)], "cut at {cut}");
        }
    }

    #[test]
    fn the_file_stays_small_however_many_transactions_end() {
        let folder = Folder::new("small");
        let (mut journal, _) = open(&folder.path());
        journal.append(&[prepared(1, 1000)]).unwrap();
        for number in 2..60 {
            journal.append(&[prepared(number, 100_000)]).unwrap();
            journal.append(&[Record::Forget { txn: txn(number) }]).unwrap();
            assert!(journal.size() < COMPACT_LEAST + 400_000, "{} bytes", journal.size());
        }
        assert_eq!(journal.live().count(), 1);
        journal.append(&[committed(1)]).unwrap();
        drop(journal);
        assert_eq!(open(&folder.path()).1, [committed(1)]);
        assert!(!folder.0.join("journal.new").exists());
    }
}
