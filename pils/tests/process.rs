//! Goal: whatever a child does, its caller gets exactly one true answer in bounded time. Method: real children of
//! `/bin/sh`; limits are either far beyond what a busy machine needs or meant to be reached.
#![cfg(feature = "process")]
#![expect(clippy::disallowed_methods, reason = "a driver is tested on the clock")]

use pils::process::{Command, Exit, Finished, NotStarted, Runner};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args = ["-c", script].map(Into::into).to_vec();
    command.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    command.timeout = LONG;
    command
}

fn start(runner: &Runner, command: Command) -> (pils::process::Ticket, Receiver<Finished>) {
    let (tell, told) = channel();
    let ticket = runner.run(command, move |finished| tell.send(finished).expect("the test listens"));
    (ticket, told)
}

fn run(command: Command) -> Finished {
    let runner = Runner::new(1).expect("a runner");
    let (_, told) = start(&runner, command);
    told.recv_timeout(LONG * 2).expect("an answer")
}

/// True while `pid` runs: a zombie that init has not reaped yet does not.
fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn eventually(claim: impl Fn() -> bool) -> bool {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        if claim() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn not_started(program: impl Into<std::path::PathBuf>) -> NotStarted {
    let exit = run(Command::new(program)).exit;
    let Exit::NotStarted(why) = exit else { panic!("it {exit}") };
    why
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text").trim()
}

#[test]
fn input_output_and_exit_code_pass_through() {
    let mut command = sh("cat; echo oops >&2; exit 7");
    command.stdin = vec![b'x'; 200_000];
    command.output_max = 1 << 20;
    let finished = run(command);
    assert_eq!(finished.exit, Exit::Code(7));
    assert_eq!(finished.stdout, vec![b'x'; 200_000]);
    assert_eq!(text(&finished.stderr), "oops");
    assert_eq!(finished.dropped, 0);
    assert!(finished.took > Duration::ZERO);
}

#[test]
fn the_environment_is_what_the_command_lists_and_no_more() {
    let mut command = Command::new("/usr/bin/env");
    command.env = vec![("OCF_RESKEY_ip".into(), "a b".into())];
    assert_eq!(text(&run(command).stdout), "OCF_RESKEY_ip=a b");
}

#[test]
fn a_child_that_ignores_its_input_does_not_disturb() {
    let mut command = sh("exit 0");
    command.stdin = vec![0; 1 << 20];
    assert_eq!(run(command).exit, Exit::Code(0));
}

#[test]
fn a_foreign_signal_is_reported_as_such() {
    assert_eq!(run(sh("kill -9 $$")).exit, Exit::Signal(9));
}

#[test]
fn a_hanging_group_is_killed_and_its_last_words_kept() {
    let mut command = sh("echo started; sleep 1000 & echo $!; wait");
    command.timeout = Duration::from_secs(2);
    let finished = run(command);
    assert_eq!(finished.exit, Exit::TimedOut);
    let (first, pid) = text(&finished.stdout).split_once('\n').expect("two lines");
    assert_eq!(first, "started");
    assert!(eventually(|| !alive(pid)), "process {pid} outlived its group");
}

#[test]
fn a_child_may_clean_up_when_asked_to_end() {
    let mut command = sh("trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    command.timeout = Duration::from_secs(2);
    command.grace = LONG;
    let finished = run(command);
    assert_eq!(finished.exit, Exit::TimedOut);
    assert_eq!(text(&finished.stdout), "ready\ncleaned");
    assert!(finished.took < LONG);
}

#[test]
fn one_that_ignores_the_request_to_end_is_killed_after_its_grace() {
    let mut command = sh("trap '' TERM; echo $$; while :; do sleep 0.05; done");
    command.timeout = Duration::from_millis(1500);
    command.grace = Duration::from_millis(300);
    let finished = run(command);
    assert_eq!(finished.exit, Exit::TimedOut);
    assert!(finished.took >= Duration::from_millis(1800));
    assert!(!alive(text(&finished.stdout)));
}

#[test]
fn a_member_of_the_group_without_our_pipes_is_killed_too() {
    let mut command = sh("trap '' TERM; sleep 1000 >/dev/null 2>&1 & echo $!; exec sleep 1000");
    command.timeout = Duration::from_millis(1500);
    command.grace = Duration::from_millis(200);
    let finished = run(command);
    assert_eq!(finished.exit, Exit::TimedOut);
    assert!(eventually(|| !alive(text(&finished.stdout))));
}

#[test]
fn a_daemon_left_behind_lives_on_and_does_not_hold_us() {
    let finished = run(sh("sleep 1000 & echo $!; exit 0"));
    assert_eq!(finished.exit, Exit::Code(0));
    assert!(finished.took < LONG);
    let pid = text(&finished.stdout);
    assert!(alive(pid), "a successful start must not kill what it started");
    assert_eq!(run(sh(&format!("kill {pid}"))).exit, Exit::Code(0));
}

#[test]
fn a_group_that_left_with_our_pipes_does_not_hold_us() {
    let mut command = sh("setsid sleep 1000 & echo $!; sleep 1000");
    command.timeout = Duration::from_millis(1500);
    command.grace = Duration::from_millis(100);
    let finished = run(command);
    assert_eq!(finished.exit, Exit::TimedOut);
    run(sh(&format!("kill {}", text(&finished.stdout))));
}

#[test]
fn a_flood_is_bounded_and_its_end_kept() {
    let mut command = sh("head -c 20000000 /dev/zero; echo end");
    command.output_max = 1000;
    let finished = run(command);
    assert_eq!(finished.exit, Exit::Code(0));
    assert_eq!(finished.stdout.len(), 1000);
    assert!(finished.stdout.ends_with(b"\0\0end\n"));
    assert_eq!(finished.dropped, 20_000_004 - 1000);
}

#[test]
fn an_endless_flood_ends_with_its_time_and_starves_nobody() {
    let runner = Runner::new(4).expect("a runner");
    let mut endless = sh("exec cat /dev/zero");
    endless.timeout = Duration::from_secs(2);
    let (_, flood) = start(&runner, endless);
    let (_, other) = start(&runner, sh("echo other"));
    assert_eq!(text(&other.recv_timeout(LONG).expect("an answer").stdout), "other");
    let finished = flood.recv_timeout(LONG).expect("an answer");
    assert_eq!(finished.exit, Exit::TimedOut);
    assert!(finished.dropped > 0);
}

#[test]
fn what_cannot_start_says_why() {
    assert_eq!(not_started("/nonexistent/agent"), NotStarted::NotFound);
    assert_eq!(not_started("/etc/passwd"), NotStarted::PermissionDenied);
    assert_eq!(not_started("sh"), NotStarted::NotAbsolute);
    let mut command = Command::new("/bin/sh");
    command.args = vec!["a\0b".into()];
    assert!(matches!(run(command).exit, Exit::NotStarted(NotStarted::System { errno: None, .. })));
}

#[test]
fn a_program_that_was_written_a_moment_ago_runs() {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = std::env::temp_dir().join(format!("pils-fresh-{}", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path).unwrap();
    file.write_all(b"#!/bin/sh\nexit 4\n").unwrap();
    let NotStarted::System { text, .. } = not_started(&path) else { panic!("it is still open for writing") };
    assert!(text.contains("busy"), "{text}");
    drop(file);
    assert_eq!(run(Command::new(&path)).exit, Exit::Code(4));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_cancelled_command_ends_whether_it_runs_or_waits() {
    let runner = Runner::new(1).expect("a runner");
    let (first, first_told) = start(&runner, sh("sleep 1000"));
    let (second, second_told) = start(&runner, sh("echo never"));
    runner.cancel(second);
    let never = second_told.recv_timeout(LONG).expect("an answer");
    assert_eq!((never.exit, never.took), (Exit::Cancelled, Duration::ZERO));
    runner.cancel(first);
    assert_eq!(first_told.recv_timeout(LONG).expect("an answer").exit, Exit::Cancelled);
    runner.cancel(first);
    assert_eq!(start(&runner, sh("exit 1")).1.recv_timeout(LONG).expect("an answer").exit, Exit::Code(1));
}

#[test]
fn commands_beyond_the_limit_wait_in_order_and_not_forever() {
    let runner = Runner::new(1).expect("a runner");
    let (blocker, _told) = start(&runner, sh("sleep 1000"));
    let mut impatient = sh("echo never");
    impatient.timeout = Duration::from_millis(100);
    let (_, told) = start(&runner, impatient);
    assert_eq!(told.recv_timeout(LONG).expect("an answer").exit, Exit::NotStarted(NotStarted::Busy));
    let (tell, order) = channel();
    for i in 0..5 {
        let tell = tell.clone();
        runner.run(sh("true"), move |finished| tell.send((i, finished.exit)).expect("the test listens"));
    }
    runner.cancel(blocker);
    let order: Vec<_> = (0..5).map(|_| order.recv_timeout(LONG).expect("an answer")).collect();
    assert_eq!(order, (0..5).map(|i| (i, Exit::Code(0))).collect::<Vec<_>>());
}

#[test]
fn dropping_the_runner_kills_what_runs_and_answers_everyone() {
    let runner = Runner::new(1).expect("a runner");
    let dir = std::env::temp_dir().join(format!("pils-process-{}", std::process::id()));
    let (_, told) =
        start(&runner, sh(&format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", dir.display())));
    let (_, waiting) = start(&runner, sh("true"));
    assert!(eventually(|| dir.exists()));
    let pid = std::fs::read_to_string(&dir).expect("its process id");
    drop(runner);
    assert_eq!(told.try_recv().expect("answered before the drop returned").exit, Exit::Cancelled);
    assert_eq!(waiting.try_recv().expect("answered before the drop returned").exit, Exit::Cancelled);
    assert!(!alive(pid.trim()));
    std::fs::remove_file(dir).expect("ours");
}

#[test]
fn a_callback_may_run_more_panic_or_hold_the_last_runner() {
    let runner = Runner::new(2).expect("a runner");
    let (tell, told) = channel();
    runner.run(sh("true"), |_| panic!("a bug of the application"));
    let again = runner.clone();
    runner.run(sh("true"), move |_| {
        let last = again.clone();
        again.run(sh("echo second"), move |finished| {
            drop(last);
            tell.send(finished).expect("the test listens");
        });
    });
    drop(runner);
    assert_eq!(text(&told.recv_timeout(LONG).expect("an answer").stdout), "second");
}

#[test]
fn many_children_at_once_each_get_their_own_answer() {
    let runner = Runner::new(8).expect("a runner");
    let (tell, told) = channel();
    for i in 0..40 {
        let tell = tell.clone();
        runner.run(sh(&format!("echo {i}; exit {i}")), move |f| tell.send((i, f)).expect("the test listens"));
    }
    for _ in 0..40 {
        let (i, finished) = told.recv_timeout(LONG).expect("an answer");
        assert_eq!((finished.exit, text(&finished.stdout)), (Exit::Code(i), i.to_string().as_str()));
    }
}

#[test]
fn a_command_shown_in_a_log_keeps_its_secrets() {
    let mut command = sh("true");
    command.env.push(("PASSWORD".into(), "hunter2".into()));
    command.stdin = b"hunter2".to_vec();
    let shown = format!("{command:?}");
    assert!(shown.contains("PASSWORD") && !shown.contains("hunter2"));
}
