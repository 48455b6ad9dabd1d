//! Heartbeats of applications: in virtual time, and over the socket with real processes.
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]

use ocf_resource::apphb::{
    AppHeartbeat, Application, Call, CallError, ClientId, Config, EventKind, Input, NAME_MAX, Output,
};
use pils::{Instant, Layer};
use proptest::prelude::*;
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn application(name: &str, user: u32) -> Application {
    Application { name: name.into(), instance: "1".into(), pid: 100, user, group: 0 }
}

struct Bench {
    core: AppHeartbeat,
    now: Instant,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { core: AppHeartbeat::new(config), now: Instant::ZERO }
    }

    fn call(&mut self, client: u64, call: Call) -> Vec<Output> {
        self.core.handle(self.now, Input::Call { client: ClientId(client), call });
        self.outputs()
    }

    fn ok(&mut self, client: u64, call: Call) {
        let client_id = ClientId(client);
        assert_eq!(self.call(client, call), [Output::Answer { client: client_id, result: Ok(()) }]);
    }

    fn refused(&mut self, client: u64, call: Call) -> CallError {
        match &self.call(client, call)[..] {
            [Output::Answer { result: Err(error), .. }] => *error,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass; what is told meanwhile, with when.
    fn pass(&mut self, span: Duration) -> Vec<(Duration, EventKind)> {
        let end = self.now + span;
        let mut told = Vec::new();
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.core.handle_timeout(at);
            for output in self.outputs() {
                if let Output::Event(event) = output {
                    told.push((at - Instant::ZERO, event.kind));
                }
            }
        }
        self.now = end;
        told
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }
}

#[test]
fn silence_is_warned_of_then_missed_once_and_a_beat_ends_it() {
    let mut b = Bench::new(Config::default());
    b.ok(1, Call::Register(application("web", 0)));
    b.ok(1, Call::SetInterval(MS(1000)));
    b.ok(1, Call::SetWarn(MS(600)));
    for _ in 0..20 {
        assert_eq!(b.pass(MS(500)), []);
        assert_eq!(b.call(1, Call::Beat), []);
    }
    let start = b.now - Instant::ZERO;
    assert_eq!(b.pass(MS(5000)), [(start + MS(600), EventKind::Late), (start + MS(1000), EventKind::Missed)]);
    let [Output::Event(again)] = &b.call(1, Call::Beat)[..] else { panic!("nothing told") };
    assert_eq!((again.kind, again.silent), (EventKind::Again, MS(5000)));
    assert_eq!(b.pass(MS(599)), []);
    assert_eq!(b.pass(MS(1)), [(start + MS(5600), EventKind::Late)]);
}

#[test]
fn whoever_is_not_named_may_not_register() {
    let mut b = Bench::new(Config { may_register: Some([0, 17].into()), ..Config::default() });
    assert_eq!(b.refused(1, Call::Register(application("web", 18))), CallError::NotPermitted);
    b.ok(1, Call::Register(application("web", 17)));
    b.ok(2, Call::Register(application("other", 0)));
}

#[test]
fn a_death_is_told_and_a_goodbye_is_not_a_death() {
    let mut b = Bench::new(Config::default());
    b.ok(1, Call::Register(application("a", 0)));
    b.ok(2, Call::Register(application("b", 0)));
    b.core.handle(b.now, Input::Closed(ClientId(1)));
    let kinds = |outputs: Vec<Output>| {
        let kind = |o| if let Output::Event(e) = o { Some(e.kind) } else { None };
        outputs.into_iter().filter_map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(b.outputs()), [EventKind::HangUp]);
    assert_eq!(kinds(b.call(2, Call::Unregister)), [EventKind::Unregistered]);
    b.core.handle(b.now, Input::Closed(ClientId(2)));
    assert_eq!(b.outputs(), []);
    assert_eq!(b.core.poll_timeout(), None);
}

