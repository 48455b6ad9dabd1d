use crate::field::{Basic, Class, Count, Field, Fields, MASK, Simple};
use crate::{ConfigErrors, Value};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _, Write};

/// Bytes of an answer.
pub const LINE_MAX: u64 = 64 << 10;
/// Answers to one field that may be wrong before [`ask`] gives up.
pub const ANSWERS_MAX: usize = 100;

/// Asks for a configuration, field by field, and gives it back checked and complete; `None` if the input ends early.
///
/// An empty answer keeps what is in brackets: what `current` holds, or the default. `-` leaves an optional field out, `?`
/// shows all about it, a wrong answer is asked for again with what is wrong. Of a list each entry is asked for until an
/// empty answer. Fields that are read-only are shown, deprecated ones are asked for only if they are in use. The answer to
/// a secret is not shown by this function; turning the terminal's echo off is the caller's.
///
/// # Errors
/// Those of `input` and `output`; [`io::ErrorKind::InvalidData`] for an answer that is not UTF-8 or longer than
/// [`LINE_MAX`], and after [`ANSWERS_MAX`] wrong answers in a row.
pub fn ask(
    fields: &Fields,
    current: Option<&Value>,
    language: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Option<Value>> {
    let mut dialogue = Dialogue { language, input, output };
    let Some(config) = dialogue.fields(fields, current, 0)? else { return Ok(None) };
    // each answer was checked by itself, and so is the whole
    match fields.validate(&config) {
        Ok(complete) => Ok(Some(complete)),
        Err(errors) => Err(io::Error::new(io::ErrorKind::InvalidData, errors)),
    }
}

struct Dialogue<'a, R, W> {
    language: &'a str,
    input: &'a mut R,
    output: &'a mut W,
}

/// What was answered to one question.
enum Answer {
    Keep,
    Omit,
    Text(String),
}

