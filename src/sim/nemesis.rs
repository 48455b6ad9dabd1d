//! Draws faults, one after the other, and ends them.

use super::history::{Change, What};
use super::network::{MOVES_MAX, Way};
use super::profile::{Fault, Quality};
use super::program::{Moved, Program, Wake};
use super::world::{Event, World, id};
use core::time::Duration;
use pils::{NodeId, Rng};

/// How a fault ends.
#[derive(Debug)]
pub(crate) enum Undo {
    Mend(Vec<Way>, &'static str),
    Cut(Vec<Way>),
    Restore(Way, &'static str),
    /// The interface of a node under a path works again.
    Interface(usize, u8),
    Speed(usize),
    Space(usize),
    Hang(usize),
}

impl<P: Program> World<P> {
    /// Carries out one random fault and plans the next.
    pub(crate) fn next_fault(&mut self) {
        if self.healed() || self.profile.faults.is_empty() {
            return;
        }
        let mean = self.profile.fault_interval.as_secs_f64();
        let wait = Duration::from_secs_f64(exponential(self.rng.unit()) * mean);
        self.queue.push(self.now() + wait, Event::NextFault);
        let fault = *self.rng.pick(&self.profile.faults).expect("checked above");
        self.inflict(fault);
    }

    fn length(&mut self) -> Duration {
        let mean = self.profile.fault_length.as_secs_f64();
        Duration::from_secs_f64(exponential(self.rng.unit()) * mean)
    }

    fn back(&mut self) -> Option<Duration> {
        let (low, high) = self.profile.restart;
        (!self.rng.chance(0.1)).then(|| self.rng.duration(low, high))
    }

    fn any_node(&mut self) -> usize {
        usize::try_from(self.rng.below(u64::from(self.profile.nodes))).unwrap_or(0)
    }

    fn two_nodes(&mut self) -> (usize, usize) {
        let a = self.any_node();
        let b = self.any_node();
        if a == b { (a, (a + 1) % self.hosts.len()) } else { (a, b) }
    }

    /// Carries out one fault at random places, now.
    pub fn inflict(&mut self, fault: Fault) {
        let frail = matches!(fault, Fault::LostDisk | Fault::TornRecord);
        let node = if frail { self.frail } else { self.any_node() };
        match fault {
            Fault::Kill => {
                let back = self.back();
                self.kill(id(node), back);
            }
            Fault::KillBetween => {
                let outputs = u32::try_from(self.rng.below(12)).unwrap_or(0);
                self.kill_after_outputs(id(node), outputs);
            }
            Fault::QuickRestart => {
                let soon = self.rng.duration(Duration::from_millis(1), Duration::from_millis(100));
                self.kill(id(node), Some(soon));
            }
            Fault::KillTwo => {
                let (a, b) = self.two_nodes();
                let (back_a, back_b) = (self.back(), self.back());
                self.kill(id(a), back_a);
                self.kill(id(b), back_b);
            }
            Fault::PowerLoss | Fault::LostDisk | Fault::TornRecord => self.lose_power(node, fault),
            Fault::Pause => {
                let length = self.length();
                self.pause(id(node), length);
            }
            Fault::SlowCpu => {
                let cost = self.rng.duration(Duration::from_micros(20), Duration::from_millis(2));
                self.hosts[node].cost = cost;
                self.note(What::Slowed(id(node), cost));
                self.undo_later(Undo::Speed(node));
            }
            Fault::FullDisk => {
                self.hosts[node].disk.full = true;
                self.note(What::DiskFull(id(node), true));
                self.undo_later(Undo::Space(node));
            }
            Fault::HungDisk => {
                self.hosts[node].disk.hung = true;
                self.note(What::DiskHangs(id(node), true));
                self.undo_later(Undo::Hang(node));
            }
            Fault::Closing => self.close_in(),
            Fault::Alone => self.split(|i| i as u64),
            Fault::TwoSides | Fault::ThreeSides => {
                self.partition(if fault == Fault::TwoSides { 2 } else { 3 });
            }
            Fault::Isolate => self.split(|i| u64::from(i == node)),
            Fault::CutPair => {
                let (a, b) = self.two_nodes();
                self.cut_links(both(a, b, None), Change::Pair(id(a), id(b)), "pair");
            }
            Fault::OneWay => {
                let (a, b) = self.two_nodes();
                self.cut_links(vec![Way::whole(a, b)], Change::OneWay(id(a), id(b)), "one way");
            }
            Fault::Flap => self.flap(None),
            Fault::Swizzle => self.swizzle(),
            Fault::Lossy | Fault::Slow | Fault::Starved | Fault::SmallMtu => self.worsen_links(fault),
            Fault::CutPath
            | Fault::CutPathOneWay
            | Fault::FlapPath
            | Fault::LatePath
            | Fault::LossyPath
            | Fault::NarrowPath
            | Fault::InterfaceDown
            | Fault::NewAddress => self.inflict_on_path(fault),
        }
    }

    /// Makes the link from one node to another bad in this way.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller names the others")]
    fn worsen_links(&mut self, fault: Fault) {
        match fault {
            Fault::Lossy => self.worsen("lossy", |q, rng| q.loss = 0.05 + 0.9 * rng.unit()),
            Fault::Slow => self.worsen("slow", |q, rng| {
                q.delay.1 += rng.duration(Duration::from_millis(1), Duration::from_millis(300));
                q.reorder = true;
            }),
            Fault::Starved => {
                self.worsen("starved", |q, rng| q.bandwidth = Some(rng.between(20_000, 2_000_000)));
            }
            _ => self.worsen("small mtu", |q, rng| {
                q.mtu = usize::try_from(rng.between(300, 1_300)).unwrap_or(1_300);
            }),
        }
    }

    /// A path other than the one that is spared.
    fn victim_path(&mut self) -> Option<u8> {
        let others = self.profile.paths.checked_sub(2)?;
        let step = 1 + u8::try_from(self.rng.below(u64::from(others) + 1)).unwrap_or(0);
        Some((self.profile.spared + step) % self.profile.paths)
    }

    /// Carries out a fault of one path, if there are several.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller names the others")]
    fn inflict_on_path(&mut self, fault: Fault) {
        let Some(path) = self.victim_path() else { return };
        let (a, b) = self.two_nodes();
        let way = Way::single(a, b, path);
        let change = |what| Change::Path(id(a), id(b), path, what);
        match fault {
            Fault::CutPath => self.cut_links(both(a, b, Some(path)), change("cut"), "path cut"),
            Fault::CutPathOneWay => self.cut_links(vec![way], change("one way"), "path one way"),
            Fault::FlapPath => self.flap(Some(path)),
            Fault::LatePath => {
                let late = self.rng.duration(Duration::from_millis(1), Duration::from_millis(200));
                self.worsen_way(way, change("late"), "path late", |q| {
                    (q.delay.0, q.delay.1) = (q.delay.0 + late, q.delay.1 + late);
                });
            }
            Fault::LossyPath => {
                let loss = 0.05 + 0.9 * self.rng.unit();
                self.worsen_way(way, change("lossy"), "path lossy", |q| q.loss = loss);
            }
            Fault::NarrowPath => {
                let mtu = usize::try_from(self.rng.between(1_200, 8_900)).unwrap_or(1_200);
                self.worsen_way(way, change("narrow"), "path narrow", |q| q.mtu = mtu);
            }
            Fault::NewAddress => self.new_address(a, path),
            _ => {
                self.interface_down(a, path);
                self.undo_later(Undo::Interface(a, path));
            }
        }
    }

    /// The interface of a node under a path goes down, and its process is told.
    fn interface_down(&mut self, node: usize, path: u8) {
        self.hosts[node].dark[usize::from(path)] += 1;
        for way in self.links_of(node, Some(path)) {
            self.network.cut(way);
        }
        self.note(What::Network(Change::Interface(id(node), path, false)));
        self.tell_carrier(node, path, false);
    }

    fn interface_up(&mut self, node: usize, path: u8) {
        let dark = &mut self.hosts[node].dark[usize::from(path)];
        *dark = dark.saturating_sub(1);
        let up = *dark == 0;
        for way in self.links_of(node, Some(path)) {
            self.network.mend(way);
        }
        self.note(What::Network(Change::Interface(id(node), path, up)));
        if up {
            self.tell_carrier(node, path, true);
        }
    }

    /// The interface of a node under a path has another address: nothing reaches it at the old one. Its process hears of it
    /// at once, and the others when an operator has told them.
    fn new_address(&mut self, node: usize, path: u8) {
        let was = self.address(id(node), path);
        let moves = &mut self.hosts[node].moves[usize::from(path)];
        if *moves == MOVES_MAX {
            return;
        }
        *moves += 1;
        let moved = Moved { node: id(node), path, was, is: self.address(id(node), path) };
        self.note(What::Network(Change::Address(id(node), path)));
        for i in 0..self.hosts.len() {
            let late = Duration::from_millis(if i == node { 5 } else { 500 });
            let delay = self.rng.duration(Duration::from_micros(10), late);
            if let Some(life) = self.hosts[i].running {
                self.queue.push(self.now() + delay, Event::Wake(i, life, Wake::Moved(moved)));
            }
        }
    }

    /// True if a fault keeps the interface of this node under this path down.
    pub(crate) fn is_dark(&self, node: usize, path: u8) -> bool {
        self.hosts[node].dark[usize::from(path)] > 0
    }

    /// Tells a node, soon, whether its interface under a path has a carrier.
    pub(crate) fn tell_carrier(&mut self, node: usize, path: u8, up: bool) {
        if let Some(life) = self.hosts[node].running {
            let delay = self.rng.duration(Duration::from_micros(10), Duration::from_millis(5));
            self.queue.push(self.now() + delay, Event::Wake(node, life, Wake::Carrier(path, up)));
        }
    }

    /// What happens to a disk when its machine loses power.
    fn lose_power(&mut self, node: usize, fault: Fault) {
        let back = self.back();
        self.power_off(id(node), back);
        if fault == Fault::LostDisk {
            self.hosts[node].disk.lose();
            self.note(What::DiskLost(id(node)));
        } else if fault == Fault::TornRecord {
            let Self { hosts, rng, .. } = self;
            hosts[node].disk.damage(rng);
            self.note(What::DiskDamaged(id(node)));
        }
    }

    fn undo_later(&mut self, undo: Undo) {
        let length = self.length();
        self.queue.push(self.now() + length, Event::Undo(undo, self.phase));
    }

    fn cut_links(&mut self, links: Vec<Way>, change: Change, name: &'static str) {
        for way in &links {
            self.network.cut(*way);
        }
        self.note(What::Network(change));
        self.undo_later(Undo::Mend(links, name));
    }

    /// Cuts every link between nodes of different sides; how many sides, the caller counts.
    fn split(&mut self, side: impl Fn(usize) -> u64) {
        let n = self.hosts.len();
        let mut links = Vec::new();
        for from in 0..n {
            links.extend((0..n).filter(|to| side(from) != side(*to)).map(|to| Way::whole(from, to)));
        }
        let mut sides: Vec<Vec<NodeId>> = Vec::new();
        let mut names: Vec<u64> = (0..n).map(&side).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            sides.push((0..n).filter(|i| side(*i) == name).map(id).collect());
        }
        self.cut_links(links, Change::Partition(sides), "partition");
    }

    /// Cuts the cluster into so many sides, as even or uneven as chance has it.
    pub(crate) fn partition(&mut self, sides: u64) {
        let mut of: Vec<u64> = (0..self.hosts.len()).map(|_| 0).collect();
        for side in &mut of {
            *side = self.rng.below(sides);
        }
        // A partition of one side is none: one node of each side is fixed.
        let first = self.any_node();
        for (k, side) in (0..sides).enumerate() {
            let n = of.len();
            of[(first + k) % n] = side;
        }
        self.split(|i| of[i]);
    }

    fn flap(&mut self, path: Option<u8>) {
        let (a, b) = self.two_nodes();
        let times = u32::try_from(self.rng.between(2, 10)).unwrap_or(2);
        let period = self.rng.duration(Duration::from_millis(20), Duration::from_millis(1_000));
        let both = both(a, b, path);
        self.note(What::Network(match path {
            None => Change::Flap(id(a), id(b), times),
            Some(path) => Change::Path(id(a), id(b), path, "flap"),
        }));
        let name = if path.is_some() { "path flap" } else { "flap" };
        let mut at = self.now();
        for _ in 0..times {
            self.queue.push(at, Event::Undo(Undo::Cut(both.clone()), self.phase));
            self.queue.push(at + period / 2, Event::Undo(Undo::Mend(both.clone(), name), self.phase));
            at += period;
        }
    }

    fn close_in(&mut self) {
        let victim = self.any_node();
        let mut others: Vec<usize> = (0..self.hosts.len()).filter(|i| *i != victim).collect();
        self.shuffle(&mut others);
        // As many as leave it a quorum, so that it goes on until the rest is cut.
        let first: Vec<Way> =
            others.iter().take(others.len().div_ceil(2)).flat_map(|i| both(*i, victim, None)).collect();
        self.cut_links(first, Change::Closing(id(victim)), "closing");
        // Detection times in use are of this order.
        let detection = Duration::from_millis(*self.rng.pick(&[100, 300, 500]).unwrap_or(&300));
        let at = self.now() + detection.mul_f64(0.5 + 0.7 * self.rng.unit());
        let links = self.links_of(victim, None);
        self.queue.push(at, Event::Undo(Undo::Cut(links.clone()), self.phase));
        let length = self.length();
        self.queue.push(at + detection + length, Event::Undo(Undo::Mend(links, "closing"), self.phase));
    }

    fn swizzle(&mut self) {
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        self.shuffle(&mut order);
        let chosen = usize::try_from(self.rng.between(1, order.len() as u64)).unwrap_or(1);
        order.truncate(chosen);
        self.note(What::Network(Change::Swizzle(order.iter().copied().map(id).collect())));
        let step = self.length() / u32::try_from(chosen * 2).unwrap_or(2);
        let mut at = self.now();
        for victim in &order {
            self.queue.push(at, Event::Undo(Undo::Cut(self.links_of(*victim, None)), self.phase));
            at += step;
        }
        self.shuffle(&mut order);
        for victim in &order {
            let mend = Undo::Mend(self.links_of(*victim, None), "swizzle");
            self.queue.push(at, Event::Undo(mend, self.phase));
            at += step;
        }
    }

    fn links_of(&self, node: usize, path: Option<u8>) -> Vec<Way> {
        (0..self.hosts.len()).filter(|i| *i != node).flat_map(|i| both(i, node, path)).collect()
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            let j = usize::try_from(self.rng.below(i as u64 + 1)).unwrap_or(0);
            items.swap(i, j);
        }
    }

