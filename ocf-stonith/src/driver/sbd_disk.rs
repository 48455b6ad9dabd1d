use crate::sbd::{Header, LayoutError, Mail, SECTOR_MAX, decode_slot, encode_slot};
use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;

/// Why a shared disk cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SbdError {
    /// It cannot be read or written.
    #[error("{path}: {why}", path = .path.display())]
    Io {
        /// Which disk.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// What stands there is not understood.
    #[error("{path}: {why}", path = .path.display())]
    Layout {
        /// Which disk.
        path: PathBuf,
        /// What is wrong.
        why: LayoutError,
    },
    /// The node has no slot.
    #[error("{path}: {name} has no slot", path = .path.display())]
    NoSlot {
        /// Which disk.
        path: PathBuf,
        /// The node.
        name: String,
    },
    /// Every slot is taken.
    #[error("{path}: every slot is taken", path = .path.display())]
    Full {
        /// Which disk.
        path: PathBuf,
    },
}

/// A shared disk in the layout of `sbd`. Every call reads and writes the disk itself, past the cache of this machine, if it
/// is a block device; with a regular file (for tests) all users are on one machine anyway. Calls block.
#[derive(Debug)]
pub struct SbdDisk {
    file: File,
    path: PathBuf,
    header: Header,
}

impl SbdDisk {
    /// Writes a header and empty slots. What stood there is lost; nobody may use the disk meanwhile.
    ///
    /// # Errors
    /// [`SbdError::Io`], also if the disk is too small.
    pub fn create(path: impl AsRef<Path>, header: Header) -> Result<Self, SbdError> {
        let path = path.as_ref();
        let disk = Self { file: open(path)?, path: path.to_owned(), header };
        let sector = header.sector as usize;
        for slot in (0..header.slots).rev() {
            disk.write(header.mail_at(slot), &vec![0; sector])?;
            disk.write(header.slot_at(slot), &vec![0; sector])?;
        }
        // The header last: a disk that is half made has none.
        disk.write(0, &header.encode())?;
        Ok(disk)
    }

    /// Opens a disk that has a header.
    ///
    /// # Errors
    /// [`SbdError::Io`], [`SbdError::Layout`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SbdError> {
        let path = path.as_ref();
        let mut disk = Self { file: open(path)?, path: path.to_owned(), header: Header::default() };
        // The sector size is not known yet: a whole page holds the header of all.
        let page = disk.read_bytes(0, SECTOR_MAX as usize)?;
        disk.header = Header::decode(&page).map_err(|why| disk.layout(why))?;
        Ok(disk)
    }

    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The slots that are taken, and by whom. A slot that is not understood belongs to nobody that can be told anything.
    ///
    /// # Errors
    /// [`SbdError::Io`].
    pub fn slots(&self) -> Result<Vec<(u8, String)>, SbdError> {
        let mut slots = Vec::new();
        for slot in 0..self.header.slots {
            if let Ok(Some(name)) = decode_slot(&self.read(self.header.slot_at(slot))?) {
                slots.push((slot, name));
            }
        }
        Ok(slots)
    }

    fn slot_of(&self, name: &str) -> Result<Option<u8>, SbdError> {
        for slot in 0..self.header.slots {
            if decode_slot(&self.read(self.header.slot_at(slot))?).is_ok_and(|n| n.as_deref() == Some(name)) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// The slot of a node; one is taken if it has none, which takes the disk's `allocate` time.
    ///
    /// # Errors
    /// See [`SbdError`].
    #[expect(clippy::disallowed_methods, reason = "this module is a driver: it waits for others to write")]
    pub fn allocate(&self, name: &str) -> Result<u8, SbdError> {
        loop {
            let slots = self.slots()?;
            if let Some((slot, _)) = slots.iter().find(|(_, owner)| owner == name) {
                return Ok(*slot);
            }
            let empty = |slot: &u8| !slots.iter().any(|(taken, _)| taken == slot);
            let full = || SbdError::Full { path: self.path.clone() };
            let slot = (0..self.header.slots).find(empty).ok_or_else(full)?;
            let own = encode_slot(name, self.header.sector).map_err(|why| self.layout(why))?;
            self.write(self.header.mail_at(slot), &vec![0; self.header.sector as usize])?;
            self.write(self.header.slot_at(slot), &own)?;
            // Another node may have taken the same one at the same time: the last writer has it.
            thread::sleep(Duration::from_secs(self.header.allocate_s.into()));
        }
    }

    /// What a node is told.
    ///
    /// # Errors
    /// See [`SbdError`].
    pub fn mail(&self, slot: u8) -> Result<Mail, SbdError> {
        Mail::decode(&self.read(self.header.mail_at(slot))?).map_err(|why| self.layout(why))
    }

    /// Empties the mailbox of a node.
    ///
    /// # Errors
    /// [`SbdError::Io`].
    pub fn clear(&self, slot: u8) -> Result<(), SbdError> {
        self.write(self.header.mail_at(slot), &vec![0; self.header.sector as usize])
    }

    /// Tells a node something. It stands on the disk when this returns.
    ///
    /// # Errors
    /// See [`SbdError`].
    pub fn send(&self, name: &str, mail: &Mail) -> Result<(), SbdError> {
        let missing = || SbdError::NoSlot { path: self.path.clone(), name: name.to_owned() };
        let slot = self.slot_of(name)?.ok_or_else(missing)?;
        let sector = mail.encode(self.header.sector).map_err(|why| self.layout(why))?;
        self.write(self.header.mail_at(slot), &sector)
    }

    fn read(&self, at: u64) -> Result<Vec<u8>, SbdError> {
        self.read_bytes(at, self.header.sector as usize)
    }

    fn read_bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, SbdError> {
        let (mut buffer, skip) = aligned(len);
        let bytes = buffer.get_mut(skip..skip + len).unwrap_or_default();
        self.file.read_exact_at(bytes, at).map_err(|error| self.io(&error))?;
        Ok(bytes.to_vec())
    }

    /// Writes a whole sector.
    fn write(&self, at: u64, what: &[u8]) -> Result<(), SbdError> {
        let len = self.header.sector as usize;
        let (mut buffer, skip) = aligned(len);
        let bytes = buffer.get_mut(skip..skip + len).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(what) {
            *to = *from;
        }
        self.file.write_all_at(bytes, at).map_err(|error| self.io(&error))?;
        self.file.sync_data().map_err(|error| self.io(&error))
    }

    fn io(&self, error: &io::Error) -> SbdError {
        SbdError::Io { path: self.path.clone(), why: error.to_string() }
    }

    fn layout(&self, why: LayoutError) -> SbdError {
        SbdError::Layout { path: self.path.clone(), why }
    }
}

fn open(path: &Path) -> Result<File, SbdError> {
    let wrong = |error: io::Error| SbdError::Io { path: path.to_owned(), why: error.to_string() };
    let kind = std::fs::metadata(path).map_err(wrong)?.file_type();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind.is_block_device() {
        // What another machine wrote is not in the cache of this one.
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::SYNC;
        options.custom_flags(flags.bits().cast_signed());
    }
    options.open(path).map_err(wrong)
}

/// A buffer with room for `len` bytes from the second value on, as aligned as any disk wants them.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let page = SECTOR_MAX as usize;
    let buffer = vec![0; len + page];
    let skip = buffer.as_ptr().align_offset(page).min(page);
    (buffer, skip)
}
