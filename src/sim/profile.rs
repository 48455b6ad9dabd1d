use super::disk::DiskProfile;
use core::time::Duration;
use ocf_comm::PathPolicy;
use pils::Rng;

/// A kind of fault. Each seed switches some of them off entirely, so that runs differ in kind and not only in degree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A node's process is killed; its machine lives on.
    Kill,
    /// A node's process is killed between two of its effects: some were carried out, the rest never.
    KillBetween,
    /// A machine loses power.
    PowerLoss,
    /// Two nodes die within a moment.
    KillTwo,
    /// A killed node starts again at once, within any detection time.
    QuickRestart,
    /// A node's process is stopped for a while as by SIGSTOP; what arrives waits in its socket buffer.
    Pause,
    /// A node's CPU is many times slower for a while.
    SlowCpu,
    /// Writes to a node's disk fail for a while.
    FullDisk,
    /// A machine loses power and the content of its disk; the same machine each time in one run.
    LostDisk,
    /// The nodes fall into two sides.
    TwoSides,
    /// The nodes fall into three sides.
    ThreeSides,
    /// One node hears nobody and nobody hears it.
    Isolate,
    /// The link between two nodes is cut while others see both.
    CutPair,
    /// Nothing passes from one node to another; the other way is good.
    OneWay,
    /// A link goes up and down.
    Flap,
    /// Nodes are cut off one by one in a random order, and come back in another.
    Swizzle,
    /// A link loses much.
    Lossy,
    /// A link is slow and reorders.
    Slow,
    /// A link carries few bytes per second.
    Starved,
    /// A link drops large datagrams.
    SmallMtu,
    /// Every node hears nobody and nobody hears it.
    Alone,
    /// Writes to a node's disk do not end for a while; then they do.
    HungDisk,
    /// A machine loses power, and its record is damaged; the same machine as for `LostDisk`.
    TornRecord,
    /// Half of the links of a node are cut, and just before that has consequences the other half.
    Closing,
    /// One path between two nodes is cut, others are not.
    CutPath,
    /// One path carries nothing in one direction.
    CutPathOneWay,
    /// One path goes up and down.
    FlapPath,
    /// One path takes longer in one direction.
    LatePath,
    /// One path loses much in one direction.
    LossyPath,
    /// One path loses all large datagrams in one direction, without a word.
    NarrowPath,
    /// A node's interface under one path goes down and comes back, and its process is told.
    InterfaceDown,
    /// A node's interface under one path gets another address: its process is told, and soon the others are.
    NewAddress,
}

impl Fault {
    /// Every kind that hits nodes, or all paths between two nodes.
    pub const ALL: [Self; 24] = [
        Self::Kill,
        Self::KillBetween,
        Self::PowerLoss,
        Self::KillTwo,
        Self::QuickRestart,
        Self::Pause,
        Self::SlowCpu,
        Self::FullDisk,
        Self::LostDisk,
        Self::TwoSides,
        Self::ThreeSides,
        Self::Isolate,
        Self::CutPair,
        Self::OneWay,
        Self::Flap,
        Self::Swizzle,
        Self::Lossy,
        Self::Slow,
        Self::Starved,
        Self::SmallMtu,
        Self::Alone,
        Self::HungDisk,
        Self::TornRecord,
        Self::Closing,
    ];

    /// The newest of them, which are drawn apart from the others.
    const LATER: [Self; 4] = [Self::Alone, Self::HungDisk, Self::TornRecord, Self::Closing];

    /// Every kind that hits a single path, where there are several.
    pub const OF_PATHS: [Self; 8] = [
        Self::CutPath,
        Self::CutPathOneWay,
        Self::FlapPath,
        Self::LatePath,
        Self::LossyPath,
        Self::NarrowPath,
        Self::InterfaceDown,
        Self::NewAddress,
    ];
}

/// Paths between two nodes at most.
pub(crate) const PATHS_MAX: u8 = 3;

