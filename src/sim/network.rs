use super::profile::{PATHS_MAX, Profile, Quality};
use core::time::Duration;
use pils::{Instant, NodeId, Rng};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PORT: u16 = 694;
const CAPTURED_MAX: usize = 32;

/// How often an interface can have another address: the first byte of an address tells path and changes.
pub(crate) const MOVES_MAX: u8 = 70;

/// The first address of a node on one of its paths.
#[must_use]
pub fn address(node: NodeId, path: u8) -> SocketAddr {
    moved(node, path, 0)
}

/// The address of a node on one of its paths after so many changes, at most [`MOVES_MAX`].
pub(crate) fn moved(node: NodeId, path: u8, moves: u8) -> SocketAddr {
    let [_, high, middle, low] = node.raw().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10 + path + PATHS_MAX * moves, high, middle, low)), PORT)
}

/// The node and path that an address belongs to, or belonged to.
pub(crate) fn owner(address: SocketAddr) -> Option<(NodeId, u8)> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let [net, high, middle, low] = ip.octets();
    Some((NodeId::new(u32::from_be_bytes([0, high, middle, low])), net.checked_sub(10)? % PATHS_MAX))
}

/// Datagrams on their way, from one sender to one node's socket.
#[derive(Debug)]
pub(crate) struct Burst {
    pub(crate) sender: usize,
    pub(crate) to: usize,
    pub(crate) from: SocketAddr,
    pub(crate) path: u8,
    pub(crate) segment: usize,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Link {
    cuts: u32,
    base: Quality,
    now: Quality,
    idle_at: Instant,
    last_arrival: Instant,
}

/// One direction between two nodes: on one path, or on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// `None`: every path.
    pub(crate) path: Option<u8>,
}

impl Way {
    /// All paths from one node to another.
    pub(crate) const fn whole(from: usize, to: usize) -> Self {
        Self { from, to, path: None }
    }

    /// One path from one node to another.
    pub(crate) const fn single(from: usize, to: usize, path: u8) -> Self {
        Self { from, to, path: Some(path) }
    }
}

/// The directed paths between nodes: networks that have nothing to do with one another. Drawn per link from the profile's
/// quality, so that no two are the same.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    paths: u8,
    /// By path, sender and receiver.
    links: Vec<Link>,
    captured: Vec<(SocketAddr, u8, Vec<u8>)>,
    attack: f64,
    pub(crate) carried: u64,
    pub(crate) lost: u64,
}

impl Network {
    pub(crate) fn new(profile: &Profile, rng: &mut Rng) -> Self {
        let nodes = profile.nodes as usize;
        let mut draw = || {
            let mut base = profile.quality.clone();
            base.delay.1 = rng.duration(base.delay.0, base.delay.1);
            base.loss *= rng.unit();
            Link { cuts: 0, now: base.clone(), base, idle_at: Instant::ZERO, last_arrival: Instant::ZERO }
        };
        let links = (0..nodes * nodes * usize::from(profile.paths)).map(|_| draw()).collect();
        Self {
            nodes,
            paths: profile.paths,
            links,
            captured: Vec::new(),
            attack: profile.attack,
            carried: 0,
            lost: 0,
        }
    }

    const fn at(&self, from: usize, to: usize, path: u8) -> usize {
        (path as usize * self.nodes + from) * self.nodes + to
    }

    /// Does something to every path of a way.
    fn each(&mut self, way: Way, mut change: impl FnMut(&mut Link)) {
        for path in (0..self.paths).filter(|path| way.path.is_none_or(|one| one == *path)) {
            let at = self.at(way.from, way.to, path);
            change(&mut self.links[at]);
        }
    }

    pub(crate) fn cut(&mut self, way: Way) {
        self.each(way, |link| link.cuts += 1);
    }

    pub(crate) fn mend(&mut self, way: Way) {
        self.each(way, |link| link.cuts = link.cuts.saturating_sub(1));
    }

    pub(crate) fn worsen(&mut self, way: Way, mut change: impl FnMut(&mut Quality)) {
        self.each(way, |link| change(&mut link.now));
    }

