//! Goal: programs beside a node have its locks as threads of its own process have them. The locks of a program that ends are
//! free at once; those of one that only lost its connection, or was stopped, are not, since it may be writing.
//!
//! Method: nodes of this process over loopback; programs are this test, started again, which take orders on their input and
//! say on their output what came of them.
#![expect(clippy::print_stdout, reason = "a program of the tests says what it did")]

#[path = "../examples/lock/command.rs"]
mod command;
mod programs;

use ocf::{ApiConfig, Cluster, LockClient, LockGuard, LockOrderError, LockUsers, Locks};
use ocf_comm::local::{Address, Client, ClientError};
use ocf_comm::rpc::Body;
use ocf_dlm::cluster::{OrderError, WaitReason, Waiting};
use ocf_dlm::range::{Range, RangeKind};
use ocf_dlm::{
    FencingToken, LockError, LockManager as _, LockOwner as _, Mode, ObjectRanges, RequestError, Wait,
};
use pils::Value;
use programs::{Program, SOCKET};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, getpid, pidfd_getfd, pidfd_open};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Wait = Wait::For(PATIENCE);
/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(300);
/// Says to this program what it is to do as the command `lock`: an argument a line.
const COMMAND: &str = "OCF_TEST_LOCK_COMMAND";

fn address(test: &str, node: u32) -> String {
    format!("@ocf-locks-{test}-{}-{node}", std::process::id())
}

fn cluster(test: &'static str, nodes: u32) -> Cluster {
    let equip = move |builder: ocf::NodeBuilder| {
        let local = Some(address(test, builder.node().raw()));
        let api = ApiConfig { local, ..ApiConfig::default() };
        builder.api(api).locks(ocf_dlm::cluster::Config::default())
    };
    Cluster::builder("programs").equip(equip).local(nodes).expect("a cluster starts")
}

fn connect(test: &str, node: u32) -> LockClient {
    LockClient::connect(&address(test, node), "test").expect("the node serves")
}

impl Program {
    /// Takes the lock in EX.
    fn lock(&mut self) -> FencingToken {
        self.token("lock")
    }

    /// Has it take the lock.
    fn token(&mut self, order: &str) -> FencingToken {
        let word = self.ask(order);
        let token = word.strip_prefix("token ").unwrap_or_else(|| panic!("no token: {word}"));
        FencingToken::from_u128(token.parse().expect("a number"))
    }
}

/// Not a test: the program of the tests. Does nothing unless it was started as such.
#[test]
fn a_program_beside_a_node() {
    let Ok(at) = std::env::var(SOCKET) else { return };
    let client = match LockClient::connect(&at, "program") {
        Ok(client) => client,
        Err(why) => return println!("> {why}"),
    };
    println!("> connected");
    let locks = client.locks();
    let mut held: Option<LockGuard> = None;
    let mut object: Option<Box<dyn ObjectRanges>> = None;
    for order in std::io::stdin().lines() {
        let said = match order.expect("text").as_str() {
            "lock" => match locks.lock("space", "name", Mode::Ex, WAIT) {
                Ok(guard) => said_of(held.insert(guard)),
                Err(error) => error.to_string(),
            },
            "check" => {
                held.as_ref().map_or_else(|| "none".to_owned(), |held| format!("{:?}", held.check().is_ok()))
            }
            "lock for good" => match locks.lock_lasting("space", "name", Mode::Ex, WAIT) {
                Ok(guard) => said_of(held.insert(guard)),
                Err(error) => error.to_string(),
            },
            "adopt" => match locks.adopt("space", "name", Mode::Ex) {
                Ok(guard) => said_of(held.insert(guard)),
                Err(error) => error.to_string(),
            },
            "orphans" => {
                let orphans = locks.orphans(client.node().expect("it said who it is"), PATIENCE);
                format!("{:?}", orphans.map(|(orphans, more)| (orphans.len(), more)))
            }
            "purge" => {
                format!("{:?}", locks.purge(client.node().expect("it said who it is"), None, PATIENCE))
            }
            "inspect" => format!("{:?}", locks.inspect("space", "name", PATIENCE).map(drop)),
            "purge the resource" => format!("{:?}", locks.purge_resource("space", "name", PATIENCE)),
            "take part" => {
                locks.attach_domain("space").map_or_else(|error| error.to_string(), |_| "it may".into())
            }
            "lock a range" => {
                let ranges = locks.ranges("space", b"file").expect("it is asked for once");
                let done = ranges.lock_range(bytes(10, 19), RangeKind::Exclusive, WAIT);
                object = Some(ranges);
                format!("{done:?}")
            }
            "check the range" => format!("{:?}", object.as_ref().map(|object| object.held_ranges())),
            "cut" => {
                cut_connections();
                "cut".to_owned()
            }
            "await the end" => {
                while client.ended().is_none() {
                    thread::sleep(Duration::from_millis(1));
                }
                format!("{:?}", held.as_ref().map(|held| held.check().is_ok()))
            }
            "release" => format!("{}", held.take().is_some_and(|held| held.release(None).is_ok())),
            other => panic!("no such order: {other}"),
        };
        println!("> {said}");
    }
}

