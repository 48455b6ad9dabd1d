//! Asks for the configuration of a plug-in that this program knows nothing about but its description.
//! `cargo run -p pils --example form` on the terminal, `-- --html` for the form of a page, `-- --schema` for a JSON Schema,
//! `-- FILE` for a description of your own in LI-XML.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use pils::codec::{LiXml, Limits, NameValue};
use pils::field::Fields;
use pils::{ConfigErrors, Value, ValueCodec, form};
use std::error::Error;
use std::process::ExitCode;

/// What a plug-in would say of itself.
const SWITCH: &str = r#"<list>
  <LI><hash>
    <LI key="fieldname">ipaddr</LI> <LI key="label">IP address</LI> <LI key="specialtype">IPv4</LI>
    <LI key="short_text">Where the power switch listens</LI> <LI key="required">yes</LI>
  </hash></LI>
  <LI><hash>
    <LI key="fieldname">password</LI> <LI key="specialtype">password</LI> <LI key="length">16</LI>
  </hash></LI>
  <LI><hash>
    <LI key="fieldname">outlets</LI> <LI key="class">struct</LI> <LI key="isarray">yes</LI> <LI key="minelems">1</LI>
    <LI key="short_text">Which node hangs on which outlet</LI>
    <LI key="fields"><list>
      <LI><hash><LI key="fieldname">node</LI><LI key="specialtype">hostname</LI><LI key="required">yes</LI></hash></LI>
      <LI><hash><LI key="fieldname">outlet</LI><LI key="basictype">integer</LI><LI key="min">1</LI><LI key="max">16</LI>
        <LI key="required">yes</LI></hash></LI>
    </list></LI>
  </hash></LI>
</list>"#;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = args.iter().find(|arg| !arg.starts_with("--"));
    let text = file.map_or_else(|| Ok(SWITCH.to_owned()), std::fs::read_to_string)?;
    let fields = Fields::from_value(&LiXml.decode(text.as_bytes(), &Limits::default())?)?;
    if args.iter().any(|arg| arg == "--html") {
        println!("{}", form::html(&fields, &Value::empty_struct(), &ConfigErrors::default(), "en"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.iter().any(|arg| arg == "--schema") {
        println!("{}", serde_json::to_string_pretty(&fields.json_schema("plug-in", "en"))?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("An empty answer keeps what is in brackets, - leaves a field out, ? explains it.");
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let Some(config) = form::ask(&fields, None, "en", &mut input, &mut output)? else {
        eprintln!("\nthe input ended before all was asked for");
        return Ok(ExitCode::FAILURE);
    };
    drop(output);
    println!("\n{}", String::from_utf8(NameValue.encode(&fields.mask(&config))?)?);
    Ok(ExitCode::SUCCESS)
}
