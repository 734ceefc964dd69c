// SPDX-License-Identifier: GPL-2.0
//! Messages of fmapfs.
//!
//! A server must not end because a message cannot be written: with a closed pipe or a
//! full disk behind stderr, only the message is lost. A daemon has no stderr; its
//! messages go to the system's log.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use fmap_host::reason::{plain, printable};

static TO_LOG: AtomicBool = AtomicBool::new(false);

/// Prints a message, formatted as by `println!`.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// From here on messages go to the system's log.
pub fn to_log() {
    TO_LOG.store(true, Ordering::Relaxed);
}

pub fn line(text: fmt::Arguments<'_>) {
    let text = printable(&plain(&text.to_string()));
    if !TO_LOG.load(Ordering::Relaxed) {
        let _ = writeln!(io::stderr(), "fmapfs: {text}");
        return;
    }
    // Facility daemon, priority error.
    let text = format!("<27>fmapfs[{}]: {text}", process::id());
    // Without a log daemon the message is lost.
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(text.as_bytes(), "/dev/log"));
}

/// Prints to stdout. A reader that has closed the pipe is no error.
pub fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}
