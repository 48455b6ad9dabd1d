use super::*;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use bytes::Bytes;
use proptest::prelude::*;

type Group = testing::Group<Queues>;

const SECOND: Duration = Duration::from_secs(1);

fn message(priority: u8, text: &'static str) -> Message {
    Message { priority, ..Message::new(Bytes::from_static(text.as_bytes())) }
}

fn name(name: &str) -> Arc<str> {
    Arc::from(name)
}

fn persistent() -> Attributes {
    Attributes { persistent: true, ..Attributes::new(10) }
}

impl Group {
    fn open(&mut self, sender: u32, queue: &str, create: Option<Attributes>) -> Result<Handle, Refusal> {
        self.ask(sender, &Command::Open { name: name(queue), create, empty: false }).map(Handle)
    }

    fn send(&mut self, sender: u32, to: &str, message: Message) -> Result<u64, Refusal> {
        self.ask(sender, &Command::Send { to: name(to), message })
    }

    /// Gets without waiting.
    fn get(&mut self, sender: u32, handle: Handle) -> Result<String, Refusal> {
        let get = self.ask(sender, &Command::Get(handle, Some(Duration::ZERO)))?;
        let at = self.events.iter().rposition(|event| matches!(event, Event::Received { .. }));
        let Event::Received { get: told, message, .. } = self.events.remove(at.unwrap()) else {
            unreachable!()
        };
        assert_eq!(told, GetId(get));
        Ok(String::from_utf8_lossy(&message.message.data).into_owned())
    }

    /// Gets, and waits.
    fn wait(&mut self, sender: u32, handle: Handle, timeout: Option<Duration>) -> GetId {
        GetId(self.ask(sender, &Command::Get(handle, timeout)).unwrap())
    }

    fn messages(&self, queue: &str) -> usize {
        self.machine.waiting(queue).count()
    }

    fn insert(&mut self, group: &str, queue: &str) -> Result<u64, Refusal> {
        self.ask(1, &Command::Insert { group: name(group), queue: name(queue) })
    }

    /// A queue group of three queues: members 1 and 2 have the first two open, the third is closed.
    fn with_group(policy: Policy) -> Self {
        let mut group = Self::new(3);
        group.ask(1, &Command::CreateGroup(name("g"), policy)).unwrap();
        for (n, queue) in (1..).zip(["a", "b", "c"]) {
            let handle = group.open(n, queue, Some(persistent())).unwrap();
            group.insert("g", queue).unwrap();
            if n == 3 {
                group.ask(3, &Command::Close(handle)).unwrap();
            }
        }
        group.events.clear();
        group
    }

    fn counts(&self) -> [usize; 3] {
        ["a", "b", "c"].map(|queue| self.messages(queue))
    }
}

#[test]
fn a_queue_is_created_if_asked_for_and_opened_by_one_at_a_time() {
    let mut group = Group::new(2);
    assert_eq!(group.open(1, "q", None), Err(Refusal::NotExist));
    assert_eq!(group.open(1, "", Some(persistent())), Err(Refusal::InvalidParam));
    let handle = group.open(1, "q", Some(persistent())).unwrap();
    assert_eq!(group.open(2, "q", None), Err(Refusal::Busy));
    assert_eq!(group.open(1, "q", None), Err(Refusal::Busy), "nor twice by one");
    assert_eq!(group.ask(2, &Command::Close(handle)), Err(Refusal::BadHandle));
    group.ask(1, &Command::Close(handle)).unwrap();
    assert_eq!(group.open(2, "q", Some(Attributes::new(10))), Err(Refusal::Exist), "not persistent");
    let other = Attributes { sizes: [10, 10, 10, 11], ..persistent() };
    assert_eq!(group.open(2, "q", Some(other)), Err(Refusal::Exist), "of another size");
    let retention = Attributes { retention: None, ..persistent() };
    assert!(group.open(2, "q", Some(retention)).is_ok(), "the retention is not compared");
    let large = Attributes { sizes: [AREA_MAX + 1, 0, 0, 0], ..persistent() };
    assert_eq!(group.open(1, "r", Some(large)), Err(Refusal::TooBig));
}

#[test]
fn the_most_urgent_comes_first_and_in_a_priority_the_oldest() {
    let mut group = Group::new(2);
    let handle = group.open(1, "q", Some(persistent())).unwrap();
    for (priority, text) in [(3, "d1"), (1, "b1"), (3, "d2"), (0, "a1"), (1, "b2")] {
        assert_eq!(group.send(2, "q", message(priority, text)), Ok(1));
    }
    let got: Vec<_> = core::iter::from_fn(|| group.get(1, handle).ok()).collect();
    assert_eq!(got, ["a1", "b1", "b2", "d1", "d2"]);
    assert_eq!(group.get(1, handle), Err(Refusal::Timeout), "nothing is left");
    assert_eq!(group.get(2, handle), Err(Refusal::BadHandle));
}

