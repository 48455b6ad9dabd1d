use super::*;
use crate::{Cause, ChangeReason, NonPrimary};
use pils::Incarnation;
use std::sync::mpsc::{Receiver, channel};

fn instance(n: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n)))
}

fn view(number: u64, members: &[(u32, u64)], previous: &[(u32, u64)]) -> View {
    let member =
        |(n, joined): &(u32, u64)| Member { instance: instance(*n), joined: ViewNumber(*joined), votes: 1 };
    View {
        number: ViewNumber(number),
        ballot: Ballot { round: number, proposer: instance(1) },
        members: members.iter().map(member).collect(),
        previous: previous.iter().map(member).collect(),
        causes: vec![Cause { instance: instance(1), reason: ChangeReason::Joined }],
        quorum: 2,
        level: 1,
        unproven: Vec::new(),
    }
}

fn outside(dormant: bool) -> Event {
    let reachable = vec![instance(1)];
    let (last_primary, policy) = (ViewNumber(4), crate::OutsidePolicy::Stop);
    Event::NonPrimary(NonPrimary { last_primary, reachable, votes: 1, quorum: 2, dormant, policy })
}

type Told = Receiver<(EventId, Option<Membership>)>;

fn program(special: bool) -> (Callbacks, Told) {
    let (tell, told) = channel();
    let mut program = Callbacks::register(NodeId::new(1), [(NodeId::new(2), "bree".to_owned())]);
    assert_eq!(program.activate().expect_err("no class").errno(), 24);
    let callback: Callback = Box::new(move |id, _, data| tell.send((id, data.cloned())).unwrap());
    assert!(program.set_callback(Class::Membership, Some(callback)).is_none());
    if special {
        program.special(Class::Membership, true);
    }
    program.activate().expect("a class has a callback");
    (program, told)
}

fn numbers(nodes: &[Node]) -> Vec<u32> {
    nodes.iter().map(|n| n.node_id).collect()
}

#[test]
fn event_ids_are_ten_bits_of_class_and_the_rest() {
    assert_eq!(EventId::NEW_MEMBERSHIP.0, 2 << 22 | 1);
    assert_eq!((EventId::EVICTED.class(), EventId::EVICTED.event()), (2, 4));
}

#[test]
fn events_have_the_numbers_of_the_interface() {
    let events = [
        (
            1,
            [EventId::CONN_INVALID, EventId::CONN_INTERFACE, EventId::CONN_ELIGIBLE, EventId::CONN_CONNECT]
                .as_slice(),
        ),
        (
            2,
            &[
                EventId::INVALID,
                EventId::NEW_MEMBERSHIP,
                EventId::NOT_PRIMARY,
                EventId::PRIMARY_RESTORED,
                EventId::EVICTED,
            ],
        ),
        (
            3,
            &[
                EventId::GROUP_INVALID,
                EventId::GROUP_JOIN,
                EventId::GROUP_LEAVE,
                EventId::GROUP_CAST,
                EventId::GROUP_REPLY,
            ],
        ),
    ];
    for (class, events) in events {
        for (number, event) in (0..).zip(events) {
            assert_eq!(event.0, class << 22 | number, "{event:?}");
        }
    }
}

#[test]
fn a_callback_is_replaced_and_the_one_before_is_given_back() {
    let (mut program, told) = program(false);
    let (tell, told_next) = channel();
    let next: Callback = Box::new(move |id, cookie, _| tell.send((id, cookie)).unwrap());
    let mut before = program.set_callback(Class::Membership, Some(next)).expect("one was set");
    before(EventId::EVICTED, 9, None);
    assert_eq!(told.try_recv().map(|(id, _)| id), Ok(EventId::EVICTED), "it is the one that was set first");
    program.tell(&Event::Installed(view(3, &[(1, 1)], &[])));
    assert!(program.handle_event());
    assert_eq!((told_next.try_recv(), told.try_recv().is_err()), (Ok((EventId::NEW_MEMBERSHIP, 1)), true));
    assert!(program.set_callback(Class::Membership, None).is_some());
    program.tell(&Event::Suspended);
    assert_eq!(program.waiting(), 0, "nobody is interested");
    program.unregister();
    assert!(told_next.recv().is_err(), "the callback is gone with the registration");
}

