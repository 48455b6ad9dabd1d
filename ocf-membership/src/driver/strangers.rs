//! Connections of an arbiter that have not proved yet that they know the secret.

use crate::arbiter::Asker;
use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Strangers at a time. For one more, the oldest goes: a flood delays nobody who says what he wants at once.
pub(super) const STRANGERS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<VecDeque<(Asker, TcpStream)>>);

impl Strangers {
    fn list(&self) -> MutexGuard<'_, VecDeque<(Asker, TcpStream)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in `asker`; `stream` is another handle of its connection.
    pub(super) fn add(&self, asker: Asker, stream: TcpStream) {
        let mut list = self.list();
        if list.len() >= STRANGERS_MAX
            && let Some((_, oldest)) = list.pop_front()
        {
            // Ends the thread that reads it; closed by the other end already if that fails.
            drop(oldest.shutdown(Shutdown::Both));
        }
        list.push_back((asker, stream));
    }

    /// `asker` is none any more: it has proved that it knows the secret, or is gone. False if it was sent away before.
    pub(super) fn remove(&self, asker: Asker) -> bool {
        let mut list = self.list();
        let before = list.len();
        list.retain(|(a, _)| *a != asker);
        list.len() < before
    }

    /// Sends all away.
    pub(super) fn clear(&self) {
        for (_, stream) in self.list().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}