#[test]
fn a_message_has_limits_and_each_priority_its_room() {
    let mut group = Group::new(2);
    let sizes = Attributes { sizes: [4, 0, 10, 10], ..persistent() };
    group.open(1, "q", Some(sizes)).unwrap();
    assert_eq!(group.send(1, "nowhere", message(0, "x")), Err(Refusal::NotExist));
    assert_eq!(group.send(1, "q", message(4, "x")), Err(Refusal::InvalidParam));
    let large = Message::new(Bytes::from(vec![0; MESSAGE_MAX + 1]));
    assert_eq!(group.send(1, "q", large), Err(Refusal::TooBig));
    assert_eq!(group.send(1, "q", message(0, "four")), Ok(1));
    assert_eq!(group.send(1, "q", message(0, "x")), Err(Refusal::QueueFull));
    assert_eq!(group.send(1, "q", message(1, "x")), Err(Refusal::QueueFull), "no room at all");
    assert_eq!(group.send(1, "q", message(2, "x")), Ok(1), "another priority");
    let status = group.machine.status("q").unwrap();
    assert_eq!((status.messages, status.used), ([1, 0, 1, 0], [4, 0, 1, 0]));
    assert_eq!(status.owner, Some(member(1)));
}

#[test]
fn a_get_waits_for_a_message_a_time_or_an_interruption() {
    let mut group = Group::new(2);
    let handle = group.open(1, "q", Some(Attributes { sizes: [0; PRIORITIES], ..persistent() })).unwrap();
    let first = group.wait(1, handle, None);
    let second = group.wait(1, handle, Some(SECOND));
    assert_eq!(group.send(2, "q", message(2, "to who waits")), Ok(1), "though no area has room");
    let told = group.events.pop();
    assert!(matches!(told, Some(Event::Received { to, get, .. }) if (to, get) == (member(1), first)));
    assert_eq!(group.machine.next_due(), Some(SECOND));
    group.pass(SECOND);
    let ended = |get, how| Event::GetEnded { to: member(1), get, how };
    assert_eq!(group.events.pop(), Some(ended(second, Ended::Timeout)));
    let waiting = [group.wait(1, handle, None), group.wait(1, handle, None)];
    assert_eq!(group.ask(1, &Command::Cancel(handle)), Ok(2));
    assert_eq!(group.events, waiting.map(|get| ended(get, Ended::Interrupted)));
    group.events.clear();
    let last = group.wait(1, handle, None);
    group.ask(1, &Command::Close(handle)).unwrap();
    assert_eq!(group.events, [ended(last, Ended::Interrupted)]);
}

#[test]
fn a_persistent_queue_stays_and_another_ends_after_its_retention() {
    let mut group = Group::new(2);
    let retention = Attributes { retention: Some(SECOND * 10), ..Attributes::new(10) };
    let (kept, other) =
        (group.open(1, "kept", Some(persistent())).unwrap(), group.open(1, "q", Some(retention)));
    let other = other.unwrap();
    group.send(2, "kept", message(0, "x")).unwrap();
    group.send(2, "q", message(0, "y")).unwrap();
    let set = |handle, seconds| Command::Retention(handle, Some(SECOND * seconds));
    assert_eq!(group.ask(1, &set(kept, 1)), Err(Refusal::BadOperation));
    assert_eq!(group.ask(1, &set(other, 5)), Ok(0));
    group.leave(1);
    assert_eq!(group.machine.holders().count(), 0, "the dead have nothing open");
    assert_eq!(group.machine.status("q").map(|status| status.closed_at), Ok(Some(Duration::ZERO)));
    group.pass(SECOND * 4);
    let other = group.open(2, "q", None).unwrap();
    group.pass(SECOND * 100);
    assert_eq!(group.get(2, other), Ok("y".into()), "opening ends the retention");
    group.send(2, "q", message(0, "z")).unwrap();
    group.ask(2, &Command::Close(other)).unwrap();
    group.pass(SECOND * 5);
    assert_eq!(group.events, [Event::Deleted { queue: name("q"), messages: 1 }]);
    assert_eq!(group.send(2, "q", message(0, "x")), Err(Refusal::NotExist));
    let kept = group.open(2, "kept", None).unwrap();
    assert_eq!(group.get(2, kept), Ok("x".into()));
    let brief = group.open(2, "brief", Some(Attributes::new(1))).unwrap();
    group.ask(2, &Command::Close(brief)).unwrap();
    assert_eq!(group.open(2, "brief", None), Err(Refusal::NotExist), "retention 0");
}

