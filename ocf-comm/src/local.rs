//! Other processes on the machine: they register, call methods and services, send and receive node messages, and hear events.
//!
//! * [`Server`]: listens at a unix socket, in the file system or abstract, on a thread of its own. The kernel says who
//!   connects; [`Accept`] and a [`Policy`](crate::rpc::Policy) decide what they may do. [`LocalLimits`] bound each client.
//! * [`Client`]: non-blocking, with a descriptor to wait for; and calls that wait, for programs without a loop.
//! * [`Service`]: what a layer offers to local programs: methods over values or bytes, a stream of events to each client,
//!   and the news, once, that a client is gone; if it wants, also the end of the client's process, which may live on.
//! * [`ConnectivityService`] and [`LocalConnectivity`]: the trait [`Connectivity`](crate::Connectivity) across processes.
//!
//! ```
//! use ocf_comm::local::{Address, Client, ClientInfo, EventSink, LocalConfig, Server, Service};
//! use ocf_comm::rpc::{Body, Responder};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! struct Echo;
//! impl Service for Echo {
//!     fn joined(&self, _client: &ClientInfo, _events: EventSink) {}
//!     fn call(&self, _client: &ClientInfo, _method: &str, body: Body, answer: Responder<Body>) {
//!         answer.answer(Ok(body));
//!     }
//!     fn gone(&self, _client: u64) {}
//! }
//!
//! let address = Address::Abstract(format!("ocf-doc-{}", std::process::id()));
//! let server = Server::start(&address, LocalConfig::new().service("echo", Arc::new(Echo)))?;
//! let mut client = Client::connect(&address, "doc")?;
//! let answer = client.call_wait("echo", "say", Body::Value("hello".into()), Duration::from_secs(5))?;
//! assert_eq!(answer, Body::Value("hello".into()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The frames, limits and promises are in `RPC.md` of this crate.
#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "sockets, threads and the clock are here; error kinds of the system are open-ended"
)]

mod client;
mod config;
mod connectivity;
pub mod frame;
mod outbox;
mod process;
mod server;
mod service;
mod session;
mod wake;

pub use client::{CallFailure, Client, ClientError, ClientEvent, RequestId};
pub use config::{Accept, Address, LocalConfig, LocalLimits};
pub use connectivity::{CONNECTIVITY, ConnectivityService, LocalConnectivity, parse_event, parse_peers};
pub use process::Process;
pub use server::{LocalStats, ServeError, Server};
pub use service::{ClientInfo, EventSink, Service, SinkError, no_method};
