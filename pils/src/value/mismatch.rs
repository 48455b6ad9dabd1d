use core::fmt;

/// A value and a Rust type do not fit; says why in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(String);

impl Mismatch {
    pub(super) fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

impl serde::ser::Error for Mismatch {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(text)
    }
}

impl serde::de::Error for Mismatch {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(text)
    }
}
