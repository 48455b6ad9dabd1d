//! Goal: programs beside a node are members of groups as the node's own program is: told the same in the same order, asked for states
//! and given them; whoever ends or does not take what he is told leaves, and the others go on.
//!
//! Method: nodes of this process over loopback; programs are threads of this test, or this test, started again, which takes orders on
//! its input and says on its output what came of them.
#![expect(clippy::print_stdout, reason = "a program of the tests says what it did")]
#![expect(clippy::wildcard_enum_match_arm, reason = "of many events a test wants few")]

mod programs;

use bytes::Bytes;
use ocf::{ApiConfig, Cluster, GroupClient, GroupError, GroupNews, GroupUsers, Node, NodeEvent};
use ocf_comm::local::{Address, Client, ClientError};
use ocf_comm::rpc::Body;
use ocf_groups::replicated::Config;
use ocf_groups::voting::Voting;
use ocf_groups::{Event, Guarantee, JoinError, MemberId, SendError};
use pils::wire::Writer as _;
use programs::{Program, SOCKET};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(300);
const GROUP: &str = "numbers";

fn address(test: &str, node: u32) -> String {
    format!("@ocf-groups-{test}-{}-{node}", std::process::id())
}

fn cluster_with(test: &'static str, nodes: u32, change: fn(&mut ApiConfig)) -> Cluster {
    let equip = move |builder: ocf::NodeBuilder| {
        let local = Some(address(test, builder.node().raw()));
        let mut api = ApiConfig { local, ..ApiConfig::default() };
        change(&mut api);
        builder.api(api)
    };
    Cluster::builder("programs").equip(equip).local(nodes).expect("a cluster starts")
}

fn cluster(test: &'static str, nodes: u32) -> Cluster {
    cluster_with(test, nodes, |_| {})
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().expect("8 bytes"))
}

/// A program that keeps the sum and the count of the numbers it is told, as the state of the group.
struct Adder {
    client: GroupClient,
    me: MemberId,
    /// Count and sum; none until it has the state of the group.
    state: Option<(u64, u64)>,
    members: Vec<MemberId>,
    resets: usize,
    views: usize,
    writable: usize,
    /// So many bytes more are told with its state.
    padding: usize,
    longest: usize,
    /// A hash of everything it was told, in its order.
    order: u64,
}

impl Adder {
    fn join(at: &str) -> Self {
        Self::try_join(at).expect("the node serves, and it may")
    }

    fn try_join(at: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let client = GroupClient::connect(at, "adder")?;
        let me = client.join(GROUP)?;
        Ok(Self {
            client,
            me,
            state: None,
            members: Vec::new(),
            resets: 0,
            views: 0,
            writable: 0,
            padding: 0,
            longest: 0,
            order: 0,
        })
    }

