//! Copies that have to be restarted, because what they run with changed, go down one after the other.

use super::{Table, config, failed, instance, life, maintenance, score, several};
use ocf_resource::{
    Action, Command, Config, FenceOutcome, Input, Manager, OcfCode, Outcome, Promotion, ResourceConfig,
};
use pils::{Layer, NodeId};

impl Table {
    /// Has all agents refuse to take changed parameters without a restart.
    fn refuse(&mut self) {
        while let Some((n, _, o)) =
            self.waiting.iter().find(|(_, _, o)| o.action == Action::ReloadAgent).cloned()
        {
            self.answer(n.node.raw(), &o.resource, Action::ReloadAgent, failed(OcfCode::Unimplemented));
        }
    }

    /// What the explanation says of a node.
    fn says(&mut self, node: u32) -> String {
        let text = self.manager(node).explain("web").expect("there is one").to_string();
        let own = format!("{} ", instance(node));
        text.lines().find(|line| line.trim_start().starts_with(&own)).expect("a member").to_owned()
    }

    fn stop(&mut self, node: u32, resource: &str) {
        self.answer(node, resource, Action::Stop, Outcome::Ok);
    }

    fn start(&mut self, node: u32, resource: &str) {
        self.answer(node, resource, Action::Start, Outcome::Ok);
    }
}

/// A cluster of these nodes in which all that can run does.
fn running(config: &Config, nodes: &[u32]) -> Table {
    let mut t = Table::of(config, nodes, &[]);
    t.answer_probes();
    t.obey();
    t
}

/// The same, once its parameters have changed and no agent can take them without a restart.
fn changed(config: &Config, nodes: &[u32]) -> Table {
    let mut t = running(config, nodes);
    t.set(1, "ip", "new");
    t.refuse();
    t
}

fn parallel(mut config: Config, most: u32) -> Config {
    config.groups[0].restart_parallel = most;
    config
}

#[test]
fn copies_are_restarted_one_after_the_other_and_the_explanation_says_which_one_waits_for_what() {
    let mut t = running(&several(0, 0), &[1, 2, 3]);
    t.set(2, "ip", "new");
    assert_eq!(t.asked().len(), 3, "whether they can take it is asked of all at once");
    t.refuse();
    assert_eq!(t.asked(), ["n1 stop ip"]);
    assert!(t.says(2).contains("is restarted when the copy on n1 runs"), "{}", t.says(2));
    t.stop(1, "ip");
    assert_eq!(t.asked(), ["n1 start ip"]);
    assert_eq!(t.waiting[0].2.parameters["p"], "new");
    t.start(1, "ip");
    assert_eq!(t.obey(), ["n2 stop ip", "n2 start ip", "n3 stop ip", "n3 start ip"]);
    assert!(t.manager(1).explain("web").expect("there is one").old_copies.is_empty());
}

#[test]
fn as_many_go_down_together_as_the_configuration_lets() {
    let mut t = changed(&parallel(several(0, 0), 2), &[1, 2, 3, 4, 5]);
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip"]);
    t.stop(2, "ip");
    t.start(2, "ip");
    assert_eq!(t.asked(), ["n1 stop ip", "n3 stop ip"]);
    let t = changed(&parallel(several(0, 0), 0), &[1, 2, 3]);
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip", "n3 stop ip"], "0: all at once");
}

#[test]
fn a_copy_is_whole_once_all_of_it_runs_and_what_an_agent_takes_needs_no_turn() {
    let mut config = several(0, 0);
    config.groups[0].resources.push(ResourceConfig::new("site", "rust:x".parse().expect("a name")));
    let mut t = changed(&config, &[1, 2]);
    t.set(1, "site", "new");
    assert_eq!(t.asked(), ["n1 stop site", "n2 reload-agent site"]);
    t.answer(2, "site", Action::ReloadAgent, Outcome::Ok);
    t.stop(1, "site");
    t.stop(1, "ip");
    t.start(1, "ip");
    assert_eq!(t.asked(), ["n1 start site"]);
    t.start(1, "site");
    assert_eq!(t.obey(), ["n2 stop site", "n2 stop ip", "n2 start ip", "n2 start site"]);
}

