//! An agent for file systems that go from node to node, without any program.

mod mounts;
mod users;

use super::InProcess;
use crate::{Action, Metadata, OcfCode, Operation, Parameter, SupportedAction};
use core::time::Duration;
use mounts::{Mount, Options};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io, thread};

/// Between two attempts to take a busy file system away.
const PAUSE: Duration = Duration::from_millis(100);
/// Of the time for a stop, the part after which processes that were asked to end are killed: one in so many.
const ASK: u32 = 3;
/// Kept of the time for a stop, to answer in.
const MARGIN: Duration = Duration::from_millis(500);

type Failure = (OcfCode, String);

/// A file system as a resource: mounted where it starts, taken away where it stops.
///
/// For what the kernel mounts by itself: disks, `tmpfs`, folders (`bind`). Types that have a program of their own, such as NFS, are
/// refused: `ocf:heartbeat:Filesystem` runs it. Nothing is repaired before it is mounted. Needs root, or `CAP_SYS_ADMIN`.
///
/// A monitor finds out whether it is mounted, and can still be written if it could; from depth 10 on, whether the folder can be
/// read; from depth 20 on, whether a file can be written and read back. One that hangs runs into its timeout.
///
/// | parameter | |
/// |---|---|
/// | `device` | what is mounted: a device, a folder, `UUID=` or `LABEL=`; required |
/// | `directory` | where: an absolute path; required; made if it is missing |
/// | `fstype` | its type; default `auto`, every type of disks that the kernel has at that moment |
/// | `options` | as in `fstab`, separated by commas |
/// | `force_unmount` | end the processes that use it when it stops, first by `SIGTERM`; default `true` |
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

/// The parameters, read.
struct Wanted {
    device: PathBuf,
    directory: PathBuf,
    fstype: Option<String>,
    options: Options,
    force: bool,
}

fn wrong(name: &str, why: &str) -> Failure {
    (OcfCode::Configured, format!("parameter {name} {why}"))
}

impl Wanted {
    fn read(parameters: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let given = |name: &str| parameters.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let device = given("device").ok_or_else(|| wrong("device", "is missing"))?;
        let directory = Path::new(given("directory").ok_or_else(|| wrong("directory", "is missing"))?);
        let odd = |path: &Path| path.components().any(|part| part.as_os_str() == "..");
        if !directory.is_absolute() || odd(directory) || directory.parent().is_none() {
            return Err(wrong("directory", "is no absolute path of a folder below the root"));
        }
        let fstype = given("fstype").filter(|kind| *kind != "auto").map(str::to_owned);
        if let Some(kind) = &fstype
            && let Some(program) = mounts::helper(kind)
        {
            let why = format!("is {kind}, which {} mounts: use ocf:heartbeat:Filesystem", program.display());
            return Err(wrong("fstype", &why));
        }
        let options =
            Options::read(given("options").unwrap_or_default()).map_err(|why| wrong("options", &why))?;
        let force = match given("force_unmount").unwrap_or("true") {
            "true" | "yes" | "on" | "1" => true,
            "false" | "no" | "off" | "0" => false,
            _ => return Err(wrong("force_unmount", "is neither true nor false")),
        };
        // The kernel tells of folders without links in their paths.
        let directory = fs::canonicalize(directory).unwrap_or_else(|_missing| directory.to_owned());
        Ok(Self { device: mounts::device(device), directory, fstype, options, force })
    }

    /// Checks what only this node can tell.
    fn check(&self) -> Result<(), Failure> {
        let Self { device, directory, .. } = self;
        if device.is_absolute()
            && let Err(error) = fs::metadata(device)
        {
            return Err((OcfCode::NotInstalled, format!("{}: {error}", device.display())));
        }
        match fs::metadata(directory) {
            Ok(meta) if !meta.is_dir() => {
                Err((OcfCode::NotInstalled, format!("{} is no folder", directory.display())))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err((OcfCode::NotInstalled, format!("{}: {error}", directory.display())))
            }
            _ => Ok(()),
        }
    }

    /// What is mounted at the directory, the topmost last.
    fn mounts(&self) -> Result<Vec<Mount>, Failure> {
        mounts::at(&self.directory)
            .map_err(|error| (OcfCode::Generic, format!("mounts of this node: {error}")))
    }

