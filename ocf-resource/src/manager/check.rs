//! For tests: after every step the plan for what was touched is compared with the plan for everything.

use super::Manager;
use crate::plan::{Marks, Plan, plan_by};

/// Whether plans are compared, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// One plan in so many is compared; none if zero.
    every: u64,
    plans: u64,
    whole: bool,
    wrong: Option<String>,
}

impl Manager {
    /// Has one in `every` plans for what was touched compared with the plan for everything, which it must equal. A plan for everything
    /// costs all groups and all nodes: in a large cluster each of them now and then is enough.
    pub const fn compare_plans(&mut self, every: u64) {
        self.planner.check.every = every;
    }

    /// Has everything planned whatever was touched, as a reference for what that costs.
    pub const fn plan_everything(&mut self) {
        self.planner.check.whole = true;
    }

    /// How a plan for what was touched first differed from the plan for everything, if one did.
    #[must_use]
    pub fn difference(&self) -> Option<&str> {
        self.planner.check.wrong.as_deref()
    }

    /// What is planned when this was touched.
    pub(super) fn widen(&self, touched: &mut Marks) {
        if self.planner.check.whole {
            *touched = Marks::ALL;
        }
    }

    /// Compares a plan of what was touched, which is about to be carried out, with one for everything.
    pub(super) fn compare(&mut self, plan: &Plan) {
        self.planner.check.plans += 1;
        let Check { every, plans, .. } = self.planner.check;
        if every == 0 || !plans.is_multiple_of(every) {
            return;
        }
        let Some(config) = self.state.config.as_ref() else { return };
        let whole = plan_by(config, &self.state, self.rules);
        let same = (&whole.homes, &whole.steps, &whole.fences, &whole.access)
            == (&plan.homes, &plan.steps, &plan.fences, &plan.access);
        if !same {
            return self.differs(format!("{plan:?} in place of {whole:?}"));
        }
        let planner = &self.planner;
        if (&whole.targets, &whole.blocked) != (&planner.targets, &planner.blocked) {
            let known = (&planner.targets, &planner.blocked);
            self.differs(format!("known is {known:?}, not {:?}", (&whole.targets, &whole.blocked)));
        }
    }

    fn differs(&mut self, how: String) {
        self.planner.check.wrong.get_or_insert(how);
    }
}
