//! Virtual machines with a kernel of the distribution that see the files of this machine, and change none of them: the
//! executable of a test finds there what it finds here, and runs in the machine.

use std::any::type_name;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Set in the machine, and nowhere else.
const INSIDE: &str = "OCF_TEST_INSIDE_THE_MACHINE";
/// What the first process needs to see the files of this machine.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// From power on to the end. On a machine with nothing else to do it is far less.
const PATIENCE: Duration = Duration::from_secs(480);
/// The first process: mounts, then runs the lines of `/runs` as arguments of the test's executable. What it says in a machine that
/// is to be reset comes before that; the pause gives the watchdog its time.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /bin /dev /proc /lower /upper /all
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
while read -r module; do insmod "/modules/$module"; done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 files /lower
mount -t tmpfs -o size=75% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work all /all
mount --move /dev /all/dev
mount --move /proc /all/proc
mount -t sysfs sys /all/sys
mount -t tmpfs run /all/run
mkdir -p /all/dev/shm /all/lib/modules /all/run/lock
# The kernel keeps there who has reserved its disks, and sees it from its own root.
mkdir -p /var/target/pr
ln -s "$KERNEL/lib/modules/$(uname -r)" "/all/lib/modules/$(uname -r)"
hostname machine
ip link set lo up
while read -r words; do
    chroot /all /usr/bin/env -i "$INSIDE=1" RUST_BACKTRACE=1 LC_ALL=C HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        "$TEST" $words >/all/dev/ttyS1 2>&1 </all/dev/null
    status=$?
    echo "ended with status $status" >/all/dev/ttyS1
    [ $status != 137 ] || sleep 20
done </runs
poweroff -f
"#;

/// True in the machine.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Carries out what proves something, in the machine; outside, starts the machine once for all tests and says what became of it.
pub(crate) fn inside<F: FnOnce()>(proof: F) {
    if is_inside() {
        return proof();
    }
    let name = test_of::<F>();
    let (end, _) = &*MACHINES;
    assert!(end.result.contains(&format!("test {name} ... ok\n")), "{name} did not hold\n{end}");
}

/// Carries out what ends in a process that kills itself with an armed watchdog, in the machine; outside, says how that machine ended.
pub(crate) fn until_it_is_reset<F: FnOnce()>(
    of: impl Fn(&(End, End)) -> &End,
    proof: F,
) -> Option<&'static End> {
    if is_inside() {
        proof();
        return None;
    }
    let name = test_of::<F>();
    let end = of(&MACHINES);
    let begun = end.result.split_once(&format!("test {name} ... ")).map(|(_before, after)| after);
    assert!(
        begun.is_some_and(|said| said.ends_with("ended with status 137\n")),
        "{name} did not end as it should\n{end}"
    );
    assert!(end.was_reset(), "nothing reset the machine\n{end}");
    Some(end)
}

/// Where a proof stands: closures are called after the function they are in.
fn test_of<F>() -> &'static str {
    let name = type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_this, rest)| rest);
    name.trim_end_matches("::{{closure}}")
}

/// The machine that runs all tests, the one of the watchdog that ends it last; and one with a watchdog of another kind.
static MACHINES: LazyLock<(End, End)> = LazyLock::new(|| {
    thread::scope(|scope| {
        let other = scope.spawn(|| start("other", &["-device", "i6300esb"], &["watchdogs::i6300esb"]));
        let first = start("first", &[], &["--skip watchdogs::", "watchdogs::softdog"]);
        (first, other.join().expect("its own assertions tell more"))
    })
});

/// How a machine ended.
#[derive(Debug)]
pub(crate) struct End {
    /// What its tests said.
    pub(crate) result: String,
    /// What its kernel said.
    pub(crate) console: String,
    /// What happened to it, as `qemu` tells, one event a line.
    pub(crate) events: String,
    took: Duration,
}

impl End {
    fn was_reset(&self) -> bool {
        self.events.contains("\"guest-reset\"")
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { result, console, events, took } = self;
        write!(f, "after {took:?}\n-- tests\n{result}\n-- kernel\n{console}\n-- qemu\n{events}")
    }
}

/// The kernel, unpacked but not installed.
struct Kernel {
    folder: PathBuf,
    version: String,
}

