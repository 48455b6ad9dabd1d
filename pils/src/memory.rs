//! Memory that is never paged out: a program that has to answer within milliseconds while its machine is short of memory. A driver.
//!
//! ```no_run
//! let held = pils::memory::lock()?;
//! println!("{held} bytes are held");
//! # Ok::<(), pils::memory::LockError>(())
//! ```

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use std::io;

/// Why memory was not locked, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The system lets this process lock less than it has.
    #[error(
        "memory cannot be locked: this process may lock {0} bytes; raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity of a systemd unit), or give it CAP_IPC_LOCK"
    )]
    Limit(u64),
    /// The system refuses for another reason.
    #[error("memory cannot be locked: {0}")]
    System(#[source] io::Error),
}

/// Keeps all memory of this process in RAM, what it has and what it will have, from the moment it is first used; tells how much that is now,
/// in bytes. It stays so until the process ends or becomes another program; programs that it starts are not locked. Further calls change
/// nothing. Costs a walk over the pages that are there; memory that is never used costs none.
///
/// # Errors
/// The system does not allow it. Nothing is locked then.
pub fn lock() -> Result<u64, LockError> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match mlockall(all) {
        Ok(()) => Ok(held()),
        Err(Errno::NOMEM | Errno::PERM | Errno::AGAIN) => {
            Err(LockError::Limit(getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)))
        }
        Err(error) => Err(LockError::System(error.into())),
    }
}

/// Bytes of this process that are locked; 0 if the system does not tell.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kb.unwrap_or(0).saturating_mul(1024)
}
