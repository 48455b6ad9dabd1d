//! Poison pill over shared storage: the layout of `sbd` (version 2.1) and the core of the node that may have to take it.
//!
//! Sector 0 is the header; slot `i` says at sector 1 + 2i whose it is, and at sector 2 + 2i what that node is told. A node
//! reads its own slot all the time ([`Keeper`]) and a hardware watchdog ends it if it no longer can; so a message counts
//! as delivered once `msgwait` is over.
//!
//! ```
//! use ocf_stonith::sbd::{Command, Header, Mail};
//! let header = Header { uuid: [7; 16], ..Header::default() };
//! assert_eq!(Header::decode(&header.encode())?, header);
//! let mail = Mail { command: Command::Reset, from: "node-1".into() };
//! assert_eq!(Mail::decode(&mail.encode(512)?)?, mail);
//! # Ok::<(), ocf_stonith::sbd::LayoutError>(())
//! ```

mod keeper;

pub use keeper::{End, Keeper, KeeperConfig, KeeperInput, KeeperOutput};

use core::fmt;
use serde::Serialize;

/// The longest name of a node, in bytes.
pub const NAME_MAX: usize = 63;
/// The largest sector that is understood, in bytes.
pub const SECTOR_MAX: u32 = 4096;
const MAGIC: &[u8; 8] = b"SBD_SBD_";
const VERSION: u8 = 2;
const MINOR: u8 = 1;

/// Why bytes of a disk are not understood, or cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Fewer bytes than a sector.
    #[error("{0} bytes are no sector")]
    Short(usize),
    /// No header of `sbd`.
    #[error("the disk has no header: create one first")]
    NoHeader,
    /// A version that is not understood.
    #[error("version {0} of the header is not understood")]
    Version(u8),
    /// A sector size that no disk has.
    #[error("a sector size of {0} bytes is not possible")]
    Sector(u32),
    /// A command that is not understood.
    #[error("command {0} is not understood")]
    Command(u8),
    /// A name that is empty, longer than [`NAME_MAX`], or has other characters than printable ASCII.
    #[error("{0:?} cannot be the name of a node")]
    Name(String),
}

/// What stands in sector 0. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Places for nodes.
    pub slots: u8,
    /// Bytes of a sector.
    pub sector: u32,
    /// In this time without its disks a node ends.
    pub watchdog_s: u32,
    /// How long a node waits after it took a slot before it looks whether it still has it.
    pub allocate_s: u32,
    /// How often a node reads its slot.
    pub loop_s: u32,
    /// After this time a message was taken, or its receiver has ended.
    pub msgwait_s: u32,
    /// Tells disks apart.
    pub uuid: [u8; 16],
}

impl Default for Header {
    /// 255 slots, sectors of 512 bytes, watchdog 5 s, allocate 2 s, loop 1 s, msgwait 10 s.
    fn default() -> Self {
        Self {
            slots: 255,
            sector: 512,
            watchdog_s: 5,
            allocate_s: 2,
            loop_s: 1,
            msgwait_s: 10,
            uuid: [0; 16],
        }
    }
}

