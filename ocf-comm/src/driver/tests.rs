//! The reactor with a layer of no protocol, on loopback sockets.
use super::*;
use crate::{PathId, Received, Transmit};
use crossbeam_channel::{Receiver, Sender, unbounded};
use pils::{Instant, Layer};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers datagrams that start with `?`, reports the others, and reports its timer.
#[derive(Default)]
struct Echo {
    outputs: VecDeque<Out>,
    deadline: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum Out {
    Send(Transmit),
    Heard { segment: usize, bytes: usize },
    Fired { late: Duration },
}

impl Layer for Echo {
    type Input<'a> = Received<'a>;
    type Output = Out;

    fn handle(&mut self, _now: Instant, received: Received<'_>) {
        assert_ne!(received.data, b"defect", "told to fail");
        if received.data.first() == Some(&b'?') {
            let mut data = received.data.to_vec();
            data[0] = b'!';
            let Received { path, from: to, segment, .. } = received;
            self.outputs.push_back(Out::Send(Transmit { path, to, segment, data }));
        } else {
            self.outputs.push_back(Out::Heard { segment: received.segment, bytes: received.data.len() });
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(deadline) = self.deadline.take_if(|deadline| *deadline <= now) {
            self.outputs.push_back(Out::Fired { late: now - deadline });
        }
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}

struct Reporter {
    seen: Sender<Out>,
    recycled: usize,
}

impl Host<Echo> for Reporter {
    type Command = Transmit;

    fn input<'a>(&mut self, received: Received<'a>) -> Received<'a> {
        received
    }

    fn carry_out(&mut self, _now: Instant, output: Out, io: &mut Io) {
        match output {
            Out::Send(transmit) => io.transmit(transmit),
            report => self.seen.send(report).unwrap(),
        }
    }

    fn command(&mut self, layer: &mut Echo, _now: Instant, command: Transmit) {
        layer.outputs.push_back(Out::Send(command));
    }

    fn recycle(&mut self, _layer: &mut Echo, _buffer: Vec<u8>) {
        self.recycled += 1;
    }