    /// Makes all paths from one node to another bad in one way, by the same draw.
    fn worsen(&mut self, name: &'static str, change: impl Fn(&mut Quality, &mut Rng)) {
        let (from, to) = self.two_nodes();
        let draw = self.rng.clone();
        let mut after = draw.clone();
        self.network.worsen(Way::whole(from, to), |quality| {
            after = draw.clone();
            change(quality, &mut after);
        });
        self.rng = after;
        self.note(What::Network(Change::Worse(id(from), id(to), name)));
        self.undo_later(Undo::Restore(Way::whole(from, to), name));
    }

    fn worsen_way(&mut self, way: Way, change: Change, name: &'static str, worse: impl Fn(&mut Quality)) {
        self.network.worsen(way, worse);
        self.note(What::Network(change));
        self.undo_later(Undo::Restore(way, name));
    }

    pub(crate) fn undo(&mut self, undo: Undo, phase: u32) {
        if phase != self.phase {
            return;
        }
        match undo {
            Undo::Cut(links) => {
                for way in links {
                    self.network.cut(way);
                }
            }
            Undo::Mend(links, name) => {
                for way in links {
                    self.network.mend(way);
                }
                self.note(What::Network(Change::Restored(name)));
            }
            Undo::Restore(way, name) => {
                self.network.restore(way);
                self.note(What::Network(Change::Restored(name)));
            }
            Undo::Interface(node, path) => self.interface_up(node, path),
            Undo::Speed(node) => {
                self.hosts[node].cost = Duration::ZERO;
                self.note(What::Slowed(id(node), Duration::ZERO));
            }
            Undo::Hang(node) => {
                self.unhang(node);
                self.note(What::DiskHangs(id(node), false));
            }
            Undo::Space(node) => {
                self.hosts[node].disk.full = false;
                self.note(What::DiskFull(id(node), false));
            }
        }
    }

