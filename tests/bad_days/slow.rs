//! A program that takes no events: with the policy its node is evicted, told why, and comes back.

use crate::support::{Crowd, Plan, members};
use bytes::Bytes;
use ocf::{Node, NodeEvent, RequestError};
use ocf_groups::{Event, Guarantee, Patience, SendError, SlowMembers};
use std::thread;
use std::time::{Duration, Instant};

const WINDOW: usize = 64 * 1024;
const STALLED: Duration = Duration::from_millis(1500);
const HOLD: Duration = Duration::from_secs(2);

fn plan() -> Plan {
    let equip = |node: ocf::NodeBuilder| {
        node.backlog(WINDOW / 2).tune(|stack| {
            stack.groups.window = WINDOW;
            stack.groups.slow = SlowMembers::Evict(Patience { stalled: STALLED, slow: None });
            stack.membership.evict_hold = HOLD;
        })
    };
    Plan { equip: Box::new(equip), ..Plan::default() }
}

/// Sends as much as may be sent.
fn flood(node: &Node) {
    loop {
        match node.send("news", 1, Guarantee::Agreed, Bytes::from(vec![7; 1024])) {
            Ok(()) => {}
            Err(RequestError::Refused(SendError::Full { .. })) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn evicted(event: &NodeEvent) -> bool {
    matches!(event, NodeEvent::Group(Event::Evicted { lag, .. }) if lag.stalled)
}

#[test]
fn a_node_whose_program_takes_no_events_is_evicted_told_why_and_comes_back() {
    let mut crowd = Crowd::form(3, &plan());
    crowd.join_all("news");
    crowd.deaf.insert(2);
    let began = Instant::now();
    crowd.until("a view without the deaf one", |crowd| {
        flood(&crowd.nodes[0]);
        crowd.nodes[..2].iter().all(|n| members(n) == 2)
    });
    let lasted = began.elapsed();
    assert!(lasted >= STALLED, "evicted after {lasted:?}");
    let view = crowd.nodes[0].view().unwrap();
    let causes: Vec<String> = view.causes.iter().map(|c| c.reason.to_string()).collect();
    assert!(matches!(&causes[..], [only] if only.contains("took nothing for")), "{causes:?}");
    let before = crowd.payloads(1).len();
    crowd.until("the others to go on", |crowd| {
        flood(&crowd.nodes[0]);
        crowd.payloads(1).len() > before + 200
    });
    assert!(crowd.counter(0, "stack.waiting_bytes") < 1 << 20, "memory stays flat");

    crowd.deaf.clear();
    crowd.until("the deaf one to be told why it is out", |crowd| crowd.seen(2).iter().any(evicted));
    crowd.until("it to come back", |crowd| crowd.nodes.iter().all(|n| members(n) == 3));
    let reset =
        |e: &NodeEvent| matches!(e, NodeEvent::Group(Event::Reset { group, .. }) if **group == *"news");
    crowd.until("its member to begin anew", |crowd| crowd.seen(2).iter().any(reset));
    assert!(!crowd.seen(0).iter().any(evicted) && !crowd.seen(1).iter().any(evicted), "nobody else was");
}

#[test]
fn a_program_that_pauses_for_less_than_the_patience_again_and_again_is_not_evicted() {
    let mut crowd = Crowd::form(3, &plan());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number;
    for _ in 0..4 {
        crowd.deaf.insert(2);
        let until = Instant::now() + STALLED / 2;
        while Instant::now() < until {
            flood(&crowd.nodes[0]);
            crowd.listen();
            thread::sleep(Duration::from_millis(2));
        }
        crowd.deaf.clear();
        let taken = crowd.payloads(2).len();
        crowd.until("it to catch up", |crowd| crowd.payloads(2).len() > taken + WINDOW / 2048);
    }
    assert!(crowd.nodes.iter().all(|n| n.view().is_some_and(|v| v.number == view)), "everybody stays");
}
