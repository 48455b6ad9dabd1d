use crate::crypto::{Cipher, Protection};
use crate::{DiscoveryConfig, Lane, PathId, PathPolicy};
use core::fmt;
use core::time::Duration;
use pils::NodeId;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// How an [`Endpoint`](crate::Endpoint) behaves. All fields are public; [`Config::check`] names every mistake at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the cluster, 1 to 255 bytes. Nodes of clusters with different names refuse each other.
    pub cluster: String,
    /// Every other node, at most 255; an entry for the local node is an error.
    pub peers: Vec<PeerConfig>,
    /// How the paths to a peer share its messages; default [`PathPolicy::Failover`].
    pub policy: PathPolicy,
    /// The two times of failure detection, from [`Preset::timers`] or chosen by hand.
    pub timers: Timers,
    /// Largest message, in bytes: 1 to 1 GiB, default 16 MiB. The smaller of both ends' values counts.
    pub message_max: usize,
    /// Queue and window of [`Lane::Urgent`].
    pub urgent: LaneConfig,
    /// Queue and window of [`Lane::Small`].
    pub small: LaneConfig,
    /// Queue and window of [`Lane::Bulk`].
    pub bulk: LaneConfig,
    /// Payload bytes of the largest UDP datagram sent at first: 1200 to 65000, default 1400. If the network turns out not to
    /// carry it, 1200 is used, and larger sizes are searched from there.
    pub datagram: usize,
    /// Sizes beyond it that are tried, ascending, at most 16 of 1200 to 65000; the largest that passes is used. Default
    /// 1200, 1400, 1472, 4072, 8972. Empty: `datagram` is the largest. Each path is searched on its own.
    pub mtu_ladder: Vec<usize>,
    /// Packets sealed with one key before the next key is derived; `None` means 2^26 if `datagram` is at most 2048,
    /// 2^23 otherwise. At least 16. Source: RFC 9001, appendix B.
    pub rekey_after_packets: Option<u64>,
    /// Time after which the next key is derived, however few packets were sealed: 100 ms to 24 h, default 10 min.
    pub rekey_after_time: Duration,
    /// What nobody but the nodes may do to packets. Default [`Protection::Encrypt`]; equal at all nodes, or they refuse
    /// each other.
    pub protection: Protection,
    /// Which cipher does it. Default [`Cipher::Auto`].
    pub cipher: Cipher,
    /// Names of authenticators, best first, at most 4, in place of those that `protection` and `cipher` stand for. None of
    /// them may protect less than `protection` asks for. Default none.
    pub authenticators: Vec<String>,
    /// Name of the codec for messages of the bulk lane: `none` (the default), `lz4`, or that of a plug-in. Used with peers
    /// that want it, too. Not for secrets: see [`PacketCodec`](crate::PacketCodec).
    pub codec: String,
    /// Bytes written to one peer before others, and the readers, get their turn: at least 64 KiB, default 256 KiB.
    pub turn_budget: usize,
    /// What peers are told so that they believe this node's sentinel; `None`, the default, without one. The driver sets it
    /// when it starts the sentinel.
    pub obituary: Option<[u8; 32]>,
    /// How nodes that are not in `peers` are found; `None`, the default: not at all.
    pub discovery: Option<DiscoveryConfig>,
}

/// One other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its id.
    pub node: NodeId,
    /// Its address on each path, best first, 1 to 8, each path once. Both ends must number the paths alike: a path joins
    /// the local socket of its number and the peer's address here.
    pub addresses: Vec<(PathId, SocketAddr)>,
}

/// The times of failure detection; everything else is derived from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// H: after this long without sending, a probe is sent; 1 ms to 1 min. Too low costs packets, too high costs detection.
    pub heartbeat: Duration,
    /// T_d: after this long without hearing anything a peer is down; at least 3 H. Too low: stalls of a loaded machine
    /// are taken for death.
    pub detection: Duration,
}

/// Times that fit a kind of installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preset {
    /// H 15 ms, T_d 100 ms: for nodes with real-time priority and locked memory.
    Rt,
    /// H 100 ms, T_d 500 ms: for a local network, with no special rights.
    #[default]
    Lan,
    /// H 250 ms, T_d 2 s: for virtual machines that migrate.
    Cloud,
}

impl Preset {
    /// The times that this name stands for.
    #[must_use]
    pub const fn timers(self) -> Timers {
        let (heartbeat, detection) = match self {
            Self::Rt => (15, 100),
            Self::Lan => (100, 500),
            Self::Cloud => (250, 2000),
        };
        Timers { heartbeat: Duration::from_millis(heartbeat), detection: Duration::from_millis(detection) }
    }
}

/// Memory of one lane, per peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// Bytes that may wait or be unacknowledged; 4 KiB to 1 GiB. A message that does not fit gives
    /// [`SendError::Full`](crate::SendError::Full).
    pub send_queue: usize,
    /// Bytes received and not yet [consumed](crate::Endpoint::consumed), beyond one message that is being assembled;
    /// 64 KiB to 1 GiB. Too low stops the sender each round trip.
    pub receive_window: usize,
}

