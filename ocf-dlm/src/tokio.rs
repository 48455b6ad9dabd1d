//! For programs on tokio. A [`Pending`] is a future for any executor; what an executor does not do for it is done here: a wait
//! ends in time, and deadlocks across resources are looked for, as those do who wait in a call.
//!
//! Dropping a future takes its request back, or releases its lock if it was granted meanwhile: a lock is never held by nobody.
//! An operation costs what it costs without tokio, and a timer while it waits. Nothing here needs more than one thread.
//!
//! ```
//! use ocf_dlm::{Ask, Config, LocalLocks, LockError, Mode, Wait};
//! use std::time::Duration;
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
//! let space = LocalLocks::default().open("accounts", Config::default())?;
//! let (alice, bob) = (space.client()?, space.client()?);
//! runtime.block_on(async {
//!     let mine = ocf_dlm::tokio::lock(&alice, "savings", Mode::Ex, &Ask::default()).await?;
//!     let wait = Ask { wait: Wait::For(Duration::from_millis(10)), ..Ask::default() };
//!     let late = ocf_dlm::tokio::lock(&bob, "savings", Mode::Ex, &wait).await;
//!     assert_eq!(late.err(), Some(LockError::TimedOut));
//!     drop(mine);
//!     ocf_dlm::tokio::lock(&bob, "savings", Mode::Ex, &wait).await.map(drop)
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::client::{Ask, Client, LockError};
use crate::guard::{Converted, LockGuard, PendingConversion};
use crate::mode::Mode;
use crate::pending::Pending;
use core::future::Future;
use core::time::Duration;

/// Locks the resource `name` in `mode` as `ask` says.
///
/// # Errors
/// As [`Client::lock_with`].
///
/// # Panics
/// Outside a runtime with time.
pub async fn lock(
    client: &Client,
    name: impl AsRef<[u8]>,
    mode: Mode,
    ask: &Ask<'_>,
) -> Result<LockGuard, LockError> {
    wait(client.lock_later(name, mode, ask)?).await
}

/// Awaits a request that was made before.
///
/// # Errors
/// As [`Client::lock_with`].
///
/// # Panics
/// Outside a runtime with time.
pub async fn wait(request: Pending) -> Result<LockGuard, LockError> {
    attend(request).await
}

/// Converts a lock as `ask` says. The guard comes back however it ends. A task that gives up meanwhile drops it, and so releases the
/// lock: whoever wants to keep that sets [`Ask::wait`], or cancels what [`LockGuard::convert_later`] gives.
///
/// # Panics
/// Outside a runtime with time.
pub async fn convert(guard: LockGuard, mode: Mode, ask: &Ask<'_>) -> Converted {
    wait_conversion(guard.convert_later(mode, ask)).await
}

/// Awaits a conversion that was begun before.
///
/// # Panics
/// Outside a runtime with time.
pub async fn wait_conversion(conversion: PendingConversion) -> Converted {
    attend(conversion).await
}

/// An operation that somebody must see to while it waits.
pub(crate) trait Attended: Future + Unpin {
    /// For how long there is nothing to do; `None`: it is over.
    fn rest(&mut self) -> Option<Duration>;

    /// Ends the wait if it is time, or looks for deadlocks.
    fn see_to_it(&mut self);
}

async fn attend<A: Attended>(mut operation: A) -> A::Output {
    while let Some(rest) = operation.rest() {
        match tokio::time::timeout(rest, &mut operation).await {
            Ok(end) => return end,
            Err(_nothing_yet) => operation.see_to_it(),
        }
    }
    operation.await
}
