//! XML-RPC over HTTP: a foreign client in Python, and requests that no honest client makes.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a hostile client is a bare socket; times are real"
)]

use ocf_comm::http::{HttpConfig, HttpServer, User};
use ocf_comm::rpc::{Access, Caller, Dispatcher, Fault, Method, Policy, Responder};
use pils::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SECRET: &str = "a secret of sufficient length";

fn dispatcher() -> Dispatcher {
    let mut policy = Policy::default();
    policy.http_users.insert("ada".to_owned(), Access::Control);
    let forever = parking_lot::Mutex::new(Vec::<Responder>::new());
    Dispatcher::builder()
        .policy(policy)
        .method(
            Method::new("add").help("Adds.").signature(["int", "int", "int"]),
            |_: &Caller, (a, b): (i64, i64)| Ok(a + b),
        )
        .method(Method::new("echo"), |_: &Caller, (value,): (Value,)| Ok(value))
        .method(Method::new("fail"), |_: &Caller, (): ()| -> Result<(), Fault> {
            Err(Fault::new(77, "on <purpose>"))
        })
        .method(Method::new("stop").access(Access::Control), |_: &Caller, (): ()| Ok("stopped"))
        .later(Method::new("never"), move |_: &Caller, (): (), responder| forever.lock().push(responder))
        .build()
}

fn start(config: HttpConfig) -> HttpServer {
    HttpServer::start(config, dispatcher()).expect("loopback has ports")
}

/// Sends bytes and reads until the server closes, at most so long.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket has timeouts");
    let mut got = Vec::new();
    // The server may have answered and closed before it read all.
    if stream.write_all(bytes).is_ok() || !bytes.is_empty() {
        let read = stream.read_to_end(&mut got);
        assert!(read.is_ok() || !got.is_empty() || bytes.len() > 1 << 16, "{read:?}");
    }
    String::from_utf8_lossy(&got).into_owned()
}

fn post(body: &str, headers: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

fn call(method: &str, params: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>"
    )
}

#[test]
fn a_call_is_answered_and_a_fault_is_an_answer_too() {
    let server = start(HttpConfig::default());
    let add =
        call("add", "<param><value><int>2</int></value></param><param><value><int>40</int></value></param>");
    let answer = exchange(server.address(), &post(&add, ""));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("42"), "{answer}");
    assert!(answer.contains("text/xml"));
    let answer = exchange(server.address(), &post(&call("fail", ""), ""));
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("faultCode") && answer.contains("77"),
        "{answer}"
    );
    let answer = exchange(server.address(), &post("<nonsense", ""));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("-32700"), "{answer}");
}

#[test]
fn without_a_secret_one_may_look_and_not_touch() {
    let server = start(HttpConfig::default());
    let answer = exchange(server.address(), &post(&call("stop", ""), ""));
    assert!(answer.contains(&Fault::DENIED.to_string()), "{answer}");
    let users = vec![
        User::new("ada", SECRET).expect("it is long"),
        User::new("bob", "another long secret").expect("so"),
    ];
    let server = start(HttpConfig { users, ..HttpConfig::default() });
    let with = |headers: &str| exchange(server.address(), &post(&call("stop", ""), headers));
    let refused = with("");
    assert!(
        refused.starts_with("HTTP/1.1 401") && refused.to_lowercase().contains("www-authenticate"),
        "{refused}"
    );
    assert!(with("Authorization: Bearer wrong wrong wrong wrong\r\n").starts_with("HTTP/1.1 401"));
    assert!(with(&format!("Authorization: Bearer {SECRET}\r\n")).contains("stopped"));
    assert!(
        with("Authorization: Bearer another long secret\r\n").contains(&Fault::DENIED.to_string()),
        "bob observes"
    );
}

