use super::{Budget, DecodeError, DecodeReason, EncodeError, Limits, ValueCodec, deeper};
use crate::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt::Write as _;
use std::collections::BTreeMap;

/// The name-value encoding: one line for each plain value, for shell scripts and for `grep`.
///
/// ```
/// use pils::codec::NameValue;
/// use pils::{Value, ValueCodec};
/// let ports = Value::from(vec![Value::from(694), Value::from("any")]);
/// let value = Value::from([("tty", Value::from("/dev/ttyS1")), ("ports", ports), ("on", true.into())]);
/// let text = "on:boolean=1\nports[0]:int=694\nports[1]=any\ntty=/dev/ttyS1\n.\n";
/// assert_eq!(NameValue.encode(&value)?, text.as_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A line is `path=text` or `path:type=text`; a line with a single dot ends the value. A path is the names of members,
/// parted by dots, and places in lists, `[0]`, from 0 without gaps and in order; members may come in any order, each once.
/// The path of a plain value by itself is empty. Types: `nil`, `boolean` (0 or 1), `int` (64 bits), `double`, `base64`,
/// `dateTime.iso8601`, and `list` and `struct` for empty ones; none is text.
///
/// A backslash takes the next character as it is; `\n` and `\r` are the line ends, `\e` an empty name. In a name, the
/// characters `. [ ] : =` need one, a leading `#` too. Lines that begin with `#` and empty lines are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameValue;

const NAME: &str = "name-value";

impl ValueCodec for NameValue {
    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut out = String::new();
        emit(&mut String::new(), value, 0, &mut out)?;
        out.push_str(".\n");
        Ok(out.into_bytes())
    }

    fn decode(&self, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
        let mut budget = Budget::new(limits, bytes)?;
        let text = core::str::from_utf8(bytes)
            .map_err(|error| DecodeError { at: error.valid_up_to(), reason: DecodeReason::Encoding })?;
        let (mut at, mut root) = (0, None);
        loop {
            let fail = |reason| DecodeError { at, reason };
            let rest = &text[at..];
            let end = rest
                .find('\n')
                .ok_or_else(|| fail(DecodeReason::Grammar("no line with a dot at the end")))?;
            let line = &rest[..end];
            if line == "." {
                return match root {
                    Some(_) if rest.len() > end + 1 => {
                        Err(fail(DecodeReason::Grammar("lines after the last")))
                    }
                    Some(node) => Ok(Node::into_value(node)),
                    None => Err(fail(DecodeReason::Grammar("no value"))),
                };
            }
            if !line.is_empty() && !line.starts_with('#') {
                take_line(line, &mut root, &mut budget).map_err(fail)?;
            }
            at += end + 1;
        }
    }
}

fn emit(path: &mut String, value: &Value, level: usize, out: &mut String) -> Result<(), EncodeError> {
    let line = |out: &mut String, kind: &str, text: &dyn core::fmt::Display| {
        writeln!(out, "{path}{kind}={text}").expect("a string takes all that is written");
    };
    match value {
        Value::Nil => line(out, ":nil", &""),
        Value::Bool(x) => line(out, ":boolean", &u8::from(*x)),
        Value::Int(x) => line(out, ":int", x),
        Value::Double(x) => line(out, ":double", x),
        Value::Text(x) => line(out, "", &escape(x, false)),
        Value::Bytes(x) => line(out, ":base64", &STANDARD.encode(x)),
        Value::DateTime(x) => line(out, ":dateTime.iso8601", x),
        Value::List(items) => {
            let level = deeper(level)?;
            if items.is_empty() {
                line(out, ":list", &"");
            }
            let length = path.len();
            for (i, item) in items.iter().enumerate() {
                write!(path, "[{i}]").expect("a string takes all that is written");
                emit(path, item, level, out)?;
                path.truncate(length);
            }
        }
        Value::Struct(members) => {
            let level = deeper(level)?;
            if members.is_empty() {
                line(out, ":struct", &"");
            }
            let length = path.len();
            for (name, member) in members {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(&escape(name, true));
                emit(path, member, level, out)?;
                path.truncate(length);
            }
        }
    }
    Ok(())
}

