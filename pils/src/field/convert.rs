//! A description as a value, and back: the names of the attributes are those of the framework's founding documents.

use super::{Basic, Choice, Class, Count, DEPTH_MAX, FIELDS_MAX, Field, Fields, Simple, Text, check};
use crate::{ConfigErrors, Value};
use std::collections::{BTreeMap, BTreeSet};

impl Fields {
    /// The description as a list of structs, one for each field, with the attributes that are set.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.0.iter().map(Field::to_value).collect()
    }

    /// Reads a description. Attributes that are not known are ignored, so that a newer plug-in is understood.
    ///
    /// # Errors
    /// Every mistake: fields without or with the same name, attributes of the wrong type, a pattern that cannot be
    /// compiled, a choice without choices, more than [`FIELDS_MAX`] fields or [`DEPTH_MAX`] levels.
    pub fn from_value(value: &Value) -> Result<Self, ConfigErrors> {
        let mut reading = Reading { errors: ConfigErrors::default(), fields: 0 };
        let fields = reading.fields(value, "", 0);
        reading.errors.into_result().map(|()| fields)
    }
}

impl Text {
    fn to_value(&self) -> Value {
        match self.0.iter().next() {
            Some((language, text)) if self.0.len() == 1 && language == Self::DEFAULT => text.clone().into(),
            _ => self.0.iter().map(|(language, text)| (language.clone(), text.clone().into())).collect(),
        }
    }
}

impl Field {
    fn to_value(&self) -> Value {
        let mut out = BTreeMap::new();
        let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
        put("fieldname", self.name.clone().into());
        for (name, text) in
            [("label", &self.label), ("short_text", &self.short_text), ("long_text", &self.long_text)]
        {
            if !text.is_empty() {
                put(name, text.to_value());
            }
        }
        if self.required {
            put("required", true.into());
        }
        if let Some(count) = self.array {
            put("isarray", true.into());
            put("minelems", i64::try_from(count.min).unwrap_or(i64::MAX).into());
            if let Some(max) = count.max {
                put("maxelems", i64::try_from(max).unwrap_or(i64::MAX).into());
            }
        }
        match &self.class {
            Class::Simple(simple) => out.extend(simple.attributes()),
            Class::Struct(fields) => {
                put("class", "struct".into());
                put("fields", fields.to_value());
            }
        }
        Value::Struct(out)
    }
}

impl Simple {
    fn attributes(&self) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
        put("basictype", self.basic.name().into());
        for (name, text) in [("specialtype", &self.special), ("regex", &self.regex), ("unique", &self.unique)]
        {
            if let Some(text) = text {
                put(name, text.clone().into());
            }
        }
        if let Some(length) = self.length {
            put("length", i64::try_from(length).unwrap_or(i64::MAX).into());
        }
        for (name, bound) in [("min", self.min), ("max", self.max)] {
            if let Some(bound) = bound {
                put(name, bound.into());
            }
        }
        if !self.choices.is_empty() {
            let choice = |choice: &Choice| {
                let mut out = BTreeMap::from([("value".to_owned(), Value::from(choice.value.as_str()))]);
                if !choice.label.is_empty() {
                    out.insert("label".to_owned(), choice.label.to_value());
                }
                Value::Struct(out)
            };
            put("choices", self.choices.iter().map(choice).collect());
        }
        if let Some(default) = &self.default {
            put("default", default.clone());
        }
        let flags = [("readonly", self.read_only), ("secret", self.secret), ("reloadable", self.reloadable)];
        for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
            put(name, true.into());
        }
        if let Some(instead) = &self.deprecated {
            put("deprecated", instead.iter().cloned().map(Value::Text).collect());
        }
        out
    }
}

struct Reading {
    errors: ConfigErrors,
    fields: usize,
}

/// One field's attributes, and where it stands.
struct Attributes<'a> {
    members: &'a BTreeMap<String, Value>,
    at: &'a str,
}

