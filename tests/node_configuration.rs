//! Goal: what real nodes run is changed while they run, and stays changed when all of them begin anew with old files.
//! Method: nodes in this process, with agents that are parts of it.

use ocf::{Cluster, Node, NodeEvent};
use ocf_resource::driver::{RustClass, Stateful};
use ocf_resource::{Command, CommandError, Config, ConfigurationError, Event, GroupConfig, ResourceConfig};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn group(name: &str, resources: &[&str]) -> GroupConfig {
    let resource = |name: &&str| ResourceConfig::new(*name, "rust:stateful".parse().expect("a name"));
    GroupConfig::new(name, resources.iter().map(resource).collect())
}

fn old() -> Config {
    Config { groups: vec![group("web", &["address", "site"]), group("mail", &["smtp"])], ..Config::default() }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn runs(agents: &[Stateful], resource: &str) -> usize {
    agents.iter().filter(|a| a.is_running(resource)).count()
}

/// Changes what the cluster runs, as a program does that nobody else gets in between of.
fn change(node: &Node, change: impl Fn(&mut Config)) {
    let mut resources = node.configuration().expect("it runs").expect("it is a member");
    change(&mut resources);
    node.command(Command::Configure(Arc::new(resources))).expect("it is good");
}

#[test]
fn resources_are_added_and_removed_from_any_node_and_all_others_run_on() {
    let agents: Vec<Stateful> = (0..3).map(|_| Stateful::new()).collect();
    let equipped = agents.clone();
    let equip = move |builder: ocf::NodeBuilder| {
        let at = usize::try_from(builder.node().raw() - 1).expect("small");
        let class = RustClass::new().with("stateful", Arc::new(equipped[at].clone()));
        builder.agent_class("rust", Arc::new(class))
    };
    let cluster = Cluster::builder("changes").resources(old()).equip(equip).local(3).expect("it starts");
    wait_until("all runs", || ["address", "site", "smtp"].iter().all(|r| runs(&agents, r) == 1));
    let node = cluster.node(2).expect("it runs");
    change(node, |config| {
        config.groups[0].resources.truncate(1);
        config.groups[1] = group("news", &["feed"]);
    });
    let changed = || runs(&agents, "site") + runs(&agents, "smtp") == 0 && runs(&agents, "feed") == 1;
    wait_until("what is new runs, and what is removed does not", changed);
    assert_eq!(runs(&agents, "address"), 1);
    let status = |node: &Node| node.snapshot().expect("it runs").resources;
    wait_until("what is removed is forgotten", || {
        cluster.running().all(|n| status(n).groups.iter().all(|g| !g.removing && g.resources.len() == 1))
    });
    assert!(cluster.running().all(|n| status(n).revision == 1));
    let late = node.command(Command::Configure(Arc::new(old()))).expect_err("it was made from an older one");
    let outdated = ConfigurationError::Outdated { from: 0, agreed: 1 };
    assert_eq!(late.to_string(), CommandError::Configuration(outdated).to_string());
    let stopped = |event: &NodeEvent| matches!(event, NodeEvent::Resource(Event::Stopped { resource, .. }) if &**resource == "address");
    while let Some(event) = node.next_event(Duration::ZERO) {
        assert!(!stopped(&event.event), "what stays was restarted");
    }
}

#[test]
fn a_cluster_that_begins_anew_with_an_old_file_does_not_bring_back_what_was_removed() {
    let folder = std::env::temp_dir().join(format!("ocf-configuration-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a place");
    let mut config = Cluster::builder("anew").local(1).expect("it starts").config(0);
    config.resources = old();
    config.record = Some(folder.join("record"));
    let start = |config: ocf::NodeConfig| {
        let agent = Stateful::new();
        let class = RustClass::new().with("stateful", Arc::new(agent.clone()));
        (Node::builder(config).agent_class("rust", Arc::new(class)).start().expect("it starts"), agent)
    };
    let (node, agent) = start(config.clone());
    wait_until("all runs", || agent.running().len() == 3);
    change(&node, |config| drop(config.groups.remove(0)));
    wait_until("it is gone", || agent.running() == ["smtp"]);
    let kept = folder.join("record.resources");
    wait_until("it is kept", || fs::read_to_string(&kept).is_ok_and(|text| !text.contains("site")));
    node.kill();
    drop(node);
    let (node, agent) = start(config.clone());
    wait_until("the rest runs again", || agent.running() == ["smtp"]);
    assert_eq!(node.configuration().expect("it runs").expect("a member").revision, 1);
    node.kill();
    drop(node);
    // A file that says that it is newer counts.
    config.resources.revision = 2;
    let (node, agent) = start(config);
    wait_until("all that the file says runs", || agent.running().len() == 3);
    node.kill();
    drop(node);
    fs::remove_dir_all(&folder).expect("it was made");
}
