//! What an agent says about itself: its parameters and actions.

use crate::Action;
use core::time::Duration;
use pils::field::{AgentParameter, Field, Fields};
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use std::collections::{BTreeMap, BTreeSet};

/// Largest description that is read, in bytes.
pub const METADATA_MAX: usize = 1 << 20;

/// An agent's description of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Version of the agent itself.
    pub version: Option<String>,
    /// Version of the OCF interface that it keeps.
    pub api_version: Option<String>,
    /// One line.
    pub summary: String,
    /// More.
    pub description: String,
    /// Its parameters, in its order.
    pub parameters: Vec<Parameter>,
    /// Its actions, in its order. One action may occur several times, as monitors of several depths do.
    pub actions: Vec<SupportedAction>,
}

/// A parameter of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// If no two resources of one agent may have the same value: the group of parameters that are unique together, the
    /// parameter's own name if it is unique by itself.
    pub unique: Option<String>,
    /// Must be given.
    pub required: bool,
    /// A changed value can be applied without a restart.
    pub reloadable: bool,
    /// Not to be used in new configurations.
    pub deprecated: bool,
    /// Its type: `string`, `integer`, `boolean`, `select` or what the agent invented.
    pub kind: String,
    /// The value it has if none is given.
    pub default: Option<String>,
    /// The values that a `select` allows.
    pub options: Vec<String>,
    /// One line.
    pub summary: String,
    /// More.
    pub description: String,
}

/// An action that an agent supports, with the times that it advises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SupportedAction {
    /// The word it is called with.
    pub name: String,
    /// The least timeout that makes sense.
    pub timeout: Option<Duration>,
    /// The advised interval, for a monitor.
    pub interval: Option<Duration>,
    /// How thorough, for a monitor; zero is the cheapest.
    pub depth: Option<u32>,
    /// The role it is for, for a monitor of a resource with roles.
    pub role: Option<String>,
}

/// Why a description cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Larger than [`METADATA_MAX`].
    #[error("{size} bytes are more than the {METADATA_MAX} that are read")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// Not well-formed XML, or more than XML (an external entity, for example).
    #[error("not readable as XML near byte {at}: {detail}")]
    Xml {
        /// Where.
        at: u64,
        /// What the reader says.
        detail: String,
    },
    /// XML, but no `resource-agent` element with a name.
    #[error("no <resource-agent name=..> element")]
    NotAnAgent,
    /// Elements nested deeper than any description is.
    #[error("elements nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

const DEPTH_MAX: usize = 32;

