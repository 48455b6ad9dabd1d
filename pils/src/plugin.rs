//! Plug-ins: named implementations of a trait, found at run time.
//!
//! A *plug-in* is one implementation, a *plug-in type* is what all implementations of one trait are called, and each type
//! has a *handler* that keeps its plug-ins. Handlers are plug-ins themselves, of the type [`HANDLERS`]; the handler of that
//! type, the handler of handlers, is the only thing a [`Universe`] has from the start.
//!
//! ```
//! use pils::plugin::Universe;
//! use std::sync::Arc;
//!
//! trait Greeting: Send + Sync {
//!     fn greet(&self) -> String;
//! }
//! struct Hello;
//! impl Greeting for Hello {
//!     fn greet(&self) -> String {
//!         "hello".to_owned()
//!     }
//! }
//!
//! let universe = Universe::new();
//! universe.add_type::<dyn Greeting>("greeting")?;
//! universe.register::<dyn Greeting>("greeting", "hello", "1.0", Arc::new(Hello) as Arc<dyn Greeting>)?;
//! assert_eq!(universe.get::<dyn Greeting>("greeting", "hello")?.greet(), "hello");
//! let error = universe.get::<dyn Greeting>("greeting", "bye").unwrap_err();
//! assert_eq!(error.to_string(), "no greeting \"bye\"; known: hello");
//! # Ok::<(), pils::plugin::PluginError>(())
//! ```
//!
//! A program that knows its plug-in types at compile time can use a [`Registry`] alone, without a universe.
//!
//! # Where plug-ins come from
//! There are three ways, and one registry:
//!
//! * compiled in, by [`Registry::register`];
//! * a dynamic module, a shared object with a stable C interface: [`Loader::load_module`] (feature `dynamic`), and
//!   [`export_module!`](crate::export_module) to write one;
//! * a program of its own, in any language, that answers XML-RPC on its standard streams: [`Loader::start_program`] (feature
//!   `process`), and [`serve`](program::serve) to write one in Rust.
//!
//! What comes in by the second and third way is a [`Remote`], called by the names of methods; the program says by a
//! [`Contract`] what each plug-in of a type must be able to do, and by an adapter how its trait is made of one. Plug-ins
//! are loaded by name, and a handler that is missing is looked for, in the loader's folders. An adapter whose trait must not
//! block calls through a [`Caller`].

#[cfg(feature = "process")]
mod caller;
#[cfg(feature = "dynamic")]
pub mod dynamic;
mod loader;
#[cfg(feature = "process")]
pub mod program;
mod registry;
mod remote;
mod universe;

#[cfg(feature = "process")]
pub use caller::{CALLS_MAX, Caller, PendingCall};
pub use loader::{LoadError, Loader, MODULES_MAX, ModuleInfo, PLUGINS_MAX};
#[cfg(feature = "process")]
pub use program::Program;
pub use registry::{Factory, Plugin, Registry, Source};
pub use remote::{Adapter, CallError, Callee, Contract, Description, Interface, Remote};
pub use universe::{HANDLERS, Universe};

use core::any::Any;

/// Keeps the plug-ins of one type. [`Registry`] is the one to use; another may check or announce what is registered.
pub trait PluginHandler: Send + Sync {
    /// The plug-in type it handles.
    fn plugin_type(&self) -> &str;

    /// Takes in a plug-in. `source` holds a [`Source`] of the handler's own trait.
    ///
    /// # Errors
    /// [`PluginError::WrongTrait`] if it holds something else, [`PluginError::Duplicate`], [`PluginError::BadName`];
    /// nothing changed.
    fn register(&self, name: &str, version: &str, source: Box<dyn Any>) -> Result<(), PluginError>;

    /// Forgets a plug-in.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], or [`PluginError::InUse`]; nothing changed.
    fn unregister(&self, name: &str) -> Result<(), PluginError>;

    /// A [`Plugin`] of the handler's own trait.
    ///
    /// # Errors
    /// [`PluginError::Unknown`].
    fn get(&self, name: &str) -> Result<Box<dyn Any>, PluginError>;

    /// What is registered, ordered by name.
    fn list(&self) -> Vec<PluginInfo>;
}

/// What is known about a plug-in without using it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PluginInfo {
    /// Its type.
    pub plugin_type: String,
    /// Its name, unique in its type.
    pub name: String,
    /// Its version, as it was registered.
    pub version: String,
    /// How many hold it now: it cannot be unregistered before all have let go. For a handler: its plug-ins.
    pub references: usize,
}

/// Why a plug-in cannot be registered, unregistered or found. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// There is no plug-in of this name.
    #[error("no {plugin_type} {name:?}; known: {}", known_list(known))]
    Unknown {
        /// Its type.
        plugin_type: String,
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// There is one of this name already. Unregister it first to replace it.
    #[error("{plugin_type} {name:?} is registered already, version {version}")]
    Duplicate {
        /// Its type.
        plugin_type: String,
        /// Its name.
        name: String,
        /// The version of the one that is there.
        version: String,
    },
    /// Someone holds it.
    #[error("{plugin_type} {name:?} is in use, reference count {references}")]
    InUse {
        /// Its type.
        plugin_type: String,
        /// Its name.
        name: String,
        /// How often.
        references: usize,
    },
    /// No handler of this plug-in type is registered, and none could be loaded.
    #[error(
        "no handler for plug-ins of type {plugin_type:?}{}; known types: {}",
        because(reason),
        known_list(known)
    )]
    NoHandler {
        /// The type that was asked for.
        plugin_type: String,
        /// The types that have a handler.
        known: Vec<String>,
        /// Why none could be loaded; empty if there is no loader.
        reason: String,
    },
    /// A loaded plug-in was made for another version of its type's interface.
    #[error(
        "{plugin_type} {name:?} was made for interface {theirs}, and this program has {ours}; install one made for it"
    )]
    Interface {
        /// Its type.
        plugin_type: String,
        /// Its name.
        name: String,
        /// What it was made for.
        theirs: Interface,
        /// What there is.
        ours: Interface,
    },
    /// A loaded plug-in lacks what each of its type must have.
    #[error("{plugin_type} {name:?} lacks {}", missing.join(", "))]
    Incapable {
        /// Its type.
        plugin_type: String,
        /// Its name.
        name: String,
        /// The methods that it does not have.
        missing: Vec<String>,
    },
    /// Plug-ins of this type can only be compiled in: nobody said how one that is loaded becomes its trait.
    #[error(
        "plug-ins of type {plugin_type:?} can only be compiled in: the program has no adapter for loaded ones"
    )]
    NotLoadable {
        /// The type.
        plugin_type: String,
    },
    /// Plug-ins of this type implement another trait than the caller said.
    #[error("plug-ins of type {plugin_type:?} are not what the caller takes them for, {asked}")]
    WrongTrait {
        /// The type.
        plugin_type: String,
        /// The trait that the caller named.
        asked: &'static str,
    },
    /// A name is 1 to 64 characters, no white space, no control characters; that of a type may hold single blanks.
    #[error("{name:?} is not a name for a {plugin_type}")]
    BadName {
        /// The type.
        plugin_type: String,
        /// The name.
        name: String,
    },
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn known_list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}
