//! Entry points for fuzzers: each feeds bytes, as they come from a stranger or a broken member, to one decoder. None of them
//! panics, whatever the bytes are. The programs in `fuzz/` call them, and an ordinary test replays and mutates their corpus.

use crate::circuit::fuzz_stream;
use crate::crypto::{KeyId, SimulatedAgreement};
use crate::rpc::wire::Message;
use crate::wire::{ANNOUNCE_LEN, Announce, Frame, Handshake, Header, Kind, Obituary};
use crate::{Config, Endpoint, Input, PathId, Preset, Received, Secrets};
use bytes::Bytes;
use pils::codec::Limits;
use pils::wire::Reader;
use pils::{Incarnation, Instant, Layer as _, NodeId, NodeInstance};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// An entry point, and the name of its program and its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every entry point.
pub const TARGETS: &[Target] = &[
    ("announce", announce),
    ("sentinel", sentinel),
    #[cfg(feature = "driver")]
    ("local", local),
    #[cfg(feature = "driver")]
    ("line", line),
    ("echo", echo),
    ("frames", frames),
    ("handshake", handshake),
    ("datagram", datagram),
    ("signed", signed),
    ("stream", stream),
    ("calls", calls),
];

/// The frames of an authenticated packet.
///
/// # Panics
/// If there is a bug.
pub fn frames(data: &[u8]) {
    let mut r = Reader::new(data);
    while let Ok(Some(frame)) = Frame::parse(&mut r) {
        if let Frame::Ack(ack) = frame {
            assert!(ack.ranges().all(|(low, high)| low <= high && high <= ack.largest), "ranges are ranges");
        }
    }
}

/// Headers, and the body of a handshake message of the kind that the first byte names.
///
/// # Panics
/// If there is a bug.
pub fn handshake(data: &[u8]) {
    let header = Header::parse(data);
    assert!(header.is_none_or(|h| h.number < 1 << 62), "numbers keep their limit");
    if let Some((kind, _)) = data.first().and_then(|first| Kind::parse(*first))
        && let Ok(body) = Handshake::parse(kind, data)
    {
        assert!(kind != Kind::Sealed, "a sealed packet is no message: {body:?}");
    }
}

/// A datagram as it comes from the network.
///
/// # Panics
/// If there is a bug.
pub fn datagram(data: &[u8]) {
    let mut endpoint = endpoint();
    feed(&mut endpoint, data.to_vec());
}

