use super::{AddressClass, ExternalClass, FenceAgentClass, ManualClass, NoneClass, SbdClass, SimulatedClass};
use crate::{Config, DeviceConfig, FenceDevice};
use core::fmt;
use pils::ConfigErrors;
use pils::process::Runner;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kind of fence device: turns a piece of configuration into a device. Object-safe.
pub trait DeviceClass: Send + Sync + fmt::Debug {
    /// Its name in `DeviceConfig::class`.
    fn name(&self) -> &'static str;

    /// One line about it, for people.
    fn describe(&self) -> &'static str;

    /// Adds everything that is wrong with a device of this class, seen from this machine. Paths start at the device.
    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors);

    /// Makes the device. Does not talk to it.
    ///
    /// # Errors
    /// What makes it impossible to make one. That a program is not installed (now) is not among it.
    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors>;
}

/// The classes a node knows, by name. The default has `fence_agent`, `external`, `sbd`, `address`, `simulated`,
/// `manual` and `none`.
#[derive(Clone, Debug)]
pub struct Classes {
    classes: BTreeMap<&'static str, Arc<dyn DeviceClass>>,
}

impl Default for Classes {
    fn default() -> Self {
        let mut classes = Self { classes: BTreeMap::new() };
        classes.add(Arc::new(FenceAgentClass));
        classes.add(Arc::new(ExternalClass));
        classes.add(Arc::new(SbdClass));
        classes.add(Arc::new(AddressClass));
        classes.add(Arc::new(SimulatedClass::default()));
        classes.add(Arc::new(ManualClass));
        classes.add(Arc::new(NoneClass));
        classes
    }
}

impl Classes {
    /// Adds a class, in place of the one that has its name.
    pub fn add(&mut self, class: Arc<dyn DeviceClass>) {
        self.classes.insert(class.name(), class);
    }

    /// The class of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<dyn DeviceClass>> {
        self.classes.get(name)
    }

    /// All classes, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn DeviceClass>> {
        self.classes.values()
    }

    /// Checks a configuration, with a look at this machine: are the agents installed?
    ///
    /// # Errors
    /// All errors at once, those of [`Config::check`] included.
    pub fn check(&self, config: &Config) -> Result<(), ConfigErrors> {
        let mut errors = config.check().err().unwrap_or_default();
        for (i, device) in config.devices.iter().enumerate() {
            let mut own = ConfigErrors::default();
            match self.find(&device.class) {
                Some(class) => class.check(device, &mut own),
                None if device.class.is_empty() => {}
                None => own.push("class", &device.class, "is not known", self.known()),
            }
            errors.nest(&format!("devices[{i}]"), own);
        }
        errors.into_result()
    }

    pub(super) fn known(&self) -> String {
        format!("choose one of {}", self.classes.keys().copied().collect::<Vec<_>>().join(", "))
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
