use super::xml::{self, Document, ENDS, NOT_WELL_FORMED, is_blank, is_xml, put_text};
use super::{Budget, DecodeError, DecodeReason, EncodeError, Limits, ValueCodec, deeper};
use crate::Value;
use crate::value::Kind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt::Write as _;
use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;
use std::collections::BTreeMap;

/// The LI encoding: the shortest XML for lists and tables, meant to be read and written by people.
///
/// ```
/// use pils::codec::{LiXml, Limits};
/// use pils::{Value, ValueCodec};
/// let text = r#"<hash>
///   <LI key="tty">/dev/ttyS1</LI>
///   <LI key="ports"><list><LI>1</LI><LI type="int">2</LI></list></LI>
/// </hash>"#;
/// let value = LiXml.decode(text.as_bytes(), &Limits::default())?;
/// assert_eq!(value.to_string(), r#"{"ports": ["1", 2], "tty": "/dev/ttyS1"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The root is `<list>`, `<hash>` or, for a plain value, `<LI>`. A list holds `<LI>` without, a hash with the attribute
/// `key`, each once. An `<LI>` that holds exactly one `<list>` or `<hash>` is that; otherwise it is text, white space and
/// all. The attribute `type` makes the text something else: `nil` (no text), `boolean` (0 or 1), `int` (64 bits), `double`
/// (decimal, finite), `base64`, `dateTime.iso8601`; `string` is what it is without. Other attributes are ignored, so that
/// a newer writer is understood. White space between elements means nothing.
///
/// Text with characters that XML excludes and doubles that are not finite cannot be written.
///
/// Source: "An Open Framework for Clustering", XML marshalling; the containers and types are this project's.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiXml;

const NAME: &str = "li-xml";

impl ValueCodec for LiXml {
    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut out = String::new();
        match value {
            Value::List(_) | Value::Struct(_) => container(value, 0, &mut out)?,
            Value::Nil
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Double(_)
            | Value::Text(_)
            | Value::Bytes(_)
            | Value::DateTime(_) => item(None, value, 0, &mut out)?,
        }
        Ok(out.into_bytes())
    }

    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
        let budget = Budget::new(limits, bytes)?;
        let mut parser = Parser { document: Document::new(bytes)?, budget };
        let value = parser.root()?;
        parser.document.finish()?;
        Ok(value)
    }
}

fn container(value: &Value, level: usize, out: &mut String) -> Result<(), EncodeError> {
    let level = deeper(level)?;
    if let Value::List(items) = value {
        out.push_str("<list>");
        items.iter().try_for_each(|x| item(None, x, level, out))?;
        out.push_str("</list>");
    } else if let Value::Struct(members) = value {
        out.push_str("<hash>");
        members.iter().try_for_each(|(key, x)| item(Some(key), x, level, out))?;
        out.push_str("</hash>");
    }
    Ok(())
}

fn item(key: Option<&str>, value: &Value, level: usize, out: &mut String) -> Result<(), EncodeError> {
    out.push_str("<LI");
    if let Some(key) = key {
        out.push_str(" key=\"");
        attribute(key, out)?;
        out.push('"');
    }
    match value {
        Value::Nil => out.push_str(" type=\"nil\">"),
        Value::Bool(x) => typed("boolean", u8::from(*x), out),
        Value::Int(x) => typed("int", x, out),
        // `Display` of a double never has an exponent
        Value::Double(x) if x.is_finite() => typed("double", x, out),
        Value::Double(_) => {
            let what = "no finite value";
            return Err(EncodeError::Unrepresentable { codec: NAME, kind: Kind::Double, what });
        }
        Value::Text(x) => {
            out.push('>');
            put_text(x, Kind::Text, NAME, out)?;
        }
        Value::Bytes(x) => {
            out.push_str(" type=\"base64\">");
            STANDARD.encode_string(x, out);
        }
        Value::DateTime(x) => typed("dateTime.iso8601", x, out),
        Value::List(_) | Value::Struct(_) => {
            out.push('>');
            container(value, level, out)?;
        }
    }
    out.push_str("</LI>");
    Ok(())
}

fn typed(name: &str, text: impl core::fmt::Display, out: &mut String) {
    write!(out, " type=\"{name}\">{text}").expect("a string takes all that is written");
}

fn attribute(x: &str, out: &mut String) -> Result<(), EncodeError> {
    for c in x.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // raw, a reader would take them for blanks
            '\t' | '\n' | '\r' => write!(out, "&#{};", u32::from(c)).expect("a string takes all"),
            c if is_xml(c) => out.push(c),
            _ => {
                let what = xml::BAD_CHARACTER;
                return Err(EncodeError::Unrepresentable { codec: NAME, kind: Kind::Struct, what });
            }
        }
    }
    Ok(())
}

struct Parser<'a> {
    document: Document<'a>,
    budget: Budget,
}

/// An element that was entered.
enum Open {
    List,
    Hash,
    Item { key: Option<String>, kind: Option<String> },
}

type Result<T, E = DecodeError> = core::result::Result<T, E>;