    /// Takes what there is, waiting for the first at most so long. False if there was nothing.
    fn step(&mut self, wait: Duration) -> bool {
        let mut news = VecDeque::new();
        self.client.next_events(wait, &mut news);
        let any = !news.is_empty();
        for news in news {
            match news {
                GroupNews::Group(event) => self.on_event(event),
                GroupNews::NonPrimary | GroupNews::Suspended | GroupNews::Resumed => {}
                other => panic!("{other:?}"),
            }
        }
        any
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message { payload, .. } => {
                self.longest = self.longest.max(payload.len());
                let told = number(&payload);
                self.order = self.order.wrapping_mul(31).wrapping_add(told);
                if let Some((count, sum)) = &mut self.state {
                    *count += 1;
                    *sum += told;
                }
            }
            Event::Membership { members, joined, .. } => {
                if members == joined && members == [self.me] {
                    self.state = Some((0, 0));
                }
                self.members = members;
            }
            Event::StateWanted { group, joiner, position } => {
                let (count, sum) = self.state.expect("who is asked has it");
                let mut state = [count.to_be_bytes(), sum.to_be_bytes(), self.order.to_be_bytes()].concat();
                state.resize(state.len() + self.padding, 7);
                self.client.offer_state(&group, joiner, position, &state).expect("it was asked for");
            }
            Event::State { member, state, .. } => {
                assert_eq!(member, self.me);
                self.state = Some((number(&state), number(&state[8..])));
                self.order = number(&state[16..]);
                assert!(state[24..].iter().all(|byte| *byte == 7), "a state comes as it was offered");
                self.longest = self.longest.max(state.len());
            }
            Event::Reset { member, .. } => {
                assert_eq!(member, self.me);
                self.state = None;
                self.resets += 1;
            }
            Event::View(_) => self.views += 1,
            Event::Writable => self.writable += 1,
            other => panic!("{other:?}"),
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "in vain: {what}: {:?} {:?}", self.state, self.members);
            assert_eq!(self.client.ended(), None, "{what}");
            self.step(Duration::from_millis(100));
        }
    }

    fn until_members(&mut self, count: usize) {
        self.until(&format!("{count} members"), |adder| {
            adder.members.len() == count && adder.state.is_some()
        });
    }

    fn until_count(&mut self, count: u64) {
        self.until(&format!("{count} numbers"), |adder| adder.state.is_some_and(|(known, _)| known == count));
    }

    fn send(&mut self, number: u64, size: usize) {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(size.max(8), 1);
        let end = Instant::now() + PATIENCE;
        loop {
            match self.client.send(GROUP, self.me.local, Guarantee::Agreed, &payload) {
                Ok(()) => return,
                Err(GroupError::Refused(SendError::Full { .. })) => self.step(Duration::from_millis(100)),
                Err(why) => panic!("{why}"),
            };
            assert!(Instant::now() < end, "the window stays full");
        }
    }
}

/// Not a test: the program of the tests. Does nothing unless it was started as such.
#[test]
fn a_program_beside_a_node() {
    let Ok(at) = std::env::var(SOCKET) else { return };
    let mut adder = match Adder::try_join(&at) {
        Ok(adder) => adder,
        Err(why) => return println!("> {why}"),
    };
    println!("> joined");
    let (orders, inbox) = std::sync::mpsc::channel::<String>();
    thread::spawn(move || {
        for line in std::io::stdin().lines() {
            orders.send(line.expect("text")).expect("the program listens");
        }
        std::process::exit(0);
    });
    loop {
        let Ok(order) = inbox.try_recv() else {
            // It takes part in its group all the time.
            adder.step(Duration::from_millis(2));
            if let Some(why) = adder.client.ended() {
                println!("> ended {why}");
                return;
            }
            continue;
        };
        let (word, rest) = order.split_once(' ').unwrap_or((&order, ""));
        let value = || rest.parse::<u64>().expect("a number");
        match word {
            "members" => adder.until_members(usize::try_from(value()).expect("few")),
            "count" => adder.until_count(value()),
            "send" => (1..=value()).for_each(|number| adder.send(number, 1000)),
            // The next state that it is asked for it does not give.
            "die" => loop {
                let wanted = |news: GroupNews| matches!(news, GroupNews::Group(Event::StateWanted { .. }));
                if adder.client.next_event(PATIENCE).is_some_and(wanted) {
                    std::process::abort();
                }
            },
            "hand" => {
                let connection = adder.client.as_fd().try_clone_to_owned().expect("a descriptor is left");
                #[expect(clippy::zombie_processes, reason = "who started this process ends that one")]
                let child = Command::new("sleep").arg("60").stdin(connection).spawn().expect("it starts");
                println!("> {}", child.id());
                continue;
            }
            other => panic!("no such order: {other}"),
        }
        println!("> {:?} {}", adder.state, adder.order);
    }
}

