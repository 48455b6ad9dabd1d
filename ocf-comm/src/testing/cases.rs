use super::{Cluster, Fabric};
use crate::{Channel, Connectivity, DownReason, Event, Lane, SendError};
use bytes::Bytes;
use pils::{Incarnation, NodeId, NodeInstance};

const CHANNEL: Channel = Channel::APPLICATION;

pub(super) fn peers_come_up_and_are_listed<F: Fabric>(fabric: F) {
    let cluster = Cluster::start(fabric, 3);
    for i in 0..3 {
        let peers = cluster.nodes[i].node.peers();
        let listed: Vec<_> = peers.iter().filter(|peer| peer.up).filter_map(|peer| peer.instance).collect();
        let expected: Vec<_> = (0..3).filter(|k| *k != i).map(|k| cluster.local(k)).collect();
        assert_eq!(listed, expected, "peers() lists the peers that are up, in order of their ids");
    }
}

pub(super) fn each_lane_is_in_order_and_exactly_once<F: Fabric>(fabric: F) {
    const COUNT: u32 = 300;
    let mut cluster = Cluster::start(fabric, 3);
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 1)];
    for number in 0..COUNT {
        for (from, to) in pairs {
            for lane in Lane::ALL {
                let to = cluster.local(to);
                let channel = Channel(CHANNEL.0 + u8::try_from(number % 3).unwrap_or(0));
                // Sizes around those of packets and of the read buffers.
                let mut message = number.to_be_bytes().to_vec();
                message.resize(4 + usize::try_from(number).unwrap_or(0) * 37 % 5000, 0xa5);
                let sent = cluster.node(from).send(to, lane, channel, message.into());
                assert_eq!(sent, Ok(()), "a few messages fit the queues");
            }
        }
    }
    for (from, to) in pairs {
        let from = cluster.local(from);
        for lane in Lane::ALL {
            for number in 0..COUNT {
                let (channel, message) = cluster.expect_message(to, from, lane);
                let got = message.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                assert_eq!(got, Some(number), "messages of one lane arrive in order and once");
                assert_eq!(u32::from(channel.0 - CHANNEL.0), number % 3, "a message keeps its channel");
                assert!(message[4..].iter().all(|byte| *byte == 0xa5), "a message keeps its content");
            }
        }
    }
    for _ in 0..20 {
        cluster.fabric.wait();
        cluster.poll();
    }
    for member in &cluster.nodes {
        let more = member.seen.iter().find(|event| matches!(event, Event::Message { .. }));
        assert!(more.is_none(), "messages arrive in order and once, but {more:?} came besides");
    }
}

pub(super) fn a_big_message_arrives_intact<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, 2);
    let (a, b) = (cluster.local(0), cluster.local(1));
    let size = (1 << 20).min(cluster.fabric.message_max());
    let big: Bytes = (0..size).map(|i| ((i * 31) >> 3).to_le_bytes()[0]).collect();
    for lane in [Lane::Bulk, Lane::Small] {
        assert_eq!(cluster.node(0).send(b, lane, CHANNEL, big.clone()), Ok(()));
        assert!(cluster.expect_message(1, a, lane).1 == big, "a big message arrives as it was sent");
    }
    assert_eq!(cluster.node(1).send(a, Lane::Small, CHANNEL, Bytes::new()), Ok(()));
    assert_eq!(cluster.expect_message(0, b, Lane::Small).1, Bytes::new(), "an empty message is a message");
}

pub(super) fn a_full_queue_is_refused_then_writable<F: Fabric>(fabric: F) {
    const LANE: Lane = Lane::Bulk;
    let mut cluster = Cluster::start(fabric, 2);
    let (a, b) = (cluster.local(0), cluster.local(1));
    let size = (64 << 10).min(cluster.fabric.message_max());
    let mut message = vec![0; size];
    // The receiver consumes nothing: its window, then the sender's queue fill up, however much each holds.
    let mut sent = 0_u32;
    let full = loop {
        message[..4].copy_from_slice(&sent.to_be_bytes());
        match cluster.node(0).send(b, LANE, CHANNEL, Bytes::copy_from_slice(&message)) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
        assert!(sent < 100_000, "a queue has a limit");
    };
    let SendError::Full { to, queued, limit } = full else { panic!("a full queue is Full, not {full}") };
    assert_eq!(to, b, "Full names the peer");
    assert!(queued + size > limit && queued > 0, "Full says how full: {queued} of {limit}, message {size}");
    let urgent = cluster.node(0).send(b, Lane::Urgent, CHANNEL, Bytes::from_static(b"urgent"));
    assert_eq!(urgent, Ok(()), "a full lane does not close a more urgent one");
    assert_eq!(cluster.expect_message(1, a, Lane::Urgent).1, "urgent", "nor does it hold it up");
    let writable = |event: &Event| matches!(event, Event::Writable { .. }).then_some(());
    for number in 0..sent {
        let (_, got) = cluster.expect_message(1, a, LANE);
        assert!(got[..4] == number.to_be_bytes(), "nothing is lost or swapped by a full queue");
    }
    cluster.expect(0, "Writable after a refused send", writable);
    assert_eq!(
        cluster.node(0).send(b, LANE, CHANNEL, message.into()),
        Ok(()),
        "Writable means that there is room"
    );
    cluster.expect_message(1, a, LANE);
    let again = cluster.nodes[0].seen.iter().find_map(writable);
    assert!(again.is_none(), "one refusal, one Writable");
}

