//! Events in words.

use ocf::{NodeConfig, NodeEvent};
use ocf_groups::Event as Group;
use ocf_resource::Event as Resource;
use ocf_stonith::{Event as Fencing, Withdrawal};
use pils::NodeInstance;
use std::fmt::Display;

/// The items, separated by commas.
pub(crate) fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is allowed but probably not meant.
pub(crate) fn warnings(config: &NodeConfig) -> Vec<String> {
    let mut found = Vec::new();
    let bare = config.nodes.iter().filter(|n| config.fencing.devices_of(n.id).next().is_none());
    let bare: Vec<String> = bare.map(|n| config.name_of(n.id)).collect();
    if !bare.is_empty() && !config.resources.groups.is_empty() {
        let names = bare.join(", ");
        found.push(format!("no fence device for {names}: what runs there is not recovered if it is lost"));
    }
    if config.protection == ocf::ProtectionName::Plain {
        found.push(
            "protection = \"plain\": whoever reaches the port can read and forge everything".to_owned(),
        );
    }
    if config.record.is_none() {
        found.push("no record: after a restart this node has no vote until the others admit it".to_owned());
    }
    found
}

/// What an event says to a person, or `None` if it is of no interest.
pub(crate) fn tell(config: &NodeConfig, event: &NodeEvent) -> Option<String> {
    let name = |who: NodeInstance| config.name_of(who.node);
    Some(match event {
        NodeEvent::PeerUp(peer) => format!("{} ({peer}) can be talked to", name(*peer)),
        NodeEvent::PeerDown { peer, reason } => format!("{} ({peer}) is gone: {reason}", name(*peer)),
        NodeEvent::Refused { peer, address, reason } => {
            format!("no talk with {peer} at {address}: {reason:?}")
        }
        NodeEvent::Renewed { peer, key } => format!("{} moved to key {key}", name(*peer)),
        NodeEvent::Misbehaved { peer, rule } => format!("{peer} broke the protocol: {rule}"),
        NodeEvent::Stalled { late } => format!("this node itself did not run for {late:?}"),
        NodeEvent::Ping(change) => match change.host {
            None => format!(
                "{} is {}: {}; {} of {} watched targets are up",
                change.target,
                change.state,
                change.reason,
                change.reachable,
                config.ping.len()
            ),
            Some(host) => format!("{} of {} is {}: {}", host, change.target, change.state, change.reason),
        },
        NodeEvent::NonPrimary(situation) => format!(
            "not in the primary partition: {} of {} votes reachable",
            situation.votes, situation.quorum
        ),
        NodeEvent::Suspended => "the primary lease is in doubt: nothing new starts".to_owned(),
        NodeEvent::Resumed => "the primary lease is confirmed again".to_owned(),
        NodeEvent::Group(Group::View(view)) => {
            let members: Vec<String> = view.members.iter().map(|m| name(m.instance)).collect();
            let causes: Vec<String> =
                view.causes.iter().map(|c| format!("{} {}", name(c.instance), c.reason)).collect();
            format!("view {} = {{{}}}: {}", view.number, members.join(", "), causes.join("; "))
        }
        NodeEvent::Resource(event) => return resource(event, name),
        NodeEvent::Fencing(event) => fencing(event),
        NodeEvent::Application(event) => format!("application {}: {:?}", event.application, event.kind),
        NodeEvent::RebootWanted(application) => {
            format!("{application} failed, and asked for a reboot of this machine then")
        }
        // Further events of groups and messages of applications do not concern this program, nor does what is still to come.
        NodeEvent::Direct { .. } | NodeEvent::Group(_) | _ => return None,
    })
}

