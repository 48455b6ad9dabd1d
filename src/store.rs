use core::time::Duration;
use pils::durable::{self, Claim};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

/// Where the view record of a node is kept between its lives.
///
/// One record, replaced as a whole; a few hundred bytes, written once per view change.
pub trait RecordStore: Send {
    /// The record of the last [`save`](RecordStore::save) that returned, or `None` if there never was one.
    ///
    /// # Errors
    /// The store cannot be read; the node must not start, because it may have promised something it forgot.
    fn load(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the record. When this returns, the record survives a power failure.
    ///
    /// # Errors
    /// The record may or may not be replaced; the old one is whole if the new one is not.
    fn save(&mut self, record: &[u8]) -> io::Result<()>;

    /// Whether nothing of the node's earlier lives can still run, because this store is held exclusively since
    /// [`load`](RecordStore::load): then they need not be fenced when the node comes back. Called once, after that. Default: false.
    ///
    /// `leaves_programs`: programs that hold locks of this node may outlive it on this machine. That has to be remembered for the next life,
    /// until the machine has started anew.
    ///
    /// # Errors
    /// It cannot be remembered; the node must not start.
    fn claim(&mut self, leaves_programs: bool) -> io::Result<bool> {
        let _: bool = leaves_programs;
        Ok(false)
    }
}

/// How long the process that used a record before may take to end.
const HELD: Duration = Duration::from_secs(3);

/// A record in a file, replaced by writing a temporary file beside it, flushing, and renaming.
///
/// From [`load`](RecordStore::load) on the process holds the kernel's lock (`flock`) on a file beside it, `<record>.lock`, which stays there. So
/// two processes never use one record, and a node that comes back proves that its earlier life is over: whatever
/// becomes of a process, the kernel gives the lock to another only when it is gone. Do not copy a record to another machine while the
/// node runs on the first, as a clone of a virtual machine would.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    lock: Option<File>,
}

impl FileStore {
    /// A store at `path`; its folder must exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), lock: None }
    }

    /// Waits a little for a process that is ending.
    fn hold(&mut self) -> io::Result<()> {
        let started = Instant::now();
        loop {
            match durable::claim(&durable::beside(&self.path, ".lock"), 0o666) {
                Ok(Claim::Held(file)) => {
                    self.lock = Some(file);
                    return Ok(());
                }
                Ok(Claim::InUse) if started.elapsed() < HELD => thread::sleep(Duration::from_millis(20)),
                Ok(Claim::InUse) => {
                    let path = self.path.display();
                    return Err(io::Error::other(format!(
                        "another process uses {path}: end it first, or give this node a record of its own"
                    )));
                }
                Ok(Claim::Unsupported(error)) => {
                    tracing::warn!(%error, record = %self.path.display(), "the file system has no locks: \
                        a node that comes back does not prove that its earlier life is over");
                    return Ok(());
                }
                // Where nothing can be written, saving says so.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl RecordStore for FileStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.lock.is_none() {
            self.hold()?;
        }
        match fs::read(&self.path) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save(&mut self, record: &[u8]) -> io::Result<()> {
        durable::replace(&self.path, 0o666, record).map(drop)
    }

    fn claim(&mut self, leaves_programs: bool) -> io::Result<bool> {
        let Some(mut lock) = self.lock.as_ref() else { return Ok(false) };
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| "unknown".to_owned());
        let mut before = String::new();
        lock.read_to_string(&mut before)?;
        // It says in which run of the machine programs were left.
        if before == boot {
            // It stays as it is at every moment: a life that ends here must not forget them.
            return Ok(false);
        }
        lock.set_len(0)?;
        lock.rewind()?;
        if leaves_programs {
            lock.write_all(boot.as_bytes())?;
        }
        lock.sync_all()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_survives_reopening() {
        let folder = std::env::temp_dir().join(format!("ocf-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("record");
        let mut store = FileStore::new(&path);
        assert_eq!(store.load().unwrap(), None);
        store.save(b"first and longer").unwrap();
        store.save(b"second").unwrap();
        assert!(store.claim(true).unwrap(), "there was no earlier life");
        let refused = FileStore::new(&path).load().unwrap_err();
        assert!(refused.to_string().contains("another process uses"), "{refused}");
        drop(store);
        for (leaves_programs, lives) in [(false, "nobody knows that its programs are gone"), (true, "still")]
        {
            let mut store = FileStore::new(&path);
            assert_eq!(store.load().unwrap().as_deref(), Some(&b"second"[..]));
            assert!(!store.claim(leaves_programs).unwrap(), "{lives}");
        }
        fs::write(folder.join("record.lock"), "another run of the machine").unwrap();
        for leaves_programs in [false, false, true] {
            let mut store = FileStore::new(&path);
            store.load().unwrap();
            assert!(store.claim(leaves_programs).unwrap(), "the machine has started anew");
        }
        assert!(!FileStore::new(&path).claim(false).unwrap(), "nobody holds what was not read");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no temporary file is left beside the lock");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_folder_is_an_error_and_not_an_empty_record() {
        let mut store = FileStore::new("/nonexistent-folder/record");
        assert!(store.save(b"x").is_err());
    }
}
