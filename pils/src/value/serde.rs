//! `Value` in the data model of serde, for self-describing formats such as JSON.
//!
//! What those formats cannot say is said by a struct of one member: `{"$bytes": "aGVsbG8="}` and
//! `{"$dateTime": "19980717T14:08:55"}`. A struct whose only member begins with `$` has one `$` put in front, so that
//! nothing is mistaken for another.

use super::{DateTime, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::collections::BTreeMap;

/// The name under which a value passes through serde, so that [`to_value`](super::to_value) and
/// [`from_value`](super::from_value) know it for one: formats take no notice.
pub(super) const NAME: &str = "$pils::Value";
const BYTES: &str = "$bytes";
pub(super) const DATE_TIME: &str = "$dateTime";
/// Levels of lists and structs that are read; a format may have a lower limit of its own.
const DEPTH_MAX: usize = crate::codec::DEPTH_MAX;

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(NAME, &Marked(self))
    }
}

/// A value with what formats cannot say marked.
struct Marked<'a>(&'a Value);

impl Serialize for Marked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let one = |serializer: S, name: &str, text: &str| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(name, text)?;
            map.end()
        };
        match self.0 {
            Value::Nil => serializer.serialize_unit(),
            Value::Bool(x) => serializer.serialize_bool(*x),
            Value::Int(x) => serializer.serialize_i64(*x),
            Value::Double(x) => serializer.serialize_f64(*x),
            Value::Text(x) => serializer.serialize_str(x),
            Value::Bytes(x) => one(serializer, BYTES, &STANDARD.encode(x)),
            Value::DateTime(x) => one(serializer, DATE_TIME, &x.to_string()),
            Value::List(items) => items.serialize(serializer),
            Value::Struct(members) => match members.first_key_value() {
                Some((name, value)) if members.len() == 1 && name.starts_with('$') => {
                    let mut map = serializer.serialize_map(Some(1))?;
                    map.serialize_entry(&format!("${name}"), value)?;
                    map.end()
                }
                _ => members.serialize(serializer),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::DeserializeSeed::deserialize(Level(0), deserializer)
    }
}

/// Reads a value that lies within so many lists and structs.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        if self.0 >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self(self.0 + 1))
    }
}

impl<'de> de::DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_newtype_struct(NAME, self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(Value::Bool(x))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(Value::Int(x))
    }

    fn visit_u64<E: de::Error>(self, x: u64) -> Result<Value, E> {
        let small = i64::try_from(x)
            .map_err(|_range| E::custom(format_args!("{x} does not fit 64 bits with a sign")));
        small.map(Value::Int)
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(Value::Double(x))
    }

    fn visit_str<E>(self, x: &str) -> Result<Value, E> {
        Ok(Value::Text(x.to_owned()))
    }

    fn visit_string<E>(self, x: String) -> Result<Value, E> {
        Ok(Value::Text(x))
    }

    fn visit_bytes<E>(self, x: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(x.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut map = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!("member {name:?} occurs twice")));
            }
            let value = members.next_value_seed(below)?;
            map.insert(name, value);
        }
        unmark(Value::Struct(map))
    }
}

/// Takes the mark off a value that was written with one; leaves every other as it is.
pub(super) fn unmark<E: de::Error>(value: Value) -> Result<Value, E> {
    if let Value::Struct(members) = &value
        && members.len() == 1
        && let Some((name, content)) = members.first_key_value()
        && name.starts_with('$')
    {
        return marked(name, content);
    }
    Ok(value)
}

/// Escapes a struct that would be taken for a mark.
pub(super) fn escape(value: Value) -> Value {
    let Value::Struct(mut members) = value else { return value };
    if members.len() == 1
        && let Some((name, content)) = members.pop_first()
    {
        let name = if name.starts_with('$') { format!("${name}") } else { name };
        members.insert(name, content);
    }
    Value::Struct(members)
}

fn marked<E: de::Error>(name: &str, value: &Value) -> Result<Value, E> {
    match (name, value) {
        (BYTES, Value::Text(text)) => STANDARD.decode(text).map(Value::Bytes).map_err(E::custom),
        (DATE_TIME, Value::Text(text)) => text.parse::<DateTime>().map(Value::DateTime).map_err(E::custom),
        _ if name.starts_with("$$") => Ok(Value::from([(&name[1..], value.clone())])),
        _ => Err(E::custom(format_args!("unknown marker {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_cannot_say_is_marked_and_nothing_is_mistaken() {
        let bytes = Value::from(b"hello".to_vec());
        assert_eq!(serde_json::to_string(&bytes).unwrap(), r#"{"$bytes":"aGVsbG8="}"#);
        for value in [
            bytes,
            Value::DateTime("19980717T14:08:55".parse().unwrap()),
            Value::from([("$bytes", Value::from("aGVsbG8="))]),
            Value::from([("$$x", Value::Nil)]),
            Value::from([("$bytes", Value::Nil), ("b", Value::Nil)]),
            Value::from(vec![
                Value::Double(1.0),
                Value::Int(-1),
                Value::empty_struct(),
                Value::Nil,
                true.into(),
            ]),
        ] {
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value, "{json}");
        }
    }

    #[test]
    fn a_value_within_a_type_is_that_value() {
        use crate::value::{from_value, to_value};
        let values = vec![
            Value::from(b"hello".to_vec()),
            Value::DateTime("19980717T14:08:55".parse().unwrap()),
            Value::from([("$bytes", Value::from("aGVsbG8="))]),
            Value::from([("$$x", Value::from([("$dateTime", Value::from(b"".to_vec()))]))]),
            Value::from([("$other", Value::Nil)]),
            Value::from([("a", Value::from(vec![Value::Nil, Value::from([("$", Value::Nil)])]))]),
            Value::Nil,
            Value::Double(f64::INFINITY),
        ];
        for value in &values {
            assert_eq!(to_value(value).unwrap(), *value);
            assert_eq!(from_value::<Value>(value.clone()).unwrap(), *value);
        }
        let pair = ("name", values.clone());
        let written = to_value(&pair).unwrap();
        assert_eq!(written, Value::List(vec!["name".into(), Value::List(values.clone())]));
        assert_eq!(from_value::<(String, Vec<Value>)>(written).unwrap().1, values);
    }

    #[test]
    fn what_is_no_value_is_refused_with_a_reason() {
        let fails = |json: &str| serde_json::from_str::<Value>(json).unwrap_err().to_string();
        assert!(fails(r#"{"a": 1, "a": 2}"#).starts_with("member \"a\" occurs twice"));
        assert!(fails(r#"{"$other": 1}"#).starts_with("unknown marker"));
        assert!(fails("18446744073709551615").starts_with("18446744073709551615 does not fit"));
        assert!(fails(&"[".repeat(1000)).contains("recursion limit"));
    }
}
