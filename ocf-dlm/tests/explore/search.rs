//! Visits every state that can be reached, the nearest first, and tells how one got there.

use crate::model::{Act, Model, Plan};
use crate::node::Maps;
use crate::promises::Broken;
use crate::tell::say;
use core::fmt::Write as _;
use std::collections::{HashSet, VecDeque};

/// What an exploration saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Different states.
    pub(crate) states: u64,
    /// Steps from one to another.
    pub(crate) steps: u64,
    /// Different steps of single engines.
    pub(crate) engine_steps: u64,
    /// States in which nothing was on its way.
    pub(crate) at_rest: u64,
    /// Steps of the shortest way to the state that is farthest; nearest first only.
    pub(crate) depth: u32,
    /// Every state was visited.
    pub(crate) complete: bool,
    /// A promise that was not kept, and how one gets there.
    pub(crate) broken: Option<(Broken, String)>,
}

/// In which order states are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// So that the first way found to a broken promise is a shortest one.
    NearestFirst,
    /// Takes little memory.
    DeepestFirst,
}

/// Visits at most `states_max` states.
pub(crate) fn explore(plan: Plan, order: Order, states_max: u64) -> Report {
    let mut model = Model::new(plan);
    let mut report = Report::default();
    let mut ways: Vec<(u32, Act)> = Vec::new();
    let first = match model.initial() {
        Ok(first) => first,
        Err(broken) => {
            report.broken = Some((broken, "at the start".into()));
            return report;
        }
    };
    let mut known: HashSet<u64, Maps> = HashSet::default();
    known.insert(first.digest());
    // Numbers of states begin with 1; 0 is nowhere.
    ways.push((0, Act::Turn(0)));
    let mut open = VecDeque::from([(1_u32, 0_u32, first)]);
    let take = |open: &mut VecDeque<_>| match order {
        Order::NearestFirst => open.pop_front(),
        Order::DeepestFirst => open.pop_back(),
    };
    while let Some((number, depth, state)) = take(&mut open) {
        report.states += 1;
        report.depth = report.depth.max(depth);
        if report.states > states_max {
            report.engine_steps = model.nodes.worked_out;
            return report;
        }
        let acts = model.enabled(&state);
        match model.judge(&state, &acts) {
            Ok(at_rest) => report.at_rest += u64::from(at_rest),
            Err(broken) => {
                report.broken = Some((broken, trace(&mut model, &ways, number, None)));
                return report;
            }
        }
        for act in acts {
            report.steps += 1;
            match model.apply(&state, act) {
                Ok(next) => {
                    if known.insert(next.digest()) {
                        ways.push((number, act));
                        let number = u32::try_from(ways.len()).expect("fewer states than that");
                        open.push_back((number, depth + 1, next));
                    }
                }
                Err(broken) => {
                    report.broken = Some((broken, trace(&mut model, &ways, number, Some(act))));
                    return report;
                }
            }
        }
    }
    report.engine_steps = model.nodes.worked_out;
    report.complete = true;
    report
}

/// How one gets to a state, and what happens then.
fn trace(model: &mut Model, ways: &[(u32, Act)], mut number: u32, last: Option<Act>) -> String {
    let mut acts = Vec::from_iter(last);
    while number > 1 {
        let (before, act) = ways[number as usize - 1];
        acts.push(act);
        number = before;
    }
    let mut text = String::new();
    let Ok(mut state) = model.initial() else { return text };
    for (at, act) in (1..).zip(acts.into_iter().rev()) {
        writeln!(text, "{at:4}  {}", say(&model.plan, &state, act)).expect("strings take everything");
        match model.apply(&state, act) {
            Ok(next) => state = next,
            Err(_) => break,
        }
    }
    text
}
