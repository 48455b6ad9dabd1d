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
use rustix::thread::{CapabilitySet, capabilities};
use std::io;

/// Why memory was not locked, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The system lets this process lock only so much: what it asks for beyond that later would be refused, and it would end.
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
/// The system does not allow it, or not without a limit. Nothing is locked then.
pub fn lock() -> Result<u64, LockError> {
    let privileged = capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    let limit = getrlimit(Resource::Memlock).current;
    check_limit(limit, privileged)?;
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match mlockall(all) {
        Ok(()) => Ok(held()),
        // Root of a container seems to be above the limit, and is not.
        Err(Errno::NOMEM | Errno::PERM | Errno::AGAIN) => Err(LockError::Limit(limit.unwrap_or(u64::MAX))),
        Err(error) => Err(LockError::System(error.into())),
    }
}

/// A limit that is high enough for now is none for what a program needs later: it would get no memory, and end.
fn check_limit(limit: Option<u64>, privileged: bool) -> Result<(), LockError> {
    match limit {
        Some(limit) if !privileged => Err(LockError::Limit(limit)),
        _ => Ok(()),
    }
}

/// Bytes of this process that are locked; 0 if the system does not tell.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kb.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_any_height_is_refused_unless_the_process_is_above_it() {
        for limit in [0, 65_536, 1 << 40] {
            assert!(matches!(check_limit(Some(limit), false), Err(LockError::Limit(told)) if told == limit));
            assert!(check_limit(Some(limit), true).is_ok());
        }
        assert!(check_limit(None, false).is_ok());
    }
}
