//! Goal: the agents for shared RAID controllers run their whole life, with two machines at one controller (ignored: needs root).
//!
//! Method: the agents are those of the distribution. No such controller can be had, so what they call and read is played: the
//! command-line tool of the controller, which keeps in a file who has the drive, and for ServeRAID the kernel's list of SCSI devices,
//! whose paths are put into a copy of the agent.
#![cfg(all(feature = "driver", feature = "testing"))]

use ocf_resource::driver::OcfClass;
use ocf_resource::testing::check_agent;
use ocf_resource::{Action, AgentClass as _, OcfCode, Operation, OperationResult, Outcome, ResourceAgent};
use pils::process::Runner;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const STOPPED: Outcome = Outcome::Failed { code: OcfCode::NotRunning };

/// As `ipssend` answers: a drive is part of the merge group at the machine that has it, and at no other.
const IPSSEND: &str = r#"#!/bin/sh
cd "${0%/*}"
me=$OCF_RESKEY_CRM_meta_on_node
has() { [ "$(cat owner)" = "$me" ]; }
case "$1 $4" in
"getconfig ")
    echo "Logical drive number 2"
    echo "   RAID level                     : $(cat level)"
    ! has || echo "   Part of merge group            : 3"
    ;;
"MERGE PARTNER") ! has && echo "$me" >owner ;;
"MERGE OWN") has ;;
"UNMERGE ") has && echo nobody >owner ;;
"SYNCH ") ;;
*) exit 2 ;;
esac
"#;

/// As `icpclucon` answers.
const ICPCLUCON: &str = r#"#!/bin/sh
cd "${0%/*}"
me=$OCF_RESKEY_CRM_meta_on_node
owner=$(cat owner)
[ "$1" = -v ] && [ "$3" = c0b0t0d0 ] || exit 2
case $2 in
-status)
    case $owner in
    "$me") echo "Drive is reserved by this host." ;;
    nobody) echo "Drive is not reserved by any host." ;;
    *) echo "Drive is reserved by another host." ;;
    esac
    ;;
-reserve) case $owner in "$me" | nobody) echo "$me" >owner ;; *) exit 1 ;; esac ;;
-force) echo "$me" >owner ;;
-release) case $owner in "$me") echo nobody >owner ;; nobody) ;; *) exit 1 ;; esac ;;
*) exit 2 ;;
esac
"#;

/// A folder with a copy of an agent, in which places are replaced, and the tool that is played. Nobody has the drive.
struct Bench {
    folder: PathBuf,
    agent: String,
    parameters: Arc<BTreeMap<String, String>>,
}

impl Bench {
    /// `replaced`: what stands in the agent, and what stands there in the copy, with `@` for this folder.
    fn new(agent: &str, tool: (&str, &str), replaced: &[(&str, &str)]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{agent}-{}", std::process::id()));
        let agents = folder.join("resource.d/heartbeat");
        fs::create_dir_all(&agents).expect("a folder");
        symlink(Path::new(OcfClass::ROOT).join("lib"), folder.join("lib")).expect("a link");
        let original = Path::new(OcfClass::ROOT).join("resource.d/heartbeat").join(agent);
        let mut text = fs::read_to_string(original).expect("the agents of the distribution are installed");
        for (from, to) in replaced {
            assert!(text.contains(from), "{agent} has no {from}");
            text = text.replace(from, &to.replace('@', &folder.display().to_string()));
        }
        let bench = Self { folder, agent: agent.to_owned(), parameters: Arc::default() };
        bench.program(&format!("resource.d/heartbeat/{agent}"), &text);
        bench.program(tool.0, tool.1);
        bench.write("owner", "nobody\n");
        bench
    }

