//! A dynamic module with two plug-ins, for the tests of the loader and as a model: `cargo build -p pils --features dynamic
//! --example counter_module` makes `libcounter_module.so`.
#![allow(missing_docs, reason = "what it exports is described by itself")]

use pils::Value;
use pils::codec::xmlrpc::Fault;
use pils::plugin::dynamic::Module;
use pils::plugin::dynamic::abi::Log;
use pils::plugin::{Callee, Description, Interface};

struct Counters;

fn description(name: &str, methods: &[&str]) -> Description {
    Description {
        plugin_type: "counter".into(),
        name: name.into(),
        version: "1.2".into(),
        interface: Interface { major: 1, minor: 0 },
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
    }
}

impl Module for Counters {
    fn describe() -> Vec<Description> {
        vec![description("up", &["next", "add", "fail", "panic"]), description("down", &["next", "add"])]
    }

    fn open(plugin: &Description, log: Log) -> Result<Box<dyn Callee>, Fault> {
        log.info("a counter is opened");
        Ok(Box::new(Counter { count: 0, step: if plugin.name == "up" { 1 } else { -1 } }))
    }
}

struct Counter {
    count: i64,
    step: i64,
}

impl Callee for Counter {
    fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Fault> {
        let fault = |code, text: &str| Err(Fault { code, text: text.to_owned() });
        match (method, params) {
            ("next", []) => self.count += self.step,
            ("add", [Value::Int(n)]) => self.count += self.step * n,
            ("next" | "add", _) => {
                return fault(Fault::INVALID_PARAMS, "add takes one integer, next nothing");
            }
            ("fail", _) => return fault(7, "it fails when it is told to"),
            ("panic", _) => panic!("it panics when it is told to"),
            ("hidden", _) => return Ok("nobody may see this".into()),
            _ => return fault(Fault::METHOD_NOT_FOUND, method),
        }
        Ok(self.count.into())
    }
}

pils::export_module!(Counters);
