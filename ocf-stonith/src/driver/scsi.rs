use super::tool::Tool;
use super::{AccessDevice, DeviceClass, classes};
use crate::{DeviceConfig, Failure, FenceDevice, Reservation, Reservations, ScsiFence};
use core::time::Duration;
use pils::process::{Exit, Runner};
use pils::{ConfigErrors, NodeId};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The program that sends the commands, if none is named.
const SG_PERSIST: &str = "/usr/bin/sg_persist";
/// Its exit status for: something happened to the disk or the way to it, and the command was not carried out.
const UNIT_ATTENTION: Exit = Exit::Code(6);
/// A disk says so once for each thing that happened, before it carries out the next command.
const UNIT_ATTENTIONS_MAX: u32 = 8;

/// The commands of persistent reservations on real disks, by the program `sg_persist` of `sg3_utils`.
///
/// Needs the right to send commands to the disks (root). An answer that is not understood as a whole is a failure.
#[derive(Clone, Debug)]
pub struct SgPersist {
    tool: Tool,
}

impl SgPersist {
    /// By this program, an absolute path. Each command may take `timeout`.
    pub fn new(program: impl Into<PathBuf>, runner: &Runner, timeout: Duration) -> Self {
        let words = [program.into().to_string_lossy().into_owned()];
        Self { tool: Tool::new(words, runner, timeout) }
    }

    /// Sends a command, again while the disk tells what happened before it.
    fn send(&self, disk: &str, words: &[&str]) -> Result<String, Failure> {
        let mut all = vec!["--no-inquiry"];
        all.extend(words);
        all.push(disk);
        let mut finished = self.tool.call(&all, String::new())?;
        for _ in 0..UNIT_ATTENTIONS_MAX {
            if finished.exit != UNIT_ATTENTION {
                break;
            }
            finished = self.tool.call(&all, String::new())?;
        }
        if finished.exit.success() {
            return Ok(String::from_utf8_lossy(&finished.stdout).into_owned());
        }
        let failure = self.tool.failure(&finished);
        if let Failure::Failed { detail } = failure {
            return Err(Failure::Failed { detail: format!("{disk}: {detail}").into() });
        }
        Err(failure)
    }

    /// What the disk answers to a question, after the header.
    fn ask(&self, disk: &str, question: &str) -> Result<Vec<u8>, Failure> {
        let said = self.send(disk, &["--in", question, "-HHH"])?;
        answer(&said).ok_or_else(|| Failure::Failed {
            detail: format!("{disk}: an answer that is not understood: {said:.200}").into(),
        })
    }

    fn order(&self, disk: &str, words: &[String]) -> Result<(), Failure> {
        let mut all = vec!["--out"];
        all.extend(words.iter().map(String::as_str));
        self.send(disk, &all).map(drop)
    }
}

/// The data of an answer in hexadecimal: four bytes that count changes, four that say how many bytes follow, and those.
fn answer(said: &str) -> Option<Vec<u8>> {
    let byte = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
    let bytes: Vec<u8> = said.split_whitespace().map(byte).collect::<Option<_>>()?;
    let (header, rest) = bytes.split_first_chunk::<8>()?;
    let length = u32::from_be_bytes(*header.last_chunk::<4>()?);
    (rest.len() == usize::try_from(length).ok()?).then(|| rest.to_vec())
}

/// The keys in the answer to READ KEYS. Source: SPC-4, section 6.15.2.
fn keys(data: &[u8]) -> Option<Vec<u64>> {
    let (keys, rest) = data.as_chunks::<8>();
    rest.is_empty().then(|| keys.iter().map(|key| u64::from_be_bytes(*key)).collect())
}

/// What the answer to READ RESERVATION says: the key, five bytes of no meaning, scope and type. Source: SPC-4, section 6.15.3.
fn reservation(data: &[u8]) -> Option<Option<Reservation>> {
    if data.is_empty() {
        return Some(None);
    }
    let key = u64::from_be_bytes(*data.first_chunk::<8>()?);
    Some(Some(Reservation { key, kind: data.get(13)? & 0x0f }))
}

fn not_understood(disk: &str) -> Failure {
    Failure::Failed { detail: format!("{disk}: the answer has a form that is not known").into() }
}

impl Reservations for SgPersist {
    fn keys(&self, disk: &str) -> Result<Vec<u64>, Failure> {
        keys(&self.ask(disk, "--read-keys")?).ok_or_else(|| not_understood(disk))
    }

    fn reservation(&self, disk: &str) -> Result<Option<Reservation>, Failure> {
        reservation(&self.ask(disk, "--read-reservation")?).ok_or_else(|| not_understood(disk))
    }

    fn register(&self, disk: &str, key: u64) -> Result<(), Failure> {
        self.order(disk, &["--register-ignore".into(), format!("--param-sark={key:x}")])
    }

    fn reserve(&self, disk: &str, key: u64, kind: u8) -> Result<(), Failure> {
        self.order(disk, &["--reserve".into(), format!("--param-rk={key:x}"), format!("--prout-type={kind}")])
    }

    fn preempt_and_abort(&self, disk: &str, own: u64, victim: u64) -> Result<(), Failure> {
        let kind = crate::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
        self.order(
            disk,
            &[
                "--preempt-abort".into(),
                format!("--param-rk={own:x}"),
                format!("--param-sark={victim:x}"),
                format!("--prout-type={kind}"),
            ],
        )
    }
}

