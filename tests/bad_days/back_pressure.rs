//! Full queues: senders are told, memory stays flat, and nothing is lost.

use crate::support::{Crowd, Plan, members};
use bytes::Bytes;
use ocf::{Node, NodeEvent, RequestError};
use ocf_groups::{Event, Guarantee, SendError};
use std::time::{Duration, Instant};

const WINDOW: usize = 256 * 1024;
const BACKLOG: usize = 64 * 1024;
const SIZE: usize = 1024;

fn plan() -> Plan {
    let equip = |node: ocf::NodeBuilder| node.backlog(BACKLOG).tune(|stack| stack.groups.window = WINDOW);
    Plan { equip: Box::new(equip), ..Plan::default() }
}

/// Message `number`. False if the window is full.
fn send(node: &Node, number: usize) -> bool {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(SIZE, 7);
    match node.send("news", 1, Guarantee::Agreed, Bytes::from(payload)) {
        Ok(()) => true,
        Err(RequestError::Refused(SendError::Full { queued, limit })) => {
            assert!(limit == WINDOW && queued <= WINDOW, "{queued} of {limit}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn numbers(crowd: &Crowd, index: usize) -> Vec<usize> {
    let number = |payload: &Bytes| usize::from_be_bytes(payload[..size_of::<usize>()].try_into().unwrap());
    crowd.payloads(index).iter().map(number).collect()
}

fn writable(crowd: &Crowd) -> bool {
    crowd.seen(0).iter().any(|e| matches!(e, NodeEvent::Group(Event::Writable)))
}

#[test]
fn an_application_that_takes_no_events_stops_the_senders_and_loses_nothing() {
    let mut crowd = Crowd::form(3, &plan());
    crowd.join_all("news");
    let view = crowd.nodes[0].view().unwrap().number;
    crowd.deaf.insert(2);
    let (mut sent, mut last) = (0, Instant::now());
    // Full for good, not only until the next report comes in.
    crowd.until("the window to stay closed", |crowd| {
        while send(&crowd.nodes[0], sent) {
            (sent, last) = (sent + 1, Instant::now());
        }
        last.elapsed() > Duration::from_millis(700)
    });
    // What one window may have on the way comes on top of the backlog.
    let most = (BACKLOG + 2 * WINDOW) / SIZE + 64;
    assert!(sent > BACKLOG / SIZE && sent < most, "{sent} messages were taken, {most} are the most");
    assert!(crowd.nodes[2].events_waiting() < most, "{} events wait", crowd.nodes[2].events_waiting());
    assert!(crowd.counter(0, "stack.waiting_bytes") < 1 << 20);
    assert!(!send(&crowd.nodes[0], sent));

    crowd.deaf.clear();
    crowd.until("the window to open", writable);
    for number in sent..sent + 50 {
        crowd.until("room for another message", |crowd| send(&crowd.nodes[0], number));
    }
    let all: Vec<usize> = (0..sent + 50).collect();
    crowd.until("everything at everybody", |crowd| (0..3).all(|i| crowd.payloads(i).len() >= all.len()));
    for index in 0..3 {
        assert_eq!(numbers(&crowd, index), all, "at node {index}");
    }
    assert!(
        crowd.nodes.iter().all(|n| n.view().is_some_and(|v| v.number == view)),
        "slowness is no reason to exclude"
    );
}

#[test]
fn a_node_that_is_cut_off_closes_the_window_until_the_view_change_frees_it() {
    let mut crowd = Crowd::form(3, &plan());
    crowd.join_all("news");
    crowd.wire.cut(2, true);
    let mut sent = 0;
    let began = Instant::now();
    while send(&crowd.nodes[0], sent) {
        sent += 1;
    }
    assert!(sent <= 2 * WINDOW / SIZE, "{sent} messages were taken within {:?}", began.elapsed());
    crowd.until("a view without the lost node", |crowd| crowd.nodes[..2].iter().all(|n| members(n) == 2));
    crowd.until("the window to open", writable);
    for number in sent..sent + 50 {
        crowd.until("room for another message", |crowd| send(&crowd.nodes[0], number));
    }
    let all: Vec<usize> = (0..sent + 50).collect();
    crowd.until("everything at the survivors", |crowd| (0..2).all(|i| crowd.payloads(i).len() >= all.len()));
    assert_eq!(numbers(&crowd, 0), all);
    assert_eq!(numbers(&crowd, 1), all);
    crowd.wire.cut(2, false);
    crowd.until("the lost node to come back", |crowd| crowd.nodes.iter().all(|n| members(n) == 3));
    let reset =
        |e: &NodeEvent| matches!(e, NodeEvent::Group(Event::Reset { group, .. }) if **group == *"news");
    crowd.until("its member to be told that it missed messages", |crowd| crowd.seen(2).iter().any(reset));
}
