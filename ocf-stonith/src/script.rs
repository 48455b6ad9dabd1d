use crate::{DeviceResult, Failure, FenceAction, ReadBack};
use core::str::FromStr;
use core::time::Duration;
use pils::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a simulated device does with the orders it gets, one step per `Off`, `Reboot` or `On`; the last step repeats.
///
/// Steps are separated by `;`. A step is a word, and after it how long the answer takes (`200ms`, `2s`; default none):
/// `confirm`, `fail`, `still-on` (reports success, and reads back on), `unverified` (carries the order out and
/// cannot tell), `hang` (never answers, so the attempt times out), `late` (carries the order out and answers, whether or not it was cancelled).
///
/// ```
/// let script: ocf_stonith::Script = "fail 1s; confirm 200ms".parse()?;
/// assert_eq!(script, ocf_stonith::Script::new([
///     ocf_stonith::Step::fail().after(std::time::Duration::from_secs(1)),
///     ocf_stonith::Step::confirm().after(std::time::Duration::from_millis(200)),
/// ]));
/// # Ok::<(), ocf_stonith::ScriptError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    steps: VecDeque<Step>,
}

/// One step of a [`Script`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    answer: Answer,
    after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Confirm,
    Fail,
    StillOn,
    Unverified,
    Hang,
    Late,
}

impl Step {
    const fn new(answer: Answer) -> Self {
        Self { answer, after: Duration::ZERO }
    }

    /// Carries the order out, reads it back.
    #[must_use]
    pub const fn confirm() -> Self {
        Self::new(Answer::Confirm)
    }

    /// Fails.
    #[must_use]
    pub const fn fail() -> Self {
        Self::new(Answer::Fail)
    }

    /// Reports success, but the state read back has not changed.
    #[must_use]
    pub const fn still_on() -> Self {
        Self::new(Answer::StillOn)
    }

    /// Carries the order out and cannot tell.
    #[must_use]
    pub const fn unverified() -> Self {
        Self::new(Answer::Unverified)
    }

    /// Never answers.
    #[must_use]
    pub const fn hang() -> Self {
        Self::new(Answer::Hang)
    }

    /// Carries the order out and answers, whether or not it was cancelled.
    #[must_use]
    pub const fn late() -> Self {
        Self::new(Answer::Late)
    }

    /// The same, with an answer that takes this long.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

/// A script that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// No step at all.
    #[error("a script has at least one step")]
    Empty,
    /// A step that is not known.
    #[error("step {0:?} is not one of confirm, fail, still-on, unverified, hang, late")]
    Step(String),
    /// A time that is not a number with `ms` or `s`.
    #[error("time {0:?} is not a whole number with ms or s, such as 200ms")]
    Time(String),
}

impl Script {
    /// These steps, in order; the last repeats. No step at all is the same as one that confirms at once.
    #[must_use]
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect() }
    }

    fn next(&mut self) -> Step {
        if self.steps.len() > 1 {
            return self.steps.pop_front().unwrap_or(Step::confirm());
        }
        self.steps.front().copied().unwrap_or(Step::confirm())
    }
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut steps = VecDeque::new();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (word, time) = part.split_once(' ').unwrap_or((part, ""));
            let step = match word {
                "confirm" => Step::confirm(),
                "fail" => Step::fail(),
                "still-on" => Step::still_on(),
                "unverified" => Step::unverified(),
                "hang" => Step::hang(),
                "late" => Step::late(),
                _ => return Err(ScriptError::Step(word.to_owned())),
            };
            steps.push_back(step.after(parse_time(time.trim())?));
        }
        if steps.is_empty() { Err(ScriptError::Empty) } else { Ok(Self { steps }) }
    }
}

fn parse_time(text: &str) -> Result<Duration, ScriptError> {
    let wrong = || ScriptError::Time(text.to_owned());
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    let (digits, scale) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1000),
    };
    let number: u32 = digits.parse().map_err(|_number| wrong())?;
    Ok(Duration::from_millis(u64::from(number) * scale))
}

/// A device that exists only in memory: sans-IO, so that a simulator can drive it in virtual time. The class
/// `simulated` wraps it for real time.
///
/// Nodes are on until switched off. An order takes effect when its answer is due, not before.
#[derive(Clone, Debug)]
pub struct SimulatedDevice {
    script: Script,
    off: BTreeMap<NodeId, bool>,
}