impl Header {
    /// The bytes of sector 0, up to the first that is not used.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([VERSION, self.slots, 0, 0]);
        let numbers = [self.sector, self.watchdog_s, self.allocate_s, self.loop_s, self.msgwait_s];
        bytes.extend(numbers.into_iter().flat_map(u32::to_be_bytes));
        bytes.push(MINOR);
        bytes.extend(self.uuid);
        bytes
    }

    /// Reads sector 0.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let short = || LayoutError::Short(bytes.len());
        if bytes.get(..8).ok_or_else(short)? != MAGIC {
            return Err(LayoutError::NoHeader);
        }
        let byte = |at: usize| bytes.get(at).copied().ok_or_else(short);
        let number = |at: usize| {
            let four = bytes.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
            four.map(u32::from_be_bytes).ok_or_else(short)
        };
        if byte(8)? != VERSION {
            return Err(LayoutError::Version(byte(8)?));
        }
        let sector = number(12)?;
        if !sector.is_power_of_two() || !(512..=SECTOR_MAX).contains(&sector) {
            return Err(LayoutError::Sector(sector));
        }
        let uuid = bytes.get(33..49).and_then(|b| <[u8; 16]>::try_from(b).ok()).ok_or_else(short)?;
        Ok(Self {
            slots: byte(9)?,
            sector,
            watchdog_s: number(16)?,
            allocate_s: number(20)?,
            loop_s: number(24)?,
            msgwait_s: number(28)?,
            uuid,
        })
    }

    /// Where the name of the node of a slot stands, in bytes.
    #[must_use]
    pub const fn slot_at(&self, slot: u8) -> u64 {
        (1 + 2 * slot as u64) * self.sector as u64
    }

    /// Where the message to the node of a slot stands, in bytes.
    #[must_use]
    pub const fn mail_at(&self, slot: u8) -> u64 {
        (2 + 2 * slot as u64) * self.sector as u64
    }

    /// Bytes that a disk needs at least.
    #[must_use]
    pub const fn size(&self) -> u64 {
        (1 + 2 * self.slots as u64) * self.sector as u64
    }
}

/// What a node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Nothing.
    Clear,
    /// To clear its slot and say so in its log.
    Test,
    /// To reset at once.
    Reset,
    /// To switch off at once.
    Off,
    /// To stop watching in an orderly way.
    Exit,
    /// To write a crash dump, and so end.
    CrashDump,
}

impl Command {
    /// True if the node that reads it ends.
    #[must_use]
    pub const fn is_fencing(self) -> bool {
        matches!(self, Self::Reset | Self::Off | Self::CrashDump)
    }

    const fn raw(self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Test => 1,
            Self::Reset => 2,
            Self::Off => 3,
            Self::Exit => 4,
            Self::CrashDump => 5,
        }
    }

    const fn from_raw(raw: u8) -> Result<Self, LayoutError> {
        Ok(match raw {
            0 => Self::Clear,
            1 => Self::Test,
            2 => Self::Reset,
            3 => Self::Off,
            4 => Self::Exit,
            5 => Self::CrashDump,
            other => return Err(LayoutError::Command(other)),
        })
    }
}

impl fmt::Display for Command {
    /// The word that `sbd` uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear => "clear",
            Self::Test => "test",
            Self::Reset => "reset",
            Self::Off => "off",
            Self::Exit => "exit",
            Self::CrashDump => "crashdump",
        })
    }
}

/// The sector of a slot: whose it is; `None` if nobody's.
///
/// # Errors
/// See [`LayoutError`].
pub fn decode_slot(bytes: &[u8]) -> Result<Option<String>, LayoutError> {
    match bytes.first() {
        None => Err(LayoutError::Short(0)),
        Some(0) => Ok(None),
        Some(_) => name_in(bytes).map(Some),
    }
}

/// The sector of a slot of the node `name`.
///
/// # Errors
/// [`LayoutError::Name`].
pub fn encode_slot(name: &str, sector: u32) -> Result<Vec<u8>, LayoutError> {
    check_name(name)?;
    Ok(record(1, name, sector))
}

/// A message to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mail {
    /// What it is told.
    pub command: Command,
    /// Who tells it; empty if nobody says.
    pub from: String,
}

impl Mail {
    /// The sector of a message.
    ///
    /// # Errors
    /// [`LayoutError::Name`].
    pub fn encode(&self, sector: u32) -> Result<Vec<u8>, LayoutError> {
        if !self.from.is_empty() {
            check_name(&self.from)?;
        }
        Ok(record(self.command.raw(), &self.from, sector))
    }

    /// Reads the sector of a message.
    ///
    /// # Errors
    /// See [`LayoutError`]. A command that is not understood is an error: its node must take it for the worst.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let raw = bytes.first().copied().ok_or(LayoutError::Short(0))?;
        let from = if bytes.get(1) == Some(&0) { String::new() } else { name_in(bytes)? };
        Ok(Self { command: Command::from_raw(raw)?, from })
    }
}

