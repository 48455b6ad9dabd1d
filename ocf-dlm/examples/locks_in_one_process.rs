//! Threads of one process share a lock manager: wait, convert, pass a value on. `cargo run -p ocf-dlm --example
//! locks_in_one_process`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use ocf_dlm::{Ask, Config, Flags, LocalLocks, LockError, Mode, ValueBlock};
use std::error::Error;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let space = LocalLocks::default().open("orders", Config::default())?;

    // NL keeps the resource, and with it the value, while nobody else has it.
    let keeper = space.client()?;
    let _kept = keeper.lock("count", Mode::Nl)?;

    // Four threads add to one number that travels in the value block.
    thread::scope(|scope| {
        for _ in 0..4 {
            let client = space.client().expect("a few clients");
            scope.spawn(move || add(&client, 1000).expect("nobody loses its node here"));
        }
    });

    let reader = space.client()?;
    let mut guard = reader.lock_with("count", Mode::Pr, &Ask { flags: Flags::VALBLK, ..Ask::default() })?;
    println!("counted to {}", guard.value().map_or(0, ValueBlock::number));

    // Another reader is fine, a writer is not, until the first reader steps down.
    let writer = space.client()?;
    assert!(writer.try_lock("count", Mode::Pr).is_ok());
    assert!(matches!(writer.try_lock("count", Mode::Ex), Err(LockError::WouldBlock)));
    guard.downgrade(Mode::Nl, None)?;
    let exclusive = writer.lock("count", Mode::Ex)?;
    println!("written under token {}", exclusive.token()?);
    Ok(())
}

fn add(client: &ocf_dlm::Client, times: u64) -> Result<(), LockError> {
    let ask = Ask { flags: Flags::VALBLK, ..Ask::default() };
    for _ in 0..times {
        let guard = client.lock_with("count", Mode::Ex, &ask)?;
        let value = *guard.value().expect("VALBLK was set");
        guard.release(Some(&value.with_number(value.number() + 1)))?;
    }
    Ok(())
}
