use super::bugs::Bug;
use super::program::SERVICE;
use crate::sim::paths::addresses;
use crate::sim::{Fault, Profile};
use crate::stack::StackConfig;
use core::time::Duration;
use ocf_comm::{PeerConfig, Timers};
use ocf_membership::partitionable::PartitionConfig;
use ocf_membership::{BlankRecord, Durability, NodeVotes};
use ocf_resource::{AccessNeed, GroupConfig, PartitionPolicy, ResourceConfig, StartFailure, StopFailure};
use ocf_stonith::{DeviceConfig, FenceAction, Parameters, Targets};
use pils::{NodeId, Rng};
use std::collections::BTreeMap;

/// What a person chooses about a run; the seed chooses the rest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, or `None`: 3, 4 or 5 by the seed.
    pub nodes: Option<u32>,
    /// Number of paths between two nodes, 1 to 3, or `None`: by the seed.
    pub paths: Option<u8>,
    /// Length of the phase with faults.
    pub safety: Duration,
    /// Put back: the world's fence device lies. A run must fail sooner or later.
    pub canary: bool,
    /// A protocol bug to put back.
    pub bug: Option<Bug>,
    /// No faults and little load: for measuring.
    pub idle: bool,
    /// If not empty: exactly these kinds of fault occur, often, on a network without other trouble.
    pub focus: Vec<Fault>,
    /// Share of the runs in which nodes are added to the cluster and removed from it, 0 to 1.
    pub set_changes: f64,
    /// Share of the runs in which the nodes have a group that goes on in any partition, 0 to 1.
    pub partitions: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: None,
            paths: None,
            safety: Duration::from_secs(30),
            canary: false,
            bug: None,
            idle: false,
            focus: Vec::new(),
            set_changes: 0.0,
            partitions: 0.0,
        }
    }
}

/// Everything that a seed decides about a run of the cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Machines, network, faults.
    pub profile: Profile,
    /// Number of nodes.
    pub nodes: u32,
    /// Failure detection.
    pub timers: Timers,
    /// Mean time between two sends of an application.
    pub send_interval: Duration,
    /// Messages in a burst.
    pub burst: u32,
    /// Share of safe messages.
    pub safe_share: f64,
    /// Share of large messages.
    pub large_share: f64,
    /// Size of the largest message.
    pub large: u64,
    /// The groups core's window.
    pub window: usize,
    /// Number of resources of the service; none if zero.
    pub resources: usize,
    /// How often they are monitored.
    pub monitor: Duration,
    /// Mean time between failures of resources.
    pub resource_failures: Duration,
    /// Chance that one call of an agent fails or hangs.
    pub agent_failure: f64,
    /// Chance that one attempt of the fence device goes wrong.
    pub fence_failure: f64,
    /// The fence device says it has acted and has not.
    pub lying_fence: bool,
    /// What fencing does.
    pub fence_action: FenceAction,
    /// How eagerly nodes are killed at bad moments.
    pub ambush: f64,
    /// What a lost disk may do.
    pub blank: BlankRecord,
    /// Whether views are recorded at all.
    pub durability: Durability,
    /// Mean time between two nodes that leave in order.
    pub leaves: Option<Duration>,
    /// How long a quorum waits for the memory of the last primary.
    pub forget_after: Duration,
    /// The lease is this much of the detection time.
    pub lease: f64,
    /// Fencing takes machines their access instead of their power.
    pub access: bool,
    /// Whether the nodes have distributed locks, and applications use them.
    pub locks: bool,
    /// Nodes begin with builds of different age, and are upgraded when they start again.
    pub upgrades: bool,
    /// Mean time between two changes of the set of nodes, which begins without the last one.
    pub set_changes: Option<Duration>,
    /// The nodes have a group that goes on in any partition.
    pub partitions: bool,
    /// A protocol bug to put back.
    pub bug: Option<Bug>,
}

