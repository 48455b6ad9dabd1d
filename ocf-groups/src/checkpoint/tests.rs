use super::*;
use crate::replicated::service::testing::{self, member, takes_any_bytes};
use proptest::prelude::*;

type Group = testing::Group<Checkpoints>;

const ALL: Access = Access { read: true, write: true };

fn attributes() -> Attributes {
    Attributes {
        mode: Mode::AllReplicas,
        collocated: false,
        size: 40,
        retention: Some(Duration::from_secs(10)),
        sections_max: 3,
        section_size_max: 20,
        section_id_max: 8,
    }
}

fn id(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

impl Group {
    fn open(&mut self, sender: u32, create: Option<Attributes>) -> Result<Handle, Refusal> {
        self.ask(sender, &Command::Open { name: Arc::from("c"), access: ALL, create }).map(Handle)
    }

    fn section(&mut self, handle: Handle, name: &'static str, data: &'static str) -> Result<u64, Refusal> {
        let (section, data) = (Some(id(name)), id(data));
        self.ask(1, &Command::Create { handle, section, data, expires: None })
    }

    fn write(
        &mut self,
        handle: Handle,
        pieces: &[(&'static str, u64, &'static str)],
    ) -> Result<u64, Refusal> {
        let piece = |(section, offset, data): &(&'static str, u64, &'static str)| Piece {
            section: id(section),
            offset: *offset,
            data: id(data),
        };
        self.ask(1, &Command::Write(handle, pieces.iter().map(piece).collect()))
    }

    fn read(&self, handle: Handle, section: &str) -> Result<Bytes, Refusal> {
        self.machine.read(member(1), handle, section.as_bytes(), (0, 100))
    }
}

#[test]
fn opening_follows_the_standard() {
    let mut group = Group::new(2);
    assert_eq!(group.open(1, None), Err(Refusal::NotExist));
    let large = Attributes { size: 61, ..attributes() };
    assert_eq!(group.open(1, Some(large)), Err(Refusal::InvalidParam));
    let handle = group.open(1, Some(attributes())).unwrap();
    let other = Attributes { sections_max: 2, ..attributes() };
    assert_eq!(group.open(2, Some(other)), Err(Refusal::Exist));
    let retention = Attributes { retention: None, ..attributes() };
    assert!(group.open(2, Some(retention)).is_ok(), "the retention is not compared");
    assert_eq!(group.ask(2, &Command::Close(handle)), Err(Refusal::BadHandle), "another's");
    assert!(group.open(2, None).is_ok());
}

#[test]
fn one_section_is_there_from_the_start_and_for_ever() {
    let mut group = Group::new(2);
    let one = Attributes { sections_max: 1, size: 20, ..attributes() };
    let handle = group.open(1, Some(one)).unwrap();
    assert_eq!(group.read(handle, ""), Ok(Bytes::new()));
    assert_eq!(group.section(handle, "s", ""), Err(Refusal::Exist));
    assert_eq!(group.ask(1, &Command::Delete(handle, Bytes::new())), Err(Refusal::InvalidParam));
    assert_eq!(group.ask(1, &Command::Expire(handle, Bytes::new(), None)), Err(Refusal::InvalidParam));
    assert_eq!(group.write(handle, &[("", 2, "ab")]), Ok(0));
    assert_eq!(group.read(handle, ""), Ok(id("\0\0ab")));
}

#[test]
fn a_write_is_whole_or_not_at_all() {
    let mut group = Group::new(2);
    let handle = group.open(1, Some(attributes())).unwrap();
    group.section(handle, "a", "12345").unwrap();
    assert_eq!(group.section(handle, "a", ""), Err(Refusal::Exist));
    assert_eq!(group.section(handle, "too-long-id", ""), Err(Refusal::InvalidParam));
    assert_eq!(group.write(handle, &[("a", 1, "xx"), ("b", 0, "y")]), Err(Refusal::NotExist));
    assert_eq!(group.write(handle, &[("a", 1, "xx"), ("a", 3, "")]), Err(Refusal::InvalidParam));
    assert_eq!(group.write(handle, &[("a", 1, "xx"), ("a", 19, "yy")]), Err(Refusal::InvalidParam));
    assert_eq!(group.read(handle, "a"), Ok(id("12345")));
    assert_eq!(group.write(handle, &[("a", 1, "xx"), ("a", 6, "z")]), Ok(0));
    assert_eq!(group.read(handle, "a"), Ok(id("1xx45\0z")));
    assert_eq!(group.ask(1, &Command::Overwrite(handle, id("a"), id("new"))), Ok(0));
    assert_eq!(group.read(handle, "a"), Ok(id("new")));
    let beyond = group.machine.read(member(1), handle, b"a", (4, 1));
    assert_eq!(beyond, Err(Refusal::InvalidParam));
    assert_eq!(group.ask(1, &Command::Synchronize(handle)), Err(Refusal::BadOperation));
}

#[test]
fn a_full_checkpoint_refuses_more() {
    let mut group = Group::new(2);
    let handle = group.open(1, Some(attributes())).unwrap();
    group.section(handle, "a", "12345678901234567890").unwrap();
    group.section(handle, "b", "1234567890123456789").unwrap();
    assert_eq!(group.section(handle, "c", "12"), Err(Refusal::NoSpace));
    group.section(handle, "c", "1").unwrap();
    assert_eq!(group.section(handle, "d", ""), Err(Refusal::NoSpace));
    assert_eq!(group.write(handle, &[("b", 18, "xy")]), Err(Refusal::NoSpace));
    assert_eq!(group.ask(1, &Command::Overwrite(handle, id("c"), id("12"))), Err(Refusal::NoSpace));
}

#[test]
fn rights_are_those_of_the_handle() {
    let mut group = Group::new(2);
    let writer = group.open(1, Some(attributes())).unwrap();
    group.section(writer, "a", "x").unwrap();
    let access = Access { read: true, write: false };
    let reader = group.ask(1, &Command::Open { name: Arc::from("c"), access, create: None }).map(Handle);
    assert_eq!(group.write(reader.unwrap(), &[("a", 0, "y")]), Err(Refusal::Access));
    assert_eq!(group.section(reader.unwrap(), "b", ""), Err(Refusal::Access));
    let access = Access { read: false, write: true };
    let blind = group.ask(1, &Command::Open { name: Arc::from("c"), access, create: None }).map(Handle);
    assert_eq!(group.read(blind.unwrap(), "a"), Err(Refusal::Access));
}

#[test]
fn the_data_outlives_the_last_close_by_the_retention() {
    let mut group = Group::new(2);
    let handle = group.open(1, Some(attributes())).unwrap();
    group.section(handle, "a", "x").unwrap();
    group.leave(1);
    assert_eq!(group.machine.holders().count(), 0, "the dead have nothing open");
    group.pass(Duration::from_secs(9));
    let handle = group.open(1, None).unwrap();
    group.pass(Duration::from_secs(9));
    assert_eq!(group.read(handle, "a"), Ok(id("x")), "opening ends the retention");
    group.ask(1, &Command::Close(handle)).unwrap();
    group.pass(Duration::from_secs(10));
    assert_eq!(group.events, [Event::Deleted { name: Arc::from("c") }]);
    assert_eq!(group.open(1, None), Err(Refusal::NotExist));
}

#[test]
fn unlinked_it_lives_until_the_last_close() {
    let mut group = Group::new(2);
    let old = group.open(1, Some(attributes())).unwrap();
    group.section(old, "a", "old").unwrap();
    assert_eq!(group.ask(2, &Command::Unlink(Arc::from("c"))), Ok(0));
    assert_eq!(group.ask(2, &Command::Unlink(Arc::from("c"))), Err(Refusal::NotExist));
    assert_eq!(group.ask(1, &Command::Retention(old, None)), Err(Refusal::BadOperation));
    let new = group.open(1, Some(attributes())).unwrap();
    assert_eq!((group.read(old, "a"), group.read(new, "a")), (Ok(id("old")), Err(Refusal::NotExist)));
    group.ask(1, &Command::Close(old)).unwrap();
    assert_eq!(group.events, [Event::Deleted { name: Arc::from("c") }]);
    assert!(group.machine.status(member(1), new).is_ok());
}

#[test]
fn a_collocated_one_needs_its_active_replica() {
    let mut group = Group::new(2);
    let mode = Attributes { mode: Mode::ActiveReplica, collocated: true, ..attributes() };
    let (first, second) = (group.open(1, Some(mode)).unwrap(), group.open(2, None).unwrap());
    assert_eq!(group.section(first, "a", "x"), Err(Refusal::NotExist));
    assert_eq!(group.ask(2, &Command::Activate(second)), Ok(0));
    assert_eq!(group.section(first, "a", "x"), Ok(0));
    assert_eq!(group.ask(1, &Command::Synchronize(first)), Ok(0));
    group.leave(2);
    assert_eq!(group.read(first, "a"), Err(Refusal::NotExist), "the active one died");
    group.ask(1, &Command::Activate(first)).unwrap();
    assert_eq!(group.read(first, "a"), Ok(id("x")));
    let mut group = Group::new(2);
    let handle = group.open(1, Some(attributes())).unwrap();
    assert_eq!(group.ask(1, &Command::Activate(handle)), Err(Refusal::BadOperation));
}

#[test]
fn sections_expire_and_are_listed_by_it() {
    let mut group = Group::new(2);
    let handle = group.open(1, Some(attributes())).unwrap();
    let expires = Some(Duration::from_secs(5));
    let create = Command::Create { handle, section: None, data: id("x"), expires };
    assert_eq!(group.ask(1, &create), Ok(1));
    group.section(handle, "a", "").unwrap();
    let list = |group: &Group, filter| {
        let found = group.machine.sections(member(1), handle, filter).unwrap();
        found.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(list(&group, Filter::Any), [id("a"), id("g1")]);
    assert_eq!(list(&group, Filter::Forever), [id("a")]);
    assert_eq!(list(&group, Filter::Until(Duration::from_secs(5))), [id("g1")]);
    assert_eq!(list(&group, Filter::From(Duration::from_secs(6))), [id("a")]);
    group.pass(Duration::from_secs(5));
    assert_eq!(group.events, [Event::Expired { name: Arc::from("c"), section: id("g1") }]);
    assert_eq!(list(&group, Filter::Any), [id("a")]);
}

#[test]
fn a_group_has_limits_and_its_state_is_read_as_it_was_written() {
    let mut group = Group::new(2);
    let half = Attributes { size: BYTES_MAX / 2, section_size_max: BYTES_MAX, ..attributes() };
    for name in ["a", "b", "c"] {
        let open = Command::Open { name: Arc::from(name), access: ALL, create: Some(half) };
        let answer = group.ask(1, &open);
        assert_eq!(answer.is_err(), name == "c", "{answer:?}");
    }
    group.pass(Duration::from_secs(1));
    group.section(Handle(2), "s", "data").unwrap();
    assert_eq!(group.copy(), group.machine);
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_a_refusal_and_a_state_or_an_error(bytes: Vec<u8>) {
        takes_any_bytes::<Checkpoints>(&bytes);
    }
}
