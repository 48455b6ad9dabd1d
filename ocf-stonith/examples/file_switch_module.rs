//! A class of fence devices in a dynamic module: the switch of a test bench, whose outlets are files with the word on or off.
//! `cargo build -p ocf-stonith --features modules --example file_switch_module` makes `libfile_switch_module.so`; installed
//! as `FOLDER/fence-class/file_switch.so` it is loaded when a configuration has `class = "file_switch"`.
#![allow(missing_docs, reason = "what it exports is described by itself")]

use pils::Value;
use pils::codec::xmlrpc::Fault;
use pils::plugin::dynamic::Module;
use pils::plugin::dynamic::abi::Log;
use pils::plugin::{Callee, Description, Interface};
use std::fs;
use std::path::Path;

struct FileSwitch;

impl Module for FileSwitch {
    fn describe() -> Vec<Description> {
        vec![Description {
            plugin_type: "fence-class".into(),
            name: "file_switch".into(),
            version: "1.0".into(),
            interface: Interface { major: 1, minor: 0 },
            methods: ["about", "capabilities", "check", "execute"].map(str::to_owned).into(),
        }]
    }

    fn open(_plugin: &Description, _log: Log) -> Result<Box<dyn Callee>, Fault> {
        Ok(Box::new(Self))
    }
}

impl Callee for FileSwitch {
    fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Fault> {
        match (method, params) {
            ("about", []) => Ok("a switch whose outlets are files".into()),
            ("capabilities", [_]) => {
                let actions = ["off", "on", "status"].map(Value::from).to_vec();
                Ok(Value::from([("actions", Value::from(actions)), ("verifies_off", Value::from(true))]))
            }
            ("check", [device]) => Ok(Value::from(check(folder_of(device)))),
            ("execute", [device, order]) => execute(Path::new(folder_of(device)), order),
            _ => Err(Fault { code: Fault::INVALID_PARAMS, text: format!("{method} is called otherwise") }),
        }
    }
}

fn folder_of(device: &Value) -> &str {
    let folder = device.get("parameters").and_then(|parameters| parameters.get("folder"));
    folder.and_then(Value::as_text).unwrap_or_default()
}

fn check(folder: &str) -> Vec<Value> {
    if Path::new(folder).is_dir() {
        return Vec::new();
    }
    vec![Value::from([
        ("path", Value::from("parameters.folder")),
        ("value", Value::from(folder)),
        ("problem", Value::from("is no folder")),
        ("fix", Value::from("name the folder with a file for each outlet")),
    ])]
}

fn execute(folder: &Path, order: &Value) -> Result<Value, Fault> {
    let failed = |error: std::io::Error| Fault { code: 1, text: error.to_string() };
    let action = order.get("action").and_then(Value::as_text).unwrap_or_default();
    let node = order.get("node").and_then(Value::as_int).unwrap_or_default().to_string();
    let outlet = folder.join(order.get("plug").and_then(Value::as_text).unwrap_or(&node));
    // an outlet that is not there is not switched
    fs::metadata(&outlet).map_err(failed)?;
    if action != "status" {
        fs::write(&outlet, action).map_err(failed)?;
    }
    let state = fs::read_to_string(&outlet).map_err(failed)?;
    let detail = Value::from(outlet.display().to_string());
    Ok(Value::from([("read_back", Value::from(state.trim())), ("detail", detail)]))
}

pils::export_module!(FileSwitch);
