use super::*;
use core::cmp::Reverse;
use pils::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, BinaryHeap};

const MS: Duration = Duration::from_millis(1);

fn at(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

type Reply = (Instant, IpAddr, u16, [u8; PING_TOKEN]);

/// Hosts that answer as they are told, and a forger who answers what he did not see.
struct World {
    pinger: Pinger,
    now: Instant,
    rng: Rng,
    /// Replies under way, the earliest first.
    replies: BinaryHeap<Reverse<Reply>>,
    /// Which hosts answer, and how many of a hundred requests are lost.
    answers: BTreeMap<IpAddr, u32>,
    changes: Vec<(Instant, PingChange)>,
    sent: Vec<(Instant, IpAddr)>,
    forged: bool,
}

impl World {
    fn new(targets: &[PingConfig], seed: u64) -> Self {
        let start = Instant::from_nanos(1_000_000_000);
        Self {
            pinger: Pinger::new(start, targets, &[7; 32]).unwrap(),
            now: start,
            rng: Rng::new(seed),
            replies: BinaryHeap::new(),
            answers: BTreeMap::new(),
            changes: Vec::new(),
            sent: Vec::new(),
            forged: false,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.pinger.poll_output() {
            match output {
                PingOutput::Event(change) => self.changes.push((self.now, change)),
                PingOutput::Send { to, sequence, token } => {
                    self.sent.push((self.now, to));
                    if self.forged {
                        let token = [0; PING_TOKEN];
                        self.pinger.handle(self.now, PingInput::Reply { from: to, sequence, token: &token });
                    }
                    match self.answers.get(&to) {
                        Some(loss) if self.rng.below(100) >= u64::from(*loss) => {
                            let at = self.now + self.rng.duration(MS, 60 * MS);
                            self.replies.push(Reverse((at, to, sequence, token)));
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let reply = self.replies.peek().map(|r| r.0.0);
            let next = self.pinger.poll_timeout().into_iter().chain(reply).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if reply.is_some_and(|at| at <= self.now) {
                let (_, from, sequence, token) = self.replies.pop().unwrap().0;
                self.pinger.handle(self.now, PingInput::Reply { from, sequence, token: &token });
            } else {
                self.pinger.handle_timeout(self.now);
            }
            self.drain();
        }
        self.now = end;
    }

    fn state(&self, target: usize) -> PingState {
        self.pinger.status(self.now)[target].state
    }

    fn changes_of_target(&self) -> Vec<PingState> {
        self.changes.iter().filter(|(_, c)| c.host.is_none()).map(|(_, c)| c.state).collect()
    }
}

#[test]
fn one_answer_is_enough_at_the_start_two_after_a_failure_and_three_losses_are_one() {
    let mut world = World::new(&[PingConfig::new("router", [at(1)])], 1);
    world.answers.insert(at(1), 0);
    world.run(Duration::from_millis(400));
    assert_eq!((world.state(0), world.pinger.reachable()), (PingState::Up, 1));
    let first = world.changes[0].1.clone();
    assert_eq!((first.host, first.reason), (Some(at(1)), PingReason::Answered { in_row: 1 }));
    world.run(Duration::from_secs(10));
    let died = world.now;
    world.answers.clear();
    world.run(Duration::from_secs(6));
    let (down_at, down) = world.changes.last().cloned().unwrap();
    assert_eq!((down.state, down.reason), (PingState::Down, PingReason::Silent { in_row: 3 }));
    assert!(down_at.since(died) < Duration::from_millis(4400), "{:?}", down_at.since(died));
    let back = world.now;
    world.answers.insert(at(1), 0);
    world.run(Duration::from_secs(3));
    let (up_at, up) = world.changes.last().cloned().unwrap();
    assert_eq!((up.state, up.reason), (PingState::Up, PingReason::Answered { in_row: 2 }));
    assert!(up_at.since(back) > Duration::from_millis(800), "{:?}", up_at.since(back));
    let host = &world.pinger.status(world.now)[0].hosts[0];
    assert!(host.rtt.is_some_and(|rtt| rtt < 70 * MS), "{host:?}");
    assert!(host.loss_ppm > 0 && host.loss_ppm < 500_000, "{host:?}");
    assert_eq!(host.sent, world.sent.len() as u64);
}

#[test]
fn a_group_is_up_while_any_host_answers_and_unknown_until_it_is_decided() {
    let mut world = World::new(&[PingConfig::new("storage", [at(1), at(2)])], 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(0), PingState::Unknown);
    world.answers = BTreeMap::from([(at(1), 0), (at(2), 0)]);
    world.run(Duration::from_secs(5));
    world.answers.remove(&at(1));
    world.run(Duration::from_secs(10));
    assert_eq!((world.state(0), world.changes_of_target()), (PingState::Up, vec![PingState::Up]));
    let hosts: Vec<_> = world.pinger.status(world.now)[0].hosts.iter().map(|h| h.state).collect();
    assert_eq!(hosts, [PingState::Down, PingState::Up]);
    world.answers.remove(&at(2));
    world.run(Duration::from_secs(10));
    assert_eq!(world.changes_of_target(), [PingState::Up, PingState::Down]);
    assert_eq!(world.pinger.reachable(), 0);
}

#[test]
fn an_answer_counts_once_and_only_with_the_bytes_of_its_request() {
    let mut world = World::new(&[PingConfig::new("router", [at(1)])], 3);
    world.forged = true;
    world.run(Duration::from_secs(10));
    assert_eq!(world.state(0), PingState::Down, "a forger who sees nothing keeps nobody alive");
    assert_eq!(world.pinger.unexpected(), world.sent.len() as u64);
    world.forged = false;
    let before = world.pinger.unexpected();
    world.pinger.handle_timeout(world.pinger.poll_timeout().unwrap());
    loop {
        match world.pinger.poll_output() {
            Some(PingOutput::Send { to, sequence, token }) => {
                let reply = PingInput::Reply { from: to, sequence, token: &token };
                let elsewhere = PingInput::Reply { from: at(9), sequence, token: &token };
                let short = PingInput::Reply { from: to, sequence, token: &token[..8] };
                for input in [elsewhere, short, reply, reply] {
                    world.pinger.handle(world.now, input);
                }
                break;
            }
            Some(_) => {}
            None => world.pinger.handle_timeout(world.pinger.poll_timeout().unwrap()),
        }
    }
    let host = &world.pinger.status(world.now)[0].hosts[0];
    assert_eq!((host.answered, world.pinger.unexpected() - before), (1, 3));
}

#[test]
fn what_cannot_be_sent_counts_as_lost_at_once_and_says_so() {
    let mut pinger = Pinger::new(Instant::ZERO, &[PingConfig::new("router", [at(1)])], &[1; 32]).unwrap();
    let mut last = None;
    for _ in 0..3 {
        let now = pinger.poll_timeout().unwrap();
        pinger.handle_timeout(now);
        while let Some(output) = pinger.poll_output() {
            match output {
                PingOutput::Send { to, sequence, .. } => {
                    pinger.handle(now, PingInput::NotSent { to, sequence });
                }
                PingOutput::Event(change) => last = Some(change),
            }
        }
    }
    let last = last.unwrap();
    assert_eq!((last.state, last.reason), (PingState::Down, PingReason::NotSent { in_row: 3 }));
}

#[test]
fn a_machine_that_stood_still_asks_once_and_takes_the_answer_that_waited() {
    let mut world = World::new(&[PingConfig::new("router", [at(1)])], 4);
    world.answers.insert(at(1), 0);
    world.run(Duration::from_secs(5));
    let (before, rtt) = (world.sent.len(), world.pinger.status(world.now)[0].hosts[0].rtt);
    // What is under way waits in the socket for a minute; the driver reads before it looks at the clock.
    world.now += Duration::from_secs(60);
    while let Some(Reverse((_, from, sequence, token))) = world.replies.pop() {
        world.pinger.handle(world.now, PingInput::Reply { from, sequence, token: &token });
    }
    world.pinger.handle_timeout(world.now);
    world.drain();
    assert_eq!(world.sent.len(), before + 1);
    world.run(Duration::from_secs(5));
    assert_eq!(world.changes_of_target(), [PingState::Up]);
    let after = world.pinger.status(world.now)[0].hosts[0].rtt;
    assert!(rtt.is_some() && after < Some(70 * MS), "{after:?}: the pause is no round trip");
}

#[test]
fn losses_below_the_limit_change_nothing_over_many_seeds() {
    for seed in 0..40 {
        let targets = [PingConfig::new("lossy", [at(1)]), PingConfig::new("pair", [at(2), at(3)])];
        let mut world = World::new(&targets, seed);
        world.answers = BTreeMap::from([(at(1), 2), (at(2), 10), (at(3), 10)]);
        world.run(Duration::from_secs(300));
        let pair = world.changes.iter().filter(|(_, c)| &*c.target == "pair" && c.host.is_none());
        assert_eq!(pair.count(), 1, "seed {seed}: up once, {:?}", world.changes);
        assert_eq!(world.pinger.reachable(), 2, "seed {seed}");
        for host in world.pinger.status(world.now).iter().flat_map(|target| &target.hosts) {
            assert!(host.answered < host.sent && host.sent < 340, "seed {seed}: {host:?}");
        }
        for (_, change) in &world.changes {
            assert!(change.reachable <= 2);
        }
    }
}

#[test]
fn requests_that_wait_are_bounded_and_intervals_keep_their_length() {
    let mut config = PingConfig::new("far", [at(1)]);
    (config.interval, config.timeout) = (10 * MS, 160 * MS);
    let mut world = World::new(&[config], 5);
    world.run(Duration::from_secs(20));
    let gaps: Vec<Duration> = world.sent.windows(2).map(|two| two[1].0.since(two[0].0)).collect();
    assert!(gaps.iter().all(|gap| (9 * MS..=11 * MS).contains(gap)), "{gaps:?}");
    assert!(gaps.len() > 1800, "{}", gaps.len());
}

#[test]
fn every_mistake_of_a_configuration_is_named_at_once() {
    let mut wrong = PingConfig::new("", []);
    (wrong.interval, wrong.timeout, wrong.down_after, wrong.up_after) = (MS, Duration::ZERO, 0, 2000);
    let twice = PingConfig::new("a", [at(1), at(1), IpAddr::from([0; 4]), "fe80::1".parse().unwrap()]);
    let errors = PingConfig::check_all(&[wrong, twice.clone(), twice]).unwrap_err();
    let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
    let expected = [
        "[0].name",
        "[0].hosts",
        "[0].interval",
        "[0].timeout",
        "[0].down_after",
        "[0].up_after",
        "[1].hosts[1]",
        "[1].hosts[2]",
        "[1].hosts[3]",
        "[2].hosts[1]",
        "[2].hosts[2]",
        "[2].hosts[3]",
        "[2].name",
    ];
    assert_eq!(paths, expected);
}

proptest! {
    #[test]
    fn any_replies_keep_a_host_that_answers_nothing_down(
        inputs in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..20), 0..2000_u64), 0..100),
    ) {
        let mut pinger = Pinger::new(Instant::ZERO, &[PingConfig::new("router", [at(1)])], &[1; 32]).unwrap();
        let mut now = Instant::ZERO;
        for (sequence, token, step) in inputs {
            now += MS * u32::try_from(step).unwrap();
            pinger.handle_timeout(now);
            pinger.handle(now, PingInput::Reply { from: at(1), sequence, token: &token });
            while pinger.poll_output().is_some() {}
            prop_assert!(pinger.reachable() == 0 && pinger.poll_timeout().is_some());
        }
    }
}
