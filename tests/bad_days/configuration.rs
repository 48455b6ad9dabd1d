//! Wrong configurations: everything that is wrong is said at once, with path, value and what to do.

use ocf::{Node, NodeConfig, StartError};
use pils::codec::LiXml;
use pils::{ConfigErrors, ValueCodec as _};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn mistakes(text: &str) -> ConfigErrors {
    NodeConfig::from_toml(text).expect_err("the configuration is wrong")
}

#[test]
fn votes_that_follow_who_is_there_need_a_record_a_plain_policy_and_time() {
    let text = |more: &str| {
        format!(
            "cluster = \"demo\"\nnode = 1\nkey = \"{KEY}\"\n{more}\n\
             [[nodes]]\nid = 1\naddress = \"192.0.2.1:5405\"\n[[nodes]]\nid = 2\naddress = \"192.0.2.2:5405\"\n"
        )
    };
    let errors = mistakes(&text("quorum = \"auto-tie-breaker:lowest\"\nlast_man_standing_ms = 100"));
    let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["record", "last_man_standing_ms", "last_man_standing_ms"], "{errors}");
    let right = text("record = \"/var/lib/ocf/views\"\nlast_man_standing_ms = 10000\nvotes_revision = 7");
    let stack = NodeConfig::from_toml(&right).and_then(|config| config.stack()).expect("right");
    assert_eq!(stack.membership.last_man_standing.map(|w| w.as_secs()), Some(10));
    assert_eq!(stack.membership.votes_revision, 7);
}

#[test]
fn every_mistake_in_every_section_is_reported_at_once() {
    let errors = mistakes(
        r#"
        cluster = "demo"
        node = 9
        key = "0011"
        quorum = "some"
        fence_action = "on"
        [[nodes]]
        id = 1
        address = "0.0.0.0:5405"
        [[nodes]]
        id = 1
        address = "192.0.2.2:0"
        [[fencing.devices]]
        name = ""
        class = "simulated"
        nodes = []
        timeout_ms = 0
        [[resources.quorums]]
        name = "data"
        nodes = [1, 2]
        share = 100
        on_loss = "keep"
        [[resources.groups]]
        name = "web"
        nodes = [1, 7]
        quorum = "date"
        migration_threshold = 0
        [[resources.groups.resources]]
        name = "address"
        agent = "ocf:heartbeat:IPaddr2"
        [[resources.groups.resources]]
        name = "address"
        agent = "ocf:heartbeat:Dummy"
        monitor_timeout = "1ms"
        "#,
    );
    let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
    let expected = [
        "key",
        "node",
        "quorum",
        "fence_action",
        "nodes[0].address",
        "nodes[1].id",
        "nodes[1].address",
        "fencing.devices[0].name",
        "fencing.devices[0].timeout_ms",
        "fencing.devices[0].nodes",
        "resources.quorums[0].share",
        "resources.quorums[0].nodes[1]",
        "resources.groups[0].nodes[1]",
        "resources.groups[0].quorum",
        "resources.groups[0].migration_threshold",
        "resources.groups[0].resources[1].name",
        "resources.groups[0].resources[1].monitor_timeout",
    ];
    for path in expected {
        assert!(paths.contains(&path), "{path} is missing in {paths:?}");
    }
    for error in &errors.0 {
        assert!(!error.problem.is_empty() && !error.fix.is_empty(), "{error:?} does not say what to do");
    }
    let text = errors.to_string();
    assert!(text.starts_with(&format!("{} errors", errors.0.len())), "{text}");
    assert!(!text.contains("0011"), "a key is never printed");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_known() {
    let text = format!("cluster = \"demo\"\nnode = 1\nkey = \"{KEY}\"\nquorom = \"majority\"\nnodes = []\n");
    let errors = mistakes(&text).to_string();
    assert!(errors.contains("line 4") && errors.contains("quorom") && errors.contains("quorum"), "{errors}");
}

#[test]
fn a_missing_agent_and_a_missing_fence_agent_are_named_together_before_anything_starts() {
    let text = format!(
        r#"
        cluster = "demo"
        node = 1
        key = "{KEY}"
        [[nodes]]
        id = 1
        address = "127.0.0.1:1"
        [[fencing.devices]]
        name = "board"
        class = "fence_agent"
        nodes = [{{ node = 1, plug = "1" }}]
        [fencing.devices.parameters]
        agent = "fence_nosuch"
        [[resources.groups]]
        name = "web"
        [[resources.groups.resources]]
        name = "anchor"
        agent = "rust:anchor"
        [[resources.groups.resources]]
        name = "address"
        agent = "ocf:heartbeat:NoSuchAgent"
        "#
    );
    let config = NodeConfig::from_toml(&text).unwrap();
    let Err(StartError::Config(errors)) = Node::builder(config).start() else {
        panic!("it started without its agents")
    };
    let of = |path: &str| {
        let found = errors.0.iter().find(|e| e.path.starts_with(path));
        found.unwrap_or_else(|| panic!("{path} is missing in {errors}")).to_string()
    };
    let agent = of("resources.groups[0].resources[1].agent");
    assert!(agent.contains("NoSuchAgent") && agent.contains("/resource.d"), "the paths searched: {agent}");
    assert!(of("resources.groups[0].resources[0].agent").contains("rust"));
    let fence = of("fencing.devices[0].parameters.agent");
    assert!(fence.contains("fence_nosuch") && fence.contains("fence-agents"), "the package: {fence}");
}

#[test]
fn a_configuration_means_the_same_in_xml_and_its_mistakes_are_told_as_well() {
    let text = include_str!("../../examples/failover/example.toml");
    let value: toml::Value = toml::from_str(text).expect("it is TOML");
    let value = pils::value::to_value(&value).expect("a value");
    let xml = String::from_utf8(LiXml.encode(&value).expect("it can be written")).expect("it is text");
    let same = |text: &str| format!("{:?}", NodeConfig::read(text).expect("it can be read"));
    assert_eq!(same(&xml), same(text));

    let wrong = "<hash><LI key='cluster'>demo</LI><LI key='node' type='int'>9</LI>\
        <LI key='nodes'><list/></LI></hash>";
    let errors = NodeConfig::from_text(wrong).expect_err("the configuration is wrong");
    let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert!(["key", "node", "nodes"].iter().all(|path| paths.contains(path)), "{errors}");
    let unknown =
        NodeConfig::from_text("<hash><LI key='clustre'>demo</LI></hash>").expect_err("no such field");
    assert!(unknown.to_string().contains("clustre"), "{unknown}");
    let broken = NodeConfig::from_text("<hash><LI key='cluster'>").expect_err("it ends too early");
    assert!(broken.to_string().contains("at byte"), "{broken}");
}
