use crate::config::NodeConfig;
use crate::stack::Stack;
use ocf_comm::driver::{Io, IoStats};
use ocf_comm::ping::PingStatus;
use ocf_comm::{DropReason, PathState};
use ocf_groups::Groups;
use pils::{Instant, NodeId, NodeInstance};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What every layer of a node knows at one moment, for people and programs. Owned; costs O(what is in it).
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Version of this structure: [`Snapshot::SCHEMA`]. Members may be added under one version; a change of meaning
    /// raises it.
    pub schema: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Which life of which node looks.
    pub local: NodeInstance,
    /// What people call it.
    pub name: String,
    /// Nanoseconds on the node's clock.
    pub at_nanos: u64,
    /// Number of the last event of this life.
    pub events: u64,
    /// Where the node stands.
    pub standing: Standing,
    /// The view of the primary partition it is in.
    pub view: Option<ViewSnapshot>,
    /// Every configured peer.
    pub peers: Vec<PeerSnapshot>,
    /// Hosts outside the cluster that are watched.
    pub ping: Vec<PingSnapshot>,
    /// How many of them are up: what a tie breaker compares between nodes.
    pub ping_reachable: usize,
    /// Groups that exist, as far as this node knows.
    pub groups: Vec<GroupSnapshot>,
    /// This node's partition, primary or not, if it has groups that go on in any.
    pub partition: Option<PartitionSnapshot>,
    /// Resources.
    pub resources: ocf_resource::Status,
    /// Fence requests that this node carries out.
    pub fencing: Vec<ocf_stonith::Status>,
    /// Past fence requests of this node, oldest first.
    pub fenced: Vec<ocf_stonith::Record>,
    /// What the health checks of the fence devices brought, in the order of the configuration.
    pub devices: Vec<ocf_stonith::Health>,
    /// Counters of every layer.
    pub counters: BTreeMap<String, u64>,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// In the primary partition, and its lease is confirmed.
    Primary,
    /// In the primary partition, but the lease is in doubt.
    Suspended,
    /// Outside.
    NonPrimary,
}

/// A view.
#[derive(Clone, Debug, Serialize)]
pub struct ViewSnapshot {
    /// Its number in the chain of primaries.
    pub number: u64,
    /// Members, most senior first.
    pub members: Vec<NodeInstance>,
    /// Votes of the members together.
    pub votes: u32,
    /// Votes that are needed.
    pub quorum: u32,
    /// Why it differs from the view before.
    pub causes: Vec<(NodeInstance, String)>,
}

/// A configured peer.
#[derive(Clone, Debug, Serialize)]
pub struct PeerSnapshot {
    /// Which node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Its current life, once known.
    pub instance: Option<NodeInstance>,
    /// Can it be talked to?
    pub up: bool,
    /// Smoothed round-trip time in nanoseconds.
    pub rtt_nanos: Option<u64>,
    /// Nanoseconds since it was heard.
    pub silent_nanos: Option<u64>,
    /// Bytes on the way or waiting.
    pub queued: usize,
    /// How well it is, 0 (down) to 100 (heard in time on every path).
    pub health: u8,
    /// Suspicion level phi in hundredths: a diagnostic.
    pub phi_hundredths: u32,
    /// Every path to it, best first.
    pub paths: Vec<PathSnapshot>,
}

/// A path to a peer.
#[derive(Clone, Debug, Serialize)]
pub struct PathSnapshot {
    /// Its number.
    pub path: u8,
    /// The peer's address on it.
    pub address: SocketAddr,
    /// `up`, `doubtful` or `down`.
    pub state: String,
    /// Why, in words.
    pub reason: String,
    /// Nanoseconds in this state.
    pub since_nanos: u64,
    /// Does it carry the data now?
    pub active: bool,
    /// Smoothed round-trip time in nanoseconds.
    pub rtt_nanos: Option<u64>,
    /// Mean deviation of it.
    pub rtt_variance_nanos: Option<u64>,
    /// Estimate of lost packets, in parts per million.
    pub loss_ppm: u32,
    /// Nanoseconds since something was heard on it.
    pub silent_nanos: Option<u64>,
    /// Largest UDP payload sent on it, in bytes.
    pub mtu: usize,
}

