//! The methods every dispatcher has. Source: XML-RPC introspection and multicall conventions.
use super::{Caller, Dispatcher, Method, Reply, Responder};
use parking_lot::Mutex;
use pils::Value;
use pils::codec::xmlrpc::{Call, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const MULTICALL: &str = "system.multicall";
const LIST: &str = "system.listMethods";
const SIGNATURE: &str = "system.methodSignature";
const HELP: &str = "system.methodHelp";
const CAPABILITIES: &str = "system.getCapabilities";

pub(super) fn methods() -> BTreeMap<&'static str, Method> {
    let all = [
        (LIST, "Names of the methods that the caller may call.", vec!["array"]),
        (
            SIGNATURE,
            "Signatures of a method: a list of lists, or undef if none is known.",
            vec!["array", "string"],
        ),
        (HELP, "What a method does, for people.", vec!["string", "string"]),
        (
            CAPABILITIES,
            "What this server can do, by name: where it is specified, and the version.",
            vec!["struct"],
        ),
        (
            MULTICALL,
            "Several calls in one: structs of methodName and params. Answers each with a list of its result, or a fault.",
            vec!["array", "array"],
        ),
    ];
    all.into_iter().map(|(name, help, kinds)| (name, Method::new(name).help(help).signature(kinds))).collect()
}

/// Answers one of the own methods, except the multicall.
pub(super) fn answer(dispatcher: &Dispatcher, caller: &Caller, method: &str, params: Vec<Value>) -> Reply {
    match (method, params.as_slice()) {
        (LIST, []) => {
            let all = dispatcher.inner.methods.values().map(|entry| &entry.method);
            let all = all.chain(dispatcher.inner.own.values());
            let allowed = all.filter(|method| dispatcher.permits(caller, method).is_ok());
            let mut names: Vec<&str> = allowed.map(Method::name).collect();
            names.sort_unstable();
            Ok(Value::List(names.into_iter().map(Value::from).collect()))
        }
        (SIGNATURE, [Value::Text(name)]) => {
            let signatures = &find(dispatcher, caller, name)?.signatures;
            let list =
                |kinds: &Vec<&'static str>| Value::List(kinds.iter().copied().map(Value::from).collect());
            if signatures.is_empty() {
                return Ok("undef".into());
            }
            Ok(Value::List(signatures.iter().map(list).collect()))
        }
        (HELP, [Value::Text(name)]) => Ok(find(dispatcher, caller, name)?.help.as_ref().into()),
        (CAPABILITIES, []) => Ok(capabilities()),
        (MULTICALL, _) => Err(Fault::new(Fault::INVALID_REQUEST, "a multicall within a multicall")),
        _ => Err(Fault::new(Fault::INVALID_PARAMS, format!("{method} takes other parameters"))),
    }
}

/// A method that the caller may know of.
fn find<'a>(dispatcher: &'a Dispatcher, caller: &Caller, name: &str) -> Result<&'a Method, Fault> {
    let inner = &dispatcher.inner;
    let method = inner.methods.get(name).map(|entry| &entry.method).or_else(|| inner.own.get(name));
    let method = method.filter(|method| dispatcher.permits(caller, method).is_ok());
    method.ok_or_else(|| Fault::new(Fault::METHOD_NOT_FOUND, format!("no method {name:?}")))
}

fn capabilities() -> Value {
    let entry = |url: &str, version: i32| {
        Value::from([("specUrl", Value::from(url)), ("specVersion", Value::from(version))])
    };
    Value::from([
        ("xmlrpc", entry("http://www.xmlrpc.com/spec", 1)),
        ("faults_interop", entry("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20_010_516)),
        ("introspection", entry("http://xmlrpc-c.sourceforge.net/introspection.html", 1)),
        ("system.multicall", entry("http://mirrors.talideon.com/articles/multicall.html", 1)),
        ("nil", entry("http://ontosys.com/xml-rpc/extensions.php", 1)),
    ])
}

/// The answers of a multicall as they come in; the last one answers the whole.
struct Gathering {
    results: Vec<Value>,
    missing: usize,
    responder: Option<Responder>,
}

pub(super) fn multicall(dispatcher: &Dispatcher, caller: &Caller, params: Vec<Value>, responder: Responder) {
    let wrong = |text: String| Err(Fault::new(Fault::INVALID_PARAMS, text));
    let Ok([Value::List(calls)]) = <[Value; 1]>::try_from(params) else {
        return responder.answer(wrong("expected one list of calls".to_owned()));
    };
    let limit = dispatcher.inner.limits.multicall_max;
    if calls.len() > limit {
        return responder.answer(wrong(format!("{} calls in one, at most {limit}", calls.len())));
    }
    if calls.is_empty() {
        return responder.answer(Ok(Value::List(Vec::new())));
    }
    let results = vec![Value::Nil; calls.len()];
    let gathering = Gathering { missing: calls.len(), results, responder: Some(responder) };
    let gathering = Arc::new(Mutex::new(gathering));
    for (i, call) in calls.into_iter().enumerate() {
        let gathering = Arc::clone(&gathering);
        let one = Responder::new(move |reply| {
            let mut all = gathering.lock();
            all.results[i] = match reply {
                Ok(value) => Value::List(vec![value]),
                Err(fault) => Value::from([
                    ("faultCode", Value::from(fault.code)),
                    ("faultString", Value::from(fault.text)),
                ]),
            };
            all.missing -= 1;
            let whole = (all.missing == 0).then(|| (all.responder.take(), core::mem::take(&mut all.results)));
            drop(all);
            if let Some((Some(responder), results)) = whole {
                responder.answer(Ok(Value::List(results)));
            }
        });
        match read_call(call) {
            Ok(call) => dispatcher.dispatch(caller, call, one, false),
            Err(fault) => one.answer(Err(fault)),
        }
    }
}

fn read_call(call: Value) -> Result<Call, Fault> {
    let wrong = || Fault::new(Fault::INVALID_PARAMS, "a call is a struct of methodName and params");
    let Value::Struct(mut members) = call else { return Err(wrong()) };
    match (members.remove("methodName"), members.remove("params")) {
        (Some(Value::Text(method)), Some(Value::List(params))) => Ok(Call { method, params }),
        (Some(Value::Text(method)), None) => Ok(Call { method, params: Vec::new() }),
        _ => Err(wrong()),
    }
}