    fn last_words(&mut self, _layer: &mut Echo, _now: Instant, _io: &mut Io) {
        self.seen.send(Out::Heard { segment: 0, bytes: 0 }).unwrap();
    }
}

struct Node {
    reactor: Reactor<Echo, Reporter>,
    remote: Remote<Transmit>,
    seen: Receiver<Out>,
    address: SocketAddr,
}

fn node(change: impl FnOnce(&mut IoConfig)) -> Node {
    let mut config = IoConfig::new(["127.0.0.1:0".parse().unwrap()]);
    change(&mut config);
    let ports = Ports::bind(&config).unwrap();
    let address = ports.local_addresses().unwrap()[0];
    let (remote, inbox) = ports.inbox();
    let (sender, seen) = unbounded();
    let host = Reporter { seen: sender, recycled: 0 };
    Node { reactor: Reactor::new(ports, inbox, Echo::default(), host), remote, seen, address }
}

fn datagrams(to: SocketAddr, segment: usize, data: Vec<u8>) -> Transmit {
    Transmit { path: PathId(0), to, segment, data }
}

#[test]
fn two_threads_talk_and_a_posted_command_wakes_a_sleeping_reactor() {
    let (a, b) = (node(|_| ()), node(|_| ()));
    let _b_runs = b.reactor.spawn("b").unwrap();
    let a_runs = a.reactor.spawn("a").unwrap();
    a.remote.post(datagrams(b.address, 5, b"?ping".to_vec())).unwrap();
    assert_eq!(a.seen.recv_timeout(PATIENCE), Ok(Out::Heard { segment: 5, bytes: 5 }));
    assert_eq!(a_runs.inspect(|_, host, _| host.recycled), Ok(1));
    a_runs.handle().stop();
    assert_eq!(a_runs.join(), Stopped::Requested);
}

#[test]
fn a_stopped_reactor_leaves_its_address_although_handles_are_around() {
    let a = node(|_| ());
    let runs = a.reactor.spawn("a").unwrap();
    let handle = runs.handle();
    let again = IoConfig::new([a.address]);
    assert!(Ports::bind(&again).is_err(), "it is in use");
    handle.stop();
    assert_eq!(runs.join(), Stopped::Requested);
    assert_eq!(Ports::bind(&again).unwrap().local_addresses().unwrap(), [a.address]);
}

#[test]
fn a_deadline_set_by_a_call_fires_close_to_its_time() {
    let a = node(|_| ());
    let runs = a.reactor.spawn("a").unwrap();
    // The best of several: neighbours on the machine may delay any one of them.
    let mut best = Duration::MAX;
    for _ in 0..20 {
        runs.call(|layer, _, now| layer.deadline = Some(now + Duration::from_micros(300))).unwrap();
        if let Out::Fired { late } = a.seen.recv_timeout(PATIENCE).unwrap() {
            best = best.min(late);
        }
    }
    assert!(best < Duration::from_micros(700), "late by at least {best:?}: whole milliseconds");
}

#[test]
fn a_burst_arrives_whole_with_and_without_offload() {
    for offload in [true, false] {
        let a = node(|config| config.offload = offload);
        let b = node(|_| ());
        let _b_runs = b.reactor.spawn("b").unwrap();
        let runs = a.reactor.spawn("a").unwrap();
        // More segments than one call takes, and a shorter last one.
        a.remote.post(datagrams(b.address, 300, vec![7; 200 * 300 + 17])).unwrap();
        let mut bytes = 0;
        while bytes < 200 * 300 + 17 {
            match b.seen.recv_timeout(PATIENCE).unwrap() {
                Out::Heard { segment, bytes: more } => {
                    assert!(segment == 300 || segment == 17);
                    bytes += more;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        let stats = runs.inspect(|_, _, io| io.stats()).unwrap();
        assert_eq!((stats.datagrams_out, stats.bytes_out), (201, 60_017));
        assert!(offload || stats.sends == 201, "{stats:?}");
    }
}

#[test]
fn a_refused_burst_is_retried_singly_then_dropped_and_counted() {
    let a = node(|_| ());
    let b = node(|_| ());
    let runs = a.reactor.spawn("a").unwrap();
    // A destination port of zero is refused by the kernel, burst or not.
    let mut nowhere = b.address;
    nowhere.set_port(0);
    a.remote.post(datagrams(nowhere, 100, vec![7; 300])).unwrap();
    let mut fine = node(|_| ());
    a.remote.post(datagrams(fine.address, 4, b"fine".to_vec())).unwrap();
    while fine.seen.is_empty() {
        fine.reactor.process_within(Some(PATIENCE)).unwrap();
    }
    let stats = runs.inspect(|_, _, io| io.stats()).unwrap();
    assert_eq!((stats.bursts_refused, stats.send_errors, stats.datagrams_out), (1, 3, 1), "{stats:?}");
}

#[test]
fn a_reactor_lives_in_a_foreign_poll_loop() {
    let Node { mut reactor, seen, address, .. } = node(|_| ());
    let b = node(|_| ());
    let _b_runs = b.reactor.spawn("b").unwrap();
    // Nested: the caller's own epoll watches the reactor's.
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&outer, reactor.as_fd(), epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
    reactor.process().unwrap();
    b.remote.post(datagrams(address, 5, b"hello".to_vec())).unwrap();
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    while seen.is_empty() {
        let mut ready = [PollFd::new(&outer, PollFlags::IN)];
        assert_ne!(poll(&mut ready, Some(&patience)), Ok(0), "the descriptor never became readable");
        reactor.process().unwrap();
    }
    assert_eq!(seen.recv(), Ok(Out::Heard { segment: 5, bytes: 5 }));
    // Deadlines make the descriptor readable too.
    let handle = reactor.handle();
    handle.call(|layer, _, now| layer.deadline = Some(now + Duration::from_millis(2))).unwrap();
    assert!(reactor.next_deadline().is_some());
    while seen.is_empty() {
        let mut ready = [PollFd::new(&reactor, PollFlags::IN)];
        assert_ne!(poll(&mut ready, Some(&patience)), Ok(0), "the deadline did not show");
        reactor.process().unwrap();
    }
    assert!(matches!(seen.recv(), Ok(Out::Fired { .. })));
}

#[test]
fn a_foreign_loop_is_called_again_until_everything_is_read() {
    let Node { mut reactor, seen, address, .. } = node(|_| ());
    let b = node(|_| ());
    // Far more than one turn reads, all there before the first turn.
    for _ in 0..150 {
        b.remote.post(datagrams(address, 5, b"hello".to_vec())).unwrap();
    }
    let runs = b.reactor.spawn("b").unwrap();
    while runs.inspect(|_, _, io| io.stats().datagrams_out) != Ok(150) {
        std::thread::yield_now();
    }
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut turns = 0;
    while seen.len() < 150 {
        let mut ready = [PollFd::new(&reactor, PollFlags::IN)];
        assert_ne!(poll(&mut ready, Some(&patience)), Ok(0), "forgotten after {}", seen.len());
        reactor.process().unwrap();
        turns += 1;
    }
    assert!(turns > 1, "one turn is bounded");
}

#[test]
fn each_path_has_a_socket_of_its_own_and_an_unknown_one_is_counted() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = IoConfig::new([any, any]);
    let ports = Ports::bind(&config).unwrap();
    let addresses = ports.local_addresses().unwrap();
    let (remote, inbox) = ports.inbox();
    let (sender, seen) = unbounded();
    let host = Reporter { seen: sender, recycled: 0 };
    let runs = Reactor::new(ports, inbox, Echo::default(), host).spawn("two paths").unwrap();
    // A question from the first path to the second is answered from the second.
    for path in [7, 0] {
        let question = Transmit { path: PathId(path), ..datagrams(addresses[1], 5, b"?path".to_vec()) };
        remote.post(question).unwrap();
    }
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(Out::Heard { segment: 5, bytes: 5 }));
    assert_eq!(runs.inspect(|_, _, io| (io.stats().unknown_path, io.stats().datagrams_in)), Ok((1, 2)));
}

#[test]
fn a_spinning_reactor_does_what_a_sleeping_one_does() {
    let (a, b) = (node(|config| config.spin = Duration::from_micros(50)), node(|_| ()));
    let (_a_runs, _b_runs) = (a.reactor.spawn("a").unwrap(), b.reactor.spawn("b").unwrap());
    for _ in 0..50 {
        a.remote.post(datagrams(b.address, 5, b"?ping".to_vec())).unwrap();
        assert_eq!(a.seen.recv_timeout(PATIENCE), Ok(Out::Heard { segment: 5, bytes: 5 }));
    }
}

/// Has always more to do, and takes a millisecond for each part of it; its host posts a command for each command.
struct Tireless {
    parts: usize,
    commands: usize,
    heard: usize,
    remote: Option<Remote<()>>,
}

impl Layer for Tireless {
    type Input<'a> = Received<'a>;
    type Output = Out;

    fn handle(&mut self, _now: Instant, _received: Received<'_>) {
        self.heard += 1;
    }

    fn handle_timeout(&mut self, _now: Instant) {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        self.parts += 1;
    }

    fn poll_output(&mut self) -> Option<Out> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(Instant::ZERO)
    }
}

struct Poster;

impl Host<Tireless> for Poster {
    type Command = ();

