// SPDX-License-Identifier: GPL-2.0
//! fmapfs: mounts a tree of files in DAX memory that a manifest describes.
//!
//! ```text
//!                              claim    devices are held, ops know the format
//!                              zero     what is new reads as zeros
//!                                |
//!  manifest -----> layout -----> tree <----- session <---> /dev/fuse
//!  what it says    where it is   names, maps   requests
//!                  ^      |      |       |
//!                  record, which |     mount    where it is put, and taken away
//!                  keeps it there; times
//! ```
//!
//! Called as `mount.fmapfs` or `mount.fuse.fmapfs` it is a helper of mount(8): it takes that one's
//! arguments, and goes to the background.

mod claim;
mod device;
mod files;
mod freeze;
mod layout;
mod manifest;
mod mount;
mod options;
mod parent;
#[cfg(test)]
mod properties;
mod record;
#[cfg(test)]
mod refused;
mod say;
mod session;
mod stats;
mod tree;
mod visitor;
mod zero;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use fmap_host::device::{Device, for_udev, present, size, usable};
use fmap_host::reason::printable;
use fuse_dax_fmap::{OpsName, striped};

use crate::files::{PidFile, Replaced};
use crate::layout::{Layout, Past};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::record::{Keeper, Store};
use crate::say::say;
use crate::session::Session;
use crate::tree::Tree;

const MANIFEST_HELP: &str = r#"The manifest is TOML:

  [[device]]                  # in the order of their index
  name = "a"
  path = "/dev/dax0.0"        # bound to the driver fsdev_dax; instead, or as well,
  # id = "cxl:0x1@0x0+0x0"    # what stays with the memory: see fmapfs --devices
  size = "4G"                 # use no more of it; the default is all

  [[dir]]                     # only needed where the defaults do not fit
  path = "logs"
  mode = "0750"               # default 0755 and, for files, 0644
  uid = "root"                # a name or a number; default 0
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
Names and sizes are fixed while it is mounted; mode and owner can be changed and
are forgotten at the unmount. Times are kept.

Where each file has been put is recorded in MANIFEST.layout (or --record FILE), so
that it stays there whatever is changed in the manifest:
  - A file with `devices` gets space by 2 MiB, around what is recorded. It reads as
    zeros then. A file that grows gets more; one that shrinks keeps what it had.
  - A file that is gone from the manifest keeps its space, and has its data again
    when it comes back. Under another name it is another file, unless that names
    just the extents that the old one had (--freeze prints them).
  - Space that the manifest names is never zeroed, and cannot be that of another file.
  - What would show other data than before is refused: another list of devices or
    chunk, other extents, a device that is not the one it was. With --reallocate
    such files are placed anew, full of zeros, and those that are gone from the
    manifest give up their space: their data are lost. Other files stay.
Manifest and record belong together: without the record everything is placed, and
zeroed, as if for the first time.

In fstab, with links to fmapfs named /sbin/mount.fmapfs and /sbin/mount.fuse.fmapfs:

  /etc/files.toml  /mnt  fuse.fmapfs  noatime,nofail  0 0

Options (-o) are those of mount(8) for any file system, and nonempty, ops=NAME, pid-file=FILE, stats=FILE
and record=FILE, as on the command line.

Signals: SIGTERM, SIGINT and SIGHUP unmount, and nothing but this mount: what lies on it has to
go first. SIGUSR1 reports how many requests of which kind came in. Status: 0 unmounted, 1 failed,
2 wrong use."#;

/// Mounts a tree of files in DAX memory that a manifest describes.
///
/// The kernel maps, reads and writes the files without asking fmapfs again once
/// they are open. Needs root, the module fuse_dax_fmap, and registered ops
/// (`fmapctl load striped.bpf.o`).
#[derive(Parser)]
#[command(version, after_long_help = MANIFEST_HELP)]
struct Args {
    /// What to mount (--help describes it)
    #[arg(required_unless_present_any = ["devices", "udev", "unmount_dead", "visit"])]
    manifest: Option<PathBuf>,

    /// An existing directory
    #[arg(required_unless_present_any = ["check", "freeze", "devices", "udev", "unmount_dead", "visit"])]
    mountpoint: Option<PathBuf>,

    /// Check the manifest, print where each file is, and end
    #[arg(short = 'n', long)]
    check: bool,

    /// Return when the files can be used, and serve in the background
    #[arg(short, long, conflicts_with_all = ["check", "freeze", "devices"])]
    daemon: bool,

    /// Print the manifest with the extents of each file, as a manifest, and end
    #[arg(long, conflicts_with_all = ["check", "reallocate"])]
    freeze: bool,

