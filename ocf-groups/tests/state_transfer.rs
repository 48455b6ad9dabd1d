//! A state that is larger than one message comes, in clusters of nodes of different builds, too.
//! A joiner that loses the donor of its state goes on from another, wherever the first one is lost; those who have the state never
//! wait. The method: three cores, a network that is driven message by message, and the loss placed after each of them in turn.

#![expect(clippy::wildcard_enum_match_arm, reason = "what must not happen fails the test")]

mod net;

use bytes::Bytes;
use net::{App, node};
use ocf_groups::{Config, Event, Groups, Guarantee, Input, MemberId, Sabotage};
use pils::{Instant, Layer, NodeInstance, Rng};

const GROUP: &str = "big";
const SIZE: usize = 200_000;
const PIECE: usize = 4096;
const WINDOW: usize = 16_000;

/// A member whose state is a count of messages, all that it was told, and much that never changes.
#[derive(Default)]
struct Replica {
    state: Option<Vec<u8>>,
    told: u64,
    left: bool,
}

impl App for Replica {
    fn on_event(&mut self, at: NodeInstance, now: Instant, core: &mut Groups, event: Event) {
        match event {
            Event::Message { payload, .. } => {
                self.told += 1;
                if let Some(state) = &mut self.state {
                    let count = u64::from_be_bytes(state[..8].try_into().expect("eight bytes")) + 1;
                    state[..8].copy_from_slice(&count.to_be_bytes());
                    state.splice(8..8, payload.iter().copied());
                }
            }
            Event::Membership { members, joined, left, .. } => {
                let here = |list: &[MemberId]| list.iter().any(|m| m.instance == at);
                self.left |= here(&left) && !here(&joined);
                if members.len() == 1 && here(&joined) {
                    let mut rng = Rng::new(1);
                    let noise = core::iter::repeat_with(|| u8::try_from(rng.below(256)).expect("a byte"));
                    self.state = Some([0; 8].into_iter().chain(noise.take(SIZE - 8)).collect());
                }
            }
            Event::StateWanted { joiner, position, .. } => {
                let state = Bytes::from(self.state.clone().expect("only who has a state is asked"));
                core.offer_state(now, GROUP, joiner, position, state).expect("it is wanted");
            }
            Event::State { state, .. } => self.state = Some(state.to_vec()),
            Event::Reset { .. } => self.state = None,
            Event::View(_) | Event::Writable => {}
            other => panic!("{other:?}"),
        }
    }
}

struct Net {
    net: net::Net<Replica>,
    /// Messages from a donor to the joiner that were delivered.
    steps: usize,
    /// The content of messages to the group.
    news: &'static [u8],
}

impl Net {
    fn replica(&self, of: u32) -> &Replica {
        &self.net.sites[&node(of)].app
    }

    /// Delivers one message. False if there is none.
    fn step(&mut self) -> bool {
        let Some((from, to, message)) = self.net.step() else { return false };
        self.steps += usize::from(from != to && to == node(3) && matches!(message.get(1), Some(5 | 6)));
        true
    }

    /// Two that have the state, and a joiner that was just asked for.
    fn joining(bug: Option<Sabotage>) -> Self {
        let net = Self::of_builds(bug, &[]);
        assert!(net.replica(2).state.is_some());
        net
    }

    /// The same; with older builds the level is theirs.
    fn of_builds(bug: Option<Sabotage>, old: &[u32]) -> Self {
        let config = Config { state_piece: PIECE, state_window: WINDOW, ..Config::default() };
        let mut net = net::Net::new(3, &config, bug, Replica::default);
        net.old = old.iter().map(|n| node(*n)).collect();
        net.level = if old.is_empty() { 2 } else { 1 };
        net.enter(&[node(1), node(2), node(3)], &[]);
        net.settle();
        for n in 1..=2 {
            net.join(node(n), GROUP);
            net.settle();
        }
        net.join(node(3), GROUP);
        // What changes at its place changes nothing else, so that pieces end where they did.
        let news = if bug == Some(Sabotage::BlindPieces) { b"" } else { &b"news"[..] };
        let net = Self { net, steps: 0, news };
        assert!(net.replica(3).state.is_none());
        net
    }

    /// Runs until so many messages of the transfer came. False if it ended before.
    fn run_to(&mut self, steps: usize) -> bool {
        while self.steps < steps && self.replica(3).state.is_none() {
            assert!(self.step(), "the transfer goes on");
        }
        self.replica(3).state.is_none()
    }

    /// A message to the group reaches who has the state though the transfer is under way.
    fn talk(&mut self) {
        let before = self.replica(2).told;
        let (now, news) = (self.net.now, Bytes::from_static(self.news));
        let sent = self.net.site(node(2)).core.send(now, GROUP, 0, Guarantee::Agreed, news);
        sent.expect("nobody is held up");
        self.net.drain(node(2));
        let mut messages = 0;
        while self.replica(2).told == before {
            assert!(self.step(), "it is delivered");
            messages += 1;
            assert!(messages < 60, "it waits for no transfer");
        }
    }