impl Plan {
    /// Draws a run.
    #[must_use]
    pub fn draw(rng: &mut Rng, options: &Options) -> Self {
        // What was added later is drawn apart, so that the seeds of before keep most of their meaning.
        let mut extra = rng.clone().fork();
        let nodes = options.nodes.unwrap_or_else(|| 3 + u32::try_from(rng.below(3)).unwrap_or(0));
        let mut profile = Profile::draw(rng, (nodes, options.paths), options.safety, &Fault::ALL);
        if !options.focus.is_empty() {
            profile = Profile { faults: options.focus.clone(), ..profile.quiet() };
        }
        profile.heal_limit = Duration::from_secs(90);
        if options.idle {
            profile = Profile::calm(nodes, options.safety);
        }
        let eager = |rng: &mut Rng, chance: f64| if rng.chance(chance) { rng.unit() } else { 0.0 };
        let timers = match rng.below(3) {
            0 => (15, 100),
            1 => (100, 500),
            _ => (50, 300),
        };
        let timers =
            Timers { heartbeat: Duration::from_millis(timers.0), detection: Duration::from_millis(timers.1) };
        let loses = |f: &Fault| matches!(f, Fault::LostDisk | Fault::TornRecord);
        let blank =
            if profile.faults.iter().any(loses) { BlankRecord::WaitForAll } else { BlankRecord::Trusted };
        let idle = options.idle;
        let set_changes = Self::draw_set_changes(rng, options).filter(|_| nodes > 3);
        if set_changes.is_some() {
            // What was agreed about an added node says where it was then.
            profile.faults.retain(|f| *f != Fault::NewAddress);
        }
        Self {
            nodes,
            timers: if idle { ocf_comm::Preset::Lan.timers() } else { timers },
            send_interval: if idle {
                Duration::from_secs(1)
            } else {
                rng.duration(Duration::from_millis(2), Duration::from_millis(300))
            },
            burst: u32::try_from(*rng.pick(&[2, 20, 100]).unwrap_or(&2))
                .map_or(2, |n| if idle { 2 } else { n }),
            safe_share: rng.unit(),
            large_share: eager(rng, 0.3) * if idle { 0.0 } else { 0.05 },
            large: *rng.pick(&[20_000, 200_000, 3_000_000]).unwrap_or(&20_000),
            window: *rng.pick(&[64 * 1024, 1024 * 1024, 8 * 1024 * 1024]).unwrap_or(&65_536),
            resources: if rng.chance(0.8) || idle { 2 } else { 0 },
            monitor: rng.duration(Duration::from_millis(100), Duration::from_millis(1_000)),
            resource_failures: if rng.chance(0.5) { Duration::from_secs(4) } else { Duration::from_secs(60) },
            agent_failure: if idle { 0.0 } else { eager(rng, 0.5) * 0.1 },
            fence_failure: eager(rng, 0.5) * 0.7,
            lying_fence: options.canary,
            fence_action: if rng.chance(0.8) { FenceAction::Reboot } else { FenceAction::Off },
            ambush: if idle { 0.0 } else { eager(rng, 0.6) },
            blank,
            durability: if extra.chance(0.15) && set_changes.is_none() {
                Durability::Volatile
            } else {
                Durability::Durable
            },
            leaves: extra
                .chance(0.4)
                .then(|| extra.duration(Duration::from_millis(500), Duration::from_secs(6)))
                .filter(|_| !idle),
            forget_after: extra.duration(Duration::from_millis(500), Duration::from_secs(10)),
            lease: if extra.chance(0.7) { 1.0 } else { 0.2 + 0.8 * extra.unit() },
            locks: extra.chance(0.5) && !idle,
            set_changes,
            upgrades: rng.clone().fork().fork().fork().chance(0.3),
            partitions: rng.clone().fork().fork().fork().fork().chance(options.partitions),
            access: extra.chance(0.25) && !idle,
            bug: options.bug,
            profile,
        }
    }

    /// From a generator of its own: what else a seed decides does not depend on it.
    fn draw_set_changes(rng: &Rng, options: &Options) -> Option<Duration> {
        let mut own = rng.clone().fork().fork();
        let wait = own.duration(Duration::from_secs(1), Duration::from_secs(5));
        own.chance(options.set_changes).then_some(wait)
    }

