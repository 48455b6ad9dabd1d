//! Agents that hang or are not there.

use crate::support::{Crowd, Plan, World};
use ocf::{NodeBuilder, NodeEvent, StartError};
use ocf_resource::driver::{InProcess, RustClass};
use ocf_resource::{
    Action, AgentClass, AgentError, AgentName, Blocked, Event, Metadata, OcfCode, Operation, ResourceAgent,
};
use parking_lot::Mutex;
use pils::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_monitor_that_never_answers_is_a_failure_after_its_timeout_and_the_resource_moves() {
    let world = Arc::new(World::default());
    let here = Arc::clone(&world);
    let resources = r#"
        [[groups]]
        name = "web"
        nodes = [1, 2, 3]
        migration_threshold = 1
        [[groups.resources]]
        name = "service"
        agent = "rust:service"
        monitor_interval = "200ms"
        monitor_timeout = "400ms"
    "#;
    let mut crowd =
        Crowd::form(3, &Plan { resources, equip: Box::new(move |node| here.equip(node)), ..Plan::default() });
    crowd.until("the service to run", |_| world.runs("service") == [NodeId::new(1)]);
    world.hang_monitors(NodeId::new(1), true);
    crowd.until("the service to move", |_| world.runs("service") == [NodeId::new(2)]);
    let failed = |e: &NodeEvent| matches!(e, NodeEvent::Resource(Event::Failed { action: Action::Monitor, why, .. }) if why.contains("time"));
    crowd.until("everybody to be told why", |crowd| (0..3).all(|i| crowd.seen(i).iter().any(failed)));
    crowd.until("the snapshot to say so", |crowd| {
        let group = &crowd.snapshot(2).resources.groups[0];
        group.running_on.is_some_and(|n| n.node == NodeId::new(2))
            && group.failures.iter().any(|f| f.why.contains("time"))
    });
    assert_eq!(world.twice(), Vec::<String>::new());
    assert!(!crowd.anyone(|e| matches!(e, NodeEvent::Fencing(_))), "a stop that works needs no fencing");
    world.hang_monitors(NodeId::new(1), false);
}

/// A class whose agents are there when the node starts, and are removed later.
struct Removed {
    inner: Mutex<Option<Arc<dyn AgentClass>>>,
    removed: Arc<AtomicBool>,
}

impl AgentClass for Removed {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if self.removed.load(Ordering::SeqCst) {
            let looked_at = vec!["where it was".into()];
            return Err(AgentError::AgentMissing { agent: agent.clone(), looked_at });
        }
        let plain: AgentName = "rust:service".parse().unwrap();
        self.inner.lock().as_ref().unwrap().find(&plain)
    }

    fn list(&self) -> Vec<AgentName> {
        Vec::new()
    }
}

#[test]
fn an_agent_that_is_missing_blocks_its_group_with_a_reason_and_no_other() {
    let world = Arc::new(World::default());
    let removed = Arc::new(AtomicBool::new(false));
    let (here, gone) = (Arc::clone(&world), Arc::clone(&removed));
    let equip = move |node: NodeBuilder| {
        let class = Removed { inner: Mutex::new(Some(here.class(node.node()))), removed: Arc::clone(&gone) };
        here.equip(node).agent_class("frail", Arc::new(class))
    };
    let resources = r#"
        [[groups]]
        name = "frail"
        started = false
        [[groups.resources]]
        name = "fragile"
        agent = "frail:service"
        [[groups]]
        name = "web"
        [[groups.resources]]
        name = "service"
        agent = "rust:service"
        monitor_interval = "200ms"
    "#;
    let mut crowd = Crowd::form(3, &Plan { resources, equip: Box::new(equip), ..Plan::default() });
    crowd.until("the service to run", |_| world.runs("service").len() == 1);
    removed.store(true, Ordering::SeqCst);
    crowd.nodes[0].command(ocf_resource::Command::StartGroup("frail".into())).unwrap();
    crowd.until("the group to be blocked, and to say why", |crowd| {
        let groups = crowd.snapshot(1).resources.groups;
        let frail = groups.iter().find(|g| &*g.name == "frail").unwrap();
        matches!(&frail.blocked, Some(blocked @ Blocked::NoNode { nodes }) if nodes.len() == 3 && blocked.to_string().contains("frail:service"))
    });
    let told = |e: &NodeEvent| matches!(e, NodeEvent::Resource(Event::Blocked { group, because: Some(Blocked::NoNode { .. }) }) if **group == *"frail");
    assert!(crowd.anyone(told));
    assert_eq!(world.runs("fragile"), []);
    assert_eq!(world.runs("service").len(), 1, "the other group runs");
    let status = crowd.snapshot(1).resources;
    assert!(status.groups.iter().any(|g| &*g.name == "web" && g.running_on.is_some() && g.blocked.is_none()));
}

/// An agent that takes one parameter, and needs it.
struct Strict(Arc<AtomicBool>);

impl InProcess for Strict {
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        let called = operation.action != Action::Monitor;
        self.0.fetch_or(called, Ordering::SeqCst);
        if called { Ok(String::new()) } else { Err((OcfCode::NotRunning, "stopped".to_owned())) }
    }

    fn metadata(&self) -> Metadata {
        let text = r#"<resource-agent name="strict"><parameters><parameter name="path" required="1">
            <content type="string"/></parameter></parameters><actions><action name="start"/><action name="stop"/>
            <action name="monitor"/></actions></resource-agent>"#;
        Metadata::parse(text).expect("well-formed")
    }
}

#[test]
fn a_parameter_that_an_agent_does_not_take_blocks_its_resource_and_keeps_no_node_from_starting() {
    let world = Arc::new(World::default());
    let called = Arc::new(AtomicBool::new(false));
    let (here, tell) = (Arc::clone(&world), Arc::clone(&called));
    let equip = move |node: NodeBuilder| {
        let strict = RustClass::new().with("agent", Arc::new(Strict(Arc::clone(&tell))));
        let node = here.equip(node).agent_class("strict", Arc::new(strict));
        let Err(StartError::Config(errors)) = node.check() else { panic!("a check tells all of it") };
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        let of = |name: &str| format!("resources.groups[0].resources[0].parameters.{name}");
        assert!(paths.contains(&&*of("path")) && paths.contains(&&*of("pth")), "{errors}");
        node
    };
    let resources = r#"
        [[groups]]
        name = "wrong"
        [[groups.resources]]
        name = "misspelt"
        agent = "strict:agent"
        parameters = { pth = "/srv" }
        [[groups]]
        name = "web"
        [[groups.resources]]
        name = "service"
        agent = "rust:service"
    "#;
    let mut crowd = Crowd::form(3, &Plan { resources, equip: Box::new(equip), ..Plan::default() });
    crowd.until("the other service to run", |_| world.runs("service").len() == 1);
    crowd.until("the group to be blocked, and to say which parameters", |crowd| {
        let groups = crowd.snapshot(0).resources.groups;
        let wrong = groups.iter().find(|g| &*g.name == "wrong").expect("it is configured");
        wrong.blocked.as_ref().is_some_and(|blocked| {
            let text = blocked.to_string();
            text.contains("pth") && text.contains("path")
        })
    });
    assert!(!called.load(Ordering::SeqCst), "its agent was not called with parameters that it does not take");
    assert!(!crowd.anyone(|e| matches!(e, NodeEvent::Fencing(_))), "and nobody is fenced for that");
}