#[test]
fn opened_empty_it_has_forgotten_what_was_in_it() {
    let mut group = Group::new(2);
    let handle = group.open(1, "q", Some(persistent())).unwrap();
    group.send(1, "q", message(0, "x")).unwrap();
    group.ask(1, &Command::Close(handle)).unwrap();
    group.ask(2, &Command::Open { name: name("q"), create: None, empty: true }).unwrap();
    assert_eq!(group.messages("q"), 0);
}

#[test]
fn unlinked_it_lives_until_it_is_closed_under_no_name_and_in_no_group() {
    let mut group = Group::with_group(Policy::RoundRobin);
    assert_eq!(group.ask(1, &Command::Unlink(name("a"))), Ok(0));
    assert_eq!(group.ask(1, &Command::Unlink(name("a"))), Err(Refusal::NotExist));
    assert_eq!(group.machine.group("g"), Ok((Policy::RoundRobin, vec![name("b"), name("c")])));
    assert_eq!(group.send(1, "a", message(0, "x")), Err(Refusal::NotExist));
    assert_eq!(group.ask(1, &Command::Unlink(name("c"))), Ok(0));
    assert_eq!(group.events.last(), Some(&Event::Deleted { queue: name("c"), messages: 0 }), "it is closed");
    let (old, new) = (Handle(2), group.open(1, "a", Some(persistent())).unwrap());
    assert_eq!(group.ask(1, &Command::Retention(old, None)), Err(Refusal::BadOperation));
    group.ask(1, &Command::Close(old)).unwrap();
    assert_eq!(group.events.last(), Some(&Event::Deleted { queue: name("a"), messages: 0 }));
    assert!(group.ask(1, &Command::Cancel(new)).is_ok());
}

#[test]
fn a_message_goes_to_the_queue_group_of_that_name_first() {
    let mut group = Group::with_group(Policy::RoundRobin);
    group.open(1, "g", Some(persistent())).unwrap();
    group.send(1, "g", message(0, "x")).unwrap();
    assert_eq!((group.messages("g"), group.counts()), (0, [1, 0, 0]));
    assert_eq!(group.ask(1, &Command::DeleteGroup(name("g"))), Ok(0));
    assert_eq!(group.ask(1, &Command::DeleteGroup(name("g"))), Err(Refusal::NotExist));
    group.send(1, "g", message(0, "x")).unwrap();
    assert_eq!(group.messages("g"), 1);
}

#[test]
fn round_robin_takes_turns_and_passes_over_the_full() {
    let mut group = Group::with_group(Policy::RoundRobin);
    for expected in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1]] {
        assert_eq!(group.send(3, "g", message(0, "x")), Ok(1));
        assert_eq!(group.counts(), expected);
    }
    group.send(1, "b", message(0, "123456789")).unwrap();
    group.send(3, "g", message(0, "x")).unwrap();
    assert_eq!(group.counts(), [2, 2, 2], "b is full");
    group.send(3, "g", message(0, "x")).unwrap();
    assert_eq!(group.counts(), [3, 2, 2], "and the turn goes on behind it");
    for queue in ["a", "c"] {
        while group.send(1, queue, message(0, "x")).is_ok() {}
    }
    let before = group.machine.clone();
    assert_eq!(group.send(3, "g", message(0, "x")), Err(Refusal::QueueFull));
    assert_eq!(group.machine, before, "nothing has changed");
}

#[test]
fn local_policies_look_at_the_queues_that_are_open_on_the_senders_node() {
    let mut group = Group::with_group(Policy::LocalRoundRobin);
    let mine = group.open(1, "d", Some(persistent())).unwrap();
    group.insert("g", "d").unwrap();
    for _ in 0..4 {
        group.send(1, "g", message(0, "x")).unwrap();
    }
    assert_eq!((group.counts(), group.messages("d")), ([2, 0, 0], 2), "in turn");
    group.send(2, "g", message(0, "x")).unwrap();
    assert_eq!(group.counts(), [2, 1, 0]);
    for _ in 0..4 {
        group.send(3, "g", message(0, "x")).unwrap();
    }
    assert_eq!((group.counts(), group.messages("d")), ([3, 2, 1], 3), "nothing is local to it: all in turn");
    group.ask(1, &Command::Close(mine)).unwrap();

    let mut group = Group::with_group(Policy::LocalBestQueue);
    group.open(1, "d", Some(persistent())).unwrap();
    group.insert("g", "d").unwrap();
    group.send(1, "g", message(0, "1234")).unwrap();
    assert_eq!((group.counts(), group.messages("d")), ([1, 0, 0], 0), "the first of equals");
    for _ in 0..3 {
        group.send(1, "g", message(0, "x")).unwrap();
    }
    assert_eq!((group.counts(), group.messages("d")), ([1, 0, 0], 3), "it has more room");
    group.send(3, "g", message(0, "x")).unwrap();
    assert_eq!(group.counts(), [2, 0, 0], "nothing is local to it");
}