impl PathSnapshot {
    fn of(path: ocf_comm::PathStatus) -> Self {
        let state = match path.state {
            PathState::Up => "up",
            PathState::Doubtful => "doubtful",
            PathState::Down => "down",
        };
        Self {
            path: path.path.0,
            address: path.address,
            state: state.to_owned(),
            reason: path.reason.to_string(),
            since_nanos: nanos(path.since),
            active: path.active,
            rtt_nanos: path.rtt.map(nanos),
            rtt_variance_nanos: path.rtt_variance.map(nanos),
            loss_ppm: path.loss_ppm,
            silent_nanos: path.silent_for.map(nanos),
            mtu: path.mtu,
        }
    }
}

/// A target outside the cluster that is watched.
#[derive(Clone, Debug, Serialize)]
pub struct PingSnapshot {
    /// Its name.
    pub target: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Why, in words.
    pub reason: String,
    /// Nanoseconds in this state.
    pub since_nanos: u64,
    /// Its hosts.
    pub hosts: Vec<PingHostSnapshot>,
}

/// A host of a target.
#[derive(Clone, Debug, Serialize)]
pub struct PingHostSnapshot {
    /// Its address.
    pub address: std::net::IpAddr,
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Why, in words.
    pub reason: String,
    /// Smoothed round-trip time in nanoseconds.
    pub rtt_nanos: Option<u64>,
    /// Lost of the last 64 requests, in parts per million.
    pub loss_ppm: u32,
    /// Nanoseconds since it answered last.
    pub silent_nanos: Option<u64>,
}

impl PingSnapshot {
    fn of(status: PingStatus) -> Self {
        let host = |host: ocf_comm::ping::PingHostStatus| PingHostSnapshot {
            address: host.address,
            state: host.state.to_string(),
            reason: host.reason.to_string(),
            rtt_nanos: host.rtt.map(nanos),
            loss_ppm: host.loss_ppm,
            silent_nanos: host.silent_for.map(nanos),
        };
        Self {
            target: status.target.to_string(),
            state: status.state.to_string(),
            reason: status.reason.to_string(),
            since_nanos: nanos(status.since),
            hosts: status.hosts.into_iter().map(host).collect(),
        }
    }
}

/// The partition of a node, and what goes on in it. It says nothing about other partitions.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionSnapshot {
    /// Number of its view, unlike that of any other view of these members.
    pub number: u64,
    /// Members, most senior first.
    pub members: Vec<NodeInstance>,
    /// The views that it follows from, and who came from each: that whose members kept their state, then the others.
    pub parents: Vec<(u64, Vec<NodeInstance>)>,
    /// The primary view that all of them said they were in when it was agreed.
    pub primary: Option<u64>,
    /// Its groups, as far as this node knows.
    pub groups: Vec<GroupSnapshot>,
}

impl PartitionSnapshot {
    fn of(stack: &Stack) -> Option<Self> {
        let (entered, groups) = (stack.partition()?, stack.partition_table()?);
        Some(Self {
            number: entered.view.number.0,
            members: entered.view.members.iter().map(|m| m.instance).collect(),
            parents: entered.parents.iter().map(|p| (p.number.0, p.came.clone())).collect(),
            primary: entered.primary.map(|primary| primary.0),
            groups: GroupSnapshot::all(groups),
        })
    }
}

/// A group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSnapshot {
    /// Its name.
    pub name: String,
    /// Its members, most senior first: which life of which node, and which member there.
    pub members: Vec<(NodeInstance, u32)>,
}

impl GroupSnapshot {
    fn all(groups: &Groups) -> Vec<Self> {
        let members = |name| groups.members(name).iter().map(|m| (m.instance, m.local)).collect();
        groups.groups().map(|name| Self { name: name.to_owned(), members: members(name) }).collect()
    }
}

