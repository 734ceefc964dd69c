// SPDX-License-Identifier: GPL-2.0

//! Opening a file of a bound mount, and the registry of named ops.
//!
//! A file is in one of three states ([`iomap::State`]), and changes it once, at its first open:
//!
//! ```text
//!             GET_FMAP, dax_fmap_parse(), GET_DAXDEV for new devices
//!   Unknown ----------------------------------------------------------> Mapped
//!      |
//!      +----- "no map": ENODATA, ENOENT, ENOSYS -----------------------> Plain
//! ```
//!
//! until it is evicted. A failure leaves it `Unknown` and fails the open.
//!
//! A first open takes one round trip, as without maps: the server brings the map along with the answer to
//! OPEN, if it can do that; else it is asked for the map and, while it looks for that, gets the OPEN. What FUSE
//! does at the end of an open (to the page cache, above all) must not meet a mapped file, so all that is
//! done with the map is done after it.
//!
//! One task fetches the map of one file, or acquires one device; others that want the same wait for
//! it ([`InFlight`]), and so for its OPEN. No lock is held across a request.

use core::ops::Deref;

use kernel::{
    fmt,
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        CondVar,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bpf_struct_ops::{
        Ops,
        PinnedOps,
        REGISTERED, //
    },
    daxdev::Devices,
    fuse::{
        Connection,
        Inode,
        MapInOpen,
        BLOB_MAX,
        BLOB_MIN, //
    },
    iomap::{
        self,
        IdlePageCaches,
        State, //
    },
    ratelimit::{
        pr_warn_limited,
        RateLimit, //
    },
    stats::{
        Counter,
        Stats, //
    }, //
};

/// The name of ops: 1 to 15 characters of `[A-Za-z0-9_.-]` and a NUL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpsName([u8; OpsName::LEN]);

impl OpsName {
    /// `FUSE_DAX_FMAP_OPS_NAME_LEN`, with the NUL.
    pub(crate) const LEN: usize = 16;

    /// # Errors
    ///
    /// [`EINVAL`] if the name is empty, has no NUL or another character.
    pub(crate) fn new(bytes: &[u8; Self::LEN]) -> Result<Self> {
        let len = bytes.iter().position(|&byte| byte == 0).ok_or(EINVAL)?;
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);

        if len == 0 || !bytes[..len].iter().all(allowed) {
            return Err(EINVAL);
        }
        let mut name = [0; Self::LEN];
        name[..len].copy_from_slice(&bytes[..len]);
        Ok(Self(name))
    }

    /// With zeros behind the name.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// A name that went through [`OpsName::new`] before.
    pub(crate) fn from_validated(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for OpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take_while(|&&byte| byte != 0) {
            write!(f, "{}", char::from(byte))?;
        }
        Ok(())
    }
}

// --- The registry -------------------------------------------------------------------------------

/// Makes ops known.
///
/// # Errors
///
/// [`EEXIST`] if ops of that name are registered; [`ENOMEM`].
pub(crate) fn register(ops: Ops) -> Result {
    let mut registered = REGISTERED.lock();

    if registered.iter().any(|other| other.name() == ops.name()) {
        return Err(EEXIST);
    }
    // Rare and small, so simply done under the lock.
    Ok(registered.push(ops, GFP_ATOMIC)?)
}

/// Puts `new` in the place of `old`. Who looks the name up gets the one or the other, always.
///
/// # Errors
///
/// [`EINVAL`] if their names differ: a name keeps its meaning.
pub(crate) fn replace(old: Ops, new: Ops) -> Result {
    let mut registered = REGISTERED.lock();

    if new.name() != old.name() {
        return Err(EINVAL);
    }
    *registered
        .iter_mut()
        .find(|ops| **ops == old)
        .ok_or(EINVAL)? = new;
    Ok(())
}

/// Forgets ops, and gives the memory of the list back with the last of them.
pub(crate) fn unregister(ops: Ops) {
    let mut registered = REGISTERED.lock();

    registered.retain(|other| *other != ops);
    if registered.is_empty() {
        *registered = KVec::new();
    }
}

/// Finds ops and pins them. Does not sleep.
///
/// # Errors
///
/// [`ENOENT`] if there are none of that name.
pub(crate) fn lookup(name: OpsName) -> Result<PinnedOps> {
    let registered = REGISTERED.lock();

    registered
        .iter()
        .find(|ops| ops.name() == name)
        .and_then(Ops::pin)
        .ok_or(ENOENT)
}

// --- A bound mount ------------------------------------------------------------------------------

