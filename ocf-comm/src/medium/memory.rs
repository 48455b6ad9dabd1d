use super::kind::{number, text};
use super::{
    Arrival, Burst, Limits, Link, Medium, MediumKind, Opening, PIECES, Reach, Reading, Sent, port_address,
    setting,
};
use crate::driver::{IoStats, SetupError};
use parking_lot::Mutex;
use pils::Value;
use pils::field::{Basic, Field, Fields};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Weak};

/// Bytes of the largest datagram.
const DATAGRAM_MAX: usize = 65_000;
/// Bytes that may wait at one port; what comes then is lost, as on any network.
const WAITING_MAX: usize = 4 << 20;

/// Ports within this process.
///
/// Parameters: `hub`, a name that ports which reach each other share, default `default`; `port`, the number of this one
/// in the hub, whose address is [`port_address`] of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryKind;

impl MediumKind for MemoryKind {
    fn fields(&self) -> Fields {
        Fields(vec![
            Field::new("hub", Basic::String).default("default").short("Ports of one hub reach each other"),
            Field::new("port", Basic::Integer).range(0, 65_535).required().short("Number in the hub"),
        ])
    }

    fn open(&self, parameters: &Value, _opening: &Opening) -> Result<Box<dyn Medium>, SetupError> {
        let hub = memory_hub(text(parameters, "hub").unwrap_or("default"));
        Ok(Box::new(MemoryPort::open(&hub, number(parameters, "port").unwrap_or(0))?))
    }
}

static HUBS: LazyLock<Mutex<BTreeMap<String, Weak<Hub>>>> = LazyLock::new(Mutex::default);

/// The hub of this name: lives as long as a port of it or what this returns.
#[must_use]
pub fn memory_hub(name: &str) -> Arc<Hub> {
    let mut hubs = HUBS.lock();
    hubs.retain(|_, hub| hub.strong_count() > 0);
    if let Some(hub) = hubs.get(name).and_then(Weak::upgrade) {
        return hub;
    }
    let hub = Arc::new(Hub::default());
    hubs.insert(name.to_owned(), Arc::downgrade(&hub));
    hub
}

/// Ports that reach each other.
#[derive(Debug, Default)]
pub struct Hub {
    ports: Mutex<BTreeMap<SocketAddr, Arc<Port>>>,
}

#[derive(Debug)]
struct Port {
    bell: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bursts: VecDeque<(SocketAddr, usize, Vec<u8>)>,
    bytes: usize,
}

/// One port of a [`Hub`].
#[derive(Debug)]
pub struct MemoryPort {
    address: SocketAddr,
    hub: Arc<Hub>,
    port: Arc<Port>,
}

impl MemoryPort {
    /// Opens the port of this number.
    ///
    /// # Errors
    /// If it is open, or the system has no descriptors left.
    pub fn open(hub: &Arc<Hub>, number: u32) -> Result<Self, SetupError> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(SetupError::system("cannot make an event descriptor"))?;
        let address = port_address(number);
        let port = Arc::new(Port { bell, waiting: Mutex::default() });
        let mut ports = hub.ports.lock();
        if ports.contains_key(&address) {
            return Err(setting(
                "memory",
                "port",
                number,
                "another node of this process has it: choose another",
            ));
        }
        ports.insert(address, Arc::clone(&port));
        drop(ports);
        Ok(Self { address, hub: Arc::clone(hub), port })
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        self.hub.ports.lock().remove(&self.address);
    }
}

impl Medium for MemoryPort {
    fn name(&self) -> String {
        format!("memory {}", super::port_number(self.address).unwrap_or_default())
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn limits(&self) -> Limits {
        Limits { datagram_max: DATAGRAM_MAX, queue_max: None, reach: Reach::AnyAddress, bursts: true }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.port.bell.as_fd()
    }

    fn send(&mut self, burst: Burst<'_>, stats: &mut IoStats) -> Sent {
        let count = burst.data.len().div_ceil(burst.segment.max(1)) as u64;
        if burst.segment > DATAGRAM_MAX {
            stats.too_large += count;
            return Sent::All;
        }
        let Some(port) = self.hub.ports.lock().get(&burst.to).map(Arc::clone) else {
            stats.send_errors += count;
            return Sent::All;
        };
        stats.sends += 1;
        stats.datagrams_out += count;
        stats.bytes_out += burst.data.len() as u64;
        let mut waiting = port.waiting.lock();
        if waiting.bytes + burst.data.len() <= WAITING_MAX {
            waiting.bytes += burst.data.len();
            waiting.bursts.push_back((self.address, burst.segment, burst.data.to_vec()));
        }
        drop(waiting);
        // Fails only if nobody has answered the bell for 2^64 bursts; then it rings anyway.
        if let Err(error) = rustix::io::write(&port.bell, &1_u64.to_ne_bytes()) {
            tracing::trace!(%error, "the bell rings already");
        }
        Sent::All
    }

    fn receive(
        &mut self,
        _buffer: &mut [u8],
        _stats: &mut IoStats,
        take: &mut dyn FnMut(Arrival<'_>),
    ) -> Reading {
        // Silent if it did not ring: looked all the same.
        if rustix::io::read(&self.port.bell, &mut [0; 8]).is_err() {
            tracing::trace!("the bell did not ring");
        }
        for arrivals in 0..PIECES {
            let mut waiting = self.port.waiting.lock();
            let Some((from, segment, mut data)) = waiting.bursts.pop_front() else {
                return Reading { arrivals, more: false };
            };
            waiting.bytes -= data.len();
            drop(waiting);
            take(Arrival { from, segment, data: &mut data });
        }
        Reading { arrivals: PIECES, more: true }
    }

    fn link(&self) -> Link {
        Link::Up
    }
}
