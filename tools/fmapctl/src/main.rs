// SPDX-License-Identifier: GPL-2.0
//! fmapctl: the operator's side of file maps.
//!
//! It registers and unregisters ops ([`ops`]), shows what uses them ([`status`], [`metrics`]),
//! and gives devices to the driver that they need ([`devices`], [`bind`()]); users come and go by
//! mounting and unmounting.
//!
//! A command collects its output, and prints it when it is done: a closed pipe or a full
//! disk cannot interrupt it.

mod at_boot;
mod bind;
mod bpf;
mod devices;
mod driver;
mod failure;
mod host;
mod interrupt;
mod json;
mod memory;
mod metrics;
mod object;
mod ops;
mod output;
mod pins;
mod record;
mod registry;
mod status;
mod table;
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fmap_host::reason::{printable, reason};

use crate::driver::Driver;
use crate::failure::Failure;

/// Loads, lists and removes the BPF programs ("ops") that turn the file maps of
/// FUSE servers into mappings of DAX memory, binds the devices, and shows what is in use.
///
/// All but `devices` need root; ops and status need the module fuse_dax_fmap.
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
    Status {
        /// Print JSON; with --watch, a line each time
        ///
        /// What was counted for devices is in it, and for files with --files.
        #[arg(long)]
        json: bool,
        /// Show the devices of the mounts, and what was counted for each
        ///
        /// POISONED is the number of pages that are known to have failed.
        #[arg(long)]
        devices: bool,
        /// Show the mapped files that were used most (20 if N is not given), and what was counted
        /// for each
        ///
        /// It is the use since the kernel has the file in its cache, by the bytes that were read,
        /// written and mapped by faults. If several CPUs use a file at the same moment, some of it
        /// may be missing. "(removed)" marks files without a name.
        #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
        files: Option<usize>,
        /// Print it again every so many seconds, and how fast the counters grow
        #[arg(
            long,
            value_name = "SECONDS",
            num_args = 0..=1,
            default_missing_value = "2",
            value_parser = clap::value_parser!(u32).range(1..=86400)
        )]
        watch: Option<u32>,
    },
    /// Show what the mounts have counted, for Prometheus and others (OpenMetrics text)
    Metrics {
        /// Write it to a file, which takes the place of the old one at once
        ///
        /// Such as /var/lib/prometheus/node-exporter/fuse_dax_fmap.prom, for the textfile
        /// collector of node_exporter.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the DAX devices of this machine, what identifies them, and who uses them
    Devices {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bind a device to the driver fsdev_dax, so that mounts can use it
    ///
    /// If it is system RAM (driver kmem), its memory is taken offline first; if some of it is in
    /// use, all of it goes back online, and nothing has changed. A reboot ends it, unless --at-boot
    /// is given.
    Bind {
        #[command(flatten)]
        device: DeviceArgs,
        /// Bind it whenever it appears, also at boot: add it to /etc/fuse-dax-fmap/devices
        #[arg(long)]
        at_boot: bool,
    },
    /// Bind a device to the driver that it had before `fmapctl bind`, or to another one
    ///
    /// A device that a mount or a program uses is left alone. Data stay as they are, but not in a
    /// device that becomes system RAM (kmem).
    Unbind {
        #[command(flatten)]
        device: DeviceArgs,
        /// The driver, if it is not the one before `fmapctl bind`, or device_dax by default
        #[arg(long, value_name = "DRIVER")]
        to: Option<Driver>,
        /// Do not bind it at boot any more: remove it from /etc/fuse-dax-fmap/devices
        #[arg(long)]
        at_boot: bool,
    },
}

#[derive(clap::Args)]
struct DeviceArgs {
    /// dax0.0, /dev/dax0.0, a link to that, or the id that `fmapctl devices` shows
    #[arg(value_name = "DEVICE")]
    device: String,
    /// How long the old driver may take to let go of it; of system RAM, each block of memory to go
    /// offline
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = clap::value_parser!(u32).range(1..=86400)
    )]
    timeout: u32,
    /// Print JSON: the device as `fmapctl devices --json` shows it now, and the driver that it had
    #[arg(long)]
    json: bool,
}

impl DeviceArgs {
    fn options(&self, at_boot: bool) -> bind::Options<'_> {
        bind::Options {
            device: &self.device,
            patience: Duration::from_secs(self.timeout.into()),
            at_boot,
            json: self.json,
        }
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "pages")]
    if let Some(dir) = pages::wanted() {
        let tool = pages::Tool {
            command: <Args as clap::CommandFactory>::command(),
            more: include_str!("../man/fmapctl.8"),
            typed: true,
        };
        return pages::main(dir, vec![tool]);
    }
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
        Cmd::Status {
            json,
            devices,
            files,
            watch,
        } => {
            let options = status::Options {
                json,
                devices,
                files,
            };
            match watch {
                None => status::show(&options, &mut out),
                Some(seconds) => watch::status(&options, Duration::from_secs(seconds.into())),
            }
        }
        Cmd::Metrics { output } => metrics::show(output.as_deref(), &mut out),
        Cmd::Devices { json } => devices::show(json, &mut out),
        Cmd::Bind { device, at_boot } => bind::bind(&device.options(at_boot), &mut out),
        Cmd::Unbind {
            device,
            to,
            at_boot,
        } => bind::unbind(&device.options(at_boot), to, &mut out),
    };
    let status = match &result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    };
    let status = match output::write(io::stdout(), &out) {
        Ok(()) => status,
        Err(error) => not_written(&error, status),
    };
    if let Err(Failure { log, message }) = result {
        let separator = if log.is_empty() { "" } else { "\n" };
        let message = printable(&message);
        // If this cannot be written, nothing can.
        let _ = output::write(
            io::stderr(),
            &format!("{log}{separator}fmapctl: {message}\n"),
        );
    }
    status
}

/// The exit status when output could not be written. A closed pipe is no error; anything
/// else is.
fn not_written(error: &io::Error, status: ExitCode) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return status;
    }
    let reason = reason(error);
    let _ = output::write(
        io::stderr(),
        &format!("fmapctl: standard output: {reason}\n"),
    );
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
