use super::{Budget, DecodeError, DecodeReason, Fault, Limits, Response, is_method};
use crate::Value;
use crate::codec::xml::{self, Document, ENDS, is_blank};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Value,
    Int,
    I8,
    Boolean,
    String,
    Double,
    DateTime,
    Base64,
    Nil,
    Array,
    Data,
    Struct,
    Member,
    Name,
    MethodCall,
    MethodName,
    MethodResponse,
    Params,
    Param,
    Fault,
}

impl Tag {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "value" => Self::Value,
            "int" | "i4" => Self::Int,
            "i8" => Self::I8,
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "double" => Self::Double,
            "dateTime.iso8601" => Self::DateTime,
            "base64" => Self::Base64,
            "nil" => Self::Nil,
            "array" => Self::Array,
            "data" => Self::Data,
            "struct" => Self::Struct,
            "member" => Self::Member,
            "name" => Self::Name,
            "methodCall" => Self::MethodCall,
            "methodName" => Self::MethodName,
            "methodResponse" => Self::MethodResponse,
            "params" => Self::Params,
            "param" => Self::Param,
            "fault" => Self::Fault,
            _ => return None,
        })
    }
}

/// What comes next in a document.
enum Node<'a> {
    Open(Tag),
    Close,
    Text(Cow<'a, str>),
    End,
}

/// Reads a document front to back. Borrows from it; its own memory is the names of the open elements, which are few.
pub(super) struct Parser<'a> {
    document: Document<'a>,
    budget: Budget,
}

type Result<T> = core::result::Result<T, DecodeError>;

