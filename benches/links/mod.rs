//! Measurements that need a network of their own: this program runs itself once more in a fresh network namespace, where
//! `tc` and `nft` do to the loopback interface what a network does.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the program inside tells the one outside what it measured"
)]
#![allow(unreachable_pub, reason = "a bench is a crate without users")]

pub mod cut;
pub mod idle;
pub mod keys;
pub mod lossy;

use crate::support::circuit::{ENCRYPTED, SMALL, Sink, stream_into};
use crate::support::{Goal, Options, Report, Samples, machine, reference};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

const INSIDE: &str = "OCF_BENCH_INSIDE";

/// What can be chosen with `--only`: everything here, or a part of it.
pub const NAMES: [&str; 6] = ["links", "lossy", "cut", "shaped", "idle", "keys"];

/// What runs in a namespace, by its name.
type Part = (&'static str, fn() -> Result<Vec<f64>, String>);

const PARTS: [Part; 3] = [("cut", cut::inside), ("lossy", lossy::inside), ("shaped", shaped)];

/// Runs the part that this program was started for in a namespace. `None` if it was started by a person.
pub fn inside() -> Option<ExitCode> {
    let name = std::env::var(INSIDE).ok()?;
    let part = PARTS.iter().find(|(known, _)| *known == name).expect("a part of this program");
    match sh("ip link set lo up").and_then(|()| part.1()) {
        Ok(values) => {
            values.iter().for_each(|value| println!("{value}"));
            Some(ExitCode::SUCCESS)
        }
        Err(why) => {
            eprintln!("{name}: {why}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Runs a part in a namespace: what it measured.
///
/// # Errors
/// Why it cannot be measured on this machine.
fn measure(part: &str) -> Result<Vec<f64>, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("namespaces need root".to_owned());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut program = Command::new("unshare");
    program.arg("--net").arg(own).env(INSIDE, part).stderr(Stdio::inherit());
    let output = program.output().map_err(|error| format!("unshare: {error}"))?;
    if !output.status.success() {
        return Err(format!("it failed in its namespace: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_error| format!("{word:?} is no figure")))
        .collect()
}

/// Runs a line of shell in the namespace of this program.
fn sh(line: &str) -> Result<(), String> {
    match Command::new("sh").args(["-c", line]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{line}: {status}")),
        Err(error) => Err(format!("{line}: {error}")),
    }
}

/// Megabytes per second that 1 Gb/s carries in UDP datagrams of 1472 bytes, as the shaper counts: with 14 bytes of Ethernet
/// header, 20 of IP and 8 of UDP.
const WIRE: f64 = 125.0 * 1472.0 / 1514.0;

/// Bytes of one measurement on the shaped link: two seconds of it. What its token bucket saves up is a thousandth of that.
const SHAPED: usize = 240_000_000;

/// Goodput, encrypted, over an interface that lets 1 Gb/s pass. From the first arrival on: a measurement that began later, while
/// the receiver was behind, counted what waited in its socket as if the link had carried it in that time.
fn shaped() -> Result<Vec<f64>, String> {
    sh("ip link set lo mtu 1500 && tc qdisc add dev lo root tbf rate 1gbit burst 130kb limit 1mb")?;
    let rate = |_| stream_into(crate::KIB, ENCRYPTED, |report| Sink::from_the_first(SHAPED, report));
    Ok((0..3).map(rate).collect())
}

/// What is here, or one part of it, and nothing else.
pub fn alone(options: Options) {
    let mut report = Report::default();
    let ping = || machine::on_one(|| reference::udp_ping_pong(SMALL, options.count(10_000)).median());
    report.judge_machine("U1", &Samples::new((0..5).map(|_| ping()).collect()));
    self::report(options, &mut report);
    report.print(options);
}

/// What is here, as far as it is wanted, into the report.
pub fn report(options: Options, report: &mut Report) {
    let wants = |part| options.only.is_none_or(|only| only == "links" || only == part);
    if wants("lossy") {
        lossy::report(report);
    }
    if wants("cut") {
        cut::report(report);
    }
    if wants("shaped") {
        report_shaped(report);
    }
    if wants("idle") {
        idle::report(options.time(Duration::from_secs(5)), report);
    }
    if wants("keys") {
        keys::report(options, report);
    }
}

fn report_shaped(report: &mut Report) {
    let at_least = Some(Goal::AtLeast(0.93));
    let what = "goodput 1 KiB, encrypted, shaped to 1 Gb/s";
    match measure("shaped") {
        Ok(rates) => {
            let rate = Samples::new(rates).median();
            report.figure(("C-7", what), (rate, "MB/s"), Some(("wire payload", WIRE)), at_least);
        }
        Err(why) => report.missing(("C-7", what), "MB/s", at_least, &why),
    }
}
