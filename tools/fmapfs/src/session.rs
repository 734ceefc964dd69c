// SPDX-License-Identifier: GPL-2.0
//! One mount: from mount(2) until it is gone.
//!
//! The main thread reads `/dev/fuse` and answers. Two threads beside it do what
//! would make it wait for itself:
//!
//! * After INIT somebody has to look at the mount to learn whether the kernel
//!   accepted it (ops that are not registered fail the connection behind the
//!   server's back). That look is a request like any other.
//! * SIGTERM, SIGINT and SIGHUP unmount; the main thread notices and ends. While
//!   files are in use the mount is only detached, and served on until the last one
//!   is closed. A second signal ends the server at once; what is mapped stays
//!   mapped. SIGUSR1 reports the statistics.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use fuse_dax_fmap::{
    Intercepted, Offer, OpsName, Refusal, accept, accept_map_in_open, complete_open, error_reply,
    intercept, opcode, unique,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::stats::Stats;
use crate::tree::Tree;

/// A request of 1 MiB with its headers; also more than any reply of ours.
const BUFFER: usize = (1 << 20) + 4096;

/// What to mount, and where.
pub struct Session {
    pub tree: Arc<Tree>,
    pub ops: OpsName,
    pub mountpoint: PathBuf,
    /// File for the statistics; stderr if none.
    pub report: Option<PathBuf>,
}

impl Session {
    /// Mounts and serves; `ready` is called once, when the files can be used.
    pub fn run(self, ready: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
            .map_err(|error| format!("cannot handle signals: {error}"))?;
        let device = mount(&self.mountpoint)?;
        let stats = Arc::new(Stats::new());
        self.handle_signals(signals, Arc::clone(&stats));

        let (verdict, verdicts) = mpsc::channel();
        let served = self.serve(&device, &stats, verdict, ready);
        // Whoever looked at the mount knows best why it ended.
        let verdict: Result<(), String> = verdicts.try_iter().collect();
        let ended = verdict.and(served);
        if ended.is_ok() || self.report.is_some() {
            if let Err(error) = stats.report(self.report.as_deref()) {
                eprintln!("fmapfs: cannot write the statistics: {error}");
            }
        }
        ended
    }

    /// Answers requests until the mount is gone.
    fn serve(
        &self,
        mut device: &File,
        stats: &Stats,
        verdict: Sender<Result<(), String>>,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let server = Server::new(Arc::clone(&self.tree));
        let mut request = vec![0; BUFFER];
        let mut scratch = vec![0; BUFFER];
        let mut look = Some((verdict, ready));

        loop {
            let len = match device.read(&mut request) {
                // Only a test's kernel ends so.
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) => match Errno::from_io_error(&error) {
                    // ENOENT: the request was interrupted before it was read.
                    Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                    Some(Errno::NODEV) => return Ok(()),
                    _ => return Err(format!("the connection ended: {error}")),
                },
            };
            let message = &mut request[..len];
            if let Some(opcode) = opcode(message) {
                stats.count(opcode);
            }

            match intercept(message, &*self.tree) {
                Intercepted::Answer(reply) => send(device, &reply),
                Intercepted::Other if changes_names(message) => {
                    send(device, &error_reply(unique(message), libc::EPERM));
                }
                Intercepted::Other => handle(&server, device, message, &mut scratch),
                Intercepted::Open => {
                    let reply = match reply_of(&server, message, &mut scratch) {
                        Some(mut reply) => {
                            complete_open(message, &mut reply, &*self.tree);
                            reply
                        }
                        None => error_reply(unique(message), libc::EIO),
                    };
                    send(device, &reply);
                }
                Intercepted::Init(offer) => {
                    let unique = unique(message);
                    match self.answer_init(&server, offer, message, &mut scratch) {
                        Ok(reply) => send(device, &reply),
                        Err(refusal) => {
                            send(device, &error_reply(unique, libc::EPROTO));
                            detach(&self.mountpoint);
                            return Err(refusal.to_string());
                        }
                    }
                    if let Some((verdict, ready)) = look.take() {
                        self.look_at_mount(verdict, ready);
                    }
                }
            }
        }
    }

    /// What the FUSE crate answers to INIT, with the name of our ops and the promise
    /// of maps in OPEN.
    fn answer_init(
        &self,
        server: &Server<Arc<Tree>>,
        offer: Offer,
        message: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<Vec<u8>, Refusal> {
        offer.check()?;
        let mut reply = reply_of(server, message, scratch).ok_or(Refusal::NoReply)?;
        accept(&mut reply, &self.ops)?;
        accept_map_in_open(&mut reply)?;
        Ok(reply)
    }

    /// Asks the new mount for its attributes, on a thread.
    fn look_at_mount(
        &self,
        verdict: Sender<Result<(), String>>,
        ready: impl FnOnce() + Send + 'static,
    ) {
        let mountpoint = self.mountpoint.clone();
        let ops = self.ops;
        thread::spawn(move || match rustix::fs::stat(&mountpoint) {
            Ok(_) => ready(),
            Err(error) => {
                let message = match error {
                    Errno::NOTCONN | Errno::CONNREFUSED | Errno::CONNABORTED | Errno::IO => {
                        format!(
                            "the kernel refused the mount: probably no ops named {ops} are \
                         registered (`fmapctl load` does that), the kernel log says more"
                        )
                    }
                    error => format!("{} cannot be used: {error}", mountpoint.display()),
                };
                // Before the unmount: it ends the thread that waits for this.
                let _ = verdict.send(Err(message));
                detach(&mountpoint);
            }
        });
    }

    fn handle_signals(&self, mut signals: Signals, stats: Arc<Stats>) {
        let mountpoint = self.mountpoint.clone();
        let report = self.report.clone();
        thread::spawn(move || {
            let mut detached = false;
            for signal in &mut signals {
                if signal == SIGUSR1 {
                    if let Err(error) = stats.report(report.as_deref()) {
                        eprintln!("fmapfs: cannot write the statistics: {error}");
                    }
                    continue;
                }
                if detached {
                    eprintln!("fmapfs: ended with files in use");
                    std::process::exit(1);
                }
                detached = true;
                if let Err(error) = rustix::mount::unmount(&mountpoint, UnmountFlags::empty()) {
                    let shown = mountpoint.display();
                    eprintln!("fmapfs: {shown}: {error}; detached, served until nobody uses it");
                    detach(&mountpoint);
                }
            }
        });
    }
}