impl Attributes<'_> {
    fn wrong(&self, name: &str, value: &Value, wanted: &str, errors: &mut ConfigErrors) {
        let problem = format!("is {}, and should be {wanted}", value.kind());
        errors.push(format!("{}.{name}", self.at), "", problem, "");
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| **value != Value::Nil)
    }

    fn string(&self, name: &str, errors: &mut ConfigErrors) -> Option<String> {
        let value = self.get(name)?;
        let text = value.as_text().map(ToOwned::to_owned);
        if text.is_none() {
            self.wrong(name, value, "text", errors);
        }
        text
    }

    /// A truth value, or what an agent would take for one.
    fn flag(&self, name: &str, errors: &mut ConfigErrors) -> bool {
        let Some(value) = self.get(name) else { return false };
        let truth = value.as_bool().or_else(|| value.as_int().map(|x| x != 0));
        let truth = truth.or_else(|| value.as_text().and_then(check::truth));
        if truth.is_none() {
            self.wrong(name, value, "a boolean", errors);
        }
        truth.unwrap_or(false)
    }

    fn number(&self, name: &str, errors: &mut ConfigErrors) -> Option<f64> {
        let value = self.get(name)?;
        let number = check::number(value).or_else(|| value.as_text().and_then(|text| text.parse().ok()));
        if number.is_none() {
            self.wrong(name, value, "a number", errors);
        }
        number
    }

    fn count(&self, name: &str, errors: &mut ConfigErrors) -> Option<usize> {
        let value = self.get(name)?;
        let number = value.as_int().or_else(|| value.as_text().and_then(|text| text.parse().ok()));
        let count = number.and_then(|n: i64| usize::try_from(n).ok());
        if count.is_none() {
            self.wrong(name, value, "a count", errors);
        }
        count
    }

    /// Text in one language or in several, under one of two names.
    fn text(&self, names: [&str; 2], errors: &mut ConfigErrors) -> Text {
        let Some((name, value)) = names.iter().find_map(|name| Some((*name, self.get(name)?))) else {
            return Text::default();
        };
        if let Some(text) = value.as_text() {
            return text.into();
        }
        let several = value.as_struct().and_then(|members| {
            members
                .iter()
                .map(|(language, text)| Some((language.clone(), text.as_text()?.to_owned())))
                .collect()
        });
        if several.is_none() {
            self.wrong(name, value, "text, or a struct of languages", errors);
        }
        Text(several.unwrap_or_default())
    }
}

impl Reading {
    fn fields(&mut self, value: &Value, at: &str, level: usize) -> Fields {
        let Some(items) = value.as_list() else {
            self.errors.push(at, "", format!("is {}, and should be a list of fields", value.kind()), "");
            return Fields::default();
        };
        if level >= DEPTH_MAX {
            self.errors.push(at, "", format!("lies deeper than {DEPTH_MAX} structs"), "flatten it");
            return Fields::default();
        }
        let mut fields = Vec::new();
        let mut names = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let place = format!("{at}[{i}]");
            self.fields += 1;
            if self.fields > FIELDS_MAX {
                self.errors.push(place, "", format!("is one of more than {FIELDS_MAX} fields"), "");
                break;
            }
            let Some(field) = self.field(item, &place, level) else { continue };
            if !names.insert(field.name.clone()) {
                self.errors.push(format!("{place}.fieldname"), &field.name, "occurs twice", "rename one");
            }
            fields.push(field);
        }
        Fields(fields)
    }

    fn field(&mut self, value: &Value, at: &str, level: usize) -> Option<Field> {
        let Some(members) = value.as_struct() else {
            self.errors.push(
                at,
                "",
                format!("is {}, and should be a struct of attributes", value.kind()),
                "",
            );
            return None;
        };
        let of = Attributes { members, at };
        let errors = &mut self.errors;
        let name = of.string("fieldname", errors).filter(|name| !name.is_empty());
        if name.is_none() {
            errors.push(format!("{at}.fieldname"), "", "is missing", "name the field");
        }
        let label = of.text(["label", "label"], errors);
        let short_text = of.text(["short_text", "shorttext"], errors);
        let long_text = of.text(["long_text", "longtext"], errors);
        let required = of.flag("required", errors);
        let array = of.flag("isarray", errors).then(|| Count {
            min: of.count("minelems", errors).unwrap_or(0),
            max: of.count("maxelems", errors),
        });
        let class = match of.string("class", errors).as_deref() {
            None | Some("simple") => Class::Simple(Box::new(simple(&of, errors))),
            Some("struct") => {
                let empty = Value::List(Vec::new());
                let inner = of.get("fields").unwrap_or(&empty);
                Class::Struct(self.fields(inner, &format!("{at}.fields"), level + 1))
            }
            Some(other) => {
                errors.push(format!("{at}.class"), other, "is no class", "choose simple or struct");
                Class::Simple(Box::default())
            }
        };
        Some(Field { name: name?, label, short_text, long_text, required, array, class })
    }
}

