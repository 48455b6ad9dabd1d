use core::net::SocketAddr;
use ocf_comm::rpc::Access;
use ocf_dlm::SPACE_NAME_MAX;
use ocf_groups::GROUP_NAME_MAX;
use pils::ConfigErrors;
use serde::Deserialize;
use std::path::PathBuf;

/// How other programs reach the node: nothing by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Where programs of this machine connect: the path of a socket, or `@name` for an abstract one.
    pub local: Option<String>,
    /// Users, by id, who may connect there besides root and the node's own user, and use the node.
    pub local_users: Vec<u32>,
    /// The same for groups.
    pub local_groups: Vec<u32>,
    /// Who may lock from there, besides root and the node's own user. They may connect, too.
    pub locks: Vec<LockUsers>,
    /// Who may join groups from there, besides root and the node's own user. They may connect, too.
    pub groups: Vec<GroupUsers>,
    /// How long a program may take nothing of what its groups bring while the node waits for it, in milliseconds, before its connection
    /// ends. Default 5000; at most half of the time after which the whole node would be evicted, if members are.
    pub groups_unread_ms: Option<u64>,
    /// Where administration tools post XML-RPC, on the path `/RPC2`: a loopback address, or another one with users. Needs the
    /// feature `http`.
    pub http: Option<SocketAddr>,
    /// Who may come over HTTP. Without any, everyone who reaches the address may look.
    pub http_users: Vec<ApiUser>,
}

/// Users and groups of this machine who may lock in some lockspaces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockUsers {
    /// Names of lockspaces; `*` at the end stands for anything. Default: every lockspace.
    #[serde(default = "every_name")]
    pub spaces: Vec<String>,
    /// Users, by id.
    #[serde(default)]
    pub users: Vec<u32>,
    /// Groups, by id: the effective one of a process counts.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// Users and groups of this machine who may join some groups of messages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupUsers {
    /// Names of groups of messages; `*` at the end stands for anything. Default: every group.
    #[serde(default = "every_name")]
    pub names: Vec<String>,
    /// Users, by id.
    #[serde(default)]
    pub users: Vec<u32>,
    /// Groups of users, by id: the effective one of a process counts.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// What `[[api.locks]]` and `[[api.groups]]` have in common: names, and who of this machine may use them.
struct Entry<'a> {
    patterns: &'a [String],
    users: &'a [u32],
    groups: &'a [u32],
}

impl Entry<'_> {
    /// A pattern is the name, or ends with `*` and is the front of it.
    fn allows(&self, name: &str, uid: u32, gid: u32) -> bool {
        let covers = |pattern: &String| {
            pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
        };
        (self.users.contains(&uid) || self.groups.contains(&gid)) && self.patterns.iter().any(covers)
    }

    /// `names` is the field of the patterns, for names of up to `most` bytes.
    fn check(&self, at: &str, (names, what, most): (&str, &str, usize), errors: &mut ConfigErrors) {
        if self.users.is_empty() && self.groups.is_empty() {
            errors.push(at, "nobody", "allows nothing to anybody", "give users or groups");
        }
        for pattern in self.patterns {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern.is_empty() || name.contains('*') || name.len() > most {
                let fix = format!("give a name of 1 to {most} bytes, with * at most at its end");
                errors.push(format!("{at}.{names}"), format!("{pattern:?}"), what, fix);
            }
        }
    }
}

fn every_name() -> Vec<String> {
    vec!["*".to_owned()]
}

impl LockUsers {
    fn entry(&self) -> Entry<'_> {
        Entry { patterns: &self.spaces, users: &self.users, groups: &self.groups }
    }

    /// True if a process of this user and group may lock in that lockspace.
    #[must_use]
    pub fn allows(&self, space: &str, uid: u32, gid: u32) -> bool {
        self.entry().allows(space, uid, gid)
    }
}

impl GroupUsers {
    fn entry(&self) -> Entry<'_> {
        Entry { patterns: &self.names, users: &self.users, groups: &self.groups }
    }

    /// True if a process of this user and group may join the group of that name.
    #[must_use]
    pub fn allows(&self, name: &str, uid: u32, gid: u32) -> bool {
        self.entry().allows(name, uid, gid)
    }
}

