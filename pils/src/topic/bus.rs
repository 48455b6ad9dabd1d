use super::subscription::{Inbox, Wake};
use super::{Draft, Event, Pattern, Subscription, TOPICS};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Bounds of a [`Bus`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Topics, those that exist from the start included. Default 1024, at least those 8.
    pub topics_max: usize,
    /// Subscriptions at a time. Default 1024; publishing takes time in proportion to their number.
    pub subscribers_max: usize,
    /// Bytes of data of one event. Default 64 KiB. With the queues it bounds the memory of a bus whose subscribers lag.
    pub data_max: usize,
    /// Properties of one event. Default 64.
    pub properties_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { topics_max: 1024, subscribers_max: 1024, data_max: 64 * 1024, properties_max: 64 }
    }
}

/// Why a call of [`Bus`] failed; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The topic was not created.
    #[error("no topic {topic:?}; known: {}", known.join(", "))]
    Unknown {
        /// The topic.
        topic: String,
        /// The topics there are.
        known: Vec<String>,
    },
    /// The topic exists already.
    #[error("topic {0:?} exists already")]
    Exists(String),
    /// Not the name of a topic: words of `a-z`, `0-9`, `-` and `_` with dots between, 255 bytes at most.
    #[error("{0:?} is not the name of a topic")]
    BadName(String),
    /// [`Config::topics_max`].
    #[error("there are {0} topics already, no more are allowed")]
    TooManyTopics(usize),
    /// [`Config::subscribers_max`].
    #[error("there are {0} subscriptions already, no more are allowed")]
    TooManySubscribers(usize),
    /// [`Config::data_max`].
    #[error("{size} bytes of data are more than the {max} allowed")]
    DataTooLarge {
        /// Bytes of data.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// [`Config::properties_max`].
    #[error("{count} properties are more than the {max} allowed")]
    TooManyProperties {
        /// Properties.
        count: usize,
        /// The limit.
        max: usize,
    },
}

/// The meeting point of publishers and subscribers. Cheap to clone; clones share. Called from any thread.
#[derive(Clone, Debug)]
pub struct Bus {
    config: Config,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Each topic and the `seq` of its last event.
    topics: BTreeMap<Arc<str>, u64>,
    subscribers: Vec<Weak<Inbox>>,
    last_id: u64,
}

impl Default for Bus {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Bus {
    /// A bus with the topics of [`TOPICS`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let topics = TOPICS.into_iter().map(|topic| (Arc::from(topic), 0)).collect();
        Self { config, state: Arc::new(Mutex::new(State { topics, subscribers: Vec::new(), last_id: 0 })) }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`TopicError::Exists`], [`TopicError::BadName`], [`TopicError::TooManyTopics`].
    pub fn create(&self, topic: &str) -> Result<(), TopicError> {
        if !is_name(topic) {
            return Err(TopicError::BadName(topic.to_owned()));
        }
        let mut state = self.state.lock();
        if state.topics.contains_key(topic) {
            return Err(TopicError::Exists(topic.to_owned()));
        }
        if state.topics.len() >= self.config.topics_max {
            return Err(TopicError::TooManyTopics(state.topics.len()));
        }
        state.topics.insert(Arc::from(topic), 0);
        Ok(())
    }

    /// The topics there are, in order.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.state.lock().topics.keys().cloned().collect()
    }

    /// Subscribes with a queue of up to `queue_max` events (at least one).
    ///
    /// # Errors
    /// [`TopicError::Unknown`] for an exact topic that was not created, [`TopicError::BadName`] for a prefix that no topic
    /// can have, [`TopicError::TooManySubscribers`].
    pub fn subscribe(&self, pattern: Pattern, queue_max: usize) -> Result<Subscription, TopicError> {
        self.add(pattern, queue_max, None)
    }

    /// As [`Bus::subscribe`]; `wake` is called after something came into the empty queue.
    ///
    /// It runs on the publisher's thread, so it should do no more than wake another. It may be called once too often, and
    /// may itself use the bus.
    ///
    /// # Errors
    /// As [`Bus::subscribe`].
    pub fn subscribe_waking(
        &self,
        pattern: Pattern,
        queue_max: usize,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Subscription, TopicError> {
        self.add(pattern, queue_max, Some(Box::new(wake)))
    }

    fn add(
        &self,
        pattern: Pattern,
        queue_max: usize,
        wake: Option<Wake>,
    ) -> Result<Subscription, TopicError> {
        let mut state = self.state.lock();
        match &pattern {
            Pattern::Exact(topic) if !state.topics.contains_key(topic.as_str()) => {
                return Err(state.unknown(topic));
            }
            Pattern::Prefix(prefix) if !prefix.is_empty() && !is_name(prefix) => {
                return Err(TopicError::BadName(prefix.clone()));
            }
            Pattern::Exact(_) | Pattern::Prefix(_) => {}
        }
        state.subscribers.retain(|inbox| inbox.strong_count() > 0);
        if state.subscribers.len() >= self.config.subscribers_max {
            return Err(TopicError::TooManySubscribers(state.subscribers.len()));
        }
        let inbox = Arc::new(Inbox::new(pattern, queue_max, wake));
        state.subscribers.push(Arc::downgrade(&inbox));
        Ok(Subscription { inbox })
    }

    /// Publishes an event and returns its [`Event::id`]. O(subscribers); waits for none of them.
    ///
    /// # Errors
    /// [`TopicError::Unknown`], [`TopicError::DataTooLarge`], [`TopicError::TooManyProperties`].
    pub fn publish(&self, topic: &str, draft: Draft) -> Result<u64, TopicError> {
        let Draft { regarding, properties, data } = draft;
        if data.len() > self.config.data_max {
            return Err(TopicError::DataTooLarge { size: data.len(), max: self.config.data_max });
        }
        if properties.len() > self.config.properties_max {
            return Err(TopicError::TooManyProperties {
                count: properties.len(),
                max: self.config.properties_max,
            });
        }
        let mut state = self.state.lock();
        let Some((topic, seq)) =
            state.topics.get_key_value(topic).map(|(topic, seq)| (Arc::clone(topic), seq + 1))
        else {
            return Err(state.unknown(topic));
        };
        state.topics.insert(Arc::clone(&topic), seq);
        state.last_id += 1;
        let id = state.last_id;
        let event = Arc::new(Event { id, regarding, topic, seq, properties, data });
        let mut sleeping = Vec::new();
        // held while all queues are served, so that all see one order
        state.subscribers.retain(|inbox| {
            let Some(inbox) = inbox.upgrade() else { return false };
            if inbox.pattern.matches(&event.topic) && inbox.push(Arc::clone(&event)) {
                sleeping.push(inbox);
            }
            true
        });
        drop(state);
        for inbox in sleeping {
            inbox.wake();
        }
        Ok(id)
    }
}

impl State {
    fn unknown(&self, topic: &str) -> TopicError {
        TopicError::Unknown {
            topic: topic.to_owned(),
            known: self.topics.keys().map(|t| (**t).to_owned()).collect(),
        }
    }
}

fn is_name(topic: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    topic.len() <= 255 && topic.split('.').all(|word| !word.is_empty() && word.bytes().all(plain))
}