#[test]
fn who_hears_of_no_membership_without_quorum_hears_that_its_own_has_none() {
    for special in [false, true] {
        let (mut program, told) = program(special);
        program.tell(&Event::Installed(view(3, &[(1, 1), (2, 3)], &[(1, 1)])));
        program.tell(&outside(true));
        program.tell(&outside(true));
        program.tell(&Event::Installed(view(4, &[(1, 1), (2, 3)], &[(1, 1), (2, 3)])));
        while program.handle_event() {}
        let ids: Vec<EventId> = told.try_iter().map(|(id, _)| id).collect();
        let mut expected = vec![EventId::NEW_MEMBERSHIP, EventId::NOT_PRIMARY];
        expected.extend([EventId::INVALID; 2].iter().filter(|_| special));
        expected.push(EventId::NEW_MEMBERSHIP);
        assert_eq!(ids, expected, "once, and the same members with quorum are a new membership");
    }
}

#[test]
fn who_wants_them_no_more_hears_of_no_membership_without_quorum() {
    let (mut program, _told) = program(true);
    program.special(Class::Group, false);
    program.tell(&outside(false));
    assert_eq!(program.waiting(), 1, "another class changes nothing");
    program.special(Class::Membership, false);
    program.tell(&outside(false));
    assert_eq!(program.waiting(), 1);
}

fn removed() -> Event {
    Event::Removed { revision: 5, nodes: Vec::new() }
}

#[test]
fn a_node_that_is_removed_from_the_set_is_told_once_that_it_is_evicted() {
    let (mut program, told) = program(false);
    program.tell(&Event::Installed(view(3, &[(1, 1), (2, 3)], &[(1, 1)])));
    program.tell(&removed());
    program.tell(&outside(false));
    while program.handle_event() {}
    let ids: Vec<EventId> = told.try_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [EventId::NEW_MEMBERSHIP, EventId::EVICTED]);
}

#[test]
fn the_draft_api_says_whether_the_membership_stands_and_refuses_who_was_removed() {
    let mut program = Subscriber::new(instance(1));
    assert_eq!((program.local(), program.phase()), (instance(1), Phase::Outside));
    program.tell(&Event::Installed(view(3, &[(1, 1)], &[])));
    assert_eq!(program.phase(), Phase::Stable);
    program.tell(&Event::Suspended);
    assert_eq!(program.phase(), Phase::InTransition);
    program.tell(&Event::Resumed);
    assert_eq!(program.phase(), Phase::Stable);
    program.tell(&removed());
    assert_eq!(program.phase(), Phase::Outside);
    assert_eq!(program.request(Wanted::Full).expect_err("removed").errno(), 51);
}

#[test]
fn node_ids_of_the_draft_api_are_sixteen_bytes_that_compare_and_outlive_a_restart() {
    let id = |n, incarnation| {
        NodeUuid::from(NodeInstance::new(NodeId::new(n), Incarnation::new(incarnation)).node)
    };
    assert_eq!(id(7, 1), id(7, 2));
    assert!(id(7, 9) < id(8, 1) && id(255, 0) < id(256, 0));
    assert_eq!((id(258, 0).0[14], id(258, 0).0[15]), (1, 2));
}

