use super::group_service::GroupService;
use super::host::NodeHost;
use super::lock_service::LockService;
use crate::config::{ApiConfig, GroupUsers, LockUsers, NodeConfig};
use crate::event::{NodeEvent, PartitionEvent};
use crate::groups::wire;
use crate::locks::wire::SERVICE;
use crate::snapshot::Snapshot;
use crate::stack::Stack;
use ocf_comm::Lane;
use ocf_comm::driver::Handle;
use ocf_comm::local::{Accept, Address, LocalConfig, ServeError, Server};
use ocf_comm::ping::PingChange;
use ocf_comm::rpc::{Access, Body, Builder, Caller, Dispatcher, Fault, Method, Policy};
use ocf_groups::MemberId;
use ocf_membership::partitionable::Parent;
use ocf_membership::{View, ViewNumber};
use pils::topic::{
    Bus, CONNECTIVITY, Config as BusConfig, Draft, FENCING, GROUP, LINK, LIVENESS, MEMBERSHIP, QUORUM,
    RESOURCE,
};
use pils::{Incarnation, NodeId, NodeInstance, Value};
use std::sync::Arc;

/// The topic of messages that another node sent to this one, by `node.send` or `Node::send_to`.
pub(super) const DIRECT: &str = "direct";
/// Bytes of a message that programs hear.
const MESSAGE_MAX: usize = 1 << 20;

/// What programs outside the node reach. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Api {
    _local: Option<Server>,
    #[cfg(feature = "http")]
    _http: Option<ocf_comm::http::HttpServer>,
}

/// Why programs outside cannot reach the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Programs of this machine cannot.
    #[error(transparent)]
    Local(#[from] ServeError),
    /// Administration tools cannot.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] ocf_comm::http::HttpError),
    /// The secret of a user cannot be read or is none.
    #[error("the secret of user {user}: {reason}")]
    Secret {
        /// The user.
        user: String,
        /// What is wrong.
        reason: String,
    },
}

/// The bus that a node publishes its events on.
pub(super) fn bus() -> Bus {
    let bus = Bus::new(BusConfig { data_max: MESSAGE_MAX, ..BusConfig::default() });
    bus.create(DIRECT).expect("a new bus has room for a topic");
    bus
}

impl Api {
    pub(super) fn start(
        config: &NodeConfig,
        local: NodeInstance,
        methods: Dispatcher,
        (bus, locks, groups): (&Bus, Arc<LockService>, Arc<GroupService>),
    ) -> Result<Self, ApiError> {
        let api = &config.api;
        let locking = |who: fn(&LockUsers) -> &Vec<u32>| api.locks.iter().flat_map(who);
        let joining = |who: fn(&GroupUsers) -> &Vec<u32>| api.groups.iter().flat_map(who);
        let server = match &api.local {
            Some(address) => Some(Server::start(
                &Address::from(address.as_str()),
                LocalConfig::new()
                    .accept(Accept {
                        uids: api
                            .local_users
                            .iter()
                            .chain(locking(|entry| &entry.users))
                            .chain(joining(|entry| &entry.users))
                            .copied()
                            .chain([0])
                            .collect(),
                        gids: api
                            .local_groups
                            .iter()
                            .chain(locking(|entry| &entry.groups))
                            .chain(joining(|entry| &entry.groups))
                            .copied()
                            .collect(),
                        ..Accept::default()
                    })
                    .who_may(
                        ": [api] of the node's configuration says who may (local_users, local_groups, locks, groups)",
                    )
                    .service(SERVICE, locks)
                    .service(wire::SERVICE, groups)
                    .policy(policy(api))
                    .node(local)
                    .bus(bus.clone())
                    .dispatcher(methods.clone()),
            )?),
            None => None,
        };
        Ok(Self {
            _local: server,
            #[cfg(feature = "http")]
            _http: http(api, methods)?,
        })
    }
}

#[cfg(feature = "http")]
fn http(api: &ApiConfig, methods: Dispatcher) -> Result<Option<ocf_comm::http::HttpServer>, ApiError> {
    use ocf_comm::http::{HttpConfig, HttpServer, User};
    let Some(bind) = api.http else { return Ok(None) };
    let read = |user: &crate::config::ApiUser| {
        let wrong = |reason: String| ApiError::Secret { user: user.name.clone(), reason };
        let secret = std::fs::read_to_string(&user.secret_file).map_err(|error| wrong(error.to_string()))?;
        User::new(&user.name, secret.trim()).map_err(|error| wrong(error.to_string()))
    };
    let users = api.http_users.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Some(HttpServer::start(HttpConfig { bind, users, ..HttpConfig::default() }, methods)?))
}

