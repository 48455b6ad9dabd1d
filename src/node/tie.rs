use crossbeam_channel::{Receiver, Sender, bounded};
use ocf_membership::{Ballot, Claim, Grant, TieBreaker, Verdict};
use std::{io, thread};

/// What may wait for the tie-breaker. There is one claim at a time, and news may be lost.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
enum Job {
    Ask(Claim),
    Note(Grant),
}

/// Asks the tie-breaker on a thread of its own, because it may be far away.
#[derive(Debug)]
pub(super) struct Decider {
    queue: Sender<Job>,
}

impl Decider {
    /// Starts the thread; `done` is called on it with each answer.
    pub(super) fn start(
        mut breaker: Box<dyn TieBreaker>,
        done: impl Fn(Ballot, Verdict) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs): (_, Receiver<Job>) = bounded(WAITING_MAX);
        thread::Builder::new().name("ocf-tie".to_owned()).spawn(move || {
            for job in jobs {
                match job {
                    Job::Ask(claim) => {
                        let verdict = breaker.claim(&claim);
                        tracing::info!(breaker = breaker.name(), ?claim, ?verdict, "an even split");
                        done(claim.ballot, verdict);
                    }
                    Job::Note(view) => breaker.note(&view),
                }
            }
        })?;
        Ok(Self { queue })
    }

    /// Queues a claim. False if too many wait.
    pub(super) fn ask(&self, claim: Claim) -> bool {
        self.queue.try_send(Job::Ask(claim)).is_ok()
    }

    /// Queues news.
    pub(super) fn note(&self, view: Grant) {
        if self.queue.try_send(Job::Note(view)).is_err() {
            tracing::warn!("the tie-breaker is busy and is not told of a view");
        }
    }
}