#[test]
fn a_program_is_called_with_members_and_who_came_and_went() {
    let (mut program, told) = program(false);
    program.tell(&Event::Installed(view(3, &[(1, 1), (2, 3)], &[(1, 1), (3, 2)])));
    program.tell(&Event::Installed(view(4, &[(1, 1), (3, 4)], &[(1, 1), (2, 3)])));
    program.tell(&Event::Suspended);
    program.tell(&Event::Resumed);
    program.tell(&outside(false));
    program.tell(&outside(false));
    assert_eq!(program.waiting(), 5);
    while program.handle_event() {}
    let told: Vec<_> = told.try_iter().collect();
    let ids: Vec<EventId> = told.iter().map(|(id, _)| *id).collect();
    let expected = [
        EventId::NEW_MEMBERSHIP,
        EventId::NEW_MEMBERSHIP,
        EventId::NOT_PRIMARY,
        EventId::PRIMARY_RESTORED,
        EventId::EVICTED,
    ];
    assert_eq!(ids, expected, "without a quorum nothing is told");
    let first = told[0].1.as_ref().expect("data");
    assert_eq!(
        (numbers(first.members()), numbers(first.came()), first.m_in_idx),
        (vec![1, 2], vec![1, 2], 0)
    );
    assert_eq!((first.m_n_out, &first.members()[1].uname[..], first.members()[1].born_on), (0, "bree", 3));
    let second = told[1].1.as_ref().expect("data");
    assert_eq!(numbers(second.members()), [1, 3]);
    assert_eq!((numbers(second.came()), numbers(second.went())), (vec![3], vec![2]));
    assert_eq!(second.m_array.len(), 4);
    assert_eq!(told[2].1.as_ref(), Some(second), "in flux: the old one");
    assert!(told[4].1.is_none() && program.is_my_nodeid(&second.members()[0]));
}

#[test]
fn data_stay_until_the_callback_is_done_and_the_special_hear_of_memberships_without_quorum() {
    let (mut program, told) = program(true);
    program.tell(&outside(false));
    assert!(program.handle_event() && !program.handle_event());
    let (id, data) = told.try_recv().unwrap();
    assert_eq!((id, data.as_ref().map(|m| m.m_instance)), (EventId::INVALID, Some(4)));
    assert_eq!(program.data(1), data.as_ref());
    assert_eq!(program.callback_done(1), Ok(()));
    assert_eq!(program.callback_done(1).expect_err("done").errno(), 22);
    assert_eq!(program.data(1), None);
    for _ in 0..1_000 {
        program.tell(&outside(false));
    }
    assert_eq!(program.waiting(), WAITING_MAX, "who does not listen loses the oldest");
}

#[test]
fn the_draft_api_tells_one_whole_membership_and_then_changes() {
    let mut program = Subscriber::new(instance(1));
    let old = view(3, &[(1, 1), (2, 3)], &[(1, 1)]);
    program.tell(&Event::Installed(old.clone()));
    assert_eq!(program.event(), None, "nothing was asked for");
    program.request(Wanted::Incremental).expect("a node of the cluster may");
    let full = program.event().expect("one full event");
    assert_eq!((full.kind, full.joined().len(), full.stayed().map(<[_]>::len)), (Wanted::Full, 2, Ok(0)));
    program.tell(&Event::Installed(view(4, &[(1, 1), (3, 4)], &[(1, 1), (2, 3)])));
    let change = program.event().expect("a change");
    assert_eq!((change.joined(), change.gone()), (&[instance(3)][..], &[instance(2)][..]));
    assert_eq!(change.stayed().expect_err("not told").errno(), 38);
    assert_eq!(full.id.compare(&change.id), Compared::Older);
    assert_eq!(change.id.compare(&full.id), Compared::Newer);
    assert_eq!(full.id.compare(&UniqueId::of(&old)), Compared::Same);
    let other = View { ballot: Ballot { round: 9, ..old.ballot }, ..old };
    assert_eq!(full.id.compare(&UniqueId::of(&other)), Compared::NotComparable);
    program.request(Wanted::Full).expect("a node of the cluster may");
    program.tell(&Event::Installed(view(5, &[(1, 1), (3, 4)], &[(1, 1), (3, 4)])));
    let all: Vec<Change> = core::iter::from_fn(|| program.event()).collect();
    assert!(all.iter().all(|c| c.kind == Wanted::Full));
    assert_eq!(all[1].stayed().map(<[_]>::len), Ok(2));
}
