//! What the ends of a circuit agree upon in the handshake: how packets are sealed, how messages are encoded.

use crate::crypto::{Authenticator, Mac, Protection, Suite, authenticators};
use crate::{Config, ConfigError, PacketCodec, codecs};
use core::fmt;
use pils::Registry;
use pils::plugin::Plugin;

/// Plug-ins of one type that a node can offer.
pub(crate) const OFFERS_MAX: usize = 4;

/// How messages are encoded on a circuit.
pub(crate) type Codec = Plugin<dyn PacketCodec>;

/// The plug-ins that an endpoint finds by the names in its [`Config`].
#[derive(Debug)]
pub struct Plugins {
    /// Ways to seal packets.
    pub authenticators: Registry<dyn Authenticator>,
    /// Ways to encode messages.
    pub codecs: Registry<dyn PacketCodec>,
}

impl Default for Plugins {
    /// What is built in.
    fn default() -> Self {
        Self { authenticators: authenticators(), codecs: codecs() }
    }
}

/// What the initiator offers: hashes of names in its order of preference, zeros at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) authenticators: [u32; OFFERS_MAX],
    pub(crate) codecs: [u32; OFFERS_MAX],
}

/// What the responder chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) authenticator: u32,
    pub(crate) codec: u32,
}

impl Offer {
    pub(crate) fn bytes(&self) -> [u8; 8 * OFFERS_MAX] {
        let mut out = [0; 8 * OFFERS_MAX];
        for (to, tag) in out.chunks_exact_mut(4).zip(self.authenticators.iter().chain(&self.codecs)) {
            to.copy_from_slice(&tag.to_be_bytes());
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; 8 * OFFERS_MAX]) -> Self {
        let mut tags = [0; 2 * OFFERS_MAX];
        for (tag, from) in tags.iter_mut().zip(bytes.chunks_exact(4)) {
            *tag = from.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        }
        let (mut authenticators, mut codecs) = ([0; OFFERS_MAX], [0; OFFERS_MAX]);
        authenticators.copy_from_slice(&tags[..OFFERS_MAX]);
        codecs.copy_from_slice(&tags[OFFERS_MAX..]);
        Self { authenticators, codecs }
    }
}

impl Choice {
    pub(crate) fn bytes(self) -> [u8; 8] {
        (u64::from(self.authenticator) << 32 | u64::from(self.codec)).to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, rest @ ..] = bytes;
        Self { authenticator: u32::from_be_bytes([a, b, c, d]), codec: u32::from_be_bytes(rest) }
    }
}

/// What this node offers and takes, best first.
pub(crate) struct Kit {
    authenticators: Vec<(u32, Suite)>,
    codecs: Vec<(u32, Codec)>,
}

impl Kit {
    /// Looks the configured plug-ins up; says what is wrong into `errors`.
    pub(crate) fn new(config: &Config, plugins: &Plugins, errors: &mut Vec<ConfigError>) -> Self {
        let mut wrong = |path: &str, value: &str, fix: String| {
            errors.push(ConfigError { path: path.to_owned(), value: format!("{value:?}"), fix });
        };
        let mut kit = Self { authenticators: Vec::new(), codecs: Vec::new() };
        let named: Vec<&str> = config.authenticators.iter().map(String::as_str).collect();
        let built_in = config.protection.authenticators(config.cipher);
        let named = if named.is_empty() { built_in } else { &named };
        for name in named {
            match plugins.authenticators.get(name) {
                Ok(suite) if suite.protection() < config.protection => {
                    let fix = "it protects less than `protection` asks for: lower that, or name another one";
                    wrong("authenticators", name, fix.to_owned());
                }
                Ok(suite) if suite.protection() == Protection::Plain && named.len() > 1 => {
                    wrong("authenticators", name, "what does not protect stands alone".to_owned());
                }
                Ok(suite) => kit.authenticators.push((tag(name), suite)),
                Err(error) => wrong("authenticators", name, error.to_string()),
            }
        }
        let codecs = [config.codec.as_str(), "none"];
        for name in if config.codec == "none" { &codecs[1..] } else { &codecs[..] } {
            match plugins.codecs.get(name) {
                Ok(codec) => kit.codecs.push((tag(name), codec)),
                Err(error) => wrong("codec", name, error.to_string()),
            }
        }
        if named.len() > OFFERS_MAX {
            wrong("authenticators", &named.join(", "), format!("name at most {OFFERS_MAX}"));
        }
        kit
    }

    /// What the initiator says.
    pub(crate) fn offer(&self) -> Offer {
        let mut offer = Offer { authenticators: [0; OFFERS_MAX], codecs: [0; OFFERS_MAX] };
        for (to, (tag, _)) in offer.authenticators.iter_mut().zip(&self.authenticators) {
            *to = *tag;
        }
        for (to, (tag, _)) in offer.codecs.iter_mut().zip(&self.codecs) {
            *to = *tag;
        }
        offer
    }

    /// What the responder answers: of the authenticators that both have, the one whose worse rank is best; if two ends
    /// prefer different ones, one that suits every processor. `None` if there is none in common. Of the codecs, the first
    /// of the initiator that the responder wants, too; `none` is common to all.
    pub(crate) fn choose(&self, offer: &Offer) -> Option<(Choice, Suite, Codec)> {
        let mine = self.authenticators.iter().enumerate();
        let common = mine.filter_map(|(own, (tag, suite))| {
            let theirs = offer.authenticators.iter().position(|t| t == tag)?;
            Some(((own.max(theirs), !suite.is_portable(), theirs), *tag, suite))
        });
        let (_, authenticator, suite) = common.min_by_key(|(rank, ..)| *rank)?;
        let wanted = |tag: &u32| self.codecs.iter().find(|(t, _)| t == tag);
        let (codec, encodes) = offer.codecs.iter().find_map(wanted).or_else(|| self.codecs.last())?;
        Some((Choice { authenticator, codec: *codec }, suite.clone(), encodes.clone()))
    }

