use super::*;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use proptest::prelude::*;

type Group = testing::Group<Channels>;

const SUBSCRIBER: Access = Access { publish: false, subscribe: true };
const PUBLISHER: Access = Access { publish: true, subscribe: false };

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn retained(seconds: u64) -> Content {
    Content { retention: Some(Duration::from_secs(seconds)), ..Content::new("p", bytes("kept")) }
}

/// Who was told of what since the last time: event, handle, subscription.
type Told = Vec<(u64, Handle, u32)>;

impl Group {
    fn open(&mut self, sender: u32, access: Access) -> Handle {
        let name = Arc::from("c");
        self.ask(sender, &Command::Open { name, access, create: true }).map(Handle).unwrap()
    }

    fn publish(&mut self, handle: Handle, content: Content) -> Result<u64, Refusal> {
        self.ask(1, &Command::Publish(handle, content))
    }

    fn subscribe(&mut self, handle: Handle, subscription: u32, filters: Vec<Filter>) -> Result<u64, Refusal> {
        self.ask(1, &Command::Subscribe { handle, subscription, filters })
    }

    fn told(&mut self) -> Told {
        let notices = self.events.drain(..).filter_map(|event| match event {
            Event::Notify { event, to, .. } => Some((event.id.0, to)),
            Event::Deleted { .. } => None,
        });
        notices.flat_map(|(id, to)| to.into_iter().map(move |to| (id, to.handle, to.subscription))).collect()
    }
}

#[test]
fn a_channel_is_created_only_if_asked_for_and_opened_only_for_something() {
    let mut group = Group::new(2);
    let open = |name: &str, access, create| Command::Open { name: Arc::from(name), access, create };
    assert_eq!(group.ask(1, &open("c", Access::BOTH, false)), Err(Refusal::NotExist));
    let neither = Access { publish: false, subscribe: false };
    assert_eq!(group.ask(1, &open("c", neither, true)), Err(Refusal::BadFlags));
    assert_eq!(group.ask(1, &open("", Access::BOTH, true)), Err(Refusal::InvalidParam));
    assert_eq!(group.ask(1, &open(&"x".repeat(NAME_MAX + 1), PUBLISHER, true)), Err(Refusal::InvalidParam));
    group.ask(1, &open("c", PUBLISHER, true)).unwrap();
    group.ask(2, &open("c", SUBSCRIBER, true)).unwrap();
    group.ask(2, &open("c", SUBSCRIBER, false)).unwrap();
    assert_eq!(group.machine.names().count(), 1, "one channel, three times open");
}

#[test]
fn a_handle_is_its_members_and_for_what_it_was_opened() {
    let mut group = Group::new(2);
    let (publisher, subscriber) = (group.open(1, PUBLISHER), group.open(1, SUBSCRIBER));
    assert_eq!(group.publish(subscriber, Content::new("p", bytes(""))), Err(Refusal::Access));
    assert_eq!(group.subscribe(publisher, 1, vec![]), Err(Refusal::Access));
    let theirs = group.open(2, Access::BOTH);
    assert_eq!(group.publish(theirs, Content::new("p", bytes(""))), Err(Refusal::BadHandle));
    assert_eq!(group.subscribe(theirs, 1, vec![]), Err(Refusal::BadHandle));
    assert_eq!(group.ask(1, &Command::Close(theirs)), Err(Refusal::BadHandle));
    group.ask(1, &Command::Close(publisher)).unwrap();
    assert_eq!(group.publish(publisher, Content::new("p", bytes(""))), Err(Refusal::BadHandle));
}

#[test]
fn an_event_has_limits_and_an_id_above_the_reserved_ones() {
    let mut group = Group::new(1);
    let handle = group.open(1, PUBLISHER);
    let content = || Content::new("p", bytes("x"));
    let first = group.publish(handle, content()).unwrap();
    assert!(first > LOST_EVENT_ID.0);
    assert!(group.publish(handle, content()).unwrap() > first);
    let urgent = |priority| Content { priority, ..content() };
    assert!(group.publish(handle, urgent(PRIORITY_MAX)).is_ok());
    assert_eq!(group.publish(handle, urgent(PRIORITY_MAX + 1)), Err(Refusal::InvalidParam));
    let of = |n: usize| Content { data: Bytes::from(vec![0; n]), ..content() };
    assert!(group.publish(handle, of(DATA_MAX)).is_ok());
    assert_eq!(group.publish(handle, of(DATA_MAX + 1)), Err(Refusal::TooBig));
    let patterns = |n, size| Content { patterns: vec![Bytes::from(vec![0; size]); n], ..content() };
    assert_eq!(group.publish(handle, patterns(PATTERNS_MAX + 1, 1)), Err(Refusal::InvalidParam));
    assert_eq!(group.publish(handle, patterns(1, PATTERN_MAX + 1)), Err(Refusal::InvalidParam));
}

