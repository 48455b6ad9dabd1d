//! Files that are whole after a crash at any moment, and that one process has at a time. A driver.
//!
//! ```
//! use pils::durable::{self, Claim};
//! # let folder = std::env::temp_dir().join(format!("pils-durable-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let record = folder.join("record");
//! let Claim::Held(_lock) = durable::claim(&durable::beside(&record, ".lock"), 0o600)? else { panic!("it is new") };
//! durable::replace(&record, 0o600, b"what must not be forgotten")?;
//! assert_eq!(std::fs::read(&record)?, b"what must not be forgotten");
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What became of the wish to have a file for this process alone.
#[derive(Debug)]
pub enum Claim {
    /// Until this is dropped, or the process has ended, however it ends, no other process can claim it. Open for reading and writing.
    Held(File),
    /// Another process has it.
    InUse,
    /// The file system has no locks, for this reason: nobody knows whether another process has it.
    Unsupported(io::Error),
}

/// Claims the file at `path` by the kernel's lock (`flock`), and makes it, with these permissions less the umask, if it is not there. Does
/// not wait.
///
/// # Errors
/// It cannot be opened or made.
pub fn claim(path: &Path, mode: u32) -> io::Result<Claim> {
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(mode).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Claim::Held(file)),
        Err(Errno::WOULDBLOCK) => Ok(Claim::InUse),
        Err(error @ (Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)) => Ok(Claim::Unsupported(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file at `path` as a whole, by one with these permissions less the umask: it is written beside it (`<path>.new`), flushed and
/// renamed, and the folder is flushed. A crash at any moment leaves the old content or the new one; when this returns, the new one survives a
/// power failure. The file comes back open for writing, behind its content. Costs two flushes of the disk.
///
/// # Errors
/// Those of the file system. The old content is whole if the new one is not there.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<File> {
    let new = beside(path, ".new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)?;
    Ok(file)
}

/// Flushes the folder that `path` is in: what was made, renamed or removed there survives a power failure.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// The path of `path` with `suffix` behind its name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    folder(path).join(name)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_with_its_permissions_and_nothing_is_left_beside_it() {
        let dir = std::env::temp_dir().join(format!("pils-durable-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("record.toml");
        replace(&path, 0o644, b"first and longer").unwrap();
        fs::write(beside(&path, ".new"), "cut off in the middle by a crash, and longer than both").unwrap();
        let mut file = replace(&path, 0o600, b"second").unwrap();
        file.write_all(b", and more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second, and more");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        replace(&path, 0o600, b"third").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace(&dir.join("missing/record"), 0o600, b"").is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_claim_is_of_one_until_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("pils-claim-{}", std::process::id()));
        let held = claim(&path, 0o600).unwrap();
        assert!(matches!(held, Claim::Held(_)));
        assert!(matches!(claim(&path, 0o600).unwrap(), Claim::InUse));
        drop(held);
        assert!(matches!(claim(&path, 0o600).unwrap(), Claim::Held(_)));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_name_without_folder_is_in_the_current_one() {
        assert_eq!(beside(Path::new("record"), ".new"), Path::new("./record.new"));
        assert_eq!(beside(Path::new("/var/record.toml"), ".lock"), Path::new("/var/record.toml.lock"));
    }
}
