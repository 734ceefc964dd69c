// SPDX-License-Identifier: GPL-2.0
//! Files at paths that the user gives: the pid file, and the report.
//!
//! The directory may belong to another user, and fmapfs is root. So no existing file is
//! opened for writing, and no symbolic link is followed: a file is made (O_EXCL), with a
//! fixed mode, under its name, or gets it by a rename. Only files that were made here are
//! removed. The directory is opened once; what its path leads to later does not matter.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::Pid;

const MODE: Mode = Mode::from_raw_mode(0o644);

/// A name in a directory.
#[derive(Debug)]
struct Name {
    dir: OwnedFd,
    name: OsString,
    /// The path, for messages.
    path: PathBuf,
}

impl Name {
    fn new(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let path = std::path::absolute(path).map_err(|error| format!("{shown}: {error}"))?;
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(format!("{shown} is no name of a file"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(above, flags, Mode::empty())
            .map_err(|error| format!("{}: {error}", above.display()))?;
        Ok(Self {
            dir,
            name: name.to_owned(),
            path,
        })
    }

    fn failed(&self, error: impl Into<std::io::Error>) -> String {
        format!("{}: {}", self.path.display(), error.into())
    }

    /// Makes a file that was not there.
    fn make(&self, name: &OsString) -> rustix::io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, MODE)?;
        // Whatever the umask is.
        rustix::fs::fchmod(&file, MODE)?;
        Ok(file.into())
    }

