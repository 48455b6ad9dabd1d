//! Plug-ins that come from outside of the program.

use super::remote::{Adapter, Contract, Description, Remote};
use super::{HANDLERS, PluginError, Registry, Source, Universe};
use core::fmt;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Modules and programs loaded at one time.
pub const MODULES_MAX: usize = 1024;
/// Plug-ins of one module or program.
pub const PLUGINS_MAX: usize = 256;

/// Loads modules and programs, and registers their plug-ins in a [`Universe`], beside those that are compiled in.
///
/// A module registers all its plug-ins or none. Its code stays as long as anybody uses one of them, and goes with
/// [`unload`](Self::unload). What is loaded, and what each may be used for, is checked before: interface version and
/// capabilities against the [`Contract`] of the type. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    universe: Universe,
    types: RwLock<BTreeMap<String, Arc<TypeEntry>>>,
    modules: Mutex<BTreeMap<String, Entry>>,
    folders: RwLock<Vec<PathBuf>>,
    /// Handlers that are being loaded, so that a module that needs itself ends in an error.
    loading: Mutex<BTreeSet<String>>,
}

/// Registers a loaded plug-in with the handler of its type.
type Registrar = Box<dyn Fn(&Universe, Arc<dyn Remote>) -> Result<(), PluginError> + Send + Sync>;

struct TypeEntry {
    contract: Contract,
    register: Registrar,
}

struct Entry {
    info: ModuleInfo,
    /// Kept to register them again if not all can be unregistered.
    plugins: Vec<Arc<dyn Remote>>,
}

/// What is known of a loaded module or program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModuleInfo {
    /// What [`Loader::unload`] is told: the path it came from.
    pub name: String,
    /// `module` or `program`.
    pub kind: String,
    /// Its plug-ins, as they described themselves.
    pub plugins: Vec<Description>,
}

/// Why a module or program cannot be loaded or unloaded. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It cannot be opened, started, or does not speak as it should.
    #[error("{name}: {reason}")]
    Unusable {
        /// The module.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// One of its plug-ins cannot be registered.
    #[error("{name}: {source}")]
    Plugin {
        /// The module.
        name: String,
        /// Why.
        source: PluginError,
    },
    /// It is loaded already.
    #[error("{0} is loaded already; unload it first")]
    Loaded(String),
    /// There is no such module.
    #[error("{name} is not loaded; loaded: {}", super::known_list(loaded))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        loaded: Vec<String>,
    },
    /// [`MODULES_MAX`] are loaded, or it has more than [`PLUGINS_MAX`] plug-ins.
    #[error("{0}: too many modules or plug-ins")]
    TooMany(String),
}

