//! Tie-breakers with real sockets, files and threads: the conformance suite, and what only they can get wrong.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test of drivers has threads and sockets"
)]

use core::time::Duration;
use ocf_membership::arbiter::ArbiterConfig;
use ocf_membership::driver::{ArbiterClient, ArbiterServer, SharedDisk, format_disk};
use ocf_membership::testing::check_tie_breaker;
use ocf_membership::{Ballot, Claim, Evidence, Grant, TieBreaker, Verdict, ViewNumber};
use pils::{Incarnation, NodeId, NodeInstance, Rng};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::{fs, io, process, thread};

const SECRET: &[u8] = b"sixteen bytes or more of it";
/// Long, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ocf-tie-{name}-{}", process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn serve(folder: &Folder, secret: &[u8]) -> ArbiterServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = ArbiterConfig { settle: Duration::from_millis(1), ..ArbiterConfig::default() };
    ArbiterServer::start(listener, secret, &folder.0, config).expect("it starts")
}

fn instance(n: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n)))
}

fn claim(n: u32, round: u64) -> Claim {
    Claim {
        ballot: Ballot { round, proposer: instance(n) },
        number: ViewNumber(4),
        known: ViewNumber(3),
        nodes: vec![NodeId::new(n)],
        absent: Vec::new(),
        hosts: 0,
    }
}

fn all(n: u32) -> Grant {
    Grant { number: ViewNumber(3), nodes: (1..=n).map(NodeId::new).collect() }
}

#[test]
fn an_arbiter_over_tcp_conforms_across_its_restarts() {
    let folder = Folder::new("conforms");
    let mut server: Option<ArbiterServer> = None;
    check_tie_breaker(&mut |_node, _nodes| {
        // The old one must have let go of its files first.
        drop(server.take());
        let address = server.insert(serve(&folder, SECRET)).address();
        Box::new(ArbiterClient::new(address, "demo", SECRET, PATIENCE))
    });
}

#[test]
fn a_file_as_shared_disk_conforms() {
    let folder = Folder::new("disk");
    let path = folder.0.join("disk");
    format_disk(&path, 4).expect("a file");
    check_tie_breaker(&mut |node, _nodes| {
        let slot = node.node.raw() as usize - 1;
        Box::new(SharedDisk::open(&path, node, (slot, 4), PATIENCE, Rng::new(1)).expect("a disk"))
    });
}

#[test]
fn who_has_another_secret_gets_no_answer_and_a_dead_arbiter_none_either() {
    let folder = Folder::new("secret");
    let server = serve(&folder, SECRET);
    let address = server.address();
    let mut stranger = ArbiterClient::new(address, "demo", b"another secret of theirs", PATIENCE);
    stranger.note(&all(2));
    assert_eq!(stranger.claim(&claim(1, 1)), Verdict::Unavailable);
    let mut node = ArbiterClient::new(address, "demo", SECRET, PATIENCE);
    assert_eq!(node.claim(&claim(1, 2)), Verdict::Refused, "the stranger's news was not taken");
    drop(server);
    assert_eq!(node.claim(&claim(1, 3)), Verdict::Unavailable);
}

#[test]
fn a_flood_of_strangers_keeps_no_node_from_its_answer() {
    let folder = Folder::new("flood");
    let server = serve(&folder, SECRET);
    let address = server.address();
    let flood: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
            if n % 2 == 0 {
                // Sent away already, perhaps.
                drop(stream.write_all(b"ocf-arb1 and half of a greeting"));
            }
            stream
        })
        .collect();
    let mut node = ArbiterClient::new(address, "demo", SECRET, PATIENCE);
    node.note(&all(2));
    for round in 1..20 {
        assert_ne!(node.claim(&claim(1, round)), Verdict::Unavailable, "question {round}");
    }
    drop(flood);
}

#[test]
fn of_nodes_that_ask_at_once_one_is_granted() {
    let folder = Folder::new("race");
    let server = serve(&folder, SECRET);
    let address = server.address();
    let path = folder.0.join("disk");
    format_disk(&path, 3).expect("a file");
    type Make = Arc<dyn Fn(u32) -> Box<dyn TieBreaker> + Send + Sync>;
    let over_tcp: Make = Arc::new(move |_| Box::new(ArbiterClient::new(address, "demo", SECRET, PATIENCE)));
    let on_disk: Make = Arc::new(move |n| {
        let disk =
            SharedDisk::open(&path, instance(n), (n as usize - 1, 3), PATIENCE, Rng::new(u64::from(n)));
        Box::new(disk.expect("a disk"))
    });
    for make in [over_tcp, on_disk] {
        make(1).note(&all(3));
        // The arbiter does not answer news: what is asked before it is taken is refused, and asked again.
        let barrier = Arc::new(Barrier::new(3));
        let ask = |n: u32| {
            let (make, barrier) = (Arc::clone(&make), Arc::clone(&barrier));
            thread::spawn(move || {
                let mut breaker = make(n);
                barrier.wait();
                breaker.claim(&claim(n, 1))
            })
        };
        let threads: Vec<_> = (1..=3).map(ask).collect();
        let verdicts: Vec<Verdict> = threads.into_iter().map(|t| t.join().expect("an answer")).collect();
        let granted = verdicts.iter().filter(|v| **v == Verdict::Granted(Evidence::TieBreaker)).count();
        assert!(granted <= 1, "{verdicts:?}");
        let ask_all = |round| (1..=3).map(|n| make(n).claim(&claim(n, round))).collect::<Vec<_>>();
        let wins = |v: &Verdict| *v == Verdict::Granted(Evidence::TieBreaker);
        let later = (2..1_000).map(ask_all).find(|all| all.iter().any(wins)).expect("the news arrives");
        let holds = later.iter().filter(|v| wins(v)).count();
        assert_eq!(holds, 1, "then one of them, and no other: {verdicts:?} {later:?}");
    }
}

#[test]
fn a_disk_that_is_too_small_or_has_no_block_for_the_node_is_an_error() {
    let folder = Folder::new("small");
    let path = folder.0.join("disk");
    format_disk(&path, 1).expect("a file");
    let open =
        |slot, slots| SharedDisk::open(&path, instance(1), (slot, slots), PATIENCE, Rng::new(1)).map(|_| ());
    assert!(open(0, 1).is_ok());
    assert_eq!(open(1, 2).expect_err("too small").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(open(1, 1).expect_err("no block").kind(), io::ErrorKind::InvalidInput);
}
