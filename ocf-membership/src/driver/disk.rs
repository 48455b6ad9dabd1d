//! The shared disk, or a file that stands for one.

use crate::disk::{DISK_BLOCK, DISK_SLOTS_MAX, DiskOutput, DiskRace};
use crate::{Ballot, Claim, Grant, TieBreaker, Verdict};
use core::time::Duration;
use pils::{NodeInstance, Rng};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// A disk (a partition, a loop device, a file on one) that all nodes reach: each has one block of 4096 bytes on it.
///
/// Blocks are read and written past the cache (`O_DIRECT`, `O_DSYNC`). Where a file system cannot do that, as some in
/// memory cannot, the file is on this machine alone anyway, and the cache is used. The disk must be all zeros at first:
/// [`format_disk`].
#[derive(Debug)]
pub struct SharedDisk {
    path: PathBuf,
    local: NodeInstance,
    slot: usize,
    slots: usize,
    timeout: Duration,
    rng: Rng,
}

impl SharedDisk {
    /// For the node `local`, whose block is `slot` of `slots`: for example its place among the sorted nodes of the
    /// cluster. A claim that takes longer than `timeout` is given up.
    ///
    /// # Errors
    /// The disk cannot be opened or is too small, or `slot` is not below `slots`, which are at most 64.
    pub fn open(
        path: &Path,
        local: NodeInstance,
        (slot, slots): (usize, usize),
        timeout: Duration,
        rng: Rng,
    ) -> io::Result<Self> {
        if slot >= slots || slots > DISK_SLOTS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the slot of this node is not on the disk",
            ));
        }
        let disk = Self { path: path.to_owned(), local, slot, slots, timeout, rng };
        disk.read_all(&disk.device()?)?;
        Ok(disk)
    }

    fn device(&self) -> io::Result<File> {
        let flags = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or(0);
        let open = |more: OFlags| {
            OpenOptions::new().read(true).write(true).custom_flags(flags(more)).open(&self.path)
        };
        match open(OFlags::DIRECT | OFlags::DSYNC) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::DSYNC),
            opened => opened,
        }
    }

    fn read_all(&self, device: &File) -> io::Result<Vec<Vec<u8>>> {
        let mut buffer = Aligned::new(self.slots * DISK_BLOCK);
        device.read_exact_at(buffer.bytes(), 0)?;
        Ok(buffer.bytes().chunks(DISK_BLOCK).map(<[u8]>::to_vec).collect())
    }

    fn write_own(&self, device: &File, block: &[u8]) -> io::Result<()> {
        let mut buffer = Aligned::new(DISK_BLOCK);
        buffer.bytes().copy_from_slice(block);
        device.write_all_at(buffer.bytes(), (self.slot * DISK_BLOCK) as u64)?;
        device.sync_data()
    }

    fn run(&self, race: &mut DiskRace) -> io::Result<Verdict> {
        let end = Instant::now() + self.timeout;
        let device = self.device()?;
        let mut todo = race.start();
        loop {
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the disk is too slow, or other nodes are at it",
                ));
            }
            todo = match todo {
                DiskOutput::Read => {
                    let blocks = self.read_all(&device)?;
                    race.read(&blocks.iter().map(Vec::as_slice).collect::<Vec<_>>())
                }
                DiskOutput::Write(block) => {
                    self.write_own(&device, &block)?;
                    race.written()
                }
                DiskOutput::Wait(millis) => {
                    thread::sleep(Duration::from_millis(millis));
                    race.waited()
                }
                DiskOutput::Finished(verdict) => return Ok(verdict),
            };
        }
    }
}

impl TieBreaker for SharedDisk {
    fn name(&self) -> String {
        format!("disk {}", self.path.display())
    }

    fn claim(&mut self, claim: &Claim) -> Verdict {
        let rng = Rng::new(self.rng.next_u64());
        let mut race = DiskRace::claim(self.slot, self.slots, claim.clone(), rng);
        self.run(&mut race).unwrap_or_else(|error| {
            tracing::warn!(disk = %self.path.display(), %error, "the shared disk cannot be asked");
            Verdict::Unavailable
        })
    }

    fn note(&mut self, view: &Grant) {
        // Distinct from any ballot: those begin with round 1.
        let by = Ballot { round: 0, proposer: self.local };
        let rng = Rng::new(self.rng.next_u64());
        if let Err(error) = self.run(&mut DiskRace::note(self.slot, self.slots, view.clone(), by, rng)) {
            tracing::warn!(disk = %self.path.display(), %error, "the shared disk could not be told of a view");
        }
    }
}

/// Fills the blocks of `slots` nodes with zeros. **Everything that the disk remembers is lost**: only while no node runs.
///
/// # Errors
/// Those of the disk.
pub fn format_disk(path: &Path, slots: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&vec![0; slots * DISK_BLOCK], 0)?;
    file.sync_all()
}

/// Memory that begins at a multiple of a block, as reads and writes past the cache need it.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize) -> Self {
        let memory = vec![0; size + DISK_BLOCK];
        let from = memory.as_ptr().align_offset(DISK_BLOCK).min(DISK_BLOCK);
        Self { memory, from, size }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.size]
    }
}
