//! What is done outside when something happens: programs of the user, and mail.

use super::process::{environment, programs};
use crate::{Event, Status};
use pils::process::{Command, Exit, Runner};
use serde::Serialize;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Digits of the longest number that every reader of JSON that has whole numbers of 64 bits reads.
const LONG: usize = 19;

/// Runs the user's programs when something happens to the cluster's resources.
///
/// Every executable file of a directory is run, in the order of their names, with the event's name as its argument and all
/// that is known as JSON on its standard input ([`context`]); `OCF_EVENT`, `OCF_RESOURCE`, `OCF_GROUP` and `OCF_NODE` are in its
/// environment. What it answers changes nothing; what fails or does not end in time is logged.
#[derive(Clone, Debug)]
pub struct Exits {
    runner: Runner,
    directory: PathBuf,
    timeout: Duration,
    busy: Busy,
}

/// Counts programs that are being told of something.
#[derive(Clone, Debug, Default)]
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn run(&self, runner: &Runner, command: Command, name: String) {
        let Self(count) = self.clone();
        count.fetch_add(1, Ordering::SeqCst);
        let _ticket = runner.run(command, move |finished| {
            if finished.exit != Exit::Code(0) {
                let said = String::from_utf8_lossy(&finished.stderr).into_owned();
                tracing::warn!(%name, exit = %finished.exit, said, "a program that is told of events failed");
            }
            count.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Exits {
    /// The programs of this directory; an absolute path. `runner` limits how many run at a time.
    #[must_use]
    pub fn new(runner: Runner, directory: impl Into<PathBuf>) -> Self {
        Self { runner, directory: directory.into(), timeout: Duration::from_secs(30), busy: Busy::default() }
    }

    /// Time that each may take. Default 30 s.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Tells them of an event, and returns at once with how many there are.
    pub fn tell(&self, event: &Event, status: &Status) -> usize {
        self.tell_of(&context(event, status))
    }

    /// Tells them of something else in the same way: an object that has at least `event` and `text`. Returns at once with how many
    /// there are.
    pub fn tell_of(&self, context: &Value) -> usize {
        let programs = programs(&self.directory);
        for (name, path) in &programs {
            let mut command = Command::new(path);
            command.args = vec![text(context, "event").into()];
            command.env = environment();
            command.env.extend(variables(context));
            command.stdin = context.to_string().into_bytes();
            command.timeout = self.timeout;
            self.busy.run(&self.runner, command, name.clone());
        }
        programs.len()
    }

    /// True while one that was told of something runs, or waits for its turn.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.is_any()
    }
}

fn text(context: &Value, key: &str) -> String {
    context[key].as_str().unwrap_or_default().to_owned()
}

fn variables(context: &Value) -> Vec<(OsString, OsString)> {
    let one = |(name, key): (&str, &str)| (name.into(), text(context, key).into());
    [("OCF_EVENT", "event"), ("OCF_RESOURCE", "resource"), ("OCF_GROUP", "group"), ("OCF_NODE", "node")]
        .map(one)
        .to_vec()
}

/// An event with all that is known about it, as JSON: `event`, a sentence in `text`, what it is about (`resource`, `group`,
/// `node`, `action`, `decision`, `why`, ..), the state of its group in `state`, and the view's number.
#[must_use]
pub fn context(event: &Event, status: &Status) -> Value {
    let mut context = fields(event);
    let resource = text(&context, "resource");
    let group = status
        .groups
        .iter()
        .find(|g| *g.name == *text(&context, "group") || g.resources.iter().any(|r| *r.name == *resource));
    if let Some(group) = group {
        context["group"] = json!(group.name);
        context["state"] = plain(group);
    }
    context["view"] = json!(status.view);
    context
}

/// JSON of a part of the status. Which life of a node it is is a number of 128 bits, which readers of JSON round: it becomes text.
fn plain(part: &impl Serialize) -> Value {
    let text = serde_json::to_string(part).unwrap_or_default();
    let mut quoted = String::with_capacity(text.len());
    let (mut inside, mut rest) = (false, text.as_str());
    while let Some(c) = rest.chars().next() {
        // What is taken in one piece: a number, an escape, or one character.
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let piece = match c {
            '\\' => 2,
            _ if digits > 0 && !inside => digits,
            _ => c.len_utf8(),
        };
        inside ^= c == '"';
        let (piece, after) = rest.split_at(piece);
        let long = digits > LONG && !inside;
        quoted.extend([if long { "\"" } else { "" }, piece, if long { "\"" } else { "" }]);
        rest = after;
    }
    serde_json::from_str(&quoted).unwrap_or_default()
}

fn fields(event: &Event) -> Value {
    match event {
        Event::Decided { decision, resource, node, action, why } => json!({
            "event": "decided", "resource": resource, "node": node.to_string(), "action": action,
            "decision": decision, "why": why, "text": format!("{action} {resource} on {node}"),
        }),
        Event::Notifying { decision, resource, node, action, before, listeners } => json!({
            "event": "notifying", "resource": resource, "node": node.to_string(), "action": action,
            "decision": decision, "before": before,
            "listeners": listeners.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "text": format!("instances hear of {action} of {resource} on {node}"),
        }),
        Event::Noticed { decision, resource, node, action } => json!({
            "event": "noticed", "resource": resource, "node": node.to_string(), "action": action,
            "decision": decision, "text": format!("all have heard of {action} of {resource} on {node}"),
        }),
        Event::Started { resource, node, decision } => json!({
            "event": "started", "resource": resource, "node": node.to_string(), "decision": decision,
            "text": format!("{resource} runs on {node}"),
        }),
        Event::RoleChanged { resource, node, role, decision } => json!({
            "event": "role-changed", "resource": resource, "node": node.to_string(), "decision": decision,
            "role": role, "text": format!("{resource} is {} on {node}", role.word().to_lowercase()),
        }),
        Event::Reloaded { resource, node, decision } => json!({
            "event": "reloaded", "resource": resource, "node": node.to_string(), "decision": decision,
            "text": format!("{resource} has taken changed parameters on {node}"),
        }),
        Event::Stopped { resource, node, decision } => json!({
            "event": "stopped", "resource": resource, "node": node.to_string(), "decision": decision,
            "text": format!("{resource} is down on {node}"),
        }),
        Event::Failed { resource, node, action, decision, why, failures } => json!({
            "event": "failed", "resource": resource, "node": node.to_string(), "action": action,
            "decision": decision, "why": why, "failures": failures,
            "text": format!("{action} of {resource} failed on {node}: {why}"),
        }),
        Event::Fenced { target, detail } => json!({
            "event": "fenced", "node": target.to_string(), "why": detail,
            "text": format!("{target} is fenced: {detail}"),
        }),
        Event::FenceUnconfirmed { target, outcome, detail } => json!({
            "event": "fence-unconfirmed", "node": target.to_string(), "outcome": outcome, "why": detail,
            "text": format!("{target} is not known to be fenced: {detail}"),
        }),
        Event::Blocked { group, because: Some(why) } => json!({
            "event": "blocked", "group": group, "why": why.to_string(), "because": plain(why),
            "ways_out": why.ways_out(group), "text": format!("{group}: {why}"),
        }),
        Event::Blocked { group, because: None } => {
            json!({ "event": "unblocked", "group": group, "text": format!("{group} gets on again") })
        }
        Event::ReadyToLeave => json!({ "event": "ready-to-leave", "text": "this node may leave" }),
        Event::AccessGiven { .. } | Event::AccessRefused { .. } | Event::LifeIsOver { .. } => access(event),
        Event::ConfigurationDiffers
        | Event::Configured { .. }
        | Event::ConfigurationRefused { .. }
        | Event::Removed { .. } => changes(event),
        Event::StoppingAll { resources } => json!({
            "event": "stopping-all", "resources": resources,
            "text": "this node left the primary partition and stops what it runs",
        }),
        Event::StoppedAlone { resource, result } => json!({
            "event": "stopped-alone", "resource": resource, "why": result.explain(),
            "text": format!("stop of {resource} outside the primary partition: {}", result.explain()),
        }),
        Event::Malformed { error, .. } => json!({
            "event": "malformed", "why": error.to_string(), "text": format!("a message could not be read: {error}"),
        }),
    }
}

/// What is said of changes of the configuration.
#[expect(clippy::wildcard_enum_match_arm, reason = "all else is said elsewhere")]
fn changes(event: &Event) -> Value {
    match event {
        Event::ConfigurationDiffers => json!({
            "event": "configuration-differs", "text": "the cluster runs another configuration than this node's",
        }),
        Event::Configured { revision, by } => json!({
            "event": "configured", "revision": revision, "node": by.to_string(),
            "text": format!("what the cluster runs is revision {revision} of its configuration, from {by}"),
        }),
        Event::ConfigurationRefused { by, error } => json!({
            "event": "configuration-refused", "node": by.to_string(), "why": error.to_string(),
            "text": format!("the configuration from {by} is not taken: {error}"),
        }),
        Event::Removed { resource } => json!({
            "event": "removed", "resource": resource, "text": format!("{resource} is down everywhere, and removed"),
        }),
        _ => json!({}),
    }
}

/// What is said of a node's access.
#[expect(clippy::wildcard_enum_match_arm, reason = "all else is said elsewhere")]
fn access(event: &Event) -> Value {
    match event {
        Event::AccessGiven { node } => json!({
            "event": "access-given", "node": node.to_string(), "text": format!("{node} has its access"),
        }),
        Event::AccessRefused { node, why } => json!({
            "event": "access-refused", "node": node.to_string(), "why": why,
            "text": format!("{node} cannot be given its access: {why}"),
        }),
        Event::LifeIsOver { node } => json!({
            "event": "life-is-over", "node": node.to_string(),
            "text": format!("{node} was fenced and is a member in the same life: start its machine anew"),
        }),
        _ => json!({}),
    }
}

/// Sends mail when something happens that a person should know.
#[derive(Clone, Debug)]
pub struct Mail {
    runner: Runner,
    program: PathBuf,
    from: String,
    to: Vec<String>,
    cluster: String,
    busy: Busy,
}

/// An address that cannot stand in a letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} cannot be an address of mail")]
pub struct AddressError {
    /// The address.
    pub address: String,
}

impl Mail {
    /// Mail of the cluster of this name, handed to `/usr/sbin/sendmail`.
    ///
    /// # Errors
    /// [`AddressError`] for an address with spaces, commas, line ends, or without `@`.
    pub fn new(runner: Runner, cluster: &str, from: &str, to: &[&str]) -> Result<Self, AddressError> {
        to.iter().chain([&from]).try_for_each(|address| Self::check_address(address))?;
        Ok(Self {
            runner,
            program: "/usr/sbin/sendmail".into(),
            from: from.to_owned(),
            to: to.iter().map(|a| (*a).to_owned()).collect(),
            cluster: cluster.chars().filter(|c| !c.is_control()).collect(),
            busy: Busy::default(),
        })
    }

    /// Checks an address.
    ///
    /// # Errors
    /// [`AddressError`], as [`Mail::new`].
    pub fn check_address(address: &str) -> Result<(), AddressError> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || ",;<>\"".contains(c);
        if !address.contains('@') || address.starts_with('-') || address.contains(odd) {
            return Err(AddressError { address: address.to_owned() });
        }
        Ok(())
    }

    /// Another program that takes a letter on its standard input when called with `-i -t`; an absolute path.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// True for what a person should know: failures, fencing, takeovers, and groups that do not get on.
    #[must_use]
    pub fn is_notable(event: &Event) -> bool {
        matches!(
            event,
            Event::Failed { .. }
                | Event::Fenced { .. }
                | Event::FenceUnconfirmed { .. }
                | Event::AccessRefused { .. }
                | Event::LifeIsOver { .. }
                | Event::RoleChanged { .. }
                | Event::Started { .. }
                | Event::Blocked { .. }
                | Event::StoppingAll { .. }
        )
    }

    /// Sends a letter if the event is notable, and returns at once. True if one was sent.
    pub fn tell(&self, event: &Event, status: &Status) -> bool {
        if !Self::is_notable(event) {
            return false;
        }
        let mut command = Command::new(&self.program);
        command.args = vec!["-i".into(), "-t".into()];
        command.env = environment();
        command.stdin = self.letter(event, status).into_bytes();
        self.busy.run(&self.runner, command, "mail".to_owned());
        true
    }

    /// True while a letter is handed over.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.is_any()
    }

    fn letter(&self, event: &Event, status: &Status) -> String {
        let context = context(event, status);
        // What an agent said may have line ends: a subject has none.
        let subject: String = text(&context, "text").chars().filter(|c| !c.is_control()).take(150).collect();
        let body = serde_json::to_string_pretty(&context).unwrap_or_default();
        format!(
            "From: {}\nTo: {}\nSubject: [{}] {subject}\nAuto-Submitted: auto-generated\n\
             Content-Type: text/plain; charset=utf-8\n\n{}\n\n{body}\n",
            self.from,
            self.to.join(", "),
            self.cluster,
            text(&context, "text"),
        )
    }
}
