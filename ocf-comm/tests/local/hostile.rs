use super::{SOON, board, eventually, serve};
use ocf_comm::local::frame::{Frames, Request, Response};
use ocf_comm::local::{Address, Client, ClientError, ClientEvent, LocalConfig, LocalLimits, Server};
use ocf_comm::rpc::{Body, Fault};
use pils::Rng;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

fn raw(address: &Address) -> UnixStream {
    let Address::Abstract(name) = address else { panic!("tests use abstract names") };
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).expect("it works here"))
        .expect("it works here");
    stream.set_read_timeout(Some(SOON)).expect("it works here");
    stream
}

fn hello() -> bytes::Bytes {
    Request::Hello { oldest: 1, newest: 1, name: "raw".to_owned() }.emit()
}

fn call(id: u64, method: &str, size: usize) -> bytes::Bytes {
    let (service, method) = ("board".to_owned(), method.to_owned());
    Request::Call { id, answer: true, service, method, body: Body::Bytes(vec![1; size].into()) }.emit()
}

/// True if the server closes the connection after this.
fn is_closed_after(address: &Address, bytes: &[u8]) -> bool {
    let mut stream = raw(address);
    let mut rest = Vec::new();
    // It may be closed while we write.
    let sent = stream.write_all(bytes);
    let read = stream.read_to_end(&mut rest);
    sent.is_err() || read.is_ok() || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
}

fn still_serves(address: &Address) {
    let mut client = Client::connect(address, "good").expect("it is served");
    assert_eq!(client.call_wait("board", "echo", Body::default(), SOON), Ok(Body::default()));
}

#[test]
fn who_breaks_the_protocol_is_let_go_and_nobody_else_notices() {
    let (board, config) = board();
    let (server, address) = serve(config);
    let mut witness = Client::connect(&address, "witness").unwrap();
    let two = |a: &[u8], b: &[u8]| [&hello(), a, b].concat();
    let broken: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100],
        call(1, "echo", 1).to_vec(),
        two(&hello(), b""),
        two(&call(1, "hold", 1), &call(1, "hold", 1)),
        two(&[0, 0, 0, 1, 99], b""),
        two(&[0, 0, 0, 0], b""),
        two(&[0x7f, 0xff, 0xff, 0xff], &[0; 64]),
    ];
    for bytes in &broken {
        assert!(is_closed_after(&address, bytes), "{bytes:?}");
    }
    eventually("they are counted", || server.stats().broken == u64::try_from(broken.len()).unwrap());
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        let mut noise = vec![0; usize::try_from(rng.below(200)).unwrap()];
        rng.fill(&mut noise);
        let mut stream = raw(&address);
        let bytes = [&hello()[..], &[0, 0, 0, noise.len().to_le_bytes()[0]], &noise].concat();
        if stream.write_all(&bytes).is_ok() {
            drop(stream);
        }
    }
    let other = Request::Hello { oldest: 7, newest: 9, name: "new".to_owned() };
    let mut stream = raw(&address);
    stream.write_all(&other.emit()).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let refused = Response::parse(&bytes::Bytes::from(said).slice(4..));
    assert!(
        matches!(&refused, Ok(Response::Refused { reason }) if reason.contains("version 1")),
        "{refused:?}"
    );
    assert!(witness.call_wait("board", "echo", Body::default(), SOON).is_ok());
    eventually("all are gone", || board.gone.lock().len() + 1 == board.joined.lock().len());
    still_serves(&address);
}

#[test]
fn a_program_that_asks_and_never_reads_is_throttled_then_thrown_out_and_takes_bounded_memory() {
    let limits = LocalLimits {
        outbox_max: 256 << 10,
        stuck_max: Duration::from_millis(500),
        ..LocalLimits::default()
    };
    let (board, config) = board();
    let (server, address) = serve(config.limits(limits));
    let mut greedy = raw(&address);
    greedy.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    greedy.write_all(&hello()).unwrap();
    let mut sent = 0;
    let ended = (1..10_000).find_map(|id| {
        let asked = greedy.write_all(&call(id, "echo", 60_000));
        sent += 60_000;
        if id == 100 {
            // While it is throttled the others are served.
            still_serves(&address);
        }
        asked.err()
    });
    assert!(ended.is_some(), "it cannot ask for ever");
    assert!(sent < 16 << 20, "{sent} bytes were taken of who reads nothing");
    eventually("it is thrown out", || server.stats().stuck == 1);
    assert!(server.stats().throttled > 0);
    eventually("the service is told", || board.gone.lock().contains(&1));
    still_serves(&address);
}

