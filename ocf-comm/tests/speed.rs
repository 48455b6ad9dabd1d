//! How many packets per second a core carries through seal and open, without sockets. Method: two endpoints in memory;
//! run with `cargo test --release -p ocf-comm --test speed -- --ignored --nocapture`.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "prints what it measures"
)]

mod net;

use net::{Net, message};
use ocf_comm::{Channel, Endpoint, Event, Input, Lane, Output, PathId, Received, Transmit};
use pils::{Instant, Layer as _};

fn drain(endpoint: &mut Endpoint, now: Instant, out: &mut Vec<Transmit>) -> u64 {
    let mut messages = 0;
    let mut freed = Vec::new();
    while let Some(output) = endpoint.poll_output() {
        match output {
            Output::Transmit(t) => out.push(t),
            Output::Event(Event::Message { from, lane, message, .. }) => {
                messages += 1;
                freed.push((from, lane, message.len()));
            }
            Output::Event(_) => {}
            _ => panic!("an output this program does not know"),
        }
    }
    for (from, lane, bytes) in freed {
        endpoint.consumed(now, from, lane, bytes);
    }
    messages
}

#[test]
#[ignore = "prints a measurement that depends on the machine"]
#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn packets_per_second() {
    for size in [64, 1024, 8192, 65_536] {
        let mut net = Net::connected(1, 2, 1);
        net.run(100 * net::MS);
        let to = net.nodes[1].instance;
        let mut now = net.now;
        let mut a = net.nodes[0].endpoint.take().unwrap();
        let mut b = net.nodes[1].endpoint.take().unwrap();
        let payload = message(1, size);
        let (mut messages, mut forth, mut back) = (0, Vec::new(), Vec::new());
        let started = std::time::Instant::now();
        let before = a.stats().packets_sent;
        while started.elapsed().as_millis() < 1000 {
            now += core::time::Duration::from_micros(100);
            for _ in 0..(256 << 10) / size {
                if a.send(now, to, Lane::Small, Channel::APPLICATION, payload.clone()).is_err() {
                    break;
                }
            }
            drain(&mut a, now, &mut forth);
            for mut t in forth.drain(..) {
                let received = Received {
                    path: PathId(0),
                    from: net::address(0, 0),
                    segment: t.segment,
                    data: &mut t.data,
                };
                b.handle(now, Input::Received(received));
                a.recycle(t.data);
            }
            messages += drain(&mut b, now, &mut back);
            drain(&mut b, now, &mut back);
            for mut t in back.drain(..) {
                let received = Received {
                    path: PathId(0),
                    from: net::address(1, 0),
                    segment: t.segment,
                    data: &mut t.data,
                };
                a.handle(now, Input::Received(received));
                b.recycle(t.data);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let packets = a.stats().packets_sent - before;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (packets, rate) =
            (packets as f64 / seconds, f64::from(u32::try_from(messages).unwrap()) / seconds);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let bytes = rate * size as f64 / 1e6;
        println!(
            "{size:6} B: {:.2} M packets/s both ways on one core, {:.2} M messages/s, {bytes:.0} MB/s",
            packets / 1e6,
            rate / 1e6
        );
        assert!(messages > 0);
    }
}
