use super::{HANDLERS, PluginError, PluginHandler, PluginInfo};
use core::any::{Any, type_name};
use core::fmt;
use core::ops::Deref;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The plug-ins of one type, by name. Thread-safe; a lookup is O(log plug-ins).
///
/// ```
/// use pils::plugin::{Registry, Source};
/// let shells: Registry<str> = Registry::new("shell");
/// shells.register("sh", "1", Source::shared("/bin/sh"))?;
/// let held = shells.get("sh")?;
/// assert_eq!(&*held, "/bin/sh");
/// assert_eq!(shells.unregister("sh").unwrap_err().to_string(), "shell \"sh\" is in use, reference count 1");
/// drop(held);
/// shells.unregister("sh")?;
/// # Ok::<(), pils::plugin::PluginError>(())
/// ```
pub struct Registry<T: ?Sized> {
    plugin_type: String,
    plugins: RwLock<BTreeMap<String, Arc<Entry<T>>>>,
}

/// What is registered: one instance that all share, or a factory that makes one for each who asks.
pub enum Source<T: ?Sized> {
    /// One for all.
    Shared(Arc<T>),
    /// A new one for each [`Registry::get`].
    Factory(Factory<T>),
}

/// Makes a new instance of a plug-in.
pub type Factory<T> = Box<dyn Fn() -> Arc<T> + Send + Sync>;

/// A plug-in in use: as long as this or a clone of it lives, the plug-in cannot be unregistered.
pub struct Plugin<T: ?Sized> {
    instance: Arc<T>,
    entry: Arc<Entry<T>>,
}

struct Entry<T: ?Sized> {
    name: String,
    version: String,
    source: Source<T>,
}

impl<T: ?Sized> Registry<T> {
    /// An empty registry. `plugin_type` is the noun that errors use: `fence device class`.
    #[must_use]
    pub fn new(plugin_type: impl Into<String>) -> Self {
        Self { plugin_type: plugin_type.into(), plugins: RwLock::default() }
    }

    /// The noun.
    #[must_use]
    pub fn plugin_type(&self) -> &str {
        &self.plugin_type
    }

    /// Adds a plug-in: an `Arc<T>`, or a [`Source`].
    ///
    /// # Errors
    /// [`PluginError::Duplicate`] or [`PluginError::BadName`]; nothing changed.
    pub fn register(
        &self,
        name: &str,
        version: &str,
        source: impl Into<Source<T>>,
    ) -> Result<(), PluginError> {
        let (plugin_type, name) = (self.plugin_type.clone(), name.to_owned());
        if !is_name(&name, plugin_type == HANDLERS) {
            return Err(PluginError::BadName { plugin_type, name });
        }
        let source = source.into();
        let mut plugins = self.plugins.write();
        if let Some(there) = plugins.get(&name) {
            return Err(PluginError::Duplicate { plugin_type, name, version: there.version.clone() });
        }
        tracing::debug!(plugin_type, name, version, "plug-in registered");
        plugins.insert(name.clone(), Arc::new(Entry { name, version: version.to_owned(), source }));
        Ok(())
    }

    /// Adds a plug-in in place of the one that has its name, if there is one.
    ///
    /// # Errors
    /// [`PluginError::InUse`] while a [`Plugin`] of the other lives, or [`PluginError::BadName`]; nothing changed.
    pub fn replace(
        &self,
        name: &str,
        version: &str,
        source: impl Into<Source<T>>,
    ) -> Result<(), PluginError> {
        match self.unregister(name) {
            Ok(()) | Err(PluginError::Unknown { .. }) => self.register(name, version, source),
            Err(error) => Err(error),
        }
    }

    /// Removes a plug-in.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], or [`PluginError::InUse`] while a [`Plugin`] of it lives; nothing changed.
    pub fn unregister(&self, name: &str) -> Result<(), PluginError> {
        let mut plugins = self.plugins.write();
        let entry = plugins.get(name).ok_or_else(|| self.unknown(name, &plugins))?;
        // whoever could clone the last reference holds one, and no new one can come from here
        let references = Arc::strong_count(entry) - 1;
        if references > 0 {
            let (plugin_type, name) = (self.plugin_type.clone(), name.to_owned());
            return Err(PluginError::InUse { plugin_type, name, references });
        }
        let removed = plugins.remove(name);
        drop(plugins);
        tracing::debug!(plugin_type = self.plugin_type, name, "plug-in unregistered");
        // its destructor may call back
        drop(removed);
        Ok(())
    }

