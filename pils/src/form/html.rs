use crate::codec::escape;
use crate::field::{Basic, Class, Field, Fields, Simple};
use crate::{ConfigErrors, Value};
use core::fmt::{Display, Write as _};
use std::collections::BTreeMap;

/// Entries of a list that a form shows and [`from_pairs`] reads.
pub const ROWS_MAX: usize = 256;

/// The inside of a `<form>` that asks for a configuration: without the form element itself, its address and its button,
/// which are the page's. HTML 5, no script, no style; every text is escaped.
///
/// `current` is what is filled in, and may be what somebody sent that was wrong: then `errors`, from
/// [`Fields::validate`], are shown beside the fields. A list has one empty row at its end; a row left empty is not in the
/// configuration. Secrets are never filled in: left empty, they stay as they are.
#[must_use]
pub fn html(fields: &Fields, current: &Value, errors: &ConfigErrors, language: &str) -> String {
    let mut page = Page { out: String::new(), errors, language };
    page.fields(fields, Some(current), &Place { name: String::new(), path: String::new() });
    page.out
}

/// The configuration that a form of [`html`] sends back: decoded pairs of names and values, as the application has them from
/// `application/x-www-form-urlencoded`. What was left empty is left out, and a secret that was is taken from `current`.
/// Not checked: give it to [`Fields::validate`].
#[must_use]
pub fn from_pairs(fields: &Fields, current: &Value, pairs: &[(String, String)]) -> Value {
    // of a name that is sent twice the last counts: a ticked box comes after its hidden "false"
    let sent: BTreeMap<&str, &str> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    read(fields, Some(current), "", &sent)
}

/// The name of a member on the page.
fn below(prefix: &str, name: &str) -> String {
    let dot = if prefix.is_empty() { "" } else { "." };
    format!("{prefix}{dot}{}", escape(name, true))
}

fn read(fields: &Fields, current: Option<&Value>, prefix: &str, sent: &BTreeMap<&str, &str>) -> Value {
    let mut config = BTreeMap::new();
    for field in &fields.0 {
        let name = below(prefix, &field.name);
        let current = current.and_then(|value| value.get(&field.name));
        let value = if field.array.is_some() {
            let row = |i: usize| {
                let current = current.and_then(|list| list.at(i));
                read_one(field, current, &format!("{name}[{i}]"), sent)
            };
            // no row that nothing was sent for is looked at: lists in lists would multiply
            let is_sent = |i: &usize| {
                let entry = format!("{name}[{i}]");
                sent.range(entry.as_str()..).next().is_some_and(|(sent, _)| sent.starts_with(&entry))
            };
            let items: Vec<Value> =
                (0..ROWS_MAX).filter(is_sent).map(row).filter(|item| !is_empty(item)).collect();
            items.into()
        } else {
            read_one(field, current, &name, sent)
        };
        if !is_empty(&value) {
            config.insert(field.name.clone(), value);
        }
    }
    Value::Struct(config)
}

/// True for what is to be left out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Nil => true,
        Value::Struct(members) => members.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Bool(_)
        | Value::Int(_)
        | Value::Double(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::DateTime(_) => false,
    }
}

fn read_one(field: &Field, current: Option<&Value>, name: &str, sent: &BTreeMap<&str, &str>) -> Value {
    match &field.class {
        Class::Struct(fields) => read(fields, current, name, sent),
        Class::Simple(simple) => match sent.get(name) {
            Some(text) if !text.is_empty() => Value::Text((*text).to_owned()),
            _ if simple.secret || simple.read_only => current.cloned().unwrap_or_default(),
            _ => Value::Nil,
        },
    }
}

/// Where a field stands: on the page, and in the configuration as errors name it.
struct Place {
    name: String,
    path: String,
}

impl Place {
    fn member(&self, field: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { name: below(&self.name, field), path: format!("{}{dot}{field}", self.path) }
    }

    fn entry(&self, i: usize) -> Self {
        Self { name: format!("{}[{i}]", self.name), path: format!("{}[{i}]", self.path) }
    }
}

struct Page<'a> {
    out: String,
    errors: &'a ConfigErrors,
    language: &'a str,
}

