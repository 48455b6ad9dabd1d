//! The agent for addresses, in a network of its own: neighbours that knew another node send to this one.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(
    clippy::disallowed_methods,
    reason = "the inner test is told apart by its environment, and looks are repeated"
)]

use ocf_resource::driver::{Address, InProcess as _};
use ocf_resource::{Action, OcfCode, Operation};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Set in the process that has a network of its own.
const INSIDE: &str = "OCF_TEST_INSIDE";

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn act(action: Action, parameters: &[(&str, &str)]) -> Result<String, (OcfCode, String)> {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let operation = Operation::new("service-ip", "rust:address".parse().unwrap(), action);
    Address.operate(&Operation { parameters: Arc::new(parameters), ..operation })
}

#[test]
fn wrong_parameters_are_named() {
    let wrong = |parameters: &[(&str, &str)]| act(Action::ValidateAll, parameters).unwrap_err();
    assert_eq!(wrong(&[]), (OcfCode::Configured, "parameter ip is missing".to_owned()));
    assert_eq!(wrong(&[("ip", "192.0.2")]).1, "parameter ip is no address");
    assert_eq!(wrong(&[("ip", "192.0.2.1"), ("prefix", "33")]).1, "parameter prefix is no number of bits");
    let nowhere = wrong(&[("ip", "192.0.2.1"), ("interface", "none-such")]);
    assert_eq!(nowhere, (OcfCode::Arguments, "this node has no interface none-such".to_owned()));
    assert!(wrong(&[("ip", "192.0.2.1"), ("announcements", "1000")]).1.contains("announcements"));
}

/// Runs a test of this program again, in new namespaces of networks and mounts that end with it.
fn in_a_network_of_its_own(test: &str) {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until what `ip` shows has this word.
fn wait_for(show: &str, word: &str) {
    let until = Instant::now() + Duration::from_secs(60);
    while !ip(show).contains(word) {
        assert!(Instant::now() < until, "{show}: {}", ip(show));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_address_finds_its_interface_and_neighbours_send_here_at_once() {
    const NAME: &str = "an_address_finds_its_interface_and_neighbours_send_here_at_once";
    if std::env::var_os(INSIDE).is_none() {
        return in_a_network_of_its_own(NAME);
    }
    let (here, there, other) = ("02:00:00:00:00:11", "02:00:00:00:00:12", "02:00:00:00:00:99");
    // Names in /run/netns are this mount namespace's own.
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]).status().unwrap();
    assert!(mounted.success());
    let peer = format!("ocf-address-{}", std::process::id());
    ip(&format!("netns add {peer}"));
    ip(&format!("link add va address {here} type veth peer name vb address {there} netns {peer}"));
    ip("link set lo up");
    ip("address add 198.51.100.1/24 dev lo");
    ip("address add 192.0.2.1/24 dev va");
    ip("-6 address add 2001:db8::1/64 dev va nodad");
    ip("link set va up");
    ip(&format!("-n {peer} address add 192.0.2.2/24 dev vb"));
    ip(&format!("-n {peer} -6 address add 2001:db8::2/64 dev vb nodad"));
    ip(&format!("-n {peer} link set vb up"));
    // What is sent before the kernel has seen both ends come up is dropped.
    wait_for("link show va", "state UP");
    wait_for(&format!("-n {peer} link show vb"), "state UP");

    for (address, family, network) in [("192.0.2.100", "-4", "24"), ("2001:db8::100", "-6", "64")] {
        let wanted = [("ip", address)];
        let neighbour = format!("{family} -n {peer} neighbour show {address}");
        // The neighbour believes that another node has it.
        ip(&format!("{family} -n {peer} neighbour replace {address} lladdr {other} nud stale dev vb"));
        assert!(ip(&neighbour).contains(other));
        assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
        let found = format!("{address}/{network} on va");
        assert_eq!(act(Action::ValidateAll, &wanted), Ok(found.clone()));
        assert_eq!(act(Action::Start, &wanted), Ok(found.clone()));
        assert_eq!(act(Action::Start, &wanted), Ok(found.clone()), "started twice");
        assert_eq!(act(Action::Monitor, &wanted), Ok(found));
        let shown = ip(&format!("{family} address show dev va"));
        let line = shown.lines().find(|line| line.contains(&format!("{address}/{network}")));
        assert!(line.is_some_and(|line| !line.contains("tentative")), "{shown}");
        wait_for(&neighbour, here);
        assert_eq!(act(Action::Stop, &wanted), Ok(String::new()));
        assert_eq!(act(Action::Stop, &wanted), Ok(String::new()), "stopped twice");
        assert_eq!(act(Action::Monitor, &wanted).unwrap_err().0, OcfCode::NotRunning);
        assert!(!ip(&format!("{family} address show dev va")).contains(address));
    }
    // Nothing tells where this one belongs, so somebody has to.
    let foreign = [("ip", "203.0.113.5")];
    assert_eq!(act(Action::Start, &foreign).unwrap_err().0, OcfCode::Arguments);
    let named = [("ip", "203.0.113.5"), ("interface", "va"), ("prefix", "28"), ("announcements", "0")];
    assert_eq!(act(Action::Start, &named), Ok("203.0.113.5/28 on va".to_owned()));
    assert!(ip("address show dev va").contains("203.0.113.5/28 brd 203.0.113.15"));
    assert_eq!(act(Action::Stop, &named), Ok(String::new()));
    // An address that went with its interface is not here, and that is no failure.
    ip("link delete va");
    assert_eq!(act(Action::Monitor, &named).unwrap_err().0, OcfCode::NotRunning);
    assert!(act(Action::Stop, &named).is_ok());
}