/// Peers that an endpoint can have.
pub(crate) const PEERS_MAX: usize = 255;
/// Paths that a peer can have. Each costs its probes and 1 KiB per circuit; nothing else hangs on the number.
pub(crate) const PATHS_MAX: usize = 8;

const MIB: usize = 1 << 20;
/// What the framing of a message may add to its size in a lane.
pub(crate) const FRAMING_MAX: usize = 24;

impl Config {
    /// Defaults for a cluster of this name, with no peers yet.
    #[must_use]
    pub fn new(cluster: impl Into<String>, preset: Preset) -> Self {
        Self {
            cluster: cluster.into(),
            peers: Vec::new(),
            policy: PathPolicy::default(),
            timers: preset.timers(),
            message_max: 16 * MIB,
            urgent: LaneConfig { send_queue: 4 * MIB, receive_window: 4 * MIB },
            small: LaneConfig { send_queue: 32 * MIB, receive_window: 16 * MIB },
            bulk: LaneConfig { send_queue: 64 * MIB, receive_window: 32 * MIB },
            datagram: 1400,
            mtu_ladder: vec![1200, 1400, 1472, 4072, 8972],
            rekey_after_packets: None,
            rekey_after_time: Duration::from_secs(600),
            protection: Protection::Encrypt,
            cipher: Cipher::Auto,
            authenticators: Vec::new(),
            codec: "none".to_owned(),
            turn_budget: 256 << 10,
            obituary: None,
            discovery: None,
        }
    }

    /// Adds a peer that is reached on path 0 only.
    #[must_use]
    pub fn with_peer(mut self, node: NodeId, address: SocketAddr) -> Self {
        self.peers.push(PeerConfig { node, addresses: vec![(PathId(0), address)] });
        self
    }

    /// Queue and window of one lane.
    #[must_use]
    pub const fn lane(&self, lane: Lane) -> LaneConfig {
        match lane {
            Lane::Urgent => self.urgent,
            Lane::Small => self.small,
            Lane::Bulk => self.bulk,
        }
    }

    /// The largest message that fits this lane: [`Config::message_max`], or less if the lane's queue is smaller.
    #[must_use]
    pub fn message_max_of(&self, lane: Lane) -> usize {
        self.message_max.min(self.lane(lane).send_queue.saturating_sub(FRAMING_MAX))
    }

    /// The largest datagram that may be sent on any path.
    #[must_use]
    pub fn datagram_max(&self) -> usize {
        self.mtu_ladder.iter().copied().max().unwrap_or(0).max(self.datagram)
    }

    /// Packets sealed with one key, with the default filled in.
    #[must_use]
    pub fn rekey_after(&self) -> u64 {
        self.rekey_after_packets
            .unwrap_or_else(|| if self.datagram_max() <= 2048 { 1 << 26 } else { 1 << 23 })
    }

