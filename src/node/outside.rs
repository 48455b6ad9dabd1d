//! What is told outside the cluster: programs of the user and mail, on a thread of their own.

use crate::config::{NodeConfig, OutsideConfig};
use crate::event::{NodeEvent, Numbered};
use crate::stack::Stack;
use core::time::Duration;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ocf_comm::driver::Stopped;
use ocf_membership::{Cause, Levels, NodeVotes, View};
use ocf_resource::Status;
use ocf_resource::driver::{Exits, Mail};
use pils::NodeInstance;
use pils::process::Runner;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use std::{io, thread};

/// Events that may wait to be told; more are dropped, and that is logged.
const WAITING_MAX: usize = 4096;
/// Programs that run at once.
const PROGRAMS: usize = 8;
/// How long the end of a node waits for programs that are still being told of something. They are killed then.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Tells programs and people what happens. Never holds the node up.
#[derive(Debug)]
pub(super) struct Outside {
    queue: Sender<Happening>,
    /// Closed once everybody has heard of everything.
    told: Receiver<()>,
    /// Who this node is, for its last message.
    local: NodeInstance,
    cluster: String,
}

enum Happening {
    Resource(ocf_resource::Event, Arc<Status>),
    Other(Value),
}

impl Outside {
    /// Starts the thread, if there is anybody to tell.
    pub(super) fn start(config: &NodeConfig, local: NodeInstance) -> io::Result<Option<Self>> {
        let OutsideConfig { programs, mail, .. } = &config.outside;
        if programs.is_none() && mail.is_none() {
            return Ok(None);
        }
        let runner = Runner::new(PROGRAMS)?;
        let exits = programs
            .as_ref()
            .map(|path| Exits::new(runner.clone(), path).with_timeout(config.outside.programs_timeout()));
        let letters = |entry: &crate::config::MailEntry| {
            let to: Vec<&str> = entry.to.iter().map(String::as_str).collect();
            let mail = Mail::new(runner, &config.cluster, &entry.from, &to).map_err(io::Error::other)?;
            Ok::<_, io::Error>(mail.with_program(&entry.program))
        };
        let mail = mail.as_ref().map(letters).transpose()?;
        let (queue, happenings) = bounded(WAITING_MAX);
        let (done, told) = bounded(0);
        thread::Builder::new().name("ocf-outside".to_owned()).spawn(move || {
            run(&happenings, exits.as_ref(), mail.as_ref());
            drop(done);
        })?;
        let outside = Self { queue, told, local, cluster: config.cluster.clone() };
        outside.post(Happening::Other(json!({
            "event": "node-started", "node": local.to_string(), "cluster": config.cluster,
            "text": format!("node {local} of {} has started", config.cluster),
        })));
        Ok(Some(outside))
    }

    /// Tells of the events of a turn.
    pub(super) fn tell(&self, turn: &VecDeque<Numbered>, stack: &Stack) {
        let mut status = None;
        for numbered in turn {
            if let NodeEvent::Resource(event) = &numbered.event {
                let status = status.get_or_insert_with(|| Arc::new(stack.manager.status()));
                self.post(Happening::Resource(event.clone(), Arc::clone(status)));
            } else if let Some(mut context) = context(&numbered.event) {
                context["number"] = json!(numbered.number);
                self.post(Happening::Other(context));
            }
        }
    }

    /// Tells of the node's end, and gives whoever is being told of something the time to end.
    pub(super) fn close(self, why: &Stopped) {
        let Self { local, cluster, .. } = &self;
        self.post(Happening::Other(json!({
            "event": "node-stopped", "node": local.to_string(), "cluster": cluster, "why": why.to_string(),
            "text": format!("node {local} of {cluster} has stopped: {why}"),
        })));
        let Self { queue, told, .. } = self;
        drop(queue);
        if told.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("programs that are told of events take too long");
        }
    }

    fn post(&self, happening: Happening) {
        if self.queue.try_send(happening).is_err() {
            tracing::warn!("programs are not told of an event: too many wait");
        }
    }
}

