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

#[path = "../lab/example.rs"]
mod example;
mod holders;
mod lab;
mod program;

use lab::{Lab, Plan, VIRTUAL_IP};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, lab: &Lab, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A lab in which the address is up and answers.
fn running(name: &str, plan: Plan) -> (Lab, usize) {
    let lab = Lab::new(name, plan);
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
    eprintln!("{VIRTUAL_IP} answers on node {owner} {:?} after the failure", since.elapsed());
    assert_ne!(owner, lost);
    assert!(lab.switched_off(lost), "node {lost} was not switched off\n{}", lab.logs());
    wait_for("the new owner to say that the address runs", lab, || {
        lab.log(owner).contains(&format!("address runs on {}", lab::name(owner)))
    });
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
    print_phases(lab, lost, since);
}

/// Prints how long each phase of the fail-over took, as the survivors told it.
fn print_phases(lab: &Lab, lost: usize, since: Instant) {
    let name = lab::name(lost);
    let said = |wanted: &dyn Fn(&str) -> bool| lab.said(lost, since, wanted);
    let causes = [format!("}}: {name} "), format!("; {name} ")];
    // Where it ran first may still be told after the failure.
    let elsewhere = |what: &str, line: &str| {
        line.contains(&format!("{what} runs on ")) && !line.ends_with(&format!(" {name}"))
    };
    let phases = [
        ("detect", said(&|line| line.contains(&format!("{name} (")) && line.contains("is gone"))),
        ("agree", said(&|line| line.contains(" view v") && causes.iter().any(|cause| line.contains(cause)))),
        ("fence", said(&|line| line.contains(&format!("what ran on {name} is free")))),
        ("start service", said(&|line| elsewhere("service", line))),
        ("start address", said(&|line| elsewhere("address", line))),
    ];
    let mut before = Duration::ZERO;
    for (phase, end) in phases {
        let end = end.unwrap_or_else(|| panic!("nobody said the end of {phase}\n{}", lab.logs()));
        eprint!("{phase} {} ms, ", end.saturating_sub(before).as_millis());
        before = end;
    }
    eprintln!("in all {} ms", before.as_millis());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn an_address_survives_kill_9_of_the_node_that_holds_it() {
    let (mut lab, owner) = running("kill", Plan::THREE);
    assert!(lab.keeps_memory(owner));
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
    let (lab, owner) = running("cut", Plan::THREE);
    let failed = Instant::now();
    lab.cut(owner);
    taken_over(&lab, owner, failed);
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_dead_board_makes_recovery_wait_and_say_why_until_a_person_repairs_it() {
    let (mut lab, owner) = running("board", Plan::THREE);
    lab.stop_board(owner);
    let failed = Instant::now();
    lab.kill(owner);
    let reason = "recovery of what ran on";
    wait_for("a survivor to say why it waits", &lab, || {
        (1..=3).any(|i| i != owner && lab.log(i).contains(reason))
    });
    assert_eq!(lab.owners(), [owner], "nothing may start while the old place is not certainly off");
    lab.start_board(owner);
    taken_over(&lab, owner, failed);
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_node_that_is_told_to_stop_hands_over_without_being_fenced() {
    let (mut lab, owner) = running("leave", Plan::THREE);
    lab.terminate(owner);
    wait_for("the address to come up elsewhere", &lab, || {
        lab.owners().iter().any(|o| *o != owner) && lab.ping()
    });
    wait_for("the node to leave", &lab, || lab.log(owner).ends_with("left\n"));
    let status = lab.exited(owner);
    assert!(status.is_none_or(|status| status.success()), "{status:?}\n{}", lab.logs());
    assert!(!lab.switched_off(owner), "a clean leave needs no fencing\n{}", lab.logs());
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_node_that_is_paused_is_fenced_before_its_address_comes_up_elsewhere() {
    let (mut lab, owner) = running("pause", Plan::THREE);
    let failed = Instant::now();
    lab.pause(owner, true);
    taken_over(&lab, owner, failed);
    // The power-off ended the paused process: it never acts on its old view.
    while lab.exited(owner).is_none() {
        assert!(failed.elapsed() < PATIENCE, "the paused process is not dead\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn a_node_that_was_paused_and_cannot_be_fenced_stops_what_it_runs_when_it_goes_on() {
    let (mut lab, owner) = running("stall", Plan::THREE);
    lab.watch(owner);
    lab.stop_board(owner);
    lab.pause(owner, true);
    std::thread::sleep(Duration::from_secs(5));
    wait_for("a survivor to say why it waits", &lab, || {
        (1..=3).any(|i| i != owner && lab.log(i).contains("recovery of what ran on"))
    });
    assert_eq!(lab.owners(), [owner], "nothing may start while the old place is not certainly off");
    assert!(!lab.taken_down(owner));

    let began = Instant::now();
    lab.pause(owner, false);
    wait_for("the node to take the address down", &lab, || lab.taken_down(owner));
    eprintln!("{VIRTUAL_IP} is down {:?} after the pause", began.elapsed());
    let log = lab.log(owner);
    assert!(log.contains("this node itself did not run for"), "{log}");
    assert!(log.contains("the primary lease is in doubt"), "{log}");
    // All are members again, so that the address needs no fencing to come up once more.
    wait_for("the address to come up again", &lab, || lab.owners().len() == 1 && lab.ping());
    assert!(!lab.switched_off(owner), "{}", lab.logs());
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());
}

/// Two nodes that fence each other when they do not hear each other.
const TWO: Plan = Plan {
    nodes: 2,
    top: "quorum = \"two-node\"\n[tie_breaker]\ndelay_ms = 4000\ntimeout_ms = 40000\n",
    fencing: "",
    group: "nodes = [2, 1]\n",
};

/// The nodes lose each other: `winner` must have switched the other one off before the address comes up there, and must live.
fn duel(lab: &mut Lab, winner: usize) {
    let loser = 3 - winner;
    let apart = Instant::now();
    lab.part(true);
    wait_for("one of them to be switched off", lab, || lab.switched_off(loser) || lab.switched_off(winner));
    wait_for("the address to answer", lab, || lab.owners() == [winner] && lab.ping());
    eprintln!("{VIRTUAL_IP} answers on node {winner} {:?} after the link was cut", apart.elapsed());
    // As long as the one that waits would have waited, and more.
    std::thread::sleep(Duration::from_secs(10).saturating_sub(apart.elapsed()));
    assert!(!lab.switched_off(winner), "both were switched off\n{}", lab.logs());
    assert_eq!(lab.exited(winner), None, "{}", lab.logs());
    assert_eq!(lab.seen_twice(), Vec::<String>::new(), "{}", lab.logs());

    lab.part(false);
    lab.power_on(loser);
    lab.start(loser);
    wait_for("both to be members again", lab, || {
        [winner, loser].iter().all(|i| {
            lab.snapshot(*i).is_some_and(|s| s["view"]["members"].as_array().is_some_and(|m| m.len() == 2))
        })
    });
    assert_eq!(lab.owners(), [winner], "{}", lab.logs());
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn of_two_nodes_whose_link_is_cut_the_senior_one_switches_the_other_off_and_lives() {
    let (mut lab, owner) = running("duel", TWO);
    assert_eq!(owner, 2, "the address is where it should be");
    duel(&mut lab, 1);
}

#[test]
#[ignore = "needs root, network namespaces, resource-agents, fence-agents and openipmi"]
fn of_two_nodes_whose_link_is_cut_the_one_that_runs_what_matters_shoots_first() {
    let fencing = "priority_delay_ms = 8000\n";
    let (mut lab, owner) = running("weigh", Plan { fencing, group: "nodes = [2, 1]\npriority = 1\n", ..TWO });
    assert_eq!(owner, 2, "the address is where it should be");
    wait_for("the other one to know", &lab, || lab.log(1).contains("address runs on beta"));
    duel(&mut lab, 2);
}