/// A user of the administration interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiUser {
    /// Its name.
    pub name: String,
    /// A file that holds its secret, at least 16 bytes; white space around it is ignored.
    pub secret_file: PathBuf,
    /// What it may do: `observe` (the default), `use` or `control`.
    #[serde(default)]
    pub access: ApiAccess,
}

/// How much a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiAccess {
    /// Look.
    #[default]
    Observe,
    /// Send messages too.
    Use,
    /// Change the cluster too.
    Control,
}

impl From<ApiAccess> for Access {
    fn from(access: ApiAccess) -> Self {
        match access {
            ApiAccess::Observe => Self::Observe,
            ApiAccess::Use => Self::Use,
            ApiAccess::Control => Self::Control,
        }
    }
}

impl ApiConfig {
    /// True if other programs may reach the node.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.local.is_some() || self.http.is_some()
    }

    pub(super) fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if self.local.as_deref().is_some_and(|local| local.is_empty() || local == "@" || local.len() > 107) {
            let fix = "give the path of a socket, or @ and a name, of at most 107 bytes";
            errors.push("local", format!("{:?}", self.local), "is not an address", fix);
        }
        for (any, what) in [
            (!self.locks.is_empty(), "is missing, and locks says who may lock from there"),
            (!self.groups.is_empty(), "is missing, and groups says who may join from there"),
        ] {
            if self.local.is_none() && any {
                errors.push("local", "none", what, "give the address at which programs connect");
            }
        }
        for (at, locks) in self.locks.iter().enumerate() {
            let of = ("spaces", "names no lockspace", SPACE_NAME_MAX);
            locks.entry().check(&format!("locks[{at}]"), of, &mut errors);
        }
        for (at, groups) in self.groups.iter().enumerate() {
            let of = ("names", "names no group", GROUP_NAME_MAX);
            groups.entry().check(&format!("groups[{at}]"), of, &mut errors);
        }
        if self.groups_unread_ms == Some(0) {
            let fix = "give a time that a busy program does not need, such as 5000";
            errors.push("groups_unread_ms", 0, "ends every program that the node waits for", fix);
        }
        if let Some(http) = self.http {
            if !cfg!(feature = "http") {
                errors.push(
                    "http",
                    http,
                    "this program was built without it",
                    "build it with the feature http",
                );
            }
            if !http.ip().is_loopback() && self.http_users.is_empty() {
                let fix = "bind a loopback address, or give http_users";
                errors.push("http", http, "is reached by others, and nobody must show a secret", fix);
            }
        }
        for (i, user) in self.http_users.iter().enumerate() {
            if user.name.is_empty() || user.name.contains(':') {
                errors.push(
                    format!("http_users[{i}].name"),
                    format!("{:?}", user.name),
                    "is not a name",
                    "no colon",
                );
            }
        }
        errors.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let config: ApiConfig = toml::from_str(text).expect("it has the form of a configuration");
        config.check().map_or_else(|errors| errors.to_string(), |()| String::new())
    }

    #[test]
    fn every_mistake_about_who_may_lock_or_join_is_named_with_its_place_and_what_to_do() {
        let said =
            said("[[locks]]\nspaces = ['a*b']\n[[groups]]\nnames = ['chat', '']\nusers = [7]\n[[groups]]\n");
        for what in [
            "locks says who may lock from there",
            "groups says who may join from there",
            "give the address at which programs connect",
            "locks[0]",
            "locks[0].spaces",
            "1 to 64 bytes",
            "groups[0].names",
            "1 to 128 bytes",
            "groups[1]",
            "give users or groups",
        ] {
            assert!(said.contains(what), "{what} is not in: {said}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_at_the_end_of_a_name_and_users_and_groups_are_told_apart() {
        let api: ApiConfig = toml::from_str(
            "local = '@x'\n[[groups]]\nnames = ['jobs.*', 'chat']\nusers = [7]\ngroups = [8]\n",
        )
        .expect("it is right");
        api.check().expect("it is right");
        let allows = |name, uid, gid| api.groups[0].allows(name, uid, gid);
        assert!(allows("jobs.night", 7, 0) && allows("jobs.", 0, 8) && allows("chat", 7, 8));
        assert!(!allows("jobs", 7, 0) && !allows("chats", 7, 0) && !allows("chat", 8, 7));
    }
}
