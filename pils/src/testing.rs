//! Conformance suites for those who write a plug-in: each panics with the claim that does not hold.
//!
//! ```
//! pils::testing::check_codec(&pils::codec::Binary);
//! ```

use crate::codec::{DEPTH_MAX, DecodeReason, EncodeError, Limits};
use crate::field::{Basic, Choice, Class, Configurable, Count, Field, Fields, Simple};
use crate::value::{DateTime, Kind};
use crate::{Rng, Value, ValueCodec};

/// A random value that every codec must take, at most `depth` levels deep: finite doubles, no control characters in text
/// but tab and line ends.
pub fn any_value(rng: &mut Rng, depth: usize) -> Value {
    let few = |rng: &mut Rng| rng.below(5);
    match rng.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Nil,
        1 => rng.chance(0.5).into(),
        2 => any_int(rng).into(),
        3 => {
            let number = f64::from_bits(rng.next_u64());
            let number = if number.is_finite() { number } else { rng.unit() };
            number.into()
        }
        4 => any_text(rng).into(),
        5 => {
            let mut bytes: Vec<u8> = (0..rng.below(40)).map(|_| 0).collect();
            rng.fill(&mut bytes);
            bytes.into()
        }
        6 => Value::DateTime(any_date_time(rng)),
        7 => (0..few(rng)).map(|_| any_value(rng, depth - 1)).collect(),
        _ => (0..few(rng)).map(|_| (any_text(rng), any_value(rng, depth - 1))).collect(),
    }
}

fn any_int(rng: &mut Rng) -> i64 {
    // all magnitudes, and both sides of each power of two
    let bits = rng.between(0, 63);
    let edge = (1_u64 << bits).wrapping_add(rng.between(0, 2)).wrapping_sub(1);
    let pick = if rng.chance(0.5) { edge } else { rng.next_u64() >> bits };
    i64::from_le_bytes(if rng.chance(0.5) { pick } else { !pick }.to_le_bytes())
}

fn any_text(rng: &mut Rng) -> String {
    const PARTS: [&str; 16] = [
        "a", "Z", "0", " ", "\t", "\n", "\r", "\r\n", "<", "]]>", "&amp;", "\"", "é", "\u{2028}", "\u{fffd}",
        "🦀",
    ];
    (0..rng.below(9)).filter_map(|_| rng.pick(&PARTS)).copied().collect()
}

fn any_date_time(rng: &mut Rng) -> DateTime {
    let mut below = |bound| rng.below(bound).to_le_bytes()[0];
    // every month has 28 days
    let fields = [below(39), below(256), 1 + below(12), 1 + below(28), below(24), below(60), below(61)];
    DateTime::from_bytes(fields).unwrap_or_else(|error| unreachable!("{fields:?}: {error}"))
}

/// A random description, with structs at most `depth` deep. Its texts hold what must be escaped on a page.
pub fn any_fields(rng: &mut Rng, depth: usize) -> Fields {
    let n = rng.below(4);
    Fields((0..n).map(|i| any_field(rng, depth, i)).collect())
}

fn any_field(rng: &mut Rng, depth: usize, i: u64) -> Field {
    let name = format!("f{i}{}", rng.pick(&["", ".x", "[0]", "=", " y"]).unwrap_or(&""));
    let array = rng.chance(0.3).then(|| {
        let min = usize::from(rng.chance(0.3));
        Count { min, max: rng.chance(0.5).then_some(min + 2) }
    });
    let class = if depth > 0 && rng.chance(0.3) {
        Class::Struct(any_fields(rng, depth - 1))
    } else {
        Class::Simple(Box::new(any_simple(rng)))
    };
    let mut text = |odds: f64| if rng.chance(odds) { "<b>&\"text\"" } else { "" };
    let (label, short_text, long_text) = (text(0.5).into(), text(0.5).into(), text(0.2).into());
    Field { name, label, short_text, long_text, required: rng.chance(0.3), array, class }
}

fn any_simple(rng: &mut Rng) -> Simple {
    let all = [Basic::String, Basic::Integer, Basic::Float, Basic::Boolean, Basic::Enum];
    let basic = *rng.pick(&all).expect("there are some");
    let special = ["IPv4", "hostname", "colour", "password"];
    let choice = |value: &str| Choice { value: value.to_owned(), label: "<b>".into() };
    let is = |kind| basic == kind;
    let special = rng.pick(&special).filter(|_name| is(Basic::String)).map(|name| (*name).to_owned());
    Simple {
        basic,
        secret: rng.chance(0.2) || special.as_deref() == Some("password"),
        special,
        length: rng.chance(0.2).then_some(20),
        regex: (is(Basic::String) && rng.chance(0.2)).then(|| "[a-z<&\"]*".to_owned()),
        min: (is(Basic::Integer) && rng.chance(0.5)).then_some(-5.0),
        max: (is(Basic::Float) && rng.chance(0.5)).then_some(2.5),
        choices: if is(Basic::Enum) { ["a", "b<"].map(choice).to_vec() } else { Vec::new() },
        default: None,
        unique: rng.chance(0.1).then(|| "group".to_owned()),
        read_only: rng.chance(0.1),
        reloadable: rng.chance(0.1),
        deprecated: rng.chance(0.1).then(|| vec!["newer".to_owned()]),
    }
}