#[test]
fn a_broadcast_goes_to_all_that_have_room() {
    let mut group = Group::with_group(Policy::Broadcast);
    group.send(1, "b", message(0, "1234567890")).unwrap();
    assert_eq!(group.send(1, "g", message(0, "x")), Ok(2));
    assert_eq!(group.counts(), [1, 1, 1]);
    assert_eq!(group.send(1, "g", message(1, "x")), Ok(3));
    for queue in ["a", "c"] {
        group.send(1, queue, message(0, "123456789")).unwrap();
    }
    assert_eq!(group.send(1, "g", message(0, "x")), Err(Refusal::QueueFull));
}

#[test]
fn a_queue_group_tells_who_tracks_it_what_changes() {
    let mut group = Group::with_group(Policy::RoundRobin);
    assert_eq!(group.ask(1, &Command::CreateGroup(name("g"), Policy::Broadcast)), Err(Refusal::Exist));
    assert_eq!(group.insert("g", "a"), Err(Refusal::Exist));
    assert_eq!(group.insert("g", "nowhere"), Err(Refusal::NotExist));
    assert_eq!(group.insert("nowhere", "a"), Err(Refusal::NotExist));
    let changed = |queue, change, queues: &[&str]| Event::GroupChanged {
        group: name("g"),
        queue: name(queue),
        change,
        queues: queues.iter().map(|queue| name(queue)).collect(),
    };
    group.open(3, "c", None).unwrap();
    let remove = Command::Remove { group: name("g"), queue: name("a") };
    group.ask(1, &remove).unwrap();
    assert_eq!(group.ask(1, &remove), Err(Refusal::NotExist));
    group.insert("g", "a").unwrap();
    group.leave(2);
    let expected = [
        changed("c", Change::StateChanged, &["a", "b", "c"]),
        changed("a", Change::Removed, &["b", "c"]),
        changed("a", Change::Added, &["b", "c", "a"]),
        changed("b", Change::StateChanged, &["b", "c", "a"]),
    ];
    assert_eq!(group.events, expected);
    group.ask(1, &Command::CreateGroup(name("empty"), Policy::Broadcast)).unwrap();
    assert_eq!(group.send(1, "empty", message(0, "x")), Err(Refusal::QueueNotAvailable));
    group.ask(1, &Command::CreateGroup(name("other"), Policy::Broadcast)).unwrap();
    assert_eq!(group.insert("other", "a"), Ok(0), "a queue may be in several");
}

#[test]
fn a_reply_goes_to_who_waits_for_it() {
    let mut group = Group::new(2);
    let handle = group.open(1, "q", Some(persistent())).unwrap();
    let call = |timeout| Command::Call { to: name("q"), message: message(0, "?"), reply_max: 3, timeout };
    assert_eq!(group.ask(2, &call(Some(Duration::ZERO))), Err(Refusal::Timeout));
    let first = CallId(group.ask(2, &call(None)).unwrap());
    let asks = group.machine.waiting("q").next().and_then(|received| received.call);
    assert_eq!(asks, Some(first));
    assert_eq!(group.get(1, handle), Ok("?".into()));
    let reply = |call, text| Command::Reply(call, message(0, text));
    assert_eq!(group.ask(1, &reply(first, "long")), Err(Refusal::NoSpace));
    assert_eq!(group.ask(1, &reply(first, "yes")), Ok(0));
    let replied = Event::Replied { to: member(2), call: first, message: message(0, "yes") };
    assert_eq!(group.events.pop(), Some(replied));
    assert_eq!(group.ask(1, &reply(first, "yes")), Err(Refusal::NotExist), "the first reply is the reply");
    let late = CallId(group.ask(2, &call(Some(SECOND))).unwrap());
    group.pass(SECOND);
    assert_eq!(group.events.pop(), Some(Event::CallEnded { to: member(2), call: late }));
    assert_eq!(group.ask(1, &reply(late, "yes")), Err(Refusal::NotExist));
    let dead = CallId(group.ask(2, &call(None)).unwrap());
    group.leave(2);
    assert_eq!(group.ask(1, &reply(dead, "yes")), Err(Refusal::NotExist), "nobody waits");
    let nowhere = Command::Call { to: name("x"), message: message(0, "?"), reply_max: 3, timeout: None };
    assert_eq!(group.ask(1, &nowhere), Err(Refusal::NotExist));
    assert_eq!(group.machine.calls.len(), 0, "what was not sent waits for nothing");
}

