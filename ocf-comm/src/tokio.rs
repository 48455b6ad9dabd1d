//! For programs on tokio, current-thread runtimes included: events as streams, calls as futures.
//!
//! ```
//! use ocf_comm::local::{Address, LocalConfig, Server};
//! use ocf_comm::rpc::{Body, Caller, Dispatcher, Method};
//! use ocf_comm::tokio::AsyncClient;
//!
//! let methods = Dispatcher::builder().method(Method::new("hello"), |_: &Caller, (): ()| Ok("world")).build();
//! let address = Address::Abstract(format!("ocf-async-doc-{}", std::process::id()));
//! let server = Server::start(&address, LocalConfig::new().dispatcher(methods))?;
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let client = AsyncClient::connect(&address, "doc")?;
//!     assert_eq!(client.call("", "hello", Body::default()).await?, Body::Value("world".into()));
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod node;

pub use client::{AsyncClient, ServiceEvent, ServiceStream, TopicStream};
pub use node::{NodeEvents, send};

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor.
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "an owned descriptor is what `register`, which is unsafe, asks its caller to promise"
    )]
    AsyncFd::new(fd)
}
