//! The glue of the Open Clustering Framework: the vocabulary and the contract that every layer keeps.
//!
//! * [`Instant`], [`NodeId`], [`Incarnation`] and [`NodeInstance`]: the words all layers share.
//! * [`Layer`]: how a protocol is written: no clock, no socket, no thread, no randomness but a seed.
//! * [`Rng`]: the seeded generator that a layer is given.
//! * [`TimerTable`]: the few named timers of a state machine.
//! * [`ConfigErrors`]: everything that is wrong with a configuration, at once.
//! * [`field`]: self-configuration: a plug-in says which parameters it takes; [`form`] asks for them.
//! * [`Value`] and [`ValueCodec`]: what configuration, control messages and calls are made of, and how it becomes bytes.
//! * [`plugin`]: named implementations of a trait, found at run time: [`Universe`] and [`Registry`].
//! * [`buffer`]: memory for messages that is used again.
//! * [`topic`]: events by topic, for subscribers that may be slow.
//! * `durable`, with the feature of that name: files that are whole after a crash at any moment.
//! * `memory`, with the feature of that name: a process that is never paged out.
//! * `process`, with the feature of that name: runs child processes and reports how they ended.
//! * [`wire`]: reading and writing bytes that came from, or go to, another node.
//!
//! Each part can be used without the others, and each module shows how. Together: a fence device is chosen by name, its
//! outcome is published as an event, and a subscriber passes it on as XML-RPC.
//!
//! ```
//! use pils::codec::{Limits, XmlRpc, xmlrpc::Call};
//! use pils::topic::{Bus, Delivery, Draft, FENCING, Pattern};
//! use pils::{ConfigErrors, NodeId, Registry, Value, ValueCodec};
//! use std::sync::Arc;
//!
//! trait FenceDevice: Send + Sync {
//!     fn power_off(&self, node: NodeId) -> Value;
//! }
//! struct Simulated;
//! impl FenceDevice for Simulated {
//!     fn power_off(&self, node: NodeId) -> Value {
//!         Value::from([("node", Value::from(node.raw())), ("confirmed", true.into())])
//!     }
//! }
//!
//! let devices: Registry<dyn FenceDevice> = Registry::new("fence device class");
//! devices.register("simulated", "0.1", Arc::new(Simulated) as Arc<dyn FenceDevice>)?;
//! let bus = Bus::default();
//! let fencing = bus.subscribe(Pattern::exact(FENCING), 100)?;
//!
//! let mut errors = ConfigErrors::default();
//! match devices.get("simulated") {
//!     Ok(device) => {
//!         let outcome = device.power_off(NodeId::new(3));
//!         bus.publish(FENCING, Draft::new().property("outcome", outcome))?;
//!     }
//!     Err(unknown) => errors.push("fence.class", "simulated", unknown.to_string(), "name one of those"),
//! }
//! errors.into_result()?;
//!
//! let Some(Delivery::Event(event)) = fencing.try_next() else { panic!("it was published") };
//! let call = Call { method: "fenced".to_owned(), params: vec![event.properties["outcome"].clone()] };
//! assert_eq!(Call::from_xml(&call.to_xml()?, &Limits::default())?.params[0].get("node"), Some(&Value::Int(3)));
//! assert_eq!(XmlRpc.encode(&Value::Nil)?, b"<value><nil/></value>");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(not(feature = "dynamic"), forbid(unsafe_code))]
#![deny(unsafe_code)]

pub mod buffer;
pub mod codec;
mod config;
#[cfg(feature = "durable")]
pub mod durable;
pub mod field;
pub mod form;
mod identity;
mod instant;
mod layer;
#[cfg(feature = "memory")]
pub mod memory;
pub mod plugin;
#[cfg(feature = "process")]
pub mod process;
mod rng;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
pub mod topic;
pub mod value;
pub mod wire;

pub use codec::ValueCodec;
pub use config::{ConfigError, ConfigErrors};
pub use identity::{Incarnation, NodeId, NodeInstance};
pub use instant::Instant;
pub use layer::Layer;
pub use plugin::{Registry, Universe};
pub use rng::Rng;
pub use timer::TimerTable;
pub use value::Value;
