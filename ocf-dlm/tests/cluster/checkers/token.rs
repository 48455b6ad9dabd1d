use super::{Book, Id, Seen};
use ocf_dlm::cluster::Completed;
use ocf_dlm::wire::Key;
use ocf_dlm::{FencingToken, Mode, Status};
use std::collections::BTreeMap;

/// D5: each grant of a writer carries a greater token than all before it, per resource.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    last: BTreeMap<Key, FencingToken>,
}

impl Tokens {
    pub(super) fn completed(&mut self, book: &mut Book, id: Id, before: &Seen, completed: &Completed) {
        let Some(mode) = completed.held.filter(|_| completed.status == Status::Granted) else { return };
        let last = self.last.entry(before.key.clone()).or_default();
        let stronger = before.held.is_none_or(|held| !held.is_down(mode));
        if mode.is_writer() && stronger {
            if completed.token <= *last {
                let what = format!("{id:?} {mode} of {:?}: {} after {last}", before.key, completed.token);
                book.fail("D5", what);
            }
            *last = completed.token;
        } else if completed.token < *last && mode == Mode::Pr && stronger {
            let what = format!("{id:?} {mode} of {:?}: {} below {last}", before.key, completed.token);
            book.fail("D5", what);
        }
    }
}
