use super::introspect;
use super::{Body, Caller, Method, Policy, Reply, Responder};
use core::fmt;
use parking_lot::Mutex;
use pils::Value;
use pils::codec::xmlrpc::{Call, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Bounds of a [`Dispatcher`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Parameters of one call. Default 64.
    pub params_max: usize,
    /// Calls in one `system.multicall`. Default 256.
    pub multicall_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { params_max: 64, multicall_max: 256 }
    }
}

type Code = Box<dyn Fn(&Caller, Vec<Value>, Responder) + Send + Sync>;
type Authorise = Box<dyn Fn(&Caller, &Method) -> Result<(), Fault> + Send + Sync>;

pub(super) struct Entry {
    pub(super) method: Method,
    code: Code,
}

/// Methods by name. Cheap to clone; clones share. Called from any thread; holds no lock while a method runs.
#[derive(Clone)]
pub struct Dispatcher {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) methods: BTreeMap<String, Entry>,
    pub(super) own: BTreeMap<&'static str, Method>,
    pub(super) limits: Limits,
    authorise: Authorise,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("methods", &self.inner.methods.keys()).finish_non_exhaustive()
    }
}

/// Collects methods for a [`Dispatcher`].
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    methods: BTreeMap<String, Entry>,
    limits: Limits,
    authorise: Authorise,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("methods", &self.methods.keys()).finish_non_exhaustive()
    }
}

impl Builder {
    /// Adds a method that answers at once: parameters and result are whatever serde can read and write. The parameters
    /// are a tuple, one element for each: `(): ()`, `(name,): (String,)`. Unknown members of structs are ignored, so that
    /// a newer caller may say more.
    ///
    /// # Panics
    /// If the name is taken, malformed, or begins with `system.`: a mistake in the program.
    pub fn method<P, R>(
        self,
        method: Method,
        code: impl Fn(&Caller, P) -> Result<R, Fault> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        self.later(method, move |caller: &Caller, params: P, responder| {
            let reply = code(caller, params).and_then(|result| Body::of(&result)).and_then(Body::into_value);
            responder.answer(reply);
        })
    }

    /// Adds a method that answers when it can, through the responder that it is given.
    ///
    /// # Panics
    /// As [`Builder::method`].
    pub fn later<P: DeserializeOwned>(
        self,
        method: Method,
        code: impl Fn(&Caller, P, Responder) + Send + Sync + 'static,
    ) -> Self {
        self.raw(method, move |caller, params, responder| {
            // `()` reads from nil, and every other tuple from a list.
            let params = if params.is_empty() { Value::Nil } else { Value::List(params) };
            let none = params == Value::Nil;
            let read = Body::Value(params).read().or_else(|fault| {
                let empty =
                    if none { Body::Value(Value::List(Vec::new())).read() } else { return Err(fault) };
                empty.map_err(|_same| fault)
            });
            match read {
                Ok(params) => code(caller, params, responder),
                Err(fault) => responder.answer(Err(fault)),
            }
        })
    }

    /// Adds a method that takes its parameters as they came, and answers when it can.
    ///
    /// # Panics
    /// As [`Builder::method`].
    pub fn raw(
        mut self,
        method: Method,
        code: impl Fn(&Caller, Vec<Value>, Responder) + Send + Sync + 'static,
    ) -> Self {
        let name = method.name().to_owned();
        let well_formed = Call { method: name.clone(), params: Vec::new() }.to_xml().is_ok();
        assert!(well_formed && !name.starts_with("system."), "{name:?} is not a name for a method");
        let taken = self.methods.insert(name, Entry { method, code: Box::new(code) });
        assert!(taken.is_none(), "two methods of one name: {:?}", taken.map(|entry| entry.method));
        self
    }

    /// Takes over every method of another builder.
    ///
    /// # Panics
    /// If both have a method of one name.
    pub fn merge(mut self, other: Self) -> Self {
        for (name, entry) in other.methods {
            assert!(self.methods.insert(name, entry).is_none(), "two methods of one name");
        }
        self
    }

    /// Sets the bounds.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets who may call what. Default: [`Policy::default`].
    pub fn policy(self, policy: Policy) -> Self {
        self.authorise(
            move |caller, method| {
                if policy.allows(caller, method) { Ok(()) } else { Err(denied(method.name())) }
            },
        )
    }

    /// Sets the authorisation itself, in place of a policy. It is asked before each call and for each method listed.
    pub fn authorise(
        mut self,
        hook: impl Fn(&Caller, &Method) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Self {
        self.authorise = Box::new(hook);
        self
    }

    /// The dispatcher.
    #[must_use]
    pub fn build(self) -> Dispatcher {
        let Self { methods, limits, authorise } = self;
        Dispatcher { inner: Arc::new(Inner { methods, own: introspect::methods(), limits, authorise }) }
    }
}

fn denied(method: &str) -> Fault {
    Fault::new(Fault::DENIED, format!("not allowed to call {method}"))
}

impl Dispatcher {
    /// Starts to collect methods.
    pub fn builder() -> Builder {
        let empty = Builder {
            methods: BTreeMap::new(),
            limits: Limits::default(),
            authorise: Box::new(|_, method| Err(denied(method.name()))),
        };
        empty.policy(Policy::default())
    }

    /// Calls a method. `responder` is used exactly once: within this call, or later by the method. A method that panics is
    /// an internal error to the caller and nothing worse.
    pub fn call(&self, caller: &Caller, call: Call, responder: Responder) {
        self.dispatch(caller, call, responder, true);
    }

    /// Calls a method that answers at once. `None` if it did not: its answer, when it comes, is thrown away.
    #[must_use]
    pub fn call_now(&self, caller: &Caller, call: Call) -> Option<Reply> {
        let slot = Arc::new(Mutex::new(None));
        let put = Arc::clone(&slot);
        self.call(caller, call, Responder::new(move |reply| *put.lock() = Some(reply)));
        slot.lock().take()
    }

    /// Asks whether `caller` may call `method`.
    pub(super) fn permits(&self, caller: &Caller, method: &Method) -> Result<(), Fault> {
        (self.inner.authorise)(caller, method)
    }

    /// `within`: a call inside a multicall must not be one itself.
    pub(super) fn dispatch(&self, caller: &Caller, call: Call, responder: Responder, outermost: bool) {
        let Call { method, params } = call;
        if params.len() > self.inner.limits.params_max {
            let text = format!("{} parameters, at most {}", params.len(), self.inner.limits.params_max);
            return responder.answer(Err(Fault::new(Fault::INVALID_PARAMS, text)));
        }
        let known = self.inner.methods.get(&method).map(|entry| &entry.method);
        let Some(known) = known.or_else(|| self.inner.own.get(method.as_str())) else {
            let text = format!("no method {method:?}: system.listMethods names those there are");
            return responder.answer(Err(Fault::new(Fault::METHOD_NOT_FOUND, text)));
        };
        if let Err(fault) = self.permits(caller, known) {
            return responder.answer(Err(fault));
        }
        match self.inner.methods.get(&method) {
            Some(entry) => {
                let run = AssertUnwindSafe(|| (entry.code)(caller, params, responder));
                if catch_unwind(run).is_err() {
                    // Its responder went with it, and told the caller.
                    tracing::error!(%method, "a method panicked");
                }
            }
            None if method == introspect::MULTICALL && outermost => {
                introspect::multicall(self, caller, params, responder);
            }
            None => responder.answer(introspect::answer(self, caller, &method, params)),
        }
    }
}
