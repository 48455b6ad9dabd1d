//! Three nodes in one process: they form a cluster, order messages, lose a node, fence it, recover, and take it back.
//!
//! `cargo run --release --example three_nodes` needs no rights, no files and no configuration. The exit status is 0 only
//! if every check held.
#![expect(clippy::print_stdout, reason = "the program is there to be watched")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a spectator picks what is worth watching")]

mod member;
mod service;

use crossbeam_channel::{Receiver, unbounded};
use member::{Ask, GROUP, Journal, Member, Told, What, compare};
use ocf::{Cluster, NodeEvent};
use ocf_groups::Event;
use pils::{NodeId, NodeInstance};
use service::World;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODES: u32 = 3;
const MESSAGES: u64 = 100_002;
/// Nothing here takes a second; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let started = Instant::now();
    let world = Arc::new(World::default());
    let equipped = Arc::clone(&world);
    let cluster = Cluster::builder("three nodes")
        .resources(toml::from_str(RESOURCES)?)
        .fencing(toml::from_str(FENCING)?, ocf_stonith::FenceAction::Off)
        .equip(move |node| service::equip(&equipped, node))
        .local(NODES)?;
    let (tell, told) = unbounded();
    let members =
        cluster.running().map(|node| (node.local(), Member::start(node.clone(), tell.clone()))).collect();
    let mut show =
        Show { started, world, cluster, members, told, tell, journals: BTreeMap::new(), wrong: Vec::new() };

    let phases = show.form().and_then(|()| show.order()).and_then(|()| show.fail_over());
    let phases = phases.and_then(|phases| show.take_back().map(|()| phases));
    Ok(show.verdict(phases))
}

const RESOURCES: &str = r#"
    [[groups]]
    name = "web"
    nodes = [1, 2, 3]
    [[groups.resources]]
    name = "service"
    agent = "demo:service"
    monitor_interval = "200ms"
    monitor_timeout = "1s"
"#;

const FENCING: &str = r#"
    [[devices]]
    name = "outlet"
    class = "switch"
    nodes = "all"
    timeout_ms = 5000
"#;

/// When each part of the fail-over was done, counted from the kill.
struct Phases {
    detect: Duration,
    agree: Duration,
    fence: Duration,
    recover: Duration,
}

struct Show {
    started: Instant,
    world: Arc<World>,
    cluster: Cluster,
    members: BTreeMap<NodeInstance, Member>,
    told: Receiver<Told>,
    tell: crossbeam_channel::Sender<Told>,
    journals: BTreeMap<NodeInstance, Journal>,
    wrong: Vec<String>,
}

impl Show {
    fn say(&self, text: impl std::fmt::Display) {
        println!("{:7.3} s  {text}", self.started.elapsed().as_secs_f64());
    }

