//! Groups that need a quorum.

use super::{Table, config, failed, instance, life, live_in, score, several};
use ocf_resource::{Action, GroupConfig};
use ocf_resource::{
    Blocked, Command, Config, ConfigurationError, Event, FenceOutcome, Input, Manager, OcfCode, QuorumConfig,
    QuorumLoss, Why,
};
use pils::NodeId;

/// The first group needs so many members.
fn needing(mut config: Config, members: u32, on_loss: QuorumLoss) -> Config {
    config.quorums = vec![QuorumConfig { on_loss, ..QuorumConfig::new("data", members) }];
    config.groups[0].quorum = Some("data".to_owned());
    config
}

/// A cluster of n1 to n3 in which all that can run does.
fn running(config: &Config) -> Table {
    let mut t = Table::of(config, &[1, 2, 3], &[]);
    t.answer_probes();
    t.obey();
    t
}

/// n3 is back, with nothing on it.
fn back(t: &mut Table) {
    let joiner = life(3, 9);
    t.managers.push((joiner, Manager::new(joiner, config())));
    t.view(&[instance(1), instance(2), joiner], &[joiner], &[]);
    let state = t.manager(1).state().emit();
    t.input(3, Input::State(&state));
    t.answer_probes();
}

fn blocked(members: u32, keeps: bool) -> Option<Blocked> {
    Some(Blocked::Quorum { quorum: "data".into(), wants: 3, of: None, members, keeps })
}

#[test]
fn what_needs_a_quorum_is_stopped_when_that_goes_down_and_started_when_it_is_up_again() {
    let mut config = needing(config(), 3, QuorumLoss::Stop);
    let mut other = GroupConfig::new("other", vec![config.groups[0].resources[0].clone()]);
    other.resources[0].name = "alone".to_owned();
    config.groups.push(other);
    let mut t = running(&config);
    assert_eq!(t.status(1).running_on, Some(instance(1)));
    assert!(t.manager(1).status().quorums[0].up);
    t.without(3);
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip"], "and no other group");
    let why = |e: &Event| matches!(e, Event::Decided { action: Action::Stop, why: Why::NoQuorum, .. });
    assert!(t.events.iter().any(why));
    assert_eq!(t.blocked(2), blocked(2, false));
    let quorum = t.manager(2).status().quorums[0].clone();
    assert_eq!((quorum.up, quorum.wants, quorum.members, quorum.groups), (false, 3, 2, vec!["web".into()]));
    let explained = t.manager(1).explain("web").expect("there is one").to_string();
    let says = "quorum data wants 3 members, there are 2; what runs is stopped";
    assert!(explained.contains(says), "{explained}");
    assert!(explained.contains("way out: let 1 more of its nodes join"), "{explained}");
    let state = t.manager(1).state().clone();
    assert_eq!(ocf_resource::State::parse(&state.emit()), Ok(state), "who joins knows of it");
    back(&mut t);
    assert_eq!(t.obey(), ["n1 start ip", "n1 start site"]);
    assert_eq!(t.blocked(1), None);
}

#[test]
fn nothing_that_needs_a_quorum_is_started_before_it_is_up() {
    let mut t = Table::of(&needing(config(), 3, QuorumLoss::Keep), &[1, 2], &[]);
    t.answer_probes();
    assert_eq!((t.asked(), t.blocked(1)), (vec![], blocked(2, true)));
    back(&mut t);
    assert_eq!(t.obey(), ["n1 start ip", "n1 start site"]);
}

#[test]
fn what_is_kept_runs_on_and_what_of_it_fails_is_stopped_and_not_started_again() {
    let mut t = running(&needing(config(), 3, QuorumLoss::Keep));
    t.without(3);
    assert_eq!((t.asked(), t.blocked(1)), (vec![], blocked(2, true)));
    assert_eq!(t.status(1).running_on, Some(instance(1)));
    t.fail(1, "ip");
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip"]);
    back(&mut t);
    assert_eq!(t.obey(), ["n1 start ip", "n1 start site"]);
}

#[test]
fn what_is_kept_stays_where_it_is_by_its_old_definition_until_the_quorum_is_up() {
    let mut t = running(&needing(config(), 3, QuorumLoss::Keep));
    t.without(3);
    t.set(2, "ip", "new");
    t.change(1, |config| {
        let first =
            ocf_resource::ResourceConfig { name: "disk".to_owned(), ..config.groups[0].resources[0].clone() };
        config.groups[0].resources.insert(0, first);
    });
    t.answer_probes();
    t.command(1, Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(2)) });
    assert_eq!(t.asked(), [""; 0]);
    back(&mut t);
    assert_eq!(t.obey().first().map(String::as_str), Some("n1 stop site"), "it moves, and is changed");
    assert_eq!(t.status(1).running_on, Some(instance(2)));
}

