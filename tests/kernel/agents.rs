//! Agents of the distribution that stand on the kernel, called as the executor calls them.

use crate::machine::sh;
use ocf_resource::driver::OcfClass;
use ocf_resource::{Action, AgentClass as _, Operation, OperationResult, ResourceAgent};
use pils::process::Runner;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(180);

/// A resource with its agent.
pub(crate) struct Resource {
    agent: Arc<dyn ResourceAgent>,
    operation: Operation,
}

impl Resource {
    /// `meta`: what a manager adds to the parameters.
    pub(crate) fn new(name: &str, agent: &str, parameters: &[(&str, &str)], meta: &[(&str, &str)]) -> Self {
        let place = Path::new("/run/promotion").join(name);
        fs::create_dir_all(&place).expect("a folder");
        let runner = Runner::new(4).expect("it can start programs");
        let class = OcfClass::new(runner).with_promotion(place).expect("scores can be heard");
        let map = |words: &[(&str, &str)]| -> Arc<BTreeMap<String, String>> {
            Arc::new(words.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let agent_name = agent.parse().expect("the name of an agent");
        let found = class.find(&agent_name).expect("it is installed");
        let (say, said) = mpsc::channel();
        let tell = Box::new(move |answer| say.send(answer).expect("somebody waits"));
        let _canceller = found.metadata(LONG, tell);
        let metadata = said.recv_timeout(LONG).expect("an answer").expect("it describes itself");
        metadata.check_parameters(&map(parameters)).expect("it knows its parameters");
        let operation = Operation {
            timeout: LONG,
            parameters: map(parameters),
            meta: map(meta),
            ..Operation::new(name, agent_name, Action::Monitor)
        };
        Self { agent: found, operation }
    }

    pub(crate) fn does(&self, action: Action) -> OperationResult {
        let (say, said) = mpsc::channel();
        let operation = Operation { action, ..self.operation.clone() };
        let _canceller =
            self.agent.begin(&operation, Box::new(move |result| say.send(result).expect("somebody waits")));
        said.recv_timeout(LONG * 2).expect("a result")
    }
}

/// Loads modules of the kernel.
pub(crate) fn load(modules: &str) {
    sh(&format!("modprobe -a {modules}"));
}