/// Text as part of a page.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Page<'_> {
    fn put(&mut self, text: core::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a string takes all that is written");
    }

    fn fields(&mut self, fields: &Fields, current: Option<&Value>, around: &Place) {
        for field in &fields.0 {
            let current = current.and_then(|value| value.get(&field.name));
            if matches!(&field.class, Class::Simple(s) if s.deprecated.is_some()) && current.is_none() {
                continue;
            }
            self.field(field, current, &around.member(&field.name));
        }
    }

    fn field(&mut self, field: &Field, current: Option<&Value>, at: &Place) {
        let title = field.title(self.language).to_owned();
        let Some(count) = field.array else {
            self.one(field, current, at, &title);
            if matches!(field.class, Class::Simple(_)) {
                self.help(field);
            }
            return;
        };
        self.put(format_args!("<fieldset><legend>{}</legend>\n", Escaped(&title)));
        self.help(field);
        self.complaints(&at.path);
        let rows = current.and_then(Value::as_list).map_or(0, <[Value]>::len).min(ROWS_MAX);
        let most = count.max.unwrap_or(ROWS_MAX).min(ROWS_MAX);
        let shown = (rows + 1).max(count.min).min(most).max(rows);
        for i in 0..shown {
            let one = current.and_then(|list| list.at(i));
            self.one(field, one, &at.entry(i), &format!("{title} {}", i + 1));
        }
        self.out.push_str("</fieldset>\n");
    }

    fn one(&mut self, field: &Field, current: Option<&Value>, at: &Place, title: &str) {
        match &field.class {
            Class::Struct(fields) => {
                self.put(format_args!("<fieldset><legend>{}</legend>\n", Escaped(title)));
                if field.array.is_none() {
                    self.help(field);
                }
                self.complaints(&at.path);
                self.fields(fields, current, at);
                self.out.push_str("</fieldset>\n");
            }
            Class::Simple(simple) => {
                self.put(format_args!("<label>{} ", Escaped(title)));
                self.input(field, simple, current, &at.name);
                self.out.push_str("</label>\n");
                self.complaints(&at.path);
            }
        }
    }

    fn help(&mut self, field: &Field) {
        let (short, long) = (field.short_text.get(self.language), field.long_text.get(self.language));
        if !short.is_empty() {
            self.put(format_args!("<small>{}</small>\n", Escaped(short)));
        }
        if !long.is_empty() {
            self.put(format_args!("<details><summary>?</summary>{}</details>\n", Escaped(long)));
        }
    }

    fn complaints(&mut self, path: &str) {
        let errors = self.errors;
        for error in errors.0.iter().filter(|error| error.path == path) {
            let fix = if error.fix.is_empty() { String::new() } else { format!("; {}", error.fix) };
            self.put(format_args!(
                "<strong role=\"alert\">{}{}</strong>\n",
                Escaped(&error.problem),
                Escaped(&fix)
            ));
        }
    }

    fn input(&mut self, field: &Field, simple: &Simple, current: Option<&Value>, name: &str) {
        // the default stands in a field of its own, not in each empty row of a list
        let filled = current.or_else(|| simple.default.as_ref().filter(|_default| field.array.is_none()));
        let text =
            filled.map(|v| v.as_text().map_or_else(|| v.to_string(), ToOwned::to_owned)).unwrap_or_default();
        let off = if simple.read_only { " disabled" } else { "" };
        match simple.basic {
            Basic::Boolean if field.array.is_none() => {
                let ticked =
                    if matches!(filled, Some(Value::Bool(true))) || text == "true" { " checked" } else { "" };
                self.put(format_args!(
                    "<input type=\"hidden\" name=\"{0}\" value=\"false\"><input type=\"checkbox\" name=\"{0}\" value=\"true\"{ticked}{off}>",
                    Escaped(name)
                ));
            }
            Basic::Boolean => self.select(name, &text, off, [("", ""), ("true", "yes"), ("false", "no")]),
            Basic::Enum => {
                let language = self.language;
                let choices = simple.choices.iter().map(|choice| {
                    let label = choice.label.get(language);
                    (choice.value.as_str(), if label.is_empty() { choice.value.as_str() } else { label })
                });
                let none = (!field.required || field.array.is_some()).then_some(("", ""));
                self.select(name, &text, off, none.into_iter().chain(choices));
            }
            Basic::String | Basic::Integer | Basic::Float => {
                let text = if simple.secret { "" } else { &text };
                self.plain(field, simple, name, text);
                self.out.push_str(off);
                self.out.push('>');
            }
        }
    }

    fn select<'c>(
        &mut self,
        name: &str,
        chosen: &str,
        off: &str,
        all: impl IntoIterator<Item = (&'c str, &'c str)>,
    ) {
        self.put(format_args!("<select name=\"{}\"{off}>", Escaped(name)));
        for (value, label) in all {
            let mark = if value == chosen { " selected" } else { "" };
            self.put(format_args!("<option value=\"{}\"{mark}>{}</option>", Escaped(value), Escaped(label)));
        }
        self.out.push_str("</select>");
    }

    /// An `<input>` up to its closing bracket.
    fn plain(&mut self, field: &Field, simple: &Simple, name: &str, text: &str) {
        let kind = match (simple.basic, simple.special.as_deref()) {
            _ if simple.secret => "password",
            (Basic::Integer | Basic::Float, _) => "number",
            (_, Some("email")) => "email",
            (_, Some("URL")) => "url",
            _ => "text",
        };
        self.put(format_args!(
            "<input type=\"{kind}\" name=\"{}\" value=\"{}\"",
            Escaped(name),
            Escaped(text)
        ));
        for (attribute, bound) in [("min", simple.min), ("max", simple.max)] {
            if let Some(bound) = bound {
                self.put(format_args!(" {attribute}=\"{bound}\""));
            }
        }
        match simple.basic {
            Basic::Integer => self.out.push_str(" step=\"1\""),
            Basic::Float => self.out.push_str(" step=\"any\""),
            Basic::String | Basic::Boolean | Basic::Enum => {}
        }
        if let Some(length) = simple.length {
            self.put(format_args!(" maxlength=\"{length}\""));
        }
        if let Some(pattern) = &simple.regex {
            self.put(format_args!(" pattern=\"{}\"", Escaped(pattern)));
        }
        if field.required && field.array.is_none() && !simple.secret {
            self.out.push_str(" required");
        }
    }
}
