//! How fast three cores order messages in one thread with a transport that costs nothing, and that large messages
//! pass. The first is a measurement: run it with `cargo test --release -p ocf-groups --test throughput -- --ignored
//! --nocapture`.

use bytes::Bytes;
use ocf_groups::{Config, Event, Groups, Guarantee, Input, Output, SendError};
use ocf_membership::{Ballot, Member, View, ViewNumber};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::collections::VecDeque;

struct Trio {
    cores: Vec<Groups>,
    /// Messages on their way to each core.
    inboxes: Vec<VecDeque<(NodeInstance, Bytes)>>,
    delivered: [u64; 3],
    /// Sizes of what the first core delivered.
    sizes: Vec<usize>,
    now: Instant,
}

fn instance(i: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(i), Incarnation::new(u128::from(i) + 1))
}

impl Trio {
    fn new() -> Self {
        let members =
            (0..3).map(|i| Member { instance: instance(i), joined: ViewNumber(1), votes: 1 }).collect();
        let view = View {
            number: ViewNumber(1),
            ballot: Ballot { round: 1, proposer: instance(0) },
            members,
            previous: Vec::new(),
            causes: Vec::new(),
            quorum: 2,
            level: 2,
            unproven: Vec::new(),
        };
        let cores = (0..3).map(|i| Groups::new(Config::default(), instance(i))).collect();
        let inboxes = vec![VecDeque::new(); 3];
        let mut trio =
            Self { cores, inboxes, delivered: [0; 3], sizes: Vec::new(), now: Instant::from_millis(1) };
        for core in &mut trio.cores {
            core.handle(trio.now, Input::Installed(&view));
            core.join(trio.now, "bench", 0).expect("a fresh member");
        }
        for _ in 0..20 {
            trio.turn();
        }
        trio
    }

    /// Each core takes all that came, then its outputs are carried out.
    fn turn(&mut self) {
        self.now += core::time::Duration::from_micros(100);
        for i in 0..3 {
            let core = &mut self.cores[i];
            for (from, message) in self.inboxes[i].drain(..) {
                core.handle(self.now, Input::Message { from, message: &message });
            }
            core.handle_timeout(self.now);
            let mut wanted = Vec::new();
            while let Some(output) = core.poll_output() {
                match output {
                    Output::Send { to, message, .. } => {
                        for peer in to.iter() {
                            self.inboxes[peer.node.raw() as usize].push_back((core.local(), message.clone()));
                        }
                    }
                    Output::Event(Event::Message { payload, .. }) => {
                        self.delivered[i] += 1;
                        if i == 0 && payload.len() > 100 {
                            self.sizes.push(payload.len());
                        }
                    }
                    Output::Event(Event::StateWanted { group, joiner, position }) => {
                        wanted.push((group, joiner, position));
                    }
                    Output::Event(_) | Output::Synced(_) => {}
                    Output::Blocked(..) | Output::Flushed(_) | _ => panic!("no view change here"),
                }
            }
            for (group, joiner, position) in wanted {
                core.offer_state(self.now, &group, joiner, position, Bytes::new()).expect("it was wanted");
            }
        }
    }
}

#[test]
fn messages_of_16_mib_pass_in_the_order_they_were_sent() {
    let mut trio = Trio::new();
    let max = Config::default().message_max;
    let mut waiting: VecDeque<usize> = [200, max, 300, max, 40_000, 400].into();
    for _ in 0..200 {
        while let Some(size) = waiting.front() {
            match trio.cores[1].send(trio.now, "bench", 0, Guarantee::Safe, Bytes::from(vec![1; *size])) {
                Ok(()) => waiting.pop_front(),
                Err(error) => {
                    assert!(matches!(error, SendError::Full { .. }), "{error}");
                    break;
                }
            };
        }
        trio.turn();
    }
    assert_eq!(trio.sizes, [200, max, 300, max, 40_000, 400]);
    assert_eq!(trio.delivered, [6; 3]);
    let over = trio.cores[1].send(trio.now, "bench", 0, Guarantee::Safe, Bytes::from(vec![1; max + 1]));
    assert!(matches!(over, Err(SendError::TooLarge { .. })));
}

#[test]
#[ignore = "a measurement, for a release build"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures and prints")]
fn throughput_of_three_cores_in_one_thread() {
    for (size, burst, total) in [(64, 64, 1_000_000_u64), (1024, 32, 500_000), (65_536, 4, 20_000)] {
        let mut trio = Trio::new();
        let payload = Bytes::from(vec![7; size]);
        let before = std::time::Instant::now();
        let mut sent = 0;
        while trio.delivered.iter().any(|d| *d < total) {
            for i in 0..3 {
                for _ in 0..burst {
                    let core = &mut trio.cores[i];
                    if sent < total
                        && core.send(trio.now, "bench", 0, Guarantee::Agreed, payload.clone()).is_ok()
                    {
                        sent += 1;
                    }
                }
            }
            trio.turn();
        }
        let seconds = before.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a figure to print")]
        let rate = total as f64 / seconds;
        println!("{size} B: {:.2} M msg/s, {:.0} ns per message and core", rate / 1e6, 1e9 / rate / 3.0);
    }
}
