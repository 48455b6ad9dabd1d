//! Parts of messages and of the state that both have: layouts are in PROTOCOL.md.

use crate::book::Book;
use crate::executor::{Report, WatchPolicy};
use crate::message::VERSION;
use crate::{
    AccessNeed, Action, Config, Decision, FenceOutcome, GroupConfig, Health, HealthStrategy, MonitorConfig,
    PartitionPolicy, Preference, Promotion, QuorumConfig, QuorumLoss, ReachConfig, ResourceConfig, Role,
    Score, Severity, StartFailure, StopFailure,
};
use bytes::BufMut;
use core::time::Duration;
use pils::wire::{Malformed, ParseError, Reader, Writer};
use std::collections::BTreeMap;

pub(crate) type Parsed<T> = Result<T, ParseError>;

pub(crate) fn put_u64(w: &mut Vec<u8>, value: u64) {
    BufMut::put_u64(w, value);
}

pub(crate) fn version(r: &mut Reader<'_>) -> Parsed<()> {
    let at = r.clone();
    if r.u8("version")? == VERSION { Ok(()) } else { Err(at.error("version", Malformed::OutOfRange)) }
}

pub(crate) fn put_decision(w: &mut Vec<u8>, decision: Decision) {
    put_u64(w, decision.view);
    put_u64(w, decision.number);
}

pub(crate) fn decision(r: &mut Reader<'_>) -> Parsed<Decision> {
    Ok(Decision { view: r.u64("decision view")?, number: r.u64("decision number")? })
}

/// Actions that a plan has; any other is written as a monitor.
pub(crate) const fn action_code(action: Action) -> u8 {
    match action {
        Action::Start => 0,
        Action::Stop => 1,
        Action::Promote => 3,
        Action::Demote => 4,
        Action::MigrateTo => 5,
        Action::MigrateFrom => 6,
        Action::ReloadAgent => 7,
        Action::Monitor | Action::ValidateAll | Action::MetaData | Action::Notify | Action::Reload => 2,
    }
}

pub(crate) fn action(r: &mut Reader<'_>) -> Parsed<Action> {
    let at = r.clone();
    Ok(match r.u8("action")? {
        0 => Action::Start,
        1 => Action::Stop,
        2 => Action::Monitor,
        3 => Action::Promote,
        4 => Action::Demote,
        5 => Action::MigrateTo,
        6 => Action::MigrateFrom,
        7 => Action::ReloadAgent,
        _ => return Err(at.error("action", Malformed::OutOfRange)),
    })
}

pub(crate) const fn severity_code(severity: Severity) -> u8 {
    match severity {
        Severity::Soft => 0,
        Severity::Hard => 1,
        Severity::Fatal => 2,
    }
}

pub(crate) const fn severity(code: u8) -> Option<Severity> {
    match code {
        0 => Some(Severity::Soft),
        1 => Some(Severity::Hard),
        2 => Some(Severity::Fatal),
        _ => None,
    }
}

pub(crate) fn read_severity(r: &mut Reader<'_>) -> Parsed<Severity> {
    let at = r.clone();
    severity(r.u8("severity")?).ok_or_else(|| at.error("severity", Malformed::OutOfRange))
}

pub(crate) const fn outcome_code(outcome: FenceOutcome) -> u8 {
    match outcome {
        FenceOutcome::Confirmed => 0,
        FenceOutcome::Requested => 1,
        FenceOutcome::Unknown => 2,
    }
}

pub(crate) fn read_outcome(r: &mut Reader<'_>) -> Parsed<FenceOutcome> {
    let at = r.clone();
    match r.u8("outcome")? {
        0 => Ok(FenceOutcome::Confirmed),
        1 => Ok(FenceOutcome::Requested),
        2 => Ok(FenceOutcome::Unknown),
        _ => Err(at.error("outcome", Malformed::OutOfRange)),
    }
}