fn run(happenings: &Receiver<Happening>, exits: Option<&Exits>, mail: Option<&Mail>) {
    for happening in happenings {
        match happening {
            Happening::Resource(event, status) => {
                let programs = exits.map_or(0, |exits| exits.tell(&event, &status));
                let letter = mail.is_some_and(|mail| mail.tell(&event, &status));
                tracing::trace!(?event, programs, letter, "told outside");
            }
            Happening::Other(context) => {
                let programs = exits.map_or(0, |exits| exits.tell_of(&context));
                tracing::trace!(%context, programs, "told outside");
            }
        }
    }
    // The node has ended. What was begun goes on for a while: whoever hears of the end is not to be killed by it.
    let until = Instant::now() + LAST_WAIT;
    while Instant::now() < until && (exits.is_some_and(Exits::is_busy) || mail.is_some_and(Mail::is_busy)) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// A peer that cannot be in a view with this node.
fn apart(peer: NodeInstance, level: u32, (ours, theirs): (Levels, Levels)) -> Value {
    json!({
        "event": "incompatible", "peer": peer.to_string(), "level": level,
        "ours": [ours.oldest, ours.newest], "theirs": [theirs.oldest, theirs.newest],
        "text": format!("the cluster runs at level {level}; this node speaks {ours}, {peer} {theirs}: upgrade the older one"),
    })
}

fn entered(view: &View) -> Value {
    let members: Vec<String> = view.members.iter().map(|m| m.instance.to_string()).collect();
    let cause = |c: &Cause| json!({ "node": c.instance.to_string(), "why": c.reason.to_string() });
    let causes: Vec<Value> = view.causes.iter().map(cause).collect();
    let text = format!("view {} has {}", view.number, members.join(", "));
    json!({ "event": "view", "view": view.number.0, "members": members, "causes": causes, "text": text })
}

/// What programs are told of an event that is not about resources; `None` for those that are nobody's concern outside.
fn context(event: &NodeEvent) -> Option<Value> {
    Some(match event {
        NodeEvent::PeerUp(peer) => json!({
            "event": "peer-up", "node": peer.to_string(), "text": format!("{peer} can be reached"),
        }),
        NodeEvent::PeerDown { peer, reason } => json!({
            "event": "peer-down", "node": peer.to_string(), "why": reason.to_string(),
            "text": format!("{peer} is gone: {reason}"),
        }),
        NodeEvent::NonPrimary(why) => json!({
            "event": "non-primary", "why": format!("{why:?}"),
            "text": "this node is outside the primary partition",
        }),
        NodeEvent::Group(ocf_groups::Event::View(view)) => entered(view),
        NodeEvent::Merged { ours, primary, kept } => json!({
            "event": "merged", "ours": ours.0, "primary": primary.0, "kept": kept,
            "text": format!("this node comes from {ours} into what follows {primary}"),
        }),
        NodeEvent::TieAsked(claim) => json!({
            "event": "tie-asked", "what": format!("{claim:?}"),
            "text": "half of the votes are here: this node asks whether it may go on",
        }),
        NodeEvent::TieWon { evidence, reason } => json!({
            "event": "tie-won", "why": evidence.to_string(), "reason": reason,
            "text": format!("half of the votes go on: {evidence} {reason}"),
        }),
        NodeEvent::VotesChanged { revision, votes, quorum } => json!({
            "event": "votes-changed", "view": revision, "votes": by_node(votes), "quorum": quorum,
            "text": format!("{quorum} votes are needed from view {revision} on"),
        }),
        NodeEvent::Incompatible { peer, level, ours, theirs } => apart(*peer, *level, (*ours, *theirs)),
        NodeEvent::Removed { revision, nodes } => json!({
            "event": "removed", "view": revision, "votes": by_node(nodes),
            "text": format!("view {revision} removed this node from the set of nodes"),
        }),
        NodeEvent::VotesNotChanged { votes } => json!({
            "event": "votes-not-changed", "votes": by_node(votes), "text": "votes could not be changed in time",
        }),
        NodeEvent::Fencing(event) => json!({
            "event": "fencing", "what": format!("{event:?}"), "text": format!("fencing: {event:?}"),
        }),
        NodeEvent::Application(event) => json!({
            "event": "application", "application": event.application, "kind": event.kind,
            "silent_ms": u64::try_from(event.silent.as_millis()).unwrap_or(u64::MAX),
            "text": format!("application {}: {:?}", event.application, event.kind),
        }),
        NodeEvent::RebootWanted(application) => json!({
            "event": "reboot-wanted", "application": application,
            "text": format!("{application} failed, and asked for a reboot of this machine then"),
        }),
        NodeEvent::Path { .. }
        | NodeEvent::Refused { .. }
        | NodeEvent::Renewed { .. }
        | NodeEvent::Misbehaved { .. }
        | NodeEvent::Stalled { .. }
        | NodeEvent::Ping(_)
        | NodeEvent::Direct { .. }
        | NodeEvent::Suspended
        | NodeEvent::Resumed
        | NodeEvent::Group(_)
        | NodeEvent::Partition(_)
        | NodeEvent::Resource(_) => return None,
    })
}

fn by_node(votes: &[NodeVotes]) -> Value {
    votes.iter().map(|v| (v.node.to_string(), Value::from(v.votes))).collect::<serde_json::Map<_, _>>().into()
}
