use crate::store::RecordStore;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use ocf_membership::PersistToken;
use std::io;
use std::thread;

/// Records that may wait to be written. Membership writes one per view change and waits for it, so two are plenty.
const WAITING_MAX: usize = 64;

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
