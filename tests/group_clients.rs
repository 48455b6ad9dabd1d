//! Goal: the groups of programs beside nodes keep every promise of groups.
//!
//! Method: the suite that this project's own providers pass, over a `GroupClient` beside each of three real nodes of this process; they
//! talk over loopback, behind relays that can be cut. The suite numbers its members itself; an adapter gives it those numbers.
#![expect(clippy::wildcard_enum_match_arm, reason = "of many events this test wants few")]

mod relays;

use bytes::Bytes;
use ocf::{ApiConfig, GroupClient, GroupError, GroupNews, Node, NodeConfig, Standing};
use ocf_groups::testing::{check_groups, explore_groups};
use ocf_groups::{
    Event, GroupPromises, GroupProvider, GroupService, Guarantee, JoinError, LeaveError, MemberId,
    OfferError, Position, SendError,
};
use ocf_membership::testing::Fabric;
use ocf_membership::{
    Event as ViewEvent, Membership, NonPrimary, OutsidePolicy, View, ViewNumber, ViewPromises,
};
use pils::{Instant, NodeId, NodeInstance};
use relays::Wire;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const NODES: usize = 3;
/// Between two looks at the nodes.
const PAUSE: Duration = Duration::from_millis(1);

/// Three nodes behind relays.
struct Nodes {
    wire: Arc<Wire>,
    addresses: Vec<SocketAddr>,
    relays: BTreeMap<(usize, usize), SocketAddr>,
    started: std::time::Instant,
    number: u32,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.wire.end();
    }
}

impl Nodes {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        // Addresses that nobody else takes while a node is away.
        let [.., high, low] = std::process::id().to_be_bytes();
        let fabric = u8::try_from(number % 80).expect("small");
        let addresses: Vec<SocketAddr> =
            (0..3).map(|node| SocketAddr::from(([127, high, low, 1 + 3 * fabric + node], 5405))).collect();
        let wire = Arc::new(Wire::new(NODES));
        let relays = wire.relays(&addresses);
        Self { wire, addresses, relays, started: std::time::Instant::now(), number }
    }

    fn config(&self, node: usize) -> NodeConfig {
        let mut text = format!(
            "cluster = 'suite'\nnode = {}\n\
             key = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n",
            node + 1
        );
        for other in 0..NODES {
            let address = self.relays.get(&(node, other)).unwrap_or(&self.addresses[other]);
            let id = other + 1;
            write!(text, "[[nodes]]\nid = {id}\naddress = '{address}'\n").expect("text takes text");
        }
        NodeConfig::from_toml(&text).expect("it is right")
    }
}

fn index(node: NodeId) -> usize {
    usize::try_from(node.raw()).expect("1 to 3") - 1
}

impl Fabric for Nodes {
    type Node = Beside;

