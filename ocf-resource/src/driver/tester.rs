//! Tests whether an agent keeps the rules of OCF: for authors of agents.
//!
//! [`Tester::run`] goes through a fixed sequence on a resource that may be started and stopped at will, and makes a
//! [`Verdict`]: which rules were tried, what had to come of each and what did. Rules that only this tester has (nothing left
//! behind, meta-data complete, wrong parameters refused) are [`Weight::Advice`]: they are told and do not fail the agent.

use super::{OcfClass, tree};
use crate::{
    Action, AgentError, AgentName, Metadata, OcfCode, Operation, OperationResult, Outcome, ResourceAgent,
};
use core::fmt;
use core::time::Duration;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

mod sequence;

/// How much longer than its timeout an operation may take to be reported: killing and looking for what is left.
const SLACK: Duration = Duration::from_secs(30);

/// By this variable every process of a test is known, whichever run it is of.
const MARK: &str = "OCF_TESTER_MARK";

/// What is to be tested.
#[derive(Clone, Debug)]
pub struct Tester {
    /// The agents' class, with root, node name and traces as wanted.
    pub class: OcfClass,
    /// The agent's file.
    pub path: PathBuf,
    /// Name of the resource. Default `test`.
    pub resource: Arc<str>,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Time for each operation. Default 20 s.
    pub timeout: Duration,
}

/// How much a rule weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// An agent that breaks it fails.
    Rule,
    /// Good agents keep it.
    Advice,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was tried, in words.
    pub step: String,
    /// The agent was called with this; none for a look at its meta-data.
    pub action: Option<Action>,
    /// What had to come of it.
    pub expected: String,
    /// What came of it.
    pub found: String,
    /// True if that is good.
    pub passed: bool,
    /// How much it weighs.
    pub weight: Weight,
    /// The end of what the agent said, if it is not good; at most 2 KiB.
    pub said: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The agent's file.
    pub agent: PathBuf,
    /// True if no rule was broken.
    pub passed: bool,
    /// Optional actions that the agent has.
    pub optional: Vec<Action>,
    /// Why the sequence ended early, if it did.
    pub stopped: Option<String>,
    /// What was tried, in order.
    pub checks: Vec<Check>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let mark = match (check.passed, check.weight) {
                (true, _) => "ok    ",
                (false, Weight::Rule) => "BROKEN",
                (false, Weight::Advice) => "advice",
            };
            writeln!(f, "{mark} {} ({} ms)", check.step, check.took_ms)?;
            if !check.passed {
                writeln!(f, "         expected {}, found {}", check.expected, check.found)?;
                let said = check.said.as_deref().unwrap_or_default();
                said.lines().try_for_each(|line| writeln!(f, "         | {line}"))?;
            }
        }
        if let Some(why) = &self.stopped {
            writeln!(f, "stopped here: {why}")?;
        }
        let broken = self.checks.iter().filter(|c| !c.passed && c.weight == Weight::Rule).count();
        let word = if self.passed { "keeps the rules".to_owned() } else { format!("breaks {broken} rules") };
        write!(f, "{} {word}", self.agent.display())
    }
}

impl Tester {
    /// A test of the agent in this file.
    #[must_use]
    pub fn new(class: OcfClass, path: &Path) -> Self {
        Self {
            class,
            path: path.to_owned(),
            resource: "test".into(),
            parameters: BTreeMap::new(),
            timeout: Duration::from_secs(20),
        }
    }

    /// Goes through the sequence. Blocks; the resource is stopped at the end, if the agent can, and every process that its runs
    /// have left behind is ended.
    ///
    /// # Errors
    /// [`AgentError`] if there is no such agent.
    pub fn run(self) -> Result<Verdict, AgentError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mark = format!("{}.{}", std::process::id(), since.as_nanos());
        let class = self.class.clone().with_variable(MARK, &mark);
        let (name, agent) = class.clone().strict().open(&self.path)?;
        let pretending = class.with_variable("OCF_TESTER_FAIL_HAVE_BINARY", "1");
        let (_, bare) = pretending.open(&self.path)?;
        let verdict = Verdict {
            agent: self.path.clone(),
            passed: true,
            optional: Vec::new(),
            stopped: None,
            checks: Vec::new(),
        };
        let mut run = Run { tester: self, name, agent, bare, metadata: None, verdict };
        if let Err(Stop(why)) = run.sequence() {
            run.verdict.stopped = Some(why);
        }
        let swept = tree::sweep_marked(&format!("{MARK}={mark}"));
        let left = swept.killed + swept.left.len();
        if left > 0 {
            let found = format!("{left} processes");
            run.push("the end leaves no process behind", None, ("none", found, false), Weight::Advice);
        }
        run.verdict.passed = run.verdict.stopped.is_none()
            && run.verdict.checks.iter().all(|c| c.passed || c.weight == Weight::Advice);
        Ok(run.verdict)
    }
}