#[test]
fn thresholds_tell_when_a_queue_is_full_and_when_it_has_room_again() {
    let mut group = Group::with_group(Policy::RoundRobin);
    let a = Handle(2);
    let threshold = |reached, available| [Threshold { reached, available }; PRIORITIES];
    for wrong in [threshold(4, 5), threshold(11, 5)] {
        assert_eq!(group.ask(1, &Command::Thresholds(a, wrong)), Err(Refusal::InvalidParam));
    }
    assert_eq!(group.ask(1, &Command::Thresholds(a, threshold(6, 3))), Ok(0));
    assert_eq!(group.machine.thresholds(member(1), a), Ok(threshold(6, 3)));
    assert_eq!(group.machine.thresholds(member(2), a), Err(Refusal::BadHandle));
    let told = |group: &mut Group| {
        let events = group.events.drain(..);
        let all = events.filter_map(|event| {
            let (Event::Capacity { queue: of, priority: 2, reached }
            | Event::GroupCapacity { group: of, priority: 2, reached }) = event
            else {
                return None;
            };
            Some(format!("{of} {reached}"))
        });
        all.collect::<Vec<_>>()
    };
    group.send(1, "a", message(2, "12345")).unwrap();
    assert_eq!(told(&mut group), [""; 0]);
    group.send(1, "a", message(2, "6")).unwrap();
    assert_eq!(told(&mut group), ["a true"]);
    for queue in ["b", "c"] {
        group.send(1, queue, message(2, "1234567890")).unwrap();
    }
    assert_eq!(told(&mut group), ["b true", "c true", "g true"], "by default when it is full");
    group.get(1, a).unwrap();
    assert_eq!(told(&mut group), ["a false", "g false"], "one byte is left");
    group.send(1, "a", message(2, "1234")).unwrap();
    assert_eq!(told(&mut group), [""; 0], "between the two nothing is told");
}

#[test]
fn a_group_has_limits_and_its_state_is_read_as_it_was_written() {
    let mut group = Group::with_group(Policy::LocalRoundRobin);
    group.send(1, "g", Message { sender: Some(name("me")), ..message(1, "x") }).unwrap();
    let call = Command::Call { to: name("b"), message: message(0, "?"), reply_max: 3, timeout: Some(SECOND) };
    group.ask(2, &call).unwrap();
    let other = Attributes { retention: Some(SECOND), ..Attributes::new(10) };
    for queue in ["d", "e"] {
        let handle = group.open(3, queue, Some(other)).unwrap();
        group.wait(3, handle, Some(SECOND));
        if queue == "d" {
            group.ask(3, &Command::Close(handle)).unwrap();
        }
    }
    assert_eq!(group.copy(), group.machine);
    let handle = group.open(3, "f", Some(persistent())).unwrap();
    for _ in 0..GETS_MAX {
        group.wait(3, handle, None);
    }
    assert_eq!(group.ask(3, &Command::Get(handle, None)), Err(Refusal::NoResources));
    let half = Attributes { sizes: [AREA_MAX; PRIORITIES], ..persistent() };
    let opened = (0..20).take_while(|n| group.open(1, &n.to_string(), Some(half)).is_ok()).count();
    assert_eq!(opened as u64, BYTES_MAX / QUEUE_MAX - 1, "with those that are there");
    for n in 1..=GROUPS_MAX {
        let answer = group.ask(1, &Command::CreateGroup(name(&n.to_string()), Policy::Broadcast));
        assert_eq!(answer.is_err(), n == GROUPS_MAX, "{answer:?}");
    }
}

#[test]
fn refusals_have_the_numbers_of_the_standard() {
    let codes: Vec<u32> = REFUSALS.iter().map(|refusal| refusal.code()).collect();
    assert_eq!(codes, [22, 5, 7, 9, 10, 12, 14, 15, 18, 20, 23, 24, 26]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Queues>(&bytes);
    }
}
