//! A small process that outlives the node's and tells its peers when the kernel says that it is dead.
//!
//! The node's process starts it with a descriptor of itself (`pidfd`) as the sentinel's standard output, which the kernel
//! makes readable when the process ends and at no other time, and a pipe as its standard input. Over the pipe go a secret and
//! the addresses of the peers. The secret proves one statement: that this incarnation is dead. It is useless for anything else,
//! and the sentinel is given no other. A process that hangs or is stopped is not dead: the sentinel says nothing, and the
//! peers' timeouts decide.
//!
//! The sentinel sees only deaths that it survives: what kills a whole container, control group or machine takes it along, and
//! then the timeouts decide, too.
//!
//! # How it is started
//! The program that holds the node starts itself once more, so nothing need be installed. It must call [`run_if_asked`] first
//! thing in `main`, before it starts threads or looks at its arguments:
//!
//! ```no_run
//! ocf_comm::driver::sentinel::run_if_asked();
//! // the program
//! ```

use super::SetupError;
use crate::Config;
use crate::wire::{Obituary, hash};
use mio::net::UdpSocket;
use pils::wire::{Reader, Writer as _};
use pils::{Instant, NodeInstance};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::Duration;

/// The argument by which a program that is started again knows what it is.
const ARGUMENT: &str = "--ocf-node-sentinel";
/// Addresses that a sentinel tells.
const ADDRESSES_MAX: usize = 4096;
/// Copies of each obituary, and the time between: a burst of loss shall not take them all.
const COPIES: usize = 3;
const BETWEEN_COPIES: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// Bytes of one order: the length, whether resources are covered, instance, secret, count, addresses of 18 bytes.
const ORDER_MAX: usize = 4 + 1 + 20 + 32 + 4 + ADDRESSES_MAX * 18;

/// The first word of a sentinel.
const READY: [u8; 6] = *b"ready\n";
const FAILED: &str = "cannot start the sentinel";

/// How a sentinel is started.
#[derive(Clone, Debug, Default)]
pub struct SentinelConfig {
    /// The program; this one if `None`. It gets one argument and must end in [`run_if_asked`].
    pub program: Option<PathBuf>,
}

/// The sentinel of a running node. Dropped, as when the node leaves, it ends the sentinel, which says nothing.
pub struct Sentinel {
    child: Child,
    orders: ChildStdin,
    of: NodeInstance,
    /// Proves that the process is dead, and not that its resources are: that secret, of which this is the hash, is
    /// thrown away.
    secret: [u8; 32],
    told: Vec<SocketAddr>,
    told_at: Option<Instant>,
}

impl std::fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sentinel")
            .field("of", &self.of)
            .field("child", &self.child.id())
            .finish_non_exhaustive()
    }
}

impl Sentinel {
    /// Starts a sentinel for this process as incarnation `of`. Whoever runs the endpoint sets
    /// [`Config::obituary`](crate::Config::obituary) to [`Sentinel::commitment`] before it makes the endpoint, and calls
    /// [`Sentinel::tell`] from [`Host::settled`](super::Host::settled).
    ///
    /// # Errors
    /// The program cannot be started, or the kernel has no descriptors of processes.
    ///
    /// # Panics
    /// Never: the standard input of the child is a pipe.
    pub fn start(config: &SentinelConfig, of: NodeInstance) -> Result<Self, SetupError> {
        let program = match &config.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(SetupError::system(FAILED))?,
        };
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(SetupError::system("cannot watch the own process: the sentinel needs linux 5.3"))?;
        let mut child = Command::new(program)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::from(own))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(SetupError::system(FAILED))?;
        if !is_ready(child.stderr.take()) {
            // A program that took no notice of the argument may be about to become a second node.
            let _gone = child.kill().and_then(|()| child.wait());
            return Err(SetupError::NoSentinel);
        }
        let orders = child.stdin.take().expect("the standard input was asked for as a pipe");
        // A sentinel that does not read must not block the node.
        rustix::io::ioctl_fionbio(&orders, true).map_err(SetupError::system(FAILED))?;
        Ok(Self {
            child,
            orders,
            of,
            secret: hash(&super::entropy::bytes()),
            told: Vec::new(),
            told_at: None,
        })
    }

    /// What the peers are to be told.
    #[must_use]
    pub fn commitment(&self) -> [u8; 32] {
        hash(&self.secret)
    }

    /// Hands over whom to tell: the peers of this configuration. Looks at most ten times a second.
    pub fn tell(&mut self, now: Instant, config: &Config) {
        if self.told_at.is_some_and(|at| now.since(at) < Duration::from_millis(100)) {
            return;
        }
        let of_network = |a: &SocketAddr| crate::medium::port_number(*a).is_none();
        let all = config.peers.iter().flat_map(|p| &p.addresses).map(|(_, address)| *address);
        let mut addresses: Vec<SocketAddr> = all.filter(of_network).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        self.told_at = Some(now);
        if addresses == self.told {
            return;
        }
        let order = order(self.of, &self.secret, &addresses);
        match self.orders.write(&order) {
            Ok(written) if written == order.len() => self.told = addresses,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => {
                tracing::error!(of = %self.of, "the sentinel is gone: peers will find out about a death by silence");
                self.told = addresses;
            }
        }
    }

    /// The process id of the sentinel.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // Whoever leaves says so itself. A sentinel killed twice, or not at all, changes nothing.
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            tracing::debug!(%error, "the sentinel ended before");
        }
    }
}

