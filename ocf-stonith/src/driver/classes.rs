use super::{
    AddressClass, ExternalClass, FenceAgentClass, ManualClass, NoneClass, SbdClass, ScsiClass,
    SimulatedClass, WatchdogClass, remote,
};
use crate::{Config, DeviceConfig, FenceDevice};
use core::fmt;
use pils::ConfigErrors;
use pils::plugin::{Loader, Plugin, PluginError, Registry, Universe};
use pils::process::Runner;
use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Devices that are checked at the same time: a program that takes long to describe itself holds up no other.
const CHECKS_MAX: usize = 16;

/// A kind of fence device: turns a piece of configuration into a device. Object-safe.
pub trait DeviceClass: Send + Sync + fmt::Debug {
    /// Its name in `DeviceConfig::class`.
    fn name(&self) -> &str;

    /// One line about it, for people.
    fn describe(&self) -> &str;

    /// Adds everything that is wrong with a device of this class, seen from this machine. Paths start at the device.
    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors);

    /// Makes the device. Does not talk to it.
    ///
    /// # Errors
    /// What makes it impossible to make one. That a program is not installed (now) is not among it.
    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors>;
}

/// The plug-in type of device classes.
///
/// A class in a module or a program has four methods. Each but `about` gets a struct of the device first: `name`,
/// `parameters` (a struct of texts), `nodes` (a list of `{node, plug}`, or nil for all).
///
/// | method | answer |
/// |---|---|
/// | `about` | one line of text |
/// | `check` | a list of `{path, value, problem, fix}`, one for each mistake, empty if there is none; `path` such as `parameters.ip` |
/// | `capabilities` | `{actions, verifies_off}`: which of `off`, `reboot`, `on`, `status`, `monitor`, `list`, and whether an `off` is read back |
/// | `execute` | gets the order second: `{action, node, plug, timeout_ms}`. `{read_back, detail}` with `off`, `on`, `trusted` or `not_read`, see [`ReadBack`](crate::ReadBack); for `list` `{hosts}`. A fault is a failure |
///
/// An `execute` that takes longer than `timeout_ms` has failed, whatever it answers later; a program is ended and started
/// again. Calls of one program or module come one after the other: give a class whose devices take long a program of its
/// own. `examples/file_switch.py` and `examples/file_switch_module.rs` are models.
pub const FENCE_CLASS: &str = "fence-class";

/// The classes a node knows, by name: a plug-in type of `pils`. Cheap to clone; clones share.
///
/// The default has `fence_agent`, `external`, `sbd`, `address`, `scsi`,
/// `simulated`, `manual`, `watchdog` and `none`. Others are
/// compiled in ([`Classes::add`]), or loaded from a module or program by the [`Loader`], by name when a configuration asks
/// for them and one of the loader's folders has them. [`FENCE_CLASS`] says how to write one.
#[derive(Clone)]
pub struct Classes {
    loader: Loader,
    registry: Arc<Registry<dyn DeviceClass>>,
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classes").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self::new(&Loader::new(&Universe::new())).expect("a new universe has no plug-in type yet")
    }
}

impl Classes {
    /// Introduces the plug-in type to the universe of `loader`, with the classes of this crate.
    ///
    /// # Errors
    /// [`PluginError::Duplicate`] if it has the type already.
    pub fn new(loader: &Loader) -> Result<Self, PluginError> {
        let registry = loader.add_type(FENCE_CLASS, remote::contract(), remote::class)?;
        let classes = Self { loader: loader.clone(), registry };
        classes.add(Arc::new(FenceAgentClass::default()))?;
        classes.add(Arc::new(ExternalClass::default()))?;
        classes.add(Arc::new(SbdClass))?;
        classes.add(Arc::new(AddressClass))?;
        classes.add(Arc::new(ScsiClass))?;
        classes.add(Arc::new(SimulatedClass::default()))?;
        classes.add(Arc::new(ManualClass))?;
        classes.add(Arc::new(WatchdogClass))?;
        classes.add(Arc::new(NoneClass))?;
        Ok(classes)
    }

