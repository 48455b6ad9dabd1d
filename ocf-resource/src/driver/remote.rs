//! Agent classes that a module or a program brings: what is said to them, and what is made of their answers.

use super::process::cut;
use crate::{
    AGENT_CLASS, AgentClass, AgentError, AgentName, Agents, Canceller, Done, Metadata, MetadataDone, OcfCode,
    Operation, OperationResult, Outcome, ResourceAgent,
};
use core::time::Duration;
use pils::Value;
use pils::plugin::{CallError, Caller, Contract, Interface, Loader, PluginError, Remote};
use pils::value::from_value;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that are kept of a reason, and of the output.
const REASON_MAX: usize = 1024;
const OUTPUT_MAX: usize = 64 * 1024;

impl Agents {
    /// Introduces the plug-in type to the universe of `loader`. Knows no class yet; one that is asked for is loaded.
    ///
    /// # Errors
    /// [`PluginError::Duplicate`] if the universe has the type already.
    pub fn of(loader: &Loader) -> Result<Self, PluginError> {
        let contract = Contract::new(Interface { major: 1, minor: 0 }, ["list", "metadata", "run"]);
        let registry = loader.add_type(AGENT_CLASS, contract, class)?;
        Ok(Self::loaded_by(loader.clone(), registry))
    }
}

/// Makes a class of a plug-in.
fn class(remote: Arc<dyn Remote>) -> Arc<dyn AgentClass> {
    let class = remote.description().name.clone();
    let listed = remote.call("list", &[]).map_err(|error| error.to_string());
    let listed = listed.and_then(|v| from_value::<Vec<String>>(v).map_err(|error| error.to_string()));
    let agents = listed.unwrap_or_else(|error| {
        tracing::warn!(class, error, "an agent class does not list its agents, and has none");
        Vec::new()
    });
    let mut agents: Vec<AgentName> =
        agents.iter().filter_map(|name| format!("{class}:{name}").parse().ok()).collect();
    agents.sort();
    Arc::new(RemoteClass { agents, caller: Caller::new(remote) })
}

struct RemoteClass {
    agents: Vec<AgentName>,
    caller: Caller,
}

impl AgentClass for RemoteClass {
    fn find(&self, agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        if self.agents.contains(agent) {
            return Ok(Arc::new(RemoteAgent { name: agent.clone(), caller: self.caller.clone() }));
        }
        let looked_at = vec![format!("the plug-in {}", self.caller.remote().description().name).into()];
        Err(AgentError::AgentMissing { agent: agent.clone(), looked_at })
    }

    fn list(&self) -> Vec<AgentName> {
        self.agents.clone()
    }
}

struct RemoteAgent {
    name: AgentName,
    caller: Caller,
}

/// What a class answers to `run`.
#[derive(Deserialize)]
struct Answer {
    code: i32,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    output: String,
}

impl RemoteAgent {
    /// The name without the class.
    fn own_name(&self) -> Value {
        let name = self.name.name();
        Value::from(self.name.provider().map_or_else(|| name.to_owned(), |of| format!("{of}:{name}")))
    }
}

impl ResourceAgent for RemoteAgent {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        let begun = Instant::now();
        let params = vec![told_of(self.own_name(), operation)];
        let call = self.caller.call("run", params, operation.timeout, move |answer| {
            done(OperationResult { took: begun.elapsed(), ..result_of(answer) });
        });
        Canceller::new(move || call.cancel())
    }

    fn metadata(&self, timeout: Duration, done: MetadataDone) -> Canceller {
        let agent = self.name.clone();
        let call = self.caller.call("metadata", vec![self.own_name()], timeout, move |answer| {
            let text = answer.map_err(|error| error.to_string());
            let text = text.and_then(|v| from_value::<String>(v).map_err(|error| error.to_string()));
            let read = text.and_then(|text| Metadata::parse(&text).map_err(|error| error.to_string()));
            done(read.map_err(|detail| AgentError::Metadata { agent, detail }));
        });
        Canceller::new(move || call.cancel())
    }
}

/// What a class hears of an operation.
fn told_of(agent: Value, operation: &Operation) -> Value {
    let texts = |map: &BTreeMap<String, String>| {
        Value::Struct(map.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect())
    };
    let millis = |span: Duration| Value::from(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    let mut told = BTreeMap::from([
        ("agent".to_owned(), agent),
        ("resource".to_owned(), Value::from(&*operation.resource)),
        ("action".to_owned(), Value::from(operation.action.word())),
        ("parameters".to_owned(), texts(&operation.parameters)),
        ("meta".to_owned(), texts(&operation.meta)),
        ("timeout_ms".to_owned(), millis(operation.timeout)),
        ("check_level".to_owned(), Value::from(i64::from(operation.check_level))),
    ]);
    if let Some(interval) = operation.interval {
        told.insert("interval_ms".to_owned(), millis(interval));
    }
    if let Some(role) = operation.role {
        told.insert("role".to_owned(), Value::from(role.word()));
    }
    Value::Struct(told)
}

fn result_of(answer: Result<Value, CallError>) -> OperationResult {
    let answer = match answer {
        Ok(value) => from_value::<Answer>(value).map_err(|error| format!("its answer is wrong: {error}")),
        Err(CallError::TimedOut(_)) => return OperationResult::new(Outcome::TimedOut),
        Err(CallError::Cancelled) => return OperationResult::new(Outcome::Cancelled),
        Err(error) => Err(error.to_string()),
    };
    let kept = |text: &str, max| cut(text, max).to_owned();
    match answer {
        Ok(Answer { code, reason, output }) => {
            let outcome = if code == 0 { Outcome::Ok } else { Outcome::Failed { code: OcfCode::new(code) } };
            let reason = reason.filter(|reason| !reason.is_empty()).map(|reason| kept(&reason, REASON_MAX));
            OperationResult { reason, output: kept(&output, OUTPUT_MAX), ..OperationResult::new(outcome) }
        }
        Err(text) => {
            let reason = Some(kept(&text, REASON_MAX));
            OperationResult { reason, ..OperationResult::new(Outcome::Failed { code: OcfCode::Generic }) }
        }
    }
}