    fn input<'a>(&mut self, received: Received<'a>) -> Received<'a> {
        received
    }

    fn carry_out(&mut self, _now: Instant, _output: Out, _io: &mut Io) {}

    fn command(&mut self, layer: &mut Tireless, _now: Instant, (): ()) {
        layer.commands += 1;
        layer.remote.as_ref().unwrap().post(()).unwrap();
    }
}

#[test]
fn a_layer_that_has_always_more_to_do_and_a_host_that_posts_for_ever_hear_their_peers_in_between() {
    let ports = Ports::bind(&IoConfig::new(["127.0.0.1:0".parse().unwrap()])).unwrap();
    let address = ports.local_addresses().unwrap()[0];
    let (remote, inbox) = ports.inbox();
    remote.post(()).unwrap();
    let layer = Tireless { parts: 0, commands: 0, heard: 0, remote: Some(remote) };
    let mut reactor = Reactor::new(ports, inbox, layer, Poster);
    let handle = reactor.handle();
    let mut peer = node(|_| ());
    for turn in 1..=5 {
        peer.remote.post(datagrams(address, 5, b"hello".to_vec())).unwrap();
        peer.reactor.process().unwrap();
        reactor.process().unwrap();
        let seen = handle.inspect(|layer, _, _| (layer.parts, layer.heard)).unwrap();
        assert_eq!(seen, (turn, turn), "one part of the work and one datagram in each turn");
    }
    let commands = handle.inspect(|layer, _, _| layer.commands).unwrap();
    assert!((5..=80).contains(&commands), "{commands} commands in five turns");
}

