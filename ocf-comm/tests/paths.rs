//! Several paths under one circuit: their states, the policies that share messages among them, and changes at run time.
//! Method: endpoints in virtual time, on a network whose paths fail one by one and one way.
#![allow(
    clippy::allow_attributes,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may fail where it is wrong, looks at some events, and prints what it measured"
)]

mod net;

use core::time::Duration;
use net::{MS, Net, address, id};
use ocf_comm::{
    Change, ChangeError, DownReason, Event, Input, Lane, PathId, PathPolicy, PathReason, PathState,
    PeerConfig, Refusal,
};
use pils::{Instant, Layer as _};
use std::net::SocketAddr;

const URGENT: usize = 200;

fn path_events(net: &Net, i: usize) -> Vec<(Instant, u8, PathState)> {
    let told = |(at, e): &(Instant, Event)| match e {
        Event::PathUp { path, .. } => Some((*at, path.0, PathState::Up)),
        Event::PathDoubtful { path, .. } => Some((*at, path.0, PathState::Doubtful)),
        Event::PathDown { path, .. } => Some((*at, path.0, PathState::Down)),
        _ => None,
    };
    net.nodes[i].events.iter().filter_map(told).collect()
}

/// Two nodes with so many paths, all of them up.
fn pair(seed: u64, paths: u8, policy: PathPolicy) -> Net {
    let mut net = Net::with(seed, 2, paths, |c| c.policy = policy);
    net.start_all();
    let all = move |n: &Net| {
        n.all_up()
            && (0..paths).all(|p| n.state(0, 1, p) == PathState::Up && n.state(1, 0, p) == PathState::Up)
    };
    assert!(net.run_until(2000 * MS, all), "every path comes up");
    net
}

#[test]
fn a_path_goes_from_up_to_doubtful_to_down_and_comes_back_after_five_answers() {
    for seed in 0..20 {
        let mut net = pair(seed, 2, PathPolicy::Failover);
        net.run(500 * MS);
        let cut_at = net.now;
        net.cut_both(0, 1, 0);
        for _ in 0..200 {
            net.send(0, 1, Lane::Small, 500);
            net.run(MS);
        }
        let told: Vec<_> = path_events(&net, 0).into_iter().filter(|(at, ..)| *at > cut_at).collect();
        let [(doubt, 0, PathState::Doubtful), (down, 0, PathState::Down)] = told[..] else {
            panic!("{told:?}")
        };
        assert!(doubt.since(cut_at) <= 6 * MS, "seed {seed}: {told:?}");
        assert!(down.since(doubt) >= 50 * MS && down.since(doubt) <= 150 * MS, "seed {seed}: {told:?}");
        assert_eq!(net.paths(0, 1)[0].reason, PathReason::ProbesLost);
        assert!(net.paths(0, 1)[1].active);
        let healed_at = net.now;
        net.cut.clear();
        net.run(2000 * MS);
        let (up, path, state) = *path_events(&net, 0).last().unwrap();
        assert_eq!((path, state), (0, PathState::Up));
        assert!(up.since(healed_at) >= 300 * MS, "five answers take time: {:?}", up.since(healed_at));
        assert!(net.paths(0, 1)[0].active, "the first path of the configuration is preferred");
        assert!(net.downs(0).is_empty() && net.downs(1).is_empty());
    }
}

