//! Runs a protocol [`Layer`](pils::Layer) on real sockets: a thin reactor that knows no protocol.
//!
//! ```text
//! bind sockets      Ports::bind(&IoConfig)        addresses and clock are known from here on
//! way in            ports.inbox()                 a Remote for other threads, an Inbox for the reactor
//! assemble          Reactor::new(ports, inbox, layer, host)
//! run               reactor.spawn("name")         own thread, or
//!                   AsFd + next_deadline() + process()   inside the caller's loop
//! ```
//!
//! One turn: read what is ready (at most 64 buffers), give each to the layer, run the commands of the inbox, fire the
//! timer, carry out every output in order through the [`Host`], arm the timer. A [`Handle`] lets any thread call the
//! layer directly: it takes the reactor's lock and carries the outputs out itself, which saves a wake-up.
//!
//! Limits: Linux only as tested (other Unixes lack the timer used here); the differentiated-services field of sent
//! packets is zero, because the offload library sets it on every packet.
#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "the driver is where the clock and the sockets are; error kinds of the system are open-ended"
)]

mod agreement;
pub mod cipher;
mod clock;
pub mod entropy;
mod error;
mod inbox;
mod io;
mod netlink;
mod node;
mod notify;
mod pace;
mod ping;
mod reactor;
pub mod sentinel;
mod socket;
#[cfg(test)]
mod tests;
mod thread;
mod timer;

pub use agreement::Agreement;
pub use clock::Clock;
pub use error::{SetupError, Stopped};
pub use inbox::{Inbox, Remote};
pub use io::{Io, IoConfig, IoStats, MediumStatus, Ports, Report};
pub use netlink::interfaces;
pub use node::{RecvError, StartError, UdpNode};
pub use reactor::{Handle, Host, Reactor};
pub use thread::Running;
