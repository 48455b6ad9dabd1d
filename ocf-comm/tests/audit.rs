//! The rules of the audit in `docs/security.md`, held against the sources: what reads bytes of others is fuzzed or attacked
//! by a named test, cryptography is only called where it is listed and only that of one library, secrets are compared in
//! constant time and printed by nobody, and what carries no right code changes nothing.
//!
//! Method: the text of the sources is searched, so that a new decoder or primitive fails a test here until it is listed with
//! what examines it; and two nodes are fed with datagrams of strangers.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads files, and may fail where it is wrong"
)]

mod net;

use net::{MS, Net, address};
use ocf_comm::{ClusterKey, Input, KeyId, KeyRing, PathId, PeerStatus, Received};
use pils::{Layer as _, Rng};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// By file below `src`: the functions that read bytes of others, and what examines them: the name of a fuzz target, or a test.
const DECODERS: &[(&str, &[&str], &str)] = &[
    ("wire/header.rs", &["parse"], "handshake"),
    ("wire/handshake.rs", &["parse"], "handshake"),
    ("wire/handshake.rs", &["open"], "signed"),
    ("wire/renewal.rs", &["from_bytes", "parse"], "frames"),
    ("wire/frame.rs", &["parse"], "frames"),
    ("wire/obituary.rs", &["parse"], "sentinel"),
    ("wire/announce.rs", &["parse"], "announce"),
    (
        "wire/announce.rs",
        &["open"],
        "src/discovery/tests.rs::replayed_announcements_change_nothing_while_the_node_lives",
    ),
    ("suite.rs", &["from_bytes"], "signed"),
    ("circuit/incoming.rs", &["decode", "parse_head", "receive"], "stream"),
    ("codec.rs", &["decode"], "stream"),
    (
        "circuit.rs",
        &["open", "outline"],
        "tests/hostile.rs::every_truncation_and_every_altered_bit_of_the_header_is_dropped_in_silence",
    ),
    (
        "circuit/keys.rs",
        &["open", "open_other"],
        "tests/hostile.rs::a_packet_counts_only_on_its_own_path_and_circuit_and_under_its_own_key",
    ),
    (
        "crypto/seal.rs",
        &["open"],
        "tests/hostile.rs::a_packet_counts_only_on_its_own_path_and_circuit_and_under_its_own_key",
    ),
    ("crypto/authenticator.rs", &["open"], "src/testing/plugins.rs::the_built_in_authenticators_conform"),
    ("rpc/wire.rs", &["parse", "parse_body"], "calls"),
    ("rpc/body.rs", &["parse"], "calls"),
    ("http/users.rs", &["decode_base64"], "tests/http.rs::without_a_secret_one_may_look_and_not_touch"),
    ("local/frame.rs", &["parse"], "local"),
    ("local/connectivity.rs", &["parse_event", "parse_peers", "read_lane"], "local"),
    (
        "local/connectivity.rs",
        &["parse_send_error"],
        "tests/local/conformance.rs::connectivity_through_the_socket_conforms",
    ),
    (
        "local/connectivity.rs",
        &["open"],
        "tests/local/conformance.rs::channels_are_claimed_by_one_program_at_a_time_and_freed_by_its_end",
    ),
    ("medium/frame.rs", &["take"], "line"),
    ("ping/echo.rs", &["reply"], "echo"),
    ("driver/sentinel.rs", &["take_orders"], "sentinel"),
];

/// What of `ring` is used where. Nothing else of cryptography is used, and nothing of it is written here.
const PRIMITIVES: &[(&str, &str)] = &[
    ("crypto/authenticator.rs", "aead"),
    ("crypto/drbg.rs", "hmac"),
    ("crypto/seal.rs", "hkdf"),
    ("crypto/seal.rs", "hmac"),
    ("crypto/simulated.rs", "hmac"),
    ("crypto/x25519.rs", "agreement"),
    ("crypto/x25519.rs", "rand"),
    ("driver/entropy.rs", "rand"),
    ("http/users.rs", "hmac"),
    ("wire/obituary.rs", "digest"),
];

