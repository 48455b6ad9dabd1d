//! Runs operations for real: OCF agents as child processes, in-process agents on worker threads. A driver.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver owns threads, locks and a clock"
)]

mod host;
mod ocf;
mod rust;

pub use host::{AgentHost, OperationDone};
pub use ocf::OcfClass;
pub use rust::{InProcess, RustClass, Stateful};
