//! Goal: a plug-in's description is enough to check, show, ask for and store its configuration. Method: descriptions that
//! no code here was written for, through every codec, both forms and the schema; proptest for what comes from outside.

use parking_lot::Mutex;
use pils::codec::{Binary, LiXml, Limits, NameValue, XmlRpc};
use pils::field::{Basic, Class, Configurable, DEPTH_MAX, Field, Fields, Identity, Simple, Text};
use pils::testing::{any_fields, check_configurable};
use pils::{ConfigErrors, Rng, Value, ValueCodec, form};
use proptest::prelude::*;

/// A description as a plug-in in another language would send it: with the words of the founding documents.
const FOREIGN: &str = r#"<list>
  <LI><hash>
    <LI key="fieldname">ipaddr</LI> <LI key="label">IP address</LI> <LI key="basictype">string</LI>
    <LI key="specialtype">IPv4</LI> <LI key="length" type="int">15</LI>
    <LI key="regex">[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}</LI>
    <LI key="short_text">Where the switch listens</LI> <LI key="required">1</LI> <LI key="colour">red</LI>
  </hash></LI>
  <LI><hash>
    <LI key="fieldname">outlets</LI> <LI key="class">struct</LI> <LI key="isarray" type="boolean">1</LI>
    <LI key="minelems">1</LI> <LI key="maxelems" type="int">2</LI> <LI key="shorttext">What is plugged in where</LI>
    <LI key="fields"><list>
      <LI><hash><LI key="fieldname">host</LI><LI key="specialtype">hostname</LI><LI key="required">yes</LI></hash></LI>
      <LI><hash><LI key="fieldname">mode</LI><LI key="basictype">enum</LI><LI key="default">reboot</LI>
        <LI key="choices"><list><LI>off</LI><LI><hash><LI key="value">reboot</LI><LI key="label"><hash><LI key="de">neu starten</LI></hash></LI></hash></LI></list></LI>
      </hash></LI>
    </list></LI>
  </hash></LI>
</list>"#;

fn foreign() -> Fields {
    let value = LiXml.decode(FOREIGN.as_bytes(), &Limits::default()).expect("it is li-xml");
    Fields::from_value(&value).expect("it is a description")
}

#[test]
fn a_foreign_description_is_read_and_checks_configurations() {
    let fields = foreign();
    let address = fields.get("ipaddr").unwrap();
    assert!(address.required && address.title("en") == "IP address");
    let outlet = |host: &str| Value::from([("host", Value::from(host))]);
    let good =
        Value::from([("ipaddr", Value::from("192.0.2.7")), ("outlets", Value::from(vec![outlet("alpha")]))]);
    let complete = fields.validate(&good).unwrap();
    assert_eq!(
        complete.to_string(),
        r#"{"ipaddr": "192.0.2.7", "outlets": [{"host": "alpha", "mode": "reboot"}]}"#
    );
    let mut odd = outlet("-x");
    if let Value::Struct(members) = &mut odd {
        members.insert("mode".into(), "explode".into());
    }
    let many = Value::from(vec![odd, outlet("b"), Value::empty_struct()]);
    let bad = Value::from([("ipaddr", Value::from("192.0.2.7 or so")), ("outlets", many)]);
    let errors = fields.validate(&bad).unwrap_err();
    let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        ["ipaddr", "ipaddr", "outlets", "outlets[0].host", "outlets[0].mode", "outlets[2].host"]
    );
    assert!(
        errors.to_string().contains("outlets[0].mode = explode: is none of the choices; choose off, reboot")
    );
}

#[test]
fn a_pattern_is_anchored_and_a_hostile_one_is_refused() {
    let of = |pattern: &str| Fields(vec![Field::new("a", Basic::String).regex(pattern)]);
    let is_right =
        |pattern, text: &str| of(pattern).validate(&Value::from([("a", Value::from(text))])).is_ok();
    assert!(is_right("a|ab", "ab") && !is_right("a|ab", "abc") && !is_right("a|b", "xb"));
    assert!(!is_right("(a{0,1000}){0,1000}", "a"), "a pattern that would take much memory checks nothing");
    for pattern in ["(", "(a{0,1000}){0,1000}"] {
        let value = of(pattern).to_value();
        let errors = Fields::from_value(&value).unwrap_err();
        assert_eq!(errors.0[0].path, "[0].regex", "{errors}");
    }
    assert!(is_right("(a+)+", &"a".repeat(5000)), "no pattern takes more than linear time");
}

