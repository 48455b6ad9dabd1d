//! A member that holds up the others is waited for, or evicted, as the policy says; nobody is evicted for a short pause. The method:
//! three cores in virtual time, of which one does not take what it is given, or slowly.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one thing among many")]

mod net;

use bytes::Bytes;
use core::time::Duration;
use net::{App, Net, node};
use ocf_groups::{Config, Event, Groups, Guarantee, MESSAGE_COST, Patience, Sabotage, SlowMembers};
use ocf_membership::Lag;
use pils::{Instant, NodeInstance};

const GROUP: &str = "busy";
const WINDOW: usize = 1 << 20;
const STALLED: Duration = Duration::from_secs(2);

/// Counts what it is told.
#[derive(Default)]
struct Reader {
    messages: u64,
    evicted: Vec<Lag>,
    resets: u64,
    states: u64,
}

impl App for Reader {
    fn on_event(&mut self, _: NodeInstance, now: Instant, core: &mut Groups, event: Event) {
        match event {
            Event::Message { .. } => self.messages += 1,
            Event::Evicted { lag, .. } => self.evicted.push(lag),
            Event::Reset { .. } => self.resets += 1,
            Event::State { .. } => self.states += 1,
            Event::StateWanted { joiner, position, .. } => {
                core.offer_state(now, GROUP, joiner, position, Bytes::new()).expect("it is wanted");
            }
            _ => {}
        }
    }
}

fn cluster(slow: SlowMembers, bug: Option<Sabotage>) -> Net<Reader> {
    with_window(WINDOW, slow, bug)
}

fn with_window(window: usize, slow: SlowMembers, bug: Option<Sabotage>) -> Net<Reader> {
    let config = Config { window, slow, ..Config::default() };
    Net::formed(3, GROUP, (&config, bug), Reader::default)
}

fn patience(slow: Option<Duration>) -> SlowMembers {
    SlowMembers::Evict(Patience { stalled: STALLED, slow })
}

/// Node 2 sends as much as it may, up to so much; a millisecond passes.
fn busy(net: &mut Net<Reader>, still: &[NodeInstance], most: usize) {
    let now = net.now;
    if !still.contains(&node(2)) {
        let core = &mut net.site(node(2)).core;
        for _ in 0..most {
            if core.send(now, GROUP, 0, Guarantee::Agreed, Bytes::from_static(b"message")).is_err() {
                break;
            }
        }
        assert!(core.window().used <= WINDOW + MESSAGE_COST + 7, "memory stays flat");
        net.drain(node(2));
    }
    net.tick(still);
}

fn run(net: &mut Net<Reader>, time: Duration) {
    let end = net.now + time;
    while net.now < end {
        busy(net, &[], 300);
    }
}

fn hold(net: &mut Net<Reader>, hold: bool) {
    let now = net.now;
    net.site(node(3)).core.hold(now, hold);
    net.drain(node(3));
}

#[test]
fn a_member_that_takes_nothing_is_evicted_after_its_time_and_told_why_when_it_wakes() {
    let mut net = cluster(patience(None), None);
    hold(&mut net, true);
    run(&mut net, STALLED);
    assert_eq!(net.evictions, [], "not before its time");
    run(&mut net, STALLED / 2);
    let [(_, by, whom, lag)] = net.evictions[..] else { panic!("{:?}", net.evictions) };
    assert_eq!((by, whom, lag.stalled), (node(2), node(3), true), "who waits for it has it evicted");
    assert!(lag.lasted >= STALLED && lag.behind > (WINDOW / 2) as u64, "{lag:?}");
    let before = net.sites[&node(1)].app.messages;
    net.enter(&[node(1), node(2)], &[(node(3), lag)]);
    run(&mut net, Duration::from_millis(50));
    assert!(net.sites[&node(1)].app.messages > before + 1000, "the others go on");
    assert_eq!(net.sites[&node(3)].app.evicted, [lag], "told once, by all who put it out");
    hold(&mut net, false);
    net.enter(&[node(1), node(2), node(3)], &[]);
    run(&mut net, Duration::from_millis(50));
    let back = &net.sites[&node(3)].app;
    assert_eq!((back.resets, back.states, back.evicted.len()), (1, 1 + 1, 1), "it comes back as a joiner");
}