#[test]
fn a_flapping_path_is_held_back_twice_as_long_each_time() {
    let mut net = pair(1, 2, PathPolicy::Failover);
    let mut waits = Vec::new();
    for _ in 0..4 {
        net.cut_both(0, 1, 0);
        assert!(net.run_until(1000 * MS, |n| n.state(0, 1, 0) == PathState::Down));
        let down = net.now;
        net.cut.clear();
        assert!(net.run_until(60_000 * MS, |n| n.state(0, 1, 0) == PathState::Up));
        waits.push(net.now.since(down));
    }
    let growing = waits.windows(2).all(|w| w[1] > w[0] * 3 / 2 && w[1] < w[0] * 3);
    assert!(growing && waits[3] > 3500 * MS, "{waits:?}");
    // A path that worked for long does not flap any more.
    net.run(70_000 * MS);
    net.cut_both(0, 1, 0);
    net.run(300 * MS);
    net.cut.clear();
    let back = net.now;
    assert!(net.run_until(60_000 * MS, |n| n.state(0, 1, 0) == PathState::Up));
    assert!(net.now.since(back) < waits[1], "{:?}", net.now.since(back));
}

#[test]
fn a_one_way_cut_of_a_path_moves_both_directions_away_from_it() {
    for way in [(0, 1, 0), (1, 0, 0)] {
        let mut net = pair(2, 2, PathPolicy::Failover);
        net.cut.insert(way);
        for _ in 0..100 {
            assert!(net.send(0, 1, Lane::Small, 1000) && net.send(1, 0, Lane::Small, 1000));
            net.run(MS);
        }
        assert!(net.run_until(20 * MS, Net::all_arrived));
        assert!(net.paths(0, 1)[1].active && net.paths(1, 0)[1].active);
        assert!(net.downs(0).is_empty() && net.downs(1).is_empty());
    }
}

#[test]
fn the_gap_when_a_path_dies_under_load_is_one_probe_timeout() {
    for policy in [PathPolicy::Failover, PathPolicy::Balance, PathPolicy::Redundant] {
        let mut longest = Duration::ZERO;
        for seed in 0..20 {
            let mut net = pair(seed, 2, policy);
            for _ in 0..50 {
                net.send(0, 1, Lane::Small, 1000);
                net.run(MS / 4);
            }
            net.cut_both(0, 1, 0);
            let (mut last, mut before) = (net.now, net.progress(0, 1, Lane::Small).1);
            for _ in 0..400 {
                net.send(0, 1, Lane::Small, 1000);
                net.run(MS / 4);
                let got = net.progress(0, 1, Lane::Small).1;
                if got > before {
                    longest = longest.max(net.now.since(last));
                    (last, before) = (net.now, got);
                }
            }
            assert!(net.run_until(100 * MS, Net::all_arrived));
        }
        let bound = if policy == PathPolicy::Redundant { MS } else { 6 * MS };
        assert!(longest <= bound, "{policy:?}: {longest:?}");
    }
}

/// C6: an urgent message of at most 256 bytes arrives in one flight while one of the paths that were up lives.
#[test]
fn small_urgent_messages_do_not_notice_that_a_path_dies() {
    for seed in 0..30 {
        let mut net = pair(seed, 3, PathPolicy::Failover);
        let lives = u8::try_from(seed % 3).unwrap();
        for round in 0..200_u64 {
            if round == 50 {
                (0..3).filter(|p| *p != lives).for_each(|p| net.cut_both(0, 1, p));
            }
            assert!(net.send(0, 1, Lane::Urgent, 8 + URGENT * usize::from(round % 2 == 0)));
            net.run(MS / 5);
            assert!(net.all_arrived(), "seed {seed}: round {round} took more than one flight");
        }
    }
}

#[test]
fn large_urgent_and_ordinary_messages_are_not_doubled() {
    let mut net = pair(3, 2, PathPolicy::Failover);
    net.run(500 * MS);
    let before = net.carried[&(0, 1)];
    for _ in 0..100 {
        assert!(net.send(0, 1, Lane::Urgent, 300) && net.send(0, 1, Lane::Small, 100));
        net.run(MS / 10);
    }
    assert!(
        net.carried[&(0, 1)] - before < 1000,
        "{} bytes on the second path",
        net.carried[&(0, 1)] - before
    );
    for _ in 0..100 {
        assert!(net.send(0, 1, Lane::Urgent, 256));
        net.run(MS / 10);
    }
    assert!(net.carried[&(0, 1)] - before > 25_600);
}

