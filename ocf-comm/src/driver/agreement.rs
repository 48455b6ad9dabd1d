use crate::crypto::{Agreeing, EphemeralKey, KeyAgreement, X25519};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::fmt;
use std::task::Poll;
use std::thread;

/// Key pairs that are made in advance.
const READY: usize = 8;
/// Tasks that may wait; what goes beyond is done at once, on the caller's thread.
const TASKS_MAX: usize = 512;
/// Of the thread: everything else on the processor goes first.
const NICE: i32 = 19;

/// X25519 on a thread of its own, which yields to everything else on the machine: a change of the cluster's key costs no
/// message the 50 to 100 µs that an agreement takes. Handshakes of new circuits are computed where they are needed.
///
/// The thread ends when this is dropped. Where none can be started, everything is computed at once.
pub struct Agreement {
    direct: X25519,
    beside: Option<Beside>,
}

/// The thread: what it is to do, and what it has ready.
struct Beside {
    tasks: Sender<Task>,
    ready: Receiver<Box<dyn EphemeralKey>>,
}

enum Task {
    Generate,
    Agree { key: Box<dyn EphemeralKey>, peer: [u8; 32], to: Sender<Option<[u8; 32]>> },
}

impl Agreement {
    /// Starts the thread.
    #[must_use]
    pub fn start() -> Self {
        let (tasks, waiting) = bounded(TASKS_MAX);
        let (give, ready) = bounded(READY);
        let thread = thread::Builder::new().name("ocf-keys".to_owned());
        let started = thread.spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
                tracing::debug!(%error, "the thread for keys competes with others");
            }
            work(&waiting, &give);
        });
        let beside = match started {
            Ok(_detached) => Some(Beside { tasks, ready }),
            Err(error) => {
                tracing::warn!(%error, "no thread for keys");
                None
            }
        };
        Self { direct: X25519::new(), beside }
    }
}

/// Keeps key pairs ready and does tasks, until nobody can give any.
fn work(tasks: &Receiver<Task>, ready: &Sender<Box<dyn EphemeralKey>>) {
    let mut random = X25519::new();
    loop {
        while !ready.is_full()
            && let Some(key) = random.generate()
        {
            if ready.try_send(key).is_err() {
                break;
            }
        }
        match tasks.recv() {
            Ok(Task::Generate) => {}
            // Who asked may have lost the circuit meanwhile.
            Ok(Task::Agree { key, peer, to }) => drop(to.try_send(key.agree(&peer))),
            Err(_closed) => return,
        }
    }
}

impl KeyAgreement for Agreement {
    fn generate(&mut self) -> Option<Box<dyn EphemeralKey>> {
        let ready = self.beside.as_ref().and_then(|beside| {
            let key = beside.ready.try_recv().ok()?;
            // If it is full, the thread looks after each task anyway.
            drop(beside.tasks.try_send(Task::Generate));
            Some(key)
        });
        ready.or_else(|| self.direct.generate())
    }

    fn agree_in_time(&mut self, key: Box<dyn EphemeralKey>, peer: [u8; 32]) -> Box<dyn Agreeing> {
        let Some(beside) = &self.beside else { return self.direct.agree_in_time(key, peer) };
        let (to, result) = bounded(1);
        match beside.tasks.try_send(Task::Agree { key, peer, to }) {
            Ok(()) => Box::new(Waiting(result)),
            Err(refused) => match refused.into_inner() {
                Task::Agree { key, peer, .. } => self.direct.agree_in_time(key, peer),
                Task::Generate => Box::new(Waiting(result)),
            },
        }
    }
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreement").finish_non_exhaustive()
    }
}

/// The result of a task, once it is there.
struct Waiting(Receiver<Option<[u8; 32]>>);

impl Agreeing for Waiting {
    fn poll(&mut self) -> Poll<Option<[u8; 32]>> {
        match self.0.try_recv() {
            Ok(secret) => Poll::Ready(secret),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn wait(mut work: Box<dyn Agreeing>) -> Option<[u8; 32]> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match work.poll() {
                Poll::Ready(secret) => return secret,
                Poll::Pending => assert!(Instant::now() < end, "the thread does its work"),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn more_agreements_than_keys_are_ready_come_out_alike_at_both_ends_and_a_null_key_is_refused() {
        let (mut a, mut b) = (Agreement::start(), Agreement::start());
        let pairs: Vec<_> = (0..3 * READY)
            .map(|_| {
                let (mine, theirs) = (a.generate().unwrap(), b.generate().unwrap());
                let (mine_public, theirs_public) = (mine.public(), theirs.public());
                (a.agree_in_time(mine, theirs_public), theirs.agree(&mine_public))
            })
            .collect();
        for (beside, direct) in pairs {
            let secret = wait(beside);
            assert!(secret.is_some());
            assert_eq!(secret, direct);
        }
        let key = a.generate().unwrap();
        assert_eq!(wait(a.agree_in_time(key, [0; 32])), None);
    }

    #[test]
    fn without_a_thread_it_is_computed_at_once() {
        let mut alone = Agreement { direct: X25519::new(), beside: None };
        let (a, b) = (alone.generate().unwrap(), alone.generate().unwrap());
        let (pa, pb) = (a.public(), b.public());
        let Poll::Ready(secret) = alone.agree_in_time(a, pb).poll() else { panic!("it was left to nobody") };
        assert_eq!(secret, b.agree(&pa));
    }
}
