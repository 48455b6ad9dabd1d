use core::fmt;
use nix::mount::MsFlags;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// One line of what is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Major and minor number of its device.
    pub(super) device: (u64, u64),
    pub(super) point: PathBuf,
    pub(super) fstype: String,
    /// What it was mounted from.
    pub(super) source: String,
    /// Here, or everywhere.
    pub(super) read_only: bool,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} ({})", self.source, self.point.display(), self.fstype)
    }
}

/// What is mounted at this path, without links in it, the topmost last.
pub(super) fn at(point: &Path) -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(read).filter(|mount| mount.point == point).collect())
}

/// A line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn read(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let (major, minor) = left.get(2)?.split_once(':')?;
    let mut right = right.split(' ');
    let (fstype, source) = (right.next()?, right.next()?);
    let whole = right.next().unwrap_or_default();
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point: PathBuf::from(plain(left.get(4)?)),
        fstype: fstype.to_owned(),
        source: plain(source),
        read_only: read_only(left.get(5)?) || read_only(whole),
    })
}

/// The kernel writes blanks, line ends and backslashes as three octal digits.
fn plain(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| core::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(byte);
            rest = &after[3..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The program that mounts this type, if there is one: the kernel alone cannot, or not well.
pub(super) fn helper(kind: &str) -> Option<PathBuf> {
    let name = format!("mount.{}", kind.split('.').next().unwrap_or(kind));
    ["/sbin", "/usr/sbin"].iter().map(|folder| Path::new(folder).join(&name)).find(|program| program.exists())
}

/// The types of disks that the kernel has.
pub(super) fn kinds() -> Vec<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// The path of a device that may be written as `UUID=` or `LABEL=`.
pub(super) fn device(text: &str) -> PathBuf {
    let by = [
        ("UUID=", "by-uuid"),
        ("LABEL=", "by-label"),
        ("PARTUUID=", "by-partuuid"),
        ("PARTLABEL=", "by-partlabel"),
    ];
    let path = by.iter().find_map(|(prefix, folder)| {
        text.strip_prefix(prefix).map(|name| Path::new("/dev/disk").join(folder).join(name.trim_matches('"')))
    });
    path.unwrap_or_else(|| PathBuf::from(text))
}

/// What `options` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// For the kernel.
    pub(super) flags: MsFlags,
    /// For the file system.
    data: String,
}

impl Options {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut options = Self { flags: MsFlags::empty(), data: String::new() };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if let Some((flags, on)) = flag(word) {
                options.flags.set(flags, on);
            } else if ["loop", "remount", "move"].contains(&word) || word.contains('\0') {
                return Err(format!("have {word}, which is not for a resource"));
            } else if !is_for_programs(word) {
                options.data += if options.data.is_empty() { "" } else { "," };
                options.data += word;
            }
        }
        if options.flags.contains(MsFlags::MS_BIND) && !options.data.is_empty() {
            return Err(format!("have {}, which is nothing for a folder", options.data));
        }
        Ok(options)
    }

    pub(super) fn data(&self) -> Option<&str> {
        Some(self.data.as_str()).filter(|data| !data.is_empty())
    }
}

fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "silent" => (MsFlags::MS_SILENT, true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

/// What programs read, and neither the kernel nor a file system.
fn is_for_programs(word: &str) -> bool {
    let words =
        ["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"];
    words.contains(&word) || word.starts_with("x-") || word.starts_with("comment=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_with_blanks_in_its_paths() {
        let line =
            "36 35 98:3 /a /mnt/with\\040blank rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = read(line).expect("a line");
        assert_eq!((mount.device, mount.point), ((98, 3), "/mnt/with blank".into()));
        assert_eq!((&*mount.fstype, &*mount.source, mount.read_only), ("ext3", "/dev/root", false));
        let gone_bad = line.replace(" rw,errors", " ro,errors");
        assert!(read(&gone_bad).expect("a line").read_only, "the whole file system is");
        assert_eq!(read("36 35 98 / /mnt"), None);
    }

    #[test]
    fn options_are_for_the_kernel_for_the_file_system_or_for_neither() {
        let options = Options::read("defaults,ro, noatime,size=1m,rw,_netdev,x-systemd.after=a,mode=700")
            .expect("good");
        assert_eq!((options.flags, options.data()), (MsFlags::MS_NOATIME, Some("size=1m,mode=700")));
        assert_eq!(Options::read("").expect("good").data(), None);
        assert!(Options::read("loop").is_err() && Options::read("bind,size=1").is_err());
    }

    #[test]
    fn a_device_may_be_named_by_its_label() {
        assert_eq!(device("LABEL=\"data\""), Path::new("/dev/disk/by-label/data"));
        assert_eq!(device("tmpfs"), Path::new("tmpfs"));
    }
}