#[test]
fn programs_on_three_nodes_are_told_the_same_in_one_order() {
    let cluster = cluster("order", 3);
    let mut programs: Vec<Program> = [1, 1, 2, 2, 3, 3]
        .into_iter()
        .map(|node| Program::start(&address("order", node), "joined"))
        .collect();
    for program in &mut programs {
        program.order("members 6");
    }
    programs.iter_mut().for_each(|program| drop(program.word()));
    for program in &mut programs {
        program.order("send 500");
        program.order("count 3000");
    }
    programs.iter_mut().for_each(|program| drop(program.word()));
    let said: Vec<String> = programs.iter_mut().map(Program::word).collect();
    let sum: u64 = (1..=500).sum::<u64>() * 6;
    assert!(said[0].starts_with(&format!("Some((3000, {sum}))")), "{said:?}");
    assert!(said.iter().all(|word| *word == said[0]), "the same order at all: {said:?}");
    // A program that joins later is given the state by another program.
    let mut late = Program::start(&address("order", 2), "joined");
    assert_eq!(late.ask("count 3000"), said[0]);
    // The application of a node is told nothing of a group in which only programs are.
    for node in cluster.running() {
        let told = std::iter::from_fn(|| node.next_event(Duration::ZERO));
        let groups = told.filter(
            |told| matches!(&told.event, NodeEvent::Group(event) if !matches!(event, Event::View(_))),
        );
        assert_eq!(groups.count(), 0);
    }
}

/// Takes events of a node until one is taken by `done`, answers for the node's own member.
fn application_until(node: &Node, what: &str, mut done: impl FnMut(&Event) -> bool) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let Some(told) = node.next_event(Duration::from_millis(100)) else { continue };
        if let NodeEvent::Group(event) = told.event
            && done(&event)
        {
            return;
        }
    }
    panic!("in vain: {what}");
}

#[test]
fn a_program_and_the_application_of_its_node_are_members_of_one_group() {
    let cluster = cluster("both", 1);
    let node = cluster.node(0).expect("it runs");
    let mut adder = Adder::join(&address("both", 1));
    adder.until_members(1);
    assert!(adder.me.local >= 1 << 31 && adder.me.instance == node.local());
    let taken = node.join(GROUP, adder.me.local);
    assert!(matches!(taken, Err(ocf::RequestError::Refused(JoinError::Reserved(_)))), "{taken:?}");
    assert!(node.leave_group(GROUP, adder.me.local).is_err(), "it has no say for a program");
    let forged = node.send(GROUP, adder.me.local, Guarantee::Agreed, Bytes::from_static(&[0; 8]));
    assert!(matches!(forged, Err(ocf::RequestError::Refused(SendError::NotMember(_)))), "{forged:?}");
    // The state of the program is for the application.
    adder.send(4, 8);
    adder.until_count(1);
    let own = node.join(GROUP, 5).expect("a number of its own");
    adder.until_members(2);
    application_until(node, "the state", |event| match event {
        Event::State { member, state, .. } => {
            assert_eq!((*member, number(state), number(&state[8..])), (own, 1, 4));
            true
        }
        _ => false,
    });
    node.send(GROUP, 5, Guarantee::Agreed, Bytes::from(7_u64.to_be_bytes().to_vec())).expect("room");
    adder.until_count(2);
    application_until(node, "its own message", |event| matches!(event, Event::Message { .. }));
    // Another member of the same program is one more, and is told nothing twice.
    let second = adder.client.join(GROUP).expect("it may");
    assert_ne!(second.local, adder.me.local);
    adder.client.leave(GROUP, second.local).expect("it is joining");
    adder.client.leave(GROUP, adder.me.local).expect("a member");
    application_until(
        node,
        "the application alone",
        |event| matches!(event, Event::Membership { members, .. } if *members == [own]),
    );
    let late = adder.client.send(GROUP, adder.me.local, Guarantee::Agreed, &[0; 8]);
    assert!(matches!(late, Err(GroupError::Refused(SendError::NotMember(_)))), "{late:?}");
}

