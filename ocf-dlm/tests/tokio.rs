//! Goal: tasks that await locks have them as threads that wait do, and however a task ends, no lock stays behind.
//!
//! Method: many tasks on the runtimes of several threads, some of which give up at random moments; then everything is free.
#![expect(clippy::disallowed_methods, reason = "the test is about threads")]

use ocf_dlm::{Ask, Client, Config, LocalLocks, LockError, Lockspace, Mode, Wait};
use pils::Rng;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it starts")
}

fn space(config: Config) -> Lockspace {
    LocalLocks::default().open("space", config).expect("a new one")
}

fn within(wait: Duration) -> Ask<'static> {
    Ask { wait: Wait::For(wait), ..Ask::default() }
}

/// Nobody has a lock on it, or waits for one.
fn is_free(client: &Client, name: &str) {
    let held = client.try_lock(name, Mode::Ex).expect("everything was given back");
    drop(held);
}

#[test]
fn tasks_of_many_threads_exclude_each_other_and_those_that_give_up_leave_nothing() {
    let space = space(Config::default());
    let inside = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let (space, inside) = (space.clone(), Arc::clone(&inside));
            thread::spawn(move || work(&space, &inside, seed))
        })
        .collect();
    let done: u32 = threads.into_iter().map(|thread| thread.join().expect("it ends")).sum();
    assert!(done > 0, "some were granted");
    let client = space.client().expect("there is room");
    for name in ["0", "1", "2"] {
        is_free(&client, name);
    }
    assert_eq!(space.waiting().len(), 0);
}

/// Runs tasks; returns how many had a lock.
fn work(space: &Lockspace, inside: &Arc<AtomicU32>, seed: u64) -> u32 {
    let granted = Rc::new(Cell::new(0));
    let local = tokio::task::LocalSet::new();
    for task in 0..40 {
        let client = space.client().expect("there is room");
        let (inside, granted) = (Arc::clone(inside), Rc::clone(&granted));
        local.spawn_local(async move {
            let mut rng = Rng::new(seed << 32 | task);
            for _ in 0..10 {
                let name = rng.below(3).to_string();
                let ask = within(PATIENCE);
                let lock = ocf_dlm::tokio::lock(&client, &name, Mode::Ex, &ask);
                let limit = Duration::from_micros(rng.below(400));
                // Dropped at any time: before it is queued, while it waits, when it has been granted.
                let Ok(lock) = tokio::time::timeout(limit, lock).await else { continue };
                let _held = lock.expect("nobody else ends it");
                let bit = 1 << name.parse::<u32>().expect("a number");
                assert_eq!(inside.fetch_or(bit, Ordering::SeqCst) & bit, 0, "two at a time");
                tokio::task::yield_now().await;
                inside.fetch_and(!bit, Ordering::SeqCst);
                granted.set(granted.get() + 1);
            }
        });
    }
    runtime().block_on(local);
    granted.get()
}

#[test]
fn an_awaited_request_ends_in_time_and_leaves_the_queue() {
    let space = space(Config::default());
    let (a, b) = (space.client().expect("room"), space.client().expect("room"));
    runtime().block_on(async {
        let held = ocf_dlm::tokio::lock(&a, "x", Mode::Ex, &Ask::default()).await.expect("free");
        let late = ocf_dlm::tokio::lock(&b, "x", Mode::Ex, &within(Duration::from_millis(20))).await;
        assert_eq!(late.err(), Some(LockError::TimedOut));
        assert_eq!(space.waiting().len(), 0);
        let refused =
            ocf_dlm::tokio::lock(&b, "x", Mode::Pr, &Ask { wait: Wait::No, ..Ask::default() }).await;
        assert_eq!(refused.err(), Some(LockError::WouldBlock));
        drop(held);
        drop(ocf_dlm::tokio::lock(&b, "x", Mode::Ex, &Ask::default()).await.expect("free"));
    });
}

#[test]
fn a_conversion_is_awaited_ends_in_time_and_gives_its_guard_back() {
    let space = space(Config::default());
    let (a, b) = (space.client().expect("room"), space.client().expect("room"));
    runtime().block_on(async {
        let mine = ocf_dlm::tokio::lock(&a, "x", Mode::Pr, &Ask::default()).await.expect("free");
        let theirs = ocf_dlm::tokio::lock(&b, "x", Mode::Pr, &Ask::default()).await.expect("PR beside PR");
        let limit = within(Duration::from_millis(20));
        let (mine, end) = ocf_dlm::tokio::convert(mine, Mode::Ex, &limit).await;
        assert_eq!((mine.mode(), end), (Mode::Pr, Err(LockError::TimedOut)));
        let mut conversion = mine.convert_later(Mode::Ex, &Ask::default());
        // A task that looks at something else meanwhile keeps it.
        let early = tokio::time::timeout(Duration::from_millis(1), &mut conversion).await;
        assert!(early.is_err());
        drop(theirs);
        let (mine, end) = ocf_dlm::tokio::wait_conversion(conversion).await;
        assert_eq!((mine.mode(), end), (Mode::Ex, Ok(())));
        drop(mine);
    });
    is_free(&b, "x");
}

#[test]
fn a_deadlock_between_tasks_ends_though_nobody_waits_in_a_call() {
    let space = space(Config { deadlock_after: Duration::from_millis(20), ..Config::default() });
    let client = || space.client().expect("room");
    let take = async |client: Client, first: &'static str, second: &'static str| {
        let first = ocf_dlm::tokio::lock(&client, first, Mode::Ex, &Ask::default()).await?;
        tokio::task::yield_now().await;
        let second = ocf_dlm::tokio::lock(&client, second, Mode::Ex, &Ask::default()).await?;
        drop((first, second));
        Ok::<(), LockError>(())
    };
    let (one, other) = (client(), client());
    let local = tokio::task::LocalSet::new();
    let ends = runtime().block_on(local.run_until(async move {
        let one = tokio::task::spawn_local(take(one, "x", "y"));
        let other = tokio::task::spawn_local(take(other, "y", "x"));
        [one.await.expect("it ends"), other.await.expect("it ends")]
    }));
    let denied = ends.iter().filter(|end| **end == Err(LockError::Deadlock)).count();
    assert_eq!((denied, ends.iter().filter(|end| end.is_ok()).count()), (1, 1), "{ends:?}");
}

#[test]
fn a_task_that_is_aborted_with_a_granted_lock_that_it_never_saw_gives_it_back() {
    let space = space(Config::default());
    let (a, b) = (space.client().expect("room"), space.client().expect("room"));
    let held = a.lock("x", Mode::Ex).expect("free");
    let local = tokio::task::LocalSet::new();
    runtime().block_on(local.run_until(async {
        let task = tokio::task::spawn_local(async move {
            ocf_dlm::tokio::lock(&b, "x", Mode::Ex, &Ask::default()).await.map(drop)
        });
        while space.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        // Granted now, and its task is not polled again.
        drop(held);
        task.abort();
        assert!(task.await.expect_err("it was aborted").is_cancelled());
    }));
    is_free(&a, "x");
}
