//! Plug-ins of two types in one universe: value codecs that come with this crate, and a class of fence devices that a
//! product brings. `cargo run -p pils --example plugins`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use pils::codec::{Binary, XmlRpc};
use pils::plugin::{PluginError, Source, Universe};
use pils::{Value, ValueCodec};
use std::sync::Arc;

/// What a product wants to choose by name.
trait FenceDevice: Send + Sync {
    fn power_off(&self, node: &str) -> Value;
}

struct Simulated;

impl FenceDevice for Simulated {
    fn power_off(&self, node: &str) -> Value {
        Value::from([("node", Value::from(node)), ("confirmed", true.into()), ("took_ms", 12.into())])
    }
}

const CODEC: &str = "value codec";
const CLASS: &str = "fence device class";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let universe = Universe::new();

    // a plug-in type must be introduced before its plug-ins
    let early = register_codecs(&universe).expect_err("nobody handles codecs yet");
    println!("too early:  {early}");
    universe.add_type::<dyn ValueCodec>(CODEC)?;
    register_codecs(&universe)?;

    // of a factory each user gets an instance of its own
    universe.add_type::<dyn FenceDevice>(CLASS)?;
    let simulated = || -> Arc<dyn FenceDevice> { Arc::new(Simulated) };
    universe.register(CLASS, "simulated", "0.1", Source::factory(simulated))?;

    let device = universe.get::<dyn FenceDevice>(CLASS, "simulated")?;
    let outcome = device.power_off("alpha");
    for info in universe.list(CODEC)? {
        let codec = universe.get::<dyn ValueCodec>(CODEC, &info.name)?;
        println!("{:<11} {}", info.name, codec.encode(&outcome)?.escape_ascii());
    }

    let missing = universe.get::<dyn FenceDevice>(CLASS, "ipmi").expect_err("it is not there");
    println!("missing:    {missing}");
    let in_use = universe.unregister(CLASS, "simulated").expect_err("we hold it");
    println!("in use:     {in_use}");
    drop(device);
    universe.unregister(CLASS, "simulated")?;

    for info in universe.types() {
        println!("type:       {} ({} plug-ins)", info.name, info.references);
    }
    Ok(())
}

fn register_codecs(universe: &Universe) -> Result<(), PluginError> {
    universe.register(CODEC, "binary", "1", Arc::new(Binary) as Arc<dyn ValueCodec>)?;
    universe.register(CODEC, "xml-rpc", "1", Arc::new(XmlRpc) as Arc<dyn ValueCodec>)
}
