use core::fmt;
use core::time::Duration;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

/// Something that ends this node unless it hears from it in time. Object-safe.
pub trait Watchdog: Send + fmt::Debug {
    /// It ends the node after this long without [`Watchdog::pet`].
    fn timeout(&self) -> Duration;

    /// Arms it. From here on silence ends the node.
    ///
    /// # Errors
    /// If it cannot be armed; it is not.
    fn arm(&mut self) -> io::Result<()>;

    /// Says that the node may live.
    ///
    /// # Errors
    /// If it did not hear: it will end the node.
    fn pet(&mut self) -> io::Result<()>;

    /// Takes it away.
    ///
    /// # Errors
    /// If it cannot be taken away: it will end the node.
    fn disarm(&mut self) -> io::Result<()>;
}

/// A watchdog of the kernel: `/dev/watchdog0` and its like.
///
/// Opening it arms it, so it is opened last; closing it without the magic `V` leaves it armed. Its time is the one that the
/// driver has (a module parameter): a program that shortens it needs system calls this crate does not make.
///
/// With [`KernelWatchdog::marked`] it is armed by one program in each boot: after one that ended without disarming it nobody keeps it
/// quiet again, so that whoever counts on that end of the machine is not deceived by a successor.
#[derive(Debug)]
pub struct KernelWatchdog {
    path: PathBuf,
    timeout: Duration,
    nowayout: bool,
    file: Option<File>,
    mark: Option<Mark>,
}

/// A file that says in which boot of the machine a watchdog was armed and not disarmed.
#[derive(Debug)]
struct Mark {
    file: PathBuf,
    boot: PathBuf,
}

impl Mark {
    /// Says that the watchdog is armed from now on.
    fn set(&self) -> io::Result<()> {
        let boot = fs::read(&self.boot)?;
        match fs::read(&self.file) {
            Ok(marked) if marked == boot => {
                let why = format!(
                    "{} says that a program armed it in this boot and ended without taking it away: it ends this machine",
                    self.file.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.file, boot)
    }
}

impl KernelWatchdog {
    /// The watchdog of this device file, such as `/dev/watchdog0`. Does not arm it.
    ///
    /// # Errors
    /// If the kernel does not know it.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let name = path.as_ref().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = if name == "watchdog" { "watchdog0".to_owned() } else { name };
        Self::with_class(path, Path::new("/sys/class/watchdog").join(name))
    }

    /// The same, with the directory where the kernel tells about it.
    ///
    /// # Errors
    /// If the directory does not say what its time is.
    pub fn with_class(path: impl AsRef<Path>, class: impl AsRef<Path>) -> io::Result<Self> {
        let read = |name: &str| fs::read_to_string(class.as_ref().join(name));
        let seconds = read("timeout")?.trim().parse().map_err(|_number| {
            io::Error::new(io::ErrorKind::InvalidData, "the kernel does not tell the time of the watchdog")
        })?;
        let nowayout = read("nowayout").is_ok_and(|text| text.trim() == "1");
        let timeout = Duration::from_secs(seconds);
        Ok(Self { path: path.as_ref().to_owned(), timeout, nowayout, file: None, mark: None })
    }

    /// Is armed only if no program of this boot has armed it and not disarmed it: a file in `/run/ocf` says so.
    #[must_use]
    pub fn marked(self) -> Self {
        let name = self.path.to_string_lossy().replace('/', "-");
        let file = Path::new("/run/ocf").join(format!("armed{name}"));
        self.with_mark(file, "/proc/sys/kernel/random/boot_id")
    }

    /// The same, with the file, and the one in which the kernel names this boot.
    #[must_use]
    pub fn with_mark(mut self, file: impl Into<PathBuf>, boot: impl Into<PathBuf>) -> Self {
        self.mark = Some(Mark { file: file.into(), boot: boot.into() });
        self
    }
}

impl Watchdog for KernelWatchdog {
    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn arm(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        // Before it is armed: a program that ends between the two keeps its successor from starting, and deceives nobody.
        self.mark.as_ref().map_or(Ok(()), Mark::set)?;
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                self.mark.as_ref().map_or(Ok(()), |mark| fs::remove_file(&mark.file))?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn pet(&mut self) -> io::Result<()> {
        self.file.as_mut().ok_or(io::ErrorKind::NotConnected)?.write_all(b"\0")
    }

    fn disarm(&mut self) -> io::Result<()> {
        if self.nowayout && self.file.is_some() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "nowayout: it stays armed"));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        // If that cannot be said it stays armed, and open.
        file.write_all(b"V")?;
        self.file = None;
        self.mark.as_ref().map_or(Ok(()), |mark| fs::remove_file(&mark.file))
    }
}

/// A watchdog that ends no node, but calls a function: for tests and first runs.
pub struct SimulatedWatchdog {
    timeout: Duration,
    bite: Option<Box<dyn FnOnce() + Send>>,
    heard: Option<Sender<Word>>,
}

enum Word {
    Alive,
    Away,
}

impl SimulatedWatchdog {
    /// Calls `bite`, once, if it is armed and hears nothing for `timeout`, or the program drops it without disarming it.
    pub fn new(timeout: Duration, bite: impl FnOnce() + Send + 'static) -> Self {
        Self { timeout, bite: Some(Box::new(bite)), heard: None }
    }
}

impl fmt::Debug for SimulatedWatchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedWatchdog").field("armed", &self.heard.is_some()).finish_non_exhaustive()
    }
}

impl Watchdog for SimulatedWatchdog {
    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn arm(&mut self) -> io::Result<()> {
        let Some(bite) = self.bite.take() else { return Ok(()) };
        let (tell, told) = channel();
        let timeout = self.timeout;
        let watch = move || {
            loop {
                match told.recv_timeout(timeout) {
                    Ok(Word::Alive) => {}
                    Ok(Word::Away) => return,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return bite(),
                }
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        self.heard = Some(tell);
        Ok(())
    }

    fn pet(&mut self) -> io::Result<()> {
        let heard = self.heard.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        heard.send(Word::Alive).map_err(|_gone| io::ErrorKind::BrokenPipe.into())
    }

    fn disarm(&mut self) -> io::Result<()> {
        match self.heard.take() {
            Some(heard) => heard.send(Word::Away).map_err(|_gone| io::ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }
}