/// Checks that a plug-in keeps the contract of [`Configurable`]. `good` is a configuration that it takes.
///
/// # Panics
/// If it does not.
pub fn check_configurable(plugin: &dyn Configurable, good: &Value) {
    let identity = plugin.identity();
    assert!(!identity.name.is_empty() && !identity.version.is_empty(), "a plug-in has a name and a version");
    let fields = plugin.fields();
    assert_eq!(plugin.fields(), fields, "a plug-in says the same each time");
    assert_eq!(Fields::from_value(&fields.to_value()).as_ref(), Ok(&fields), "its description is valid");
    let complete = plugin.validate(good).unwrap_or_else(|errors| panic!("it refuses {good}: {errors}"));
    assert_eq!(plugin.validate(&complete).as_ref(), Ok(&complete), "a complete configuration stays as it is");
    let before = plugin.current();
    let mut odd = good.clone();
    if let Value::Struct(members) = &mut odd {
        members.insert("\u{1}no such parameter".to_owned(), Value::Nil);
    }
    for wrong in [odd, Value::Nil, Value::from("text")] {
        assert!(plugin.validate(&wrong).is_err(), "{wrong} is no configuration");
        assert!(plugin.configure(&wrong).is_err(), "{wrong} is not taken");
        assert_eq!(plugin.current(), before, "what is refused changes nothing");
    }
    plugin.configure(good).unwrap_or_else(|errors| panic!("it does not take {good}: {errors}"));
    assert_eq!(plugin.current(), complete, "it has what it was given, complete");
    for field in fields.0.iter().filter(|field| field.required) {
        let mut less = good.clone();
        if let Value::Struct(members) = &mut less
            && members.remove(&field.name).is_some()
            && plugin.validate(&less).is_ok()
        {
            let default = matches!(&field.class, Class::Simple(simple) if simple.default.is_some());
            assert!(default, "{} is required, and is not missed", field.name);
        }
    }
    assert_eq!(plugin.current(), complete, "checking changes nothing");
}

/// Checks that a description can be shown: both forms have every field, the schema every property, and the empty
/// configuration is complete or says what it lacks.
///
/// # Panics
/// If something is missing.
pub fn check_forms(fields: &Fields) {
    let empty = Value::empty_struct();
    let page = crate::form::html(fields, &empty, &crate::ConfigErrors::default(), "en");
    let schema = fields.json_schema("plug-in", "en");
    for field in &fields.0 {
        let name = crate::codec::escape(&field.name, true);
        let shown = page.contains(&format!("name=\"{name}\"")) || page.contains(&format!("name=\"{name}["));
        let old = matches!(&field.class, Class::Simple(simple) if simple.deprecated.is_some());
        let is_struct = matches!(field.class, Class::Struct(_));
        assert!(shown || old || is_struct, "the page has {}", field.name);
        let property = schema.get("properties").and_then(|all| all.get(&field.name));
        assert!(property.is_some(), "the schema has {}", field.name);
    }
    let no_answers = "\n".repeat(10_000);
    let mut shown = Vec::new();
    let asked = crate::form::ask(fields, None, "en", &mut no_answers.as_bytes(), &mut shown);
    match fields.validate(&empty) {
        Ok(complete) => assert_eq!(asked.expect("nothing is missing"), Some(complete)),
        Err(errors) => {
            assert!(asked.is_err() && !errors.is_empty(), "what is missing is asked for, and missed");
        }
    }
}

/// Lists within each other, `depth` of them.
fn nest(depth: usize) -> Value {
    (0..depth)
        .fold(Value::List(Vec::new()), |inner, level| if level == 0 { inner } else { vec![inner].into() })
}

/// Checks that `codec` keeps the contract of [`ValueCodec`]. Under a second; draws the same values each time.
///
/// # Panics
/// If it does not.
pub fn check_codec(codec: &dyn ValueCodec) {
    let name = codec.name();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    assert!(!name.is_empty() && name.bytes().all(plain), "a codec's name is lower case ascii: {name:?}");
    let mut rng = Rng::new(1);
    check_limits(codec);
    for value in edge_values().into_iter().chain((0..300).map(|_| any_value(&mut rng, 4)).collect::<Vec<_>>())
    {
        let bytes = encode(codec, &value);
        assert_eq!(codec.encode(&value.clone()), Ok(bytes.clone()), "equal values have equal bytes");
        let limits = Limits { bytes_max: bytes.len(), depth_max: value.depth(), ..Limits::default() };
        assert_eq!(
            codec.decode(&bytes, &limits).as_ref(),
            Ok(&value),
            "what was written is read back: {bytes:?}"
        );
        check_damaged(codec, &bytes, &mut rng);
    }
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Value::Double) {
        check_special(codec, &value);
    }
    for code in (0..32).chain([0x7f, 0xfffe, 0xffff]) {
        let text: String = char::from_u32(code).into_iter().collect();
        check_special(codec, &Value::from([(text.clone(), Value::Nil)]));
        check_special(codec, &Value::Text(text));
    }
}