/// Several handshake messages with the right code: first a byte for the length of each, then its content.
///
/// # Panics
/// If there is a bug.
pub fn signed(mut data: &[u8]) {
    let mut endpoint = endpoint();
    while let Some((length, rest)) = data.split_first() {
        let (content, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let mut content = content.to_vec();
        if let Some(key) = content.get_mut(3) {
            *key = 0;
        }
        if let Some(mac) = endpoint.key_ring().handshake(KeyId(0)) {
            let code = mac.sign(&content);
            content.extend_from_slice(&code);
        }
        feed(&mut endpoint, content);
    }
}

/// A lane's stream with and without a codec: the first byte chooses, and how the rest is cut.
///
/// # Panics
/// If there is a bug.
pub fn stream(data: &[u8]) {
    if let Some((choice, data)) = data.split_first() {
        fuzz_stream(choice & 1 == 1, usize::from(choice >> 1) + 1, data);
    }
}

/// A message of calls between nodes.
///
/// # Panics
/// If there is a bug.
pub fn calls(data: &[u8]) {
    let parsed = Message::parse(&Bytes::copy_from_slice(data), &Limits::default());
    tracing::trace!(good = parsed.is_ok(), "calls");
}

/// What a node says of itself to those who do not know it, behind its code: brought to its one length.
///
/// # Panics
/// If there is a bug.
pub fn announce(data: &[u8]) {
    let mut content = data.to_vec();
    content.resize(ANNOUNCE_LEN - 32, 0);
    if let Some(said) = Announce::parse(&content) {
        let paths: BTreeSet<PathId> = said.addresses.iter().map(|(path, _)| *path).collect();
        assert!(paths.len() == said.addresses.len() && paths.len() <= 8, "one address on each path");
        assert!(said.addresses.iter().all(|(_, at)| at.port() != 0), "addresses that one can send to");
    }
}

/// What a sentinel says to the peers, and, with the driver, what its node says to it in a pipe.
///
/// # Panics
/// If there is a bug.
pub fn sentinel(data: &[u8]) {
    if let Some(obituary) = Obituary::parse(data) {
        assert_eq!(obituary.emit()[1..], data[1..], "what is read is what is written");
    }
    #[cfg(feature = "driver")]
    crate::driver::sentinel::take_orders(data);
}

/// What a local program and the server say to each other, behind its length.
///
/// # Panics
/// If there is a bug.
#[cfg(feature = "driver")]
pub fn local(data: &[u8]) {
    use crate::local::frame::{Request, Response};
    let frame = Bytes::copy_from_slice(data);
    let (request, response) = (Request::parse(&frame), Response::parse(&frame));
    tracing::trace!(request = request.is_ok(), response = response.is_ok(), "local");
    let (event, peers) = (crate::local::parse_event(&frame), crate::local::parse_peers(&frame));
    if let Ok(peers) = peers {
        assert!(peers.len() <= data.len() && peers.iter().all(|p| p.health <= 100), "no more than was said");
    }
    tracing::trace!(event = event.is_ok(), "local");
}

/// Bytes of a serial line: the first byte says in which pieces they come, the next two how long a datagram may be.
///
/// # Panics
/// If there is a bug.
#[cfg(feature = "driver")]
pub fn line(data: &[u8]) {
    let Some(([step, high, low], bytes)) = data.split_first_chunk::<3>() else { return };
    crate::medium::fuzz_frames(usize::from(u16::from_be_bytes([*high, *low])), usize::from(*step) + 1, bytes);
}

/// What a watched host, or whoever plays it, answers: the first byte says on which kind of socket, the next two which
/// requests are this process's own.
///
/// # Panics
/// If there is a bug.
pub fn echo(data: &[u8]) {
    let Some(([kind, high, low], bytes)) = data.split_first_chunk::<3>() else { return };
    let raw = (kind & 2 != 0).then(|| u16::from_be_bytes([*high, *low]));
    if let Some((_, token)) = crate::ping::echo::reply(bytes, kind & 1 != 0, raw) {
        assert_eq!(token.len(), crate::ping::PING_TOKEN, "what is compared is a whole token");
    }
}

fn endpoint() -> Endpoint {
    let at = SocketAddr::from(([192, 0, 2, 2], 5405));
    let other = SocketAddr::from(([192, 0, 2, 9], 5405));
    let config =
        Config::new("fuzz", Preset::Lan).with_peer(NodeId::new(1), at).with_peer(NodeId::new(9), other);
    let local = NodeInstance::new(NodeId::new(5), Incarnation::new(5));
    let secrets =
        Secrets { keys: vec![7; 32].into(), seed: [1; 32], agreement: Box::new(SimulatedAgreement::new(1)) };
    let mut endpoint =
        Endpoint::new(Instant::ZERO, config, local, secrets).expect("the configuration is good");
    endpoint.handle_timeout(Instant::ZERO);
    while endpoint.poll_output().is_some() {}
    endpoint
}

fn feed(endpoint: &mut Endpoint, mut data: Vec<u8>) {
    let from = SocketAddr::from(([192, 0, 2, 2], 5405));
    let (segment, size) = (data.len().max(1), data.len());
    let received = Received { path: PathId(0), from, segment, data: &mut data };
    endpoint.handle(Instant::from_millis(1), Input::Received(received));
    endpoint.check_invariants();
    let mut answered = 0;
    while let Some(output) = endpoint.poll_output() {
        if let crate::Output::Transmit(t) = output {
            answered += t.data.len();
        }
    }
    // A HELLO makes its hearer call, at the configured addresses; nothing else makes it say more than it heard.
    let hello = size > 0 && data[0] >> 4 == 2;
    assert!(hello || answered <= size.max(1) * 2, "{answered} bytes for {size}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::Rng;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn corpus(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
    }

    #[test]
    fn the_corpus_and_its_mutations_panic_nowhere() {
        for &(name, target) in TARGETS {
            let mut files: Vec<PathBuf> =
                fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            assert!(files.len() >= 3, "{name} has a corpus");
            let mut rng = Rng::new(1);
            let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
            for seed in &seeds {
                target(seed);
            }
            for _ in 0..2000 {
                let mut data = rng.pick(&seeds).unwrap().clone();
                for _ in 0..rng.between(1, 6) {
                    mutate(&mut rng, &mut data, &seeds);
                }
                target(&data);
            }
        }
    }

    fn mutate(rng: &mut Rng, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = usize::try_from(rng.below(data.len() as u64 + 1)).unwrap();
        match rng.below(5) {
            0 => data.truncate(at),
            1 => data.insert(at, u8::try_from(rng.below(256)).unwrap()),
            2 => {
                let other = rng.pick(seeds).unwrap();
                data.truncate(at);
                data.extend_from_slice(&other[at.min(other.len())..]);
            }
            3 => {
                let edge = *rng.pick(&[0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xc0, 0xff]).unwrap();
                data.get_mut(at).into_iter().for_each(|byte| *byte = edge);
            }
            _ => data.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << rng.below(8)),
        }
    }
}