    /// Print the DAX devices that there are, with the ids that a manifest may have, and end
    #[arg(long, conflicts_with_all = ["check", "freeze"])]
    devices: bool,

    /// Keep the record of where files are here instead of beside the manifest
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Place files anew that cannot stay where they are: their data, and those of
    /// files that are gone from the manifest, are lost
    #[arg(long)]
    reallocate: bool,

    /// Serve in the foreground, which is the default
    #[arg(short, long, conflicts_with = "daemon")]
    foreground: bool,

    /// Mount options, as in fstab
    #[arg(short, value_name = "OPTION,...")]
    options: Vec<String>,

    /// Mount on a directory that is not empty, or a mount point already
    #[arg(long)]
    nonempty: bool,

    /// Write the server's process id here when the files can be used; removed at the end
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Report requests to this file, on SIGUSR1 and at the end; the former goes to stderr else
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    /// The ops to name, if their format is `striped` under another name
    #[arg(long, default_value = striped::OPS_NAME)]
    ops: OpsName,

    /// For udev: print the id of the DAX device of this name, and a file name for it
    #[arg(long, hide = true, value_name = "NAME")]
    udev: Option<String>,

    /// For fmapfs@.service: if the mount there is one of fmapfs whose server has ended, take it
    /// away
    #[arg(long, hide = true, value_name = "DIR")]
    unmount_dead: Option<PathBuf>,

    /// Set for the child that uses the mount while it is apart
    #[arg(long, hide = true)]
    visit: bool,

    /// Set for the child of --daemon: tell the parent on stdout, then let go
    #[arg(long, hide = true)]
    child: bool,
}

/// Mounts a tree of files in DAX memory that a manifest describes, for mount(8).
///
/// `fmapfs --help` says more.
#[derive(Parser)]
#[command(version)]
struct Helper {
    /// What to mount
    manifest: PathBuf,

    /// An existing directory
    mountpoint: PathBuf,

    /// Mount options, as in fstab
    #[arg(short, value_name = "OPTION,...")]
    options: Vec<String>,

    /// Pass over unknown options
    #[arg(short)]
    sloppy: bool,

    /// Check everything, and do not mount
    #[arg(short)]
    fake: bool,

    /// Passed over: there is no mtab
    #[arg(short)]
    no_mtab: bool,

    /// Passed over
    #[arg(short)]
    verbose: bool,

    /// The type of file system
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,

    /// As that of fmapfs
    #[arg(long, hide = true)]
    child: bool,
}

/// What is to be done with a manifest, for both command lines.
struct Wanted {
    manifest: PathBuf,
    mountpoint: PathBuf,
    what: What,
    daemon: bool,
    child: bool,
    reallocate: bool,
    options: Options,
    ops: OpsName,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Mount,
    Check,
    /// Check, and print where files are.
    List,
    Freeze,
}

impl Wanted {
    fn of_command(args: Args) -> Result<Self, String> {
        let mut options = Options::default();
        for text in &args.options {
            options.add(text, false)?;
        }
        options.nonempty |= args.nonempty;
        options.pid_file = args.pid_file.or(options.pid_file);
        options.stats = args.stats.or(options.stats);
        options.record = args.record.or(options.record);
        Ok(Self {
            manifest: args.manifest.unwrap_or_default(),
            mountpoint: args.mountpoint.unwrap_or_default(),
            what: match (args.check, args.freeze) {
                (true, _) => What::List,
                (_, true) => What::Freeze,
                _ => What::Mount,
            },
            daemon: args.daemon,
            child: args.child,
            reallocate: args.reallocate,
            ops: options.ops.unwrap_or(args.ops),
            options,
        })
    }

    fn of_helper(args: Helper) -> Result<Self, String> {
        let mut options = Options::default();
        for text in &args.options {
            options.add(text, args.sloppy)?;
        }
        let default = striped::OPS_NAME.parse();
        Ok(Self {
            manifest: args.manifest,
            mountpoint: args.mountpoint,
            what: match args.fake {
                true => What::Check,
                false => What::Mount,
            },
            daemon: true,
            child: args.child,
            reallocate: false,
            ops: options
                .ops
                .map_or(default, Ok)
                .map_err(|error| error.to_string())?,
            options,
        })
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "pages")]
    if let Some(dir) = pages::wanted() {
        return pages::main(dir, page_tools());
    }
    // What ps(1) shows, whatever name led here. Threads have it, too.
    let _ = rustix::thread::set_name(c"fmapfs");
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    let done = match called.as_encoded_bytes().starts_with(b"mount.") {
        true => Wanted::of_helper(Helper::parse()).and_then(run),
        false => match Args::parse() {
            args if args.visit => visitor::visit().map(|()| ExitCode::SUCCESS),
            args if args.devices => say::print(&list_devices()).map(|()| ExitCode::SUCCESS),
            Args {
                udev: Some(name), ..
            } => say::print(&for_udev(&name)).map(|()| ExitCode::SUCCESS),
            Args {
                unmount_dead: Some(place),
                ..
            } => mount::unmount_dead(&place).map(|()| ExitCode::SUCCESS),
            args => Wanted::of_command(args).and_then(run),
        },
    };
    done.unwrap_or_else(|message| {
        say!("{message}");
        ExitCode::FAILURE
    })
}