/// The token of a lock, as a program says it.
fn said_of(held: &LockGuard) -> String {
    held.token().map_or_else(|lost| lost.to_string(), |token| format!("token {}", token.as_u128()))
}

/// Ends the connections of this process as if its other ends had closed them; it has no other sockets.
fn cut_connections() {
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("the kernel has it");
    for entry in std::fs::read_dir("/proc/self/fd").expect("there is /proc").flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
        let target = std::fs::read_link(entry.path());
        if target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
            let socket = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).expect("it is this process's");
            shutdown(socket, Shutdown::Both).expect("it is connected");
        }
    }
}

/// Not a test: the command `lock`. Does nothing unless it was started as such.
#[test]
fn the_command() {
    let Ok(arguments) = std::env::var(COMMAND) else { return };
    let arguments = std::iter::once("lock").chain(arguments.split('\n')).map(Into::into);
    let code = command::run(arguments);
    // What is known of it is that it is 0, or how it prints.
    let code = format!("{code:?}");
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    std::process::exit(digits.parse().expect("a number"));
}

/// The command `lock` with these arguments.
fn lock_command(at: &str, arguments: &[&str]) -> Command {
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(own);
    let all: Vec<&str> = ["--node", at].iter().chain(arguments).copied().collect();
    command.args(["--exact", "the_command", "--nocapture", "--test-threads=1"]).env(COMMAND, all.join("\n"));
    command
}

#[test]
fn the_command_lock_holds_a_lock_while_a_command_runs_and_as_long_as_that_lives() {
    let cluster = cluster("command", 1);
    let at = address("command", 1);
    let locks = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    let code = |arguments: &[&str]| lock_command(&at, arguments).status().expect("it starts").code();
    assert_eq!(code(&["name", "--", "sh", "-c", "test -n \"$OCF_LOCK_TOKEN\""]), Some(0));
    assert_eq!(code(&["name", "--", "sh", "-c", "exit 7"]), Some(7), "the status of the command");
    let held = locks.lock("default", "name", Mode::Pr, WAIT).expect("it was given back");
    assert_eq!(code(&["--shared", "name", "--", "true"]), Some(0));
    assert_eq!(code(&["--nonblock", "-E", "9", "name", "--", "true"]), Some(9));
    assert_eq!(code(&["--wait", "0.05", "name", "--", "true"]), Some(1));
    drop(held);
    // Killed itself, while its command lives: `cat` ends when its input does.
    let mut lock = lock_command(&at, &["name", "--", "sh", "-c", "echo '> runs' && exec cat"]);
    let mut lock = Program::spawn(&mut lock);
    assert_eq!(lock.word(), "runs");
    lock.signal(Signal::KILL);
    lock.child.wait().expect("it is ours");
    let early = locks.lock("default", "name", Mode::Pr, Wait::For(MOMENT)).map(drop);
    assert_eq!(early, Err(LockError::TimedOut), "its command may be writing");
    drop(lock);
    drop(locks.lock("default", "name", Mode::Pr, WAIT).expect("the command has ended"));
}

#[test]
fn the_command_lock_ends_its_command_when_the_lock_is_lost() {
    let cluster = cluster("lost", 1);
    let mut lock =
        lock_command(&address("lost", 1), &["name", "--", "sh", "-c", "echo '> runs' && exec cat"]);
    let mut lock = Program::spawn(&mut lock);
    assert_eq!(lock.word(), "runs");
    cluster.node(0).expect("it runs").kill();
    assert_eq!(lock.child.wait().expect("it is ours").code(), Some(3));
}

#[test]
fn the_locks_of_programs_and_of_nodes_are_one_lock_manager() {
    let cluster = cluster("manager", 2);
    let [one, other] = [1, 2].map(|node| connect("manager", node));
    assert_eq!(one.node(), cluster.node(0).map(ocf::Node::local));
    let own = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    ocf_dlm::testing::check(&[&one, &other, &own]);
    ocf_dlm::testing::check(&[&one, &one]);
    assert_eq!((one.ended(), other.ended()), (None, None));
}

#[test]
fn programs_repair_what_a_program_left_that_was_killed() {
    let cluster = cluster("domain", 2);
    let [near, far] = [1, 2].map(|node| connect("domain", node).locks());
    let domain = near.attach_domain("space").expect("it may");
    let other = far.attach_domain("space").expect("it may");
    let own = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    // Each master has heard of the domain when a lock has been to it and back.
    for locks in [&near, &far, &own] {
        drop(locks.lock("space", "name", Mode::Ex, WAIT).expect("free"));
    }
    let mut holder = Program::start(&address("domain", 1), "connected");
    holder.lock();
    holder.signal(Signal::KILL);
    drop(own.lock("space", "name", Mode::Ex, WAIT).expect("the lock of the dead"));
    let found = domain.collect(PATIENCE).expect("nobody else collects");
    assert_eq!((found.names(), found.is_complete()), ([b"name".to_vec()].as_slice(), true));
    let busy = other.collect(PATIENCE).map(drop);
    assert_eq!(busy, Err(LockOrderError::NotGiven(OrderError::NotCollector)));
    assert_eq!(own.lock("space", "name", Mode::Pr, WAIT).expect("free").value(), None, "it is not valid");
    assert_eq!(found.validate(PATIENCE), Ok(false));
    let kept = own.lock("space", "name", Mode::Pr, WAIT).expect("free");
    assert_eq!(kept.value().map(ocf_dlm::ValueBlock::number), Some(0), "it is repaired");
    domain.detach_invalidating(PATIENCE).expect("all nodes answer");
    let late = far.lock("space", "name", Mode::Pr, WAIT).expect("PR beside PR");
    assert_eq!(late.value(), None, "no block is trusted any more");
}

