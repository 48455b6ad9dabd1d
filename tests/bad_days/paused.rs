//! A node that is stopped for longer than the detection time and goes on: it must not act on what it knew.
//!
//! Three whole stacks in virtual time, with a network in memory: the pause is exact, and everything that the resumed node
//! wants is seen in its order.

use bytes::Bytes;
use core::time::Duration;
use ocf::stack::{Birth, Input, Output, Stack};
use ocf::{Detection, Key, NodeConfig, NodeEntry, NodeEvent};
use ocf_comm::crypto::SimulatedAgreement;
use ocf_comm::{Received, Secrets, Transmit};
use ocf_groups::{Event, Guarantee};
use ocf_resource::executor::RunId;
use ocf_resource::{Action, OcfCode, OperationResult, Outcome};
use ocf_stonith::FenceAction;
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

const DELAY: Duration = Duration::from_micros(100);
const PAUSE: Duration = Duration::from_secs(5);

const RESOURCES: &str = r#"
    [[groups]]
    name = "web"
    nodes = [1, 2, 3]
    [[groups.resources]]
    name = "service"
    agent = "rust:service"
    monitor_interval = "500ms"
"#;

/// The device never answers: whoever is taken for dead was not switched off, and may come back.
const FENCING: &str = r#"
    [[devices]]
    name = "outlet"
    class = "simulated"
    nodes = "all"
    timeout_ms = 10000
"#;

fn address(node: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node.to_be_bytes()[3]], 5405))
}

/// What a node wanted, as far as it matters here.
#[derive(Debug)]
enum Act {
    Event(NodeEvent),
    Operate(Action),
    Fence,
}

enum Due {
    Datagrams { from: SocketAddr, transmit: Transmit },
    Persisted(ocf_membership::PersistToken),
    Operated(RunId, OperationResult),
}

struct Machine {
    stack: Stack,
    /// Not before this.
    paused_until: Instant,
    /// What arrives, in order of time.
    due: BTreeMap<Instant, VecDeque<Due>>,
    runs: bool,
    acts: Vec<Act>,
}

struct Lab {
    now: Instant,
    machines: Vec<Machine>,
}

impl Lab {
    fn new() -> Self {
        let machine = |id: u32| {
            let entry = |id| NodeEntry {
                id: NodeId::new(id),
                name: None,
                address: address(id),
                more_addresses: Vec::new(),
                bind: None,
                votes: 1,
            };
            let config = NodeConfig {
                cluster: "pause".to_owned(),
                node: NodeId::new(id),
                key: Some(Key::new(vec![7; 32])),
                key_file: None,
                keys: Vec::new(),
                protection: ocf::ProtectionName::Encrypt,
                cipher: ocf::CipherName::Auto,
                compression: "none".to_owned(),
                nodes: (1..=3).map(entry).collect(),
                paths: ocf::Paths::default(),
                sentinel: false,
                lock_memory: false,
                media: Vec::new(),
                discovery: None,
                ping: Vec::new(),
                detection: Detection::Lan,
                quorum: "majority".to_owned(),
                record: None,
                tie_breaker: None,
                trust_blank_record: false,
                votes_revision: 0,
                last_man_standing_ms: None,
                fence_action: FenceAction::Off,
                self_fencing: None,
                fencing: toml::from_str(FENCING).unwrap(),
                resources: toml::from_str(RESOURCES).unwrap(),
                partition_groups: false,
                api: ocf::ApiConfig::default(),
                outside: ocf::OutsideConfig::default(),
                plugins: Vec::new(),
            };
            let seed = u64::from(id);
            let birth = Birth {
                local: NodeInstance::new(NodeId::new(id), Incarnation::new(u128::from(id) + 100)),
                secrets: Secrets {
                    keys: vec![7; 32].into(),
                    seed: [id.to_be_bytes()[3]; 32],
                    agreement: Box::new(SimulatedAgreement::new(seed)),
                },
                record: None,
                rng: Rng::new(seed),
            };
            let mut stack = Stack::new(Instant::ZERO, config.stack().unwrap(), birth).unwrap();
            stack.join(Instant::ZERO, "news", 1).unwrap();
            Machine {
                stack,
                paused_until: Instant::ZERO,
                due: BTreeMap::new(),
                runs: false,
                acts: Vec::new(),
            }
        };
        Self { now: Instant::ZERO, machines: (1..=3).map(machine).collect() }
    }

