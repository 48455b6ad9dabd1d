//! What a program and the lock service of the node beside it say to each other, as values of the local interface.

mod orders;
mod orphans;
mod waits;

pub(crate) use orders::{Order, Reply};
pub(crate) use orphans::{EndOwner, Orphans, Purge};
pub(crate) use waits::ToldWait;

use core::time::Duration;
use ocf_dlm::cluster::Completed;
use ocf_dlm::wire::{Key, TREE_MAX, Value as Versioned};
use ocf_dlm::{
    ClientId, FencingToken, LockError, Mode, NameError, Remarks, RequestError, Status, ValueBlock, Wait,
    Wanted,
};
use pils::Value;
use serde::{Deserialize, Serialize};

use super::{Bytes, News};
use ocf_dlm::range::{Range, RangeKind};

/// The service's name.
pub(crate) const SERVICE: &str = "locks";

/// A resource: the canonical bytes of its tree, and of what is below.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireKey(Value, Value);

impl WireKey {
    pub(crate) fn of(key: &Key) -> Self {
        Self(bytes(&key.tree), bytes(&key.path))
    }

    /// `None` if it has no meaning.
    pub(crate) fn key(self) -> Option<Key> {
        let (tree, path): (Vec<u8>, Vec<u8>) = (self.0.try_into().ok()?, self.1.try_into().ok()?);
        let fits = tree.len().max(path.len()) <= TREE_MAX;
        fits.then(|| Key { tree: tree.into(), path: path.into() })
    }
}

/// Asks for a lock; no answer, but [`Told`] follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lock {
    /// What the program calls it: a number that it never used before.
    pub(crate) tag: u64,
    /// Whose it is, as the program numbers them.
    pub(crate) owner: u32,
    /// Without meaning if it is below another.
    pub(crate) space: String,
    pub(crate) name: Value,
    /// The lock above it, by its tag.
    pub(crate) above: Option<u64>,
    pub(crate) mode: u8,
    pub(crate) flags: u32,
    pub(crate) wait: Patience,
    /// The transaction that it counts for, among those of the program's user.
    #[serde(default)]
    pub(crate) transaction: Option<u32>,
    /// What those are told that are in its way, as a number with a sign; zero: nothing.
    #[serde(default)]
    pub(crate) signal: i64,
    /// It is the lock of who collects what the lockspace's recovery domain has to repair; the name has no meaning.
    #[serde(default)]
    pub(crate) collector: bool,
}

/// The program takes part in the recovery domain of a lockspace once more, or once less. The answer: [`Unlocked`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Domain {
    pub(crate) space: String,
    pub(crate) more: bool,
}

/// Asks for another mode; no answer, but [`Told`] follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Convert {
    pub(crate) tag: u64,
    pub(crate) mode: u8,
    pub(crate) flags: u32,
    pub(crate) value: Option<Value>,
    pub(crate) wait: Patience,
}

/// Gives a lock back, or takes back the request. The answer: whether it was certainly held, and the value is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) tag: u64,
    pub(crate) value: Option<Value>,
}

/// An object whose bytes are locked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) owner: u32,
    pub(crate) space: String,
    pub(crate) name: Value,
}

/// Bytes `first` to `last`, and how. They are strings, as numbers of the local interface have a sign.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireRange {
    first: String,
    last: String,
    exclusive: bool,
}

impl From<Bytes> for WireRange {
    fn from(Bytes { range, kind }: Bytes) -> Self {
        let (first, last) = (range.first().to_string(), range.last().to_string());
        Self { first, last, exclusive: kind == RangeKind::Exclusive }
    }
}

impl WireRange {
    /// `None` if it has no meaning.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        let range = Range::new(self.first.parse().ok()?, self.last.parse().ok()?).ok()?;
        Some(Bytes { range, kind: if self.exclusive { RangeKind::Exclusive } else { RangeKind::Shared } })
    }
}