#[test]
fn what_a_program_may_not_do_is_refused_with_the_reason() {
    let cluster = cluster("refused", 1);
    let client = GroupClient::connect(&address("refused", 1), "test").expect("the node serves");
    assert_eq!(client.node(), cluster.node(0).expect("it runs").local());
    assert!(matches!(client.join(""), Err(GroupError::Refused(JoinError::Name(0)))));
    for own in ["ocf.resource", "ocf.anything"] {
        let denied = client.join(own);
        assert!(matches!(&denied, Err(GroupError::Denied(why)) if why.contains(own)), "{denied:?}");
    }
    let stranger = client.send("nowhere", 1 << 31, Guarantee::Agreed, b"");
    assert!(matches!(stranger, Err(GroupError::Refused(_))), "{stranger:?}");
    assert!(client.leave("nowhere", 1 << 31).is_err());
    for _ in 0..256 {
        client.join("crowd").expect("so many may be");
    }
    assert_eq!(client.join("crowd"), Err(JoinError::TooManyMembers(256).into()));
    drop(cluster);
    let end = Instant::now() + PATIENCE;
    while client.ended().is_none() {
        assert!(Instant::now() < end, "the node has ended");
        drop(client.next_event(Duration::from_millis(10)));
    }
    assert_eq!(client.join("crowd"), Err(GroupError::Ended(ClientError::Closed)));
}

#[test]
fn who_is_killed_leaves_and_the_others_go_on() {
    let _cluster = cluster("killed", 3);
    let mut stays = Adder::join(&address("killed", 1));
    stays.until_members(1);
    let mut dies = Program::start(&address("killed", 1), "joined");
    let mut other = Program::start(&address("killed", 2), "joined");
    stays.until_members(3);
    dies.ask("members 3");
    dies.order("send 100000");
    stays.until("it sends", |adder| adder.state.is_some_and(|(count, _)| count > 1000));
    dies.signal(Signal::KILL);
    stays.until_members(2);
    let (count, _) = stays.state.expect("a member");
    assert!(count < 100_000);
    stays.send(1, 8);
    stays.until_count(count + 1);
    other.ask(&format!("count {}", count + 1));
}

#[test]
fn who_has_ended_leaves_though_a_child_keeps_its_connection() {
    let _cluster = cluster("heir", 1);
    let mut adder = Adder::join(&address("heir", 1));
    adder.until_members(1);
    let mut program = Program::start(&address("heir", 1), "joined");
    adder.until_members(2);
    let heir: i32 = program.ask("hand on").parse().expect("a number of a process");
    program.signal(Signal::KILL);
    adder.until_members(1);
    adder.send(1, 8);
    adder.until_count(1);
    let heir = Pid::from_raw(heir).expect("not zero");
    kill_process(heir, Signal::KILL).expect("it had the connection all the time");
}

#[test]
fn a_donor_that_dies_before_it_answers_is_replaced() {
    let _cluster = cluster("donor", 2);
    // The most senior member is asked first.
    let mut senior = Program::start(&address("donor", 1), "joined");
    senior.ask("members 1");
    let mut junior = Adder::join(&address("donor", 2));
    junior.until_members(2);
    junior.send(9, 8);
    junior.until_count(1);
    senior.ask("count 1");
    senior.order("die");
    let mut joiner = Adder::join(&address("donor", 2));
    let at = thread::spawn(move || {
        joiner.until("the state", |adder| adder.state.is_some());
        (joiner.state, joiner)
    });
    junior.until("the donor is gone and the joiner is in", |adder| adder.members.len() == 2);
    junior.until("it gave the state", |_| at.is_finished());
    assert_eq!(at.join().expect("it ends well").0, Some((1, 9)));
}

/// Why the connection of a program ends that has greeted, joined or not, and says this.
fn end_of(at: &str, joins: bool, said: &[u8]) -> ClientError {
    let mut client = Client::connect(&Address::from(at), "stranger").expect("it serves");
    let patience = Duration::from_secs(10);
    client.call_wait("groups", "hello", Body::default(), patience).expect("it greets");
    if joins {
        client.call_wait("groups", "join", Body::Value("strangers".into()), patience).expect("it may");
    }
    client.tell("groups", "say", Body::Bytes(Bytes::copy_from_slice(said))).expect("it is sent");
    loop {
        if let Err(why) = client.next_event(PATIENCE) {
            return why;
        }
    }
}