impl Loader {
    /// A loader that registers in `universe`, and is asked by it for handlers that are missing.
    #[must_use]
    pub fn new(universe: &Universe) -> Self {
        let inner = Arc::new(Inner {
            universe: universe.clone(),
            types: RwLock::default(),
            modules: Mutex::default(),
            folders: RwLock::default(),
            loading: Mutex::default(),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        universe.on_missing_handler(move |plugin_type| match weak.upgrade() {
            Some(inner) => Self { inner }.load_handler(plugin_type),
            None => Err("the loader is gone".to_owned()),
        });
        Self { inner }
    }

    /// Introduces a plug-in type whose plug-ins may be loaded: as [`Universe::add_type`], with what is asked of them and how
    /// the trait is made of one.
    ///
    /// # Errors
    /// Those of [`Universe::add_type`].
    pub fn add_type<T>(
        &self,
        plugin_type: &str,
        contract: Contract,
        adapter: impl Fn(Arc<dyn Remote>) -> Arc<T> + Send + Sync + 'static,
    ) -> Result<Arc<Registry<T>>, PluginError>
    where
        T: ?Sized + Send + Sync + 'static,
    {
        let registry = self.inner.universe.add_type::<T>(plugin_type)?;
        self.open_type(plugin_type, contract, Arc::new(adapter));
        Ok(registry)
    }

    /// Lets plug-ins of a type that the universe has already be loaded, or replaces how that is done.
    pub fn open_type<T>(&self, plugin_type: &str, contract: Contract, adapter: Adapter<T>)
    where
        T: ?Sized + Send + Sync + 'static,
    {
        let register: Registrar = Box::new(move |universe, remote| {
            let Description { plugin_type, name, version, .. } = remote.description().clone();
            universe.register::<T>(&plugin_type, &name, &version, Source::Shared(adapter(remote)))
        });
        let entry = Arc::new(TypeEntry { contract, register });
        self.inner.types.write().insert(plugin_type.to_owned(), entry);
    }

    /// Adds a folder where plug-ins are looked for by [`load`](Self::load): the module `<folder>/<type>/<name>.so`, or the
    /// program `<folder>/<type>/<name>`; the earliest added first, each folder once. A missing handler is
    /// `<folder>/PluginHandler/<type>.so`.
    pub fn add_folder(&self, folder: impl Into<PathBuf>) {
        let (folder, mut folders) = (folder.into(), self.inner.folders.write());
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }

    /// The folders, in the order in which they are looked at.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        self.inner.folders.read().clone()
    }

    /// The names of the modules and programs in the folders for one type, sorted, each once.
    #[must_use]
    pub fn available(&self, plugin_type: &str) -> Vec<String> {
        let mut names = BTreeSet::new();
        for folder in self.inner.folders.read().iter() {
            for entry in std::fs::read_dir(folder.join(plugin_type)).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = if is_module(&path) { path.file_stem() } else { path.file_name() };
                if let Some(name) = name.and_then(|name| name.to_str())
                    && (is_module(&path) || is_program(&path))
                {
                    names.insert(name.to_owned());
                }
            }
        }
        names.into_iter().collect()
    }

    /// The file of a module or program, if a folder has it.
    fn find(&self, plugin_type: &str, name: &str) -> Option<PathBuf> {
        let plain = |part: &str| !part.is_empty() && !part.contains('/') && part != "." && part != "..";
        if !plain(plugin_type) || !plain(name) {
            return None;
        }
        let folders = self.inner.folders.read();
        let places = folders.iter().map(|folder| folder.join(plugin_type));
        let mut files = places.flat_map(|place| [place.join(format!("{name}.so")), place.join(name)]);
        files.find(|file| if is_module(file) { file.is_file() } else { is_program(file) })
    }

    /// Loads the module of a missing handler. It says, as a plug-in of the type [`HANDLERS`] named like the new type, which
    /// methods each plug-in of that type has; those plug-ins are then called by method, as `dyn Remote`.
    fn load_handler(&self, plugin_type: &str) -> Result<(), String> {
        let Some(file) = self.find(HANDLERS, plugin_type).filter(|file| is_module(file)) else {
            let folders = self.inner.folders.read();
            let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(format!("no module {HANDLERS}/{plugin_type}.so in {}", super::known_list(&shown)));
        };
        if !self.inner.loading.lock().insert(plugin_type.to_owned()) {
            return Err(format!("{} is being loaded, and needs itself", file.display()));
        }
        let loaded = self.load_module_dyn(&file).map(drop).map_err(|error| error.to_string());
        self.inner.loading.lock().remove(plugin_type);
        loaded
    }

    #[cfg(feature = "dynamic")]
    fn load_module_dyn(&self, file: &Path) -> Result<ModuleInfo, LoadError> {
        self.load_module(file)
    }

    #[cfg(not(feature = "dynamic"))]
    #[expect(clippy::unused_self, reason = "the other form uses it")]
    fn load_module_dyn(&self, file: &Path) -> Result<ModuleInfo, LoadError> {
        let reason = "this program was built without dynamic modules (feature dynamic of pils)".to_owned();
        Err(LoadError::Unusable { name: file.display().to_string(), reason })
    }

