use bytes::Bytes;
use pils::Value;
use pils::codec::xmlrpc::Fault;
use pils::codec::{Binary, EncodeError, Limits};
use pils::{ValueCodec as _, value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a call or its answer carries: a value that any codec can write, or bytes that only both ends understand.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A value.
    Value(Value),
    /// Bytes.
    Bytes(Bytes),
}

impl Default for Body {
    /// Nil.
    fn default() -> Self {
        Self::Value(Value::Nil)
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Body {
    /// What serde can write, as a value.
    ///
    /// # Errors
    /// An internal fault with the reason, if it has no form as a value.
    pub fn of<T: Serialize + ?Sized>(x: &T) -> Result<Self, Fault> {
        value::to_value(x).map(Self::Value).map_err(|why| Fault::new(Fault::INTERNAL, why.to_string()))
    }

    /// What serde can read from the value. Unknown members of structs are ignored.
    ///
    /// # Errors
    /// A fault for wrong parameters, with the reason.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, Fault> {
        let value = self.into_value()?;
        value::from_value(value).map_err(|why| Fault::new(Fault::INVALID_PARAMS, why.to_string()))
    }

    /// The value.
    ///
    /// # Errors
    /// A fault for wrong parameters if these are bytes.
    pub fn into_value(self) -> Result<Value, Fault> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Bytes(_) => Err(Fault::new(Fault::INVALID_PARAMS, "expected a value, found opaque bytes")),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// A fault for wrong parameters if this is a value.
    pub fn into_bytes(self) -> Result<Bytes, Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Value(_) => Err(Fault::new(Fault::INVALID_PARAMS, "expected opaque bytes, found a value")),
        }
    }

    /// Writes it: a byte for the kind, then the content up to the end.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Value(value) => {
                out.push(0);
                out.extend_from_slice(&Binary.encode(value)?);
            }
            Self::Bytes(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Reads what [`Body::emit`] wrote. `None` if it is not that.
    pub(crate) fn parse(bytes: &Bytes, limits: &Limits) -> Option<Self> {
        match bytes.first()? {
            0 => Binary.decode(&bytes[1..], limits).ok().map(Self::Value),
            1 => Some(Self::Bytes(bytes.slice(1..))),
            _ => None,
        }
    }
}
