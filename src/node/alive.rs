//! A node that watches over itself: what it tells its watchdog, and when it is let go.

use super::host::Command;
use crate::config::SelfFencingEntry;
use core::time::Duration;
use ocf_comm::driver::Remote;
use ocf_stonith::driver::{SelfFencing, Watchdog};
use ocf_stonith::sbd::End;
use parking_lot::Mutex;
use std::sync::Arc;
use std::{fmt, io, thread};

/// Good words that a watchdog hears in its time, so that a few may be late.
const WORDS: u32 = 6;

/// What ends this machine.
pub(super) type Ender = Box<dyn FnOnce(&End) + Send>;

/// The watchdog that stands behind this node.
pub(super) struct Alive {
    watching: Mutex<Option<SelfFencing>>,
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alive").field("armed", &self.watching.lock().is_some()).finish()
    }
}

/// Why nothing stands behind the node, so that it does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotArmedError {
    /// The watchdog or a disk cannot be used.
    #[error(transparent)]
    Setup(#[from] ocf_stonith::driver::SelfFencingError),
    /// The kernel does not know the watchdog.
    #[error("{path}: {reason}; load its driver (such as softdog), or name another one", path = .path.display())]
    NoWatchdog {
        /// The watchdog.
        path: std::path::PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// The watchdog cannot be armed.
    #[error(
        "the watchdog cannot be armed: another program holds it, or one armed it in this boot and ended without taking it away, \
         so that it ends this machine"
    )]
    Refused,
    /// The watchdog would end a node that is well.
    #[error(
        "a watchdog of {watchdog:?} is too fast for a lease of {lease:?}: choose one of {lease:?} or more"
    )]
    Fast {
        /// Its time.
        watchdog: Duration,
        /// How long a member may act without having heard of the others.
        lease: Duration,
    },
    /// Somebody ordered this node to end before it started.
    #[error(
        "{from} ordered this node to end: find out why, then clear its mailbox (sbd -d DISK message {name} clear)"
    )]
    Ordered {
        /// Who.
        from: String,
        /// The node's name on the disk.
        name: String,
    },
    /// Too few disks were read in time.
    #[error("too few of the {disks} disks can be read within {within:?}")]
    Silent {
        /// How many there are.
        disks: usize,
        /// How long it was tried.
        within: Duration,
    },
}

impl Alive {
    /// Arms the watchdog of a node that runs nothing yet. Returns once it stands behind it.
    pub(super) fn arm(
        entry: &SelfFencingEntry,
        name: &str,
        watchdog: Box<dyn Watchdog>,
        ender: Ender,
    ) -> Result<Self, NotArmedError> {
        let why: Arc<Mutex<Option<End>>> = Arc::default();
        let told = Arc::clone(&why);
        let end = move |end: End| match end {
            End::NoWatchdog | End::Unclean(_) => *told.lock() = Some(end),
            End::Told(_) | End::Alone => ender(&end),
        };
        let watching = SelfFencing::start(name, &entry.disks, watchdog, end)?;
        watching.cluster(Some(std::time::Instant::now()));
        if watching.wait_armed(entry.arm_timeout()) {
            return Ok(Self { watching: Mutex::new(Some(watching)) });
        }
        watching.stop();
        Err(match why.lock().take() {
            Some(End::Unclean(mail)) => {
                NotArmedError::Ordered { from: mail.from.clone(), name: name.to_owned() }
            }
            Some(End::NoWatchdog | End::Told(_) | End::Alone) => NotArmedError::Refused,
            None => NotArmedError::Silent { disks: entry.disks.len(), within: entry.arm_timeout() },
        })
    }

    /// Says that the node is well, if it is: `well` is asked after the moment for which that counts was read.
    pub(super) fn say(&self, well: impl FnOnce() -> bool) {
        let at = std::time::Instant::now();
        if let Some(watching) = self.watching.lock().as_ref().filter(|_| well()) {
            watching.cluster(Some(at));
        }
    }

    /// Takes the watchdog away: nothing runs here any more. Returns once that is done.
    pub(super) fn let_go(&self) {
        if let Some(watching) = self.watching.lock().take() {
            watching.stop();
        }
    }
}

/// Has the node's own thread say again and again that it is well, for a watchdog of this time: until the node has stopped.
pub(super) fn beat(every: Duration, remote: Remote<Command>) -> io::Result<()> {
    let pause = every / WORDS;
    let say = move || {
        while remote.post(Command::Alive).is_ok() {
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("ocf-alive".to_owned()).spawn(say).map(drop)
}
