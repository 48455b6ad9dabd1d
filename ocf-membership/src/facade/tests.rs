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
        program.special();
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
fn a_program_is_called_with_members_and_who_came_and_went() {
    let (mut program, told) = program(false);
    program.tell(&Event::Installed(view(3, &[(1, 1), (2, 3)], &[(1, 1), (3, 2)])));
    program.tell(&Event::Installed(view(4, &[(1, 1), (3, 4)], &[(1, 1), (2, 3)])));
    program.tell(&Event::Suspended);
    program.tell(&Event::Resumed);
    program.tell(&outside(true));
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
    program.request(Wanted::Incremental);
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
    program.request(Wanted::Full);
    program.tell(&Event::Installed(view(5, &[(1, 1), (3, 4)], &[(1, 1), (3, 4)])));
    let all: Vec<Change> = core::iter::from_fn(|| program.event()).collect();
    assert!(all.iter().all(|c| c.kind == Wanted::Full));
    assert_eq!(all[1].stayed().map(<[_]>::len), Ok(2));
}
