//! Goal: two nodes that lost each other and may both fence do not both die: a static delay, a priority or chance decides who
//! shoots first, and who is shot shoots no more. Method: two coordinators, each with the other's power switch, in virtual time over
//! many seeds; the network between them is cut, each notices at its own time, and the switch needs a while.

use ocf_stonith::{
    AttemptId, Authority, Cause, Config, DeviceReport, DeviceResult, Event, FenceAction, FenceRequest,
    Fencer, Input, Output, ReadBack,
};
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng};
use std::time::Duration;

const SEEDS: u64 = 500;
/// From an order to the end of the node.
const SWITCH: Duration = Duration::from_millis(100);
/// The latest a node notices that the other is lost.
const NOTICED: u64 = 50;

fn life(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(7 << 96))
}

/// An order on its way: the power of `target` goes at `at`, and `by` hears of it if it lives.
struct Shot {
    at: Instant,
    by: usize,
    attempt: AttemptId,
    target: usize,
}

struct Duel {
    fencers: [Fencer; 2],
    alive: [bool; 2],
    /// When each asks for the end of the other.
    asks: [Option<Instant>; 2],
    /// How long each waited before its first shot.
    delays: [Option<Duration>; 2],
    shots: Vec<Shot>,
}

impl Duel {
    /// `importance` of node 1 and of node 2, as both know it.
    fn new(config: &str, importance: [u64; 2], seed: u64) -> Self {
        let device = "[[devices]]\nname = 'power'\nclass = 'simulated'\ntimeout_ms = 2000\n";
        let (general, nodes) = config.split_once("nodes").expect("the nodes of the device");
        let text = format!("round_budget_ms = 60000\n{general}\n{device}nodes{nodes}");
        let config: Config = toml::from_str(&text).expect("a well-formed test configuration");
        assert_eq!(config.check(), Ok(()));
        let mut rng = Rng::new(seed);
        let fencers = [1, 2].map(|node| {
            let mut fencer = Fencer::new(config.clone(), NodeId::new(node), Rng::new(rng.next_u64()));
            // a quorum policy for two nodes: each may fence
            fencer.set_authority(Instant::ZERO, Authority::Granted);
            (1..=2).zip(importance).for_each(|(n, value)| fencer.set_priority(NodeId::new(n), value));
            fencer
        });
        let asks = [(); 2].map(|()| Some(Instant::ZERO + Duration::from_millis(rng.next_u64() % NOTICED)));
        Self { fencers, alive: [true; 2], asks, delays: [None; 2], shots: Vec::new() }
    }

    /// Until nothing happens any more. Who lives.
    fn fight(mut self) -> ([bool; 2], [Option<Duration>; 2]) {
        while let Some(now) = self.next() {
            for shot in self.shots.extract_if(.., |shot| shot.at <= now).collect::<Vec<_>>() {
                self.alive[shot.target] = false;
                if self.alive[shot.by] {
                    let result = DeviceResult::Done { read_back: ReadBack::Off, detail: "".into() };
                    let report = DeviceReport { attempt: shot.attempt, result };
                    self.fencers[shot.by].handle(now, Input::Device(report));
                }
            }
            for i in 0..2 {
                self.act(i, now);
            }
        }
        (self.alive, self.delays)
    }

    fn next(&self) -> Option<Instant> {
        let lives = (0..2).filter(|i| self.alive[*i]);
        let own = lives.flat_map(|i| [self.asks[i], self.fencers[i].poll_timeout()]).flatten();
        own.chain(self.shots.iter().map(|shot| shot.at)).min()
    }

    fn act(&mut self, i: usize, now: Instant) {
        if !self.alive[i] {
            return;
        }
        let fencer = &mut self.fencers[i];
        fencer.handle_timeout(now);
        if self.asks[i].take_if(|at| *at <= now).is_some() {
            let (target, cause) = ([life(2), life(1)][i], Cause::Lost { why: "silent".into() });
            fencer.request(now, FenceRequest { target, action: FenceAction::Off, cause }).expect("it may");
        }
        while let Some(output) = fencer.poll_output() {
            match output {
                Output::Run(run) => {
                    self.shots.push(Shot { at: now + SWITCH, by: i, attempt: run.attempt, target: 1 - i });
                }
                Output::Event(Event::Started { delay, .. }) => self.delays[i] = Some(delay),
                Output::Event(_) | Output::Cancel { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        fencer.check_invariants();
    }
}

#[test]
fn the_node_whose_end_is_delayed_survives_alone() {
    for seed in 0..SEEDS {
        let duel = Duel::new("nodes = [{ node = 1, delay_ms = 1000 }, { node = 2 }]", [0, 0], seed);
        assert_eq!(duel.fight().0, [true, false], "seed {seed}");
    }
}

#[test]
fn the_node_that_runs_what_matters_more_survives_alone_whatever_the_other_delays_are() {
    let config = "priority_delay_ms = 3000\ndelay_random_ms_max = 500\nnodes = [{ node = 1 }, { node = 2, delay_ms = 1000 }]";
    for seed in 0..SEEDS {
        assert_eq!(Duel::new(config, [9, 1], seed).fight().0, [true, false], "seed {seed}");
        assert_eq!(Duel::new(config, [1, 9], seed).fight().0, [false, true], "seed {seed}");
    }
}

#[test]
fn chance_leaves_one_alive_whenever_it_draws_delays_that_differ_by_more_than_a_shot_takes() {
    let config = "delay_random_ms_max = 5000\nnodes = 'all'";
    let (mut wins, mut both_died) = ([0, 0], 0_u64);
    for seed in 0..SEEDS {
        let (alive, delays) = Duel::new(config, [0, 0], seed).fight();
        let [one, two] = delays.map(Option::unwrap_or_default);
        let apart = one.abs_diff(two) > SWITCH + Duration::from_millis(NOTICED);
        match alive {
            [true, true] => panic!("seed {seed}: nobody was fenced"),
            [false, false] => {
                assert!(!apart, "seed {seed}: {one:?} and {two:?}");
                both_died += 1;
            }
            [first, _] => wins[usize::from(!first)] += 1,
        }
    }
    // two draws out of 5 s are within 150 ms of each other in 6 of 100 cases
    assert!(both_died < SEEDS / 10, "{both_died} of {SEEDS}");
    assert!(wins.iter().all(|won| *won > SEEDS / 3), "neither is preferred: {wins:?}");
}

#[test]
fn without_any_delay_both_may_die() {
    let ends = (0..SEEDS).map(|seed| Duel::new("nodes = 'all'", [0, 0], seed).fight().0);
    assert!(ends.filter(|alive| *alive == [false, false]).count() > 0, "the delays are needed");
}
