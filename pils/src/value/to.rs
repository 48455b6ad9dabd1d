use super::{Mismatch, Value};
use serde::ser::{self, Serialize, Serializer};
use std::collections::BTreeMap;

/// The value of anything that serde can write: a configuration, a snapshot.
///
/// A struct or map becomes a struct, names and keys as text; a sequence or tuple a list; `None` and `()` become nil; an
/// enum's variant its name, or a struct of one member if it has content; bytes become bytes. An integer that does not fit
/// 64 bits with a sign becomes decimal text.
///
/// # Errors
/// If a key is neither text nor a number, two keys are equal as text, or `T` fails.
pub fn to_value<T: Serialize + ?Sized>(x: &T) -> Result<Value, Mismatch> {
    x.serialize(ToValue)
}

struct ToValue;

/// Collects a list, or the content of a tuple variant.
struct Items(Vec<Value>, Option<&'static str>);

/// Collects a struct, or the content of a struct variant.
struct Members {
    members: BTreeMap<String, Value>,
    key: Option<String>,
    variant: Option<&'static str>,
}

fn wrap(variant: Option<&'static str>, content: Value) -> Value {
    match variant {
        Some(name) => Value::from([(name, content)]),
        None => content,
    }
}

impl Serializer for ToValue {
    type Ok = Value;
    type Error = Mismatch;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    fn serialize_bool(self, x: bool) -> Result<Value, Mismatch> {
        Ok(x.into())
    }

    fn serialize_i8(self, x: i8) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_i16(self, x: i16) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_i32(self, x: i32) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_i64(self, x: i64) -> Result<Value, Mismatch> {
        Ok(x.into())
    }

    fn serialize_i128(self, x: i128) -> Result<Value, Mismatch> {
        Ok(i64::try_from(x).map_or_else(|_wide| x.to_string().into(), Value::from))
    }

    fn serialize_u8(self, x: u8) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_u16(self, x: u16) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_u32(self, x: u32) -> Result<Value, Mismatch> {
        self.serialize_i64(x.into())
    }

    fn serialize_u64(self, x: u64) -> Result<Value, Mismatch> {
        self.serialize_u128(x.into())
    }

    fn serialize_u128(self, x: u128) -> Result<Value, Mismatch> {
        Ok(i64::try_from(x).map_or_else(|_wide| x.to_string().into(), Value::from))
    }

    fn serialize_f32(self, x: f32) -> Result<Value, Mismatch> {
        self.serialize_f64(x.into())
    }

    fn serialize_f64(self, x: f64) -> Result<Value, Mismatch> {
        Ok(x.into())
    }

    fn serialize_char(self, x: char) -> Result<Value, Mismatch> {
        Ok(Value::Text(x.into()))
    }

    fn serialize_str(self, x: &str) -> Result<Value, Mismatch> {
        Ok(x.into())
    }

    fn serialize_bytes(self, x: &[u8]) -> Result<Value, Mismatch> {
        Ok(x.to_vec().into())
    }

    fn serialize_none(self) -> Result<Value, Mismatch> {
        Ok(Value::Nil)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, x: &T) -> Result<Value, Mismatch> {
        x.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Mismatch> {
        Ok(Value::Nil)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, Mismatch> {
        Ok(Value::Nil)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, Mismatch> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        x: &T,
    ) -> Result<Value, Mismatch> {
        let value = x.serialize(self)?;
        if name == super::serde::NAME { super::serde::unmark(value) } else { Ok(value) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        x: &T,
    ) -> Result<Value, Mismatch> {
        Ok(wrap(Some(variant), x.serialize(self)?))
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Items, Mismatch> {
        Ok(Items(Vec::new(), None))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Items, Mismatch> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _len: usize) -> Result<Items, Mismatch> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Items, Mismatch> {
        Ok(Items(Vec::new(), Some(variant)))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Members, Mismatch> {
        Ok(Members { members: BTreeMap::new(), key: None, variant: None })
    }

    fn serialize_struct(self, _: &'static str, _len: usize) -> Result<Members, Mismatch> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Members, Mismatch> {
        Ok(Members { members: BTreeMap::new(), key: None, variant: Some(variant) })
    }
}

impl Items {
    fn push<T: Serialize + ?Sized>(&mut self, x: &T) -> Result<(), Mismatch> {
        self.0.push(x.serialize(ToValue)?);
        Ok(())
    }

    fn finish(self) -> Value {
        wrap(self.1, self.0.into())
    }
}

impl Members {
    fn put<T: Serialize + ?Sized>(&mut self, key: String, x: &T) -> Result<(), Mismatch> {
        if self.members.contains_key(&key) {
            return Err(Mismatch::new(format_args!("two keys are {key:?} as text")));
        }
        self.members.insert(key, x.serialize(ToValue)?);
        Ok(())
    }

    fn finish(self) -> Value {
        wrap(self.variant, Value::Struct(self.members))
    }
}

impl ser::SerializeMap for Members {
    type Ok = Value;
    type Error = Mismatch;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Mismatch> {
        let key = key.serialize(ToValue)?;
        self.key = Some(match key {
            Value::Text(text) => text,
            Value::Int(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Nil
            | Value::Double(_)
            | Value::Bytes(_)
            | Value::DateTime(_)
            | Value::List(_)
            | Value::Struct(_) => return Err(Mismatch::new(format_args!("{} cannot be a key", key.kind()))),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, x: &T) -> Result<(), Mismatch> {
        let key = self.key.take().ok_or_else(|| Mismatch::new("a member without a key"))?;
        self.put(key, x)
    }

    fn end(self) -> Result<Value, Mismatch> {
        Ok(self.finish())
    }
}

/// The traits of serde for lists differ in name only, and so do those for structs.
macro_rules! collect {
    ($collector:ty: $($trait:ident $method:ident($($key:ident)?) $add:ident;)+) => {
        $(impl ser::$trait for $collector {
            type Ok = Value;
            type Error = Mismatch;

            fn $method<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? x: &T) -> Result<(), Mismatch> {
                self.$add($($key.to_owned(),)? x)
            }

            fn end(self) -> Result<Value, Mismatch> {
                Ok(self.finish())
            }
        })+
    };
}

collect! { Items:
    SerializeSeq serialize_element() push;
    SerializeTuple serialize_element() push;
    SerializeTupleStruct serialize_field() push;
    SerializeTupleVariant serialize_field() push;
}

collect! { Members:
    SerializeStruct serialize_field(key) put;
    SerializeStructVariant serialize_field(key) put;
}
