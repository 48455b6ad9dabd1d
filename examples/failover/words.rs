//! Events in words.

use ocf::{NodeConfig, NodeEvent};
use ocf_groups::Event as Group;
use ocf_resource::Event as Resource;
use ocf_stonith::Event as Fencing;
use pils::NodeInstance;
use std::fmt::Display;

/// The items, separated by commas.
pub(crate) fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
        NodeEvent::Misbehaved { peer, rule } => format!("{peer} broke the protocol: {rule}"),
        NodeEvent::Stalled { late } => format!("this node itself did not run for {late:?}"),
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
        _ => return None,
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
        _ => return None,
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
        other => format!("fencing: {other:?}"),
    }
}
