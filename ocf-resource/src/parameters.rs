//! Checks a resource's parameters against what its agent says about itself, before the agent runs.

use crate::{Metadata, Parameter};
use pils::ConfigErrors;
use std::collections::BTreeMap;

/// Parameters that every OCF agent understands through its library, described or not.
const COMMON: [&str; 3] = ["trace_ra", "trace_file", "CRM_meta_timeout"];

impl Metadata {
    /// Checks parameters: all that are required are there, none is unknown, and those of a type are of that type.
    ///
    /// A number may have a unit behind it, as agents take times; what is yes or no may be written in the ways that agents
    /// know. Types that an agent invented are not checked.
    ///
    /// # Errors
    /// Every mistake, with the parameter's name, its value and what to do.
    pub fn check_parameters(&self, parameters: &BTreeMap<String, String>) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        for p in &self.parameters {
            if p.required && p.default.as_deref().unwrap_or_default().is_empty() {
                let given = parameters.get(&p.name).is_some_and(|v| !v.is_empty());
                let replaced = p.deprecated || self.has_replacement(p, parameters);
                if !given && !replaced {
                    let summary = if p.summary.is_empty() { "see the agent's manual" } else { &p.summary };
                    let fix = format!("write {} = \"...\": {summary}", p.name);
                    errors.push(p.name.clone(), "", "is missing and has no default", fix);
                }
            }
        }
        for (name, value) in parameters {
            let Some(p) = self.parameter(name) else {
                if !COMMON.contains(&name.as_str()) {
                    let known: Vec<&str> = self.parameters.iter().map(|p| p.name.as_str()).collect();
                    let fix = format!("choose among {}", known.join(", "));
                    errors.push(name.clone(), value, "is not a parameter of this agent", fix);
                }
                continue;
            };
            if let Some((problem, fix)) = wrong(p, value) {
                errors.push(name.clone(), value, problem, fix);
            }
        }
        errors.into_result()
    }

    /// True if another parameter that is unique together with this one is given: the old name of a renamed parameter.
    fn has_replacement(&self, of: &Parameter, given: &BTreeMap<String, String>) -> bool {
        let Some(group) = of.unique.as_deref().filter(|group| *group != of.name) else { return false };
        self.parameters
            .iter()
            .any(|p| p.deprecated && p.unique.as_deref() == Some(group) && given.contains_key(&p.name))
    }
}

/// What is wrong with a value, and what to do.
fn wrong(p: &Parameter, value: &str) -> Option<(&'static str, String)> {
    match p.kind.as_str() {
        "integer" => {
            let digits = value.trim().trim_start_matches(['-', '+']);
            let number = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let good = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
            (!good && !value.is_empty()).then(|| ("is not a whole number", "write a number".to_owned()))
        }
        "boolean" => {
            let words = ["true", "false", "yes", "no", "on", "off", "1", "0", "y", "n", "t", "f", "ja", ""];
            let good = words.contains(&value.to_ascii_lowercase().as_str());
            (!good).then(|| ("is neither true nor false", "write true or false".to_owned()))
        }
        "select" if !p.options.is_empty() && !p.options.iter().any(|o| o == value) => {
            Some(("is none of the choices", format!("choose {}", p.options.join(", "))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Metadata {
        Metadata::parse(
            r#"<resource-agent name="x"><parameters>
            <parameter name="device" required="1"><shortdesc>block device</shortdesc><content type="string"/></parameter>
            <parameter name="size"><content type="integer" default="1"/></parameter>
            <parameter name="force"><content type="boolean"/></parameter>
            <parameter name="mode"><content type="select"><option value="ro"/><option value="rw"/></content></parameter>
            </parameters></resource-agent>"#,
        )
        .unwrap()
    }

    fn check(given: &[(&str, &str)]) -> Vec<String> {
        let given = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let errors = agent().check_parameters(&given).err().unwrap_or_default();
        errors.0.iter().map(|e| format!("{} {}", e.path, e.problem)).collect()
    }

    #[test]
    fn every_mistake_is_found_at_once() {
        let found = check(&[("size", "big"), ("force", "perhaps"), ("mode", "wo"), ("devise", "/dev/x")]);
        assert_eq!(
            found,
            [
                "device is missing and has no default",
                "devise is not a parameter of this agent",
                "force is neither true nor false",
                "mode is none of the choices",
                "size is not a whole number",
            ]
        );
    }

    #[test]
    fn what_agents_take_passes() {
        let good =
            [("device", "/dev/x"), ("size", "20s"), ("force", "Yes"), ("mode", "ro"), ("trace_ra", "1")];
        assert_eq!(check(&good), [""; 0]);
    }
}