/// The class `scsi`: nodes lose their right to write to shared disks, and get it back before they run anything ([`ScsiFence`] on
/// [`SgPersist`]).
///
/// A node's `plug` is the name of its machine, as `uname -n` has it: so each finds itself in a configuration that is the same
/// everywhere. `disks` are absolute paths with spaces between them, such as those in `/dev/disk/by-id`; `cluster` is a number other
/// than 0, decimal or `0x` and hexadecimal, that no other cluster on these disks has. `program` is `sg_persist` as an absolute path.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScsiClass;

impl DeviceClass for ScsiClass {
    fn name(&self) -> &str {
        "scsi"
    }

    fn describe(&self) -> &str {
        "takes a node its right to write to shared disks, by persistent reservations"
    }

    fn check(&self, device: &DeviceConfig, errors: &mut ConfigErrors) {
        classes::refuse_others(device, &["disks", "cluster", "program"], errors);
        let program = program(device);
        if !Path::new(program).is_absolute() {
            let fix = format!("give the program as an absolute path, such as {SG_PERSIST}");
            errors.push("parameters.program", program, "is not an absolute path", fix);
        } else if !Path::new(program).is_file() {
            errors.push("parameters.program", program, "is not there", "install it (package sg3-utils)");
        }
        let named = device.parameters.get("disks").unwrap_or_default();
        if named.split_ascii_whitespace().next().is_none() {
            errors.push(
                "parameters.disks",
                named,
                "names no disk",
                "name the shared disks, with spaces between",
            );
        }
        for disk in named.split_ascii_whitespace().filter(|disk| !Path::new(disk).is_absolute()) {
            let fix = "give the absolute path of the disk, such as one in /dev/disk/by-id";
            errors.push("parameters.disks", disk, "is not an absolute path", fix);
        }
        if cluster(device).is_none() {
            let given = device.parameters.get("cluster").unwrap_or_default();
            let fix = "give a number of 32 bits other than 0 that no other cluster on these disks has";
            errors.push("parameters.cluster", given, "names no cluster", fix);
        }
        if !device.unfence {
            let fix = "write unfence = true, so that a node may write before it runs anything";
            errors.push("unfence", "false", "no node would ever be given the right to write", fix);
        }
        if let Err(own) = local(device) {
            let fix = "list every node, each with what uname -n says there as its plug";
            errors.push("nodes", own, "is this machine, and the plug of no node", fix);
        }
    }

    fn open(&self, device: &DeviceConfig, runner: &Runner) -> Result<Arc<dyn FenceDevice>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let (Ok(local), Some(cluster)) = (local(device), cluster(device)) else {
            self.check(device, &mut errors);
            return Err(errors);
        };
        let commands = SgPersist::new(program(device), runner, device.timeout());
        let disks = device.parameters.get("disks").unwrap_or_default().split_ascii_whitespace();
        let fence = ScsiFence::new(commands, disks.map(Arc::from), local, cluster);
        Ok(Arc::new(AccessDevice::new(fence)))
    }
}

fn program(device: &DeviceConfig) -> &str {
    device.parameters.get("program").unwrap_or(SG_PERSIST)
}

fn cluster(device: &DeviceConfig) -> Option<u32> {
    let text = device.parameters.get("cluster")?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().filter(|number| *number != 0)
}

/// The node that has the name of this machine, or that name if none has.
fn local(device: &DeviceConfig) -> Result<NodeId, String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let own = device.listed().iter().find(|target| target.plug.as_deref() == Some(name));
    own.map(|target| target.node).ok_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn what_a_disk_answers_is_understood_as_a_whole_or_not_at_all() {
        let two = "00 00 00 02  00 00 00 10 00 00 1a 2b 00 00 00 01\n00 00 1a 2b 00 00 00 02\n";
        assert_eq!(keys(&answer(two).expect("whole")), Some(vec![0x1a2b_0000_0001, 0x1a2b_0000_0002]));
        assert_eq!(answer("00 00 00 00 00 00 00 00").map(|data| keys(&data)), Some(Some(vec![])));
        assert_eq!(reservation(&[]), Some(None));
        let held = "00 00 00 02 00 00 00 10 00 00 1a 2b 00 00 00 01 00 00 00 00 00 05 00 00";
        let wanted = Reservation { key: 0x1a2b_0000_0001, kind: 5 };
        assert_eq!(reservation(&answer(held).expect("whole")), Some(Some(wanted)));
        for cut in ["", "00 00 00 02", "00 00 00 02 00 00 00 10 00", "PR generation=0x2", "+1 0"] {
            assert_eq!(answer(cut), None, "{cut}");
        }
        assert_eq!((keys(&[0; 9]), reservation(&[0; 9])), (None, None));
    }

    #[test]
    fn every_mistake_is_told_with_what_to_do() {
        let config: Config = toml::from_str(
            r#"
            [[devices]]
            name = "disks"
            class = "scsi"
            nodes = [{ node = 1, plug = "no machine is called so" }, { node = 2 }]
            parameters = { program = "sg_persist", disks = "/dev/a b", cluster = "0", disk = "c" }
            "#,
        )
        .expect("well-formed");
        let mut errors = ConfigErrors::default();
        ScsiClass.check(&config.devices[0], &mut errors);
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        let wrong = [
            "parameters.disk",
            "parameters.program",
            "parameters.disks",
            "parameters.cluster",
            "unfence",
            "nodes",
        ];
        assert_eq!(paths, wrong);
        assert!(errors.0.iter().all(|e| !e.fix.is_empty()));
    }
}
