//! Runs operations for real: agents of all classes as child processes, in-process agents on worker threads. A driver.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver owns threads, locks and a clock"
)]

mod heartbeat;
mod host;
mod lsb;
mod ocf;
mod process;
mod rust;
mod systemd;
mod tree;

pub use heartbeat::{HeartbeatClass, from_haresources};
pub use host::{AgentHost, OperationDone};
pub use lsb::LsbClass;
pub use ocf::OcfClass;
pub use rust::{InProcess, RustClass, Stateful};
pub use systemd::{ServiceClass, SystemdClass};
pub use tree::{Swept, sweep};