#[test]
fn a_copy_that_failed_counts_until_it_runs_again_or_has_failed_for_good() {
    let mut config = several(0, 0);
    config.groups[0].migration_threshold = 2;
    let mut t = running(&config, &[1, 2, 3]);
    t.fail(3, "ip");
    t.set(1, "ip", "new");
    assert_eq!(t.asked(), ["n3 stop ip", "n1 reload-agent ip", "n2 reload-agent ip"]);
    t.refuse();
    assert_eq!(t.asked(), ["n3 stop ip"]);
    assert!(t.says(1).contains("the copy on n3 runs"), "{}", t.says(1));
    t.stop(3, "ip");
    assert_eq!(t.asked(), ["n3 start ip"]);
    t.answer(3, "ip", Action::Start, failed(OcfCode::Generic));
    assert_eq!(t.asked(), ["n1 stop ip", "n3 stop ip"], "it is not to run there any more");
    t.obey();
    assert_eq!((t.status(2).copies_on.len(), t.status(2).failures[0].count), (2, 3));
    assert_eq!(t.waiting.len(), 0);
}

#[test]
fn what_fails_with_the_new_parameters_holds_the_others_as_long_as_it_is_tried_there() {
    let mut config = several(2, 0);
    config.groups[0].on_start_failure = ocf_resource::StartFailure::Count;
    let mut t = changed(&config, &[1, 2]);
    for _ in 0..2 {
        t.stop(1, "ip");
        assert_eq!(t.asked(), ["n1 start ip"]);
        t.answer(1, "ip", Action::Start, failed(OcfCode::Generic));
    }
    assert_eq!(t.status(2).failures[0].count, 2);
    assert_eq!(t.asked(), ["n1 stop ip", "n2 stop ip"], "n1 can run it no more, and is not waited for");
}