impl Parser<'_> {
    fn broken(&self, rule: &'static str) -> DecodeError {
        self.document.broken(rule)
    }

    fn count(&mut self) -> Result<()> {
        self.budget.value().map_err(|reason| self.document.fail(reason))
    }

    fn below(&self, level: usize) -> Result<usize> {
        self.budget.below(level).map_err(|reason| self.document.fail(reason))
    }

    fn element(&self, tag: &BytesStart<'_>) -> Result<Open> {
        match tag.name().as_ref() {
            "list" => Ok(Open::List),
            "hash" => Ok(Open::Hash),
            "LI" => Ok(Open::Item { key: self.attribute(tag, "key")?, kind: self.attribute(tag, "type")? }),
            _ => Err(self.broken("an element that is neither <list>, <hash> nor <LI>")),
        }
    }

    fn attribute(&self, tag: &BytesStart<'_>, name: &str) -> Result<Option<String>> {
        let found = tag.try_get_attribute(name).map_err(|_error| self.broken(NOT_WELL_FORMED))?;
        let Some(found) = found else { return Ok(None) };
        let value = found.normalized_value(XmlVersion::Implicit1_0);
        let value = value.map_err(|_error| self.broken("an entity that is not predefined"))?;
        if value.chars().all(is_xml) {
            Ok(Some(value.into_owned()))
        } else {
            Err(self.broken(xml::BAD_CHARACTER))
        }
    }

    /// The next element, or `None` at the end of the one around; only white space may come before.
    fn enter(&mut self) -> Result<Option<Open>> {
        loop {
            match self.document.next()? {
                xml::Node::Open(tag) => return self.element(&tag).map(Some),
                xml::Node::Close => return Ok(None),
                xml::Node::Text(text) if is_blank(&text) => {}
                xml::Node::Text(_) => return Err(self.broken("text between elements")),
                xml::Node::End => return Err(self.broken(ENDS)),
            }
        }
    }

    fn root(&mut self) -> Result<Value> {
        match self.enter()? {
            Some(Open::List) => self.list(0),
            Some(Open::Hash) => self.hash(0),
            Some(Open::Item { key: None, kind }) => self.item(kind.as_deref(), 0),
            Some(Open::Item { key: Some(_), .. }) => Err(self.broken("a key outside a hash")),
            None => Err(self.broken(ENDS)),
        }
    }

    fn list(&mut self, level: usize) -> Result<Value> {
        self.count()?;
        let level = self.below(level)?;
        let mut items = Vec::new();
        while let Some(open) = self.enter()? {
            match open {
                Open::Item { key: None, kind } => items.push(self.item(kind.as_deref(), level)?),
                Open::Item { key: Some(_), .. } => return Err(self.broken("a key outside a hash")),
                Open::List | Open::Hash => return Err(self.broken("expected <LI>")),
            }
        }
        Ok(items.into())
    }

    fn hash(&mut self, level: usize) -> Result<Value> {
        self.count()?;
        let level = self.below(level)?;
        let mut members = BTreeMap::new();
        while let Some(open) = self.enter()? {
            match open {
                Open::Item { key: Some(key), kind } => {
                    if members.contains_key(&key) {
                        return Err(self.document.fail(DecodeReason::DuplicateKey));
                    }
                    let value = self.item(kind.as_deref(), level)?;
                    members.insert(key, value);
                }
                Open::Item { key: None, .. } => return Err(self.broken("an <LI> in a hash has a key")),
                Open::List | Open::Hash => return Err(self.broken("expected <LI>")),
            }
        }
        Ok(Value::Struct(members))
    }

    /// The rest of an `<LI>` that was entered.
    fn item(&mut self, kind: Option<&str>, level: usize) -> Result<Value> {
        if let Some(kind) = kind {
            self.count()?;
            let text = self.document.text()?;
            return self.typed(kind, text);
        }
        let mut text = String::new();
        let value = loop {
            match self.document.next()? {
                xml::Node::Text(more) => text.push_str(&more),
                xml::Node::Close => {
                    self.count()?;
                    return Ok(Value::Text(text));
                }
                xml::Node::Open(tag) if is_blank(&text) => match self.element(&tag)? {
                    Open::List => break self.list(level)?,
                    Open::Hash => break self.hash(level)?,
                    Open::Item { .. } => return Err(self.broken("an <LI> directly in an <LI>")),
                },
                xml::Node::Open(_) => return Err(self.broken("text beside an element")),
                xml::Node::End => return Err(self.broken(ENDS)),
            }
        };
        if self.enter()?.is_some() {
            return Err(self.broken("an <LI> holds one element at most"));
        }
        Ok(value)
    }

    fn typed(&self, kind: &str, text: String) -> Result<Value> {
        match kind {
            "string" => Ok(Value::Text(text)),
            "nil" if text.is_empty() => Ok(Value::Nil),
            "nil" => Err(self.broken("nil has no content")),
            "boolean" => match text.as_str() {
                "0" => Ok(false.into()),
                "1" => Ok(true.into()),
                _ => Err(self.broken("not a boolean: 0 or 1")),
            },
            "int" => {
                let number = text.parse::<i64>();
                Ok(number.map_err(|_error| self.broken("not an integer of 64 bits"))?.into())
            }
            "double" => {
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
                let number = text.parse::<f64>().ok().filter(|number| plain && number.is_finite());
                Ok(number.ok_or_else(|| self.broken("not a finite number"))?.into())
            }
            "base64" => {
                let mut text = text;
                text.retain(|c| !c.is_ascii_whitespace());
                Ok(STANDARD.decode(text).map_err(|_error| self.broken("not base64"))?.into())
            }
            "dateTime.iso8601" => {
                let parsed = text.parse();
                Ok(Value::DateTime(parsed.map_err(|_error| self.broken("not a date and time"))?))
            }
            _ => Err(self.broken("a type that li-xml does not have")),
        }
    }
}
