use core::time::Duration;
use pils::ConfigErrors;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Most disks that a node watches for orders to itself.
const DISKS_MAX: usize = 3;

/// How this node ends by itself when nobody can end it, or when it has to: by a watchdog, and by orders on shared disks.
///
/// The watchdog is armed before the node runs anything, and kept quiet by the node's own thread as long as it acts in the primary
/// partition, was never in it, or reads its disks. It is taken away when the node leaves with nothing running; whatever else ends the
/// node, ends the machine.
///
/// Without disks, a fence device of the class `watchdog` makes that a proof for the others: each life of the node tells them that its
/// watchdog is armed, and three times its time after such a life was left outside, it counts as fenced. A node whose program ended
/// without taking the watchdog away does not start again in the same boot of its machine (`/run/ocf/armed-…` says so).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfFencingEntry {
    /// The watchdog of the kernel, such as `/dev/watchdog0`. Its time is the one that its driver has.
    pub watchdog: PathBuf,
    /// Shared disks with the layout of `sbd`, at most 3, on which others leave orders for this node under its name. None by default:
    /// then the node ends as soon as it is outside the primary partition for the time of the watchdog.
    #[serde(default)]
    pub disks: Vec<PathBuf>,
    /// Milliseconds that it may take until the watchdog is armed; the node does not start then. 1000 to 3,600,000. Default 60000.
    #[serde(default = "minute")]
    pub arm_timeout_ms: u64,
}

const fn minute() -> u64 {
    60_000
}

impl SelfFencingEntry {
    pub(crate) const fn arm_timeout(&self) -> Duration {
        Duration::from_millis(self.arm_timeout_ms)
    }

    pub(super) fn check(&self) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        let named = core::iter::once(("watchdog".to_owned(), &self.watchdog));
        let disks = self.disks.iter().enumerate().map(|(i, disk)| (format!("disks[{i}]"), disk));
        for (name, path) in named.chain(disks).filter(|(_, path)| !path.is_absolute()) {
            errors.push(name, path.display(), "is not an absolute path", "begin it with a slash");
        }
        if self.disks.len() > DISKS_MAX {
            let fix = "name one, or three of which any two are enough";
            errors.push("disks", self.disks.len(), format!("are more than {DISKS_MAX}"), fix);
        }
        if self.disks.iter().collect::<BTreeSet<_>>().len() < self.disks.len() {
            errors.push("disks", self.disks.len(), "name one of them twice", "leave one out");
        }
        if !(1000..=3_600_000).contains(&self.arm_timeout_ms) {
            let fix = "choose what reading the disks takes at worst, such as 60000";
            errors.push("arm_timeout_ms", self.arm_timeout_ms, "is outside 1000 to 3600000", fix);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "watchdog = 'watchdog'\ndisks = ['/dev/a', '/dev/a', 'b', '/dev/c']\narm_timeout_ms = 1";
        let entry: SelfFencingEntry = toml::from_str(text).expect("well-formed");
        let paths: Vec<String> = entry.check().0.into_iter().map(|e| e.path).collect();
        assert_eq!(paths, ["watchdog", "disks[2]", "disks", "disks", "arm_timeout_ms"]);
        let right: SelfFencingEntry = toml::from_str("watchdog = '/dev/watchdog0'").expect("well-formed");
        assert!(right.check().into_result().is_ok());
    }
}
