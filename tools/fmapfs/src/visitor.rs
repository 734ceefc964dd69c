// SPDX-License-Identifier: GPL-2.0
//! A process that uses the mount while it is apart, on behalf of the server.
//!
//! The server must not do it itself. A process that is killed waits for the answer to a request
//! that was read already, and to each FLUSH; a process that waits for itself can neither end
//! nor be killed, and never releases its devices. So a child has a descriptor of the mount as
//! its stdin, and a socket as its stdout, from which it reads lines, each with a command and a
//! file, and answers each with a line that has the errno, or 0.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::mount::Apart;

/// Bytes of one write(2).
const ZEROS: usize = 2 << 20;

/// The child, as its parent sees it. It ends when this is dropped, and with it its reference to
/// the mount.
pub struct Visitor {
    child: Child,
    socket: BufReader<UnixStream>,
}

/// The result of a system call of the child, if the child lives.
type Answer = Result<rustix::io::Result<()>, String>;

impl Visitor {
    pub fn new(mount: &Apart) -> Result<Self, String> {
        let start = || {
            let (socket, theirs) = UnixStream::pair()?;
            let child = Command::new("/proc/self/exe")
                .arg0("fmapfs")
                .arg("--visit")
                .stdin(mount.root().try_clone()?)
                .stdout(OwnedFd::from(theirs))
                .stderr(Stdio::null())
                // Signals from a terminal go to the parent only.
                .process_group(0)
                .spawn()?;
            let socket = BufReader::new(socket);
            Ok(Self { child, socket })
        };
        start().map_err(|error: io::Error| format!("cannot start a process: {error}"))
    }

    /// Looks at a file; at the top if the name is empty.
    pub fn stat(&mut self, name: &str) -> Answer {
        self.ask("stat", name)
    }

    /// Opens a file, and closes it.
    pub fn open(&mut self, name: &str) -> Answer {
        self.ask("open", name)
    }

    /// Writes zeros to all of a file, durably.
    pub fn fill(&mut self, name: &str) -> Answer {
        self.ask("fill", name)
    }

    fn ask(&mut self, what: &str, name: &str) -> Answer {
        let mut answer = String::new();
        let asked = writeln!(self.socket.get_ref(), "{what} {name}");
        let answered = asked.and_then(|()| self.socket.read_line(&mut answer));
        match (answered, answer.trim_end().parse()) {
            (Ok(_), Ok(0)) => Ok(Ok(())),
            (Ok(_), Ok(errno)) => Ok(Err(Errno::from_raw_os_error(errno))),
            _ => Err(match self.child.wait() {
                Ok(status) => format!("a process ended early: {status}"),
                Err(error) => error.to_string(),
            }),
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The main loop of the child, until the parent closes the socket.
pub fn visit() -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    // The devices have to be free when the server is gone.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| error.to_string())?;
    let mount = io::stdin();
    let socket = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    let socket = UnixStream::from(socket);
    for line in BufReader::new(&socket).lines() {
        let line = line.map_err(failed)?;
        let (what, name) = line.split_once(' ').unwrap_or_default();
        let done = match what {
            "stat" => stat(mount.as_fd(), name),
            "open" => open(mount.as_fd(), name, OFlags::RDONLY).map(drop),
            "fill" => fill(mount.as_fd(), name),
            _ => Err(Errno::INVAL),
        };
        let errno = done.map_or_else(Errno::raw_os_error, |()| 0);
        writeln!(&socket, "{errno}").map_err(failed)?;
    }
    Ok(())
}

fn stat(mount: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statat(mount, name, flags).map(drop)
}

fn open(mount: BorrowedFd<'_>, name: &str, access: OFlags) -> rustix::io::Result<File> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(mount, name, flags, Mode::empty()).map(File::from)
}

fn fill(mount: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut file = open(mount, name, OFlags::WRONLY)?;
    let mut write = || {
        let mut left = file.metadata()?.len();
        while left > 0 {
            let length = left.min(ZEROS as u64);
            file.write_all(&zeros[..length as usize])?;
            left -= length;
        }
        file.sync_all()
    };
    write().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
