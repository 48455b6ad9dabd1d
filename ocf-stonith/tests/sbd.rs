//! The poison pill over shared disks, and nodes that watch over themselves: with files for disks, and (ignored) with a loop
//! device that Debian's `sbd` reads and writes as well.

use ocf_stonith::driver::{
    Classes, DeviceHost, KernelWatchdog, SbdDisk, SbdError, SelfFencing, SelfFencingError, SimulatedWatchdog,
    Watchdog,
};
use ocf_stonith::sbd::{Command, End, Header, Mail};
use ocf_stonith::{
    AttemptId, Config, DeviceResult, Failure, FenceAction, FenceDevice, ReadBack, Run, testing,
};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
/// Watchdog 3 s, read every second, delivered after 6 s; slots are taken at once.
const SHORT: Header =
    Header { slots: 8, sector: 512, watchdog_s: 3, allocate_s: 0, loop_s: 1, msgwait_s: 6, uuid: [7; 16] };

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sbd-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    /// A file of one mebibyte for a disk.
    fn disk(&self, name: &str, header: Header) -> (PathBuf, SbdDisk) {
        let path = self.0.join(name);
        fs::write(&path, vec![0xee; 1 << 20]).expect("a file");
        let disk = SbdDisk::create(&path, header).expect("a disk");
        (path, disk)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

fn mail(command: Command) -> Mail {
    Mail { command, from: "n1".into() }
}

fn config(disks: &[&PathBuf], timeout: Duration) -> Config {
    let paths: Vec<_> = disks.iter().map(|p| p.display().to_string()).collect();
    let text = format!(
        "[[devices]]\nname = 'pill'\nclass = 'sbd'\nnodes = [{{ node = 2, plug = 'n2' }}]\ntimeout_ms = {}\n\
         parameters = {{ disks = '{}', from = 'n1' }}",
        timeout.as_millis(),
        paths.join(", ")
    );
    toml::from_str(&text).expect("a well-formed test configuration")
}

fn ask(config: &Config, action: FenceAction) -> DeviceResult {
    let (tell, told) = channel();
    let report = move |report| tell.send(report).expect("the test listens");
    let runner = Runner::new(1).expect("a thread");
    let host = DeviceHost::new(config, &Classes::default(), &runner, report).expect("devices");
    let timeout = Duration::from_millis(config.devices[0].timeout_ms);
    let target = NodeInstance::new(NodeId::new(2), Incarnation::new(7));
    let plug = Some("n2".into());
    host.run(Run { attempt: AttemptId(1), device: "pill".into(), action, target, plug, timeout });
    told.recv_timeout(timeout + LONG).expect("an answer").result
}

#[test]
fn slots_are_taken_once_and_messages_are_read_by_others() {
    let scratch = Scratch::new("slots");
    let (path, disk) = scratch.disk("a", SHORT);
    assert_eq!(disk.slots(), Ok(vec![]), "what stood there is gone");
    let other = SbdDisk::open(&path).unwrap();
    assert_eq!(*other.header(), SHORT);
    assert_eq!((disk.allocate("n1"), other.allocate("n2"), other.allocate("n1")), (Ok(0), Ok(1), Ok(0)));
    assert_eq!(disk.slots(), Ok(vec![(0, "n1".into()), (1, "n2".into())]));
    disk.send("n2", &mail(Command::Reset)).unwrap();
    assert_eq!(other.mail(1), Ok(mail(Command::Reset)));
    assert_eq!(other.mail(0), Ok(Mail { command: Command::Clear, from: String::new() }));
    other.clear(1).unwrap();
    assert_eq!(disk.mail(1).map(|m| m.command), Ok(Command::Clear));
    assert!(matches!(disk.send("n9", &mail(Command::Test)), Err(SbdError::NoSlot { .. })));
    for n in 2..8 {
        assert_eq!(disk.allocate(&format!("x{n}")), Ok(n));
    }
    assert_eq!(disk.allocate("n9"), Err(SbdError::Full { path: path.clone() }));
    fs::write(&path, [0; 64]).unwrap();
    assert!(SbdDisk::open(&path).is_err(), "shorter than a header");
    fs::write(&path, vec![0; 8192]).unwrap();
    assert!(matches!(SbdDisk::open(&path), Err(SbdError::Layout { .. })));
}

#[test]
fn a_node_that_is_told_to_end_has_ended_when_the_device_says_so() {
    let scratch = Scratch::new("pill");
    let (a, _) = scratch.disk("a", SHORT);
    let (b, _) = scratch.disk("b", SHORT);
    let (c, lost) = scratch.disk("c", SHORT);
    let disks = [a.clone(), b.clone(), c.clone()];
    let (tell, told) = channel();
    let dog = SimulatedWatchdog::new(Duration::from_secs(3), || {});
    let end = move |why| tell.send(why).expect("the test listens");
    let node = SelfFencing::start("n2", &disks, Box::new(dog), end).expect("it watches");
    // A command that it finds before it is armed is one from an earlier life.
    assert!(node.wait_armed(LONG));
    drop(lost);
    fs::remove_file(&c).unwrap();
    let config = config(&[&a, &b, &c], Duration::from_secs(30));
    let result = ask(&config, FenceAction::Off);
    let DeviceResult::Done { read_back: ReadBack::SelfFenced, detail } = result else { panic!("{result:?}") };
    assert!(detail.contains("reset stands on 2 of 3 disks"), "{detail}");
    assert_eq!(told.try_recv(), Ok(End::Told(mail(Command::Reset))), "it was over before msgwait was");
    assert!(!node.wait_armed(LONG), "it will not be any more");
    drop(node);
}

#[test]
fn one_of_two_disks_does_not_fence_and_a_short_timeout_is_found() {
    let scratch = Scratch::new("legs");
    let (a, disk) = scratch.disk("a", Header { msgwait_s: 0, ..SHORT });
    let missing = scratch.0.join("missing");
    disk.allocate("n2").unwrap();
    let DeviceResult::Failed(Failure::Failed { detail }) =
        ask(&config(&[&a, &missing], LONG), FenceAction::Off)
    else {
        panic!()
    };
    assert!(detail.contains("only on 1 of 2 disks"), "{detail}");
    let (b, disk) = scratch.disk("b", SHORT);
    disk.allocate("n2").unwrap();
    let hurried = config(&[&b], Duration::from_millis(500));
    let result = ask(&hurried, FenceAction::Off);
    assert!(matches!(result, DeviceResult::Failed(Failure::TimedOut { .. })), "{result:?}");
    let errors = Classes::default().check(&hurried).unwrap_err();
    assert_eq!(errors.0[0].path, "devices[0].timeout_ms");
    let unknown = config(&[&a], LONG);
    assert_eq!(Classes::default().check(&unknown), Ok(()));
    disk.clear(0).unwrap();
    assert_eq!(
        ask(&config(&[&b], LONG), FenceAction::List),
        DeviceResult::Hosts { hosts: vec!["n2".into()] }
    );
    assert!(matches!(
        ask(&config(&[&b], LONG), FenceAction::Status),
        DeviceResult::Failed(Failure::Refused { .. })
    ));
}

#[test]
fn the_device_keeps_the_rules() {
    let scratch = Scratch::new("suite");
    let (a, disk) = scratch.disk("a", Header { msgwait_s: 0, ..SHORT });
    disk.allocate("n2").unwrap();
    let runner = Runner::new(1).unwrap();
    let config = config(&[&a], LONG);
    let subject = testing::Subject { node: NodeId::new(2), plug: Some("n2".into()), timeout: LONG };
    let open = || -> Arc<dyn FenceDevice> {
        let host = DeviceHost::new(&config, &Classes::default(), &runner, |_| {}).expect("devices");
        host.device("pill").expect("it is there").clone()
    };
    testing::check_with(&subject, open);
}

/// A watchdog that says when it is armed.
#[derive(Debug)]
struct Telling(SimulatedWatchdog, Sender<()>);

impl Watchdog for Telling {
    fn timeout(&self) -> Duration {
        self.0.timeout()
    }

    fn arm(&mut self) -> io::Result<()> {
        self.1.send(()).expect("the test listens");
        self.0.arm()
    }

    fn pet(&mut self) -> io::Result<()> {
        self.0.pet()
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.0.disarm()
    }
}

#[test]
fn a_node_that_loses_its_disk_ends_and_its_watchdog_is_behind_it() {
    let scratch = Scratch::new("alone");
    let (a, _) = scratch.disk("a", SHORT);
    let (tell, told) = channel();
    let bite = tell.clone();
    let (arm, armed) = channel();
    let bites = move || bite.send(None).expect("the test listens");
    let dog = Telling(SimulatedWatchdog::new(Duration::from_secs(3), bites), arm);
    let end = move |why| tell.send(Some(why)).expect("the test listens");
    let node = SelfFencing::start("n2", std::slice::from_ref(&a), Box::new(dog), end).expect("it watches");
    armed.recv_timeout(LONG).expect("it is armed after the first read");
    fs::OpenOptions::new().write(true).open(&a).and_then(|f| f.set_len(0)).unwrap();
    assert_eq!(told.recv_timeout(LONG), Ok(Some(End::Alone)));
    assert_eq!(told.recv_timeout(LONG), Ok(None), "it was not kept quiet any more");
    drop(node);
}

#[test]
fn a_watchdog_that_is_slower_than_the_disks_promise_and_wrong_times_are_refused() {
    let scratch = Scratch::new("slow");
    let (a, _) = scratch.disk("a", SHORT);
    let dog = || Box::new(SimulatedWatchdog::new(Duration::from_secs(4), || panic!("it was armed")));
    let slow = SelfFencing::start("n2", &[a], dog(), |_| {}).unwrap_err();
    assert!(matches!(slow, SelfFencingError::Slow { .. }), "{slow}");
    let (b, _) = scratch.disk("b", Header { loop_s: 2, ..SHORT });
    let seldom = SelfFencing::start("n2", &[b], dog(), |_| {}).unwrap_err();
    assert!(matches!(seldom, SelfFencingError::Times { .. }), "{seldom}");
}

#[test]
fn a_command_from_before_the_start_refuses_it() {
    let scratch = Scratch::new("unclean");
    let (a, disk) = scratch.disk("a", SHORT);
    disk.allocate("n2").unwrap();
    disk.send("n2", &mail(Command::Off)).unwrap();
    let (tell, told) = channel();
    let dog = SimulatedWatchdog::new(Duration::from_secs(3), || panic!("it was armed"));
    let end = move |why| tell.send(why).expect("the test listens");
    let node = SelfFencing::start("n2", &[a], Box::new(dog), end).expect("it looks");
    assert_eq!(told.recv_timeout(LONG), Ok(End::Unclean(mail(Command::Off))));
    node.stop();
}

#[test]
fn the_watchdog_of_the_kernel_is_opened_last_petted_and_closed_with_magic() {
    let scratch = Scratch::new("kernel");
    let (device, class) = (scratch.0.join("watchdog0"), scratch.0.join("class"));
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("timeout"), "15\n").unwrap();
    assert!(KernelWatchdog::with_class(&device, scratch.0.join("none")).is_err());
    let mut dog = KernelWatchdog::with_class(&device, &class).unwrap();
    assert_eq!(dog.timeout(), Duration::from_secs(15));
    assert!(dog.arm().is_err(), "there is no device");
    fs::write(&device, "").unwrap();
    assert!(dog.pet().is_err(), "it is not armed");
    dog.arm().unwrap();
    dog.pet().unwrap();
    assert_eq!(fs::read(&device).unwrap(), b"\0", "without the magic it stays armed");
    dog.disarm().unwrap();
    assert_eq!(fs::read(&device).unwrap(), b"\0V");
    fs::write(class.join("nowayout"), "1\n").unwrap();
    let mut dog = KernelWatchdog::with_class(&device, &class).unwrap();
    dog.arm().unwrap();
    assert!(dog.disarm().is_err(), "a driver that cannot be stopped says so");
}

