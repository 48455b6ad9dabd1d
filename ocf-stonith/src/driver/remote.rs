//! Device classes that a module or a program brings: what is said to them, and what is made of their answers.

use super::DeviceClass;
use crate::agent::detail;
use crate::config::is_secret;
use crate::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, Done, Failure, FenceAction, FenceDevice, HOSTS_MAX,
    Operation, ReadBack, Targets,
};
use core::fmt;
use parking_lot::Mutex;
use pils::plugin::{CallError, Caller, Contract, Interface, PendingCall, Remote};
use pils::process::Runner;
use pils::value::from_value;
use pils::{ConfigErrors, Value};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every class that is loaded has.
pub(super) fn contract() -> Contract {
    Contract::new(Interface { major: 1, minor: 0 }, ["about", "capabilities", "check", "execute"])
}

/// Makes a class of a plug-in.
pub(super) fn class(remote: Arc<dyn Remote>) -> Arc<dyn DeviceClass> {
    let about = match remote.call("about", &[]) {
        Ok(Value::Text(about)) => about,
        Ok(other) => format!("says {other} about itself, which is no text"),
        Err(error) => format!("says nothing about itself: {error}"),
    };
    Arc::new(RemoteClass { name: remote.description().name.clone(), about, caller: Caller::new(remote) })
}

#[derive(Debug)]
struct RemoteClass {
    name: String,
    about: String,
    caller: Caller,
}

/// One thing that is wrong with a device, as a class says it.
#[derive(Deserialize)]
struct Mistake {
    path: String,
    #[serde(default)]
    value: String,
    problem: String,
    #[serde(default)]
    fix: String,
}

#[derive(Deserialize)]
struct Abilities {
    actions: Vec<FenceAction>,
    #[serde(default)]
    verifies_off: bool,
}

impl RemoteClass {
    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        device: &DeviceConfig,
    ) -> Result<T, ConfigErrors> {
        let answer = self.caller.remote().call(method, &[told_of(device)]).map_err(|error| error.to_string());
        answer
            .and_then(|value| from_value(value).map_err(|error| format!("its answer is wrong: {error}")))
            .map_err(|error| {
                let mut errors = ConfigErrors::default();
                errors.push("class", &self.name, format!("{method}: {error}"), "mend or replace the plug-in");
                errors
            })
    }
}

impl DeviceClass for RemoteClass {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> &str {
        &self.about
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        match self.ask::<Vec<Mistake>>("check", device) {
            Ok(mistakes) => {
                for Mistake { path, value, problem, fix } in mistakes {
                    let value = if is_secret(&path) { String::new() } else { value };
                    errors.push(path, value, problem, fix);
                }
            }
            Err(wrong) => errors.nest("", wrong),
        }
    }

    fn open(&self, device: &DeviceConfig, _: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let Abilities { actions, verifies_off } = self.ask("capabilities", device)?;
        let secrets = device.parameters.iter().filter(|(name, _)| is_secret(name));
        Ok(Arc::new(RemoteDevice {
            told: told_of(device),
            capabilities: Capabilities { actions, verifies_off },
            secrets: secrets.map(|(_, value)| value.to_owned()).collect(),
            caller: self.caller.clone(),
            running: Arc::default(),
        }))
    }
}

/// What a class hears of a device: its name, its parameters, and its nodes or nil for all.
fn told_of(device: &DeviceConfig) -> Value {
    let parameters = device.parameters.iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
    let nodes = match &device.nodes {
        Targets::Every(_) => Value::Nil,
        Targets::List(list) => Value::List(
            list.iter()
                .map(|t| {
                    Value::from([
                        ("node", Value::from(i64::from(t.node.raw()))),
                        ("plug", t.plug.as_deref().map_or(Value::Nil, Value::from)),
                    ])
                })
                .collect(),
        ),
    };
    Value::from([
        ("name", Value::from(device.name.as_str())),
        ("parameters", Value::Struct(parameters.collect())),
        ("nodes", nodes),
    ])
}

/// A device of a class that was loaded.
struct RemoteDevice {
    told: Value,
    capabilities: Capabilities,
    secrets: Vec<String>,
    caller: Caller,
    running: Arc<Mutex<BTreeMap<AttemptId, Running>>>,
}

#[derive(Default)]
struct Running {
    call: Option<PendingCall>,
    cancelled: bool,
}

impl fmt::Debug for RemoteDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteDevice").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl FenceDevice for RemoteDevice {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn execute(&self, operation: Operation, done: Done) {
        let Operation { attempt, action, node, plug, timeout } = operation;
        let order = Value::from([
            ("action", Value::from(action.to_string())),
            ("node", Value::from(i64::from(node.raw()))),
            ("plug", plug.as_deref().map_or(Value::Nil, Value::from)),
            ("timeout_ms", Value::from(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX))),
        ]);
        if !self.capabilities.allows(action) {
            let detail = Arc::from(format!("this device does not do {action}"));
            done(DeviceResult::Failed(Failure::Refused { detail }));
            return;
        }
        let (running, secrets) = (Arc::clone(&self.running), self.secrets.clone());
        self.running.lock().insert(attempt, Running::default());
        let call = self.caller.call("execute", vec![self.told.clone(), order], timeout, move |answer| {
            running.lock().remove(&attempt);
            done(result_of(answer, action, &secrets));
        });
        // gone if it has ended already
        if let Some(running) = self.running.lock().get_mut(&attempt) {
            if running.cancelled {
                call.cancel();
            }
            running.call = Some(call);
        }
    }

    fn cancel(&self, attempt: AttemptId) {
        if let Some(running) = self.running.lock().get_mut(&attempt) {
            running.cancelled = true;
            running.call.iter().for_each(PendingCall::cancel);
        }
    }
}

/// What a class answers to `execute`.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    read_back: Said,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    hosts: Option<Vec<String>>,
}

/// What a class may say that it read.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Off,
    On,
    Trusted,
    #[default]
    NotRead,
}

fn result_of(answer: Result<Value, CallError>, action: FenceAction, secrets: &[String]) -> DeviceResult {
    let clean = |text: &str| Arc::from(detail(text.as_bytes(), b"", secrets));
    let answer = match answer {
        Ok(value) => from_value::<Answer>(value).map_err(|error| format!("its answer is wrong: {error}")),
        Err(CallError::TimedOut(after)) => return DeviceResult::Failed(Failure::TimedOut { after }),
        Err(CallError::Cancelled) => return DeviceResult::Failed(Failure::Cancelled),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Err(text) => DeviceResult::Failed(Failure::Failed { detail: clean(&text) }),
        Ok(Answer { hosts: Some(hosts), .. }) if action == FenceAction::List => {
            DeviceResult::Hosts { hosts: hosts.iter().take(HOSTS_MAX).map(|host| clean(host)).collect() }
        }
        Ok(Answer { read_back, detail, .. }) => {
            let read_back = match read_back {
                Said::Off => ReadBack::Off,
                Said::On => ReadBack::On,
                Said::Trusted => ReadBack::Trusted,
                Said::NotRead => ReadBack::NotRead,
            };
            DeviceResult::Done { read_back, detail: clean(&detail) }
        }
    }
}