#[test]
fn filters_are_compared_place_by_place() {
    let (prefix, suffix) = (Filter::Prefix(bytes("disk/")), Filter::Suffix(bytes("/full")));
    let exact = Filter::Exact(bytes("n1"));
    let matches = |filters: &[Filter], patterns: &[&'static str]| {
        let patterns: Vec<Bytes> = patterns.iter().map(|p| bytes(p)).collect();
        filter::all_match(filters, &patterns)
    };
    let one = |filter: &Filter, pattern: &str| filter.matches(pattern.as_bytes());
    assert!(one(&prefix, "disk/sda") && !one(&prefix, "a/disk/"));
    assert!(one(&suffix, "sda/full") && !one(&suffix, "/full/"));
    assert!(one(&exact, "n1") && !one(&exact, "n11"));
    assert!(matches(&[Filter::PassAll], &["anything"]));
    let both = [prefix, exact];
    assert!(matches(&both, &["disk/sda", "n1"]) && !matches(&both, &["n1", "disk/sda"]));
    assert!(!matches(&both, &["disk/sda"]), "a pattern that is missing is empty");
    assert!(matches(&[Filter::PassAll, Filter::Exact(bytes(""))], &["x"]));
    assert!(matches(&both, &["disk/sda", "n1", "more"]), "patterns without a filter are not looked at");
    assert!(matches(&[], &["x"]));
    assert!(!matches(&[Filter::Exact(bytes("a"))], &["a\0b"]), "no byte ends a pattern");
}

#[test]
fn an_open_channel_is_told_once_however_many_subscriptions_match() {
    let mut group = Group::new(2);
    let (one, other) = (group.open(1, Access::BOTH), group.open(1, SUBSCRIBER));
    group.subscribe(one, 9, vec![Filter::PassAll]).unwrap();
    group.subscribe(one, 4, vec![Filter::Prefix(bytes("p"))]).unwrap();
    group.subscribe(one, 2, vec![Filter::Exact(bytes("q"))]).unwrap();
    group.subscribe(other, 1, vec![]).unwrap();
    assert_eq!(group.subscribe(other, 1, vec![Filter::PassAll]), Err(Refusal::Exist));
    let id = group.publish(one, Content::new("pattern", bytes("x"))).unwrap();
    assert_eq!(group.told(), [(id, one, 4), (id, other, 1)]);
    group.ask(1, &Command::Unsubscribe(one, 4)).unwrap();
    assert_eq!(group.ask(1, &Command::Unsubscribe(one, 4)), Err(Refusal::NotExist));
    group.ask(1, &Command::Close(other)).unwrap();
    let id = group.publish(one, Content::new("pattern", bytes("x"))).unwrap();
    assert_eq!(group.told(), [(id, one, 9)]);
}

#[test]
fn what_is_retained_is_told_to_who_subscribes_later_and_once() {
    let mut group = Group::new(2);
    let publisher = group.open(1, PUBLISHER);
    let id = group.publish(publisher, retained(10)).unwrap();
    group.publish(publisher, Content::new("p", bytes("not kept"))).unwrap();
    assert_eq!(group.told(), [], "nobody listens");
    let late = group.open(1, SUBSCRIBER);
    group.subscribe(late, 1, vec![Filter::Exact(bytes("q"))]).unwrap();
    assert_eq!(group.told(), [], "it does not match");
    group.subscribe(late, 2, vec![Filter::Exact(bytes("p"))]).unwrap();
    assert_eq!(group.told(), [(id, late, 2)]);
    group.subscribe(late, 3, vec![]).unwrap();
    group.ask(1, &Command::Unsubscribe(late, 2)).unwrap();
    group.subscribe(late, 2, vec![]).unwrap();
    assert_eq!(group.told(), [], "it was told");
    let second = group.publish(publisher, retained(10)).unwrap();
    assert_eq!(group.told(), [(second, late, 2)]);
    group.subscribe(late, 4, vec![]).unwrap();
    assert_eq!(group.told(), [], "told when it was published");
    let other = group.open(1, SUBSCRIBER);
    group.subscribe(other, 7, vec![]).unwrap();
    assert_eq!(group.told(), [(id, other, 7), (second, other, 7)], "each open channel is told, in order");
}

