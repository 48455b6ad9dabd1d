//! A storage service that refuses whoever comes too late, by the token of the lock. `cargo run -p ocf-dlm --example
//! lock_protects_storage`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use ocf_dlm::{Config, FencingToken, LocalLocks, Mode};
use std::error::Error;

/// What the lock protects. It knows nothing of locks but the highest token it has seen.
#[derive(Default)]
struct Storage {
    highest: FencingToken,
    content: String,
}

impl Storage {
    fn write(&mut self, token: FencingToken, content: &str) -> Result<(), String> {
        if token < self.highest {
            return Err(format!("token {token} is older than {}", self.highest));
        }
        (self.highest, self.content) = (token, content.to_owned());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let space = LocalLocks::default().open("disks", Config::default())?;
    let (slow, quick) = (space.client()?, space.client()?);
    let mut disk = Storage::default();

    let held = slow.lock("disk", Mode::Ex)?;
    let token = held.token()?; // checked here, used below: any time may pass in between
    disk.write(token, "first")?;

    // The slow one hangs. An operator has made sure that it is to lose the lock; the quick one gets it.
    space.force_release(held.id(), "its host does not answer")?;
    let next = quick.lock("disk", Mode::Ex)?;
    disk.write(next.token()?, "second")?;

    // The slow one wakes up and goes on where it was.
    let refused = disk.write(token, "stale").expect_err("it came too late");
    println!("refused: {refused}");
    println!("content: {}", disk.content);
    assert_eq!(disk.content, "second");

    // A node that is cut off from the others knows it without asking anybody.
    space.set_primary(false);
    println!("the quick one's guard: {}", next.token().expect_err("the node may not act"));
    Ok(())
}