#[test]
fn requests_that_are_none_are_refused_each_with_its_status() {
    let server = start(HttpConfig { body_max: 10_000, ..HttpConfig::default() });
    let body = call("echo", "");
    let big = "x".repeat(20_000);
    let chunked =
        "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = chunked.replace("Host: a", "Host: localhost");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GET /RPC2 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "405"),
        (b"POST /other HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_vec(), "404"),
        (String::from_utf8_lossy(&post(&body, "")).replace("text/xml", "text/plain").into_bytes(), "415"),
        (
            String::from_utf8_lossy(&post(&body, ""))
                .replace("Host: localhost", "Host: evil.example")
                .into_bytes(),
            "421",
        ),
        (post(&big, ""), "413"),
        (format!("{chunked}{:x}\r\n{big}\r\n0\r\n\r\n", big.len()).into_bytes(), "413"),
        (b"NONSENSE\r\n\r\n".to_vec(), "400"),
        (b"POST /RPC2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(), "400"),
        (format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(40_000)).into_bytes(), "431"),
        (format!("POST /RPC2 HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200)).into_bytes(), "431"),
    ];
    for (request, status) in cases {
        let answer = exchange(server.address(), &request);
        let head = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:?}: {answer}");
    }
    let answer = exchange(server.address(), &post(&call("add", ""), ""));
    assert!(answer.contains("-32602"), "it still serves: {answer}");
}

#[test]
fn who_dawdles_is_let_go_and_holds_no_place() {
    let config = HttpConfig {
        connections_max: 2,
        request_within: Duration::from_millis(300),
        answer_within: Duration::from_millis(200),
        ..HttpConfig::default()
    };
    let server = start(config);
    // Two connections take all places: one says nothing, one never ends its body.
    let silent = TcpStream::connect(server.address()).expect("it listens");
    let mut slow = TcpStream::connect(server.address()).expect("it listens");
    let request = post(&call("echo", ""), "");
    slow.write_all(&request[..request.len() - 10]).expect("it fits the buffers");
    let began = Instant::now();
    let answer = exchange(server.address(), &post(&call("fail", ""), ""));
    assert!(answer.contains("77"), "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(100), "it waited for a place");
    let mut said = String::new();
    slow.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket has timeouts");
    slow.read_to_string(&mut said).expect("the server closes");
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    drop(silent);
    let answer = exchange(server.address(), &post(&call("never", ""), ""));
    assert!(answer.contains(&Fault::SYSTEM.to_string()), "{answer}");
}

#[test]
fn the_server_ends_with_its_handle_even_while_connections_are_open() {
    let server = start(HttpConfig::default());
    let address = server.address();
    let mut open = TcpStream::connect(address).expect("it listens");
    open.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket has timeouts");
    drop(server);
    let mut rest = Vec::new();
    assert!(open.read_to_end(&mut rest).is_ok_and(|got| got == 0) || rest.is_empty());
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

const PYTHON: &str = r#"
import sys, xmlrpc.client, datetime
url = sys.argv[1]
s = xmlrpc.client.ServerProxy(url, allow_none=True, use_builtin_types=True)
assert s.add(2, 40) == 42
names = s.system.listMethods()
assert "add" in names and "system.multicall" in names and "stop" in names, names
assert s.system.methodSignature("add") == [["int", "int", "int"]]
assert s.system.methodHelp("add") == "Adds."
assert "xmlrpc" in s.system.getCapabilities()
value = {"text": "ünï <&> \n", "list": [1, -2, 2**31 - 1, True, False, 0.5, None],
         "bytes": bytes(range(256)), "when": datetime.datetime(1998, 7, 17, 14, 8, 55), "empty": {}}
assert s.echo(value) == value, s.echo(value)
try:
    s.fail()
    raise SystemExit("no fault")
except xmlrpc.client.Fault as fault:
    assert (fault.faultCode, fault.faultString) == (77, "on <purpose>"), fault
many = xmlrpc.client.MultiCall(s)
many.add(1, 2)
many.fail()
many.add(3, 4)
results = many()
assert results[0] == 3 and results[2] == 7
try:
    results[1]
    raise SystemExit("no fault")
except xmlrpc.client.Fault as fault:
    assert fault.faultCode == 77
assert s.stop() == "stopped"
try:
    xmlrpc.client.ServerProxy(url.replace("ada:", "eve:")).add(1, 1)
    raise SystemExit("a stranger was let in")
except xmlrpc.client.ProtocolError as error:
    assert error.errcode == 401
for _ in range(100):
    assert s.add(1, 1) == 2
print("all well")
"#;

#[test]
#[ignore = "needs python3"]
fn pythons_client_calls_lists_and_bundles_methods() {
    let users = vec![User::new("ada", "0123456789abcdef").expect("it is long")];
    let server = start(HttpConfig { users, ..HttpConfig::default() });
    let url = format!("http://ada:0123456789abcdef@{}/RPC2", server.address());
    let output =
        std::process::Command::new("python3").args(["-c", PYTHON, &url]).output().expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all well"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
