//! Fencing: makes sure that a lost node is dead, and says how it knows.
//!
//! * [`Fencer`]: decides which device is asked when, and what its answer is worth; sans-IO.
//! * [`Outcome`]: `Confirmed` with [`Evidence`], `Requested`, or `Unknown`. Only `Confirmed` means fenced.
//! * [`FenceDevice`]: what ends the life of a node. `driver` has the classes `fence_agent` (any fence agent of the
//!   distribution), `external` (any script of cluster-glue), `sbd` (a poison pill over shared disks), `simulated`, `manual`
//!   and `none`, and the host that runs them; `testing` the suite for those who write another.
//! * [`agent`]: the protocol of fence agents, without input or output.
//! * [`ResourceFence`]: takes the access of a node to one resource instead of its power.
//! * [`sbd`]: a poison pill over shared disks, and the core of a node that watches over itself.
//!
//! A fencer takes requests and answers, and gives orders and events:
//!
//! ```
//! use ocf_stonith::{
//!     Authority, Cause, Config, DeviceReport, DeviceResult, Event, FenceAction, FenceRequest, Fencer, Input, Output, ReadBack,
//! };
//! use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance, Rng};
//! let config: Config = toml::from_str(r#"
//!     [[devices]]
//!     name = "switch"
//!     class = "simulated"
//!     nodes = [{ node = 2, plug = "7" }]
//! "#)?;
//! config.check()?;
//! let mut fencer = Fencer::new(config, NodeId::new(1), Rng::new(1));
//! let now = Instant::ZERO;
//! fencer.set_authority(now, Authority::Granted); // this node is in the primary partition
//! let target = NodeInstance::new(NodeId::new(2), Incarnation::new(5 << 96));
//! let cause = Cause::Lost { why: "silent for 1 s".into() };
//! fencer.request(now, FenceRequest { target, action: FenceAction::Off, cause })?;
//! let mut fenced = false;
//! while let Some(output) = fencer.poll_output() {
//!     match output {
//!         // A driver would hand this to `driver::DeviceHost`; here the device answers at once.
//!         Output::Run(run) => {
//!             let result = DeviceResult::Done { read_back: ReadBack::Off, detail: "outlet 7 is off".into() };
//!             fencer.handle(now, Input::Device(DeviceReport { attempt: run.attempt, result }));
//!         }
//!         Output::Event(Event::Finished { outcome, .. }) => fenced = outcome.is_confirmed(),
//!         _ => {}
//!     }
//! }
//! assert!(fenced);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! States, timers, limits, guarantees and what is missing: `PROTOCOL.md`.
#![forbid(unsafe_code)]

pub mod agent;
mod check;
mod config;
mod device;
#[cfg(feature = "driver")]
pub mod driver;
mod event;
mod fencer;
mod outcome;
mod request;
mod resource_fence;
pub mod sbd;
mod script;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{
    Config, DeviceConfig, Every, Hosts, LevelConfig, LevelNodes, Parameters, TargetConfig, Targets, WATCHDOG,
};
pub use device::{
    AttemptId, Capabilities, DeviceReport, DeviceResult, Done, FenceDevice, HOSTS_MAX, Operation,
};
pub use event::{Event, Input, Output, Run, Withdrawal};
#[cfg(feature = "testing")]
pub use fencer::Sabotage;
pub use fencer::{
    Acceptance, Authority, DrillError, Fencer, Finding, Health, NotStanding, RequestError, UnfenceError,
    watchdog_wait,
};
pub use outcome::{Cause, Evidence, Failure, FenceAction, FenceRequest, Outcome, ReadBack, UnknownReason};
pub use request::{History, Record, State, Stats, Status, TRIES_MAX, Try};
pub use resource_fence::{
    Reservation, Reservations, ResourceFence, ScsiFence, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, key_of,
};
pub use script::{Plan, Script, ScriptError, SimulatedDevice, Step};