#[test]
fn a_description_that_is_wrong_is_refused_with_every_mistake() {
    let text = r#"<list>
      <LI>no struct</LI>
      <LI><hash><LI key="label">x</LI></hash></LI>
      <LI><hash><LI key="fieldname">a</LI><LI key="basictype">colour</LI><LI key="length">many</LI></hash></LI>
      <LI><hash><LI key="fieldname">a</LI><LI key="basictype">enum</LI></hash></LI>
      <LI><hash><LI key="fieldname">b</LI><LI key="class">union</LI><LI key="required">perhaps</LI></hash></LI>
    </list>"#;
    let value = LiXml.decode(text.as_bytes(), &Limits::default()).unwrap();
    let errors = Fields::from_value(&value).unwrap_err();
    let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "[0]",
            "[1].fieldname",
            "[2].basictype",
            "[2].length",
            "[3].choices",
            "[3].fieldname",
            "[4].required",
            "[4].class"
        ]
    );
    let deep = (0..=DEPTH_MAX).fold(Vec::new(), |inner, _| vec![Field::structure("s", inner)]);
    assert!(Fields::from_value(&Fields(deep).to_value()).is_err());
}

#[test]
fn what_must_be_unique_is_compared_by_group() {
    let unique = |name: &str, group: &str| {
        let simple = Simple { unique: Some(group.into()), ..Simple::default() };
        Field { class: Class::Simple(Box::new(simple)), ..Field::new(name, Basic::String) }
    };
    let fields = Fields(vec![
        unique("ip", "address"),
        unique("nic", "address"),
        Field::new("id", Basic::String).unique().secret(),
    ]);
    let one = |ip: &str, nic: &str, id: &str| {
        Value::from([("ip", Value::from(ip)), ("nic", nic.into()), ("id", id.into())])
    };
    let (a, b, c) = (one("1", "x", "p"), one("1", "y", "q"), one("1", "x", "q"));
    assert_eq!(fields.check_unique(&[("a", &a), ("b", &b)]), Ok(()));
    let errors = fields.check_unique(&[("a", &a), ("b", &b), ("c", &c)]).unwrap_err();
    let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["c.ip+nic", "c.id"]);
    assert!(!errors.to_string().contains("\"q\""), "a secret is not told: {errors}");
}

#[test]
fn a_schema_says_what_a_description_says() {
    let schema = foreign().json_schema("power switch", "de");
    let json = serde_json::to_value(&schema).unwrap();
    assert_eq!(json["required"], serde_json::json!(["ipaddr", "outlets"]));
    assert_eq!(json["additionalProperties"], false);
    assert_eq!(json["properties"]["ipaddr"]["format"], "ipv4");
    assert_eq!(json["properties"]["ipaddr"]["maxLength"], 15);
    let outlets = &json["properties"]["outlets"];
    assert_eq!((&outlets["type"], &outlets["maxItems"]), (&"array".into(), &2.into()));
    assert_eq!(outlets["items"]["properties"]["mode"]["enum"], serde_json::json!(["off", "reboot"]));
    let secret = Fields(vec![Field::new("key", Basic::String).secret().default("hunter2")]);
    assert!(!serde_json::to_string(&secret.json_schema("x", "en")).unwrap().contains("hunter2"));
}

/// Types answers at a form as a person would who knows the configuration.
fn answers(fields: &Fields, config: &Value) -> String {
    let mut lines = String::new();
    for field in &fields.0 {
        let value = config.get(&field.name);
        if field.array.is_some() {
            for item in value.and_then(Value::as_list).unwrap_or_default() {
                one_answer(&field.class, Some(item), true, &mut lines);
            }
            let full = field.array.and_then(|count| count.max);
            if full != Some(value.and_then(Value::as_list).map_or(0, <[Value]>::len)) {
                lines.push('\n');
            }
        } else {
            one_answer(&field.class, value, !field.required, &mut lines);
        }
    }
    lines
}

