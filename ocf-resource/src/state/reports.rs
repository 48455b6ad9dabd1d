//! What answers of agents mean for the state.

use super::{Failures, Node, Presence, Spot, State};
use crate::message::{Failure, Report, Verdict};
use crate::{Action, Decision, Event, Promotion, Role, Severity, StartFailure};
use pils::NodeInstance;
use std::sync::Arc;

/// A failure to be counted.
struct Failing<'a> {
    instance: NodeInstance,
    resource: &'a Arc<str>,
    action: Action,
    severity: Severity,
    why: &'a Arc<str>,
}

impl State {
    pub(super) fn on_report(
        &mut self,
        sender: NodeInstance,
        report: &Report,
        events: &mut Vec<Event>,
    ) -> bool {
        let Report { decision, resource, verdict, why } = report;
        let name = resource;
        let resource = Arc::clone(resource);
        let (single, roles) =
            self.owner(&resource).map_or((true, false), |g| (g.copies == 1, g.promoted > 0));
        let (believe_old, bare) = (self.believe_old, self.lacks_access(sender));
        let Some(spot) = self.nodes.get_mut(&sender).and_then(|n| n.spots.get_mut(&resource)) else {
            return false;
        };
        let newest = |(pending, _): &(Decision, Action)| pending == decision || believe_old;
        let Some((_, action)) = spot.pending.filter(newest) else { return false };
        spot.pending = None;
        spot.notices.clear();
        let decision = *decision;
        // An agent that cannot take changed parameters without a restart goes on as it is until then.
        let refused = action == Action::ReloadAgent && verdict.is_refusal();
        let mut now = if refused { spot.presence.clone() } else { presence_after(action, report, roles) };
        if bare && matches!(now, Presence::Running(_)) {
            now = Presence::Failed("found running without access".into());
        }
        let running = matches!(now, Presence::Running(_));
        let stopped = matches!(now, Presence::Stopped) && action == Action::Stop;
        let handed = matches!(now, Presence::Handed);
        spot.enter(now, action, roles.then_some(*verdict));
        if stopped {
            spot.seen = false;
        } else if action == Action::ReloadAgent && running {
            spot.reloaded(refused);
        }
        let role = if spot.promoted { Role::Promoted } else { Role::Unpromoted };
        if stopped {
            events.push(Event::Stopped { resource, node: sender, decision });
        } else if refused {
            tracing::debug!(%resource, node = %sender, %why, "cannot take its parameters without a restart");
        } else if running && action == Action::ReloadAgent {
            events.push(Event::Reloaded { resource, node: sender, decision });
        } else if running && matches!(action, Action::Promote | Action::Demote) {
            events.push(Event::RoleChanged { resource, node: sender, role, decision });
        } else if running {
            events.push(Event::Started { resource: Arc::clone(&resource), node: sender, decision });
            if single {
                self.check_multiple(&resource);
            }
        } else if handed {
            tracing::debug!(%resource, node = %sender, "handed over without a stop");
        } else if action == Action::MigrateTo && verdict.is_refusal() {
            // Its agent cannot: it is stopped here and started there instead, and that is no failure.
            tracing::debug!(%resource, node = %sender, %why, "cannot be moved without a stop");
        } else if action != Action::Monitor || verdict.is_refusal() {
            let severity = verdict.severity();
            let failures =
                self.count_failure(&Failing { instance: sender, resource: &resource, action, severity, why });
            events.push(Event::Failed {
                resource,
                node: sender,
                action,
                decision,
                why: Arc::clone(why),
                failures,
            });
        }
        self.notify_after(sender, action, (decision, name), events);
        true
    }

    /// What an agent says of promoting what it runs.
    pub(super) fn on_promotion(
        &mut self,
        sender: NodeInstance,
        resource: &str,
        promotion: Promotion,
    ) -> bool {
        let Some(owner) = self.owner(resource).filter(|g| g.promoted > 0).map(|g| g.name.clone()) else {
            return false;
        };
        let Some(spot) = self.nodes.get_mut(&sender).and_then(|n| n.spots.get_mut(resource)) else {
            return false;
        };
        spot.promotion = Some(promotion);
        if let Some(group) = self.groups.get_mut(owner.as_str()) {
            group.scored = true;
        }
        true
    }

    pub(super) fn owner(&self, resource: &str) -> Option<&crate::GroupConfig> {
        self.config.as_ref()?.owner(resource)
    }

