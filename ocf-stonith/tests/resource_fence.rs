//! Fencing of single resources: reservations on a disk that is played, a packet filter that is real (ignored: needs root),
//! and the device that stands on either.
#![expect(clippy::disallowed_types, reason = "the played disk is shared by the machines that use it")]

use ocf_stonith::driver::{AccessDevice, AddressFence, SimulatedAccess};
use ocf_stonith::{
    Failure, Reservation, Reservations, ResourceFence, ScsiFence, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, key_of,
    testing,
};
use pils::NodeId;
use pils::process::Runner;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A disk that keeps the rules of persistent reservations, as far as fencing needs them.
#[derive(Debug, Default)]
struct Disk {
    /// The key of each machine that is registered.
    registered: BTreeMap<NodeId, u64>,
    holder: Option<Reservation>,
    /// Says that it preempts and does not.
    lies: bool,
    broken: bool,
}

type Disks = Arc<Mutex<BTreeMap<String, Disk>>>;

/// The way of one machine to the disks.
#[derive(Debug)]
struct Way {
    machine: NodeId,
    disks: Disks,
}

impl Way {
    fn on<T>(&self, disk: &str, what: impl FnOnce(&mut Disk) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut disks = self.disks.lock().expect("nobody panicked");
        let disk = disks.get_mut(disk).filter(|d| !d.broken).ok_or_else(|| failed("no such disk"))?;
        what(disk)
    }

    fn may_write(&self, disk: &str) -> bool {
        let registered = |d: &mut Disk| Ok(d.holder.is_none() || d.registered.contains_key(&self.machine));
        self.on(disk, registered).unwrap_or(false)
    }
}

fn failed(detail: &str) -> Failure {
    Failure::Failed { detail: detail.into() }
}

impl Reservations for Way {
    fn keys(&self, disk: &str) -> Result<Vec<u64>, Failure> {
        self.on(disk, |d| Ok(d.registered.values().copied().collect()))
    }

    fn reservation(&self, disk: &str) -> Result<Option<Reservation>, Failure> {
        self.on(disk, |d| Ok(d.holder))
    }

    fn register(&self, disk: &str, key: u64) -> Result<(), Failure> {
        self.on(disk, |d| {
            d.registered.insert(self.machine, key);
            Ok(())
        })
    }

    fn reserve(&self, disk: &str, key: u64, kind: u8) -> Result<(), Failure> {
        self.on(disk, |d| {
            if d.registered.get(&self.machine) != Some(&key) || d.holder.is_some_and(|h| h.key != key) {
                return Err(failed("reservation conflict"));
            }
            d.holder = Some(Reservation { key, kind });
            Ok(())
        })
    }

    fn preempt_and_abort(&self, disk: &str, own: u64, victim: u64) -> Result<(), Failure> {
        self.on(disk, |d| {
            if d.registered.get(&self.machine) != Some(&own) {
                return Err(failed("reservation conflict"));
            }
            if !d.lies {
                d.registered.retain(|_, key| *key != victim);
                if d.holder.is_some_and(|h| h.key == victim) {
                    d.holder = Some(Reservation { key: own, kind: WRITE_EXCLUSIVE_REGISTRANTS_ONLY });
                }
            }
            Ok(())
        })
    }
}

const CLUSTER: u32 = 0x1a2b;

fn disks(names: &[&str]) -> Disks {
    Arc::new(Mutex::new(names.iter().map(|n| ((*n).to_owned(), Disk::default())).collect()))
}

fn node(n: u32, disks: &Disks) -> (ScsiFence<Way>, Way) {
    let way = || Way { machine: NodeId::new(n), disks: disks.clone() };
    let names: BTreeSet<Arc<str>> =
        disks.lock().expect("nobody panicked").keys().map(|n| n.as_str().into()).collect();
    (ScsiFence::new(way(), names, NodeId::new(n), CLUSTER), way())
}

#[test]
fn a_node_whose_key_is_gone_writes_no_more_and_the_others_do() {
    let disks = disks(&["a", "b"]);
    let (one, way_one) = node(1, &disks);
    let (two, way_two) = node(2, &disks);
    two.grant(NodeId::new(2)).unwrap();
    assert!(!way_one.may_write("a"), "node 2 was first, and node 1 has not asked for access");
    one.grant(NodeId::new(1)).unwrap();
    assert!(way_one.may_write("a") && way_two.may_write("b"));
    assert_eq!(one.has_access(NodeId::new(2)), Ok(true));
    one.revoke(NodeId::new(2)).unwrap();
    assert_eq!(one.has_access(NodeId::new(2)), Ok(false));
    for disk in ["a", "b"] {
        assert!(!way_two.may_write(disk) && way_one.may_write(disk), "{disk}");
        assert_eq!(way_one.keys(disk), Ok(vec![key_of(CLUSTER, NodeId::new(1))]));
        assert!(way_one.reservation(disk).unwrap().is_some(), "it is still reserved: nobody else writes");
    }
    one.revoke(NodeId::new(2)).unwrap();
    two.grant(NodeId::new(2)).unwrap();
    assert!(way_two.may_write("a"), "it comes back by registering itself");
}