#[test]
fn redundant_sends_everything_on_every_path_and_delivers_once() {
    let mut net = pair(4, 3, PathPolicy::Redundant);
    for path in 0..3 {
        net.lossy.insert((0, 1, path), 0.3);
    }
    let before: Vec<usize> = (0..3).map(|p| net.carried[&(0, p)]).collect();
    for _ in 0..1000 {
        assert!(net.send(0, 1, Lane::Small, 1000));
        net.run(MS);
    }
    assert!(net.run_until(100 * MS, Net::all_arrived));
    for path in 0..3_u8 {
        let carried = net.carried[&(0, path)] - before[usize::from(path)];
        assert!(carried > 600_000, "path {path} carried {carried}");
    }
    assert!((100_000..500_000).contains(&net.paths(0, 1)[1].loss_ppm), "{:?}", net.paths(0, 1)[1]);
}

#[test]
fn balance_uses_equal_paths_alike_and_a_slow_one_only_for_what_it_hastens() {
    let carried = |late: Duration| {
        let mut net = pair(5, 2, PathPolicy::Balance);
        net.check_numbers = false;
        for way in [(0, 1, 1), (1, 0, 1)] {
            net.late.insert(way, late);
        }
        net.faults.delay = (2 * MS, 2 * MS);
        net.run(2000 * MS);
        let before = [net.carried[&(0, 0)], net.carried[&(0, 1)]];
        for _ in 0..30 {
            net.send(0, 1, Lane::Bulk, 1 << 20);
        }
        assert!(net.run_until(5000 * MS, Net::all_arrived));
        [net.carried[&(0, 0)] - before[0], net.carried[&(0, 1)] - before[1]]
    };
    let [a, b] = carried(Duration::ZERO);
    assert!(a * 3 > b && b * 3 > a, "equal paths: {a} and {b} bytes");
    let [fast, slow] = carried(100 * MS);
    assert!(slow * 2 < fast, "one path is 50 times slower: {fast} and {slow} bytes");
}

/// Two paths: what they carry in bytes per second, and which share they lose.
#[derive(Clone, Copy, Debug)]
struct Roads {
    rate: [u64; 2],
    loss: [f64; 2],
    /// Bytes that the sender has under way at most.
    outstanding: u64,
}

/// Bytes per second that arrive, of a sender that always has more.
fn goodput(policy: PathPolicy, seed: u64, roads: &Roads) -> f64 {
    const SIZE: usize = 2000;
    let mut net = pair(seed, 2, policy);
    net.check_numbers = false;
    for ((path, rate), loss) in (0..).zip(roads.rate).zip(roads.loss) {
        for way in [(0, 1, path), (1, 0, path)] {
            net.rate.insert(way, rate);
            net.lossy.insert(way, loss);
        }
    }
    let arrived = |net: &mut Net, time: u32| {
        let before = net.progress(0, 1, Lane::Small).1;
        for _ in 0..time * 5 {
            let most = net.progress(0, 1, Lane::Small).1 + roads.outstanding / SIZE as u64;
            while net.progress(0, 1, Lane::Small).0 < most {
                assert!(net.send(0, 1, Lane::Small, SIZE));
            }
            net.run(MS / 5);
        }
        (net.progress(0, 1, Lane::Small).1 - before) as f64 * SIZE as f64 * 1000.0 / f64::from(time)
    };
    arrived(&mut net, 200);
    let goodput = arrived(&mut net, 500);
    assert!(net.downs(0).is_empty());
    goodput
}

/// How much more balance carries than failover.
fn gain(seed: u64, roads: &Roads) -> f64 {
    let [alone, both] =
        [PathPolicy::Failover, PathPolicy::Balance].map(|policy| goodput(policy, seed, roads));
    println!("seed {seed}, {roads:?}: {:.2}", both / alone);
    both / alone
}

