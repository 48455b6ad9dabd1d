//! Single managers fed by hand: what is decided when, and what the wire does to it.

mod changes;
mod quorums;
mod restarts;

use bytes::Bytes;
use ocf_resource::executor::{self, OperationId, Request};
use ocf_resource::plan::plan;
use ocf_resource::{
    AccessNeed, Action, AgentError, Blocked, Command, CommandError, Config, Departed, Event, FenceCause,
    FenceOutcome, GroupConfig, Ineligible, Input, Kept, LocalStatus, Manager, OcfCode, Operation,
    OperationResult, Outcome, Output, Preference, Promotion, ReachConfig, ResourceConfig, ResourceState,
    Score, State,
};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn instance(node: u32) -> NodeInstance {
    life(node, u128::from(node))
}

fn life(node: u32, life: u128) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(life << 96))
}

fn config() -> Config {
    let resource = |name: &str| ResourceConfig {
        parameters: BTreeMap::new(),
        start_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(20),
        monitor_interval: Duration::from_secs(10),
        monitor_timeout: Duration::from_secs(20),
        ..ResourceConfig::new(name, "rust:x".parse().expect("a name"))
    };
    let group = GroupConfig {
        name: "web".to_owned(),
        nodes: vec![NodeId::new(1), NodeId::new(2), NodeId::new(3)],
        elsewhere: false,
        failback: false,
        preferences: Vec::new(),
        stickiness: None,
        reach: None,
        quorum: None,
        migration_threshold: 2,
        failure_window: Duration::from_secs(60),
        on_start_failure: Default::default(),
        on_stop_failure: Default::default(),
        started: true,
        copies: 1,
        restart_parallel: 1,
        migrate: false,
        notify: false,
        promoted: 0,
        priority: 0,
        resources: vec![resource("ip"), resource("site")],
    };
    Config { groups: vec![group], ..Config::default() }
}

/// Managers whose messages are ordered at once, and whose operations wait for the test to answer them.
struct Table {
    managers: Vec<(NodeInstance, Manager)>,
    now: Instant,
    view: Vec<NodeInstance>,
    number: u64,
    waiting: Vec<(NodeInstance, OperationId, Operation)>,
    watched: Vec<(NodeInstance, OperationId, Operation)>,
    fences: Vec<(NodeInstance, NodeInstance, FenceCause)>,
    /// Who is to be given its access.
    bare: Vec<NodeInstance>,
    events: Vec<Event>,
    /// What each node keeps for its next life.
    kept: Vec<(NodeInstance, Kept)>,
    messages: Vec<(NodeInstance, Bytes)>,
}

impl Table {
    fn founded(nodes: &[u32]) -> Self {
        Self::founded_of(nodes, &[])
    }

    /// As `founded`, with these nodes configured.
    fn founded_of(nodes: &[u32], configured: &[u32]) -> Self {
        Self::of(&config(), nodes, configured)
    }

