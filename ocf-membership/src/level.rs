use core::fmt;

/// The feature levels that a build speaks, each with all that is below it. A cluster runs at one of them, which every view states, so
/// that nodes of different builds can be members while they are upgraded one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Levels {
    /// The lowest that it still speaks; at least 1.
    pub oldest: u32,
    /// The highest that it speaks; at most [`LEVEL_MAX`].
    pub newest: u32,
}

/// The highest level that can be told.
pub const LEVEL_MAX: u32 = 1 << 11;

impl Levels {
    /// What this build speaks. Level 2 brought messages that are only ordered by sender, evictions, and states of groups in
    /// pieces that a joiner asks for.
    pub const THIS: Self = Self { oldest: 1, newest: 2 };
    /// Those of builds that do not tell theirs.
    pub const FIRST: Self = Self { oldest: 1, newest: 1 };

    /// True if there is a level from oldest to newest, and all can be told.
    pub(crate) const fn are_sound(self) -> bool {
        1 <= self.oldest && self.oldest <= self.newest && self.newest <= LEVEL_MAX
    }

    /// True if a node with this build can be a member at `level`.
    #[must_use]
    pub const fn include(self, level: u32) -> bool {
        self.oldest <= level && level <= self.newest
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}