#[test]
fn a_program_sees_and_purges_what_programs_of_other_nodes_left() {
    let cluster = cluster("left", 2);
    let instance = cluster.node(1).map(ocf::Node::local).expect("it runs");
    let (near, far) = (connect("left", 1).locks(), connect("left", 2).locks());
    let left = far.lock_lasting("space", "name", Mode::Ex, WAIT).expect("free");
    assert_eq!((far.end(), left.check().is_err()), (1, true));
    until_orphan(&near);
    let seen = near.inspect("space", "name", PATIENCE).expect("it may look");
    assert_eq!((seen.locks.len(), seen.locks[0].node, seen.locks[0].orphan), (1, instance, true));
    assert_eq!(near.purge_resource("space", "other", PATIENCE), Ok(0));
    assert_eq!(near.purge_resource("space", "name", PATIENCE), Ok(1));
    drop(near.lock("space", "name", Mode::Ex, WAIT).expect("it is purged"));
}

#[test]
fn the_lock_of_a_program_that_is_killed_is_free_at_once_and_its_value_is_in_doubt() {
    let _cluster = cluster("kill", 1);
    let mut holder = Program::start(&address("kill", 1), "connected");
    let before = holder.lock();
    let locks = connect("kill", 1).locks();
    let kept = locks.lock("space", "name", Mode::Nl, WAIT).expect("NL is in nobody's way");
    assert_eq!(locks.try_lock("space", "name", Mode::Ex).err(), Some(LockError::WouldBlock));
    let next = locks.lock_later("space", "name", Mode::Ex, WAIT).expect("it may be asked for");
    holder.signal(Signal::KILL);
    let killed = Instant::now();
    let next = next.wait().expect("the lock of the dead");
    println!("free {:?} after the kill", killed.elapsed());
    assert!(next.token().expect("held") > before);
    assert_eq!(next.value(), None, "it could have been writing the value block");
    drop(kept);
}

#[test]
fn two_programs_take_turns_and_a_stopped_one_keeps_its_lock() {
    let _cluster = cluster("stop", 1);
    let [mut first, mut second] = [(); 2].map(|()| Program::start(&address("stop", 1), "connected"));
    let before = first.lock();
    first.signal(Signal::STOP);
    second.order("lock");
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let word = second.word();
        sender.send(word).expect("somebody waits for it");
        second
    });
    assert!(receiver.recv_timeout(MOMENT).is_err(), "a stopped program may go on to write");
    first.signal(Signal::CONT);
    assert_eq!(first.ask("check"), "true", "it lost nothing");
    assert_eq!(first.ask("release"), "true");
    let word = receiver.recv_timeout(PATIENCE).expect("it was released");
    let token = word.strip_prefix("token ").and_then(|token| token.parse().ok()).expect("a token");
    assert!(FencingToken::from_u128(token) > before);
    let mut second = reader.join().expect("it ends");
    // Whoever ends in good order, too.
    assert_eq!(second.ask("check"), "true");
}

#[test]
fn who_only_lost_its_connection_refuses_and_keeps_its_lock_until_it_ends() {
    let cluster = cluster("cut", 1);
    let mut holder = Program::start(&address("cut", 1), "connected");
    let before = holder.lock();
    assert_eq!(holder.ask("cut"), "cut");
    assert_eq!(holder.ask("await the end"), "Some(false)", "its guard refuses");
    let locks = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    let late = locks.lock("space", "name", Mode::Pr, Wait::For(MOMENT)).map(drop);
    assert_eq!(late, Err(LockError::TimedOut), "the program may be writing");
    holder.signal(Signal::KILL);
    let next = locks.lock("space", "name", Mode::Ex, WAIT).expect("the program has ended");
    assert!(next.token().expect("held") > before);
}

/// Returns once the lock has outlived its owner.
fn until_orphan(locks: &Locks) {
    let until = Instant::now() + PATIENCE;
    let is_orphan = || {
        let seen = locks.inspect("space", "name", PATIENCE).expect("the master answers");
        seen.locks.iter().any(|lock| lock.orphan)
    };
    while !is_orphan() {
        assert!(Instant::now() < until, "a lock that is to last becomes an orphan when its program ends");
    }
}