fn record(first: u8, name: &str, sector: u32) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(name.bytes());
    bytes.resize(sector as usize, 0);
    bytes
}

fn name_in(bytes: &[u8]) -> Result<String, LayoutError> {
    let field = bytes.get(1..=NAME_MAX + 1).ok_or(LayoutError::Short(bytes.len()))?;
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let name = String::from_utf8_lossy(field.get(..end).unwrap_or(field)).into_owned();
    check_name(&name).map(|()| name)
}

fn check_name(name: &str) -> Result<(), LayoutError> {
    let fits = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(()) } else { Err(LayoutError::Name(name.chars().take(NAME_MAX).collect())) }
}

/// True if `ok` of `disks` disks are enough: more than half of three, one of one or two.
///
/// For reading one's own slot: the loss of one of two disks must not end a node.
#[must_use]
pub const fn enough_to_live(ok: usize, disks: usize) -> bool {
    ok > 0 && ok * 2 >= disks
}

/// True if a message that stands on `ok` of `disks` disks reaches its node for sure: more than half of them.
///
/// With two disks both: the receiver may live on the one that did not get it.
#[must_use]
pub const fn enough_to_fence(ok: usize, disks: usize) -> bool {
    ok * 2 > disks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `sbd -d DISK create` of Debian writes, as a dump shows it.
    const CREATED: [u8; 49] = [
        0x53, 0x42, 0x44, 0x5f, 0x53, 0x42, 0x44, 0x5f, 2, 0xff, 0, 0, 0, 0, 2, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0,
        0, 0, 1, 0, 0, 0, 10, 1, 0x1e, 0x70, 0xef, 0xc1, 0x6a, 0x9d, 0x43, 0xe1, 0xbd, 0x1b, 0x4a, 0x1e,
        0x2a, 0x2d, 0x36, 0x3c,
    ];

    #[test]
    fn the_header_of_the_distribution_is_understood_and_written_alike() {
        let header = Header::decode(&CREATED).unwrap();
        assert_eq!(header, Header { uuid: header.uuid, ..Header::default() });
        assert_eq!(header.encode(), CREATED);
        assert_eq!((header.slot_at(1), header.mail_at(1), header.size()), (0x600, 0x800, 511 * 512));
    }

    #[test]
    fn what_is_no_header_says_so() {
        assert_eq!(Header::decode(&[0; 512]), Err(LayoutError::NoHeader));
        let mut wrong = CREATED;
        wrong[8] = 3;
        assert_eq!(Header::decode(&wrong), Err(LayoutError::Version(3)));
        let mut wrong = CREATED;
        wrong[14] = 3;
        assert_eq!(Header::decode(&wrong), Err(LayoutError::Sector(0x300)));
        assert_eq!(Header::decode(&CREATED[..40]), Err(LayoutError::Short(40)));
        assert_eq!(Mail::decode(&[9; 70]), Err(LayoutError::Name("\t".repeat(63))));
    }

    #[test]
    fn two_disks_let_a_node_live_with_one_and_fence_with_both() {
        let live: Vec<_> =
            [(1, 1), (1, 2), (1, 3), (2, 3), (0, 1)].map(|(a, b)| enough_to_live(a, b)).to_vec();
        assert_eq!(live, [true, true, false, true, false]);
        let fence: Vec<_> =
            [(1, 1), (1, 2), (2, 2), (1, 3), (2, 3)].map(|(a, b)| enough_to_fence(a, b)).to_vec();
        assert_eq!(fence, [true, false, true, false, true]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop((Header::decode(&bytes), Mail::decode(&bytes), decode_slot(&bytes)));
        }

        #[test]
        fn what_is_written_is_read(name in "[!-~]{1,63}", raw in 0_u8..6) {
            let mail = Mail { command: Command::from_raw(raw).unwrap(), from: name.clone() };
            prop_assert_eq!(Mail::decode(&mail.encode(512).unwrap()), Ok(mail));
            prop_assert_eq!(decode_slot(&encode_slot(&name, 512).unwrap()), Ok(Some(name)));
        }
    }
}