fn resource(event: &Resource, name: impl Fn(NodeInstance) -> String) -> Option<String> {
    Some(match event {
        Resource::Started { resource, node, .. } => format!("{resource} runs on {}", name(*node)),
        Resource::Stopped { resource, node, .. } => format!("{resource} is down on {}", name(*node)),
        Resource::Failed { resource, node, action, why, failures, .. } => {
            format!("{resource} failed on {} ({action:?}): {why}; failure {failures}", name(*node))
        }
        Resource::Fenced { target, detail } => format!("what ran on {} is free: {detail}", name(*target)),
        Resource::FenceUnconfirmed { target, detail, .. } => {
            format!("recovery of what ran on {} waits: {detail}", name(*target))
        }
        Resource::Blocked { group, because: Some(because) } => format!("group {group} {because}"),
        Resource::Blocked { group, because: None } => format!("group {group} is not blocked any more"),
        Resource::ReadyToLeave => "nothing runs here any more".to_owned(),
        Resource::ConfigurationDiffers => {
            "the cluster runs another configuration than this node's file".to_owned()
        }
        Resource::Configured { revision, by } => {
            format!("what the cluster runs is changed by {}: revision {revision}", name(*by))
        }
        Resource::ConfigurationRefused { by, error } => {
            format!("what {} wants the cluster to run is not taken: {error}", name(*by))
        }
        Resource::Removed { resource } => format!("{resource} is down everywhere, and removed"),
        Resource::StoppingAll { resources } => {
            format!("outside the primary partition: {} must stop here", list(resources))
        }
        Resource::StoppedAlone { resource, result } => {
            format!("{resource} stopped here: {}", result.explain())
        }
        Resource::Malformed { error, .. } => format!("a message of the manager cannot be read: {error}"),
        Resource::Decided { .. } | _ => return None,
    })
}

fn fencing(event: &Fencing) -> String {
    match event {
        Fencing::Started { target, action, cause, .. } => format!("fencing: {action} of {target}, {cause}"),
        Fencing::AttemptStarted { target, device, action, .. } => {
            format!("fencing: {device} is asked for {action} of {target}")
        }
        Fencing::AttemptFailed { target, device, failure, .. } => {
            format!("fencing: {device} failed for {target}: {failure}")
        }
        Fencing::Finished { target, outcome } => format!("fencing: {target} {outcome}"),
        Fencing::Unresolved { target, round, outcome, next_round_in } => {
            let next = next_round_in.map_or_else(String::new, |pause| format!("; tries again in {pause:?}"));
            format!("fencing: {target} is not known to be off after round {round}: {outcome}{next}")
        }
        Fencing::Restarted { target, device } => format!("fencing: {device} switched {target} on again"),
        Fencing::RestartFailed { target, device, failure } => {
            format!("fencing: {device} did not switch {target} on again: {failure}")
        }
        Fencing::Withdrawn { target, reason } => {
            let why = match reason {
                Withdrawal::NotNeeded => "needs no fencing any more",
                Withdrawal::Operator => "is not to be fenced, says an operator",
                Withdrawal::AuthorityLost | _ => "is left alone: this node is not in the primary partition",
            };
            format!("fencing: {target} {why}")
        }
        Fencing::Joined { target, cause } => {
            format!("fencing: {target} is being fenced already; also {cause}")
        }
        Fencing::LateAnswer { target, device, accepted, .. } => {
            let effect = if *accepted { "it counts" } else { "it changes nothing" };
            format!("fencing: {device} answered late for {target}: {effect}")
        }
        Fencing::Unfenced { target } => format!("fencing: {target} has its access"),
        Fencing::UnfenceFailed { target, device, failure } => {
            format!("fencing: {device} did not give {target} its access: {failure}")
        }
        Fencing::Drilled { target, findings, .. } => {
            let proven = findings.iter().filter(|f| f.failure.is_none()).count();
            format!("fencing: {proven} of {} devices of {target} are proven", findings.len())
        }
        Fencing::DeviceFailed { device, failure } => format!("fencing: {device} is not well: {failure}"),
        Fencing::DeviceRecovered { device } => format!("fencing: {device} is well again"),
        other => format!("fencing: {other:?}"),
    }
}
