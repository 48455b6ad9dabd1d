use super::{DateTime, Kind, Value};
use std::collections::BTreeMap;

/// A [`Value`] is of another kind than what it should become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct WrongKind {
    /// What was asked for.
    pub expected: Kind,
    /// What the value is.
    pub found: Kind,
}

/// The ways between a kind and its Rust type: `From`, `TryFrom`, and a borrowed look.
macro_rules! kinds {
    ($($variant:ident $owned:ty, $look:ident -> $borrowed:ty, $what:literal, $x:ident => $get:expr;)+) => {
        $(impl From<$owned> for Value {
            fn from(x: $owned) -> Self {
                Self::$variant(x)
            }
        }

        impl TryFrom<Value> for $owned {
            type Error = WrongKind;

            fn try_from(value: Value) -> Result<Self, WrongKind> {
                if let Value::$variant(x) = value {
                    return Ok(x);
                }
                Err(WrongKind { expected: Kind::$variant, found: value.kind() })
            }
        })+

        impl Value {
            $(#[doc = concat!("The ", $what, ", if this is one.")]
            #[must_use]
            pub fn $look(&self) -> Option<$borrowed> {
                if let Self::$variant($x) = self { Some($get) } else { None }
            })+
        }
    };
}

kinds! {
    Bool bool, as_bool -> bool, "boolean", x => *x;
    Int i64, as_int -> i64, "integer", x => *x;
    Double f64, as_double -> f64, "double", x => *x;
    Text String, as_text -> &str, "text", x => x;
    Bytes Vec<u8>, as_bytes -> &[u8], "bytes", x => x;
    DateTime DateTime, as_date_time -> DateTime, "date and time", x => *x;
    List Vec<Value>, as_list -> &[Value], "list", x => x;
    Struct BTreeMap<String, Value>, as_struct -> &BTreeMap<String, Value>, "struct", x => x;
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::Nil
    }
}

impl From<i32> for Value {
    fn from(x: i32) -> Self {
        Self::Int(x.into())
    }
}

impl From<u32> for Value {
    fn from(x: u32) -> Self {
        Self::Int(x.into())
    }
}

impl From<&str> for Value {
    fn from(x: &str) -> Self {
        Self::Text(x.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    /// Nothing is [`Value::Nil`].
    fn from(x: Option<T>) -> Self {
        x.map_or(Self::Nil, Into::into)
    }
}

impl<K: Into<String>, const N: usize> From<[(K, Self); N]> for Value {
    /// A struct; of two members with one name the last counts.
    fn from(members: [(K, Self); N]) -> Self {
        members.into_iter().collect()
    }
}

impl FromIterator<Self> for Value {
    fn from_iter<I: IntoIterator<Item = Self>>(items: I) -> Self {
        Self::List(items.into_iter().collect())
    }
}

impl<K: Into<String>> FromIterator<(K, Self)> for Value {
    /// A struct; of two members with one name the last counts.
    fn from_iter<I: IntoIterator<Item = (K, Self)>>(members: I) -> Self {
        Self::Struct(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_converts_to_its_own_type_only() {
        assert_eq!(i64::try_from(Value::from(5)), Ok(5));
        assert_eq!(bool::try_from(Value::from(5)), Err(WrongKind { expected: Kind::Bool, found: Kind::Int }));
        assert_eq!(Value::from(None::<bool>), Value::Nil);
        assert_eq!(Value::from("x").as_text(), Some("x"));
        assert_eq!(Value::from("x").as_bytes(), None);
        assert_eq!(Value::from(vec![1_u8]).as_bytes(), Some([1].as_slice()));
        assert_eq!(
            ["a", "b"].into_iter().map(Value::from).collect::<Value>().as_list().map(<[_]>::len),
            Some(2)
        );
    }
}
