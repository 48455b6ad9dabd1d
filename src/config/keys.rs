//! The keys that a configuration names.

use super::{KEY_MIN, Key, KeyEntry, NodeConfig};
use ocf_comm::{ClusterKey, KeyId, KeyRing};
use pils::ConfigErrors;
use std::path::Path;

/// Keys that a node can hold at a time.
const KEYS_MAX: usize = 8;
const MAKE_ONE: &str = "make one: head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'";

impl NodeConfig {
    /// The keys, from the configuration or their files. A single `key` or `key_file` has the id 0.
    ///
    /// # Errors
    /// There is none, or a file cannot be read, or holds no key, or keys contradict each other.
    pub fn read_keys(&self) -> Result<KeyRing, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        self.check_keys(&mut errors);
        errors.into_result()?;
        let mut errors = ConfigErrors::default();
        let single = KeyEntry { id: 0, key: self.key.clone(), file: self.key_file.clone(), send: true };
        let entries = if self.keys.is_empty() { core::slice::from_ref(&single) } else { &self.keys[..] };
        let mut found = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let (at, file) = if self.keys.is_empty() {
                ("key".to_owned(), "key_file".to_owned())
            } else {
                (format!("keys[{i}].key"), format!("keys[{i}].file"))
            };
            let key = match (&entry.key, &entry.file) {
                (Some(key), _) if key.bytes().len() < KEY_MIN => {
                    let problem = "is too short";
                    errors.push(at, format!("({} bytes)", key.bytes().len()), problem, MAKE_ONE);
                    continue;
                }
                (Some(key), _) => Some(key.clone()),
                (None, Some(path)) => read_file(&file, path, &mut errors),
                (None, None) => None,
            };
            found.extend(key.map(|key| (i, ClusterKey::new(KeyId(entry.id), key.bytes()))));
        }
        errors.into_result()?;
        let sends = |i: usize| entries[i].send || entries.len() == 1;
        // Nothing is missing any more: the checks above saw to it.
        let at = found.iter().position(|(i, _)| sends(*i)).unwrap_or(0);
        let mut ring = KeyRing::new(found.swap_remove(at).1);
        for (i, key) in found {
            let id = key.id;
            ring = ring.with(key).map_err(|error| {
                let mut errors = ConfigErrors::default();
                errors.push(format!("keys[{i}]"), id, error.to_string(), "correct one of them");
                errors
            })?;
        }
        Ok(ring)
    }

    /// What is wrong with the list of keys, without reading files.
    pub(crate) fn check_keys(&self, errors: &mut ConfigErrors) {
        match (&self.key, &self.key_file, self.keys.is_empty()) {
            (None, None, true) => {
                errors.push("key", "(missing)", "the cluster has no key", "give key, key_file or keys");
            }
            (Some(_), Some(_), _) => {
                errors.push("key", "(set)", "key and key_file are both given", "remove one of them");
            }
            (Some(_), None, false) | (None, Some(_), false) => {
                let fix = "write the single key as one of keys, with the id 0";
                errors.push("keys", self.keys.len(), "are given beside a single key", fix);
            }
            (Some(_), None, true) | (None, Some(_), true) | (None, None, false) => {}
        }
        if self.keys.len() > KEYS_MAX {
            let fix = format!("leave at most {KEYS_MAX}: the one in use, and those before and after it");
            errors.push("keys", self.keys.len(), "are too many", fix);
        }
        let sending = self.keys.iter().filter(|entry| entry.send).count();
        if sending > 1 || (sending == 0 && self.keys.len() > 1) {
            let problem = format!("{sending} of them have send = true");
            errors.push(
                "keys",
                self.keys.len(),
                problem,
                "mark exactly one: the key that this node sends with",
            );
        }
        for (i, entry) in self.keys.iter().enumerate() {
            let path = format!("keys[{i}]");
            if entry.key.is_some() == entry.file.is_some() {
                errors.push(path.clone(), entry.id, "needs a key or a file, not both", "give one of them");
            }
            if self.keys[..i].iter().any(|earlier| earlier.id == entry.id) {
                let fix = "give each key an id that was never used";
                errors.push(format!("{path}.id"), entry.id, "is used twice", fix);
            }
        }
    }
}

fn read_file(path: &str, file: &Path, errors: &mut ConfigErrors) -> Option<Key> {
    match std::fs::read_to_string(file).map(|text| Key::from_hex(&text)) {
        Ok(Some(key)) if key.bytes().len() >= KEY_MIN => return Some(key),
        Ok(_) => {
            errors.push(path, file.display(), "it does not hold at least 64 hexadecimal digits", MAKE_ONE);
        }
        Err(error) => {
            errors.push(path, file.display(), error.to_string(), "give a file that this process can read");
        }
    }
    None
}
