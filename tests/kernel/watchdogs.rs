//! Watchdogs of the kernel, by a driver that is a timer and by one of a (virtual) chip.

use crate::machine::{sh, until_it_is_reset};
use ocf_stonith::driver::{KernelWatchdog, Watchdog as _};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The shortest time with which each is tried.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Loads a driver, and has the watchdog of this driver.
fn loaded(driver: &str, identity: &str, parameters: &str) -> KernelWatchdog {
    sh(&format!("modprobe {driver} {parameters}"));
    let said = fs::read_to_string("/sys/class/watchdog/watchdog0/identity").expect("there is a watchdog");
    assert_eq!(said.trim(), identity);
    let dog = KernelWatchdog::new("/dev/watchdog0").expect("the kernel tells its time");
    assert_eq!(dog.timeout(), TIMEOUT, "the time is that of the driver");
    dog
}

fn state() -> String {
    fs::read_to_string("/sys/class/watchdog/watchdog0/state").expect("there is a watchdog").trim().to_owned()
}

/// The machine lives while it is petted, and after it was closed in order; then it is armed for good, and this process is killed.
fn proves_itself(driver: &str, identity: &str, seconds: &str) {
    let mut dog = loaded(driver, identity, seconds);
    assert_eq!(state(), "inactive", "it is opened last, and opening it arms it");
    dog.arm().expect("it can be opened");
    assert_eq!(state(), "active");
    let began = Instant::now();
    while began.elapsed() < TIMEOUT * 2 {
        dog.pet().expect("it hears");
        thread::sleep(Duration::from_millis(100));
    }
    dog.disarm().expect("it can be closed in order");
    assert_eq!(state(), "inactive");
    thread::sleep(TIMEOUT * 2);
    drop(dog);
    sh(&format!("rmmod {driver}"));
    let mut dog = loaded(driver, identity, &format!("{seconds} nowayout=1"));
    dog.arm().expect("it can be opened");
    dog.disarm().expect_err("this driver cannot be told to stop");
    dog.pet().expect("it is as armed as before");
    let own = std::process::id().to_string();
    Command::new("kill").args(["-9", &own]).status().expect("nobody is left to see it");
}

#[test]
#[ignore = "needs qemu and a kernel of the distribution in the target folder"]
fn softdog_resets_the_machine_of_a_node_that_was_killed_and_of_no_other() {
    let end = until_it_is_reset(
        |(first, _)| first,
        || proves_itself("softdog", "Software Watchdog", "soft_margin=2"),
    );
    if let Some(end) = end {
        assert!(end.console.contains("softdog: Initiating system reboot"), "{end}");
    }
}

#[test]
#[ignore = "needs qemu and a kernel of the distribution in the target folder"]
fn i6300esb_resets_the_machine_of_a_node_that_was_killed_and_of_no_other() {
    let end =
        until_it_is_reset(|(_, other)| other, || proves_itself("i6300esb", "i6300ESB timer", "heartbeat=2"));
    if let Some(end) = end {
        assert!(end.events.contains("\"WATCHDOG\""), "{end}");
    }
}