fn order(of: NodeInstance, secret: &[u8; 32], addresses: &[SocketAddr]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.push(0);
    out.put_instance(of);
    out.extend_from_slice(secret);
    out.extend(u32::try_from(addresses.len()).unwrap_or(u32::MAX).to_be_bytes());
    for address in addresses {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend(ip.octets());
        out.extend(address.port().to_be_bytes());
    }
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// What the sentinel knows.
#[derive(Debug, PartialEq, Eq)]
struct Orders {
    obituary: Obituary,
    addresses: Vec<SocketAddr>,
}

/// Takes the first whole order off `pipe`; `None` if there is none.
fn take_order(pipe: &mut Vec<u8>) -> Option<Orders> {
    let length = usize::try_from(u32::from_be_bytes(*pipe.first_chunk()?)).ok()?;
    let order = pipe.get(4..length)?.to_vec();
    pipe.drain(..length);
    let mut r = Reader::new(&order);
    let resources = r.u8("resources").ok()? == 1;
    let (of, secret) = (r.instance("of").ok()?, r.array("secret").ok()?);
    let count = r.u32("count").ok()?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let ip = IpAddr::from(r.array::<16>("address").ok()?).to_canonical();
        let port = u16::from_be_bytes(r.array("port").ok()?);
        addresses.push(SocketAddr::new(ip, port));
    }
    Some(Orders { obituary: Obituary { of, resources, secret }, addresses })
}

/// Takes every order off what a fuzzer put into the pipe.
#[cfg(any(test, fuzzing, feature = "testing"))]
pub(crate) fn take_orders(pipe: &[u8]) {
    let mut pipe = pipe.to_vec();
    while let Some(order) = take_order(&mut pipe) {
        assert!(order.addresses.len() <= ORDER_MAX || !pipe.is_empty(), "addresses have bytes in the pipe");
    }
}

/// True if the child says that it is a sentinel.
fn is_ready(says: Option<ChildStderr>) -> bool {
    let Some(mut says) = says else { return false };
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    let mut ready = [PollFd::new(&says, PollFlags::IN)];
    let mut word = [0; READY.len()];
    poll(&mut ready, Some(&patience)).is_ok_and(|n| n > 0)
        && says.read_exact(&mut word).is_ok()
        && word == READY
}

/// Becomes a sentinel, and never returns, if this process was started as one. To be called first thing in `main`.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next() == Some(OsString::from(ARGUMENT)) && arguments.next().is_none() {
        let said = io::stderr().write_all(&READY);
        let code = if said.and_then(|()| watch()).is_ok() { 0 } else { 1 };
        std::process::exit(code);
    }
}

/// Waits until the process behind the descriptor is dead, reading orders meanwhile; then says so.
fn watch() -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (orders, process) = (stdin.as_fd(), stdout.as_fd());
    let (mut pipe, mut buffer) = (Vec::new(), [0; 4096]);
    let mut known = None;
    let mut open = true;
    loop {
        let mut ready = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
        if open {
            ready.push(PollFd::from_borrowed_fd(orders, PollFlags::IN));
        }
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let dead = ready[0].revents();
        let news = ready.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if news {
            // Also at the end: an order may be in the pipe that was written just before the death.
            match rustix::io::read(orders, &mut buffer) {
                Ok(0) => open = false,
                Ok(length) => pipe.extend_from_slice(&buffer[..length]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => open = false,
            }
            while let Some(order) = take_order(&mut pipe) {
                known = Some(order);
            }
            if pipe.len() > ORDER_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            if open {
                continue;
            }
        }
        if dead.contains(PollFlags::IN) {
            return known.map_or(Ok(()), |orders| tell(&orders));
        }
        if !dead.is_empty() {
            // No descriptor of a process: it was started by hand.
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
    }
}

/// Sends the obituary to every address, in several copies.
fn tell(orders: &Orders) -> io::Result<()> {
    let any = ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any.parse().expect("an address")));
    let datagram = orders.obituary.emit();
    for copy in 0..COPIES {
        if copy > 0 {
            // Interrupted or not: only a pause.
            let _woken = poll(&mut [], Some(&BETWEEN_COPIES));
        }
        for to in &orders.addresses {
            let socket = if to.is_ipv4() { &any[0] } else { &any[1] };
            if let Ok(socket) = socket {
                // Nobody is left to be told of a failure; the other copies and paths may do.
                let _sent = socket.send_to(&datagram, *to);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::*;

    #[test]
    fn orders_pass_the_pipe_in_any_pieces_and_the_last_counts() {
        let of = NodeInstance::new(NodeId::new(3), Incarnation::new(9));
        let to = |port| vec![SocketAddr::from(([10, 0, 0, 1], port)), "[2001:db8::1]:7".parse().unwrap()];
        let mut written = order(of, &[7; 32], &to(1));
        written.extend(order(of, &[7; 32], &to(2)));
        let mut pipe = Vec::new();
        let mut taken = Vec::new();
        for piece in written.chunks(7) {
            pipe.extend_from_slice(piece);
            taken.extend(core::iter::from_fn(|| take_order(&mut pipe)));
        }
        assert!(pipe.is_empty());
        assert_eq!(taken.iter().map(|o| o.addresses.clone()).collect::<Vec<_>>(), [to(1), to(2)]);
        assert!(taken[0].obituary.proves(&hash(&[7; 32])) && taken[0].obituary.of == of);
    }

    proptest! {
        #[test]
        fn any_bytes_in_the_pipe_are_taken_without_panic(mut pipe in proptest::collection::vec(any::<u8>(), 0..200)) {
            while take_order(&mut pipe).is_some() {}
        }
    }
}
