//! Goal: each codec reads what it writes, agrees with a peer, and survives any bytes. Method: the conformance suite,
//! proptest, vectors written by Python's implementation of XML-RPC, and that implementation itself where installed.

use pils::codec::xmlrpc::{Call, Fault, Response};
use pils::codec::{Binary, CODEC, DecodeReason, LiXml, Limits, NameValue, XmlRpc, register_codecs};
use pils::testing::{any_value, check_codec};
use pils::{Rng, Universe, Value, ValueCodec};
use proptest::prelude::*;

fn xml(text: &str) -> Result<Value, DecodeReason> {
    XmlRpc.decode(text.as_bytes(), &Limits::default()).map_err(|error| error.reason)
}

fn is_refused(text: &str) -> bool {
    matches!(xml(text), Err(DecodeReason::Grammar(_)))
}

#[test]
fn the_binary_codec_conforms() {
    check_codec(&Binary);
}

#[test]
fn the_xml_rpc_codec_conforms() {
    check_codec(&XmlRpc);
}

#[test]
fn the_li_codec_conforms() {
    check_codec(&LiXml);
}

#[test]
fn the_name_value_codec_conforms() {
    check_codec(&NameValue);
}

#[test]
fn the_codecs_are_plug_ins_found_by_name() {
    let universe = Universe::new();
    register_codecs(&universe).unwrap();
    let value = Value::from([("a", Value::from(vec![Value::from(1)]))]);
    let names: Vec<String> = universe.list(CODEC).unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["binary", "li-xml", "name-value", "xml-rpc"]);
    for name in names {
        let codec = universe.get::<dyn ValueCodec>(CODEC, &name).unwrap();
        assert_eq!(
            codec.decode(&codec.encode(&value).unwrap(), &Limits::default()),
            Ok(value.clone()),
            "{name}"
        );
    }
    assert!(register_codecs(&universe).is_err(), "a second handler for one type is refused");
}

#[test]
fn each_form_of_li_xml_has_its_value() {
    let li = |text: &str| LiXml.decode(text.as_bytes(), &Limits::default());
    let of = |items: &[&str]| Value::from(items.iter().map(|x| Value::from(*x)).collect::<Vec<_>>());
    for (text, value) in [
        (
            "<list>\n <LI>This one is first</LI>\n <LI>This one is second</LI>\n</list>",
            of(&["This one is first", "This one is second"]),
        ),
        (
            "<hash> <LI key=\"linux-ha\">value</LI> <LI key=\"failsafe\"></LI> <LI key=\"kimberlite\"/> </hash>",
            Value::from([
                ("linux-ha", Value::from("value")),
                ("failsafe", "".into()),
                ("kimberlite", "".into()),
            ]),
        ),
        (
            "<hash>\n <LI key=\"tty\">/dev/ttyS1</LI>\n <LI key=\"ports\">\n  <list>\n   <LI>1</LI>\n  </list>\n </LI>\n</hash>",
            Value::from([("tty", Value::from("/dev/ttyS1")), ("ports", of(&["1"]))]),
        ),
        ("<?xml version=\"1.0\"?><!-- c --><LI> a&lt;b </LI>", " a<b ".into()),
        ("<LI type=\"int\" color=\"red\">-7</LI>", (-7).into()),
        ("<LI type='nil'/>", Value::Nil),
        ("<LI type='string'>x</LI>", "x".into()),
        ("<hash><LI key='a&#10;&quot;b'>1</LI></hash>", Value::from([("a\n\"b", Value::from("1"))])),
    ] {
        assert_eq!(li(text), Ok(value), "{text}");
    }
    for text in [
        "",
        "<list>",
        "<set/>",
        "<LI key='a'>x</LI>",
        "<list><LI key='a'>x</LI></list>",
        "<hash><LI>x</LI></hash>",
        "<list>x</list>",
        "<list><list/></list>",
        "<LI><LI>x</LI></LI>",
        "<LI>x<list/></LI>",
        "<LI><list/>x</LI>",
        "<LI><list/><list/></LI>",
        "<LI type='int'><list/></LI>",
        "<LI type='int'>1.5</LI>",
        "<LI type='double'>inf</LI>",
        "<LI type='nil'>x</LI>",
        "<LI type='color'>red</LI>",
        "<list/><list/>",
        "<!DOCTYPE list [<!ENTITY a \"b\">]><LI>&a;</LI>",
        "<hash><LI key='&a;'>x</LI></hash>",
    ] {
        assert!(matches!(li(text).unwrap_err().reason, DecodeReason::Grammar(_)), "{text}: {:?}", li(text));
    }
    let twice = "<hash><LI key='a'>1</LI><LI key='a'>2</LI></hash>";
    assert_eq!(li(twice).unwrap_err().reason, DecodeReason::DuplicateKey);
}