#[test]
fn what_is_kept_leaves_a_node_that_cannot_run_it_and_starts_nowhere_else() {
    let mut t = running(&needing(config(), 3, QuorumLoss::Keep));
    t.without(3);
    t.command(1, Command::Standby(NodeId::new(1)));
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip"]);
    assert_eq!(t.blocked(1), blocked(2, true));
}

#[test]
fn only_the_nodes_that_a_quorum_lists_count_and_more_than_its_share_of_them_has_to_be_there() {
    let mut config = config();
    config.quorums = vec![QuorumConfig {
        nodes: vec![NodeId::new(1), NodeId::new(2)],
        members: None,
        share: Some(50),
        ..QuorumConfig::new("data", 1)
    }];
    config.groups[0].quorum = Some("data".to_owned());
    let mut t = running(&config);
    t.without(3);
    assert_eq!((t.asked(), t.blocked(1)), (vec![], None), "n3 does not count");
    let mut t = running(&config);
    t.without(2);
    assert_eq!(t.obey(), ["n1 stop site", "n1 stop ip"]);
    let expected = Blocked::Quorum { quorum: "data".into(), wants: 2, of: Some(2), members: 1, keeps: false };
    assert_eq!(expected.to_string(), "quorum data wants 2 members of 2, there are 1; what runs is stopped");
    assert_eq!(t.blocked(3), Some(expected));
}

#[test]
fn a_member_whose_life_is_over_does_not_count() {
    let mut t = running(&needing(config(), 3, QuorumLoss::Stop));
    t.fail(1, "site");
    t.answer(1, "site", Action::Stop, failed(OcfCode::Generic));
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!((t.obey(), t.blocked(2)), (vec![], blocked(2, false)), "n1 is fenced, and still in the view");
}

#[test]
fn copies_and_roles_are_kept_as_they_are_and_no_other_is_started_or_promoted() {
    let mut t = running(&needing(several(2, 1), 3, QuorumLoss::Keep));
    assert_eq!(t.status(1).promoted_on, [instance(1)]);
    t.without(3);
    t.say(1, "ip", score(1));
    t.say(2, "ip", score(9));
    assert_eq!(t.asked(), [""; 0], "another copy would be better");
    t.without(1);
    t.fenced(2, instance(1), FenceOutcome::Confirmed);
    assert_eq!(t.asked(), [""; 0], "nothing is promoted");
    assert_eq!((t.status(2).copies_on, t.blocked(2)), (vec![instance(2)], blocked(1, true)));
}

#[test]
fn copies_that_are_not_kept_are_demoted_and_stopped() {
    let mut t = running(&needing(several(2, 1), 3, QuorumLoss::Stop));
    t.without(3);
    let mut done = t.obey();
    done.sort();
    assert_eq!(done, ["n1 demote ip", "n1 stop ip", "n2 stop ip"]);
}

#[test]
fn a_move_without_a_stop_is_not_begun_without_its_quorum_and_one_under_way_is_completed_if_it_is_kept() {
    let to_2 = || Command::MoveGroup { group: "web".into(), to: Some(NodeId::new(2)) };
    let table = |on_loss| live_in(|config| *config = needing(config.clone(), 3, on_loss));
    let mut t = table(QuorumLoss::Keep);
    t.without(3);
    t.command(1, to_2());
    assert_eq!(t.asked(), [""; 0]);
    let mut t = table(QuorumLoss::Keep);
    t.command(1, to_2());
    t.without(3);
    assert_eq!(t.obey(), ["n1 migrate_to ip", "n2 migrate_from ip", "n1 stop ip"]);
    let mut t = table(QuorumLoss::Stop);
    t.command(1, to_2());
    t.without(3);
    let mut done = t.obey();
    done.sort();
    assert_eq!(done, ["n1 migrate_to ip", "n1 stop ip", "n2 stop ip"]);
}

#[test]
fn a_quorum_is_changed_while_the_cluster_runs_and_one_that_is_not_there_is_refused() {
    let mut t = running(&needing(config(), 3, QuorumLoss::Stop));
    t.without(3);
    t.obey();
    t.change(2, |config| config.quorums[0].members = Some(2));
    assert_eq!(t.obey(), ["n1 start ip", "n1 start site"]);
    let wrong = t.refusal(1, |config| config.groups[0].quorum = Some("date".to_owned()));
    let ConfigurationError::Wrong(errors) = &wrong else { panic!("{wrong}") };
    let [error] = &errors.0[..] else { panic!("{wrong}") };
    assert_eq!((error.path.as_str(), error.fix.as_str()), ("groups[0].quorum", "choose among data"));
    t.change(1, |config| (config.groups[0].quorum, config.quorums) = (None, Vec::new()));
    t.without(2);
    assert_eq!((t.asked(), t.blocked(1)), (vec![], None));
}
