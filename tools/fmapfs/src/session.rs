// SPDX-License-Identifier: GPL-2.0
//! One mount: from mount(2) until it is gone.
//!
//! The main thread reads `/dev/fuse` and answers. Two other threads do what would make it
//! wait for itself:
//!
//! * The starting thread checks that the kernel accepts the mount and that the devices are
//!   free ([`claim`]), records the layout, zeroes new space ([`zero`]), and attaches the
//!   mount to its directory. If a step fails, the mount, which has never been visible, is
//!   destroyed, and with it the connection.
//! * The signal thread unmounts on SIGTERM, SIGINT and SIGHUP; the main thread notices and
//!   ends. While files are in use the mount is only detached, and served on until the last
//!   one is closed. A second signal ends the server at once; what is mapped stays mapped.
//!   While other mounts are on top of the mount it stays; it is unmounted when they are
//!   gone. SIGUSR1 reports the statistics.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use fuse_dax_fmap::{
    Accepted, Errno as Refused, Intercepted, Offer, OpsName, Refusal, Wanted, error_reply, opcode,
    unique,
};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::claim;
use crate::files::{PidFile, Replaced};
use crate::mount::{self, Apart, Attached, Changes, Place, Unmounted};
use crate::options::Options;
use crate::parent;
use crate::record::Keeper;
use crate::say::say;
use crate::stats::Stats;
use crate::tree::Tree;
use crate::visitor::Visitor;
use crate::zero;

/// A request of 1 MiB with its headers; also more than any reply of fmapfs.
const BUFFER: usize = (1 << 20) + 4096;

/// What to mount, and where.
pub struct Session {
    pub tree: Arc<Tree>,
    pub ops: OpsName,
    pub options: Options,
    /// The source of the mount, for messages.
    pub source: PathBuf,
    /// Until it is mounted there.
    pub place: Mutex<Option<Place>>,
    pub devices: Vec<claim::Device>,
    /// File for the statistics; stderr if none, and then only if they are asked for.
    pub report: Option<Replaced>,
    pub pid_file: Option<PidFile>,
    /// Keeps the record of the layout and the times.
    pub keeper: Arc<Keeper>,
    /// A parent waits until the files can be used. If it ends earlier, there is no mount.
    pub awaited: bool,
}

/// The state of the mount.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Starting,
    Attached(Attached),
    /// Unmounted, or detached while in use.
    Detached,
}

/// What the threads share.
struct Shared {
    session: Session,
    stats: Stats,
    stage: Mutex<Stage>,
}

/// Why there are no more requests.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The mount is gone, or the connection was aborted by `umount -f`.
    NoDevice,
    /// The connection was aborted.
    Aborted,
}

impl Session {
    /// Mounts and serves; `ready` is called once, when the files can be used.
    pub fn run(self, ready: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
            .map_err(|error| format!("cannot handle signals: {error}"))?;
        let shared = Arc::new(Shared {
            session: self,
            stats: Stats::new(),
            stage: Mutex::new(Stage::Starting),
        });
        let ended = shared.serve_mount(signals, ready);
        let failed = matches!(*shared.stage(), Stage::Starting);
        let saved = shared.leave(failed);
        ended.and(saved)
    }
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_mount(
        self: &Arc<Self>,
        signals: Signals,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let session = &self.session;
        let (device, mount) = mount::new(&session.source, &session.options)?;
        let shared = Arc::clone(self);
        thread::spawn(move || shared.handle_signals(signals));
        let shared = Arc::clone(self);
        let starting = thread::spawn(move || shared.start(mount).map(|()| ready()));

        let served = serve(&session.tree, &session.ops, &device, &self.stats);
        // Tasks that still wait for an answer go on now, and so does the starting thread.
        drop(device);
        let started = starting
            .join()
            .unwrap_or_else(|_| Err("the start failed".to_owned()));
        // If the server rejected the connection, its error has the reason; else that of the
        // start.
        let end = served.and_then(|end| started.map(|()| end));
        end.and_then(|end| self.look_back(end)).inspect_err(|_| {
            if let Stage::Attached(attached) = *self.stage() {
                attached.unmount();
            }
        })
    }

