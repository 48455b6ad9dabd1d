use super::service::Service;
use crate::rpc::{Dispatcher, Policy};
use core::fmt;
use core::time::Duration;
use pils::NodeInstance;
use pils::topic::Bus;
use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where local programs reach a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A socket in the file system; what is left of an ended server there is replaced.
    Path(PathBuf),
    /// A name in the abstract name space of Linux: no file, gone with its server, one per network namespace.
    Abstract(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl From<&str> for Address {
    /// `@name` is abstract, everything else a path.
    fn from(text: &str) -> Self {
        text.strip_prefix('@').map_or_else(|| Self::Path(text.into()), |name| Self::Abstract(name.to_owned()))
    }
}

impl Address {
    pub(super) fn socket(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        }
    }
}

/// Who may connect, by what the kernel says of the process. A process of the server's own user always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Everybody on this machine. Default no.
    pub anyone: bool,
    /// These users. Default: root.
    pub uids: BTreeSet<u32>,
    /// These groups. Default none.
    pub gids: BTreeSet<u32>,
}

impl Default for Accept {
    fn default() -> Self {
        Self { anyone: false, uids: [0].into(), gids: BTreeSet::new() }
    }
}

/// Bounds of a local server. With them, its clients take at most about `clients_max` times
/// (`outbox_max` + `frame_max` + `requests_max` answers) bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLimits {
    /// Clients at a time. Default 256. More are told so and not served.
    pub clients_max: usize,
    /// Bytes of one frame, either way. Default 1 MiB + 64 KiB. A longer one ends the connection.
    pub frame_max: usize,
    /// Calls of one client that are not answered. Default 256. More are refused as busy.
    pub requests_max: usize,
    /// Bytes that wait to be read by one client. Default 4 MiB. Beyond it the server reads no more of its requests, events of
    /// services are lost and counted, and topics wait in their own queues.
    pub outbox_max: usize,
    /// Subscriptions of one client. Default 16.
    pub subscriptions_max: usize,
    /// Events that wait in one subscription before the oldest are lost. Default 1024.
    pub subscription_queue: usize,
    /// How long a client may take to say who it is. Default 5 s.
    pub hello_within: Duration,
    /// How long a client whose quota is used up may read nothing before it is thrown out. Default 60 s; zero: never.
    pub stuck_max: Duration,
    /// Processes that live on without their connection and whose end a service waits for. Default 1024. With so many no more
    /// clients are served.
    pub mourned_max: usize,
}

impl Default for LocalLimits {
    fn default() -> Self {
        Self {
            clients_max: 256,
            frame_max: (1 << 20) + (64 << 10),
            requests_max: 256,
            outbox_max: 4 << 20,
            subscriptions_max: 16,
            subscription_queue: 1024,
            hello_within: Duration::from_secs(5),
            stuck_max: Duration::from_secs(60),
            mourned_max: 1024,
        }
    }
}

/// What a local server serves, to whom.
#[must_use = "a configuration does nothing until it is served"]
#[derive(Clone)]
pub struct LocalConfig {
    pub(super) accept: Accept,
    pub(super) limits: LocalLimits,
    pub(super) policy: Policy,
    pub(super) node: Option<NodeInstance>,
    pub(super) mode: u32,
    pub(super) dispatcher: Option<Dispatcher>,
    pub(super) services: BTreeMap<Arc<str>, Arc<dyn Service>>,
    pub(super) bus: Option<Bus>,
    pub(super) who_may: String,
}

impl fmt::Debug for LocalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConfig").field("services", &self.services.keys()).finish_non_exhaustive()
    }
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalConfig {
    /// Serves nothing yet, to root and to the server's own user.
    pub fn new() -> Self {
        let own = rustix::process::geteuid().as_raw();
        let mut policy = Policy::default();
        policy.uids.insert(own, crate::rpc::Access::Control);
        Self {
            accept: Accept::default(),
            limits: LocalLimits::default(),
            policy,
            node: None,
            mode: 0o666,
            dispatcher: None,
            services: BTreeMap::new(),
            bus: None,
            who_may: String::new(),
        }
    }

    /// What is said to a program that may not connect, after who it is: where it is settled who may.
    pub fn who_may(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.who_may);
        self
    }

    /// Who may connect.
    pub fn accept(mut self, accept: Accept) -> Self {
        self.accept = accept;
        self
    }

    /// Bounds.
    pub fn limits(mut self, limits: LocalLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How much a client may do with services and topics; methods of a dispatcher have a policy of their own. Default: that of
    /// [`Policy::default`], and the server's own user controls.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Which node serves; clients are told.
    pub fn node(mut self, node: NodeInstance) -> Self {
        self.node = Some(node);
        self
    }

    /// Permission bits of a socket in the file system. Default 666, because what the kernel says of the client decides.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Methods that clients may call.
    pub fn dispatcher(mut self, dispatcher: Dispatcher) -> Self {
        self.dispatcher = Some(dispatcher);
        self
    }

    /// Topics that clients may subscribe to and publish on. On the topics of this framework's own layers only those who may
    /// control publish.
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Adds a service.
    ///
    /// # Panics
    /// If the name is empty, longer than 255 bytes or taken: a mistake in the program.
    pub fn service(mut self, name: &str, service: Arc<dyn Service>) -> Self {
        assert!(
            !name.is_empty() && name.len() <= super::frame::NAME_MAX,
            "{name:?} is not a name for a service"
        );
        let taken = self.services.insert(Arc::from(name), service).is_some();
        assert!(!taken, "two services of the name {name:?}");
        self
    }
}
