//! How packets are sealed: the plug-in type, and the built-in plug-ins.

use super::TAG;
use core::fmt;
use pils::Registry;
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::sync::Arc;

/// Bytes of a nonce.
pub const NONCE: usize = NONCE_LEN;

/// What an observer, and a forger, can do to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// **Nothing is kept secret and nothing is checked**: whoever can send to the port can write into a circuit. Only for
    /// measurements and for wires that nobody else can touch. Both ends must ask for it; it is never agreed upon instead
    /// of something better.
    Plain,
    /// Anyone can read the packets; altered and forged ones are dropped.
    Integrity,
    /// Nobody else can read the packets; altered and forged ones are dropped.
    #[default]
    Encrypt,
}

/// Which cipher protects packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// AES-256-GCM, or ChaCha20-Poly1305 if one of the two ends prefers it. A driver turns this into
    /// [`Cipher::AutoPortable`] on a processor without instructions for AES.
    #[default]
    Auto,
    /// As `Auto`, but ChaCha20-Poly1305 is preferred.
    AutoPortable,
    /// AES-256-GCM and nothing else.
    Aes256Gcm,
    /// ChaCha20-Poly1305 and nothing else.
    ChaCha20Poly1305,
}

/// How many packets a key may be trusted with. Source: RFC 9001, section 6.6 and appendix B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Packets of at most 2048 bytes sealed with one key. The key is replaced long before; here nothing more is sent.
    pub sealed: u64,
    /// Packets that did not open, under all keys derived from one agreement. Fresh secrets are agreed upon at half of it;
    /// here the circuit ends.
    pub forged: u64,
}

/// A way to seal packets: a plug-in type. Object-safe.
///
/// Built in, by [`authenticators`]: `aes-256-gcm`, `chacha20-poly1305`, `aes-256-gcm-integrity`,
/// `chacha20-poly1305-integrity`, `plain`. Those who write another run
/// `ocf_comm::testing::check_authenticator` on it, register it at every node under one name and put the name into
/// [`Config::authenticators`](crate::Config::authenticators).
pub trait Authenticator: Send + Sync + fmt::Debug {
    /// Its name, the same at every node: what ends agree upon in the handshake is a hash of it.
    fn name(&self) -> &str;
    /// What it promises. The handshake never agrees upon less than either end asks for.
    fn protection(&self) -> Protection;
    /// True if it is as good on every processor. Decides when both ends prefer another one.
    fn is_portable(&self) -> bool;
    /// What one key may be used for.
    fn limits(&self) -> KeyLimits;
    /// The key that belongs to 32 secret bytes. Equal secrets give keys that open what the other sealed.
    fn key(&self, secret: &[u8; 32]) -> Box<dyn PacketKey>;
}