/// A name as a part of a path, or text as the rest of a line.
pub(crate) fn escape(text: &str, is_name: bool) -> String {
    if is_name && text.is_empty() {
        return "\\e".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '.' | '[' | ']' | ':' | '=' if is_name => out.extend(['\\', c]),
            '#' if is_name && i == 0 => out.push_str("\\#"),
            c => out.push(c),
        }
    }
    out
}

/// A value that is being put together.
enum Node {
    /// Complete: nothing may be added.
    Leaf(Value),
    List(Vec<Self>),
    Struct(BTreeMap<String, Self>),
}

impl Node {
    /// The levels of a value are bounded, so this may call itself.
    fn into_value(self) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => items.into_iter().map(Self::into_value).collect(),
            Self::Struct(members) => {
                members.into_iter().map(|(name, node)| (name, node.into_value())).collect()
            }
        }
    }
}

const MIXED: DecodeReason = DecodeReason::Grammar("one path is two kinds of value");
const OUT_OF_ORDER: DecodeReason = DecodeReason::Grammar("a place in a list out of order");
const NO_VALUE: DecodeReason = DecodeReason::Grammar("a line without a sign of equality");
const NO_TYPE: DecodeReason = DecodeReason::Grammar("a colon without a type");
const BAD_PLACE: DecodeReason = DecodeReason::Grammar("not a place in a list");
const EMPTY_NAME: DecodeReason = DecodeReason::Grammar("an empty name without its sign");

/// One step of a path.
enum Step {
    Name(String),
    Place(usize),
}

fn take_line(line: &str, root: &mut Option<Node>, budget: &mut Budget) -> Result<(), DecodeReason> {
    let (steps, kind, text) = parse_path(line)?;
    let leaf = leaf(kind, unescape(text)?)?;
    match root {
        Some(node) => insert(node, &steps, leaf, 0, budget),
        None => {
            *root = Some(build(&steps, leaf, 0, budget)?);
            Ok(())
        }
    }
}

/// Adds a line's value below `node`, which lies at `level`. Each call goes one level deeper, and those are limited.
fn insert(
    node: &mut Node,
    steps: &[Step],
    leaf: Value,
    level: usize,
    budget: &mut Budget,
) -> Result<(), DecodeReason> {
    match (node, steps) {
        (Node::Leaf(_), []) => Err(DecodeReason::DuplicateKey),
        (Node::Struct(members), [Step::Name(name), rest @ ..]) => {
            let level = budget.below(level)?;
            if let Some(member) = members.get_mut(name) {
                return insert(member, rest, leaf, level, budget);
            }
            members.insert(name.clone(), build(rest, leaf, level, budget)?);
            Ok(())
        }
        (Node::List(items), [Step::Place(place), rest @ ..]) => {
            let level = budget.below(level)?;
            if *place == items.len() {
                items.push(build(rest, leaf, level, budget)?);
                return Ok(());
            }
            if place.saturating_add(1) != items.len() {
                return Err(OUT_OF_ORDER);
            }
            items.last_mut().map_or(Err(OUT_OF_ORDER), |last| insert(last, rest, leaf, level, budget))
        }
        (Node::Leaf(_) | Node::Struct(_) | Node::List(_), _) => Err(MIXED),
    }
}

/// A new node at `level` with a line's value at the end of `steps`.
fn build(steps: &[Step], leaf: Value, level: usize, budget: &mut Budget) -> Result<Node, DecodeReason> {
    budget.value()?;
    match steps {
        [] => {
            if matches!(leaf, Value::List(_) | Value::Struct(_)) {
                budget.below(level)?;
            }
            Ok(Node::Leaf(leaf))
        }
        [step, rest @ ..] => {
            let level = budget.below(level)?;
            let child = build(rest, leaf, level, budget)?;
            match step {
                Step::Name(name) => Ok(Node::Struct(BTreeMap::from([(name.clone(), child)]))),
                Step::Place(0) => Ok(Node::List(vec![child])),
                Step::Place(_) => Err(OUT_OF_ORDER),
            }
        }
    }
}

