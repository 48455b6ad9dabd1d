//! Relays between nodes on loopback, that can be cut and that remember.

#![allow(dead_code, clippy::allow_attributes, reason = "each test takes what it needs of it")]

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Captured datagrams that a relay keeps.
const CAPTURED_MAX: usize = 4000;

fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes that");
    socket
}

/// Carries every datagram between nodes, so that a node can be cut off and datagrams can be sent again later.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    cut: Vec<AtomicBool>,
    /// On which side of a cut through the network each node is.
    side: Vec<AtomicUsize>,
    over: AtomicBool,
    /// Datagrams, and the index of the node they went to.
    captured: Mutex<Vec<(usize, Vec<u8>)>>,
}

impl Wire {
    /// Between so many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            cut: (0..nodes).map(|_| AtomicBool::new(false)).collect(),
            side: (0..nodes).map(|_| AtomicUsize::new(0)).collect(),
            ..Self::default()
        }
    }

    /// Ends the relays.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// A pair of sockets for every pair of nodes, which stand at these addresses: where a node finds another, by the indices of both.
    pub(crate) fn relays(self: &Arc<Self>, addresses: &[SocketAddr]) -> BTreeMap<(usize, usize), SocketAddr> {
        let count = addresses.len();
        let pairs = || (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let sockets: BTreeMap<_, _> = pairs().map(|pair| (pair, Arc::new(loopback()))).collect();
        for (from, to) in pairs() {
            // What `from` sends to `to` comes in here, and reaches `to` from the address at which it knows `from`.
            let (inward, outward) = (Arc::clone(&sockets[&(from, to)]), Arc::clone(&sockets[&(to, from)]));
            let (wire, address) = (Arc::clone(self), addresses[to]);
            thread::spawn(move || wire.carry((from, to), &inward, &outward, address));
        }
        sockets.into_iter().map(|(pair, socket)| (pair, socket.local_addr().expect("it is bound"))).collect()
    }

    /// Carries nothing from or to node `index` while `cut`.
    pub(crate) fn cut(&self, index: usize, cut: bool) {
        self.cut[index].store(cut, Ordering::SeqCst);
    }

    /// Carries nothing between nodes that have different numbers here.
    pub(crate) fn split(&self, sides: &[usize]) {
        for (side, number) in self.side.iter().zip(sides) {
            side.store(*number, Ordering::SeqCst);
        }
    }

    fn is_open(&self, from: usize, to: usize) -> bool {
        let side = |node: usize| self.side[node].load(Ordering::SeqCst);
        !self.cut[from].load(Ordering::SeqCst)
            && !self.cut[to].load(Ordering::SeqCst)
            && side(from) == side(to)
    }

    /// What went to a node, from the start on.
    pub(crate) fn captured(&self, to: usize) -> Vec<Vec<u8>> {
        self.captured.lock().iter().filter(|(at, _)| *at == to).map(|(_, data)| data.clone()).collect()
    }

    fn carry(
        &self,
        (from, to): (usize, usize),
        inward: &UdpSocket,
        outward: &UdpSocket,
        address: SocketAddr,
    ) {
        let mut buffer = vec![0; 1 << 16];
        while !self.over.load(Ordering::SeqCst) {
            let Ok((length, _)) = inward.recv_from(&mut buffer) else { continue };
            if !self.is_open(from, to) {
                continue;
            }
            let mut captured = self.captured.lock();
            if captured.len() < CAPTURED_MAX {
                captured.push((to, buffer[..length].to_vec()));
            }
            drop(captured);
            // A node that has stopped has no port; that is a lost datagram like any other.
            outward.send_to(&buffer[..length], address).unwrap_or_default();
        }
    }
}