/// Opens a connection and mounts it.
fn mount(mountpoint: &Path) -> Result<File, String> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|error| format!("/dev/fuse: {error}"))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let options = CString::new(options).map_err(|error| error.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(
        "fmapfs",
        mountpoint,
        "fuse.fmapfs",
        flags,
        options.as_c_str(),
    )
    .map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => "only root can mount file maps".to_owned(),
        error => format!("cannot mount on {}: {error}", mountpoint.display()),
    })?;
    Ok(device)
}

fn detach(mountpoint: &Path) {
    // It fails when somebody was faster.
    let _ = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH);
}

/// Sends a whole reply.
fn send(mut device: &File, reply: &[u8]) {
    match device.write(reply) {
        Ok(_) => (),
        // ENOENT: whoever asked was killed meanwhile.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => (),
        Err(error) => eprintln!("fmapfs: a reply was not accepted: {error}"),
    }
}

/// Requests that no manifest foresees; the crate would say ENOSYS, which users see
/// as a defect.
fn changes_names(message: &[u8]) -> bool {
    const SYMLINK: u32 = 6;
    const MKNOD: u32 = 8;
    const LINK: u32 = 13;
    const CREATE: u32 = 35;
    const RENAME2: u32 = 45;
    const TMPFILE: u32 = 51;
    // MKDIR, UNLINK, RMDIR and RENAME are between MKNOD and LINK.
    matches!(
        opcode(message),
        Some(SYMLINK | MKNOD..=LINK | CREATE | RENAME2 | TMPFILE)
    )
}

/// Lets the FUSE crate answer.
fn handle(server: &Server<Arc<Tree>>, device: &File, message: &mut [u8], scratch: &mut [u8]) {
    let unique = unique(message);
    let answered =
        writer(device.as_raw_fd(), scratch).and_then(|writer| dispatch(server, message, writer));
    if let Err(fuse_backend_rs::Error::DecodeMessage(_)) = answered {
        send(device, &error_reply(unique, libc::EIO));
    }
}

/// What the FUSE crate would have sent, if anything.
///
/// A part of a writer keeps what it is given in `scratch` until it is committed. The
/// crate commits errors only, and fails: this writer leads nowhere. Either way the reply
/// stays here, at a lower price than that of a pipe.
fn reply_of(server: &Server<Arc<Tree>>, message: &mut [u8], scratch: &mut [u8]) -> Option<Vec<u8>> {
    const NOWHERE: RawFd = -1;

    // What an earlier reply left is not to be taken for this one.
    scratch[..4].fill(0);
    let whole = scratch.len();
    let mut writer = writer(NOWHERE, scratch).ok()?;
    writer.split_at(whole).ok()?;
    let _ = dispatch(server, message, writer);

    let (len, _) = scratch.split_first_chunk()?;
    let reply = scratch.get(..u32::from_le_bytes(*len) as usize)?;
    (!reply.is_empty()).then(|| reply.to_vec())
}