/// What has a man page.
#[cfg(feature = "pages")]
fn page_tools() -> Vec<pages::Tool> {
    use clap::CommandFactory;
    let helper = pages::Tool {
        command: Helper::command().name("mount.fmapfs"),
        more: include_str!("../man/mount.fmapfs.8"),
        typed: false,
    };
    let fmapfs = pages::Tool {
        command: Args::command(),
        more: include_str!("../man/fmapfs.8"),
        typed: true,
    };
    vec![helper, fmapfs]
}

fn run(wanted: Wanted) -> Result<ExitCode, String> {
    if wanted.options.remount {
        mount::remount(&wanted.mountpoint, &wanted.options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let to_mount = wanted.what == What::Mount;
    // A process that does not serve reads the record, and does not lock it.
    let serves = to_mount && (wanted.child || !wanted.daemon);

    let source = wanted.manifest.as_path();
    let shown = source.display();
    let in_file = |error: manifest::Error| format!("{shown}:{error}");
    let bytes = fs::read(source).map_err(|error| format!("{shown}: {error}"))?;
    let text = manifest::text(bytes).map_err(in_file)?;
    let mut manifest = manifest::parse(&text).map_err(in_file)?;
    device::resolve(&mut manifest, to_mount).map_err(in_file)?;

    let beside = match &wanted.options.record {
        // The server writes it until its end, when its working directory is another one.
        Some(path) => std::path::absolute(path).map_err(|error| error.to_string()),
        None => record::beside(source),
    };
    let (store, record) = match beside.as_deref() {
        Ok(path) if serves => {
            let (store, record) = Store::lock(path, source)?;
            (Some(store), record)
        }
        Ok(path) => (None, record::read(path)?),
        // Nothing can be recorded of what is read from a pipe.
        Err(_) if !to_mount => (None, Default::default()),
        Err(message) => return Err(message.clone()),
    };

    if to_mount {
        for device in &manifest.devices {
            usable(&device.path)
                .map_err(|message| in_file(manifest::Error::new(device.line, message)))?;
        }
    }
    // Not in the parent of a daemon: an earlier server, which has the record, may be about to
    // unmount.
    let place = match serves {
        true => Some(mount::check_place(
            &wanted.mountpoint,
            wanted.options.nonempty,
        )?),
        false => None,
    };
    let devices: Vec<_> = manifest.devices.iter().map(claim::Device::new).collect();
    claim::check_devices(&devices)?;
    let sizes = sizes(&manifest).map_err(in_file)?;
    let past = Past {
        record: &record,
        name: &beside.map_or(String::new(), |path| path.display().to_string()),
        reallocate: wanted.reallocate,
    };
    let layout = layout::place_beside(&manifest, &sizes, &past).map_err(in_file)?;
    if serves || !to_mount {
        for note in &layout.notes {
            say!("{shown}: {note}");
        }
    }
    if wanted.what == What::Freeze && !layout.record.new_space(devices.len()).is_empty() {
        say!(
            "{shown}: some files have never been mounted: frozen, they have what is in that \
             memory now"
        );
    }
    let text = match wanted.what {
        What::List => list(&manifest, &layout),
        What::Freeze => freeze::freeze(&manifest, &layout),
        What::Check | What::Mount => String::new(),
    };
    let record = layout.record.clone();
    let mut tree = Tree::new(manifest, layout).map_err(in_file)?;
    if !to_mount {
        say::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(store) = store else {
        return parent::start_child();
    };
    if wanted.child {
        let _ = rustix::process::setsid();
    }

    let keeper = Keeper::new(store, record);
    tree.keep_times(Arc::clone(&keeper));
    let pid_file = wanted.options.pid_file.as_deref().map(PidFile::new);
    let report = wanted.options.stats.as_deref().map(Replaced::new);
    let nr_files = tree.nr_files();
    let on = place.as_ref().map(|place| place.path.display().to_string());
    let on = on.unwrap_or_default();
    let session = Session {
        tree: Arc::new(tree),
        ops: wanted.ops,
        options: wanted.options.clone(),
        // For messages.
        source: fs::canonicalize(source).unwrap_or_else(|_| source.to_owned()),
        place: Mutex::new(place),
        devices,
        pid_file: pid_file.transpose()?,
        report: report.transpose()?,
        keeper,
        awaited: wanted.child,
    };
    let child = wanted.child;
    session.run(move || {
        if child {
            parent::let_go();
        } else {
            say!("{nr_files} files on {on}");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The DAX devices of this machine, as a manifest names them.
fn list_devices() -> String {
    let one = |device: Device| {
        let size = device.size.map_or("?".to_owned(), |size| size.to_string());
        let driver = device.driver.as_deref().unwrap_or("no driver");
        let id = match device.id {
            Some(id) => format!("id = \"{id}\"\n"),
            None => {
                "# no id: nothing that stays is known of it, or only root may know\n".to_owned()
            }
        };
        format!(
            "[[device]]                  # {size} bytes, {driver}\n\
             name = \"{name}\"\npath = \"/dev/{name}\"\n{id}",
            name = device.name
        )
    };
    let all: Vec<_> = present().into_iter().map(one).collect();
    all.join("\n")
}

/// Bytes of each device that files may use, where the manifest or the system tells.
fn sizes(manifest: &Manifest) -> Result<Vec<Option<u64>>, manifest::Error> {
    let mut sizes = Vec::new();
    for device in &manifest.devices {
        let real = size(&device.path);
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

/// Returns the places of all files, as text for the user.
fn list(manifest: &Manifest, layout: &Layout) -> String {
    let mut text = String::new();
    let name = |index: u32| &manifest.devices[index as usize].name;
    for (file, placement) in manifest.files.iter().zip(&layout.files) {
        text += &format!("{} {} bytes\n", printable(&file.path.join("/")), file.size);
        let mut at = 0;
        for extent in &placement.extents {
            let how = match extent.chunk {
                0 => "on".to_owned(),
                chunk => format!("in chunks of {chunk:#x} on"),
            };
            text += &format!("  {at:#x} + {:#x} {how}", extent.length);
            for strip in &extent.strips {
                let name = printable(name(strip.device));
                text += &format!(" {name}@{:#x}", strip.offset);
            }
            text += "\n";
            at += extent.length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        Helper::command().debug_assert();
    }

    #[test]
    fn what_mount_passes() {
        let helper = |args: &[&str]| {
            let args = ["mount.fmapfs"].iter().chain(args);
            Wanted::of_helper(Helper::try_parse_from(args).unwrap())
        };
        let args = [
            "f.toml",
            "/mnt",
            "-sv",
            "-o",
            "rw,nofail,ops=x,bogus",
            "-t",
            "fuse.fmapfs",
        ];
        let wanted = helper(&args).unwrap();
        assert!(wanted.daemon && wanted.what == What::Mount && !wanted.options.read_only);
        assert_eq!(wanted.ops.to_string(), "x");
        assert!(helper(&["f.toml", "/mnt", "-o", "bogus"]).is_err());
        let wanted = helper(&["f.toml", "/mnt", "-fn", "-o", "ro", "-o", "noatime"]).unwrap();
        assert!(wanted.what == What::Check && wanted.options.read_only);
        assert_eq!(wanted.ops.to_string(), striped::OPS_NAME);
    }

    #[test]
    fn options_of_the_command() {
        let command = |args: &[&str]| {
            let args = ["fmapfs", "f.toml", "/mnt"].iter().chain(args);
            Wanted::of_command(Args::try_parse_from(args).unwrap())
        };
        let wanted = command(&["-o", "ro,stats=/a", "--stats", "/b", "--nonempty"]).unwrap();
        assert!(!wanted.daemon && wanted.options.read_only && wanted.options.nonempty);
        assert!(command(&["--freeze"]).unwrap().what == What::Freeze);
        assert_eq!(wanted.options.stats, Some("/b".into()));
        let error = command(&["-o", "size=1"]).err().unwrap();
        assert!(error.contains("size=1"), "{error}");
    }

    #[test]
    fn the_manifest_in_the_help_is_one() {
        let (example, _) = MANIFEST_HELP.split_once("\nNumbers of bytes").unwrap();
        let example: Vec<&str> = example
            .lines()
            .take_while(|line| !line.starts_with("In fstab"))
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
