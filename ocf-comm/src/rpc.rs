//! Calls of methods by name: one [`Dispatcher`], whatever carries the call.
//!
//! * [`Dispatcher`]: the methods, who may call them, introspection and `system.multicall`. Knows no transport.
//! * [`Calls`]: calls between nodes, to one, many or any, over every [`Connectivity`](crate::Connectivity).
//! * The local transport is in the module `local`, XML-RPC over HTTP in `http` (feature `http`).
//!
//! ```
//! use ocf_comm::rpc::{Access, Caller, Dispatcher, Method};
//! use pils::Value;
//! use pils::codec::xmlrpc::{Call, Fault};
//!
//! let dispatcher = Dispatcher::builder()
//!     .method(
//!         Method::new("math.add").help("Adds two numbers.").signature(["int", "int", "int"]),
//!         |_caller: &Caller, (a, b): (i64, i64)| a.checked_add(b).ok_or_else(|| Fault::application("too large")),
//!     )
//!     .method(Method::new("node.stop").access(Access::Control), |_: &Caller, (): ()| Ok(()))
//!     .build();
//! let call = Call { method: "math.add".to_owned(), params: vec![2.into(), 40.into()] };
//! assert_eq!(dispatcher.call_now(&Caller::Process, call), Some(Ok(Value::Int(42))));
//! ```
//!
//! The messages, states, limits and promises are in `RPC.md` of this crate.

mod body;
mod calls;
mod dispatcher;
mod introspect;
mod method;
mod reply;
pub(crate) mod wire;

pub use body::Body;
#[cfg(any(test, feature = "testing"))]
pub use calls::CallBug;
pub use calls::{
    CallError, CallId, CallLimits, CallOptions, CallStats, Calls, Completion, Need, Outcome, Output, Target,
    Ticket,
};
pub use dispatcher::{Builder, Dispatcher, Limits};
pub use method::{Access, Caller, Credentials, Method, Policy};
pub use pils::codec::xmlrpc::{Call, Fault};
pub use reply::{Reply, Responder};

/// Reads a message of calls between nodes, for fuzz targets: true if it is one.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn is_message(bytes: &bytes::Bytes) -> bool {
    wire::Message::parse(bytes, &pils::codec::Limits::default()).is_ok()
}
