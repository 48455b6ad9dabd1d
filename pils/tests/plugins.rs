//! Goal: a plug-in is found by type and name, is not lost while in use, and every mistake is named. Method: a universe with
//! two plug-in types and a handler of the test's own.

use pils::plugin::{HANDLERS, Plugin, PluginError, PluginHandler, PluginInfo, Registry, Source, Universe};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

trait Device: Send + Sync {
    fn serial(&self) -> u32;
}

struct Numbered(u32);

impl Device for Numbered {
    fn serial(&self) -> u32 {
        self.0
    }
}

fn device(serial: u32) -> Arc<dyn Device> {
    Arc::new(Numbered(serial))
}

const CLASS: &str = "fence device class";

fn universe() -> Universe {
    let universe = Universe::new();
    universe.add_type::<dyn Device>(CLASS).expect("it is new");
    universe.register(CLASS, "fence_agents", "1.2", device(1)).expect("it is new");
    universe.register(CLASS, "simulated", "0.1", device(2)).expect("it is new");
    universe
}

#[test]
fn a_missing_plug_in_is_reported_with_what_there_is() {
    let universe = universe();
    let error = universe.get::<dyn Device>(CLASS, "foo").unwrap_err().to_string();
    assert_eq!(error, "no fence device class \"foo\"; known: fence_agents, simulated");
    assert_eq!(universe.get::<dyn Device>(CLASS, "simulated").expect("it is there").serial(), 2);
    let empty: Registry<dyn Device> = Registry::new("medium");
    assert_eq!(empty.get("udp").unwrap_err().to_string(), "no medium \"udp\"; known: none");
}

#[test]
fn a_type_without_handler_is_an_error_that_lists_the_types() {
    let universe = universe();
    let error = universe.register("medium", "udp", "1", device(1)).unwrap_err().to_string();
    assert_eq!(
        error,
        "no handler for plug-ins of type \"medium\"; known types: PluginHandler, fence device class"
    );
    assert!(matches!(universe.list("medium"), Err(PluginError::NoHandler { .. })));
    assert!(matches!(universe.unregister(HANDLERS, "medium"), Err(PluginError::NoHandler { .. })));
}

#[test]
fn a_second_plug_in_of_one_name_is_refused() {
    let universe = universe();
    let error = universe.register(CLASS, "simulated", "9", device(9)).unwrap_err().to_string();
    assert_eq!(error, "fence device class \"simulated\" is registered already, version 0.1");
    assert_eq!(universe.get::<dyn Device>(CLASS, "simulated").expect("it is there").serial(), 2);
    assert!(matches!(universe.add_type::<dyn Device>(CLASS), Err(PluginError::Duplicate { .. })));
    assert!(matches!(universe.add_type::<dyn Device>(HANDLERS), Err(PluginError::Duplicate { .. })));
}

#[test]
fn names_are_one_plain_word() {
    let universe = universe();
    for name in ["", "a b", "a\n", &"x".repeat(65)] {
        let result = universe.register(CLASS, name, "1", device(1));
        assert!(matches!(result, Err(PluginError::BadName { .. })), "{name:?}");
    }
    assert!(matches!(universe.add_type::<dyn Device>(" x"), Err(PluginError::BadName { .. })));
}

#[test]
fn a_plug_in_in_use_cannot_be_unregistered() {
    let universe = universe();
    let held = universe.get::<dyn Device>(CLASS, "simulated").expect("it is there");
    let again = held.clone();
    let references = || universe.list(CLASS).expect("the type is known")[1].references;
    assert_eq!(references(), 2);
    drop(held);
    let error = universe.unregister(CLASS, "simulated").unwrap_err().to_string();
    assert_eq!(error, "fence device class \"simulated\" is in use, reference count 1");
    assert_eq!((again.name(), again.version(), again.serial()), ("simulated", "0.1", 2));
    drop(again);
    universe.unregister(CLASS, "simulated").expect("nobody holds it");
    assert!(matches!(universe.unregister(CLASS, "simulated"), Err(PluginError::Unknown { .. })));
}

