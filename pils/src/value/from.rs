use super::{Mismatch, Value};
use core::str::FromStr;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

/// Anything that serde can read, from a value: the counterpart of [`to_value`](super::to_value).
///
/// Unknown members are ignored unless `T` refuses them. A number that is expected may also be given as text.
///
/// # Errors
/// If the value is not a `T`; says where in words only.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Mismatch> {
    T::deserialize(FromValue(value))
}

struct FromValue(Value);

impl IntoDeserializer<'_, Mismatch> for FromValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The methods that expect a number, which may come as text: a key of a map always does.
macro_rules! numbers {
    ($($method:ident $visit:ident $number:ty;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match self.number::<$number>() {
                Some(number) => visitor.$visit(number),
                None => self.deserialize_any(visitor),
            }
        })+
    };
}

impl FromValue {
    fn number<T: FromStr>(&self) -> Option<T> {
        self.0.as_text()?.parse().ok()
    }
}

impl<'de> Deserializer<'de> for FromValue {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Nil => visitor.visit_unit(),
            Value::Bool(x) => visitor.visit_bool(x),
            Value::Int(x) => visitor.visit_i64(x),
            Value::Double(x) => visitor.visit_f64(x),
            Value::Text(x) => visitor.visit_string(x),
            Value::Bytes(x) => visitor.visit_byte_buf(x),
            Value::DateTime(x) => {
                let marked = [(super::serde::DATE_TIME, x.to_string())];
                visitor.visit_map(MapDeserializer::new(marked.into_iter()))
            }
            Value::List(items) => {
                let mut rest = SeqDeserializer::new(items.into_iter().map(FromValue));
                let read = visitor.visit_seq(&mut rest)?;
                rest.end()?;
                Ok(read)
            }
            Value::Struct(members) => {
                let members = members.into_iter().map(|(name, value)| (Self(name.into()), Self(value)));
                let mut rest = MapDeserializer::new(members);
                let read = visitor.visit_map(&mut rest)?;
                rest.end()?;
                Ok(read)
            }
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
        deserialize_bool visit_bool bool;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0.as_date_time() {
            Some(x) => visitor.visit_string(x.to_string()),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.0 == Value::Nil { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let value = if name == super::serde::NAME { super::serde::escape(self.0) } else { self.0 };
        visitor.visit_newtype_struct(Self(value))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let found = self.0.kind();
        if let Value::Text(variant) = self.0 {
            return visitor.visit_enum(Variant(variant, None));
        }
        if let Value::Struct(mut members) = self.0
            && members.len() == 1
            && let Some((variant, content)) = members.pop_first()
        {
            return visitor.visit_enum(Variant(variant, Some(content)));
        }
        Err(Mismatch::new(format_args!(
            "expected the name of a variant or a struct of one member, found {found}"
        )))
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The name of a variant and its content.
struct Variant(String, Option<Value>);

struct Content(Option<Value>);

impl<'de> EnumAccess<'de> for Variant {
    type Error = Mismatch;
    type Variant = Content;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content), Mismatch> {
        Ok((seed.deserialize(FromValue(self.0.into()))?, Content(self.1)))
    }
}

impl Content {
    fn some(self) -> Result<FromValue, Mismatch> {
        self.0.map(FromValue).ok_or_else(|| Mismatch::new("the variant has content, which is missing"))
    }
}

impl<'de> VariantAccess<'de> for Content {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.0 {
            None | Some(Value::Nil) => Ok(()),
            Some(other) => {
                Err(Mismatch::new(format_args!("the variant has no content, found {}", other.kind())))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(self.some()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.some()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.some()?.deserialize_any(visitor)
    }
}