/// What a bound mount has besides its FUSE connection. Every mapped file points here.
#[pin_data]
pub(crate) struct Mount {
    /// The ops that parse and resolve its files' maps.
    pub(crate) ops: PinnedOps,
    /// The devices its files have used so far.
    #[pin]
    pub(crate) devices: Devices,
    /// Mapped files.
    pub(crate) files: Atomic<i64>,
    /// What files show that are open for neither reading nor writing.
    #[pin]
    pub(crate) idle: IdlePageCaches,
    pub(crate) stats: Stats,
    /// Limits what is logged about opens.
    #[pin]
    pub(crate) opens: RateLimit,
    /// Limits what is logged about mappings.
    #[pin]
    pub(crate) mappings: RateLimit,
    /// Files whose map is being fetched.
    #[pin]
    opening: InFlight,
    /// The server has no maps at all (ENOSYS).
    no_maps: Atomic<bool>,
}

impl Mount {
    pub(crate) fn new(ops: PinnedOps) -> impl PinInit<Self> {
        pin_init!(Self {
            ops,
            devices <- Devices::new(),
            files: Atomic::new(0),
            idle <- IdlePageCaches::new(),
            stats: Stats::new(),
            opens <- RateLimit::new(),
            mappings <- RateLimit::new(),
            opening <- InFlight::new(),
            no_maps: Atomic::new(false),
        })
    }
}

/// Why an open fails: the errno for the opener and the cause for the log.
pub(crate) struct Failure {
    pub(crate) errno: Error,
    pub(crate) cause: &'static str,
}

impl Failure {
    /// For `map_err()`: the errno stays, the cause says where it came from.
    pub(crate) fn because(cause: &'static str) -> impl FnOnce(Error) -> Self {
        move |errno| Self { errno, cause }
    }
}

/// Things that one task at a time does while others wait for the outcome.
#[pin_data]
pub(crate) struct InFlight {
    #[pin]
    keys: Mutex<Keys>,
    #[pin]
    left: CondVar,
}

/// A key for each task.
#[derive(Default)]
struct Keys {
    busy: KVec<usize>,
    waiting: KVec<usize>,
}

/// The right to do the thing named by `key`, given up on drop.
pub(crate) struct Turn<'a> {
    in_flight: &'a InFlight,
    key: usize,
}

impl InFlight {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            keys <- new_mutex!(Keys::default(), "fuse_dax_fmap::in_flight"),
            left <- new_condvar!("fuse_dax_fmap::in_flight_left"),
        })
    }

    /// Waits until nobody else is at `key`, or the thing is done: `None`.
    ///
    /// Those who wait for the same all go on when it is done, and not one after the other.
    ///
    /// # Errors
    ///
    /// [`ERESTARTSYS`] if a signal came first; [`ENOMEM`].
    pub(crate) fn turn(&self, key: usize, done: impl Fn() -> bool) -> Result<Option<Turn<'_>>> {
        let mut keys = self.keys.lock();
        let mut interrupted = false;

        keys.waiting.push(key, GFP_KERNEL)?;
        while !interrupted && !done() && keys.busy.contains(&key) {
            interrupted = self.left.wait_interruptible(&mut keys);
        }
        let mut mine = true;
        keys.waiting
            .retain(|other| *other != key || !core::mem::take(&mut mine));
        if done() {
            return Ok(None);
        }
        if interrupted {
            return Err(ERESTARTSYS);
        }
        keys.busy.push(key, GFP_KERNEL)?;
        Ok(Some(Turn {
            in_flight: self,
            key,
        }))
    }
}

impl Turn<'_> {
    /// How many tasks are at the key: this one, and those that wait for it.
    fn tasks(&self) -> usize {
        let keys = self.in_flight.keys.lock();

        1 + keys.waiting.iter().filter(|key| **key == self.key).count()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.in_flight
            .keys
            .lock()
            .busy
            .retain(|key| *key != self.key);
        self.in_flight.left.notify_all();
    }
}

// --- Opening a file -----------------------------------------------------------------------------

/// Sizes of the room offered for a map, in bytes.
const ROOMS: [u32; 5] = [
    BLOB_MIN,
    BLOB_MIN * 4,
    BLOB_MIN * 16,
    BLOB_MIN * 64,
    BLOB_MAX,
];