    /// The topmost mount at the directory, if it is this resource.
    fn found(&self) -> Result<Option<Mount>, Failure> {
        Ok(self.mounts()?.pop().filter(|top| self.is_it(top)))
    }

    fn is_it(&self, top: &Mount) -> bool {
        let device = fs::metadata(&self.device).ok();
        if self.options.flags.contains(MsFlags::MS_BIND) {
            let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            let here = fs::metadata(&self.directory).ok();
            return device.zip(here).is_some_and(|(device, here)| same(&device, &here));
        }
        let kind = self.fstype.as_deref().is_none_or(|kind| kind == top.fstype);
        let disk = device.filter(|meta| meta.file_type().is_block_device());
        let by_number = disk.is_some_and(|meta| top.device == (major(meta.rdev()), minor(meta.rdev())));
        kind && (by_number || Path::new(&top.source) == self.device)
    }
}

const fn major(device: u64) -> u64 {
    (device >> 8 & 0xfff) | (device >> 32 & !0xfff)
}

const fn minor(device: u64) -> u64 {
    (device & 0xff) | (device >> 12 & !0xff)
}

impl InProcess for FileSystem {
    fn operate(&self, operation: &Operation) -> Result<String, Failure> {
        let wanted = Wanted::read(&operation.parameters)?;
        match operation.action {
            Action::Start => start(&wanted),
            Action::Stop => stop(&wanted, operation.timeout),
            Action::Monitor => monitor(&wanted, operation),
            Action::ValidateAll => wanted.check().map(|()| String::new()),
            Action::MetaData => Ok(String::new()),
            other @ (Action::Promote
            | Action::Demote
            | Action::Notify
            | Action::MigrateTo
            | Action::MigrateFrom
            | Action::Reload
            | Action::ReloadAgent) => Err((OcfCode::Unimplemented, format!("there is no {other}"))),
        }
    }

    fn metadata(&self) -> Metadata {
        let parameter = |name: &str, kind: &str, default: Option<&str>, summary: &str| Parameter {
            name: name.to_owned(),
            kind: kind.to_owned(),
            default: default.map(str::to_owned),
            required: ["device", "directory"].contains(&name),
            summary: summary.to_owned(),
            ..Parameter::default()
        };
        let directory = parameter("directory", "string", None, "where it is mounted: an absolute path");
        let action = |name: &str, seconds: u64| SupportedAction {
            name: name.to_owned(),
            timeout: Some(Duration::from_secs(seconds)),
            ..SupportedAction::default()
        };
        let every = |depth: u32, seconds: u64| SupportedAction {
            interval: Some(Duration::from_secs(seconds)),
            depth: Some(depth),
            ..action("monitor", 40)
        };
        Metadata {
            name: "filesystem".to_owned(),
            api_version: Some("1.1".to_owned()),
            summary: "a file system that goes from node to node".to_owned(),
            description: "Mounts what the kernel mounts by itself, and takes it away with those who use it."
                .to_owned(),
            parameters: vec![
                parameter("device", "string", None, "what is mounted: a device, a folder, UUID= or LABEL="),
                Parameter { unique: Some("directory".to_owned()), ..directory },
                parameter("fstype", "string", Some("auto"), "its type"),
                parameter("options", "string", None, "as in fstab, separated by commas"),
                parameter(
                    "force_unmount",
                    "boolean",
                    Some("true"),
                    "end the processes that use it when it stops",
                ),
            ],
            actions: vec![
                action("start", 60),
                action("stop", 60),
                every(0, 20),
                every(10, 60),
                every(20, 120),
                action("validate-all", 5),
            ],
            ..Metadata::default()
        }
    }
}

