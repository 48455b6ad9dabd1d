//! Where threads run.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::thread;

/// The processors that this process may use.
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the system tells the affinity");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Runs `work` on a new thread that stays on the processors `cpus`, as do the threads that it starts.
pub fn on<R: Send>(cpus: &[usize], work: impl FnOnce() -> R + Send) -> R {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    thread::scope(|scope| {
        let pinned = scope.spawn(move || {
            sched_setaffinity(None, &set).expect("a processor of this process can be chosen");
            work()
        });
        pinned.join().expect("the measurement did not panic")
    })
}

/// Runs `work` with everything on one processor: the steadiest latencies, since none is woken from idle.
pub fn on_one<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    on(&processors()[..1], work)
}

/// Runs `work` on two processors, if there are two: what all throughput figures use.
pub fn on_two<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let cpus = processors();
    on(&cpus[..cpus.len().min(2)], work)
}