/// Settles whether a file is mapped, fetching its map if this is its first open. May sleep.
///
/// If the server is asked, `open` is called before its answer is waited for: it has FUSE open the file, unless
/// that has to wait, and returns whether FUSE did. Nobody else publishes a map of the file while that runs.
///
/// # Errors
///
/// Whatever the open fails with; the cause has been logged.
pub(crate) fn settle(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> bool,
) -> Result<State> {
    let mount = conn.mount();

    let settled = || match iomap::state(inode) {
        State::Unknown => None,
        state => Some(state),
    };
    if let Some(state) = settled() {
        return Ok(state);
    }
    let done = || mount.no_maps.load(Relaxed) || settled().is_some();
    let turn = if done() {
        None
    } else {
        mount.opening.turn(inode.key(), done)?
    };
    let Some(turn) = turn else {
        return Ok(match iomap::state_for_good(inode) {
            State::Unknown => State::Plain,
            state => state,
        });
    };
    fetch(conn, inode, &turn, open).map_err(|Failure { errno, cause }| {
        // An opener that was killed is nobody's mistake.
        if errno != EINTR && errno != ERESTARTSYS {
            mount.stats.inc(Counter::FailedOpens);
            pr_warn_limited!(
                mount.opens,
                "{}: open of inode {} fails with {}: {}\n",
                conn,
                inode.number(),
                errno.to_errno(),
                cause
            );
        }
        errno
    })
}

/// Fetches and publishes the map of a file that nobody else is at.
fn fetch(
    conn: &Connection,
    inode: &Inode,
    turn: &Turn<'_>,
    open: impl FnOnce() -> bool,
) -> Result<State, Failure> {
    let mount = conn.mount();
    let mut room = MapInOpen::new();

    let Some(blob) = get_fmap(conn, inode, &mut room, open)? else {
        return Ok(State::Plain);
    };
    let parsed = mount
        .ops
        .parse(&blob)
        .inspect_err(|_| mount.stats.inc(Counter::RefusedMaps))
        .map_err(Failure::because("dax_fmap_parse() refuses the map"))?;

    let mut devices = parsed.dev_bitmap;
    while devices != 0 {
        mount
            .devices
            .acquire(devices.trailing_zeros(), conn, inode)?;
        devices &= devices - 1;
    }
    if used_by_others(inode, turn) {
        return Ok(State::Plain);
    }
    let unused = || inode.opens() == turn.tasks();
    iomap::publish(inode, parsed, conn, unused).map_err(Failure::because("publishing the map"))
}

/// Whether a file of this inode is open that did not come this way: one that FUSE opened while it
/// created it, or one that was opened unnoticed (by fanotify, or below overlayfs). FUSE serves it,
/// and must not meet a mapped inode.
///
/// Every open counts itself before it comes here and waits for its turn, so openers that have not
/// come yet look like others for a moment.
fn used_by_others(inode: &Inode, turn: &Turn<'_>) -> bool {
    const TRIES: usize = 20;

    for _ in 0..TRIES {
        if inode.opens() == turn.tasks() {
            return false;
        }
        fsleep(Delta::from_millis(1));
    }
    true
}

/// The server's map of a file.
enum Blob<'a> {
    /// It came with OPEN.
    Brought(&'a [u8]),
    Asked(KVVec<u8>),
}

impl Deref for Blob<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Brought(blob) => blob,
            Self::Asked(blob) => blob,
        }
    }
}

/// Gets the map of a file from the server; `None` if it has none.
fn get_fmap<'a>(
    conn: &Connection,
    inode: &Inode,
    brought: &'a mut MapInOpen,
    open: impl FnOnce() -> bool,
) -> Result<Option<Blob<'a>>, Failure> {
    let mut open = Some(open);

    if conn.brings_maps {
        if let Some(open) = open.take() {
            match brought.during(inode, open) {
                Err(ERANGE) => (),
                Ok(blob) => {
                    conn.mount().stats.inc(Counter::MapsInOpen);
                    return Ok(Some(Blob::Brought(blob)));
                }
                Err(errno) => return no_map(conn, inode, errno, "the map that came with OPEN"),
            }
        }
    }
    for room in ROOMS {
        let asked = conn
            .get_fmap(inode, room)
            .map_err(Failure::because("GET_FMAP"))?;

        if let Some(open) = open.take() {
            open();
        }
        match asked.answer() {
            Ok(blob) => return Ok(Some(Blob::Asked(blob))),
            Err(ERANGE) => continue,
            Err(errno) => return no_map(conn, inode, errno, "GET_FMAP"),
        }
    }
    Err(Failure {
        errno: E2BIG,
        cause: "GET_FMAP: the map does not fit in 1 MiB",
    })
}

/// What an error means that the server answered instead of a map: that there is none, or a failure.
fn no_map<T>(
    conn: &Connection,
    inode: &Inode,
    errno: Error,
    cause: &'static str,
) -> Result<Option<T>, Failure> {
    match errno {
        ENOSYS => conn.mount().no_maps.store(true, Relaxed),
        ENODATA | ENOENT => iomap::remember_plain(inode),
        errno => return Err(Failure { errno, cause }),
    }
    Ok(None)
}
