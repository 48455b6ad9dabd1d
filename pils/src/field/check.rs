use super::{Basic, Class, Count, Field, Fields, Simple, special};
use crate::{ConfigErrors, Value};
use regex_lite::{Regex, RegexBuilder};
use std::collections::BTreeMap;

/// Bytes that a compiled pattern may take.
const PATTERN_MAX: usize = 64 << 10;

impl Fields {
    /// Checks a configuration, and makes it complete: defaults are filled in, and text that says a number or a truth
    /// value becomes one, as it is if it comes from a file of lines or a form.
    ///
    /// # Errors
    /// Every mistake: parameters that do not exist (with the name that was perhaps meant), that are missing, of the wrong
    /// type, out of range. A secret's value is not in it.
    pub fn validate(&self, config: &Value) -> Result<Value, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let complete = self.check_struct(config, &mut errors);
        errors.into_result().map(|()| complete)
    }

    /// Checks that what must be unique is, among configurations of one type, each with the name it is known by. They
    /// should have been [validated](Self::validate). Fields of structs are not compared.
    ///
    /// # Errors
    /// Every value, or group of values, that occurs twice, under the name of the later.
    pub fn check_unique(&self, instances: &[(&str, &Value)]) -> Result<(), ConfigErrors> {
        let mut groups: BTreeMap<&str, Vec<&Field>> = BTreeMap::new();
        for field in &self.0 {
            if let Class::Simple(simple) = &field.class
                && let Some(group) = &simple.unique
            {
                groups.entry(group).or_default().push(field);
            }
        }
        let mut errors = ConfigErrors::default();
        for fields in groups.values() {
            let mut seen: Vec<(&str, Vec<&Value>)> = Vec::new();
            for (name, config) in instances {
                let values: Vec<&Value> = fields.iter().filter_map(|field| config.get(&field.name)).collect();
                if values.len() < fields.len() {
                    continue;
                }
                if let Some((first, _)) = seen.iter().find(|(_, other)| *other == values) {
                    let all: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                    let hide = |(field, value): (&&Field, &&Value)| field.mask(value).to_string();
                    let shown: Vec<String> = fields.iter().zip(&values).map(hide).collect();
                    let problem = format!("is the same in {first}, and must differ");
                    errors.push(
                        format!("{name}.{}", all.join("+")),
                        shown.join(", "),
                        problem,
                        "change one of them",
                    );
                } else {
                    seen.push((name, values));
                }
            }
        }
        errors.into_result()
    }

    fn check_struct(&self, config: &Value, errors: &mut ConfigErrors) -> Value {
        let Some(members) = config.as_struct() else {
            errors.push("", "", format!("is {}, and should be named values", config.kind()), "");
            return Value::empty_struct();
        };
        let mut complete = BTreeMap::new();
        for field in &self.0 {
            let given = members.get(&field.name).filter(|value| **value != Value::Nil);
            if let Some(value) = field.check(given, errors) {
                complete.insert(field.name.clone(), value);
            }
        }
        for name in members.keys().filter(|name| self.get(name).is_none()) {
            let near = self.0.iter().map(|field| (distance(&field.name, name), &field.name)).min();
            let fix = match near {
                Some((distance, near)) if distance <= 1 + near.len() / 4 => format!("did you mean {near}?"),
                _ => {
                    let names: Vec<&str> = self.0.iter().map(|field| field.name.as_str()).take(20).collect();
                    format!("remove it; there are {}", names.join(", "))
                }
            };
            errors.push(name, "", "is no parameter", fix);
        }
        Value::Struct(complete)
    }
}

impl Field {
    fn check(&self, given: Option<&Value>, errors: &mut ConfigErrors) -> Option<Value> {
        if let Some(count) = self.array {
            return self.check_array(count, given, errors);
        }
        let mut own = ConfigErrors::default();
        let value = match (&self.class, given) {
            (Class::Simple(simple), None) => {
                if self.required && simple.default.is_none() {
                    let fix = simple
                        .advice()
                        .map_or_else(|| "add it".to_owned(), |advice| format!("add it: {advice}"));
                    own.push("", "", "is missing", fix);
                }
                simple.default.clone()
            }
            (Class::Simple(simple), Some(value)) => Some(simple.check(value, &mut own)),
            (Class::Struct(_), None) if !self.required => None,
            (Class::Struct(fields), given) => {
                Some(fields.check_struct(given.unwrap_or(&Value::empty_struct()), &mut own))
            }
        };
        errors.nest(&self.name, own);
        value
    }

