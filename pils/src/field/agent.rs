use super::{Basic, Choice, Class, Field, Simple, Text, check};
use crate::Value;

/// What the metadata of resource agents and fence agents say of a parameter, as text. [`Field::from`] makes a field of it,
/// whatever stands in it.
///
/// ```
/// use pils::field::{AgentParameter, Basic, Field};
/// let delay = AgentParameter { name: "delay", kind: "second", default: Some("5"), ..AgentParameter::default() };
/// assert_eq!(Field::from(delay), Field::new("delay", Basic::Integer).default(5));
/// // a default that is no number makes the parameter text: what the agent says last counts
/// let odd = AgentParameter { name: "delay", kind: "integer", default: Some("auto"), ..AgentParameter::default() };
/// assert_eq!(Field::from(odd), Field::new("delay", Basic::String).default("auto"));
/// ```
///
/// | content type | basic type |
/// |---|---|
/// | `boolean` | boolean |
/// | `integer`, `second` | integer |
/// | `select` | enum of its options |
/// | `string`, any other, none | string; one named `time` or `duration` with the special type `duration` |
///
/// A parameter whose name ends in `password`, `passwd`, `passphrase` or `secret` is secret. A default that does not fit the
/// type, or is none of the options, makes the parameter a string.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentParameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its content, as the agent calls it.
    pub kind: &'a str,
    /// Its default.
    pub default: Option<&'a str>,
    /// What a `select` offers.
    pub options: &'a [String],
    /// Must be given.
    pub required: bool,
    /// The group in which it is unique, if it is.
    pub unique: Option<&'a str>,
    /// Can be changed without a restart.
    pub reloadable: bool,
    /// Not for new configurations.
    pub deprecated: bool,
    /// One line.
    pub short: &'a str,
    /// More.
    pub long: &'a str,
}

impl From<AgentParameter<'_>> for Field {
    fn from(parameter: AgentParameter<'_>) -> Self {
        let lower = parameter.name.to_ascii_lowercase();
        let is_secret =
            ["password", "passwd", "passphrase", "secret"].iter().any(|word| lower.ends_with(word));
        let basic = match parameter.kind {
            "boolean" => Basic::Boolean,
            "integer" | "second" => Basic::Integer,
            "select" if !parameter.options.is_empty() => Basic::Enum,
            _ => Basic::String,
        };
        // many agents write an empty default for none
        let default = parameter.default.filter(|text| !text.is_empty());
        let typed = default.map(|text| match basic {
            Basic::Boolean => check::truth(text).map(Value::from),
            Basic::Integer => text.trim().parse::<i64>().ok().map(Value::from),
            Basic::Enum => parameter.options.iter().any(|o| o == text).then(|| text.into()),
            Basic::String | Basic::Float => Some(text.into()),
        });
        let (basic, default) = match typed {
            Some(None) => (Basic::String, default.map(Value::from)),
            fits => (basic, fits.flatten()),
        };
        let choice = |value: &String| Choice { value: value.clone(), label: Text::default() };
        let is_enum = basic == Basic::Enum;
        let special = match (basic, parameter.kind) {
            (Basic::String, "time" | "duration") => Some("duration"),
            (Basic::String, _) if is_secret => Some("password"),
            _ => None,
        };
        let simple = Simple {
            basic,
            special: special.map(ToOwned::to_owned),
            choices: if is_enum { parameter.options.iter().map(choice).collect() } else { Vec::new() },
            default,
            unique: parameter.unique.map(ToOwned::to_owned),
            secret: is_secret,
            reloadable: parameter.reloadable,
            deprecated: parameter.deprecated.then(Vec::new),
            ..Simple::default()
        };
        Self {
            name: parameter.name.to_owned(),
            label: Text::default(),
            short_text: parameter.short.into(),
            long_text: parameter.long.into(),
            required: parameter.required,
            array: None,
            class: Class::Simple(Box::new(simple)),
        }
    }
}
