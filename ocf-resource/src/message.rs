//! The ordered messages of the manager, and how they look on the wire.

use crate::book::Book;
use crate::wire::{self, put_book, put_config, read_book, read_config};
use crate::{
    AgentError, Command, Decision, FenceOutcome, Health, OcfCode, OperationResult, Outcome, Promotion,
    Severity,
};
use bytes::Bytes;
use core::time::Duration;
use pils::wire::{Malformed, ParseError, Reader, Writer};
use pils::{NodeId, NodeInstance};
use std::sync::Arc;

/// Longest explanation that is kept, in bytes.
pub(crate) const WHY_MAX: usize = 200;
/// Version of messages and state; the first byte of both.
pub(crate) const VERSION: u8 = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Found(Book),
    Report(Report),
    MonitorFailed(Failure),
    Fenced {
        target: NodeInstance,
        outcome: FenceOutcome,
        detail: Arc<str>,
    },
    Command(Command),
    /// The sender's instance of a resource has heard of the step that this decision is about.
    Noticed {
        decision: Decision,
        resource: Arc<str>,
    },
    Leave,
    /// What the agent of a resource says, on the sender's node, of promoting it.
    Promotion {
        resource: Arc<str>,
        promotion: Promotion,
    },
    /// One attribute of the health of the sender's node; `None` if it has it no longer.
    Health {
        attribute: Arc<str>,
        value: Option<Health>,
    },
    /// Instances that the sender knows from before the cluster was founded anew, and that are not members.
    Remember(Vec<NodeInstance>),
    Expire {
        group: Arc<str>,
        node: NodeId,
        serial: u64,
    },
    /// The sender was outside the primary partition and goes on. It may have stopped anything, and does not carry out what
    /// was decided for it meanwhile.
    Returned,
    /// What came of giving the sender its access, as that decision has it.
    Access {
        decision: Decision,
        /// Why it does not have it.
        why: Option<Arc<str>>,
    },
    /// The sender's watchdog is armed, and ends it outside the primary partition.
    Armed {
        /// Its time, in whole milliseconds.
        watchdog: Duration,
    },
    /// How many of the hosts outside the cluster that it watches the sender reaches.
    Reach {
        hosts: u32,
    },
    /// What these said of hosts last, by its serial, has stayed as it is for long enough.
    ReachSettled(Vec<(NodeId, u64)>),
}

/// How the operation of a decision ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) decision: Decision,
    pub(crate) resource: Arc<str>,
    pub(crate) verdict: Verdict,
    pub(crate) why: Arc<str>,
}

/// A recurring monitor failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The decision that made the resource run.
    pub(crate) decision: Decision,
    pub(crate) resource: Arc<str>,
    pub(crate) severity: Severity,
    pub(crate) why: Arc<str>,
}

/// As much of an outcome as decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// Runs in the promoted role.
    Promoted,
    NotRunning,
    NotInstalled,
    /// The agent did not run at all.
    NotRun(Severity),
    Failed(Severity),
}

impl Verdict {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok | Outcome::Failed { code: OcfCode::Degraded } => Self::Ok,
            Outcome::Failed { code: OcfCode::RunningPromoted | OcfCode::DegradedPromoted } => Self::Promoted,
            Outcome::Failed { code: OcfCode::NotRunning } => Self::NotRunning,
            Outcome::Failed { code: OcfCode::NotInstalled } => Self::NotInstalled,
            Outcome::NotStarted(error) => Self::NotRun(AgentError::severity(error)),
            Outcome::Failed { .. } | Outcome::Killed { .. } | Outcome::TimedOut | Outcome::Cancelled => {
                Self::Failed(outcome.severity())
            }
        }
    }

    pub(crate) const fn severity(self) -> Severity {
        match self {
            Self::Ok | Self::Promoted | Self::NotRunning => Severity::Soft,
            Self::NotInstalled => Severity::Hard,
            Self::NotRun(severity) | Self::Failed(severity) => severity,
        }
    }

    /// The agent cannot work here, whatever the state of the resource.
    pub(crate) fn is_refusal(self) -> bool {
        self.severity() != Severity::Soft
    }

    const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::NotRunning => 1,
            Self::NotInstalled => 2,
            Self::Promoted => 3,
            Self::NotRun(severity) => 0x10 | wire::severity_code(severity),
            Self::Failed(severity) => 0x20 | wire::severity_code(severity),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let at = r.clone();
        let code = r.u8("verdict")?;
        let bad = || at.error("verdict", Malformed::OutOfRange);
        let severity = || wire::severity(code & 0xf).ok_or_else(bad);
        match (code, code & 0xf0) {
            (0, _) => Ok(Self::Ok),
            (1, _) => Ok(Self::NotRunning),
            (2, _) => Ok(Self::NotInstalled),
            (3, _) => Ok(Self::Promoted),
            (_, 0x10) => Ok(Self::NotRun(severity()?)),
            (_, 0x20) => Ok(Self::Failed(severity()?)),
            _ => Err(bad()),
        }
    }
}

