//! Tie-breakers that do I/O: the arbiter as a server, its client, and the shared disk. Feature `driver`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver owns the clock, sockets and threads that cores must not have"
)]

mod client;
mod disk;
mod server;

pub use client::ArbiterClient;
pub use disk::{SharedDisk, format_disk};
pub use server::{ArbiterServer, ServerError};

use core::time::Duration;
use ring::hmac;
use std::io::{self, Read, Write};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 8 * 1024;
/// Length of what proves that the other end has the secret.
const TAG: usize = 32;
/// The shortest secret, in bytes.
pub const SECRET_MIN: usize = 16;

/// Which way a message goes: one is never taken for the other.
#[derive(Clone, Copy, Debug)]
enum Way {
    Asks,
    Answers,
}

#[derive(Debug)]
struct Frames {
    key: hmac::Key,
}

impl Frames {
    fn new(secret: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// What is signed: which way it goes, then the message.
    fn signed(way: Way, message: &[u8]) -> Vec<u8> {
        let way = match way {
            Way::Asks => b'q',
            Way::Answers => b'a',
        };
        [&[way], message].concat()
    }

    /// Writes the length (4 bytes), the message and its tag.
    fn write(&self, to: &mut impl Write, way: Way, message: &[u8]) -> io::Result<()> {
        let n = u32::try_from(message.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
        let mut frame = n.to_be_bytes().to_vec();
        frame.extend_from_slice(message);
        frame.extend_from_slice(hmac::sign(&self.key, &Self::signed(way, message)).as_ref());
        to.write_all(&frame)
    }

    /// Reads one message. A wrong tag or length is an error: the connection is of no use any more.
    fn read(&self, from: &mut impl Read, way: Way) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let n = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if n > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        let mut message = vec![0; n + TAG];
        from.read_exact(&mut message)?;
        let tag = message.split_off(n);
        if hmac::verify(&self.key, &Self::signed(way, &message), &tag).is_err() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other end has another secret"));
        }
        Ok(message)
    }
}

/// Not less than a socket takes.
fn at_least_a_millisecond(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}