#[test]
fn the_lasting_lock_of_a_program_that_is_killed_is_adopted_by_another_or_purged() {
    let cluster = cluster("lasting", 2);
    let (here, there) = (address("lasting", 1), address("lasting", 2));
    let mut holder = Program::start(&here, "connected");
    let token = holder.token("lock for good");
    let (mut heir, mut stranger) = (Program::start(&here, "connected"), Program::start(&there, "connected"));
    let early = heir.ask("adopt");
    assert!(early.contains("no orphan"), "its holder lives: {early}");
    holder.signal(Signal::KILL);
    let watcher = cluster.node(1).and_then(ocf::Node::locks).expect("the node has locks");
    until_orphan(&watcher);
    let refused = watcher.try_lock("space", "name", Mode::Cr).map(drop);
    assert_eq!(refused, Err(LockError::WouldBlock), "nobody has it, and it is held");
    let elsewhere = stranger.ask("adopt");
    assert!(elsewhere.contains("no orphan"), "it is an orphan of the other node: {elsewhere}");
    assert_eq!(stranger.ask("orphans"), "Ok((0, 0))");
    assert_eq!(heir.ask("orphans"), "Ok((1, 0))");
    assert_eq!(heir.token("adopt"), token, "nobody had it in between");
    assert_eq!((heir.ask("check").as_str(), heir.ask("orphans").as_str()), ("true", "Ok((0, 0))"));
    // Adopted, it is like any lock of its new owner, and is not left once more.
    heir.signal(Signal::KILL);
    let next = watcher.lock("space", "name", Mode::Ex, WAIT).expect("the heir has ended");
    assert!(next.token().expect("held") > token);
    drop(next);
    let mut holder = Program::start(&here, "connected");
    holder.token("lock for good");
    let kept = watcher.lock("space", "name", Mode::Nl, WAIT).expect("NL is in nobody's way");
    holder.signal(Signal::KILL);
    until_orphan(&watcher);
    let mut cleaner = Program::start(&here, "connected");
    assert_eq!(cleaner.ask("purge"), "Ok(1)");
    let free = watcher.lock("space", "name", Mode::Ex, WAIT).expect("it was purged");
    assert_eq!(free.value(), None, "the dead could have been writing");
    drop((kept, free));
}

#[test]
fn an_owner_of_a_program_that_ends_leaves_what_is_to_last() {
    let _cluster = cluster("owners", 1);
    let client = connect("owners", 1);
    let (first, second, other) = (client.locks(), client.locks(), connect("owners", 1).locks());
    let lasting = first.lock_lasting("space", "lasting", Mode::Pw, WAIT).expect("free");
    let plain = first.lock("space", "plain", Mode::Ex, WAIT).expect("free");
    let ranges = first.ranges("space", b"file").expect("it is asked for once");
    ranges.lock_range(bytes(0, 9), RangeKind::Exclusive, WAIT).expect("free");
    assert_eq!(first.clone().end(), 3);
    assert!(lasting.check().is_err() && plain.check().is_err(), "they have no owner any more");
    assert_eq!(ranges.lock_range(bytes(0, 9), RangeKind::Exclusive, WAIT), Err(LockError::Lost));
    drop((lasting, plain, ranges));
    drop(other.lock("space", "plain", Mode::Ex, WAIT).expect("what is not to last is released"));
    let object = other.ranges("space", b"file").expect("it is asked for once");
    object.lock_range(bytes(0, 9), RangeKind::Exclusive, WAIT).expect("so are bytes");
    let refused = other.try_lock("space", "lasting", Mode::Pr).map(drop);
    assert_eq!(refused, Err(LockError::WouldBlock), "the orphan is still held");
    let wrong = second.adopt("space", "lasting", Mode::Pr).map(drop);
    assert_eq!(wrong, Err(LockError::Refused(RequestError::NoOrphan { other_mode: true })));
    let adopted = second.adopt("space", "lasting", Mode::Pw).expect("it is there, in this mode");
    adopted.check().expect("it is held");
    let again = other.adopt("space", "lasting", Mode::Pw).map(drop);
    assert_eq!(again, Err(LockError::Refused(RequestError::NoOrphan { other_mode: false })));
    adopted.release(None).expect("held");
    drop(first.lock("space", "lasting", Mode::Ex, WAIT).expect("an owner that ended may begin anew"));
    // No other lock of a program may be such a one.
    let whole = second.lock("space", "whole", Mode::Cw, WAIT).expect("free");
    assert_eq!(
        second.orphans(client.node().expect("it said who it is"), PATIENCE).expect("it answers").0,
        []
    );
    drop(whole);
}