impl Report {
    pub(crate) fn new(decision: Decision, resource: Arc<str>, result: &OperationResult) -> Self {
        let verdict = Verdict::of(&result.outcome);
        Self { decision, resource, verdict, why: short(&result.explain()) }
    }
}

/// At most [`WHY_MAX`] bytes of a text.
pub(crate) fn short(text: &str) -> Arc<str> {
    let mut end = text.len().min(WHY_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// What of a time goes over the wire.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const FOUND: u8 = 1;
const REPORT: u8 = 2;
const MONITOR_FAILED: u8 = 3;
const FENCED: u8 = 4;
const COMMAND: u8 = 5;
const LEAVE: u8 = 6;
const EXPIRE: u8 = 7;
const REMEMBER: u8 = 8;
const HEALTH: u8 = 9;
const RETURNED: u8 = 10;
const NOTICED: u8 = 11;
const PROMOTION: u8 = 12;
const ACCESS: u8 = 13;
const ARMED: u8 = 14;
const REACH: u8 = 15;
const REACH_SETTLED: u8 = 16;

impl Message {
    pub(crate) fn emit(&self) -> Bytes {
        let mut w = vec![VERSION];
        match self {
            Self::Found(book) => {
                w.push(FOUND);
                put_book(&mut w, book);
            }
            Self::Report(report) => put_report(&mut w, report),
            Self::MonitorFailed(failure) => put_failure(&mut w, failure),
            Self::Fenced { target, outcome, detail } => {
                w.push(FENCED);
                w.put_instance(*target);
                w.push(wire::outcome_code(*outcome));
                w.put_text(detail);
            }
            Self::Command(command) => {
                w.push(COMMAND);
                put_command(&mut w, command);
            }
            Self::Noticed { decision, resource } => {
                w.push(NOTICED);
                wire::put_decision(&mut w, *decision);
                w.put_text(resource);
            }
            Self::Leave => w.push(LEAVE),
            Self::Promotion { resource, promotion } => {
                w.push(PROMOTION);
                w.put_text(resource);
                wire::put_promotion(&mut w, *promotion);
            }
            Self::Health { attribute, value } => {
                w.push(HEALTH);
                w.put_text(attribute);
                wire::put_option(&mut w, *value, |w, health| w.push(wire::health_code(health)));
            }
            Self::Returned => w.push(RETURNED),
            Self::Access { decision, why } => {
                w.push(ACCESS);
                wire::put_decision(&mut w, *decision);
                wire::put_option(&mut w, why.as_ref(), |w, why| w.put_text(why));
            }
            Self::Armed { watchdog } => {
                w.push(ARMED);
                wire::put_u64(&mut w, millis(*watchdog));
            }
            Self::Reach { hosts } => {
                w.push(REACH);
                bytes::BufMut::put_u32(&mut w, *hosts);
            }
            Self::ReachSettled(settled) => {
                w.push(REACH_SETTLED);
                wire::put_list(&mut w, settled.iter(), |w, (node, serial)| {
                    w.put_node(*node);
                    wire::put_u64(w, *serial);
                });
            }
            Self::Remember(instances) => {
                w.push(REMEMBER);
                wire::put_list(&mut w, instances.iter(), |w, instance| w.put_instance(*instance));
            }
            Self::Expire { group, node, serial } => {
                w.push(EXPIRE);
                w.put_text(group);
                w.put_node(*node);
                wire::put_u64(&mut w, *serial);
            }
        }
        w.into()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        wire::version(&mut r)?;
        let at = r.clone();
        let message = match r.u8("kind")? {
            FOUND => Self::Found(read_book(&mut r)?),
            REPORT => Self::Report(Report {
                decision: wire::decision(&mut r)?,
                resource: r.text("resource")?.into(),
                verdict: Verdict::read(&mut r)?,
                why: short(r.text("why")?),
            }),
            MONITOR_FAILED => Self::MonitorFailed(Failure {
                decision: wire::decision(&mut r)?,
                resource: r.text("resource")?.into(),
                severity: wire::read_severity(&mut r)?,
                why: short(r.text("why")?),
            }),
            FENCED => Self::Fenced {
                target: r.instance("target")?,
                outcome: wire::read_outcome(&mut r)?,
                detail: short(r.text("detail")?),
            },
            COMMAND => Self::Command(read_command(&mut r)?),
            NOTICED => {
                Self::Noticed { decision: wire::decision(&mut r)?, resource: r.text("resource")?.into() }
            }
            LEAVE => Self::Leave,
            PROMOTION => {
                Self::Promotion { resource: r.text("resource")?.into(), promotion: wire::promotion(&mut r)? }
            }
            HEALTH => Self::Health {
                attribute: short(r.text("attribute")?),
                value: wire::option(&mut r, "value", wire::health)?,
            },
            RETURNED => Self::Returned,
            ACCESS => Self::Access {
                decision: wire::decision(&mut r)?,
                why: wire::option(&mut r, "why", |r| Ok(short(r.text("why")?)))?,
            },
            ARMED => Self::Armed { watchdog: Duration::from_millis(r.u64("watchdog")?) },
            REACH => Self::Reach { hosts: r.u32("hosts")? },
            REACH_SETTLED => Self::ReachSettled(wire::list(&mut r, "settled", |r| {
                Ok((r.node("node")?, r.u64("serial")?))
            })?),
            REMEMBER => Self::Remember(wire::list(&mut r, "instances", |r| r.instance("instance"))?),
            EXPIRE => Self::Expire {
                group: r.text("group")?.into(),
                node: r.node("node")?,
                serial: r.u64("serial")?,
            },
            _ => return Err(at.error("kind", Malformed::OutOfRange)),
        };
        r.finish("message")?;
        Ok(message)
    }
}

fn put_report(w: &mut Vec<u8>, report: &Report) {
    w.push(REPORT);
    wire::put_decision(w, report.decision);
    w.put_text(&report.resource);
    w.push(report.verdict.code());
    w.put_text(&report.why);
}

fn put_failure(w: &mut Vec<u8>, failure: &Failure) {
    w.push(MONITOR_FAILED);
    wire::put_decision(w, failure.decision);
    w.put_text(&failure.resource);
    w.push(wire::severity_code(failure.severity));
    w.put_text(&failure.why);
}

fn put_command(w: &mut Vec<u8>, command: &Command) {
    match command {
        Command::MoveGroup { group, to } => {
            w.push(0);
            w.put_text(group);
            wire::put_option(w, *to, |w, node| w.put_node(node));
        }
        Command::StopGroup(group) => {
            w.push(1);
            w.put_text(group);
        }
        Command::StartGroup(group) => {
            w.push(2);
            w.put_text(group);
        }
        Command::ClearFailures(group) => {
            w.push(3);
            w.put_text(group);
        }
        Command::Standby(node) => {
            w.push(4);
            w.put_node(*node);
        }
        Command::Online(node) => {
            w.push(5);
            w.put_node(*node);
        }
        Command::Maintenance { group, on } => {
            w.push(6);
            wire::put_option(w, group.as_ref(), |w, group| w.put_text(group));
            wire::put_flag(w, *on);
        }
        Command::SetParameters { resource, parameters } => {
            w.push(7);
            w.put_text(resource);
            wire::put_parameters(w, parameters);
        }
        Command::Condition { of, node, name, unmet } => {
            w.push(8);
            w.put_text(of);
            wire::put_option(w, *node, |w, node| w.put_node(node));
            w.put_text(&short(name));
            wire::put_option(w, unmet.as_ref(), |w, why| w.put_text(&short(why)));
        }
        Command::Configure(config) => {
            w.push(9);
            put_config(w, config);
        }
    }
}

fn read_command(r: &mut Reader<'_>) -> Result<Command, ParseError> {
    let at = r.clone();
    Ok(match r.u8("command")? {
        0 => Command::MoveGroup {
            group: r.text("group")?.into(),
            to: wire::option(r, "to", |r| r.node("node"))?,
        },
        1 => Command::StopGroup(r.text("group")?.into()),
        2 => Command::StartGroup(r.text("group")?.into()),
        3 => Command::ClearFailures(r.text("group")?.into()),
        4 => Command::Standby(r.node("node")?),
        5 => Command::Online(r.node("node")?),
        6 => Command::Maintenance {
            group: wire::option(r, "group", |r| Ok(r.text("group")?.into()))?,
            on: wire::flag(r, "on")?,
        },
        7 => {
            Command::SetParameters { resource: r.text("resource")?.into(), parameters: wire::parameters(r)? }
        }
        8 => Command::Condition {
            of: r.text("group")?.into(),
            node: wire::option(r, "node", |r| r.node("node"))?,
            name: short(r.text("name")?),
            unmet: wire::option(r, "why", |r| Ok(short(r.text("why")?)))?,
        },
        9 => Command::Configure(Arc::new(read_config(r)?)),
        _ => return Err(at.error("command", Malformed::OutOfRange)),
    })
}