#[test]
fn who_is_no_member_or_was_not_asked_has_nothing_kept() {
    let cluster = cluster("nothing", 1);
    let at = address("nothing", 1);
    // Each announces a payload of which it says only the first byte: it would be kept until the rest comes.
    let (mut message, mut state) = (vec![1], vec![2]);
    message.extend([0, 0, 1]);
    message.put_length(15 << 20);
    state.put_varint(1);
    state.put_instance(cluster.node(0).expect("it runs").local());
    state.extend([0, 0, 0]);
    state.put_length(60 << 20);
    let all = [
        (false, &message, "what only a member says"),
        (false, &state, "what only a member says"),
        (true, &state, "a state that was not asked for"),
    ];
    for (joins, said, why) in all {
        let ended = end_of(&at, joins, &[said.as_slice(), &[7]].concat());
        assert!(matches!(&ended, ClientError::Refused(told) if told.contains(why)), "{why}: {ended:?}");
    }
}

#[test]
fn a_machine_of_the_node_does_not_take_what_programs_are_told() {
    let cluster = cluster("machine", 1);
    let node = cluster.node(0).expect("it runs");
    let mut adder = Adder::join(&address("machine", 1));
    adder.until_members(1);
    let config = || Config::new(GROUP, 1);
    let Err(ocf::RequestError::Refused(refused)) = node.service(config(), Voting::default()) else {
        panic!("the group is of programs");
    };
    assert_eq!(refused, JoinError::HasPrograms(GROUP.into()));
    adder.send(1, 8);
    adder.until_count(1);
    drop(adder);
    let end = Instant::now() + PATIENCE;
    let service = loop {
        match node.service(config(), Voting::default()) {
            Ok(service) => break service,
            Err(why) => assert!(Instant::now() < end, "the program has left: {why}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert!(service.wait_ready(PATIENCE));
    let denied = GroupClient::connect(&address("machine", 1), "late").expect("it serves").join(GROUP);
    assert!(matches!(denied, Err(GroupError::Denied(_))), "{denied:?}");
}

#[test]
fn garbage_on_the_socket_ends_the_connection_and_nothing_else() {
    let _cluster = cluster("garbage", 1);
    let mut adder = Adder::join(&address("garbage", 1));
    adder.until_members(1);
    for garbage in [&[0xff; 64][..], &[1, 0x80], &[2, 0, 0, 0], &[4, 0xc0, 0, 0, 0, 0, 0, 0, 9]] {
        let ended = end_of(&address("garbage", 1), false, garbage);
        assert!(matches!(ended, ClientError::Refused(_) | ClientError::Closed), "{garbage:?}: {ended:?}");
    }
    let name = SocketAddr::from_abstract_name(&address("garbage", 1)[1..]);
    let mut raw = UnixStream::connect_addr(&name.expect("a name")).expect("it listens");
    raw.write_all(&[0x55; 4096]).expect("it is sent");
    adder.send(1, 8);
    adder.until_count(1);
}

#[test]
fn messages_and_states_of_16_mib_pass() {
    let _cluster = cluster("large", 2);
    let mut one = Adder::join(&address("large", 1));
    one.until_members(1);
    one.padding = 16 << 20;
    let most = one.client.promises().message_max;
    assert!(most > 15 << 20);
    let too_large = one.client.send(GROUP, one.me.local, Guarantee::Agreed, &vec![0; most + 1]);
    assert!(matches!(too_large, Err(GroupError::Refused(SendError::TooLarge { .. }))), "{too_large:?}");
    let mut other = Adder::join(&address("large", 2));
    let at = thread::spawn(move || {
        other.until_members(2);
        assert_eq!(other.longest, (16 << 20) + 24, "the state came whole");
        other.until_count(3);
        other
    });
    one.until_members(2);
    for number in 1..=3 {
        one.send(number, most);
    }
    one.until_count(3);
    let other = at.join().expect("it ends well");
    assert_eq!((one.longest, other.longest >= most), (most, true));
    assert_eq!((one.state, one.order), (other.state, other.order));
}

#[test]
fn a_program_that_takes_nothing_is_let_go_and_the_others_go_on() {
    let _cluster = cluster_with("stopped", 3, |api| api.groups_unread_ms = Some(1500));
    let mut sender = Adder::join(&address("stopped", 2));
    sender.until_members(1);
    let mut stopped = Program::start(&address("stopped", 1), "joined");
    let mut beside = Program::start(&address("stopped", 1), "joined");
    sender.until_members(3);
    beside.ask("members 3");
    stopped.signal(Signal::STOP);
    let at = Instant::now();
    // Three times what may wait anywhere on the way.
    for number in 0..1200 {
        sender.send(number, 64 << 10);
    }
    sender.until_members(2);
    assert!(at.elapsed() >= Duration::from_millis(1500), "it was given its time: {:?}", at.elapsed());
    assert!(sender.writable > 0, "the sender had to wait");
    sender.until_count(1200);
    beside.ask("count 1200");
    stopped.signal(Signal::CONT);
    let word = stopped.word();
    assert!(word.contains("ended"), "it is told that it is out: {word}");
}

#[test]
fn a_slow_program_is_waited_for_and_loses_nothing() {
    let _cluster = cluster("slow", 2);
    let mut sender = Adder::join(&address("slow", 1));
    sender.until_members(1);
    let mut slow = Adder::join(&address("slow", 2));
    let at = thread::spawn(move || {
        slow.until_members(2);
        slow
    });
    sender.until_members(2);
    let mut slow = at.join().expect("it ends well");
    // Until nothing passes any more.
    let payload = vec![0; 64 << 10];
    let (mut sent, mut moved) = (0, Instant::now());
    while moved.elapsed() < MOMENT {
        match sender.client.send(GROUP, sender.me.local, Guarantee::Agreed, &payload) {
            Ok(()) => (sent, moved) = (sent + 1, Instant::now()),
            Err(GroupError::Refused(SendError::Full { .. })) => {
                sender.step(Duration::from_millis(10));
            }
            Err(why) => panic!("{why}"),
        }
    }
    assert!(sent * payload.len() < 64 << 20, "what waits is bounded: {sent} messages");
    let count = u64::try_from(sent).expect("few");
    let at = thread::spawn(move || {
        slow.until_count(count);
        slow
    });
    sender.until_count(count);
    let slow = at.join().expect("it ends well");
    assert_eq!(slow.order, sender.order);
    sender.until("there is room again", |adder| adder.writable > 0);
}

#[test]
fn a_program_that_drops_its_client_leaves() {
    let _cluster = cluster("dropped", 1);
    let mut stays = Adder::join(&address("dropped", 1));
    stays.until_members(1);
    let goes = Adder::join(&address("dropped", 1));
    stays.until("it comes", |adder| adder.members.len() == 2);
    drop(goes);
    stays.until_members(1);
}

#[test]
#[ignore = "needs root: it becomes another user"]
fn who_may_not_join_is_told_which_setting_gives_it() {
    const USER: u32 = 65_534;
    let entry = |name: &str| GroupUsers { names: vec![name.to_owned()], users: vec![USER], groups: vec![] };
    let serve = |test: &'static str, groups: Vec<GroupUsers>| {
        let equip = move |builder: ocf::NodeBuilder| {
            let local = Some(address(test, builder.node().raw()));
            builder.api(ApiConfig { local, groups: groups.clone(), ..ApiConfig::default() })
        };
        Cluster::builder(test).equip(equip).local(1).expect("a cluster starts")
    };
    // Where every user can start it.
    let own = std::env::current_exe().expect("this program has a path");
    let copy = std::env::temp_dir().join(format!("ocf-group-program-{}", std::process::id()));
    std::fs::copy(own, &copy).expect("there is room");
    let word = |test| Program::spawn(Program::command(&copy, &address(test, 1)).uid(USER).gid(USER)).word();
    let _nobody = serve("nobody", vec![]);
    let said = word("nobody");
    assert!(said.contains("may not connect") && said.contains("groups"), "{said}");
    let _other = serve("other", vec![entry("letters*")]);
    let said = word("other");
    assert!(said.contains("[[api.groups]]") && said.contains(GROUP), "{said}");
    let _these = serve("these", vec![entry("num*")]);
    assert_eq!(word("these"), "joined");
    std::fs::remove_file(copy).expect("it is there");
}