fn writer(to: RawFd, scratch: &mut [u8]) -> fuse_backend_rs::Result<FuseDevWriter<'_>> {
    FuseDevWriter::new(to, scratch).map_err(|_| fuse_backend_rs::Error::MissingParameter)
}

fn dispatch(
    server: &Server<Arc<Tree>>,
    message: &mut [u8],
    writer: FuseDevWriter<'_>,
) -> fuse_backend_rs::Result<usize> {
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(message))
        .map_err(|_| fuse_backend_rs::Error::MissingParameter)?;
    server.handle_message(reader, writer.into(), None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use fuse_dax_fmap::{ABI_VERSION, GET_DAXDEV, GET_FMAP, MAGIC};

    const LOOKUP: u32 = 1;
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const OPEN_MAP: u32 = 1 << 31;
    const READ: u32 = 15;
    const INIT: u32 = 26;
    const CREATE: u32 = 35;
    const READDIRPLUS: u32 = 44;
    const STATX: u32 = 52;

    /// The kernel's side of a connection, with a server on the other.
    struct Kernel {
        socket: UnixDatagram,
        unique: u64,
        server: thread::JoinHandle<Result<(), String>>,
        stats: Arc<Stats>,
    }

    impl Kernel {
        fn new() -> Self {
            let text = "[[device]]\nname = \"d\"\npath = \"/dev/dax0.0\"\n\
                        [[file]]\npath = \"f\"\nsize = 5000\ndevices = [\"d\"]\n";
            let manifest = crate::manifest::parse(text).unwrap();
            let layout = crate::layout::place(&manifest, &[Some(1 << 30)]).unwrap();
            let session = Session {
                tree: Arc::new(Tree::new(manifest, layout).unwrap()),
                ops: "striped".parse().unwrap(),
                mountpoint: "/nonexistent/mountpoint".into(),
                report: None,
            };
            let (socket, theirs) = UnixDatagram::pair().unwrap();
            let stats = Arc::new(Stats::new());
            let counted = Arc::clone(&stats);
            let server = thread::spawn(move || {
                let device = File::from(OwnedFd::from(theirs));
                let (verdict, _verdicts) = mpsc::channel();
                session.serve(&device, &counted, verdict, || ())
            });
            Self {
                socket,
                unique: 0,
                server,
                stats,
            }
        }

        /// Sends a request, returns errno and body of the reply.
        fn ask(&mut self, opcode: u32, nodeid: u64, body: &[u8]) -> (i32, Vec<u8>) {
            self.unique += 2;
            let mut request = Vec::new();
            request.extend((40 + body.len() as u32).to_le_bytes());
            request.extend(opcode.to_le_bytes());
            request.extend(self.unique.to_le_bytes());
            request.extend(nodeid.to_le_bytes());
            request.extend([0; 16]);
            request.extend(body);
            self.socket.send(&request).unwrap();

            let mut reply = vec![0; BUFFER];
            let len = self.socket.recv(&mut reply).unwrap();
            reply.truncate(len);
            assert_eq!(reply[..4], (len as u32).to_le_bytes());
            assert_eq!(reply[8..16], self.unique.to_le_bytes());
            let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
            (-error, reply.split_off(16))
        }

        fn init(&mut self, magic: u32, version: u32) -> (i32, Vec<u8>) {
            let mut words = [0_u32; 16];
            // Version 7.45, every flag that fits the first word.
            words[..4].copy_from_slice(&[7, 45, 0, u32::MAX]);
            words[14..].copy_from_slice(&[magic, version]);
            self.ask(INIT, 0, &bytes(&words))
        }

        fn end(self) -> (Result<(), String>, Arc<Stats>) {
            // May fail: a server that refused is gone.
            let _ = self.socket.send(&[]);
            (self.server.join().unwrap(), self.stats)
        }
    }

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_file_from_init_to_its_map() {
        let mut kernel = Kernel::new();
        let (error, init) = kernel.init(MAGIC, ABI_VERSION);
        assert_eq!((error, init.len()), (0, 64));
        assert_eq!(&init[..4], [7, 0, 0, 0]);
        assert_eq!(init[44..48], [1, 0, 0, 0]);
        assert_eq!(&init[48..], b"striped\0\0\0\0\0\0\0\0\0");

        let (error, entry) = kernel.ask(LOOKUP, 1, b"f\0");
        assert_eq!((error, entry.len()), (0, 128));
        let nodeid = u64_at(&entry, 0);
        assert_eq!(u64_at(&entry, 48), 5000);
        assert_eq!(kernel.ask(GETATTR, nodeid, &[0; 16]).1.len(), 104);

        let (error, open) = kernel.ask(OPEN, nodeid, &[0; 8]);
        assert_eq!((error, open.len()), (0, 16));
        // FOPEN_KEEP_CACHE.
        assert_eq!(open[8..12], [2, 0, 0, 0]);
        let (error, map) = kernel.ask(GET_FMAP, nodeid, &bytes(&[4096, 0]));
        assert_eq!((error, map.len()), (0, 32 + 24 + 24));
        assert!(map.starts_with(b"STRP"));
        let (error, device) = kernel.ask(GET_DAXDEV, 0, &bytes(&[0, 0]));
        assert_eq!((error, device.len()), (0, 280));
        assert!(device[24..].starts_with(b"/dev/dax0.0\0"));
        assert_eq!(kernel.ask(GET_DAXDEV, 1, &bytes(&[1, 0])).0, libc::ENODEV);

        assert_eq!(kernel.ask(CREATE, 1, b"new\0").0, libc::EPERM);

        // fh, offset, size and more.
        let read = bytes(&[0, 0, 0, 0, 4096, 0, 0, 0, 0, 0]);
        assert_eq!(kernel.ask(READ, nodeid, &read).0, libc::EIO);
        let (error, names) = kernel.ask(READDIRPLUS, 1, &read);
        assert_eq!((error, names.len()), (0, 3 * (128 + 24 + 8)));
        assert_eq!(kernel.ask(STATX, 1, &[0; 24]).0, libc::ENOSYS);

        let (ended, stats) = kernel.end();
        assert_eq!(ended, Ok(()));
        let stats = stats.to_string();
        assert!(stats.contains("\nREAD 1\nWRITE 0\n"), "{stats}");
        assert!(stats.contains("\nGET_FMAP 1\nGET_DAXDEV 2\n"), "{stats}");
    }

    #[test]
    fn an_open_brings_the_map_if_it_is_wanted() {
        let mut kernel = Kernel::new();
        assert_eq!(kernel.init(MAGIC, ABI_VERSION).0, 0);
        let nodeid = u64_at(&kernel.ask(LOOKUP, 1, b"f\0").1, 0);
        let map = kernel.ask(GET_FMAP, nodeid, &bytes(&[4096, 0])).1;
        let (error, plain) = kernel.ask(OPEN, nodeid, &bytes(&[0, !OPEN_MAP]));
        assert_eq!((error, plain.len()), (0, 16));

        let wanted = bytes(&[0, OPEN_MAP]);
        for _ in 0..2 {
            let (error, open) = kernel.ask(OPEN, nodeid, &wanted);
            assert_eq!((error, open.len()), (0, 16 + 512));
            assert_eq!(open[..16], plain);
            assert_eq!(open[16..24], bytes(&[map.len() as u32, 0]));
            assert!(open[24..].starts_with(&map));
            // An error has nothing of the reply before it.
            assert_eq!(kernel.ask(OPEN, 99, &wanted), (libc::ESTALE, vec![]));
        }

        let (ended, stats) = kernel.end();
        assert_eq!(ended, Ok(()));
        let stats = stats.to_string();
        assert!(stats.contains("\nOPEN 5\n"), "{stats}");
        assert!(stats.contains("\nGET_FMAP 1\n"), "{stats}");
    }

    #[test]
    fn without_an_offer_nothing_is_served() {
        for (magic, version, message) in [(0, 0, "offers no file maps"), (MAGIC, 2, "version 2")] {
            let mut kernel = Kernel::new();
            assert_eq!(kernel.init(magic, version).0, libc::EPROTO);
            let error = kernel.end().0.unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_short_request_is_refused_by_the_crate() {
        let mut kernel = Kernel::new();
        assert_eq!(kernel.init(MAGIC, ABI_VERSION).0, 0);
        assert_eq!(kernel.ask(OPEN, 1, &[]).0, libc::EIO);
        assert_eq!(kernel.ask(GETATTR, 1, &[0; 16]).0, 0);
        assert_eq!(kernel.end().0, Ok(()));
    }
}
