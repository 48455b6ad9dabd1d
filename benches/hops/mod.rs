//! How many hops a view takes after one of many full members is killed, in virtual time: the agreement of `ocf-membership` alone, over links
//! that take one hop each, disks and layers above that take nothing, and news of the death that all have at once.
#![expect(clippy::wildcard_enum_match_arm, reason = "what is not looked for is passed over")]
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

use crate::support::plot::number;
use crate::support::{Goal, Report};
use bytes::Bytes;
use ocf_comm::DownReason;
use ocf_membership::{BlankRecord, Config, Consensus, Event, Input, NodeVotes, Output};
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance, Rng};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one message takes.
const HOP: Duration = Duration::from_micros(100);
const MANY: u32 = 64;
const FEW: u32 = 5;

/// Z-1.
pub fn report(report: &mut Report) {
    let (few, many) = (after_a_kill(FEW), after_a_kill(MANY));
    let (what, goal) = ("view after one of 64 members is killed, virtual time", Some(Goal::AtMost(1.3)));
    report.figure(("Z-1", what), (many.hops, "hops"), Some(("of 5", few.hops)), goal);
    report.figure(
        ("Z-1/messages", "messages of the agreement for it, at each member"),
        (many.messages, ""),
        None,
        None,
    );
    report.figure(
        ("Z-1/work", "time of one processor for all of them for it"),
        (many.work, "ms"),
        None,
        None,
    );
    report.figure(("Z-1/form", "the same, for the first view of 64"), (many.forming, "ms"), None, None);
    report.note("Z-1: light nodes are not built");
}

struct Taken {
    hops: f64,
    messages: f64,
    work: f64,
    forming: f64,
}

/// Messages on their way and what else is due, in order of time.
struct World {
    now: Instant,
    cores: Vec<Option<Consensus>>,
    locals: Vec<NodeInstance>,
    /// By time of arrival, and in the order in which they were sent.
    under_way: BTreeMap<(Instant, u64), (usize, usize, Bytes)>,
    sent: u64,
    /// Members of the newest view of each.
    views: Vec<usize>,
    installed: Vec<Instant>,
}

impl World {
    fn new(nodes: u32) -> Self {
        let locals: Vec<NodeInstance> = (1..=nodes)
            .map(|n| NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 90)))
            .collect();
        let config = Config {
            blank_record: BlankRecord::Trusted,
            ..Config::new(locals.iter().map(|i| NodeVotes::new(i.node, 1)))
        };
        let core = |local: &NodeInstance| {
            let rng = Rng::new(local.node.raw().into());
            Consensus::new(Instant::ZERO, config.clone(), *local, None, rng).expect("a good configuration")
        };
        let cores = locals.iter().map(|local| Some(core(local))).collect();
        let count = locals.len();
        let mut world = Self {
            now: Instant::ZERO,
            cores,
            locals,
            under_way: BTreeMap::new(),
            sent: 0,
            views: vec![0; count],
            installed: vec![Instant::ZERO; count],
        };
        let locals = world.locals.clone();
        for (at, local) in locals.iter().enumerate() {
            for peer in locals.iter().filter(|peer| *peer != local) {
                world.give(at, Input::Up(*peer));
            }
        }
        world
    }

    fn give(&mut self, at: usize, input: Input<'_>) {
        let now = self.now;
        let Some(core) = &mut self.cores[at] else { return };
        core.handle(now, input);
        self.carry_out(at);
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(output) = self.cores[at].as_mut().and_then(Consensus::poll_output) {
            match output {
                Output::Send { to, message, .. } => {
                    let to = self.locals.iter().position(|i| *i == to).expect("one of them");
                    self.sent += 1;
                    self.under_way.insert((self.now + HOP, self.sent), (at, to, message));
                }
                Output::Persist { token, .. } => self.give(at, Input::Persisted(token)),
                Output::Block { ballot } => self.give(at, Input::Blocked { ballot, state: Bytes::new() }),
                Output::Flush { ballot, .. } => self.give(at, Input::Flushed { ballot }),
                Output::Event(Event::Installed(view)) => {
                    (self.views[at], self.installed[at]) = (view.members.len(), self.now);
                    self.give(at, Input::Synced(view.number));
                }
                _ => {}
            }
        }
    }

    /// The next thing that is due.
    fn step(&mut self) {
        let timers = self.cores.iter().enumerate();
        let timer = timers.filter_map(|(at, core)| Some((core.as_ref()?.poll_timeout()?, at))).min();
        let arrival = self.under_way.keys().next().copied();
        match (arrival, timer) {
            (Some(key), timer) if timer.is_none_or(|(due, _)| key.0 <= due) => {
                let (from, to, message) = self.under_way.remove(&key).expect("just seen");
                self.now = key.0;
                let from = self.locals[from];
                self.give(to, Input::Message { from, message: &message });
            }
            (_, Some((due, at))) => {
                self.now = self.now.max(due);
                if let Some(core) = &mut self.cores[at] {
                    core.handle_timeout(self.now);
                }
                self.carry_out(at);
            }
            (_, None) => unreachable!("leases are renewed for ever"),
        }
    }

    /// Goes on until everybody who is left is in a view of so many.
    fn until(&mut self, members: usize) {
        let end = self.now + Duration::from_secs(60);
        let outside = |world: &Self| {
            let left = world.cores.iter().zip(&world.views).filter(|(core, _)| core.is_some());
            left.into_iter().any(|(_, seen)| *seen != members)
        };
        while outside(self) {
            assert!(self.now < end, "no view of {members}");
            self.step();
        }
    }

    /// Goes on until whatever the last view brought about is over.
    fn rest(&mut self) {
        let end = self.now + Duration::from_secs(1);
        while self.now < end {
            self.step();
        }
    }
}

/// From the news of a death until the last survivor is in a view without the dead one.
fn after_a_kill(nodes: u32) -> Taken {
    let began = std::time::Instant::now();
    let mut world = World::new(nodes);
    let count = world.locals.len();
    world.until(count);
    let forming = began.elapsed().as_secs_f64() * 1e3;
    world.rest();
    let dead = world.locals[count - 1];
    world.cores[count - 1] = None;
    let (killed, sent, began) = (world.now, world.sent, std::time::Instant::now());
    for at in 0..count - 1 {
        world.give(at, Input::Down(dead, DownReason::Obituary { resources: false }));
    }
    world.until(count - 1);
    let last = world.installed.iter().take(count - 1).max().expect("somebody is left");
    let hops = last.since(killed).as_secs_f64() / HOP.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 messages")]
    let messages = (world.sent - sent) as f64 / number(count - 1);
    Taken { hops, messages, work: began.elapsed().as_secs_f64() * 1e3, forming }
}