impl Metadata {
    /// Reads the XML that an agent prints when it is called with `meta-data`. Unknown elements and attributes are
    /// skipped; entities other than the five of XML are refused.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn parse(xml: &str) -> Result<Self, MetadataError> {
        if xml.len() > METADATA_MAX {
            return Err(MetadataError::TooLarge { size: xml.len() });
        }
        let mut reader = Reader::from_str(xml);
        let mut found = Self::default();
        let mut path: Vec<String> = Vec::new();
        loop {
            let failed =
                |at: u64, e: &dyn core::fmt::Display| MetadataError::Xml { at, detail: e.to_string() };
            let event = reader.read_event().map_err(|e| failed(reader.error_position(), &e))?;
            let at = reader.buffer_position();
            match event {
                Event::Start(tag) => {
                    found.open(&path, &tag).map_err(|e| failed(at, &e))?;
                    path.push(tag.local_name().as_ref().to_owned());
                    if path.len() > DEPTH_MAX {
                        return Err(MetadataError::TooDeep);
                    }
                }
                Event::Empty(tag) => found.open(&path, &tag).map_err(|e| failed(at, &e))?,
                Event::End(_) => {
                    path.pop();
                }
                Event::Text(text) => {
                    found.text(&path, &text.xml10_content());
                }
                Event::CData(text) => {
                    found.text(&path, &text.xml10_content());
                }
                Event::GeneralRef(entity) => {
                    let whole = format!("&{};", &*entity);
                    let text = quick_xml::escape::unescape(&whole).map_err(|e| failed(at, &e))?;
                    found.text(&path, &text);
                }
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        if found.name.is_empty() {
            return Err(MetadataError::NotAnAgent);
        }
        found.tidy();
        Ok(found)
    }

    /// The parameter of this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// The parameters as a description for forms, checks and schemas.
    ///
    /// Every parameter becomes a field: one whose name occurs twice only once, one without a name none.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        for p in &self.parameters {
            if !p.name.is_empty() && fields.get(&p.name).is_none() {
                fields.0.push(Field::from(AgentParameter {
                    name: &p.name,
                    kind: &p.kind,
                    default: p.default.as_deref(),
                    options: &p.options,
                    required: p.required,
                    unique: p.unique.as_deref(),
                    reloadable: p.reloadable,
                    deprecated: p.deprecated,
                    short: &p.summary,
                    long: &p.description,
                }));
            }
        }
        fields
    }

    /// True if the agent says that it can be called with `word`.
    #[must_use]
    pub fn supports(&self, word: &str) -> bool {
        self.actions.iter().any(|a| a.name == word)
    }

    /// How an agent takes changed parameters without a restart: by [`Action::ReloadAgent`] if it offers that and all that
    /// changed is reloadable; by [`Action::Reload`] if it keeps OCF 1.0 and nothing that changed is unique, as was the custom
    /// then. In OCF 1.1 that action has the service read its own configuration, which is something else.
    ///
    /// # Errors
    /// Why it has to be restarted: words that stand behind its name.
    pub fn takes_by(
        &self,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<Action, String> {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let mut changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
        let described = |name: &String| self.parameter(name);
        let (action, stuck) = if self.supports(Action::ReloadAgent.word()) {
            let stuck = changed.find(|name| !described(name).is_some_and(|p| p.reloadable));
            (Action::ReloadAgent, stuck)
        } else if self.supports(Action::Reload.word()) && !self.keeps_1_1() {
            (Action::Reload, changed.find(|name| described(name).is_none_or(|p| p.unique.is_some())))
        } else {
            return Err("offers no reload-agent".to_owned());
        };
        match stuck {
            None => Ok(action),
            Some(name) => Err(format!("cannot take another {name} without a restart")),
        }
    }

    fn keeps_1_1(&self) -> bool {
        let mut parts = self.api_version.as_deref().unwrap_or("1.0").split('.').map(str::parse::<u32>);
        let mut part = || parts.next().and_then(Result::ok).unwrap_or(0);
        (part(), part()) >= (1, 1)
    }

    fn open(&mut self, path: &[String], tag: &BytesStart<'_>) -> Result<(), quick_xml::Error> {
        let text = |name: &str| -> Result<Option<String>, quick_xml::Error> {
            match tag.try_get_attribute(name)? {
                Some(a) => Ok(Some(a.normalized_value(XmlVersion::Implicit1_0)?.into_owned())),
                None => Ok(None),
            }
        };
        let flag = |name: &str| text(name).map(|v| v.is_some_and(|v| v == "1" || v == "true" || v == "yes"));
        match (path.last().map(String::as_str), tag.local_name().as_ref()) {
            (None, "resource-agent") => {
                self.name = text("name")?.unwrap_or_default();
                self.version = text("version")?;
            }
            (Some("parameters"), "parameter") => self.parameters.push(Parameter {
                name: text("name")?.unwrap_or_default(),
                unique: match text("unique-group")?.filter(|group| !group.is_empty()) {
                    None if flag("unique")? => text("name")?,
                    group => group,
                },
                required: flag("required")?,
                reloadable: flag("reloadable")?,
                kind: "string".to_owned(),
                ..Parameter::default()
            }),
            (Some("parameter"), "content") => {
                if let Some(parameter) = self.parameters.last_mut() {
                    parameter.kind = text("type")?.unwrap_or_else(|| "string".to_owned());
                    parameter.default = text("default")?;
                }
            }
            (Some("parameter"), "deprecated") => {
                if let Some(parameter) = self.parameters.last_mut() {
                    parameter.deprecated = true;
                }
            }
            (Some("content"), "option") => {
                if let (Some(parameter), Some(value)) = (self.parameters.last_mut(), text("value")?) {
                    parameter.options.push(value);
                }
            }
            (Some("actions"), "action") => self.actions.push(SupportedAction {
                name: text("name")?.unwrap_or_default(),
                timeout: text("timeout")?.and_then(|t| span(&t)),
                interval: text("interval")?.and_then(|t| span(&t)),
                depth: text("depth")?.and_then(|d| d.trim().parse().ok()),
                role: text("role")?,
            }),
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, path: &[String], text: &str) {
        let mut levels = path.iter().rev().map(String::as_str);
        match (levels.next(), levels.next()) {
            (Some("version"), Some("resource-agent")) => {
                self.api_version.get_or_insert_default().push_str(text);
            }
            (Some("shortdesc"), Some("resource-agent")) => self.summary.push_str(text),
            (Some("longdesc"), Some("resource-agent")) => self.description.push_str(text),
            (Some("shortdesc"), Some("parameter")) => {
                if let Some(parameter) = self.parameters.last_mut() {
                    parameter.summary.push_str(text);
                }
            }
            (Some("longdesc"), Some("parameter")) => {
                if let Some(parameter) = self.parameters.last_mut() {
                    parameter.description.push_str(text);
                }
            }
            _ => {}
        }
    }

    fn tidy(&mut self) {
        let trim = |s: &mut String| *s = s.trim().to_owned();
        trim(&mut self.summary);
        trim(&mut self.description);
        if let Some(version) = &mut self.api_version {
            trim(version);
        }
        for parameter in &mut self.parameters {
            trim(&mut parameter.summary);
            trim(&mut parameter.description);
        }
    }
}

/// Reads a time as agents write it: `20`, `20s`, `20000ms`, `1min`, `1m`, `1h`. A bare number is seconds.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "" | "s" | "sec" => Some(Duration::from_secs(n)),
        "ms" | "msec" => Some(Duration::from_millis(n)),
        "us" | "usec" => Some(Duration::from_micros(n)),
        "m" | "min" => Some(Duration::from_secs(n.checked_mul(60)?)),
        "h" | "hr" => Some(Duration::from_secs(n.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = r#"<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="Disk" version="1.2">
<version>1.0</version>
<longdesc lang="en">
Mounts &quot;things&quot; &amp; more.
</longdesc>
<shortdesc lang="en">Mounts</shortdesc>
<parameters>
<parameter name="device" unique="1" required="1">
<longdesc lang="en">The device.</longdesc>
<shortdesc lang="en">device</shortdesc>
<content type="string" default="a&lt;b" />
</parameter>
<parameter name="mode"><content type="select" default="rw"><option value="rw"/><option value="ro"/></content></parameter>
</parameters>
<actions>
<action name="start" timeout="60s" />
<action name="monitor" depth="20" timeout="40" interval="20000ms" role="Promoted"/>
</actions>
</resource-agent>"#;

    #[test]
    fn what_is_taken_without_a_restart_is_what_the_description_says() {
        let new = |action: &str, version: &str| {
            Metadata::parse(&format!(
                r#"<resource-agent name="x"><version>{version}</version><parameters>
                <parameter name="level" reloadable="1"/><parameter name="port" unique="1" reloadable="0"/>
                <parameter name="words"/></parameters>
                <actions><action name="start"/><action name="{action}"/></actions></resource-agent>"#
            ))
            .unwrap()
        };
        let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let by = |agent: &Metadata, after: &[(&str, &str)]| {
            agent.takes_by(&set(&[("level", "1"), ("port", "80")]), &set(after)).map_err(|e| e.len())
        };
        let modern = new("reload-agent", "1.1");
        assert_eq!(by(&modern, &[("level", "2"), ("port", "80")]), Ok(Action::ReloadAgent));
        assert_eq!(
            by(&modern, &[("port", "80")]),
            Ok(Action::ReloadAgent),
            "one taken away is a change of it"
        );
        assert!(by(&modern, &[("level", "2"), ("port", "81")]).is_err());
        assert!(by(&modern, &[("level", "1"), ("port", "80"), ("words", "x")]).is_err());
        let old = new("reload", "1.0");
        assert_eq!(by(&old, &[("level", "1"), ("port", "80"), ("words", "x")]), Ok(Action::Reload));
        assert!(by(&old, &[("level", "1"), ("port", "81")]).is_err(), "it is unique");
        assert!(by(&new("reload", "1.1"), &[("level", "2")]).is_err(), "there it is something else");
        assert!(by(&new("notify", "1.1"), &[("level", "2")]).is_err());
    }

    #[test]
    fn a_description_of_the_first_version_is_read_whole() {
        let m = Metadata::parse(OLD).unwrap();
        assert_eq!(
            (m.name.as_str(), m.version.as_deref(), m.api_version.as_deref()),
            ("Disk", Some("1.2"), Some("1.0"))
        );
        assert_eq!(m.description, "Mounts \"things\" & more.");
        let device = m.parameter("device").unwrap();
        assert!(device.required && !device.deprecated);
        assert_eq!(device.unique.as_deref(), Some("device"));
        assert_eq!(device.default.as_deref(), Some("a<b"));
        assert_eq!(m.parameter("mode").unwrap().options, ["rw", "ro"]);
        assert_eq!(m.actions[0].timeout, Some(Duration::from_secs(60)));
        assert_eq!(m.actions[1].interval, Some(Duration::from_secs(20)));
        assert_eq!((m.actions[1].depth, m.actions[1].role.as_deref()), (Some(20), Some("Promoted")));
        assert!(m.supports("monitor") && !m.supports("promote"));
    }

    #[test]
    fn the_words_of_version_1_1_are_understood() {
        let m = Metadata::parse(
            r#"<resource-agent name="x"><version>1.1</version><parameters>
            <parameter name="old" unique-group="address" reloadable="1"><deprecated><replaced-with name="new"/></deprecated>
            <content type="integer"/></parameter></parameters></resource-agent>"#,
        )
        .unwrap();
        let p = &m.parameters[0];
        assert!(p.reloadable && p.deprecated);
        assert_eq!(p.unique.as_deref(), Some("address"));
        assert_eq!((p.kind.as_str(), p.default.as_deref()), ("integer", None));
    }

    #[test]
    fn the_parameters_become_fields_that_check_a_configuration() {
        let fields = Metadata::parse(OLD).unwrap().fields();
        assert_eq!(fields.0.len(), 2);
        let config = |mode: &str| {
            pils::Value::from([("device", pils::Value::from("/dev/sda")), ("mode", mode.into())])
        };
        assert_eq!(fields.validate(&config("ro")), Ok(config("ro")));
        assert_eq!(
            fields.validate(&config("wo")).unwrap_err().to_string(),
            "mode = wo: is none of the choices; choose rw, ro"
        );
    }

    #[test]
    fn what_is_not_a_description_is_refused_with_the_reason() {
        assert_eq!(Metadata::parse(""), Err(MetadataError::NotAnAgent));
        assert_eq!(Metadata::parse("<fence-agent name='x'/>"), Err(MetadataError::NotAnAgent));
        assert!(matches!(
            Metadata::parse("<resource-agent name='x'><a></b>"),
            Err(MetadataError::Xml { .. })
        ));
        assert!(matches!(
            Metadata::parse("<resource-agent name='x'><version>&evil;</version></resource-agent>"),
            Err(MetadataError::Xml { .. })
        ));
        assert_eq!(Metadata::parse(&"<a>".repeat(1000)), Err(MetadataError::TooDeep));
        let large = " ".repeat(METADATA_MAX + 1);
        assert_eq!(Metadata::parse(&large), Err(MetadataError::TooLarge { size: METADATA_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(cut in 0..1200_usize, at in 0..1200_usize, c in any::<char>()) {
            let mut text: String = OLD.chars().take(cut).collect();
            if text.is_char_boundary(at.min(text.len())) {
                let at = at.min(text.len());
                text.insert(at, c);
            }
            if let Ok(m) = Metadata::parse(&text) {
                prop_assert!(!m.name.is_empty());
            }
        }
    }
}