    /// A cluster with this configuration.
    fn of(config: &Config, nodes: &[u32], configured: &[u32]) -> Self {
        let mut t = Self {
            managers: Vec::new(),
            now: Instant::ZERO,
            view: Vec::new(),
            number: 0,
            waiting: Vec::new(),
            watched: Vec::new(),
            fences: Vec::new(),
            bare: Vec::new(),
            events: Vec::new(),
            kept: Vec::new(),
            messages: Vec::new(),
        };
        let members: Vec<_> = nodes.iter().map(|n| instance(*n)).collect();
        for member in &members {
            let all = configured.iter().map(|n| NodeId::new(*n));
            #[cfg_attr(
                not(feature = "testing"),
                expect(unused_mut, reason = "it compares its plans only in tests")
            )]
            let mut manager = Manager::new(*member, config.clone()).with_nodes(all);
            #[cfg(feature = "testing")]
            manager.compare_plans(1);
            t.managers.push((*member, manager));
        }
        t.view(&members, &members, &[]);
        t
    }

    /// A cluster in which the group runs on n1.
    fn running(nodes: &[u32]) -> Self {
        let mut t = Self::founded(nodes);
        t.answer_probes();
        t.answer(1, "ip", Action::Start, Outcome::Ok);
        t.answer(1, "site", Action::Start, Outcome::Ok);
        t
    }

    fn view(&mut self, members: &[NodeInstance], joined: &[NodeInstance], departed: &[Departed]) {
        self.number += 1;
        self.view = members.to_vec();
        let number = self.number;
        for (who, manager) in &mut self.managers {
            if members.contains(who) {
                manager.handle(self.now, Input::View { number, members, joined, departed });
            }
        }
        self.settle();
    }

    fn without(&mut self, node: u32) {
        let members: Vec<_> = self.view.iter().copied().filter(|m| m.node != NodeId::new(node)).collect();
        let departed =
            Departed { instance: instance(node), proof_of_death: false, why: "silent for 1 s".into() };
        self.managers.retain(|(m, _)| m.node != NodeId::new(node));
        self.waiting.retain(|(m, ..)| m.node != NodeId::new(node));
        self.view(&members, &[], &[departed]);
    }

    fn input(&mut self, node: u32, input: Input<'_>) {
        let now = self.now;
        self.manager(node).handle(now, input);
        self.settle();
    }

    fn manager(&mut self, node: u32) -> &mut Manager {
        let found = self.managers.iter_mut().find(|(m, _)| m.node == NodeId::new(node));
        &mut found.expect("a living node").1
    }

    fn settle(&mut self) {
        loop {
            let mut ordered = Vec::new();
            for (who, manager) in &mut self.managers {
                #[cfg(feature = "testing")]
                assert_eq!(manager.difference(), None, "{who}");
                while let Some(output) = manager.poll_output() {
                    match output {
                        Output::Broadcast(bytes) => ordered.push((*who, bytes)),
                        Output::Execute(
                            Request::Run { id, operation } | Request::StopNow { id, operation },
                        ) => {
                            self.waiting.push((*who, id, operation));
                        }
                        Output::Execute(Request::Watch { id, operation, .. }) => {
                            self.watched.push((*who, id, operation));
                        }
                        Output::Fence { target, cause } => self.fences.push((*who, target, cause)),
                        Output::GiveAccess => self.bare.push(*who),
                        Output::Event(event) => self.events.push(event),
                        Output::Keep(kept) => self.kept.push((*who, kept)),
                        Output::Execute(_) | Output::WithdrawFence { .. } | Output::OfferState { .. } | _ => {
                        }
                    }
                }
            }
            if ordered.is_empty() {
                return;
            }
            for (sender, payload) in ordered {
                self.messages.push((sender, payload.clone()));
                for (who, manager) in &mut self.managers {
                    if self.view.contains(who) {
                        manager.handle(self.now, Input::Ordered { sender, payload: &payload });
                    }
                }
            }
        }
    }

    fn answer(&mut self, node: u32, resource: &str, action: Action, outcome: Outcome) {
        let at = self.waiting.iter().position(|(n, _, o)| {
            n.node == NodeId::new(node) && &*o.resource == resource && o.action == action
        });
        let at = at.unwrap_or_else(|| panic!("n{node} has no {action} of {resource}: {:?}", self.asked()));
        let (who, id, operation) = self.waiting.remove(at);
        let result = OperationResult::new(outcome);
        let event = executor::Event::Finished { id, resource: operation.resource, result };
        let now = self.now;
        let manager = self.managers.iter_mut().find(|(m, _)| *m == who);
        manager.expect("a living node").1.handle(now, Input::Executor(event));
        self.settle();
    }

    fn answer_probes(&mut self) {
        while let Some((n, _, o)) = self.waiting.iter().find(|(_, _, o)| o.action == Action::Monitor).cloned()
        {
            let stopped = Outcome::Failed { code: OcfCode::NotRunning };
            self.answer(n.node.raw(), &o.resource, Action::Monitor, stopped);
        }
    }

    fn fail(&mut self, node: u32, resource: &str) {
        let found = self
            .watched
            .iter()
            .rposition(|(n, _, o)| n.node == NodeId::new(node) && &*o.resource == resource);
        let (_, id, operation) = self.watched.remove(found.expect("a watch"));
        let result = OperationResult::new(Outcome::Failed { code: OcfCode::NotRunning });
        let event = executor::Event::Failed { id, resource: operation.resource, result };
        self.input(node, Input::Executor(event));
    }

    /// Lets time pass, with all that falls due in it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) =
            self.managers.iter().filter_map(|(_, m)| m.poll_timeout()).min().filter(|at| *at <= end)
        {
            self.now = self.now.max(due);
            for (_, manager) in &mut self.managers {
                if manager.poll_timeout().is_some_and(|at| at <= self.now) {
                    manager.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// From now on a node reaches so many hosts of three.
    fn reach(&mut self, node: u32, hosts: u32) {
        self.input(node, Input::Reach { hosts, of: 3 });
    }

    fn command(&mut self, node: u32, command: Command) {
        let now = self.now;
        self.manager(node).request(now, command).expect("a member");
        self.settle();
    }

    /// Answers everything that is asked with success, until nothing is; what was asked, in order.
    fn obey(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        while let Some((n, _, o)) = self.waiting.first().cloned() {
            done.push(format!("{} {} {}", n.node, o.action, o.resource));
            self.answer(n.node.raw(), &o.resource, o.action, Outcome::Ok);
        }
        done
    }

    /// An agent says what it thinks of promoting what it runs.
    fn say(&mut self, node: u32, resource: &str, promotion: Promotion) {
        let event = executor::Event::Promotion { resource: resource.into(), promotion };
        self.input(node, Input::Executor(event));
    }

    /// Sets the only parameter of a resource, if a member hears of it.
    fn set(&mut self, node: u32, resource: &str, value: &str) {
        let parameters = BTreeMap::from([("p".to_owned(), value.to_owned())]);
        let command = Command::SetParameters { resource: resource.into(), parameters };
        let now = self.now;
        self.manager(node).request(now, command).expect("a member, and a parameter");
        self.settle();
    }

    fn status(&mut self, node: u32) -> ocf_resource::GroupStatus {
        self.manager(node).status().groups[0].clone()
    }

    fn asked(&self) -> Vec<String> {
        self.waiting.iter().map(|(n, _, o)| format!("{} {} {}", n.node, o.action, o.resource)).collect()
    }

    fn blocked(&mut self, node: u32) -> Option<Blocked> {
        self.manager(node).status().groups[0].blocked.clone()
    }

    fn fenced(&mut self, at: u32, target: NodeInstance, outcome: FenceOutcome) {
        self.input(at, Input::Fenced { target, outcome, detail: "the device said so" });
    }
}

#[test]
fn nothing_starts_before_every_member_was_looked_at() {
    let mut t = Table::founded(&[1, 2, 3]);
    assert_eq!(t.asked().len(), 6);
    let stopped = || Outcome::Failed { code: OcfCode::NotRunning };
    for node in 1..=3 {
        t.answer(node, "ip", Action::Monitor, stopped());
    }
    t.answer(1, "site", Action::Monitor, stopped());
    t.answer(2, "site", Action::Monitor, stopped());
    assert_eq!(t.asked(), ["n3 monitor site"]);
    assert_eq!(t.blocked(1), Some(Blocked::Probing { node: instance(3) }));
    t.answer(3, "site", Action::Monitor, stopped());
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn resources_of_a_group_start_in_order_and_stop_in_reverse_order() {
    let mut t = Table::running(&[1, 2]);
    assert_eq!(t.asked(), [""; 0]);
    assert_eq!(t.manager(2).status().groups[0].running_on, Some(instance(1)));
    let now = t.now;
    t.manager(2).request(now, Command::StopGroup("web".into())).expect("a member");
    t.settle();
    assert_eq!(t.asked(), ["n1 stop site"]);
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
}

#[test]
fn a_failed_resource_is_restarted_here_until_the_threshold_and_then_moves() {
    let mut t = Table::running(&[1, 2]);
    t.fail(1, "ip");
    for (resource, action) in
        [("site", Action::Stop), ("ip", Action::Stop), ("ip", Action::Start), ("site", Action::Start)]
    {
        t.answer(1, resource, action, Outcome::Ok);
    }
    t.fail(1, "site");
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 start ip"]);
}

#[test]
fn a_lost_node_is_fenced_by_the_most_senior_member_and_recovery_waits_for_exactly_it() {
    let mut t = Table::running(&[1, 2, 3]);
    t.without(1);
    assert_eq!(t.fences.len(), 1);
    let (asker, target, cause) = t.fences[0].clone();
    assert_eq!((asker, target), (instance(2), instance(1)));
    let FenceCause::Lost { view: 2, ref why, ref resources, .. } = cause else { panic!("{cause:?}") };
    assert_eq!((&**why, resources.len()), ("silent for 1 s", 2));
    assert_eq!(t.asked(), [""; 0]);
    t.fenced(2, instance(1), FenceOutcome::Requested);
    t.fenced(2, life(1, 99), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), [""; 0], "neither requested nor another life counts");
    let Some(Blocked::Fencing { target, last: Some(_), .. }) = t.blocked(3) else {
        panic!("{:?}", t.blocked(3))
    };
    assert_eq!(target, instance(1));
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n2 start ip"]);
    assert_eq!(t.blocked(3), None);
}

#[test]
fn a_condition_from_outside_holds_one_group_back_and_the_explanation_says_how_it_goes_on() {
    let mut two = config();
    let mut other = two.groups[0].clone();
    other.name = "other".to_owned();
    other.resources.truncate(1);
    other.resources[0].name = "alone".to_owned();
    two.groups.push(other);
    let mut t = Table::of(&two, &[1, 2], &[]);
    t.answer_probes();
    t.obey();
    let uplink = |node: Option<u32>, unmet: Option<&str>| Command::Condition {
        of: "site".into(),
        node: node.map(NodeId::new),
        name: "uplink".into(),
        unmet: unmet.map(Into::into),
    };
    t.command(2, uplink(Some(1), Some("no carrier")));
    assert_eq!(
        t.obey(),
        ["n1 stop site", "n1 stop ip", "n2 start ip", "n2 start site"],
        "and no other group"
    );
    let explained = t.manager(1).explain("web").expect("there is one").to_string();
    assert!(
        explained.contains("may not run it while uplink does not hold for site (no carrier)"),
        "{explained}"
    );
    let state = t.manager(1).state().clone();
    assert_eq!(State::parse(&state.emit()), Ok(state), "who joins knows of it");

    t.command(1, uplink(None, Some("the line is cut")));
    assert_eq!(t.obey(), ["n2 stop site", "n2 stop ip"]);
    let blocked = t.blocked(2);
    assert!(matches!(&blocked, Some(Blocked::NoNode { nodes }) if nodes.len() == 2), "{blocked:?}");
    for _ in 0..2 {
        let ways = t.manager(2).explain("web").expect("there is one").ways_out;
        let command = ways.into_iter().find_map(|way| way.command).unwrap_or_else(|| uplink(Some(1), None));
        t.command(2, command);
    }
    assert_eq!(t.obey(), ["n2 start ip", "n2 start site"]);

    let now = t.now;
    for n in 0..Config::CONDITIONS_MAX {
        let name = format!("c{n}").as_str().into();
        let unmet = Some("x".into());
        t.command(1, Command::Condition { of: "other".into(), node: Some(NodeId::new(9)), name, unmet });
    }
    let more =
        Command::Condition { of: "alone".into(), node: None, name: "more".into(), unmet: Some("x".into()) };
    assert!(matches!(t.manager(1).request(now, more), Err(CommandError::Conditions { most: 32, .. })));
    let unknown = Command::Condition { of: "none".into(), node: None, name: "x".into(), unmet: None };
    assert!(matches!(t.manager(1).request(now, unknown), Err(CommandError::UnknownGroup { .. })));
    assert_eq!(t.asked(), [""; 0]);
}

#[test]
fn what_is_said_of_a_node_is_forgotten_when_it_joins_anew_and_what_is_said_of_all_stays() {
    let mut t = Table::running(&[1, 2]);
    for node in [None, Some(NodeId::new(2))] {
        let unmet = Some("it is cold".into());
        t.command(1, Command::Condition { of: "web".into(), node, name: "warm".into(), unmet });
    }
    t.obey();
    let members = [instance(1), instance(2)];
    t.view(&members, &[instance(2)], &[]);
    let nodes = t.manager(1).explain("web").expect("there is one").nodes;
    let about = |why: &Option<Ineligible>| match why {
        Some(Ineligible::Condition { node, .. }) => *node,
        other => panic!("{other:?}"),
    };
    assert_eq!(nodes.iter().map(|(_, why)| about(why)).collect::<Vec<_>>(), [None, None]);
    t.command(1, Command::Condition { of: "web".into(), node: None, name: "warm".into(), unmet: None });
    let nodes = t.manager(1).explain("web").expect("there is one").nodes;
    assert_eq!(nodes.iter().map(|(_, why)| why.clone()).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn a_last_gasp_does_not_replace_fencing() {
    let mut t = Table::running(&[1, 2, 3]);
    let members = [instance(2), instance(3)];
    let departed = [Departed { instance: instance(1), proof_of_death: true, why: "last gasp".into() }];
    t.managers.remove(0);
    t.view(&members, &[], &departed);
    assert!(matches!(&t.fences[0].2, FenceCause::Lost { proof_of_death: true, .. }), "{:?}", t.fences);
    assert_eq!(t.asked(), [""; 0]);
}

#[test]
fn a_node_that_left_cleanly_is_not_fenced() {
    let mut t = Table::running(&[1, 2, 3]);
    let now = t.now;
    t.manager(1).leave(now).expect("a member");
    t.settle();
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert!(!t.events.contains(&Event::ReadyToLeave));
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert!(t.events.contains(&Event::ReadyToLeave));
    t.without(1);
    assert!(t.fences.is_empty());
    assert_eq!(t.asked(), ["n2 start ip"]);
}

#[test]
fn the_next_senior_member_asks_again_when_the_asker_dies() {
    let mut t = Table::running(&[1, 2, 3]);
    t.without(1);
    t.without(2);
    let asked: Vec<_> = t.fences.iter().map(|(by, target, _)| (by.node.raw(), target.node.raw())).collect();
    // n2 ran nothing, so that it need not be fenced.
    assert_eq!(asked, [(2, 1), (3, 1)]);
}

#[test]
fn a_failed_stop_gets_the_node_fenced_by_another() {
    let mut t = Table::running(&[1, 2]);
    t.fail(1, "site");
    t.answer(1, "site", Action::Stop, Outcome::TimedOut);
    let (asker, target, cause) = t.fences[0].clone();
    assert_eq!((asker, target), (instance(2), instance(1)));
    assert!(matches!(cause, FenceCause::StopFailed { .. }));
    assert_eq!(t.asked(), [""; 0]);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n2 start ip"], "even before the view without it");
}

#[test]
fn a_resource_found_where_it_should_not_run_is_stopped_first() {
    let mut t = Table::founded(&[1, 2]);
    let now = t.now;
    t.manager(1).request(now, Command::Standby(NodeId::new(2))).expect("a member");
    t.settle();
    t.answer(2, "ip", Action::Monitor, Outcome::Ok);
    t.answer_probes();
    assert_eq!(t.asked(), ["n2 stop ip"]);
    t.answer(2, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn a_resource_found_running_on_two_nodes_goes_down_on_both() {
    let mut t = Table::founded(&[1, 2]);
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    t.answer(2, "ip", Action::Monitor, Outcome::Ok);
    t.answer_probes();
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip"]);
}

#[test]
fn an_agent_that_is_missing_on_a_node_excludes_only_that_node() {
    let mut t = Table::founded(&[1, 2]);
    let agent = "ocf:a:b".parse().expect("a name");
    let missing = AgentError::AgentMissing { agent, looked_at: vec!["/nowhere".into()] };
    t.answer(1, "ip", Action::Monitor, Outcome::NotStarted(missing));
    t.answer_probes();
    assert_eq!(t.asked(), ["n2 start ip"]);
    assert!(t.fences.is_empty());
}

#[test]
fn wrong_parameters_stop_the_group_everywhere_until_failures_are_cleared() {
    let mut t = Table::founded(&[1, 2]);
    t.answer_probes();
    t.answer(1, "ip", Action::Start, Outcome::Failed { code: OcfCode::Configured });
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
    assert!(matches!(t.blocked(1), Some(Blocked::Misconfigured { .. })));
    let now = t.now;
    t.manager(2).request(now, Command::ClearFailures("web".into())).expect("a member");
    t.settle();
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn each_node_is_tried_once_and_then_the_group_rests() {
    let mut t = Table::founded(&[1, 2]);
    t.answer_probes();
    for node in [1, 2] {
        t.answer(node, "ip", Action::Start, Outcome::Failed { code: OcfCode::Generic });
        t.answer(node, "ip", Action::Stop, Outcome::Ok);
    }
    assert_eq!(t.asked(), [""; 0]);
    let Some(Blocked::NoNode { nodes }) = t.blocked(1) else { panic!("{:?}", t.blocked(1)) };
    assert_eq!(nodes.len(), 2);
    // The failures are forgotten after the window, and the best node is tried once more.
    t.now = t.manager(1).poll_timeout().expect("an expiry");
    let now = t.now;
    t.manager(1).handle_timeout(now);
    t.settle();
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn outside_the_primary_partition_everything_stops_without_waiting() {
    let mut t = Table::running(&[1, 2, 3]);
    t.input(1, Input::NonPrimary);
    assert_eq!(t.asked(), ["n1 stop site"]);
    // Nothing is broadcast and nothing is asked of anybody: the answer alone moves it on.
    let sent = t.messages.len();
    t.answer(1, "site", Action::Stop, Outcome::TimedOut);
    assert_eq!(t.asked(), ["n1 stop ip"], "a failed stop does not keep the others up");
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.messages.len(), sent);
    assert_eq!(t.manager(1).status().local, LocalStatus::NonPrimary);
    let now = t.now;
    let refused = t.manager(1).request(now, Command::Standby(NodeId::new(1)));
    assert_eq!(refused, Err(CommandError::NotPrimary));
}

#[test]
fn a_suspended_node_tells_its_executor_to_hold_starts() {
    let mut manager = Manager::new(instance(1), config());
    let me = [instance(1)];
    manager.handle(Instant::ZERO, Input::View { number: 1, members: &me, joined: &me, departed: &[] });
    while manager.poll_output().is_some() {}
    manager.handle(Instant::ZERO, Input::Suspended);
    assert_eq!(manager.poll_output(), Some(Output::Execute(Request::Hold)));
    manager.handle(Instant::ZERO, Input::Resumed);
    assert_eq!(manager.poll_output(), Some(Output::Execute(Request::Release)));
}

#[test]
fn a_joiner_gets_the_state_and_the_cluster_s_configuration() {
    let mut t = Table::running(&[1, 2]);
    let joiner = instance(3);
    t.managers.push((joiner, Manager::new(joiner, Config::default())));
    t.view(&[instance(1), instance(2), joiner], &[joiner], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    assert!(t.events.contains(&Event::ConfigurationDiffers));
    assert_eq!(t.asked(), ["n3 monitor ip", "n3 monitor site"]);
    t.answer_probes();
    let donor = t.manager(1).state().clone();
    assert_eq!(t.manager(3).state(), &donor);
    assert_eq!(t.asked(), [""; 0], "what runs elsewhere stays there");
}

#[test]
fn founders_whose_state_is_lost_before_it_came_found_the_cluster_once_more() {
    // n1 and n2 found the cluster; n2 waits for n1's state, so that what n1 orders is not delivered to it. n1 dies.
    let configured = [1, 2, 9].map(NodeId::new);
    let founder = |n| Manager::new(instance(n), config()).with_nodes(configured);
    let mut t = Table::founded_of(&[], &[]);
    t.number = 1;
    let (one, two, three) = (instance(1), instance(2), instance(3));
    for node in [2, 3] {
        let mut waiting = founder(node);
        let view = [one, two, three];
        waiting.handle(t.now, Input::View { number: 1, members: &view, joined: &view, departed: &[] });
        while waiting.poll_output().is_some() {}
        t.managers.push((instance(node), waiting));
    }
    let departed = Departed { instance: one, proof_of_death: false, why: "silent".into() };
    // What they say now is ordered before it is clear that nobody has the state, and so is not delivered either.
    t.number = 2;
    t.view = vec![two, three];
    for (_, manager) in &mut t.managers {
        let members = [two, three];
        manager.handle(
            t.now,
            Input::View {
                number: 2,
                members: &members,
                joined: &[],
                departed: std::slice::from_ref(&departed),
            },
        );
        while manager.poll_output().is_some() {}
    }
    t.input(2, Input::StateLost);
    let state = t.manager(2).state().emit();
    t.input(3, Input::State(&state));
    assert!(!t.asked().is_empty(), "the cluster has its configuration and looks at its members");
    let targets: Vec<_> = t.fences.iter().map(|(_, target, _)| *target).collect();
    assert_eq!(targets, [one, NodeInstance::new(NodeId::new(9), Incarnation::new(0))], "and at the absent");
    let given = t.manager(3).state().clone();
    assert_eq!(t.manager(2).state(), &given);
}

#[test]
fn a_member_that_was_outside_and_goes_on_is_looked_at_anew() {
    let mut t = Table::running(&[1, 2, 3]);
    t.input(1, Input::NonPrimary);
    assert_eq!(t.asked(), ["n1 stop site"]);
    // What is ordered meanwhile counts, and is not carried out by who is outside.
    let now = t.now;
    t.manager(2)
        .request(now, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(2)) })
        .expect("a member");
    t.settle();
    assert_eq!(t.asked(), ["n1 stop site"], "the one that it stops alone");
    t.manager(2)
        .request(now, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(1)) })
        .expect("a member");
    t.settle();
    t.view(&[instance(1), instance(2), instance(3)], &[], &[]);
    assert_eq!(t.asked(), ["n1 stop site", "n1 monitor ip", "n1 monitor site"]);
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 monitor site"], "the rest is not stopped any more, and nobody else starts it");
    t.answer_probes();
    assert_eq!(t.asked(), ["n1 start site"], "its home is where it was");
    t.answer(1, "site", Action::Start, Outcome::Ok);
    let (one, two) = (t.manager(1).state().clone(), t.manager(2).state().clone());
    assert_eq!(one, two);
    assert_eq!(t.manager(3).status().groups[0].running_on, Some(instance(1)));
}

#[test]
fn an_instance_that_comes_back_is_looked_at_instead_of_fenced() {
    let mut t = Table::running(&[1, 2, 3]);
    t.without(1);
    t.managers.push((instance(1), Manager::new(instance(1), config())));
    t.view(&[instance(2), instance(3), instance(1)], &[instance(1)], &[]);
    let state = t.manager(2).state().emit();
    t.input(1, Input::State(&state));
    assert_eq!(t.asked(), ["n1 monitor ip", "n1 monitor site"]);
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    t.answer(1, "site", Action::Monitor, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
    assert_eq!(t.manager(2).status().groups[0].running_on, Some(instance(1)));
}

#[test]
fn answers_to_old_decisions_change_nothing() {
    let mut t = Table::running(&[1, 2]);
    let before = t.manager(1).state().clone();
    for (sender, payload) in t.messages.clone() {
        t.input(1, Input::Ordered { sender, payload: &payload });
    }
    assert_eq!(t.manager(1).state(), &before);
    assert!(t.manager(1).status().stale > 0);
}

#[test]
fn a_foreign_or_broken_message_is_counted_and_changes_nothing() {
    let mut t = Table::running(&[1, 2]);
    let before = t.manager(1).state().clone();
    let spoken = before.emit()[0];
    t.input(1, Input::Ordered { sender: instance(2), payload: &[&[spoken, 0xff], &b"garbage"[..]].concat() });
    t.input(1, Input::Ordered { sender: instance(9), payload: &[spoken, 6] });
    assert_eq!(t.manager(1).state(), &before);
    assert_eq!(t.manager(1).status().malformed, 1);
}

#[test]
fn the_status_says_where_and_why() {
    let mut t = Table::running(&[1, 2]);
    t.fail(1, "site");
    let status = t.manager(2).status();
    let group = &status.groups[0];
    assert_eq!((group.failures[0].count, group.target), (1, Some(instance(1))));
    assert!(matches!(group.resources[1].at[0], (n, ResourceState::Stopping(_)) if n == instance(1)));
}

/// States as clusters really reach them: some steps of a run, chosen by bytes.
fn states(choices: &[u8]) -> Vec<State> {
    let mut t = Table::founded(&[1, 2, 3]);
    let mut found = vec![t.manager(3).state().clone()];
    for choice in choices {
        let outcome = match choice >> 4 {
            0..=8 => Outcome::Ok,
            9..=11 => Outcome::Failed { code: OcfCode::NotRunning },
            12 => Outcome::Failed { code: OcfCode::Generic },
            13 => Outcome::Failed { code: OcfCode::NotInstalled },
            _ => Outcome::TimedOut,
        };
        let pick = usize::from(choice & 0xf);
        if pick == 13 {
            t.set(3, "ip", &choice.to_string());
        } else if pick == 15 && t.managers.len() == 3 {
            t.without(1);
        } else if pick == 14 && !t.watched.is_empty() {
            let (n, _, o) = t.watched[0].clone();
            if t.managers.iter().any(|(m, _)| *m == n) {
                t.fail(n.node.raw(), &o.resource);
            }
        } else if let Some((n, _, o)) = t.waiting.get(pick % t.waiting.len().max(1)).cloned() {
            t.answer(n.node.raw(), &o.resource, o.action, outcome);
        }
        found.push(t.manager(3).state().clone());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plans_are_functions_and_states_survive_the_wire(choices in prop::collection::vec(any::<u8>(), 0..30)) {
        let config = config();
        for state in states(&choices) {
            let bytes = state.emit();
            let again = State::parse(&bytes).expect("what was written can be read");
            prop_assert_eq!(&again, &state);
            prop_assert_eq!(again.emit(), bytes);
            let first = plan(&config, &state);
            prop_assert_eq!(&first, &plan(&config, &again));
            // What was decided has been noted, so that the same state asks for nothing twice.
            prop_assert!(first.is_empty(), "{:?}", first);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_of_states_panic(
        choices in prop::collection::vec(any::<u8>(), 0..12),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let state = states(&choices).pop().expect("at least one");
        let mut bytes = state.emit().to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        if let Ok(read) = State::parse(&bytes) {
            let again = State::parse(&read.emit());
            prop_assert_eq!(again.as_ref(), Ok(&read));
        }
        prop_assert!(State::parse(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn no_message_makes_a_manager_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let mut t = Table::running(&[1, 2]);
        let spoken = t.manager(2).state().emit()[0];
        for mut message in messages {
            if let Some(version) = message.first_mut() {
                *version = spoken;
            }
            if let Some(kind) = message.get_mut(1) {
                *kind %= 20;
            }
            t.input(2, Input::Ordered { sender: instance(1), payload: &message });
        }
        prop_assert_eq!(t.manager(2).status().groups.len(), 1, "no message takes the configuration away");
    }
}

#[test]
fn an_absent_node_that_nobody_remembers_is_fenced_before_anything_starts() {
    let mut t = Table::founded_of(&[1, 2], &[1, 2, 3]);
    t.answer_probes();
    let unknown = NodeInstance::new(NodeId::new(3), Incarnation::new(0));
    assert_eq!(
        t.fences.iter().map(|(by, target, _)| (*by, *target)).collect::<Vec<_>>(),
        [(instance(1), unknown)]
    );
    assert_eq!(t.asked(), Vec::<String>::new());
    let outcome = FenceOutcome::Confirmed;
    t.input(1, Input::Fenced { target: unknown, outcome, detail: "read back off" });
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn an_absent_node_that_comes_need_not_be_fenced_its_probes_tell() {
    let mut t = Table::founded_of(&[1, 2], &[1, 2, 3]);
    t.answer_probes();
    let members: Vec<_> = [1, 2, 3].map(instance).to_vec();
    let mut late = Manager::new(instance(3), config());
    late.handle(t.now, Input::View { number: 2, members: &members, joined: &members[2..], departed: &[] });
    t.view(&members, &members[2..], &[]);
    let state = t.manager(1).state().emit();
    late.handle(t.now, Input::State(&state));
    t.managers.push((instance(3), late));
    t.settle();
    t.answer_probes();
    assert_eq!(t.asked(), ["n1 start ip"]);
}

#[test]
fn a_founder_that_is_not_first_in_the_stream_takes_the_state_it_is_handed() {
    let members: Vec<_> = [1, 2].map(instance).to_vec();
    let mut t = Table::founded(&[1]);
    t.view(&members, &members, &[]);
    let mut second = Manager::new(instance(2), config());
    second.handle(t.now, Input::View { number: 2, members: &members, joined: &members, departed: &[] });
    let state = t.manager(1).state().emit();
    second.handle(t.now, Input::State(&state));
    t.managers.push((instance(2), second));
    t.settle();
    assert_eq!(t.asked().iter().filter(|a| a.starts_with("n2 monitor")).count(), 2, "{:?}", t.asked());
}

fn maintenance(group: Option<&str>, on: bool) -> Command {
    Command::Maintenance { group: group.map(Into::into), on }
}

#[test]
fn in_maintenance_nothing_is_done_and_at_its_end_everything_is_looked_at() {
    for group in [None, Some("web")] {
        let mut t = Table::running(&[1, 2, 3]);
        t.command(2, maintenance(group, true));
        assert_eq!(t.blocked(1), Some(Blocked::Maintenance { whole: group.is_none() }));
        t.command(2, Command::StopGroup("web".into()));
        t.command(2, Command::Standby(NodeId::new(1)));
        assert_eq!(t.asked(), [""; 0]);
        t.command(2, Command::Online(NodeId::new(1)));
        t.command(2, Command::StartGroup("web".into()));
        let watched = t.watched.len();
        t.command(3, maintenance(group, false));
        assert_eq!(t.asked().len(), 6, "{:?}", t.asked());
        // Meanwhile somebody moved it by hand: it is found where it is now, and stays.
        let stopped = || Outcome::Failed { code: OcfCode::NotRunning };
        for resource in ["ip", "site"] {
            t.answer(2, resource, Action::Monitor, Outcome::Ok);
            t.answer(3, resource, Action::Monitor, stopped());
        }
        assert_eq!(t.asked(), ["n1 monitor ip", "n1 monitor site"], "nothing moves before all is known");
        t.answer(1, "ip", Action::Monitor, Outcome::Ok);
        t.answer(1, "site", Action::Monitor, stopped());
        assert!(t.watched.len() > watched, "what runs is watched again");
        assert!(t.asked().iter().all(|a| a.contains(" stop ")), "ip runs twice: {:?}", t.asked());
        t.obey();
        assert_eq!((t.status(3).running_on, t.blocked(3)), (Some(instance(1)), None));
    }
}

#[test]
fn a_lost_node_is_not_fenced_while_the_whole_cluster_is_in_maintenance() {
    let mut t = Table::running(&[1, 2, 3]);
    t.command(2, maintenance(None, true));
    t.without(1);
    assert_eq!(t.fences, []);
    t.command(2, maintenance(None, false));
    assert_eq!(t.fences.len(), 1);
    t.answer_probes();
    assert_eq!(t.asked(), [""; 0], "and it is waited for");
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n2 start ip"]);
}

/// A group of one resource, on so many nodes, with so many promoted.
fn several(copies: u32, promoted: u32) -> Config {
    let mut config = config();
    config.groups[0].copies = copies;
    config.groups[0].promoted = promoted;
    config.groups[0].resources.truncate(1);
    config
}

#[test]
fn a_group_with_copies_runs_on_so_many_nodes_and_a_lost_one_is_made_up_for_after_fencing() {
    let mut t = Table::of(&several(2, 0), &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 start ip", "n2 start ip"]);
    assert_eq!(t.status(3).copies_on, [instance(1), instance(2)]);
    t.without(1);
    assert_eq!(t.asked(), [""; 0], "it may run there still");
    assert!(matches!(t.blocked(2), Some(Blocked::Fencing { .. })), "{:?}", t.blocked(2));
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.obey(), ["n3 start ip"]);
    assert_eq!((t.status(2).copies_on, t.blocked(2)), (vec![instance(2), instance(3)], None));
}

#[test]
fn a_group_on_every_node_needs_no_fencing_to_run_on_the_others() {
    let mut t = Table::of(&several(0, 0), &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey().len(), 3);
    t.without(3);
    assert_eq!((t.asked().len(), t.status(1).copies_on.len(), t.blocked(1)), (0, 2, None));
    t.fail(1, "ip");
    assert_eq!(t.obey(), ["n1 stop ip", "n1 start ip"]);
}

#[test]
fn one_copy_is_promoted_and_its_role_moves_to_a_running_copy_after_fencing() {
    let mut t = Table::of(&several(2, 1), &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 start ip", "n2 start ip", "n1 promote ip"]);
    assert_eq!((t.status(2).promoted_on, t.status(2).copies_on.len()), (vec![instance(1)], 2));
    t.without(1);
    assert_eq!(t.asked(), [""; 0], "it may be promoted there still");
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n2 promote ip", "n3 start ip"], "no restart: the copy is there");
    t.obey();
    assert_eq!(t.status(2).promoted_on, [instance(2)]);
}

#[test]
fn what_is_promoted_is_demoted_before_it_is_stopped_and_another_promoted_after_that() {
    let mut t = Table::of(&several(2, 1), &[1, 2, 3], &[]);
    t.answer_probes();
    t.obey();
    t.command(2, Command::Standby(NodeId::new(1)));
    assert_eq!(t.asked(), ["n1 demote ip"]);
    t.answer(1, "ip", Action::Demote, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip", "n2 promote ip"]);
    t.obey();
    assert_eq!(
        (t.status(1).copies_on, t.status(1).promoted_on),
        (vec![instance(2), instance(3)], vec![instance(2)])
    );
}

#[test]
fn a_probe_that_finds_two_promoted_leaves_one() {
    let mut t = Table::of(&several(2, 1), &[1, 2], &[]);
    let promoted = || Outcome::Failed { code: OcfCode::RunningPromoted };
    t.answer(1, "ip", Action::Monitor, promoted());
    t.answer(2, "ip", Action::Monitor, promoted());
    assert_eq!(t.obey(), ["n2 demote ip"]);
    assert_eq!(t.status(1).promoted_on, [instance(1)]);
}

#[test]
fn monitors_follow_the_role_and_each_has_its_depth() {
    let mut config = several(1, 1);
    let monitor = |depth, role| ocf_resource::MonitorConfig {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        depth,
        role,
        watch: Default::default(),
    };
    let promoted = Some(ocf_resource::Role::Promoted);
    config.groups[0].resources[0].monitors = vec![monitor(10, None), monitor(20, promoted)];
    let mut t = Table::of(&config, &[1], &[]);
    t.answer_probes();
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    let seen = |t: &Table| t.watched.iter().map(|(_, _, o)| (o.check_level, o.role)).collect::<Vec<_>>();
    let unpromoted = Some(ocf_resource::Role::Unpromoted);
    assert_eq!(seen(&t), [(0, unpromoted), (10, unpromoted)]);
    t.watched.clear();
    t.answer(1, "ip", Action::Promote, Outcome::Ok);
    assert_eq!(seen(&t), [(0, promoted), (10, promoted), (20, promoted)]);
}

#[test]
fn a_node_that_is_not_healthy_is_left_and_the_explanation_says_so() {
    use ocf_resource::{Health, HealthStrategy};
    let mut config = config();
    config.health = HealthStrategy::MigrateOnRed;
    let mut t = Table::of(&config, &[1, 2], &[]);
    t.answer_probes();
    t.obey();
    t.manager(1).set_health("disk", Some(Health::Yellow)).expect("a member");
    t.settle();
    assert_eq!(t.asked(), [""; 0]);
    t.manager(1).set_health("disk", Some(Health::Red)).expect("a member");
    t.settle();
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip", "n2 start ip", "n2 start site"]);
    let explanation = t.manager(2).explain("web").expect("there is one");
    let text = explanation.to_string();
    assert!(text.contains("is not healthy (disk is Red)") && text.contains("can take it"), "{text}");
    assert_eq!((explanation.target, explanation.ways_out.len()), (Some(instance(2)), 0));
}

#[test]
fn every_way_out_that_is_a_command_leads_out() {
    // Failed on every node.
    let mut t = Table::founded(&[1, 2]);
    t.answer_probes();
    for node in [1, 2] {
        t.answer(node, "ip", Action::Start, Outcome::Failed { code: OcfCode::Generic });
        t.answer(node, "ip", Action::Stop, Outcome::Ok);
    }
    // In standby, in maintenance, configured wrongly.
    let cases: [fn(&mut Table); 4] = [
        |_| {},
        |t| {
            for node in [1, 2] {
                t.command(1, Command::ClearFailures("web".into()));
                t.obey();
                t.command(1, Command::Standby(NodeId::new(node)));
                t.obey();
            }
        },
        |t| t.command(1, maintenance(Some("web"), true)),
        |t| t.command(1, maintenance(None, true)),
    ];
    for case in cases {
        case(&mut t);
        let mut steps = 0;
        while t.blocked(1).is_some() {
            steps += 1;
            assert!(steps < 5, "{:?}", t.manager(1).explain("web"));
            let ways = t.manager(1).explain("web").expect("there is one").ways_out;
            assert!(!ways.is_empty());
            for command in ways.into_iter().filter_map(|w| w.command) {
                t.command(1, command);
            }
            t.answer_probes();
            t.obey();
        }
        assert!(t.status(1).running_on.is_some());
    }
}

/// One resource that moves without a stop, on n1 to n3.
fn live(change: impl FnOnce(&mut GroupConfig)) -> Table {
    live_in(|config| change(&mut config.groups[0]))
}

fn live_in(change: impl FnOnce(&mut Config)) -> Table {
    let mut config = config();
    config.groups[0].migrate = true;
    config.groups[0].resources.truncate(1);
    change(&mut config);
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    for node in t.bare.clone() {
        t.input(node.node.raw(), Input::Access { why: None });
    }
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
    t
}

fn meta(t: &Table, name: &str) -> String {
    t.waiting[0].2.meta.get(name).cloned().unwrap_or_default()
}

fn failed(code: OcfCode) -> Outcome {
    Outcome::Failed { code }
}

#[test]
fn what_can_move_without_a_stop_is_handed_over_taken_over_and_then_stopped_where_it_was() {
    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    assert_eq!(t.asked(), ["n1 migrate_to ip"]);
    assert_eq!((meta(&t, "migrate_source"), meta(&t, "migrate_target")), ("n1".into(), "n2".into()));
    t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 migrate_from ip"]);
    assert_eq!((meta(&t, "migrate_source"), meta(&t, "migrate_target")), ("n1".into(), "n2".into()));
    assert!(matches!(t.status(3).resources[0].at[0].1, ResourceState::MovingAway));
    t.answer(2, "ip", Action::MigrateFrom, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
    assert_eq!(t.status(3).running_on, Some(instance(2)));
    assert!(t.status(3).failures.is_empty());
    assert!(t.fences.is_empty());
}

#[test]
fn what_fencing_by_access_would_leave_handing_over_is_stopped_and_started_instead() {
    let mut t = live_in(|config| config.access = AccessNeed::Everybody);
    t.command(2, Command::Standby(NodeId::new(1)));
    assert_eq!(t.obey(), ["n1 stop ip", "n2 start ip"]);
}

#[test]
fn the_end_of_maintenance_does_not_forget_what_is_on_its_way_to_another_node() {
    for begins in [false, true] {
        let mut t = live(|_| ());
        t.command(2, Command::Standby(NodeId::new(1)));
        assert_eq!(t.asked(), ["n1 migrate_to ip"]);
        if begins {
            t.command(3, Command::Maintenance { group: Some("web".into()), on: true });
        }
        t.command(3, Command::Maintenance { group: Some("web".into()), on: false });
        assert!(!t.asked().contains(&"n2 monitor ip".to_owned()), "{:?}", t.asked());
        t.answer_probes();
        t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
        assert_eq!(t.obey(), ["n2 migrate_from ip", "n1 stop ip"]);
        assert_eq!(t.status(3).running_on, Some(instance(2)));
    }
}

#[test]
fn an_end_of_a_move_that_was_outside_and_goes_on_still_expects_what_is_on_its_way() {
    let mut t = live(|_| ());
    let all = [instance(1), instance(2), instance(3)];
    t.command(2, Command::Standby(NodeId::new(1)));
    assert_eq!(t.asked(), ["n1 migrate_to ip"]);
    t.input(2, Input::NonPrimary);
    t.answer(2, "ip", Action::Stop, Outcome::Ok);
    t.view(&all, &[], &[]);
    assert_eq!(t.asked(), ["n1 migrate_to ip"], "a look at n2 says nothing of what is to arrive there");
    t.answer(1, "ip", Action::MigrateTo, Outcome::TimedOut);
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip"], "both are stopped before it is started");
    assert_eq!(t.obey(), ["n1 stop ip", "n2 stop ip", "n2 start ip"]);
}

#[cfg(feature = "testing")]
#[test]
fn an_end_of_a_move_that_is_forgotten_while_it_was_outside_is_looked_at_too_early() {
    let mut t = live(|_| ());
    t.managers.iter_mut().for_each(|(_, m)| m.put_back(ocf_resource::testing::Bug::ForgetEnds));
    t.command(2, Command::Standby(NodeId::new(1)));
    t.input(2, Input::NonPrimary);
    t.answer(2, "ip", Action::Stop, Outcome::Ok);
    t.view(&[instance(1), instance(2), instance(3)], &[], &[]);
    assert_eq!(t.asked(), ["n1 migrate_to ip", "n2 monitor ip"]);
    t.answer(2, "ip", Action::Monitor, failed(OcfCode::NotRunning));
    t.answer(1, "ip", Action::MigrateTo, Outcome::TimedOut);
    assert_eq!(t.asked(), ["n1 stop ip"], "what has arrived at n2 is stopped by nobody");
}

#[test]
fn what_may_still_be_handed_over_is_not_stopped_too_early_where_it_goes_to() {
    // Its source was outside and goes on: a look at it says when its agent is done.
    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    t.input(1, Input::NonPrimary);
    t.view(&[instance(1), instance(2), instance(3)], &[], &[]);
    let early = t.asked().iter().any(|asked| asked.starts_with("n2"));
    assert!(!early, "{:?}", t.asked());
    t.answer(1, "ip", Action::Monitor, failed(OcfCode::NotRunning));
    assert!(t.asked().contains(&"n2 stop ip".to_owned()), "{:?}", t.asked());
    t.answer(2, "ip", Action::Stop, Outcome::Ok);
    assert!(t.asked().contains(&"n2 start ip".to_owned()), "{:?}", t.asked());

    // Its source is lost: only its fencing ends what its agent does.
    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    t.without(1);
    assert_eq!(t.asked(), [""; 0]);
    t.input(2, Input::Fenced { target: instance(1), outcome: FenceOutcome::Confirmed, detail: "off" });
    assert_eq!(t.obey(), ["n2 stop ip", "n2 start ip"]);
}

#[test]
fn an_agent_that_cannot_move_it_without_a_stop_has_it_stopped_and_started_and_no_failure_counts() {
    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    t.answer(1, "ip", Action::MigrateTo, failed(OcfCode::Unimplemented));
    // Whatever it left at the other end goes too.
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip"]);
    assert_eq!(t.obey(), ["n1 stop ip", "n2 stop ip", "n2 start ip"]);
    assert_eq!(t.status(3).running_on, Some(instance(2)));
    assert!(t.status(3).failures.is_empty());
}

#[test]
fn a_move_that_fails_at_either_end_is_ended_at_both_before_it_is_started_again() {
    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    t.answer(1, "ip", Action::MigrateTo, Outcome::TimedOut);
    assert_eq!(t.obey(), ["n1 stop ip", "n2 stop ip", "n2 start ip"]);
    assert_eq!(t.status(3).failures[0].node, NodeId::new(1));

    let mut t = live(|_| ());
    t.command(2, Command::Standby(NodeId::new(1)));
    t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
    t.answer(2, "ip", Action::MigrateFrom, failed(OcfCode::Generic));
    assert_eq!(t.obey(), ["n1 stop ip", "n2 stop ip", "n2 start ip"]);
    assert_eq!(t.status(3).failures[0].node, NodeId::new(2));
}

#[test]
fn a_node_that_is_lost_while_something_moves_there_is_fenced_before_it_is_started_elsewhere() {
    for taking in [false, true] {
        let mut t = live(|_| ());
        t.command(3, Command::Standby(NodeId::new(1)));
        if taking {
            t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
        }
        t.without(2);
        assert_eq!(t.fences.last().expect("a request").1, instance(2));
        if !taking {
            t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
        }
        assert_eq!(t.asked(), [""; 0], "it may run on n2");
        t.input(1, Input::Fenced { target: instance(2), outcome: FenceOutcome::Confirmed, detail: "off" });
        assert_eq!(t.obey(), ["n1 stop ip", "n3 start ip"]);
    }
}

#[test]
fn a_node_that_is_lost_while_something_moves_away_is_fenced_and_what_came_of_it_is_ended() {
    let mut t = live(|_| ());
    t.command(3, Command::Standby(NodeId::new(1)));
    t.answer(1, "ip", Action::MigrateTo, Outcome::Ok);
    t.without(1);
    assert_eq!(t.fences.last().expect("a request").1, instance(1));
    t.answer(2, "ip", Action::MigrateFrom, failed(OcfCode::Generic));
    assert_eq!(t.obey(), ["n2 stop ip"]);
    assert!(matches!(t.blocked(3), Some(Blocked::Fencing { .. })));
    t.input(2, Input::Fenced { target: instance(1), outcome: FenceOutcome::Confirmed, detail: "off" });
    assert_eq!(t.obey(), ["n2 start ip"]);
}

#[test]
fn running_instances_hear_of_a_step_before_and_after_it_and_it_waits_for_them() {
    let mut config = config();
    let group = &mut config.groups[0];
    (group.copies, group.promoted, group.notify) = (2, 1, true);
    group.resources.truncate(1);
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    // Nobody runs yet who could hear of the first ones.
    assert_eq!(t.asked(), ["n1 start ip", "n2 start ip"]);
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    // After the step, those that run hear of it; and of the promotion, before it.
    assert_eq!(t.asked(), ["n2 start ip", "n1 notify ip", "n1 notify ip"]);
    let told = |t: &Table, at: usize, name: &str| t.waiting[at].2.meta.get(name).cloned().unwrap_or_default();
    assert_eq!(told(&t, 1, "notify_type"), "post");
    assert_eq!(told(&t, 1, "notify_operation"), "start");
    assert_eq!(told(&t, 1, "notify_start_uname"), "n1");
    assert_eq!(told(&t, 1, "notify_active_uname"), "", "as it was before the step");
    assert_eq!(told(&t, 2, "notify_type"), "pre");
    assert_eq!(told(&t, 2, "notify_promote_uname"), "n1");
    assert_eq!(told(&t, 2, "notify_unpromoted_uname"), "n1");
    assert_eq!(told(&t, 2, "notify_slave_uname"), "n1");
    assert_eq!(told(&t, 2, "notify_promoted_uname"), "");
    t.answer(1, "ip", Action::Notify, failed(OcfCode::Generic));
    assert_eq!(t.asked(), ["n2 start ip", "n1 notify ip"]);
    t.answer(2, "ip", Action::Start, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 notify ip", "n1 notify ip", "n2 notify ip"]);
    t.answer(1, "ip", Action::Notify, Outcome::TimedOut);
    let asked = t.asked();
    assert_eq!(asked, ["n1 notify ip", "n2 notify ip", "n1 promote ip"], "a failed notice holds nothing up");
    t.answer(1, "ip", Action::Notify, Outcome::Ok);
    t.answer(2, "ip", Action::Notify, Outcome::Ok);
    t.answer(1, "ip", Action::Promote, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 notify ip", "n2 notify ip"]);
    assert_eq!(told(&t, 1, "notify_promote_uname"), "n1");
    assert_eq!(told(&t, 1, "notify_promoted_uname"), "", "as it was before the step");
    assert_eq!(told(&t, 1, "promoted_max"), "1");
    t.obey();
    // A step that several hear of waits for all of them.
    t.command(3, Command::Standby(NodeId::new(1)));
    assert_eq!(t.asked(), ["n1 notify ip", "n2 notify ip"]);
    assert_eq!(told(&t, 1, "notify_operation"), "demote");
    assert_eq!(told(&t, 1, "notify_promoted_uname"), "n1");
    assert_eq!(told(&t, 1, "notify_unpromoted_uname"), "n2");
    t.answer(1, "ip", Action::Notify, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 notify ip"]);
    t.answer(2, "ip", Action::Notify, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 demote ip"]);
}

#[test]
fn a_step_does_not_wait_for_the_notice_of_a_node_that_is_gone() {
    let mut config = config();
    let group = &mut config.groups[0];
    (group.copies, group.notify) = (0, true);
    group.resources.truncate(1);
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    t.obey();
    t.command(1, Command::Standby(NodeId::new(3)));
    assert_eq!(t.asked(), ["n1 notify ip", "n2 notify ip", "n3 notify ip"]);
    t.answer(1, "ip", Action::Notify, Outcome::Ok);
    t.answer(3, "ip", Action::Notify, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 notify ip"]);
    t.without(2);
    assert_eq!(t.asked(), ["n3 stop ip"]);
}

#[test]
fn a_step_that_is_decided_anew_waits_for_those_who_are_still_hearing_of_the_first_decision() {
    let mut config = config();
    let group = &mut config.groups[0];
    (group.copies, group.notify) = (0, true);
    group.resources.truncate(1);
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    t.obey();
    t.command(1, Command::Standby(NodeId::new(3)));
    assert_eq!(t.asked(), ["n1 notify ip", "n2 notify ip", "n3 notify ip"]);
    t.answer(1, "ip", Action::Notify, Outcome::Ok);

    // Node 3 is outside for a moment, and what runs on node 2 fails: so it need not hear of the second decision.
    t.fail(2, "ip");
    t.input(3, Input::NonPrimary);
    t.waiting.retain(|(n, ..)| n.node != NodeId::new(3));
    let members = t.view.clone();
    t.view(&members, &[], &[]);
    t.answer(3, "ip", Action::Monitor, Outcome::Ok);
    let told = |t: &Table, at: usize| t.waiting[at].2.meta["notify_stop_uname"].clone();
    assert_eq!(t.asked(), ["n2 notify ip", "n1 notify ip", "n1 notify ip", "n3 notify ip"]);
    assert_eq!([told(&t, 0), told(&t, 1), told(&t, 2)], ["n3", "n2", "n3"]);
    t.answer(1, "ip", Action::Notify, Outcome::Ok);
    t.answer(1, "ip", Action::Notify, Outcome::Ok);
    t.answer(3, "ip", Action::Notify, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 notify ip", "n2 stop ip"], "node 2 is still hearing that node 3 is to stop");

    // Who takes part later knows that, too.
    let state = t.manager(1).state().emit();
    assert_eq!(&State::parse(&state).expect("a state"), t.manager(2).state());
    t.answer(2, "ip", Action::Notify, Outcome::TimedOut);
    assert_eq!(t.asked(), ["n2 stop ip", "n3 stop ip"]);
}

#[test]
fn a_group_goes_back_as_its_configuration_says() {
    // By itself, or only when somebody says so; and after a failure there, only when that is forgotten.
    for failback in [false, true] {
        let mut config = config();
        config.groups[0].failback = failback;
        config.groups[0].resources.truncate(1);
        let mut t = Table::of(&config, &[1, 2, 3], &[]);
        t.answer_probes();
        t.obey();
        t.command(1, Command::Standby(NodeId::new(1)));
        assert_eq!(t.obey(), ["n1 stop ip", "n2 start ip"]);
        t.command(1, Command::Online(NodeId::new(1)));
        if !failback {
            assert_eq!(t.asked(), [""; 0]);
            t.command(3, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(1)) });
        }
        assert_eq!(t.obey(), ["n2 stop ip", "n1 start ip"]);
        t.fail(1, "ip");
        t.obey();
        t.fail(1, "ip");
        assert_eq!(t.obey(), ["n1 stop ip", "n2 start ip"], "the threshold is two");
        assert_eq!(t.status(2).running_on, Some(instance(2)));
        t.command(2, Command::ClearFailures("web".into()));
        let back = t.obey();
        let pinned_or_failback = ["n2 stop ip", "n1 start ip"];
        assert_eq!(back, pinned_or_failback, "failback {failback}");
    }
}

fn score(number: i64) -> Promotion {
    Promotion::Score(Score::new(number))
}

#[test]
fn the_highest_score_is_promoted_and_ties_go_to_who_is_promoted_already() {
    let mut t = Table::of(&several(3, 1), &[1, 2, 3], &[]);
    t.answer_probes();
    for (node, said) in [(1, 5), (2, 10), (3, 10)] {
        t.say(node, "ip", score(said));
    }
    let starts = ["n1 start ip", "n2 start ip", "n3 start ip"];
    assert_eq!(t.asked(), starts);
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    assert_eq!(t.asked().last().map(String::as_str), Some("n1 promote ip"), "only it runs");
    // Of two that are equally good the first in the order of the nodes; one role at a time.
    assert_eq!(t.obey()[3..], ["n1 demote ip", "n2 promote ip"]);
    // Asked again, everything else being equal, nothing moves.
    t.say(3, "ip", score(10));
    t.say(1, "ip", score(10));
    assert_eq!((t.asked(), t.status(3).promoted_on), (vec![], vec![instance(2)]));
    let explanation = t.manager(3).explain("web").expect("there is one");
    assert_eq!(explanation.scores[2].promotion, Some(Some(Score::new(10))));
    t.say(3, "ip", score(11));
    assert_eq!(t.obey(), ["n2 demote ip", "n3 promote ip"]);
}

#[test]
fn a_copy_whose_agent_does_not_let_it_is_not_promoted_even_if_it_is_the_last() {
    let mut t = Table::of(&several(2, 1), &[1, 2], &[]);
    t.answer_probes();
    t.say(1, "ip", score(100));
    t.say(2, "ip", score(-1));
    t.obey();
    assert_eq!(t.status(2).promoted_on, [instance(1)]);
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), [""; 0]);
    let explanation = t.manager(2).explain("web").expect("there is one").to_string();
    assert!(explanation.contains("does not let it be promoted"), "{explanation}");
    t.say(2, "ip", score(1));
    assert_eq!(t.obey(), ["n2 promote ip"]);
    t.say(2, "ip", Promotion::Withdrawn);
    assert_eq!(t.obey(), ["n2 demote ip"]);
}

#[test]
fn once_agents_give_scores_a_copy_of_which_nothing_is_said_is_not_promoted() {
    let mut t = Table::of(&several(2, 1), &[1, 2], &[]);
    t.answer_probes();
    t.say(2, "ip", score(1));
    t.obey();
    assert_eq!(t.status(1).promoted_on, [instance(2)]);
    // A restart begins with nothing said.
    t.fail(2, "ip");
    assert_eq!(t.obey(), ["n2 stop ip", "n2 start ip"]);
    assert_eq!(t.status(1).promoted_on, []);
    t.say(1, "ip", score(1));
    assert_eq!(t.obey(), ["n1 promote ip"]);
}

#[test]
fn what_is_promoted_sticks_as_far_as_the_configuration_says() {
    let mut config = several(2, 1);
    config.groups[0].stickiness = Some(Score::new(50));
    let mut t = Table::of(&config, &[1, 2], &[]);
    t.answer_probes();
    t.say(1, "ip", score(10));
    t.say(2, "ip", score(10));
    t.obey();
    assert_eq!(t.status(1).promoted_on, [instance(1)]);
    t.say(2, "ip", score(60));
    assert_eq!(t.asked(), [""; 0]);
    t.say(2, "ip", score(61));
    assert_eq!(t.obey(), ["n1 demote ip", "n2 promote ip"]);
}

fn prefers(scores: &[(u32, i64)], stickiness: Option<i64>) -> Config {
    let mut config = several(1, 0);
    let score =
        |(node, score): &(u32, i64)| Preference { node: NodeId::new(*node), score: Score::new(*score) };
    config.groups[0].preferences = scores.iter().map(score).collect();
    config.groups[0].stickiness = stickiness.map(Score::new);
    config
}

#[test]
fn a_group_goes_back_if_the_score_there_beats_the_one_here_and_its_stickiness() {
    for (stickiness, back) in [(0, true), (99, true), (100, false), (1_000_000, false)] {
        let mut t = Table::of(&prefers(&[(3, 150), (2, 50)], Some(stickiness)), &[1, 2, 3], &[]);
        t.answer_probes();
        assert_eq!(t.obey(), ["n3 start ip"], "whatever the order of the nodes");
        t.command(1, Command::Standby(NodeId::new(3)));
        assert_eq!(t.obey(), ["n3 stop ip", "n2 start ip"]);
        t.command(1, Command::Online(NodeId::new(3)));
        let moves = t.obey();
        assert_eq!(moves.is_empty(), !back, "stickiness {stickiness}: {moves:?}");
        let scores = t.manager(1).explain("web").expect("there is one").scores;
        let at = if back { 2 } else { 1 };
        assert_eq!((scores[1].preference, scores[at].stickiness), (Score::new(50), Score::new(stickiness)));
        // An operator's word is above every score, and ends when it is taken back.
        t.command(2, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(1)) });
        assert_eq!(t.obey().last().map(String::as_str), Some("n1 start ip"));
    }
}

#[test]
fn a_score_of_minus_infinity_keeps_a_group_away_for_ever() {
    let mut t = Table::of(&prefers(&[(1, -1_000_000), (2, -1_000_000)], None), &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n3 start ip"]);
    t.command(1, Command::Standby(NodeId::new(3)));
    assert_eq!(t.obey(), ["n3 stop ip"]);
    let Some(Blocked::NoNode { nodes }) = t.blocked(1) else { panic!("{:?}", t.blocked(1)) };
    assert_eq!(nodes[0], (instance(1), Ineligible::Unwanted));
}

#[test]
fn copies_are_where_the_scores_are_highest() {
    let mut config = several(2, 0);
    config.groups[0].preferences = prefers(&[(3, 10), (1, -10)], None).groups[0].preferences.clone();
    config.groups[0].stickiness = Some(Score::new(15));
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n2 start ip", "n3 start ip"]);
    t.command(1, Command::Standby(NodeId::new(2)));
    t.obey();
    assert_eq!(t.status(1).copies_on, [instance(1), instance(3)]);
    t.command(1, Command::Online(NodeId::new(2)));
    assert_eq!(t.asked(), [""; 0], "0 there is less than -10 and 15 here");
}

fn parameter(operation: &Operation) -> Option<&str> {
    operation.parameters.get("p").map(String::as_str)
}

#[test]
fn changed_parameters_are_taken_without_a_restart_by_an_agent_that_can() {
    let mut t = Table::running(&[1, 2]);
    t.set(2, "ip", "new");
    assert_eq!(t.asked(), ["n1 reload-agent ip"]);
    let asked = &t.waiting[0].2;
    assert_eq!((parameter(asked), asked.runs_with.as_deref()), (Some("new"), Some(&BTreeMap::new())));
    assert!(matches!(t.status(2).resources[0].at[0].1, ResourceState::Reloading(_)));
    // Changed again before it has answered.
    t.set(2, "ip", "newer");
    t.answer(1, "ip", Action::ReloadAgent, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 reload-agent ip"]);
    let before = t.waiting[0].2.runs_with.clone().expect("it runs with something");
    assert_eq!(before.get("p").map(String::as_str), Some("new"));
    t.watched.clear();
    t.answer(1, "ip", Action::ReloadAgent, Outcome::Ok);
    assert_eq!(t.asked(), [""; 0]);
    assert_eq!(t.watched.iter().map(|w| parameter(&w.2)).collect::<Vec<_>>(), [Some("newer")]);
    assert!(t.status(1).failures.is_empty());
    t.fail(1, "ip");
    assert_eq!(t.obey()[1..3], ["n1 stop ip", "n1 start ip"], "and it is watched");
    // What does not run has nothing to take.
    t.command(1, Command::StopGroup("web".into()));
    t.obey();
    t.set(1, "ip", "last");
    assert_eq!(t.asked(), [""; 0]);
}

#[test]
fn an_agent_that_cannot_take_parameters_is_restarted_with_what_stands_behind_it() {
    let mut t = Table::running(&[1, 2]);
    t.set(1, "ip", "new");
    t.answer(1, "ip", Action::ReloadAgent, failed(OcfCode::Unimplemented));
    assert_eq!(t.asked(), ["n1 stop site"]);
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    assert_eq!(parameter(&t.waiting[0].2), None, "it is stopped with those that it runs with");
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 start ip"]);
    assert_eq!(parameter(&t.waiting[0].2), Some("new"));
    assert_eq!(t.obey(), ["n1 start ip", "n1 start site"]);
    assert!(t.status(1).failures.is_empty(), "{:?}", t.status(1).failures);
    let stops = t.events.iter().filter_map(|e| {
        if let Event::Decided { why, action: Action::Stop, .. } = e { Some(why) } else { None }
    });
    let (order, changed) = (&ocf_resource::Why::Order, &ocf_resource::Why::Reconfigured);
    assert_eq!(stops.collect::<Vec<_>>(), [order, order, changed, changed], "both members say so");
}

#[test]
fn a_reload_that_fails_is_a_failure_and_one_in_flight_when_the_start_ends_follows_it() {
    let mut t = Table::running(&[1, 2]);
    t.set(1, "site", "new");
    t.answer(1, "site", Action::ReloadAgent, failed(OcfCode::Generic));
    assert_eq!(t.obey(), ["n1 stop site", "n1 start site"]);
    assert_eq!(t.status(1).failures[0].count, 1);

    let mut t = Table::founded(&[1, 2]);
    t.answer_probes();
    t.set(2, "ip", "new");
    assert_eq!(t.asked(), ["n1 start ip"]);
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 start site"], "first all of it runs");
    assert_eq!(t.obey(), ["n1 start site", "n1 reload-agent ip"]);
}

#[test]
fn parameters_that_no_agent_could_be_told_are_refused_before_they_are_sent() {
    let mut t = Table::running(&[1]);
    let now = t.now;
    let set = |resource: &str, name: &str, value: &str| Command::SetParameters {
        resource: resource.into(),
        parameters: BTreeMap::from([(name.to_owned(), value.to_owned())]),
    };
    let asked = t.manager(1).request(now, set("nothing", "p", "x"));
    assert_eq!(asked, Err(CommandError::UnknownResource { resource: "nothing".into() }));
    for bad in [set("ip", "p=", "x"), set("ip", "p", "x\0y"), set("ip", "p", &"x".repeat(70_000))] {
        let refused = t.manager(1).request(now, bad);
        assert!(matches!(refused, Err(CommandError::Parameters { .. })), "{refused:?}");
    }
}

/// A cluster whose nodes need their access.
fn bare(nodes: &[u32]) -> Table {
    let mut config = config();
    config.access = AccessNeed::Everybody;
    Table::of(&config, nodes, &[])
}

#[test]
fn nothing_starts_on_a_node_before_it_has_its_access() {
    let mut t = bare(&[1, 2]);
    assert_eq!(t.bare, [], "it is not known what runs");
    t.answer_probes();
    assert_eq!(t.bare, [instance(1), instance(2)]);
    assert_eq!(t.asked(), [""; 0]);
    let Some(Blocked::NoNode { nodes }) = t.blocked(1) else { panic!("{:?}", t.blocked(1)) };
    assert!(nodes.iter().all(|(_, why)| *why == Ineligible::NoAccess { why: None }), "{nodes:?}");
    t.input(1, Input::Access { why: Some("no answer") });
    assert_eq!(t.asked(), [""; 0]);
    let Some(Blocked::NoNode { nodes }) = t.blocked(2) else { panic!("{:?}", t.blocked(2)) };
    assert_eq!(nodes[0].1, Ineligible::NoAccess { why: Some("no answer".into()) });
    t.input(2, Input::Access { why: None });
    assert_eq!(t.asked(), ["n2 start ip"], "the second choice can run it");
    t.now += Duration::from_secs(31);
    let now = t.now;
    t.manager(1).handle_timeout(now);
    t.settle();
    assert_eq!(t.bare.last(), Some(&instance(1)), "it is tried again");
    t.input(1, Input::Access { why: None });
    assert!(t.manager(1).status().nodes.iter().all(|n| n.access));
}

#[test]
fn what_is_found_running_without_access_is_stopped_before_access_is_given() {
    let mut t = bare(&[1, 2]);
    let stopped = || Outcome::Failed { code: OcfCode::NotRunning };
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    for (node, resource) in [(1, "site"), (2, "ip"), (2, "site")] {
        t.answer(node, resource, Action::Monitor, stopped());
    }
    assert_eq!((t.bare.as_slice(), t.asked()), ([instance(2)].as_slice(), vec!["n1 stop ip".to_owned()]));
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.bare, [instance(2), instance(1)]);
}

#[test]
fn a_node_that_is_lost_while_it_is_given_access_is_not_fenced_and_an_old_answer_counts_nothing() {
    let mut t = bare(&[1, 2, 3]);
    t.answer_probes();
    t.without(3);
    assert_eq!(t.fences.len(), 0, "nothing ran there");
    let members = [instance(1), instance(2)];
    t.view(&members, &[], &[]);
    t.input(1, Input::Access { why: None });
    let stale = t.manager(1).status().stale;
    t.input(1, Input::Access { why: Some("late") });
    assert_eq!(t.manager(1).status().stale, stale + 1);
    assert!(t.manager(2).status().nodes[0].access);
}

#[test]
fn a_life_that_was_fenced_runs_nothing_when_it_is_back() {
    let mut t = Table::running(&[1, 2, 3]);
    let members = [instance(2), instance(3)];
    let departed = Departed { instance: instance(1), proof_of_death: false, why: "silent".into() };
    t.view(&members, &[], &[departed]);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    t.obey();
    assert_eq!(t.status(2).running_on, Some(instance(2)));
    let back = [instance(2), instance(3), instance(1)];
    t.view(&back, &[instance(1)], &[]);
    let over = |e: &Event| matches!(e, Event::LifeIsOver { node } if *node == instance(1));
    assert_eq!(t.events.iter().filter(|e| over(e)).count(), 2, "both who know say so");
    assert_eq!(t.asked(), [""; 0], "it is not even looked at");
    assert_eq!(t.status(2).running_on, Some(instance(2)));
    // In another life it may run things again.
    t.managers.retain(|(m, _)| *m != instance(1));
    let anew = life(1, 77);
    let departed = Departed { instance: instance(1), proof_of_death: false, why: "silent".into() };
    t.view(&[instance(2), instance(3), anew], &[anew], &[departed]);
    assert_eq!(t.fences.len(), 1, "and what was fenced is not fenced again");
    assert!(t.manager(2).status().nodes.iter().all(|n| !n.over));
}

#[test]
fn the_node_with_more_important_groups_is_the_more_important_one() {
    let mut config = config();
    config.groups[0].priority = 7;
    let mut t = Table::of(&config, &[1, 2], &[]);
    t.answer_probes();
    t.obey();
    assert_eq!([1, 2, 3].map(|n| t.manager(2).importance(NodeId::new(n))), [Some(7), Some(0), None]);
}

#[test]
fn a_part_of_a_group_makes_its_node_as_important_as_all_of_it_and_so_does_a_copy() {
    let importance =
        |t: &mut Table| [1, 2].map(|n| t.manager(2).importance(NodeId::new(n)).expect("a member"));
    let mut config = config();
    config.groups[0].priority = 7;
    let mut t = Table::of(&config, &[1, 2], &[]);
    assert_eq!(importance(&mut t), [0, 0], "nobody has looked yet");
    t.answer_probes();
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    t.answer(1, "site", Action::Start, Outcome::Ok);
    // The second resource has failed, is stopped, and the first one runs on.
    t.fail(1, "site");
    assert_eq!(importance(&mut t), [7, 0]);
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 start site"]);
    assert_eq!(importance(&mut t), [7, 0]);
    t.answer(1, "site", Action::Start, failed(OcfCode::Generic));
    assert_eq!(importance(&mut t), [7, 0]);
    // It goes to the other node, from its end to its beginning.
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(importance(&mut t), [7, 0]);
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 start ip"]);
    assert_eq!(importance(&mut t), [0, 7]);

    // Each of two copies counts, and the promoted one a little more.
    let group = &mut config.groups[0];
    (group.copies, group.promoted) = (2, 1);
    let mut t = Table::of(&config, &[1, 2], &[]);
    t.answer_probes();
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    t.answer(2, "ip", Action::Start, Outcome::Ok);
    assert_eq!(importance(&mut t), [7, 7]);
    t.obey();
    assert_eq!(importance(&mut t), [8, 7]);
}

#[test]
fn what_a_life_says_of_its_watchdog_is_known_to_all_and_to_who_comes_and_after_it_is_lost() {
    let mut t = Table::founded(&[1, 2]);
    t.manager(1).set_watchdog(Duration::from_secs(5));
    t.answer_probes();
    let of = |t: &mut Table, who: u32, node: u32| t.manager(who).watchdog_of(instance(node));
    let five = Some(Duration::from_secs(5));
    assert_eq!((of(&mut t, 2, 1), of(&mut t, 2, 2)), (five, None), "only what was said counts");
    let told = t.messages.len();
    t.answer(1, "ip", Action::Start, Outcome::Ok);
    let said = |t: &Table, from: usize| t.messages[from..].iter().filter(|(_, bytes)| bytes[1] == 14).count();
    assert_eq!(said(&t, told), 0, "it is said once");

    let members: Vec<_> = [1, 2, 3].map(instance).to_vec();
    let mut late = Manager::new(instance(3), config());
    late.set_watchdog(Duration::from_secs(7));
    late.handle(t.now, Input::View { number: 2, members: &members, joined: &members[2..], departed: &[] });
    t.view(&members, &members[2..], &[]);
    let state = t.manager(1).state().emit();
    late.handle(t.now, Input::State(&state));
    t.managers.push((instance(3), late));
    t.settle();
    assert_eq!((of(&mut t, 3, 1), of(&mut t, 2, 3)), (five, Some(Duration::from_secs(7))));

    t.answer_probes();
    t.without(1);
    assert_eq!(of(&mut t, 2, 1), five, "who fences it has to know");
    assert!(t.fences.iter().any(|(_, target, _)| *target == instance(1)));
}

#[test]
fn a_member_that_another_one_has_fenced_knows_it_unless_it_is_alone() {
    let mut t = Table::running(&[1, 2]);
    assert!(!t.manager(1).is_condemned());
    t.command(1, Command::StopGroup("web".into()));
    t.answer(1, "site", Action::Stop, failed(OcfCode::Generic));
    assert!(t.manager(1).is_condemned(), "it could not stop something");
    assert!(!t.manager(2).is_condemned());
    t.without(2);
    assert!(!t.manager(1).is_condemned(), "nobody is there who could take over");
}

/// A group that runs on n1, with this to say of hosts outside the cluster; all nodes reach all three.
fn reaching(reach: ReachConfig, change: impl FnOnce(&mut GroupConfig)) -> Table {
    let mut config = prefers(&[], None);
    config.groups[0].reach = Some(reach);
    change(&mut config.groups[0]);
    let mut t = Table::of(&config, &[1, 2, 3], &[]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 start ip"]);
    for node in 1..=3 {
        t.reach(node, 3);
    }
    t.pass(SETTLED);
    assert_eq!(t.manager(2).explain("web").expect("there is one").scores[0].reach, Some(3));
    assert_eq!(t.asked(), [""; 0]);
    t
}

/// Twice the time after which what is reached counts, and a little more.
const SETTLED: Duration = Duration::from_secs(11);

#[test]
fn what_one_node_alone_does_not_reach_any_more_moves_a_group_that_it_counts_for_once_that_has_settled() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    t.reach(1, 2);
    t.pass(Duration::from_secs(9));
    assert_eq!(t.asked(), [""; 0], "5 s until it says so, 5 s more until that counts");
    t.pass(Duration::from_secs(2));
    assert_eq!(t.obey(), ["n1 stop ip", "n2 start ip"], "whatever the stickiness");
    t.reach(1, 3);
    t.pass(SETTLED);
    assert_eq!(t.asked(), [""; 0], "as good again is not better");
    let text = t.manager(3).explain("web").expect("there is one").to_string();
    assert!(text.contains("reaches 3 hosts"), "{text}");
}

#[test]
fn a_group_that_does_not_ask_for_it_stays_whatever_nodes_reach_and_nothing_is_said() {
    let mut t = Table::running(&[1, 2]);
    let said = t.messages.len();
    t.reach(1, 0);
    t.reach(2, 3);
    t.pass(SETTLED);
    assert_eq!((t.asked().len(), t.messages.len()), (0, said));
}

/// All three lose a host, one after the other.
fn all_lose_a_host(t: &mut Table) {
    for node in [1, 3, 2] {
        t.reach(node, 2);
        t.pass(Duration::from_secs(2));
    }
    t.pass(SETTLED);
}

#[test]
fn a_host_that_nobody_reaches_any_more_moves_nothing_though_all_notice_at_another_time() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    all_lose_a_host(&mut t);
    assert_eq!(t.asked(), [""; 0]);
    let scores = t.manager(1).explain("web").expect("there is one").scores;
    assert!(scores.iter().all(|s| s.reach == Some(2)), "it counts by now: {scores:?}");
}

#[cfg(feature = "testing")]
#[test]
fn if_it_counted_before_it_has_settled_a_host_that_nobody_reaches_would_move_a_group() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    t.managers.iter_mut().for_each(|(_, m)| m.put_back(ocf_resource::testing::Bug::CountReachAtOnce));
    all_lose_a_host(&mut t);
    assert_eq!(t.asked(), ["n1 stop ip"]);
}

#[test]
fn a_host_that_comes_and_goes_moves_nothing_and_keeps_nothing_else_from_counting() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    for _ in 0..20 {
        t.reach(1, 2);
        t.pass(Duration::from_secs(3));
        t.reach(1, 3);
        t.pass(Duration::from_secs(3));
    }
    assert_eq!(t.asked(), [""; 0]);
    // What changes slowly enough to be told, at two nodes, keeps what n1 has lost for good from counting for 20 s.
    t.reach(1, 1);
    for round in 0..3 {
        for (node, hosts) in [(3, 2), (2, 2), (3, 1), (2, 1)] {
            t.reach(node, hosts);
            t.pass(Duration::from_secs(3));
        }
        assert_eq!(t.asked().len(), usize::from(round == 2), "after {} s", 12 * (round + 1));
    }
    assert_eq!(t.asked(), ["n1 stop ip"]);
}

#[test]
fn who_cannot_take_the_group_is_not_left_to_it_and_an_operator_is_above_all_of_it() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    t.command(1, Command::Standby(NodeId::new(2)));
    t.command(1, Command::Standby(NodeId::new(3)));
    t.reach(1, 0);
    t.pass(SETTLED);
    assert_eq!(t.asked(), [""; 0], "better here than nowhere");
    t.command(1, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(1)) });
    t.command(1, Command::Online(NodeId::new(3)));
    assert_eq!(t.asked(), [""; 0], "an operator wants it here");
    t.command(1, Command::MoveGroup { group: "web".into(), to: None });
    assert_eq!(t.obey(), ["n1 stop ip", "n3 start ip"]);
}

#[test]
fn a_lead_of_more_hosts_has_fewer_of_them_not_count_and_a_weight_is_held_against_the_stickiness() {
    let mut t = reaching(ReachConfig { lead: 2, ..ReachConfig::default() }, |_| ());
    t.reach(1, 2);
    t.pass(SETTLED);
    assert_eq!(t.asked(), [""; 0]);
    t.reach(1, 1);
    t.pass(SETTLED);
    assert_eq!(t.obey(), ["n1 stop ip", "n2 start ip"]);
    for (stickiness, moves) in [(49, true), (50, false)] {
        let weight = ReachConfig { weight: Score::new(50), lead: 1000 };
        let mut t = reaching(weight, |group| group.stickiness = Some(Score::new(stickiness)));
        t.reach(1, 2);
        t.pass(SETTLED);
        assert_eq!(t.obey().is_empty(), !moves, "stickiness {stickiness}");
    }
}

#[test]
fn what_a_life_reached_is_forgotten_with_it_and_who_is_senior_next_goes_on_settling() {
    let mut t = reaching(ReachConfig::default(), |group| group.nodes.clear());
    t.reach(3, 0);
    t.pass(Duration::from_secs(6));
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n2 start ip"]);
    t.obey();
    t.pass(SETTLED);
    let reached = |t: &mut Table| -> Vec<Option<u32>> {
        t.manager(2).explain("web").expect("there is one").scores.iter().map(|s| s.reach).collect()
    };
    assert_eq!(reached(&mut t), [Some(3), Some(0)]);
    // n3 joins anew: nothing is known of it until it says so again.
    t.view(&[instance(2), instance(3)], &[instance(3)], &[]);
    assert_eq!(reached(&mut t), [Some(3), None]);
}

#[test]
fn a_node_that_watches_nothing_is_no_better_and_no_worse() {
    let mut t = reaching(ReachConfig::default(), |_| ());
    t.view(&[instance(1), instance(2), instance(3)], &[instance(3)], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    t.input(3, Input::Reach { hosts: 0, of: 0 });
    t.pass(SETTLED);
    t.answer_probes();
    for node in [1, 2] {
        t.reach(node, 1);
    }
    t.pass(SETTLED);
    let scores = t.manager(3).explain("web").expect("there is one").scores;
    assert_eq!(scores.iter().map(|s| s.reach).collect::<Vec<_>>(), [Some(1), Some(1), None]);
    assert_eq!(t.asked(), [""; 0]);
}
