//! What the dispatcher promises to every transport: typed methods, faults, introspection, multicall, authorisation.

use ocf_comm::rpc::{
    Access, Builder, Call, Caller, Credentials, Dispatcher, Fault, Limits, Method, Policy, Reply, Responder,
};
use parking_lot::Mutex;
use pils::Value;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, mpsc};

#[derive(Serialize, Deserialize)]
struct Node {
    name: String,
    #[serde(default)]
    weight: i64,
}

fn builder() -> Builder {
    Dispatcher::builder()
        .method(
            Method::new("node.heavier").help("Adds to a weight.").signature(["struct", "struct", "int"]),
            |_: &Caller, (node, by): (Node, i64)| Ok(Node { weight: node.weight + by, ..node }),
        )
        .method(Method::new("node.stop").access(Access::Control), |_: &Caller, (): ()| Ok("stopped"))
        .method(Method::new("broken"), |_: &Caller, (): ()| -> Result<(), Fault> { panic!("on purpose") })
        .method(Method::new("count"), |_: &Caller, all: Vec<Value>| Ok(all.len()))
}

fn call(method: &str, params: impl IntoIterator<Item = Value>) -> Call {
    Call { method: method.to_owned(), params: params.into_iter().collect() }
}

fn now(dispatcher: &Dispatcher, caller: &Caller, call: Call) -> Reply {
    dispatcher.call_now(caller, call).expect("it answers at once")
}

fn local(uid: u32, gid: u32) -> Caller {
    Caller::Local { client: 1, name: String::new(), credentials: Credentials { pid: 1, uid, gid } }
}

fn code(reply: &Reply) -> Option<i32> {
    reply.as_ref().err().map(|fault| fault.code)
}

#[test]
fn typed_methods_ignore_unknown_members_and_default_missing_ones() {
    let dispatcher = builder().build();
    let newer = Value::from([("name", Value::from("a")), ("weight", 1.into()), ("colour", "red".into())]);
    let reply = now(&dispatcher, &Caller::Process, call("node.heavier", [newer, 2.into()])).unwrap();
    assert_eq!(reply, Value::from([("name", Value::from("a")), ("weight", 3.into())]));
    let older = Value::from([("name", Value::from("a"))]);
    let reply = now(&dispatcher, &Caller::Process, call("node.heavier", [older, 2.into()])).unwrap();
    assert_eq!(reply.get("weight"), Some(&Value::Int(2)));
}

#[test]
fn what_cannot_be_called_is_refused_with_the_code_that_says_why() {
    let dispatcher = builder().limits(Limits { params_max: 3, multicall_max: 2 }).build();
    let refused = |call| code(&now(&dispatcher, &Caller::Process, call));
    assert_eq!(refused(call("nothing", [])), Some(Fault::METHOD_NOT_FOUND));
    assert_eq!(refused(call("node.heavier", ["a".into()])), Some(Fault::INVALID_PARAMS));
    assert_eq!(refused(call("node.stop", [1.into()])), Some(Fault::INVALID_PARAMS));
    assert_eq!(refused(call("count", vec![Value::Nil; 4])), Some(Fault::INVALID_PARAMS));
    assert_eq!(refused(call("broken", [])), Some(Fault::INTERNAL));
    assert_eq!(refused(call("count", vec![Value::Nil; 3])), None);
    assert_eq!(refused(call("count", [])), None);
}