#[test]
fn a_lost_node_counts_until_it_is_fenced_and_one_that_comes_until_it_runs() {
    let mut t = running(&several(0, 0), &[1, 2, 3]);
    t.without(3);
    t.set(1, "ip", "new");
    t.refuse();
    assert_eq!(t.asked(), [""; 0]);
    assert!(t.says(1).contains("is restarted when n3 is fenced"), "{}", t.says(1));
    t.fenced(1, instance(3), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    t.stop(1, "ip");
    // Back, with nothing on it: n2 waits until both run.
    let joiner = life(3, 9);
    t.managers.push((joiner, Manager::new(joiner, config())));
    t.view(&[instance(1), instance(2), joiner], &[joiner], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    t.start(1, "ip");
    assert_eq!(t.asked(), ["n3 monitor ip"]);
    t.answer(3, "ip", Action::Monitor, failed(OcfCode::NotRunning));
    assert_eq!(t.obey(), ["n3 start ip", "n2 stop ip", "n2 start ip"]);
}

#[test]
fn what_leaves_or_is_in_maintenance_holds_nobody_for_ever() {
    let mut t = changed(&several(0, 0), &[1, 2, 3]);
    t.stop(1, "ip");
    t.command(2, maintenance(Some("web"), true));
    t.start(1, "ip");
    assert_eq!(t.asked(), [""; 0], "hands off");
    t.command(2, maintenance(Some("web"), false));
    let mut asked = t.asked();
    asked.sort_unstable();
    assert_eq!(asked, ["n1 monitor ip", "n2 monitor ip", "n3 monitor ip"]);
    t.answer(1, "ip", Action::Monitor, Outcome::Ok);
    t.answer(2, "ip", Action::Monitor, Outcome::Ok);
    assert_eq!(t.asked(), ["n3 monitor ip"], "nobody knows what runs there");
    t.answer(3, "ip", Action::Monitor, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 stop ip"]);
    t.command(3, Command::Standby(NodeId::new(2)));
    t.stop(2, "ip");
    assert_eq!(t.obey(), ["n3 stop ip", "n3 start ip"]);
    t.command(3, Command::Online(NodeId::new(2)));
    assert_eq!(t.waiting[0].2.parameters["p"], "new");
    assert_eq!(t.obey(), ["n2 start ip"]);
}

#[test]
fn the_promoted_copy_is_restarted_last_and_gives_its_role_away_first() {
    let mut t = changed(&several(3, 1), &[1, 2, 3]);
    assert_eq!(t.status(1).promoted_on, [instance(1)]);
    let expected = [
        "n2 stop ip",
        "n2 start ip",
        "n3 stop ip",
        "n3 start ip",
        "n1 demote ip",
        "n2 promote ip",
        "n1 stop ip",
        "n1 start ip",
    ];
    assert_eq!(t.obey(), expected);
    assert_eq!((t.status(1).promoted_on, t.status(1).copies_on.len()), (vec![instance(2)], 3));
}

#[test]
fn who_gave_its_role_away_is_not_stopped_before_another_has_it() {
    let mut t = changed(&several(2, 1), &[1, 2]);
    t.stop(2, "ip");
    t.start(2, "ip");
    assert_eq!(t.asked(), ["n1 demote ip"]);
    t.answer(1, "ip", Action::Demote, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 promote ip"]);
    assert!(t.says(1).contains("the copy on n2 runs"), "{}", t.says(1));
    // It cannot be promoted: it is restarted, and nobody stops the other one meanwhile, which has the role again.
    t.answer(2, "ip", Action::Promote, failed(OcfCode::Generic));
    assert_eq!(t.asked(), ["n2 stop ip"]);
    t.stop(2, "ip");
    assert_eq!(t.asked(), ["n1 promote ip", "n2 start ip"]);
    t.obey();
    assert_eq!(t.status(1).promoted_on.len(), 1);
    assert_eq!(t.status(1).copies_on.len(), 2);
}

#[test]
fn a_role_goes_only_where_scores_allow_and_else_down_with_its_copy() {
    let mut t = running(&several(3, 1), &[1, 2, 3]);
    for (node, said) in [(1, score(10)), (2, score(-1)), (3, Promotion::Withdrawn)] {
        t.say(node, "ip", said);
    }
    t.set(1, "ip", "new");
    t.refuse();
    for node in [2, 3] {
        t.stop(node, "ip");
        t.say(node, "ip", score(-1));
        t.start(node, "ip");
    }
    assert_eq!(t.asked(), ["n1 demote ip"]);
    t.answer(1, "ip", Action::Demote, Outcome::Ok);
    assert_eq!(t.asked(), ["n1 stop ip"]);
    t.stop(1, "ip");
    t.say(1, "ip", score(10));
    assert_eq!(t.obey(), ["n1 start ip", "n1 promote ip"]);
}

#[test]
fn the_best_copy_has_the_role_again_once_it_was_restarted() {
    let mut t = running(&several(3, 1), &[1, 2, 3]);
    for (node, said) in [(3, 30), (1, 10), (2, 20)] {
        t.say(node, "ip", score(said));
    }
    t.obey();
    assert_eq!(t.status(1).promoted_on, [instance(3)]);
    t.set(1, "ip", "new");
    t.refuse();
    for (node, said) in [(1, 10), (2, 20)] {
        t.stop(node, "ip");
        t.say(node, "ip", score(said));
        t.start(node, "ip");
    }
    assert_eq!(t.asked(), ["n3 demote ip"]);
    t.answer(3, "ip", Action::Demote, Outcome::Ok);
    assert_eq!(t.asked(), ["n2 promote ip"], "the best of those that run as they are to");
    t.answer(2, "ip", Action::Promote, Outcome::Ok);
    t.stop(3, "ip");
    t.say(3, "ip", score(30));
    assert_eq!(t.obey(), ["n3 start ip", "n2 demote ip", "n3 promote ip"]);
}

#[test]
fn a_promoted_copy_waits_for_who_has_not_said_yet_whether_it_has_to_be_restarted() {
    let mut t = running(&several(2, 1), &[1, 2]);
    t.set(1, "ip", "new");
    t.answer(1, "ip", Action::ReloadAgent, failed(OcfCode::Unimplemented));
    assert_eq!(t.asked(), ["n2 reload-agent ip"]);
    assert!(t.says(1).contains("the copy on n2 runs"), "{}", t.says(1));
    t.answer(2, "ip", Action::ReloadAgent, Outcome::Ok);
    assert_eq!(t.obey(), ["n1 demote ip", "n2 promote ip", "n1 stop ip", "n1 start ip"]);
}

#[test]
fn what_is_put_in_front_of_others_restarts_copies_one_after_the_other_too() {
    let mut t = running(&several(0, 0), &[1, 2, 3]);
    t.change(2, |config| {
        let new = |name: &str| ResourceConfig::new(name, "rust:x".parse().expect("a name"));
        config.groups[0].resources.insert(0, new("disk"));
        config.groups[0].resources.push(new("log"));
    });
    t.answer_probes();
    let one = |n: u32| {
        ["stop ip", "start disk", "start ip", "start log"].map(|step| format!("n{n} {step}")).to_vec()
    };
    assert_eq!(t.obey(), [one(1), one(2), one(3)].concat());
}

#[test]
fn what_is_added_behind_others_or_removed_stops_no_copy() {
    let mut config = several(0, 0);
    config.groups[0].resources.push(ResourceConfig::new("site", "rust:x".parse().expect("a name")));
    let mut t = running(&config, &[1, 2]);
    t.change(2, |config| {
        config.groups[0].resources.remove(0);
        config.groups[0].resources.push(ResourceConfig::new("log", "rust:x".parse().expect("a name")));
    });
    t.answer_probes();
    let mut steps = t.obey();
    steps.sort_unstable();
    assert_eq!(steps, ["n1 start log", "n1 stop ip", "n2 start log", "n2 stop ip"]);
}

#[test]
fn without_its_quorum_nothing_is_restarted_and_with_it_all_is() {
    let mut config = several(0, 0);
    let quorum = ocf_resource::QuorumConfig::new("data", 3);
    config.quorums = vec![ocf_resource::QuorumConfig { on_loss: ocf_resource::QuorumLoss::Keep, ..quorum }];
    config.groups[0].quorum = Some("data".to_owned());
    let mut t = running(&config, &[1, 2, 3]);
    t.without(3);
    t.fenced(1, instance(3), FenceOutcome::Confirmed);
    t.set(1, "ip", "new");
    t.refuse();
    assert_eq!(t.asked(), [""; 0]);
    let joiner = life(3, 9);
    t.managers.push((joiner, Manager::new(joiner, super::config())));
    t.view(&[instance(1), instance(2), joiner], &[joiner], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    t.answer_probes();
    t.refuse();
    assert_eq!(t.obey()[..3], ["n3 start ip", "n1 stop ip", "n1 start ip"]);
    assert_eq!(t.asked(), [""; 0]);
}

#[test]
fn a_node_that_was_outside_and_goes_on_is_looked_at_before_another_copy_is_stopped() {
    let mut t = changed(&several(0, 0), &[1, 2, 3]);
    let now = t.now;
    t.manager(3).handle(now, Input::NonPrimary);
    t.view(&[instance(1), instance(2), instance(3)], &[], &[]);
    t.stop(1, "ip");
    t.start(1, "ip");
    let looks: Vec<String> = t.asked().into_iter().filter(|a| a.contains("monitor")).collect();
    assert_eq!(looks, ["n3 monitor ip"]);
    assert!(!t.asked().contains(&"n2 stop ip".to_owned()), "{:?}", t.asked());
    t.answer(3, "ip", Action::Monitor, failed(OcfCode::NotRunning));
    assert!(t.asked().contains(&"n3 start ip".to_owned()), "{:?}", t.asked());
    assert!(!t.asked().contains(&"n2 stop ip".to_owned()), "{:?}", t.asked());
    t.start(3, "ip");
    assert!(t.asked().contains(&"n2 stop ip".to_owned()), "{:?}", t.asked());
}

#[test]
fn what_is_new_in_front_of_a_copy_stops_it_only_when_it_is_known_and_the_copy_has_its_turn() {
    let mut t = running(&several(0, 0), &[1, 2]);
    t.change(2, |config| {
        let disk = ResourceConfig::new("disk", "rust:x".parse().expect("a name"));
        config.groups[0].resources.insert(0, disk);
    });
    assert_eq!(t.asked(), ["n1 monitor disk", "n2 monitor disk"], "and nothing is stopped");
    t.answer_probes();
    let one = |n: u32| ["stop ip", "start disk", "start ip"].map(|step| format!("n{n} {step}")).to_vec();
    assert_eq!(t.obey(), [one(1), one(2)].concat());
}

#[test]
fn a_promoted_copy_keeps_its_role_while_something_new_is_looked_at_and_started() {
    let mut t = running(&several(2, 1), &[1, 2]);
    t.change(2, |config| {
        let log = ResourceConfig::new("log", "rust:x".parse().expect("a name"));
        config.groups[0].resources.push(log);
    });
    assert_eq!(t.asked(), ["n1 monitor log", "n2 monitor log"]);
    t.answer_probes();
    assert_eq!(t.obey(), ["n1 start log", "n2 start log", "n1 promote log"]);
}