    fn check_array(&self, count: Count, given: Option<&Value>, errors: &mut ConfigErrors) -> Option<Value> {
        let single;
        let items = match given {
            None => &[],
            Some(Value::List(items)) => items.as_slice(),
            // one value is a list of one
            Some(one) => {
                single = [one.clone()];
                &single[..]
            }
        };
        if given.is_none() && count.min == 0 && !self.required {
            return None;
        }
        let n = items.len();
        if n < count.min {
            let problem = format!("has {n} entries, and needs {} at least", count.min);
            errors.push(&self.name, "", problem, "add some");
        }
        if let Some(max) = count.max.filter(|max| n > *max) {
            errors.push(&self.name, "", format!("has {n} entries, and may have {max}"), "remove some");
        }
        let mut complete = Vec::with_capacity(n);
        for (i, item) in items.iter().enumerate() {
            let mut own = ConfigErrors::default();
            complete.push(match &self.class {
                Class::Simple(simple) => simple.check(item, &mut own),
                Class::Struct(fields) => fields.check_struct(item, &mut own),
            });
            errors.nest(&format!("{}[{i}]", self.name), own);
        }
        Some(complete.into())
    }
}

impl Simple {
    /// What a value should look like, if there is something to say.
    fn advice(&self) -> Option<String> {
        if !self.choices.is_empty() {
            let values: Vec<&str> = self.choices.iter().map(|choice| choice.value.as_str()).collect();
            return Some(values.join(", "));
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) => Some(format!("{min} to {max}")),
            (Some(min), None) => Some(format!("{min} or more")),
            (None, Some(max)) => Some(format!("{max} or less")),
            (None, None) => self.special.as_ref().map(|special| format!("of type {special}")),
        }
    }

    fn check(&self, value: &Value, errors: &mut ConfigErrors) -> Value {
        let shown = |text: &str| if self.secret { String::new() } else { text.to_owned() };
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Bool(x) => if *x { "true" } else { "false" }.to_owned(),
            Value::Int(x) => x.to_string(),
            Value::Double(x) => x.to_string(),
            Value::DateTime(x) => x.to_string(),
            Value::Nil | Value::Bytes(_) | Value::List(_) | Value::Struct(_) => {
                errors.push("", "", format!("is {}, and should be one value", value.kind()), "");
                return Value::Nil;
            }
        };
        let read = match self.basic {
            Basic::String => Ok(Value::Text(text.clone())),
            Basic::Integer => {
                text.trim().parse::<i64>().map(Value::Int).map_err(|_e| ("is no whole number", ""))
            }
            Basic::Float => match text.trim().parse::<f64>() {
                Ok(x) if x.is_finite() => Ok(Value::Double(x)),
                _ => Err(("is no number", "")),
            },
            Basic::Boolean => {
                truth(&text).map(Value::Bool).ok_or(("is neither yes nor no", "write true or false"))
            }
            Basic::Enum if self.choices.iter().any(|choice| choice.value == text) => {
                Ok(Value::Text(text.clone()))
            }
            Basic::Enum => Err(("is none of the choices", "")),
        };
        let read = match read {
            Ok(read) => read,
            Err((problem, fix)) => {
                let fix = if fix.is_empty() {
                    self.advice().map(|a| format!("choose {a}")).unwrap_or_default()
                } else {
                    fix.to_owned()
                };
                errors.push("", shown(&text), problem, fix);
                return Value::Nil;
            }
        };
        self.check_text(&text, &shown(&text), errors);
        if let Some(n) = number(&read)
            && (self.min.is_some_and(|min| n < min) || self.max.is_some_and(|max| n > max))
        {
            let fix = format!("choose {}", self.advice().unwrap_or_default());
            errors.push("", shown(&text), "is out of range", fix);
        }
        read
    }

    fn check_text(&self, text: &str, shown: &str, errors: &mut ConfigErrors) {
        let length = text.chars().count();
        if let Some(max) = self.length.filter(|max| length > *max) {
            errors.push("", shown, format!("has {length} characters, and may have {max}"), "shorten it");
        }
        if let Some((problem, fix)) = self.special.as_ref().and_then(|name| special::check(name, text)) {
            errors.push("", shown, problem, fix);
        }
        if let Some(pattern) = &self.regex {
            match compile(pattern) {
                Ok(regex) if regex.is_match(text) => {}
                Ok(_) => errors.push("", shown, format!("does not match {pattern}"), "write it like that"),
                Err(reason) => {
                    errors.push("", "", format!("cannot be checked: {reason}"), "tell the plug-in's author");
                }
            }
        }
    }
}

/// A number, as a double.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "a range is told in doubles")]
        Value::Int(x) => Some(*x as f64),
        Value::Double(x) => Some(*x),
        Value::Nil
        | Value::Bool(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::DateTime(_)
        | Value::List(_)
        | Value::Struct(_) => None,
    }
}

/// The words for yes and no that agents take.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "y" | "t" => Some(true),
        "false" | "no" | "off" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// The pattern, anchored at both ends.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let whole = format!("^(?:{pattern})$");
    RegexBuilder::new(&whole).size_limit(PATTERN_MAX).build().map_err(|error| error.to_string())
}

/// How many characters must be changed, added or removed. O(length of both).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
