//! A medium of one's own: two nodes that share a pair of sockets of sequenced packets, such as a parent gives to its children.
//! First the conformance suite examines it, then circuits run over it as over any other.
//!
//! `cargo run --release -p ocf-comm --example write_a_medium`
#![expect(clippy::print_stdout, clippy::disallowed_types, reason = "it shows what happens, and is no core")]

use ocf_comm::driver::{IoConfig, IoStats, Ports, SetupError, UdpNode};
use ocf_comm::medium::{
    Arrival, Burst, Limits, Medium, MediumKind, MediumSpec, Opening, PIECE, PIECES, Reach, Reading, Sent,
    media, port_address,
};
use ocf_comm::testing::check_medium;
use ocf_comm::{Channel, Config, Event, Lane, Preset};
use pils::field::{Basic, Field, Fields};
use pils::{NodeId, Value};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: &[u8] = b"32 random bytes or more, the same on every node";
/// Bytes of a datagram at most.
const DATAGRAM_MAX: usize = 9000;

/// One end of a pair. Both ends have one address, because who sends reaches the other end and nobody else.
#[derive(Debug)]
struct Pair {
    socket: OwnedFd,
    line: u32,
}

impl Medium for Pair {
    fn name(&self) -> String {
        format!("pair {}", self.line)
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(port_address(self.line))
    }

    fn limits(&self) -> Limits {
        Limits { datagram_max: DATAGRAM_MAX, queue_max: None, reach: Reach::PointToPoint, bursts: false }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let mut taken = 0;
        for datagram in burst.data.chunks(burst.segment) {
            if datagram.len() > DATAGRAM_MAX {
                stats.too_large += 1;
            } else {
                match send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(_whole) => {
                        stats.sends += 1;
                        stats.datagrams_out += 1;
                        stats.bytes_out += datagram.len() as u64;
                    }
                    // The descriptor becomes writable when the other end reads.
                    Err(error) if error == rustix::io::Errno::AGAIN => return Sent::Blocked(taken),
                    // The other end is closed: a datagram that nobody receives is lost, which circuits bear.
                    Err(_) => stats.send_errors += 1,
                }
            }
            taken += datagram.len();
        }
        Sent::All
    }

    fn receive(
        &mut self,
        buffer: &mut [u8],
        stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        for arrivals in 0..PIECES {
            match recv(&self.socket, &mut buffer[..PIECE], RecvFlags::DONTWAIT) {
                // Nothing: the other end is closed.
                Ok((0, _)) => return Reading { arrivals, more: false },
                Ok((length, _)) => {
                    let data = &mut buffer[..length];
                    take(Arrival { from: port_address(self.line), segment: length, data });
                }
                Err(error) if error == rustix::io::Errno::AGAIN => return Reading { arrivals, more: false },
                Err(_) => {
                    stats.receive_errors += 1;
                    return Reading { arrivals, more: false };
                }
            }
        }
        Reading { arrivals: PIECES, more: true }
    }
}

fn pair(line: u32) -> io::Result<[Pair; 2]> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok([a, b].map(|socket| Pair { socket, line }))
}

/// The plug-in: opens a medium from what a configuration says, here the number of a pair. Each end is given out once.
#[derive(Debug, Default)]
struct PairKind(Mutex<Vec<Pair>>);

impl MediumKind for PairKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("line", Basic::Integer).range(0, 1 << 20).required().short("The number of the pair"),
        ])
    }

    fn open(&self, parameters: &Value, _opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let line = parameters.get("line").and_then(Value::as_int);
        let mut ends = self.0.lock().expect("nobody panics while it is locked");
        match ends.iter().position(|end| Some(i64::from(end.line)) == line) {
            Some(at) => Ok(Box::new(ends.swap_remove(at))),
            None => Err(SetupError::Setting {
                medium: "pair".to_owned(),
                name: "line",
                value: format!("{line:?}"),
                fix: "name a pair of which an end is left",
            }),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    check_medium(|| {
        let [a, b] = pair(1).expect("the system has sockets");
        (Box::new(a), Box::new(b))
    });
    println!("it keeps the promises of a medium");

    let registry = media();
    let kind: Arc<dyn MediumKind> = Arc::new(PairKind(Mutex::new(pair(7)?.into())));
    registry.register("pair", "1.0", kind)?;
    let start = |own: u32, other: u32| -> Result<UdpNode, Box<dyn Error>> {
        let spec = MediumSpec::new("pair", [("line", Value::from(7_i64))]);
        let ports = Ports::bind_with(&IoConfig::over([spec]), &registry)?;
        let config = Config::new("demo", Preset::Lan).with_peer(NodeId::new(other), port_address(7));
        Ok(UdpNode::start(ports, NodeId::new(own), config, KEY)?)
    };
    let (a, b) = (start(1, 2)?, start(2, 1)?);
    while !matches!(a.recv_timeout(Duration::from_secs(10))?, Event::Up { .. }) {}
    a.send(b.local(), Lane::Bulk, Channel::APPLICATION, vec![7; 1 << 20].into())?;
    loop {
        if let Event::Message { from, lane, message, .. } = b.recv_timeout(Duration::from_secs(10))? {
            println!("{} bytes came from {from} over {}", message.len(), b.media()[0].name);
            b.consumed(from, lane, message.len());
            return Ok(());
        }
    }
}
