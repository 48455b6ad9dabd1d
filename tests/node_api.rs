//! Programs outside a node: they look at it, hear its events and send messages through it, and their end changes nothing.

use ocf::{ApiConfig, Cluster, Node};
use ocf_comm::local::{Address, Client, ClientEvent};
use ocf_comm::rpc::Body;
use pils::Value;
use pils::topic::{Delivery, Pattern};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

fn address(test: &str, node: u32) -> String {
    format!("@ocf-{test}-{}-{node}", std::process::id())
}

fn connect(at: &str) -> Client {
    Client::connect(&Address::from(at), "test").expect("the node serves")
}

fn call(client: &mut Client, method: &str, params: Vec<Value>) -> Value {
    let answer = client.call_wait("", method, Body::Value(params.into()), SOON);
    answer.unwrap_or_else(|why| panic!("{method}: {why}")).into_value().expect("methods answer with values")
}

fn wait_for_view(node: &Node, members: usize) {
    let until = Instant::now() + SOON;
    while node.view().is_none_or(|view| view.members.len() != members) {
        assert!(Instant::now() < until, "no view of {members}");
        drop(node.next_event(Duration::from_millis(20)));
    }
}

/// The next event of a topic that has this property.
fn hear(client: &mut Client, topic: &str, kind: &str) -> std::sync::Arc<pils::topic::Event> {
    loop {
        if let ClientEvent::Topic { delivery: Delivery::Event(event), .. } =
            client.next_event(SOON).expect("it comes")
            && &*event.topic == topic
            && event.properties.get("kind") == Some(&kind.into())
        {
            return event;
        }
    }
}

#[test]
fn programs_look_at_a_node_hear_it_and_send_through_it_and_their_end_changes_nothing() {
    let equip = |builder: ocf::NodeBuilder| {
        let local = Some(address("api", builder.node().raw()));
        builder.api(ApiConfig { local, ..ApiConfig::default() })
    };
    let mut cluster = Cluster::builder("api").equip(equip).local(3).expect("a cluster starts");
    wait_for_view(cluster.node(0).expect("it runs"), 3);
    let (mut a, mut b) = (connect(&address("api", 1)), connect(&address("api", 2)));
    assert_eq!(a.node(), cluster.node(0).map(Node::local));
    let status = call(&mut a, "node.status", vec![]);
    assert_eq!(status.get("cluster"), Some(&"api".into()));
    let members = call(&mut a, "node.members", vec![]);
    assert_eq!(members.get("members").and_then(Value::as_list).map(<[Value]>::len), Some(3), "{members}");
    assert_eq!(call(&mut a, "node.peers", vec![]).as_list().map(<[Value]>::len), Some(2));
    let identity = call(&mut a, "node.identity", vec![]);
    assert_eq!(identity.get("node"), Some(&1.into()), "{identity}");

    let request = b.subscribe(Pattern::all()).expect("it is served");
    b.await_answer(request, SOON).expect("who runs the node may look");
    call(&mut a, "node.send", vec![2.into(), "small".into(), Value::Bytes(b"hello".to_vec())]);
    let heard = hear(&mut b, "direct", "message");
    assert_eq!(heard.data, "hello");
    assert_eq!(heard.properties["from"].get("node"), Some(&1.into()));
    let nobody = Body::Value(vec![Value::from(9), "small".into(), "x".into()].into());
    assert!(a.call_wait("", "node.send", nobody, SOON).is_err(), "there is no node 9");

    drop(a); // as if its process had died
    cluster.kill(2);
    let down = hear(&mut b, "connectivity", "down");
    assert_eq!(down.properties["peer"].get("node"), Some(&3.into()));
    let view = hear(&mut b, "membership", "view");
    assert_eq!(view.properties["members"].as_list().map(<[Value]>::len), Some(2));
    assert!(cluster.node(0).is_some_and(|node| node.stopped().is_none()));
    let node = cluster.node(1).expect("it runs").clone();
    node.leave();
    let ended = loop {
        if let Err(ended) = b.next_event(SOON) {
            break ended;
        }
    };
    assert_eq!(ended, ocf_comm::local::ClientError::Closed, "the end of the node is the end of its clients");
}

