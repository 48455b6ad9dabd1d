use pils::plugin::PluginError;
use std::io;
use std::net::SocketAddr;

/// Why sockets could not be set up. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The configuration lists no address.
    #[error("no local address: give at least one address and port for this node to listen on")]
    NoPath,
    /// The configuration lists more addresses than there are path numbers.
    #[error("{count} local addresses, but at most {limit} paths are possible")]
    TooManyPaths {
        /// How many were given.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Someone else listens there.
    #[error(
        "udp address {address} is in use: stop the program that holds it, or give this node another port"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error(
        "no interface of this host has address {address}: bring the interface up, or correct the configuration"
    )]
    AddressNotHere {
        /// The address.
        address: SocketAddr,
    },
    /// The address needs more rights.
    #[error("not permitted to listen on udp {address}: choose a port from 1024 up, or run with more rights")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// Echo requests need a right that this process does not have.
    #[error(
        "not permitted to send icmp echo requests: let the group of this process do it with \
         `sysctl -w net.ipv4.ping_group_range=\"{group} {group}\"` (it is for ipv6, too), or give it CAP_NET_RAW"
    )]
    PingNotPermitted {
        /// The effective group of this process.
        group: u32,
    },
    /// The hosts to be watched are described wrongly.
    #[error(transparent)]
    Ping(pils::ConfigErrors),
    /// A parameter of a medium does not fit this machine.
    #[error("{medium}, {name} = {value}: {fix}")]
    Setting {
        /// The kind of medium.
        medium: String,
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        fix: &'static str,
    },
    /// The parameters of a medium are not those that its kind takes.
    #[error("the medium {medium}: {errors}")]
    Parameters {
        /// The kind of medium.
        medium: String,
        /// Every mistake.
        errors: pils::ConfigErrors,
    },
    /// There is no such kind of medium.
    #[error(transparent)]
    Kind(#[from] PluginError),
    /// The program that was started as a sentinel did not become one.
    #[error("the sentinel did not start: call ocf_comm::driver::sentinel::run_if_asked first thing in main")]
    NoSentinel,
    /// Anything else that the system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl SetupError {
    pub(crate) fn bind(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { address },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotHere { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            _ => Self::System { what: "cannot bind a udp socket", source },
        }
    }

    /// For `map_err`: names what was tried.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

/// Why a reactor no longer runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// Someone asked for it.
    #[error("stopped on request")]
    Requested,
    /// The layer or its host panicked: a defect. Its state is not touched again.
    #[error("stopped by a panic: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The system refused to wait for events.
    #[error("stopped because waiting for events failed: {message}")]
    System {
        /// What the system said.
        message: String,
    },
}
