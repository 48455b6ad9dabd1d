//! Self-configuration: how a plug-in says which parameters it takes, so that a program which has never heard of it can ask
//! for them, check them, show them and store them.
//!
//! A description is a list of [`Field`]s. It is data: it passes through any codec ([`Fields::to_value`],
//! [`Fields::from_value`]), a form is made from it ([`crate::form`]), a JSON Schema ([`Fields::json_schema`]), and a
//! configuration is checked against it with every mistake at once ([`Fields::validate`]).
//!
//! ```
//! use pils::field::{Basic, Field, Fields};
//! use pils::Value;
//!
//! let fields = Fields(vec![
//!     Field::new("address", Basic::String).special("IPv4").required().short("Address of the power switch"),
//!     Field::new("port", Basic::Integer).range(1, 65_535).default(23),
//!     Field::new("password", Basic::String).secret().length(32),
//!     Field::new("outlets", Basic::Integer).array(1, Some(8)),
//! ]);
//! let written = Value::from([("address", Value::from("192.0.2.300")), ("portt", 7.into())]);
//! assert_eq!(
//!     fields.validate(&written).unwrap_err().to_string(),
//!     "3 errors in the configuration\n\
//!      \x20 address = 192.0.2.300: is no IPv4 address; write four numbers from 0 to 255: 192.0.2.1\n\
//!      \x20 outlets: has 0 entries, and needs 1 at least; add some\n\
//!      \x20 portt: is no parameter; did you mean port?"
//! );
//! let outlets = Value::from(vec![Value::from("3")]);
//! let right = Value::from([("address", Value::from("192.0.2.3")), ("outlets", outlets)]);
//! // text that says a number is one, and defaults are filled in
//! assert_eq!(fields.validate(&right)?.to_string(), r#"{"address": "192.0.2.3", "outlets": [3], "port": 23}"#);
//! # Ok::<(), pils::ConfigErrors>(())
//! ```
//!
//! What resource agents and fence agents say of their parameters becomes fields: [`AgentParameter`].
//!
//! A plug-in that can be configured implements [`Configurable`]; what tests that it does so well is
//! `pils::testing::check_configurable` (feature `testing`).
//!
//! Source: "An Open Framework for Clustering", self-configuration, with the attributes that its one example shows; the rest
//! of the table is this project's. Regular expressions are anchored at both ends. `shorttext` and `longtext` are read as
//! `short_text` and `long_text`, which are written.

mod agent;
mod check;
mod configurable;
mod convert;
mod schema;
mod special;

pub use agent::AgentParameter;
pub use configurable::{Configurable, Identity};

use crate::Value;
use std::collections::BTreeMap;

/// Fields that a description may have, those of structs counted.
pub const FIELDS_MAX: usize = 4096;
/// Structs within each other.
pub const DEPTH_MAX: usize = 16;
/// What a secret is shown as.
pub const MASK: &str = "********";

/// A description: fields in the order in which they are shown. Names are unique within a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(pub Vec<Field>);

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its key in the configuration. Not empty.
    pub name: String,
    /// What a form calls it; the name if empty.
    pub label: Text,
    /// One line about it.
    pub short_text: Text,
    /// All about it.
    pub long_text: Text,
    /// True if it must be given.
    pub required: bool,
    /// If it is a list of what `class` says: how many.
    pub array: Option<Count>,
    /// What it holds.
    pub class: Class,
}

/// How many entries a list may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// At least.
    pub min: usize,
    /// At most; `None` for no limit.
    pub max: Option<usize>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// A plain value.
    Simple(Box<Simple>),
    /// Named fields.
    Struct(Fields),
}