    pub(crate) fn restore(&mut self, way: Way) {
        self.each(way, |link| link.now = link.base.clone());
    }

    /// Ends every cut and disturbance, for good; if `spared` is given, only on this path.
    pub(crate) fn heal(&mut self, spared: Option<u8>) {
        self.attack = 0.0;
        let one = self.nodes * self.nodes;
        for (at, link) in self.links.iter_mut().enumerate() {
            if spared.is_none_or(|path| at / one == usize::from(path)) {
                link.cuts = 0;
                link.now = Quality { delay: link.base.delay, ..Quality::lan() };
            }
        }
    }

    /// Sends a burst; `arrive` is told each arrival.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        burst: Burst,
        rng: &mut Rng,
        mut arrive: impl FnMut(Instant, Burst),
    ) {
        self.carried += burst.data.len().div_ceil(burst.segment.max(1)) as u64;
        self.be_attacked(now, &burst, rng, &mut arrive);
        let (sender, to) = (burst.sender, burst.to);
        let at = self.at(sender, to, burst.path);
        let lost = &mut self.lost;
        let link = &mut self.links[at];
        if link.cuts > 0 {
            *lost += 1;
            return;
        }
        if link.now.is_plain() {
            match link.arrival(now, burst.data.len(), rng) {
                Some(at) => arrive(at, burst),
                None => *lost += 1,
            }
            return;
        }
        for datagram in burst.data.chunks(burst.segment.max(1)) {
            let dropped = rng.chance(link.now.loss) || datagram.len() > link.now.mtu;
            let Some(at) = (if dropped { None } else { link.arrival(now, datagram.len(), rng) }) else {
                *lost += 1;
                continue;
            };
            let mut data = datagram.to_vec();
            if rng.chance(link.now.corrupt) {
                damage(&mut data, rng);
            }
            let copies = 1 + u32::from(rng.chance(link.now.duplicate));
            for copy in 0..copies {
                let late = if copy == 0 {
                    Duration::ZERO
                } else {
                    rng.duration(Duration::ZERO, Duration::from_millis(30))
                };
                let data = data.clone();
                arrive(
                    at + late,
                    Burst {
                        sender,
                        to,
                        from: burst.from,
                        path: burst.path,
                        segment: data.len().max(1),
                        data,
                    },
                );
            }
        }
    }

    /// Someone on the network who holds no key repeats what was heard, or sends rubbish.
    fn be_attacked(
        &mut self,
        now: Instant,
        burst: &Burst,
        rng: &mut Rng,
        arrive: &mut impl FnMut(Instant, Burst),
    ) {
        if self.attack <= 0.0 || !rng.chance(self.attack) {
            return;
        }
        let heard: Vec<u8> = burst.data.iter().copied().take(burst.segment).collect();
        let place = usize::try_from(rng.below(CAPTURED_MAX as u64)).unwrap_or(0);
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push((burst.from, burst.path, heard));
        } else {
            self.captured[place] = (burst.from, burst.path, heard);
        }
        let Some((from, path, mut data)) = rng.pick(&self.captured).cloned() else { return };
        let to = if rng.chance(0.7) {
            burst.to
        } else {
            usize::try_from(rng.below(self.nodes as u64)).unwrap_or(0)
        };
        match rng.below(4) {
            0 => damage(&mut data, rng),
            1 => {
                data = vec![0; usize::try_from(rng.between(1, 1500)).unwrap_or(1)];
                rng.fill(&mut data);
            }
            _ => {}
        }
        let at = now + rng.duration(Duration::from_micros(1), Duration::from_millis(500));
        let sender = burst.sender;
        arrive(at, Burst { sender, to, from, path, segment: data.len().max(1), data });
    }
}

