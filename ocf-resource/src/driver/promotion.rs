//! Promotion scores of agents that are programs: what stands for Pacemaker's commands, and where it keeps them.

use crate::Promotion;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What an agent finds in place of `crm_attribute` and `crm_master`.
const PROGRAM: &str = include_str!("promotion.sh");
/// What it finds of Pacemaker's in the same place, if that is installed: looked for where agents look.
const OTHERS: [&str; 8] = [
    "attrd_updater",
    "cibadmin",
    "crm_failcount",
    "crm_mon",
    "crm_node",
    "crm_resource",
    "crm_simulate",
    "stonith_admin",
];
/// Longest score that is read, in bytes.
const SCORE_MAX: u64 = 64;

/// A directory with the programs, and with one file for each resource that has a score.
#[derive(Debug)]
pub(super) struct Scores {
    programs: PathBuf,
    scores: PathBuf,
}

impl Scores {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let (programs, scores) = (directory.join("bin"), directory.join("scores"));
        for place in [&programs, &scores] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        }
        for name in ["crm_attribute", "crm_master"] {
            let fresh = programs.join(format!(".{name}.{}", std::process::id()));
            fs::write(&fresh, PROGRAM)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
            fs::rename(&fresh, programs.join(name))?;
        }
        for name in OTHERS {
            let theirs = Path::new("/usr/sbin").join(name);
            if theirs.exists() {
                match symlink(theirs, programs.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(Self { programs, scores })
    }

    fn file(&self, resource: &str) -> PathBuf {
        self.scores.join(format!("{}.score", resource.replace('/', "_")))
    }

    pub(super) fn environment(&self, resource: &str) -> [(OsString, OsString); 2] {
        [
            ("HA_SBIN_DIR".into(), self.programs.clone().into()),
            ("OCF_PROMOTION_FILE".into(), self.file(resource).into()),
        ]
    }

    /// What was said before a start was said of another life of the resource.
    pub(super) fn forget(&self, resource: &str) {
        if let Err(error) = fs::remove_file(self.file(resource))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%resource, %error, "an old promotion score stays");
        }
    }

    /// What the agent of a resource has said last, if anything.
    pub(super) fn said(&self, resource: &str) -> Option<Promotion> {
        let mut text = String::new();
        fs::File::open(self.file(resource)).ok()?.take(SCORE_MAX).read_to_string(&mut text).ok()?;
        match text.trim() {
            "withdrawn" => Some(Promotion::Withdrawn),
            score => match score.parse() {
                Ok(score) => Some(Promotion::Score(score)),
                Err(error) => {
                    tracing::warn!(%resource, %error, "a promotion score cannot be read");
                    None
                }
            },
        }
    }
}
