use super::{Plugin, PluginError, PluginHandler, PluginInfo, Registry, Source};
use core::any::type_name;
use core::fmt;
use parking_lot::RwLock;
use std::sync::Arc;

/// The plug-in type of handlers, whose handler is the only one built in.
pub const HANDLERS: &str = "PluginHandler";

/// All plug-ins of a program, of any type. Cheap to clone; clones share. Several may exist in one process.
#[derive(Clone)]
pub struct Universe {
    handlers: Arc<Registry<dyn PluginHandler>>,
    missing: Arc<RwLock<Option<MissingHandler>>>,
}

/// Asked for the handler of a type that has none: adds it, or says why it cannot.
type MissingHandler = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

impl fmt::Debug for Universe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Universe").field("handlers", &self.handlers).finish_non_exhaustive()
    }
}

impl Default for Universe {
    fn default() -> Self {
        Self::new()
    }
}

impl Universe {
    /// A universe with the handler of handlers and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self { handlers: Arc::new(Registry::new(HANDLERS)), missing: Arc::default() }
    }

    /// Has `load` called with the name of a type that has no handler, before that is an error: it adds the handler, or says
    /// why it cannot. A [`Loader`](super::Loader) does this.
    pub fn on_missing_handler(&self, load: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
        *self.missing.write() = Some(Arc::new(load));
    }

    /// Introduces a plug-in type: a [`Registry`] becomes its handler, and is also returned for typed use.
    ///
    /// # Errors
    /// [`PluginError::Duplicate`] if the type has a handler, [`PluginError::BadName`]; nothing changed.
    pub fn add_type<T>(&self, plugin_type: &str) -> Result<Arc<Registry<T>>, PluginError>
    where
        T: ?Sized + Send + Sync + 'static,
    {
        let registry = Arc::new(Registry::new(plugin_type));
        self.add_handler(Arc::clone(&registry) as Arc<dyn PluginHandler>, env!("CARGO_PKG_VERSION"))?;
        Ok(registry)
    }

    /// Introduces a plug-in type with a handler of its own making.
    ///
    /// # Errors
    /// [`PluginError::Duplicate`] if the type has a handler, [`PluginError::BadName`]; nothing changed.
    pub fn add_handler(&self, handler: Arc<dyn PluginHandler>, version: &str) -> Result<(), PluginError> {
        let name = handler.plugin_type().to_owned();
        if name == HANDLERS {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            return Err(PluginError::Duplicate { plugin_type: HANDLERS.to_owned(), name, version });
        }
        self.handlers.register(&name, version, handler)
    }

    /// Registers a plug-in with the handler of its type.
    ///
    /// # Errors
    /// [`PluginError::NoHandler`] if the type was not introduced, and those of [`PluginHandler::register`].
    pub fn register<T>(
        &self,
        plugin_type: &str,
        name: &str,
        version: &str,
        source: impl Into<Source<T>>,
    ) -> Result<(), PluginError>
    where
        T: ?Sized + Send + Sync + 'static,
    {
        self.handler(plugin_type)?.register(name, version, Box::new(source.into()))
    }

    /// Removes a plug-in. Of the type [`HANDLERS`]: removes a plug-in type; a plug-in that another thread registers for it at
    /// the same time may go with it.
    ///
    /// # Errors
    /// [`PluginError::NoHandler`], [`PluginError::Unknown`]; [`PluginError::InUse`] while someone holds the plug-in, or
    /// while the type has plug-ins. Nothing changed.
    pub fn unregister(&self, plugin_type: &str, name: &str) -> Result<(), PluginError> {
        if plugin_type != HANDLERS {
            return self.handler(plugin_type)?.unregister(name);
        }
        let references = self.handler(name)?.list().len();
        if references > 0 {
            let (plugin_type, name) = (plugin_type.to_owned(), name.to_owned());
            return Err(PluginError::InUse { plugin_type, name, references });
        }
        self.handlers.unregister(name)
    }

    /// Takes a plug-in into use.
    ///
    /// # Errors
    /// [`PluginError::NoHandler`], [`PluginError::Unknown`], or [`PluginError::WrongTrait`] if the type's plug-ins are not
    /// a `T`.
    pub fn get<T>(&self, plugin_type: &str, name: &str) -> Result<Plugin<T>, PluginError>
    where
        T: ?Sized + Send + Sync + 'static,
    {
        let plugin = self.handler(plugin_type)?.get(name)?;
        let asked = type_name::<T>();
        plugin
            .downcast::<Plugin<T>>()
            .map(|plugin| *plugin)
            .map_err(|_other| PluginError::WrongTrait { plugin_type: plugin_type.to_owned(), asked })
    }

    /// The plug-in types, ordered by name, the type of handlers first.
    #[must_use]
    pub fn types(&self) -> Vec<PluginInfo> {
        let itself = PluginInfo {
            plugin_type: HANDLERS.to_owned(),
            name: HANDLERS.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            references: 0,
        };
        let mut all = vec![itself];
        all.extend(self.handlers.list());
        for info in &mut all {
            info.references = if info.name == HANDLERS {
                self.handlers.list().len()
            } else {
                self.handlers.get(&info.name).map_or(0, |handler| handler.list().len())
            };
        }
        all
    }

    /// The plug-ins of one type, ordered by name.
    ///
    /// # Errors
    /// [`PluginError::NoHandler`].
    pub fn list(&self, plugin_type: &str) -> Result<Vec<PluginInfo>, PluginError> {
        if plugin_type == HANDLERS { Ok(self.types()) } else { Ok(self.handler(plugin_type)?.list()) }
    }

    /// The handler of a type, loaded if it is missing and somebody can.
    fn handler(&self, plugin_type: &str) -> Result<Plugin<dyn PluginHandler>, PluginError> {
        if let Ok(handler) = self.handlers.get(plugin_type) {
            return Ok(handler);
        }
        let load = self.missing.read().clone();
        let reason = match load.map(|load| load(plugin_type)) {
            Some(Ok(())) => match self.handlers.get(plugin_type) {
                Ok(handler) => return Ok(handler),
                Err(_unknown) => "what was loaded brought no handler".to_owned(),
            },
            Some(Err(reason)) => reason,
            None => String::new(),
        };
        let known = self.types().into_iter().map(|info| info.name).collect();
        Err(PluginError::NoHandler { plugin_type: plugin_type.to_owned(), known, reason })
    }
}
