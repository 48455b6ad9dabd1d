//! Holds a lock of the cluster while a command runs, as `flock(1)` holds one of a file:
//!
//! `lock --node /run/ocf/api backup -- rsync …`
//!
//! The node beside it (`[api] local` in its configuration) locks for it. The command finds the lock's token in `OCF_LOCK_TOKEN`, to
//! show to what the lock protects. Should this program be killed, the lock is held until the command ends; should the lock be
//! lost, the command is ended, unless told otherwise.
//!
//! The exit status is that of the command; 1 if the lock was not granted in time (`--conflict-exit-code`), 2 if something is
//! wrong, 3 if the lock was lost meanwhile.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run(std::env::args_os())
}