#[test]
fn each_form_of_name_value_has_its_value() {
    let read = |text: &str| NameValue.decode(text.as_bytes(), &Limits::default());
    let text = "# who answers\n\nb.c[0]=x=y\nb.c[1].d:int=7\nb.c[1].e:nil=\na=1\\n2\\\\\n\\e:struct=\n\\#\\.:list=\n.\n";
    let entry = Value::from([("d", Value::from(7)), ("e", Value::Nil)]);
    let value = Value::from([
        ("b", Value::from([("c", Value::from(vec!["x=y".into(), entry]))])),
        ("a", "1\n2\\".into()),
        ("", Value::empty_struct()),
        ("#.", Value::List(Vec::new())),
    ]);
    assert_eq!(read(text), Ok(value));
    for bad in [
        ".\n",
        "a=1\n",
        "a=1\n.",
        "a=1\n.\nb=2\n",
        "a\n.\n",
        "a:=1\n.\n",
        "a:color=red\n.\n",
        "a:int=one\n.\n",
        "a:nil=x\n.\n",
        "a=1\na.b=2\n.\n",
        "a.b=2\na=1\n.\n",
        "a:list=\na[0]=1\n.\n",
        "a[1]=1\n.\n",
        "a[0]=1\na[2]=1\n.\n",
        "a[00]=1\n.\n",
        "a[-1]=1\n.\n",
        "a[0]b=1\n.\n",
        ".a=1\n.\n",
        "a..b=1\n.\n",
        "\\eb=1\n.\n",
        "a=1\\\n.\n",
    ] {
        assert!(
            matches!(read(bad).unwrap_err().reason, DecodeReason::Grammar(_)),
            "{bad:?}: {:?}",
            read(bad)
        );
    }
    assert_eq!(read("a=1\na=1\n.\n").unwrap_err().reason, DecodeReason::DuplicateKey);
}

#[test]
fn each_form_of_xml_rpc_has_its_value() {
    let date = Value::DateTime("19980717T14:08:55".parse().unwrap());
    for (text, value) in [
        ("<value></value>", Value::from("")),
        ("<value/>", "".into()),
        ("<value> </value>", " ".into()),
        ("<value>bare &lt;text&#62; &#x20AC;</value>", "bare <text> €".into()),
        ("<value>a<!-- no -->b<![CDATA[<c>]]></value>", "ab<c>".into()),
        ("<value>a\r\nb\rc&#13;d</value>", "a\nb\nc\rd".into()),
        ("<value><string/></value>", "".into()),
        ("<value>\n <i4>-7</i4>\n</value>", (-7).into()),
        ("<value><int>+7</int></value>", 7.into()),
        ("<value><i8>9007199254740993</i8></value>", 9_007_199_254_740_993_i64.into()),
        ("<value><double>-1.5e3</double></value>", (-1500.0).into()),
        ("<value><boolean>1</boolean></value>", true.into()),
        ("<value><nil/></value>", Value::Nil),
        ("<value><base64>aGVs\n bG8=</base64></value>", b"hello".to_vec().into()),
        ("<value><dateTime.iso8601>19980717T14:08:55</dateTime.iso8601></value>", date),
        ("<value><array><data/></array></value>", Value::List(Vec::new())),
        ("<value type='x'><struct></struct></value>", Value::empty_struct()),
        ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- c --> <value>x</value> \n<!-- c -->", "x".into()),
    ] {
        assert_eq!(xml(text), Ok(value), "{text}");
    }
}