/// Asks for bytes; no answer, but [`Told`] follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LockRange {
    /// What the program calls its use of the object, or this question: not a lock.
    pub(crate) tag: u64,
    pub(crate) object: Object,
    pub(crate) range: WireRange,
    pub(crate) wait: Patience,
    /// Not to wait for others.
    pub(crate) at_once: bool,
    /// Only to be told what is in the way.
    pub(crate) test: bool,
    /// The transaction that it counts for, among those of the program's user.
    #[serde(default)]
    pub(crate) transaction: Option<u32>,
}

/// Gives up bytes. The answer: [`Unlocked`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnlockRange {
    pub(crate) object: Object,
    pub(crate) range: WireRange,
}

/// What giving up bytes has come to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unlocked(pub(crate) Option<Refusal>);

/// What is certainly held of an object: for how many nanoseconds, and which bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeldRanges {
    pub(crate) left: u64,
    pub(crate) ranges: Vec<WireRange>,
}

/// How long to wait, in nanoseconds; `None`: as long as it takes. Not to wait at all is a flag.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Patience(Option<u64>);

impl From<Wait> for Patience {
    fn from(wait: Wait) -> Self {
        let Wait::For(wait) = wait else { return Self(None) };
        // What fits into a signed number is three centuries.
        Self(Some(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs())))
    }
}

impl From<Patience> for Wait {
    fn from(patience: Patience) -> Self {
        patience.0.map_or(Self::Forever, |nanos| Self::For(Duration::from_nanos(nanos)))
    }
}

/// What a program hears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) tag: u64,
    pub(crate) what: What,
}

/// Something that happened to a lock.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// An operation ended. Status and remarks are numbers of Linux. Nothing held: the tag is no lock any more.
    Ended { status: i32, held: Option<u8>, token: String, value: Option<Value>, remarks: u8 },
    /// An operation was not begun. `lock`: there is one all the same, as it was before.
    Refused { why: Refusal, lock: bool },
    /// Another wants it, and gave this signal.
    Wanted {
        mode: u8,
        #[serde(default)]
        signal: i64,
    },
    /// What is in the way of bytes that were asked about.
    Tested { blocker: Option<WireRange> },
    /// It is gone.
    Lost,
}

/// Why an operation was not begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Name(u64),
    SpaceName(u64),
    NotQueueable { held: u8, asked: u8 },
    NoSuchLock,
    NotOwner,
    Busy,
    HasSublocks(u32),
    ParentNotGranted,
    Limit(String),
    NotPrimary,
    NotAllowed(String),
    Flags,
    NoOrphan { other_mode: bool },
}

/// Why a program may not lock.
pub(crate) const NOT_LISTED: &str = "this user and group may not lock in that lockspace: the node's configuration says who may, in \
                                     [[api.locks]] (spaces, users, groups)";
/// The same.
pub(crate) const NOT_WATCHED: &str = "the kernel does not tell the node when this process ends: it is in another PID namespace, or the \
                                      kernel is older than 5.3";
/// The same.
pub(crate) const HAS_SENTINEL: &str = "this node has a sentinel, whose word for the node's death would release locks of programs that \
                                       live on: it is one or the other (sentinel = false)";

const RULES: [&str; 3] = [NOT_LISTED, NOT_WATCHED, HAS_SENTINEL];

/// Names of limits that are known by more than their name.
const LIMITS: [&str; 9] = [
    "locks_max",
    "TREE_MAX",
    "PROGRAM_LOCKS_MAX",
    "PROGRAM_CONNECTIONS_MAX",
    "PROGRAM_ORPHANS_MAX",
    "LOCKS_PER_RESOURCE_MAX",
    "held_bytes_max",
    "RANGES_PER_OWNER_MAX",
    "DOMAINS_MAX",
];

const STATUSES: [Status; 7] = [
    Status::Granted,
    Status::NotQueued,
    Status::Deadlock,
    Status::TimedOut,
    Status::Cancelled,
    Status::Unlocked,
    Status::Lost,
];

pub(crate) fn mode(raw: u8) -> Option<Mode> {
    Mode::ALL.into_iter().find(|mode| mode.raw() == raw)
}

pub(crate) fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec())
}

