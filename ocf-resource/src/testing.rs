//! A conformance suite for those who write an agent or a class of agents.

use crate::{Action, MetadataError, OcfCode, Operation, OperationResult, Outcome, ResourceAgent};
use core::time::Duration;
use std::sync::mpsc;

/// A mistake in deciding that a test can put back, to prove that it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Resources start elsewhere before the node that had them is proven dead.
    StartBeforeFence,
    /// Resources start while another node still runs them.
    StartBesideOthers,
    /// A group starts from its end.
    StartBackwards,
    /// More copies start than the configuration has.
    TooManyCopies,
    /// More copies are promoted than the configuration has.
    TwoPromoted,
    /// Failures do not count: what fails is tried again for ever.
    ForgetFailures,
    /// An answer counts whatever decision it belongs to.
    BelieveOldAnswers,
    /// Nobody expects what is moved without a stop where it goes to.
    ForgetIncoming,
    /// Steps do not wait until all have heard of them.
    ActBeforeNotice,
    /// A failed monitor does not have its group planned anew.
    ForgetToPlan,
    /// What runs is not told of changed parameters.
    ForgetParameters,
    /// Whatever agents say of promoting their copies, the order decides.
    IgnorePromotion,
    /// How much a group would rather be on a node counts nothing.
    IgnorePreferences,
    /// A member that was outside and goes on is no end of a move any more: what is on its way is not expected there.
    ForgetEnds,
    /// Resources start on a node that was not given its access.
    StartWithoutAccess,
    /// What is removed from the configuration is forgotten while it runs.
    ForgetRemoved,
    /// A change of the configuration counts whatever it was made from.
    OverwriteConfiguration,
    /// How much of the world a node reaches counts nothing.
    IgnoreReach,
    /// Groups start whether the quorum that they need is up or not.
    IgnoreQuorum,
    /// All copies that need a restart are stopped at once.
    RestartAllAtOnce,
    /// What a member says of the world counts before it has settled.
    CountReachAtOnce,
    /// Steps do not wait for notices of an earlier decision about the same, which was overtaken.
    ForgetOvertaken,
}

impl Bug {
    /// Every one that histories of random faults show, which is all but three.
    pub const ALL: [Self; 19] = [
        Self::StartBeforeFence,
        Self::StartBesideOthers,
        Self::StartBackwards,
        Self::TooManyCopies,
        Self::TwoPromoted,
        Self::ForgetFailures,
        Self::BelieveOldAnswers,
        Self::ForgetIncoming,
        Self::ActBeforeNotice,
        Self::ForgetToPlan,
        Self::ForgetParameters,
        Self::IgnorePromotion,
        Self::IgnorePreferences,
        Self::StartWithoutAccess,
        Self::ForgetRemoved,
        Self::OverwriteConfiguration,
        Self::IgnoreReach,
        Self::IgnoreQuorum,
        Self::RestartAllAtOnce,
    ];
}

/// A rule that an agent broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: expected {expected}, found {found}")]
pub struct Broken {
    /// What was tried.
    pub step: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// What came of it.
    pub found: String,
}

/// How much longer than its timeout an operation may take to be reported.
const SLACK: Duration = Duration::from_secs(10);

/// Tries whether an agent keeps the rules of [`ResourceAgent`], by the sequence that OCF's own tester uses: what is
/// stopped is found stopped, what is started is found running, starting and stopping twice is no failure, each operation
/// is reported once and in time, and the agent describes itself. Blocks; the resource is stopped at the end.
///
/// `template` names the resource and carries its parameters and the timeout of each operation.
///
/// # Errors
/// Every rule that was broken.
pub fn check_agent(agent: &dyn ResourceAgent, template: &Operation) -> Result<(), Vec<Broken>> {
    let mut broken = Vec::new();
    check_metadata(agent, &mut broken);
    let steps = [
        ("first stop", Action::Stop, true),
        ("monitor of a stopped resource", Action::Monitor, false),
        ("stop of a stopped resource", Action::Stop, true),
        ("start", Action::Start, true),
        ("monitor of a started resource", Action::Monitor, true),
        ("start of a started resource", Action::Start, true),
        ("monitor after starting twice", Action::Monitor, true),
        ("stop", Action::Stop, true),
        ("monitor after stop", Action::Monitor, false),
        ("second start", Action::Start, true),
        ("monitor after the second start", Action::Monitor, true),
        ("last stop", Action::Stop, true),
        ("monitor at the end", Action::Monitor, false),
    ];
    for (step, action, runs) in steps {
        let operation = Operation { action, interval: None, ..template.clone() };
        match run(agent, &operation) {
            Err(found) => broken.push(Broken { step, expected: "one report in time", found }),
            Ok(result) => {
                let stopped = Outcome::Failed { code: OcfCode::NotRunning };
                let good = result.outcome == if runs { Outcome::Ok } else { stopped };
                if !good {
                    let expected = if runs { "success" } else { "not running (7)" };
                    broken.push(Broken { step, expected, found: result.explain() });
                }
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

fn run(agent: &dyn ResourceAgent, operation: &Operation) -> Result<OperationResult, String> {
    let (say, said) = mpsc::channel();
    let _canceller = agent.begin(operation, Box::new(move |result| say.send(result).unwrap_or_default()));
    said.recv_timeout(operation.timeout + SLACK).map_err(|_none| "no report".to_owned())
}

fn check_metadata(agent: &dyn ResourceAgent, broken: &mut Vec<Broken>) {
    let (say, said) = mpsc::channel();
    let limit = Duration::from_secs(30);
    let _canceller = agent.metadata(limit, Box::new(move |result| say.send(result).unwrap_or_default()));
    let step = "description";
    let found = match said.recv_timeout(SLACK + limit) {
        Err(_none) => "no answer".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(metadata)) => {
            if metadata.name.is_empty() {
                MetadataError::NotAnAgent.to_string()
            } else {
                let missing = ["start", "stop", "monitor"].into_iter().filter(|a| !metadata.supports(a));
                let missing: Vec<_> = missing.collect();
                if missing.is_empty() {
                    return;
                }
                format!("no {}", missing.join(", "))
            }
        }
    };
    broken.push(Broken { step, expected: "a name and the actions start, stop and monitor", found });
}