    /// Turns a mount that is apart into one that can be used.
    fn start(&self, mount: Apart) -> Result<(), String> {
        let session = &self.session;
        if session.awaited {
            parent::bind_to()?;
        }
        let mut visitor = Visitor::new(&mount)?;
        claim::check(&mut visitor, &session.tree, &session.ops, &session.devices)?;
        // From here on the layout counts. After a crash, the next server finds what is not
        // zeroed.
        session.keeper.save()?;
        zero::zero(&mut visitor, &session.tree)?;
        session.keeper.zeroed(session.devices.len())?;
        for name in session.tree.hide() {
            // The kernel looks it up, gets no entry, and drops its dentry.
            let _ = visitor.stat(&name)?;
        }
        drop(visitor);
        session.keeper.save_in_background();

        if let Some(file) = &session.pid_file {
            file.make()?;
        }
        let place = session
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let place = place.ok_or("there is no directory to mount on")?;
        // A signal ends the server before this, or unmounts after it.
        let mut stage = self.stage();
        let attached = mount.attach(place)?;
        *stage = Stage::Attached(attached);
        drop(stage);

        let written = session.pid_file.as_ref().map_or(Ok(()), PidFile::write);
        written.inspect_err(|_| {
            attached.unmount();
        })
    }

    /// Checks if the mount was unmounted, or is dead and must not be left behind.
    fn look_back(&self, end: End) -> Result<(), String> {
        let Stage::Attached(attached) = *self.stage() else {
            return match end {
                End::NoDevice => Ok(()),
                End::Aborted => Err("the connection was aborted".to_owned()),
            };
        };
        // `umount -f` aborts the connection first.
        let gone = || {
            let gone = !attached.is_there();
            if !gone {
                thread::sleep(Duration::from_millis(20));
            }
            gone
        };
        if end == End::NoDevice && (0..25).any(|_| gone()) {
            return Ok(());
        }
        Err(match attached.unmount() {
            Unmounted::Whole(_) | Unmounted::Detached(_) => {
                "the connection was aborted; unmounted".to_owned()
            }
            Unmounted::InTheWay(why) | Unmounted::Failed(why) => {
                format!("the connection was aborted, and a dead mount is left: {why}")
            }
        })
    }

    /// The cleanup for every way to end; fails if the record cannot be saved.
    fn leave(&self, failed: bool) -> Result<(), String> {
        let session = &self.session;
        let saved = match failed {
            // start() has saved what there was to save.
            true => Ok(()),
            false => session.keeper.save(),
        };
        if let Some(file) = &session.pid_file {
            file.remove();
        }
        match &session.report {
            Some(file) if failed => file.forget(),
            // Without a file, the statistics are reported on demand only.
            Some(_) => self.report(),
            None => (),
        }
        saved
    }

    fn report(&self) {
        if let Err(error) = self.stats.report(self.session.report.as_ref()) {
            say!("the statistics cannot be written: {error}");
        }
    }

    fn exit(&self, failed: bool, why: &str) -> ! {
        let saved = self.leave(failed);
        say!("{why}");
        if let Err(message) = saved {
            say!("{message}");
        }
        std::process::exit(1)
    }

    fn handle_signals(self: Arc<Self>, mut signals: Signals) {
        for signal in &mut signals {
            if signal == SIGUSR1 {
                self.report();
                continue;
            }
            let stage = self.stage();
            match *stage {
                Stage::Starting => self.exit(true, "ended by a signal before it was mounted"),
                Stage::Detached => self.exit(false, "ended with files in use"),
                Stage::Attached(attached) => {
                    drop(stage);
                    let shared = Arc::clone(&self);
                    thread::spawn(move || shared.unmount(attached));
                }
            }
        }
    }

    /// Unmounts as soon as nothing is in the way.
    fn unmount(&self, attached: Attached) {
        let mut said = String::new();
        loop {
            let changes = Changes::new();
            let mut stage = self.stage();
            if let Stage::Detached = *stage {
                // Another signal was faster.
                return;
            }
            let message = match attached.unmount() {
                Unmounted::Whole(elsewhere) => {
                    *stage = Stage::Detached;
                    if let Some(elsewhere) = elsewhere {
                        say!("{elsewhere}");
                    }
                    return;
                }
                Unmounted::Detached(why) => {
                    *stage = Stage::Detached;
                    say!("{why}");
                    return;
                }
                Unmounted::Failed(why) => {
                    say!("cannot unmount: {why}");
                    return;
                }
                Unmounted::InTheWay(why) => why,
            };
            drop(stage);
            if message != said {
                say!("{message}");
                said = message;
            }
            match changes {
                Ok(changes) => changes.wait(),
                Err(error) => return say!("cannot unmount: {error}"),
            }
        }
    }
}