#[test]
fn balance_is_almost_twice_as_fast_as_failover_over_equal_paths_and_no_slower_beside_a_lossy_one() {
    const EQUAL: [u64; 2] = [12_500_000; 2];
    for seed in 0..2 {
        let clean = Roads { rate: EQUAL, loss: [0.0; 2], outstanding: 1_000_000 };
        assert!(gain(seed, &clean) > 1.5);
        for outstanding in [20_000, 100_000, 1_000_000] {
            for loss in [0.01, 0.05, 0.1, 0.3] {
                let beside = Roads { rate: EQUAL, loss: [0.0, loss], outstanding };
                assert!(gain(seed, &beside) >= 0.95, "seed {seed}: {beside:?}");
            }
        }
        // A twentieth as fast, and lossy.
        let slow = Roads { rate: [50_000_000, 2_500_000], loss: [0.0, 0.1], outstanding: 1_000_000 };
        assert!(gain(seed, &slow) >= 0.95, "seed {seed}: {slow:?}");
    }
}

#[test]
fn the_policy_changes_under_load_and_nothing_is_lost_or_doubled() {
    let mut net = pair(6, 2, PathPolicy::Failover);
    let policies = [PathPolicy::Redundant, PathPolicy::Balance, PathPolicy::Failover];
    for round in 0..600 {
        if round % 50 == 0 {
            let policy = policies[round / 50 % 3];
            (0..2).for_each(|i| net.change(i, &Change::SetPolicy(policy)).unwrap());
        }
        net.send(0, 1, Lane::ALL[round % 3], 700);
        net.send(1, 0, Lane::ALL[round % 3], 70);
        net.run(MS / 3);
    }
    assert!(net.run_until(100 * MS, Net::all_arrived));
}

#[test]
fn carrier_loss_moves_the_data_at_once_and_says_nothing_about_the_peer() {
    let mut net = pair(7, 2, PathPolicy::Failover);
    net.cut_both(0, 1, 0);
    let now = net.now;
    let endpoint = net.nodes[0].endpoint.as_mut().unwrap();
    endpoint.handle(now, Input::Carrier { path: PathId(0), up: false });
    net.drain(0);
    assert_eq!(net.paths(0, 1)[0].reason, PathReason::NoCarrier);
    assert!(net.send(0, 1, Lane::Small, 1000));
    assert!(net.run_until(MS, Net::all_arrived), "no probe timeout is waited for");
    net.run(1000 * MS);
    assert!(net.downs(0).is_empty());
    net.cut.clear();
    let now = net.now;
    net.nodes[0].endpoint.as_mut().unwrap().handle(now, Input::Carrier { path: PathId(0), up: true });
    net.drain(0);
    assert!(net.run_until(1000 * MS, |n| n.state(0, 1, 0) == PathState::Up));
}

#[test]
fn a_path_is_added_removed_and_added_again_under_load() {
    for seed in 0..10 {
        let mut net = Net::connected(seed, 2, 1);
        let add = |to: usize| Change::AddPath { node: id(to), path: PathId(3), address: address(to, 3) };
        let remove = |to: usize, path| Change::RemovePath { node: id(to), path: PathId(path) };
        for round in 0..3 {
            // The two ends need not learn of it at the same time.
            net.change(0, &add(1)).unwrap();
            net.run(MS * 200);
            net.change(1, &add(0)).unwrap();
            assert!(net.run_until(1000 * MS, |n| n.state(0, 1, 3) == PathState::Up));
            net.cut_both(0, 1, 0);
            for _ in 0..20 {
                assert!(net.send(0, 1, Lane::Small, 1000) && net.send(1, 0, Lane::Urgent, 100));
                net.run(MS);
            }
            assert!(net.run_until(100 * MS, Net::all_arrived), "seed {seed}, round {round}");
            net.cut.clear();
            assert!(net.run_until(8000 * MS, |n| n.state(0, 1, 0) == PathState::Up));
            for _ in 0..20 {
                assert!(net.send(0, 1, Lane::Bulk, 20_000));
            }
            net.change(0, &remove(1, 3)).unwrap();
            net.run(MS);
            net.change(1, &remove(0, 3)).unwrap();
            assert!(net.run_until(1000 * MS, Net::all_arrived));
        }
        assert!(net.downs(0).is_empty() && net.downs(1).is_empty());
    }
}