    /// Opens an existing file, which has to be a regular one that belongs to this user.
    fn open(&self, flags: OFlags) -> Result<File, String> {
        let refused = |what: &str| format!("{} is there, and {what}", self.path.display());
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // To open a special file may have side effects.
        let stat = self.stat().map_err(|error| self.failed(error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (),
            FileType::Symlink => return Err(refused("is a symbolic link")),
            _ => return Err(refused("is no regular file")),
        }
        let file = rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty())
            .map_err(|error| self.failed(error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| self.failed(error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused("is no regular file"));
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refused("belongs to somebody else"));
        }
        Ok(file.into())
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns true if the name is that of a file.
    fn is_of(&self, file: &File) -> bool {
        let place = |stat: Stat| (stat.st_dev, stat.st_ino);
        let there = self.stat().map(place);
        there.is_ok() && there == rustix::fs::fstat(file).map(place)
    }

    /// Removes the name, if it is that of a file.
    fn remove(&self, file: &File) {
        if self.is_of(file) {
            let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// The file with the process id of the server.
///
/// The server keeps it locked, so the file of a killed server can be told from that of a
/// running one.
#[derive(Debug)]
pub struct PidFile {
    name: Name,
    made: Mutex<Option<File>>,
}

impl PidFile {
    pub fn new(path: &Path) -> Result<Self, String> {
        Ok(Self {
            name: Name::new(path)?,
            made: Mutex::new(None),
        })
    }

    /// Makes it, empty.
    pub fn make(&self) -> Result<(), String> {
        let made = match self.name.make(&self.name.name) {
            Err(Errno::EXIST) => {
                self.remove_stale()?;
                self.name.make(&self.name.name)
            }
            made => made,
        };
        let file = made.map_err(|error| self.name.failed(error))?;
        // The file is new: another process can have locked it only for a check, as in
        // remove_stale().
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        *self.made() = Some(file);
        Ok(())
    }

    /// Writes the process id into it.
    pub fn write(&self) -> Result<(), String> {
        let number = format!("{}\n", std::process::id());
        match &mut *self.made() {
            Some(file) => file
                .write_all(number.as_bytes())
                .map_err(|error| self.name.failed(error)),
            None => Ok(()),
        }
    }

    /// Removes the file of a server that was killed.
    fn remove_stale(&self) -> Result<(), String> {
        let shown = self.name.path.display();
        let mut file = self.name.open(OFlags::RDONLY)?;
        let mut text = String::new();
        let whole = (&mut file).take(32).read_to_string(&mut text);
        let number = match text.trim_end() {
            "" => None,
            number => {
                let pid = number.parse().ok().filter(|&number: &i32| number > 0);
                let pid = pid.and_then(Pid::from_raw);
                let pid = pid.filter(|_| whole.is_ok());
                Some(pid.ok_or_else(|| format!("{shown} is there, and is no pid file"))?)
            }
        };
        let runs =
            number.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH));
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        if runs || locked {
            return Err(format!(
                "{shown} is there, and process {} runs",
                text.trim_end()
            ));
        }
        self.name.remove(&file);
        Ok(())
    }

    pub fn remove(&self) {
        if let Some(file) = self.made().take() {
            self.name.remove(&file);
        }
    }

    fn made(&self) -> MutexGuard<'_, Option<File>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A file that is replaced at once, so that a reader never sees half of it.
#[derive(Debug)]
pub struct Replaced {
    name: Name,
    /// The file that was made at first, if there was none.
    made: Option<File>,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl Replaced {
    /// Checks that it can be written, and may be replaced.
    pub fn new(path: &Path) -> Result<Self, String> {
        let name = Name::new(path)?;
        let made = match name.make(&name.name) {
            Ok(file) => Some(file),
            Err(Errno::EXIST) => {
                name.open(OFlags::WRONLY)?;
                None
            }
            Err(error) => return Err(name.failed(error)),
        };
        let new = Self {
            name,
            made,
            writing: Mutex::new(()),
        };
        new.write_beside("0\n")
            .and_then(|beside| new.unlink(&beside))
            .inspect_err(|_| new.forget())?;
        Ok(new)
    }

    /// Writes it anew.
    pub fn write(&self, text: &str) -> Result<(), String> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.name.stat() {
            Err(Errno::NOENT) => (),
            // A file that was put there since must not be replaced.
            _ => drop(self.name.open(OFlags::WRONLY)?),
        }
        let beside = self.write_beside(text)?;
        let (dir, name) = (&self.name.dir, &self.name.name);
        rustix::fs::renameat(dir, &beside, dir, name).map_err(|error| {
            let _ = self.unlink(&beside);
            self.name.failed(error)
        })
    }

    /// Removes the file that was made at first, if it was not replaced: there was nothing
    /// to report.
    pub fn forget(&self) {
        if let Some(file) = &self.made {
            self.name.remove(file);
        }
    }

    /// Makes a file in the same directory that has the text; returns its name.
    fn write_beside(&self, text: &str) -> Result<OsString, String> {
        let mut beside = OsString::from(".");
        beside.push(&self.name.name);
        // Hashers have a seed that other users cannot guess.
        beside.push(format!(
            ".{:016x}",
            RandomState::new().build_hasher().finish()
        ));
        let mut file = self
            .name
            .make(&beside)
            .map_err(|error| self.name.failed(error))?;
        match file.write_all(text.as_bytes()) {
            Ok(()) => Ok(beside),
            Err(error) => {
                let _ = self.unlink(&beside);
                Err(self.name.failed(error))
            }
        }
    }

    fn unlink(&self, name: &OsString) -> Result<(), String> {
        rustix::fs::unlinkat(&self.name.dir, name, AtFlags::empty())
            .map_err(|error| self.name.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// A directory that goes away again.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("fmapfs-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
            let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
            names.sort();
            names
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_pid_file_is_there_as_long_as_its_owner() {
        let dir = Dir::new("pid");
        let path = dir.file("pid");
        let first = PidFile::new(&path).unwrap();
        first.make().unwrap();
        first.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);

        // A server that fails removes nothing.
        let second = PidFile::new(&path).unwrap();
        assert!(second.make().unwrap_err().contains("runs"));
        drop(second);
        assert_eq!(dir.names(), ["pid"]);
        drop(first);
        assert!(dir.names().is_empty());
    }

    #[test]
    fn what_a_killed_server_left_is_replaced_and_nothing_else() {
        let dir = Dir::new("stale");
        let path = dir.file("pid");
        // Larger than any process id.
        fs::write(&path, "2147483646\n").unwrap();
        let file = PidFile::new(&path).unwrap();
        file.make().unwrap();
        drop(file);
        assert!(dir.names().is_empty());

        for other in ["notes\n", "12 13\n", "-1\n", "0\n"] {
            fs::write(&path, other).unwrap();
            let error = PidFile::new(&path).unwrap().make().unwrap_err();
            assert!(error.contains("no pid file"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        fs::remove_file(&path).unwrap();
        fs::write(dir.file("target"), "2147483646\n").unwrap();
        symlink("target", &path).unwrap();
        let error = PidFile::new(&path).unwrap().make().unwrap_err();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(dir.names(), ["pid", "target"]);
    }

    #[test]
    fn another_file_by_that_name_is_not_removed() {
        let dir = Dir::new("other");
        let path = dir.file("pid");
        let file = PidFile::new(&path).unwrap();
        file.make().unwrap();
        fs::rename(&path, dir.file("moved")).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(file);
        assert_eq!(dir.names(), ["moved", "pid"]);
    }

    #[test]
    fn a_report_is_made_replaced_and_kept() {
        let dir = Dir::new("report");
        let path = dir.file("stats");
        let report = Replaced::new(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        report.write("one").unwrap();
        report.write("two").unwrap();
        report.forget();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        // The reader of the report may remove it.
        fs::remove_file(&path).unwrap();
        report.write("three").unwrap();
        assert_eq!(dir.names(), ["stats"]);

        let again = Replaced::new(&path).unwrap();
        again.forget();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    }

    #[test]
    fn a_report_that_is_not_written_is_not_there() {
        let dir = Dir::new("none");
        Replaced::new(&dir.file("stats")).unwrap().forget();
        assert!(dir.names().is_empty());
    }

    #[test]
    fn a_report_goes_nowhere_else() {
        let dir = Dir::new("else");
        let path = dir.file("stats");
        fs::write(dir.file("precious"), "data").unwrap();
        symlink("precious", &path).unwrap();
        let error = Replaced::new(&path).unwrap_err();
        assert!(error.contains("symbolic link"), "{error}");
        fs::remove_file(&path).unwrap();

        let report = Replaced::new(&path).unwrap();
        // A former version used this name for the new file.
        symlink("precious", dir.file("stats.new")).unwrap();
        report.write("one").unwrap();
        fs::remove_file(&path).unwrap();
        symlink("precious", &path).unwrap();
        assert!(report.write("two").is_err());
        assert_eq!(fs::read_to_string(dir.file("precious")).unwrap(), "data");

        assert!(Replaced::new(&dir.0).is_err());
        assert!(Replaced::new(Path::new("/nonexistent/stats")).is_err());
        assert!(Replaced::new(Path::new("/")).is_err());
        assert!(Replaced::new(Path::new("/dev/null")).is_err());
        fs::set_permissions(dir.file("precious"), PermissionsExt::from_mode(0o600)).unwrap();
    }
}
