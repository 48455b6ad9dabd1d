use pils::NodeInstance;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Who calls, as the transport knows it: never what the caller says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caller {
    /// This process.
    Process,
    /// Another node of the cluster, which holds its key.
    Node(NodeInstance),
    /// Another process on this machine.
    Local {
        /// Number of the client in this life of the server.
        client: u64,
        /// The name it registered with; empty before that.
        name: String,
        /// What the kernel says of it.
        credentials: Credentials,
    },
    /// A program that came over HTTP.
    Http {
        /// Its address.
        peer: SocketAddr,
        /// The user whose secret it showed; `None` if the server asks for none.
        user: Option<String>,
    },
}

/// What the kernel says of a process at the other end of a unix socket, as of when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    /// Process id; may be used again after the process ended.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id. Supplementary groups are not seen.
    pub gid: u32,
}

/// How much a caller may do, or a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Looks only.
    Observe,
    /// Takes part: sends messages, takes locks. Changes nothing that belongs to others.
    Use,
    /// Changes the cluster or the node.
    Control,
}

/// What is known of a method besides its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    pub(super) name: Cow<'static, str>,
    pub(super) help: Cow<'static, str>,
    pub(super) signatures: Vec<Vec<&'static str>>,
    pub(super) access: Access,
}

impl Method {
    /// A method of this name that only [observes](Access::Observe). Names are letters, digits, `_`, `.`, `:` and `/`; those
    /// that begin with `system.` are the dispatcher's own.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), help: Cow::Borrowed(""), signatures: Vec::new(), access: Access::Observe }
    }

    /// What it does, for people.
    #[must_use]
    pub fn help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.help = help.into();
        self
    }

    /// Adds a signature: the kind of the result, then those of the parameters, in the words of XML-RPC.
    #[must_use]
    pub fn signature(mut self, kinds: impl IntoIterator<Item = &'static str>) -> Self {
        self.signatures.push(kinds.into_iter().collect());
        self
    }

    /// How much a caller must be allowed.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much a caller must be allowed.
    #[must_use]
    pub const fn needs(&self) -> Access {
        self.access
    }
}

/// How much each kind of caller may do: the usual authorisation of a [`Dispatcher`](super::Dispatcher).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Other nodes. Default: control, because whoever holds the key is a member.
    pub nodes: Option<Access>,
    /// Local programs that no other entry names. Default: observe.
    pub local: Option<Access>,
    /// Local programs by user id. Default: control for root.
    pub uids: BTreeMap<u32, Access>,
    /// Local programs by group id; the larger of what user and group give counts.
    pub gids: BTreeMap<u32, Access>,
    /// Programs over HTTP that showed no secret. Default: observe.
    pub http: Option<Access>,
    /// Users over HTTP that showed their secret.
    pub http_users: BTreeMap<String, Access>,
    /// Methods that nobody but this process may call.
    pub closed: BTreeSet<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            nodes: Some(Access::Control),
            local: Some(Access::Observe),
            uids: BTreeMap::from([(0, Access::Control)]),
            gids: BTreeMap::new(),
            http: Some(Access::Observe),
            http_users: BTreeMap::new(),
            closed: BTreeSet::new(),
        }
    }
}

impl Policy {
    /// How much `caller` may do at most; `None` if nothing.
    #[must_use]
    pub fn access(&self, caller: &Caller) -> Option<Access> {
        match caller {
            Caller::Process => Some(Access::Control),
            Caller::Node(_) => self.nodes,
            Caller::Local { credentials, .. } => {
                let named = self.uids.get(&credentials.uid).max(self.gids.get(&credentials.gid));
                named.copied().or(self.local)
            }
            Caller::Http { user: None, .. } => self.http,
            Caller::Http { user: Some(user), .. } => self.http_users.get(user).copied().or(self.http),
        }
    }

    /// True if `caller` may call `method`.
    #[must_use]
    pub fn allows(&self, caller: &Caller, method: &Method) -> bool {
        *caller == Caller::Process
            || (!self.closed.contains(method.name())
                && self.access(caller).is_some_and(|allowed| method.needs() <= allowed))
    }
}