#[test]
fn the_first_path_can_be_exchanged_for_another_without_a_break() {
    let mut net = Net::connected(12, 2, 1);
    for i in 0..2 {
        net.change(i, &Change::AddPath { node: id(1 - i), path: PathId(1), address: address(1 - i, 1) })
            .unwrap();
    }
    assert!(net.run_until(1000 * MS, |n| n.state(0, 1, 1) == PathState::Up));
    for _ in 0..30 {
        assert!(net.send(0, 1, Lane::Bulk, 50_000));
    }
    net.change(0, &Change::RemovePath { node: id(1), path: PathId(0) }).unwrap();
    net.change(1, &Change::RemovePath { node: id(0), path: PathId(0) }).unwrap();
    net.cut_both(0, 1, 0);
    assert!(net.run_until(1000 * MS, Net::all_arrived));
    let last = Change::RemovePath { node: id(1), path: PathId(1) };
    assert_eq!(net.change(0, &last), Err(ChangeError::LastPath(id(1), PathId(1))));
}

#[test]
fn a_peer_that_moves_to_another_address_is_followed_and_a_wrong_address_is_no_death() {
    let mut net = pair(8, 2, PathPolicy::Failover);
    let set = |address| Change::SetAddress { node: id(1), path: PathId(0), address };
    for _ in 0..10 {
        assert!(net.send(0, 1, Lane::Small, 3000));
    }
    let moved = net.rebind(1, 0);
    net.change(0, &set(moved)).unwrap();
    assert_eq!(net.state(0, 1, 0), PathState::Down);
    assert!(net.run_until(100 * MS, |n| n.all_arrived() && n.state(0, 1, 0) == PathState::Up));
    assert_eq!(net.paths(0, 1)[0].address, moved);
    // There it is no more.
    net.change(0, &set(address(1, 0))).unwrap();
    net.run(3000 * MS);
    assert_eq!(net.state(0, 1, 0), PathState::Down);
    assert!(net.downs(0).is_empty() && net.send(0, 1, Lane::Small, 100));
    assert!(net.run_until(10 * MS, Net::all_arrived));
}

#[test]
fn peers_come_and_go_at_run_time_and_a_removed_incarnation_does_not_return() {
    let mut net = Net::new(9, 3, 1);
    let entry = |k: usize| PeerConfig { node: id(k), addresses: vec![(PathId(0), address(k, 0))] };
    for node in &mut net.nodes {
        node.config.peers.clear();
    }
    net.start_all();
    net.run(100 * MS);
    assert!(net.nodes.iter().all(|n| n.up.is_empty()));
    for (i, k) in [(2, 0), (0, 2), (0, 1), (1, 0), (2, 1), (1, 2)] {
        net.change(i, &Change::AddPeer(entry(k))).unwrap();
    }
    assert!(net.run_until(3000 * MS, Net::all_up), "those who were added meet");
    let removed = net.nodes[1].instance;
    assert!(net.send(0, 1, Lane::Bulk, 100_000) && net.send(0, 2, Lane::Bulk, 100_000));
    net.change(0, &Change::RemovePeer(id(1))).unwrap();
    net.run(20 * MS);
    let gone = |n: &Net, i: usize| n.downs(i).last().map(|(_, p, r)| (*p, *r));
    assert_eq!(gone(&net, 0), Some((removed, DownReason::Removed)));
    assert_eq!(gone(&net, 1), Some((net.nodes[0].instance, DownReason::Removed)), "the other end is told");
    assert_eq!(net.progress(0, 2, Lane::Bulk), (1, 1), "the others are not concerned");
    net.change(0, &Change::AddPeer(entry(1))).unwrap();
    net.run(3000 * MS);
    assert!(!net.nodes[0].up.contains(&removed), "down for good");
    net.nodes[1].config.peers = vec![entry(0), entry(2)];
    net.kill(1);
    net.start(1);
    assert!(net.run_until(3000 * MS, Net::all_up), "the next incarnation is welcome");
}

