//! What the two XML encodings share: a document read front to back, without document types, processing instructions and
//! entities but the five predefined.

use super::{DecodeError, DecodeReason, EncodeError};
use crate::value::Kind;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;
use std::borrow::Cow;

pub(super) const BAD_CHARACTER: &str = "a character that xml excludes";
pub(super) const NOT_WELL_FORMED: &str = "not well-formed xml";
pub(super) const ENDS: &str = "input ends here";

type Result<T> = core::result::Result<T, DecodeError>;

/// What comes next in a document.
pub(super) enum Node<'a> {
    /// A start tag. An empty element gives this and `Close`.
    Open(BytesStart<'a>),
    Close,
    Text(Cow<'a, str>),
    End,
}

/// Reads a document front to back. Borrows from it; its own memory is the names of the open elements.
pub(super) struct Document<'a> {
    reader: Reader<&'a [u8]>,
    started: bool,
}

impl<'a> Document<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self> {
        let text = core::str::from_utf8(bytes)
            .map_err(|error| DecodeError { at: error.valid_up_to(), reason: DecodeReason::Encoding })?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Ok(Self { reader, started: false })
    }

    pub(super) fn fail(&self, reason: DecodeReason) -> DecodeError {
        DecodeError { at: usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX), reason }
    }

    pub(super) fn broken(&self, rule: &'static str) -> DecodeError {
        self.fail(DecodeReason::Grammar(rule))
    }

    pub(super) fn next(&mut self) -> Result<Node<'a>> {
        loop {
            let event = self.reader.read_event().map_err(|_error| self.broken(NOT_WELL_FORMED))?;
            let first = !core::mem::replace(&mut self.started, true);
            return Ok(match event {
                Event::Start(tag) | Event::Empty(tag) => Node::Open(tag),
                Event::End(_) => Node::Close,
                Event::Text(text) => Node::Text(self.check(text.xml10_content())?),
                Event::CData(text) => Node::Text(self.check(text.xml10_content())?),
                Event::GeneralRef(reference) => Node::Text(self.resolve(&reference)?),
                Event::Comment(_) => continue,
                Event::Decl(declaration) if first => {
                    self.check_declaration(&declaration)?;
                    continue;
                }
                Event::Decl(_) | Event::PI(_) => return Err(self.broken("a processing instruction")),
                Event::DocType(_) => return Err(self.broken("a document type")),
                Event::Eof => Node::End,
            });
        }
    }

    /// The text up to the end of the element that was entered, which must have no other content.
    pub(super) fn text(&mut self) -> Result<String> {
        let mut all = String::new();
        loop {
            match self.next()? {
                Node::Text(text) => all.push_str(&text),
                Node::Close => return Ok(all),
                Node::Open(_) => return Err(self.broken("an element inside text")),
                Node::End => return Err(self.broken(ENDS)),
            }
        }
    }

    /// Checks that the document is over.
    pub(super) fn finish(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                Node::End => return Ok(()),
                Node::Text(text) if is_blank(&text) => {}
                Node::Text(_) | Node::Open(_) | Node::Close => {
                    return Err(self.broken("content after the document"));
                }
            }
        }
    }

    fn check(&self, text: Cow<'a, str>) -> Result<Cow<'a, str>> {
        if text.chars().all(is_xml) { Ok(text) } else { Err(self.broken(BAD_CHARACTER)) }
    }

    fn resolve(&self, reference: &BytesRef<'_>) -> Result<Cow<'a, str>> {
        let character = reference.resolve_char_ref().map_err(|_error| self.broken(BAD_CHARACTER))?;
        match (character, resolve_predefined_entity(reference)) {
            (Some(c), _) if is_xml(c) => Ok(c.to_string().into()),
            (Some(_), _) => Err(self.broken(BAD_CHARACTER)),
            (None, Some(text)) => Ok(text.into()),
            (None, None) => Err(self.broken("an entity that is not predefined")),
        }
    }

    fn check_declaration(&self, declaration: &BytesDecl<'_>) -> Result<()> {
        match declaration.encoding() {
            None => Ok(()),
            Some(Ok(name)) if ["utf-8", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known)) => {
                Ok(())
            }
            Some(Ok(_)) => Err(self.fail(DecodeReason::Encoding)),
            Some(Err(_)) => Err(self.broken(NOT_WELL_FORMED)),
        }
    }
}

/// True for white space only.
pub(super) fn is_blank(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_whitespace())
}

/// True for the characters that an XML 1.0 document may contain.
pub(super) const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Writes text between tags. A codec named `codec` writes it as part of a value of this kind.
pub(super) fn put_text(
    x: &str,
    kind: Kind,
    codec: &'static str,
    out: &mut String,
) -> core::result::Result<(), EncodeError> {
    for c in x.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // raw, a reader would take it for a line end
            '\r' => out.push_str("&#13;"),
            c if is_xml(c) => out.push(c),
            _ => return Err(EncodeError::Unrepresentable { codec, kind, what: BAD_CHARACTER }),
        }
    }
    Ok(())
}