#[test]
fn a_program_too_slow_for_a_services_events_is_told_how_many_it_lost() {
    let limits = LocalLimits { outbox_max: 16 << 10, ..LocalLimits::default() };
    let (_board, config) = board();
    let (server, address) = serve(config.limits(limits));
    let mut client = Client::connect(&address, "c").unwrap();
    let refused: u64 = client.call_wait("board", "flood", Body::default(), SOON).unwrap().read().unwrap();
    assert!(refused > 0);
    let (mut got, mut lost, mut next) = (0, 0, 0);
    while got + lost < 1000 {
        match client.next_event(SOON).unwrap() {
            ClientEvent::Service { body, .. } => {
                let number: u64 = body.read().unwrap();
                assert!(number >= next, "in order");
                next = number + 1;
                got += 1;
            }
            ClientEvent::ServiceLost { lost: n, .. } => lost += n,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((lost, got), (refused, 1000 - refused));
    drop(client);
    eventually("the losses are counted", || server.stats().events_lost == refused);
}

#[test]
fn quotas_hold_clients_calls_and_greetings() {
    let limits = LocalLimits {
        clients_max: 3,
        requests_max: 2,
        subscriptions_max: 1,
        hello_within: Duration::from_millis(300),
        ..LocalLimits::default()
    };
    let (_board, config) = board();
    let (server, address) = serve(config.limits(limits).bus(pils::topic::Bus::default()));
    let mut client = Client::connect(&address, "c").unwrap();
    for _ in 0..2 {
        client.call("board", "hold", Body::default()).unwrap();
    }
    let third = client.call_wait("board", "echo", Body::default(), SOON);
    assert!(matches!(third, Err(ocf_comm::local::CallFailure::Fault(f)) if f.code == Fault::BUSY));
    let silent: Vec<UnixStream> = (0..2).map(|_| raw(&address)).collect();
    eventually("all places are taken", || server.stats().clients == 3);
    let refused = Client::connect(&address, "one too many").err();
    assert!(matches!(&refused, Some(ClientError::Refused(why)) if why.contains("3 clients")), "{refused:?}");
    eventually("who does not say who it is goes", || server.stats().stuck == 2);
    still_serves(&address);
    drop(silent);
}

#[test]
fn a_program_that_sends_a_byte_at_a_time_is_served_like_any_other() {
    let (_board, config) = board();
    let (_server, address) = serve(config);
    let mut stream = raw(&address);
    for byte in [&hello()[..], &call(1, "echo", 10)].concat() {
        stream.write_all(&[byte]).unwrap();
    }
    let mut frames = Frames::new(1 << 20);
    let mut answers = 0;
    while answers < 2 {
        let mut buffer = [0; 7];
        let got = stream.read(&mut buffer).unwrap();
        frames.push(&buffer[..got]);
        while let Some(frame) = frames.next_frame().unwrap() {
            Response::parse(&frame).unwrap();
            answers += 1;
        }
    }
}

#[test]
#[ignore = "needs root: it connects as another user"]
fn the_kernel_tells_who_connects_and_strangers_are_refused() {
    use std::os::unix::process::CommandExt as _;
    let (_board, config) = board();
    let (server, address) = serve(config);
    let as_nobody = |address: &Address| {
        let Address::Abstract(name) = address else { panic!("tests use abstract names") };
        // It may be refused and the connection closed before it says a word.
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect('\\0'+sys.argv[1])\n\
                      try: s.sendall(bytes.fromhex(sys.argv[2]))\nexcept BrokenPipeError: pass\n\
                      sys.stdout.buffer.write(s.recv(4096))";
        let hex: String = hello().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut python = std::process::Command::new("python3");
        let output = python.args(["-c", script, name, &hex]).uid(65534).gid(65534).output().unwrap();
        Response::parse(&bytes::Bytes::from(output.stdout).slice(4..))
    };
    let refused = as_nobody(&address);
    assert!(matches!(&refused, Ok(Response::Refused { reason }) if reason.contains("65534")), "{refused:?}");
    assert_eq!(server.stats().refused, 1);
    let accept = ocf_comm::local::Accept { gids: [65534].into(), ..Default::default() };
    let (_listed, address) = serve(LocalConfig::new().accept(accept));
    assert!(matches!(as_nobody(&address), Ok(Response::Welcome { .. })));
}

#[test]
fn connecting_and_leaving_over_and_over_leaves_nothing_behind() {
    let (board, config) = board();
    let (server, address): (Server, Address) = serve(config);
    let began = Instant::now();
    for _ in 0..300 {
        let mut client = Client::connect(&address, "c").unwrap();
        client.call("board", "echo", Body::default()).unwrap();
    }
    eventually("all are gone", || server.stats().clients == 0);
    let (mut joined, mut gone) = (board.joined.lock().clone(), board.gone.lock().clone());
    joined.sort_unstable();
    gone.sort_unstable();
    assert_eq!(joined, gone, "after {:?}", began.elapsed());
    assert!(board.clients.lock().is_empty());
}
