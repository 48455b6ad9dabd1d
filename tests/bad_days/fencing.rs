//! Fence devices that fail, do not answer, or answer late: recovery waits, says why, and goes on once it is proven.

use crate::support::{Crowd, Plan, World};
use ocf::NodeEvent;
use ocf_resource::{Blocked, Event as Resource, FenceOutcome};
use ocf_stonith::Event as Fencing;
use pils::NodeId;
use std::sync::Arc;

const RESOURCES: &str = r#"
    [[groups]]
    name = "web"
    nodes = [1, 2, 3]
    [[groups.resources]]
    name = "service"
    agent = "rust:service"
    monitor_interval = "200ms"
    monitor_timeout = "2s"
"#;

/// Kills the node that runs the service, with a device that follows `fencing`, and waits for the recovery. Returns the
/// cluster for a look at what was said. While `waits` holds, the service must run nowhere else.
fn fail_over(fencing: &'static str, waits: impl Fn(&Crowd) -> bool) -> Crowd {
    let world = Arc::new(World::default());
    let here = Arc::clone(&world);
    let plan = Plan {
        resources: RESOURCES,
        fencing,
        equip: Box::new(move |node| here.equip(node)),
        ..Plan::default()
    };
    let mut crowd = Crowd::form(3, &plan);
    crowd.until("the service to run", |crowd| {
        let running = |i| crowd.snapshot(i).resources.groups.iter().all(|g| g.running_on.is_some());
        world.runs("service") == [NodeId::new(1)] && (0..3).all(running)
    });
    crowd.nodes[0].kill();
    crowd.until("recovery to wait, and to say why", |crowd| {
        let blocked = |i: usize| {
            let group = crowd.snapshot(i).resources.groups.remove(0);
            let why = matches!(&group.blocked, Some(Blocked::Fencing { target, .. }) if target.node == NodeId::new(1));
            why && group.running_on.is_none()
        };
        let stands = crowd.snapshot(1).fencing.iter().any(|f| f.target.node == NodeId::new(1));
        blocked(1) && blocked(2) && stands && waits(crowd)
    });
    assert_eq!(world.runs("service"), [NodeId::new(1)], "nothing was started while the outcome was open");
    let told = |e: &NodeEvent| {
        matches!(e, NodeEvent::Resource(Resource::Blocked { because: Some(Blocked::Fencing { .. }), .. }))
    };
    assert!((1..3).all(|i| crowd.seen(i).iter().any(told)));
    crowd.until("the service to run elsewhere", |_| world.runs("service") == [NodeId::new(2)]);
    crowd.until("the survivors to know", |crowd| {
        (1..3).all(|i| {
            crowd.snapshot(i).resources.groups[0].running_on.is_some_and(|n| n.node == NodeId::new(2))
        })
    });
    assert_eq!(world.twice(), Vec::<String>::new());
    let confirmed = |e: &NodeEvent| matches!(e, NodeEvent::Fencing(Fencing::Finished { outcome, .. }) if outcome.is_confirmed());
    assert!(crowd.seen(1).iter().any(confirmed), "the senior survivor confirmed it");
    crowd
}

fn failures(crowd: &Crowd) -> Vec<String> {
    let failure = |e: &NodeEvent| match e {
        NodeEvent::Fencing(Fencing::AttemptFailed { failure, .. }) => Some(failure.to_string()),
        _ => None,
    };
    crowd.seen(1).iter().filter_map(failure).collect()
}

#[test]
fn a_device_that_fails_is_asked_again_and_recovery_waits_for_it() {
    let fencing = r#"
        retry_pause_ms = 600
        [[devices]]
        name = "outlet"
        class = "simulated"
        nodes = "all"
        timeout_ms = 2000
        parameters = { script = "fail; confirm 200ms" }
    "#;
    let crowd = fail_over(fencing, |crowd| !failures(crowd).is_empty());
    assert_eq!(failures(&crowd).len(), 1, "{:?}", failures(&crowd));
}

#[test]
fn a_device_that_hangs_times_out_and_the_unresolved_round_is_repeated() {
    let fencing = r#"
        retry_pause_ms = 100
        round_pause_ms = 800
        passes_max = 1
        answer_grace_ms = 300
        [[devices]]
        name = "outlet"
        class = "simulated"
        nodes = "all"
        timeout_ms = 500
        parameters = { script = "hang; confirm" }
    "#;
    let unresolved = |e: &NodeEvent| matches!(e, NodeEvent::Fencing(Fencing::Unresolved { .. }));
    let unconfirmed = |e: &NodeEvent| matches!(e, NodeEvent::Resource(Resource::FenceUnconfirmed { outcome: FenceOutcome::Unknown, detail, .. }) if !detail.is_empty());
    let crowd = fail_over(fencing, |crowd| {
        crowd.seen(1).iter().any(unresolved) && (1..3).all(|i| crowd.seen(i).iter().any(unconfirmed))
    });
    assert!(failures(&crowd).iter().any(|f| f.contains("500ms")), "{:?}", failures(&crowd));
}

#[test]
fn a_late_answer_confirms_once_and_nothing_starts_twice() {
    let fencing = r#"
        retry_pause_ms = 100
        round_pause_ms = 60000
        round_pause_ms_max = 60000
        passes_max = 1
        answer_grace_ms = 200
        [[devices]]
        name = "outlet"
        class = "simulated"
        nodes = "all"
        timeout_ms = 300
        parameters = { script = "late 2s" }
    "#;
    let crowd = fail_over(fencing, |crowd| !failures(crowd).is_empty());
    let late = |e: &NodeEvent| matches!(e, NodeEvent::Fencing(Fencing::LateAnswer { accepted: true, .. }));
    assert!(crowd.seen(1).iter().any(late), "the next round would come a minute later");
}