    /// What the initiator makes of the answer: `None` if it is nothing that it offered.
    pub(crate) fn take(&self, choice: Choice) -> Option<(Suite, Codec)> {
        let suite = self.authenticators.iter().find(|(tag, _)| *tag == choice.authenticator)?;
        let codec = self.codecs.iter().find(|(tag, _)| *tag == choice.codec)?;
        Some((suite.1.clone(), codec.1.clone()))
    }
}

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |plugins: &[(u32, Suite)]| plugins.iter().map(|p| p.1.name().to_owned()).collect::<Vec<_>>();
        f.debug_struct("Kit").field("authenticators", &names(&self.authenticators)).finish_non_exhaustive()
    }
}

/// What a name is on the wire: the first 4 bytes of its HMAC-SHA256, never 0.
pub(crate) fn tag(name: &str) -> u32 {
    let hash = Mac::new(b"ocf-comm plug-in name", "1").sign(name.as_bytes());
    let [a, b, c, d, ..] = hash;
    u32::from_be_bytes([a, b, c, d]).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;
    use crate::crypto::Cipher;

    fn kit(change: impl Fn(&mut Config)) -> Result<Kit, Vec<ConfigError>> {
        let mut config = Config::new("demo", Preset::Lan);
        change(&mut config);
        let mut errors = Vec::new();
        let kit = Kit::new(&config, &Plugins::default(), &mut errors);
        if errors.is_empty() { Ok(kit) } else { Err(errors) }
    }

    /// What initiator and responder agree upon.
    fn agreed(initiator: impl Fn(&mut Config), responder: impl Fn(&mut Config)) -> Option<(String, String)> {
        let (initiator, responder) = (kit(initiator).unwrap(), kit(responder).unwrap());
        let offer = Offer::from_bytes(&initiator.offer().bytes());
        let (choice, suite, codec) = responder.choose(&offer)?;
        let (same, too) = initiator.take(Choice::from_bytes(choice.bytes())).unwrap();
        assert_eq!((suite.name(), codec.name()), (same.name(), too.name()));
        Some((suite.name().to_owned(), codec.name().to_owned()))
    }

    #[test]
    fn one_end_without_aes_is_enough_for_chacha_and_whoever_insists_gets_it_or_nothing() {
        let cipher = |cipher: Cipher| move |c: &mut Config| c.cipher = cipher;
        let pick = |a, b| agreed(cipher(a), cipher(b)).map(|(suite, _)| suite);
        let (aes, chacha) = (Some("aes-256-gcm".to_owned()), Some("chacha20-poly1305".to_owned()));
        assert_eq!(pick(Cipher::Auto, Cipher::Auto), aes);
        assert_eq!(pick(Cipher::AutoPortable, Cipher::Auto), chacha);
        assert_eq!(pick(Cipher::Auto, Cipher::AutoPortable), chacha);
        assert_eq!(pick(Cipher::Aes256Gcm, Cipher::AutoPortable), aes);
        assert_eq!(pick(Cipher::Auto, Cipher::ChaCha20Poly1305), chacha);
        assert_eq!(pick(Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305), None);
    }

    #[test]
    fn less_protection_is_never_agreed_upon_unless_both_ask_for_it() {
        let all = [Protection::Plain, Protection::Integrity, Protection::Encrypt];
        for a in all {
            for b in all {
                let suite = agreed(|c| c.protection = a, |c| c.protection = b);
                assert_eq!(suite.is_some(), a == b, "{a:?} and {b:?}: {suite:?}");
            }
        }
    }

    #[test]
    fn a_codec_is_used_only_if_both_ends_want_it() {
        let lz4 = |c: &mut Config| c.codec = "lz4".to_owned();
        let codec = |a: &dyn Fn(&mut Config), b: &dyn Fn(&mut Config)| agreed(a, b).unwrap().1;
        assert_eq!(codec(&lz4, &lz4), "lz4");
        assert_eq!(codec(&|_| {}, &lz4), "none");
        assert_eq!(codec(&lz4, &|_| {}), "none");
    }

    #[test]
    fn a_wrong_name_says_what_there_is_and_plain_never_stands_beside_others() {
        let errors = kit(|c| c.codec = "zip".to_owned()).unwrap_err();
        assert_eq!(errors[0].to_string(), "codec is \"zip\": no packet codec \"zip\"; known: lz4, none");
        let names = |c: &mut Config| c.authenticators = vec!["aes-256-gcm".to_owned(), "plain".to_owned()];
        assert_eq!(kit(names).unwrap_err()[0].path, "authenticators");
        let low = |c: &mut Config| {
            c.protection = Protection::Plain;
            names(c);
        };
        assert!(kit(low).unwrap_err()[0].fix.contains("stands alone"));
    }

    #[test]
    fn names_have_tags_that_differ() {
        let plugins = Plugins::default();
        let mut tags: Vec<u32> = plugins.authenticators.list().iter().map(|p| tag(&p.name)).collect();
        tags.extend(plugins.codecs.list().iter().map(|p| tag(&p.name)));
        tags.sort_unstable();
        assert!(tags.windows(2).all(|w| w[0] != w[1]) && tags.len() == 7);
    }
}