#[test]
fn a_node_that_is_no_peer_is_told_so_on_both_ends_and_comes_up_once_it_is_added() {
    for stranger in [0, 1] {
        let mut net = Net::new(11, 2, 1);
        let member = 1 - stranger;
        net.nodes[member].config.peers.clear();
        net.start_all();
        net.run(5000 * MS);
        for i in 0..2 {
            let told = |e: &Event| matches!(e, Event::Refused { peer, reason: Refusal::NotAPeer, .. } if *peer == id(1 - i));
            let count = net.nodes[i].events.iter().filter(|(_, e)| told(e)).count();
            assert_eq!(count, 1, "node {i}, if {stranger} is the stranger");
        }
        let answers = net.nodes[member].endpoint.as_ref().unwrap().stats().handshakes_sent;
        assert!((1..=10).contains(&answers), "{answers} answers in 5 s: it is not asked more often");
        let entry = PeerConfig { node: id(stranger), addresses: vec![(PathId(0), address(stranger, 0))] };
        net.change(member, &Change::AddPeer(entry)).unwrap();
        assert!(net.run_until(100 * MS, Net::all_up), "at once, if {stranger} is the stranger");
    }
}

#[test]
fn a_wrong_change_says_why_and_changes_nothing() {
    let mut net = pair(10, 2, PathPolicy::Failover);
    let before = net.nodes[0].endpoint.as_ref().unwrap().config().clone();
    let stranger = id(8);
    let at = address(1, 0);
    let peer = |node, addresses| Change::AddPeer(PeerConfig { node, addresses });
    let path = |node, path| Change::AddPath { node, path: PathId(path), address: at };
    let mut refused = |change: Change| net.change(0, &change).unwrap_err();
    assert_eq!(refused(peer(id(1), vec![(PathId(0), at)])), ChangeError::KnownPeer(id(1)));
    assert!(matches!(refused(peer(stranger, vec![])), ChangeError::Invalid(_)));
    assert!(matches!(refused(peer(stranger, vec![(PathId(0), at)])), ChangeError::Invalid(_)), "taken");
    assert!(matches!(refused(peer(id(0), vec![(PathId(0), address(0, 0))])), ChangeError::Invalid(_)));
    assert_eq!(refused(path(stranger, 2)), ChangeError::UnknownPeer(stranger));
    assert_eq!(refused(path(id(1), 1)), ChangeError::KnownPath(id(1), PathId(1)));
    assert_eq!(
        refused(Change::RemovePath { node: id(1), path: PathId(7) }),
        ChangeError::UnknownPath(id(1), PathId(7))
    );
    assert_eq!(refused(Change::RemovePeer(stranger)), ChangeError::UnknownPeer(stranger));
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let set = Change::SetAddress { node: id(1), path: PathId(0), address: nowhere };
    assert!(matches!(refused(set), ChangeError::Invalid(_)));
    for n in 2..8 {
        net.change(0, &Change::AddPath { node: id(1), path: PathId(n), address: address(1, n) }).unwrap();
    }
    let ninth = Change::AddPath { node: id(1), path: PathId(8), address: address(1, 8) };
    assert!(matches!(net.change(0, &ninth), Err(ChangeError::Invalid(_))), "8 paths are the limit");
    for n in 2..8 {
        net.change(0, &Change::RemovePath { node: id(1), path: PathId(n) }).unwrap();
    }
    assert_eq!(net.nodes[0].endpoint.as_ref().unwrap().config(), &before);
    let now = net.now;
    net.nodes[0].endpoint.as_mut().unwrap().leave(now);
    assert_eq!(net.change(0, &Change::SetPolicy(PathPolicy::Balance)), Err(ChangeError::Stopped));
}