/// What is known of a plain value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Simple {
    /// What every program understands.
    pub basic: Basic,
    /// What some programs understand better: `IPv4`, `hostname`. Unknown ones are allowed and ignored.
    pub special: Option<String>,
    /// Most characters, for text.
    pub length: Option<usize>,
    /// A regular expression that the whole text must match.
    pub regex: Option<String>,
    /// Least number.
    pub min: Option<f64>,
    /// Largest number.
    pub max: Option<f64>,
    /// What an [`Basic::Enum`] allows.
    pub choices: Vec<Choice>,
    /// The value if none is given.
    pub default: Option<Value>,
    /// If no two instances may have the same value: the name of the group of fields that are unique together; the
    /// field's own name if it is unique by itself.
    pub unique: Option<String>,
    /// Shown, but not to be changed.
    pub read_only: bool,
    /// Never shown, never logged.
    pub secret: bool,
    /// A change takes effect without a restart.
    pub reloadable: bool,
    /// Not for new configurations; names of the fields to use instead.
    pub deprecated: Option<Vec<String>>,
}

/// The type that every program understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basic {
    /// Text.
    #[default]
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number.
    Float,
    /// Yes or no.
    Boolean,
    /// One of [`Simple::choices`].
    Enum,
}

/// A value that may be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// What stands in the configuration.
    pub value: String,
    /// What a form shows; the value if empty.
    pub label: Text,
}

/// Text for people, in several languages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(BTreeMap<String, String>);

impl Text {
    /// The language of text that does not say.
    pub const DEFAULT: &'static str = "en";

    /// Text in one more language.
    #[must_use]
    pub fn with(mut self, language: &str, text: impl Into<String>) -> Self {
        self.0.insert(language.to_owned(), text.into());
        self
    }

    /// The text in `language`, else in English, else in any, else nothing.
    #[must_use]
    pub fn get(&self, language: &str) -> &str {
        let own = self.0.get(language).or_else(|| self.0.get(Self::DEFAULT));
        own.or_else(|| self.0.values().next()).map_or("", String::as_str)
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(String::is_empty)
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        let text = text.into();
        if text.is_empty() { Self::default() } else { Self::default().with(Self::DEFAULT, text) }
    }
}

impl Basic {
    /// The name in a description.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Enum => "enum",
        }
    }

    const ALL: [Self; 5] = [Self::String, Self::Integer, Self::Float, Self::Boolean, Self::Enum];
}

impl Field {
    /// An optional field with a plain value.
    #[must_use]
    pub fn new(name: impl Into<String>, basic: Basic) -> Self {
        let simple = Simple { basic, ..Simple::default() };
        Self::of(name, Class::Simple(Box::new(simple)))
    }

    /// An optional field with fields of its own.
    #[must_use]
    pub fn structure(name: impl Into<String>, fields: impl Into<Vec<Self>>) -> Self {
        Self::of(name, Class::Struct(Fields(fields.into())))
    }

    fn of(name: impl Into<String>, class: Class) -> Self {
        Self {
            name: name.into(),
            label: Text::default(),
            short_text: Text::default(),
            long_text: Text::default(),
            required: false,
            array: None,
            class,
        }
    }

    fn edit(mut self, change: impl FnOnce(&mut Simple)) -> Self {
        if let Class::Simple(simple) = &mut self.class {
            change(simple);
        }
        self
    }

    /// Sets the label.
    #[must_use]
    pub fn label(mut self, text: impl Into<Text>) -> Self {
        self.label = text.into();
        self
    }

    /// Sets the line about it.
    #[must_use]
    pub fn short(mut self, text: impl Into<Text>) -> Self {
        self.short_text = text.into();
        self
    }

    /// Sets the text about it.
    #[must_use]
    pub fn long(mut self, text: impl Into<Text>) -> Self {
        self.long_text = text.into();
        self
    }

    /// Must be given.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Is a list of `min` to `max` of these.
    #[must_use]
    pub const fn array(mut self, min: usize, max: Option<usize>) -> Self {
        self.array = Some(Count { min, max });
        self
    }

    /// Says more of the type. `password` makes it secret. Without effect on a struct, as all that follow.
    #[must_use]
    pub fn special(self, name: &str) -> Self {
        self.edit(|s| {
            s.special = Some(name.to_owned());
            s.secret |= name == "password";
        })
    }

