// SPDX-License-Identifier: GPL-2.0
//! The process that starts a server in the background, and waits until the files can be used.
//!
//! The server is a child of its own session, so no ^C of the terminal reaches it. A user who ends
//! the parent, because zeroing takes too long, does not want the mount: until the child has said
//! that it is ready, it ends with its parent.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use crate::say;

/// Runs the same command as a child and waits until it reports that the files can be used.
pub fn start_child() -> Result<ExitCode, String> {
    let failed = |error| format!("cannot start the server: {error}");
    // The server must not inherit descriptors that the caller left open.
    let all_but_std = (
        3,
        libc::c_uint::MAX,
        libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
    );
    // SAFETY: It closes nothing, and makes descriptors close-on-exec, as those of this process
    // are.
    unsafe { libc::close_range(all_but_std.0, all_but_std.1, all_but_std.2) };

    let mut args = std::env::args_os();
    let mut child = Command::new("/proc/self/exe")
        .arg0(
            args.next()
                .unwrap_or_else(|| OsStr::new("fmapfs").to_owned()),
        )
        .arg("--child")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;

    let mut word = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut word)
            .map_err(failed)?;
    }
    if word == "ready\n" {
        return Ok(ExitCode::SUCCESS);
    }
    // It said why on stderr, unless it was killed.
    let status = child.wait().map_err(failed)?;
    if status.code().is_none() {
        return Err(format!("the server ended early: {status}"));
    }
    Ok(ExitCode::FAILURE)
}

/// In the child: it gets SIGTERM when its parent ends, until this thread lets go of it, or ends.
///
/// # Errors
///
/// The parent has ended already.
pub fn bind_to() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| error.to_string())?;
    let stdout = std::io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec::default();
    rustix::event::poll(&mut polled, Some(&now)).map_err(|error| error.to_string())?;
    match polled[0].revents().contains(PollFlags::ERR) {
        true => Err("the process that waited for it has ended: it was not mounted".to_owned()),
        false => Ok(()),
    }
}

/// Tells the parent, and leaves its terminal and directory. To be called by the thread that is
/// bound to it.
pub fn let_go() {
    let _ = rustix::process::set_parent_process_death_signal(None);
    let mut stdout = std::io::stdout();
    // The parent may be gone.
    let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    let _ = std::env::set_current_dir("/");
    say::to_log();
    if let Ok(null) = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
