//! Persistent reservations on a disk that the kernel offers over iSCSI to two initiators, each of which stands for a node.

use crate::machine::{inside, said, sh, wait_for};
use ocf_stonith::driver::{Classes, DeviceHost, SgPersist};
use ocf_stonith::{
    AttemptId, Config, DeviceResult, Failure, FenceAction, Operation, ReadBack, Reservations as _,
    ResourceFence as _, ScsiFence, key_of,
};
use pils::NodeId;
use pils::process::Runner;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const CLUSTER: u32 = 0x1a2b;
const LONG: Duration = Duration::from_secs(30);

/// One disk in memory, offered by the kernel over iSCSI, and two initiators of this machine that log in.
const SHARED_DISK: &str = r"
modprobe -a crc32c_generic target_core_mod iscsi_target_mod iscsi_tcp sd_mod sg
mount -t configfs config /sys/kernel/config
disk=/sys/kernel/config/target/core/rd_mcp_0/shared
mkdir -p $disk
echo rd_pages=1024 >$disk/control
echo shared-by-two >$disk/wwn/vpd_unit_serial
echo 1 >$disk/enable
target=/sys/kernel/config/target/iscsi/iqn.2026-01.test:shared/tpgt_1
mkdir -p $target/lun/lun_0 $target/np/127.0.0.1:3260
ln -s $disk $target/lun/lun_0/shared
echo 0 >$target/attrib/authentication
echo 0 >$target/attrib/demo_mode_write_protect
echo 1 >$target/attrib/generate_node_acls
echo 1 >$target/enable
mkdir -p /run/lock/iscsi
iscsid
for node in 1 2; do
    iscsiadm -m iface -I node$node --op=new
    iscsiadm -m iface -I node$node --op=update -n iface.initiatorname -v iqn.2026-01.test:node$node
done
iscsiadm -m discovery -t sendtargets -p 127.0.0.1 -I node1 -I node2
iscsiadm -m node --login
";

/// Makes a shared disk; the device files by which each of two nodes sees it.
fn shared_disk() -> [String; 2] {
    sh(SHARED_DISK);
    [1, 2].map(|node| {
        let line = format!(
            "cd /sys/class/iscsi_session/$(cd /sys/class/iscsi_session && grep -l ':node{node}$' */initiatorname | cut -d/ -f1)\n\
             ls device/target*/*/block"
        );
        let mut name = String::new();
        wait_for("the disk of a node", || {
            let output = Command::new("sh").args(["-ec", &line]).output().expect("a shell");
            String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut name);
            !name.is_empty()
        });
        format!("/dev/{name}")
    })
}

/// Writes a block on the disk, past the memory of the machine, and says what the system said.
fn write(disk: &str, letter: char) -> Result<(), String> {
    let line = format!(
        "head -c 4096 /dev/zero | tr '\\0' {letter} | dd of={disk} bs=4096 count=1 oflag=direct iflag=fullblock"
    );
    let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn read(disk: &str) -> String {
    let mut dd = Command::new("dd");
    said(dd.arg(format!("if={disk}")).args(["bs=4096", "count=1", "iflag=direct"]))
}

fn refused(written: Result<(), String>) {
    let said = written.expect_err("it wrote");
    assert!(said.contains("Invalid exchange"), "a reservation is told as that: {said}");
}

fn node(n: u32, disk: &str, runner: &Runner) -> ScsiFence<SgPersist> {
    let commands = SgPersist::new("/usr/bin/sg_persist", runner, LONG);
    ScsiFence::new(commands, [Arc::from(disk)], NodeId::new(n), CLUSTER)
}

#[test]
#[ignore = "needs qemu and a kernel of the distribution in the target folder"]
fn a_node_whose_key_is_taken_from_a_disk_writes_there_no_more_and_the_others_do() {
    inside(|| {
        let [first, second] = shared_disk();
        let runner = Runner::new(2).expect("it can start programs");
        let (one, two) = (node(1, &first, &runner), node(2, &second, &runner));
        let commands = SgPersist::new("/usr/bin/sg_persist", &runner, LONG);
        assert_eq!((commands.keys(&first), commands.reservation(&first)), (Ok(vec![]), Ok(None)));
        write(&second, 'a').expect("nobody has reserved the disk");
        assert!(read(&first).starts_with('a'), "it is one disk");
        two.grant(NodeId::new(2)).expect("it registers itself");
        refused(write(&first, 'b'));
        one.grant(NodeId::new(1)).expect("it registers itself");
        write(&first, 'c').expect("it is registered");
        write(&second, 'd').expect("it is registered");
        assert_eq!(one.has_access(NodeId::new(2)), Ok(true));
        for _ in 0..2 {
            one.revoke(NodeId::new(2)).expect("its key is gone");
            assert_eq!(one.has_access(NodeId::new(2)), Ok(false));
            refused(write(&second, 'e'));
        }
        write(&first, 'f').expect("who took the key writes");
        assert!(read(&second).starts_with('f'), "whose key is gone may read");
        assert_eq!(commands.keys(&second), Ok(vec![key_of(CLUSTER, NodeId::new(1))]));
        let taken = commands.preempt_and_abort(
            &second,
            key_of(CLUSTER, NodeId::new(2)),
            key_of(CLUSTER, NodeId::new(1)),
        );
        assert!(
            matches!(&taken, Err(Failure::Failed { detail }) if detail.contains("conflict")),
            "{taken:?}"
        );
        two.grant(NodeId::new(2)).expect("it comes back by registering itself");
        write(&second, 'g').expect("it is registered again");
        by_configuration(&first, &second, &runner);
    });
}

/// The same by a device of the class `scsi`: this machine is node 1.
fn by_configuration(first: &str, second: &str, runner: &Runner) {
    let config = format!(
        "round_budget_ms = 90000\n[[devices]]\nname = 'disk'\nclass = 'scsi'\nunfence = true\n\
         nodes = [{{ node = 1, plug = 'machine' }}, {{ node = 2, plug = 'other' }}]\n\
         parameters = {{ disks = '{first}', cluster = '0x1a2b' }}\n"
    );
    let config: Config = toml::from_str(&config).expect("well-formed");
    Classes::default().check(&config).expect("nothing is wrong with it");
    let host = DeviceHost::new(&config, &Classes::default(), runner, |_report| {}).expect("it can be made");
    let device = host.device("disk").expect("it was configured");
    let does = |attempt, action, node| {
        let (tell, told) = channel();
        let node = NodeId::new(node);
        let operation = Operation { attempt: AttemptId(attempt), action, node, plug: None, timeout: LONG };
        device.execute(operation, Box::new(move |result| tell.send(result).expect("the test listens")));
        told.recv_timeout(LONG * 2).expect("an answer")
    };
    for (attempt, action, node, wanted) in [
        (1, FenceAction::Status, 2, ReadBack::On),
        (2, FenceAction::Off, 2, ReadBack::Off),
        (3, FenceAction::Status, 2, ReadBack::Off),
        (4, FenceAction::On, 1, ReadBack::On),
    ] {
        let result = does(attempt, action, node);
        assert!(
            matches!(&result, DeviceResult::Done { read_back, .. } if *read_back == wanted),
            "{action}: {result:?}"
        );
    }
    assert!(matches!(does(5, FenceAction::On, 2), DeviceResult::Failed(Failure::Refused { .. })));
    refused(write(second, 'h'));
    write(first, 'i').expect("this node keeps its right");
}
