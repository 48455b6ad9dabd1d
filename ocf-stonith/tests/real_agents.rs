//! The fence agents that Debian ships, unchanged: their metadata, `fence_dummy`, and `fence_ipmilan` against a simulated
//! management board (OpenIPMI's `ipmi_sim`) on loopback. Needs the packages fence-agents and openipmi.
#![expect(clippy::disallowed_types, reason = "a free UDP port is found by asking the system for one")]
#![expect(clippy::disallowed_methods, reason = "real processes live in real time")]
#![expect(clippy::print_stdout, reason = "measured times are worth a line")]

use ocf_stonith::driver::{Classes, DeviceHost, find_agent, installed_agents, query_metadata};
use ocf_stonith::{AttemptId, Config, DeviceResult, FenceAction, ReadBack, Run};
use pils::field::Fields;
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(120);

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    dir
}

fn ask(parameters: &str, action: FenceAction, timeout: Duration) -> DeviceResult {
    let text = format!(
        "round_budget_ms = 600000\n[[devices]]\nname = 'real'\nclass = 'fence_agent'\nnodes = [{{ node = 2 }}]\n\
         [devices.parameters]\n{parameters}"
    );
    let config: Config = toml::from_str(&text).expect("a well-formed test configuration");
    assert_eq!(Classes::default().check(&config), Ok(()));
    let (tell, told) = channel();
    let runner = Runner::new(4).expect("a thread");
    let report = move |report| tell.send(report).expect("the test listens");
    let host = DeviceHost::new(&config, &Classes::default(), &runner, report).expect("devices");
    let target = NodeInstance::new(NodeId::new(2), Incarnation::new(7));
    host.run(Run { attempt: AttemptId(1), device: "real".into(), action, target, plug: None, timeout });
    told.recv_timeout(timeout + LONG).expect("an answer").result
}

fn state(result: DeviceResult) -> ReadBack {
    match result {
        DeviceResult::Done { read_back, .. } => read_back,
        DeviceResult::Hosts { hosts } => panic!("a list: {hosts:?}"),
        DeviceResult::Failed(failure) => panic!("{failure}"),
    }
}

