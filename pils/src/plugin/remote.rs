use super::PluginError;
use crate::Value;
use crate::codec::xmlrpc::Fault;
use core::fmt;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A plug-in that is called by the names of methods, with values: whatever lies behind it, a dynamic module or a program.
/// An adapter makes the trait of its plug-in type of it.
pub trait Remote: Send + Sync {
    /// What it said of itself when it was loaded.
    fn description(&self) -> &Description;

    /// Calls a method, and waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    fn call(&self, method: &str, params: &[Value]) -> Result<Value, CallError>;

    /// As [`call`](Self::call), but waits for this long. A program that does not answer by then is ended; a module cannot be
    /// interrupted, and takes as long as it takes.
    ///
    /// # Errors
    /// See [`CallError`].
    fn call_within(&self, method: &str, params: &[Value], limit: Duration) -> Result<Value, CallError> {
        let _ = limit;
        self.call(method, params)
    }
}

/// The other side of [`Remote`]: what a module or a program implements. One call at a time.
pub trait Callee: Send {
    /// Answers a call.
    ///
    /// # Errors
    /// A fault that the caller gets; [`Fault::METHOD_NOT_FOUND`] for a method that it does not know.
    fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Fault>;
}

/// What a plug-in says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// The type it is a plug-in of.
    pub plugin_type: String,
    /// Its name, unique in its type.
    pub name: String,
    /// Its own version, for people.
    pub version: String,
    /// The version of the type's interface that it was made for.
    pub interface: Interface,
    /// The methods that it has: all that can be called.
    pub methods: BTreeSet<String>,
}

/// The version of what a plug-in type asks of its plug-ins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Interface {
    /// Raised when a plug-in made for the one before does not work any more.
    pub major: u16,
    /// Raised when something was added that a plug-in may use.
    pub minor: u16,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a plug-in type asks of plug-ins that are loaded: all of one type have the same capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    /// The interface of this program. A plug-in made for the same major version and no newer minor one is taken.
    pub interface: Interface,
    /// The methods that each has.
    pub methods: BTreeSet<String>,
}

impl Contract {
    /// A contract.
    #[must_use]
    pub fn new<'a>(interface: Interface, methods: impl IntoIterator<Item = &'a str>) -> Self {
        Self { interface, methods: methods.into_iter().map(ToOwned::to_owned).collect() }
    }

    /// Checks a description.
    ///
    /// # Errors
    /// [`PluginError::Interface`] or [`PluginError::Incapable`].
    pub fn check(&self, description: &Description) -> Result<(), PluginError> {
        let Description { plugin_type, name, interface, methods, .. } = description;
        let (plugin_type, name) = (plugin_type.clone(), name.clone());
        if interface.major != self.interface.major || interface.minor > self.interface.minor {
            let (theirs, ours) = (*interface, self.interface);
            return Err(PluginError::Interface { plugin_type, name, theirs, ours });
        }
        let missing: Vec<String> = self.methods.difference(methods).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(PluginError::Incapable { plugin_type, name, missing }) }
    }
}

/// Why a call of a loaded plug-in has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The plug-in says no.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It does not export this method.
    #[error("{name} has no method {method:?}")]
    NoMethod {
        /// The plug-in.
        name: String,
        /// What was called.
        method: String,
    },
    /// It panicked, and goes on.
    #[error("the plug-in panicked: {0}")]
    Panicked(String),
    /// The answer cannot be read, or the arguments cannot be written.
    #[error("the call cannot be carried: {0}")]
    Broken(String),
    /// No answer in time. A program was ended; what a module does is not known.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Who called does not wait any longer. What was done is not known.
    #[error("the call was cancelled")]
    Cancelled,
    /// So many calls have no answer yet: the plug-in hangs, or is asked for too much. It was not called.
    #[error("{0} calls have no answer yet")]
    Busy(usize),
    /// The program ended. It is started again for the next call, unless that happened too often.
    #[error("the program ended: {0}")]
    Gone(String),
}

/// Makes a `T` of a plug-in that was loaded.
pub type Adapter<T> = Arc<dyn Fn(Arc<dyn Remote>) -> Arc<T> + Send + Sync>;

/// Refuses what is not exported, before anything is asked.
#[cfg(any(feature = "dynamic", feature = "process"))]
pub(super) fn check_method(description: &Description, method: &str) -> Result<(), CallError> {
    if description.methods.contains(method) {
        return Ok(());
    }
    Err(CallError::NoMethod { name: description.name.clone(), method: method.to_owned() })
}
