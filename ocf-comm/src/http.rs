//! XML-RPC over HTTP, for administration tools in any language.
//!
//! ```
//! use ocf_comm::http::{HttpConfig, HttpServer};
//! use ocf_comm::rpc::{Caller, Dispatcher, Method};
//!
//! let methods = Dispatcher::builder().method(Method::new("hello"), |_: &Caller, (): ()| Ok("world")).build();
//! let server = HttpServer::start(HttpConfig::default(), methods)?;
//! println!("POST http://{}/RPC2", server.address());
//! # Ok::<(), ocf_comm::http::HttpError>(())
//! ```
//!
//! In Python: `xmlrpc.client.ServerProxy("http://127.0.0.1:5480/RPC2").hello()`.
//!
//! One thread, bound to loopback unless told otherwise, plain HTTP: secrets that cross a network belong behind a proxy that
//! speaks TLS. The requests, limits and promises are in `RPC.md` of this crate. HTTP itself is hyper's.

mod serve;
mod users;

pub use users::{BadUser, User};

use crate::rpc::Dispatcher;
use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// How XML-RPC over HTTP is served.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to listen. Default: loopback, any free port.
    pub bind: SocketAddr,
    /// Path of the one resource. Default `/RPC2`.
    pub path: String,
    /// Who may come, with which secret. Default nobody in particular: then everyone that reaches the address may do what the
    /// dispatcher's policy allows to `http`, by default to look. With users, who shows no secret is refused.
    pub users: Vec<User>,
    /// Bytes of a request's body. Default 1 MiB.
    pub body_max: usize,
    /// Connections at a time. Default 64; more wait in the system's queue.
    pub connections_max: usize,
    /// How long the head of a request, and then its body, may take to arrive. Default 10 s each.
    pub request_within: Duration,
    /// How long a method may take to answer. Default 60 s; then the caller gets a fault.
    pub answer_within: Duration,
    /// How long a connection may live in all. Default 10 min.
    pub connection_max: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            bind: ([127, 0, 0, 1], 0).into(),
            path: "/RPC2".to_owned(),
            users: Vec::new(),
            body_max: 1 << 20,
            connections_max: 64,
            request_within: Duration::from_secs(10),
            answer_within: Duration::from_secs(60),
            connection_max: Duration::from_secs(600),
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread or event queue.
    #[error("cannot run an http server: {0}")]
    System(#[from] io::Error),
}

/// Serves a dispatcher over HTTP, on a thread of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens and serves.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn start(config: HttpConfig, dispatcher: Dispatcher) -> Result<Self, HttpError> {
        let refused = |source| HttpError::Bind { address: config.bind, source };
        let listener = TcpListener::bind(config.bind).map_err(refused)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(serve::Shared::new(config, dispatcher));
        let run = move || runtime.block_on(serve::run(listener, shared, stopped));
        let thread = std::thread::Builder::new().name("ocf-http".to_owned()).spawn(run)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the http server had panicked");
        }
    }
}