/// Seals the packets of one direction at one end, and opens them at the other.
pub trait PacketKey: Send {
    /// Protects `packet` in place and returns its tag. The first `header` bytes stay as they are, yet are covered by the
    /// tag. No nonce comes twice under one key.
    fn seal(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> [u8; TAG];
    /// Checks and restores in place what `seal` made, with the tag at the end; returns the length of what lies between
    /// header and tag. `None`, whatever the bytes are, if they were not sealed with this key, nonce and header.
    fn open(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> Option<usize>;
}

/// An AEAD of the cryptography library that encrypts, or only authenticates.
#[derive(Debug)]
struct Aead {
    name: &'static str,
    algorithm: &'static Algorithm,
    protection: Protection,
    portable: bool,
    limits: KeyLimits,
}

impl Authenticator for Aead {
    fn name(&self) -> &str {
        self.name
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    fn is_portable(&self) -> bool {
        self.portable
    }

    fn limits(&self) -> KeyLimits {
        self.limits
    }

    fn key(&self, secret: &[u8; 32]) -> Box<dyn PacketKey> {
        let key = UnboundKey::new(self.algorithm, secret).expect("the built-in ciphers take 32 bytes");
        let key = LessSafeKey::new(key);
        if self.protection == Protection::Encrypt {
            Box::new(Encrypting(key))
        } else {
            Box::new(Signing(key))
        }
    }
}

struct Encrypting(LessSafeKey);

impl PacketKey for Encrypting {
    fn seal(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> [u8; TAG] {
        let (clear, body) = packet.split_at_mut(header);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(&*clear), body);
        let tag = tag.expect("a packet is far shorter than the cipher allows");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }

    fn open(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> Option<usize> {
        let (clear, body) = packet.split_at_mut_checked(header)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let content = self.0.open_in_place(nonce, Aad::from(&*clear), body).ok()?;
        Some(content.len())
    }
}

/// The same cipher with the whole packet as additional data: cheaper than a hash, and the content stays readable.
struct Signing(LessSafeKey);

impl PacketKey for Signing {
    fn seal(&self, nonce: &[u8; NONCE], packet: &mut [u8], _header: usize) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(&*packet), &mut []);
        let tag = tag.expect("a packet is far shorter than the cipher allows");
        tag.as_ref().try_into().expect("the tag has 16 bytes")
    }

    fn open(&self, nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> Option<usize> {
        let end = packet.len().checked_sub(TAG)?;
        let length = end.checked_sub(header)?;
        let (content, tag) = packet.split_at_mut(end);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place(nonce, Aad::from(&*content), tag).ok()?;
        Some(length)
    }
}

/// No protection at all.
#[derive(Debug)]
struct Plain;

impl Authenticator for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn protection(&self) -> Protection {
        Protection::Plain
    }

    fn is_portable(&self) -> bool {
        true
    }

    fn limits(&self) -> KeyLimits {
        KeyLimits { sealed: u64::MAX, forged: u64::MAX }
    }

    fn key(&self, secret: &[u8; 32]) -> Box<dyn PacketKey> {
        let (token, _) = secret.split_at(TAG);
        Box::new(Token(token.try_into().expect("half of 32 bytes")))
    }
}

/// The same tag on every packet: tells strays from the packets of this circuit, and stops nobody who has seen one.
struct Token([u8; TAG]);

impl PacketKey for Token {
    fn seal(&self, _nonce: &[u8; NONCE], _packet: &mut [u8], _header: usize) -> [u8; TAG] {
        self.0
    }

    fn open(&self, _nonce: &[u8; NONCE], packet: &mut [u8], header: usize) -> Option<usize> {
        let content = packet.strip_suffix(&self.0)?;
        content.len().checked_sub(header)
    }
}

/// The limits of AES-GCM for packets of at most 2048 bytes.
const GCM: KeyLimits = KeyLimits { sealed: 1 << 28, forged: 1 << 52 };
/// Those of ChaCha20-Poly1305, whose numbers of packets have no limit that matters.
const CHACHA: KeyLimits = KeyLimits { sealed: 1 << 62, forged: 1 << 36 };

/// A fresh registry with the built-in authenticators.
///
/// # Panics
/// Never: the built-in names differ.
#[must_use]
pub fn authenticators() -> Registry<dyn Authenticator> {
    let registry: Registry<dyn Authenticator> = Registry::new("authenticator");
    let aead = |name, algorithm, protection, portable, limits| {
        Arc::new(Aead { name, algorithm, protection, portable, limits }) as Arc<dyn Authenticator>
    };
    let (encrypt, integrity) = (Protection::Encrypt, Protection::Integrity);
    for plugin in [
        aead("aes-256-gcm", &AES_256_GCM, encrypt, false, GCM),
        aead("chacha20-poly1305", &CHACHA20_POLY1305, encrypt, true, CHACHA),
        aead("aes-256-gcm-integrity", &AES_256_GCM, integrity, false, GCM),
        aead("chacha20-poly1305-integrity", &CHACHA20_POLY1305, integrity, true, CHACHA),
        Arc::new(Plain),
    ] {
        let name = plugin.name().to_owned();
        registry.register(&name, env!("CARGO_PKG_VERSION"), plugin).expect("the built-in names differ");
    }
    registry
}

impl Protection {
    /// The names of the built-in authenticators for this protection and cipher, best first.
    #[must_use]
    pub fn authenticators(self, cipher: Cipher) -> &'static [&'static str] {
        const AES: &str = "aes-256-gcm";
        const CHACHA: &str = "chacha20-poly1305";
        const AES_INTEGRITY: &str = "aes-256-gcm-integrity";
        const CHACHA_INTEGRITY: &str = "chacha20-poly1305-integrity";
        match (self, cipher) {
            (Self::Plain, _) => &["plain"],
            (Self::Encrypt, Cipher::Auto) => &[AES, CHACHA],
            (Self::Encrypt, Cipher::AutoPortable) => &[CHACHA, AES],
            (Self::Encrypt, Cipher::Aes256Gcm) => &[AES],
            (Self::Encrypt, Cipher::ChaCha20Poly1305) => &[CHACHA],
            (Self::Integrity, Cipher::Auto) => &[AES_INTEGRITY, CHACHA_INTEGRITY],
            (Self::Integrity, Cipher::AutoPortable) => &[CHACHA_INTEGRITY, AES_INTEGRITY],
            (Self::Integrity, Cipher::Aes256Gcm) => &[AES_INTEGRITY],
            (Self::Integrity, Cipher::ChaCha20Poly1305) => &[CHACHA_INTEGRITY],
        }
    }
}