impl<'a> Parser<'a> {
    pub(super) fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        let budget = Budget::new(limits, bytes)?;
        Ok(Self { document: Document::new(bytes)?, budget })
    }

    fn fail(&self, reason: DecodeReason) -> DecodeError {
        self.document.fail(reason)
    }

    fn broken(&self, rule: &'static str) -> DecodeError {
        self.document.broken(rule)
    }

    fn next(&mut self) -> Result<Node<'a>> {
        Ok(match self.document.next()? {
            xml::Node::Open(tag) => {
                let tag = Tag::of(tag.name().as_ref());
                Node::Open(tag.ok_or_else(|| self.broken("an element that xml-rpc does not have"))?)
            }
            xml::Node::Close => Node::Close,
            xml::Node::Text(text) => Node::Text(text),
            xml::Node::End => Node::End,
        })
    }

    /// The next tag, or `None` for a closing one; only white space may come before.
    fn tag(&mut self) -> Result<Option<Tag>> {
        loop {
            match self.next()? {
                Node::Open(tag) => return Ok(Some(tag)),
                Node::Close => return Ok(None),
                Node::Text(text) if is_blank(&text) => {}
                Node::Text(_) => return Err(self.broken("text between elements")),
                Node::End => return Err(self.broken(ENDS)),
            }
        }
    }

    /// Enters an element, which must be `tag`.
    pub(super) fn open(&mut self, tag: Tag, rule: &'static str) -> Result<()> {
        if self.tag()? == Some(tag) { Ok(()) } else { Err(self.broken(rule)) }
    }

    /// Enters an element, which must be `tag` if there is one; false if the element around ends instead.
    fn open_or_close(&mut self, tag: Tag, rule: &'static str) -> Result<bool> {
        match self.tag()? {
            Some(found) if found == tag => Ok(true),
            Some(_) => Err(self.broken(rule)),
            None => Ok(false),
        }
    }

    fn close(&mut self) -> Result<()> {
        if self.tag()?.is_none() { Ok(()) } else { Err(self.broken("one element too many")) }
    }

    fn text(&mut self) -> Result<String> {
        self.document.text()
    }

    /// Checks that the document is over.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.document.finish()
    }

    /// The rest of a `<value>` that was entered. Bare text is a string, an empty element is the empty string.
    pub(super) fn value(&mut self, level: usize) -> Result<Value> {
        self.budget.value().map_err(|reason| self.fail(reason))?;
        let mut text = String::new();
        let value = loop {
            match self.next()? {
                Node::Text(more) => text.push_str(&more),
                Node::Close => return Ok(Value::Text(text)),
                Node::Open(tag) if is_blank(&text) => break self.typed(tag, level)?,
                Node::Open(_) => return Err(self.broken("text beside a typed value")),
                Node::End => return Err(self.broken(ENDS)),
            }
        };
        self.close()?;
        Ok(value)
    }

    fn typed(&mut self, tag: Tag, level: usize) -> Result<Value> {
        match tag {
            Tag::Int => {
                let number = self.text()?.parse::<i32>();
                Ok(number.map_err(|_error| self.broken("not an integer of 32 bits"))?.into())
            }
            Tag::I8 => {
                let number = self.text()?.parse::<i64>();
                Ok(number.map_err(|_error| self.broken("not an integer of 64 bits"))?.into())
            }
            Tag::Boolean => match self.text()?.as_str() {
                "0" => Ok(false.into()),
                "1" => Ok(true.into()),
                _ => Err(self.broken("not a boolean: 0 or 1")),
            },
            Tag::String => self.text().map(Value::Text),
            Tag::Double => {
                let text = self.text()?;
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
                let number = text.parse::<f64>().ok().filter(|number| plain && number.is_finite());
                Ok(number.ok_or_else(|| self.broken("not a finite number"))?.into())
            }
            Tag::DateTime => {
                let parsed = self.text()?.parse();
                Ok(Value::DateTime(parsed.map_err(|_error| self.broken("not a date and time"))?))
            }
            Tag::Base64 => {
                let mut text = self.text()?;
                text.retain(|c| !c.is_ascii_whitespace());
                let bytes = STANDARD.decode(text).map_err(|_error| self.broken("not base64"))?;
                Ok(bytes.into())
            }
            Tag::Nil => match self.text()?.as_str() {
                "" => Ok(Value::Nil),
                _ => Err(self.broken("nil has no content")),
            },
            Tag::Array => self.array(level),
            Tag::Struct => self.members(level).map(Value::Struct),
            Tag::Value
            | Tag::Data
            | Tag::Member
            | Tag::Name
            | Tag::MethodCall
            | Tag::MethodName
            | Tag::MethodResponse
            | Tag::Params
            | Tag::Param
            | Tag::Fault => Err(self.broken("expected the type of a value")),
        }
    }

    fn array(&mut self, level: usize) -> Result<Value> {
        let level = self.budget.below(level).map_err(|reason| self.fail(reason))?;
        self.open(Tag::Data, "expected <data>")?;
        let mut items = Vec::new();
        while self.open_or_close(Tag::Value, "expected <value>")? {
            items.push(self.value(level)?);
        }
        self.close()?;
        Ok(items.into())
    }

    fn members(&mut self, level: usize) -> Result<BTreeMap<String, Value>> {
        let level = self.budget.below(level).map_err(|reason| self.fail(reason))?;
        let mut members = BTreeMap::new();
        while self.open_or_close(Tag::Member, "expected <member>")? {
            self.open(Tag::Name, "expected <name>")?;
            let name = self.text()?;
            if members.contains_key(&name) {
                return Err(self.fail(DecodeReason::DuplicateKey));
            }
            self.open(Tag::Value, "expected <value>")?;
            let value = self.value(level)?;
            members.insert(name, value);
            self.close()?;
        }
        Ok(members)
    }

    pub(super) fn call(&mut self) -> Result<(String, Vec<Value>)> {
        self.open(Tag::MethodCall, "expected <methodCall>")?;
        self.open(Tag::MethodName, "expected <methodName>")?;
        let method = self.text()?;
        if !is_method(&method) {
            return Err(self.broken("not the name of a method"));
        }
        let mut params = Vec::new();
        if self.open_or_close(Tag::Params, "expected <params>")? {
            while self.open_or_close(Tag::Param, "expected <param>")? {
                params.push(self.param()?);
            }
            self.close()?;
        }
        Ok((method, params))
    }

    fn param(&mut self) -> Result<Value> {
        self.open(Tag::Value, "expected <value>")?;
        let value = self.value(0)?;
        self.close()?;
        Ok(value)
    }

    pub(super) fn response(&mut self) -> Result<Response> {
        self.open(Tag::MethodResponse, "expected <methodResponse>")?;
        let response = match self.tag()? {
            Some(Tag::Params) => {
                self.open(Tag::Param, "expected <param>")?;
                let value = self.param()?;
                self.close()?;
                Response(Ok(value))
            }
            Some(Tag::Fault) => {
                let value = self.param()?;
                Response(Err(self.fault(&value)?))
            }
            _ => return Err(self.broken("expected <params> or <fault>")),
        };
        self.close()?;
        Ok(response)
    }

    fn fault(&self, value: &Value) -> Result<Fault> {
        let code = value.get("faultCode").and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
        let text = value.get("faultString").and_then(Value::as_text);
        match (code, text) {
            (Some(code), Some(text)) => Ok(Fault { code, text: text.to_owned() }),
            _ => Err(self.broken("a fault has faultCode and faultString")),
        }
    }
}