    fn start(&mut self, node: NodeId) -> Beside {
        let at = format!("@ocf-suite-{}-{}-{node}", std::process::id(), self.number);
        let api = ApiConfig { local: Some(at.clone()), ..ApiConfig::default() };
        let node = Node::builder(self.config(index(node))).api(api).start().expect("its port is free again");
        let client = GroupClient::connect(&at, "suite").expect("the node serves");
        Beside {
            node,
            client,
            locals: BTreeMap::new(),
            joiners: BTreeMap::new(),
            view: None,
            primary: false,
            views: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    fn kill(&mut self, node: Beside) {
        node.node.kill();
    }

    fn leave(&mut self, node: Beside) {
        node.node.leave();
    }

    fn cut(&mut self, node: NodeId) {
        self.wire.cut(index(node), true);
    }

    fn heal(&mut self, node: NodeId) {
        self.wire.cut(index(node), false);
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    fn wait(&mut self) {
        thread::sleep(PAUSE);
    }
}

/// A program beside a node, for the suite: it has one member in each group, with the number 0.
struct Beside {
    node: Node,
    client: GroupClient,
    /// The numbers of its members, by group.
    locals: BTreeMap<String, u32>,
    /// Who waits for a state, as the node calls it.
    joiners: BTreeMap<(NodeInstance, Position), MemberId>,
    view: Option<View>,
    primary: bool,
    views: VecDeque<ViewEvent>,
    news: VecDeque<Event>,
}

fn zero(member: MemberId) -> MemberId {
    MemberId { local: 0, ..member }
}

fn zeros(members: Vec<MemberId>) -> Vec<MemberId> {
    members.into_iter().map(zero).collect()
}

fn refused<E: std::fmt::Debug>(error: GroupError<E>) -> E {
    match error {
        GroupError::Refused(refused) => refused,
        other => panic!("the connection of the suite goes on: {other:?}"),
    }
}

impl Beside {
    fn local_of(&self, group: &str) -> Option<u32> {
        self.locals.get(group).copied().filter(|local| self.client.is_local(group, *local))
    }

    /// An event as the suite numbers members.
    fn translate(&mut self, event: Event) -> Event {
        match event {
            Event::Message { group, sender, position, guarantee, payload } => {
                Event::Message { group, sender: zero(sender), position, guarantee, payload }
            }
            Event::Fifo { group, sender, view, number, payload } => {
                Event::Fifo { group, sender: zero(sender), view, number, payload }
            }
            Event::Membership { group, position, members, joined, left } => {
                let (members, joined, left) = (zeros(members), zeros(joined), zeros(left));
                Event::Membership { group, position, members, joined, left }
            }
            Event::StateWanted { group, joiner, position } => {
                self.joiners.insert((joiner.instance, position), joiner);
                Event::StateWanted { group, joiner: zero(joiner), position }
            }
            Event::State { group, member, position, state } => {
                Event::State { group, member: zero(member), position, state }
            }
            Event::StateLost { group, member, position } => {
                Event::StateLost { group, member: zero(member), position }
            }
            Event::Reset { group, member } => Event::Reset { group, member: zero(member) },
            Event::Refused { group, member } => Event::Refused { group, member: zero(member) },
            other => other,
        }
    }
}

impl Membership for Beside {
    fn local(&self) -> NodeInstance {
        self.client.node()
    }

    fn view_promises(&self) -> ViewPromises {
        let mut promises = ViewPromises::NONE;
        (promises.one_chain, promises.consecutive) = (true, true);
        promises
    }

    fn process(&mut self, _: Instant) {
        // The program that the node is in takes what is for it.
        while self.node.next_event(Duration::ZERO).is_some() {}
        let mut news = VecDeque::new();
        self.client.next_events(Duration::ZERO, &mut news);
        for news in news {
            match news {
                GroupNews::Group(event) => {
                    if let Event::View(view) = &event {
                        (self.view, self.primary) = (Some(view.clone()), true);
                        self.views.push_back(ViewEvent::Installed(view.clone()));
                    }
                    let event = self.translate(event);
                    self.news.push_back(event);
                }
                GroupNews::NonPrimary => {
                    self.primary = false;
                    self.views.push_back(ViewEvent::NonPrimary(NonPrimary {
                        last_primary: self.view.as_ref().map_or(ViewNumber(0), |view| view.number),
                        reachable: Vec::new(),
                        votes: 0,
                        quorum: 0,
                        dormant: true,
                        policy: OutsidePolicy::default(),
                    }));
                }
                GroupNews::Suspended => {
                    self.primary = false;
                    self.views.push_back(ViewEvent::Suspended);
                }
                GroupNews::Resumed => {
                    self.primary = true;
                    self.views.push_back(ViewEvent::Resumed);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.client.ended(), None, "who keeps the rules is not let go");
        let stands = self.client.standing() == Standing::Primary;
        assert_eq!(self.primary, stands, "what was taken says where the node stands");
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_event(&mut self) -> Option<ViewEvent> {
        self.views.pop_front()
    }

    fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    fn is_primary(&self) -> bool {
        self.primary
    }
}

impl GroupService for Beside {
    fn group_promises(&self) -> GroupPromises {
        self.client.promises()
    }

    fn join(&mut self, _: Instant, group: &str, local: u32) -> Result<MemberId, JoinError> {
        if self.local_of(group).is_some() {
            return Err(JoinError::AlreadyMember { group: Arc::from(group), local });
        }
        let member = self.client.join(group).map_err(refused)?;
        self.locals.insert(group.to_owned(), member.local);
        Ok(zero(member))
    }

    fn leave(&mut self, _: Instant, group: &str, _: u32) -> Result<(), LeaveError> {
        let local = self.local_of(group).ok_or_else(|| LeaveError::NotMember(Arc::from(group)))?;
        self.client.leave(group, local).map_err(refused)
    }

    fn send(
        &mut self,
        _: Instant,
        group: &str,
        _: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), SendError> {
        self.client
            .send(group, self.local_of(group).unwrap_or_default(), guarantee, &payload)
            .map_err(refused)
    }

    fn offer_state(
        &mut self,
        _: Instant,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), OfferError> {
        let joiner = self.joiners.get(&(joiner.instance, position)).copied().unwrap_or(joiner);
        self.client.offer_state(group, joiner, position, &state).map_err(refused)
    }

    fn is_local(&self, group: &str, _: u32) -> bool {
        self.local_of(group).is_some()
    }

    fn members(&self, group: &str) -> Vec<MemberId> {
        zeros(self.client.members(group))
    }
}

impl GroupProvider for Beside {
    fn poll_group_event(&mut self) -> Option<Event> {
        self.news.pop_front()
    }
}

#[test]
fn groups_of_programs_conform() {
    check_groups(Nodes::new);
}

#[test]
fn no_fault_breaks_a_promise_to_a_program() {
    for seed in 1..=4 {
        if let Err(violation) = explore_groups(Nodes::new(), seed) {
            panic!("seed {seed}: {violation:?}");
        }
    }
}

/// Has programs take what there is, and give the states that they are asked for, until `done`.
fn until(programs: &mut [&mut Beside], what: &str, mut done: impl FnMut(usize, &Event) -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < end {
        for (index, program) in programs.iter_mut().enumerate() {
            program.process(Instant::ZERO);
            while let Some(event) = program.poll_group_event() {
                if let Event::StateWanted { group, joiner, position } = &event {
                    let state = Bytes::from_static(b"state");
                    // Refused if the joiner is to get a later state: then there is another question.
                    program.offer_state(Instant::ZERO, group, *joiner, *position, state).unwrap_or_default();
                }
                if done(index, &event) {
                    return;
                }
            }
        }
        thread::sleep(PAUSE);
    }
    panic!("in vain: {what}");
}

fn says(event: &Event, text: &str) -> bool {
    matches!(event, Event::Message { payload, .. } if payload == text)
}

#[test]
fn what_was_sent_in_an_earlier_membership_is_not_sent_in_a_later_one() {
    const GROUP: &str = "lives";
    let mut nodes = Nodes::new();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|id| nodes.start(NodeId::new(id)));
    for program in [&mut a, &mut b, &mut c] {
        program.join(Instant::ZERO, GROUP, 0).expect("it may");
    }
    let members = |event: &Event, count: usize| matches!(event, Event::Membership { members, .. } if members.len() == count);
    let mut full = [false; 3];
    until(&mut [&mut a, &mut b, &mut c], "three members", |index, event| {
        full[index] |= members(event, 3);
        full == [true; 3]
    });
    let send = |program: &mut Beside, text: &'static str| {
        program.send(Instant::ZERO, GROUP, 0, Guarantee::Agreed, Bytes::from_static(text.as_bytes()))
    };
    // Until the state of the last joiner has come.
    assert_eq!(send(&mut c, "first"), Ok(()));
    until(&mut [&mut a, &mut b, &mut c], "the first message", |index, event| {
        index == 2 && says(event, "first")
    });
    // From here on the third takes nothing: it does not hear that its node was away, and came back as another member.
    nodes.cut(NodeId::new(3));
    until(&mut [&mut a, &mut b], "the others go on", |_, event| members(event, 2));
    nodes.heal(NodeId::new(3));
    until(&mut [&mut a, &mut b], "its node is back", |_, event| members(event, 3));
    assert_eq!(send(&mut c, "old"), Ok(()), "as far as it knows it is a member");
    let mut resets = 0;
    until(&mut [&mut a, &mut b, &mut c], "it is told, and gets the state", |index, event| {
        assert!(!says(event, "old"), "it was sent by a member that is no more");
        resets += usize::from(matches!(event, Event::Reset { .. }));
        index == 2 && matches!(event, Event::State { .. })
    });
    assert_eq!(resets, 1);
    assert_eq!(send(&mut c, "new"), Ok(()));
    let mut heard = [false; 3];
    until(&mut [&mut a, &mut b, &mut c], "what it sent then", |index, event| {
        assert!(!says(event, "old"), "it was sent by a member that is no more");
        heard[index] |= says(event, "new");
        heard == [true; 3]
    });
}
