use crate::value::VALUE_MAX;
use core::time::Duration;
use pils::ConfigErrors;

/// In which order a conversion that could be granted at once is granted while others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ConversionOrder {
    /// At once, unless it asks to queue (QUECVT). The rule of VMS and of Linux.
    #[default]
    AtOnce,
    /// Behind the conversions that wait, unless it goes down. The rule of IBM's lock manager.
    Queued,
}

/// Settings of a lockspace. The same on all nodes that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a value block. Default 32, 8 to 64 in steps of 8. Memory: only resources whose block was written.
    pub value_length: usize,
    /// Which conversions overtake. Default: as VMS.
    pub conversions: ConversionOrder,
    /// Shards, a power of two. Default 64, 1 to 4096. Too few: threads wait for each other, and fetch what the other has changed,
    /// also for resources of their own. Too many: half a kilobyte each, also of idle lockspaces, and what looks at all of them
    /// takes longer, as does a lock that is in no cache.
    pub shards: usize,
    /// Most resources in one shard. Default 2^20, at most 2^22 - 1; beyond it requests are refused.
    pub resources_per_shard_max: u32,
    /// Most locks in one shard, waiting ones included. Default 2^21, at most 2^22 - 1; beyond it requests are refused.
    pub locks_per_shard_max: u32,
    /// Most undelivered notifications of one client. Default 65 536. A client with as many is refused new operations
    /// until it takes some.
    pub notices_max: usize,
    /// Who waits in a call looks for deadlocks across resources when it has waited so long, and again after each such time.
    /// Default 1 s, from 1 ms. Short: all shards stand still often. Long: deadlocks last.
    pub deadlock_after: Duration,
    /// Most clients of one lockspace on this node. Default 65 536; beyond it no client is made.
    pub clients_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            value_length: 32,
            conversions: ConversionOrder::AtOnce,
            shards: 64,
            resources_per_shard_max: 1 << 20,
            locks_per_shard_max: 1 << 21,
            notices_max: 1 << 16,
            deadlock_after: Duration::from_secs(1),
            clients_max: 1 << 16,
        }
    }
}

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let Self { value_length, shards, resources_per_shard_max, locks_per_shard_max, .. } = *self;
        if value_length == 0 || value_length > VALUE_MAX || !value_length.is_multiple_of(8) {
            errors.push("value_length", value_length, "not a multiple of 8 up to 64", "32 is usual");
        }
        if !shards.is_power_of_two() || shards > 4096 {
            errors.push(
                "shards",
                shards,
                "not a power of two up to 4096",
                "64 are usual; thousands, for many threads with resources of their own",
            );
        }
        for (path, value) in [
            ("resources_per_shard_max", resources_per_shard_max),
            ("locks_per_shard_max", locks_per_shard_max),
        ] {
            if value == 0 || value >= 1 << 22 {
                errors.push(path, value, "not between 1 and 2^22 - 1", "use more shards");
            }
        }
        for (path, value) in [("notices_max", self.notices_max), ("clients_max", self.clients_max)] {
            if value == 0 {
                errors.push(path, value, "nothing would ever be allowed", "leave it at its default");
            }
        }
        errors.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert!(Config::default().check().is_ok());
        let config = Config {
            value_length: 9,
            shards: 3,
            locks_per_shard_max: 1 << 22,
            resources_per_shard_max: 0,
            notices_max: 0,
            ..Config::default()
        };
        let errors = config.check().unwrap_err().to_string();
        for name in
            ["value_length", "shards", "locks_per_shard_max", "resources_per_shard_max", "notices_max"]
        {
            assert!(errors.contains(name), "{name} in {errors}");
        }
    }
}