fn start(wanted: &Wanted) -> Result<String, Failure> {
    if let Some(there) = wanted.found()? {
        return Ok(there.to_string());
    }
    wanted.check()?;
    let Wanted { device, directory, options, .. } = wanted;
    if let Some(other) = wanted.mounts()?.pop() {
        return Err((OcfCode::Generic, format!("{} is in the way: {other}", directory.display())));
    }
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let attach =
        |fstype: Option<&str>, flags, data: Option<&str>| mount(Some(device), directory, fstype, flags, data);
    if options.flags.contains(MsFlags::MS_BIND) {
        let kept = MsFlags::MS_BIND | MsFlags::MS_REC;
        attach(None, options.flags & kept, None).map_err(|error| failed(device, error.into()))?;
        // The first call looks at nothing but these two.
        if !(options.flags - kept).is_empty()
            && let Err(error) = attach(None, options.flags | MsFlags::MS_REMOUNT, None)
        {
            umount2(directory, MntFlags::UMOUNT_NOFOLLOW).unwrap_or_default();
            return Err(failed(directory, error.into()));
        }
    } else {
        let kinds = wanted.fstype.clone().map_or_else(mounts::kinds, |kind| vec![kind]);
        let mut last = Errno::ENODEV;
        let mut tries = kinds.iter().map(|kind| attach(Some(kind), options.flags, options.data()));
        // Not of this type: the next one.
        let done = tries.find_map(|tried| match tried {
            Ok(()) => Some(Ok(())),
            Err(error @ (Errno::EINVAL | Errno::ENODEV)) => {
                last = error;
                None
            }
            Err(error) => Some(Err(error)),
        });
        done.unwrap_or(Err(last)).map_err(|error| failed(device, error.into()))?;
    }
    match wanted.found()? {
        Some(there) => Ok(there.to_string()),
        None => Err((OcfCode::Generic, format!("{} was mounted, and is not there", device.display()))),
    }
}

fn failed(path: &Path, error: io::Error) -> Failure {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let code = if denied { OcfCode::Permission } else { OcfCode::Generic };
    (code, format!("{}: {error}", path.display()))
}

fn stop(wanted: &Wanted, timeout: Duration) -> Result<String, Failure> {
    let directory = &wanted.directory;
    let began = Instant::now();
    let mut ended = 0;
    loop {
        let mounts = wanted.mounts()?;
        let Some(top) = mounts.last() else { return Ok(format!("{ended} processes were told to end")) };
        if !wanted.is_it(top) {
            if mounts
                .iter()
                .any(|below| wanted.is_it(below) && below.source == wanted.device.to_string_lossy())
            {
                return Err((OcfCode::Generic, format!("it is covered by another one: {top}")));
            }
            return Ok(format!("something else is there: {top}"));
        }
        match umount2(directory, MntFlags::UMOUNT_NOFOLLOW) {
            // Gone, or gone meanwhile. It may have been mounted twice.
            Ok(()) | Err(Errno::EINVAL) => continue,
            Err(Errno::EBUSY) => {}
            Err(error) => return Err(failed(directory, error.into())),
        }
        if began.elapsed() + MARGIN >= timeout {
            return Err((OcfCode::Generic, format!("{} is in use", directory.display())));
        }
        if wanted.force {
            ended += users::end(directory, began.elapsed() > timeout / ASK);
        }
        thread::sleep(PAUSE);
    }
}

fn monitor(wanted: &Wanted, operation: &Operation) -> Result<String, Failure> {
    let directory = &wanted.directory;
    let Some(there) = wanted.found()? else {
        return Err((OcfCode::NotRunning, format!("{} is not mounted", directory.display())));
    };
    let read_only = wanted.options.flags.contains(MsFlags::MS_RDONLY);
    if there.read_only && !read_only {
        return Err((OcfCode::Generic, format!("{} cannot be written any more", directory.display())));
    }
    if operation.check_level >= 10 {
        let first = fs::read_dir(directory).and_then(|mut entries| entries.next().transpose());
        first.map_err(|error| failed(directory, error))?;
    }
    if operation.check_level >= 20 && !read_only {
        let path = directory.join(format!(".ocf-check-{}", operation.resource));
        write_and_read(&path).map_err(|error| failed(&path, error))?;
    }
    Ok(there.to_string())
}

/// Writes a file, past the cache as far as that goes, and reads it back.
fn write_and_read(path: &Path) -> io::Result<()> {
    let text = format!("{:?}", std::time::SystemTime::now());
    // One that is left of a node that died here is replaced, and what somebody linked there is not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let read = written.and_then(|()| fs::read_to_string(path));
    fs::remove_file(path)?;
    if read? == text { Ok(()) } else { Err(io::Error::other("what was written is not what is read")) }
}
