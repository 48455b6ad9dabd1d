//! Events by topic: publishers and subscribers that do not know each other, inside one process.
//!
//! ```
//! use pils::topic::{Bus, Delivery, Draft, Pattern, RESOURCE};
//! let bus = Bus::default();
//! bus.create("resource.web")?;
//! let all = bus.subscribe(Pattern::prefix(RESOURCE), 16)?;
//! let draft = Draft::new().property("node", "alpha").data("started");
//! let id = bus.publish("resource.web", draft)?;
//! let Some(Delivery::Event(event)) = all.try_next() else { panic!("it was published") };
//! assert_eq!((event.id, &*event.topic, &event.data[..]), (id, "resource.web", b"started".as_slice()));
//! # Ok::<(), pils::topic::TopicError>(())
//! ```
//!
//! # What is guaranteed
//! All subscribers see events in one order, that of [`Event::id`]. A publisher never waits for a subscriber: one whose
//! queue is full loses its oldest events and is told how many with [`Delivery::Lost`], in the place where they are missing.
//! Events are kept in memory only; who subscribes late sees what is published from then on.
//!
//! # Topics
//! Topics are created before they are used, so that a misspelt one is an error and not silence. The topics of this
//! framework's own layers exist from the start: [`TOPICS`]. A name is made of words of `a-z`, `0-9`, `-` and `_` with dots
//! between; a prefix matches whole words.
//!
//! This is edge code, called from any thread; no protocol core holds a bus.

mod bus;
mod subscription;

pub use bus::{Bus, Config, TopicError};
pub use subscription::{Delivery, Subscription};

use crate::Value;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Paths between nodes going up and down.
pub const LINK: &str = "link";
/// Which node reaches which.
pub const CONNECTIVITY: &str = "connectivity";
/// Nodes heard from, suspected, lost.
pub const LIVENESS: &str = "liveness";
/// Agreed views.
pub const MEMBERSHIP: &str = "membership";
/// Quorum gained and lost.
pub const QUORUM: &str = "quorum";
/// Process groups.
pub const GROUP: &str = "group";
/// Resources starting, stopping, failing, moving.
pub const RESOURCE: &str = "resource";
/// Fence requests and their outcomes.
pub const FENCING: &str = "fencing";
/// The topics that exist from the start.
pub const TOPICS: [&str; 8] = [LINK, CONNECTIVITY, LIVENESS, MEMBERSHIP, QUORUM, GROUP, RESOURCE, FENCING];

/// What was published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Number on this bus, from 1 without gaps: the order of all events.
    pub id: u64,
    /// The event that this one follows from or answers.
    pub regarding: Option<u64>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Number on its topic, from 1 without gaps: a subscriber of one topic sees how much it missed.
    pub seq: u64,
    /// Named values that a subscriber may choose by.
    pub properties: BTreeMap<String, Value>,
    /// What only publisher and subscriber understand.
    pub data: Bytes,
}

/// An event before it is published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    regarding: Option<u64>,
    properties: BTreeMap<String, Value>,
    data: Bytes,
}

impl Draft {
    /// An event with neither properties nor data.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the event that this one follows from or answers.
    #[must_use]
    pub const fn regarding(mut self, id: u64) -> Self {
        self.regarding = Some(id);
        self
    }

    /// Adds a property, or replaces it.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Sets the data.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = data.into();
        self
    }
}

/// Which topics a subscriber wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This topic.
    Exact(String),
    /// This topic and all below it: `resource` matches `resource` and `resource.web`, not `resources`. Empty: all.
    Prefix(String),
}

impl Pattern {
    /// This topic.
    pub fn exact(topic: impl Into<String>) -> Self {
        Self::Exact(topic.into())
    }

    /// This topic and all below it.
    pub fn prefix(topic: impl Into<String>) -> Self {
        Self::Prefix(topic.into())
    }

    /// Every topic.
    #[must_use]
    pub const fn all() -> Self {
        Self::Prefix(String::new())
    }

    /// True if a subscriber with this pattern gets events of `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Exact(own) => own == topic,
            Self::Prefix(own) if own.is_empty() => true,
            Self::Prefix(own) => {
                topic.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}