/// The rest makes no sense.
struct Stop(String);

struct Run {
    tester: Tester,
    name: AgentName,
    agent: Arc<dyn ResourceAgent>,
    /// The agent with its binaries pretended to be missing.
    bare: Arc<dyn ResourceAgent>,
    metadata: Option<Metadata>,
    verdict: Verdict,
}

/// How an operation is asked for.
#[derive(Clone, Copy)]
enum How {
    /// As a recurring one.
    Usual,
    /// As a probe.
    Probe,
    /// As a probe, with its binaries missing.
    Bare,
}

impl Run {
    fn operation(&self, action: Action, how: How) -> Operation {
        let interval = matches!(how, How::Usual).then_some(Duration::from_secs(20));
        Operation {
            parameters: Arc::new(self.tester.parameters.clone()),
            timeout: self.tester.timeout,
            interval,
            ..Operation::new(Arc::clone(&self.tester.resource), self.name.clone(), action)
        }
    }

    fn call(&self, operation: &Operation, how: How) -> OperationResult {
        let agent = if matches!(how, How::Bare) { &self.bare } else { &self.agent };
        let (say, said) = mpsc::channel();
        let _canceller = agent.begin(operation, Box::new(move |r| say.send(r).unwrap_or_default()));
        said.recv_timeout(operation.timeout + SLACK).unwrap_or_else(|_none| {
            let mut result = OperationResult::new(Outcome::TimedOut);
            result.reason = Some("nothing was heard of the agent".to_owned());
            result
        })
    }

    /// Calls the agent and notes whether it answers with one of these codes. The code is returned.
    fn expect(&mut self, step: &str, action: Action, how: How, codes: &[i32]) -> i32 {
        let operation = self.operation(action, how);
        let result = self.call(&operation, how);
        let code = number(&result);
        let words: Vec<String> = codes.iter().map(|c| OcfCode::new(*c).to_string()).collect();
        self.note(step, Some(action), (&words.join(" or "), codes.contains(&code), Weight::Rule), &result);
        if result.left_behind > 0 && action.only_looks() {
            let step = format!("{step}: leaves no process behind");
            let found = format!("{} processes", result.left_behind);
            self.push(&step, Some(action), ("none", found, false), Weight::Advice);
        }
        code
    }

    /// As `expect`; without that, the rest makes no sense.
    fn must(&mut self, step: &str, action: Action, codes: &[i32]) -> Result<(), Stop> {
        if codes.contains(&self.expect(step, action, How::Usual, codes)) {
            return Ok(());
        }
        Err(Stop(format!("{step} failed")))
    }

    /// Calls an optional action, and returns its code; that it has none is no failure.
    fn optional(&mut self, action: Action) -> i32 {
        let operation = self.operation(action, How::Usual);
        let code = number(&self.call(&operation, How::Usual));
        if code != OcfCode::Unimplemented.number() {
            self.verdict.optional.push(action);
        }
        code
    }

    fn note(
        &mut self,
        step: &str,
        action: Option<Action>,
        (expected, passed, weight): (&str, bool, Weight),
        result: &OperationResult,
    ) {
        let tail = |text: &str| {
            let start = text.len().saturating_sub(2048);
            let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text[start..].to_owned()
        };
        self.verdict.checks.push(Check {
            step: step.to_owned(),
            action,
            expected: expected.to_owned(),
            found: result.explain(),
            passed,
            weight,
            said: (!passed).then(|| tail(&result.output)).filter(|said| !said.is_empty()),
            took_ms: u64::try_from(result.took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn push(
        &mut self,
        step: &str,
        action: Option<Action>,
        (expected, found, passed): (&str, String, bool),
        weight: Weight,
    ) {
        let (step, expected) = (step.to_owned(), expected.to_owned());
        self.verdict.checks.push(Check {
            step,
            action,
            expected,
            found,
            passed,
            weight,
            said: None,
            took_ms: 0,
        });
    }
}

/// The code of an answer; -1 for none, which no rule expects.
const fn number(result: &OperationResult) -> i32 {
    match &result.outcome {
        Outcome::Ok => 0,
        Outcome::Failed { code } => code.number(),
        Outcome::Killed { .. } | Outcome::TimedOut | Outcome::NotStarted(_) | Outcome::Cancelled => -1,
    }
}