fn policy(api: &ApiConfig) -> Policy {
    let mut policy = Policy::default();
    policy.uids.extend(api.local_users.iter().map(|user| (*user, Access::Use)));
    policy.gids.extend(api.local_groups.iter().map(|group| (*group, Access::Use)));
    policy.uids.insert(rustix::process::geteuid().as_raw(), Access::Control);
    policy.uids.insert(0, Access::Control);
    policy.http_users = api.http_users.iter().map(|user| (user.name.clone(), user.access.into())).collect();
    policy
}

/// What programs and other nodes may ask of the node: its own methods, and those that its program brings.
pub(super) fn dispatcher(
    config: &NodeConfig,
    handle: &Handle<Stack, NodeHost>,
    local: NodeInstance,
    more: Builder,
) -> Dispatcher {
    methods(config, handle, local).merge(more).policy(policy(&config.api)).build()
}

fn methods(config: &NodeConfig, handle: &Handle<Stack, NodeHost>, local: NodeInstance) -> Builder {
    let stopped = |why: ocf_comm::driver::Stopped| Fault::new(Fault::UNAVAILABLE, why.to_string());
    let status = {
        let (config, handle) = (config.clone(), handle.clone());
        move || {
            let now = || handle.clock().now();
            handle
                .inspect(|stack, host, io| Snapshot::of(now(), &config, stack, host.number(), io))
                .map_err(stopped)
        }
    };
    let members = status.clone();
    let (peers, partition) = (status.clone(), status.clone());
    let sending = handle.clone();
    let leaving = handle.clone();
    Dispatcher::builder()
        .method(
            Method::new("node.identity").help("Which life of which node this is.").signature(["struct"]),
            move |_: &Caller, (): ()| Ok(local),
        )
        .method(
            Method::new("node.status").help("What every layer knows now.").signature(["struct"]),
            move |_: &Caller, (): ()| status(),
        )
        .method(
            Method::new("node.members")
                .help("The view of the primary partition this node is in; nil outside.")
                .signature(["struct"]),
            move |_: &Caller, (): ()| Ok(members()?.view),
        )
        .method(
            Method::new("node.partition")
                .help("The view of this node's partition and the groups that go on in it, primary or not; nil if it has no such groups.")
                .signature(["struct"]),
            move |_: &Caller, (): ()| Ok(partition()?.partition),
        )
        .method(
            Method::new("node.peers").help("Every configured peer.").signature(["array"]),
            move |_: &Caller, (): ()| Ok(peers()?.peers),
        )
        .method(
            Method::new("node.send")
                .help("Sends bytes to a node, by its id, in the lane urgent, small or bulk. Heard there on the topic direct.")
                .signature(["nil", "int", "string", "base64"])
                .access(Access::Use),
            move |_: &Caller, (to, lane, message): (u32, String, Value)| send(&sending, to, &lane, message),
        )
        .method(
            Method::new("node.prepare_to_leave")
                .help("Asks the cluster to take over what runs here.")
                .signature(["nil"])
                .access(Access::Control),
            move |_: &Caller, (): ()| {
                let asked = leaving.call(|stack, _, now| stack.prepare_to_leave(now)).map_err(stopped)?;
                asked.map_err(|why| Fault::application(why.to_string()))
            },
        )
        .merge(fencing(handle))
}

/// What a person does about fencing.
fn fencing(handle: &Handle<Stack, NodeHost>) -> Builder {
    let stopped = |why: ocf_comm::driver::Stopped| Fault::new(Fault::UNAVAILABLE, why.to_string());
    let (confirming, drilling) = (handle.clone(), handle.clone());
    Dispatcher::builder()
        .method(
            Method::new("node.confirm_fenced")
                .help("Says that a life of a node is certainly off: its id, its incarnation, who says so.")
                .signature(["nil", "int", "string", "string"])
                .access(Access::Control),
            move |_: &Caller, (node, incarnation, who): (u32, String, String)| {
                let incarnation = incarnation.parse().map(Incarnation::new).map_err(|_number| {
                    Fault::new(Fault::INVALID_PARAMS, "an incarnation is a decimal number, as in node.status")
                })?;
                let target = NodeInstance::new(NodeId::new(node), incarnation);
                let said = confirming.call(|stack, _, now| stack.confirm_fenced(now, target, &who));
                said.map_err(stopped)?.map_err(|why| Fault::application(why.to_string()))
            },
        )
        .method(
            Method::new("node.drill")
                .help("Tries the fence devices of a node: its id, true to switch it off and on, who says so. What came of it is on the topic of fencing.")
                .signature(["nil", "int", "boolean", "string"])
                .access(Access::Control),
            move |_: &Caller, (node, harm, who): (u32, bool, String)| {
                let begun = drilling.call(|stack, _, now| stack.drill(now, NodeId::new(node), harm, &who));
                begun.map_err(stopped)?.map_err(|why| Fault::application(why.to_string()))
            },
        )
}