#[test]
fn a_type_can_go_only_after_its_plug_ins() {
    let universe = universe();
    let in_use = universe.unregister(HANDLERS, CLASS).unwrap_err();
    assert!(matches!(in_use, PluginError::InUse { references: 2, .. }), "{in_use}");
    universe.unregister(CLASS, "simulated").expect("nobody holds it");
    universe.unregister(CLASS, "fence_agents").expect("nobody holds it");
    universe.unregister(HANDLERS, CLASS).expect("it is empty");
    assert_eq!(universe.types().len(), 1);
}

#[test]
fn the_handler_of_handlers_is_the_only_one_built_in_and_lists_itself() {
    let names = |universe: &Universe| {
        universe.types().into_iter().map(|t| (t.name, t.references)).collect::<Vec<_>>()
    };
    assert_eq!(names(&Universe::new()), [(HANDLERS.to_owned(), 0)]);
    let universe = universe();
    assert_eq!(names(&universe), [(HANDLERS.to_owned(), 1), (CLASS.to_owned(), 2)]);
    assert_eq!(universe.list(HANDLERS), Ok(universe.types()));
    assert!(matches!(universe.unregister(HANDLERS, HANDLERS), Err(PluginError::NoHandler { .. })));
}

#[test]
fn the_wrong_trait_for_a_type_is_refused() {
    let universe = universe();
    let error = universe.register::<str>(CLASS, "text", "1", Arc::from("x")).unwrap_err();
    assert!(matches!(error, PluginError::WrongTrait { .. }));
    let error = universe.get::<str>(CLASS, "simulated").unwrap_err();
    assert_eq!(error, PluginError::WrongTrait { plugin_type: CLASS.to_owned(), asked: "str" });
    assert_eq!(universe.list(CLASS).expect("the type is known")[1].references, 0);
}

#[test]
fn a_factory_makes_one_instance_for_each_who_asks() {
    let devices: Registry<dyn Device> = Registry::new("device");
    let count = AtomicU32::new(0);
    let make = move || device(count.fetch_add(1, Ordering::Relaxed));
    devices.register("counted", "1", Source::factory(make)).expect("it is new");
    let held: Vec<Plugin<dyn Device>> =
        (0..3).map(|_| devices.get("counted").expect("it is there")).collect();
    assert_eq!(held.iter().map(|d| d.serial()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(devices.inspect("counted").expect("it is there").references, 3);
    assert_eq!(held[0].clone().serial(), 0);
}

/// A handler that takes no plug-in of version 0.
struct Strict(Registry<dyn Device>);

impl PluginHandler for Strict {
    fn plugin_type(&self) -> &str {
        self.0.plugin_type()
    }

    fn register(&self, name: &str, version: &str, source: Box<dyn Any>) -> Result<(), PluginError> {
        if version.starts_with("0.") {
            return Err(PluginError::BadName {
                plugin_type: self.plugin_type().to_owned(),
                name: name.to_owned(),
            });
        }
        PluginHandler::register(&self.0, name, version, source)
    }

    fn unregister(&self, name: &str) -> Result<(), PluginError> {
        self.0.unregister(name)
    }

    fn get(&self, name: &str) -> Result<Box<dyn Any>, PluginError> {
        PluginHandler::get(&self.0, name)
    }

    fn list(&self) -> Vec<PluginInfo> {
        self.0.list()
    }
}

#[test]
fn a_handler_may_have_rules_of_its_own() {
    let universe = Universe::new();
    universe.add_handler(Arc::new(Strict(Registry::new("device"))), "1").expect("it is new");
    assert!(universe.register("device", "old", "0.9", device(1)).is_err());
    universe.register("device", "new", "1.0", device(1)).expect("it is new enough");
    assert_eq!(universe.get::<dyn Device>("device", "new").expect("it is there").serial(), 1);
}