impl<R: BufRead, W: Write> Dialogue<'_, R, W> {
    fn line(&mut self) -> io::Result<Option<String>> {
        self.output.flush()?;
        let mut bytes = Vec::new();
        if self.input.take(LINE_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes.last() != Some(&b'\n') && bytes.len() as u64 == LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        let text =
            String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    fn fields(
        &mut self,
        fields: &Fields,
        current: Option<&Value>,
        level: usize,
    ) -> io::Result<Option<Value>> {
        let mut config = BTreeMap::new();
        for field in &fields.0 {
            let current = current.and_then(|value| value.get(&field.name));
            if field.is_deprecated() && current.is_none() {
                continue;
            }
            let Some(value) = self.field(field, current, level)? else { return Ok(None) };
            if value != Value::Nil {
                config.insert(field.name.clone(), value);
            }
        }
        Ok(Some(Value::Struct(config)))
    }

    /// The value of a field, nil if it is left out; `None` if the input ended.
    fn field(&mut self, field: &Field, current: Option<&Value>, level: usize) -> io::Result<Option<Value>> {
        let short = field.short_text.get(self.language);
        if !short.is_empty() {
            writeln!(self.output, "{:level$}{short}", "", level = level * 2)?;
        }
        match (&field.class, field.array) {
            (_, Some(count)) => self.array(field, count, current, level),
            (Class::Struct(fields), None) => {
                writeln!(self.output, "{:level$}{}:", "", field.title(self.language), level = level * 2)?;
                if !field.required && current.is_none() && !self.agrees("set it", level)?.unwrap_or(false) {
                    return Ok(Some(Value::Nil));
                }
                self.fields(fields, current, level + 1)
            }
            (Class::Simple(simple), None) => self.simple(field, simple, current, level),
        }
    }

    /// True for yes, false for no and for an empty answer.
    fn agrees(&mut self, question: &str, level: usize) -> io::Result<Option<bool>> {
        write!(self.output, "{:level$}{question}? [y/N] ", "", level = level * 2)?;
        let Some(line) = self.line()? else { return Ok(None) };
        Ok(Some(matches!(line.trim(), "y" | "Y" | "yes")))
    }

    fn simple(
        &mut self,
        field: &Field,
        simple: &Simple,
        current: Option<&Value>,
        level: usize,
    ) -> io::Result<Option<Value>> {
        let kept = current.or(simple.default.as_ref()).cloned();
        let shown = kept.as_ref().map(|value| if simple.secret { MASK.to_owned() } else { plain(value) });
        if simple.read_only {
            let shown = shown.unwrap_or_default();
            writeln!(
                self.output,
                "{:level$}{} is {shown}",
                "",
                field.title(self.language),
                level = level * 2
            )?;
            return Ok(Some(kept.unwrap_or_default()));
        }
        for _ in 0..ANSWERS_MAX {
            let Some(answer) = self.question(field, simple, shown.as_deref(), level)? else {
                return Ok(None);
            };
            let value = match answer {
                Answer::Keep => kept.clone(),
                Answer::Omit => None,
                Answer::Text(text) => Some(Value::Text(text)),
            };
            match check_alone(field, value.as_ref()) {
                Ok(()) => return Ok(Some(value.unwrap_or_default())),
                Err(errors) => self.complain(&errors, level)?,
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("no answer to {} was right", field.name)))
    }

    fn complain(&mut self, errors: &ConfigErrors, level: usize) -> io::Result<()> {
        for error in &errors.0 {
            let what = if error.value.is_empty() { "" } else { &error.value };
            let colon = if what.is_empty() { "it " } else { ": " };
            let fix = if error.fix.is_empty() { String::new() } else { format!("; {}", error.fix) };
            writeln!(self.output, "{:level$}  {what}{colon}{}{fix}", "", error.problem, level = level * 2)?;
        }
        Ok(())
    }

    fn question(
        &mut self,
        field: &Field,
        simple: &Simple,
        shown: Option<&str>,
        level: usize,
    ) -> io::Result<Option<Answer>> {
        loop {
            let hint = hint(simple);
            let kept = shown.map(|shown| format!(" [{shown}]")).unwrap_or_default();
            let title = field.title(self.language);
            write!(self.output, "{:level$}{title}{hint}{kept}: ", "", level = level * 2)?;
            let Some(line) = self.line()? else { return Ok(None) };
            match line.trim() {
                "" => return Ok(Some(Answer::Keep)),
                "-" if !field.required => return Ok(Some(Answer::Omit)),
                "?" => {
                    let long = field.long_text.get(self.language);
                    let text = if long.is_empty() { "there is no more about it" } else { long };
                    writeln!(self.output, "{text}")?;
                }
                _ => return Ok(Some(Answer::Text(line))),
            }
        }
    }

    fn array(
        &mut self,
        field: &Field,
        count: Count,
        current: Option<&Value>,
        level: usize,
    ) -> io::Result<Option<Value>> {
        let old = current.and_then(Value::as_list).unwrap_or_default();
        if !old.is_empty() {
            let n = old.len();
            writeln!(
                self.output,
                "{:level$}{} has {n} entries",
                "",
                field.title(self.language),
                level = level * 2
            )?;
            match self.agrees("write it anew", level)? {
                None => return Ok(None),
                Some(false) => return Ok(current.cloned()),
                Some(true) => {}
            }
        }
        let one = Field { array: None, required: false, short_text: "".into(), ..field.clone() };
        let mut items = Vec::new();
        let max = count.max.unwrap_or(usize::MAX);
        while items.len() < max {
            let number = items.len() + 1;
            let label = format!("{} {number}", field.title(self.language));
            let more = match &field.class {
                Class::Struct(fields) => match self.agrees(&format!("add {label}"), level)? {
                    None => return Ok(None),
                    Some(false) => Some(Value::Nil),
                    Some(true) => self.fields(fields, None, level + 1)?,
                },
                Class::Simple(simple) => {
                    let one = one.clone().label(label.as_str());
                    let simple = Simple { default: None, ..(**simple).clone() };
                    self.simple(&one, &simple, None, level)?
                }
            };
            match more {
                None => return Ok(None),
                Some(Value::Nil) if items.len() < count.min => {
                    let min = count.min;
                    writeln!(self.output, "{:level$}  it needs {min} at least", "", level = level * 2)?;
                    if number > ANSWERS_MAX {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many empty answers"));
                    }
                }
                Some(Value::Nil) => break,
                Some(item) => items.push(item),
            }
        }
        Ok(Some(if items.is_empty() && count.min == 0 { Value::Nil } else { items.into() }))
    }
}

/// Checks one field as the whole would.
fn check_alone(field: &Field, value: Option<&Value>) -> Result<(), ConfigErrors> {
    let config = value.map(|value| (field.name.clone(), value.clone())).into_iter().collect();
    Fields(vec![field.clone()]).validate(&config).map(drop)
}

/// A value as it would be answered.
fn plain(value: &Value) -> String {
    value.as_text().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn hint(simple: &Simple) -> String {
    let choices: Vec<&str> = simple.choices.iter().map(|choice| choice.value.as_str()).collect();
    let basic = match simple.basic {
        Basic::Enum => choices.join(", "),
        Basic::String => simple.special.clone().unwrap_or_default(),
        Basic::Integer | Basic::Float => match (simple.min, simple.max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("{min} or more"),
            (None, Some(max)) => format!("{max} or less"),
            (None, None) => "number".to_owned(),
        },
        Basic::Boolean => "yes or no".to_owned(),
    };
    if basic.is_empty() { basic } else { format!(" ({basic})") }
}

impl Field {
    fn is_deprecated(&self) -> bool {
        matches!(&self.class, Class::Simple(simple) if simple.deprecated.is_some())
    }
}
