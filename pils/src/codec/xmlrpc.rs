//! The XML-RPC encoding of values, calls, responses and faults.
//!
//! ```
//! use pils::codec::Limits;
//! use pils::codec::xmlrpc::{Call, Fault, Response};
//! let call = Call { method: "node.standby".to_owned(), params: vec!["alpha".into(), 30.into()] };
//! assert_eq!(Call::from_xml(&call.to_xml()?, &Limits::default())?, call);
//! let response = Response(Err(Fault { code: Fault::INVALID_PARAMS, text: "no such node".to_owned() }));
//! assert_eq!(Response::from_xml(&response.to_xml()?, &Limits::default())?, response);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: XML-RPC specification, with the extensions `nil` and `i8` that most implementations have. Read more widely than
//! written: a double may have an exponent, base64 may have white space, an element may have attributes (ignored), text may
//! come as CDATA. Refused: document types, processing instructions, entities but the five predefined, encodings but UTF-8,
//! characters that XML excludes, two members of one name, infinities and NaN.

mod emit;
mod parse;

use super::{Budget, DecodeError, DecodeReason, EncodeError, Limits, ValueCodec, xml};
use crate::Value;
use crate::value::Kind;
use parse::{Parser, Tag};

/// The XML-RPC encoding: a document whose root is one `<value>`.
///
/// Integers outside 32 bits are written as `<i8>`. Text with characters that XML excludes and doubles that are not
/// finite cannot be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct XmlRpc;

const NAME: &str = "xml-rpc";

impl ValueCodec for XmlRpc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut out = String::new();
        emit::value(value, 0, &mut out)?;
        Ok(out.into_bytes())
    }

    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
        let mut parser = Parser::new(bytes, limits)?;
        parser.open(Tag::Value, "expected <value>")?;
        let value = parser.value(0)?;
        parser.finish()?;
        Ok(value)
    }
}

/// A call: `methodCall`.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What to call; letters, digits, `_`, `.`, `:` and `/`.
    pub method: String,
    /// The arguments.
    pub params: Vec<Value>,
}

impl Call {
    /// Writes the document.
    ///
    /// # Errors
    /// If the name of the method has other characters, or an argument cannot be written.
    pub fn to_xml(&self) -> Result<Vec<u8>, EncodeError> {
        if !is_method(&self.method) {
            let what = "a character that names of methods exclude";
            return Err(EncodeError::Unrepresentable { codec: NAME, kind: Kind::Text, what });
        }
        emit::call(&self.method, &self.params)
    }

    /// Reads the document. The limits hold for it as a whole.
    ///
    /// # Errors
    /// If the bytes are not a call, or exceed a limit.
    pub fn from_xml(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut parser = Parser::new(bytes, limits)?;
        let (method, params) = parser.call()?;
        parser.finish()?;
        Ok(Self { method, params })
    }
}

fn is_method(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/".contains(&b))
}

/// The answer to a call: `methodResponse`.
#[derive(Clone, Debug, PartialEq)]
pub struct Response(pub Result<Value, Fault>);

impl Response {
    /// Writes the document.
    ///
    /// # Errors
    /// If the value or the fault's text cannot be written.
    pub fn to_xml(&self) -> Result<Vec<u8>, EncodeError> {
        emit::response(self)
    }

    /// Reads the document. The limits hold for it as a whole.
    ///
    /// # Errors
    /// If the bytes are not a response, or exceed a limit.
    pub fn from_xml(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut parser = Parser::new(bytes, limits)?;
        let response = parser.response()?;
        parser.finish()?;
        Ok(response)
    }
}

/// Why a call failed, as told to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {code}: {text}")]
pub struct Fault {
    /// One of the constants, or a code of the application.
    pub code: i32,
    /// In words.
    pub text: String,
}

impl Fault {
    /// The document is not well-formed.
    pub const PARSE: i32 = -32700;
    /// The document is not UTF-8.
    pub const ENCODING: i32 = -32701;
    /// The document holds a character that XML excludes.
    pub const CHARACTER: i32 = -32702;
    /// The document is not a call.
    pub const INVALID_REQUEST: i32 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The method takes other arguments.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The server failed.
    pub const INTERNAL: i32 = -32603;
    /// The application failed.
    pub const APPLICATION: i32 = -32500;
    /// The system failed.
    pub const SYSTEM: i32 = -32400;
    /// The transport failed.
    pub const TRANSPORT: i32 = -32300;
    /// The caller may not call this. Of this project: the range of application faults.
    pub const DENIED: i32 = -32501;
    /// Too much is asked at once; later it may work.
    pub const BUSY: i32 = -32502;
    /// What is asked for is not there: a service, a node.
    pub const UNAVAILABLE: i32 = -32503;

    /// A fault.
    pub fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A failure of the application, in words.
    pub fn application(text: impl Into<String>) -> Self {
        Self::new(Self::APPLICATION, text)
    }
}

impl From<DecodeError> for Fault {
    /// What to answer to a request that cannot be read.
    fn from(error: DecodeError) -> Self {
        let code = match error.reason {
            DecodeReason::Encoding => Self::ENCODING,
            DecodeReason::Grammar(xml::BAD_CHARACTER) => Self::CHARACTER,
            DecodeReason::Grammar(xml::NOT_WELL_FORMED | xml::ENDS) => Self::PARSE,
            DecodeReason::Grammar(_)
            | DecodeReason::TooLarge(_)
            | DecodeReason::TooDeep(_)
            | DecodeReason::TooMany(_)
            | DecodeReason::DuplicateKey
            | DecodeReason::Field(_, _) => Self::INVALID_REQUEST,
        };
        Self { code, text: error.to_string() }
    }
}
