//! The donor of a large state is killed, with signal 9, in the middle of it: the joiner goes on from another member, and who has the
//! state already is not held up. Two donors in processes of their own; the joiner lives here.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stdout, reason = "processes of the test say where they are")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one thing among many")]

use bytes::Bytes;
use ocf::{Node, NodeConfig, NodeEvent};
use ocf_comm::driver::{IoConfig, Ports};
use ocf_groups::{Event, Guarantee};
use pils::Rng;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Says to this program that it is a donor, and which.
const ROLE: &str = "OCF_TEST_DONOR";
const GROUP: &str = "big";
const SIZE: usize = 48 << 20;
const PIECE: usize = 256 << 10;
const WINDOW: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn bind() -> (Ports, SocketAddr) {
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    let at = ports.local_addresses().unwrap()[0];
    (ports, at)
}

fn start(node: u32, ports: Ports, key: &str, addresses: &[SocketAddr]) -> Node {
    let mut text = format!("cluster = 'donors'\nnode = {node}\nkey = '{key}'\n");
    for (id, at) in (1..).zip(addresses) {
        text += &format!("[[nodes]]\nid = {id}\naddress = '{at}'\n");
    }
    let tune = |stack: &mut ocf::stack::StackConfig| {
        (stack.groups.state_piece, stack.groups.state_window) = (PIECE, WINDOW);
    };
    Node::builder(NodeConfig::from_toml(&text).unwrap()).ports(ports).tune(tune).start().unwrap()
}

/// What the group has: how many messages it was sent, and much that never changes.
fn state(messages: u64) -> Bytes {
    let mut rng = Rng::new(3);
    let mut state = messages.to_be_bytes().to_vec();
    for _ in 0..SIZE / 8 {
        state.extend_from_slice(&rng.next_u64().to_be_bytes());
    }
    state.into()
}

/// Not a test: a member that has the state. Does nothing unless it was started as such.
#[test]
fn donor() {
    let Ok(node) = std::env::var(ROLE) else { return };
    let node: u32 = node.parse().unwrap();
    let (ports, at) = bind();
    println!("listens at {at}");
    std::io::stdout().flush().unwrap();
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let (key, addresses) = (lines.next().unwrap(), lines.next().unwrap());
    let addresses: Vec<SocketAddr> = addresses.split(' ').map(|at| at.parse().unwrap()).collect();
    let member = start(node, ports, &key, &addresses);
    member.join(GROUP, 1).unwrap();
    let mut messages = 0;
    let mut ready = false;
    loop {
        let Some(event) = member.next_event(Duration::from_millis(100)) else { continue };
        match event.event {
            NodeEvent::Group(Event::Message { group, .. }) if *group == *GROUP => messages += 1,
            NodeEvent::Group(Event::State { state, .. }) => {
                messages = u64::from_be_bytes(state[..8].try_into().unwrap());
                ready = true;
            }
            NodeEvent::Group(Event::Membership { members, .. }) => ready |= members.len() == 1,
            NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                // Refused if the joiner is to get a later state: then there is another question.
                member.offer_state(&group, joiner, position, state(messages)).unwrap_or_default();
            }
            _ => continue,
        }
        if ready {
            println!("ready {messages}");
            std::io::stdout().flush().unwrap();
        }
    }
}

/// A donor in a process of its own.
struct Donor {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
    at: SocketAddr,
}

impl Drop for Donor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Donor {
    fn spawn(node: u32) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "donor", "--nocapture"])
            .env(ROLE, node.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut donor = Self { process, lines, at: "127.0.0.1:1".parse().unwrap() };
        donor.at = donor.word("listens at ").parse().unwrap();
        donor
    }

    /// What follows this on the next line that has it.
    fn word(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the donor runs");
            if let Some((_, rest)) = line.trim_end().split_once(start) {
                return rest.to_owned();
            }
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

/// The nodes of the members of the group, most senior first.
fn members(node: &Node) -> Vec<u32> {
    let groups = node.snapshot().unwrap().groups;
    let group = groups.into_iter().find(|g| g.name == GROUP);
    group.map(|g| g.members.iter().map(|(instance, _)| instance.node.raw()).collect()).unwrap_or_default()
}

fn received(node: &Node) -> u64 {
    node.snapshot().unwrap().counters["groups.state_received"]
}

#[test]
fn a_joiner_goes_on_from_another_donor_when_the_first_is_killed_in_the_middle() {
    let mut donors = [Donor::spawn(1), Donor::spawn(2)];
    let (ports, own) = bind();
    let addresses = [donors[0].at, donors[1].at, own];
    let key = "17".repeat(32);
    let list = addresses.map(|at| at.to_string()).join(" ");
    for donor in &mut donors {
        donor.tell(&key);
        donor.tell(&list);
    }
    let node = start(3, ports, &key, &addresses);
    // One of them is the first member; the other has its state from that one.
    donors.iter_mut().for_each(|donor| drop(donor.word("ready")));
    let end = Instant::now() + PATIENCE;
    while members(&node).len() != 2 {
        assert!(Instant::now() < end, "two members");
        thread::sleep(Duration::from_millis(5));
    }
    let senior = usize::try_from(members(&node)[0] - 1).unwrap();
    node.join(GROUP, 1).unwrap();
    while received(&node) < SIZE as u64 / 3 {
        assert!(Instant::now() < end, "a third of the state");
        thread::sleep(Duration::from_millis(1));
    }
    // Who has the state goes on while the joiner waits.
    node.send(GROUP, 1, Guarantee::Agreed, Bytes::from_static(b"news")).unwrap();
    donors.iter_mut().for_each(|donor| drop(donor.word("ready 1")));
    let before = received(&node);
    assert!(before < SIZE as u64 * 9 / 10, "it is under way: {before}");
    donors[senior].process.kill().unwrap();
    let state_here = loop {
        let Some(event) = node.next_event(Duration::from_millis(100)) else {
            assert!(Instant::now() < end, "the state comes");
            continue;
        };
        if let NodeEvent::Group(Event::State { state, .. }) = event.event {
            break state;
        }
    };
    assert!(state_here == state(1), "the state of the group, whole");
    let all = received(&node);
    let most = (SIZE + WINDOW + 4 * PIECE) as u64;
    assert!(all <= most, "{all} bytes came in all, {before} of them from the donor that was killed");
    assert!(all >= SIZE as u64 / 2);
}