/// Answers requests until there are no more.
fn serve(tree: &Arc<Tree>, ops: &OpsName, mut device: &File, stats: &Stats) -> Result<End, String> {
    let server = Server::new(Arc::clone(tree));
    let mut request = vec![0; BUFFER];
    let mut scratch = vec![0; BUFFER];
    // Nothing else comes before INIT.
    let mut accepted: Option<Accepted> = None;

    loop {
        let len = match device.read(&mut request) {
            // Only the simulated kernel of a test ends so.
            Ok(0) => return Ok(End::NoDevice),
            Ok(len) => len,
            Err(error) => match Errno::from_io_error(&error) {
                // ENOENT: the request was interrupted before it was read.
                Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Some(Errno::NODEV) => return Ok(End::NoDevice),
                Some(Errno::CONNABORTED) => return Ok(End::Aborted),
                _ => return Err(format!("the connection ended: {error}")),
            },
        };
        let message = &mut request[..len];
        if let Some(opcode) = opcode(message) {
            stats.count(opcode);
        }

        if let Some(offer) = Offer::of(message) {
            match answer_init(&server, ops, &offer, message, &mut scratch) {
                Ok((reply, connection)) => {
                    accepted = Some(connection);
                    send(device, &reply);
                }
                Err(refusal) => {
                    send(device, &offer.refuse());
                    return Err(refusal.to_string());
                }
            }
            continue;
        }
        let intercepted = match &accepted {
            Some(accepted) => accepted.intercept(message, &**tree),
            None => Intercepted::Other,
        };
        match intercepted {
            Intercepted::Answer(reply) => send(device, &reply),
            Intercepted::Open(open) => {
                let mut reply = reply_of(&server, message, &mut scratch).unwrap_or_default();
                open.complete(&mut reply, &**tree);
                send(device, &reply);
            }
            _ if changes_names(message) => {
                send(device, &error_reply(unique(message), Refused::EPERM));
            }
            _ => handle(&server, device, message, &mut scratch),
        }
    }
}

/// The FUSE crate's reply to INIT, with the name of the ops and the promise of maps in
/// OPEN.
fn answer_init(
    server: &Server<Arc<Tree>>,
    ops: &OpsName,
    offer: &Offer,
    message: &mut [u8],
    scratch: &mut [u8],
) -> Result<(Vec<u8>, Accepted), Refusal> {
    offer.check()?;
    let mut reply = reply_of(server, message, scratch).ok_or(Refusal::NoReply)?;
    let accepted = offer.accept(&mut reply, &Wanted::ops(*ops).with_map_in_open())?;
    Ok((reply, accepted))
}

/// Sends a whole reply.
fn send(mut device: &File, reply: &[u8]) {
    match device.write(reply) {
        Ok(_) => (),
        // ENOENT: the task that waited has been killed.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => (),
        Err(error) => say!("a reply was not accepted: {error}"),
    }
}

/// Returns true for requests that a manifest does not allow. The crate would answer ENOSYS,
/// which users see as a defect.
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

/// Lets the FUSE crate answer the request.
fn handle(server: &Server<Arc<Tree>>, device: &File, message: &mut [u8], scratch: &mut [u8]) {
    let unique = unique(message);
    let answered =
        writer(device.as_raw_fd(), scratch).and_then(|writer| dispatch(server, message, writer));
    if let Err(fuse_backend_rs::Error::DecodeMessage(_)) = answered {
        send(device, &error_reply(unique, Refused::EIO));
    }
}

/// What the FUSE crate would have sent, if anything.
///
/// A split writer keeps its data in `scratch` until it is committed. The crate commits
/// errors only, which fails, as this writer has no file. Either way the reply is in
/// `scratch`, which is cheaper than a pipe.
fn reply_of(server: &Server<Arc<Tree>>, message: &mut [u8], scratch: &mut [u8]) -> Option<Vec<u8>> {
    const NOWHERE: RawFd = -1;

    // An earlier reply must not be taken for this one.
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
        server: thread::JoinHandle<Result<End, String>>,
        stats: Arc<Stats>,
    }

    impl Kernel {
        fn new() -> Self {
            let text = "[[device]]\nname = \"d\"\npath = \"/dev/dax0.0\"\n\
                        [[file]]\npath = \"f\"\nsize = 5000\ndevices = [\"d\"]\n";
            let manifest = crate::manifest::parse(text).unwrap();
            let layout = crate::layout::place(&manifest, &[Some(1 << 30)]).unwrap();
            let tree = Arc::new(Tree::new(manifest, layout).unwrap());
            let ops = "striped".parse().unwrap();
            let (socket, theirs) = UnixDatagram::pair().unwrap();
            let stats = Arc::new(Stats::new());
            let counted = Arc::clone(&stats);
            let server = thread::spawn(move || {
                let device = File::from(OwnedFd::from(theirs));
                serve(&tree, &ops, &device, &counted)
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

        fn end(self) -> (Result<End, String>, Arc<Stats>) {
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
        // FUSE_WRITEBACK_CACHE and FUSE_ABORT_ERROR, bits 16 and 21.
        assert_eq!(init[14] & 0x21, 0x21);
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
        assert_eq!(ended, Ok(End::NoDevice));
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
        assert_eq!(ended, Ok(End::NoDevice));
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
        assert_eq!(kernel.end().0, Ok(End::NoDevice));
    }
}
