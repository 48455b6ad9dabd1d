//! Holds a configuration against what an agent says about itself.

use super::Metadata;
use pils::ConfigErrors;

impl Metadata {
    /// Everything that is wrong with parameters of these names: one that the agent needs is missing and has no default, or
    /// one is none of its own. `later` are set for each operation. Paths are `parameters.<name>`.
    ///
    /// An old name of a parameter stands for the new one. What an agent does not describe at all is not checked.
    #[must_use]
    pub fn check_names<'a>(&self, given: impl IntoIterator<Item = &'a str>, later: &[&str]) -> ConfigErrors {
        let given: Vec<&str> = given.into_iter().collect();
        let is_given = |name: &str| given.iter().chain(later).any(|g| same(g, name));
        let mut errors = ConfigErrors::default();
        for p in self.parameters.iter().filter(|p| p.required && !p.deprecated) {
            let has_default = p.default.as_deref().is_some_and(|default| !default.is_empty());
            let by_old_name = p.obsoletes.as_deref().is_some_and(is_given);
            if !has_default && !by_old_name && !is_given(&p.name) {
                let short = if p.short.is_empty() { "see its manual" } else { &p.short };
                let fix = format!("write {} = \"...\": {short}", p.name);
                let problem = format!("is missing, and {} needs it", self.name);
                errors.push(format!("parameters.{}", p.name), "", problem, fix);
            }
        }
        for name in given {
            if !self.parameters.is_empty() && self.parameter(name).is_none() {
                let known = self.parameters.iter().filter(|p| !p.deprecated).map(|p| p.name.as_str());
                let fix = format!("known are {}", known.collect::<Vec<_>>().join(", "));
                let problem = format!("is not a parameter of {}", self.name);
                errors.push(format!("parameters.{name}"), "", problem, fix);
            }
        }
        errors
    }
}

/// `-` and `_` are the same.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.replace('-', "_") == other.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(given: &[&str]) -> Vec<String> {
        let agent = Metadata::parse(
            r#"<resource-agent name="fence_x"><parameters>
            <parameter name="action" required="1"/>
            <parameter name="ip" required="1" obsoletes="ipaddr"><shortdesc>address of the board</shortdesc></parameter>
            <parameter name="ipaddr" required="1" deprecated="1"/>
            <parameter name="ssh_options" required="1"><content type="string" default="-t"/></parameter>
            <parameter name="power_wait"/>
            </parameters></resource-agent>"#,
        )
        .unwrap();
        let errors = agent.check_names(given.iter().copied(), &["action"]);
        errors.0.iter().map(|e| format!("{} {}", e.path, e.problem)).collect()
    }

    #[test]
    fn what_is_needed_and_what_is_unknown_is_told_at_once() {
        let found = paths(&["ipp", "power-wait"]);
        let expected = [
            "parameters.ip is missing, and fence_x needs it",
            "parameters.ipp is not a parameter of fence_x",
        ];
        assert_eq!(found, expected);
        assert_eq!(paths(&["ip"]), [""; 0]);
        assert_eq!(paths(&["ipaddr"]), [""; 0], "an old name stands for the new one");
    }

    #[test]
    fn an_agent_that_describes_no_parameter_takes_any() {
        let silent = Metadata::parse("<resource-agent name='x'/>").unwrap();
        assert!(silent.check_names(["anything"], &[]).is_empty());
    }
}
