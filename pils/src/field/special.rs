//! The special types that this crate knows. Others are allowed: then the basic type, length and pattern have to do.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with `text` as a value of the special type `name`, and what to write. `None` if nothing, or if the type
/// is not known.
pub(super) fn check(name: &str, text: &str) -> Option<(&'static str, &'static str)> {
    let bad = match name {
        "IPv4" if text.parse::<Ipv4Addr>().is_err() => {
            ("is no IPv4 address", "write four numbers from 0 to 255: 192.0.2.1")
        }
        "IPv6" if text.parse::<Ipv6Addr>().is_err() => ("is no IPv6 address", "write it as 2001:db8::1"),
        "IP" if text.parse::<IpAddr>().is_err() => {
            ("is no IP address", "write it as 192.0.2.1 or 2001:db8::1")
        }
        "hostname" if !is_hostname(text) && text.parse::<IpAddr>().is_err() => {
            ("is no host name", "use letters, digits, hyphens and dots: node1.example.com")
        }
        "port" if !text.parse::<u16>().is_ok_and(|port| port > 0) => {
            ("is no port", "choose a number from 1 to 65535")
        }
        "path" | "tty" if !text.starts_with('/') || text.contains('\0') => {
            ("is no absolute path", "begin with a slash")
        }
        "MAC" if !is_mac(text) => ("is no hardware address", "write six bytes: 02:00:5e:00:53:01"),
        "URL" if !is_url(text) => ("is no URL", "write it as https://host/path"),
        "email" if !is_email(text) => ("is no e-mail address", "write it as name@host"),
        "duration" if duration(text).is_none() => ("is no time", "write a number and ms, s, min or h: 20s"),
        _ => return None,
    };
    Some(bad)
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split([':', '-']).count() == 6 && text.split([':', '-']).all(byte)
}

fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && !rest.is_empty()
            && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && is_hostname(host) && !name.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

/// Reads a time as agents write it: `20`, `20s`, `200ms`, `1min`, `1h`. A bare number is seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "" | "s" | "sec" => Some(Duration::from_secs(n)),
        "ms" | "msec" => Some(Duration::from_millis(n)),
        "us" | "usec" => Some(Duration::from_micros(n)),
        "m" | "min" => Some(Duration::from_secs(n.checked_mul(60)?)),
        "h" | "hr" => Some(Duration::from_secs(n.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_special_type_tells_right_from_wrong() {
        for (name, right, wrong) in [
            ("IPv4", "192.0.2.1", "192.0.2"),
            ("IPv6", "2001:db8::1", "192.0.2.1"),
            ("IP", "::1", "localhost"),
            ("hostname", "node-1.example.com.", "-node"),
            ("port", "5405", "0"),
            ("path", "/dev/sda", "dev/sda"),
            ("tty", "/dev/ttyS0", "ttyS0"),
            ("MAC", "02:00:5e:00:53:01", "02:00:5e:00:53"),
            ("URL", "https://host/path", "host/path"),
            ("email", "root@localhost", "root"),
            ("duration", "20s", "20 sec ago"),
        ] {
            assert_eq!(check(name, right), None, "{name} {right}");
            assert!(check(name, wrong).is_some(), "{name} {wrong}");
        }
        assert_eq!(check("colour", "anything"), None, "an unknown type says nothing");
        assert!(check("hostname", &"a".repeat(64)).is_some());
    }
}
