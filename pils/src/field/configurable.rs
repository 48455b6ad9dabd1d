use super::{Fields, Text};
use crate::{ConfigErrors, Value};

/// A plug-in that says which parameters it takes. The basic capabilities of self-configuration: say who you are, say what
/// you take, check a proposal, take it, tell what you have.
///
/// Object-safe. [`check_configurable`](crate::testing::check_configurable) (feature `testing`) tests an implementation.
pub trait Configurable: Send + Sync {
    /// Who it is.
    fn identity(&self) -> Identity;

    /// What it takes. The same each time.
    fn fields(&self) -> Fields;

    /// Checks a configuration without taking it, and gives it back complete. Override it to add what fields cannot say,
    /// such as two that exclude each other.
    ///
    /// # Errors
    /// Every mistake.
    fn validate(&self, proposed: &Value) -> Result<Value, ConfigErrors> {
        self.fields().validate(proposed)
    }

    /// Takes a configuration.
    ///
    /// # Errors
    /// Every mistake that [`validate`](Self::validate) finds; nothing changed.
    fn configure(&self, config: &Value) -> Result<(), ConfigErrors>;

    /// The configuration it has, complete; that of no configuration before the first. Holds its secrets:
    /// [`Fields::mask`] before showing it.
    fn current(&self) -> Value;
}

/// Who a plug-in is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line about it.
    pub short_text: Text,
    /// All about it.
    pub long_text: Text,
}
