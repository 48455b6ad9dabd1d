//! The manager's state for people.

use super::Manager;
use crate::state::{Node, Presence, Spot};
use crate::{
    Action, Config, FailureStatus, GroupConfig, GroupStatus, NodeStatus, QuorumConfig, QuorumStatus,
    ResourceState, ResourceStatus, State, Status,
};
use std::sync::Arc;

pub(super) fn status(manager: &Manager) -> Status {
    let state = &manager.state;
    let mut status = Status {
        local: manager.phase,
        view: state.view,
        decisions: state.decisions,
        malformed: manager.malformed,
        stale: manager.stale,
        ..Status::default()
    };
    let Some(config) = &state.config else { return status };
    status.revision = config.revision;
    status.quorums = config.quorums.iter().map(|quorum| quorum_status(quorum, config, state)).collect();
    for group in &config.groups {
        let Some((name, current)) = state.groups.get_key_value(group.name.as_str()) else { continue };
        let (target, blocked) = manager.planner.of(name);
        let removing = config.group_leaves(group);
        let stays = || group.resources.iter().filter(move |r| removing || !config.is_leaving(&r.name));
        let whole = |n: &Node| n.member && stays().all(|r| n.spot(&r.name).is_some_and(Spot::is_running));
        let promoted = |n: &Node| {
            group.promoted > 0 && whole(n) && stays().all(|r| n.spot(&r.name).is_some_and(|s| s.promoted))
        };
        let resources = group.resources.iter().map(|resource| ResourceStatus {
            name: resource.name.as_str().into(),
            removing: config.is_leaving(&resource.name),
            at: state
                .nodes
                .iter()
                .filter_map(|(i, n)| Some((*i, n, n.spot(&resource.name)?)))
                .map(|(i, node, spot)| (i, resource_state(node, spot)))
                .filter(|(_, s)| *s != ResourceState::Stopped)
                .collect(),
        });
        status.groups.push(GroupStatus {
            name: Arc::clone(name),
            wanted: current.wanted,
            removing,
            target,
            copies_on: state.nodes.iter().filter(|(_, n)| whole(n)).map(|(i, _)| *i).collect(),
            promoted_on: state.nodes.iter().filter(|(_, n)| promoted(n)).map(|(i, _)| *i).collect(),
            running_on: state.nodes.iter().find(|(_, n)| whole(n)).map(|(i, _)| *i),
            blocked,
            resources: resources.collect(),
            failures: current
                .failures
                .iter()
                .map(|(node, f)| FailureStatus {
                    node: *node,
                    count: f.count,
                    hard: f.hard,
                    why: Arc::clone(&f.why),
                })
                .collect(),
        });
    }
    let members = state.members.iter().filter_map(|m| state.nodes.get_key_value(m));
    for (instance, node) in members.chain(state.nodes.iter().filter(|(_, n)| !n.member)) {
        let fence = node.fence.as_ref();
        status.nodes.push(NodeStatus {
            instance: *instance,
            member: node.member,
            standby: state.standby.contains(&instance.node),
            leaving: node.leaving,
            over: node.member && node.dead,
            access: !state.lacks_access(*instance),
            watchdog: node.watchdog,
            fencing: fence.map(|f| f.cause.clone()),
            fencing_last: fence.and_then(|f| f.last.as_ref().map(|(_, text)| Arc::clone(text))),
        });
    }
    status
}

fn quorum_status(quorum: &QuorumConfig, config: &Config, state: &State) -> QuorumStatus {
    let (wants, members) = (quorum.wants(), crate::plan::members_of(quorum, state));
    let needs = |g: &&GroupConfig| g.quorum.as_ref() == Some(&quorum.name);
    QuorumStatus {
        name: quorum.name.as_str().into(),
        up: members >= wants,
        wants,
        of: quorum.of(),
        members,
        groups: config.groups.iter().filter(needs).map(|g| g.name.as_str().into()).collect(),
    }
}

fn resource_state(node: &Node, spot: &Spot) -> ResourceState {
    if !node.member && !spot.is_clear() {
        return ResourceState::MaybeRunning;
    }
    match (&spot.presence, spot.pending) {
        (_, Some((decision, Action::Start))) => ResourceState::Starting(decision),
        (_, Some((decision, Action::Stop))) => ResourceState::Stopping(decision),
        (_, Some((decision, Action::ReloadAgent))) => ResourceState::Reloading(decision),
        (_, Some((decision, Action::Promote))) => ResourceState::Promoting(decision),
        (_, Some((_, Action::MigrateTo))) | (Presence::Handed, None) => ResourceState::MovingAway,
        (_, Some((_, Action::MigrateFrom))) | (Presence::Incoming, None) => ResourceState::MovingIn,
        (_, Some((decision, Action::Demote))) => ResourceState::Demoting(decision),
        (_, Some((decision, _))) => ResourceState::Probing(decision),
        (Presence::Unknown, None) => ResourceState::Unknown,
        (Presence::Stopped, None) => ResourceState::Stopped,
        (Presence::Running(decision), None) if spot.promoted => ResourceState::Promoted(*decision),
        (Presence::Running(decision), None) => ResourceState::Running(*decision),
        (Presence::Failed(why), None) => ResourceState::Failed(Arc::clone(why)),
        (Presence::StopFailed { why, .. }, None) => ResourceState::StopFailed(Arc::clone(why)),
    }
}