#[test]
fn introspection_describes_what_the_caller_may_call_and_nothing_else() {
    let dispatcher = builder().build();
    let list = |caller: &Caller| -> Vec<String> {
        let names = now(&dispatcher, caller, call("system.listMethods", [])).unwrap();
        names.as_list().unwrap().iter().map(|name| name.as_text().unwrap().to_owned()).collect()
    };
    let root = list(&local(0, 0));
    assert!(root.contains(&"node.stop".to_owned()) && root.contains(&"system.multicall".to_owned()));
    assert!(root.is_sorted());
    let user = list(&local(1000, 1000));
    assert!(!user.contains(&"node.stop".to_owned()) && user.contains(&"node.heavier".to_owned()));
    let ask = |what: &str, of: &str, caller: &Caller| now(&dispatcher, caller, call(what, [of.into()]));
    let signature = ask("system.methodSignature", "node.heavier", &Caller::Process).unwrap();
    assert_eq!(signature.to_string(), r#"[["struct", "struct", "int"]]"#);
    assert_eq!(ask("system.methodSignature", "count", &Caller::Process), Ok("undef".into()));
    assert_eq!(ask("system.methodHelp", "node.heavier", &Caller::Process), Ok("Adds to a weight.".into()));
    assert_eq!(
        code(&ask("system.methodHelp", "node.stop", &local(1000, 1000))),
        Some(Fault::METHOD_NOT_FOUND)
    );
    let capabilities = now(&dispatcher, &Caller::Process, call("system.getCapabilities", [])).unwrap();
    assert!(capabilities.get("xmlrpc").is_some() && capabilities.get("system.multicall").is_some());
}

#[test]
fn a_multicall_answers_each_call_in_its_place_even_those_that_answer_later() {
    let waiting: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let keep = Arc::clone(&waiting);
    let dispatcher = builder()
        .later(Method::new("slow"), move |_: &Caller, (): (), responder| keep.lock().push(responder))
        .build();
    let one = |method: &str, params: Vec<Value>| {
        Value::from([("methodName", Value::from(method)), ("params", Value::List(params))])
    };
    let calls = vec![
        one("slow", vec![]),
        one("count", vec![1.into()]),
        one("nothing", vec![]),
        one("broken", vec![]),
        one("system.multicall", vec![Value::List(vec![])]),
        Value::Nil,
        one("slow", vec![]),
    ];
    let (sender, answers) = mpsc::channel();
    let multicall = call("system.multicall", [Value::List(calls)]);
    dispatcher.call(&Caller::Process, multicall, Responder::new(move |reply| sender.send(reply).unwrap()));
    assert!(answers.try_recv().is_err(), "two calls have not answered");
    let mut waiting = std::mem::take(&mut *waiting.lock());
    waiting.pop().unwrap().answer(Ok("second".into()));
    assert!(answers.try_recv().is_err(), "one call has not answered");
    waiting.pop().unwrap().answer(Ok("first".into()));
    let results = answers.try_recv().unwrap().unwrap();
    let results = results.as_list().unwrap();
    let fault = |i: usize| results[i].get("faultCode").and_then(Value::as_int);
    assert_eq!(results[0].to_string(), r#"["first"]"#);
    assert_eq!(results[1].to_string(), "[1]");
    assert_eq!(fault(2), Some(Fault::METHOD_NOT_FOUND.into()));
    assert_eq!(fault(3), Some(Fault::INTERNAL.into()));
    assert_eq!(fault(4), Some(Fault::INVALID_REQUEST.into()));
    assert_eq!(fault(5), Some(Fault::INVALID_PARAMS.into()));
    assert_eq!(results[6].to_string(), r#"["second"]"#);
    assert!(answers.try_recv().is_err(), "one answer");
}

#[test]
fn who_may_call_what_follows_from_the_kind_of_caller() {
    let mut policy = Policy::default();
    policy.gids.insert(77, Access::Control);
    policy.local = None;
    policy.closed.insert("count".to_owned());
    policy.http_users.insert("admin".to_owned(), Access::Control);
    let dispatcher = builder().policy(policy).build();
    let refused = |caller: &Caller, method: &str| code(&now(&dispatcher, caller, call(method, [])));
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let http = |user: Option<&str>| Caller::Http { peer, user: user.map(str::to_owned) };
    for (caller, method, expected) in [
        (local(0, 0), "node.stop", None),
        (local(1, 77), "node.stop", None),
        (local(1, 1), "system.listMethods", Some(Fault::DENIED)),
        (http(None), "node.stop", Some(Fault::DENIED)),
        (http(Some("someone")), "node.stop", Some(Fault::DENIED)),
        (http(Some("admin")), "node.stop", None),
        (local(0, 0), "count", Some(Fault::DENIED)),
        (Caller::Process, "count", None),
    ] {
        assert_eq!(refused(&caller, method), expected, "{caller:?} {method}");
    }
    let closed = builder().authorise(|_, method| Err(Fault::new(-1, method.name()))).build();
    assert_eq!(code(&now(&closed, &Caller::Process, call("count", []))), Some(-1));
}
