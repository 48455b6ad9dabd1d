//! Plug-ins in dynamic modules: shared objects that this process loads.
//!
//! A module is written in safe Rust with [`export_module!`](crate::export_module), or in any language that can fill the C
//! structure [`Declaration`]. Values cross in the compact binary encoding, so neither side knows the other's types, compiler
//! or version; what the interface promises is in `abi.rs`, the one file with unsafe code of this crate.
//!
//! * A panic does not cross: it becomes [`CallError::Panicked`], and the plug-in goes on.
//! * A file that is no module, is cut short, or was made for another version of the interface is refused with the reason,
//!   before any code of it is called. Its initialisers run when it is opened, as those of any shared object: load only what
//!   you trust like this program.
//! * Globals are the module's own: its allocator, panic hook and log are not the host's. What it logs goes through
//!   [`Host`](abi::Host).
//! * Unloading unmaps the code once nobody uses it; but a module that started a thread, panicked, or has thread-locals with
//!   destructors is kept mapped by the system until the process ends. That is harmless; only the same path cannot be replaced
//!   by other code then. Put the version into the name of the file.

pub mod abi;
mod elf;

pub use abi::{Declaration, Module, open_plugin};

use super::loader::descriptions;
use super::remote::{CallError, Description, Remote, check_method};
use crate::Value;
use crate::codec::xmlrpc::Fault;
use crate::codec::{Binary, Limits, ValueCodec as _};
use abi::{Failure, Instance, Library};
use std::path::Path;
use std::sync::Arc;

/// Bytes of an answer.
pub const ANSWER_MAX: usize = 16 << 20;

fn limits() -> Limits {
    Limits { bytes_max: ANSWER_MAX, ..Limits::default() }
}

/// Loads a module and opens its plug-ins.
pub(super) fn load(file: &Path) -> Result<Vec<Arc<dyn Remote>>, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    elf::check(&bytes)?;
    let library = Arc::new(Library::open(file)?);
    let described = library.describe().map_err(|failure| failure.to_string())?;
    let value =
        Binary.decode(&described, &limits()).map_err(|error| format!("its description is wrong: {error}"))?;
    let open = |description: Description| {
        let name = &description.name;
        let instance = library
            .instance(&description)
            .map_err(|failure| format!("{name} cannot be opened: {failure}"))?;
        Ok(Arc::new(Plugin { description, instance }) as Arc<dyn Remote>)
    };
    descriptions(value)?.into_iter().map(open).collect()
}

/// One plug-in of a module.
struct Plugin {
    description: Description,
    instance: Instance,
}

impl Remote for Plugin {
    fn description(&self) -> &Description {
        &self.description
    }

    fn call(&self, method: &str, params: &[Value]) -> Result<Value, CallError> {
        check_method(&self.description, method)?;
        let request = Value::List(vec![method.into(), Value::from(params.to_vec())]);
        let request = Binary.encode(&request).map_err(|error| CallError::Broken(error.to_string()))?;
        match self.instance.call(&request) {
            Ok(answer) => {
                Binary.decode(&answer, &limits()).map_err(|error| CallError::Broken(error.to_string()))
            }
            Err(Failure::Fault(bytes)) => Err(read_fault(&bytes)),
            Err(Failure::Panicked(text)) => Err(CallError::Panicked(text)),
            Err(failure @ Failure::Broken(_)) => Err(CallError::Broken(failure.to_string())),
        }
    }
}

fn read_fault(bytes: &[u8]) -> CallError {
    let value = Binary.decode(bytes, &limits()).unwrap_or_default();
    let code = value.at(0).and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
    match (code, value.at(1).and_then(Value::as_text)) {
        (Some(code), Some(text)) => CallError::Fault(Fault { code, text: text.to_owned() }),
        _ => CallError::Broken("its fault cannot be read".to_owned()),
    }
}