/// How a directed path treats datagrams.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// One-way delay, lowest and highest.
    pub delay: (Duration, Duration),
    /// Chance that a burst is held up by up to `spike` in addition.
    pub spike_chance: f64,
    /// The largest such hold-up.
    pub spike: Duration,
    /// True if datagrams may overtake one another.
    pub reorder: bool,
    /// Chance that a datagram is lost.
    pub loss: f64,
    /// Chance that a datagram comes twice.
    pub duplicate: f64,
    /// Chance that a bit of a datagram is turned, or its end cut off.
    pub corrupt: f64,
    /// The largest datagram that passes, in bytes.
    pub mtu: usize,
    /// Bytes per second; `None` is without limit.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait where bandwidth is limited; more are dropped.
    pub queue: u64,
}

impl Quality {
    /// A quiet local network: 20 to 100 µs, nothing lost.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            delay: (Duration::from_micros(20), Duration::from_micros(100)),
            spike_chance: 0.0,
            spike: Duration::ZERO,
            reorder: false,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 65_535,
            bandwidth: None,
            queue: 256 * 1024,
        }
    }

    /// True if every datagram of a burst shares one fate.
    pub(crate) fn is_plain(&self) -> bool {
        self.loss <= 0.0
            && self.duplicate <= 0.0
            && self.corrupt <= 0.0
            && !self.reorder
            && self.mtu >= 65_535
    }
}

/// Everything about a run that its seed decides beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Number of nodes, with the ids 1 to `nodes`.
    pub nodes: u32,
    /// Paths between any two nodes, 1 to 3: networks that have nothing to do with one another.
    pub paths: u8,
    /// The path that no fault of single paths hits.
    pub spared: u8,
    /// The last faults of single paths never end: the cluster must become well with the spared path alone.
    pub lame: bool,
    /// How the nodes share messages among paths.
    pub policy: PathPolicy,
    /// Length of the phase with faults, in which safety is judged.
    pub safety: Duration,
    /// Longest time after the last fault until all is well again; judged after it.
    pub heal_limit: Duration,
    /// Length of the phase after that in which all must stay well.
    pub calm: Duration,
    /// Quality of the network between faults, drawn again for each directed link.
    pub quality: Quality,
    /// Kinds of fault that occur.
    pub faults: Vec<Fault>,
    /// Mean time between two faults.
    pub fault_interval: Duration,
    /// Mean length of a fault.
    pub fault_length: Duration,
    /// Time from a stop to the next start of a node, lowest and highest.
    pub restart: (Duration, Duration),
    /// Largest deviation of a clock's rate, in parts per million.
    pub drift_ppm: i32,
    /// Largest lateness of a timer.
    pub timer_slack: Duration,
    /// The disks.
    pub disk: DiskProfile,
    /// Chance for each datagram that an attacker repeats it, or sends rubbish instead, once later.
    pub attack: f64,
    /// Bytes that wait for a process that does not run; more are dropped.
    pub socket_buffer: usize,
    /// Nodes start within this time of one another.
    pub start_spread: Duration,
    /// Counters start near their wrap where the program allows it.
    pub near_wrap: bool,
}

impl Profile {
    /// A run without any fault on a quiet network.
    #[must_use]
    pub fn calm(nodes: u32, length: Duration) -> Self {
        Self {
            nodes,
            paths: 1,
            spared: 0,
            lame: false,
            policy: PathPolicy::Failover,
            safety: length,
            heal_limit: Duration::from_secs(30),
            calm: Duration::from_secs(1),
            quality: Quality::lan(),
            faults: Vec::new(),
            fault_interval: Duration::from_secs(1),
            fault_length: Duration::from_secs(1),
            restart: (Duration::from_secs(1), Duration::from_secs(2)),
            drift_ppm: 100,
            timer_slack: Duration::from_micros(50),
            disk: DiskProfile::default(),
            attack: 0.0,
            socket_buffer: 208 * 1024,
            start_spread: Duration::from_millis(10),
            near_wrap: false,
        }
    }

    /// The same nodes, paths and clocks with nothing else that troubles them. How often faults that somebody chooses come, how
    /// long they and restarts take, stays too.
    pub(crate) fn quiet(self) -> Self {
        Self {
            paths: self.paths,
            spared: self.spared,
            policy: self.policy,
            drift_ppm: self.drift_ppm,
            fault_interval: self.fault_interval.min(Duration::from_secs(2)),
            fault_length: self.fault_length,
            restart: self.restart,
            ..Self::calm(self.nodes, self.safety)
        }
    }

