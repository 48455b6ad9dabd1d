use super::config::LocalConfig;
use super::frame::{Frames, Request, Response, VERSION};
use super::outbox::Outbox;
use super::service::{ClientInfo, EventSink, Service};
use super::wake::Wake;
use crate::rpc::{Access, Body, Call, Fault, Responder};
use bytes::Bytes;
use core::fmt;
use pils::Value;
use pils::topic::{Bus, Draft, Pattern, Subscription, TOPICS};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What the server knows of one client: the protocol, without the socket.
pub(super) struct Session {
    config: Arc<LocalConfig>,
    wake: Arc<Wake>,
    info: ClientInfo,
    registered: bool,
    frames: Frames,
    pub(super) outbox: Arc<Outbox>,
    joined: BTreeMap<Arc<str>, Arc<dyn Service>>,
    subscriptions: BTreeMap<u64, Subscription>,
}

/// The client broke the protocol: its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(config: Arc<LocalConfig>, wake: Arc<Wake>, info: ClientInfo) -> Self {
        let limits = &config.limits;
        let outbox = Outbox::new(info.id, Arc::clone(&wake), limits.outbox_max, limits.frame_max);
        Self {
            frames: Frames::new(limits.frame_max),
            config,
            wake,
            info,
            registered: false,
            outbox: Arc::new(outbox),
            joined: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    pub(super) const fn is_registered(&self) -> bool {
        self.registered
    }

    /// Takes what the socket gave.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// Does what whole frames ask for, while the client takes its answers. True if there may be more.
    pub(super) fn run(&mut self) -> Result<bool, Broken> {
        while !self.outbox.is_full() {
            let frame =
                self.frames.next_frame().map_err(|_too_long| Broken("a frame longer than allowed"))?;
            let Some(frame) = frame else { return Ok(false) };
            self.frame(&frame)?;
        }
        Ok(true)
    }

    /// Moves events of topics to the outbox, while it has room. True if there are more.
    pub(super) fn deliver(&self) -> bool {
        for (id, subscription) in &self.subscriptions {
            while !self.outbox.is_full()
                && let Some(delivery) = subscription.try_next()
            {
                self.outbox.push(Response::Delivered { id: *id, delivery }.emit());
            }
        }
        self.subscriptions.values().any(|subscription| !subscription.is_empty())
    }

    fn frame(&mut self, frame: &Bytes) -> Result<(), Broken> {
        let request = Request::parse(frame).map_err(|_malformed| Broken("a frame that is none"))?;
        if let Request::Hello { oldest, newest, name } = request {
            return self.hello(oldest, newest, name);
        }
        if !self.registered {
            return Err(Broken("a request before the greeting"));
        }
        match request {
            Request::Hello { .. } => {}
            Request::Call { id, answer: true, service, method, body } => {
                if self.begin(id)? {
                    let outbox = Arc::clone(&self.outbox);
                    let answer = Responder::new(move |result| outbox.answer(id, result));
                    self.call(&service, method, body, answer);
                }
            }
            Request::Call { service, method, body, .. } => {
                self.call(&service, method, body, Responder::new(|_nobody_waits| {}));
            }
            Request::Cancel { id } => self.outbox.cancel(id),
            Request::Subscribe { id, pattern } => {
                if self.begin(id)? {
                    let result = self.subscribe(id, pattern);
                    self.outbox.answer(id, result);
                }
            }
            Request::Unsubscribe { id } => {
                self.subscriptions.remove(&id);
            }
            Request::Publish { id, topic, properties, data } => {
                if self.begin(id)? {
                    let result = self.publish(&topic, properties, data);
                    self.outbox.answer(id, result);
                }
            }
        }
        Ok(())
    }

    fn hello(&mut self, oldest: u8, newest: u8, name: String) -> Result<(), Broken> {
        if self.registered {
            return Err(Broken("a second greeting"));
        }
        if !(oldest..=newest).contains(&VERSION) {
            let reason = format!("this server speaks version {VERSION}, the client {oldest} to {newest}");
            self.outbox.push(Response::Refused { reason }.emit());
            return Err(Broken("another version"));
        }
        self.registered = true;
        self.info.name = name;
        let Self { config, info, .. } = self;
        let welcome = Response::Welcome {
            version: VERSION,
            client: info.id,
            node: config.node,
            frame_max: config.limits.frame_max,
        };
        self.outbox.push(welcome.emit());
        Ok(())
    }

    /// True if a call may begin; if not, the client is told that it has too many.
    fn begin(&self, id: u64) -> Result<bool, Broken> {
        let running = self.outbox.in_flight();
        if !self.outbox.begin(id) {
            return Err(Broken("two calls of one number"));
        }
        if running >= self.config.limits.requests_max {
            let text = format!("{running} calls of this client run already");
            self.outbox.answer(id, Err(Fault::new(Fault::BUSY, text)));
            return Ok(false);
        }
        Ok(true)
    }

    fn allows(&self, access: Access) -> Result<(), Fault> {
        let allowed = self.config.policy.access(&self.info.caller());
        if allowed.is_some_and(|allowed| access <= allowed) {
            return Ok(());
        }
        let crate::rpc::Credentials { uid, gid, .. } = self.info.credentials;
        Err(Fault::new(Fault::DENIED, format!("user {uid}, group {gid} may not do this")))
    }

    fn call(&mut self, service: &str, method: String, body: Body, answer: Responder<Body>) {
        if service.is_empty() {
            return self.dispatch(method, body, answer);
        }
        let Some((name, code)) = self.config.services.get_key_value(service) else {
            let text = format!("no service {service:?} here");
            return answer.answer(Err(Fault::new(Fault::UNAVAILABLE, text)));
        };
        if let Err(fault) = self.allows(code.access(&method)) {
            return answer.answer(Err(fault));
        }
        let run = AssertUnwindSafe(|| {
            if !self.joined.contains_key(name) {
                self.joined.insert(Arc::clone(name), Arc::clone(code));
                let sink = EventSink { outbox: Arc::clone(&self.outbox), service: Arc::clone(name) };
                code.joined(&self.info, sink);
            }
            code.call(&self.info, &method, body, answer);
        });
        if catch_unwind(run).is_err() {
            tracing::error!(service, %method, "a service panicked; its client was told of an internal error");
        }
    }

    fn dispatch(&self, method: String, body: Body, answer: Responder<Body>) {
        let Some(dispatcher) = &self.config.dispatcher else {
            return answer.answer(Err(Fault::new(Fault::METHOD_NOT_FOUND, "this server has no methods")));
        };
        let params = match body {
            Body::Value(Value::List(params)) => params,
            Body::Value(Value::Nil) => Vec::new(),
            Body::Value(_) | Body::Bytes(_) => {
                return answer
                    .answer(Err(Fault::new(Fault::INVALID_PARAMS, "parameters are a list of values")));
            }
        };
        let responder =
            Responder::new(move |reply: Result<Value, Fault>| answer.answer(reply.map(Body::Value)));
        dispatcher.call(&self.info.caller(), Call { method, params }, responder);
    }

    fn bus(&self) -> Result<&Bus, Fault> {
        let none = || Fault::new(Fault::UNAVAILABLE, "this server has no topics");
        self.config.bus.as_ref().ok_or_else(none)
    }

    fn subscribe(&mut self, id: u64, pattern: Pattern) -> Result<Body, Fault> {
        self.allows(Access::Observe)?;
        let limit = self.config.limits.subscriptions_max;
        if self.subscriptions.len() >= limit || self.subscriptions.contains_key(&id) {
            return Err(Fault::new(
                Fault::BUSY,
                format!("at most {limit} subscriptions, each with a number of its own"),
            ));
        }
        let (wake, client) = (Arc::clone(&self.wake), self.info.id);
        let queue = self.config.limits.subscription_queue;
        let subscribed = self.bus()?.subscribe_waking(pattern, queue, move || wake.client(client));
        let subscription = subscribed.map_err(|why| Fault::new(Fault::INVALID_PARAMS, why.to_string()))?;
        self.subscriptions.insert(id, subscription);
        Ok(Body::default())
    }

    fn publish(&self, topic: &str, properties: Value, data: Bytes) -> Result<Body, Fault> {
        let own = TOPICS.iter().any(|own| Pattern::prefix(*own).matches(topic));
        self.allows(if own { Access::Control } else { Access::Use })?;
        let members = Body::Value(properties).read::<BTreeMap<String, Value>>()?;
        let draft = members
            .into_iter()
            .fold(Draft::new().data(data), |draft, (name, value)| draft.property(name, value));
        let id = self.bus()?.publish(topic, draft);
        let id = id.map_err(|why| Fault::new(Fault::INVALID_PARAMS, why.to_string()))?;
        Body::of(&id)
    }
}

impl Session {
    /// However the client ended: every service that it used is told, once. Returns those that want to know when its process
    /// ends.
    pub(super) fn finish(&mut self) -> Vec<Arc<dyn Service>> {
        self.outbox.close();
        let client = self.info.id;
        let mut mourn = Vec::new();
        for (name, service) in core::mem::take(&mut self.joined) {
            let gone = AssertUnwindSafe(|| {
                service.gone(client);
                service.mourns(client)
            });
            match catch_unwind(gone) {
                Ok(true) => mourn.push(service),
                Ok(false) => {}
                Err(_) => tracing::error!(service = %name, "a service panicked when a client was gone"),
            }
        }
        mourn
    }

    pub(super) const fn info(&self) -> &ClientInfo {
        &self.info
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever mourns goes with the server.
        drop(self.finish());
    }
}