#[test]
fn a_retention_ends_by_time_or_is_cleared() {
    let mut group = Group::new(1);
    let handle = group.open(1, Access::BOTH);
    group.publish(handle, retained(10)).unwrap();
    let second = group.publish(handle, retained(20)).unwrap();
    let ever = group.publish(handle, Content { retention: None, ..retained(0) }).unwrap();
    let kept = |group: &Group| group.machine.retained("c").map(|e| e.id.0).collect::<Vec<_>>();
    group.pass(Duration::from_secs(9));
    assert_eq!(kept(&group).len(), 3);
    group.pass(Duration::from_secs(1));
    assert_eq!(kept(&group), [second, ever]);
    let clear = |id| Command::Clear(handle, EventId(id));
    assert_eq!(group.ask(1, &clear(second)), Ok(0));
    assert_eq!(group.ask(1, &clear(second)), Err(Refusal::NotExist));
    for reserved in [0, LOST_EVENT_ID.0] {
        assert_eq!(group.ask(1, &clear(reserved)), Err(Refusal::InvalidParam));
    }
    group.pass(Duration::from_secs(1_000_000));
    assert_eq!(kept(&group), [ever]);
    group.subscribe(handle, 1, vec![]).unwrap();
    assert_eq!(group.told(), [(ever, handle, 1)]);
}

#[test]
fn unlinked_it_lives_until_the_last_close_under_no_name() {
    let mut group = Group::new(2);
    let old = group.open(1, Access::BOTH);
    group.publish(old, retained(10)).unwrap();
    let unlink = Command::Unlink(Arc::from("c"));
    assert_eq!(group.ask(2, &unlink), Ok(0));
    assert_eq!(group.ask(2, &unlink), Err(Refusal::NotExist));
    let new = group.open(1, Access::BOTH);
    group.subscribe(new, 1, vec![]).unwrap();
    assert_eq!(group.told(), [], "another channel of that name");
    group.subscribe(old, 1, vec![]).unwrap();
    assert_eq!(group.told().len(), 1, "the old one goes on");
    group.ask(1, &Command::Close(old)).unwrap();
    assert_eq!(group.events, [Event::Deleted { channel: Arc::from("c") }]);
    group.ask(1, &Command::Close(new)).unwrap();
    assert_eq!(group.machine.names().count(), 1, "closed, and not unlinked: it stays");
    group.ask(1, &unlink).unwrap();
    assert_eq!((group.machine.names().count(), group.events.len()), (0, 2), "nobody has it open");
}

#[test]
fn who_dies_has_nothing_open_and_what_it_said_is_kept() {
    let mut group = Group::new(2);
    let (mine, theirs) = (group.open(1, Access::BOTH), group.open(2, Access::BOTH));
    let by_the_dead = group.ask(2, &Command::Publish(theirs, retained(10))).unwrap();
    let all = Command::Subscribe { handle: theirs, subscription: 1, filters: vec![] };
    group.ask(2, &all).unwrap();
    assert_eq!(group.told(), [(by_the_dead, theirs, 1)]);
    group.leave(2);
    assert_eq!(group.machine.holders().collect::<Vec<_>>(), [member(1)]);
    group.publish(mine, Content::new("p", bytes("x"))).unwrap();
    assert_eq!(group.told(), [], "its subscriptions are gone");
    group.subscribe(mine, 1, vec![]).unwrap();
    assert_eq!(group.told(), [(by_the_dead, mine, 1)]);
}

#[test]
fn a_group_has_limits_and_its_state_is_read_as_it_was_written() {
    let mut group = Group::new(2);
    let handle = group.open(1, Access::BOTH);
    for n in 0..RETAINED_MAX {
        assert!(group.publish(handle, retained(1 + n as u64)).is_ok());
    }
    assert_eq!(group.publish(handle, retained(1)), Err(Refusal::NoResources));
    for n in 0..SUBSCRIPTIONS_MAX {
        let filters = vec![Filter::Prefix(bytes("p")), Filter::Suffix(bytes("")), Filter::PassAll];
        group.subscribe(handle, u32::try_from(n).unwrap(), filters).unwrap();
    }
    assert_eq!(group.subscribe(handle, 99, vec![]), Err(Refusal::NoResources));
    assert_eq!(group.copy(), group.machine);
    group.pass(Duration::from_secs(1));
    let big = Content { data: Bytes::from(vec![0; DATA_MAX]), ..retained(5000) };
    assert!(group.publish(handle, big).is_ok(), "room again");
    let mut group = Group::new(1);
    for n in 0..CHANNELS_MAX + 1 {
        let (name, access) = (Arc::from(n.to_string()), PUBLISHER);
        let answer = group.ask(1, &Command::Open { name, access, create: true });
        assert_eq!(answer.is_err(), n == CHANNELS_MAX, "{answer:?}");
    }
    let full = Content { data: Bytes::from(vec![0; DATA_MAX]), ..retained(1) };
    let handle = group.machine.handles.keys().next().copied().unwrap();
    let kept = (0..RETAINED_MAX).take_while(|_| group.publish(handle, full.clone()).is_ok()).count();
    assert_eq!(kept * DATA_MAX, RETAINED_BYTES_MAX);
}