    /// Bytes that the joiner got in all, if it has what `survivor` has.
    fn verdict(mut self, survivor: u32) -> Result<u64, String> {
        while self.step() {}
        let ours = self.replica(3).state.as_ref().ok_or("no state")?;
        if Some(ours) != self.replica(survivor).state.as_ref() {
            return Err("another state".into());
        }
        Ok(self.net.sites[&node(3)].core.stats().state_received)
    }
}

/// The donor dies after so many messages of the transfer. Bytes that the joiner got in all; `None` if it had the state before.
fn dies_after(steps: usize, bug: Option<Sabotage>) -> Option<Result<u64, String>> {
    let mut net = Net::joining(bug);
    let under_way = net.run_to(steps);
    net.talk();
    net.net.kill(node(1));
    net.net.enter(&[node(2), node(3)], &[]);
    net.talk();
    under_way.then(|| net.verdict(2))
}

/// What is lost with a donor: what was asked of it and had not come, and the pieces that changed.
const LOST: u64 = (WINDOW + 4 * PIECE) as u64;

#[test]
fn a_joiner_goes_on_from_another_donor_wherever_the_first_one_dies() {
    let mut steps = 0;
    while let Some(got) = dies_after(steps, None) {
        let received = got.unwrap_or_else(|what| panic!("after {steps}: {what}"));
        assert!(received <= SIZE as u64 + LOST, "after {steps}: {received} bytes came");
        steps += 1;
    }
    assert!(steps > SIZE / PIECE, "{steps} steps were tried");
}

#[test]
fn a_transfer_that_begins_anew_is_found() {
    let received = dies_after(60, Some(Sabotage::ForgetPieces)).expect("under way").expect("the state comes");
    assert!(received > SIZE as u64 + LOST, "{received} bytes came");
}

#[test]
fn pieces_that_are_not_compared_are_found() {
    let mut runs = (0..).map_while(|steps| dies_after(steps, Some(Sabotage::BlindPieces)));
    assert!(runs.any(|outcome| outcome.is_err_and(|what| what == "another state")));
}

#[test]
fn a_joiner_goes_on_from_another_donor_when_the_first_one_leaves_the_group() {
    for steps in (1..60).step_by(7) {
        let mut net = Net::joining(None);
        assert!(net.run_to(steps));
        let now = net.net.now;
        net.net.site(node(1)).core.leave(now, GROUP, 0).expect("it is a member");
        net.net.drain(node(1));
        net.talk();
        while !net.replica(1).left {
            assert!(net.step());
        }
        let received = net.verdict(2).expect("the state comes");
        assert!(received <= SIZE as u64 + LOST, "after {steps}: {received} bytes came");
    }
}

#[test]
fn a_joiner_that_was_cut_off_itself_keeps_what_it_has() {
    let mut net = Net::joining(None);
    assert!(net.run_to(40));
    net.net.lanes.retain(|(from, to, _)| *from != node(3) && *to != node(3));
    net.net.enter(&[node(1), node(2)], &[]);
    net.talk();
    let now = net.net.now;
    net.net.site(node(3)).core.handle(now, Input::NonPrimary);
    net.net.drain(node(3));
    net.net.enter(&[node(1), node(2), node(3)], &[]);
    let received = net.verdict(1).expect("the state comes");
    assert!(received <= SIZE as u64 + LOST, "{received} bytes came");
}

#[test]
fn what_is_asked_of_a_donor_at_one_time_is_bounded() {
    let mut net = Net::joining(None);
    let mut most = 0;
    while net.replica(3).state.is_none() {
        let waiting = net.net.lanes.iter().filter(|(from, _, m)| *from == node(1) && m.get(1) == Some(&5));
        most = most.max(waiting.map(|(_, _, m)| m.len()).sum());
        assert!(net.step());
    }
    assert!((PIECE..WINDOW + 2 * PIECE).contains(&most), "{most} bytes waited for the joiner");
}

/// A joiner among builds of which `old` do not know pieces that are asked for; bytes that came.
fn among(old: &[u32], bug: Option<Sabotage>) -> Result<u64, String> {
    let net = Net::of_builds(bug, old);
    assert_eq!(net.net.level, 1);
    net.verdict(1)
}

#[test]
fn a_large_state_comes_from_and_to_nodes_of_an_older_build() {
    for old in [&[1][..], &[3], &[1, 2], &[2, 3], &[1, 2, 3]] {
        assert_eq!(among(old, None), Ok(SIZE as u64), "{old:?} are older");
    }
}

#[test]
fn pieces_that_an_older_build_does_not_know_are_found() {
    for old in [&[1][..], &[3]] {
        assert_eq!(among(old, Some(Sabotage::IndexAnyway)), Err("no state".into()), "{old:?} are older");
    }
}

#[test]
fn a_large_state_comes_among_older_builds_though_its_donor_dies_or_the_level_rises() {
    for (steps, rises) in (0..SIZE / PIECE).step_by(9).flat_map(|steps| [(steps, false), (steps, true)]) {
        let mut net = Net::of_builds(None, &[1]);
        assert!(net.run_to(steps));
        net.talk();
        net.net.kill(node(1));
        net.net.level = if rises { 2 } else { 1 };
        net.net.enter(&[node(2), node(3)], &[]);
        net.talk();
        net.verdict(2).unwrap_or_else(|what| panic!("after {steps}: {what}"));
    }
}
