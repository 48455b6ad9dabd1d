use super::sbd_disk::{SbdDisk, SbdError};
use super::watchdog::Watchdog;
use crate::sbd::{End, Keeper, KeeperConfig, KeeperInput, KeeperOutput};
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use pils::{Instant, Layer as _};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Why a node does not watch over itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfFencingError {
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] SbdError),
    /// The watchdog takes longer than those who fence this node believe.
    #[error("the watchdog takes {watchdog:?}, and the disks promise {promised:?}")]
    Slow {
        /// The watchdog's time.
        watchdog: Duration,
        /// What the headers of the disks say.
        promised: Duration,
    },
    /// The times of the disks do not fit together.
    #[error("{path}: reading every {every:?} is too seldom for a watchdog of {watchdog:?}", path = .path.display())]
    Times {
        /// Which disk.
        path: PathBuf,
        /// How often the disk is to be read.
        every: Duration,
        /// Its watchdog time.
        watchdog: Duration,
    },
    /// A thread cannot be started.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// A node that watches over itself: runs a [`Keeper`] with real disks and a watchdog, on threads of its own.
///
/// Dropped without [`SelfFencing::stop`] it goes on watching; without disks nobody can say any more that the node is well,
/// so the node ends.
#[derive(Debug)]
pub struct SelfFencing {
    tell: Sender<KeeperInput>,
    watched: Arc<Watched>,
    origin: std::time::Instant,
}

/// How long taking the watchdog away may take.
const AWAY: Duration = Duration::from_secs(5);

/// Whether the watchdog stands behind this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Not enough disks were read yet.
    Starting,
    Armed,
    /// The node has to end, or was let go.
    Over,
}

#[derive(Debug)]
struct Watched {
    stand: Mutex<Stand>,
    changed: Condvar,
}

impl Watched {
    fn set(&self, stand: Stand) {
        let mut now = self.stand.lock();
        // nothing comes after the end
        if *now != Stand::Over {
            *now = stand;
            self.changed.notify_all();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Job {
    Read,
    Clear,
}

impl SelfFencing {
    /// Takes the slots of `name`, reads them, and arms the watchdog when enough were read and hold no fencing command.
    ///
    /// `end` is called at most once, when the node has to end at once: it should do so ([`end_by_sysrq`]). Whatever it does,
    /// the watchdog is not kept quiet any more. Blocks for the disks' `allocate` time if a slot is new. Returns before the
    /// disks were read: start nothing that would have to be fenced before [`SelfFencing::wait_armed`] says so.
    ///
    /// # Errors
    /// See [`SelfFencingError`]; nothing is armed.
    pub fn start(
        name: &str,
        disks: &[PathBuf],
        watchdog: Box<dyn Watchdog>,
        end: impl FnOnce(End) + Send + 'static,
    ) -> Result<Self, SelfFencingError> {
        let mut promised = watchdog.timeout();
        let mut every = promised / 3;
        let mut opened = Vec::new();
        for (i, path) in disks.iter().enumerate() {
            let disk = SbdDisk::open(path)?;
            let of_disk = Duration::from_secs(disk.header().watchdog_s.into());
            let each = Duration::from_secs(disk.header().loop_s.into());
            if each.is_zero() || each * 3 > of_disk {
                let (path, every, watchdog) = (path.clone(), each, of_disk);
                return Err(SelfFencingError::Times { path, every, watchdog });
            }
            promised = if i == 0 { of_disk } else { promised.min(of_disk) };
            every = if i == 0 { each } else { every.min(each) };
            let slot = disk.allocate(name)?;
            opened.push((disk, slot));
        }
        if watchdog.timeout() > promised {
            return Err(SelfFencingError::Slow { watchdog: watchdog.timeout(), promised });
        }
        #[expect(clippy::disallowed_methods, reason = "this module is a driver: it owns a clock")]
        let origin = std::time::Instant::now();
        let keeper = Keeper::new(KeeperConfig { disks: disks.len(), watchdog: promised, every });
        let (tell, told) = channel();
        let mut jobs = Vec::new();
        for (place, (disk, slot)) in opened.into_iter().enumerate() {
            // One job under way and one that waits: a disk that hangs holds its own thread, and nothing else.
            let (give, given) = sync_channel(1);
            let tell = tell.clone();
            thread::Builder::new()
                .name("sbd-disk".to_owned())
                .spawn(move || serve(&disk, slot, place, &given, &tell))?;
            jobs.push(give);
        }
        let watched = Arc::new(Watched { stand: Mutex::new(Stand::Starting), changed: Condvar::new() });
        let watch = Watch { keeper, watchdog, jobs, end: Some(Box::new(end)), watched: Arc::clone(&watched) };
        thread::Builder::new().name("sbd-keeper".to_owned()).spawn(move || watch.run(origin, &told))?;
        Ok(Self { tell, watched, origin })
    }

    /// Waits until the watchdog stands behind this node, for `limit` at most. False if it does not by then, because too few
    /// disks can be read, or will not any more: `end` was called, or the watch was stopped.
    #[must_use]
    pub fn wait_armed(&self, limit: Duration) -> bool {
        let mut stand = self.watched.stand.lock();
        self.watched.changed.wait_while_for(&mut stand, |stand| *stand == Stand::Starting, limit);
        *stand == Stand::Armed
    }

    /// Says when this node was healthy and in the primary partition, or, with `None`, that it is not. To be repeated well within the
    /// watchdog time. The moment has to be from before that was found out: then nothing that holds up this thread makes it later.
    pub fn cluster(&self, well: Option<std::time::Instant>) {
        let well = well.map(|at| Instant::ZERO + at.saturating_duration_since(self.origin));
        // A keeper that is gone has ended the node, or was stopped.
        self.tell.send(KeeperInput::Cluster { well }).unwrap_or(());
    }

    /// Takes the watchdog away. Only if nothing runs here any more that would have to be fenced. Returns when it is away, or after
    /// five seconds.
    pub fn stop(self) {
        self.tell.send(KeeperInput::Stop).unwrap_or(());
        // A program that ends before this was done would leave the watchdog armed.
        let mut stand = self.watched.stand.lock();
        self.watched.changed.wait_while_for(&mut stand, |stand| *stand != Stand::Over, AWAY);
    }
}

/// Ends this machine at once, without writing anything back: `b`, or `o` for a message that says off. Needs root and a
/// kernel with sysrq; whatever comes of it, the watchdog is behind it.
pub fn end_by_sysrq(end: &End) {
    let off = matches!(end, End::Told(mail) if mail.command == crate::sbd::Command::Off);
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", if off { "o" } else { "b" }) {
        tracing::error!(%error, "cannot end this machine by sysrq: the watchdog has to");
    }
}

fn serve(disk: &SbdDisk, slot: u8, place: usize, jobs: &Receiver<Job>, tell: &Sender<KeeperInput>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Read => {
                let mail = disk.mail(slot).map_err(|error| tracing::warn!(%error, "own mailbox")).ok();
                if tell.send(KeeperInput::Read { disk: place, mail }).is_err() {
                    return;
                }
            }
            Job::Clear => {
                if let Err(error) = disk.clear(slot) {
                    tracing::warn!(%error, "own mailbox cannot be cleared");
                }
            }
        }
    }
}