impl Kernel {
    fn find() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target folder");
        let folder = target.join("kernel");
        let versions = fs::read_dir(folder.join("lib/modules"));
        let versions = versions.unwrap_or_else(|error| {
            panic!("{}: {error}: .ci/run unpacks a kernel of the distribution there", folder.display())
        });
        let names = versions.map(|entry| entry.expect("a folder that can be read").file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        assert_eq!(names.len(), 1, "one kernel in {}: {names:?}", folder.display());
        Self { version: names.concat(), folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.version))
    }

    /// The files of these modules and those they stand on, in the order in which they are loaded.
    fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("--dirname").arg(&self.folder).args(["--set-version", &self.version]);
            let said = said(modprobe.args(["--show-depends", name]));
            for file in said.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let file = PathBuf::from(file.trim());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        files
    }

    /// An archive with the first process and what it needs.
    fn first_files(&self, runs: &[&str]) -> Vec<u8> {
        let mut archive = Archive::default();
        for folder in ["bin", "modules"] {
            archive.add(folder, 0o040_755, b"");
        }
        archive.add(
            "bin/busybox",
            0o100_755,
            &fs::read("/bin/busybox").expect("busybox-static is installed"),
        );
        let mut order = String::new();
        for file in self.modules(&MODULES) {
            let name = file.file_name().expect("a file").to_string_lossy().into_owned();
            archive.add(&format!("modules/{name}"), 0o100_644, &fs::read(&file).expect("a module"));
            order.push_str(&format!("{name}\n"));
        }
        archive.add("modules/order", 0o100_644, order.as_bytes());
        let lines = runs.iter().map(|run| format!("--ignored --test-threads=1 {run}\n"));
        archive.add("runs", 0o100_644, lines.collect::<String>().as_bytes());
        let test = std::env::current_exe().expect("this program has a name");
        let words = [("KERNEL", self.folder.display()), ("TEST", test.display())];
        let words: String = words.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        let init = INIT.replacen('\n', &format!("\nINSIDE={INSIDE}\n{words}"), 1);
        archive.add("init", 0o100_755, init.as_bytes());
        archive.finish()
    }
}

/// A `cpio` archive in the form that a kernel unpacks.
#[derive(Default)]
struct Archive(Vec<u8>, u32);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.1 += 1;
        let (size, name_size) = (data.len(), name.len() + 1);
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.1, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.0.extend(header.as_bytes());
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.0
    }
}

/// Starts a machine and waits for its end.
fn start(name: &str, devices: &[&str], runs: &[&str]) -> End {
    let kernel = Kernel::find();
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the machine");
    let file = |name: &str| folder.join(name);
    fs::write(file("first-files"), kernel.first_files(runs)).expect("a file for the machine");
    let began = Instant::now();
    let mut machine = qemu(&kernel, &folder, devices).spawn().expect("qemu-system-x86 is installed");
    let events = watch(&mut machine, began + PATIENCE);
    let took = began.elapsed();
    let read =
        |name: &str| String::from_utf8_lossy(&fs::read(file(name)).unwrap_or_default()).replace('\r', "");
    let end = End { result: read("result"), console: read("console"), events, took };
    fs::remove_dir_all(&folder).expect("the folder of the machine");
    end
}

fn qemu(kernel: &Kernel, folder: &Path, devices: &[&str]) -> Command {
    let file = |name: &str| format!("file:{}", folder.join(name).display());
    let mut command = Command::new("qemu-system-x86_64");
    // Translated: it needs nothing of the processor here, and is the same everywhere.
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-qmp", "stdio"]);
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(folder.join("first-files"));
    command.args(["-serial", &file("console"), "-serial", &file("result")]);
    command.args(["-fsdev", "local,id=files,path=/,security_model=none,readonly=on,multidevs=remap"]);
    command.args(["-device", "virtio-9p-pci,fsdev=files,mount_tag=files"]).args(devices);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

/// Hears what happens to a machine until it has ended.
fn watch(machine: &mut Child, deadline: Instant) -> String {
    let mut input = machine.stdin.take().expect("it was asked for");
    let output = BufReader::new(machine.stdout.take().expect("it was asked for"));
    // It tells nothing before it was greeted.
    input.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").expect("it listens");
    let (tell, told) = channel();
    let hear =
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let mut events = String::new();
    loop {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => events.push_str(&format!("{line}\n")),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                events.push_str("it took too long, and was ended\n");
                machine.kill().expect("it runs");
                break;
            }
        }
    }
    machine.wait().expect("its end");
    hear.join().expect("it does not panic").expect("somebody listens");
    events
}

/// What a program says that must succeed.
pub(crate) fn said(program: &mut Command) -> String {
    let output = program.output().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What a line for the shell says that must succeed.
pub(crate) fn sh(line: &str) -> String {
    said(Command::new("sh").args(["-ec", line]))
}

/// Waits for something that comes soon.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited too long for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