    /// Watches what members tell until `done` says so; `what` is for the error when it takes too long.
    fn watch(&self, what: &str, mut done: impl FnMut(&Told) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told =
                self.told.recv_deadline(deadline).map_err(|_late| format!("waited too long for {what}"))?;
            self.print(&told);
            if done(&told) {
                return Ok(());
            }
        }
    }

    fn print(&self, told: &Told) {
        let What::Event(event) = &told.what else { return };
        let narrator = self.members.keys().next().copied();
        let node = told.node.node;
        match event {
            NodeEvent::Group(Event::View(view)) => {
                let members: Vec<String> = view.members.iter().map(|m| m.instance.to_string()).collect();
                let causes: Vec<String> =
                    view.causes.iter().map(|c| format!("{} {}", c.instance.node, c.reason)).collect();
                if Some(told.node) == narrator {
                    self.say(format_args!(
                        "view {} = {{{}}}: {}",
                        view.number,
                        members.join(", "),
                        causes.join("; ")
                    ));
                }
            }
            NodeEvent::Fencing(event) => self.say(format_args!("fencing by {node}: {}", fencing(event))),
            NodeEvent::Resource(event) if Some(told.node) == narrator => {
                if let Some(text) = resource(event) {
                    self.say(text);
                }
            }
            NodeEvent::Group(Event::State { position, .. }) => {
                self.say(format_args!("{node} received the state of group {GROUP:?} as of {position}"));
            }
            NodeEvent::Stalled { late } => self.say(format_args!("{node} did not run for {late:?}")),
            _ => {}
        }
    }

    fn form(&self) -> Result<(), String> {
        self.say(format_args!("{NODES} nodes listen on 127.0.0.1, encrypted with a fresh key"));
        let mut formed = BTreeSet::new();
        self.watch("a view of all nodes", |told| {
            if let What::Event(NodeEvent::Group(Event::View(view))) = &told.what
                && view.members.len() == NODES as usize
            {
                formed.insert(told.node);
            }
            formed.len() == NODES as usize
        })?;
        self.watch("the service to run", |_| !self.world.running().is_empty())
    }

    fn order(&self) -> Result<(), String> {
        let began = Instant::now();
        for member in self.members.values() {
            member.ask(Ask::Burst(MESSAGES / u64::from(NODES)));
        }
        let mut done = BTreeSet::new();
        self.watch("every message at every member", |told| {
            if matches!(told.what, What::Count(n) if n >= MESSAGES) {
                done.insert(told.node);
            }
            done.len() == NODES as usize
        })?;
        let took = began.elapsed();
        self.say(format_args!(
            "{MESSAGES} messages from {NODES} senders delivered to every member in one order in {:.0} ms: {:.0} a second",
            took.as_secs_f64() * 1e3,
            f64::from(u32::try_from(MESSAGES).unwrap_or(u32::MAX)) / took.as_secs_f64()
        ));
        Ok(())
    }

    fn fail_over(&mut self) -> Result<Phases, String> {
        for member in self.members.values() {
            member.ask(Ask::Trickle(true));
        }
        let running = self.world.running();
        let Some(victim) = running.first().copied() else {
            return Err("the service runs nowhere".to_owned());
        };
        let index = usize::try_from(victim.raw() - 1).unwrap_or(usize::MAX);
        let Some(node) = self.cluster.kill(index) else { return Err(format!("{victim} does not run")) };
        let killed = Instant::now();
        let dead = node.local();
        self.say(format_args!("{dead} is killed without warning; the service ran there"));
        if let Some(member) = self.members.remove(&dead) {
            self.journals.insert(dead, member.finish());
        }
        let (mut detect, mut fence, mut recover) = (None, None, None);
        let mut agreed: BTreeMap<NodeInstance, Duration> = BTreeMap::new();
        self.watch("the service to run elsewhere", |told| {
            let at = told.at.saturating_duration_since(killed);
            match &told.what {
                What::Event(NodeEvent::PeerDown { peer, .. }) if *peer == dead => {
                    detect.get_or_insert(at);
                }
                What::Event(NodeEvent::Group(Event::View(view))) if !view.contains(dead) => {
                    agreed.insert(told.node, at);
                }
                What::Event(NodeEvent::Fencing(ocf_stonith::Event::Finished { target, outcome }))
                    if *target == dead && outcome.is_confirmed() =>
                {
                    fence.get_or_insert(at);
                }
                What::Event(NodeEvent::Resource(ocf_resource::Event::Started { node, .. }))
                    if *node != dead =>
                {
                    recover.get_or_insert(at);
                }
                _ => {}
            }
            // Threads tell what they see in any order.
            let survivors = self.members.len();
            detect.is_some() && agreed.len() == survivors && fence.is_some() && recover.is_some()
        })?;
        let agree = agreed.values().max().copied();
        match (detect, agree, fence, recover) {
            (Some(detect), Some(agree), Some(fence), Some(recover))
                if detect <= agree && fence <= recover =>
            {
                Ok(Phases { detect, agree, fence, recover })
            }
            _ => Err(format!(
                "the fail-over went wrong: detect {detect:?}, agree {agree:?}, fence {fence:?}, recover {recover:?}"
            )),
        }
    }

    fn take_back(&mut self) -> Result<(), String> {
        let missing = (0..self.cluster.len()).find(|i| self.cluster.node(*i).is_none());
        let Some(index) = missing else { return Err("no node is missing".to_owned()) };
        let node = self.cluster.start(index).map_err(|error| error.to_string())?.clone();
        let local = node.local();
        self.say(format_args!("{local} starts: the killed node, as a new incarnation"));
        let tell = self.tell.clone();
        self.members.insert(local, Member::start(node, tell));
        let mut state = false;
        // The count that satisfies the wait may be the last one that the node ever tells.
        let mut counts: BTreeMap<NodeInstance, u64> = BTreeMap::new();
        self.watch("the returned node to have the group's state and follow it", |told| {
            if let What::Count(count) = told.what {
                counts.insert(told.node, count);
            }
            state |= told.node == local
                && matches!(&told.what, What::Event(NodeEvent::Group(Event::State { .. })));
            state && told.node == local && matches!(told.what, What::Count(n) if n > MESSAGES)
        })?;
        for member in self.members.values() {
            member.ask(Ask::Trickle(false));
        }
        let everyone = self.members.len();
        // The stream is at rest when everybody has the same count for a while.
        let mut rest = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        while rest.elapsed() < Duration::from_millis(200) {
            if Instant::now() > deadline {
                return Err(format!("the members do not come to the same count: {counts:?}"));
            }
            if let Ok(told) = self.told.recv_timeout(Duration::from_millis(20)) {
                self.print(&told);
                if let What::Count(count) = told.what {
                    counts.insert(told.node, count);
                    rest = Instant::now();
                }
            }
            counts.retain(|node, _| self.members.contains_key(node));
            let equal = counts.values().collect::<BTreeSet<_>>().len() == 1;
            if counts.len() < everyone || !equal {
                rest = Instant::now();
            }
        }
        Ok(())
    }

    fn verdict(mut self, phases: Result<Phases, String>) -> ExitCode {
        let service: Vec<NodeId> = self.world.running();
        for (local, member) in std::mem::take(&mut self.members) {
            self.journals.insert(local, member.finish());
        }
        self.wrong.extend(compare(&self.journals));
        self.wrong.extend(self.world.twice());
        if service.len() != 1 {
            self.wrong.push(format!("the service runs on {} nodes", service.len()));
        }
        println!();
        match phases {
            Ok(Phases { detect, agree, fence, recover }) => {
                let line = |name, from: Duration, to: Duration, what| {
                    let (took, at) = (to.saturating_sub(from).as_secs_f64() * 1e3, to.as_secs_f64() * 1e3);
                    println!("{name:8} {took:8.1} ms   (at {at:7.1} ms)   {what}");
                };
                line("detect", Duration::ZERO, detect, "a survivor misses the node");
                line("agree", detect, agree, "all survivors are in one view without it");
                line("fence", agree, fence, "the device has read back that it is off");
                line("recover", fence, recover, "the service runs on another node");
            }
            Err(error) => self.wrong.push(error),
        }
        let deliveries: u64 = self.journals.values().map(|j| j.after.len() as u64).sum();
        if self.wrong.is_empty() {
            println!(
                "\nverdict: every check held: content, total order and virtual synchrony of {deliveries} deliveries, one \
                 service on one node, fenced before recovered, state for the returned node ({:.1} s in all)",
                self.started.elapsed().as_secs_f64()
            );
            return ExitCode::SUCCESS;
        }
        for node in self.cluster.running() {
            let known = node.snapshot().map(|snapshot| serde_json::to_string(&snapshot).unwrap_or_default());
            println!("{}: {}", node.local(), known.unwrap_or_else(|stopped| stopped.to_string()));
        }
        println!("\nverdict: FAILED");
        for wrong in self.wrong.iter().take(20) {
            println!("  {wrong}");
        }
        ExitCode::FAILURE
    }
}

fn fencing(event: &ocf_stonith::Event) -> String {
    use ocf_stonith::Event;
    match event {
        Event::Started { target, action, cause, .. } => format!("{action} of {target} requested, {cause}"),
        Event::AttemptStarted { target, device, .. } => format!("device {device:?} is asked for {target}"),
        Event::AttemptFailed { target, device, failure, .. } => {
            format!("{device:?} failed for {target}: {failure}")
        }
        Event::Finished { target, outcome } => format!("{target} {outcome}"),
        other => format!("{other:?}"),
    }
}

fn resource(event: &ocf_resource::Event) -> Option<String> {
    use ocf_resource::Event;
    Some(match event {
        Event::Started { resource, node, .. } => format!("{resource} runs on {node}"),
        Event::Stopped { resource, node, .. } => format!("{resource} is down on {node}"),
        Event::Failed { resource, node, why, .. } => format!("{resource} failed on {node}: {why}"),
        Event::Fenced { target, detail } => format!("what ran on {target} is free: {detail}"),
        Event::FenceUnconfirmed { target, detail, .. } => {
            format!("recovery of what ran on {target} waits: {detail}")
        }
        Event::Blocked { group, because: Some(because) } => format!("group {group} {because}"),
        _ => return None,
    })
}
