//! Programs beside nodes, each a process of its own: what they get through the node's local interface, as corosync's get it
//! through libcpg.
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

use crate::support::group_nodes::answer;
use crate::support::{Figure, Measure, Samples, machine};
use bytes::Bytes;
use ocf::{ApiConfig, Cluster, Detection, GroupClient, GroupError, GroupNews, NodeBuilder};
use ocf_groups::{Event, Guarantee, MemberId, SendError};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Says to this program at which node it is to be a program.
const NODE: &str = "OCF_BENCH_PROGRAM";
const GROUP: &str = "bench";
const PROGRAMS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing comes any more after so long.
const QUIET: Duration = Duration::from_millis(300);

/// Runs as a program, if this process was started as one.
pub fn inside() -> Option<ExitCode> {
    let at = std::env::var(NODE).ok().filter(|at| !at.is_empty())?;
    let client = GroupClient::connect(&at, "bench").expect("the node serves");
    let me = client.join(GROUP).expect("it may");
    let mut member = Member { client, me, news: VecDeque::new(), full: false, delivered: 0, digest: 0 };
    member.form();
    answer("formed");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the program outside writes text");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<usize>().expect("this program wrote it");
        match words[0] {
            "rate" => {
                let time = Duration::from_millis(u64::try_from(number(3)).expect("short"));
                let rate = member.rate(number(1), number(2) == 1, time);
                answer(&format!("{rate} {}", member.digest));
            }
            "latency" => answer(&member.latency(number(1), number(3)).to_string()),
            "listen" => {
                member.listen(number(3));
                answer("0");
            }
            other => unreachable!("this program never says {other}"),
        }
    }
    Some(ExitCode::SUCCESS)
}

/// The member of a program.
struct Member {
    client: GroupClient,
    me: MemberId,
    news: VecDeque<GroupNews>,
    full: bool,
    delivered: u64,
    /// Of the order in which messages came.
    digest: u64,
}

impl Member {
    /// Takes what there is. Members here, if that changed.
    fn take(&mut self, wait: Duration) -> Option<usize> {
        let mut members = None;
        self.client.next_events(wait, &mut self.news);
        for news in self.news.drain(..) {
            match news {
                GroupNews::Group(Event::Message { sender, .. }) => {
                    self.delivered += 1;
                    let from = u64::from(sender.instance.node.raw());
                    self.digest = (self.digest ^ from).wrapping_mul(1_099_511_628_211);
                }
                GroupNews::Group(Event::Writable) => self.full = false,
                GroupNews::Group(Event::Membership { members: now, .. }) => members = Some(now.len()),
                GroupNews::Group(Event::StateWanted { group, joiner, position }) => {
                    self.client.offer_state(&group, joiner, position, b"").expect("it was just asked for");
                }
                _ => {}
            }
        }
        members
    }

    /// Waits until all are members, and nobody waits for a state.
    fn form(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.take(Duration::from_millis(50)) != Some(PROGRAMS) {
            assert!(Instant::now() < end, "the group does not form");
        }
        let end = Instant::now() + 2 * QUIET;
        while Instant::now() < end {
            self.take(QUIET);
        }
    }

    /// Messages per second that come while this one sends as much as it may, or only listens.
    fn rate(&mut self, size: usize, sends: bool, time: Duration) -> f64 {
        let payload = Bytes::from(vec![7; size]);
        let mut batch = VecDeque::new();
        (self.delivered, self.digest) = (0, 0);
        let warm = Instant::now() + time / 5;
        let mut counted = None;
        loop {
            let now = Instant::now();
            if counted.is_none() && now >= warm {
                counted = Some((now, self.delivered));
            }
            if counted.is_some_and(|(start, _)| now - start >= time) {
                break;
            }
            if sends && !self.full {
                batch.resize(64, payload.clone());
                match self.client.send_all(GROUP, self.me.local, Guarantee::Agreed, &mut batch) {
                    Ok(()) => {}
                    Err(GroupError::Refused(SendError::Full { .. })) => self.full = true,
                    Err(why) => panic!("a quiet cluster, yet {why}"),
                }
            }
            let wait = if sends && !self.full { Duration::ZERO } else { Duration::from_millis(5) };
            self.take(wait);
        }
        let (start, before) = counted.expect("it was warm");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 messages")]
        let rate = (self.delivered - before) as f64 / start.elapsed().as_secs_f64();
        let mut known = self.delivered;
        let mut end = Instant::now() + QUIET;
        while Instant::now() < end {
            self.take(Duration::from_millis(20));
            if self.delivered != known {
                (known, end) = (self.delivered, Instant::now() + QUIET);
            }
        }
        rate
    }

    /// Median time in microseconds from sending to own delivery, one message at a time.
    fn latency(&mut self, size: usize, count: usize) -> f64 {
        let payload = vec![1; size];
        let mut round = || {
            let (start, before) = (Instant::now(), self.delivered);
            self.client.send(GROUP, self.me.local, Guarantee::Agreed, &payload).expect("an empty window");
            while self.delivered == before {
                self.take(PATIENCE);
            }
            start.elapsed()
        };
        let samples: Vec<Duration> = (0..count).map(|_| round()).collect();
        Samples::micros(samples.into_iter().skip(count / 10)).median()
    }

