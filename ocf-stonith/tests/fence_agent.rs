//! The class `fence_agent` against an agent written for the purpose, a shell script in a directory of its own: the input
//! protocol, and every way in which an agent can misbehave. Real processes; no test depends on how fast the machine is.
#![expect(clippy::disallowed_methods, reason = "real processes live in real time")]

use ocf_stonith::driver::{AgentQueryError, Classes, DeviceHost, query_metadata};
use ocf_stonith::{
    AttemptId, Config, DeviceReport, DeviceResult, Failure, FenceAction, ReadBack, Run, testing,
};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

/// Switches the file `power`; writes what it reads to `log`, if it is no question about itself; does what the file `mode` says.
const AGENT: &str = r#"
here=$(dirname "$0")
while IFS= read -r line; do
    echo "$line" >>"$here/log"
    case $line in action=*) action=${line#action=} ;; password=*) password=${line#password=} ;; esac
done
echo "-- $# $PATH" >>"$here/log"
mode=$(cat "$here/mode")
case $mode:$action in
    garbled:metadata) echo '<resource-agent' ;;
    meets:metadata) # both are asked at once, or neither ever answers
        echo x >"$here/../$(basename "$here").asked"
        other=$(cat "$here/other")
        until [ -e "$here/../$other.asked" ]; do sleep 0.05; done
        cat "$here/metadata"; rm "$here/log" ;;
    *:metadata) cat "$here/metadata"; rm "$here/log" ;;
    hang:*|hang-status:status) echo $$ >"$here/pid"; sleep 300 & wait ;;
    stubborn:*) echo $$ >"$here/pid"; trap '' TERM; while :; do sleep 1; done ;;
    garbage:status) head -c 3000 /dev/urandom; exit 7 ;;
    flood:off) head -c 20000000 /dev/zero | tr '\0' 'x'; echo the end >&2; exit 1 ;;
    dies:off) kill -9 $$ ;;
    lies:off) exit 0 ;;
    tells:off) echo "cannot log in with $password" >&2; exit 1 ;;
    no-status:status) echo "unknown action" >&2; exit 1 ;;
    broken-status:status) echo "sh: cannot open agent" >&2; exit 2 ;;
    no-on:on) echo "no power" >&2; exit 1 ;;
    *:off|*:on) echo "$action" >"$here/power" ;;
    *:status)
        echo "Status: $(tr a-z A-Z <"$here/power")"
        [ "$(cat "$here/power")" = on ] || exit 2 ;;
    *) exit 1 ;;
esac
"#;

/// What the agent says about itself.
const METADATA: &str =
    r#"<resource-agent name="fence_fake"><actions><action name="off"/></actions></resource-agent>"#;

struct Fake {
    dir: PathBuf,
}

impl Fake {
    fn new(mode: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fence-fake-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let fake = Self { dir: std::env::temp_dir().join(name) };
        fs::create_dir_all(&fake.dir).expect("a directory");
        fake.install("/bin/sh", AGENT);
        fs::write(fake.dir.join("power"), "on").expect("a file");
        fs::write(fake.dir.join("metadata"), METADATA).expect("a file");
        fs::write(fake.dir.join("mode"), mode).expect("a file");
        fake
    }

    /// Another process writes the file: if this one had it open, a child that is just being started would hold it
    /// open for writing, and then it cannot be executed.
    fn install(&self, interpreter: &str, script: &str) {
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
            .arg(self.agent())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let text = format!("#!{interpreter}\n{script}");
        writer.stdin.take().expect("it was asked for").write_all(text.as_bytes()).expect("it reads");
        assert!(writer.wait().expect("it ends").success());
    }

    fn agent(&self) -> PathBuf {
        self.dir.join("fence_fake")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default().trim().to_owned()
    }

    fn config(&self, more: &str) -> Config {
        let agent = self.agent();
        let text = format!(
            "[[devices]]\nname = 'fake'\nclass = 'fence_agent'\nnodes = [{{ node = 2, plug = '7' }}]\n\
             [devices.parameters]\nagent = '{}'\npassword = 'hunter2 '\n{more}",
            agent.display()
        );
        toml::from_str(&text).expect("a well-formed test configuration")
    }

    fn host(&self, more: &str) -> (DeviceHost, Receiver<DeviceReport>) {
        let config = self.config(more);
        assert_eq!(Classes::default().check(&config), Ok(()));
        let (tell, told) = channel();
        let runner = Runner::new(4).expect("a thread");
        let report = move |report| tell.send(report).expect("the test listens");
        (DeviceHost::new(&config, &Classes::default(), &runner, report).expect("devices"), told)
    }