    #[cfg(feature = "process")]
    fn start_program_dyn(&self, file: PathBuf) -> Result<ModuleInfo, LoadError> {
        let env = vec![("PATH".into(), super::program::PATH.into())];
        self.start_program(super::Program { env, restarts_max: u32::MAX, ..super::Program::new(file) })
    }

    #[cfg(not(feature = "process"))]
    #[expect(clippy::unused_self, reason = "the other form uses it")]
    fn start_program_dyn(&self, file: PathBuf) -> Result<ModuleInfo, LoadError> {
        let reason = "this program was built without plug-in programs (feature process of pils)".to_owned();
        Err(LoadError::Unusable { name: file.display().to_string(), reason })
    }

    /// Loads the module `<folder>/<type>/<name>.so`, or starts the program `<folder>/<type>/<name>`, of the first folder that
    /// has one. The program gets no arguments, and of the environment the usual search path; whenever it ended, the next
    /// call starts it again.
    ///
    /// # Errors
    /// See [`LoadError`]; all its plug-ins are registered or none.
    pub fn load(&self, plugin_type: &str, name: &str) -> Result<ModuleInfo, LoadError> {
        match self.find(plugin_type, name) {
            Some(file) if is_module(&file) => self.load_module_dyn(&file),
            Some(file) => self.start_program_dyn(file),
            None => Err(LoadError::Unusable {
                name: format!("{plugin_type}/{name}"),
                reason: format!(
                    "is in no folder; there are {}",
                    super::known_list(&self.available(plugin_type))
                ),
            }),
        }
    }

    /// Loads a dynamic module and registers its plug-ins.
    ///
    /// Loading runs the module's code in this process: only load what you trust as you trust this program.
    ///
    /// # Errors
    /// See [`LoadError`]; all its plug-ins are registered or none.
    #[cfg(feature = "dynamic")]
    pub fn load_module(&self, file: &Path) -> Result<ModuleInfo, LoadError> {
        let name = file.display().to_string();
        self.check_new(&name)?;
        let plugins = super::dynamic::load(file)
            .map_err(|reason| LoadError::Unusable { name: name.clone(), reason })?;
        self.take(name, "module", plugins)
    }

    /// Starts a program that speaks on its standard streams, and registers its plug-ins.
    ///
    /// # Errors
    /// See [`LoadError`]; all its plug-ins are registered or none.
    #[cfg(feature = "process")]
    pub fn start_program(&self, program: super::Program) -> Result<ModuleInfo, LoadError> {
        let name = program.program.display().to_string();
        self.check_new(&name)?;
        let plugins = super::program::start(program)
            .map_err(|reason| LoadError::Unusable { name: name.clone(), reason })?;
        self.take(name, "program", plugins)
    }

    /// Unregisters the plug-ins of a module or program, and lets go of its code.
    ///
    /// # Errors
    /// [`LoadError::Unknown`]; [`LoadError::Plugin`] while one of its plug-ins is in use, or, of a handler, while its type
    /// has plug-ins. Nothing changed.
    pub fn unload(&self, name: &str) -> Result<(), LoadError> {
        let mut modules = self.inner.modules.lock();
        let Some(entry) = modules.remove(name) else {
            let loaded = modules.keys().cloned().collect();
            return Err(LoadError::Unknown { name: name.to_owned(), loaded });
        };
        // what is called from here may come back to this loader
        drop(modules);
        match self.unregister_all(&entry.plugins) {
            // the code goes with the last plug-in
            Ok(()) => drop(entry),
            Err(source) => {
                self.inner.modules.lock().insert(name.to_owned(), entry);
                return Err(LoadError::Plugin { name: name.to_owned(), source });
            }
        }
        tracing::debug!(name, "module unloaded");
        Ok(())
    }