    /// Checks every field, for the node `local`.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn check(&self, local: NodeId) -> Result<(), ConfigErrors> {
        let mut errors = Errors(Vec::new());
        errors.range("cluster.len", self.cluster.len(), 1, 255);
        errors.range("message_max", self.message_max, 1, 1024 * MIB);
        errors.range("datagram", self.datagram, 1200, 65_000);
        errors.range("mtu_ladder.len", self.mtu_ladder.len(), 0, 16);
        for (i, size) in self.mtu_ladder.iter().enumerate() {
            errors.range(&format!("mtu_ladder[{i}]"), *size, 1200, 65_000);
        }
        if !self.mtu_ladder.is_sorted() {
            errors.add("mtu_ladder", format!("{:?}", self.mtu_ladder), "give the sizes in ascending order");
        }
        errors.range("turn_budget", self.turn_budget, 64 << 10, 1024 * MIB);
        if let Some(n) = self.rekey_after_packets {
            errors.range("rekey_after_packets", usize::try_from(n).unwrap_or(usize::MAX), 16, 1 << 28);
        }
        let time = self.rekey_after_time;
        if time < Duration::from_millis(100) || time > Duration::from_secs(24 * 3600) {
            errors.add("rekey_after_time", format!("{time:?}"), "choose 100 ms to 24 h");
        }
        for (name, lane) in [("urgent", self.urgent), ("small", self.small), ("bulk", self.bulk)] {
            errors.range(&format!("{name}.send_queue"), lane.send_queue, 4096, 1024 * MIB);
            errors.range(&format!("{name}.receive_window"), lane.receive_window, 64 << 10, 1024 * MIB);
        }
        self.check_timers(&mut errors);
        self.check_discovery(&mut errors);
        self.check_peers(local, &mut errors);
        if errors.0.is_empty() { Ok(()) } else { Err(ConfigErrors(errors.0)) }
    }

    fn check_timers(&self, errors: &mut Errors) {
        let Timers { heartbeat, detection } = self.timers;
        if heartbeat < Duration::from_millis(1) || heartbeat > Duration::from_secs(60) {
            errors.add("timers.heartbeat", format!("{heartbeat:?}"), "choose 1 ms to 1 min");
        }
        if detection < heartbeat.saturating_mul(3) || detection > Duration::from_secs(600) {
            errors.add("timers.detection", format!("{detection:?}"), "choose 3 heartbeats to 10 min");
        }
    }

    fn check_discovery(&self, errors: &mut Errors) {
        let Some(discovery) = &self.discovery else { return };
        errors.range("discovery.advertise.len", discovery.advertise.len(), 1, 8);
        errors.range("discovery.announce_to.len", discovery.announce_to.len(), 0, 64);
        let mut paths = BTreeSet::new();
        for (i, (path, address)) in discovery.advertise.iter().enumerate() {
            let at = format!("discovery.advertise[{i}]");
            if !paths.insert(*path) {
                errors.add(&at, format!("path {}", path.0), "name each path once");
            }
            if address.port() == 0 {
                errors.add(&at, address.to_string(), "give the port that this node receives at");
            }
        }
        for (i, (_, address)) in discovery.announce_to.iter().enumerate() {
            if address.port() == 0 || address.ip().is_unspecified() {
                let fix = "give the address and port of a group or a seed";
                errors.add(&format!("discovery.announce_to[{i}]"), address.to_string(), fix);
            }
        }
        let (interval, forget) = (discovery.interval, discovery.forget_after);
        if interval < Duration::from_millis(100) || interval > Duration::from_secs(60) {
            errors.add("discovery.interval", format!("{interval:?}"), "choose 100 ms to 1 min");
        }
        if forget < interval.saturating_mul(3) || forget > Duration::from_secs(86_400) {
            errors.add("discovery.forget_after", format!("{forget:?}"), "choose 3 intervals to 1 day");
        }
    }

    fn check_peers(&self, local: NodeId, errors: &mut Errors) {
        errors.range("peers.len", self.peers.len(), 0, PEERS_MAX);
        let mut nodes = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (i, peer) in self.peers.iter().enumerate() {
            if peer.node == local {
                let hint = "remove it: a node is not its own peer";
                errors.add(&format!("peers[{i}].node"), peer.node.to_string(), hint);
            } else if !nodes.insert(peer.node) {
                errors.add(
                    &format!("peers[{i}].node"),
                    peer.node.to_string(),
                    "give each node an id of its own",
                );
            }
            errors.range(&format!("peers[{i}].addresses.len"), peer.addresses.len(), 1, PATHS_MAX);
            let mut paths = BTreeSet::new();
            for (k, (path, address)) in peer.addresses.iter().enumerate() {
                let at = format!("peers[{i}].addresses[{k}]");
                if !paths.insert(*path) {
                    errors.add(&at, format!("path {}", path.0), "name each path once per peer");
                }
                if address.port() == 0 || address.ip().is_unspecified() {
                    errors.add(&at, address.to_string(), "give the address and port the peer receives at");
                } else if !addresses.insert((*path, *address)) && !reaches_many(address) {
                    errors.add(
                        &at,
                        address.to_string(),
                        "another peer has this address: correct one of them",
                    );
                }
            }
        }
    }
}

/// True for an address that all nodes of a network share: the circuit and the node id tell who is meant.
fn reaches_many(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast() || ip.octets()[3] == 255,
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

struct Errors(Vec<ConfigError>);

impl Errors {
    fn add(&mut self, path: &str, value: String, fix: &str) {
        self.0.push(ConfigError { path: path.to_owned(), value, fix: fix.to_owned() });
    }

    fn range(&mut self, path: &str, value: usize, min: usize, max: usize) {
        if !(min..=max).contains(&value) {
            self.add(path, value.to_string(), &format!("choose {min} to {max}"));
        }
    }
}

/// One mistake in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is {value}: {fix}")]
pub struct ConfigError {
    /// Which field, as a path into the configuration.
    pub path: String,
    /// What it holds.
    pub value: String,
    /// What to do.
    pub fix: String,
}

/// Every mistake in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut c = Config::new("", Preset::Lan)
            .with_peer(NodeId::new(1), at(1))
            .with_peer(NodeId::new(2), at(1))
            .with_peer(NodeId::new(2), at(0));
        c.datagram = 100;
        c.timers.detection = Duration::from_millis(1);
        let errors = c.check(NodeId::new(1)).unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "cluster.len",
                "datagram",
                "timers.detection",
                "peers[0].node",
                "peers[1].addresses[0]",
                "peers[2].node",
                "peers[2].addresses[0]"
            ]
        );
        assert!(errors.to_string().contains("datagram is 100: choose 1200 to 65000"));
    }

    #[test]
    fn the_defaults_of_every_preset_pass() {
        for preset in [Preset::Rt, Preset::Lan, Preset::Cloud] {
            let c = Config::new("demo", preset)
                .with_peer(NodeId::new(2), SocketAddr::from(([10, 0, 0, 2], 5405)));
            assert_eq!(c.check(NodeId::new(1)), Ok(()));
        }
    }
}
