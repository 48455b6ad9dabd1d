//! The processes that a run of an agent left behind, wherever they went, and their end.

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

/// Name of the variable by which every process of a run is known: children inherit it.
pub(super) const TAG: &str = "OCF_RUN_TAG";
/// Rounds of looking and killing: more than a process can outrun that only forks.
const ROUNDS: u32 = 60;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(10);
/// After so many rounds there is more time in between: what was killed may not have got a processor yet to die on.
const SHORT_ROUNDS: u32 = 20;
/// Between two of the later rounds. All of them together give a busy machine 4 s.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// What came of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were killed and are gone.
    pub killed: usize,
    /// Processes that were still there in the end, 4 s after they were killed: stuck in the kernel, or not ours to kill.
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
    sweep_marked(&format!("{TAG}={tag}"))
}

/// As `sweep`, of every process that has this variable, written as `NAME=value`.
pub(super) fn sweep_marked(mark: &str) -> Swept {
    let mut killed = BTreeSet::new();
    let mut known = BTreeMap::new();
    for round in 0..ROUNDS {
        let found = members(mark, &known);
        if found.is_empty() {
            break;
        }
        if round + 1 == ROUNDS {
            killed.retain(|(pid, born)| found.get(pid) != Some(born));
            return Swept { killed: killed.len(), left: found.into_keys().collect() };
        }
        for (pid, born) in &found {
            if kill(*pid, *born) {
                killed.insert((*pid, *born));
            }
        }
        known.extend(found);
        thread::sleep(if round < SHORT_ROUNDS { PAUSE } else { LONG_PAUSE });
    }
    Swept { killed: killed.len(), left: Vec::new() }
}

/// The living processes of a run, marked so: number and birth of each.
fn members(mark: &str, known: &BTreeMap<i32, u64>) -> BTreeMap<i32, u64> {
    of_run(&processes(mark.as_bytes()), getpid().as_raw_nonzero().get(), known)
}

/// Those of `all` that belong to a run, without the process `own` and the first one.
fn of_run(all: &BTreeMap<i32, Entry>, own: i32, known: &BTreeMap<i32, u64>) -> BTreeMap<i32, u64> {
    let (own_group, own_session) = all.get(&own).map_or((0, 0), |e| (e.group, e.session));
    // 0 is what a group or a session is called that was made outside of this namespace of process numbers: that of every
    // kernel thread, and of whatever was started from there, this process too.
    let made_by_the_run = |number: &i32, ours: i32| *number > 1 && *number != ours;
    let may_go = |pid: i32| pid != own && pid > 1;
    let mut mine: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, e)| may_go(**pid) && (e.tagged || known.get(pid) == Some(&e.born)))
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let entries = || mine.iter().filter_map(|p| all.get(p));
        let groups: BTreeSet<i32> =
            entries().map(|e| e.group).filter(|g| made_by_the_run(g, own_group)).collect();
        let sessions: BTreeSet<i32> =
            entries().map(|e| e.session).filter(|s| made_by_the_run(s, own_session)).collect();
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, e)| {
                may_go(**pid)
                    && !mine.contains(pid)
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
    fields(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn fields(text: &str) -> Option<(i32, i32, i32, u64)> {
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

    fn entry_of(parent: i32, group: i32, session: i32, tagged: bool) -> Entry {
        Entry { parent, group, session, born: 7, tagged }
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_reader() {
        let text = "12 (a (b) c) S 3 4 5 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 777 1 2";
        assert_eq!(fields(text), Some((3, 4, 5, 777)));
        let own = stat(getpid().as_raw_nonzero().get()).unwrap();
        assert!(own.0 >= 0 && own.3 > 0);
    }

    #[test]
    fn a_run_is_its_tagged_processes_their_children_groups_and_sessions() {
        let all = BTreeMap::from([
            (1, entry_of(0, 1, 1, false)),
            (10, entry_of(1, 10, 10, false)),  // this process
            (20, entry_of(10, 20, 10, true)),  // the agent, in a group of its own
            (21, entry_of(1, 20, 10, false)),  // in its group, without tag and parent
            (22, entry_of(20, 22, 22, false)), // its child, in a session of its own
            (23, entry_of(1, 23, 22, false)),  // in the child's session
            (30, entry_of(10, 30, 10, false)), // another run
            (31, entry_of(30, 10, 10, false)),
        ]);
        let found = of_run(&all, 10, &BTreeMap::new());
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [20, 21, 22, 23]);
        let known = BTreeMap::from([(30, 7), (31, 6)]);
        let found = of_run(&all, 10, &known);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [20, 21, 22, 23, 30, 31]);
    }

    #[test]
    fn a_group_and_a_session_from_outside_of_the_namespace_are_not_taken_for_the_runs() {
        let all = BTreeMap::from([
            (2, entry_of(0, 0, 0, false)),  // a kernel thread
            (10, entry_of(0, 0, 0, false)), // this process, started from outside
            (20, entry_of(10, 0, 0, true)), // the agent stayed in its group
            (30, entry_of(10, 0, 0, false)),
        ]);
        let found = of_run(&all, 10, &BTreeMap::new());
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn this_process_is_no_part_of_a_run_even_if_it_inherited_the_tag() {
        let all = BTreeMap::from([
            (10, entry_of(1, 10, 10, true)),
            (20, entry_of(10, 20, 10, true)),
            (30, entry_of(10, 30, 10, false)),
        ]);
        let found = of_run(&all, 10, &BTreeMap::from([(10, 7)]));
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn a_tag_that_nobody_has_finds_nobody() {
        assert_eq!(sweep("nobody has this tag"), Swept::default());
    }
}