#[test]
fn programs_hear_of_their_nodes_partition_apart_from_the_primary() {
    let equip = |builder: ocf::NodeBuilder| {
        let local = Some(address("partition", builder.node().raw()));
        let partitions = Some(ocf_membership::partitionable::PartitionConfig::default());
        builder.api(ApiConfig { local, ..ApiConfig::default() }).tune(|stack| stack.partitions = partitions)
    };
    let mut cluster = Cluster::builder("partition").equip(equip).local(3).expect("a cluster starts");
    wait_for_view(cluster.node(0).expect("it runs"), 3);
    let mut program = connect(&address("partition", 1));
    let request = program.subscribe(Pattern::all()).expect("it is served");
    program.await_answer(request, SOON).expect("who runs the node may look");
    let until = Instant::now() + SOON;
    let number = |value: &Value| value.as_list().map(<[Value]>::len);
    while call(&mut program, "node.partition", vec![]).get("members").and_then(number) != Some(3) {
        assert!(Instant::now() < until, "no partition of all");
        std::thread::sleep(Duration::from_millis(5));
    }
    let node = cluster.node(0).expect("it runs").clone();
    node.partition().expect("it has such groups").join("board", 7).expect("it may join");
    let table = hear(&mut program, "group", "partition_membership");
    assert_eq!(table.properties["group"], "board".into());
    assert_eq!(number(&table.properties["members"]), Some(1));

    cluster.kill(1);
    cluster.kill(2);
    let alone = loop {
        let heard = hear(&mut program, "membership", "partition");
        if number(&heard.properties["members"]) == Some(1) && number(&heard.properties["parents"]) == Some(1)
        {
            break heard;
        }
    };
    assert_eq!(alone.properties["merge"], false.into());
    let came = alone.properties["parents"].as_list().and_then(|parents| parents[0].get("came")).cloned();
    assert_eq!(came.as_ref().and_then(number), Some(1), "only itself came from the view before: {alone:?}");
    let status = call(&mut program, "node.status", vec![]);
    let groups = status.get("partition").and_then(|partition| partition.get("groups")).cloned();
    assert_eq!(groups.as_ref().and_then(number), Some(1), "its group goes on: {status}");
    assert!(node.partition().is_some_and(|groups| groups.members("board").len() == 1));
}

#[test]
fn an_api_that_would_be_open_to_all_is_a_mistake_in_the_configuration() {
    let file = |api: &str| {
        format!(
            "cluster = \"demo\"\nnode = 1\nkey = \"{}\"\n[[nodes]]\nid = 1\naddress = \"192.0.2.1:5405\"\n[api]\n{api}\n",
            "00112233".repeat(8)
        )
    };
    let wrong =
        |api: &str| ocf::NodeConfig::from_toml(&file(api)).map(drop).expect_err("it is wrong").to_string();
    assert!(wrong("http = \"192.0.2.1:80\"").contains("nobody must show a secret"));
    assert!(wrong("local = \"\"").contains("api.local"));
    assert!(wrong("unknown = 1").contains("unknown"));
    let right =
        ocf::NodeConfig::from_toml(&file("local = \"@ocf\"\nlocal_users = [1000]")).expect("it is right");
    assert!(right.api.is_on() && right.api.local_users == [1000]);
}

#[test]
fn administration_tools_ask_a_node_over_http() {
    use std::io::{Read as _, Write as _};
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has ports");
    let equip = move |builder: ocf::NodeBuilder| {
        let http = (builder.node().raw() == 1).then_some(free);
        builder.api(ApiConfig { http, ..ApiConfig::default() })
    };
    let cluster = Cluster::builder("http").equip(equip).local(1).expect("a cluster starts");
    wait_for_view(cluster.node(0).expect("it runs"), 1);
    let call = "<methodCall><methodName>node.status</methodName><params/></methodCall>";
    let request = format!(
        "POST /RPC2 HTTP/1.1\r\nHost: {free}\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{call}",
        call.len()
    );
    let mut stream = std::net::TcpStream::connect(free).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<name>cluster</name>"), "{answer}");
}