    /// Takes a plug-in into use.
    ///
    /// # Errors
    /// [`PluginError::Unknown`], which lists what there is.
    pub fn get(&self, name: &str) -> Result<Plugin<T>, PluginError> {
        let plugins = self.plugins.read();
        let entry = Arc::clone(plugins.get(name).ok_or_else(|| self.unknown(name, &plugins))?);
        drop(plugins);
        let instance = match &entry.source {
            Source::Shared(instance) => Arc::clone(instance),
            Source::Factory(make) => make(),
        };
        Ok(Plugin { instance, entry })
    }

    /// What is registered, ordered by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginInfo> {
        self.plugins.read().values().map(|entry| self.info(entry)).collect()
    }

    /// What is known about one plug-in.
    ///
    /// # Errors
    /// [`PluginError::Unknown`].
    pub fn inspect(&self, name: &str) -> Result<PluginInfo, PluginError> {
        let plugins = self.plugins.read();
        plugins.get(name).map(|entry| self.info(entry)).ok_or_else(|| self.unknown(name, &plugins))
    }

    fn info(&self, entry: &Arc<Entry<T>>) -> PluginInfo {
        PluginInfo {
            plugin_type: self.plugin_type.clone(),
            name: entry.name.clone(),
            version: entry.version.clone(),
            references: Arc::strong_count(entry) - 1,
        }
    }

    fn unknown(&self, name: &str, plugins: &BTreeMap<String, Arc<Entry<T>>>) -> PluginError {
        let (plugin_type, name) = (self.plugin_type.clone(), name.to_owned());
        PluginError::Unknown { plugin_type, name, known: plugins.keys().cloned().collect() }
    }
}

fn is_name(name: &str, blanks: bool) -> bool {
    let plain = |word: &str| !word.is_empty() && !word.chars().any(|c| c.is_whitespace() || c.is_control());
    name.len() <= 64 && if blanks { name.split(' ').all(plain) } else { plain(name) }
}

impl<T: ?Sized + Send + Sync + 'static> PluginHandler for Registry<T> {
    fn plugin_type(&self) -> &str {
        self.plugin_type()
    }

    fn register(&self, name: &str, version: &str, source: Box<dyn Any>) -> Result<(), PluginError> {
        let source = source.downcast::<Source<T>>().map_err(|_other| PluginError::WrongTrait {
            plugin_type: self.plugin_type.clone(),
            asked: type_name::<T>(),
        })?;
        self.register(name, version, *source)
    }

    fn unregister(&self, name: &str) -> Result<(), PluginError> {
        self.unregister(name)
    }

    fn get(&self, name: &str) -> Result<Box<dyn Any>, PluginError> {
        Ok(Box::new(self.get(name)?))
    }

    fn list(&self) -> Vec<PluginInfo> {
        self.list()
    }
}

impl<T: ?Sized> Source<T> {
    /// One instance for all.
    pub fn shared(instance: impl Into<Arc<T>>) -> Self {
        Self::Shared(instance.into())
    }

    /// `make` makes an instance for each who asks. It may take long and may use the registry.
    pub fn factory(make: impl Fn() -> Arc<T> + Send + Sync + 'static) -> Self {
        Self::Factory(Box::new(make))
    }
}

impl<T: ?Sized> From<Arc<T>> for Source<T> {
    fn from(instance: Arc<T>) -> Self {
        Self::Shared(instance)
    }
}

impl<T: ?Sized> Plugin<T> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.entry.version
    }
}

impl<T: ?Sized> Clone for Plugin<T> {
    fn clone(&self) -> Self {
        Self { instance: Arc::clone(&self.instance), entry: Arc::clone(&self.entry) }
    }
}

impl<T: ?Sized> Deref for Plugin<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.instance
    }
}

impl<T: ?Sized> fmt::Debug for Plugin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl<T: ?Sized> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared(_) => "Shared",
            Self::Factory(_) => "Factory",
        })
    }
}

impl<T: ?Sized> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.plugin_type).field(&self.list()).finish()
    }
}
