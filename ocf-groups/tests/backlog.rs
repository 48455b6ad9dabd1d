//! While much waits to be sent, own messages wait before they are made into batches, and the order and the reports of others' messages
//! go on. The method: three cores, of which one is told how much waits on its circuits.

mod net;

use bytes::Bytes;
use net::{App, Net, node};
use ocf_groups::{Config, Event, Groups, Guarantee};
use pils::{Instant, NodeInstance};

const GROUP: &str = "busy";

/// What it is told, by sender.
#[derive(Default)]
struct Reader(Vec<NodeInstance>);

impl App for Reader {
    fn on_event(&mut self, _: NodeInstance, now: Instant, core: &mut Groups, event: Event) {
        if let Event::Message { sender, .. } = event {
            self.0.push(sender.instance);
        } else if let Event::StateWanted { joiner, position, .. } = event {
            core.offer_state(now, GROUP, joiner, position, Bytes::new()).expect("it is wanted");
        }
    }
}

fn cluster() -> Net<Reader> {
    Net::formed(3, GROUP, (&Config::default(), None), Reader::default)
}

fn send(net: &mut Net<Reader>, from: u32) {
    let now = net.now;
    let payload = Bytes::from_static(b"message");
    net.site(node(from)).core.send(now, GROUP, 0, Guarantee::Agreed, payload).expect("it is a member");
    net.drain(node(from));
}

fn tell(net: &mut Net<Reader>, at: u32, bytes: usize) -> bool {
    let now = net.now;
    net.site(node(at)).core.note_backlog(now, Some((node(3), bytes)));
    net.drain(node(at));
    net.site(node(at)).core.is_crowded()
}

#[test]
fn own_messages_wait_while_much_waits_to_be_sent_and_those_of_others_are_ordered_and_opened_for() {
    let most = Config::default().backlog;
    for crowded in [1, 2] {
        let mut net = cluster();
        assert!(!tell(&mut net, crowded, most) && tell(&mut net, crowded, most + 1));
        send(&mut net, crowded);
        net.settle();
        send(&mut net, 3);
        net.settle();
        // Reports that go alone wait for a millisecond.
        (0..3).for_each(|_| net.tick(&[]));
        for n in 1..=3 {
            assert_eq!(net.sites[&node(n)].app.0, [node(3)], "node {n}, {crowded} is crowded");
        }
        assert_eq!(net.sites[&node(3)].core.window().used, 0, "what all have consumed is off the window");
        assert!(net.sites[&node(crowded)].core.window().used > 0, "what waits counts");
        assert!(tell(&mut net, crowded, most / 2 + 1), "they go on at half");
        assert!(!tell(&mut net, crowded, most / 2));
        net.settle();
        for n in 1..=3 {
            assert_eq!(
                net.sites[&node(n)].app.0,
                [node(3), node(crowded)],
                "node {n}, {crowded} was crowded"
            );
        }
    }
}

#[test]
fn what_waits_comes_first_in_the_next_view() {
    let mut net = cluster();
    assert!(tell(&mut net, 1, usize::MAX));
    send(&mut net, 1);
    net.settle();
    net.enter(&[node(1), node(2)], &[]);
    net.settle();
    assert!(net.sites.values().all(|site| site.app.0.is_empty()), "it still waits");
    assert!(!tell(&mut net, 1, 0));
    net.settle();
    for n in [1, 2] {
        assert_eq!(net.sites[&node(n)].app.0, [node(1)]);
    }
}
