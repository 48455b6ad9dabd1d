//! What the cluster runs is changed while it runs.

use super::{Table, config, failed, instance, life, several};
use ocf_resource::{
    Action, Blocked, Command, CommandError, Config, ConfigurationError, Event, FenceCause, FenceOutcome,
    GroupConfig, Input, Kept, Manager, OcfCode, Outcome, Output, ResourceConfig, Why,
};
use pils::{Layer, NodeId};
use std::sync::Arc;
use std::time::Duration;

fn resource(name: &str) -> ResourceConfig {
    ResourceConfig::new(name, "rust:x".parse().expect("a name"))
}

impl Table {
    pub(super) fn agreed(&mut self) -> Config {
        self.manager(1).configuration().expect("one is agreed on")
    }

    /// Changes what is configured, by a command from this node.
    pub(super) fn change(&mut self, node: u32, change: impl FnOnce(&mut Config)) {
        let mut config = self.manager(node).configuration().expect("one is agreed on");
        change(&mut config);
        self.command(node, Command::Configure(Arc::new(config)));
    }

    pub(super) fn refusal(&mut self, node: u32, change: impl FnOnce(&mut Config)) -> ConfigurationError {
        let mut config = self.manager(node).configuration().expect("one is agreed on");
        change(&mut config);
        let now = self.now;
        match self.manager(node).request(now, Command::Configure(Arc::new(config))) {
            Err(CommandError::Configuration(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    fn removed(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .events
            .iter()
            .filter_map(|e| if let Event::Removed { resource } = e { Some(&**resource) } else { None })
            .collect();
        names.dedup();
        names
    }
}

#[test]
fn what_is_new_is_looked_at_everywhere_and_then_started_and_all_else_goes_on() {
    let mut t = Table::running(&[1, 2]);
    t.change(2, |config| {
        config.groups[0].resources.push(resource("log"));
        config.groups.push(GroupConfig::new("mail", vec![resource("smtp")]));
    });
    assert_eq!(t.asked(), ["n1 monitor log", "n1 monitor smtp", "n2 monitor log", "n2 monitor smtp"]);
    t.answer_probes();
    let mut started = t.obey();
    started.sort_unstable();
    assert_eq!(started, ["n1 start log", "n2 start smtp"], "nothing is restarted");
    assert!(t.events.contains(&Event::Configured { revision: 1, by: instance(2) }));
    assert_eq!(t.agreed().revision, 1);
    assert_eq!(t.manager(2).status().revision, 1);
}

#[test]
fn what_is_put_in_front_of_others_is_started_before_they_run_again() {
    let mut t = Table::running(&[1]);
    t.change(1, |config| config.groups[0].resources.insert(1, resource("disk")));
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 stop site", "n1 start disk", "n1 start site"]);
}

#[test]
fn what_is_removed_is_stopped_and_forgotten_and_what_stays_is_left_alone() {
    let mut t = Table::running(&[1, 2]);
    t.change(1, |config| drop(config.groups[0].resources.remove(0)));
    assert_eq!(t.asked(), ["n1 stop ip"], "what stays does not stand behind it any more");
    assert!(t.manager(2).status().groups[0].resources[1].removing);
    assert!(t.agreed().groups[0].resources.iter().all(|r| r.name == "site"));
    let why = |e: &Event| matches!(e, Event::Decided { action: Action::Stop, why: Why::Removed, .. });
    assert!(t.events.iter().any(why));
    assert_eq!(t.removed(), [""; 0], "it may still run");
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    assert_eq!(t.removed(), ["ip"]);
    assert_eq!(t.asked(), [""; 0]);
    assert_eq!(t.status(1).running_on, Some(instance(1)));
    let unknown = t.manager(1).request(Default::default(), set("ip"));
    assert_eq!(unknown, Err(CommandError::UnknownResource { resource: "ip".into() }));
}

fn set(resource: &str) -> Command {
    Command::SetParameters { resource: resource.into(), parameters: Default::default() }
}

#[test]
fn a_removed_group_goes_down_last_first_also_where_a_joiner_has_it() {
    let mut t = Table::running(&[1, 2]);
    t.change(2, |config| config.groups.clear());
    assert_eq!(t.asked(), ["n1 stop site"]);
    // A node joins with an old file, on which something of it still runs.
    let joiner = instance(3);
    t.managers.push((joiner, Manager::new(joiner, config())));
    t.view(&[instance(1), instance(2), joiner], &[joiner], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    t.answer(1, "site", Action::Stop, Outcome::Ok);
    assert_eq!(t.asked(), ["n3 monitor ip", "n3 monitor site", "n1 stop ip"]);
    t.answer(1, "ip", Action::Stop, Outcome::Ok);
    t.answer(3, "ip", Action::Monitor, Outcome::Ok);
    t.answer(3, "site", Action::Monitor, failed(OcfCode::NotRunning));
    assert_eq!(t.asked(), ["n3 stop ip"]);
    assert_eq!(t.manager(1).status().groups.len(), 1, "it is not forgotten while it runs");
    t.answer(3, "ip", Action::Stop, Outcome::Ok);
    assert!(t.manager(1).status().groups.is_empty());
    assert_eq!(t.managers[2].1.state(), t.managers[0].1.state());
    assert!(t.events.contains(&Event::ConfigurationDiffers));
}

#[test]
fn a_removed_resource_that_cannot_be_stopped_gets_its_node_fenced_before_it_is_forgotten() {
    let mut t = Table::running(&[1, 2]);
    t.change(2, |config| config.groups[0].resources.truncate(1));
    t.answer(1, "site", Action::Stop, failed(OcfCode::Generic));
    let [(asker, target, FenceCause::StopFailed { resource, .. })] = &t.fences[..] else {
        panic!("{:?}", t.fences)
    };
    assert_eq!((*asker, *target, &**resource), (instance(2), instance(1), "site"));
    assert!(matches!(t.blocked(2), Some(Blocked::Fencing { .. })));
    assert_eq!(t.removed(), [""; 0]);
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.removed(), ["site"]);
    assert_eq!(t.obey(), ["n2 start ip"], "and what stays goes on elsewhere");
}

#[test]
fn what_is_lost_with_its_node_is_not_forgotten_before_that_is_fenced_or_back() {
    let mut t = Table::running(&[1, 2]);
    t.without(1);
    t.change(2, |config| config.groups.clear());
    assert_eq!((t.removed(), t.asked()), (vec![], vec![]));
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    let mut removed = t.removed();
    removed.sort_unstable();
    assert_eq!(removed, ["ip", "site"]);
}

#[test]
fn nothing_is_forgotten_while_a_node_is_away_whose_access_was_taken() {
    let mut t = super::bare(&[1, 2]);
    t.answer_probes();
    t.input(1, Input::Access { why: None });
    t.input(2, Input::Access { why: None });
    t.obey();
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    t.change(2, |config| config.groups.clear());
    t.obey();
    assert_eq!(t.removed(), [""; 0], "its machine may run it on");
    let back = life(1, 9);
    t.managers.push((back, Manager::new(back, config())));
    t.view(&[instance(2), back], &[back], &[]);
    let state = t.manager(2).state().emit();
    t.input(1, Input::State(&state));
    t.answer(1, "site", Action::Monitor, Outcome::Ok);
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    assert_eq!(t.removed(), [""; 0]);
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip"]);
    assert_eq!(t.removed().len(), 2);
}

#[test]
fn founders_remember_a_machine_whose_access_was_taken() {
    let mut t = super::bare(&[1, 2, 3]);
    t.answer_probes();
    (1..=3).for_each(|node| t.input(node, Input::Access { why: None }));
    t.obey();
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    t.obey();
    t.change(2, |config| config.groups.clear());
    t.obey();
    assert_eq!(t.removed(), [""; 0], "its machine may run it on");
    // Both are outside for a moment, and begin anew.
    (2..=3).for_each(|node| t.input(node, Input::NonPrimary));
    let founders = [instance(2), instance(3)];
    t.fences.clear();
    t.view(&founders, &founders, &[]);
    t.answer_probes();
    assert_eq!(t.removed(), [""; 0], "nor have they forgotten that");
    assert!(t.fences.iter().any(|(_, target, _)| *target == instance(1)), "{:?}", t.fences);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.removed(), [""; 0]);
}

#[test]
fn what_is_taken_back_before_it_is_gone_runs_again() {
    let mut t = Table::running(&[1]);
    let before = t.agreed();
    t.change(1, |config| config.groups[0].resources.truncate(1));
    assert_eq!(t.asked(), ["n1 stop site"]);
    t.change(1, |config| config.groups.clone_from(&before.groups));
    assert_eq!(t.obey(), ["n1 stop site", "n1 start site"]);
    assert_eq!(t.removed(), [""; 0]);
}

#[test]
fn two_operators_do_not_overwrite_each_other() {
    let mut t = Table::running(&[1, 2]);
    let mut mine = t.agreed();
    t.change(2, |config| config.groups[0].migration_threshold = 9);
    mine.groups[0].migration_threshold = 5;
    let now = t.now;
    let late = t.manager(1).request(now, Command::Configure(Arc::new(mine.clone())));
    let outdated = ConfigurationError::Outdated { from: 0, agreed: 1 };
    assert_eq!(late, Err(CommandError::Configuration(outdated.clone())));
    // Both ask before either is ordered: the first one counts, and all say why the second does not.
    mine.revision = 1;
    let mut other = mine.clone();
    other.groups[0].migration_threshold = 6;
    for (node, config) in [(1, mine), (2, other)] {
        t.manager(node).request(now, Command::Configure(Arc::new(config))).expect("nobody knows yet");
    }
    t.settle();
    let outdated = ConfigurationError::Outdated { from: 1, agreed: 2 };
    assert!(t.events.contains(&Event::ConfigurationRefused { by: instance(2), error: outdated }));
    assert_eq!((t.agreed().revision, t.agreed().groups[0].migration_threshold), (2, 5));
    // So does a change of parameters in between.
    let mut mine = t.agreed();
    t.set(1, "ip", "new");
    t.obey();
    mine.groups[0].migration_threshold = 7;
    let late = t.manager(1).request(now, Command::Configure(Arc::new(mine)));
    assert!(matches!(late, Err(CommandError::Configuration(ConfigurationError::Outdated { .. }))));
    assert_eq!(t.agreed().groups[0].resources[0].parameters["p"], "new");
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake_and_changes_nothing() {
    let mut t = Table::running(&[1, 2]);
    let before = t.manager(1).state().clone();
    let error = t.refusal(1, |config| {
        let moved = config.groups[0].resources.pop().expect("there are two");
        config.groups[0].resources[0].agent = "rust:y".parse().expect("a name");
        config.groups[0].promoted = 1;
        config.groups[0].migration_threshold = 0;
        config.groups.push(GroupConfig::new("mail", vec![moved]));
    });
    let ConfigurationError::Wrong(errors) = error else { panic!("{error}") };
    let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "groups[0].migration_threshold",
            "groups[0].promoted",
            "groups[0].resources[0].agent",
            "groups[1].resources[0].name"
        ]
    );
    let large = t.refusal(1, |config| {
        let text = "x".repeat(Config::BYTES_MAX);
        config.groups[0].resources[0].parameters.insert("p".to_owned(), text);
    });
    assert!(matches!(large, ConfigurationError::TooLarge { .. }), "{large}");
    // A member that did not look at it itself sends it all the same: it is refused where it is ordered.
    let mut stranger = Table::of(&Config::default(), &[1], &[]);
    let bad = |config: &mut Config| config.groups.push(GroupConfig::new("", Vec::new()));
    assert!(matches!(stranger.refusal(1, bad), ConfigurationError::Wrong(_)));
    assert_eq!(t.manager(1).state(), &before);
}

#[test]
fn monitors_begin_anew_where_their_times_change_and_nothing_is_restarted() {
    let mut t = Table::running(&[1, 2]);
    t.watched.clear();
    t.change(2, |config| {
        config.groups[0].resources[0].monitor_interval = Duration::from_secs(3);
        config.groups[0].resources[1].stop_timeout = Duration::from_secs(77);
    });
    assert_eq!(t.asked(), [""; 0]);
    let [(at, _, operation)] = &t.watched[..] else { panic!("{:?}", t.watched) };
    assert_eq!((*at, &*operation.resource), (instance(1), "ip"));
    assert_eq!(operation.interval, Some(Duration::from_secs(3)));
    t.fail(1, "ip");
    assert_eq!(t.waiting[0].2.timeout, Duration::from_secs(77), "the stop of what is behind it");
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip", "n1 start ip", "n1 start site"]);
}

#[test]
fn places_and_numbers_of_copies_count_from_the_next_decision_on() {
    let mut t = Table::running(&[1, 2]);
    t.change(1, |config| config.groups[0].nodes.swap(0, 1));
    assert_eq!(t.asked(), [""; 0], "it sticks where it is");
    t.change(1, |config| config.groups[0].copies = 2);
    assert_eq!(t.obey(), ["n2 start ip", "n2 start site"]);
    t.change(1, |config| config.groups[0].copies = 1);
    let stopped = t.obey();
    assert_eq!(stopped.len(), 2, "{stopped:?}");
    assert!(stopped.iter().all(|s| s.contains("stop")), "{stopped:?}");
    assert_eq!(t.status(2).copies_on.len(), 1);
}

#[test]
fn changed_parameters_are_taken_as_by_a_command_for_them_alone() {
    let mut t = Table::running(&[1, 2]);
    t.change(2, |config| {
        config.groups[0].resources[0].parameters.insert("p".to_owned(), "new".to_owned());
    });
    assert_eq!(t.obey(), ["n1 reload-agent ip"]);
}

#[test]
fn in_maintenance_nothing_that_was_removed_is_forgotten() {
    let mut t = Table::running(&[1, 2]);
    t.command(1, Command::Maintenance { group: None, on: true });
    t.change(1, |config| config.groups.clear());
    assert_eq!((t.asked(), t.removed()), (vec![], vec![]));
    t.command(1, Command::Maintenance { group: None, on: false });
    assert_eq!(t.asked().len(), 4, "all is looked at anew");
    t.obey();
    assert!(t.manager(2).status().groups.is_empty());
}

#[test]
fn a_removed_resource_leaves_no_role_and_no_word_of_promotion_behind() {
    let mut config = several(2, 1);
    config.groups[0].resources.push(resource("second"));
    let mut t = Table::of(&config, &[1, 2], &[]);
    t.answer_probes();
    t.obey();
    let promoted = t.status(1).promoted_on.clone();
    t.say(1, "second", ocf_resource::Promotion::Score(ocf_resource::Score::new(5)));
    t.change(1, |config| config.groups[0].resources.truncate(1));
    t.obey();
    assert_eq!(t.removed(), ["second"]);
    assert_eq!(t.status(2).promoted_on, promoted, "the other resource keeps its role");
    t.command(1, Command::Standby(promoted[0].node));
    t.obey();
    assert_eq!(t.status(1).promoted_on.len(), 1, "nobody waits for a score that nobody says any more");
}

/// What a cluster keeps that was changed once.
fn kept() -> Kept {
    let mut t = Table::running(&[1, 2]);
    t.change(1, |config| config.groups[0].resources.truncate(1));
    t.kept.last().expect("it is kept at once").1.clone()
}

#[test]
fn a_cluster_that_is_founded_anew_runs_the_newest_of_what_its_nodes_have_kept() {
    let kept = kept();
    assert_eq!((kept.config.revision, kept.removing.len()), (1, 1));
    // n1, the most senior one, was away then; n2 was not.
    let mut t = Table::of(&Config::default(), &[], &[]);
    let members = [instance(1), instance(2)];
    t.managers.push((members[0], Manager::new(members[0], config())));
    t.managers.push((members[1], Manager::new(members[1], config())));
    t.manager(2).set_kept(kept);
    t.view(&members, &members, &[]);
    assert!(t.events.contains(&Event::Configured { revision: 1, by: instance(2) }));
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 start ip"], "what was removed is looked at, and not started");
    assert_eq!(t.removed(), ["site"]);
    let now: Vec<u64> = t.kept.iter().map(|(_, kept)| kept.config.revision).collect();
    assert!(now.iter().all(|revision| *revision == 1), "nobody keeps the older one: {now:?}");
    assert_eq!(t.managers[0].1.state(), t.managers[1].1.state());
}

#[test]
fn a_file_that_is_newer_than_what_was_kept_counts() {
    let kept = kept();
    for (revision, counts) in [(0, false), (1, true), (2, true)] {
        let mut t = Table::of(&Config::default(), &[], &[]);
        let file = Config { revision, ..config() };
        t.managers.push((instance(1), Manager::new(instance(1), file)));
        t.manager(1).set_kept(kept.clone());
        t.view(&[instance(1)], &[instance(1)], &[]);
        assert_eq!(t.agreed().groups[0].resources.len() == 2, counts, "{revision}");
    }
}

#[test]
fn nothing_is_kept_of_what_the_files_say_anyway() {
    let mut t = Table::running(&[1, 2]);
    assert!(t.kept.is_empty());
    let now = t.now;
    t.manager(1).handle(now, Input::NonPrimary);
    assert!(t.manager(1).poll_output().is_none_or(|o| !matches!(o, Output::Keep(_))));
    assert_eq!(t.view[0].node, NodeId::new(1));
}