#[test]
#[ignore = "needs fence-agents"]
fn the_metadata_of_every_installed_agent_is_understood() {
    let runner = Runner::new(2).unwrap();
    let (tell, told) = channel();
    let agents = installed_agents();
    assert!(agents.len() > 50, "only {} agents are installed", agents.len());
    for name in &agents {
        let (tell, name) = (tell.clone(), name.clone());
        let program = find_agent(&name).expect("it is installed");
        query_metadata(&runner, program, LONG * 5, move |m| tell.send((name, m)).expect("the test listens"));
    }
    drop(tell);
    let (mut good, mut bad) = (0, Vec::new());
    for (name, metadata) in told {
        match metadata {
            // Those that are linked to another agent print its name.
            Ok(m) if !m.name.is_empty() && !m.parameters.is_empty() && !m.actions.is_empty() => {
                good += 1;
                let fields = m.fields();
                assert_eq!(Fields::from_value(&fields.to_value()).as_ref(), Ok(&fields), "{name}");
                assert!(m.parameters.iter().all(|p| fields.get(&p.name).is_some()), "{name}");
                pils::testing::check_forms(&fields);
            }
            Ok(m) => {
                bad.push(format!("{name}: {} parameters, {} actions", m.parameters.len(), m.actions.len()));
            }
            Err(error) => bad.push(format!("{name}: {error}")),
        }
    }
    assert_eq!(good + bad.len(), agents.len());
    // A tool for a person, which has no metadata.
    bad.retain(|line| !line.starts_with("fence_ack_manual: "));
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
#[ignore = "needs fence-agents"]
fn fence_dummy_is_switched_off_and_on() {
    let dir = scratch("fence-dummy");
    let file = dir.join("status");
    fs::write(&file, "on").unwrap();
    let parameters = format!("agent = 'fence_dummy'\nstatus_file = '{}'", file.display());
    for (action, expected) in [
        (FenceAction::Status, ReadBack::On),
        (FenceAction::Off, ReadBack::Off),
        (FenceAction::Status, ReadBack::Off),
        (FenceAction::On, ReadBack::On),
        (FenceAction::Reboot, ReadBack::Off),
        (FenceAction::Status, ReadBack::On),
    ] {
        assert_eq!(state(ask(&parameters, action, LONG)), expected, "{action}");
    }
    let broken = ask("agent = 'fence_dummy'\ntype = 'fail'", FenceAction::Off, LONG);
    assert!(matches!(broken, DeviceResult::Failed(_)), "{broken:?}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
#[ignore = "needs fence-agents"]
fn what_a_real_agent_needs_is_told_before_it_is_called() {
    let said = |nodes: &str, parameters: &str| {
        let text = format!(
            "[[devices]]\nname='real'\nclass='fence_agent'\nnodes={nodes}\n[devices.parameters]\n{parameters}"
        );
        let errors =
            Classes::default().check(&toml::from_str(&text).expect("well-formed")).err().unwrap_or_default();
        errors.0.iter().map(|e| (e.path.clone(), e.fix.clone())).collect::<Vec<_>>()
    };
    let paths = |found: &[(String, String)]| found.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let nothing = said("[{ node = 2 }]", "agent = 'fence_apc'\nip_addr = '192.0.2.7'");
    let expected = ["parameters.ip", "parameters.username", "parameters.ip_addr", "nodes[0].plug"];
    assert_eq!(paths(&nothing), expected.map(|path| format!("devices[0].{path}")), "{nothing:?}");
    assert!(nothing[0].1.starts_with("write ip = "), "{nothing:?}");
    for (address, user) in [("ip", "username"), ("ipaddr", "login")] {
        let good = format!("agent = 'fence_apc'\n{address} = '192.0.2.7'\n{user} = 'apc'");
        assert_eq!(said("[{ node = 2, plug = '7' }]", &good), []);
    }
    let typo = said("[{ node = 2 }]", "agent = 'fence_ipmilan'\nip = '192.0.2.7'\nlan_plus = true");
    assert_eq!(paths(&typo), ["devices[0].parameters.lan_plus"]);
}

/// A simulated management board; the file `power` in its directory is the machine.
struct Board {
    dir: PathBuf,
    port: u16,
    process: Child,
}

impl Board {
    fn start() -> Self {
        let dir = scratch("fence-board");
        fs::create_dir_all(dir.join("state")).expect("a directory");
        let port = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound").port();
        fs::write(dir.join("power"), "1").expect("a file");
        let switch = "case \"$1 $2\" in\n\
            'get power') echo \"power:$(cat \"$(dirname \"$0\")/power\")\" ;;\n\
            'set power') echo \"$3\" >\"$(dirname \"$0\")/power\" ;;\n\
            'check power') ;;\n*) exit 1 ;;\nesac\n";
        fs::write(dir.join("switch"), switch).expect("a file");
        let auth = |level| format!("allowed_auths_{level} none md2 md5 straight\n");
        let auths: String = ["callback", "user", "operator", "admin"].into_iter().map(auth).collect();
        let lan = format!(
            "name \"board\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n{auths}\
             guid 00112233445566778899aabbccddeeff\nendlan\n\
             chassis_control \"/bin/sh {}/switch\"\n\
             user 2 true \"admin\" \"right\" admin 10 none md2 md5 straight\n",
            dir.display()
        );
        fs::write(dir.join("lan"), lan).expect("a file");
        let device = "mc_setbmc 0x20\n\
            mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n";
        fs::write(dir.join("device"), device).expect("a file");
        let process = Command::new("ipmi_sim")
            .arg("-n")
            .arg("-c")
            .arg(dir.join("lan"))
            .arg("-f")
            .arg(dir.join("device"))
            .arg("-s")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ipmi_sim of the package openipmi");
        let board = Self { dir, port, process };
        board.wait();
        board
    }

    fn wait(&self) {
        let start = Instant::now();
        while start.elapsed() < LONG {
            let status = ask(&self.parameters("right"), FenceAction::Status, LONG);
            if matches!(status, DeviceResult::Done { .. }) {
                return;
            }
        }
        panic!("the board does not answer");
    }

    fn parameters(&self, password: &str) -> String {
        format!(
            "agent = 'fence_ipmilan'\nip = '127.0.0.1'\nipport = {}\nusername = 'admin'\npassword = '{password}'\n\
             lanplus = true\ncipher = 3\npower_timeout = 20",
            self.port
        )
    }

    fn power(&self) -> String {
        fs::read_to_string(Path::new(&self.dir).join("power")).expect("a file").trim().to_owned()
    }

    fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.dir).expect("our own directory");
    }
}

#[test]
#[ignore = "needs fence-agents and ipmi_sim"]
fn a_management_board_fences_and_a_dead_or_locked_one_is_unknown() {
    let mut board = Board::start();
    let right = board.parameters("right");
    assert_eq!(state(ask(&right, FenceAction::Status, LONG)), ReadBack::On);
    let began = Instant::now();
    assert_eq!(state(ask(&right, FenceAction::Off, LONG)), ReadBack::Off);
    println!("off, read back: {:?}", began.elapsed());
    assert_eq!(board.power(), "0");
    assert_eq!(state(ask(&right, FenceAction::Status, LONG)), ReadBack::Off);
    assert_eq!(state(ask(&right, FenceAction::On, LONG)), ReadBack::On);
    assert_eq!(board.power(), "1");

    let locked = ask(&board.parameters("wrong-word"), FenceAction::Off, LONG);
    let DeviceResult::Failed(failure) = locked else { panic!("{locked:?}") };
    assert!(!failure.to_string().contains("wrong-word"), "{failure}");
    assert_eq!(board.power(), "1");

    board.kill();
    let (limit, began) = (Duration::from_secs(3), Instant::now());
    let dead = ask(&right, FenceAction::Off, limit);
    assert!(matches!(dead, DeviceResult::Failed(_)), "{dead:?}");
    assert!(began.elapsed() < limit + Duration::from_secs(20), "{:?}", began.elapsed());
    println!("dead board: {dead:?} after {:?}", began.elapsed());
    assert_eq!(board.power(), "1");
}
