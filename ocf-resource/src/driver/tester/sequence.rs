//! The sequence itself. Source: OCF resource agent API 1.1, section 3, and the order in which Debian's `ocf-tester` tries it.

use super::{How, Run, Stop, Weight, number};
use crate::{Action, Metadata, OperationResult, Outcome};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const OK: &[i32] = &[0];
const STOPPED: &[i32] = &[7];

impl Run {
    pub(super) fn sequence(&mut self) -> Result<(), Stop> {
        self.permissions();
        self.described()?;
        self.parameters();
        match self.expect("validate-all accepts the parameters", Action::ValidateAll, How::Usual, OK) {
            0 | 3 => {}
            _ => return Err(Stop("validate-all refuses the parameters".to_owned())),
        }
        self.clean()?;
        self.expect("monitor of a stopped resource", Action::Monitor, How::Usual, STOPPED);
        let step = "probe of a stopped resource with all binaries missing";
        self.expect(step, Action::Monitor, How::Bare, &[7, 5]);
        self.must("start", Action::Start, OK)?;
        let result = self.started();
        if result.is_err() {
            self.call(&self.operation(Action::Stop, How::Usual), How::Usual);
        }
        result
    }

    /// The resource runs; at the end it is stopped.
    fn started(&mut self) -> Result<(), Stop> {
        self.expect("monitor of a started resource", Action::Monitor, How::Usual, OK);
        self.expect("probe of a started resource", Action::Monitor, How::Probe, OK);
        let code = self.optional(Action::Notify);
        if code != 3 {
            self.expect("notify cannot fail", Action::Notify, How::Usual, OK);
        }
        self.roles()?;
        self.must("stop", Action::Stop, OK)?;
        self.expect("monitor after stop", Action::Monitor, How::Usual, STOPPED);
        self.must("second start", Action::Start, OK)?;
        self.expect("monitor after the second start", Action::Monitor, How::Usual, OK);
        self.expect("start of a started resource", Action::Start, How::Usual, OK);
        self.expect("monitor after starting twice", Action::Monitor, How::Usual, OK);
        self.must("stop after starting twice", Action::Stop, OK)?;
        self.expect("monitor after that stop", Action::Monitor, How::Usual, STOPPED);
        self.expect("stop of a stopped resource", Action::Stop, How::Usual, OK);
        self.expect("monitor at the end", Action::Monitor, How::Usual, STOPPED);
        for action in [Action::MigrateTo, Action::MigrateFrom, Action::Reload, Action::ReloadAgent] {
            self.optional(action);
        }
        self.promised();
        // Some agents start what they reload, or take over what was never handed over.
        self.call(&self.operation(Action::Stop, How::Usual), How::Usual);
        Ok(())
    }

    fn permissions(&mut self) {
        let mode = std::fs::metadata(&self.tester.path).map_or(0, |m| m.permissions().mode() & 0o777);
        let passed = mode & 0o555 == 0o555;
        let found = format!("mode {mode:03o}");
        self.push("everybody may run it", None, ("mode 755", found, passed), Weight::Rule);
    }

    fn described(&mut self) -> Result<(), Stop> {
        let (say, said) = mpsc::channel();
        let limit = Duration::from_secs(30);
        let _canceller =
            self.agent.metadata(limit, Box::new(move |result| say.send(result).unwrap_or_default()));
        let step = "meta-data can be read";
        let wanted = "XML with name, version and actions";
        match said.recv_timeout(Duration::from_secs(90)) {
            Ok(Ok(metadata)) => {
                self.push(step, Some(Action::MetaData), (wanted, "it".to_owned(), true), Weight::Rule);
                self.complete(&metadata);
                self.metadata = Some(metadata);
            }
            Ok(Err(error)) => {
                let found = error.to_string();
                self.push(step, Some(Action::MetaData), (wanted, found, false), Weight::Rule);
            }
            Err(_silent) => return Err(Stop("meta-data does not end".to_owned())),
        }
        self.expect("meta-data with all binaries missing", Action::MetaData, How::Bare, OK);
        Ok(())
    }

    /// What a description must and should have.
    fn complete(&mut self, metadata: &Metadata) {
        let missing: Vec<&str> =
            ["start", "stop", "monitor", "meta-data"].into_iter().filter(|a| !metadata.supports(a)).collect();
        let step = "meta-data lists the actions that every agent has";
        let found = format!("without {}", missing.join(", "));
        self.push(step, None, ("start, stop, monitor, meta-data", found, missing.is_empty()), Weight::Rule);
        let known = matches!(metadata.api_version.as_deref(), Some("1.0" | "1.1"));
        let found = metadata.api_version.clone().unwrap_or_else(|| "none".to_owned());
        self.push("meta-data names the version of OCF", None, ("1.0 or 1.1", found, known), Weight::Advice);
        let bare = metadata.actions.iter().filter(|a| a.timeout.is_none()).count();
        let found = format!("{bare} actions without");
        self.push("every action has a timeout", None, ("a timeout each", found, bare == 0), Weight::Advice);
        let mute = metadata.parameters.iter().filter(|p| p.summary.is_empty()).count();
        let found = format!("{mute} parameters without");
        self.push(
            "every parameter is described",
            None,
            ("a description each", found, mute == 0),
            Weight::Advice,
        );
        let file = self.tester.path.file_name().map(|n| n.to_string_lossy().into_owned());
        let same = file.as_deref() == Some(metadata.name.as_str());
        self.push(
            "its name is that of its file",
            None,
            ("the same", metadata.name.clone(), same),
            Weight::Advice,
        );
    }