#[test]
fn what_is_not_xml_rpc_is_refused() {
    for text in [
        "",
        "text",
        "<value>",
        "<value></int>",
        "<string>x</string>",
        "<value>x</value><value>y</value>",
        "<value>x</value>junk",
        "<value>x<int>1</int></value>",
        "<value><int>1</int>x</value>",
        "<value><int>1</int><int>2</int></value>",
        "<value><int></int></value>",
        "<value><int> 1</int></value>",
        "<value><int>2147483648</int></value>",
        "<value><i8>9223372036854775808</i8></value>",
        "<value><double>inf</double></value>",
        "<value><double>1e999</double></value>",
        "<value><boolean>true</boolean></value>",
        "<value><nil>x</nil></value>",
        "<value><base64>a</base64></value>",
        "<value><dateTime.iso8601>1998-07-17</dateTime.iso8601></value>",
        "<value><array></array></value>",
        "<value><array><value>1</value></array></value>",
        "<value><struct><member><value/><name>a</name></member></struct></value>",
        "<value><unknown/></value>",
        "<value>&unknown;</value>",
        "<value>&#0;</value>",
        "<value>&#1;</value>",
        "<value>\u{1}</value>",
        "<value><?php x?></value>",
        "<value><string><int>1</int></string></value>",
        "<!DOCTYPE value [<!ENTITY a \"b\">]><value>&a;</value>",
        "<value/><?xml version=\"1.0\"?>",
    ] {
        assert!(is_refused(text), "{text}: {:?}", xml(text));
    }
    let twice = "<value><struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct></value>";
    assert_eq!(xml(twice), Err(DecodeReason::DuplicateKey));
    assert_eq!(xml("<?xml version=\"1.0\" encoding=\"latin1\"?><value/>"), Err(DecodeReason::Encoding));
    assert_eq!(XmlRpc.decode(b"<value>\xe9</value>", &Limits::default()).unwrap_err().at, 7);
}

#[test]
fn calls_responses_and_faults_round_trip() {
    let limits = Limits::default();
    let call = Call {
        method: "a.b:c/d_1".into(),
        params: vec![1.into(), Value::Nil, vec![Value::from("<")].into()],
    };
    assert_eq!(Call::from_xml(&call.to_xml().unwrap(), &limits), Ok(call));
    let bare = b"<methodCall><methodName>x</methodName></methodCall>";
    assert_eq!(Call::from_xml(bare, &limits), Ok(Call { method: "x".into(), params: Vec::new() }));
    for response in [Ok(Value::from(7)), Err(Fault { code: -1, text: "no <way>".into() })].map(Response) {
        assert_eq!(Response::from_xml(&response.to_xml().unwrap(), &limits), Ok(response));
    }
    assert!(Call { method: "a b".into(), params: Vec::new() }.to_xml().is_err());
    for bad in [
        "<methodCall><methodName>a b</methodName></methodCall>",
        "<methodCall><params/></methodCall>",
        "<methodResponse><params/></methodResponse>",
        "<methodResponse><params><param><value/></param><param><value/></param></params></methodResponse>",
        "<methodResponse><fault><value>x</value></fault></methodResponse>",
    ] {
        assert!(
            Call::from_xml(bad.as_bytes(), &limits).is_err()
                && Response::from_xml(bad.as_bytes(), &limits).is_err()
        );
    }
}

#[test]
fn a_request_that_cannot_be_read_has_the_fault_code_for_it() {
    let code = |bytes: &[u8]| Fault::from(Call::from_xml(bytes, &Limits::default()).unwrap_err()).code;
    assert_eq!(code(b"<methodCall"), Fault::PARSE);
    assert_eq!(code(b"<methodCall>"), Fault::PARSE);
    assert_eq!(code(b"\xff"), Fault::ENCODING);
    assert_eq!(code(b"<methodCall><methodName>\x01"), Fault::CHARACTER);
    assert_eq!(code(b"<value/>"), Fault::INVALID_REQUEST);
}

