use super::*;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use proptest::prelude::*;

type Group = testing::Group<Barriers>;

impl Group {
    fn enter(&mut self, sender: u32, generation: u64, terms: Terms) -> Result<u64, Refusal> {
        self.ask(sender, &Command::Enter { name: Arc::from("b"), generation, terms })
    }

    fn end(&mut self) -> Option<Event> {
        self.events.drain(..).rfind(|e| !matches!(e, Event::Began { .. }))
    }
}

fn broken(generation: u64, reason: Broken) -> Option<Event> {
    Some(Event::Broken { name: Arc::from("b"), generation, reason })
}

fn passed(generation: u64, entered: &[u32]) -> Option<Event> {
    let entered = entered.iter().map(|n| member(*n)).collect();
    Some(Event::Passed { name: Arc::from("b"), generation, entered })
}

#[test]
fn it_is_passed_when_all_entered_and_can_be_used_again() {
    let mut group = Group::new(3);
    for generation in 1..4 {
        assert_eq!(group.enter(2, generation, Terms::all()), Ok(generation));
        assert_eq!(group.enter(2, 0, Terms::all()), Err(Refusal::AlreadyEntered));
        assert_eq!(group.enter(1, 0, Terms::all()), Ok(generation));
        assert_eq!(group.end(), None);
        assert_eq!(group.enter(3, 0, Terms::all()), Ok(generation));
        assert_eq!(group.end(), passed(generation, &[2, 1, 3]));
    }
}

#[test]
fn who_joins_later_is_no_part_of_it_and_who_is_late_begins_no_other() {
    let mut group = Group::new(2);
    group.enter(1, 1, Terms::all()).unwrap();
    group.members.push(member(3));
    assert_eq!(group.enter(3, 0, Terms::all()), Err(Refusal::NotAwaited));
    assert_eq!(group.enter(2, 0, Terms::survivors()), Err(Refusal::OtherTerms));
    group.leave(3);
    assert_eq!(group.end(), None, "it was not awaited");
    assert_eq!(group.ask(2, &Command::Cancel { name: Arc::from("b") }), Err(Refusal::NotEntered));
    assert_eq!(group.ask(1, &Command::Cancel { name: Arc::from("b") }), Ok(1));
    assert_eq!(group.end(), broken(1, Broken::Cancelled(member(1))));
    assert_eq!(group.enter(2, 1, Terms::all()), Err(Refusal::OtherGeneration));
    assert_eq!(group.enter(2, 2, Terms::all()), Ok(2));
}

#[test]
fn a_lost_member_breaks_it_or_is_awaited_no_more() {
    let mut group = Group::new(3);
    group.enter(1, 0, Terms::all()).unwrap();
    group.leave(3);
    assert_eq!(group.end(), broken(1, Broken::MemberLost(member(3))));
    group.members.push(member(3));
    group.enter(1, 0, Terms::survivors()).unwrap();
    group.enter(2, 0, Terms::survivors()).unwrap();
    group.leave(3);
    assert_eq!(group.end(), passed(2, &[1, 2]));
    // Who entered and is lost is not counted.
    group.members.push(member(3));
    group.enter(1, 0, Terms::any(3)).unwrap();
    group.enter(2, 0, Terms::any(3)).unwrap();
    group.leave(1);
    assert_eq!(group.end(), broken(3, Broken::TooFew { left: 2, needed: 3 }));
    assert_eq!(group.enter(2, 0, Terms::any(3)), Err(Refusal::Count));
}

#[test]
fn the_limit_counts_from_the_first_entry() {
    let mut group = Group::new(2);
    group.time = Duration::from_secs(1);
    let terms = Terms { limit: Some(Duration::from_secs(2)), ..Terms::all() };
    group.enter(1, 0, terms).unwrap();
    assert_eq!(group.machine.next_due(), Some(Duration::from_secs(3)));
    group.pass(Duration::from_secs(2));
    assert_eq!(group.end(), broken(1, Broken::LimitPassed));
}

#[test]
fn limits_are_refusals() {
    let mut group = Group::new(2);
    let enter = |name: &str| Command::Enter { name: Arc::from(name), generation: 0, terms: Terms::all() };
    assert_eq!(group.ask(1, &enter("")), Err(Refusal::Name));
    assert_eq!(group.ask(1, &enter(&"x".repeat(NAME_MAX + 1))), Err(Refusal::Name));
    for n in 0..RUNNING_MAX {
        assert_eq!(group.ask(1, &enter(&n.to_string())), Ok(1));
    }
    assert_eq!(group.ask(1, &enter("more")), Err(Refusal::TooMany));
}

#[test]
fn only_the_names_used_last_are_remembered() {
    let mut group = Group::new(1);
    for n in 0..=NAMES_MAX {
        let name = Arc::from(n.to_string());
        group.ask(1, &Command::Enter { name, generation: 0, terms: Terms::all() }).unwrap();
    }
    assert_eq!((group.machine.generation("0"), group.machine.generation("1")), (1, 2));
    assert_eq!(group.copy(), group.machine);
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Barriers>(&bytes);
    }
}