fn mtu(net: &Net, path: u8) -> usize {
    net.paths(0, 1).into_iter().find(|p| p.path.0 == path).unwrap().mtu
}

#[test]
fn each_path_finds_the_largest_datagram_that_passes() {
    let mut net = Net::new(20, 2, 3);
    for (path, size) in [(0, 1480), (1, 1300), (2, 65_000)] {
        net.mtu.extend([((0, 1, path), size), ((1, 0, path), size)]);
    }
    net.start_all();
    net.run(1500 * MS);
    assert_eq!([mtu(&net, 0), mtu(&net, 1), mtu(&net, 2)], [1472, 1400, 8972]);
    for _ in 0..100 {
        assert!(net.send(0, 1, Lane::Small, 5000));
    }
    assert!(net.run_until(1000 * MS, Net::all_arrived));
    assert_eq!(net.state(0, 1, 0), PathState::Up);
}

#[test]
fn a_size_that_passes_no_more_is_given_up_while_small_packets_pass() {
    for paths in [1, 2] {
        for seed in 0..10 {
            let mut net = Net::connected(seed, 2, paths);
            net.run(500 * MS);
            assert_eq!(mtu(&net, 0), 8972);
            net.mtu.extend([((0, 1, 0), 1300), ((1, 0, 0), 1300)]);
            let start = net.now;
            for _ in 0..50 {
                assert!(net.send(0, 1, Lane::Small, 4000) && net.send(1, 0, Lane::Bulk, 4000));
                net.run(MS);
            }
            assert!(net.run_until(2000 * MS, Net::all_arrived), "seed {seed}, {paths} paths");
            assert!(net.now.since(start) < 600 * MS, "seed {seed}: {:?}", net.now.since(start));
            net.run(2000 * MS);
            assert!(net.downs(0).is_empty() && net.downs(1).is_empty());
            assert_eq!(
                (mtu(&net, 0), net.state(0, 1, 0)),
                (1200, PathState::Up),
                "seed {seed}, {paths} paths"
            );
        }
    }
}

#[test]
fn a_configured_size_that_the_network_does_not_carry_is_given_up() {
    let mut net = Net::with(21, 2, 1, |c| c.datagram = 8000);
    net.mtu.extend([((0, 1, 0), 1450), ((1, 0, 0), 1450)]);
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up));
    assert!(net.send(0, 1, Lane::Bulk, 300_000));
    assert!(net.run_until(3000 * MS, Net::all_arrived));
    net.run(1000 * MS);
    assert_eq!(mtu(&net, 0), 1400);
    assert!(net.downs(0).is_empty());
}

#[test]
fn a_datagram_that_the_machine_refuses_as_too_large_goes_in_smaller_ones_at_once() {
    let mut net = Net::connected(22, 2, 1);
    net.run(500 * MS);
    net.mtu.insert((0, 1, 0), 1472);
    assert!(net.send(0, 1, Lane::Small, 20_000));
    let (now, to) = (net.now, address(1, 0));
    let refused = Input::TooLarge { path: PathId(0), to, size: 8972 };
    net.nodes[0].endpoint.as_mut().unwrap().handle(now, refused);
    net.drain(0);
    let refused = Input::TooLarge { path: PathId(0), to, size: 4072 };
    net.nodes[0].endpoint.as_mut().unwrap().handle(now, refused);
    net.drain(0);
    assert_eq!(mtu(&net, 0), 1472);
    assert!(net.run_until(3 * MS, Net::all_arrived), "without a probe timeout");
}
