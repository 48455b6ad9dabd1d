//! Finding everything that is wrong with a configuration.

use super::{KEY_MIN, NodeConfig};
use ocf_membership::{EvenSplit, NodeVotes, QuorumPolicy};
use ocf_resource::AccessNeed;
use ocf_stonith::Targets;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Longest name of a cluster, in bytes.
const CLUSTER_MAX: usize = 255;

/// Addresses of a node beside the first.
const MORE_MAX: usize = 7;

/// All votes together must be fewer.
const VOTES_MAX: u32 = 1 << 20;

impl NodeConfig {
    /// Checks everything that can be checked without starting.
    ///
    /// # Errors
    /// Every mistake at once, each with its path, its value and what to do.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let nodes: Vec<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        self.check_with(self.fencing.check(), self.resources.check(&nodes, |_| Ok(()))).into_result()
    }

    /// What is wrong, with what somebody else found wrong with the parts that others own.
    pub(crate) fn check_with(
        &self,
        fencing: Result<(), ConfigErrors>,
        resources: Result<(), ConfigErrors>,
    ) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        if self.cluster.is_empty() || self.cluster.len() > CLUSTER_MAX {
            let fix = format!("give it a name of 1 to {CLUSTER_MAX} bytes");
            errors.push("cluster", format!("{:?}", self.cluster), "is not a name", fix);
        }
        if let Some(key) = &self.key
            && key.bytes().len() < KEY_MIN
        {
            errors.push(
                "key",
                format!("({} bytes)", key.bytes().len()),
                "is too short",
                "give at least 64 hexadecimal digits",
            );
        }
        self.check_keys(&mut errors);
        errors.nest("outside", self.outside.check());
        let is_wrong = |folder: &Path| !folder.is_absolute() || !folder.is_dir();
        for (i, folder) in self.plugins.iter().enumerate().filter(|(_, folder)| is_wrong(folder)) {
            let fix = "name a folder by its absolute path, or leave it out";
            errors.push(format!("plugins[{i}]"), folder.display(), "is no folder", fix);
        }
        for (i, entry) in self.keys.iter().enumerate() {
            if let Some(key) = entry.key.as_ref().filter(|key| key.bytes().len() < KEY_MIN) {
                let fix = "give at least 64 hexadecimal digits";
                let value = format!("({} bytes)", key.bytes().len());
                errors.push(format!("keys[{i}].key"), value, "is too short", fix);
            }
        }
        if !["none", "lz4"].contains(&self.compression.as_str()) {
            errors.push("compression", &self.compression, "is not known", "use none or lz4");
        }
        if self.entry().is_none() {
            let problem = format!("is not among nodes ({})", self.ids());
            errors.push("node", self.node.raw(), problem, "name one of them");
        }
        self.check_nodes(&mut errors);
        self.check_media(&mut errors);
        self.check_quorum(&mut errors);
        super::PingEntry::check(&self.ping, &mut errors);
        super::PingEntry::check_settling(&self.ping, &self.resources, &mut errors);
        if !self.fence_action.is_fencing() {
            errors.push("fence_action", self.fence_action, "does not fence", "use reboot or off");
        }
        if let Err(nested) = fencing {
            errors.nest("fencing", nested);
        }
        self.check_targets(&mut errors);
        self.check_race(&mut errors);
        if let Some(entry) = &self.self_fencing {
            errors.nest("self_fencing", entry.check());
        }
        self.check_own_watchdog(&mut errors);
        if let Err(nested) = resources {
            errors.nest("resources", nested);
        }
        if let Err(nested) = self.api.check() {
            errors.nest("api", nested);
        }
        errors
    }

    /// Others that count on this node's watchdog would wait for ever for one that is not there.
    fn check_own_watchdog(&self, errors: &mut ConfigErrors) {
        let mut devices = self.fencing.devices.iter().enumerate();
        let counted =
            devices.find(|(_, d)| d.class == ocf_stonith::WATCHDOG && d.target(self.node).is_some());
        let alone = self.self_fencing.as_ref().is_some_and(|entry| entry.disks.is_empty());
        if let Some((i, device)) = counted.filter(|_| !alone) {
            let problem =
                format!("counts on a watchdog of {} that ends it outside the primary partition", self.node);
            let fix =
                "add [self_fencing] with a watchdog and without disks, or take the node from the device";
            errors.push(format!("fencing.devices[{i}].nodes"), &device.name, problem, fix);
        }
    }

    fn check_nodes(&self, errors: &mut ConfigErrors) {
        for (i, entry) in self.nodes.iter().enumerate() {
            let earlier = &self.nodes[..i];
            if earlier.iter().any(|e| e.id == entry.id) {
                errors.push(
                    format!("nodes[{i}].id"),
                    entry.id.raw(),
                    "is used twice",
                    "give each node an id of its own",
                );
            }
            let left_out = entry.address == super::media::nowhere() && self.may_be_found();
            if !left_out && earlier.iter().any(|e| e.address == entry.address) {
                errors.push(
                    format!("nodes[{i}].address"),
                    entry.address,
                    "is used twice",
                    "correct one of them",
                );
            }
            if entry.more_addresses.len() > MORE_MAX {
                errors.push(
                    format!("nodes[{i}].more_addresses.len"),
                    entry.more_addresses.len(),
                    "is too many",
                    format!("give at most {MORE_MAX}"),
                );
            }
            for (k, address) in entry.more_addresses.iter().enumerate() {
                let taken = earlier.iter().any(|e| e.more_addresses.get(k) == Some(address));
                if taken || address.port() == 0 || address.ip().is_unspecified() {
                    errors.push(
                        format!("nodes[{i}].more_addresses[{k}]"),
                        address,
                        if taken { "is the address of another node" } else { "is no address to reach it at" },
                        "give the address and port the others reach it at",
                    );
                }
            }
            if !left_out && (entry.address.port() == 0 || entry.address.ip().is_unspecified()) {
                let fix = "give the address and port at which the other nodes reach it";
                errors.push(
                    format!("nodes[{i}].address"),
                    entry.address,
                    "is not an address one can send to",
                    fix,
                );
            }
        }
    }

    fn check_quorum(&self, errors: &mut ConfigErrors) {
        let votes: Vec<NodeVotes> = self.nodes.iter().map(|n| NodeVotes::new(n.id, n.votes)).collect();
        let total = votes.iter().fold(0_u32, |sum, n| sum.saturating_add(n.votes));
        if total == 0 {
            let fix = "list the nodes, with at least one vote";
            errors.push("nodes", self.nodes.len(), "no node has a vote", fix);
            return;
        }
        if total >= VOTES_MAX {
            errors.push("nodes", "", format!("have {total} votes together"), "give each node 1 vote");
            return;
        }
        let Some(policy) = ocf_membership::policy_by_name(&self.quorum) else {
            let problem = "is not a known policy";
            let fix = "use majority, unanimous, threshold:N, auto-tie-breaker:lowest or sites:1,2/3,4/5, and what docs/quorum.md says";
            errors.push("quorum", &self.quorum, problem, fix);
            return;
        };
        super::TieBreakerEntry::check(self.tie_breaker.as_ref(), &*policy, errors);
        let rules = policy.rules();
        if rules.even_split == EvenSplit::Asks && self.record.is_none() {
            let fix = "give this node a record: a tie-breaker remembers view numbers, so the nodes must too";
            errors.push("record", "(missing)", "quorum asks a tie-breaker", fix);
        }
        if let Some(window) = self.last_man_standing_ms {
            let detection = self.detection.preset().timers().detection;
            if self.record.is_none() {
                let fix = "give this node a record: who forgets would count the old votes again";
                errors.push("record", "(missing)", "last_man_standing_ms changes votes", fix);
            }
            if rules.even_split != EvenSplit::Stops || policy.weigh(&votes) != votes {
                let fix = "use majority, or remove it";
                errors.push("last_man_standing_ms", window, format!("does not go with {}", self.quorum), fix);
            }
            if u128::from(window) < detection.as_millis() {
                let fix = format!("at least {} ms, better 10000", detection.as_millis());
                errors.push(
                    "last_man_standing_ms",
                    window,
                    "is shorter than the detection of a failure",
                    fix,
                );
            }
        }
        let voters: Vec<u32> = votes.iter().map(|n| n.votes).filter(|v| *v > 0).collect();
        if rules.even_split == EvenSplit::Fences && (voters.len() != 2 || voters[0] != voters[1]) {
            let problem =
                format!("is for two nodes with equally many votes; {} nodes have votes", voters.len());
            errors.push(
                "quorum",
                &self.quorum,
                problem,
                "use majority, or majority+tie-breaker for an even number",
            );
        }
        if rules.even_split == EvenSplit::Asks && policy.quorum(&votes) != total / 2 + 1 {
            let fix = "use majority+tie-breaker";
            errors.push("quorum", &self.quorum, "asks a tie-breaker and more than a bare majority", fix);
        }
        // Policies keep within these bounds by themselves; what was asked for may not.
        let asked = self.quorum.strip_prefix("threshold:").and_then(|votes| votes.parse().ok());
        let quorum: u32 = asked.unwrap_or_else(|| policy.quorum(&votes));
        if quorum <= total / 2 {
            let problem = format!("is {quorum} of {total} votes: two halves could both go on");
            errors.push("quorum", &self.quorum, problem, format!("ask for at least {}", total / 2 + 1));
        } else if quorum > total {
            let problem = format!("is {quorum} of {total} votes: never reached");
            errors.push("quorum", &self.quorum, problem, format!("ask for at most {total}"));
        }
    }

    /// Devices must fence nodes that there are.
    fn check_targets(&self, errors: &mut ConfigErrors) {
        for (i, device) in self.fencing.devices.iter().enumerate() {
            let Targets::List(targets) = &device.nodes else { continue };
            for (k, target) in targets.iter().enumerate() {
                if self.nodes.iter().all(|n| n.id != target.node) {
                    errors.push(
                        format!("fencing.devices[{i}].nodes[{k}].node"),
                        target.node.raw(),
                        format!("is not among nodes ({})", self.ids()),
                        "name one of them",
                    );
                }
            }
        }
    }

    /// Two nodes that fence each other: the less important one has to wait longer than the one that waits anyway, and whoever fences
    /// has to be done before the half gives up.
    fn check_race(&self, errors: &mut ConfigErrors) {
        let fences = |policy: Arc<dyn QuorumPolicy>| policy.rules().even_split == EvenSplit::Fences;
        if !ocf_membership::policy_by_name(&self.quorum).is_some_and(fences) {
            return;
        }
        let tie = self.tie_breaker.clone().unwrap_or_default();
        let (priority, behind) = (self.fencing.priority_delay_ms, tie.delay_ms.saturating_mul(2));
        if priority != 0 && priority < behind {
            let problem = format!("is below {behind} ms, twice delay_ms of tie_breaker");
            let fix = format!("choose {behind} or more, or lower delay_ms of [tie_breaker]");
            errors.push("fencing.priority_delay_ms", priority, problem, fix);
        }
        let slowest = self.fencing.devices.iter().map(|d| d.timeout_ms).max().unwrap_or(0);
        let waits = self.fencing.longest_delay_ms().saturating_add(slowest);
        if waits > tie.timeout_ms && self.fencing.longest_delay_ms() > 0 {
            let problem = format!("is below the {waits} ms that the delays and one try of a device may take");
            errors.push("tie_breaker.timeout_ms", tie.timeout_ms, problem, format!("choose {waits} or more"));
        }
    }

    /// Who needs its access before it may run anything, as the fence devices have it.
    pub(super) fn access_need(&self) -> AccessNeed {
        let giving = || self.fencing.devices.iter().filter(|device| device.unfence);
        if giving().any(|device| matches!(device.nodes, Targets::Every(_))) {
            return AccessNeed::Everybody;
        }
        let needs = |node: &NodeId| giving().any(|device| device.target(*node).is_some());
        let nodes: BTreeSet<NodeId> = self.nodes.iter().map(|n| n.id).filter(needs).collect();
        if nodes.is_empty() { AccessNeed::Nobody } else { AccessNeed::Nodes(nodes) }
    }

    fn ids(&self) -> String {
        self.nodes.iter().map(|n| n.id.raw().to_string()).collect::<Vec<_>>().join(", ")
    }
}
