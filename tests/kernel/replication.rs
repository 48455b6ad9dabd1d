//! DRBD with the module of the kernel: both sides of one replicated device in one machine, each with a disk of its own, connected over
//! the loopback device. To `drbd-utils` they are two resources, each in a file of its own, whose peers are each other.

use crate::agents::{Resource, load};
use crate::machine::{inside, sh, wait_for};
use ocf_resource::{Action, OcfCode, Outcome, Promotion};
use std::fs;

/// The file of one side: its name, its number and the number of the other.
fn side(name: &str, own: u8, other: u8) -> String {
    let host = |host: &str, n: u8| {
        format!(
            "  on {host} {{\n    device /dev/drbd{n};\n    disk /run/disk{n};\n    address 127.0.0.1:778{n};\n    meta-disk internal;\n  }}\n"
        )
    };
    format!(
        "global {{ usage-count no; }}\nresource {name} {{\n  net {{ protocol C; }}\n{}{}}}\n",
        host("machine", own),
        host("peer", other)
    )
}

fn file(name: &str) -> String {
    format!("/run/{name}.conf")
}

fn resource(name: &str) -> Resource {
    let meta = [
        ("promotable", "true"),
        ("notify", "true"),
        ("clone_max", "2"),
        ("clone_node_max", "1"),
        ("master_max", "1"),
    ];
    Resource::new(name, "ocf:linbit:drbd", &[("drbd_resource", name), ("drbdconf", &file(name))], &meta)
}

fn ask(name: &str, question: &str) -> String {
    sh(&format!("drbdadm -c {} {question} {name}", file(name))).trim().to_owned()
}

#[test]
#[ignore = "needs qemu and a kernel of the distribution in the target folder"]
fn drbd_is_started_promoted_and_handed_over_with_its_data_by_its_agent() {
    inside(|| {
        load("drbd loop");
        for (name, own, other) in [("left", 0, 1), ("right", 1, 0)] {
            fs::write(file(name), side(name, own, other)).expect("a file");
            sh(&format!(
                "truncate -s 8M /run/image{own} && ln -s $(losetup --find --show /run/image{own}) /run/disk{own}"
            ));
            ask(name, "create-md --force");
        }
        let (left, right) = (resource("left"), resource("right"));
        let stopped = Outcome::Failed { code: OcfCode::NotRunning };
        let promoted = Outcome::Failed { code: OcfCode::RunningPromoted };
        let well = |side: &Resource, action| assert_eq!(side.does(action).outcome, Outcome::Ok, "{action}");
        for side in [&left, &right] {
            assert_eq!(side.does(Action::Monitor).outcome, stopped);
            well(side, Action::Start);
            well(side, Action::Monitor);
        }
        wait_for("both sides to be connected", || ask("left", "cstate") == "Connected");
        // Both are empty: nothing has to be copied.
        ask("left", "new-current-uuid --clear-bitmap");
        wait_for("both disks to be up to date", || ask("right", "dstate") == "UpToDate/UpToDate");
        let score = left.does(Action::Monitor).promotion;
        assert!(matches!(score, Some(Promotion::Score(score)) if score.number() > 0), "{score:?}");
        well(&left, Action::Promote);
        assert_eq!(
            (left.does(Action::Monitor).outcome, right.does(Action::Monitor).outcome),
            (promoted.clone(), Outcome::Ok)
        );
        sh("echo written on the left | dd of=/dev/drbd0 bs=4096 conv=sync oflag=direct");
        let refused = sh("dd if=/dev/drbd1 bs=4096 count=1 iflag=direct 2>&1 || echo refused");
        assert!(refused.ends_with("refused\n"), "the other side is not promoted: {refused}");
        well(&left, Action::Demote);
        well(&right, Action::Promote);
        assert_eq!(
            (left.does(Action::Monitor).outcome, right.does(Action::Monitor).outcome),
            (Outcome::Ok, promoted)
        );
        let read = sh("dd if=/dev/drbd1 bs=4096 count=1 iflag=direct");
        assert!(read.starts_with("written on the left"), "{read}");
        well(&right, Action::Demote);
        for side in [&left, &right] {
            let result = side.does(Action::Stop);
            assert_eq!(
                (&result.outcome, result.promotion),
                (&Outcome::Ok, Some(Promotion::Withdrawn)),
                "{}",
                result.output
            );
            assert_eq!(side.does(Action::Monitor).outcome, stopped);
        }
    });
}
