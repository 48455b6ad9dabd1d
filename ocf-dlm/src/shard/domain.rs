//! Resources that are kept for repair after a failure: see [`RecoveryDomain`](crate::RecoveryDomain).

use super::Shard;
use crate::flags::Flags;
use crate::name::ResourceName;
use crate::resource::Lock;
use crate::slab::NONE;
use crate::value::ValueBlock;

impl Shard {
    /// Whether root resources whose block becomes invalid by a failure are kept without locks. `false` forgets those kept.
    pub fn keep_invalid(&mut self, keep: bool) {
        self.keeps_invalid = keep;
        if !keep {
            for resource in core::mem::take(&mut self.kept).into_keys() {
                self.free_if_idle(resource);
            }
        }
    }

    /// The resources that are kept, each with the number of its last failure.
    #[must_use]
    pub fn kept_invalid(&self) -> Vec<(ResourceName, u64)> {
        self.kept.iter().map(|(at, failure)| (self.resources[*at].name.clone(), *failure)).collect()
    }

    /// A resource is repaired: its block is zero and valid, and it is kept no longer. False, and nothing changes, if it was not kept, was
    /// written since, or became invalid by another failure.
    pub fn validate(&mut self, name: &[u8], failure: u64) -> bool {
        let tag = self.tag(Self::hash(self.seed, name), NONE, name);
        let Some(resource) = self.lookup(tag, NONE, name) else { return false };
        if self.kept.get(&resource) != Some(&failure) {
            return false;
        }
        self.set_value(resource, &ValueBlock::zero(self.config.value_length));
        self.free_if_idle(resource);
        true
    }

    /// Makes every value block invalid.
    pub fn invalidate_all(&mut self) {
        let places: Vec<u32> = self.resources.iter().map(|(at, _)| at).collect();
        for at in places {
            self.resources[at].value_invalid = true;
            self.note_invalid(at);
        }
    }

    /// The holder of a lock failed, or lost it by force: what it may have been writing is not to be trusted.
    pub(super) fn fail_value(&mut self, at: u32) {
        self.write_on_release(at, Flags::IVVALBLK, None);
        let Lock { resource, held, flags, .. } = self.locks[at];
        let writer = held.is_some_and(crate::Mode::is_writer);
        if writer
            && self.keeps_invalid
            && !flags.has(Flags::NODOMAIN)
            && self.resources[resource].parent == NONE
        {
            self.note_failure(resource);
        }
    }

    fn note_failure(&mut self, resource: u32) {
        self.failures += 1;
        self.kept.insert(resource, self.failures);
    }

    /// A block was made invalid: who repairs it now does not know of that.
    pub(super) fn note_invalid(&mut self, resource: u32) {
        if self.kept.contains_key(&resource) {
            self.note_failure(resource);
        }
    }
}