    fn unhang(&mut self, node: usize) {
        let now = self.now();
        let disk = &mut self.hosts[node].disk;
        disk.hung = false;
        for (life, token, worked) in core::mem::take(&mut disk.stuck) {
            self.queue.push(now, Event::Wake(node, life, Wake::Persisted(token, worked)));
        }
    }

    /// Ends every fault: the network is good, or at least the path that was spared, every machine has power and runs.
    pub(crate) fn heal(&mut self) {
        self.phase += 1;
        self.network.heal(self.profile.lame.then_some(self.profile.spared));
        for i in 0..self.hosts.len() {
            for path in 0..self.profile.paths {
                if !self.profile.lame && core::mem::take(&mut self.hosts[i].dark[usize::from(path)]) > 0 {
                    self.tell_carrier(i, path, true);
                }
            }
        }
        for i in 0..self.hosts.len() {
            self.unhang(i);
            let spread = self.rng.duration(Duration::ZERO, Duration::from_millis(200));
            let host = &mut self.hosts[i];
            host.cost = Duration::ZERO;
            host.disk.full = false;
            host.outputs_left = None;
            let at = self.now + spread;
            if !host.powered {
                host.turn += 1;
                self.queue.push(at, Event::PowerOn(i, host.turn));
            } else if host.running.is_none() {
                host.turn += 1;
                self.queue.push(at, Event::Start(i, host.turn));
            } else if host.paused {
                self.queue.push(at, Event::Resume(i, host.turn));
            }
        }
        self.note(What::Healed);
    }
}

/// Both ways between two nodes.
fn both(a: usize, b: usize, path: Option<u8>) -> Vec<Way> {
    vec![Way { from: a, to: b, path }, Way { from: b, to: a, path }]
}

/// A draw from the exponential distribution of mean 1, at most 5.
fn exponential(unit: f64) -> f64 {
    (-(1.0 - unit).max(1e-9).ln()).min(5.0)
}
