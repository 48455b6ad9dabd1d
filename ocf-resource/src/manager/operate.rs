//! What this node does because of a decision.

use super::{Local, Manager};
use crate::executor::Request;
use crate::message::Message;
use crate::{
    Action, CommandError, Config, Decision, Event, GroupConfig, MonitorConfig, OcfCode, Operation,
    OperationResult, Outcome, Output, Promotion, ResourceConfig, Role,
};
use pils::{ConfigErrors, NodeInstance};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Manager {
    /// Somebody on this node knows that a resource has failed here: it is dealt with as if its monitor had found out.
    /// Nothing happens if it does not run here.
    pub fn notify_failure(&mut self, resource: &str, why: &str) {
        let mut result = OperationResult::new(Outcome::Failed { code: OcfCode::Generic });
        result.reason = Some(why.to_owned());
        self.out.push_back(Output::Execute(Request::Fail { resource: resource.into(), result }));
    }

    /// True if the end of this instance's life is being waited for.
    #[must_use]
    pub fn wants_fenced(&self, instance: NodeInstance) -> bool {
        self.state.nodes.get(&instance).is_some_and(|node| node.fence.is_some())
    }

    /// Does what an event means for this node.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most events mean nothing for the executor")]
    pub(super) fn follow(&mut self, event: &Event) {
        match event {
            Event::Decided { decision, resource, node, action, .. } if *node == self.me && self.acts() => {
                let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(resource));
                if spot.is_none_or(|s| !self.state.waits(self.me.node, resource, s)) {
                    self.run_step(*decision, resource, *action);
                }
            }
            Event::Noticed { decision, resource, node, action }
                if *node == self.me && self.acts() && !self.state.skip_notices =>
            {
                self.run_step(*decision, resource, *action);
            }
            Event::Notifying { decision, resource, node, action, before, listeners }
                if listeners.contains(&self.me) && self.acts() =>
            {
                self.notify(*decision, resource, (*node, *action, *before));
            }
            Event::Started { resource, node, decision }
            | Event::Reloaded { resource, node, decision }
            | Event::RoleChanged { resource, node, decision, .. }
                if *node == self.me && self.acts() =>
            {
                self.watch(*decision, resource);
            }
            Event::Fenced { target, .. } => {
                self.fence_again.remove(target);
                self.out.push_back(Output::WithdrawFence { target: *target });
            }
            _ => {}
        }
    }

    pub(super) fn run_step(&mut self, decision: Decision, resource: &Arc<str>, action: Action) {
        if let Some(operation) = self.operation(resource, action) {
            // What only takes other parameters is watched meanwhile.
            if action != Action::ReloadAgent {
                self.running.forget_watches(resource);
            }
            let local = Local::Step(decision);
            self.execute(local, |id| Request::Run { id, operation });
        }
    }

    /// An agent said what it thinks of promoting what it runs here: the others hear of it if it is new.
    pub(super) fn on_promotion(&mut self, resource: Arc<str>, promotion: Promotion) {
        let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(&resource));
        let new = spot.is_some_and(|s| s.promotion != Some(promotion));
        if new && self.is_member() && self.group_of(&resource).is_some_and(|g| g.promoted > 0) {
            self.broadcast(&Message::Promotion { resource, promotion });
        }
    }

    /// Whether a resource can be told these parameters.
    pub(super) fn check_parameters(
        &self,
        resource: &Arc<str>,
        parameters: &BTreeMap<String, String>,
    ) -> Result<(), CommandError> {
        let Some(config) = self.resource(resource).filter(|_| !self.config.is_leaving(resource)) else {
            return Err(CommandError::UnknownResource { resource: Arc::clone(resource) });
        };
        let wrong = |problem| Err(CommandError::Parameters { resource: Arc::clone(resource), problem });
        let size: usize = parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > Config::PARAMETERS_MAX {
            let most = Config::PARAMETERS_MAX;
            return wrong(format!("{size} bytes are more than {most}: put what is large into a file"));
        }
        let mut errors = ConfigErrors::default();
        let changed = ResourceConfig { parameters: parameters.clone(), ..config.clone() };
        changed.check_parameters(&mut errors);
        if errors.0.is_empty() { Ok(()) } else { wrong(errors.to_string()) }
    }

    /// Goes on with what the state says is going on here, and with the notices that others wait for.
    pub(super) fn take_up(&mut self) {
        let mut steps = Vec::new();
        let mut notices = Vec::new();
        for (node, one) in &self.state.nodes {
            for (resource, spot) in &one.spots {
                let Some((decision, action)) = spot.pending else { continue };
                if spot.notices.contains(&self.me) {
                    notices.push((decision, Arc::clone(resource), (*node, action, true)));
                }
                if *node == self.me && !self.state.waits(node.node, resource, spot) {
                    steps.push((decision, Arc::clone(resource), action));
                }
            }
        }
        for (decision, resource, what) in notices {
            self.notify(decision, &resource, what);
        }
        // Of what will not be carried out it need not hear.
        let overtaken = self.state.overtaken.iter();
        let open = overtaken.flat_map(|((_, resource), open)| open.iter().map(move |of| (of, resource)));
        let mine = open.filter(|((listener, _), _)| *listener == self.me);
        for (decision, resource) in mine.map(|((_, d), r)| (*d, Arc::clone(r))).collect::<Vec<_>>() {
            self.broadcast(&Message::Noticed { decision, resource });
        }
        for (decision, resource, action) in steps {
            self.run_step(decision, &resource, action);
        }
        self.take_access();
    }

    /// Has the instance here hear of a step.
    fn notify(&mut self, decision: Decision, resource: &Arc<str>, what: (NodeInstance, Action, bool)) {
        let Some(mut operation) = self.operation(resource, Action::Notify) else { return };
        let told = self.state.notice(resource, what, |i| self.name_of(i));
        Arc::make_mut(&mut operation.meta).extend(told);
        let local = Local::Notice(decision, what.2);
        self.execute(local, |id| Request::Run { id, operation });
    }

    fn name_of(&self, instance: NodeInstance) -> String {
        self.names.get(&instance.node).cloned().unwrap_or_else(|| instance.node.to_string())
    }

    /// What an agent is told beside its parameters.
    fn meta(&self, resource: &str, action: Action) -> BTreeMap<String, String> {
        let mut meta = BTreeMap::new();
        let mut tell = |name: &str, value: String| {
            meta.insert(name.to_owned(), value);
        };
        if let Some(group) = self.group_of(resource).filter(|g| g.copies != 1 || g.promoted > 0) {
            let most = self.nodes.len().max(self.state.members.len());
            let copies = if group.copies == 0 { most.to_string() } else { group.copies.to_string() };
            tell("clone_max", copies);
            tell("clone_node_max", "1".to_owned());
            tell("notify", group.notify.to_string());
            if group.promoted > 0 {
                tell("promotable", "true".to_owned());
                tell("promoted_max", group.promoted.to_string());
                tell("promoted_node_max", "1".to_owned());
                tell("master_max", group.promoted.to_string());
                tell("master_node_max", "1".to_owned());
            }
        }
        let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(resource));
        if let Some(peer) = spot.and_then(|s| s.peer) {
            let (here, there) = (self.name_of(self.me), self.name_of(peer));
            if action == Action::MigrateTo {
                tell("migrate_source", here);
                tell("migrate_target", there);
            } else if action == Action::MigrateFrom {
                tell("migrate_source", there);
                tell("migrate_target", here);
            }
        }
        meta
    }

    /// Begins the recurring monitors of a resource that runs here, those of its role.
    pub(super) fn watch(&mut self, decision: Decision, resource: &Arc<str>) {
        if self.is_maintained(resource) {
            return;
        }
        self.running.forget_watches(resource);
        let role = self.role(resource);
        let Some(config) = self.resource(resource) else { return };
        let first = MonitorConfig {
            interval: config.monitor_interval,
            timeout: config.monitor_timeout,
            depth: 0,
            role: None,
            watch: config.watch.clone(),
        };
        let more = config.monitors.iter().filter(|m| m.role.is_none() || m.role == role).cloned();
        for monitor in core::iter::once(first).chain(more).collect::<Vec<_>>() {
            let Some(operation) = self.operation(resource, Action::Monitor) else { return };
            let operation = Operation {
                interval: Some(monitor.interval),
                timeout: monitor.timeout,
                check_level: monitor.depth,
                role,
                ..operation
            };
            let policy = monitor.watch;
            let local = Local::Watch(decision, Arc::clone(resource));
            self.execute(local, |id| Request::Watch { id, operation, policy });
        }
    }

    fn group_of(&self, resource: &str) -> Option<&GroupConfig> {
        self.config.owner(resource)
    }

    fn is_maintained(&self, resource: &str) -> bool {
        let state = self.group_of(resource).and_then(|g| self.state.groups.get(g.name.as_str()));
        self.state.maintenance || state.is_some_and(|g| g.maintenance)
    }

    fn resource(&self, name: &str) -> Option<&ResourceConfig> {
        self.config.resource(name)
    }

    /// The role that a resource has here, if it has roles.
    fn role(&self, resource: &str) -> Option<Role> {
        self.group_of(resource).filter(|g| g.promoted > 0)?;
        let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(resource));
        let promoted = spot.is_some_and(|s| s.promoted && !matches!(s.pending, Some((_, Action::Promote))));
        Some(if promoted { Role::Promoted } else { Role::Unpromoted })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all but two are about what runs")]
    pub(super) fn operation(&self, resource: &Arc<str>, action: Action) -> Option<Operation> {
        let config = self.resource(resource)?;
        let spot = self.state.nodes.get(&self.me).and_then(|n| n.spots.get(resource));
        let runs_with = spot.and_then(|s| Some(Arc::clone(&s.outdated.as_ref()?.runs_with)));
        let newest = || Arc::new(config.parameters.clone());
        let (parameters, runs_with) = match action {
            Action::Start => (newest(), None),
            Action::ReloadAgent => (newest(), runs_with),
            // What runs with old parameters is looked at and stopped with them.
            _ => (runs_with.unwrap_or_else(newest), None),
        };
        Some(Operation {
            parameters,
            runs_with,
            timeout: match action {
                Action::Start
                | Action::Promote
                | Action::MigrateFrom
                | Action::Reload
                | Action::ReloadAgent => config.start_timeout,
                Action::Stop | Action::Demote | Action::MigrateTo => config.stop_timeout,
                Action::Monitor | Action::ValidateAll | Action::MetaData | Action::Notify => {
                    config.monitor_timeout
                }
            },
            meta: Arc::new(self.meta(resource, action)),
            ..Operation::new(Arc::clone(resource), config.agent.clone(), action)
        })
    }
}
