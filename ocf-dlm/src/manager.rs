//! Lockspaces by name.

use crate::config::Config;
use crate::lockspace::{Clock, Lockspace, OpenError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Gives lockspaces by name. The seam between those who lock and those who provide: one process alone
/// ([`LocalLocks`]), or the nodes of a cluster.
pub trait LockManager: Send + Sync {
    /// The lockspace of that name, made if it is not there.
    ///
    /// # Errors
    /// If the name or the configuration cannot be, or it is there with another configuration.
    fn open(&self, name: &str, config: Config) -> Result<Lockspace, OpenError>;

    /// The lockspaces that are open, by name.
    fn open_names(&self) -> Vec<String>;

    /// Forgets a lockspace: the next [`LockManager::open`] makes a new one. Handles of the old one stay good. False if there
    /// is none.
    fn close(&self, name: &str) -> bool;
}

/// Lockspaces of one process, without any cluster: every resource is mastered here, and this node may always act unless
/// [`Lockspace::set_primary`] says otherwise.
pub struct LocalLocks {
    seed: u64,
    clock: Arc<dyn Clock>,
    spaces: Mutex<BTreeMap<String, Lockspace>>,
}

impl LocalLocks {
    /// None yet. `seed`: of hash tables, a secret of the process; `clock`: for waits with an end.
    #[must_use]
    pub fn new(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self { seed, clock, spaces: Mutex::new(BTreeMap::new()) }
    }
}

impl LockManager for LocalLocks {
    fn open(&self, name: &str, config: Config) -> Result<Lockspace, OpenError> {
        let mut spaces = self.spaces.lock();
        if let Some(space) = spaces.get(name) {
            return if *space.config() == config { Ok(space.clone()) } else { Err(OpenError::Differs) };
        }
        let seed = crate::name::hash(self.seed, name.as_bytes());
        let space = Lockspace::new(name, config, seed, Arc::clone(&self.clock), None)?;
        spaces.insert(name.to_owned(), space.clone());
        Ok(space)
    }

    fn open_names(&self) -> Vec<String> {
        self.spaces.lock().keys().cloned().collect()
    }

    fn close(&self, name: &str) -> bool {
        self.spaces.lock().remove(name).is_some()
    }
}

impl core::fmt::Debug for LocalLocks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LocalLocks").field("spaces", &self.open_names()).finish()
    }
}
