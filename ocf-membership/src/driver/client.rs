//! A node's side of an arbiter.

use super::frames::{End, Way};
use super::{Secret, Session, at_least_a_millisecond};
use crate::arbiter::ArbiterMessage;
use crate::{Claim, Grant, TieBreaker, Verdict};
use core::time::Duration;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

/// Asks an arbiter (an [`ArbiterServer`](super::ArbiterServer)) over TCP: one connection for each question.
///
/// Messages are signed with a secret that the arbiter and the nodes of all its clusters share, for one connection and place
/// in it; they are not encrypted.
#[derive(Debug)]
pub struct ArbiterClient {
    address: SocketAddr,
    cluster: String,
    secret: Secret,
    timeout: Duration,
}

impl ArbiterClient {
    /// For `cluster` (at most [`CLUSTER_NAME_MAX`](crate::arbiter::CLUSTER_NAME_MAX) bytes). Connecting, the greeting of the
    /// arbiter and its answer may each take `timeout`; its settling time is part of the last.
    #[must_use]
    pub fn new(address: SocketAddr, cluster: &str, secret: &[u8], timeout: Duration) -> Self {
        let timeout = at_least_a_millisecond(timeout);
        Self { address, cluster: cluster.to_owned(), secret: Secret::new(secret), timeout }
    }

    fn connect(&self) -> io::Result<(TcpStream, Session)> {
        let mut stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        let session = self.secret.greet(&mut stream, End::Node)?;
        Ok((stream, session))
    }

    fn ask(&self, claim: &Claim) -> io::Result<Verdict> {
        let (mut stream, session) = self.connect()?;
        let ask = ArbiterMessage::Ask { cluster: self.cluster.clone(), claim: claim.clone() };
        stream.write_all(&session.frame(Way::Asks, 0, &ask.emit())?)?;
        let answer = session.read(&mut stream, Way::Answers, 0)?;
        match ArbiterMessage::parse(&answer) {
            Ok(ArbiterMessage::Answer { ballot, verdict }) if ballot == claim.ballot => Ok(verdict),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "not the answer to this question")),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl TieBreaker for ArbiterClient {
    fn name(&self) -> String {
        format!("arbiter at {}", self.address)
    }

    fn claim(&mut self, claim: &Claim) -> Verdict {
        self.ask(claim).unwrap_or_else(|error| {
            tracing::warn!(arbiter = %self.address, %error, "the arbiter cannot be asked");
            Verdict::Unavailable
        })
    }

    fn note(&mut self, view: &Grant) {
        let note = ArbiterMessage::Note { cluster: self.cluster.clone(), view: view.clone() };
        let tell = |(mut stream, session): (TcpStream, Session)| {
            stream.write_all(&session.frame(Way::Asks, 0, &note.emit())?)
        };
        if let Err(error) = self.connect().and_then(tell) {
            tracing::warn!(arbiter = %self.address, %error, "the arbiter could not be told of a view");
        }
    }
}
