//! The agent for file systems, in mounts of its own: what it mounts is there, and what it takes away is gone, whoever uses it.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(
    clippy::disallowed_methods,
    reason = "the inner test is told apart by its environment, and looks are repeated"
)]

use ocf_resource::driver::{FileSystem, InProcess as _, RustClass};
use ocf_resource::{Action, AgentClass as _, OcfCode, Operation};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Set in the process that has mounts of its own.
const INSIDE: &str = "OCF_TEST_INSIDE";

type Parameters<'a> = &'a [(&'a str, &'a str)];

fn operation(action: Action, parameters: Parameters<'_>) -> Operation {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let operation = Operation::new("data", "rust:filesystem".parse().unwrap(), action);
    Operation { parameters: Arc::new(parameters), ..operation }
}

fn act(action: Action, parameters: Parameters<'_>) -> Result<String, (OcfCode, String)> {
    FileSystem.operate(&operation(action, parameters))
}

/// A monitor of this depth.
fn look(depth: u32, parameters: Parameters<'_>) -> Result<String, (OcfCode, String)> {
    FileSystem.operate(&Operation { check_level: depth, ..operation(Action::Monitor, parameters) })
}

fn stop_within(seconds: u64, parameters: Parameters<'_>) -> Result<String, (OcfCode, String)> {
    let timeout = Duration::from_secs(seconds);
    FileSystem.operate(&Operation { timeout, ..operation(Action::Stop, parameters) })
}