    fn ask(&self, more: &str, action: FenceAction, timeout: Duration) -> DeviceResult {
        let (host, told) = self.host(more);
        host.run(run(action, timeout));
        told.recv_timeout(LONG).expect("an answer").result
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).expect("our own directory");
    }
}

fn run(action: FenceAction, timeout: Duration) -> Run {
    let target = NodeInstance::new(NodeId::new(2), Incarnation::new(7));
    Run { attempt: AttemptId(1), device: "fake".into(), action, target, plug: Some("7".into()), timeout }
}

fn off(mode: &str, more: &str) -> DeviceResult {
    Fake::new(mode).ask(more, FenceAction::Off, LONG)
}

/// Waits until a process has gone; a zombie counts as gone.
fn gone(pid: &str) -> bool {
    let start = Instant::now();
    while start.elapsed() < LONG {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn off_is_confirmed_by_reading_the_state_back() {
    let fake = Fake::new("works");
    let result = fake.ask("ip = '192.0.2.1'\npower_wait = 0", FenceAction::Off, LONG);
    let DeviceResult::Done { read_back: ReadBack::Off, detail } = result else { panic!("{result:?}") };
    assert_eq!(&*detail, "Status: OFF");
    let log = fake.read("log");
    let runs: Vec<_> = log.split("-- ").collect();
    assert_eq!(runs[0], "action=off\nip=192.0.2.1\npassword=\"hunter2 \"\npower_wait=0\nplug=7\n");
    assert!(runs[1].starts_with("0 /usr"), "no arguments, so no secrets in the process list: {log}");
    assert!(runs[1].contains("action=status"), "{log}");
    assert_eq!(runs.len(), 3, "two runs: {log}");
}

#[test]
fn on_and_status_tell_the_state() {
    let fake = Fake::new("works");
    let read = |action| match fake.ask("", action, LONG) {
        DeviceResult::Done { read_back, .. } => read_back,
        DeviceResult::Hosts { hosts } => panic!("a list: {hosts:?}"),
        DeviceResult::Failed(failure) => panic!("{failure}"),
    };
    assert_eq!(read(FenceAction::Status), ReadBack::On);
    assert_eq!(read(FenceAction::Off), ReadBack::Off);
    assert_eq!(read(FenceAction::Status), ReadBack::Off);
    assert_eq!(read(FenceAction::On), ReadBack::On);
}

#[test]
fn a_reboot_is_off_read_back_then_on() {
    let fake = Fake::new("works");
    let result = fake.ask("", FenceAction::Reboot, LONG);
    let DeviceResult::Done { read_back: ReadBack::Off, detail } = result else { panic!("{result:?}") };
    assert_eq!(&*detail, "Status: OFF; switched on again");
    assert_eq!(fake.read("power"), "on");
}

#[test]
fn a_reboot_that_stays_off_is_fenced_and_says_so() {
    let result = Fake::new("no-on").ask("", FenceAction::Reboot, LONG);
    let DeviceResult::Done { read_back: ReadBack::Off, detail } = result else { panic!("{result:?}") };
    assert!(detail.contains("not switched on again: exit code 1: no power"), "{detail}");
}

#[test]
fn the_plug_goes_by_the_name_that_the_agent_uses() {
    let fake = Fake::new("works");
    fake.ask("plug_parameter = 'nodename'", FenceAction::Status, LONG);
    assert!(fake.read("log").contains("\nnodename=7\n"), "{}", fake.read("log"));
    assert!(!fake.read("log").contains("plug_parameter"), "what is for the class stays here");
}

#[test]
fn success_of_an_agent_whose_node_stays_on_is_a_failure() {
    assert_eq!(off("lies", ""), DeviceResult::Failed(Failure::StillOn));
}

#[test]
fn an_agent_without_status_confirms_only_if_the_operator_trusts_it() {
    for mode in ["no-status", "broken-status", "garbage"] {
        let result = off(mode, "");
        assert!(matches!(result, DeviceResult::Failed(Failure::NotVerified { .. })), "{mode}: {result:?}");
    }
    for (verify, expected) in [("trust", ReadBack::Trusted), ("none", ReadBack::NotRead)] {
        let result = off("no-status", &format!("verify = '{verify}'"));
        let DeviceResult::Done { read_back, .. } = result else { panic!("{result:?}") };
        assert_eq!(read_back, expected);
    }
}

#[test]
fn secrets_do_not_come_back_in_what_the_agent_says() {
    let fake = Fake::new("tells");
    let result = fake.ask("", FenceAction::Off, LONG);
    let DeviceResult::Failed(failure) = result else { panic!("{result:?}") };
    // The agent got `"hunter2 "` and printed it in quotes.
    assert_eq!(failure.to_string(), "exit code 1: cannot log in with \"*** \"");
    assert!(!format!("{:?}", fake.config("")).contains("hunter2"));
    let (host, _told) = fake.host("");
    assert!(!format!("{host:?}").contains("hunter2"));
}

#[test]
fn a_flood_of_output_is_kept_short() {
    let DeviceResult::Failed(failure) = off("flood", "") else { panic!("no failure") };
    assert_eq!(failure.to_string(), "exit code 1: the end");
}

#[test]
fn an_agent_that_dies_has_failed() {
    assert_eq!(off("dies", ""), DeviceResult::Failed(Failure::Died { signal: 9 }));
}

#[test]
fn a_hanging_agent_is_killed_and_counts_as_unknown() {
    let after = Duration::from_millis(300);
    for mode in ["hang", "stubborn", "hang-status"] {
        let fake = Fake::new(mode);
        let result = fake.ask("", FenceAction::Off, Duration::from_millis(300));
        assert_eq!(result, DeviceResult::Failed(Failure::TimedOut { after }), "{mode}");
        let pid = fake.read("pid");
        assert!(pid.is_empty() || gone(&pid), "{mode}: process {pid} is left behind");
    }
}

#[test]
fn a_cancelled_agent_is_killed() {
    let fake = Fake::new("hang");
    let (host, told) = fake.host("");
    host.run(run(FenceAction::Off, LONG));
    while fake.read("pid").is_empty() {
        std::thread::yield_now();
    }
    host.cancel(AttemptId(1));
    assert_eq!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(Failure::Cancelled));
    assert!(gone(&fake.read("pid")));
}

#[test]
fn an_agent_that_is_gone_is_named_with_its_package() {
    let missing = |agent: &str| {
        let package = Some(Arc::from("fence-agents"));
        DeviceResult::Failed(Failure::AgentMissing { agent: agent.into(), package })
    };
    let fake = Fake::new("works");
    let path = fake.agent().display().to_string();
    let (host, told) = fake.host("");
    fs::remove_file(fake.agent()).unwrap();
    host.run(run(FenceAction::Off, LONG));
    assert_eq!(told.recv_timeout(LONG).unwrap().result, missing(&path));
    fake.install("/no/such/interpreter", AGENT);
    host.run(run(FenceAction::Off, LONG));
    assert_eq!(told.recv_timeout(LONG).unwrap().result, missing(&path));
    fs::set_permissions(fake.agent(), fs::Permissions::from_mode(0o644)).unwrap();
    host.run(run(FenceAction::Off, LONG));
    let result = told.recv_timeout(LONG).unwrap().result;
    assert!(
        matches!(&result, DeviceResult::Failed(Failure::Failed { detail }) if detail.contains("permission"))
    );
}

#[test]
fn fence_agents_keep_the_rules_of_a_device() {
    let runner = Runner::new(4).unwrap();
    for mode in ["works", "lies", "no-status", "dies"] {
        let fakes = std::cell::RefCell::new(Vec::new());
        let subject =
            testing::Subject { node: NodeId::new(2), plug: Some("7".into()), ..testing::Subject::default() };
        testing::check_with(&subject, || {
            let fake = Fake::new(mode);
            let config = fake.config("");
            fakes.borrow_mut().push(fake);
            let classes = Classes::default();
            classes.find("fence_agent").expect("a class").open(&config.devices[0], &runner).expect("a device")
        });
    }
}

#[test]
fn metadata_is_asked_for_and_read() {
    let fake = Fake::new("works");
    let runner = Runner::new(1).unwrap();
    let ask = || {
        let (tell, told) = channel();
        query_metadata(&runner, fake.agent(), LONG, move |m| tell.send(m).expect("the test listens"));
        told.recv_timeout(LONG).unwrap()
    };
    let metadata = ask().unwrap();
    assert_eq!(metadata.name, "fence_fake");
    assert!(metadata.has_action("off"));
    fake.install("/bin/sh", "echo none; exit 1");
    let failed = ask().unwrap_err();
    assert!(matches!(failed, AgentQueryError::Agent { .. }), "{failed}");
}

/// What `Classes::check` finds wrong with a device of an agent that says this about its parameters.
fn found(fake: &Fake, parameters: &str, config: &Config) -> Vec<String> {
    let metadata =
        format!("<resource-agent name=\"fence_fake\"><parameters>{parameters}</parameters></resource-agent>");
    fs::write(fake.dir.join("metadata"), metadata).expect("a file");
    let errors = Classes::default().check(config).err().unwrap_or_default();
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn what_an_agent_needs_and_what_it_does_not_know_is_told_before_it_is_asked_to_fence() {
    let fake = Fake::new("works");
    let parameters = r#"
        <parameter name="action" required="1"/><parameter name="password"/>
        <parameter name="plug" required="1" obsoletes="port"/><parameter name="port" required="1" deprecated="1"/>
        <parameter name="ip" required="1" obsoletes="ipaddr"><shortdesc>address of the board</shortdesc></parameter>
        <parameter name="ipaddr" required="1" deprecated="1"/>
        <parameter name="login" required="1"><content type="string" default="admin"/></parameter>"#;
    assert_eq!(
        found(&fake, parameters, &fake.config("ip_addr = '192.0.2.7'")),
        [
            "devices[0].parameters.ip: is missing, and fence_fake needs it; write ip = \"...\": address of the board",
            "devices[0].parameters.ip_addr: is not a parameter of fence_fake; known are action, password, plug, ip, login",
        ]
    );
    for name in ["ip", "ipaddr"] {
        assert_eq!(
            found(&fake, parameters, &fake.config(&format!("{name} = '192.0.2.7'"))),
            [""; 0],
            "{name}"
        );
    }
    let mut without_plug = fake.config("ip = '192.0.2.7'");
    without_plug.devices[0].nodes = ocf_stonith::Targets::List(vec![ocf_stonith::TargetConfig {
        node: NodeId::new(2),
        plug: None,
        delay_ms: 0,
    }]);
    assert_eq!(
        found(&fake, parameters, &without_plug),
        ["devices[0].nodes[0].plug: is missing, and fence_fake needs it; write { node = 2, plug = \"...\" }"]
    );
    let calls_it_port = r#"<parameter name="password"/><parameter name="port" required="1"/>"#;
    assert_eq!(
        found(&fake, calls_it_port, &fake.config("")),
        ["devices[0].parameters.plug_parameter = plug: is not what fence_fake calls a plug; \
             write plug_parameter = \"port\""]
    );
    assert_eq!(found(&fake, calls_it_port, &fake.config("plug_parameter = 'port'")), [""; 0]);
    assert_eq!(fake.read("log").matches("action=off").count(), 0, "nothing was fenced");
}

#[test]
fn an_agent_that_cannot_describe_itself_is_used_all_the_same() {
    let fake = Fake::new("garbled");
    assert_eq!(Classes::default().check(&fake.config("anything = 1")), Ok(()));
}

/// Each waits until the other is asked, too: one after the other, both would take the ten seconds that one has.
#[test]
fn agents_describe_themselves_at_the_same_time_and_each_mistake_stays_with_its_device() {
    let fakes = [Fake::new("meets"), Fake::new("meets")];
    let mut config = Config::default();
    for (fake, other) in fakes.iter().zip(fakes.iter().rev()) {
        let name = other.dir.file_name().expect("a directory").to_string_lossy().into_owned();
        fs::write(fake.dir.join("other"), name).expect("a file");
        let mut device = fake.config("colour = 'red'").devices.remove(0);
        device.name = format!("d{}", config.devices.len());
        config.devices.push(device);
    }
    fs::write(fakes[1].dir.join("metadata"), METADATA).expect("a file");
    let knows = "<resource-agent name=\"fence_fake\"><parameters><parameter name=\"password\"/>\
        <parameter name=\"plug\"/></parameters></resource-agent>";
    fs::write(fakes[0].dir.join("metadata"), knows).expect("a file");
    let errors = Classes::default().check(&config).err().unwrap_or_default();
    for fake in &fakes {
        let mark = fake.dir.with_extension("asked");
        fs::remove_file(mark).expect("it was asked");
    }
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["devices[0].parameters.colour"], "the other describes no parameters: {errors}");
}