#[test]
fn requests_of_one_transaction_wait_as_one_whoever_makes_them() {
    let _cluster = cluster("transaction", 2);
    let (near, far) = (connect("transaction", 1), connect("transaction", 2));
    let lock = |who: &Locks, name: &str| who.lock("space", name, Mode::Ex, WAIT);
    // Two owners of one transaction, in two connections, and one that is none of it.
    let (mine, helper) =
        (near.locks().in_transaction(7), connect("transaction", 1).locks().in_transaction(7));
    let other = far.locks();
    let (x, y) = (lock(&mine, "x").expect("free"), lock(&other, "y").expect("free"));
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        let one = scope.spawn(|| {
            let end = lock(&helper, "y").map(drop);
            drop(x);
            end
        });
        let two = scope.spawn(|| {
            let end = lock(&other, "x").map(drop);
            drop(y);
            end
        });
        [one, two].into_iter().map(|waiter| waiter.join().expect("it ends")).collect()
    });
    let denied = ends.iter().filter(|end| **end == Err(LockError::Deadlock)).count();
    assert_eq!((denied, ends.iter().filter(|end| end.is_ok()).count()), (1, 1), "{ends:?}");
    // The same without a transaction is no deadlock: it ends in time alone.
    let (mine, helper) = (near.locks(), connect("transaction", 1).locks());
    let (x, y) = (lock(&mine, "x").expect("free"), lock(&other, "y").expect("free"));
    let short = Wait::For(Duration::from_secs(3));
    let ends: Vec<Result<(), LockError>> = thread::scope(|scope| {
        let one = scope.spawn(move || helper.lock("space", "y", Mode::Ex, short).map(drop));
        let two = scope.spawn(|| other.lock("space", "x", Mode::Ex, short).map(drop));
        [one, two].into_iter().map(|waiter| waiter.join().expect("it ends")).collect()
    });
    assert_eq!(ends, [Err(LockError::TimedOut), Err(LockError::TimedOut)]);
    drop((x, y));
}

fn bytes(first: u64, last: u64) -> Range {
    Range::new(first, last).expect("not empty")
}

#[test]
fn the_bytes_of_a_program_that_is_killed_are_free_at_once() {
    let _cluster = cluster("bytes", 1);
    let mut holder = Program::start(&address("bytes", 1), "connected");
    assert_eq!(holder.ask("lock a range"), "Ok(())");
    let locks = connect("bytes", 1).locks();
    let ranges = locks.ranges("space", b"file").expect("it is asked for once");
    let lock = |wait| ranges.lock_range(bytes(0, 99), RangeKind::Shared, wait);
    assert_eq!(lock(Wait::No), Err(LockError::WouldBlock));
    let found = ranges.test_range(bytes(0, 99), RangeKind::Shared);
    assert_eq!(found, Ok(Some((bytes(10, 19), RangeKind::Exclusive))));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| lock(WAIT));
        thread::sleep(MOMENT);
        assert!(!waiter.is_finished(), "the program lives");
        holder.signal(Signal::KILL);
        assert_eq!(waiter.join().expect("it ends"), Ok(()));
    });
}

#[test]
fn who_only_lost_its_connection_keeps_its_bytes_until_it_ends_and_may_not_rely_on_them() {
    let cluster = cluster("cut-bytes", 1);
    let mut holder = Program::start(&address("cut-bytes", 1), "connected");
    assert_eq!(holder.ask("lock a range"), "Ok(())");
    assert_eq!(holder.ask("cut"), "cut");
    holder.ask("await the end");
    assert_eq!(holder.ask("check the range"), "Some(Err(Lost))");
    let locks = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    let ranges = locks.ranges("space", b"file").expect("it is asked for once");
    let late = ranges.lock_range(Range::WHOLE, RangeKind::Shared, Wait::For(MOMENT));
    assert_eq!(late, Err(LockError::TimedOut), "the program may be writing");
    holder.signal(Signal::KILL);
    assert_eq!(ranges.lock_range(Range::WHOLE, RangeKind::Shared, WAIT), Ok(()));
    cluster.node(0).expect("it runs").kill();
    assert_eq!(ranges.held_ranges(), Err(LockError::Lost));
    assert_eq!(ranges.lock_range(Range::WHOLE, RangeKind::Shared, Wait::No), Err(LockError::Lost));
}

/// Asks as a program does that speaks for itself.
fn ask_raw(client: &mut Client, tag: i64, name: &str) -> Result<(), ClientError> {
    let lock: Value = [
        ("tag", Value::from(tag)),
        ("owner", 1.into()),
        ("space", "space".into()),
        ("name", Value::Bytes(name.into())),
        ("above", Value::Nil),
        ("mode", i64::from(Mode::Ex.raw()).into()),
        ("flags", 0.into()),
        ("wait", Value::Nil),
    ]
    .into_iter()
    .collect();
    match client.tell("locks", "lock", Body::Value(lock)) {
        // Once more when something was written.
        Err(ClientError::Full(_)) => Ok(()),
        other => other,
    }
}

fn call(client: &mut Client, method: &str, params: Vec<Value>) -> Value {
    let answer = client.call_wait("", method, Body::Value(params.into()), PATIENCE);
    answer.unwrap_or_else(|why| panic!("{method}: {why}")).into_value().expect("methods answer with values")
}