#[test]
fn wrong_parameters_are_named_before_anything_is_mounted() {
    let wrong = |parameters: Parameters<'_>| act(Action::Start, parameters).unwrap_err();
    let (device, directory) = (("device", "tmpfs"), ("directory", "/nowhere/at/all"));
    assert_eq!(wrong(&[directory]), (OcfCode::Configured, "parameter device is missing".to_owned()));
    assert_eq!(wrong(&[device]).1, "parameter directory is missing");
    for bad in ["relative", "/", "/a/../b"] {
        assert!(wrong(&[device, ("directory", bad)]).1.contains("directory is no absolute path"), "{bad}");
    }
    assert!(wrong(&[device, directory, ("options", "loop")]).1.contains("options have loop"));
    assert!(wrong(&[device, directory, ("force_unmount", "perhaps")]).1.contains("force_unmount"));
    let missing = act(Action::ValidateAll, &[("device", "/dev/none-such"), directory]).unwrap_err();
    assert_eq!(missing.0, OcfCode::NotInstalled, "{}", missing.1);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn what_is_not_mounted_is_stopped_even_if_its_device_is_gone() {
    let wanted = [("device", "/dev/none-such"), ("directory", "/nowhere/at/all")];
    assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
    assert!(act(Action::Stop, &wanted).is_ok());
}

#[test]
fn it_is_built_in_and_says_what_it_takes() {
    let class = RustClass::built_in();
    assert!(class.find(&"rust:filesystem".parse().unwrap()).is_ok());
    let metadata = FileSystem.metadata();
    let given = operation(Action::Start, &[("device", "tmpfs"), ("directory", "/a"), ("fstype", "tmpfs")]);
    assert!(metadata.check_parameters(&given.parameters).is_ok());
    let wrong = operation(Action::Start, &[("device", "tmpfs"), ("folder", "/a")]);
    let told = metadata.check_parameters(&wrong.parameters).unwrap_err().to_string();
    assert!(told.contains("folder") && told.contains("directory"), "{told}");
}

/// Runs a test of this program again, with mounts of its own that end with it.
fn with_mounts_of_its_own(test: &str) {
    let output = Command::new("unshare")
        .args(["--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn run(line: &str) {
    assert!(Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}");
}

/// A folder that is a file system of its own.
fn scratch(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ocf-fs-{test}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    run(&format!("mount -t tmpfs tmpfs {}", path.display()));
    path
}

fn leave(path: &Path) {
    run(&format!("umount {}", path.display()));
    fs::remove_dir(path).unwrap();
}

/// A process that works in a folder and does not hear `SIGTERM`.
fn deaf(folder: &Path, ready: &Path) -> Child {
    let line = format!("trap '' TERM; touch {}; while :; do sleep 1; done", ready.display());
    let child = Command::new("sh").args(["-c", &line]).current_dir(folder).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !ready.exists() {
        assert!(Instant::now() < until, "the process does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
#[ignore = "needs root, to mount"]
fn a_file_system_is_there_when_it_was_started_and_gone_when_it_was_stopped() {
    const NAME: &str = "a_file_system_is_there_when_it_was_started_and_gone_when_it_was_stopped";
    if std::env::var_os(INSIDE).is_none() {
        return with_mounts_of_its_own(NAME);
    }
    let base = scratch("tmpfs");
    let directory = base.join("with blank/data");
    let place = directory.display().to_string();
    let wanted = [
        ("device", "tmpfs"),
        ("directory", place.as_str()),
        ("fstype", "tmpfs"),
        ("options", "size=1m,mode=701,nosuid"),
    ];
    let there = format!("tmpfs on {place} (tmpfs)");
    assert_eq!(act(Action::ValidateAll, &wanted), Ok(String::new()));
    assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
    assert_eq!(act(Action::Start, &wanted), Ok(there.clone()));
    assert_eq!(act(Action::Start, &wanted), Ok(there.clone()), "started twice");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o701);
    for depth in [0, 10, 20] {
        assert_eq!(look(depth, &wanted), Ok(there.clone()), "depth {depth}");
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "a look leaves nothing");
    // What cannot be written any more has failed, and one that is full cannot be written.
    run(&format!("mount -o remount,ro '{place}'"));
    assert!(act(Action::Monitor, &wanted).unwrap_err().1.contains("cannot be written any more"));
    run(&format!("mount -o remount,rw '{place}' && head -c 2m /dev/zero > '{place}/big' || true"));
    assert_eq!(look(10, &wanted), Ok(there));
    assert_eq!(look(20, &wanted).unwrap_err().0, OcfCode::Generic);

    assert!(act(Action::Stop, &wanted).is_ok());
    assert!(act(Action::Stop, &wanted).is_ok(), "stopped twice");
    assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
    leave(&base);
}

#[test]
#[ignore = "needs root, to mount"]
fn whoever_uses_it_is_ended_when_it_stops_if_that_is_allowed() {
    const NAME: &str = "whoever_uses_it_is_ended_when_it_stops_if_that_is_allowed";
    if std::env::var_os(INSIDE).is_none() {
        return with_mounts_of_its_own(NAME);
    }
    let base = scratch("busy");
    let (directory, beside) = (base.join("data"), base.join("beside"));
    fs::create_dir(&beside).unwrap();
    let place = directory.display().to_string();
    let gently =
        [("device", "tmpfs"), ("directory", place.as_str()), ("fstype", "tmpfs"), ("force_unmount", "false")];
    act(Action::Start, &gently).unwrap();
    let mut user = deaf(&directory, &base.join("user"));
    let mut bystander = deaf(&beside, &base.join("bystander"));
    let (code, why) = stop_within(1, &gently).unwrap_err();
    assert!(code == OcfCode::Generic && why.contains("is in use"), "{why}");
    assert!(act(Action::Monitor, &gently).is_ok(), "it is still there");
    assert!(user.try_wait().unwrap().is_none(), "nobody was ended");
    stop_within(9, &gently[..3]).unwrap();
    assert_eq!(act(Action::Monitor, &gently).unwrap_err().0, OcfCode::NotRunning);
    assert!(!user.wait().unwrap().success());
    assert!(bystander.try_wait().unwrap().is_none(), "who works beside it lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    // Its last `sleep` works there for a second more.
    run(&format!("until umount {0}; do sleep 0.1; done 2>/dev/null; rmdir {0}", base.display()));
}

#[test]
#[ignore = "needs root, to mount"]
fn a_folder_may_be_mounted_elsewhere_and_what_others_mounted_is_left_alone() {
    const NAME: &str = "a_folder_may_be_mounted_elsewhere_and_what_others_mounted_is_left_alone";
    if std::env::var_os(INSIDE).is_none() {
        return with_mounts_of_its_own(NAME);
    }
    let base = scratch("bind");
    let (source, other, directory) = (base.join("source"), base.join("other"), base.join("data"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    let path = |path: &Path| path.display().to_string();
    let (source, other, place) = (path(&source), path(&other), path(&directory));
    let wanted = [("device", source.as_str()), ("directory", place.as_str()), ("options", "bind,ro")];
    let rival = [("device", other.as_str()), ("directory", place.as_str()), ("options", "bind")];
    act(Action::Start, &wanted).unwrap();
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "text");
    assert!(fs::write(directory.join("file"), "other").is_err(), "it was mounted to be read");
    assert!(look(20, &wanted).is_ok());
    // Another resource at the same place does not run, cannot start, and has nothing to stop.
    assert_eq!(act(Action::Monitor, &rival).unwrap_err().0, OcfCode::NotRunning);
    assert!(act(Action::Start, &rival).unwrap_err().1.contains("is in the way"));
    assert!(act(Action::Stop, &rival).is_ok());
    assert!(act(Action::Monitor, &wanted).is_ok(), "it is still there");
    act(Action::Stop, &wanted).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    act(Action::Start, &rival).unwrap();
    act(Action::Stop, &rival).unwrap();
    leave(&base);
}

/// A file that is a disk, until it is dropped.
struct Disk(String);

impl Disk {
    fn new(file: &Path) -> Self {
        run(&format!("truncate -s 16M {0} && mkfs.ext4 -q {0}", file.display()));
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        assert!(
            Command::new("losetup").args(["--detach", &self.0]).status().unwrap().success(),
            "{}",
            self.0
        );
    }
}

#[test]
#[ignore = "needs root, to mount"]
fn a_disk_is_known_by_its_number_and_its_type_is_found_out() {
    const NAME: &str = "a_disk_is_known_by_its_number_and_its_type_is_found_out";
    if std::env::var_os(INSIDE).is_none() {
        return with_mounts_of_its_own(NAME);
    }
    let base = scratch("disk");
    let disk = Disk::new(&base.join("disk"));
    let (link, directory) = (base.join("by-name"), base.join("data"));
    std::os::unix::fs::symlink(&disk.0, &link).unwrap();
    let (device, place) = (link.display().to_string(), directory.display().to_string());
    let wanted = [("device", device.as_str()), ("directory", place.as_str()), ("options", "noatime")];
    let there = act(Action::Start, &wanted).unwrap();
    assert!(there.ends_with("(ext4)"), "{there}");
    assert_eq!(look(20, &wanted), Ok(there.clone()));
    // By its other name it is the same, and as a file system of another type it is not.
    let other = [("device", disk.0.as_str()), ("directory", place.as_str())];
    assert_eq!(act(Action::Monitor, &other), Ok(there));
    let typed = [("device", disk.0.as_str()), ("directory", place.as_str()), ("fstype", "xfs")];
    assert_eq!(act(Action::Monitor, &typed).unwrap_err().0, OcfCode::NotRunning);
    act(Action::Stop, &wanted).unwrap();
    assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
    assert!(act(Action::Start, &typed).is_err(), "it is none");
    drop(disk);
    leave(&base);
}