struct Watch {
    keeper: Keeper,
    watchdog: Box<dyn Watchdog>,
    jobs: Vec<SyncSender<Job>>,
    end: Option<Box<dyn FnOnce(End) + Send>>,
    watched: Arc<Watched>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.set(Stand::Over);
    }
}

impl Watch {
    /// Until the keeper has nothing to wait for any more.
    fn run(mut self, origin: std::time::Instant, told: &Receiver<KeeperInput>) {
        let now = || Instant::ZERO + origin.elapsed();
        while let Some(at) = self.keeper.poll_timeout() {
            let left = at.as_nanos().saturating_sub(now().as_nanos());
            match told.recv_timeout(Duration::from_nanos(left)) {
                Ok(input) => self.keeper.handle(now(), input),
                // The disks' threads hold senders too: with none the timers go on.
                Err(RecvTimeoutError::Disconnected) if self.jobs.is_empty() => return,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.keeper.handle_timeout(now());
            while let Some(output) = self.keeper.poll_output() {
                if let Err(error) = self.carry_out(output) {
                    tracing::error!(%error, "the watchdog does not obey: it will end this node");
                }
            }
        }
    }

    fn carry_out(&mut self, output: KeeperOutput) -> io::Result<()> {
        match output {
            // A disk that is busy is not read again: what it says will be old, and that counts as silence.
            KeeperOutput::Read { disk } => self.give(disk, Job::Read),
            KeeperOutput::Clear { disk } => self.give(disk, Job::Clear),
            KeeperOutput::Arm => {
                if let Err(error) = self.watchdog.arm() {
                    self.end(End::NoWatchdog);
                    self.keeper.handle(Instant::ZERO, KeeperInput::Stop);
                    return Err(error);
                }
                self.watched.set(Stand::Armed);
            }
            KeeperOutput::Pet => return self.watchdog.pet(),
            KeeperOutput::Disarm => return self.watchdog.disarm(),
            KeeperOutput::End(why) => self.end(why),
        }
        Ok(())
    }

    fn end(&mut self, why: End) {
        self.watched.set(Stand::Over);
        tracing::error!(?why, "this node has to end");
        if let Some(end) = self.end.take() {
            end(why);
        }
    }

    fn give(&self, disk: usize, job: Job) {
        if let Some(jobs) = self.jobs.get(disk) {
            jobs.try_send(job).unwrap_or(());
        }
    }
}
