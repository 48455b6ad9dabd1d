use super::{Budget, DecodeError, DecodeReason, EncodeError, Limits, ValueCodec, deeper};
use crate::Value;
use crate::value::DateTime;
use crate::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer as _};
use bytes::BufMut as _;
use std::collections::BTreeMap;

/// The compact binary encoding: canonical, so equal values have equal bytes and can be compared and hashed as such.
///
/// The first byte is the version, 1. Then one value: a tag byte and what the table says. Lengths and counts are
/// variable-length integers of the shortest form (see [`crate::wire`]), all in network byte order.
///
/// | tag | value | content |
/// |---|---|---|
/// | 0 | nil | |
/// | 1, 2 | false, true | |
/// | 3 | integer from 0 to 2^62 - 1 | variable-length `n` |
/// | 4 | integer from -2^62 to -1 | variable-length `-1 - n` |
/// | 5 | any other integer | 8 bytes, two's complement |
/// | 6 | double | 8 bytes, IEEE 754 |
/// | 7 | text | length, UTF-8 |
/// | 8 | bytes | length, bytes |
/// | 9 | date and time | 2 bytes year, then 1 byte each month, day, hour, minute, second |
/// | 10 | list | count, values |
/// | 11 | struct | count, then for each member length and UTF-8 of the name, value; names strictly ascending by bytes |
///
/// Bytes left over are an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binary;

const VERSION: u8 = 1;

impl ValueCodec for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![VERSION];
        emit(value, 0, &mut out)?;
        Ok(out)
    }

    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
        let mut budget = Budget::new(limits, bytes)?;
        let mut reader = Reader::new(bytes);
        if reader.u8("version")? != VERSION {
            return Err(DecodeError { at: 0, reason: DecodeReason::Field("version", Malformed::OutOfRange) });
        }
        let value = parse(&mut reader, 0, &mut budget)?;
        reader.finish("value")?;
        Ok(value)
    }
}

impl From<ParseError> for DecodeError {
    fn from(error: ParseError) -> Self {
        Self { at: error.at, reason: DecodeReason::Field(error.field, error.reason) }
    }
}

fn emit(value: &Value, level: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match value {
        Value::Nil => out.put_u8(0),
        Value::Bool(x) => out.put_u8(1 + u8::from(*x)),
        Value::Int(x) => emit_int(*x, out),
        Value::Double(x) => {
            out.put_u8(6);
            out.put_f64(*x);
        }
        Value::Text(x) => {
            out.put_u8(7);
            out.put_text(x);
        }
        Value::Bytes(x) => {
            out.put_u8(8);
            out.put_prefixed(x);
        }
        Value::DateTime(x) => {
            out.put_u8(9);
            out.put_slice(&x.to_bytes());
        }
        Value::List(items) => {
            out.put_u8(10);
            out.put_length(items.len());
            let level = deeper(level)?;
            items.iter().try_for_each(|item| emit(item, level, out))?;
        }
        Value::Struct(members) => {
            out.put_u8(11);
            out.put_length(members.len());
            let level = deeper(level)?;
            for (name, value) in members {
                out.put_text(name);
                emit(value, level, out)?;
            }
        }
    }
    Ok(())
}

fn emit_int(x: i64, out: &mut Vec<u8>) {
    // of a negative number, `!x` is -1 - x
    let (tag, n) = if x < 0 { (4, !x) } else { (3, x) };
    let n = n.unsigned_abs();
    if n > VARINT_MAX {
        out.put_u8(5);
        out.put_i64(x);
    } else {
        out.put_u8(tag);
        out.put_varint(n);
    }
}

