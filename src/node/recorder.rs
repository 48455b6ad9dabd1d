use crate::store::RecordStore;
use bytes::Bytes;
use core::convert::Infallible;
use core::time::Duration;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ocf_membership::PersistToken;
use ocf_resource::Kept;
use pils::durable;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

/// Records that may wait to be written. Membership writes one per view change and waits for it, so two are plenty.
const WAITING_MAX: usize = 64;
/// How long the end of a node waits until what was agreed on is kept.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Writes view records on a thread of its own, because flushing a disk may take long.
#[derive(Debug)]
pub(super) struct Recorder {
    queue: Sender<(PersistToken, Bytes)>,
}

impl Recorder {
    /// Starts the thread; `done` is called on it after each write, with what became of it.
    pub(super) fn start(
        mut store: Box<dyn RecordStore>,
        done: impl Fn(PersistToken, io::Result<()>) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, records): (_, Receiver<(PersistToken, Bytes)>) = bounded(WAITING_MAX);
        thread::Builder::new().name("ocf-record".to_owned()).spawn(move || {
            for (token, record) in records {
                let written = store.save(&record);
                if let Err(error) = &written {
                    tracing::error!(%error, "the view record could not be written");
                }
                done(token, written);
            }
        })?;
        Ok(Self { queue })
    }

    /// Queues a record. False if too many wait: the disk hangs.
    pub(super) fn write(&self, token: PersistToken, record: Bytes) -> bool {
        self.queue.try_send((token, record)).is_ok()
    }
}

/// Keeps what the cluster agreed to run in a file, for the next life of the node.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The newest one; one that was not written yet is of no use any more.
    newest: Sender<Kept>,
    older: Receiver<Kept>,
    /// Ends with the thread.
    written: Receiver<Infallible>,
}

impl Keeper {
    /// Starts a thread that writes, because flushing a disk may take long.
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (newest, waiting) = bounded::<Kept>(1);
        let older = waiting.clone();
        let (done, written) = bounded(0);
        thread::Builder::new().name("ocf-keep".to_owned()).spawn(move || {
            for kept in waiting {
                if let Err(error) = write(&path, &kept) {
                    tracing::error!(%error, path = %path.display(), "what was agreed on to run could not be kept");
                }
            }
            drop(done);
        })?;
        Ok(Self { newest, older, written })
    }

    /// Has this written in place of what was kept before.
    pub(super) fn keep(&self, mut kept: Kept) {
        while let Err(full) = self.newest.try_send(kept) {
            kept = full.into_inner();
            let _older: Option<Kept> = self.older.try_recv().ok();
        }
    }

    /// Waits until all of it is written, so that a node that ends in order does not end before. Not for ever: the disk may hang.
    pub(super) fn close(self) {
        let Self { newest, written, .. } = self;
        drop(newest);
        if written.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("what was agreed on to run is not kept: the disk takes too long");
        }
    }
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(kept)?;
    durable::replace(path, 0o600, &text).map(drop)
}

/// What an earlier life has kept, if there is something.
pub(super) fn kept(path: &Path) -> io::Result<Option<Kept>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_resource::{Config, GroupConfig, ResourceConfig};

    #[test]
    fn the_newest_of_what_was_agreed_on_is_there_after_a_restart() {
        let path = std::env::temp_dir().join(format!("ocf-kept-{}", std::process::id()));
        assert_eq!(kept(&path).unwrap(), None);
        let of = |revision| {
            let resource = ResourceConfig::new("r", "rust:x".parse().unwrap());
            let groups = vec![GroupConfig::new("g", vec![resource])];
            Kept {
                config: Config { revision, groups, ..Config::default() },
                removing: ["r".to_owned()].into(),
            }
        };
        let keeper = Keeper::start(path.clone()).unwrap();
        (1..=50).for_each(|revision| keeper.keep(of(revision)));
        keeper.close();
        assert_eq!(kept(&path).unwrap(), Some(of(50)), "it is there once the node has ended");
        fs::write(&path, "{").unwrap();
        assert!(kept(&path).is_err(), "what cannot be read is not taken for nothing");
        fs::remove_file(&path).unwrap();
    }
}