    /// Most characters.
    #[must_use]
    pub fn length(self, max: usize) -> Self {
        self.edit(|s| s.length = Some(max))
    }

    /// What the whole text must match.
    #[must_use]
    pub fn regex(self, pattern: &str) -> Self {
        self.edit(|s| s.regex = Some(pattern.to_owned()))
    }

    /// Least and largest number.
    #[must_use]
    pub fn range(self, min: i32, max: i32) -> Self {
        self.edit(|s| (s.min, s.max) = (Some(min.into()), Some(max.into())))
    }

    /// What may be chosen.
    #[must_use]
    pub fn choices<'a>(self, values: impl IntoIterator<Item = &'a str>) -> Self {
        let choice = |value: &str| Choice { value: value.to_owned(), label: Text::default() };
        self.edit(|s| s.choices = values.into_iter().map(choice).collect())
    }

    /// The value if none is given.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.edit(|s| s.default = Some(value.into()))
    }

    /// No two instances have the same.
    #[must_use]
    pub fn unique(self) -> Self {
        let name = self.name.clone();
        self.edit(|s| s.unique = Some(name))
    }

    /// Never shown.
    #[must_use]
    pub fn secret(self) -> Self {
        self.edit(|s| s.secret = true)
    }

    /// Not to be changed.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.edit(|s| s.read_only = true)
    }

    /// A change takes effect at once.
    #[must_use]
    pub fn reloadable(self) -> Self {
        self.edit(|s| s.reloadable = true)
    }

    /// What a form calls it, in `language`.
    #[must_use]
    pub fn title(&self, language: &str) -> &str {
        let label = self.label.get(language);
        if label.is_empty() { &self.name } else { label }
    }
}

impl Fields {
    /// The field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|field| field.name == name)
    }

    /// `config` with every secret replaced by [`MASK`], and with what is no field left out: safe to show and to log.
    #[must_use]
    pub fn mask(&self, config: &Value) -> Value {
        let Some(members) = config.as_struct() else { return Value::empty_struct() };
        let shown = members.iter().filter_map(|(name, value)| {
            let field = self.get(name)?;
            Some((name.clone(), field.mask(value)))
        });
        shown.collect()
    }
}

impl Field {
    fn mask(&self, value: &Value) -> Value {
        match value.as_list().filter(|_items| self.array.is_some()) {
            Some(items) => items.iter().map(|x| self.mask_one(x)).collect(),
            None => self.mask_one(value),
        }
    }

    fn mask_one(&self, value: &Value) -> Value {
        match &self.class {
            Class::Simple(simple) if simple.secret => MASK.into(),
            Class::Simple(_) => value.clone(),
            Class::Struct(fields) => fields.mask(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_it_lies() {
        let login =
            vec![Field::new("user", Basic::String), Field::new("key", Basic::String).special("password")];
        let fields = Fields(vec![
            Field::structure("logins", login).array(0, None),
            Field::new("tokens", Basic::String).secret().array(0, None),
        ]);
        let entry = Value::from([("user", Value::from("root")), ("key", "hunter2".into())]);
        let tokens = Value::from(vec![Value::from("abc"), "def".into()]);
        let config = Value::from([
            ("logins", Value::from(vec![entry])),
            ("tokens", tokens),
            ("typo", "s3cret".into()),
        ]);
        assert_eq!(
            fields.mask(&config).to_string(),
            r#"{"logins": [{"key": "********", "user": "root"}], "tokens": ["********", "********"]}"#
        );
        assert_eq!(fields.mask(&Value::from("s3cret")), Value::empty_struct());
    }

    #[test]
    fn text_falls_back_to_english_then_to_any() {
        let text = Text::default().with("de", "Anschluss").with("en", "Port");
        assert_eq!((text.get("de"), text.get("fr")), ("Anschluss", "Port"));
        assert_eq!(Text::default().with("de", "Anschluss").get("fr"), "Anschluss");
        assert_eq!(Field::new("port", Basic::Integer).title("en"), "port");
    }
}
