//! The devices of this crate, and the host that runs them: child processes and threads.
//!
//! ```
//! use ocf_stonith::driver::{Classes, DeviceHost};
//! use ocf_stonith::{AttemptId, Config, DeviceResult, FenceAction, Operation, ReadBack};
//! use pils::{NodeId, process::Runner};
//! let config: Config = toml::from_str(r#"
//!     [[devices]]
//!     name = "toy"
//!     class = "simulated"
//!     nodes = "all"
//! "#)?;
//! let (tell, told) = std::sync::mpsc::channel();
//! let host = DeviceHost::new(&config, &Classes::default(), &Runner::new(4)?, |_report| {})?;
//! let device = host.device("toy").ok_or("no such device")?;
//! device.execute(
//!     Operation {
//!         attempt: AttemptId(1),
//!         action: FenceAction::Off,
//!         node: NodeId::new(2),
//!         plug: None,
//!         timeout: std::time::Duration::from_secs(5),
//!     },
//!     Box::new(move |result| tell.send(result).expect("the receiver waits")),
//! );
//! assert!(matches!(told.recv()?, DeviceResult::Done { read_back: ReadBack::Off, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod address;
mod classes;
mod described;
mod external;
mod fence_agent;
mod host;
mod manual;
mod none;
mod own_watchdog;
mod remote;
mod sbd;
mod sbd_disk;
mod scsi;
mod self_fencing;
mod simulated;
mod tool;
mod waiting;
mod watchdog;

pub use access::{AccessDevice, AddressFence, SimulatedAccess};
pub use address::AddressClass;
pub use classes::{Classes, DeviceClass, FENCE_CLASS};
pub use external::{External, ExternalClass, find_external, installed_externals, query_external};
pub use fence_agent::{
    AgentQueryError, FenceAgent, FenceAgentClass, find_agent, installed_agents, query_metadata,
};
pub use host::DeviceHost;
pub use manual::{Manual, ManualClass};
pub use none::{NoFencing, NoneClass};
pub use own_watchdog::{OwnWatchdog, WatchdogClass};
pub use sbd::{Sbd, SbdClass};
pub use sbd_disk::{SbdDisk, SbdError};
pub use scsi::{ScsiClass, SgPersist};
pub use self_fencing::{SelfFencing, SelfFencingError, end_by_sysrq};
pub use simulated::{Simulated, SimulatedClass};
pub use watchdog::{KernelWatchdog, SimulatedWatchdog, Watchdog};
