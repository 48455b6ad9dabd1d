//! Goal: three nodes, each its own process in its own network namespace, keep an address up through the death and the
//! isolation of a node, fencing by a real fence agent through a real (simulated) management board.
//!
//! Method: `failover` processes run Debian's `ocf:heartbeat:Dummy` and `ocf:heartbeat:IPaddr2`; `fence_ipmilan` talks to one
//! `ipmi_sim` per node, whose chassis script cuts the node's power: it kills every process in the node's namespace and takes
//! its addresses away. A watcher looks, all the time, on how many nodes the address is up.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may fail by panicking and says how far it got"
)]

mod lab;

use lab::{Lab, VIRTUAL_IP};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, lab: &Lab, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

/// A lab in which the address is up and answers.
fn running(name: &str) -> (Lab, usize) {
    let lab = Lab::new(name);
    wait_for("the address to come up", &lab, || !lab.owners().is_empty() && lab.ping());
    let owner = lab.owners()[0];
    eprintln!("{VIRTUAL_IP} is up on node {owner} and answers");
    (lab, owner)
}

/// The address must come up on another node than `lost` and answer; `lost` must have been switched off before.
fn taken_over(lab: &Lab, lost: usize, since: Instant) {
    wait_for("the address to come up elsewhere", lab, || {
        lab.owners().iter().any(|o| *o != lost) && lab.ping()
    });
    let owner = lab.owners()[0];
    eprintln!("{VIRTUAL_IP} is up on node {owner} {:?} after the failure", since.elapsed());
    assert_ne!(owner, lost);
    assert!(lab.switched_off(lost), "node {lost} was not switched off\n{}", lab.logs());
    wait_for("the survivors to say that the service runs", lab, || {
        lab.log(owner).contains(&format!("service runs on {}", lab::name(owner)))
    });
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn an_address_survives_kill_9_of_the_node_that_holds_it() {
    let (mut lab, owner) = running("kill");
    let failed = Instant::now();
    lab.kill(owner);
    assert!(lab.owners().contains(&owner), "the address outlives the process: only fencing takes it away");
    taken_over(&lab, owner, failed);

    // The node comes back as a new incarnation and is a member again; the address stays where it is.
    let holder = lab.owners()[0];
    lab.power_on(owner);
    lab.start(owner);
    wait_for("the node to be a member again", &lab, || {
        lab.snapshot(owner).is_some_and(|s| s["view"]["members"].as_array().is_some_and(|m| m.len() == 3))
    });
    assert_eq!(lab.owners(), [holder]);
    assert!(lab.ping());
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn an_address_moves_when_the_link_of_its_node_is_cut_and_is_never_up_twice() {
    let (lab, owner) = running("cut");
    let failed = Instant::now();
    lab.cut(owner);
    taken_over(&lab, owner, failed);
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_dead_board_makes_recovery_wait_and_say_why_until_a_person_repairs_it() {
    let (mut lab, owner) = running("board");
    lab.stop_board(owner);
    lab.kill(owner);
    let reason = "recovery of what ran on";
    wait_for("a survivor to say why it waits", &lab, || {
        (1..=3).any(|i| i != owner && lab.log(i).contains(reason))
    });
    assert_eq!(lab.owners(), [owner], "nothing may start while the old place is not certainly off");
    lab.start_board(owner);
    taken_over(&lab, owner, Instant::now());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_node_that_is_told_to_stop_hands_over_without_being_fenced() {
    let (mut lab, owner) = running("leave");
    lab.terminate(owner);
    wait_for("the address to come up elsewhere", &lab, || {
        lab.owners().iter().any(|o| *o != owner) && lab.ping()
    });
    wait_for("the node to leave", &lab, || lab.log(owner).contains("left"));
    assert!(!lab.switched_off(owner), "a clean leave needs no fencing\n{}", lab.logs());
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
}