pub(super) fn impossible_sends_are_refused<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, 2);
    let (a, b) = (cluster.local(0), cluster.local(1));
    let stranger = NodeInstance::new(NodeId::new(99), b.incarnation);
    let earlier = NodeInstance::new(b.node, Incarnation::new(!b.incarnation.raw()));
    for unknown in [stranger, earlier, a] {
        let refused = cluster.node(0).send(unknown, Lane::Small, CHANNEL, Bytes::new());
        assert_eq!(refused, Err(SendError::UnknownPeer(unknown)), "an unknown peer is refused");
    }
    let limit = cluster.fabric.message_max();
    let refused = cluster.node(0).send(b, Lane::Bulk, CHANNEL, vec![0; limit + 1].into());
    assert_eq!(
        refused,
        Err(SendError::TooLarge { size: limit + 1, limit }),
        "a message too large is refused"
    );
}

pub(super) fn a_killed_node_goes_down_and_comes_back_as_another<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, 3);
    let (a, old) = (cluster.local(0), cluster.local(2));
    let killed = cluster.nodes.remove(2);
    cluster.fabric.kill(killed.node);
    for i in 0..2 {
        let reason = cluster.expect(i, "Down of the killed node", |event| match event {
            Event::Down { peer, reason } if *peer == old => Some(*reason),
            _ => None,
        });
        assert!(!reason.is_proof_of_death(), "nobody proved the death, yet {reason:?}");
        assert_eq!(
            cluster.node(i).send(old, Lane::Small, CHANNEL, Bytes::new()),
            Err(SendError::Down(old)),
            "a peer that is down takes no message"
        );
        assert!(cluster.node(i).peers().iter().any(|peer| peer.node == old.node && !peer.up));
    }
    let node = cluster.fabric.start(old.node);
    let new = node.local();
    assert_ne!(new, old, "a restart is a new incarnation");
    cluster.nodes.push(super::Member { node, seen: Vec::new() });
    for i in 0..2 {
        cluster.expect(i, "Up of the new incarnation", |event| match event {
            Event::Up { peer } if *peer == new => Some(()),
            _ => None,
        });
        let refused = cluster.node(i).send(old, Lane::Small, CHANNEL, Bytes::new());
        // Whether an ended incarnation is remembered is the provider's choice.
        assert!(
            [Err(SendError::UnknownPeer(old)), Err(SendError::Down(old))].contains(&refused),
            "the old incarnation takes no message any more, but {refused:?}"
        );
    }
    cluster.expect(2, "Up of an old peer at the new incarnation", |event| match event {
        Event::Up { peer } if *peer == a => Some(()),
        _ => None,
    });
    assert_eq!(cluster.node(2).send(a, Lane::Small, CHANNEL, "back".into()), Ok(()));
    assert_eq!(cluster.expect_message(0, new, Lane::Small).1, "back");
    assert_eq!(cluster.node(0).send(new, Lane::Small, CHANNEL, "welcome".into()), Ok(()));
    assert_eq!(cluster.expect_message(2, a, Lane::Small).1, "welcome");
}

pub(super) fn an_orderly_leave_is_told_as_such<F: Fabric>(fabric: F) {
    let mut cluster = Cluster::start(fabric, 2);
    let b = cluster.local(1);
    let leaver = cluster.nodes.remove(1);
    cluster.fabric.leave(leaver.node);
    let reason = cluster.expect(0, "Down of the node that left", |event| match event {
        Event::Down { peer, reason } if *peer == b => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, DownReason::Left, "an orderly leave is told as such");
}