    /// The nodes that the cluster begins with.
    pub(crate) fn first_set(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes - u32::from(self.set_changes.is_some())).map(NodeId::new)
    }

    /// Names of the resources, in starting order.
    #[must_use]
    pub fn resource_names(&self) -> Vec<String> {
        (1..=self.resources).map(|i| format!("r{i}")).collect()
    }

    pub(crate) fn stack(&self, local: NodeId) -> StackConfig {
        // The file of one that is to be added lists the others and itself.
        let listed: Vec<NodeId> = self.first_set().filter(|n| *n != local).chain([local]).collect();
        let all = || listed.iter().copied();
        let mut comm = ocf_comm::Config::new("simulated", ocf_comm::Preset::Lan);
        comm.timers = self.timers;
        comm.policy = self.profile.policy;
        for node in all().filter(|n| *n != local) {
            comm.peers.push(PeerConfig { node, addresses: addresses(node, self.profile.paths) });
        }
        let mut membership = ocf_membership::Config::new(all().map(|n| NodeVotes::new(n, 1)));
        membership.detection = self.timers.detection;
        membership.lease = self.timers.detection.mul_f64(self.lease).max(Duration::from_millis(10));
        membership.forget_after = self.forget_after;
        membership.durability = self.durability;
        membership.flap_hold = self.timers.detection * 2;
        membership.flap_hold_max = self.timers.detection * 8;
        membership.blank_record = self.blank;
        // One machine runs one node, and an earlier life is gone before the next starts.
        membership.sole_life = self.durability == Durability::Durable;
        let groups = ocf_groups::Config { window: self.window, ..ocf_groups::Config::default() };
        let fencing = ocf_stonith::Config {
            devices: vec![DeviceConfig {
                name: "world".to_owned(),
                class: "simulated".to_owned(),
                nodes: Targets::Every(ocf_stonith::Every::All),
                parameters: Parameters::default(),
                timeout_ms: 3_000,
                hosts: ocf_stonith::Hosts::Static,
                unfence: self.access,
            }],
            round_budget_ms: 30_000,
            retry_pause_ms: 100,
            round_pause_ms: 300,
            round_pause_ms_max: 2_000,
            answer_grace_ms: 500,
            ..ocf_stonith::Config::default()
        };
        StackConfig {
            comm,
            membership,
            groups,
            partitions: self.partitions.then(PartitionConfig::default),
            executor: ocf_resource::executor::Config { margin: Duration::from_secs(1), ..Default::default() },
            resources: self.resources(),
            calls: ocf_comm::rpc::CallLimits::default(),
            fencing,
            fence_action: self.fence_action,
            locks: self.locks.then(ocf_dlm::cluster::Config::default),
        }
    }

    fn resources(&self) -> ocf_resource::Config {
        let resource = |name: String| ResourceConfig {
            parameters: BTreeMap::new(),
            start_timeout: Duration::from_secs(2),
            stop_timeout: Duration::from_secs(2),
            monitor_interval: self.monitor,
            monitor_timeout: Duration::from_secs(1),
            ..ResourceConfig::new(name, "simulated:service".parse().expect("a name of two parts"))
        };
        let group = GroupConfig {
            name: SERVICE.to_owned(),
            nodes: Vec::new(),
            elsewhere: true,
            failback: false,
            preferences: Vec::new(),
            stickiness: None,
            reach: None,
            quorum: None,
            migration_threshold: 2,
            failure_window: Duration::from_secs(15),
            on_start_failure: StartFailure::default(),
            on_stop_failure: StopFailure::default(),
            started: true,
            copies: 1,
            restart_parallel: 1,
            migrate: false,
            notify: false,
            promoted: 0,
            priority: 0,
            resources: self.resource_names().into_iter().map(resource).collect(),
        };
        let groups = if self.resources > 0 { vec![group] } else { Vec::new() };
        let access = if self.access { AccessNeed::Everybody } else { AccessNeed::Nobody };
        ocf_resource::Config { groups, access, on_partition: PartitionPolicy::Stop, ..Default::default() }
    }
}