impl Snapshot {
    /// The version that this library writes.
    pub const SCHEMA: u32 = 1;

    pub(crate) fn of(now: Instant, config: &NodeConfig, stack: &Stack, events: u64, io: &Io) -> Self {
        let standing = match (stack.view(), stack.is_active(now)) {
            (None, _) => Standing::NonPrimary,
            (Some(_), true) => Standing::Primary,
            (Some(_), false) => Standing::Suspended,
        };
        Self {
            schema: Self::SCHEMA,
            cluster: config.cluster.clone(),
            local: stack.local(),
            name: config.name_of(stack.local().node),
            at_nanos: now.as_nanos(),
            events,
            standing,
            view: stack.view().map(|view| ViewSnapshot {
                number: view.number.0,
                members: view.members.iter().map(|m| m.instance).collect(),
                votes: view.members.iter().map(|m| m.votes).sum(),
                quorum: view.quorum,
                causes: view.causes.iter().map(|c| (c.instance, c.reason.to_string())).collect(),
            }),
            peers: stack
                .peers(now)
                .into_iter()
                .map(|peer| PeerSnapshot {
                    node: peer.node,
                    name: config.name_of(peer.node),
                    instance: peer.instance,
                    up: peer.up,
                    rtt_nanos: peer.rtt.map(nanos),
                    silent_nanos: peer.silent_for.map(nanos),
                    queued: peer.queued,
                    health: peer.health,
                    phi_hundredths: peer.phi_hundredths,
                    paths: peer.paths.into_iter().map(PathSnapshot::of).collect(),
                })
                .collect(),
            ping: io.pings().into_iter().map(PingSnapshot::of).collect(),
            ping_reachable: io.reachable(),
            groups: GroupSnapshot::all(&stack.groups),
            partition: PartitionSnapshot::of(stack),
            resources: stack.manager.status(),
            fencing: stack.fencer.standing().collect(),
            fenced: stack.fencer.history().iter().cloned().collect(),
            devices: stack.fencer.health().collect(),
            counters: counters(stack, io.stats()),
        }
    }
}

fn nanos(duration: core::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn counters(stack: &Stack, io: IoStats) -> BTreeMap<String, u64> {
    let comm = stack.endpoint.stats();
    let groups = stack.groups.stats();
    let partition = stack.partition_table().map(|groups| groups.stats());
    let mut all: BTreeMap<String, u64> = [
        ("io.datagrams_in", io.datagrams_in),
        ("io.bytes_in", io.bytes_in),
        ("io.datagrams_out", io.datagrams_out),
        ("io.bytes_out", io.bytes_out),
        ("io.dropped_full", io.dropped_full),
        ("io.send_errors", io.send_errors),
        ("comm.packets_accepted", comm.packets_accepted),
        ("comm.packets_sent", comm.packets_sent),
        ("comm.packets_lost", comm.packets_lost),
        ("comm.handshakes_sent", comm.handshakes_sent),
        ("comm.messages_delivered", comm.messages_delivered),
        ("comm.messages_queued", comm.messages_queued),
        ("comm.stalls", comm.stalls),
        ("groups.sent", groups.sent),
        ("groups.delivered", groups.delivered),
        ("groups.batches", groups.batches),
        ("groups.resubmitted", groups.resubmitted),
        ("groups.state_received", groups.state_received),
        ("groups.state_kept", groups.state_kept),
        ("groups.evictions", groups.evictions),
        ("stack.waiting_bytes", stack.waiting_bytes() as u64),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if let Some(partition) = partition {
        all.insert("partition.sent".to_owned(), partition.sent);
        all.insert("partition.delivered".to_owned(), partition.delivered);
        all.insert("partition.resubmitted".to_owned(), partition.resubmitted);
    }
    for reason in DropReason::ALL {
        all.insert(format!("comm.dropped.{reason}"), comm.dropped(reason));
    }
    all
}