fn simple(of: &Attributes<'_>, errors: &mut ConfigErrors) -> Simple {
    let at = of.at;
    let word = of.string("basictype", errors).unwrap_or_else(|| Basic::String.name().to_owned());
    let basic = Basic::ALL.into_iter().find(|basic| basic.name() == word);
    if basic.is_none() {
        let names = Basic::ALL.map(Basic::name).join(", ");
        errors.push(format!("{at}.basictype"), &word, "is no basic type", format!("choose {names}"));
    }
    let regex = of.string("regex", errors);
    if let Some(Err(reason)) = regex.as_deref().map(check::compile) {
        errors.push(
            format!("{at}.regex"),
            regex.as_deref().unwrap_or_default(),
            reason,
            "correct the pattern",
        );
    }
    let special = of.string("specialtype", errors);
    let found = Simple {
        basic: basic.unwrap_or_default(),
        length: of.count("length", errors),
        regex,
        min: of.number("min", errors),
        max: of.number("max", errors),
        choices: choices(of, errors),
        default: of.get("default").cloned(),
        unique: unique(of, errors),
        read_only: of.flag("readonly", errors),
        secret: of.flag("secret", errors) || special.as_deref() == Some("password"),
        reloadable: of.flag("reloadable", errors),
        deprecated: deprecated(of, errors),
        special,
    };
    if found.basic == Basic::Enum && found.choices.is_empty() {
        errors.push(format!("{at}.choices"), "", "is empty", "list what may be chosen");
    }
    found
}

fn choices(of: &Attributes<'_>, errors: &mut ConfigErrors) -> Vec<Choice> {
    let Some(value) = of.get("choices") else { return Vec::new() };
    let Some(items) = value.as_list() else {
        of.wrong("choices", value, "a list", errors);
        return Vec::new();
    };
    let mut all = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let at = format!("{}.choices[{i}]", of.at);
        // a choice without a label may stand by itself
        let choice = match (item.as_text(), item.as_struct()) {
            (Some(text), _) => Some(Choice { value: text.to_owned(), label: Text::default() }),
            (None, Some(members)) => {
                let of = Attributes { members, at: &at };
                let label = of.text(["label", "label"], errors);
                of.string("value", errors).map(|value| Choice { value, label })
            }
            (None, None) => None,
        };
        match choice {
            Some(choice) => all.push(choice),
            None => errors.push(at, "", "has no value", "write the value as text"),
        }
    }
    all
}

/// True means unique by itself; text names a group.
fn unique(of: &Attributes<'_>, errors: &mut ConfigErrors) -> Option<String> {
    let value = of.get("unique")?;
    match value.as_text() {
        Some(text) => match check::truth(text) {
            Some(true) => of.string("fieldname", errors),
            Some(false) => None,
            None => Some(text.to_owned()),
        },
        None if of.flag("unique", errors) => of.string("fieldname", errors),
        None => None,
    }
}

fn deprecated(of: &Attributes<'_>, errors: &mut ConfigErrors) -> Option<Vec<String>> {
    let value = of.get("deprecated")?;
    match value.as_list() {
        Some(items) => Some(items.iter().filter_map(Value::as_text).map(ToOwned::to_owned).collect()),
        None => of.flag("deprecated", errors).then(Vec::new),
    }
}
