use super::{NAME, Response};
use crate::Value;
use crate::codec::xml::put_text;
use crate::codec::{EncodeError, deeper};
use crate::value::Kind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt::Write as _;

const DECLARATION: &str = "<?xml version=\"1.0\"?>\n";

pub(super) fn call(method: &str, params: &[Value]) -> Result<Vec<u8>, EncodeError> {
    let mut out = format!("{DECLARATION}<methodCall><methodName>{method}</methodName><params>");
    for param in params {
        out.push_str("<param>");
        value(param, 0, &mut out)?;
        out.push_str("</param>");
    }
    out.push_str("</params></methodCall>");
    Ok(out.into_bytes())
}

pub(super) fn response(response: &Response) -> Result<Vec<u8>, EncodeError> {
    let mut out = format!("{DECLARATION}<methodResponse>");
    match &response.0 {
        Ok(result) => {
            out.push_str("<params><param>");
            value(result, 0, &mut out)?;
            out.push_str("</param></params>");
        }
        Err(fault) => {
            out.push_str("<fault>");
            let members =
                [("faultCode", Value::from(fault.code)), ("faultString", fault.text.as_str().into())];
            value(&Value::from(members), 0, &mut out)?;
            out.push_str("</fault>");
        }
    }
    out.push_str("</methodResponse>");
    Ok(out.into_bytes())
}

pub(super) fn value(x: &Value, level: usize, out: &mut String) -> Result<(), EncodeError> {
    out.push_str("<value>");
    match x {
        Value::Nil => out.push_str("<nil/>"),
        Value::Bool(x) => element(out, "boolean", u8::from(*x)),
        Value::Int(x) if i32::try_from(*x).is_ok() => element(out, "int", x),
        Value::Int(x) => element(out, "i8", x),
        // `Display` of a double never has an exponent
        Value::Double(x) if x.is_finite() => element(out, "double", x),
        Value::Double(_) => return Err(unrepresentable(Kind::Double, "no finite value")),
        Value::Text(x) => {
            out.push_str("<string>");
            text(x, Kind::Text, out)?;
            out.push_str("</string>");
        }
        Value::Bytes(x) => {
            out.push_str("<base64>");
            STANDARD.encode_string(x, out);
            out.push_str("</base64>");
        }
        Value::DateTime(x) => element(out, "dateTime.iso8601", x),
        Value::List(items) => {
            let level = deeper(level)?;
            out.push_str("<array><data>");
            items.iter().try_for_each(|item| value(item, level, out))?;
            out.push_str("</data></array>");
        }
        Value::Struct(members) => {
            let level = deeper(level)?;
            out.push_str("<struct>");
            for (name, member) in members {
                out.push_str("<member><name>");
                text(name, Kind::Struct, out)?;
                out.push_str("</name>");
                value(member, level, out)?;
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
    Ok(())
}

fn element(out: &mut String, tag: &str, content: impl core::fmt::Display) {
    write!(out, "<{tag}>{content}</{tag}>").expect("a string takes all that is written");
}

fn text(x: &str, kind: Kind, out: &mut String) -> Result<(), EncodeError> {
    put_text(x, kind, NAME, out)
}

const fn unrepresentable(kind: Kind, what: &'static str) -> EncodeError {
    EncodeError::Unrepresentable { codec: NAME, kind, what }
}