    /// Takes so many messages.
    fn listen(&mut self, count: usize) {
        let last = self.delivered + u64::try_from(count).expect("few");
        while self.delivered < last {
            self.take(PATIENCE);
        }
    }
}

/// Three nodes of this process, and a program beside each.
pub struct Programs {
    _cluster: Cluster,
    programs: Vec<Program>,
}

struct Program {
    child: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Program {
    fn hear(&mut self) -> String {
        self.words.next().expect("it has not ended").expect("it speaks in text")
    }
}

impl Programs {
    /// Starts them, `word` in the names of their sockets, on the processors of the calling thread.
    pub fn form(word: &'static str) -> Self {
        let address = move |node: u32| format!("@ocf-bench-{word}-{}-{node}", std::process::id());
        let equip = move |builder: NodeBuilder| {
            let local = Some(address(builder.node().raw()));
            builder.api(ApiConfig { local, ..ApiConfig::default() })
        };
        let cluster = Cluster::builder("bench")
            .detection(Detection::Cloud)
            .equip(equip)
            .local(3)
            .expect("nodes on loopback");
        let end = Instant::now() + PATIENCE;
        while !cluster.running().all(|node| node.view().is_some_and(|view| view.members.len() == PROGRAMS)) {
            assert!(Instant::now() < end, "three nodes make a view");
            std::thread::sleep(Duration::from_millis(10));
        }
        // The second node is not the one that gives the order.
        let view = cluster.node(0).and_then(ocf::Node::view).expect("it was just seen");
        let nodes = view.members.iter().map(|member| member.instance.node.raw());
        let own = std::env::current_exe().expect("this program has a path");
        let start = |node| {
            let mut child = Command::new(&own)
                .env(NODE, address(node))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a process more");
            let orders = child.stdin.take().expect("it is piped");
            let words = BufReader::new(child.stdout.take().expect("it is piped")).lines();
            Program { child, orders, words }
        };
        let mut programs: Vec<Program> = nodes.map(start).collect();
        programs.iter_mut().for_each(|program| assert_eq!(program.hear(), "formed"));
        Self { _cluster: cluster, programs }
    }

    fn order(&mut self, at: usize, order: &str) {
        writeln!(self.programs[at].orders, "{order}").expect("it listens");
    }

    /// Messages per second that the slowest program is told while all send. Checks that all were told the same in the same order.
    pub fn rate(&mut self, size: usize, time: Duration) -> f64 {
        for at in 0..PROGRAMS {
            self.order(at, &format!("rate {size} 1 {}", time.as_millis()));
        }
        let said: Vec<String> = self.programs.iter_mut().map(Program::hear).collect();
        let parts: Vec<(f64, &str)> = said
            .iter()
            .filter_map(|said| said.split_once(' '))
            .map(|(rate, digest)| (rate.parse().expect("a number"), digest))
            .collect();
        assert!(parts.iter().all(|(_, digest)| *digest == parts[0].1), "one order at all: {said:?}");
        parts.into_iter().map(|(rate, _)| rate).fold(f64::INFINITY, f64::min)
    }

    /// Median time in microseconds from sending to own delivery, at the second node.
    pub fn latency(&mut self, size: usize, count: usize) -> f64 {
        for at in [0, 2] {
            self.order(at, &format!("listen 0 0 {count}"));
        }
        self.order(1, &format!("latency {size} 0 {count}"));
        let median = self.programs[1].hear().parse().expect("a number");
        for at in [0, 2] {
            self.programs[at].hear();
        }
        median
    }
}

/// Those for latencies on one processor, and those for throughput on two.
pub struct Lab {
    one: RefCell<Programs>,
    two: RefCell<Programs>,
}

impl Lab {
    pub fn form() -> Self {
        let one = RefCell::new(machine::on_one(|| Programs::form("one")));
        Self { one, two: RefCell::new(machine::on_two(|| Programs::form("two"))) }
    }

    /// What is measured through the local interface.
    pub fn measures(&self, count: usize, time: Duration) -> Vec<Measure<'_>> {
        let rate = move |size| self.two.borrow_mut().rate(size, time);
        vec![
            ("V-1/local", Box::new(move || self.one.borrow_mut().latency(64, count))),
            ("V-3/local", Box::new(move || rate(64))),
            ("V-4/local", Box::new(move || rate(1024))),
            ("V-5/local", Box::new(move || rate(64 * 1024))),
        ]
    }
}

/// Held against what corosync's programs get through libcpg.
pub fn figures(taken: &BTreeMap<&'static str, Samples>) -> Vec<Figure> {
    let figure = |(id, what, unit, theirs): (&'static str, &'static str, &'static str, &str)| {
        let against = taken.get(theirs).map(|samples| ("corosync aes256", samples.median()));
        taken.get(id).map(|samples| Figure { id, what, value: samples.median(), unit, against, goal: None })
    };
    [
        ("V-1/local", "agreed, 64 B, to own delivery, from other processes", "us", "corosync V-1"),
        ("V-3/local", "64 B, all send, from other processes", "msg/s", "corosync V-3"),
        ("V-4/local", "1 KiB, all send, from other processes", "msg/s", "corosync V-4"),
        ("V-5/local", "64 KiB, all send, from other processes", "msg/s", "corosync V-5"),
    ]
    .into_iter()
    .filter_map(figure)
    .collect()
}
