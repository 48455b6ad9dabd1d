//! Tie-breakers that do I/O: the arbiter as a server, its client, and the shared disk. Feature `driver`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver owns the clock, sockets and threads that cores must not have"
)]

mod client;
mod disk;
mod frames;
mod server;
mod strangers;

pub use client::ArbiterClient;
pub use disk::{SharedDisk, format_disk};
pub use server::{ArbiterServer, ServerError};

use core::time::Duration;
use frames::{Secret, Session};

/// The shortest secret, in bytes.
pub const SECRET_MIN: usize = 16;

/// Not less than a socket takes.
fn at_least_a_millisecond(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}
