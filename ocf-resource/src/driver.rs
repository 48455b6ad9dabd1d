//! Runs operations for real: agents of all classes as child processes, in-process agents on worker threads. A driver.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver owns threads, locks and a clock"
)]

mod address;
pub mod apphb;
mod described;
mod exits;
mod filesystem;
mod heartbeat;
mod host;
mod local;
mod lsb;
mod ocf;
mod process;
mod promotion;
mod remote;
mod rust;
mod systemd;
pub mod tester;
mod tree;
mod workers;

pub use address::Address;
pub use described::Descriptions;
pub use exits::{AddressError, Exits, Mail, context};
pub use filesystem::FileSystem;
pub use heartbeat::{HeartbeatClass, from_haresources};
pub use host::{AgentHost, OperationDone};
pub use local::{Events, Local};
pub use lsb::LsbClass;
pub use ocf::OcfClass;
pub use rust::{InProcess, RustClass, Stateful};
pub use systemd::{ServiceClass, SystemdClass};
pub use tester::Tester;
pub use tree::{Swept, sweep};
