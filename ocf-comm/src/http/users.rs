use core::fmt;
use ring::hmac;

/// A user and the secret that it must show: as the password of basic authentication, or as a bearer token.
///
/// Only a digest of the secret is kept, and it is compared in constant time. It is never printed.
#[derive(Clone)]
pub struct User {
    name: String,
    digest: Vec<u8>,
}

/// Why something is not a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUser {
    /// Basic authentication cannot carry it.
    #[error("the name of a user is not empty and has no colon: {0:?}")]
    Name(String),
    /// It would be guessed.
    #[error("the secret of {0} is shorter than 16 bytes")]
    Short(String),
}

fn digest(secret: &[u8]) -> hmac::Tag {
    // The same key every time: the secret is long and random, this only makes what is compared equally long.
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"ocf http user"), secret)
}

impl User {
    /// A user with a secret of at least 16 bytes, which should be random.
    ///
    /// # Errors
    /// [`BadUser`].
    pub fn new(name: impl Into<String>, secret: &str) -> Result<Self, BadUser> {
        let name = name.into();
        if name.is_empty() || name.contains(':') {
            return Err(BadUser::Name(name));
        }
        if secret.len() < 16 {
            return Err(BadUser::Short(name));
        }
        Ok(Self { name, digest: digest(secret.as_bytes()).as_ref().to_vec() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn has(&self, secret: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"ocf http user");
        hmac::verify(&key, secret, &self.digest).is_ok()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("User").field(&self.name).finish()
    }
}

/// The user whose secret an `Authorization` header shows.
pub(super) fn find<'a>(users: &'a [User], header: &[u8]) -> Option<&'a User> {
    let text = core::str::from_utf8(header).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return users.iter().find(|user| user.has(rest.as_bytes()));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = decode_base64(rest)?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (name, secret) = (&decoded[..colon], &decoded[colon + 1..]);
        return users.iter().find(|user| user.name.as_bytes() == name && user.has(secret));
    }
    None
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_its_secret_alone_and_by_nothing_less() {
        let secret = "0123456789abcdef";
        let users = [User::new("ada", secret).unwrap(), User::new("bob", "fedcba9876543210").unwrap()];
        let who = |header: &str| find(&users, header.as_bytes()).map(User::name);
        assert_eq!(who("Bearer 0123456789abcdef"), Some("ada"));
        assert_eq!(who("basic YWRhOjAxMjM0NTY3ODlhYmNkZWY="), Some("ada"));
        assert_eq!(who("Basic Ym9iOjAxMjM0NTY3ODlhYmNkZWY="), None, "bob with the secret of ada");
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Basic !!!",
            "Basic YWRh",
            "Digest x",
            "0123456789abcdef",
        ] {
            assert_eq!(who(header), None, "{header:?}");
        }
        assert!(find(&users, &[0xff, b' ', 0xfe]).is_none());
        assert!(User::new("a:b", secret).is_err() && User::new("a", "short").is_err());
        assert!(!format!("{users:?}").contains("0123"));
    }
}