fn vectors() -> Vec<(String, Vec<u8>, Vec<Value>)> {
    let list: Value =
        serde_json::from_str(include_str!("../testdata/python_xmlrpc.json")).expect("the vectors are values");
    let text = |v: &Value, name| v.get(name).and_then(Value::as_text).expect("text").to_owned();
    let params = |v: &Value| v.get("params").and_then(Value::as_list).expect("a list").to_vec();
    let vector = |v: &Value| (text(v, "name"), text(v, "xml").into_bytes(), params(v));
    list.as_list().expect("a list").iter().map(vector).collect()
}

#[test]
fn what_python_wrote_is_read_as_python_meant_it() {
    assert_eq!(vectors().len(), 8);
    for (name, xml, params) in vectors() {
        let call = Call::from_xml(&xml, &Limits::default());
        assert_eq!(call, Ok(Call { method: format!("test.{name}"), params }));
    }
}

#[test]
#[ignore = "needs python3"]
fn python_reads_what_we_write_as_we_mean_it() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let python = |what: &str, input: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/python_xmlrpc.py");
        let mut command = Command::new("python3");
        let mut child = command
            .args([script, what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("python3 reads");
        let output = child.wait_with_output().expect("python3 ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(
        python("vectors", ""),
        include_str!("../testdata/python_xmlrpc.json"),
        "the vectors are of this Python"
    );

    let mut rng = Rng::new(5);
    let params: Vec<Vec<Value>> = (0..300).map(|_| vec![any_value(&mut rng, 4)]).collect();
    let write = |params: &Vec<Value>| {
        Call { method: "test".into(), params: params.clone() }.to_xml().expect("it is written")
    };
    let documents: Vec<String> = params.iter().map(|p| String::from_utf8(write(p)).expect("text")).collect();
    let answer = python("read", &serde_json::to_string(&documents).expect("json"));
    let read: Vec<Vec<Value>> = serde_json::from_str(&answer).expect("values");
    assert_eq!(read, params);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_are_a_value_in_one_form_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[1][..], &bytes].concat();
        if let Ok(value) = Binary.decode(&bytes, &Limits::default()) {
            prop_assert_eq!(Binary.encode(&value), Ok(bytes));
        }
    }

    #[test]
    fn a_binary_value_has_one_form(choices in proptest::collection::vec(0_u8..13, 0..60)) {
        // mostly tags and small numbers, so that much of it parses
        let bytes = [&[1][..], &choices].concat();
        for end in 1..=bytes.len() {
            if let Ok(value) = Binary.decode(&bytes[..end], &Limits::default()) {
                prop_assert_eq!(Binary.encode(&value), Ok(bytes[..end].to_vec()));
            }
        }
    }

    #[test]
    fn any_lines_are_read_or_refused_without_panic(text in "[a-c.\\[\\]:=#\\\\0-9\n]{0,80}") {
        let limits = Limits::default();
        if let Ok(value) = NameValue.decode(text.as_bytes(), &limits) {
            let bytes = NameValue.encode(&value).unwrap();
            prop_assert_eq!(NameValue.decode(&bytes, &limits), Ok(value));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_panic(parts in proptest::collection::vec(prop::sample::select(&[
        "<value>", "</value>", "<struct>", "</struct>", "<member>", "</member>", "<name>", "</name>", "<array>", "</array>",
        "<data>", "</data>", "<int>", "</int>", "<nil/>", "1", "&lt;", "&", "<![CDATA[", "]]>", "<!--", "-->", "<", "é", "\0",
    ][..]), 0..30)) {
        let text = parts.concat();
        for text in [text.clone(), format!("<value>{text}</value>"), format!("<value><string>{text}</string></value>")] {
            if let Ok(value) = xml(&text) {
                let written = XmlRpc.encode(&value).expect("what was read can be written");
                prop_assert_eq!(XmlRpc.decode(&written, &Limits::default()), Ok(value));
            }
        }
    }

    #[test]
    fn values_pass_through_json(seed in any::<u64>()) {
        let value = any_value(&mut Rng::new(seed), 4);
        let json = serde_json::to_string(&value).expect("json");
        prop_assert_eq!(serde_json::from_str::<Value>(&json).expect("a value"), value);
    }
}