#[test]
fn an_operator_says_that_a_program_that_closed_its_connection_is_done() {
    let cluster = cluster("operator", 1);
    let at = Address::from(address("operator", 1).as_str());
    let mut client = Client::connect(&at, "careless").expect("the node serves");
    ask_raw(&mut client, 1, "name").expect("it is said");
    ask_raw(&mut client, 2, "another").expect("it is said");
    // Both are granted.
    for _ in 0..2 {
        client.next_event(PATIENCE).expect("it is told");
    }
    let mut operator = Client::connect(&at, "operator").expect("the node serves");
    let programs = call(&mut operator, "node.lock_programs", vec![]);
    let [program] = programs.as_list().expect("a list") else { panic!("one has locks: {programs}") };
    let member = |name| program.get(name).cloned();
    assert_eq!(member("pid"), Some(i64::from(std::process::id()).into()));
    assert_eq!((member("locks"), member("connected")), (Some(2.into()), Some(true.into())));
    let number = member("client").expect("it has a number");
    let confirm = |operator: &mut Client| {
        let params = Body::Value(vec![number.clone(), "ada".into()].into());
        operator.call_wait("", "node.confirm_program_ended", params, PATIENCE)
    };
    assert!(confirm(&mut operator).is_err(), "it is connected");
    drop(client);
    let locks = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    let late = locks.lock("space", "name", Mode::Ex, Wait::For(MOMENT)).map(drop);
    assert_eq!(late, Err(LockError::TimedOut), "this process has not ended");
    confirm(&mut operator).expect("it is not connected");
    drop(locks.lock("space", "name", Mode::Ex, WAIT).expect("somebody said so"));
    assert_eq!(call(&mut operator, "node.lock_programs", vec![]).as_list().map(<[Value]>::len), Some(0));
}

#[test]
fn the_end_of_the_node_is_told_at_once_to_who_holds_and_who_waits() {
    let cluster = cluster("end", 1);
    let client = connect("end", 1);
    let held = client.locks().lock("space", "name", Mode::Ex, WAIT).expect("free");
    held.check().expect("held");
    let (sender, receiver) = mpsc::channel();
    held.on_news(move || _ = sender.send(()));
    let waiting = client.locks().lock_later("space", "name", Mode::Ex, Wait::Forever).expect("it may be");
    receiver.recv_timeout(PATIENCE).expect("another wants it");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    cluster.node(0).expect("it runs").kill();
    assert_eq!(waiting.wait().err(), Some(LockError::Lost));
    receiver.recv_timeout(PATIENCE).expect("it is lost");
    held.check().expect_err("nobody says that it is held");
    held.release(None).expect_err("there is nothing to give back");
    assert_eq!(client.locks().try_lock("space", "name", Mode::Nl).err(), Some(LockError::Lost));
    // The loss was told before the connection ended.
    let until = Instant::now() + PATIENCE;
    while client.ended().is_none() {
        assert!(Instant::now() < until, "the connection outlives the node");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(client.owner().is_err());
}

#[test]
fn a_program_hears_why_each_of_its_requests_waits() {
    let _cluster = cluster("why", 1);
    let (one, other) = (connect("why", 1), connect("why", 1));
    let held = one.locks().lock("space", "name", Mode::Ex, WAIT).expect("free");
    let locks = other.locks();
    assert_eq!(locks.waits(), []);
    let waiting = locks.lock_later("space", "name", Mode::Pr, WAIT).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Pr));
    let waits = locks.waits();
    let [Waiting { reason: WaitReason::BlockedBy(holders), held: None, asked: Mode::Pr, client, .. }] =
        waits.as_slice()
    else {
        panic!("{waits:?}")
    };
    assert_eq!(*client, locks.owner());
    assert_eq!(
        holders.iter().map(|lock| (lock.held, lock.asked)).collect::<Vec<_>>(),
        [(Some(Mode::Ex), None)]
    );
    assert_eq!(one.locks().waits(), [], "others are not its business");
    drop(waiting);
    assert_eq!(locks.waits(), []);
}

