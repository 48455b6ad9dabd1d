use core::time::Duration;
use ocf_resource::driver::Mail;
use pils::ConfigErrors;
use serde::Deserialize;
use std::path::PathBuf;

/// What is told outside the cluster, and who outside is listened to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutsideConfig {
    /// A folder whose programs are run whenever something happens, with all that is known as JSON on their standard input; an
    /// absolute path. None by default.
    pub programs: Option<PathBuf>,
    /// Milliseconds that one of them may take: 100 to 3,600,000. Default 30000.
    pub programs_timeout_ms: u64,
    /// Who gets mail of failures, fencing and takeovers. Nobody by default.
    pub mail: Option<MailEntry>,
    /// Where applications of this machine say that they are well. Nowhere by default.
    pub heartbeats: Option<HeartbeatEntry>,
}

/// Mail of what a person should know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailEntry {
    /// From which address.
    pub from: String,
    /// To which addresses, at least one.
    pub to: Vec<String>,
    /// The program that takes letters, called with `-i -t`; an absolute path. Default `/usr/sbin/sendmail`.
    #[serde(default = "sendmail")]
    pub program: PathBuf,
}

/// Heartbeats of applications.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatEntry {
    /// The Unix socket, an absolute path. An application that registers under the name of a resource which runs here is that
    /// resource: when it dies or falls silent, the resource has failed.
    pub socket: PathBuf,
    /// Milliseconds that an application may be silent if it does not say so itself: 10 to 86,400,000. Default 10000.
    #[serde(default = "ten_seconds")]
    pub interval_ms: u64,
    /// Numbers of users, beside root and the node's own, whose applications may register. If there are any, here or in
    /// `may_reboot`, everybody may connect, and whoever is not named is refused. None by default.
    #[serde(default)]
    pub users: Vec<u32>,
    /// Numbers of users, beside root, whose applications may ask for a reboot of the machine when they fail. The node only says
    /// that it was asked for: a program of `programs` does it.
    #[serde(default)]
    pub may_reboot: Vec<u32>,
}

impl Default for OutsideConfig {
    fn default() -> Self {
        Self { programs: None, programs_timeout_ms: 30_000, mail: None, heartbeats: None }
    }
}

fn sendmail() -> PathBuf {
    "/usr/sbin/sendmail".into()
}

const fn ten_seconds() -> u64 {
    10_000
}

impl OutsideConfig {
    /// Time that a program may take.
    pub(crate) const fn programs_timeout(&self) -> Duration {
        Duration::from_millis(self.programs_timeout_ms)
    }

    pub(super) fn check(&self) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        let mut absolute = |name: &str, path: Option<&PathBuf>| {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                errors.push(name, path.display(), "is not an absolute path", "begin it with a slash");
            }
        };
        absolute("programs", self.programs.as_ref());
        absolute("mail.program", self.mail.as_ref().map(|m| &m.program));
        absolute("heartbeats.socket", self.heartbeats.as_ref().map(|h| &h.socket));
        if !(100..=3_600_000).contains(&self.programs_timeout_ms) {
            let fix = "choose what a program needs at worst";
            errors.push("programs_timeout_ms", self.programs_timeout_ms, "is outside 100 to 3600000", fix);
        }
        if let Some(mail) = &self.mail {
            if mail.to.is_empty() {
                errors.push("mail.to", "", "is empty", "name somebody, or remove the section");
            }
            for (name, address) in
                core::iter::once(("mail.from", &mail.from)).chain(mail.to.iter().map(|a| ("mail.to", a)))
            {
                if let Err(error) = Mail::check_address(address) {
                    errors.push(name, address, error.to_string(), "write name@host");
                }
            }
        }
        if let Some(entry) = &self.heartbeats
            && !(10..=86_400_000).contains(&entry.interval_ms)
        {
            let fix = "choose 1000 to 60000";
            errors.push("heartbeats.interval_ms", entry.interval_ms, "is outside 10 to 86400000", fix);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "programs = 'exits'\nprograms_timeout_ms = 1\n\
            mail = { from = 'nobody', to = [], program = 'sendmail' }\n\
            heartbeats = { socket = 'socket', interval_ms = 1 }";
        let config: OutsideConfig = toml::from_str(text).expect("well-formed");
        let told = config.check().to_string();
        let wrong = [
            "programs",
            "mail.program",
            "heartbeats.socket",
            "programs_timeout_ms",
            "mail.to",
            "mail.from",
            "heartbeats.interval_ms",
        ];
        for name in wrong {
            assert!(told.contains(name), "{name} is missing from {told}");
        }
        assert!(OutsideConfig::default().check().into_result().is_ok(), "nothing is wrong with nothing");
    }
}