/// What a simulated device is going to do with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    action: FenceAction,
    node: NodeId,
    step: Step,
}

impl Plan {
    /// How long it takes; `None` if there will be no answer.
    #[must_use]
    pub const fn after(&self) -> Option<Duration> {
        if matches!(self.step.answer, Answer::Hang) { None } else { Some(self.step.after) }
    }

    /// True if a cancellation does not stop it.
    #[must_use]
    pub const fn survives_cancel(&self) -> bool {
        matches!(self.step.answer, Answer::Late)
    }
}

impl SimulatedDevice {
    /// A device that follows `script`; all nodes are on.
    #[must_use]
    pub const fn new(script: Script) -> Self {
        Self { script, off: BTreeMap::new() }
    }

    /// Takes an order.
    pub fn order(&mut self, action: FenceAction, node: NodeId) -> Plan {
        let harmless = matches!(action, FenceAction::Status | FenceAction::Monitor | FenceAction::List);
        let step = if harmless { Step::confirm() } else { self.script.next() };
        Plan { action, node, step }
    }

    /// Carries out a plan whose time has come. `power` is told each change: node, and true for on.
    pub fn carry_out(&mut self, plan: Plan, power: &mut dyn FnMut(NodeId, bool)) -> DeviceResult {
        let Plan { action, node, step } = plan;
        match step.answer {
            Answer::Fail => {
                return DeviceResult::Failed(Failure::Failed { detail: Arc::from("the script says so") });
            }
            Answer::Hang => return DeviceResult::Failed(Failure::Cancelled),
            Answer::StillOn => {}
            Answer::Confirm | Answer::Unverified | Answer::Late => match action {
                FenceAction::Off => self.switch(node, false, power),
                FenceAction::On => self.switch(node, true, power),
                FenceAction::Reboot => {
                    self.switch(node, false, power);
                    self.switch(node, true, power);
                    return done(ReadBack::Off, step);
                }
                FenceAction::Status | FenceAction::Monitor | FenceAction::List => {}
            },
        }
        done(if self.is_on(node) { ReadBack::On } else { ReadBack::Off }, step)
    }

    /// True if the node has power.
    #[must_use]
    pub fn is_on(&self, node: NodeId) -> bool {
        !self.off.get(&node).copied().unwrap_or(false)
    }

    fn switch(&mut self, node: NodeId, on: bool, power: &mut dyn FnMut(NodeId, bool)) {
        if self.is_on(node) != on {
            self.off.insert(node, !on);
            power(node, on);
        }
    }
}

fn done(read: ReadBack, step: Step) -> DeviceResult {
    let read_back = if step.answer == Answer::Unverified { ReadBack::NotRead } else { read };
    DeviceResult::Done { read_back, detail: Arc::from("simulated") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_followed_and_its_last_step_repeats() {
        let mut device = SimulatedDevice::new("fail; confirm 5ms".parse().unwrap());
        let node = NodeId::new(1);
        let mut log = Vec::new();
        let mut order = |device: &mut SimulatedDevice, action| {
            let plan = device.order(action, node);
            device.carry_out(plan, &mut |_, on| log.push(on))
        };
        assert!(matches!(order(&mut device, FenceAction::Off), DeviceResult::Failed(_)));
        assert!(device.is_on(node));
        let off = order(&mut device, FenceAction::Off);
        assert!(matches!(off, DeviceResult::Done { read_back: ReadBack::Off, .. }));
        let status = order(&mut device, FenceAction::Status);
        assert!(matches!(status, DeviceResult::Done { read_back: ReadBack::Off, .. }));
        let on = order(&mut device, FenceAction::On);
        assert!(matches!(on, DeviceResult::Done { read_back: ReadBack::On, .. }));
        assert_eq!(log, [false, true]);
    }

    #[test]
    fn a_wrong_script_says_what_is_wrong() {
        assert_eq!("".parse::<Script>(), Err(ScriptError::Empty));
        assert_eq!("explode".parse::<Script>(), Err(ScriptError::Step("explode".into())));
        assert_eq!("fail soon".parse::<Script>(), Err(ScriptError::Time("soon".into())));
        assert_eq!("fail 2m".parse::<Script>(), Err(ScriptError::Time("2m".into())));
    }
}
