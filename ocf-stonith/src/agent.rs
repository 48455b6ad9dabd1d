//! The protocol of Debian's and Red Hat's fence agents, without any input or output.
//!
//! An agent is a program. It reads `name=value` lines until end of file, does what the line `action=` says, and exits
//! with 0 for success, 1 for failure; for `status` with 0 for on and 2 for off. `metadata` prints what it understands.
//!
//! ```
//! use ocf_stonith::agent;
//! let input = agent::input("off", [("ip", "192.0.2.7"), ("password", "\"quoted\"")])?;
//! assert_eq!(input, "action=off\nip=192.0.2.7\npassword=\"\"quoted\"\"\n");
//! # Ok::<(), agent::InputError>(())
//! ```

mod check;
mod metadata;

pub use metadata::{AgentAction, Metadata, MetadataError, Parameter};

use crate::ReadBack;

/// The longest text kept of what an agent said, in bytes.
pub const DETAIL_MAX: usize = 300;

/// A parameter that the line protocol cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A name is letters, digits, `_` and `-`.
    #[error("parameter name {0:?} has other characters than letters, digits, '_' and '-'")]
    Name(String),
    /// A value is one line. The value is not repeated here: it may be a secret.
    #[error("the value of parameter {0} has a line break or another control character")]
    Value(String),
}

/// What an agent reads on its standard input. A later line of the same name wins, in the agent.
///
/// # Errors
/// See [`InputError`].
pub fn input<'a>(
    action: &str,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<String, InputError> {
    let mut lines = format!("action={action}\n");
    for (name, value) in parameters {
        check_parameter(name, value)?;
        // an agent strips white space around a line, then one pair of quotes around the value
        let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
        let quote = if quoted || value.trim() != value { "\"" } else { "" };
        lines.extend([name, "=", quote, value, quote, "\n"]);
    }
    Ok(lines)
}

/// Checks that the line protocol can carry a parameter.
///
/// # Errors
/// See [`InputError`].
pub fn check_parameter(name: &str, value: &str) -> Result<(), InputError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(InputError::Name(name.to_owned()));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(InputError::Value(name.to_owned()));
    }
    Ok(())
}

/// The plugs that a `list` action printed, each with its other name, without empty ones and `N/A`; at most
/// [`HOSTS_MAX`](crate::HOSTS_MAX).
#[must_use]
pub fn listed(stdout: &[u8]) -> Vec<std::sync::Arc<str>> {
    let text = String::from_utf8_lossy(stdout);
    let words = text.lines().flat_map(|line| line.splitn(3, ',').take(2)).map(str::trim);
    let plugs = words.filter(|w| !w.is_empty() && *w != "N/A" && !w.contains(char::is_control));
    plugs.take(crate::HOSTS_MAX).map(std::sync::Arc::from).collect()
}

/// What the exit of a `status` action says; [`ReadBack::NotRead`] if it says nothing.
///
/// 2 means off, but an interpreter that cannot read the agent exits with 2 as well: so 2 counts only if the agent said
/// so in words, or had nothing to complain about.
#[must_use]
pub fn status_of(code: i32, stdout: &[u8], stderr: &[u8]) -> ReadBack {
    let words: Vec<String> = String::from_utf8_lossy(stdout)
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::to_ascii_lowercase)
        .collect();
    let says = |word: &str| words.iter().any(|w| w == word);
    match code {
        0 if !says("off") => ReadBack::On,
        2 if !says("on") && (says("off") || stderr.trim_ascii().is_empty()) => ReadBack::Off,
        _ => ReadBack::NotRead,
    }
}

/// The end of what an agent said, on one line, at most [`DETAIL_MAX`] bytes, with every one of `secrets` blackened.
#[must_use]
pub fn detail(stdout: &[u8], stderr: &[u8], secrets: &[String]) -> String {
    let said = if stderr.trim_ascii().is_empty() { stdout } else { stderr };
    let mut text = String::from_utf8_lossy(said).into_owned();
    let mut longest_first: Vec<&str> = secrets.iter().map(|s| s.trim()).filter(|s| !s.is_empty()).collect();
    longest_first.sort_by_key(|s| std::cmp::Reverse(s.len()));
    for secret in longest_first {
        text = text.replace(secret, "***");
    }
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    let mut start = line.len().saturating_sub(DETAIL_MAX);
    while !line.is_char_boundary(start) {
        start += 1;
    }
    line[start..].to_owned()
}

/// The Debian package that has a fence agent of this name, if it is a known one.
#[must_use]
pub fn package_of(agent: &str) -> Option<&'static str> {
    let name = agent.rsplit('/').next().unwrap_or(agent);
    match name {
        "fence_virt" | "fence_xvm" => Some("fence-virt"),
        "fence_legacy" | "fence_watchdog" => Some("pacemaker"),
        _ if name.starts_with("fence_") => Some("fence-agents"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_cannot_smuggle_in_another_line() {
        assert_eq!(input("off", [("ip", "a\naction=on")]), Err(InputError::Value("ip".into())));
        assert_eq!(input("off", [("a=b", "c")]), Err(InputError::Name("a=b".into())));
        assert!(!InputError::Value("password".into()).to_string().contains("hunter2"));
    }

    #[test]
    fn an_interpreter_that_fails_with_2_is_not_a_node_that_is_off() {
        let broken = b"python3: can't open file '/usr/sbin/fence_x': [Errno 2] No such file or directory";
        assert_eq!(status_of(2, b"", broken), ReadBack::NotRead);
        assert_eq!(status_of(2, b"Status: OFF\n", b"WARNING: something"), ReadBack::Off);
        assert_eq!(status_of(2, b"", b""), ReadBack::Off);
        assert_eq!(status_of(0, b"Status: ON", b""), ReadBack::On);
        assert_eq!(status_of(0, b"Status: OFF", b""), ReadBack::NotRead);
        assert_eq!(status_of(1, b"Status: OFF", b""), ReadBack::NotRead);
        assert_eq!(status_of(2, b"Status: ON", b""), ReadBack::NotRead);
    }

    #[test]
    fn secrets_and_control_characters_do_not_reach_a_log() {
        let text = detail(
            b"",
            b"login \x1b[1mroot\n with hunter22 failed\n",
            &["hunter2".into(), "hunter22".into()],
        );
        assert_eq!(text, "login [1mroot with *** failed");
        assert_eq!(detail(&[b'x'; 5000], b" ", &[]).len(), DETAIL_MAX);
        assert!(detail("ä".repeat(400).as_bytes(), b"", &[]).len() <= DETAIL_MAX);
    }

    /// What an agent makes of its input, after the published behaviour of the fence agents' library.
    fn read_like_an_agent(input: &str) -> Vec<(String, String)> {
        let lines = input.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines
            .map(|line| {
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                let inner = (value.len() > 1).then(|| value.strip_prefix('"')?.strip_suffix('"')).flatten();
                (name.to_owned(), inner.unwrap_or(value).to_owned())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn an_agent_reads_every_value_as_it_was_meant(value in "[ -~\tà-ü]{0,24}") {
            let text = input("off", [("ip", value.as_str())]).unwrap();
            prop_assert_eq!(read_like_an_agent(&text)[1].clone(), ("ip".to_owned(), value));
        }

        #[test]
        fn any_output_gives_a_bounded_line(out in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let text = detail(&out, b"", &[]);
            prop_assert!(text.len() <= DETAIL_MAX && !text.contains(char::is_control));
        }
    }
}