fn one_answer(class: &Class, value: Option<&Value>, is_asked: bool, lines: &mut String) {
    match class {
        Class::Simple(simple) if simple.read_only => {}
        Class::Simple(_) => {
            let text =
                value.map(|value| value.as_text().map_or_else(|| value.to_string(), ToOwned::to_owned));
            *lines += &format!("{}\n", text.unwrap_or_else(|| "-".into()));
        }
        Class::Struct(fields) => {
            if is_asked {
                *lines += if value.is_some() { "y\n" } else { "n\n" };
            }
            if let Some(value) = value {
                *lines += &answers(fields, value);
            }
        }
    }
}

#[test]
fn a_terminal_form_asks_for_a_plug_in_it_has_never_seen() {
    let outlet = |host: &str, mode: &str| Value::from([("host", Value::from(host)), ("mode", mode.into())]);
    let outlets = Value::from(vec![outlet("alpha", "off"), outlet("beta", "reboot")]);
    let config = Value::from([("ipaddr", Value::from("192.0.2.7")), ("outlets", outlets)]);
    let mut shown = Vec::new();
    let typed = answers(&foreign(), &config);
    let got = form::ask(&foreign(), None, "en", &mut typed.as_bytes(), &mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!(got, Some(config.clone()), "{shown}");
    assert!(shown.contains("IP address (IPv4): ") && shown.contains("What is plugged in where"), "{shown}");

    // what is there is kept by empty answers; a wrong answer is asked for again
    let typed = "192.0.2\n\n\n";
    let mut shown = Vec::new();
    let got = form::ask(&foreign(), Some(&config), "en", &mut typed.as_bytes(), &mut shown).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!(got, Some(config), "{shown}");
    assert!(shown.contains("192.0.2: is no IPv4 address"), "{shown}");
    assert_eq!(
        form::ask(&foreign(), None, "en", &mut "192.0.2.7\n".as_bytes(), &mut Vec::new()).unwrap(),
        None
    );
    let never = "x\n".repeat(1000);
    assert!(form::ask(&foreign(), None, "en", &mut never.as_bytes(), &mut Vec::new()).is_err());
}

/// The inputs of a page with what is filled in, as a browser would send them.
fn submit(page: &str) -> Vec<(String, String)> {
    let page = page
        .replace("<option value", "\n<option value")
        .replace("<input", "\n<input")
        .replace("<select", "\n<select");
    let attribute = |tag: &str, name: &str| {
        let rest = tag.split_once(&format!(" {name}=\""))?.1;
        let text = rest.split_once('"')?.0;
        let text =
            text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
        Some(text.replace("&amp;", "&"))
    };
    let (mut pairs, mut select) = (Vec::new(), String::new());
    for line in page.lines() {
        let tag = line.split('>').next().unwrap_or_default();
        let is = |word: &str| tag.ends_with(&format!(" {word}")) || tag.contains(&format!(" {word} "));
        if tag.starts_with("<select") && !is("disabled") {
            select = attribute(tag, "name").unwrap_or_default();
        } else if tag.starts_with("<option") && is("selected") {
            pairs.push((select.clone(), attribute(tag, "value").unwrap_or_default()));
        } else if tag.starts_with("<input")
            && !is("disabled")
            && (!tag.contains("\"checkbox\"") || is("checked"))
        {
            pairs.push((
                attribute(tag, "name").unwrap_or_default(),
                attribute(tag, "value").unwrap_or_default(),
            ));
        }
    }
    pairs
}

#[test]
fn an_html_form_shows_and_returns_a_plug_in_it_has_never_seen() {
    let outlet = |host: &str| Value::from([("host", Value::from(host)), ("mode", "off".into())]);
    let config = Value::from([
        ("ipaddr", Value::from("192.0.2.7")),
        ("outlets", Value::from(vec![outlet("alpha"), outlet("beta")])),
    ]);
    let page = form::html(&foreign(), &config, &ConfigErrors::default(), "de");
    assert!(page.contains(">neu starten</option>"), "{page}");
    let sent = submit(&page);
    assert!(sent.contains(&("outlets[1].host".to_owned(), "beta".to_owned())), "{sent:?}");
    assert_eq!(form::from_pairs(&foreign(), &config, &sent), config, "an unchanged form changes nothing");

    let wrong = Value::from([("ipaddr", Value::from("<script>\"'&"))]);
    let errors = foreign().validate(&wrong).unwrap_err();
    let page = form::html(&foreign(), &wrong, &errors, "en");
    assert!(
        !page.contains("<script>") && page.contains("value=\"&lt;script&gt;&quot;&#39;&amp;\""),
        "{page}"
    );
    assert!(page.contains("role=\"alert\">is no IPv4 address"), "{page}");
}

#[test]
fn a_secret_never_reaches_a_page_and_survives_an_empty_answer() {
    let fields = Fields(vec![
        Field::new("user", Basic::String),
        Field::new("password", Basic::String).special("password").required(),
    ]);
    let config = Value::from([("user", Value::from("admin")), ("password", "hunter2".into())]);
    let page = form::html(&fields, &config, &ConfigErrors::default(), "en");
    assert!(!page.contains("hunter2") && page.contains("type=\"password\""), "{page}");
    assert_eq!(form::from_pairs(&fields, &config, &submit(&page)), config);
    let mut shown = Vec::new();
    let got = form::ask(&fields, Some(&config), "en", &mut "\n\n".as_bytes(), &mut shown).unwrap();
    assert_eq!(got, Some(config));
    assert!(!String::from_utf8(shown).unwrap().contains("hunter2"));
}

struct Switch(Mutex<Value>);

impl Configurable for Switch {
    fn identity(&self) -> Identity {
        Identity {
            name: "switch".into(),
            version: "1.0".into(),
            short_text: "A switch".into(),
            ..Identity::default()
        }
    }

    fn fields(&self) -> Fields {
        foreign()
    }

    fn configure(&self, config: &Value) -> Result<(), ConfigErrors> {
        *self.0.lock() = self.validate(config)?;
        Ok(())
    }

    fn current(&self) -> Value {
        self.0.lock().clone()
    }
}

#[test]
fn a_configurable_plug_in_conforms() {
    let outlets = Value::from(vec![Value::from([("host", Value::from("alpha"))])]);
    let good = Value::from([("ipaddr", Value::from("192.0.2.7")), ("outlets", outlets)]);
    check_configurable(&Switch(Mutex::new(Value::empty_struct())), &good);
}

#[test]
fn text_in_several_languages_survives() {
    let text = Text::default().with("de", "Anschluss").with("fr", "prise");
    let fields = Fields(vec![Field::new("a", Basic::String).label(text)]);
    assert_eq!(Fields::from_value(&fields.to_value()), Ok(fields));
}

proptest! {
    #[test]
    fn a_description_passes_through_each_codec(seed in any::<u64>()) {
        let fields = any_fields(&mut Rng::new(seed), 3);
        for codec in [&Binary as &dyn ValueCodec, &XmlRpc, &LiXml, &NameValue] {
            let bytes = codec.encode(&fields.to_value()).unwrap();
            let back = codec.decode(&bytes, &Limits::default()).unwrap();
            prop_assert_eq!(Fields::from_value(&back), Ok(fields.clone()), "{}", codec.name());
        }
    }

    #[test]
    fn any_value_is_a_description_or_is_refused(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let value = pils::testing::any_value(&mut rng, 4);
        if let Ok(fields) = Fields::from_value(&value) {
            prop_assert_eq!(Fields::from_value(&fields.to_value()), Ok(fields));
        }
        // and any value is a configuration or is refused
        let fields = any_fields(&mut rng, 3);
        if let Ok(complete) = fields.validate(&value) {
            prop_assert_eq!(fields.validate(&complete), Ok(complete));
        }
    }

    #[test]
    fn any_description_makes_a_page_that_returns_what_it_shows(seed in any::<u64>()) {
        let fields = any_fields(&mut Rng::new(seed), 3);
        let page = form::html(&fields, &Value::empty_struct(), &ConfigErrors::default(), "en");
        let back = form::from_pairs(&fields, &Value::empty_struct(), &submit(&page));
        prop_assert!(matches!(back, Value::Struct(_)));
        prop_assert!(!page.contains("<b>"), "texts are escaped");
    }
}
