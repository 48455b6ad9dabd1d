//! The world that the cluster manages: a service that runs on nodes, and a switch that cuts their power.

use core::time::Duration;
use ocf::NodeBuilder;
use ocf_resource::{
    Action, AgentClass, AgentError, AgentName, Canceller, Done, Metadata, MetadataDone, OcfCode, Operation,
    OperationResult, Outcome, ResourceAgent,
};
use ocf_stonith::driver::DeviceClass;
use ocf_stonith::{
    AttemptId, Capabilities, DeviceConfig, DeviceResult, FenceAction, FenceDevice, Operation as Fencing,
    ReadBack,
};
use parking_lot::Mutex;
use pils::process::Runner;
use pils::{ConfigErrors, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

/// How long the switch takes to cut the power and to read back that it is off.
const SWITCH: Duration = Duration::from_millis(150);

/// What really runs where, whatever the cluster believes.
#[derive(Debug, Default)]
pub(crate) struct World {
    running: Mutex<BTreeSet<NodeId>>,
    twice: Mutex<Vec<String>>,
}

impl World {
    /// Where the service runs.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.running.lock().iter().copied().collect()
    }

    /// Times at which it ran on two nodes.
    pub(crate) fn twice(&self) -> Vec<String> {
        self.twice.lock().clone()
    }

    fn start(&self, node: NodeId) {
        let mut running = self.running.lock();
        running.insert(node);
        if running.len() > 1 {
            self.twice.lock().push(format!("the service ran on {running:?} at the same time"));
        }
    }

    fn stop(&self, node: NodeId) {
        self.running.lock().remove(&node);
    }
}

/// Gives a node what only this program has: the agent of the service, and the power switch.
pub(crate) fn equip(world: &Arc<World>, node: NodeBuilder) -> NodeBuilder {
    let service = Service { node: node.node(), world: Arc::clone(world) };
    let switch = Switches(Arc::new(Switch(Arc::clone(world))));
    node.agent_class("demo", Arc::new(service)).fence_class(Arc::new(switch))
}

/// The agent of the service on one node, and the class that finds it.
#[derive(Clone, Debug)]
struct Service {
    node: NodeId,
    world: Arc<World>,
}

impl AgentClass for Service {
    fn find(&self, _agent: &AgentName) -> Result<Arc<dyn ResourceAgent>, AgentError> {
        Ok(Arc::new(self.clone()))
    }

    fn list(&self) -> Vec<AgentName> {
        Vec::new()
    }
}

impl ResourceAgent for Service {
    fn begin(&self, operation: &Operation, done: Done) -> Canceller {
        match operation.action {
            Action::Start => self.world.start(self.node),
            Action::Stop => self.world.stop(self.node),
            Action::Monitor | Action::ValidateAll | Action::MetaData | _ => {}
        }
        let runs = self.world.running.lock().contains(&self.node);
        let outcome = if runs || operation.action != Action::Monitor {
            Outcome::Ok
        } else {
            Outcome::Failed { code: OcfCode::NotRunning }
        };
        done(OperationResult::new(outcome));
        Canceller::nothing()
    }

    fn metadata(&self, _timeout: Duration, done: MetadataDone) -> Canceller {
        let xml = r#"<resource-agent name="service"><version>1.1</version></resource-agent>"#;
        done(Metadata::parse(xml).map_err(|error| AgentError::Metadata {
            agent: "demo:service".parse().expect("a good name"),
            detail: error.to_string(),
        }));
        Canceller::nothing()
    }
}

/// Makes the switch known to a node.
#[derive(Debug)]
struct Switches(Arc<Switch>);

impl DeviceClass for Switches {
    fn name(&self) -> &str {
        "switch"
    }

    fn describe(&self) -> &str {
        "a simulated power switch that reads back what it did"
    }

    fn check(&self, _device: &DeviceConfig, _errors: &mut ConfigErrors) {}

    fn open(&self, _device: &DeviceConfig, _runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        Ok(Arc::<Switch>::clone(&self.0))
    }
}

/// A power switch that takes its time and says what it read back.
#[derive(Debug)]
struct Switch(Arc<World>);

impl FenceDevice for Switch {
    fn capabilities(&self) -> Capabilities {
        Capabilities { actions: vec![FenceAction::Off, FenceAction::Status], verifies_off: true }
    }

    fn execute(&self, operation: Fencing, done: ocf_stonith::Done) {
        let world = Arc::clone(&self.0);
        thread::spawn(move || {
            thread::sleep(SWITCH);
            world.stop(operation.node); // no power, no service
            done(DeviceResult::Done { read_back: ReadBack::Off, detail: "outlet reads off".into() });
        });
    }

    fn cancel(&self, _attempt: AttemptId) {}
}