/// Words in the names of crates that would bring other cryptography.
const FOREIGN: &[&str] = &[
    "aes",
    "argon",
    "blake",
    "chacha",
    "crypto",
    "curve25519",
    "dalek",
    "digest",
    "ghash",
    "hkdf",
    "hmac",
    "md5",
    "openssl",
    "poly1305",
    "rand",
    "rsa",
    "rustls",
    "sha1",
    "sha2",
    "sha3",
    "subtle",
    "x25519",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The sources of the crate by their paths below `src`, without tests.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, base: &Path, out: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(base).unwrap().display().to_string();
            if path.is_dir() {
                walk(&path, base, out);
            } else if !name.starts_with("testing")
                && !name.starts_with("fuzzing")
                && !name.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                out.push((name, code));
            }
        }
    }
    let (mut out, base) = (Vec::new(), root().join("src"));
    walk(&base, &base, &mut out);
    out.sort();
    out
}

/// The functions of a source by name, with what stands between the parentheses.
fn functions(code: &str) -> impl Iterator<Item = (&str, &str)> {
    code.match_indices("fn ").filter_map(|(at, _)| {
        let rest = &code[at + 3..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let open = rest.find('(')?;
        let close = rest.find(['{', ';'])?;
        (end > 0 && open < close).then(|| (&rest[..end], &rest[open..close]))
    })
}

/// True if a function of this name and these parameters reads bytes that somebody else may have written.
fn reads(name: &str, parameters: &str) -> bool {
    let named = ["parse", "open", "decode", "from_bytes"].contains(&name)
        || ["parse_", "decode_", "read_", "open_"].iter().any(|n| name.starts_with(n));
    named && ["[u8", "&Bytes", "Reader<", "&str"].iter().any(|of| parameters.contains(of))
}

#[test]
fn whatever_reads_bytes_of_others_is_fuzzed_or_attacked() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (file, code) in &sources {
        // The kernel's own words, and what an operator configured.
        if ["driver/netlink.rs", "driver/ping.rs", "driver/socket.rs"].contains(&file.as_str())
            || file.starts_with("medium/") && file != "medium/frame.rs"
        {
            continue;
        }
        for (name, _) in functions(code).filter(|(name, parameters)| reads(name, parameters)) {
            if !DECODERS.iter().any(|(at, names, _)| at == file && names.contains(&name)) {
                wrong.push(format!("{file}: {name} reads bytes of others and is not listed"));
            }
        }
    }
    let programs = fs::read_to_string(root().join("../fuzz/Cargo.toml")).unwrap();
    for (file, names, by) in DECODERS {
        let code =
            sources.iter().find(|(path, _)| path == file).map(|(_, code)| code.as_str()).unwrap_or_default();
        for name in names.iter().filter(|name| !functions(code).any(|(known, _)| known == **name)) {
            wrong.push(format!("{file} has no {name}"));
        }
        let good = match by.split_once("::") {
            Some((path, test)) => {
                fs::read_to_string(root().join(path)).unwrap().contains(&format!("fn {test}()"))
            }
            None => ocf_comm::fuzzing::TARGETS.iter().any(|(target, _)| target == by),
        };
        if !good {
            wrong.push(format!("{file}: {by} does not exist"));
        }
    }
    for (target, _) in ocf_comm::fuzzing::TARGETS {
        let program = root().join(format!("../fuzz/fuzz_targets/{target}.rs"));
        let program = fs::read_to_string(program).unwrap_or_default();
        let corpus = root().join(format!("../fuzz/corpus/{target}"));
        let calls = program.contains(&format!("fuzzing::{target}(data)"));
        if !calls
            || !programs.contains(&format!("name = \"{target}\""))
            || fs::read_dir(corpus).unwrap().count() < 3
        {
            wrong.push(format!("{target} is no program of fuzz/ with a corpus"));
        }
        if !DECODERS.iter().any(|(_, _, by)| by == target) && *target != "datagram" {
            wrong.push(format!("{target} examines no decoder"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn cryptography_is_that_of_one_library_and_only_where_it_is_listed() {
    let mut found = BTreeSet::new();
    for (file, code) in &sources() {
        // Not the end of `Ordering::`.
        for (at, _) in
            code.match_indices("ring::").filter(|(at, _)| !code[..*at].ends_with(char::is_alphanumeric))
        {
            let rest = &code[at + 6..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
            found.insert((file.clone(), rest[..end].to_owned()));
        }
        for word in ["md5", "sha1", "SHA1", "Rc4", "Ecb"] {
            assert!(!code.contains(word), "{file} speaks of {word}");
        }
    }
    let listed: BTreeSet<_> =
        PRIMITIVES.iter().map(|(file, of)| ((*file).to_owned(), (*of).to_owned())).collect();
    assert_eq!(found, listed, "what is used, and what is listed");
    for folder in [
        "",
        "../pils",
        "../ocf-membership",
        "../ocf-groups",
        "../ocf-dlm",
        "../ocf-stonith",
        "../ocf-resource",
        "..",
    ] {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter(|line| !line.starts_with(['#', '['])) {
            let name = line.split(['=', '.', ' ']).next().unwrap();
            assert!(!FOREIGN.iter().any(|word| name.contains(word)), "{folder}/Cargo.toml: {line}");
        }
    }
}

#[test]
fn codes_are_compared_in_constant_time() {
    let sources = sources();
    for (file, code) in &sources {
        for (at, line) in code.lines().enumerate() {
            let code_of = line.contains(".sign(") || line.contains("hmac::sign(");
            assert!(!(code_of && (line.contains("==") || line.contains("!="))), "{file}:{}: {line}", at + 1);
        }
    }
    let verify =
        |file: &str| sources.iter().any(|(path, code)| path == file && code.contains("hmac::verify("));
    assert!(verify("crypto/seal.rs") && verify("http/users.rs"), "the library compares");
}

#[test]
fn what_holds_a_secret_prints_none() {
    let secret: [u8; 32] = core::array::from_fn(|i| 0xa0 + u8::try_from(i).unwrap());
    let key = ClusterKey::new(KeyId(3), secret);
    let ring = KeyRing::new(key.clone());
    let mut net = Net::new(1, 2, 1);
    (0..2).for_each(|i| net.nodes[i].keys = vec![key.clone()]);
    net.start_all();
    assert!(net.run_until(2000 * MS, Net::all_up));
    let endpoint = net.nodes[0].endpoint.as_ref().unwrap();
    let printed = format!("{key:?} {key:#?} {ring:?} {ring:#?} {endpoint:?} {endpoint:#?}");
    let config = format!("{:?}", endpoint.config());
    for text in [printed, config] {
        let text = text.replace(char::is_whitespace, "").to_lowercase();
        for pair in secret.windows(3) {
            let decimal = format!("{},{},{}", pair[0], pair[1], pair[2]);
            let hexadecimal = format!("{:02x}{:02x}{:02x}", pair[0], pair[1], pair[2]);
            assert!(!text.contains(&decimal) && !text.contains(&hexadecimal), "{decimal} is in {text}");
        }
    }
}

#[test]
fn what_carries_no_right_code_changes_nothing_and_is_answered_with_nothing() {
    let mut net = Net::connected(2, 2, 1);
    let mut rng = Rng::new(7);
    net.run(250 * MS);
    // Every kind of datagram that the nodes really say, so that the strangers' have the right shape.
    let mut heard: Vec<Vec<u8>> = Vec::new();
    net.kill(1);
    net.start(1);
    for _ in 0..2000 {
        net.run(MS / 10);
        heard.extend((0..2).flat_map(|i| net.overhear(i)));
    }
    assert!(net.all_up());
    let kinds: BTreeSet<u8> = heard.iter().map(|datagram| datagram[0] >> 4).collect();
    assert!(kinds.len() >= 4, "{kinds:?}");
    let now = net.now;
    let endpoint = net.nodes[0].endpoint.as_mut().unwrap();
    let state = |peers: Vec<PeerStatus>| format!("{peers:?}");
    let (before, due) = (state(endpoint.peers(now)), endpoint.poll_timeout());
    for round in 0..20_000 {
        let mut data = match round % 4 {
            0 => vec![0; usize::try_from(rng.below(1500)).unwrap()],
            _ => rng.pick(&heard).unwrap().clone(),
        };
        match round % 4 {
            0 => {
                rng.fill(&mut data);
                if let Some(first) = data.first_mut() {
                    *first = u8::try_from(rng.below(16)).unwrap() << 4 | 1;
                }
            }
            1 => {
                // Behind what says which key, and whose, it is.
                let from = data.len().min(24);
                rng.fill(&mut data[from..]);
            }
            2 => {
                let at = usize::try_from(rng.below(data.len() as u64)).unwrap();
                data[at] ^= 1 << rng.below(8);
            }
            _ => data.truncate(usize::try_from(rng.below(data.len() as u64)).unwrap()),
        }
        let (from, segment) = (address(1, 0), data.len().max(1));
        endpoint.handle(now, Input::Received(Received { path: PathId(0), from, segment, data: &mut data }));
        assert!(endpoint.poll_output().is_none(), "round {round}: nothing is said, and nobody is answered");
        assert_eq!(endpoint.poll_timeout(), due, "round {round}: nothing is waited for");
    }
    assert_eq!(state(endpoint.peers(now)), before, "nothing is known that was not known before");
    endpoint.check_invariants();
}