pub(crate) fn put_flag(w: &mut Vec<u8>, flag: bool) {
    w.push(u8::from(flag));
}

pub(crate) fn flag(r: &mut Reader<'_>, field: &'static str) -> Parsed<bool> {
    let at = r.clone();
    match r.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(at.error(field, Malformed::OutOfRange)),
    }
}

pub(crate) fn put_option<T>(w: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    put_flag(w, value.is_some());
    if let Some(value) = value {
        put(w, value);
    }
}

pub(crate) fn option<'a, T>(
    r: &mut Reader<'a>,
    field: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Parsed<T>,
) -> Parsed<Option<T>> {
    if flag(r, field)? { read(r).map(Some) } else { Ok(None) }
}

/// A count, then each item. An item takes at least a byte, so a false count costs nothing.
pub(crate) fn put_list<T>(
    w: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) {
    w.put_length(items.len());
    for item in items {
        put(w, item);
    }
}

pub(crate) fn list<'a, T>(
    r: &mut Reader<'a>,
    field: &'static str,
    mut read: impl FnMut(&mut Reader<'a>) -> Parsed<T>,
) -> Parsed<Vec<T>> {
    let n = r.length(field, r.remaining())?;
    (0..n).map(|_| read(r)).collect()
}

fn put_span(w: &mut Vec<u8>, span: Duration) {
    put_u64(w, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
}

fn span(r: &mut Reader<'_>) -> Parsed<Duration> {
    Ok(Duration::from_millis(r.u64("time in ms")?))
}

fn put_policy(w: &mut Vec<u8>, policy: &WatchPolicy) {
    w.put_u32(policy.failures);
    w.put_u32(policy.among);
    w.push(match policy.report {
        Report::Failures => 0,
        Report::Changes => 1,
        Report::Everything => 2,
    });
}

fn policy(r: &mut Reader<'_>) -> Parsed<WatchPolicy> {
    let (failures, among) = (r.u32("failures")?, r.u32("among")?);
    let at = r.clone();
    let report = match r.u8("report")? {
        0 => Report::Failures,
        1 => Report::Changes,
        2 => Report::Everything,
        _ => return Err(at.error("report", Malformed::OutOfRange)),
    };
    Ok(WatchPolicy { failures, among, report })
}

fn monitor(r: &mut Reader<'_>) -> Parsed<MonitorConfig> {
    Ok(MonitorConfig {
        interval: span(r)?,
        timeout: span(r)?,
        depth: r.u32("depth")?,
        role: option(r, "role", |r| {
            Ok(if flag(r, "promoted")? { Role::Promoted } else { Role::Unpromoted })
        })?,
        watch: policy(r)?,
    })
}

pub(crate) const fn health_code(health: Health) -> u8 {
    match health {
        Health::Green => 0,
        Health::Yellow => 1,
        Health::Red => 2,
    }
}

pub(crate) fn health(r: &mut Reader<'_>) -> Parsed<Health> {
    let at = r.clone();
    match r.u8("health")? {
        0 => Ok(Health::Green),
        1 => Ok(Health::Yellow),
        2 => Ok(Health::Red),
        _ => Err(at.error("health", Malformed::OutOfRange)),
    }
}

pub(crate) fn put_parameters(w: &mut Vec<u8>, parameters: &BTreeMap<String, String>) {
    put_list(w, parameters.iter(), |w, (name, value)| {
        w.put_text(name);
        w.put_text(value);
    });
}

pub(crate) fn parameters(r: &mut Reader<'_>) -> Parsed<BTreeMap<String, String>> {
    let pairs = list(r, "parameters", |r| Ok((r.text("name")?.to_owned(), r.text("value")?.to_owned())))?;
    Ok(pairs.into_iter().collect())
}

pub(crate) fn put_score(w: &mut Vec<u8>, score: Score) {
    BufMut::put_i32(w, score.number());
}

pub(crate) fn score(r: &mut Reader<'_>) -> Parsed<Score> {
    Ok(Score::new(i64::from(r.u32("score")?.cast_signed())))
}

pub(crate) fn put_promotion(w: &mut Vec<u8>, promotion: Promotion) {
    match promotion {
        Promotion::Withdrawn => put_flag(w, false),
        Promotion::Score(score) => {
            put_flag(w, true);
            put_score(w, score);
        }
    }
}

pub(crate) fn promotion(r: &mut Reader<'_>) -> Parsed<Promotion> {
    Ok(if flag(r, "promotion")? { Promotion::Score(score(r)?) } else { Promotion::Withdrawn })
}

/// A configuration, and which of its resources are on their way out.
pub(crate) fn put_book(w: &mut Vec<u8>, book: &Book) {
    put_config(w, book);
    put_list(w, book.removing().iter(), |w, name| w.put_text(name));
}

pub(crate) fn read_book(r: &mut Reader<'_>) -> Parsed<Book> {
    let config = read_config(r)?;
    let removing = list(r, "removing", |r| Ok(r.text("resource")?.into()))?;
    Ok(Book::of(config, removing.into_iter().collect()))
}

/// How many bytes a configuration takes in a message.
pub(crate) fn config_size(config: &Config) -> usize {
    let mut w = Vec::new();
    put_config(&mut w, config);
    w.len()
}

pub(crate) fn put_config(w: &mut Vec<u8>, config: &Config) {
    put_u64(w, config.revision);
    put_flag(w, config.on_partition == PartitionPolicy::Freeze);
    w.push(match config.health {
        HealthStrategy::Ignore => 0,
        HealthStrategy::MigrateOnRed => 1,
        HealthStrategy::OnlyGreen => 2,
    });
    match &config.access {
        AccessNeed::Nobody => w.push(0),
        AccessNeed::Nodes(nodes) => {
            w.push(1);
            put_list(w, nodes.iter(), |w, node| w.put_node(*node));
        }
        AccessNeed::Everybody => w.push(2),
    }
    put_span(w, config.reach_settle);
    put_list(w, config.quorums.iter(), |w, quorum| {
        w.put_text(&quorum.name);
        put_list(w, quorum.nodes.iter(), |w, node| w.put_node(*node));
        put_option(w, quorum.members, BufMut::put_u32);
        put_option(w, quorum.share, BufMut::put_u32);
        put_flag(w, quorum.on_loss == QuorumLoss::Keep);
    });
    put_list(w, config.groups.iter(), put_group);
}

fn put_group(w: &mut Vec<u8>, group: &GroupConfig) {
    w.put_text(&group.name);
    put_list(w, group.nodes.iter(), |w, node| w.put_node(*node));
    put_flag(w, group.elsewhere);
    put_flag(w, group.failback);
    put_list(w, group.preferences.iter(), |w, preference| {
        w.put_node(preference.node);
        put_score(w, preference.score);
    });
    put_option(w, group.stickiness, put_score);
    put_option(w, group.reach, |w, reach| {
        put_score(w, reach.weight);
        w.put_u32(reach.lead);
    });
    put_option(w, group.quorum.as_ref(), |w, quorum| w.put_text(quorum));
    w.put_u32(group.migration_threshold);
    put_span(w, group.failure_window);
    put_flag(w, group.on_start_failure == StartFailure::Count);
    put_flag(w, group.on_stop_failure == StopFailure::Block);
    put_flag(w, group.started);
    w.put_u32(group.copies);
    w.put_u32(group.restart_parallel);
    put_flag(w, group.migrate);
    put_flag(w, group.notify);
    w.put_u32(group.promoted);
    w.put_u32(group.priority);
    put_list(w, group.resources.iter(), |w, resource| {
        w.put_text(&resource.name);
        w.put_text(&resource.agent.to_string());
        put_parameters(w, &resource.parameters);
        for time in [
            resource.start_timeout,
            resource.stop_timeout,
            resource.monitor_interval,
            resource.monitor_timeout,
        ] {
            put_span(w, time);
        }
        put_policy(w, &resource.watch);
        put_list(w, resource.monitors.iter(), |w, monitor| {
            put_span(w, monitor.interval);
            put_span(w, monitor.timeout);
            w.put_u32(monitor.depth);
            put_option(w, monitor.role, |w, role| put_flag(w, role == Role::Promoted));
            put_policy(w, &monitor.watch);
        });
    });
}

pub(crate) fn read_config(r: &mut Reader<'_>) -> Parsed<Config> {
    let revision = r.u64("revision")?;
    let frozen = flag(r, "on partition")?;
    let at = r.clone();
    let health = match r.u8("health")? {
        0 => HealthStrategy::Ignore,
        1 => HealthStrategy::MigrateOnRed,
        2 => HealthStrategy::OnlyGreen,
        _ => return Err(at.error("health", Malformed::OutOfRange)),
    };
    let at = r.clone();
    let access = match r.u8("access")? {
        0 => AccessNeed::Nobody,
        1 => AccessNeed::Nodes(list(r, "nodes", |r| r.node("node"))?.into_iter().collect()),
        2 => AccessNeed::Everybody,
        _ => return Err(at.error("access", Malformed::OutOfRange)),
    };
    let reach_settle = span(r)?;
    let quorums = list(r, "quorums", |r| {
        Ok(QuorumConfig {
            name: r.text("quorum")?.to_owned(),
            nodes: list(r, "nodes", |r| r.node("node"))?,
            members: option(r, "members", |r| r.u32("members"))?,
            share: option(r, "share", |r| r.u32("share"))?,
            on_loss: if flag(r, "on loss")? { QuorumLoss::Keep } else { QuorumLoss::Stop },
        })
    })?;
    let groups = list(r, "groups", read_group)?;
    let on_partition = if frozen { PartitionPolicy::Freeze } else { PartitionPolicy::Stop };
    Ok(Config { revision, groups, quorums, on_partition, health, access, reach_settle })
}

fn read_group(r: &mut Reader<'_>) -> Parsed<GroupConfig> {
    Ok(GroupConfig {
        name: r.text("group")?.to_owned(),
        nodes: list(r, "nodes", |r| r.node("node"))?,
        elsewhere: flag(r, "elsewhere")?,
        failback: flag(r, "failback")?,
        preferences: list(r, "preferences", |r| Ok(Preference { node: r.node("node")?, score: score(r)? }))?,
        stickiness: option(r, "stickiness", score)?,
        reach: option(r, "reach", |r| Ok(ReachConfig { weight: score(r)?, lead: r.u32("lead")? }))?,
        quorum: option(r, "quorum", |r| Ok(r.text("quorum")?.to_owned()))?,
        migration_threshold: r.u32("migration threshold")?,
        failure_window: span(r)?,
        on_start_failure: if flag(r, "start failure")? { StartFailure::Count } else { StartFailure::Move },
        on_stop_failure: if flag(r, "stop failure")? { StopFailure::Block } else { StopFailure::Fence },
        started: flag(r, "started")?,
        copies: r.u32("copies")?,
        restart_parallel: r.u32("restart parallel")?,
        migrate: flag(r, "migrate")?,
        notify: flag(r, "notify")?,
        promoted: r.u32("promoted")?,
        priority: r.u32("priority")?,
        resources: list(r, "resources", |r| {
            let name = r.text("resource")?.to_owned();
            let at = r.clone();
            let agent = r.text("agent")?.parse().map_err(|_name| at.error("agent", Malformed::OutOfRange))?;
            let parameters = parameters(r)?;
            Ok(ResourceConfig {
                name,
                agent,
                parameters,
                start_timeout: span(r)?,
                stop_timeout: span(r)?,
                monitor_interval: span(r)?,
                monitor_timeout: span(r)?,
                watch: policy(r)?,
                monitors: list(r, "monitors", monitor)?,
            })
        })?,
    })
}
