//! Goal: whatever serde can write passes through a value and any codec unchanged. Method: one type with every shape of
//! serde's data model, there and back, through each codec.

use pils::codec::{Binary, Limits, XmlRpc};
use pils::value::{from_value, to_value};
use pils::{Incarnation, NodeId, NodeInstance, Value, ValueCodec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Idle,
    Waiting(u64),
    Moving(NodeId, NodeId),
    Fencing { node: NodeInstance, tries: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Snapshot {
    schema: u16,
    name: String,
    initial: char,
    states: BTreeMap<NodeId, State>,
    by_incarnation: BTreeMap<Incarnation, (i8, f32)>,
    by_truth: BTreeMap<bool, Unit>,
    missing: Option<u32>,
    present: Option<Option<i64>>,
    wide: u128,
    narrow: i128,
    anything: Value,
    nothing: (),
}

fn snapshot() -> Snapshot {
    let [a, b] = [1, 2].map(NodeId::new);
    let incarnation = Incarnation::new(u128::MAX);
    let states = [State::Idle, State::Waiting(u64::MAX), State::Moving(a, b)];
    let fencing = State::Fencing { node: NodeInstance::new(b, incarnation), tries: 3 };
    Snapshot {
        schema: 1,
        name: "démo".to_owned(),
        initial: 'x',
        states: states
            .into_iter()
            .chain([fencing])
            .zip(10..)
            .map(|(state, id)| (NodeId::new(id), state))
            .collect(),
        by_incarnation: [(incarnation, (-8, 0.5))].into(),
        by_truth: [(true, Unit)].into(),
        missing: None,
        present: Some(Some(-1)),
        wide: 1 << 100,
        narrow: i128::MIN,
        anything: Value::from([
            ("bytes", Value::from(vec![0_u8, 255])),
            ("when", Value::DateTime("19980717T14:08:55".parse().expect("a date"))),
            (
                "list",
                Value::from(vec![Value::Nil, 1.5.into(), "$".into(), Value::from([("$x", Value::Nil)])]),
            ),
        ]),
        nothing: (),
    }
}

#[test]
fn a_snapshot_passes_through_a_value_and_each_codec() {
    let value = to_value(&snapshot()).expect("it is written");
    assert_eq!(value.get("states").and_then(|s| s.get("10")), Some(&Value::from("Idle")));
    assert_eq!(value.get("schema"), Some(&Value::Int(1)));
    for codec in [&Binary as &dyn ValueCodec, &XmlRpc] {
        let bytes = codec.encode(&value).expect("it is written");
        let back = codec.decode(&bytes, &Limits::default()).expect("it is read");
        assert_eq!(from_value(back), Ok(snapshot()), "{}", codec.name());
    }
}

#[test]
fn a_value_becomes_itself() {
    let date = Value::DateTime("19980717T14:08:55".parse().expect("a date"));
    let value =
        Value::from(vec![date.clone(), vec![1_u8].into(), "x".into(), Value::empty_struct(), Value::Nil]);
    assert_eq!(from_value::<Value>(value.clone()), Ok(value.clone()));
    assert_eq!(from_value::<Value>(to_value(&value).expect("it is written")), Ok(value));
    assert_eq!(from_value::<String>(date), Ok("19980717T14:08:55".to_owned()));
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let message = |value: Value| from_value::<State>(value).unwrap_err().to_string();
    assert_eq!(
        message(5.into()),
        "expected the name of a variant or a struct of one member, found an integer"
    );
    assert_eq!(message("Waiting".into()), "the variant has content, which is missing");
    assert_eq!(message(Value::from([("Idle", 1.into())])), "the variant has no content, found an integer");
    assert!(message("Other".into()).starts_with("unknown variant `Other`, expected one of `Idle`"));
    assert!(from_value::<u8>(256.into()).is_err() && from_value::<u8>("256".into()).is_err());
    assert!(from_value::<(u8, u8)>(vec![1.into(), 2.into(), Value::from(3)].into()).is_err());
    assert_eq!(from_value::<u8>("255".into()), Ok(255));
    let error = to_value(&BTreeMap::from([((1, 2), 3)])).unwrap_err();
    assert_eq!(error.to_string(), "a list cannot be a key");
}