fn parse(r: &mut Reader<'_>, level: usize, budget: &mut Budget) -> Result<Value, DecodeError> {
    let at = r.position();
    let error = |reason| DecodeError { at, reason };
    let field = |field, reason| error(DecodeReason::Field(field, reason));
    budget.value().map_err(error)?;
    Ok(match r.u8("tag")? {
        0 => Value::Nil,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Int(small(r)?),
        4 => Value::Int(!small(r)?),
        5 => {
            let x = i64::from_be_bytes(r.array("integer")?);
            let n = if x < 0 { !x } else { x };
            if n.unsigned_abs() <= VARINT_MAX {
                return Err(field("integer", Malformed::NotCanonical));
            }
            Value::Int(x)
        }
        6 => Value::Double(f64::from_be_bytes(r.array("double")?)),
        7 => Value::Text(r.text("text")?.to_owned()),
        8 => Value::Bytes(r.bytes("bytes")?.to_vec()),
        9 => Value::DateTime(
            DateTime::from_bytes(r.array("date and time")?)
                .map_err(|_invalid| field("date and time", Malformed::OutOfRange))?,
        ),
        10 => {
            let level = budget.below(level).map_err(error)?;
            let mut items = Vec::new();
            for _ in 0..r.length("count", r.remaining())? {
                items.push(parse(r, level, budget)?);
            }
            Value::List(items)
        }
        11 => {
            let level = budget.below(level).map_err(error)?;
            let mut members = BTreeMap::<String, Value>::new();
            for _ in 0..r.length("count", r.remaining())? {
                let at = r.position();
                let name = r.text("name")?;
                if let Some((last, _)) = members.last_key_value()
                    && last.as_str() >= name
                {
                    let reason = DecodeReason::Field("name", Malformed::NotCanonical);
                    let reason = if last == name { DecodeReason::DuplicateKey } else { reason };
                    return Err(DecodeError { at, reason });
                }
                let value = parse(r, level, budget)?;
                members.insert(name.to_owned(), value);
            }
            Value::Struct(members)
        }
        _ => return Err(field("tag", Malformed::OutOfRange)),
    })
}

fn small(r: &mut Reader<'_>) -> Result<i64, DecodeError> {
    Ok(i64::try_from(r.varint("integer")?).expect("62 bits fit 63"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Value, DecodeReason> {
        Binary.decode(bytes, &Limits::default()).map_err(|error| error.reason)
    }

    #[test]
    fn each_kind_has_the_bytes_of_the_table() {
        let list = Value::from(vec![Value::from(-1), Value::from("é"), i64::MIN.into(), Value::Double(1.0)]);
        let date: DateTime = "19980717T14:08:55".parse().unwrap();
        let value =
            Value::from([("", true.into()), ("a", list), ("b", vec![7_u8].into()), ("c", date.into())]);
        let bytes = [
            &[1, 11, 4][..],
            &[0, 2],
            b"\x01a\x0a\x04\x04\x00\x07\x02\xc3\xa9\x05\x80\0\0\0\0\0\0\0\x06\x3f\xf0\0\0\0\0\0\0",
            b"\x01b\x08\x01\x07",
            b"\x01c\x09\x07\xce\x07\x11\x0e\x08\x37",
        ]
        .concat();
        assert_eq!(Binary.encode(&value), Ok(bytes.clone()));
        assert_eq!(decode(&bytes), Ok(value));
    }

    #[test]
    fn a_second_form_of_a_value_is_refused() {
        let field = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(field(&[2, 0]), DecodeReason::Field("version", Malformed::OutOfRange));
        assert_eq!(field(&[1, 12]), DecodeReason::Field("tag", Malformed::OutOfRange));
        assert_eq!(field(&[1, 0, 0]), DecodeReason::Field("value", Malformed::TrailingBytes));
        assert_eq!(field(&[1, 3, 0x40, 1]), DecodeReason::Field("integer", Malformed::NotCanonical));
        assert_eq!(
            field(&[1, 5, 0, 0, 0, 0, 0, 0, 0, 1]),
            DecodeReason::Field("integer", Malformed::NotCanonical)
        );
        assert_eq!(
            field(b"\x01\x0b\x02\x01b\x00\x01a\x00"),
            DecodeReason::Field("name", Malformed::NotCanonical)
        );
        assert_eq!(field(b"\x01\x0b\x02\x01a\x00\x01a\x00"), DecodeReason::DuplicateKey);
    }

    #[test]
    fn a_huge_count_is_refused_before_anything_is_made() {
        let mut bytes = vec![1, 10];
        bytes.put_varint(1 << 40);
        assert_eq!(decode(&bytes), Err(DecodeReason::Field("count", Malformed::OutOfRange)));
    }
}
