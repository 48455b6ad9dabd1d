//! Recovery domains: what to do about value blocks that failures have made invalid.
//!
//! While somebody is attached to the domain of a lockspace, a root resource whose block became invalid because its writer
//! died, was purged or released by force is kept, although nobody has a lock on it. Someone collects those, repairs what
//! they stand for, and validates them. Source: OpenDLM and Tru64 recovery domains.

use crate::lockspace::Lockspace;
use crate::name::ResourceName;

/// What the lockspace keeps of its domain.
#[derive(Debug, Default)]
pub(crate) struct DomainState {
    attached: usize,
    collecting: bool,
}

/// A part in the recovery domain of a lockspace: kept as long as this lives. When the last is gone, what was kept is
/// forgotten.
#[derive(Debug)]
pub struct RecoveryDomain {
    space: Lockspace,
}

/// The resources to repair. One at a time: dropping it without [`Collection::validate`] leaves them to the next collector.
#[derive(Debug)]
pub struct Collection {
    space: Lockspace,
    names: Vec<ResourceName>,
    /// Of each, the failure that it is collected for.
    failures: Vec<u64>,
}

/// Somebody else repairs the resources of this domain at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another collector is at work")]
pub struct Collecting;

impl Lockspace {
    /// Takes part in the recovery domain of this lockspace.
    #[must_use]
    pub fn attach_domain(&self) -> RecoveryDomain {
        let mut domain = self.0.domain.lock();
        domain.attached += 1;
        if domain.attached == 1 {
            self.each(|shard| shard.keep_invalid(true));
        }
        drop(domain);
        RecoveryDomain { space: self.clone() }
    }
}

impl RecoveryDomain {
    /// The resources whose blocks failures have made invalid, to be repaired by the caller. In order of shards, then age.
    ///
    /// # Errors
    /// If somebody else does that at present.
    pub fn collect(&self) -> Result<Collection, Collecting> {
        let mut domain = self.space.0.domain.lock();
        if domain.collecting {
            return Err(Collecting);
        }
        domain.collecting = true;
        drop(domain);
        let (names, failures) = self.space.each(|shard| shard.kept_invalid()).into_iter().flatten().unzip();
        Ok(Collection { space: self.space.clone(), names, failures })
    }

    /// Leaves the domain, and says that no value block of the lockspace can be trusted: all become invalid. O(resources).
    pub fn detach_invalidating(self) {
        self.space.each(crate::Shard::invalidate_all);
    }
}

impl Collection {
    /// The resources.
    #[must_use]
    pub fn names(&self) -> &[ResourceName] {
        &self.names
    }

    /// They are repaired: their blocks are valid again, and zero, but for those that were written meanwhile, and those that became
    /// invalid anew. True if further failures have left more to repair.
    #[must_use = "there may be more to repair"]
    pub fn validate(self) -> bool {
        for (name, failure) in self.names.iter().zip(&self.failures) {
            let shard = self.space.shard_of(self.space.hash(name.as_bytes()));
            self.space.change(shard, |shard| shard.validate(name.as_bytes(), *failure));
        }
        self.space.each(|shard| shard.kept_invalid().len()).into_iter().sum::<usize>() > 0
    }
}

impl Drop for RecoveryDomain {
    fn drop(&mut self) {
        let mut domain = self.space.0.domain.lock();
        domain.attached -= 1;
        if domain.attached == 0 {
            self.space.each(|shard| shard.keep_invalid(false));
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.space.0.domain.lock().collecting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ask, Config, Flags, LocalLocks, Mode, ValueBlock};

    fn fail(space: &Lockspace, name: &str) {
        let client = space.client().unwrap();
        let guard = client.lock(name, Mode::Pw).unwrap();
        space.drop_client(client.id());
        drop(guard);
    }

    #[test]
    fn what_a_dead_writer_left_is_collected_once_and_is_zero_after_validation() {
        let space = LocalLocks::default().open("d", Config::default()).unwrap();
        let domain = space.attach_domain();
        for (name, flags) in [("a", Flags::NONE), ("b", Flags::NODOMAIN)] {
            let client = space.client().unwrap();
            let guard = client.lock_with(name, Mode::Ex, &Ask { flags, ..Ask::default() }).unwrap();
            space.drop_client(client.id());
            drop(guard);
        }
        assert_eq!(space.dump().len(), 1, "only the one in the domain is kept");
        let abandoned = domain.collect().unwrap();
        assert_eq!(domain.collect().unwrap_err(), Collecting);
        drop(abandoned);
        let collected = domain.collect().unwrap();
        assert_eq!(collected.names(), [ResourceName::new("a").unwrap()]);
        let client = space.client().unwrap();
        let valued = Ask { flags: Flags::VALBLK, ..Ask::default() };
        let mut guard = client.lock_with("a", Mode::Pr, &valued).unwrap();
        assert!(guard.remarks().value_invalid);
        assert!(!collected.validate());
        guard.convert(Mode::Nl).unwrap();
        guard.convert_with(Mode::Pr, Flags::VALBLK, None, crate::Wait::No).unwrap();
        assert!(!guard.remarks().value_invalid && guard.value().unwrap().number() == 0);
        guard.convert(Mode::Nl).unwrap();
        fail(&space, "a");
        let collected = domain.collect().unwrap();
        fail(&space, "a");
        assert!(collected.validate(), "it became invalid anew after it was collected");
        let collected = domain.collect().unwrap();
        let mut writer = space.client().unwrap().lock_with("a", Mode::Pw, &valued).unwrap();
        writer
            .convert_with(
                Mode::Nl,
                Flags::VALBLK,
                Some(&ValueBlock::zero(32).with_number(9)),
                crate::Wait::No,
            )
            .unwrap();
        assert!(!collected.validate() && domain.collect().unwrap().names().is_empty());
        let reader = space.client().unwrap().lock_with("a", Mode::Pr, &valued).unwrap();
        assert_eq!(reader.value().unwrap().number(), 9, "who wrote it has repaired it");
        drop((writer, reader));
        domain.detach_invalidating();
        let other = space.client().unwrap().lock_with("a", Mode::Pr, &valued).unwrap();
        assert!(other.remarks().value_invalid);
        drop((guard, other));
        assert!(space.dump().is_empty());
    }
}
