//! Filters of a subscription.

use bytes::Bytes;

/// What the pattern at its place must be like. Bytes are compared as they are; none of them ends a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Begins with this.
    Prefix(Bytes),
    /// Ends with this.
    Suffix(Bytes),
    /// Is this.
    Exact(Bytes),
    /// Anything, or nothing.
    PassAll,
}

impl Filter {
    /// True if the filter lets the pattern pass.
    #[must_use]
    pub fn matches(&self, pattern: &[u8]) -> bool {
        match self {
            Self::Prefix(wanted) => pattern.starts_with(wanted),
            Self::Suffix(wanted) => pattern.ends_with(wanted),
            Self::Exact(wanted) => pattern == &wanted[..],
            Self::PassAll => true,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Prefix(wanted) | Self::Suffix(wanted) | Self::Exact(wanted) => wanted.len(),
            Self::PassAll => 0,
        }
    }
}

/// Place by place. A pattern that is missing is the empty one; patterns without a filter are not looked at.
pub(super) fn all_match(filters: &[Filter], patterns: &[Bytes]) -> bool {
    let mut patterns = patterns.iter();
    filters.iter().all(|filter| filter.matches(patterns.next().map_or(&[][..], |p| &p[..])))
}
