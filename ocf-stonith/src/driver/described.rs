//! What agents say about themselves, for those who check a configuration.

use super::AgentQueryError;
use crate::agent::Metadata;
use core::fmt;
use core::time::Duration;
use parking_lot::Mutex;
use pils::process::Runner;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

/// The longest time an agent gets to describe itself. One that does not is not checked: it may fence well.
pub(super) const ASK_MAX: Duration = Duration::from_secs(10);

/// Takes what an agent said.
pub(super) type Said = Box<dyn FnOnce(Result<Metadata, AgentQueryError>) + Send>;

/// `None` once it did not describe itself.
type Answer = Arc<OnceLock<Option<Arc<Metadata>>>>;

/// Descriptions by program, each asked for once, and those of several programs at the same time. Clones share.
#[derive(Clone, Default)]
pub(super) struct Described(Arc<Mutex<BTreeMap<PathBuf, Answer>>>);

impl fmt::Debug for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

impl Described {
    /// The description of `program`, which `query` asks for if that was not done before. Blocks for [`ASK_MAX`] at most.
    pub(super) fn get(&self, program: &Path, query: impl FnOnce(&Runner, Said)) -> Option<Arc<Metadata>> {
        let answer = Arc::clone(self.0.lock().entry(program.to_owned()).or_default());
        let described = answer.get_or_init(|| {
            let described = ask(query).map(Arc::new);
            if let Err(error) = &described {
                tracing::warn!(agent = %program.display(), error, "its parameters are not checked");
            }
            described.ok()
        });
        described.clone()
    }
}

fn ask(query: impl FnOnce(&Runner, Said)) -> Result<Metadata, String> {
    let runner = Runner::new(1).map_err(|error| error.to_string())?;
    let (tell, told) = channel();
    // nobody listens any more if it took too long
    query(&runner, Box::new(move |said| tell.send(said).unwrap_or(())));
    match told.recv_timeout(ASK_MAX) {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_late) => Err(format!("it does not describe itself within {ASK_MAX:?}")),
    }
}
