//! Keys wear out: by what they sealed, and by what forgers tried. Method: an authenticator whose limits are so low that a test
//! reaches them, between endpoints in virtual time.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test may fail where it is wrong")]

mod net;

use net::{MS, Net, address};
use ocf_comm::crypto::{Authenticator, KeyLimits, PacketKey, Protection, authenticators};
use ocf_comm::{Config, DownReason, DropReason, Event, Input, Lane, PathId, Plugins, Received, Stats};
use pils::plugin::Plugin;
use pils::{Layer as _, Rng};
use std::sync::Arc;

/// AES-256-GCM whose keys may be used for little.
#[derive(Debug)]
struct Delicate {
    inner: Plugin<dyn Authenticator>,
    limits: KeyLimits,
}

impl Authenticator for Delicate {
    fn name(&self) -> &str {
        "delicate"
    }

    fn protection(&self) -> Protection {
        self.inner.protection()
    }

    fn is_portable(&self) -> bool {
        self.inner.is_portable()
    }

    fn limits(&self) -> KeyLimits {
        self.limits
    }

    fn key(&self, secret: &[u8; 32]) -> Box<dyn PacketKey> {
        self.inner.key(secret)
    }
}

fn net(seed: u64, limits: KeyLimits, adjust: impl Fn(&mut Config)) -> Net {
    let mut net = Net::with(seed, 2, 1, |c| {
        c.authenticators = vec!["delicate".to_owned()];
        adjust(c);
    });
    net.plugins = Plugins::default();
    let inner = authenticators().get("aes-256-gcm").unwrap();
    let delicate: Arc<dyn Authenticator> = Arc::new(Delicate { inner, limits });
    net.plugins.authenticators.register("delicate", "1", delicate).unwrap();
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up), "both ends agree upon it");
    net
}

fn stats(net: &Net, i: usize) -> Stats {
    *net.nodes[i].endpoint.as_ref().unwrap().stats()
}

fn renewals(net: &Net, i: usize) -> usize {
    net.nodes[i].events.iter().filter(|(_, e)| matches!(e, Event::Renewed { .. })).count()
}

/// A packet to node 1 that was overheard.
fn overheard(net: &mut Net) -> Vec<u8> {
    for _ in 0..100 {
        assert!(net.send(0, 1, Lane::Small, 1000));
        if let Some(packet) = net.overhear(1).into_iter().find(|d| d[0] >> 4 == 1) {
            return packet;
        }
        net.run(MS);
    }
    panic!("nothing was sent");
}

/// Gives node 1 so many packets of its circuit with numbers that were never used.
fn forge(net: &mut Net, like: &[u8], count: u64, rng: &mut Rng) {
    for _ in 0..count {
        let mut data = like.to_vec();
        let number = (1 << 40) + rng.below(1 << 40);
        data[8..16].copy_from_slice(&number.to_be_bytes());
        rng.fill(&mut data[16..]);
        let (now, segment) = (net.now, data.len());
        let received = Received { path: PathId(0), from: address(0, 0), segment, data: &mut data };
        let endpoint = net.nodes[1].endpoint.as_mut().unwrap();
        endpoint.handle(now, Input::Received(received));
        endpoint.check_invariants();
        net.drain(1);
    }
}

#[test]
fn half_of_the_forgeries_that_a_key_bears_bring_fresh_secrets_and_the_count_begins_anew() {
    let limits = KeyLimits { sealed: 1 << 28, forged: 100 };
    for seed in 0..10 {
        let mut net = net(seed, limits, |_| {});
        let mut rng = Rng::new(seed);
        for round in 1..=5 {
            // What was sealed before the secrets changed is under way for a while.
            net.run(100 * MS);
            let packet = overheard(&mut net);
            forge(&mut net, &packet, 49, &mut rng);
            net.run(100 * MS);
            assert_eq!(renewals(&net, 1), round - 1, "seed {seed}: less than half is borne");
            forge(&mut net, &packet, 1, &mut rng);
            let both = net.run_until(1000 * MS, |net| (0..2).all(|i| renewals(net, i) == round));
            assert!(
                both,
                "seed {seed}, round {round}: {:?} {:?}",
                net.report(),
                [0, 1].map(|i| renewals(&net, i))
            );
            assert!(net.run_until(1000 * MS, Net::all_arrived), "seed {seed}: nothing was lost");
        }
        assert_eq!(stats(&net, 1).dropped(DropReason::BadSeal), 250);
        assert!((0..2).all(|i| net.downs(i).is_empty()), "five times fifty end nothing");
    }
}

#[test]
fn a_circuit_whose_secrets_cannot_be_renewed_ends_at_the_limit_of_forgeries_and_not_before() {
    let limits = KeyLimits { sealed: 1 << 28, forged: 100 };
    let mut net = net(1, limits, |_| {});
    let packet = overheard(&mut net);
    // Whoever floods can also hold up the offer of fresh secrets.
    net.cut_both(0, 1, 0);
    let mut rng = Rng::new(1);
    forge(&mut net, &packet, 99, &mut rng);
    assert!(net.downs(1).is_empty());
    forge(&mut net, &packet, 1, &mut rng);
    assert!(matches!(net.downs(1)[..], [(_, _, DownReason::Forged)]), "{:?}", net.downs(1));
    let before = stats(&net, 1).dropped(DropReason::BadSeal);
    forge(&mut net, &packet, 100, &mut rng);
    assert_eq!(stats(&net, 1).dropped(DropReason::BadSeal), before, "there is nothing left to try");
    assert_eq!(stats(&net, 1).dropped(DropReason::UnknownCircuit), 100);
}

#[test]
fn a_key_that_sealed_all_that_it_may_seals_nothing_more() {
    const MOST: u64 = 3000;
    let limits = KeyLimits { sealed: MOST, forged: 1 << 52 };
    let mut net = net(2, limits, |c| {
        c.rekey_after_packets = Some(1 << 20);
        c.mtu_ladder = vec![1200, 1400];
    });
    for _ in 0..10_000 {
        if net.nodes[0].up.is_empty() || net.nodes[1].up.is_empty() {
            break;
        }
        net.send(0, 1, Lane::Small, 20_000);
        net.run(MS);
    }
    net.run(3000 * MS);
    let sent = stats(&net, 0).packets_sent;
    assert_eq!(sent, MOST, "exactly so many, and then silence");
    let downs = net.downs(1);
    assert!(matches!(downs[..], [(_, _, DownReason::Silent { .. }), ..]), "{downs:?}");
}

#[test]
fn a_key_that_is_replaced_in_time_never_wears_out() {
    const MOST: u64 = 3000;
    let limits = KeyLimits { sealed: MOST, forged: 1 << 52 };
    let mut net = net(3, limits, |c| {
        c.rekey_after_packets = Some(1000);
        c.mtu_ladder = vec![1200, 1400];
    });
    while stats(&net, 0).packets_sent < 10 * MOST {
        net.send(0, 1, Lane::Small, 20_000);
        net.run(MS);
        assert!((0..2).all(|i| net.downs(i).is_empty()));
    }
    assert!(net.run_until(1000 * MS, Net::all_arrived));
    assert!(stats(&net, 0).rekeys >= 20, "{}", stats(&net, 0).rekeys);
}