fn send(handle: &Handle<Stack, NodeHost>, to: u32, lane: &str, message: Value) -> Result<(), Fault> {
    let lane = match lane {
        "urgent" => Lane::Urgent,
        "small" => Lane::Small,
        "bulk" => Lane::Bulk,
        other => {
            return Err(Fault::new(Fault::INVALID_PARAMS, format!("{other:?} is not urgent, small or bulk")));
        }
    };
    let message: Vec<u8> = message
        .try_into()
        .map_err(|wrong: pils::value::WrongKind| Fault::new(Fault::INVALID_PARAMS, wrong.to_string()))?;
    if message.len() > MESSAGE_MAX {
        return Err(Fault::new(Fault::INVALID_PARAMS, format!("at most {MESSAGE_MAX} bytes")));
    }
    let sent = handle.call(|stack, _, now| {
        let peer = stack.peers(now).into_iter().find(|peer| peer.node == NodeId::new(to));
        let Some(instance) = peer.and_then(|peer| peer.instance) else {
            return Err(Fault::new(Fault::UNAVAILABLE, format!("node {to} was never heard")));
        };
        stack.send_to(now, instance, lane, message.into()).map_err(|why| {
            let full = matches!(why, ocf_comm::SendError::Full { .. });
            Fault::new(if full { Fault::BUSY } else { Fault::UNAVAILABLE }, why.to_string())
        })
    });
    sent.map_err(|why| Fault::new(Fault::UNAVAILABLE, why.to_string()))?
}

/// Publishes an event of the node where programs outside hear it. Messages of groups stay with their members.
pub(super) fn publish(bus: &Bus, number: Option<u64>, event: &NodeEvent) {
    let Some((topic, draft)) = draft(event) else { return };
    let draft = match number {
        Some(number) => draft.property("number", i64::try_from(number).unwrap_or(i64::MAX)),
        // It is not for the application: it has no place in what that is told.
        None => draft,
    };
    if let Err(why) = bus.publish(topic, draft) {
        tracing::warn!(%why, topic, "an event is not heard outside");
    }
}

/// What happens when sides part and meet again.
fn sides(event: &NodeEvent) -> Option<(&'static str, Draft)> {
    let new = |kind: &str| Draft::new().property("kind", kind);
    if let NodeEvent::Merged { ours, primary, kept } = event {
        let number = |view: &ViewNumber| i64::try_from(view.0).unwrap_or(i64::MAX);
        let draft = new("merged").property("ours", number(ours)).property("primary", number(primary));
        return Some((MEMBERSHIP, draft.property("kept", *kept)));
    }
    if let NodeEvent::TieWon { evidence, reason } = event {
        let draft = new("tie_won").property("why", evidence.to_string());
        return Some((QUORUM, draft.property("reason", &**reason)));
    }
    let NodeEvent::TieAsked(claim) = event else { return None };
    Some((QUORUM, new("tie_asked").property("what", format!("{claim:?}"))))
}

/// What happens to the votes of the cluster.
fn votes(event: &NodeEvent) -> Option<(&'static str, Draft)> {
    let view = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
    if let NodeEvent::Incompatible { peer, level, .. } = event {
        let draft = Draft::new().property("kind", "incompatible").property("peer", peer.to_string());
        return Some((MEMBERSHIP, draft.property("level", i64::from(*level))));
    }
    if let NodeEvent::Removed { revision, .. } = event {
        return Some((QUORUM, Draft::new().property("kind", "removed").property("view", view(*revision))));
    }
    let NodeEvent::VotesChanged { revision, quorum, .. } = event else {
        return Some((QUORUM, Draft::new().property("kind", "votes_not_changed")));
    };
    let draft = Draft::new().property("kind", "votes_changed");
    let draft = draft.property("view", view(*revision));
    Some((QUORUM, draft.property("quorum", i64::from(*quorum))))
}

/// A host outside the cluster is reached, or not any more.
fn ping(change: &PingChange) -> (&'static str, Draft) {
    let draft = Draft::new().property("kind", "ping").property("target", &*change.target);
    let draft = match change.host {
        Some(host) => draft.property("host", host.to_string()),
        None => draft,
    };
    let draft = draft.property("state", change.state.to_string());
    let draft = draft.property("reason", change.reason.to_string());
    (LIVENESS, draft.property("reachable", i64::try_from(change.reachable).unwrap_or(i64::MAX)))
}

fn node(instance: &NodeInstance) -> Value {
    Body::of(instance).and_then(Body::into_value).unwrap_or_default()
}

fn members(view: &View) -> Vec<Value> {
    view.members.iter().map(|member| node(&member.instance)).collect()
}

fn table(members: &[MemberId]) -> Vec<Value> {
    members.iter().map(|member| format!("{member:?}").into()).collect()
}