fn notify(priority: u8, id: u64) -> Event {
    let content = Content { priority, ..Content::new("p", bytes("")) };
    let event = Arc::new(Published { id: EventId(id), by: member(1), at: Duration::ZERO, content });
    let to = [1, 2].map(|n| Recipient { member: member(n), handle: Handle(n.into()), subscription: 0 });
    Event::Notify { channel: Arc::from("c"), event, to: to.to_vec(), retained: false }
}

fn drain(inbox: &mut Inbox) -> Vec<u64> {
    // The word of a loss as 0.
    let number = |notice| if let Notice::Event { event, .. } = notice { event.id.0 } else { 0 };
    core::iter::from_fn(|| inbox.pop()).map(number).collect()
}

#[test]
fn an_inbox_gives_the_most_urgent_first_and_only_what_is_its_members() {
    let mut inbox = Inbox::new(member(2), INBOX_MAX);
    for (priority, id) in [(3, 10), (0, 11), (3, 12), (1, 13), (0, 14)] {
        inbox.take(&notify(priority, id));
    }
    assert_eq!(inbox.len(), 5, "one for each event");
    assert_eq!(drain(&mut inbox), [11, 14, 13, 10, 12]);
    let mut stranger = Inbox::new(member(3), INBOX_MAX);
    stranger.take(&notify(0, 10));
    assert!(stranger.is_empty());
}

#[test]
fn a_full_inbox_discards_the_least_urgent_says_so_and_opens_at_half() {
    let mut inbox = Inbox::new(member(1), 4);
    for (priority, id) in [(2, 10), (3, 11), (2, 12), (3, 13)] {
        inbox.take(&notify(priority, id));
    }
    inbox.take(&notify(3, 14)); // nothing is less urgent: it is lost itself
    inbox.take(&notify(1, 15)); // in place of 13
    assert_eq!(inbox.pop(), Some(Notice::Lost { events: 2 }));
    assert!(matches!(inbox.pop(), Some(Notice::Event { event, .. }) if event.id.0 == 15));
    inbox.take(&notify(3, 16)); // three wait, and it is closed
    assert_eq!(inbox.len(), 3);
    assert_eq!(inbox.pop(), Some(Notice::Lost { events: 1 }));
    assert!(matches!(inbox.pop(), Some(Notice::Event { event, .. }) if event.id.0 == 10));
    inbox.take(&notify(3, 17)); // half is free
    assert_eq!(drain(&mut inbox), [12, 11, 17]);
    assert!(inbox.is_empty());
}

#[test]
fn refusals_have_the_numbers_of_the_standard() {
    let codes: Vec<u32> = REFUSALS.iter().map(|refusal| refusal.code()).collect();
    assert_eq!(codes, [22, 7, 9, 11, 12, 14, 18, 25, 26]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Channels>(&bytes);
    }

    #[test]
    fn an_inbox_accounts_for_every_event(steps: Vec<(bool, u8)>, limit in 2_usize..9) {
        let mut inbox = Inbox::new(member(1), limit);
        let (mut came, mut told, mut lost) = (0, 0, 0);
        for (comes, priority) in steps {
            if comes {
                inbox.take(&notify(priority % 4, 10));
                came += 1;
            } else {
                match inbox.pop() {
                    Some(Notice::Event { .. }) => told += 1,
                    Some(Notice::Lost { events }) => lost += events,
                    None => {}
                }
            }
            prop_assert!(inbox.len() <= limit);
        }
        for notice in core::iter::from_fn(|| inbox.pop()) {
            match notice {
                Notice::Event { .. } => told += 1,
                Notice::Lost { events } => lost += events,
            }
        }
        prop_assert_eq!(told + lost, came);
    }
}