#[test]
fn a_watchdog_that_was_not_taken_away_is_armed_by_nobody_else_in_the_same_boot() {
    let scratch = Scratch::new("mark");
    let (device, class) = (scratch.0.join("watchdog0"), scratch.0.join("class"));
    let (mark, boot) = (scratch.0.join("run/armed"), scratch.0.join("boot_id"));
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("timeout"), "15\n").unwrap();
    fs::write(&boot, "one\n").unwrap();
    let dog = || KernelWatchdog::with_class(&device, &class).unwrap().with_mark(&mark, &boot);
    assert!(dog().arm().is_err(), "there is no device");
    fs::write(&device, "").unwrap();
    let mut first = dog();
    first.arm().expect("what could not be armed left no mark");
    first.disarm().unwrap();
    let mut second = dog();
    second.arm().expect("the first one took it away");
    drop(second);
    fs::write(&device, "").unwrap();
    let refused = dog().arm().expect_err("the second one ended without a word").to_string();
    assert!(refused.contains("this boot") && refused.contains("armed"), "{refused}");
    assert_eq!(fs::read(&device).unwrap(), b"", "and it was not opened, which would have kept it quiet");
    fs::write(&boot, "two\n").unwrap();
    dog().arm().expect("the machine has started anew");
}

#[test]
fn a_watchdog_that_cannot_be_told_to_stop_stays_armed_and_marked() {
    let scratch = Scratch::new("full");
    let (class, mark, boot) = (scratch.0.join("class"), scratch.0.join("armed"), scratch.0.join("boot_id"));
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("timeout"), "15\n").unwrap();
    fs::write(&boot, "one\n").unwrap();
    // A device that can be opened and takes nothing.
    let mut dog = KernelWatchdog::with_class("/dev/full", &class).unwrap().with_mark(&mark, &boot);
    dog.arm().unwrap();
    for _ in 0..2 {
        assert!(dog.disarm().is_err());
    }
    assert!(mark.exists());
}