#[test]
fn a_failure_reboots_only_for_those_who_asked_and_may() {
    let mut b = Bench::new(Config { may_reboot: [17].into(), ..Config::default() });
    for (client, user) in [(1, 0), (2, 17), (3, 1000)] {
        b.ok(client, Call::Register(application(&format!("a{client}"), user)));
    }
    b.ok(1, Call::SetReboot(true));
    b.ok(2, Call::SetReboot(true));
    assert_eq!(b.refused(3, Call::SetReboot(true)), CallError::NotPermitted);
    b.ok(3, Call::SetReboot(false));
    b.ok(2, Call::SetReboot(false));
    let mut rebooted = Vec::new();
    for client in 1..=3 {
        b.core.handle(b.now, Input::Closed(ClientId(client)));
        let outputs = b.outputs().into_iter();
        rebooted.extend(outputs.filter_map(|o| {
            if let Output::Reboot(application) = o { Some(application.name.to_string()) } else { None }
        }));
    }
    assert_eq!(rebooted, ["a1"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_numbers_of_heartbeat() {
    let mut b = Bench::new(Config { clients_max: 2, ..Config::default() });
    assert_eq!(b.refused(1, Call::Beat), CallError::NotRegistered);
    assert_eq!(b.refused(1, Call::Unregister).errno(), 9);
    b.ok(1, Call::Register(application("a", 0)));
    assert_eq!(b.refused(1, Call::Register(application("b", 0))).errno(), 17);
    assert_eq!(b.refused(2, Call::Register(application("a", 0))), CallError::Exists);
    assert_eq!(b.refused(2, Call::Register(application("", 0))).errno(), 22);
    assert_eq!(b.refused(2, Call::Register(application(&"x".repeat(NAME_MAX + 1), 0))).errno(), 36);
    b.ok(2, Call::Register(application("b", 0)));
    assert_eq!(b.refused(3, Call::Register(application("c", 0))).errno(), 28);
    assert_eq!(b.refused(1, Call::SetInterval(MS(1))), CallError::Invalid);
    assert_eq!(b.core.status().count(), 2);
}

proptest! {
    /// Whatever is called in whatever order: nobody who beats in time is missed, everybody silent is missed exactly once,
    /// and nothing is told of those who are not registered.
    #[test]
    fn exactly_the_silent_are_missed(steps in proptest::collection::vec((0_u64..4, 0_u8..6, 1_u64..400), 1..200)) {
        let mut b = Bench::new(Config { interval: MS(300), ..Config::default() });
        let mut heard: std::collections::BTreeMap<u64, (Instant, bool)> = Default::default();
        for (client, what, wait) in steps {
            let end = b.now + MS(wait);
            let told = b.pass(MS(wait)).len();
            let mut expected = 0;
            for (at, missed) in heard.values_mut() {
                if !*missed && *at + MS(300) <= end {
                    *missed = true;
                    expected += 1;
                }
            }
            prop_assert_eq!(told, expected);
            match what {
                0 => {
                    b.call(client, Call::Register(application(&client.to_string(), 0)));
                    heard.entry(client).or_insert((b.now, false));
                }
                1 => {
                    b.core.handle(b.now, Input::Closed(ClientId(client)));
                    prop_assert_eq!(b.outputs().len(), usize::from(heard.remove(&client).is_some()));
                }
                _ => {
                    let missed = heard.get(&client).map(|(_, missed)| *missed);
                    let outputs = b.call(client, Call::Beat);
                    prop_assert_eq!(outputs.is_empty(), missed == Some(false));
                    heard.entry(client).and_modify(|h| *h = (b.now, false));
                }
            }
        }
    }
}

#[cfg(feature = "driver")]
mod socket {
    use super::*;
    use ocf_resource::driver::apphb::{AppHeartbeatClient, AppHeartbeatServer, Told};
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{self, Receiver};

    const LONG: Duration = Duration::from_secs(60);

    fn served(test: &str) -> (AppHeartbeatServer, PathBuf, Receiver<Told>) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let (say, said) = mpsc::channel();
        let tell = move |told| say.send(told).unwrap_or_default();
        (AppHeartbeatServer::bind(&path, Config::default(), tell).unwrap(), path, said)
    }

    fn next(said: &Receiver<Told>) -> (String, EventKind) {
        let told = said.recv_timeout(LONG).unwrap();
        let Told::Event(event) = told else { panic!("{told:?}") };
        (event.application.name.to_string(), event.kind)
    }

    #[test]
    fn a_process_registers_falls_silent_comes_back_and_says_goodbye() {
        let (server, path, said) = served("hb");
        let mut client = AppHeartbeatClient::register(&path, "my app", "one").unwrap();
        let again = AppHeartbeatClient::register(&path, "my app", "one").unwrap_err();
        assert_eq!(again.raw_os_error(), Some(17));
        client.set_interval(MS(50)).unwrap();
        assert_eq!(next(&said), ("my app".to_owned(), EventKind::Missed));
        client.set_interval(LONG).unwrap();
        assert_eq!(next(&said), ("my app".to_owned(), EventKind::Again));
        client.beat().unwrap();
        client.unregister().unwrap();
        assert_eq!(next(&said), ("my app".to_owned(), EventKind::Unregistered));
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_process_that_is_killed_is_told_with_the_number_that_the_system_has_for_it() {
        let (_server, path, said) = served("kill");
        let script = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      s.send(b'reg py 1\\n')\nassert s.recv(9)==b'0\\n'\nprint('up',flush=True)\ntime.sleep(600)\n";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script, path.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut up)
            .unwrap();
        assert_eq!(up, "up\n");
        let pid = i32::try_from(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let Told::Event(event) = said.recv_timeout(LONG).unwrap() else { panic!("no event") };
        assert_eq!((event.kind, event.application.pid), (EventKind::HangUp, pid));
    }

    #[test]
    fn nonsense_costs_the_connection_that_says_it_and_no_other() {
        let (_server, path, said) = served("nonsense");
        let mut good = AppHeartbeatClient::register(&path, "good", "").unwrap();
        for bytes in [&b"\xff\xfe\n"[..], b"reg\n", b"reg a b c\nsetint x\nhb\n", &[b'a'; 100_000]] {
            let mut bad = UnixStream::connect(&path).unwrap();
            bad.write_all(bytes).unwrap_or_default();
        }
        good.set_warn(LONG).unwrap();
        good.unregister().unwrap();
        assert_eq!(next(&said), ("good".to_owned(), EventKind::Unregistered));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the end of a connection is read on another thread")]
    fn more_connections_than_applications_are_closed_at_once() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("many-{}", std::process::id()));
        let config = Config { clients_max: 2, ..Config::default() };
        let _server = AppHeartbeatServer::bind(&path, config, |_| {}).unwrap();
        let idle = UnixStream::connect(&path).unwrap();
        let mut first = AppHeartbeatClient::register(&path, "first", "").unwrap();
        assert!(AppHeartbeatClient::register(&path, "second", "").is_err());
        first.set_interval(LONG).unwrap();
        drop(idle);
        // Its place is free as soon as its end was read.
        let freed = (0..12_000).any(|_| {
            std::thread::sleep(MS(5));
            AppHeartbeatClient::register(&path, "second", "").is_ok()
        });
        assert!(freed, "no place becomes free");
    }
}
