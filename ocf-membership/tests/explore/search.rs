//! Visits every state that can be reached, and tells how one got there.

use crate::model::{Model, State};
use crate::plan::{Act, Plan};
use core::fmt::Write as _;
use std::collections::{BTreeSet, VecDeque};

/// What an exploration saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Different states.
    pub(crate) states: usize,
    /// Steps from one to another.
    pub(crate) steps: u64,
    /// States in which nothing more can happen before the end of the time.
    pub(crate) ends: u64,
    /// The most views that one course had.
    pub(crate) views: usize,
    /// Every state was visited.
    pub(crate) complete: bool,
    /// A promise that was not kept, and how one gets there.
    pub(crate) broken: Option<String>,
}

/// Which state is visited next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// So that the first way found to a broken promise is a shortest one.
    NearestFirst,
    /// In turns the nearest and the farthest: a part of all states that has some of everything.
    Both,
}

/// Visits at most `states_max` states.
pub(crate) fn explore(plan: Plan, order: Order, states_max: usize) -> Report {
    let mut model = Model::new(plan);
    let mut report = Report::default();
    let first = model.initial();
    let mut known = BTreeSet::from([first.digest()]);
    // How each state was reached; the first from nowhere.
    let mut ways: Vec<(usize, Act)> = vec![(0, Act::Time)];
    let mut open = VecDeque::from([(0, first)]);
    loop {
        let far = order == Order::Both && report.states.is_multiple_of(2);
        let Some((number, state)) = (if far { open.pop_back() } else { open.pop_front() }) else { break };
        report.states += 1;
        report.views = report.views.max(state.view_count());
        if report.states > states_max {
            return report;
        }
        let acts = model.enabled(&state);
        report.ends += u64::from(acts.is_empty());
        for act in acts {
            report.steps += 1;
            let next = model.apply(&state, act);
            if let Some(broken) = &next.broken {
                report.broken = Some(format!("{broken}\n{}", trace(&mut model, &ways, number, act)));
                return report;
            }
            if known.insert(next.digest()) {
                ways.push((number, act));
                open.push_back((ways.len() - 1, next));
            }
        }
    }
    report.complete = true;
    report
}

/// How one gets to a state, and what happens then.
fn trace(model: &mut Model, ways: &[(usize, Act)], mut number: usize, last: Act) -> String {
    let mut acts = vec![last];
    while number > 0 {
        let (before, act) = ways[number];
        acts.push(act);
        number = before;
    }
    let mut text = String::new();
    let mut state: State = model.initial();
    for act in acts.into_iter().rev() {
        writeln!(text, "{:>8} {act:?}", state.now()).expect("strings take everything");
        state = model.apply(&state, act);
    }
    text
}
