//! Threads for agents of this program, kept for a while between operations, and one that watches their time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

/// How long a thread without work stays.
const KEPT: Duration = Duration::from_secs(10);

pub(super) type Job = Box<dyn FnOnce() + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits at most so long for a word.
fn wait<'a, T>(word: &Condvar, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
    word.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner).0
}

/// Runs jobs that may block, each at once: on a thread that has nothing to do, or on a new one.
#[derive(Clone, Default)]
pub(super) struct Workers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    word: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// Never more than there are threads without work.
    waiting: VecDeque<Job>,
    idle: usize,
}

impl Workers {
    /// # Errors
    /// If it needs a thread and none can be started; the job is gone.
    pub(super) fn run(&self, job: Job) -> io::Result<()> {
        let mut jobs = lock(&self.0.jobs);
        if jobs.idle > jobs.waiting.len() {
            jobs.waiting.push_back(job);
            drop(jobs);
            self.0.word.notify_one();
            return Ok(());
        }
        drop(jobs);
        let shared = Arc::clone(&self.0);
        let worker = thread::Builder::new().name("agent".to_owned()).spawn(move || {
            job();
            while let Some(job) = shared.next() {
                job();
            }
        });
        worker.map(drop)
    }
}

impl Shared {
    /// What a thread does next; nothing if there was nothing for long.
    fn next(&self) -> Option<Job> {
        let until = Instant::now() + KEPT;
        let mut jobs = lock(&self.jobs);
        jobs.idle += 1;
        let job = loop {
            if let Some(job) = jobs.waiting.pop_front() {
                break Some(job);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            jobs = wait(&self.word, jobs, left);
        };
        jobs.idle -= 1;
        job
    }
}

/// Does things at their time, unless they are forgotten before.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<Times>);

#[derive(Default)]
struct Times {
    due: Mutex<Due>,
    word: Condvar,
}

#[derive(Default)]
struct Due {
    acts: BTreeMap<Alarm, Job>,
    count: u64,
    /// Until when its thread sleeps, if there is one.
    sleeps: Option<Instant>,
}

/// A thing that is to be done: when, and the how many-th it is.
pub(super) type Alarm = (Instant, u64);

impl Clock {
    /// Does `act` at `at`, on a thread that others wait for: it must not block.
    ///
    /// # Errors
    /// If it needs a thread and none can be started; nothing is to be done then.
    pub(super) fn at(&self, at: Instant, act: Job) -> io::Result<Alarm> {
        let mut due = lock(&self.0.due);
        due.count += 1;
        let alarm = (at, due.count);
        due.acts.insert(alarm, act);
        match due.sleeps {
            Some(until) if until <= at => {}
            Some(_) => self.0.word.notify_one(),
            None => {
                let times = Arc::clone(&self.0);
                let spawned =
                    thread::Builder::new().name("agent-clock".to_owned()).spawn(move || times.run());
                if let Err(error) = spawned {
                    due.acts.remove(&alarm);
                    return Err(error);
                }
                // It begins with a look at what there is.
                due.sleeps = Some(Instant::now());
            }
        }
        Ok(alarm)
    }

    pub(super) fn forget(&self, alarm: Alarm) {
        let act = lock(&self.0.due).acts.remove(&alarm);
        // What it holds may want the clock.
        drop(act);
    }
}

impl Times {
    fn run(&self) {
        let mut due = lock(&self.due);
        let mut leaves_at = Instant::now() + KEPT;
        loop {
            let now = Instant::now();
            let first = due.acts.first_key_value().map(|(alarm, _)| *alarm);
            if first.is_some() {
                leaves_at = now + KEPT;
            }
            match first {
                Some(alarm) if alarm.0 <= now => {
                    let act = due.acts.remove(&alarm);
                    drop(due);
                    if let Some(act) = act {
                        act();
                    }
                    due = lock(&self.due);
                }
                None if leaves_at <= now => {
                    due.sleeps = None;
                    return;
                }
                first => {
                    let until = first.map_or(leaves_at, |alarm| alarm.0);
                    due.sleeps = Some(until);
                    due = wait(&self.word, due, until - now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc;
    use std::thread::ThreadId;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn who(workers: &Workers) -> ThreadId {
        let (say, said) = mpsc::channel();
        workers.run(Box::new(move || say.send(thread::current().id()).unwrap())).unwrap();
        let who = said.recv_timeout(PATIENCE).unwrap();
        while lock(&workers.0.jobs).idle == 0 {
            thread::yield_now();
        }
        who
    }

    #[test]
    fn a_thread_that_has_nothing_to_do_does_what_comes_next() {
        let workers = Workers::default();
        let first = who(&workers);
        assert!((0..100).all(|_| who(&workers) == first));
    }

    #[test]
    fn jobs_that_wait_for_each_other_run_at_once() {
        let workers = Workers::default();
        let meet = Arc::new(Barrier::new(9));
        // Twice, the second time on threads that are there.
        for _ in 0..2 {
            for _ in 0..8 {
                let meet = Arc::clone(&meet);
                let job = move || {
                    meet.wait();
                };
                workers.run(Box::new(job)).unwrap();
            }
            meet.wait();
        }
    }

    #[test]
    fn alarms_come_in_the_order_of_their_times_and_not_once_they_are_forgotten() {
        let clock = Clock::default();
        let (say, said) = mpsc::channel();
        let start = Instant::now();
        let alarm = |ms: u64| {
            let say = say.clone();
            let at = start + Duration::from_millis(ms);
            clock.at(at, Box::new(move || say.send((ms, Instant::now() >= at)).unwrap())).unwrap()
        };
        // The thread sleeps until the last of them at first.
        let last = alarm(60_000);
        let _third = alarm(90);
        let forgotten = alarm(80);
        let _second = alarm(70);
        let _first = alarm(50);
        clock.forget(forgotten);
        clock.forget(last);
        let came: Vec<(u64, bool)> = (0..3).map(|_| said.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(came, [(50, true), (70, true), (90, true)]);
        assert!(said.try_recv().is_err());
    }
}
