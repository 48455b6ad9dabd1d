use super::check::same;
use pils::field::{AgentParameter, Field, Fields};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde::Serialize;

/// The largest metadata that is read, in bytes.
const SIZE_MAX: usize = 1 << 20;
/// The most parameters and actions that are kept.
const ITEMS_MAX: usize = 1000;

/// What an agent says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// One line about it.
    pub short: String,
    /// The whole description.
    pub long: String,
    /// Its parameters, in its order.
    pub parameters: Vec<Parameter>,
    /// Its actions, in its order.
    pub actions: Vec<AgentAction>,
}

/// A parameter of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name on the agent's input.
    pub name: String,
    /// True if it must be given.
    pub required: bool,
    /// `string`, `boolean`, `integer`, `second`, `select`; empty if not said.
    pub kind: String,
    /// Value if it is not given.
    pub default: Option<String>,
    /// What a `select` offers.
    pub options: Vec<String>,
    /// No two devices may have the same value.
    pub unique: bool,
    /// One line about it.
    pub short: String,
    /// True if a newer name should be used.
    pub deprecated: bool,
    /// The older name of this parameter.
    pub obsoletes: Option<String>,
}

/// An action of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentAction {
    /// `off`, `status`...
    pub name: String,
    /// True if the cluster is to do it by itself when a node joins.
    pub automatic: bool,
    /// True if it must run on the node that it is about.
    pub on_target: bool,
}

/// Metadata that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Longer than one mebibyte.
    #[error("metadata of {0} bytes is too long")]
    TooLong(usize),
    /// Not XML.
    #[error("metadata is not well-formed at byte {at}: {text}")]
    NotXml {
        /// Where.
        at: u64,
        /// What is wrong.
        text: String,
    },
    /// XML, but no `resource-agent` element.
    #[error("metadata has no element resource-agent")]
    NotAnAgent,
}

impl Metadata {
    /// Reads what `action=metadata` printed. Unknown elements are skipped; entities are not expanded. O(length).
    ///
    /// # Errors
    /// See [`MetadataError`].
    pub fn parse(xml: &str) -> Result<Self, MetadataError> {
        let reading = read(xml)?;
        if reading.is_agent { Ok(reading.metadata) } else { Err(MetadataError::NotAnAgent) }
    }

    /// Reads the `parameters` element that a script of cluster-glue prints for `getinfo-xml`.
    ///
    /// # Errors
    /// See [`MetadataError`].
    pub fn parse_parameters(name: &str, xml: &str) -> Result<Self, MetadataError> {
        let reading = read(xml)?;
        if !reading.is_agent && !reading.has_parameters {
            return Err(MetadataError::NotAnAgent);
        }
        Ok(Self { name: name.to_owned(), ..reading.metadata })
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
                    unique: p.unique.then_some(p.name.as_str()),
                    deprecated: p.deprecated,
                    short: &p.short,
                    ..AgentParameter::default()
                }));
            }
        }
        fields
    }

    /// True if the agent has an action of this name.
    #[must_use]
    pub fn has_action(&self, name: &str) -> bool {
        self.actions.iter().any(|a| a.name == name)
    }

    /// The parameter that the agent reads from a line of this name; `-` and `_` are the same.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| same(&p.name, name))
    }
}

