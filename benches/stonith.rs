//! What fencing adds to the agents and disks it stands on.
//!
//! `cargo bench --bench stonith`, with `-- --json` one object per line, with `-- --quick` shorter. Needs `/bin/sh`.

mod support;

use ocf_stonith::driver::{Classes, DeviceHost, SbdDisk};
use ocf_stonith::sbd::{Command as Told, Header, Mail};
use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, FenceAction, FenceRequest, Fencer,
    Input, Output, ReadBack, Run,
};
use pils::process::Runner;
use pils::{Incarnation, Instant as Core, Layer as _, NodeId, NodeInstance, Rng};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::{Figure, Goal, Options, Report, Samples, interleave};

/// An agent that does nothing but answer: what is left is the cost of the call.
const AGENT: &str = "#!/bin/sh\nread -r action\nwhile read -r line; do :; done\n\
    case $action in *status*) echo 'Status: OFF'; exit 2 ;; esac\n";
const LONG: Duration = Duration::from_secs(60);

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("bench-stonith-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let agent = dir.join("fence_bench");
        fs::write(&agent, AGENT).expect("a file");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("its own file");
        Self(dir)
    }

    fn agent(&self) -> PathBuf {
        self.0.join("fence_bench")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

fn median(times: usize, mut what: impl FnMut()) -> f64 {
    let one = |_| {
        let began = Instant::now();
        what();
        began.elapsed()
    };
    Samples::micros((0..times).map(one)).median()
}

/// One run of the agent with nothing around it: start, write, read to the end, wait.
fn bare(agent: &Path, action: &str) {
    let mut child = Command::new(agent)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(format!("action={action}\nip=192.0.2.7\n").as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends");
}

fn through_the_device(agent: &Path, action: FenceAction, times: usize) -> f64 {
    let text = format!(
        "[[devices]]\nname = 'x'\nclass = 'fence_agent'\nnodes = [{{ node = 2 }}]\n\
         parameters = {{ agent = '{}', ip = '192.0.2.7' }}",
        agent.display()
    );
    let config: Config = toml::from_str(&text).expect("well-formed");
    let (tell, told) = channel();
    let runner = Runner::new(1).expect("a thread");
    let report = move |report: DeviceReport| tell.send(report).expect("the bench listens");
    let host = DeviceHost::new(&config, &Classes::default(), &runner, report).expect("a device");
    let target = NodeInstance::new(NodeId::new(2), Incarnation::new(1));
    let mut last = 0;
    median(times, || {
        last += 1;
        host.run(Run {
            attempt: AttemptId(last),
            device: "x".into(),
            action,
            target,
            plug: None,
            timeout: LONG,
        });
        let result = told.recv().expect("an answer").result;
        assert!(matches!(result, DeviceResult::Done { read_back: ReadBack::Off, .. }), "{result:?}");
    })
}

/// Time from a request to its outcome, two devices of one level, answers at once: the decision alone.
fn decision(times: usize) -> f64 {
    let text = "[[devices]]\nname = 'a'\nclass = 'simulated'\nnodes = [{ node = 2 }]\n\
        [[devices]]\nname = 'b'\nclass = 'simulated'\nnodes = [{ node = 2 }]\n\
        [[levels]]\nindex = 1\nnodes = [2]\ndevices = ['a', 'b']";
    let config: Config = toml::from_str(text).expect("well-formed");
    let mut fencer = Fencer::new(config, NodeId::new(1), Rng::new(1));
    fencer.set_authority(Core::ZERO, Authority::Granted);
    let mut life = 0;
    median(times, || {
        life += 1;
        let target = NodeInstance::new(NodeId::new(2), Incarnation::new(life << 96));
        let cause = Cause::Lost { why: "silent".into() };
        let request = FenceRequest { target, action: FenceAction::Off, cause };
        fencer.request(Core::ZERO, request).expect("it is taken");
        while let Some(output) = fencer.poll_output() {
            if let Output::Run(run) = output {
                let result = DeviceResult::Done { read_back: ReadBack::Off, detail: "".into() };
                fencer.handle(Core::ZERO, Input::Device(DeviceReport { attempt: run.attempt, result }));
            }
        }
        assert!(fencer.history().confirmed(target).is_some(), "it is fenced");
    })
}

/// A message on a file for a disk.
fn pill(dir: &Path, times: usize) -> f64 {
    let path = dir.join("disk");
    fs::write(&path, vec![0; 1 << 20]).expect("a file");
    let disk =
        SbdDisk::create(&path, Header { allocate_s: 0, slots: 8, ..Header::default() }).expect("a disk");
    disk.allocate("n1").expect("a slot");
    let mail = Mail { command: Told::Test, from: "n2".into() };
    median(times, || disk.send("n1", &mail).expect("it is written"))
}

/// The same sector, written and synced with nothing around it.
fn sector(dir: &Path, times: usize) -> f64 {
    let path = dir.join("sector");
    fs::write(&path, vec![0; 1 << 20]).expect("a file");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a file");
    let bytes = [1; 512];
    median(times, || {
        file.write_all_at(&bytes, 1024).expect("it is written");
        file.sync_data().expect("it is synced");
    })
}

fn main() {
    let options = Options::from_args();
    let scratch = Scratch::new();
    let agent = scratch.agent();
    let calls = options.count(200);
    let taken = interleave(
        options,
        vec![
            ("EXEC", Box::new(|| median(calls, || bare(&agent, "status")))),
            ("EXEC-2", Box::new(|| median(calls, || ["off", "status"].iter().for_each(|a| bare(&agent, a))))),
            ("F-1", Box::new(|| through_the_device(&agent, FenceAction::Status, calls))),
            ("F-2", Box::new(|| through_the_device(&agent, FenceAction::Off, calls))),
            ("F-3", Box::new(|| decision(calls * 50))),
            ("SECTOR", Box::new(|| sector(&scratch.0, calls))),
            ("F-4", Box::new(|| pill(&scratch.0, calls))),
        ],
    );
    if options.only.is_some() {
        return;
    }
    let of = |name: &str| taken[name].median();
    let mut report = Report::default();
    report.judge_machine("EXEC", &taken["EXEC"]);
    let (exec, both) = (("EXEC", of("EXEC")), ("EXEC-2", of("EXEC-2")));
    let mut add = |id, what, value, against, goal| {
        report.add(Figure { id, what, value, unit: "us", against, goal });
    };
    add("EXEC", "fork, exec and pipes of an agent, nothing around it", exec.1, None, None);
    add("F-1", "status through the device", of("F-1"), Some(exec), Some(Goal::AtMost(1.3)));
    add("F-2", "off, and status to verify it", of("F-2"), Some(both), Some(Goal::AtMost(1.3)));
    add(
        "F-3",
        "decision alone: level of two devices, second look",
        of("F-3"),
        Some(exec),
        Some(Goal::AtMost(0.05)),
    );
    add("F-4", "poison pill on a file", of("F-4"), Some(("SECTOR", of("SECTOR"))), Some(Goal::AtMost(2.0)));
    report.print(options);
}