    /// In the opposite order of their registration; all or none.
    fn unregister_all(&self, plugins: &[Arc<dyn Remote>]) -> Result<(), PluginError> {
        for (i, plugin) in plugins.iter().enumerate().rev() {
            let description = plugin.description();
            if let Err(error) = self.inner.universe.unregister(&description.plugin_type, &description.name) {
                for again in &plugins[i + 1..] {
                    // its name was free a moment ago; whoever took it since has it
                    self.register(again).unwrap_or_else(|error| tracing::warn!(%error, "plug-in is lost"));
                }
                return Err(error);
            }
            if description.plugin_type == HANDLERS {
                self.inner.types.write().remove(&description.name);
            }
        }
        Ok(())
    }

    /// What is loaded, ordered by name.
    #[must_use]
    pub fn list(&self) -> Vec<ModuleInfo> {
        self.inner.modules.lock().values().map(|entry| entry.info.clone()).collect()
    }

    #[cfg(any(feature = "dynamic", feature = "process"))]
    fn check_new(&self, name: &str) -> Result<(), LoadError> {
        let modules = self.inner.modules.lock();
        if modules.contains_key(name) {
            return Err(LoadError::Loaded(name.to_owned()));
        }
        if modules.len() >= MODULES_MAX { Err(LoadError::TooMany(name.to_owned())) } else { Ok(()) }
    }

    #[cfg(any(feature = "dynamic", feature = "process"))]
    fn take(&self, name: String, kind: &str, plugins: Vec<Arc<dyn Remote>>) -> Result<ModuleInfo, LoadError> {
        if plugins.len() > PLUGINS_MAX {
            return Err(LoadError::TooMany(name));
        }
        for (i, plugin) in plugins.iter().enumerate() {
            if let Err(source) = self.register(plugin) {
                for done in plugins[..i].iter().rev() {
                    let description = done.description();
                    let undone = self.inner.universe.unregister(&description.plugin_type, &description.name);
                    undone.unwrap_or_else(|error| tracing::warn!(%error, "plug-in stays"));
                }
                return Err(LoadError::Plugin { name, source });
            }
        }
        let described = plugins.iter().map(|plugin| plugin.description().clone()).collect();
        let info = ModuleInfo { name: name.clone(), kind: kind.to_owned(), plugins: described };
        tracing::debug!(name, kind, plugins = plugins.len(), "module loaded");
        self.inner.modules.lock().insert(name, Entry { info: info.clone(), plugins });
        Ok(info)
    }

    fn register(&self, plugin: &Arc<dyn Remote>) -> Result<(), PluginError> {
        let description = plugin.description();
        if description.plugin_type == HANDLERS {
            return self.add_handler(description);
        }
        // asks for the handler, which may load it
        self.inner.universe.list(&description.plugin_type)?;
        let entry = self.inner.types.read().get(&description.plugin_type).cloned();
        let Some(entry) = entry else {
            return Err(PluginError::NotLoadable { plugin_type: description.plugin_type.clone() });
        };
        entry.contract.check(description)?;
        (entry.register)(&self.inner.universe, Arc::clone(plugin))
    }

    /// A handler that was loaded: its methods are what each plug-in of its type has.
    fn add_handler(&self, description: &Description) -> Result<(), PluginError> {
        let contract = Contract { interface: description.interface, methods: description.methods.clone() };
        let registry = Arc::new(Registry::<dyn Remote>::new(&description.name));
        self.inner.universe.add_handler(registry, &description.version)?;
        self.open_type::<dyn Remote>(&description.name, contract, Arc::new(|remote| remote));
        Ok(())
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("modules", &self.list()).finish_non_exhaustive()
    }
}

/// True if the file, if there is one, is a module by its name.
fn is_module(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "so")
}

/// True if the file is there and may be run.
fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Reads what a module or program says its plug-ins are.
#[cfg(any(feature = "dynamic", feature = "process"))]
pub(super) fn descriptions(value: crate::Value) -> Result<Vec<Description>, String> {
    let all: Vec<Description> =
        crate::value::from_value(value).map_err(|error| format!("its description is wrong: {error}"))?;
    if all.is_empty() {
        return Err("it has no plug-ins".to_owned());
    }
    Ok(all)
}
