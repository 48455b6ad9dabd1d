use core::time::Duration;
use ocf_membership::driver::{ArbiterClient, SECRET_MIN, SharedDisk};
use ocf_membership::{EvenSplit, QuorumPolicy, TieBreaker};
use pils::{ConfigErrors, NodeId, NodeInstance, Rng};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::{fs, io};

/// What decides even splits, for a `quorum` with `+tie-breaker` (an arbiter or a disk), and how long it may take, for `two-node` too.
/// The same at all nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TieBreakerEntry {
    /// Where an arbiter listens (the example `arbiter` of `ocf-membership`): at a third place that all nodes reach.
    pub arbiter: Option<SocketAddr>,
    /// The file with the secret that the arbiter and the nodes share: at least 16 bytes, spaces around it do not count.
    pub secret_file: Option<PathBuf>,
    /// A disk that all nodes reach, or a small partition of one, all zeros at first: 4096 bytes for each node.
    pub disk: Option<PathBuf>,
    /// Milliseconds that the answer, or fencing, may take: 10 to 3,600,000. Default 30000.
    pub timeout_ms: u64,
    /// Milliseconds that the side at a disadvantage waits first, so that the other has done its fencing: 0 to 3,600,000. Default 5000.
    pub delay_ms: u64,
}

impl Default for TieBreakerEntry {
    fn default() -> Self {
        Self { arbiter: None, secret_file: None, disk: None, timeout_ms: 30_000, delay_ms: 5_000 }
    }
}

impl TieBreakerEntry {
    pub(super) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) const fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// What is wrong with it, beside a policy that asks it, or does not.
    pub(super) fn check(entry: Option<&Self>, policy: &dyn QuorumPolicy, errors: &mut ConfigErrors) {
        let asks = policy.rules().even_split;
        let Some(entry) = entry else {
            if asks == EvenSplit::Asks {
                let fix = "name an arbiter or a disk in [tie_breaker], or take +tie-breaker away from quorum";
                errors.push("tie_breaker", "(missing)", "quorum asks one and there is none", fix);
            }
            return;
        };
        if asks == EvenSplit::Stops {
            let fix = "write quorum = \"majority+tie-breaker\", or two-node, or remove the section";
            errors.push("tie_breaker", policy.name(), "quorum asks none", fix);
        }
        let named = usize::from(entry.arbiter.is_some()) + usize::from(entry.disk.is_some());
        match asks {
            EvenSplit::Asks if named != 1 => {
                let fix = "give either arbiter and secret_file, or disk";
                errors.push("tie_breaker", format!("{named} of them"), "must be one thing", fix);
            }
            EvenSplit::Fences if named > 0 => {
                let fix = "write quorum = \"majority+tie-breaker\", or remove arbiter and disk: two-node fences instead";
                errors.push("tie_breaker", policy.name(), "does not ask anything", fix);
            }
            EvenSplit::Asks | EvenSplit::Fences | EvenSplit::Stops => {}
        }
        if entry.arbiter.is_some() != entry.secret_file.is_some() {
            let fix = "give arbiter and secret_file together";
            errors.push("tie_breaker.secret_file", "", "one is there without the other", fix);
        }
        if !(10..=3_600_000).contains(&entry.timeout_ms) {
            errors.push("tie_breaker.timeout_ms", entry.timeout_ms, "is out of range", "give 10 to 3600000");
        }
        if entry.delay_ms > 3_600_000 {
            errors.push("tie_breaker.delay_ms", entry.delay_ms, "is out of range", "give 0 to 3600000");
        }
    }

    /// What the node asks, if anything. `nodes` are all of the cluster, sorted: each has its block on a disk by its place.
    pub(crate) fn open(
        &self,
        cluster: &str,
        local: NodeInstance,
        nodes: &[NodeId],
        rng: Rng,
    ) -> Result<Option<Box<dyn TieBreaker>>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if let (Some(arbiter), Some(file)) = (self.arbiter, &self.secret_file) {
            match read_secret(file) {
                Ok(secret) => {
                    let client = ArbiterClient::new(arbiter, cluster, &secret, self.timeout() / 3);
                    return Ok(Some(Box::new(client)));
                }
                Err(error) => {
                    let fix = "make one: head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n', the same at the arbiter";
                    errors.push("tie_breaker.secret_file", file.display(), error.to_string(), fix);
                }
            }
        } else if let Some(path) = &self.disk {
            let slot = nodes.iter().position(|n| *n == local.node).unwrap_or(nodes.len());
            match SharedDisk::open(path, local, (slot, nodes.len()), self.timeout() / 3, rng) {
                Ok(disk) => return Ok(Some(Box::new(disk))),
                Err(error) => {
                    let fix =
                        format!("give a disk of at least {} bytes, all zeros at first", 4096 * nodes.len());
                    errors.push("tie_breaker.disk", path.display(), error.to_string(), fix);
                }
            }
        }
        errors.into_result().map(|()| None)
    }
}

fn read_secret(file: &PathBuf) -> io::Result<Vec<u8>> {
    let secret = fs::read(file)?.trim_ascii().to_vec();
    if secret.len() < SECRET_MIN {
        let text = format!("{} bytes are too few, {SECRET_MIN} are the least", secret.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_membership::policy_by_name;

    fn wrong(quorum: &str, entry: Option<&TieBreakerEntry>) -> Vec<String> {
        let mut errors = ConfigErrors::default();
        TieBreakerEntry::check(entry, &*policy_by_name(quorum).expect("a policy"), &mut errors);
        errors.0.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_policy_and_what_it_asks_belong_together() {
        let arbiter = TieBreakerEntry {
            arbiter: Some("192.0.2.9:5406".parse().expect("an address")),
            secret_file: Some("/etc/ocf/arbiter.key".into()),
            ..TieBreakerEntry::default()
        };
        let disk = TieBreakerEntry { disk: Some("/dev/sdz1".into()), ..TieBreakerEntry::default() };
        let both = TieBreakerEntry { disk: disk.disk.clone(), ..arbiter.clone() };
        let open = TieBreakerEntry { secret_file: None, ..arbiter.clone() };
        let neither = TieBreakerEntry::default();
        for right in [&arbiter, &disk] {
            assert!(wrong("majority+tie-breaker", Some(right)).is_empty());
        }
        assert!(wrong("majority", None).is_empty() && wrong("two-node", None).is_empty());
        assert!(wrong("two-node", Some(&neither)).is_empty(), "times only");
        for (quorum, entry) in [
            ("majority+tie-breaker", None),
            ("majority+tie-breaker", Some(&both)),
            ("majority+tie-breaker", Some(&neither)),
            ("majority", Some(&arbiter)),
            ("two-node", Some(&disk)),
        ] {
            assert_eq!(wrong(quorum, entry), ["tie_breaker"], "{quorum} {entry:?}");
        }
        assert_eq!(wrong("majority+tie-breaker", Some(&open)), ["tie_breaker.secret_file"]);
    }
}
