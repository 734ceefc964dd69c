// SPDX-License-Identifier: GPL-2.0
//! fmapfs: mounts a tree of files in DAX memory that a manifest describes.
//!
//! ```text
//!  manifest -----> layout -----> tree <----- session <---> /dev/fuse
//!  what it says    where it is   names, maps   who asks
//! ```

mod device;
mod layout;
mod manifest;
#[cfg(test)]
mod properties;
mod session;
mod stats;
mod tree;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use clap::Parser;
use fuse_dax_fmap::{OpsName, striped};

use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::session::Session;
use crate::tree::Tree;

const MANIFEST_HELP: &str = r#"The manifest is TOML:

  [[device]]                  # in the order of their index
  name = "a"
  path = "/dev/dax0.0"        # bound to the driver fsdev_dax
  size = "4G"                 # use no more of it; the default is all

  [[dir]]                     # only needed where the defaults do not fit
  path = "logs"
  mode = "0750"               # default 0755 and, for files, 0644
  uid = 0                     # default 0
  gid = 4                     # default 0

  [[file]]                    # 64 MiB, wherever there is room, 2 MiB on a,
  path = "logs/today"         # then 2 MiB on b, and so on
  size = "64M"
  devices = ["a", "b"]
  chunk = "2M"                # default 2M

  [[file]]                    # exactly here
  path = "table"
  size = 5000000              # default: all of its extents
  shared = true               # other shared files may have the same bytes, but
                              # a page can be mapped through one of them only
  [[file.extent]]
  length = "2M"
  device = "a"
  offset = "1G"
  [[file.extent]]
  length = "8M"
  chunk = "64K"
  strips = [{ device = "a", offset = 0 }, { device = "b", offset = 0 }]

Numbers of bytes are integers or strings with K, M, G or T (powers of 1024).
Names and sizes are fixed while it is mounted; mode, owner and times can be
changed and are forgotten at the unmount.

Signals: SIGTERM, SIGINT and SIGHUP unmount, SIGUSR1 reports how many requests of which
kind came in. Status: 0 unmounted, 1 failed, 2 wrong use."#;

/// Mounts a tree of files in DAX memory that a manifest describes.
///
/// The kernel maps, reads and writes the files without asking fmapfs again once
/// they are open. Needs root, the module fuse_dax_fmap, and registered ops
/// (`fmapctl load striped.bpf.o`).
#[derive(Parser)]
#[command(version, after_long_help = MANIFEST_HELP)]
struct Args {
    /// What to mount (--help describes it)
    manifest: PathBuf,

    /// An existing directory
    #[arg(required_unless_present = "check")]
    mountpoint: Option<PathBuf>,

    /// Check the manifest, print where each file is, and end
    #[arg(short = 'n', long)]
    check: bool,

    /// Return when the files can be used, and serve in the background
    #[arg(short, long, conflicts_with = "check")]
    daemon: bool,

    /// Serve in the foreground, which is the default
    #[arg(short, long, conflicts_with = "daemon")]
    foreground: bool,

    /// Write the server's process id here when the files can be used
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Report requests to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// The ops to name, if their format is `striped` under another name
    #[arg(long, default_value = striped::OPS_NAME)]
    ops: OpsName,

