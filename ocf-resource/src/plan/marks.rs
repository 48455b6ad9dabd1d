//! What has to be planned anew after something happened: the groups that it touches, and what depends on these.

use super::Plan;
use crate::book::Book;
use crate::message::Message;
use crate::state::State;
use crate::{Command, Config};
use std::collections::BTreeSet;

/// Groups that have to be planned anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    all: bool,
    /// By number in the configuration.
    groups: BTreeSet<usize>,
}

impl Marks {
    /// Every group.
    pub(crate) const ALL: Self = Self { all: true, groups: BTreeSet::new() };
    /// None.
    pub(crate) const NONE: Self = Self { all: false, groups: BTreeSet::new() };

    /// The groups by number, or `None` if it is all of them.
    pub(crate) fn groups(&self) -> Option<&BTreeSet<usize>> {
        (!self.all).then_some(&self.groups)
    }

    /// These, too.
    pub(crate) fn add(&mut self, more: &Self) {
        self.all |= more.all;
        self.groups.extend(&more.groups);
    }

    fn one(group: Option<usize>) -> Self {
        Self { all: false, groups: group.into_iter().collect() }
    }

    /// What an ordered message touches. Whatever is about nodes touches all groups.
    pub(crate) fn of_message(message: &Message, book: Option<&Book>) -> Self {
        let Some(book) = book else { return Self::ALL };
        let resource = |name: &str| Self::one(book.group_of(name));
        let group = |name: &str| Self::one(book.group_at(name));
        match message {
            Message::Report(report) => resource(&report.resource),
            Message::MonitorFailed(failure) => resource(&failure.resource),
            Message::Noticed { resource: name, .. } | Message::Promotion { resource: name, .. } => {
                resource(name)
            }
            Message::Expire { group: name, .. } => group(name),
            Message::Command(command) => match command {
                Command::MoveGroup { group: name, .. }
                | Command::StopGroup(name)
                | Command::StartGroup(name)
                | Command::ClearFailures(name)
                | Command::Maintenance { group: Some(name), .. } => group(name),
                Command::Condition { of, .. } => Self::one(book.either(of)),
                Command::SetParameters { resource: name, .. } => resource(name),
                Command::Standby(_)
                | Command::Online(_)
                | Command::Maintenance { group: None, .. }
                | Command::Configure(_) => Self::ALL,
            },
            // No plan depends on it.
            Message::Armed { .. } => Self::one(None),
            Message::Reach { .. } | Message::ReachSettled(_) => {
                let groups = book.groups.iter().enumerate().filter(|(_, group)| group.reach.is_some());
                Self { all: false, groups: groups.map(|(at, _)| at).collect() }
            }
            Message::Found(_)
            | Message::Fenced { .. }
            | Message::Health { .. }
            | Message::Leave
            | Message::Remember(_)
            | Message::Access { .. }
            | Message::Returned => Self::ALL,
        }
    }

    /// What a plan touches once the state has taken it.
    pub(crate) fn of_plan(plan: &Plan, book: &Book, state: &State) -> Self {
        if !plan.fences.is_empty() || !plan.access.is_empty() {
            return Self::ALL;
        }
        let steps = plan.steps.iter().filter_map(|step| book.group_of(&step.resource));
        let homes = plan.homes.iter().filter_map(|(name, _)| book.group_at(name));
        let mut groups: BTreeSet<usize> = steps.chain(homes).collect();
        if !plan.homes.is_empty() {
            groups.extend(by_load(book, state));
        }
        Self { all: false, groups }
    }
}

/// The groups whose plan may change when another group finds a home or loses it. How many groups a node has decides among
/// equals that are not in the order of the configuration, and a group that has a home among those it can be on leaves it for
/// one of several equals only if that has not failed before. One without a home has one as soon as it could have one.
pub(super) fn by_load<'a>(config: &'a Config, state: &'a State) -> impl Iterator<Item = usize> + 'a {
    let open = config.groups.iter().enumerate().filter(|(_, g)| g.nodes.is_empty() || g.elsewhere);
    let tried = |name: &str| state.groups.get(name).is_some_and(|g| !g.failures.is_empty());
    open.filter(move |(_, g)| tried(&g.name)).map(|(at, _)| at)
}
