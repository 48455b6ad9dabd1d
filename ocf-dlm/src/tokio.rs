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
use crate::guard::LockGuard;
use crate::mode::Mode;
use crate::pending::Pending;

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
pub async fn wait(mut request: Pending) -> Result<LockGuard, LockError> {
    while let Some(rest) = request.rest() {
        match tokio::time::timeout(rest, &mut request).await {
            Ok(outcome) => return outcome,
            Err(_nothing_yet) => request.see_to_it(),
        }
    }
    request.await
}