    fn at(&mut self, index: usize, when: Instant, due: Due) {
        self.machines[index].due.entry(when).or_default().push_back(due);
    }

    /// When the machine has something to do next. A paused one does nothing before it resumes.
    fn next(machine: &Machine) -> Option<Instant> {
        let timer = machine.stack.poll_timeout();
        let first = machine.due.keys().next().copied();
        Some(timer.into_iter().chain(first).min()?.max(machine.paused_until))
    }

    /// Runs every machine until `end`, or until `done`.
    fn run(&mut self, end: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            let next = (0..3).filter_map(|i| Some((Self::next(&self.machines[i])?, i))).min();
            let Some((when, index)) = next.filter(|(when, _)| *when <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(when);
            self.turn(index);
        }
        true
    }

    /// One turn, as a reactor does it: everything that has arrived, then the timers, then what the stack wants.
    fn turn(&mut self, index: usize) {
        let now = self.now;
        let later = self.machines[index].due.split_off(&(now + Duration::from_nanos(1)));
        let arrived = std::mem::replace(&mut self.machines[index].due, later);
        let machine = &mut self.machines[index];
        for due in arrived.into_values().flatten() {
            match due {
                Due::Datagrams { from, mut transmit } => {
                    let Transmit { path, segment, data, .. } = &mut transmit;
                    let received = Received { path: *path, from, segment: *segment, data };
                    machine.stack.handle(now, Input::Received(received));
                }
                Due::Persisted(token) => machine.stack.handle(now, Input::Persisted(token)),
                Due::Operated(run, result) => machine.stack.handle(now, Input::Operated { run, result }),
            }
        }
        machine.stack.handle_timeout(now);
        while let Some(output) = self.machines[index].stack.poll_output() {
            self.carry_out(index, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let machine = &mut self.machines[index];
        let soon = self.now + DELAY;
        match output {
            Output::Transmit(transmit) => {
                let from = address(machine.stack.local().node.raw());
                if let Some(to) = (1..=3).position(|id| address(id) == transmit.to) {
                    self.at(to, soon, Due::Datagrams { from, transmit });
                }
            }
            Output::Persist { token, .. } => self.at(index, soon, Due::Persisted(token)),
            Output::Operate { run, operation } => {
                machine.acts.push(Act::Operate(operation.action));
                match operation.action {
                    Action::Start => machine.runs = true,
                    Action::Stop => machine.runs = false,
                    _ => {}
                }
                let idle = operation.action == Action::Monitor && !machine.runs;
                let outcome = if idle { Outcome::Failed { code: OcfCode::NotRunning } } else { Outcome::Ok };
                self.at(index, soon, Due::Operated(run, OperationResult::new(outcome)));
            }
            Output::Fence(_) => machine.acts.push(Act::Fence),
            Output::Event(event) => {
                if let NodeEvent::Group(Event::StateWanted { group, joiner, position }) = &event {
                    // Refused if the joiner is to get a later state.
                    machine
                        .stack
                        .offer_state(self.now, (group, *joiner, *position), Bytes::from_static(b"state"))
                        .unwrap_or_default();
                }
                machine.acts.push(Act::Event(event));
            }
            _ => {}
        }
    }

    fn all_in_one_view(&self) -> bool {
        self.machines
            .iter()
            .all(|m| m.stack.view().is_some_and(|v| v.members.len() == 3) && m.stack.is_active(self.now))
    }

    fn send(&mut self, index: usize, text: &'static str) -> bool {
        let now = self.now;
        let payload = Bytes::from_static(text.as_bytes());
        let sent = self.machines[index].stack.send(now, ("news", 1), Guarantee::Agreed, payload).is_ok();
        self.turn(index);
        sent
    }
}

/// True for what a node says when it has found out where it stands.
fn knows(act: &Act) -> bool {
    matches!(
        act,
        Act::Event(NodeEvent::NonPrimary(_) | NodeEvent::Resumed | NodeEvent::Group(Event::View(_)))
    )
}

/// True for what only a node that knows where it stands may do.
fn acts(act: &Act) -> bool {
    match act {
        Act::Fence | Act::Operate(Action::Start) => true,
        Act::Event(NodeEvent::Group(event)) => matches!(event, Event::Message { .. }),
        Act::Operate(_) | Act::Event(_) => false,
    }
}

/// Pauses the node at `index`, which has messages under way when it stops, and looks at what it does when it resumes.
fn pause(index: usize) {
    let mut lab = Lab::new();
    let started = lab.run(Instant::from_millis(20_000), |lab| lab.all_in_one_view() && lab.machines[0].runs);
    assert!(started, "the cluster did not form");
    let joined = lab.run(lab.now + Duration::from_secs(5), |lab| {
        lab.machines.iter().all(|m| m.stack.members("news").len() == 3)
    });
    assert!(joined, "the group did not form");
    let sender = (index + 1) % 3;
    assert!(lab.send(sender, "before the pause") && lab.send(index, "under way"));
    lab.machines[index].paused_until = lab.now + PAUSE;
    let paused_at = lab.machines[index].acts.len();
    for _ in 0..20 {
        // The first of them still belongs to the view that has the paused node.
        assert!(lab.send(sender, "during the pause"));
        let end = lab.now + Duration::from_millis(200);
        lab.run(end, |_| false);
    }
    for other in (0..3).filter(|i| *i != index) {
        assert_eq!(
            lab.machines[other].stack.view().unwrap().members.len(),
            2,
            "the others went on without it"
        );
    }
    assert_eq!(lab.machines[index].acts.len(), paused_at, "a stopped process does nothing");

    let back = lab.run(lab.now + Duration::from_secs(20), Lab::all_in_one_view);
    assert!(back, "the resumed node did not rejoin");
    lab.run(lab.now + Duration::from_secs(2), |_| false);
    let since = &lab.machines[index].acts[paused_at..];
    let known = since.iter().position(knows).expect("it finds out where it stands");
    let early: Vec<&Act> = since[..known].iter().filter(|act| acts(act)).collect();
    assert!(early.is_empty(), "acted on its old view: {early:?}");
    assert!(
        since.iter().any(|act| matches!(act, Act::Event(NodeEvent::Stalled { .. }))),
        "it noticed that it had not run"
    );
    let position = |pick: fn(&Event) -> bool| {
        since.iter().position(|act| matches!(act, Act::Event(NodeEvent::Group(event)) if pick(event)))
    };
    let reset = position(|e| matches!(e, Event::Reset { group, .. } if **group == *"news")).expect("a Reset");
    let state = position(|e| matches!(e, Event::State { group, .. } if **group == *"news")).expect("a State");
    assert!(reset < state, "told that its history ended, then given the present one");
    let between = since[reset..state]
        .iter()
        .any(|act| matches!(act, Act::Event(NodeEvent::Group(Event::Message { .. }))));
    assert!(!between, "nothing is delivered between the two");
    let running = lab.machines.iter().filter(|m| m.runs).count();
    assert_eq!(running, 1, "the service runs once");
}

#[test]
fn a_paused_sequencer_that_runs_the_service_does_nothing_on_its_old_view() {
    pause(0);
}

#[test]
fn a_paused_follower_does_nothing_on_its_old_view() {
    pause(2);
}