#[test]
fn without_the_policy_everybody_waits_and_memory_stays_flat() {
    let mut net = cluster(SlowMembers::Throttle, None);
    hold(&mut net, true);
    run(&mut net, 20 * STALLED);
    assert_eq!(net.evictions, []);
    let taken = net.sites[&node(1)].app.messages;
    assert!(taken <= (WINDOW / MESSAGE_COST) as u64, "{taken} messages");
    hold(&mut net, false);
    run(&mut net, Duration::from_millis(50));
    assert!(net.sites[&node(3)].app.messages > taken, "all go on");
}

#[test]
fn a_member_that_is_merely_slow_sets_the_pace_unless_that_is_bounded_too() {
    for (slow, evicted) in [(None, false), (Some(10 * STALLED), true)] {
        let mut net = cluster(patience(slow), None);
        net.site(node(3)).pace = 2;
        run(&mut net, 9 * STALLED);
        assert_eq!(net.evictions, [], "{slow:?}");
        assert!(net.sites[&node(3)].app.messages > 1000, "it takes some");
        run(&mut net, 3 * STALLED);
        let lags: Vec<bool> = net.evictions.iter().map(|(_, _, _, lag)| lag.stalled).collect();
        assert_eq!(lags, if evicted { vec![false] } else { vec![] }, "{slow:?}");
    }
}

/// It stands still for three quarters of the time and takes all then, again and again. Who was to be evicted.
fn pauses(bug: Option<Sabotage>) -> usize {
    let mut net = cluster(patience(Some(10 * STALLED)), bug);
    for _ in 0..20 {
        hold(&mut net, true);
        run(&mut net, STALLED * 3 / 4);
        hold(&mut net, false);
        run(&mut net, STALLED / 4);
    }
    net.evictions.len()
}

#[test]
fn nobody_is_evicted_for_pauses_that_are_short_however_many() {
    assert_eq!(pauses(None), 0);
}

#[test]
fn a_member_that_is_not_forgiven_when_it_has_caught_up_is_found() {
    assert!(pauses(Some(Sabotage::Unforgiving)) > 0);
}

#[test]
fn a_member_that_keeps_pace_is_not_slow_though_the_window_is_always_full() {
    let mut net = with_window(32 << 10, patience(Some(Duration::from_secs(1))), None);
    for _ in 0..1_500 {
        busy(&mut net, &[], WINDOW);
    }
    assert!(net.sites[&node(3)].app.messages > 10_000, "it is busy");
    assert_eq!(net.evictions, []);
}

#[test]
fn who_takes_nothing_is_evicted_also_if_what_it_does_not_take_waits_to_be_sent() {
    for nodes in [2, 3] {
        let config = Config { window: 64 << 10, batch: 4 << 10, slow: patience(None), ..Config::default() };
        let mut net = Net::formed(nodes, GROUP, (&config, None), Reader::default);
        let (sender, still) = (node(1), node(nodes));
        let end = net.now + 2 * STALLED;
        while net.now < end {
            let now = net.now;
            let core = &mut net.site(sender).core;
            while core.send(now, GROUP, 0, Guarantee::Agreed, Bytes::from_static(b"message")).is_ok() {}
            // A batch or two are on their way.
            net.site(sender).pace = 3;
            net.drain(sender);
            net.site(sender).pace = usize::MAX;
            net.site(sender).core.note_backlog(now, Some((still, usize::MAX)));
            net.drain(sender);
            net.tick(&[still]);
        }
        let [(_, by, whom, lag), ..] = net.evictions[..] else { panic!("nobody of {nodes} is evicted") };
        assert_eq!((by, whom, lag.stalled), (sender, still, true));
        assert!(net.evictions.iter().all(|(_, _, whom, _)| *whom == still), "{:?}", net.evictions);
    }
}

#[test]
fn a_sender_that_stood_still_itself_blames_nobody_for_that_time() {
    let mut net = cluster(patience(None), None);
    hold(&mut net, true);
    run(&mut net, STALLED / 2);
    let end = net.now + 10 * STALLED;
    while net.now < end {
        busy(&mut net, &[node(2)], 0);
    }
    run(&mut net, STALLED * 3 / 4);
    assert_eq!(net.evictions, [], "what it did not see says nothing");
    run(&mut net, STALLED);
    assert_eq!(net.evictions.len(), 1);
}
