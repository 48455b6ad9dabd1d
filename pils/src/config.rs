use core::fmt;

/// One thing wrong with a configuration: where, what stands there, why that cannot be, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where, from the root of the configuration: `comm.paths[0].bind`. Empty for the configuration as a whole.
    pub path: String,
    /// The value as the operator wrote it; empty if it is missing. Leave a secret out.
    pub value: String,
    /// Why it cannot be, lower case, no stop: `is below the shortest heartbeat of 1 ms`.
    pub problem: String,
    /// What to do, as an instruction: `choose 10 ms or more`. Empty if there is nothing to advise.
    pub fix: String,
}

impl fmt::Display for ConfigError {
    /// `comm.mtu = 100: is below 512; choose 512 or more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.path.is_empty() { "configuration" } else { &self.path })?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, so that an operator corrects it in one go.
///
/// A `check` of a part collects its own errors; the whole [nests](Self::nest) those of its parts under their names.
///
/// ```
/// use pils::ConfigErrors;
/// fn check_comm(mtu: u16) -> Result<(), ConfigErrors> {
///     let mut errors = ConfigErrors::default();
///     if mtu < 512 {
///         errors.push("mtu", mtu, "is below 512", "choose 512 or more");
///     }
///     errors.into_result()
/// }
/// let mut errors = ConfigErrors::default();
/// if let Err(wrong) = check_comm(100) {
///     errors.nest("comm", wrong);
/// }
/// errors.push("name", "", "is missing", "give the cluster a name");
/// assert_eq!(
///     errors.into_result().unwrap_err().to_string(),
///     "2 errors in the configuration\n\
///      \x20 comm.mtu = 100: is below 512; choose 512 or more\n\
///      \x20 name: is missing; give the cluster a name"
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Adds one error. `value` is what the operator wrote, `""` if it is missing.
    pub fn push(
        &mut self,
        path: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (path, value) = (path.into(), value.to_string());
        self.0.push(ConfigError { path, value, problem: problem.into(), fix: fix.into() });
    }

    /// Adds the errors of a part that stands at `prefix`. An index follows its list without a dot: `paths` and
    /// `[0].bind` give `paths[0].bind`.
    pub fn nest(&mut self, prefix: &str, other: Self) {
        self.0.extend(other.0.into_iter().map(|mut error| {
            let dot = if prefix.is_empty() || error.path.is_empty() || error.path.starts_with('[') {
                ""
            } else {
                "."
            };
            error.path = format!("{prefix}{dot}{}", error.path);
            error
        }));
    }

    /// True if nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` if nothing is wrong.
    ///
    /// # Errors
    /// All that was collected.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    /// The count, then each error on a line of its own; a single error stands alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no error in the configuration"),
            [one] => one.fmt(f),
            many => {
                write!(f, "{} errors in the configuration", many.len())?;
                many.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl core::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_paths_read_as_the_operator_wrote_them() {
        let mut bind = ConfigErrors::default();
        bind.push("bind", "x", "is no address", "");
        let mut list = ConfigErrors::default();
        list.nest("[2]", bind);
        let mut whole = ConfigErrors::default();
        whole.push("", "", "names no node", "add one");
        assert_eq!(whole.to_string(), "configuration: names no node; add one");
        whole.nest("paths", list);
        assert_eq!(whole.0[1].path, "paths[2].bind");
        assert_eq!(whole.0[1].to_string(), "paths[2].bind = x: is no address");
        assert!(ConfigErrors::default().into_result().is_ok());
        assert_eq!(whole.clone().into_result(), Err(whole));
    }
}
