use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Asks the processes that use something below a mounted folder to end, or kills them; how many there were. Never this one, nor
/// the first.
pub(super) fn end(folder: &Path, kill: bool) -> usize {
    let Ok(device) = fs::metadata(folder).map(|meta| meta.dev()) else { return 0 };
    let own = getpid().as_raw_nonzero().get();
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = listing.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    numbers
        .filter(|number| *number > 1 && *number != own)
        .filter(|number| {
            // Held before it is looked at: whoever gets its number afterwards is not hit.
            let Some(held) = Pid::from_raw(*number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
                return false;
            };
            uses(*number, folder, device) && pidfd_send_signal(&held, signal).is_ok()
        })
        .inspect(|number| tracing::warn!(pid = number, folder = %folder.display(), kill, "ends whoever uses a file system"))
        .count()
}

/// Does a process work there, have a file of it open, or run one?
fn uses(pid: i32, folder: &Path, device: u64) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    // The path alone may be one of another namespace, and the device alone one that is mounted elsewhere, too.
    let is_there = |link: &Path| {
        let path = fs::read_link(link).is_ok_and(|path| path.starts_with(folder));
        path && fs::metadata(link).is_ok_and(|meta| meta.dev() == device)
    };
    let files = |name: &str| fs::read_dir(process.join(name)).into_iter().flatten().flatten();
    ["cwd", "root", "exe"].iter().any(|name| is_there(&process.join(name)))
        || files("fd").chain(files("map_files")).any(|file| is_there(&file.path()))
}