/// A loop device on a file.
struct Loop {
    device: PathBuf,
    _scratch: Scratch,
}

impl Loop {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let file = scratch.0.join("disk");
        fs::write(&file, vec![0; 4 << 20]).expect("a file");
        let device = said(Program::new("losetup").args(["--find", "--show"]).arg(file));
        Self { device: PathBuf::from(device.trim()), _scratch: scratch }
    }

    fn sbd(&self, words: &[&str]) -> String {
        said(Program::new("sbd").arg("-d").arg(&self.device).args(words))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        said(Program::new("losetup").arg("--detach").arg(&self.device));
    }
}

fn said(program: &mut Program) -> String {
    let output = program.output().expect("the program is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
#[ignore = "needs root, loop devices and sbd"]
fn the_tool_of_the_distribution_reads_what_is_written_here_and_writes_what_is_read_here() {
    let disk = Loop::new("loop");
    let header = Header { watchdog_s: 3, allocate_s: 1, loop_s: 1, msgwait_s: 2, ..Header::default() };
    let ours = SbdDisk::create(&disk.device, header).unwrap();
    let dump = disk.sbd(&["dump"]);
    for line in
        ["version     : 2.1", "slots    : 255", "size        : 512", "(watchdog) : 3", "(msgwait)  : 2"]
    {
        assert!(dump.contains(line), "{line} is not in {dump}");
    }
    assert_eq!(ours.allocate("alpha"), Ok(0));
    disk.sbd(&["allocate", "beta"]);
    assert_eq!(ours.slots(), Ok(vec![(0, "alpha".into()), (1, "beta".into())]));
    for (word, command) in [
        ("test", Command::Test),
        ("reset", Command::Reset),
        ("off", Command::Off),
        ("exit", Command::Exit),
        ("crashdump", Command::CrashDump),
        ("clear", Command::Clear),
    ] {
        disk.sbd(&["message", "alpha", word]);
        assert_eq!(ours.mail(0).map(|m| m.command), Ok(command));
        ours.send("beta", &mail(command)).unwrap();
        let list = disk.sbd(&["list"]);
        let line = list.lines().find(|l| l.contains("beta")).expect("its line").to_owned();
        let fields: Vec<_> = line.split_whitespace().collect();
        assert_eq!(fields[..3], ["1", "beta", word], "{list}");
        assert!(command == Command::Clear || fields.get(3) == Some(&"n1"), "{list}");
    }
    disk.sbd(&["-1", "3", "-4", "4", "create"]);
    let theirs = SbdDisk::open(&disk.device).unwrap();
    assert_eq!((theirs.header().watchdog_s, theirs.header().msgwait_s), (3, 4));
    assert_eq!(theirs.slots(), Ok(vec![]));
    let config = config(&[&disk.device], Duration::from_secs(40));
    disk.sbd(&["allocate", "n2"]);
    let result = ask(&config, FenceAction::Off);
    assert!(matches!(result, DeviceResult::Done { read_back: ReadBack::SelfFenced, .. }), "{result:?}");
    assert!(disk.sbd(&["list"]).contains("n2\treset\tn1"));
}