    /// The parameters that are used, and one that nobody has.
    fn parameters(&mut self) {
        let Some(metadata) = &self.metadata else { return };
        let found = metadata.check_parameters(&self.tester.parameters);
        let (passed, found) = (found.is_ok(), found.err().map_or_else(String::new, |e| e.to_string()));
        self.push("the parameters fit the meta-data", None, ("no mistake", found, passed), Weight::Advice);
    }

    /// Brings the resource down, whatever it does now.
    fn clean(&mut self) -> Result<(), Stop> {
        let operation = self.operation(Action::Monitor, How::Usual);
        let result = self.call(&operation, How::Usual);
        match number(&result) {
            3 => Err(self.refuse("monitor", &result)),
            7 => Ok(()),
            8 => {
                self.must("demote of what runs promoted at first", Action::Demote, OK)?;
                self.must("stop of what runs promoted at first", Action::Stop, OK)
            }
            _ => self.must("stop of what runs at first", Action::Stop, OK),
        }
    }

    fn refuse(&mut self, action: &str, result: &OperationResult) -> Stop {
        let step = format!("{action} is supported");
        self.note(&step, Some(Action::Monitor), ("a state", false, Weight::Rule), result);
        Stop(format!("the agent has no {action}"))
    }

    fn roles(&mut self) -> Result<(), Stop> {
        let demote = self.optional(Action::Demote) != 3;
        let promote = self.optional(Action::Promote) != 3;
        if promote != demote {
            let found = format!("only {}", if promote { "promote" } else { "demote" });
            self.push("promote and demote, both or none", None, ("both or none", found, false), Weight::Rule);
            return Ok(());
        }
        if !promote {
            return Ok(());
        }
        self.expect("demote", Action::Demote, How::Usual, OK);
        self.expect("promote", Action::Promote, How::Usual, OK);
        self.advise_role("monitor of a promoted resource", &[8, 191]);
        self.must("demote of a promoted resource", Action::Demote, OK)?;
        self.expect("demote of a demoted resource", Action::Demote, How::Usual, OK);
        self.advise_role("monitor of a demoted resource", &[0, 190]);
        self.must("second promote", Action::Promote, OK)?;
        self.expect("promote of a promoted resource", Action::Promote, How::Usual, OK);
        self.must("last demote", Action::Demote, OK)
    }

    fn advise_role(&mut self, step: &str, codes: &[i32]) {
        let result = self.call(&self.operation(Action::Monitor, How::Usual), How::Usual);
        let passed = codes.contains(&number(&result));
        let wanted = if codes[0] == 0 { "success (0)" } else { "running promoted (8)" };
        self.note(step, Some(Action::Monitor), (wanted, passed, Weight::Advice), &result);
    }

    /// Actions that are advertised are there, and an action that nobody knows is refused with the right code.
    fn promised(&mut self) {
        let Some(metadata) = self.metadata.clone() else { return };
        let optional =
            [Action::MigrateTo, Action::MigrateFrom, Action::Reload, Action::ReloadAgent, Action::Notify];
        let missing: Vec<&str> = optional
            .into_iter()
            .filter(|a| metadata.supports(a.word()) && !self.verdict.optional.contains(a))
            .map(Action::word)
            .collect();
        let found = if missing.is_empty() { "all".to_owned() } else { format!("not {}", missing.join(", ")) };
        let passed = missing.is_empty();
        self.push("what meta-data promises is there", None, ("all", found, passed), Weight::Advice);
        let mut wrong = self.operation(Action::ValidateAll, How::Usual);
        let mut parameters = self.tester.parameters.clone();
        let required: Vec<String> =
            metadata.parameters.iter().filter(|p| p.required).map(|p| p.name.clone()).collect();
        if required.is_empty() {
            return;
        }
        parameters.retain(|name, _| !required.contains(name));
        wrong.parameters = Arc::new(parameters);
        let result = self.call(&wrong, How::Usual);
        let refused = !matches!(result.outcome, Outcome::Ok);
        let step = "validate-all without the required parameters";
        self.note(step, Some(Action::ValidateAll), ("a refusal", refused, Weight::Advice), &result);
    }
}