    /// Set for the child of --daemon: tell the parent on stdout, then let go
    #[arg(long, hide = true)]
    child: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("fmapfs: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode, String> {
    let shown = args.manifest.display();
    let in_file = |error: manifest::Error| format!("{shown}:{error}");
    let text = fs::read_to_string(&args.manifest).map_err(|error| format!("{shown}: {error}"))?;
    let manifest = manifest::parse(&text).map_err(in_file)?;
    if !args.check {
        for device in &manifest.devices {
            device::usable(&device.path)
                .map_err(|message| in_file(manifest::Error::new(device.line, message)))?;
        }
    }
    let sizes = sizes(&manifest).map_err(in_file)?;
    let layout = layout::place(&manifest, &sizes).map_err(in_file)?;
    let listing = list(&manifest, &layout);
    let tree = Tree::new(manifest, layout).map_err(in_file)?;
    if args.check {
        print!("{listing}");
        return Ok(ExitCode::SUCCESS);
    }

    let mountpoint = args.mountpoint.as_deref().unwrap_or(Path::new(""));
    let mountpoint = fs::canonicalize(mountpoint)
        .map_err(|error| format!("{}: {error}", mountpoint.display()))?;
    if args.daemon {
        return start_child();
    }

    let absolute = |path: Option<PathBuf>| {
        path.map(std::path::absolute)
            .transpose()
            .map_err(|error| error.to_string())
    };
    let pid_file = absolute(args.pid_file)?;
    let report = absolute(args.stats)?;
    if args.child {
        let _ = rustix::process::setsid();
    }

    let nr_files = tree.nr_files();
    let place = mountpoint.display().to_string();
    let session = Session {
        tree: Arc::new(tree),
        ops: args.ops,
        mountpoint,
        report,
    };
    let cleanup = pid_file.clone();
    let served = session.run(move || {
        if let Some(path) = &pid_file {
            if let Err(error) = fs::write(path, format!("{}\n", std::process::id())) {
                eprintln!("fmapfs: {}: {error}", path.display());
            }
        }
        if args.child {
            let_go();
        } else {
            eprintln!("fmapfs: {nr_files} files on {place}");
        }
    });
    if let Some(path) = cleanup {
        // Not there if it never came so far.
        let _ = fs::remove_file(path);
    }
    served.map(|()| ExitCode::SUCCESS)
}

/// Bytes of each device that files may use, where the manifest or the system tells.
fn sizes(manifest: &Manifest) -> Result<Vec<Option<u64>>, manifest::Error> {
    let mut sizes = Vec::new();
    for device in &manifest.devices {
        let real = device::size(&device.path);
        if let (Some(real), Some(wanted)) = (real, device.size) {
            if wanted > real {
                let message = format!("{} has only {real} bytes", device.path.display());
                return Err(manifest::Error::new(device.line, message));
            }
        }
        sizes.push(device.size.or(real));
    }
    Ok(sizes)
}

/// Where each file is, for a person.
fn list(manifest: &Manifest, layout: &Layout) -> String {
    let mut text = String::new();
    let name = |index: u32| &manifest.devices[index as usize].name;
    for (file, placement) in manifest.files.iter().zip(&layout.files) {
        text += &format!("{} {} bytes\n", file.path.join("/"), file.size);
        let mut at = 0;
        for extent in &placement.extents {
            let how = match extent.chunk {
                0 => "on".to_owned(),
                chunk => format!("in chunks of {chunk:#x} on"),
            };
            text += &format!("  {at:#x} + {:#x} {how}", extent.length);
            for strip in &extent.strips {
                text += &format!(" {}@{:#x}", name(strip.device), strip.offset);
            }
            text += "\n";
            at += extent.length;
        }
    }
    text
}

/// Runs the same command as a child and waits for its word that all is well.
fn start_child() -> Result<ExitCode, String> {
    let failed = |error| format!("cannot start the server: {error}");
    let args = std::env::args_os()
        .skip(1)
        .filter(|arg| arg != "--daemon" && arg != "-d");
    let mut child = Command::new("/proc/self/exe")
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
    // It said why on stderr.
    child.wait().map_err(failed)?;
    Ok(ExitCode::FAILURE)
}

/// Tells the parent, and leaves its terminal and directory.
fn let_go() {
    let mut stdout = std::io::stdout();
    // A parent that is gone has no use for the word.
    let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    let _ = std::env::set_current_dir("/");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_manifest_in_the_help_is_one() {
        let example: Vec<&str> = MANIFEST_HELP
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .collect();
        let device_b = "\n[[device]]\nname = \"b\"\npath = \"/dev/dax1.0\"\nsize = \"1G\"\n";
        let manifest = manifest::parse(&(example.join("\n") + device_b)).unwrap();
        let sizes = sizes(&manifest).unwrap();
        let layout = layout::place(&manifest, &sizes).unwrap();
        assert_eq!(
            list(&manifest, &layout),
            "logs/today 67108864 bytes\n  \
             0x0 + 0x4000000 in chunks of 0x200000 on a@0x400000 b@0x400000\n\
             table 5000000 bytes\n  \
             0x0 + 0x200000 on a@0x40000000\n  \
             0x200000 + 0x800000 in chunks of 0x10000 on a@0x0 b@0x0\n"
        );
        assert_eq!(Tree::new(manifest, layout).unwrap().nr_files(), 2);
    }
}