#[test]
fn a_program_asks_the_master_on_another_node_what_is_in_its_way() {
    let _cluster = cluster("explain", 2);
    let (near, far) = (connect("explain", 1), connect("explain", 2));
    let held = near.locks().lock("space", "name", Mode::Ex, WAIT).expect("free");
    let locks = far.locks();
    let waiting = locks.lock_later("space", "name", Mode::Pr, WAIT).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Pr));
    let waits = locks.waits_explained(PATIENCE);
    let [Waiting { reason: WaitReason::BlockedBy(locks_in_the_way), .. }] = waits.as_slice() else {
        panic!("{waits:?}")
    };
    let [only] = locks_in_the_way.as_slice() else { panic!("{waits:?}") };
    assert_eq!((Some(only.node), only.held, only.orphan), (near.node(), Some(Mode::Ex), false));
    assert_eq!(near.locks().waits_explained(PATIENCE), [], "others are not its business");
    // Bytes wait for those that are in their way.
    let (mine, theirs) = (near.locks(), far.locks());
    let object = mine.ranges("space", b"file").expect("it is asked for once");
    object.lock_range(bytes(0, 9), RangeKind::Shared, WAIT).expect("free");
    let waits = thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let object = theirs.ranges("space", b"file").expect("it is asked for once");
            object.lock_range(bytes(5, 5), RangeKind::Exclusive, WAIT)
        });
        let until = Instant::now() + PATIENCE;
        let waits = loop {
            let waits = locks.waits_explained(PATIENCE);
            let told = waits.iter().filter(|wait| matches!(wait.reason, WaitReason::BlockedBy(_)));
            if told.count() == 2 || Instant::now() > until {
                break waits;
            }
        };
        object.unlock_range(Range::WHOLE).expect("held");
        assert_eq!(waiter.join().expect("it ends"), Ok(()));
        waits
    });
    let bytes: Vec<_> = waits.iter().filter(|wait| wait.client == theirs.owner()).collect();
    let [Waiting { reason: WaitReason::BlockedBy(in_the_way), asked: Mode::Ex, .. }] = bytes.as_slice()
    else {
        panic!("{waits:?}")
    };
    assert_eq!(
        in_the_way.iter().map(|lock| (Some(lock.node), lock.held)).collect::<Vec<_>>(),
        [(near.node(), Some(Mode::Pr))]
    );
    drop((held, waiting));
}

#[test]
fn tasks_await_locks_of_a_node_and_beside_it_and_what_they_give_up_is_free() {
    let cluster = cluster("tasks", 1);
    let client = connect("tasks", 1);
    let own = cluster.node(0).and_then(ocf::Node::locks).expect("the node has locks");
    let ask = |locks: &Locks| locks.lock_later("space", "name", Mode::Ex, WAIT).expect("it may be asked for");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it starts");
    let tasks = tokio::task::LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        for (holder, waiter) in [(client.locks(), own.clone()), (own.clone(), client.locks())] {
            let held = ask(&holder).await.expect("free");
            let late = tokio::time::timeout(Duration::from_millis(20), ask(&waiter)).await.map(drop);
            assert!(late.is_err(), "others have it");
            let waiting = ask(&waiter);
            assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
            let aborted = tokio::task::spawn_local(async move { waiting.await.map(drop) });
            tokio::task::yield_now().await;
            // Granted now or soon, to a task that does not run again.
            drop(held);
            aborted.abort();
            assert!(aborted.await.expect_err("it was aborted").is_cancelled());
            drop(ask(&client.locks()).await.expect("what a task gives up is free"));
        }
    }));
}

#[test]
fn a_program_that_asks_and_never_reads_is_let_go_and_disturbs_nobody() {
    let _cluster = cluster("flood", 1);
    let at = address("flood", 1);
    let mut flood = Client::connect(&Address::from(at.as_str()), "flood").expect("the node serves");
    let quiet = LockClient::connect(&at, "quiet").expect("the node serves").locks();
    let held = quiet.lock("space", "mine", Mode::Ex, WAIT).expect("free");
    let began = Instant::now();
    let ended = (1..).find_map(|tag| {
        assert!(began.elapsed() < PATIENCE, "it may leave unread as much as it likes");
        if tag % 256 == 0 {
            held.check().expect("another's flood changes nothing");
        }
        // It takes no event: after some thousands nothing is read any more.
        ask_raw(&mut flood, tag, &tag.to_string()).and_then(|()| flood.process()).err()
    });
    assert_eq!(ended, Some(ClientError::Closed));
    let mut operator = Client::connect(&Address::from(at.as_str()), "operator").expect("the node serves");
    let until = Instant::now() + PATIENCE;
    loop {
        let programs = call(&mut operator, "node.lock_programs", vec![]);
        let named = |name: &str| {
            let all = programs.as_list().unwrap_or_default();
            all.iter().find(|program| program.get("name") == Some(&name.into())).cloned()
        };
        let quiet = named("quiet").expect("it holds its lock");
        assert_eq!(quiet.get("connected"), Some(&true.into()));
        let flood = named("flood").expect("its process is this one, and lives");
        if flood.get("connected") == Some(&false.into()) {
            break;
        }
        assert!(Instant::now() < until, "it is never let go");
    }
    held.release(None).expect("another's flood changes nothing");
}

#[test]
fn a_program_has_so_many_locks_and_no_more() {
    const MOST: usize = 16_384;
    let _cluster = cluster("most", 1);
    let locks = connect("most", 1).locks();
    let ask =
        |n: usize| locks.lock_later("space", n.to_string(), Mode::Nl, WAIT).expect("it may be asked for");
    let mut held: Vec<LockGuard> = (0..MOST).map(ask).map(|lock| lock.wait().expect("free")).collect();
    let more = ask(MOST).wait().map(drop);
    assert_eq!(more, Err(RequestError::Limit("PROGRAM_LOCKS_MAX").into()));
    drop(held.pop());
    held.push(ask(MOST).wait().expect("one was given back"));
}