    /// Found running on several nodes: it must go down everywhere before it can be trusted again.
    fn check_multiple(&mut self, resource: &str) {
        let running = |n: &Node| {
            n.member && n.spot(resource).is_some_and(|s| matches!(s.presence, Presence::Running(_)))
        };
        if self.nodes.values().filter(|n| running(n)).count() < 2 {
            return;
        }
        for node in self.nodes.values_mut().filter(|n| running(n)) {
            if let Some(spot) = node.spots.get_mut(resource) {
                spot.presence = Presence::Failed("ran on several nodes".into());
            }
        }
    }

    pub(super) fn on_monitor_failed(
        &mut self,
        sender: NodeInstance,
        failure: &Failure,
        events: &mut Vec<Event>,
    ) -> bool {
        let Failure { decision, resource, severity, why } = failure;
        let Some(spot) = self.nodes.get_mut(&sender).and_then(|n| n.spots.get_mut(resource)) else {
            return false;
        };
        if spot.presence != Presence::Running(*decision) || spot.pending.is_some() {
            return false;
        }
        spot.presence = Presence::Failed(Arc::clone(why));
        let failures = self.count_failure(&Failing {
            instance: sender,
            resource,
            action: Action::Monitor,
            severity: *severity,
            why,
        });
        events.push(Event::Failed {
            resource: Arc::clone(resource),
            node: sender,
            action: Action::Monitor,
            decision: *decision,
            why: Arc::clone(why),
            failures,
        });
        true
    }

    fn count_failure(&mut self, failing: &Failing<'_>) -> u32 {
        let Failing { instance, resource, action, severity, why } = *failing;
        let Some(config) = self.config.clone() else { return 0 };
        let Some(owner) = config.owner(resource) else { return 0 };
        let Some(group) = self.groups.get_mut(owner.name.as_str()) else { return 0 };
        self.decisions += 1;
        let failures = group.failures.entry(instance.node).or_insert_with(|| Failures {
            count: 0,
            hard: false,
            serial: 0,
            why: Arc::clone(why),
        });
        let moves = action == Action::Start && owner.on_start_failure == StartFailure::Move;
        let step = if moves { owner.migration_threshold.max(1) } else { 1 };
        failures.count = failures.count.saturating_add(step);
        failures.serial = self.decisions;
        failures.why = Arc::clone(why);
        match severity {
            Severity::Soft => {}
            Severity::Hard => failures.hard = true,
            Severity::Fatal => group.fatal = Some((Arc::clone(resource), Arc::clone(why))),
        }
        failures.count
    }
}

impl Spot {
    /// Takes what an action that ended has left here. `roles`: how it ended, if the resource has roles.
    fn enter(&mut self, now: Presence, action: Action, roles: Option<Verdict>) {
        let running = matches!(now, Presence::Running(_));
        if running {
            (self.seen, self.fresh) = (true, false);
        }
        self.presence = now;
        if !matches!(self.presence, Presence::Handed) {
            self.peer = None;
        }
        self.promoted = match (action, running) {
            // Whoever does not answer may be in any role.
            (Action::Monitor, _) => roles.is_some_and(|verdict| {
                !matches!(
                    verdict,
                    Verdict::Ok | Verdict::NotRunning | Verdict::NotInstalled | Verdict::NotRun(_)
                )
            }),
            (Action::Start | Action::Demote, true) => false,
            (Action::Stop, false) if self.presence == Presence::Stopped => false,
            _ => self.promoted,
        };
        if self.presence == Presence::Stopped {
            (self.promotion, self.outdated) = (None, None);
        }
    }

    /// Its agent was asked to take changed parameters, and has, or cannot.
    fn reloaded(&mut self, refused: bool) {
        let Some(outdated) = &mut self.outdated else { return };
        match outdated.told.take() {
            _ if refused => outdated.refused = true,
            Some(told) => outdated.runs_with = told,
            None => self.outdated = None,
        }
    }
}

/// What is known of a resource when an action has ended so.
fn presence_after(action: Action, report: &Report, roles: bool) -> Presence {
    let Report { decision, verdict, why, .. } = report;
    let decision = *decision;
    match (action, *verdict) {
        (Action::Stop, Verdict::Ok)
        | (Action::Monitor, Verdict::NotRunning | Verdict::NotInstalled | Verdict::NotRun(Severity::Hard))
        | (Action::Start, Verdict::NotRun(_)) => Presence::Stopped,
        (Action::Stop, other) => {
            Presence::StopFailed { decision, why: Arc::clone(why), severity: other.severity() }
        }
        (Action::MigrateTo, Verdict::Ok) => Presence::Handed,
        (_, Verdict::Ok) => Presence::Running(decision),
        (Action::Monitor, Verdict::Promoted) if roles => Presence::Running(decision),
        _ => Presence::Failed(Arc::clone(why)),
    }
}
