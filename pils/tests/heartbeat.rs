//! Goal: both message formats of heartbeat are read and written, whatever lies in a message, and no bytes do harm.
//! Method: messages written by hand after the description of the formats, both forms of one message against each other,
//! and proptest.

use pils::Value;
use pils::codec::heartbeat::{DEPTH_MAX, Field, Message, WriteError};
use pils::codec::{DecodeReason, Limits};
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<Message, DecodeReason> {
    Message::parse(bytes, &Limits::default()).map_err(|error| error.reason)
}

fn text(name: &str, value: &str) -> (String, Field) {
    (name.to_owned(), Field::Text(value.to_owned()))
}

#[test]
fn a_status_message_in_lines_is_read_with_its_signature() {
    let bytes = b">>>\nt=status\nst=active\ndt=7530\nsrc=alpha\n(1)srcuuid=AAECAwQFBgcICQoLDA0ODw==\nseq=1f\nauth=1 0a1b2c\n<<<\n";
    let message = parse(bytes).unwrap();
    assert_eq!(message.text("st"), Some("active"));
    assert_eq!(message.field("srcuuid"), Some(&Field::Bytes((0..16).collect())));
    assert_eq!(message.signature.as_deref(), Some("1 0a1b2c"));
    assert_eq!(message.fields.len(), 6, "the signature is no field");
    assert_eq!(message.to_lines().unwrap(), bytes, "what was read is written again, byte for byte");
    let shell = [b"!^!\neth0\n", &bytes[..]].concat();
    assert_eq!(parse(&shell).as_ref(), Ok(&message), "the form with an interface is read alike");
}

#[test]
fn a_message_in_netstrings_is_read_with_its_signature() {
    let bytes = b"###\n11:(0)t=status,14:(1)u=\x00,=\n\xff,a:b,24:(3)nodes=5:alpha,4:beta,,%%%\n8:1 0a1b2c,";
    let message = parse(bytes).unwrap();
    assert_eq!(message.text("t"), Some("status"));
    assert_eq!(message.field("u"), Some(&Field::Bytes(b"\x00,=\n\xff,a:b".to_vec())));
    assert_eq!(message.field("nodes"), Some(&Field::List(vec!["alpha".into(), "beta".into()])));
    assert_eq!(message.signature.as_deref(), Some("1 0a1b2c"));
    assert_eq!(message.to_netstrings(), bytes);
}

#[test]
fn messages_lie_within_each_other_as_deep_as_heartbeat_allows() {
    let mut message = Message { fields: vec![text("leaf", "two\nlines")], signature: None };
    for level in 1..DEPTH_MAX {
        let inner = (format!("m{level}"), Field::Message(message));
        message = Message { fields: vec![text("t", "x"), inner, text("after", "y")], signature: None };
    }
    for bytes in [message.to_lines().unwrap(), message.to_netstrings()] {
        assert_eq!(parse(&bytes).as_ref(), Ok(&message));
    }
    let too_deep = Message { fields: vec![("m".into(), Field::Message(message))], signature: None };
    assert_eq!(too_deep.to_lines(), Err(WriteError::TooDeep));
    assert_eq!(parse(&too_deep.to_netstrings()), Err(DecodeReason::TooDeep(DEPTH_MAX)));
}

#[test]
fn the_value_of_a_message_has_its_fields() {
    let inner = Message { fields: vec![text("a", "1")], signature: None };
    let list = Field::List(vec!["x".into()]);
    let message = Message {
        fields: vec![
            text("t", "old"),
            text("t", "new"),
            ("m".into(), Field::Message(inner)),
            ("l".into(), list),
        ],
        signature: Some("1 00".into()),
    };
    assert_eq!(message.to_value().to_string(), r#"{"l": ["x"], "m": {"a": "1"}, "t": "new"}"#);
    assert_eq!(message.to_value().get("m").and_then(|m| m.get("a")), Some(&Value::from("1")));
}

#[test]
fn what_is_no_message_is_refused() {
    for bytes in [
        &b""[..],
        b"t=status\n",
        b">>>\nt=status\n",
        b">>>\n>>>\n<<<\n",
        b">>>\nt\n<<<\n",
        b">>>\n=x\n<<<\n",
        b">>>\n(9)t=x\n<<<\n",
        b">>>\n(1)t=*\n<<<\n",
        b">>>\n(3)t=9:x,\n<<<\n",
        b">>>\n<<<\nt=x\n",
        b"###\n",
        b"###\n4:(0)t=,%%%\n",
        b"###\n99999999999:(0)t=x,%%%\n",
        b"###\n6:(0)t=x;%%%\n",
        b"###\n6:(0)t=x,%%%\njunk",
    ] {
        assert!(
            matches!(parse(bytes), Err(DecodeReason::Grammar(_))),
            "{:?}: {:?}",
            bytes.escape_ascii().to_string(),
            parse(bytes)
        );
    }
    let control = Message { fields: vec![text("t", "\u{14}")], signature: None };
    assert_eq!(control.to_lines(), Err(WriteError::Control("t".into())));
    let name = Message { fields: vec![text("a=b", "")], signature: None };
    assert_eq!(name.to_lines(), Err(WriteError::Name("a=b".into())));
    let few = Limits { values_max: 2, ..Limits::default() };
    let three = b">>>\na=\nb=\nc=\n<<<\n";
    assert_eq!(Message::parse(three, &few).unwrap_err().reason, DecodeReason::TooMany(2));
}

fn any_message(depth: u32) -> impl Strategy<Value = Message> {
    let name = "[a-z_]{1,6}".prop_filter("the signature is no field", |name| name != "auth");
    let leaf = prop_oneof![
        "[ -~\n]{0,12}".prop_map(Field::Text),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Field::Bytes),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Field::Compressed),
        proptest::collection::vec("[ -~\n]{0,8}", 0..4).prop_map(Field::List),
    ];
    let message = |field: BoxedStrategy<Field>, name: BoxedStrategy<String>| {
        (proptest::collection::vec((name, field), 0..4), proptest::option::of("[0-9] [0-9a-f]{2,8}"))
            .prop_map(|(fields, signature)| Message { fields, signature })
    };
    let name = name.boxed();
    leaf.boxed()
        .prop_recursive(depth, 24, 4, move |inner| {
            (proptest::collection::vec((name.clone(), inner), 0..4))
                .prop_map(|fields| Field::Message(Message { fields, signature: None }))
        })
        .boxed()
        .prop_flat_map(move |field| {
            message(Just(field).boxed(), "[a-z]{1,4}".prop_filter("no", |n| n != "auth").boxed())
        })
}

proptest! {
    #[test]
    fn a_message_passes_through_both_formats(message in any_message(4)) {
        prop_assert_eq!(parse(&message.to_netstrings()), Ok(message.clone()));
        prop_assert_eq!(parse(&message.to_lines().unwrap()), Ok(message));
    }

    #[test]
    fn damage_is_refused_or_read_without_panic(message in any_message(3), cut in 0..400_usize, at in 0..400_usize, byte in any::<u8>()) {
        for mut bytes in [message.to_netstrings(), message.to_lines().unwrap()] {
            bytes.truncate(bytes.len().saturating_sub(cut % 7));
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            if let Ok(read) = parse(&bytes) {
                prop_assert!(read.fields.len() <= bytes.len());
            }
        }
    }
}