#[test]
fn what_a_program_says_that_means_nothing_is_refused_and_harms_nobody() {
    let _cluster = cluster("nonsense", 1);
    let at = address("nonsense", 1);
    let mut client = Client::connect(&Address::from(at.as_str()), "nonsense").expect("the node serves");
    let said = [Body::default(), Body::Value("lock".into()), Body::Bytes(vec![0; 9].into())];
    for method in ["lock", "convert", "release", "check", "no such method"] {
        for body in &said {
            let answer = client.call_wait("locks", method, body.clone(), PATIENCE);
            answer.expect_err(&format!("{method} {body:?}"));
        }
    }
    let lock = |mode: u8, flags: i64, above: Value| -> Value {
        [
            ("tag", Value::from(9)),
            ("owner", 1.into()),
            ("space", "space".into()),
            ("name", Value::Bytes(b"name".to_vec())),
            ("above", above),
            ("mode", i64::from(mode).into()),
            ("flags", flags.into()),
            ("wait", Value::Nil),
        ]
        .into_iter()
        .collect()
    };
    let ex = Mode::Ex.raw();
    for wrong in [
        lock(77, 0, Value::Nil),
        lock(ex, -1, Value::Nil),
        lock(ex, 1 << 30, Value::Nil),
        lock(ex, 0, 5.into()),
    ] {
        // Told as an event, or refused if it cannot even be read.
        drop(client.call_wait("locks", "lock", Body::Value(wrong), PATIENCE));
    }
    assert_eq!(call(&mut client, "node.lock_programs", vec![]).as_list().map(<[Value]>::len), Some(0));
    let locks = LockClient::connect(&at, "other").expect("the node serves").locks();
    drop(locks.lock("space", "name", Mode::Ex, WAIT).expect("nobody has it"));
}

#[test]
fn a_node_without_locks_says_so() {
    let address = |node: u32| address("none", node);
    let equip = move |builder: ocf::NodeBuilder| {
        let local = Some(address(builder.node().raw()));
        builder.api(ApiConfig { local, ..ApiConfig::default() })
    };
    let _cluster = Cluster::builder("none").equip(equip).local(1).expect("a cluster starts");
    let why = LockClient::connect(&address(1), "test").map(drop).expect_err("it has no locks").to_string();
    assert!(why.contains("NodeBuilder::locks"), "{why}");
}

#[test]
#[ignore = "needs root: it becomes another user"]
fn who_may_not_lock_is_told_which_setting_gives_it() {
    const USER: u32 = 65_534;
    let equip = |locks: Vec<LockUsers>, test: &'static str| {
        move |builder: ocf::NodeBuilder| {
            let local = Some(address(test, builder.node().raw()));
            let api = ApiConfig { local, locks: locks.clone(), ..ApiConfig::default() };
            builder.api(api).locks(ocf_dlm::cluster::Config::default())
        }
    };
    // Where every user can start it.
    let own = std::env::current_exe().expect("this program has a path");
    let copy = std::env::temp_dir().join(format!("ocf-lock-program-{}", std::process::id()));
    std::fs::copy(own, &copy).expect("there is room");
    let start = |at: &str| Program::spawn(Program::command(&copy, at).uid(USER).gid(USER));
    let entry =
        |spaces: &str| LockUsers { spaces: vec![spaces.to_owned()], users: vec![USER], groups: vec![] };
    let _nobody = Cluster::builder("n").equip(equip(vec![], "nobody")).local(1).expect("a cluster starts");
    let mut program = start(&address("nobody", 1));
    let word = program.word();
    assert!(word.contains("may not connect") && word.contains("locks"), "{word}");
    let _other =
        Cluster::builder("o").equip(equip(vec![entry("other*")], "other")).local(1).expect("it starts");
    let mut program = start(&address("other", 1));
    assert_eq!(program.word(), "connected");
    let word = program.ask("lock");
    assert!(word.contains("[[api.locks]]"), "{word}");
    let _these =
        Cluster::builder("t").equip(equip(vec![entry("spa*")], "these")).local(1).expect("it starts");
    let mut program = start(&address("these", 1));
    assert_eq!(program.word(), "connected");
    assert!(program.lock() > FencingToken::default());
    program.ask("release");
    // What lasts in a lockspace that it may not lock in is not its to see, adopt or purge.
    let own = LockClient::connect(&address("other", 1), "own").expect("this user may connect").locks();
    let lasting = own.lock_lasting("space", "name", Mode::Ex, WAIT).expect("this user may lock");
    assert_eq!(own.end(), 1);
    drop(lasting);
    let mut program = start(&address("other", 1));
    assert_eq!(program.word(), "connected");
    let word = program.ask("adopt");
    assert!(word.contains("[[api.locks]]"), "{word}");
    assert_eq!((program.ask("orphans").as_str(), program.ask("purge").as_str()), ("Ok((0, 0))", "Ok(0)"));
    let refused = ["inspect", "purge the resource"].map(|order| program.ask(order));
    assert_eq!(refused, ["Err(NotAllowed)", "Err(NotAllowed)"]);
    let word = program.ask("take part");
    assert!(word.contains("[[api.locks]]"), "{word}");
    std::fs::remove_file(copy).expect("it is there");
}
