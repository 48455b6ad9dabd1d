//! Forms made from a description, with no code for the plug-in that it describes: on a terminal ([`ask`]) and in HTML
//! ([`html`], [`from_pairs`]).
//!
//! Both show what they know how to show; a special type that they do not know is asked for as its basic type.
//!
//! ```
//! use pils::field::{Basic, Field, Fields};
//! use pils::{ConfigErrors, Value};
//! let fields = Fields(vec![
//!     Field::new("tty", Basic::String).special("tty").required().label("Serial line"),
//!     Field::new("speed", Basic::Integer).range(300, 115_200).default(9600),
//! ]);
//! let mut shown = Vec::new();
//! let answers = "ttyS0\n/dev/ttyS0\n\n";
//! let config = pils::form::ask(&fields, None, "en", &mut answers.as_bytes(), &mut shown)?;
//! assert_eq!(config.unwrap().to_string(), r#"{"speed": 9600, "tty": "/dev/ttyS0"}"#);
//! assert!(String::from_utf8(shown)?.contains("ttyS0: is no absolute path; begin with a slash"));
//!
//! let page = pils::form::html(&fields, &Value::empty_struct(), &ConfigErrors::default(), "en");
//! assert!(page.contains(r#"<input type="number" name="speed" value="9600" min="300" max="115200" step="1">"#));
//! let sent = [("tty".to_owned(), "/dev/ttyS1".to_owned()), ("speed".to_owned(), String::new())];
//! let config = pils::form::from_pairs(&fields, &Value::empty_struct(), &sent);
//! assert_eq!(fields.validate(&config)?.get("speed"), Some(&Value::Int(9600)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod html;
mod terminal;

pub use html::{ROWS_MAX, from_pairs, html};
pub use terminal::{ANSWERS_MAX, LINE_MAX, ask};