#[test]
fn a_node_that_was_never_registered_takes_its_key_before_it_takes_that_of_another() {
    let disks = disks(&["a"]);
    let (two, way_two) = node(2, &disks);
    two.grant(NodeId::new(2)).unwrap();
    let (one, way_one) = node(1, &disks);
    one.revoke(NodeId::new(2)).unwrap();
    assert!(way_one.may_write("a") && !way_two.may_write("a"));
}

#[test]
fn what_is_not_gone_afterwards_is_no_success() {
    let disks = disks(&["a", "b"]);
    let (two, _) = node(2, &disks);
    two.grant(NodeId::new(2)).unwrap();
    let (one, way_one) = node(1, &disks);
    disks.lock().unwrap().get_mut("a").unwrap().lies = true;
    let failure = one.revoke(NodeId::new(2)).unwrap_err();
    assert!(matches!(&failure, Failure::NotVerified { detail } if detail.starts_with("a: ")), "{failure}");
    let gone = !way_one.keys("b").unwrap().contains(&key_of(CLUSTER, NodeId::new(2)));
    assert!(gone, "and the other disk is taken all the same");
    assert_eq!(one.has_access(NodeId::new(2)), Ok(true), "in part is access");
    disks.lock().unwrap().get_mut("a").unwrap().broken = true;
    assert!(one.revoke(NodeId::new(2)).is_err() && one.has_access(NodeId::new(2)).is_err());
}

#[test]
fn a_node_keeps_its_own_key_and_registers_nobody_else() {
    let disks = disks(&["a"]);
    let (one, _) = node(1, &disks);
    assert!(matches!(one.revoke(NodeId::new(1)), Err(Failure::Refused { .. })));
    assert!(matches!(one.grant(NodeId::new(2)), Err(Failure::Refused { .. })));
    let nothing = ScsiFence::new(Way { machine: NodeId::new(1), disks }, [], NodeId::new(1), CLUSTER);
    assert!(matches!(nothing.revoke(NodeId::new(2)), Err(Failure::Refused { .. })), "no disk, no proof");
}

#[test]
fn the_device_on_a_resource_keeps_the_rules() {
    testing::check(|| AccessDevice::new(SimulatedAccess::default()));
}

fn run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program).args(words).output().expect("it is installed").status.success()
}

/// Two namespaces with a cable between them: 10.91.7.1 and 10.91.7.2.
struct Cable(String);

impl Cable {
    fn new() -> Self {
        let id = format!("rf{}", std::process::id());
        for line in [
            format!("ip netns add {id}a"),
            format!("ip netns add {id}b"),
            format!("ip link add {id}x netns {id}a type veth peer name {id}y netns {id}b"),
            format!("ip -n {id}a addr add 10.91.7.1/24 dev {id}x"),
            format!("ip -n {id}b addr add 10.91.7.2/24 dev {id}y"),
            format!("ip -n {id}a link set {id}x up"),
            format!("ip -n {id}b link set {id}y up"),
        ] {
            assert!(run(&line), "{line}");
        }
        Self(id)
    }

    /// True if the client reaches the server.
    fn reaches(&self, tries: u32) -> bool {
        run(&format!("ip netns exec {}b ping -c {tries} -W 1 -i 0.3 10.91.7.1", self.0))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        run(&format!("ip netns del {}a", self.0));
        run(&format!("ip netns del {}b", self.0));
    }
}

#[test]
#[ignore = "needs root, nftables and namespaces"]
fn a_node_that_is_shut_out_reaches_the_export_no_more() {
    let cable = Cable::new();
    let runner = Runner::new(1).unwrap();
    let nft = format!("/usr/bin/ip netns exec {}a nft", cable.0);
    let nft = if run("test -x /usr/bin/ip") { nft } else { nft.replace("/usr/bin/ip", "/sbin/ip") };
    let address = "10.91.7.2".parse().expect("an address");
    let two = NodeId::new(2);
    let nodes = BTreeMap::from([(two, vec![address])]);
    let words = nft.split_whitespace().map(str::to_owned);
    let fence = AddressFence::new(nodes, words, &runner, Duration::from_secs(60));
    assert!(cable.reaches(10), "the cable works");
    assert_eq!(fence.has_access(two), Ok(true));
    for _ in 0..2 {
        fence.revoke(two).unwrap();
        assert_eq!(fence.has_access(two), Ok(false));
        assert!(!cable.reaches(2));
    }
    fence.grant(two).unwrap();
    fence.grant(two).unwrap();
    assert_eq!(fence.has_access(two), Ok(true));
    assert!(cable.reaches(10));
    fence.revoke(two).unwrap();
    assert!(run(&format!("ip netns exec {}a nft flush chain inet ocf_fence input", cable.0)));
    assert!(cable.reaches(10), "somebody took the rules away");
    assert_eq!(fence.has_access(two), Ok(false), "looking puts them back");
    assert!(!cable.reaches(2));
    assert!(
        matches!(fence.revoke(NodeId::new(3)), Err(Failure::Refused { .. })),
        "a node without an address"
    );
}
