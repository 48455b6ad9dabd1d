//! A program that lives inside its node is called with every event, in one order everywhere, and never stops more than itself.
#![expect(clippy::wildcard_enum_match_arm, reason = "of many events this test wants few")]

use bytes::Bytes;
use core::time::Duration;
use ocf::{Application, Cluster, Here, Node, NodeEvent, Numbered, RequestError};
use ocf_comm::Lane;
use ocf_comm::driver::Stopped;
use ocf_groups::{Event, Guarantee, SendError};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

const SOON: Duration = Duration::from_secs(60);
const GROUP: &str = "relay";
const LAST: u32 = 600;

/// What a test sees of one program.
#[derive(Default)]
struct Seen {
    /// Numbers of events are without a gap.
    numbers: Vec<u64>,
    relayed: Vec<u32>,
    member: bool,
    refused: Option<SendError>,
    views: usize,
    last_view: usize,
    stopped: Option<Stopped>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    fn wait(&self, what: &str, mut until: impl FnMut(&Seen) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut seen = self.seen.lock();
        while !until(&seen) {
            assert!(!self.changed.wait_until(&mut seen, deadline).timed_out(), "in vain: {what}");
        }
    }
}

/// Passes a number on: whose turn it is sends the next.
struct Relay(Arc<Shared>);

impl Relay {
    fn pass_on(here: &mut Here<'_>, seen: &mut Seen, number: u32) {
        seen.relayed.push(number);
        if number < LAST && number % 3 == here.local().node.raw() - 1 {
            let next = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
            here.send(GROUP, 0, Guarantee::Agreed, next).expect("an empty window");
            let stranger = here.send("nowhere", 0, Guarantee::Agreed, Bytes::new());
            if let Err(RequestError::Refused(error)) = stranger {
                seen.refused = Some(error);
            }
        }
    }
}

impl Application for Relay {
    fn on_event(&mut self, here: &mut Here<'_>, event: Numbered) {
        let mut seen = self.0.seen.lock();
        seen.numbers.push(event.number);
        match event.event {
            NodeEvent::Group(Event::View(view)) => {
                seen.views += 1;
                seen.last_view = view.members.len();
                if seen.views == 1 {
                    here.join(GROUP, 0).expect("inside the primary");
                }
            }
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                // Another event may follow that asks for a later state.
                drop(here.offer_state(&group, joiner, position, Bytes::new()));
            }
            NodeEvent::Group(Event::Membership { members, .. }) => seen.member = members.len() == 3,
            NodeEvent::Group(Event::Message { payload, .. }) => {
                let number = payload.first_chunk().copied().map(u32::from_be_bytes);
                let number = number.expect("four bytes");
                Self::pass_on(here, &mut seen, number);
            }
            NodeEvent::Direct { .. } => panic!("asked to stumble"),
            _ => {}
        }
        drop(seen);
        self.0.changed.notify_all();
    }

    fn on_stopped(&mut self, why: &Stopped) {
        self.0.seen.lock().stopped = Some(why.clone());
        self.0.changed.notify_all();
    }
}

fn cluster() -> (Cluster, [Arc<Shared>; 3]) {
    let shared: [Arc<Shared>; 3] = Default::default();
    let of = shared.clone();
    let cluster = Cluster::builder("inside").equip(move |node| {
        let index = node.node().raw() as usize - 1;
        node.application(Relay(Arc::clone(&of[index])))
    });
    let cluster = cluster.local(3).expect("nodes on loopback");
    for one in &shared {
        one.wait("three members", |seen| seen.member);
    }
    (cluster, shared)
}

#[test]
fn programs_inside_their_nodes_pass_a_message_on_and_see_all_in_one_order() {
    let (mut cluster, shared) = cluster();
    let first = cluster.node(0).expect("it runs").clone();
    // From outside, as from any thread.
    let sent = first.send(GROUP, 0, Guarantee::Agreed, Bytes::from_static(&[0, 0, 0, 0]));
    assert_eq!(sent, Ok(()));
    for one in &shared {
        one.wait("the last number", |seen| seen.relayed.last() == Some(&LAST));
    }
    assert!(first.next_event(Duration::from_millis(20)).is_none(), "the program has them all");
    assert_eq!(first.events_waiting(), 0);
    drop(first);
    for one in &shared {
        let seen = one.seen.lock();
        assert!(seen.relayed.iter().copied().eq(0..=LAST));
        assert!(seen.numbers.iter().copied().eq(1..=seen.numbers.len() as u64), "no event is missing");
        assert_eq!(seen.refused, Some(SendError::NotMember("nowhere".into())));
    }
    cluster.kill(2);
    shared[2].wait("word of the stop", |seen| seen.stopped.is_some());
    assert_eq!(shared[2].seen.lock().stopped, Some(Stopped::Requested));
}

#[test]
fn a_panic_of_a_program_stops_its_node_and_no_other() {
    let (cluster, shared) = cluster();
    let to = cluster.node(1).expect("it runs").local();
    let sent = cluster.node(0).map(|node| node.send_to(to, Lane::Small, Bytes::from_static(b"stumble")));
    assert_eq!(sent, Some(Ok(())));
    shared[1].wait("the end of the node", |seen| seen.stopped.is_some());
    let message = "asked to stumble".to_owned();
    assert_eq!(shared[1].seen.lock().stopped, Some(Stopped::Panicked { message }));
    for index in [0, 2] {
        shared[index].wait("a view of two", |seen| seen.last_view == 2);
        assert_eq!(cluster.node(index).and_then(Node::stopped), None);
    }
}