    fn program(&self, name: &str, text: &str) {
        self.write(name, text);
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.join(name), all).expect("it is ours");
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.folder.join(name);
        fs::create_dir_all(file.parent().expect("it is in the folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    fn with(mut self, parameters: &[(&str, &str)]) -> Self {
        let all = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.parameters = Arc::new(all.collect());
        self
    }

    /// One of the machines at the controller.
    fn machine(&self, name: &str) -> Machine {
        let class = OcfClass::new(Runner::new(2).expect("it can start programs"));
        let class = class.with_root(&self.folder).with_node_name(name);
        let agent = format!("ocf:heartbeat:{}", self.agent).parse().expect("a name");
        let parameters = Arc::clone(&self.parameters);
        let operation =
            Operation { timeout: LONG, parameters, ..Operation::new("drive", agent, Action::Monitor) };
        Machine { agent: class.find(&operation.agent).expect("it is there"), operation }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
}

struct Machine {
    agent: Arc<dyn ResourceAgent>,
    operation: Operation,
}

impl Machine {
    fn does(&self, action: Action) -> OperationResult {
        let (say, said) = mpsc::channel();
        let operation = Operation { action, ..self.operation.clone() };
        let _canceller =
            self.agent.begin(&operation, Box::new(move |result| say.send(result).expect("the test listens")));
        said.recv_timeout(LONG * 2).expect("a result")
    }

    fn well(&self, action: Action) {
        let result = self.does(action);
        assert_eq!(result.outcome, Outcome::Ok, "{action}: {}", result.output);
    }

    fn sees(&self) -> Outcome {
        self.does(Action::Monitor).outcome
    }
}

/// One machine runs it, dies, and the other takes the drive; that one gives it back in order.
fn is_taken_over(bench: &Bench) {
    let (alpha, beta) = (bench.machine("alpha"), bench.machine("beta"));
    alpha.well(Action::ValidateAll);
    assert_eq!((alpha.sees(), beta.sees()), (STOPPED, STOPPED));
    alpha.well(Action::Start);
    assert_eq!((alpha.sees(), beta.sees(), bench.read("owner")), (Outcome::Ok, STOPPED, "alpha\n".into()));
    beta.well(Action::Start);
    assert_eq!((alpha.sees(), beta.sees(), bench.read("owner")), (STOPPED, Outcome::Ok, "beta\n".into()));
    beta.well(Action::Stop);
    assert_eq!((alpha.sees(), beta.sees(), bench.read("owner")), (STOPPED, STOPPED, "nobody\n".into()));
}

#[test]
#[ignore = "needs the resource agents of the distribution, and root"]
fn a_drive_of_a_serveraid_controller_that_is_played_is_taken_over_by_its_agent() {
    let replaced = [
        ("ServeRAIDSCSI=\"/proc/scsi/ips\"", "ServeRAIDSCSI=\"@/ips\""),
        ("proc_scsi=/proc/scsi/scsi", "proc_scsi=@/scsi"),
        (" > $proc_scsi", " >> @/orders"),
        ("IPS=ipssend", "IPS=@/ipssend"),
    ];
    let bench = Bench::new("ServeRAID", ("ipssend", IPSSEND), &replaced);
    let bench = bench.with(&[("serveraid", "1"), ("mergegroup", "3")]);
    bench.write("level", "1\n");
    bench.write("ips/2", "");
    let devices = "Attached devices:\nHost: scsi2 Channel: 00 Id: 15 Lun: 00\n  Vendor: IBM      Model: SERVERAID        \
        Rev: 1.00\n  Type:   Processor                        ANSI  SCSI revision: 02\n";
    bench.write("scsi", devices);
    is_taken_over(&bench);
    let orders = bench.read("orders");
    let orders: Vec<_> = orders.lines().collect();
    let (add, remove) = ("scsi add-single-device 2 0 1 0", "scsi remove-single-device 2 0 1 0");
    assert_eq!(orders, [add, add, remove], "the kernel is told of the drive");
    let alpha = bench.machine("alpha");
    check_agent(&*alpha.agent, &alpha.operation).expect("it keeps the rules");
    bench.write("level", "5\n");
    alpha.well(Action::Stop);
    let refused = alpha.does(Action::Start);
    assert_ne!(refused.outcome, Outcome::Ok, "the firmware cannot hand over RAID 5: {}", refused.output);
}

/// A loop device on a file, as what the controller shows.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Self {
        fs::write(file, vec![0; 1 << 20]).expect("a file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup");
        assert!(made.status.success(), "{made:?}");
        Self(String::from_utf8_lossy(&made.stdout).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["--detach", &self.0]).status().expect("losetup");
    }
}

#[test]
#[ignore = "needs the resource agents of the distribution, loop devices and root"]
fn a_drive_of_an_icp_controller_that_is_played_is_taken_over_by_its_agent() {
    // The reservation of the controller that is played is there at once.
    let replaced = [("ICPCLUCON=/usr/sbin/icpclucon", "ICPCLUCON=@/icpclucon"), ("sleep 3", "sleep 0")];
    let bench = Bench::new("ICP", ("icpclucon", ICPCLUCON), &replaced);
    let disk = Loop::new(&bench.folder.join("disk"));
    let bench = bench.with(&[("driveid", "c0b0t0d0"), ("device", &disk.0)]);
    is_taken_over(&bench);
    let alpha = bench.machine("alpha");
    check_agent(&*alpha.agent, &alpha.operation).expect("it keeps the rules");
}
