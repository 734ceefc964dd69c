// SPDX-License-Identifier: GPL-2.0
//! fmapctl: the operator's side of file maps.
//!
//! Ops come and go here ([`ops`]); what uses them is shown here ([`status`]) and
//! controlled elsewhere, by mounting and unmounting.

mod ops;
mod status;

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
    /// links are pinned in /sys/fs/bpf/fuse_dax_fmap.
    Load {
        /// Take the place of registered ops of the same name
        ///
        /// New mounts get the new ops. Mounts that use the old ones keep them until
        /// they are unmounted; `fmapctl status` marks them.
        #[arg(long)]
        replace: bool,
        /// Objects with a `struct fuse_dax_fmap_ops` in SEC(".struct_ops.link")
        #[arg(required = true, value_name = "OBJ")]
        objects: Vec<PathBuf>,
    },
    /// Show the registered ops and how many mounts use them
    ///
    /// OLDER counts mounts with ops that have been replaced or unregistered since.
    List,
    /// Unregister ops
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

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Cmd::Load { replace, objects } => objects
            .iter()
            .try_for_each(|object| ops::load(object, replace)),
        Cmd::List => ops::list(),
        Cmd::Unload { names } => names.iter().try_for_each(|name| ops::unload(name)),
        Cmd::Status => status::show(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fmapctl: {message}");
            ExitCode::FAILURE
        }
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
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