    /// Draws a run: which of the faults in `menu` occur, how bad the network is, how long things take. Most runs have several
    /// paths, if `paths` does not say how many, and then some of [`Fault::OF_PATHS`].
    ///
    /// # Panics
    /// Never: the lists it picks from are not empty.
    #[must_use]
    pub fn draw(rng: &mut Rng, (nodes, paths): (u32, Option<u8>), safety: Duration, menu: &[Fault]) -> Self {
        let mut quality = Quality::lan();
        let slowest = *rng.pick(&[100, 100, 300, 1_000, 5_000]).expect("not empty");
        quality.delay.1 = Duration::from_micros(slowest);
        quality.reorder = rng.chance(0.3);
        if rng.chance(0.4) {
            quality.loss = rng.unit() * *rng.pick(&[0.001, 0.01, 0.1]).expect("not empty");
        }
        if rng.chance(0.3) {
            quality.duplicate = rng.unit() * 0.05;
        }
        if rng.chance(0.3) {
            quality.corrupt = rng.unit() * 0.02;
        }
        if rng.chance(0.3) {
            quality.spike_chance = 0.01;
            quality.spike = rng.duration(Duration::from_millis(1), Duration::from_millis(80));
        }
        if rng.chance(0.2) {
            quality.bandwidth = Some(rng.between(2_000_000, 125_000_000));
        }
        let severity = rng.unit();
        // What was added later is drawn apart, so that the seeds of before keep most of their meaning.
        let (later, first): (Vec<Fault>, Vec<Fault>) = menu.iter().partition(|f| Fault::LATER.contains(f));
        let mut faults: Vec<Fault> = first.into_iter().filter(|_| rng.chance(0.2 + 0.6 * severity)).collect();
        // From a generator of its own: what else a seed decides does not depend on it.
        let mut own = rng.clone().fork();
        let drawn = *own.pick(&[1, 1, 2, 2, PATHS_MAX]).expect("not empty");
        let paths = paths.map_or(drawn, |paths| paths.clamp(1, PATHS_MAX));
        let spared = u8::try_from(own.below(u64::from(paths))).unwrap_or(0);
        if paths > 1 {
            let first = Fault::OF_PATHS.into_iter().filter(|f| *f != Fault::NewAddress);
            faults.extend(first.filter(|_| own.chance(0.6)));
        }
        let policy = *own
            .pick(&[PathPolicy::Failover, PathPolicy::Balance, PathPolicy::Redundant])
            .expect("not empty");
        let lame = paths > 1 && own.chance(0.3);
        faults.extend(later.into_iter().filter(|_| own.chance(0.3)));
        if paths > 1 && own.chance(0.5) {
            faults.push(Fault::NewAddress);
        }
        Self {
            paths,
            spared,
            lame,
            policy,
            quality,
            faults,
            fault_interval: rng.duration(Duration::from_millis(100), Duration::from_millis(5_000)),
            fault_length: rng.duration(Duration::from_millis(50), Duration::from_millis(5_000)),
            restart: (
                rng.duration(Duration::from_millis(1), Duration::from_millis(500)),
                rng.duration(Duration::from_millis(500), Duration::from_millis(10_000)),
            ),
            drift_ppm: *rng.pick(&[0, 100, 10_000]).expect("not empty"),
            timer_slack: Duration::from_micros(*rng.pick(&[0, 50, 1_000, 10_000]).expect("not empty")),
            disk: DiskProfile {
                latency: (
                    Duration::from_micros(20),
                    rng.duration(Duration::from_micros(50), Duration::from_millis(20)),
                ),
                failure: if rng.chance(0.2) { rng.unit() * 0.1 } else { 0.0 },
            },
            attack: if rng.chance(0.3) { rng.unit() * 0.05 } else { 0.0 },
            start_spread: Duration::from_millis(*rng.pick(&[1, 20, 1_000, 5_000]).expect("not empty")),
            near_wrap: rng.chance(0.2),
            ..Self::calm(nodes, safety)
        }
    }
}