/// The value block that is written; `None` if it is none.
pub(crate) fn block(value: Option<Value>) -> Option<ValueBlock> {
    let bytes: Vec<u8> = value?.try_into().ok()?;
    Some(ValueBlock::new(&bytes))
}

impl What {
    pub(crate) fn of(news: &News) -> Self {
        match news {
            News::Completed(completed) => Self::Ended {
                status: completed.status.linux(),
                held: completed.held.map(Mode::raw),
                token: completed.token.as_u128().to_string(),
                value: completed.value.map(|value| bytes(value.block.as_bytes())),
                remarks: completed.remarks.bits(),
            },
            News::Refused(why) => Self::Refused { why: Refusal::of(why), lock: false },
            News::Wanted(Wanted { mode, signal }) => {
                Self::Wanted { mode: mode.raw(), signal: signal.cast_signed() }
            }
            News::Tested(found) => {
                let blocker = found.map(|(range, kind)| Bytes { range, kind }.into());
                Self::Tested { blocker }
            }
            News::Lost => Self::Lost,
        }
    }

    /// As the program's guard hears it. `None` if it has no meaning.
    pub(crate) fn news(self, lock: u64) -> Option<News> {
        Some(match self {
            Self::Ended { status, held, token, value, remarks } => News::Completed(Completed {
                lock,
                client: ClientId::new(0),
                status: STATUSES.into_iter().find(|known| known.linux() == status)?,
                held: match held {
                    Some(raw) => Some(mode(raw)?),
                    None => None,
                },
                token: FencingToken::from_u128(token.parse().ok()?),
                remarks: Remarks::from_bits(remarks),
                value: block(value).map(|block| Versioned { block, sequence: 0 }),
            }),
            Self::Refused { why, .. } => News::Refused(why.error()?),
            Self::Wanted { mode: wanted, signal } => {
                News::Wanted(Wanted { mode: mode(wanted)?, signal: signal.cast_unsigned() })
            }
            Self::Tested { blocker: None } => News::Tested(None),
            Self::Tested { blocker: Some(found) } => {
                let Bytes { range, kind } = found.bytes()?;
                News::Tested(Some((range, kind)))
            }
            Self::Lost => News::Lost,
        })
    }
}

impl Refusal {
    pub(crate) fn of(why: &LockError) -> Self {
        let LockError::Refused(why) = why else { return Self::NotPrimary };
        match why {
            RequestError::Name(NameError(length)) => Self::Name(*length as u64),
            RequestError::SpaceName(length) => Self::SpaceName(*length as u64),
            RequestError::NotQueueable { held, asked } => {
                Self::NotQueueable { held: held.raw(), asked: asked.raw() }
            }
            RequestError::NoSuchLock => Self::NoSuchLock,
            RequestError::NotOwner => Self::NotOwner,
            RequestError::Busy => Self::Busy,
            RequestError::HasSublocks(count) => Self::HasSublocks(*count),
            RequestError::ParentNotGranted => Self::ParentNotGranted,
            RequestError::Limit(name) => Self::Limit((*name).to_owned()),
            RequestError::NotAllowed(rule) => Self::NotAllowed((*rule).to_owned()),
            RequestError::Flags { .. } => Self::Flags,
            RequestError::NoOrphan { other_mode } => Self::NoOrphan { other_mode: *other_mode },
            // What programs cannot ask for, and that this node may not act.
            RequestError::NotPrimary | _ => Self::NotPrimary,
        }
    }