fn encode(codec: &dyn ValueCodec, value: &Value) -> Vec<u8> {
    codec.encode(value).unwrap_or_else(|error| panic!("every codec writes {value}: {error}"))
}

fn edge_values() -> Vec<Value> {
    let ints =
        [0, 1, -1, i64::MAX, i64::MIN, i32::MAX.into(), i32::MIN.into(), 1 << 31, -(1 << 31) - 1, 1 << 62];
    let doubles = [0.0, -0.0, 1.0, -1.5, 0.1, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 1e21];
    let texts = ["", " ", "\n", "\r", "\r\n", " x ", "<value>", "]]>", "&#13;", "\u{10ffff}"];
    let mut all = vec![Value::Nil, true.into(), false.into(), vec![0_u8; 0].into(), Value::empty_struct()];
    all.extend(ints.map(Value::from));
    all.extend(doubles.map(Value::from));
    all.extend(texts.map(Value::from));
    all.extend(texts.map(|text| Value::from([(text, Value::Nil), ("x", Value::from(text))])));
    all.extend(
        ["00000101T00:00:00", "99991231T23:59:60"].map(|t| Value::DateTime(t.parse().expect("it is valid"))),
    );
    all.extend([(0..=255).collect::<Vec<u8>>().into(), nest(1), nest(3)]);
    all
}

fn check_limits(codec: &dyn ValueCodec) {
    let reason = |bytes: &[u8], limits: &Limits| codec.decode(bytes, limits).map_err(|error| error.reason);
    let deep = encode(codec, &nest(5));
    let limits = |depth_max| Limits { depth_max, ..Limits::default() };
    assert_eq!(reason(&deep, &limits(5)), Ok(nest(5)), "as deep as the limit is allowed");
    assert_eq!(reason(&deep, &limits(4)), Err(DecodeReason::TooDeep(4)), "deeper than the limit is refused");
    let deepest = encode(codec, &nest(DEPTH_MAX));
    assert_eq!(reason(&deepest, &limits(usize::MAX)), Ok(nest(DEPTH_MAX)), "the deepest value passes");
    assert_eq!(
        codec.encode(&nest(DEPTH_MAX + 1)),
        Err(EncodeError::TooDeep),
        "a deeper value is not written"
    );

    let many = Value::List(vec![Value::Nil; 9]);
    let bytes = encode(codec, &many);
    let limits = |values_max| Limits { values_max, ..Limits::default() };
    assert_eq!(reason(&bytes, &limits(10)), Ok(many), "the list counts as one value, its items as nine");
    assert_eq!(reason(&bytes, &limits(9)), Err(DecodeReason::TooMany(9)), "one more is refused");
    let short = Limits { bytes_max: bytes.len() - 1, ..Limits::default() };
    assert_eq!(
        reason(&bytes, &short),
        Err(DecodeReason::TooLarge(bytes.len() - 1)),
        "longer input is refused"
    );
}

/// No damage may panic, and what is read nevertheless must be a value like any other.
fn check_damaged(codec: &dyn ValueCodec, bytes: &[u8], rng: &mut Rng) {
    let limits = Limits::default();
    for end in (0..bytes.len()).rev().take(200) {
        assert!(codec.decode(&bytes[..end], &limits).is_err(), "a part is no value: {:?}", &bytes[..end]);
    }
    for tail in [&b"\0"[..], b"x", b"<value/>"] {
        let long = [bytes, tail].concat();
        assert!(codec.decode(&long, &limits).is_err(), "bytes left over are refused: {long:?}");
    }
    for _ in 0..20 {
        let mut damaged = bytes.to_vec();
        for _ in 0..rng.between(1, 3) {
            let at = rng.below(damaged.len() as u64);
            damaged[usize::try_from(at).expect("it is an index")] = rng.next_u64().to_le_bytes()[0];
        }
        if let Ok(value) = codec.decode(&damaged, &limits) {
            check_special(codec, &value);
        }
    }
}

/// A codec may refuse a special value, but not change it.
fn check_special(codec: &dyn ValueCodec, value: &Value) {
    match codec.encode(value) {
        Ok(bytes) => {
            let back = codec.decode(&bytes, &Limits::default());
            // through text, as NaN is not equal to itself
            assert_eq!(
                back.map(|v| v.to_string()),
                Ok(value.to_string()),
                "a value that is written is read back"
            );
        }
        Err(EncodeError::Unrepresentable { kind, .. }) => {
            assert!(kind != Kind::Int && kind != Kind::Bytes, "every integer and every byte can be written");
        }
        Err(error @ EncodeError::TooDeep) => panic!("{value}: {error}"),
    }
}