/// What happens in this node's partition: of another kind than what happens in the primary, so that nothing is taken for that.
fn partition(event: &PartitionEvent) -> Option<(&'static str, Draft)> {
    let new = |kind: &str| Draft::new().property("kind", kind);
    let number = |view: ViewNumber| i64::try_from(view.0).unwrap_or(i64::MAX);
    if let PartitionEvent::View(entered) = event {
        let parent = |parent: &Parent| -> Value {
            let came: Vec<Value> = parent.came.iter().map(node).collect();
            [("view".to_owned(), number(parent.number).into()), ("came".to_owned(), came.into())]
                .into_iter()
                .collect()
        };
        let parents: Vec<Value> = entered.parents.iter().map(parent).collect();
        let draft = new("partition").property("view", number(entered.view.number));
        let draft = draft.property("members", members(&entered.view)).property("parents", parents);
        let draft = draft.property("merge", entered.is_merge());
        return Some((
            MEMBERSHIP,
            match entered.primary {
                Some(primary) => draft.property("primary", number(primary)),
                None => draft,
            },
        ));
    }
    let PartitionEvent::Group(ocf_groups::Event::Membership { group, members, .. }) = event else {
        return None;
    };
    Some((GROUP, new("partition_membership").property("group", &**group).property("members", table(members))))
}

fn draft(event: &NodeEvent) -> Option<(&'static str, Draft)> {
    let new = |kind: &str| Draft::new().property("kind", kind);
    Some(match event {
        NodeEvent::PeerUp(peer) => (CONNECTIVITY, new("up").property("peer", node(peer))),
        NodeEvent::PeerDown { peer, reason } => {
            (CONNECTIVITY, new("down").property("peer", node(peer)).property("reason", reason.to_string()))
        }
        NodeEvent::Path { peer, path, address, state, reason } => {
            let draft = new("path").property("peer", node(peer)).property("path", i64::from(path.0));
            let draft = draft.property("address", address.to_string());
            let draft = draft.property("state", format!("{state:?}").to_lowercase());
            (LINK, draft.property("reason", format!("{reason:?}")))
        }
        NodeEvent::Refused { peer, address, reason } => {
            let draft = new("refused").property("node", peer.raw()).property("address", address.to_string());
            (CONNECTIVITY, draft.property("reason", format!("{reason:?}")))
        }
        NodeEvent::Renewed { peer, key } => {
            (CONNECTIVITY, new("renewed").property("peer", node(peer)).property("key", format!("{key:?}")))
        }
        NodeEvent::Misbehaved { peer, rule } => {
            (CONNECTIVITY, new("misbehaved").property("peer", node(peer)).property("rule", *rule))
        }
        NodeEvent::Stalled { late } => {
            let millis = i64::try_from(late.as_millis()).unwrap_or(i64::MAX);
            (LIVENESS, new("stalled").property("late_ms", millis))
        }
        NodeEvent::Ping(change) => ping(change),
        NodeEvent::Direct { from, lane, message } => {
            let draft = new("message")
                .property("from", node(from))
                .property("lane", format!("{lane:?}").to_lowercase());
            (DIRECT, draft.data(message.clone()))
        }
        NodeEvent::NonPrimary(why) => (QUORUM, new("non_primary").property("why", format!("{why:?}"))),
        NodeEvent::Merged { .. } | NodeEvent::TieAsked(_) | NodeEvent::TieWon { .. } => return sides(event),
        NodeEvent::Incompatible { .. }
        | NodeEvent::VotesChanged { .. }
        | NodeEvent::VotesNotChanged { .. }
        | NodeEvent::Removed { .. } => {
            return votes(event);
        }
        NodeEvent::Suspended => (QUORUM, new("suspended")),
        NodeEvent::Resumed => (QUORUM, new("resumed")),
        NodeEvent::Group(ocf_groups::Event::View(view)) => {
            let members = members(view);
            let number = i64::try_from(view.number.0).unwrap_or(i64::MAX);
            (MEMBERSHIP, new("view").property("view", number).property("members", members))
        }
        NodeEvent::Group(ocf_groups::Event::Membership { group, members, .. }) => {
            (GROUP, new("membership").property("group", &**group).property("members", table(members)))
        }
        NodeEvent::Partition(event) => return partition(event),
        // What else happens in groups is between their members.
        NodeEvent::Group(_) => return None,
        NodeEvent::Resource(event) => (RESOURCE, new("resource").property("what", format!("{event:?}"))),
        NodeEvent::Application(event) => {
            let draft = new("application").property("application", event.application.to_string());
            (LIVENESS, draft.property("what", format!("{:?}", event.kind)))
        }
        NodeEvent::RebootWanted(application) => {
            (LIVENESS, new("reboot_wanted").property("application", application.to_string()))
        }
        NodeEvent::Fencing(event) => (FENCING, new("fencing").property("what", format!("{event:?}"))),
    })
}