    pub(crate) fn error(self) -> Option<LockError> {
        let length = |length: u64| usize::try_from(length).unwrap_or(usize::MAX);
        Some(LockError::Refused(match self {
            Self::Name(bytes) => RequestError::Name(NameError(length(bytes))),
            Self::SpaceName(bytes) => RequestError::SpaceName(length(bytes)),
            Self::NotQueueable { held, asked } => {
                RequestError::NotQueueable { held: mode(held)?, asked: mode(asked)? }
            }
            Self::NotOwner => RequestError::NotOwner,
            Self::Busy => RequestError::Busy,
            Self::HasSublocks(count) => RequestError::HasSublocks(count),
            Self::ParentNotGranted => RequestError::ParentNotGranted,
            Self::Limit(name) => {
                let known = LIMITS.into_iter().find(|known| *known == name);
                RequestError::Limit(known.unwrap_or("of the node"))
            }
            Self::NotAllowed(rule) => {
                let known = RULES.into_iter().find(|known| *known == rule);
                RequestError::NotAllowed(known.unwrap_or("the node does not allow it"))
            }
            Self::NoOrphan { other_mode } => RequestError::NoOrphan { other_mode },
            Self::Flags => {
                RequestError::Flags { flags: ocf_dlm::Flags::NONE, rule: "not for programs beside a node" }
            }
            Self::NoSuchLock | Self::NotPrimary => return Some(LockError::Lost),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_comm::rpc::Body;

    fn there_and_back(news: &News) -> Option<News> {
        let told = Told { tag: 7, what: What::of(news) };
        let told: Told = Body::of(&told).and_then(Body::read).expect("it has a form as a value");
        assert_eq!(told.tag, 7);
        told.what.news(7)
    }

    #[test]
    fn what_a_program_is_told_is_what_the_node_was_told() {
        for status in STATUSES {
            let completed = Completed {
                lock: 7,
                client: ClientId::new(0),
                status,
                held: (status == Status::Granted).then_some(Mode::Pw),
                token: FencingToken { epoch: u64::MAX, sequence: u64::MAX - 1 },
                remarks: Remarks { demoted: true, value_invalid: false, alternative: true },
                value: Some(Versioned { block: ValueBlock::zero(32).with_number(u64::MAX), sequence: 0 }),
            };
            let News::Completed(back) = there_and_back(&News::Completed(completed.clone())).expect("known")
            else {
                panic!("it is a completion")
            };
            assert_eq!(back, completed);
        }
        for mode in Mode::ALL {
            for signal in [0, 42, u64::MAX] {
                let wanted = Wanted { mode, signal };
                let back = there_and_back(&News::Wanted(wanted));
                assert!(matches!(back, Some(News::Wanted(back)) if back == wanted));
            }
        }
        assert!(matches!(there_and_back(&News::Lost), Some(News::Lost)));
        for found in
            [None, Some((Range::WHOLE, RangeKind::Shared)), Some((Range::WHOLE, RangeKind::Exclusive))]
        {
            let back = there_and_back(&News::Tested(found));
            assert!(matches!(back, Some(News::Tested(back)) if back == found));
        }
    }

    #[test]
    fn why_an_operation_was_not_begun_is_told_whole() {
        let limits = LIMITS.map(RequestError::Limit);
        let others = [
            RequestError::Name(NameError(300)),
            RequestError::SpaceName(0),
            RequestError::NotQueueable { held: Mode::Ex, asked: Mode::Pr },
            RequestError::NotOwner,
            RequestError::Busy,
            RequestError::HasSublocks(3),
            RequestError::ParentNotGranted,
            RequestError::NotAllowed(NOT_LISTED),
            RequestError::NoOrphan { other_mode: true },
            RequestError::NoOrphan { other_mode: false },
        ];
        for why in limits.into_iter().chain(others) {
            let Some(News::Refused(back)) = there_and_back(&News::Refused(why.into())) else {
                panic!("{why} is a refusal")
            };
            assert_eq!(back, LockError::Refused(why));
        }
        for why in [RequestError::NotPrimary, RequestError::NoSuchLock] {
            let back = there_and_back(&News::Refused(why.into()));
            assert!(matches!(back, Some(News::Refused(LockError::Lost))), "{back:?}");
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_no_news() {
        assert!(What::Wanted { mode: 77, signal: 0 }.news(1).is_none());
        let ended = |status, held, token: &str| What::Ended {
            status,
            held,
            token: token.to_owned(),
            value: None,
            remarks: 0,
        };
        assert!(ended(0, Some(5), "1").news(1).is_some());
        assert!(ended(12345, None, "1").news(1).is_none());
        assert!(ended(0, Some(99), "1").news(1).is_none());
        assert!(ended(0, None, "x").news(1).is_none());
    }
}