/// Reads XML. O(length).
fn read(xml: &str) -> Result<Reading, MetadataError> {
    if xml.len() > SIZE_MAX {
        return Err(MetadataError::TooLong(xml.len()));
    }
    let mut reader = Reader::from_str(xml);
    let mut reading = Reading::default();
    loop {
        let at = reader.buffer_position();
        let not_xml = |text: String| MetadataError::NotXml { at, text };
        match reader.read_event().map_err(|e| not_xml(e.to_string()))? {
            Event::Start(tag) => {
                reading.open(&tag).map_err(not_xml)?;
                reading.text = Some(String::new());
            }
            Event::Empty(tag) => {
                reading.open(&tag).map_err(not_xml)?;
                reading.text = None;
            }
            Event::Text(text) => reading.add(&text.xml10_content()),
            Event::CData(text) => reading.add(&text.xml10_content()),
            Event::GeneralRef(reference) => {
                if let Ok(Some(c)) = reference.resolve_char_ref() {
                    reading.add(c.encode_utf8(&mut [0; 4]));
                } else if let Some(text) = quick_xml::escape::resolve_predefined_entity(&reference) {
                    reading.add(text);
                }
            }
            Event::End(tag) => reading.close(tag.name().as_ref()),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    Ok(reading)
}

#[derive(Default)]
struct Reading {
    metadata: Metadata,
    is_agent: bool,
    has_parameters: bool,
    in_parameter: bool,
    /// Text of the element that was opened last.
    text: Option<String>,
}

impl Reading {
    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        let get = |wanted: &str| -> Result<Option<String>, String> {
            let found = tag.try_get_attribute(wanted).map_err(|e| e.to_string())?;
            let value = found.map(|a| a.normalized_value(quick_xml::XmlVersion::Implicit1_0));
            value.transpose().map(|v| v.map(Into::into)).map_err(|e| e.to_string())
        };
        let is_true = |v: Option<String>| v.is_some_and(|v| v == "1" || v == "true");
        match tag.name().as_ref() {
            "resource-agent" => {
                self.is_agent = true;
                self.metadata.name = get("name")?.unwrap_or_default();
                self.metadata.short = get("shortdesc")?.unwrap_or_default();
            }
            "parameters" => self.has_parameters = true,
            "parameter" if self.metadata.parameters.len() < ITEMS_MAX => {
                self.in_parameter = true;
                self.metadata.parameters.push(Parameter {
                    name: get("name")?.unwrap_or_default(),
                    required: is_true(get("required")?),
                    unique: is_true(get("unique")?),
                    deprecated: is_true(get("deprecated")?),
                    obsoletes: get("obsoletes")?,
                    ..Parameter::default()
                });
            }
            "content" if self.in_parameter => {
                if let Some(parameter) = self.metadata.parameters.last_mut() {
                    parameter.kind = get("type")?.unwrap_or_default();
                    parameter.default = get("default")?;
                }
            }
            "option" if self.in_parameter => {
                if let (Some(parameter), Some(value)) = (self.metadata.parameters.last_mut(), get("value")?)
                    && parameter.options.len() < ITEMS_MAX
                {
                    parameter.options.push(value);
                }
            }
            "action" if self.metadata.actions.len() < ITEMS_MAX => {
                self.metadata.actions.push(AgentAction {
                    name: get("name")?.unwrap_or_default(),
                    automatic: is_true(get("automatic")?),
                    on_target: is_true(get("on_target")?),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, text: &str) {
        if let Some(so_far) = &mut self.text {
            so_far.push_str(text);
        }
    }

    fn close(&mut self, name: &str) {
        let text = self.text.take().unwrap_or_default();
        let text = text.trim();
        match name {
            "longdesc" if !self.in_parameter => text.clone_into(&mut self.metadata.long),
            "shortdesc" if self.in_parameter => {
                if let Some(parameter) = self.metadata.parameters.last_mut() {
                    text.clone_into(&mut parameter.short);
                }
            }
            "parameter" => self.in_parameter = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_x" shortdesc="Fence agent &amp; more">
<longdesc>Long &lt;text&gt; &#65;.</longdesc>
<parameters>
  <parameter name="plug" unique="0" required="1"><getopt mixed="-n" /><content type="string"/>
    <shortdesc lang="en">Outlet</shortdesc></parameter>
  <parameter name="lanplus"><content type="select" default="1"><option value="0"/><option value="1"/></content></parameter>
  <parameter name="power_wait" required="0"><content type="second" default="0" /></parameter>
</parameters>
<actions><action name="on" automatic="1" on_target="1"/><action name="off" /></actions>
</resource-agent>"#;

    #[test]
    fn metadata_is_read_with_its_entities() {
        let m = Metadata::parse(EXAMPLE).unwrap();
        assert_eq!((m.name.as_str(), m.short.as_str()), ("fence_x", "Fence agent & more"));
        assert_eq!(m.long, "Long <text> A.");
        assert_eq!(m.parameters.len(), 3);
        assert!(m.parameters[0].required && m.parameters[0].short == "Outlet");
        assert_eq!(m.parameter("power-wait").unwrap().default.as_deref(), Some("0"));
        assert!(m.actions[0].automatic && m.actions[0].on_target);
        assert!(m.has_action("off") && !m.has_action("status"));
        assert_eq!(m.parameter("lanplus").unwrap().options, ["0", "1"]);
        let config = pils::Value::from([("plug", pils::Value::from("3"))]);
        let complete = m.fields().validate(&config).unwrap();
        assert_eq!(complete.to_string(), r#"{"lanplus": "1", "plug": "3", "power_wait": 0}"#);
    }

    #[test]
    fn what_is_no_metadata_is_an_error_and_not_an_empty_agent() {
        assert_eq!(Metadata::parse("<other/>"), Err(MetadataError::NotAnAgent));
        assert!(matches!(
            Metadata::parse("<resource-agent name='x'><a></b>"),
            Err(MetadataError::NotXml { .. })
        ));
        assert!(matches!(Metadata::parse(&" ".repeat(SIZE_MAX + 1)), Err(MetadataError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn damaged_metadata_never_panics(at in 0..EXAMPLE.len(), junk in "[<>&;\"'a/ ]{0,6}") {
            let damaged = format!("{}{junk}{}", &EXAMPLE[..at], &EXAMPLE[at..]);
            if let Ok(m) = Metadata::parse(&damaged) {
                prop_assert!(m.parameters.len() <= 3);
            }
        }
    }
}
