// SPDX-License-Identifier: GPL-2.0
//! fmapctl: the operator's side of file maps.
//!
//! Ops come and go here ([`ops`]); what uses them is shown here ([`status`]) and
//! controlled elsewhere, by mounting and unmounting.
//!
//! A command collects what it has to say, and says it when it is done: nobody who stops
//! reading, and no full disk, interrupts it.

mod bpf;
mod object;
mod ops;
mod pins;
mod registry;
mod status;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const MODULE: &str = "fuse_dax_fmap";

/// Loads, lists and removes the BPF programs ("ops") that turn the file maps of
/// FUSE servers into mappings of DAX memory.
///
/// Needs root and the module fuse_dax_fmap.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Register the ops of BPF objects
    ///
    /// Servers can name them from then on, until `fmapctl unload` or a reboot. The
    /// links are pinned in /sys/fs/bpf/fuse_dax_fmap. If one of several objects cannot be
    /// loaded, none is.
    Load {
        /// Take the place of registered ops of the same name
        ///
        /// New mounts get the new ops. Mounts that use the old ones keep them until
        /// they are unmounted; `fmapctl status` marks them.
        #[arg(long)]
        replace: bool,
        /// Have servers that name no ops use these, such as famfs's
        ///
        /// It is the same as to write their name to the module's parameter default_ops.
        #[arg(long)]
        default: bool,
        /// Objects with a `struct fuse_dax_fmap_ops` in SEC(".struct_ops.link")
        #[arg(required = true, value_name = "OBJ")]
        objects: Vec<PathBuf>,
    },
    /// Show the registered ops, whoever registered them, and how many mounts use them
    ///
    /// OLDER counts mounts with ops that have been replaced or unregistered since.
    List,
    /// Unregister ops, whoever registered them
    ///
    /// Mounts that use them keep them until they are unmounted.
    Unload {
        /// Names as in `fmapctl list`
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show what is mounted with which ops and devices, and what the mounts have counted
    ///
    /// MAP is the id of the ops' BPF map, as in `fmapctl list`; "(old)" marks ops that
    /// have been replaced since the mount was made, "(gone)" ones that were unregistered.
    Status,
}

/// What a command failed with.
struct Failure {
    /// What goes before the message: what the verifier said, for who wrote the program.
    log: String,
    /// One sentence.
    message: String,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self {
            log: String::new(),
            message,
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let status = ExitCode::from(error.exit_code().try_into().unwrap_or(2));
            return match error.print() {
                Ok(()) => status,
                Err(error) => not_written(&error, status),
            };
        }
    };
    let mut out = String::new();
    let result = match args.command {
        Cmd::Load {
            replace,
            default,
            objects,
        } => ops::load(&objects, &ops::Options { replace, default }, &mut out),
        Cmd::List => ops::list(&mut out),
        Cmd::Unload { names } => ops::unload(&names, &mut out),
        Cmd::Status => status::show(&mut out),
    };
    let status = match &result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    };
    let status = match write(io::stdout(), &out) {
        Ok(()) => status,
        Err(error) => not_written(&error, status),
    };
    if let Err(Failure { log, message }) = result {
        let separator = if log.is_empty() { "" } else { "\n" };
        // If this cannot be written, nothing can.
        let _ = write(
            io::stderr(),
            &format!("{log}{separator}fmapctl: {message}\n"),
        );
    }
    status
}

fn write(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// What becomes of the status when something could not be said. Who stops reading has read
/// enough; anything else is an error.
fn not_written(error: &io::Error, status: ExitCode) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return status;
    }
    let reason = reason(error);
    let _ = write(
        io::stderr(),
        &format!("fmapctl: standard output: {reason}\n"),
    );
    ExitCode::FAILURE
}

/// What an error means, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// What every command needs.
fn check_host() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".to_owned());
    }
    if !Path::new("/sys/module").join(MODULE).exists() {
        return Err(format!("the module {MODULE} is not loaded"));
    }
    Ok(())
}

/// Lines of cells, each column as wide as its widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();

    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let rows = [
            row(&["NAME", "N"]),
            row(&["a", "1"]),
            row(&["longer", "22"]),
        ];
        assert_eq!(table(&rows), "NAME    N\na       1\nlonger  22\n");
    }

    #[test]
    fn errors_without_numbers() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(reason(&full), "No space left on device");
        assert_eq!(reason(&io::Error::other("something")), "something");
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
