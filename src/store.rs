use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Where the view record of a node is kept between its lives.
///
/// One record, replaced as a whole; a few hundred bytes, written once per view change.
pub trait RecordStore: Send {
    /// The record of the last [`save`](RecordStore::save) that returned, or `None` if there never was one.
    ///
    /// # Errors
    /// The store cannot be read; the node must not start, because it may have promised something it forgot.
    fn load(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the record. When this returns, the record survives a power failure.
    ///
    /// # Errors
    /// The record may or may not be replaced; the old one is whole if the new one is not.
    fn save(&mut self, record: &[u8]) -> io::Result<()>;
}

/// A record in a file, replaced by writing a temporary file beside it, flushing, and renaming.
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// A store at `path`; its folder must exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

impl RecordStore for FileStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save(&mut self, record: &[u8]) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = self.folder().join(name);
        let mut file = File::create(&new)?;
        file.write_all(record)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.folder())?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_survives_reopening() {
        let folder = std::env::temp_dir().join(format!("ocf-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("record");
        let mut store = FileStore::new(&path);
        assert_eq!(store.load().unwrap(), None);
        store.save(b"first and longer").unwrap();
        store.save(b"second").unwrap();
        assert_eq!(FileStore::new(&path).load().unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_folder_is_an_error_and_not_an_empty_record() {
        let mut store = FileStore::new("/nonexistent-folder/record");
        assert!(store.save(b"x").is_err());
    }
}