impl Link {
    /// When `bytes` that leave now arrive; `None` if the queue is full.
    fn arrival(&mut self, now: Instant, bytes: usize, rng: &mut Rng) -> Option<Instant> {
        let quality = &self.now;
        let mut leaves = now;
        if let Some(rate) = quality.bandwidth {
            let rate = rate.max(1);
            let waiting = self.idle_at.since(now);
            if waiting.as_nanos() > u128::from(quality.queue) * 1_000_000_000 / u128::from(rate) {
                return None;
            }
            leaves = now.max(self.idle_at) + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
            self.idle_at = leaves;
        }
        let mut at = leaves + rng.duration(quality.delay.0, quality.delay.1);
        if quality.spike_chance > 0.0 && rng.chance(quality.spike_chance) {
            at += rng.duration(Duration::ZERO, quality.spike);
        }
        if !quality.reorder {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        Some(at)
    }
}

fn damage(data: &mut Vec<u8>, rng: &mut Rng) {
    let place = usize::try_from(rng.below(data.len() as u64)).unwrap_or(0);
    if rng.chance(0.3) {
        data.truncate(place);
    } else if let Some(byte) = data.get_mut(place) {
        *byte ^= 1 << rng.below(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(bytes: usize) -> Burst {
        let from = address(NodeId::new(1), 0);
        Burst { sender: 0, to: 1, from, path: 0, segment: 1000, data: vec![7; bytes] }
    }

    fn arrivals(network: &mut Network, bytes: usize) -> Vec<(Instant, usize)> {
        let mut seen = Vec::new();
        let mut rng = Rng::new(3);
        network.send(Instant::ZERO, burst(bytes), &mut rng, |at, b| seen.push((at, b.data.len())));
        seen
    }

    #[test]
    fn an_address_leads_back_to_its_node() {
        let node = NodeId::new(70_000);
        assert_eq!(owner(address(node, 2)), Some((node, 2)));
        assert_eq!(owner(moved(node, 1, MOVES_MAX)), Some((node, 1)));
        assert_ne!(moved(node, 1, 3), moved(node, 1, 4));
    }

    #[test]
    fn a_cut_is_one_way_and_counts() {
        let mut net = Network::new(&Profile::calm(2, Duration::from_secs(1)), &mut Rng::new(1));
        let way = Way::whole(0, 1);
        net.cut(way);
        net.cut(way);
        net.mend(way);
        assert!(arrivals(&mut net, 10).is_empty());
        net.mend(way);
        assert_eq!(arrivals(&mut net, 10).len(), 1);
    }

    #[test]
    fn a_path_is_cut_alone_and_a_pair_with_all_its_paths() {
        let profile = Profile { paths: 3, ..Profile::calm(2, Duration::from_secs(1)) };
        let mut net = Network::new(&profile, &mut Rng::new(1));
        let passes = |net: &mut Network, path| {
            let (mut rng, mut seen) = (Rng::new(3), 0);
            net.send(Instant::ZERO, Burst { path, ..burst(10) }, &mut rng, |_, _| seen += 1);
            seen == 1
        };
        net.cut(Way::single(0, 1, 1));
        assert_eq!([0, 1, 2].map(|path| passes(&mut net, path)), [true, false, true]);
        net.cut(Way::whole(0, 1));
        assert_eq!([0, 1, 2].map(|path| passes(&mut net, path)), [false; 3]);
        net.heal(Some(2));
        assert_eq!([0, 1, 2].map(|path| passes(&mut net, path)), [false, false, true]);
        net.heal(None);
        assert_eq!([0, 1, 2].map(|path| passes(&mut net, path)), [true; 3]);
    }

    #[test]
    fn a_narrow_link_delays_and_then_drops() {
        let mut net = Network::new(&Profile::calm(2, Duration::from_secs(1)), &mut Rng::new(1));
        net.worsen(Way::whole(0, 1), |q| {
            q.bandwidth = Some(10_000);
            q.queue = 1_000;
            q.reorder = true;
        });
        let seen = arrivals(&mut net, 5_000);
        assert_eq!(seen.len(), 2, "the rest finds the queue full: {seen:?}");
        assert!(seen[1].0.since(seen[0].0) >= Duration::from_millis(99));
    }
}
