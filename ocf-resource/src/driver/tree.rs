//! The processes that a run of an agent left behind, wherever they went, and their end.

use rustix::process::{Pid, PidfdFlags, Signal, getpgrp, getpid, getsid, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

/// Name of the variable by which every process of a run is known: children inherit it.
pub(super) const TAG: &str = "OCF_RUN_TAG";
/// Rounds of looking and killing: more than a process can outrun that only forks.
const ROUNDS: u32 = 40;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were killed.
    pub killed: usize,
    /// Processes that were still there in the end: stuck in the kernel.
    pub left: Vec<i32>,
}

#[derive(Debug)]
struct Entry {
    parent: i32,
    group: i32,
    session: i32,
    /// Ticks since the machine started: tells a process from a later one of the same number.
    born: u64,
    tagged: bool,
}

/// Kills every process of the run with this tag, with `SIGKILL`, until a look finds none.
///
/// A process belongs to the run if its environment has the tag, if its parent belongs to it, or if it is in a process
/// group or a session that a process of the run has made. What is in none of these is not found: a process that cleared
/// its environment, made a session of its own *and* lost its parent, or one of another user if this one is not root.
pub fn sweep(tag: &str) -> Swept {
    let mut killed = BTreeSet::new();
    let mut known = BTreeMap::new();
    for round in 0..ROUNDS {
        let found = members(tag, &known);
        if found.is_empty() {
            break;
        }
        if round + 1 == ROUNDS {
            return Swept { killed: killed.len(), left: found.into_keys().collect() };
        }
        for (pid, born) in &found {
            if kill(*pid, *born) {
                killed.insert((*pid, *born));
            }
        }
        known.extend(found);
        thread::sleep(PAUSE);
    }
    Swept { killed: killed.len(), left: Vec::new() }
}

/// The living processes of a run: number and birth of each.
fn members(tag: &str, known: &BTreeMap<i32, u64>) -> BTreeMap<i32, u64> {
    let wanted = format!("{TAG}={tag}");
    let all = processes(wanted.as_bytes());
    let own = (getpid().as_raw_nonzero().get(), getpgrp().as_raw_nonzero().get());
    let own_session = getsid(None).map_or(0, |s| s.as_raw_nonzero().get());
    let mut mine: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, e)| e.tagged || known.get(pid) == Some(&e.born))
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let groups: BTreeSet<i32> =
            mine.iter().filter_map(|p| all.get(p)).map(|e| e.group).filter(|g| *g != own.1).collect();
        let sessions: BTreeSet<i32> = mine
            .iter()
            .filter_map(|p| all.get(p))
            .map(|e| e.session)
            .filter(|s| *s != own_session && *s > 1)
            .collect();
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, e)| {
                !mine.contains(pid)
                    && (mine.contains(&e.parent)
                        || groups.contains(&e.group)
                        || sessions.contains(&e.session))
            })
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        mine.extend(more);
    }
    mine.remove(&own.0);
    mine.remove(&1);
    mine.into_iter().filter_map(|pid| Some((pid, all.get(&pid)?.born))).collect()
}

/// Every process that is no zombie.
fn processes(wanted: &[u8]) -> BTreeMap<i32, Entry> {
    let Ok(listing) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let numbers = listing.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(|pid| Some((pid, entry(pid, wanted)?))).collect()
}

fn entry(pid: i32, wanted: &[u8]) -> Option<Entry> {
    let (parent, group, session, born) = stat(pid)?;
    // Unreadable: it has just gone, or is another user's.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let tagged = environment.split(|b| *b == 0).any(|variable| variable == wanted);
    Some(Entry { parent, group, session, born, tagged })
}

/// Parent, group, session and birth of a process; none if it is gone or a zombie.
fn stat(pid: i32) -> Option<(i32, i32, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything, parentheses too.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let mut number = || fields.next()?.parse::<i32>().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    let born = fields.nth(15)?.parse().ok()?;
    Some((parent, group, session, born))
}

/// Kills a process if it is still the one that was seen. True if it was sent the signal.
fn kill(pid: i32, born: u64) -> bool {
    let Some(raw) = Pid::from_raw(pid) else { return false };
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return false };
    // The handle cannot become another process's: what it names now is what gets the signal.
    stat(pid).is_some_and(|(_, _, _, b)| b == born) && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

/// The tags of processes that an OCF agent's action on a resource has started, on this machine, by whomever.
pub(super) fn tags(resource: &str, action: &str) -> BTreeSet<String> {
    let wanted = [format!("OCF_RESOURCE_INSTANCE={resource}"), format!("OCF_RESKEY_CRM_meta_name={action}")];
    let Ok(listing) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let environments = listing.filter_map(|e| fs::read(e.ok()?.path().join("environ")).ok());
    environments
        .filter_map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            let variables: Vec<&str> = text.split('\0').collect();
            let fits = wanted.iter().all(|w| variables.contains(&w.as_str()));
            let tag = variables.iter().find_map(|v| v.strip_prefix(TAG)?.strip_prefix('='));
            tag.filter(|_| fits).map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_reader() {
        let own = stat(getpid().as_raw_nonzero().get()).unwrap();
        assert_eq!(own.1, getpgrp().as_raw_nonzero().get());
        assert!(own.3 > 0);
    }

    #[test]
    fn a_tag_that_nobody_has_finds_nobody() {
        assert_eq!(sweep("nobody has this tag"), Swept::default());
    }
}