    /// Adds a class that is compiled in, in place of the one that has its name.
    ///
    /// # Errors
    /// [`PluginError::BadName`]; [`PluginError::InUse`] while somebody holds the other. Nothing changed.
    pub fn add(&self, class: Arc<dyn DeviceClass>) -> Result<(), PluginError> {
        let name = class.name().to_owned();
        self.registry.replace(&name, env!("CARGO_PKG_VERSION"), class)
    }

    /// What loads further classes.
    #[must_use]
    pub const fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The class of this name. One that is not known is loaded, if a folder of the loader has it.
    ///
    /// # Errors
    /// One, at the path `class`.
    pub fn find(&self, name: &str) -> Result<Plugin<dyn DeviceClass>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if let Ok(class) = self.registry.get(name) {
            return Ok(class);
        }
        if !self.loader.available(FENCE_CLASS).iter().any(|there| there == name) {
            errors.push("class", name, "is not known", self.known());
            return Err(errors);
        }
        match self.loader.load(FENCE_CLASS, name).map(|_loaded| self.registry.get(name)) {
            Ok(Ok(class)) => return Ok(class),
            Ok(Err(_brought_others)) => {
                errors.push("class", name, "is not in what was loaded for it", self.known());
            }
            Err(error) => errors.push("class", name, error.to_string(), "mend or replace the plug-in"),
        }
        Err(errors)
    }

    /// The names of all classes, those included that could be loaded, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let known = self.registry.list().into_iter().map(|info| info.name);
        let all: BTreeSet<String> = known.chain(self.loader.available(FENCE_CLASS)).collect();
        all.into_iter().collect()
    }

    /// Checks a configuration, with a look at this machine: are the agents installed, and do they know their parameters?
    /// Sixteen devices at a time, each program asked once: blocks for 10 s for each sixteen programs that do not describe themselves.
    ///
    /// # Errors
    /// All errors at once, those of [`Config::check`] included.
    pub fn check(&self, config: &Config) -> Result<(), ConfigErrors> {
        let mut errors = config.check().err().unwrap_or_default();
        let devices: Vec<_> =
            config.devices.iter().enumerate().filter(|(_, device)| !device.class.is_empty()).collect();
        let next = AtomicUsize::new(0);
        let some = || {
            let mut found = Vec::new();
            while let Some((place, device)) = devices.get(next.fetch_add(1, Ordering::Relaxed)) {
                found.push((*place, self.check_device(device)));
            }
            found
        };
        let mut found: Vec<_> = thread::scope(|scope| {
            let others: Vec<_> = (1..devices.len().min(CHECKS_MAX)).map(|_| scope.spawn(some)).collect();
            let own = some();
            let of_others = others
                .into_iter()
                .flat_map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            own.into_iter().chain(of_others).collect()
        });
        found.sort_by_key(|(place, _)| *place);
        for (place, own) in found {
            errors.nest(&format!("devices[{place}]"), own);
        }
        errors.into_result()
    }

    fn check_device(&self, device: &DeviceConfig) -> ConfigErrors {
        match self.find(&device.class) {
            Ok(class) => {
                let mut errors = ConfigErrors::default();
                class.check(device, &mut errors);
                errors
            }
            Err(unknown) => unknown,
        }
    }

    fn known(&self) -> String {
        format!("choose one of {}", self.names().join(", "))
    }
}

/// Adds an error for each parameter that is not among `known`.
pub(super) fn refuse_others(device: &DeviceConfig, known: &[&str], errors: &mut ConfigErrors) {
    for (name, _) in device.parameters.iter().filter(|(name, _)| !known.contains(name)) {
        let fix = if known.is_empty() {
            "leave it out".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        errors.push(format!("parameters.{name}"), "", "is not a parameter of this class", fix);
    }
}
