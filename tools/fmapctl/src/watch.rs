// SPDX-License-Identifier: GPL-2.0
//! Prints something again and again, until it is interrupted or its reader has gone.

use std::io::{self, ErrorKind, IsTerminal};
use std::thread;
use std::time::Duration;

use fmap_host::reason::reason;

use crate::failure::Failure;
use crate::output;
use crate::status;

/// To the top left corner, and the rest of the terminal empty.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Prints what is mounted.
pub fn status(options: &status::Options, every: Duration) -> Result<(), Failure> {
    let on_screen = io::stdout().is_terminal() && !options.json;
    let mut last = None;
    loop {
        let mut out = match (on_screen, options.json || last.is_none()) {
            (true, _) => CLEAR.to_owned(),
            (false, true) => String::new(),
            (false, false) => "\n".to_owned(),
        };
        last = Some(status::again(options, last, &mut out)?);
        match output::write(io::stdout(), &out) {
            Ok(()) => thread::sleep(every),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(format!("standard output: {}", reason(&error)).into()),
        }
    }
}
