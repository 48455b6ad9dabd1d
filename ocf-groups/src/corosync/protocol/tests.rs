//! Two cores on one ordered log, of which one may miss something.

use super::*;
use crate::{Event as GroupEvent, Guarantee};
use ocf_membership::NodeVotes;
use pils::{Incarnation, NodeId};

const NOW: Instant = Instant::ZERO;

fn process(n: usize) -> Process {
    let node = NodeId::new(u32::try_from(n + 1).expect("small"));
    Process { node, pid: 7 }
}

struct Two {
    cores: [CpgGroups; 2],
    log: VecDeque<(usize, Bytes)>,
    told: [Vec<GroupEvent>; 2],
}

impl Two {
    /// Both are members of one group.
    fn new() -> Self {
        let core = |n: usize| {
            let local = NodeInstance::new(process(n).node, Incarnation::new(n as u128 + 1));
            CpgGroups::new(Config::default(), process(n), local, ViewNumber(0))
        };
        let mut two =
            Self { cores: [core(0), core(1)], log: VecDeque::new(), told: [Vec::new(), Vec::new()] };
        let votes = vec![NodeVotes::new(process(0).node, 1), NodeVotes::new(process(1).node, 1)];
        let ring = RingId { sequence: 1, representative: process(0).node };
        let quorum = RingQuorum { ring, quorate: true, needed: 2, votes };
        two.cores.iter_mut().for_each(|core| core.handle(NOW, Input::Quorum(quorum.clone())));
        two.configure();
        for n in 0..2 {
            two.cores[n].groups().join(NOW, "g", 0).expect("it may join");
            two.settle(&|_| true);
        }
        assert!(two.told[1].iter().any(|event| matches!(event, GroupEvent::State { .. })));
        two
    }

    fn configure(&mut self) {
        let members = vec![process(0), process(1)];
        for core in &mut self.cores {
            core.handle(NOW, Input::Configuration { members: members.clone(), left: Vec::new() });
        }
        self.settle(&|_| true);
    }

    fn drain(&mut self) {
        for n in 0..2 {
            self.cores[n].settle();
            while let Some(output) = self.cores[n].poll_output() {
                match output {
                    Output::Multicast(message) => self.log.push_back((n, message)),
                    Output::Group(GroupEvent::StateWanted { group, joiner, position }) => {
                        let groups = self.cores[n].groups();
                        groups.offer_state(NOW, &group, joiner, position, Bytes::new()).expect("wanted");
                        self.cores[n].settle();
                    }
                    Output::Group(event) => self.told[n].push(event),
                    Output::Remember(_) | Output::Membership(_) | Output::Taken(_) => {}
                }
            }
            assert_eq!(self.cores[n].check_invariants(), Ok(()));
        }
    }

    /// Both are delivered the log, but for what the second misses: the number of a message in this call says whether it comes.
    fn settle(&mut self, comes: &dyn Fn(usize) -> bool) {
        self.drain();
        let mut number = 0;
        while let Some((from, message)) = self.log.pop_front() {
            for n in 0..2 {
                if n == 0 || comes(number) {
                    let message = message.clone();
                    self.cores[n].handle(NOW, Input::Message { from: process(from), message });
                }
            }
            number += 1;
            self.drain();
        }
    }

    fn send(&mut self, n: usize, payload: &'static str) {
        let sent = self.cores[n].groups().send(NOW, "g", 0, Guarantee::Agreed, payload.into());
        sent.expect("it may send");
        self.cores[n].settle();
    }

    /// Payloads that a node was told.
    fn heard(&self, n: usize) -> Vec<&[u8]> {
        let mut heard = Vec::new();
        for event in &self.told[n] {
            if let GroupEvent::Message { payload, .. } = event {
                heard.push(&payload[..]);
            }
        }
        heard
    }
}

#[test]
fn nothing_is_delivered_past_what_its_sender_sent_before() {
    let mut two = Two::new();
    for payload in ["one", "two", "three"] {
        two.send(0, payload);
    }
    // The second of these is lost to the other node.
    two.settle(&|number| number != 1);
    two.send(1, "mine");
    two.settle(&|_| true);
    assert_eq!(two.heard(0), [&b"one"[..], b"two", b"three", b"mine"]);
    assert_eq!(two.heard(1), [b"one"], "neither what came after the gap nor what others sent then");
    assert_eq!((two.cores[0].stats().gaps, two.cores[1].stats().gaps), (0, 1));
    // Who was delivered more goes on; the other begins anew, and is told so.
    two.configure();
    let reset = |event: &GroupEvent| matches!(event, GroupEvent::Reset { .. });
    assert!(two.told[1].iter().any(reset) && !two.told[0].iter().any(reset));
    two.settle(&|_| true);
    two.send(0, "four");
    two.settle(&|_| true);
    assert_eq!(two.heard(1), [&b"one"[..], b"four"]);
}

#[test]
fn a_view_whose_members_have_no_quorum_of_votes_is_not_proposed() {
    let mut two = Two::new();
    let votes = vec![NodeVotes::new(process(0).node, 1), NodeVotes::new(NodeId::new(3), 1)];
    let ring = RingId { sequence: 2, representative: process(0).node };
    for core in &mut two.cores {
        core.handle(NOW, Input::Quorum(RingQuorum { ring, quorate: true, needed: 2, votes: votes.clone() }));
    }
    let view = two.cores[0].view().map(|view| view.number);
    two.configure();
    assert_eq!(two.cores[0].view().map(|view| view.number), view, "the quorum is that of another ring");
}