/// The path of a line, the name of its type (empty for text) and the text behind the sign of equality.
fn parse_path(line: &str) -> Result<(Vec<Step>, &str, &str), DecodeReason> {
    let mut steps = Vec::new();
    let mut rest = line;
    loop {
        match rest.as_bytes().first() {
            Some(b'=') => return Ok((steps, "", &rest[1..])),
            Some(b':') => {
                let (kind, text) = rest[1..].split_once('=').ok_or(NO_VALUE)?;
                if kind.is_empty() {
                    return Err(NO_TYPE);
                }
                return Ok((steps, kind, text));
            }
            Some(b'[') => {
                let (place, behind) = rest[1..].split_once(']').ok_or(BAD_PLACE)?;
                let plain =
                    place == "0" || (!place.starts_with('0') && place.bytes().all(|b| b.is_ascii_digit()));
                let place = place.parse().ok().filter(|_place: &usize| plain).ok_or(BAD_PLACE)?;
                steps.push(Step::Place(place));
                rest = behind;
            }
            Some(b'.') if steps.is_empty() => return Err(EMPTY_NAME),
            Some(_) => {
                rest = if steps.is_empty() { rest } else { rest.strip_prefix('.').ok_or(MIXED)? };
                let (name, behind) = parse_name(rest)?;
                steps.push(Step::Name(name));
                rest = behind;
            }
            None => return Err(NO_VALUE),
        }
    }
}

/// A name, up to the first character that ends one, and what follows.
fn parse_name(text: &str) -> Result<(String, &str), DecodeReason> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut empty = false;
    let end = loop {
        let Some((at, c)) = chars.next() else { return Err(NO_VALUE) };
        match c {
            '.' | '[' | ':' | '=' => break at,
            ']' => return Err(BAD_PLACE),
            '\\' => match chars.next() {
                Some((_, 'e')) => empty = true,
                Some((_, c)) => name.push(unescaped(c)),
                None => return Err(NO_VALUE),
            },
            c => name.push(c),
        }
    };
    // an empty name has its sign, and that sign stands alone
    if name.is_empty() == empty { Ok((name, &text[end..])) } else { Err(EMPTY_NAME) }
}

fn unescape(text: &str) -> Result<String, DecodeReason> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => unescaped(chars.next().ok_or(DecodeReason::Grammar("a line ends with a backslash"))?),
            c => c,
        });
    }
    Ok(out)
}

const fn unescaped(c: char) -> char {
    match c {
        'n' => '\n',
        'r' => '\r',
        c => c,
    }
}

fn leaf(kind: &str, text: String) -> Result<Value, DecodeReason> {
    let wrong = |what| Err(DecodeReason::Grammar(what));
    match kind {
        "" => Ok(Value::Text(text)),
        "boolean" => match text.as_str() {
            "0" => Ok(false.into()),
            "1" => Ok(true.into()),
            _ => wrong("not a boolean: 0 or 1"),
        },
        "int" => {
            text.parse::<i64>().map_or_else(|_error| wrong("not an integer of 64 bits"), |x| Ok(x.into()))
        }
        "double" => text.parse::<f64>().map_or_else(|_error| wrong("not a number"), |x| Ok(x.into())),
        "base64" => STANDARD.decode(text).map_or_else(|_error| wrong("not base64"), |x| Ok(x.into())),
        "dateTime.iso8601" => {
            text.parse().map_or_else(|_error| wrong("not a date and time"), |x| Ok(Value::DateTime(x)))
        }
        "nil" | "list" | "struct" if !text.is_empty() => wrong("a value without text has text"),
        "nil" => Ok(Value::Nil),
        "list" => Ok(Value::List(Vec::new())),
        "struct" => Ok(Value::empty_struct()),
        _ => wrong("a type that name-value does not have"),
    }
}
