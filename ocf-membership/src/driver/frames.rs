//! What goes over a connection to an arbiter: a greeting each way, then signed messages that are worth nothing in any other
//! connection, in the other direction, or a second time.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::io::{self, Read, Write};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 8 * 1024;
/// Length of what proves that the other end has the secret.
const TAG: usize = 32;
/// How a greeting begins: what speaks here, and in which version.
const MAGIC: [u8; 8] = *b"ocf-arb1";
/// Random bytes of each greeting.
const NONCE: usize = 16;

/// Which way a message goes: one is never taken for the other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Asks,
    Answers,
}

/// The end of a connection that one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Node,
    Arbiter,
}

/// What the arbiter and all its nodes share.
#[derive(Clone, Debug)]
pub(super) struct Secret(hmac::Key);

impl Secret {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Greets over `stream` and reads the greeting of the other end. It proves nothing yet: the first message does.
    pub(super) fn greet(&self, stream: &mut (impl Read + Write), end: End) -> io::Result<Session> {
        let (mut ours, mut theirs) = ([0; NONCE], [0; NONCE]);
        SystemRandom::new()
            .fill(&mut ours)
            .map_err(|_unspecified| io::Error::other("the system has no randomness"))?;
        stream.write_all(&[&MAGIC[..], &ours].concat())?;
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic)?;
        if magic != MAGIC {
            let text = "the other end is no arbiter or node of this version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        stream.read_exact(&mut theirs)?;
        let (node, arbiter) = if end == End::Node { (ours, theirs) } else { (theirs, ours) };
        let mut nonces = [0; 2 * NONCE];
        nonces[..NONCE].copy_from_slice(&node);
        nonces[NONCE..].copy_from_slice(&arbiter);
        Ok(Session { key: self.0.clone(), nonces })
    }
}

/// A connection whose greetings were exchanged.
#[derive(Clone, Debug)]
pub(super) struct Session {
    key: hmac::Key,
    nonces: [u8; 2 * NONCE],
}

impl Session {
    /// What is signed: the connection, the direction, which message of that direction it is, and the message.
    fn signed(&self, way: Way, n: u64, message: &[u8]) -> Vec<u8> {
        let way = match way {
            Way::Asks => b'q',
            Way::Answers => b'a',
        };
        [&self.nonces[..], &[way], &n.to_be_bytes(), message].concat()
    }

    /// The `n`-th message of its direction as a frame: its length (4 bytes), the message and its tag.
    pub(super) fn frame(&self, way: Way, n: u64, message: &[u8]) -> io::Result<Vec<u8>> {
        if message.len() > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        let length = u32::try_from(message.len()).map_err(|_too_long| io::ErrorKind::InvalidInput)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(message);
        frame.extend_from_slice(hmac::sign(&self.key, &self.signed(way, n, message)).as_ref());
        Ok(frame)
    }

    /// Reads the `n`-th message of its direction. A wrong tag or length is an error: the connection is of no use any more.
    pub(super) fn read(&self, from: &mut impl Read, way: Way, n: u64) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        let mut message = vec![0; length + TAG];
        from.read_exact(&mut message)?;
        let tag = message.split_off(length);
        if hmac::verify(&self.key, &self.signed(way, n, &message), &tag).is_err() {
            let text = "a message is not signed with this secret for this connection";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::os::unix::net::UnixStream;

    fn pair(ours: &[u8], theirs: &[u8]) -> (Session, Session) {
        let (mut a, mut b) = UnixStream::pair().expect("a pair");
        let theirs = Secret::new(theirs);
        let other = std::thread::spawn(move || theirs.greet(&mut b, End::Arbiter));
        let node = Secret::new(ours).greet(&mut a, End::Node).expect("greeted");
        (node, other.join().expect("no panic").expect("greeted"))
    }

    fn refused(session: &Session, frame: &[u8], way: Way, n: u64) -> bool {
        let outcome = session.read(&mut Cursor::new(frame), way, n);
        outcome.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_message_counts_once_in_its_connection_and_direction() {
        let (node, arbiter) = pair(b"the same secret", b"the same secret");
        let (_, later) = pair(b"the same secret", b"the same secret");
        let frame = node.frame(Way::Asks, 0, b"may we?").expect("short");
        let read = arbiter.read(&mut Cursor::new(&frame), Way::Asks, 0).expect("signed");
        assert_eq!(read, b"may we?");
        assert!(refused(&arbiter, &frame, Way::Asks, 1), "a second time");
        assert!(refused(&arbiter, &frame, Way::Answers, 0), "in the other direction");
        assert!(refused(&later, &frame, Way::Asks, 0), "in another connection");
        for i in 4..frame.len() {
            let mut changed = frame.clone();
            changed[i] ^= 1;
            assert!(refused(&arbiter, &changed, Way::Asks, 0), "byte {i}");
        }
        let (_, stranger) = pair(b"the same secret", b"another");
        assert!(refused(&stranger, &frame, Way::Asks, 0));
    }

    #[test]
    fn what_is_too_long_or_speaks_another_language_is_an_error() {
        let (node, arbiter) = pair(b"s", b"s");
        assert!(node.frame(Way::Asks, 0, &[0; MESSAGE_MAX]).is_ok());
        assert!(node.frame(Way::Asks, 0, &[0; MESSAGE_MAX + 1]).is_err());
        let long = arbiter.read(&mut Cursor::new([0xff; 100]), Way::Asks, 0).expect_err("too long");
        assert_eq!(long.kind(), io::ErrorKind::InvalidData);
        let (mut a, mut b) = UnixStream::pair().expect("a pair");
        b.write_all(b"GET / HTTP/1.1\r\nHost: arbiter\r\n").expect("written");
        let error = Secret::new(b"s").greet(&mut a, End::Arbiter).expect_err("another language");
        assert!(error.to_string().contains("no arbiter or node of this version"), "{error}");
    }
}