#[test]
fn a_burst_of_calls_leaves_without_another_call() {
    let (a, b) = (node(|_| ()), node(|_| ()));
    let (a_runs, _b_runs) = (a.reactor.spawn("a").unwrap(), b.reactor.spawn("b").unwrap());
    for _ in 0..200 {
        let message = datagrams(b.address, 5, b"hello".to_vec());
        a_runs.call(|layer, _, _| layer.outputs.push_back(Out::Send(message))).unwrap();
    }
    for _ in 0..200 {
        assert_eq!(b.seen.recv_timeout(PATIENCE), Ok(Out::Heard { segment: 5, bytes: 5 }));
    }
}

#[test]
fn a_panic_stops_the_reactor_with_last_words_and_not_the_process() {
    let (a, b) = (node(|_| ()), node(|_| ()));
    let b_runs = b.reactor.spawn("b").unwrap();
    let _a_runs = a.reactor.spawn("a").unwrap();
    let handle = b_runs.handle();
    a.remote.post(datagrams(b.address, 6, b"defect".to_vec())).unwrap();
    let stopped = b_runs.join();
    assert!(
        matches!(&stopped, Stopped::Panicked { message } if message.contains("told to fail")),
        "{stopped}"
    );
    assert_eq!(b.seen.recv(), Ok(Out::Heard { segment: 0, bytes: 0 }));
    assert_eq!(handle.call(|_, _, _| ()), Err(stopped));
}

#[test]
fn a_panic_in_a_call_is_an_error_for_the_caller() {
    let a = node(|_| ());
    let runs = a.reactor.spawn("a").unwrap();
    let result: Result<(), Stopped> = runs.call(|_, _, _| panic!("in the caller's request"));
    assert!(matches!(result, Err(Stopped::Panicked { .. })));
    assert_eq!(Err(runs.join()), result);
}

#[test]
fn what_the_kernel_does_not_take_waits_in_a_bounded_queue() {
    let a = node(|config| {
        config.send_buffer = 4096;
        config.send_queue_bytes_max = 100_000;
    });
    let b = node(|_| ());
    let runs = a.reactor.spawn("a").unwrap();
    let sent = 500;
    runs.call(|layer, _, _| {
        for _ in 0..sent {
            layer.outputs.push_back(Out::Send(datagrams(b.address, 1000, vec![1; 40_000])));
        }
    })
    .unwrap();
    let runs_b = b.reactor.spawn("b").unwrap();
    // Everything is either taken by the kernel or counted as dropped in the end; nothing waits forever.
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let stats = runs.inspect(|_, _, io| io.stats()).unwrap();
        if stats.datagrams_out + stats.dropped_full == sent * 40 {
            break;
        }
        assert!(std::time::Instant::now() < end, "{stats:?}");
        std::thread::yield_now();
    }
    drop(runs_b);
}

#[test]
fn an_address_in_use_is_named() {
    let a = node(|_| ());
    let refused = Ports::bind(&IoConfig::new([a.address])).unwrap_err();
    assert!(refused.to_string().contains(&format!("{} is in use", a.address)), "{refused}");
    let elsewhere = "192.0.2.1:0".parse().unwrap();
    let refused = Ports::bind(&IoConfig::new([elsewhere])).unwrap_err();
    assert!(refused.to_string().contains("no interface of this host"), "{refused}");
    assert!(matches!(Ports::bind(&IoConfig::new([])), Err(SetupError::NoPath)));
}

#[test]
fn random_identities_differ() {
    assert_ne!(entropy::incarnation(), entropy::incarnation());
    assert_ne!(entropy::seed(), entropy::seed());
}
