//! What the lock protects: a file of records that refuses who holds an older token than it has seen.

use ocf_dlm::FencingToken;
use rustix::fs::{FlockOperation, flock};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// A record of the file: one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// One more than that of the record before.
    pub(crate) value: u64,
    pub(crate) token: FencingToken,
    /// Who wrote it.
    pub(crate) node: u32,
}

/// The file, and beside it the greatest token that it was shown, by readers and writers alike.
#[derive(Debug)]
pub(crate) struct Store {
    records: PathBuf,
    seen: PathBuf,
}

/// Why the store did not do it.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody with this token was here since: the caller does not hold the lock any more.
    Stale(FencingToken),
    Io(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(seen) => write!(f, "stale: the store has seen {seen}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Store {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { records: folder.join("records"), seen: folder.join("seen") }
    }

    /// The last value. From now on, who has an older token is refused: it could have read the same value before.
    pub(crate) fn read(&self, token: FencingToken) -> Result<u64, Refused> {
        let _one_at_a_time = self.admit(token)?;
        Ok(self.records()?.last().map_or(0, |record| record.value))
    }

    /// Appends a record, unless a greater token was here.
    pub(crate) fn append(&self, record: Record) -> Result<(), Refused> {
        let _one_at_a_time = self.admit(record.token)?;
        let mut file = OpenOptions::new().append(true).create(true).open(&self.records)?;
        let Record { value, token, node } = record;
        Ok(file.write_all(format!("{value} {} {} {node}\n", token.epoch, token.sequence).as_bytes())?)
    }

    /// Looks at the token. What is returned keeps everybody else out of the store as long as it is there, also other
    /// processes, and goes with the process.
    fn admit(&self, token: FencingToken) -> Result<File, Refused> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.seen)?;
        flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
        let (epoch, sequence) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let seen = FencingToken { epoch, sequence };
        if token < seen {
            return Err(Refused::Stale(seen));
        }
        file.seek(SeekFrom::Start(0))?;
        // As long as any other: a writer that dies here leaves no mixture.
        file.write_all(format!("{:020} {:020}\n", token.epoch, token.sequence).as_bytes())?;
        Ok(file)
    }

    /// All records, oldest first.
    pub(crate) fn records(&self) -> io::Result<Vec<Record>> {
        let text = match fs::read_to_string(&self.records) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let record = |line: &str| {
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            let mut next = || numbers.next().and_then(Result::ok);
            let (value, epoch, sequence) = (next()?, next()?, next()?);
            let node = u32::try_from(next()?).ok()?;
            Some(Record { value, token: FencingToken { epoch, sequence }, node })
        };
        let wrong = |line| io::Error::other(format!("not a record: {line:?}"));
        text.lines().map(|line| record(line).ok_or_else(|| wrong(line))).collect()
    }

    /// Whether each record follows from the one before: no update is lost, and no token is older. How many there are.
    pub(crate) fn audit(&self) -> Result<usize, String> {
        let records = self.records().map_err(|error| error.to_string())?;
        for pair in records.windows(2) {
            if pair[1].value != pair[0].value + 1 {
                return Err(format!("an update is lost: {:?} after {:?}", pair[1], pair[0]));
            }
            if pair[1].token <= pair[0].token {
                return Err(format!("a stale write: {:?} after {:?}", pair[1], pair[0]));
            }
        }
        Ok(records.len())
    }
}
