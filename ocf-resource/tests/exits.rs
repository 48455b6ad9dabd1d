//! Programs of the user and mail when something happens: each gets the whole context, and none can hold anything up.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(clippy::disallowed_methods, reason = "a look is repeated until something has happened")]

use ocf_resource::driver::{Exits, Mail};
use ocf_resource::{Action, Blocked, Decision, Event, GroupStatus, Status};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("x-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The content of a file, as soon as it ends with `end`.
fn read(path: &Path, end: &str) -> String {
    for _ in 0..6000 {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with(end) => return text,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("nothing in {}", path.display());
}

fn failed(why: &str) -> Event {
    Event::Failed {
        resource: "db".into(),
        node: NodeInstance::new(NodeId::new(1), Incarnation::new(5 << 96)),
        action: Action::Monitor,
        decision: Decision { view: 3, number: 7 },
        why: why.into(),
        failures: 2,
    }
}

fn status() -> Status {
    let group = GroupStatus {
        name: "web".into(),
        wanted: true,
        removing: false,
        target: None,
        running_on: None,
        copies_on: Vec::new(),
        promoted_on: Vec::new(),
        blocked: None,
        resources: vec![ocf_resource::ResourceStatus { name: "db".into(), removing: false, at: Vec::new() }],
        failures: Vec::new(),
    };
    Status { view: 3, groups: vec![group], ..Status::default() }
}

#[test]
fn every_program_gets_the_whole_context_and_a_hung_one_holds_up_none() {
    let folder = folder("exits");
    put(&folder.join("10-hangs"), "#!/bin/sh\nexec sleep 600\n");
    put(
        &folder.join("20-notes"),
        &format!(
            "#!/bin/sh\n{{ echo \"$1 $OCF_EVENT $OCF_RESOURCE $OCF_GROUP\"; cat; echo; echo end; }} >{}/noted\n",
            folder.display()
        ),
    );
    std::fs::write(folder.join("README"), "not a program").unwrap();
    let exits = Exits::new(Runner::new(2).unwrap(), &folder).with_timeout(Duration::from_secs(1));
    assert_eq!(exits.tell(&failed("no disk"), &status()), 2);
    let text = read(&folder.join("noted"), "end\n");
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "failed failed db web");
    let context: serde_json::Value = serde_json::from_str(rest.strip_suffix("\nend\n").unwrap()).unwrap();
    assert_eq!((context["why"].as_str(), context["failures"].as_u64()), (Some("no disk"), Some(2)));
    assert_eq!((context["view"].as_u64(), context["state"]["wanted"].as_bool()), (Some(3), Some(true)));
    assert_eq!(context["decision"]["number"], 7);
    drop(exits);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_blocked_group_is_told_with_the_ways_out() {
    let because = Some(Blocked::Maintenance { whole: false });
    let context = ocf_resource::driver::context(&Event::Blocked { group: "web".into(), because }, &status());
    assert_eq!(context["ways_out"][0]["what"], "end the maintenance of web");
    assert_eq!(context["state"]["name"], "web");
}

#[test]
fn lives_of_nodes_are_told_whole() {
    let life = NodeInstance::new(NodeId::new(1), Incarnation::new(u128::MAX));
    let mut status = status();
    status.groups[0].target = Some(life);
    let why = "it said \\\"7777777777777777777777\\\" ü".into();
    let resource = &mut status.groups[0].resources[0];
    resource.at = vec![(life, ocf_resource::ResourceState::Failed(why))];
    let because = Some(Blocked::StopFailed { resource: "db".into(), node: life, why: "deaf".into() });
    let context = ocf_resource::driver::context(&Event::Blocked { group: "web".into(), because }, &status);
    let target = &context["state"]["target"];
    assert_eq!(target["incarnation"], u128::MAX.to_string(), "{context}");
    let state = context["state"]["resources"][0]["at"][0][1].to_string();
    assert!(state.contains("7777777777777777777777") && state.contains('ü'), "{context}");
    assert!(context["because"].to_string().contains(&u128::MAX.to_string()), "{context}");
}

#[test]
fn a_letter_has_one_subject_whatever_an_agent_says() {
    let folder = folder("mail");
    let program = folder.join("sendmail");
    put(&program, &format!("#!/bin/sh\n{{ echo \"$@\"; cat; echo end; }} >{}/letter\n", folder.display()));
    let mail = Mail::new(Runner::new(2).unwrap(), "lab", "ha@example.org", &["ops@example.org"]).unwrap();
    let mail = mail.with_program(&program);
    assert!(!mail.tell(&Event::ReadyToLeave, &status()));
    assert!(mail.tell(&failed("bad\nBcc: evil@example.org\n\nhello"), &status()));
    let letter = read(&folder.join("letter"), "end\n");
    let (head, body) = letter.split_once("\n\n").unwrap();
    assert!(
        head.starts_with(
            "-i -t\nFrom: ha@example.org\nTo: ops@example.org\nSubject: [lab] monitor of db failed"
        ),
        "{head}"
    );
    assert!(!head.lines().any(|l| l.starts_with("Bcc")), "{head}");
    assert!(body.contains("\"resource\": \"db\""), "{body}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_address_that_would_be_more_than_one_is_refused() {
    for bad in ["", "ops", "a@b, c@d", "a@b\nBcc: c@d", "-oQ/tmp@x"] {
        let mail = Mail::new(Runner::new(1).unwrap(), "lab", "ha@example.org", &[bad]);
        assert_eq!(mail.unwrap_err().address, bad);
    }
}
