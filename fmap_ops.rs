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
//! A first open takes one round trip, as without maps: the server brings the map along with the
//! answer to OPEN, if it can do that; else it is asked for the map and, while it looks for that,
//! gets the OPEN. What FUSE does at the end of an open (to the page cache, above all) must not meet
//! a mapped file, so all that is done with the map is done after it.
//!
//! One task fetches the map of one file, or acquires one device; others that want the same wait for
//! it ([`InFlight`]), and so for its OPEN. No lock is held across a request.

use core::ptr::NonNull;

use kernel::{
    fmt,
    impl_has_delayed_work,
    impl_has_work,
    new_condvar,
    new_delayed_work,
    new_mutex,
    new_spinlock,
    new_work,
    prelude::*,
    rbtree::RBTree,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        CondVar,
        Mutex,
        Refcount,
        SetOnce,
        SpinLock, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
    workqueue::{
        self,
        DelayedWork,
        Work,
        WorkItem, //
    }, //
};

use crate::{
    bindings::kernel as c,
    bpf_struct_ops::{
        Ops,
        Parsed,
        PinnedOps,
        Verdict,
        REGISTERED, //
    },
    daxdev::Devices,
    fuse::{
        Connection,
        Inode,
        MapInOpen,
        ModuleRef,
        Mounted,
        Released,
        Superblock,
        BLOB_MAX,
        BLOB_MIN,
        BLOB_WITH_OPEN, //
    },
    iomap::{
        self,
        MappedFiles,
        State,
        Tenants, //
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

/// Whether there are ops at all. Does not sleep.
pub(crate) fn any_registered() -> bool {
    !REGISTERED.lock().is_empty()
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
///
/// It outlives the superblock if memory of its files is still in use then: the devices stay held
/// until that is given up. The order of the last fields is the order in which they go away.
#[pin_data]
pub(crate) struct Mount {
    references: Refcount,
    /// The superblock, as long as it is there.
    #[pin]
    pub(crate) superblock: Superblock,
    /// How many files are mapped.
    pub(crate) files: Atomic<i64>,
    #[pin]
    pub(crate) mapped_files: MappedFiles,
    /// Who has which memory of the devices.
    #[pin]
    pub(crate) tenants: Tenants,
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
    /// Inodes, by their address, whose bytes are being changed through FUSE by a file that will be
    /// a mapped one once the inode is, and how many system calls do so.
    #[pin]
    pub(crate) changing: SpinLock<RBTree<usize, u32>>,
    /// The server has no maps at all (ENOSYS).
    no_maps: Atomic<bool>,
    /// Gives up kept memory.
    #[pin]
    giving_up: DelayedWork<Self, GIVING_UP>,
    /// Looks for files whose inodes FUSE has marked bad.
    #[pin]
    looking: DelayedWork<Self, LOOKING>,
    /// Ends the mount, for a task that has the last reference to its superblock and must not wait.
    #[pin]
    ending: Work<Self, ENDING>,
    /// How long a look took last time, in microseconds.
    look_us: Atomic<u64>,
    /// Whether it is about to.
    will_look: Atomic<bool>,
    /// The devices its files have used so far.
    #[pin]
    pub(crate) devices: Devices,
    /// The ops that parse and resolve its files' maps. Who holds a device is known by their name.
    pub(crate) ops: PinnedOps,
    /// Says that the devices are not held any more.
    pub(crate) released: Released,
    /// From the end of the superblock on; before, its connection keeps the module.
    module: SetOnce<ModuleRef>,
}

// It is made where memory can only be had in small pieces. (Lockdep's locks are large.)
#[cfg(not(CONFIG_LOCKDEP))]
const _: () = assert!(size_of::<Mount>() <= 2048);

const GIVING_UP: u64 = 0;
const LOOKING: u64 = 1;
const ENDING: u64 = 2;

impl_has_delayed_work! {
    impl HasDelayedWork<Self, GIVING_UP> for Mount { self.giving_up }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, LOOKING> for Mount { self.looking }
}

impl_has_work! {
    impl HasWork<Self, ENDING> for Mount { self.ending }
}

impl WorkItem<ENDING> for Mount {
    type Pointer = ARef<Self>;

    fn run(mount: ARef<Self>) {
        // SAFETY: Who queued it has left it an active reference.
        unsafe { Mounted::end(&mount) };
    }
}

impl WorkItem<GIVING_UP> for Mount {
    type Pointer = ARef<Self>;

    fn run(mount: ARef<Self>) {
        if mount.mapped_files.give_up_kept() {
            mount.give_up_later();
        }
    }
}

impl WorkItem<LOOKING> for Mount {
    type Pointer = ARef<Self>;

    fn run(mount: ARef<Self>) {
        let start = Instant::<Monotonic>::now();
        // What is bad before this is seen.
        mount.will_look.xchg(false, Full);
        let busy = iomap::end_bad_maps(&mount);
        let us = start.elapsed().as_micros_ceil().max(0);

        mount.look_us.store(us as u64, Relaxed);
        if busy {
            mount.look_for_bad();
        }
    }
}

impl Mount {
    /// The least and the most time between a reason to look for bad inodes and the look, in
    /// milliseconds.
    const LOOK_MS_MIN: u64 = 10;
    const LOOK_MS_MAX: u64 = 10_000;
    /// Looking takes no more than one part in this many of a CPU, as long as the most time allows
    /// that.
    const LOOK_SHARE: u64 = 300;

    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(
        superblock: impl PinInit<Superblock>,
        ops: PinnedOps,
        released: Released,
    ) -> Result<ARef<Self>> {
        let init = pin_init!(Self {
            references: Refcount::new(1),
            superblock <- superblock,
            ops,
            files: Atomic::new(0),
            mapped_files <- MappedFiles::new(),
            tenants <- Tenants::new(),
            stats: Stats::new(),
            opens <- RateLimit::new(),
            mappings <- RateLimit::new(),
            opening <- InFlight::new(),
            changing <- new_spinlock!(RBTree::new(), "fuse_dax_fmap::Mount::changing"),
            no_maps: Atomic::new(false),
            giving_up <- new_delayed_work!("fuse_dax_fmap::Mount::giving_up"),
            looking <- new_delayed_work!("fuse_dax_fmap::Mount::looking"),
            ending <- new_work!("fuse_dax_fmap::Mount::ending"),
            look_us: Atomic::new(0),
            will_look: Atomic::new(false),
            devices <- Devices::new(),
            released,
            module: SetOnce::new(),
        });
        let mount = KBox::pin_init(init, GFP_ATOMIC | __GFP_NOWARN)?;
        // SAFETY: It stays where it is until `dec_ref()` makes a box of it again, and has one
        // reference.
        Ok(unsafe {
            let mount = KBox::into_raw(Pin::into_inner_unchecked(mount));
            ARef::from_raw(NonNull::new_unchecked(mount))
        })
    }

    /// Begins to count, and makes what files and devices need. May sleep. One task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        self.stats.start()?;
        self.tenants.start()?;
        self.devices.start()
    }

    /// Takes a reference to a mount, unless the last one has been given up.
    ///
    /// # Safety
    ///
    /// The mount has not been freed.
    pub(crate) unsafe fn hold(mount: NonNull<Self>) -> Option<ARef<Self>> {
        // SAFETY: `mount` has not been freed, by the safety requirements.
        let count = unsafe { mount.as_ref() }.references.as_atomic();
        let mut seen = count.load(Relaxed);

        while seen != 0 {
            match count.cmpxchg(seen, seen + 1, Relaxed) {
                // SAFETY: The reference was taken just now.
                Ok(_) => return Some(unsafe { ARef::from_raw(mount) }),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Keeps the module as long as the mount is there.
    pub(crate) fn keep_module(&self) {
        if let Some(module) = ModuleRef::new() {
            self.module.populate(module);
        }
    }

    /// Whether the server has said that it has no maps at all.
    pub(crate) fn has_no_maps(&self) -> bool {
        self.no_maps.load(Relaxed)
    }

    /// Has kept memory looked at again after a while.
    pub(crate) fn give_up_later(&self) {
        let delay = msecs_to_jiffies(self.mapped_files.patience());
        let queued =
            workqueue::system_long().enqueue_delayed::<_, GIVING_UP>(ARef::from(self), delay);

        // If it is queued already, that will do.
        drop(queued);
    }

    /// Has files looked at, soon, whether FUSE has marked their inodes bad.
    pub(crate) fn look_for_bad(&self) {
        if self.files.load(Relaxed) == 0 {
            return;
        }
        self.mapped_files.suspect();
        // Either the look that begins at this moment sees what is bad, or this sees that it has
        // begun.
        if self.will_look.xchg(true, Full) {
            return;
        }
        let ms = self.look_us.load(Relaxed).saturating_mul(Self::LOOK_SHARE) / 1000;
        let ms = ms.clamp(Self::LOOK_MS_MIN, Self::LOOK_MS_MAX);
        let delay = msecs_to_jiffies(ms as u32);

        drop(workqueue::system_long().enqueue_delayed::<_, LOOKING>(ARef::from(self), delay));
    }

    /// Has the mount ended by a work item, which gets the caller's active reference: the last one.
    pub(crate) fn end_later(&self) {
        // It is not queued: then it would have a reference of its own.
        drop(workqueue::system_long().enqueue::<_, ENDING>(ARef::from(self)));
    }

    /// Does not look any more: the superblock is being shut down, and has no inodes.
    pub(crate) fn stop_looking(&self) {
        // SAFETY: The work item is part of `self`, and was initialized with it.
        let pending = unsafe {
            let work = DelayedWork::raw_as_work(&raw const self.looking);
            // A work item that may be delayed is the first member of its `struct delayed_work`.
            c::cancel_delayed_work(Work::raw_get(work).cast())
        };
        if pending {
            // SAFETY: What was queued owned a reference, which is ours now.
            drop(unsafe { ARef::from_raw(NonNull::from(self)) });
        }
    }
}

// SAFETY: The count keeps a mount, and the last reference frees it.
unsafe impl AlwaysRefCounted for Mount {
    fn inc_ref(&self) {
        self.references.inc();
    }

    unsafe fn dec_ref(mount: NonNull<Self>) {
        // SAFETY: By the safety requirements it is there, and a reference the caller's to give up.
        if unsafe { mount.as_ref() }.references.dec_and_test() {
            // SAFETY: `new()` made it as a box, and nothing points to it any more.
            drop(unsafe { Pin::new_unchecked(KBox::from_raw(mount.as_ptr())) });
        }
    }
}

/// For the log: `major:minor`, as in /proc/self/mountinfo.
impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", self.superblock))
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
    /// The key of each task.
    #[pin]
    busy: Mutex<RBTree<usize, ()>>,
    #[pin]
    left: CondVar,
}

/// The right to do the thing named by `key`, given up on drop.
pub(crate) struct Turn<'a> {
    in_flight: &'a InFlight,
    key: usize,
}

impl InFlight {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            busy <- new_mutex!(RBTree::new(), "fuse_dax_fmap::in_flight"),
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
        let mut busy = self.busy.lock();
        let mut interrupted = false;

        while !interrupted && !done() && busy.get(&key).is_some() {
            interrupted = self.left.wait_interruptible(&mut busy);
        }
        if done() {
            return Ok(None);
        }
        if interrupted {
            return Err(ERESTARTSYS);
        }
        busy.try_create_and_insert(key, (), GFP_KERNEL)?;
        Ok(Some(Turn {
            in_flight: self,
            key,
        }))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.in_flight.busy.lock().remove(&self.key);
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

/// What came of FUSE's open of a file that is being settled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// FUSE has opened it.
    Yes,
    /// It has to wait until it is known whether the file is mapped.
    NotYet,
    /// It has failed, whether the file is mapped or not.
    Refused,
}

/// Settles whether a file is mapped, fetching its map if this is its first open. May sleep.
///
/// If the server is asked, `open` is called before its answer is waited for: it has FUSE open the
/// file, unless that has to wait, and returns what came of it. Nobody else publishes a map of the
/// file while that runs. An opener whom the server refuses brings no map.
///
/// # Errors
///
/// Whatever the open fails with; the cause has been logged.
pub(crate) fn settle(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> Opened,
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
        return Ok(match iomap::state(inode) {
            State::Unknown => State::Plain,
            state => state,
        });
    };
    let fetched = fetch(conn, inode, open);
    drop(turn);
    fetched.map_err(|Failure { errno, cause }| {
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
    open: impl FnOnce() -> Opened,
) -> Result<State, Failure> {
    let mount = conn.mount();

    let Some(parsed) = get_map(conn, inode, open)? else {
        return Ok(State::Plain);
    };

    let mut devices = parsed.dev_bitmap;
    while devices != 0 {
        mount
            .devices
            .acquire(devices.trailing_zeros(), conn, inode)?;
        devices &= devices - 1;
    }
    iomap::publish(inode, parsed, conn).map_err(Failure::because("publishing the map"))
}

/// Gets the map of a file from the server, and has it parsed; `None` if it has none, or the opener
/// is refused.
///
/// That a map needs more room is said by the server (ERANGE), or by the program, about an answer in
/// which the server says so in its own way. Then the server is asked again, with the next room that
/// is not less than what the program wants. So no room is offered twice, whatever they say.
fn get_map(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> Opened,
) -> Result<Option<Parsed>, Failure> {
    let mount = conn.mount();
    let mut open = Some(open);
    let mut wanted = 0;
    let mut too_short = too_large();

    if conn.brings_maps {
        if let Some(open) = open.take() {
            let mut brought = MapInOpen::new();
            let mut opened = Opened::NotYet;
            let answer = brought.during(inode, || {
                opened = open();
                opened == Opened::Yes
            });

            match answer {
                _ if opened == Opened::Refused => return Ok(None),
                Err(ERANGE) => (),
                Ok(blob) => {
                    mount.stats.inc(Counter::MapsInOpen);
                    match parse(mount, blob, BLOB_WITH_OPEN)? {
                        Verdict::Map(parsed) => return Ok(Some(parsed)),
                        Verdict::NeedsRoom(size) => wanted = size,
                    }
                }
                Err(errno) => return no_map(conn, inode, errno, "the map that came with OPEN"),
            }
        }
    }
    for room in ROOMS {
        if room < wanted {
            continue;
        }
        let asked = conn
            .get_fmap(inode, room)
            .map_err(Failure::because("GET_FMAP"))?;

        if open.take().map(|open| open()) == Some(Opened::Refused) {
            return Ok(None);
        }
        too_short = match asked.answer() {
            Ok(blob) => match parse(mount, &blob, room)? {
                Verdict::Map(parsed) => return Ok(Some(parsed)),
                Verdict::NeedsRoom(size) => {
                    wanted = size;
                    refused(ERANGE)
                }
            },
            Err(ERANGE) => too_large(),
            Err(errno) => return no_map(conn, inode, errno, "GET_FMAP"),
        };
    }
    if too_short.errno == ERANGE {
        mount.stats.inc(Counter::RefusedMaps);
    }
    Err(too_short)
}

/// Calls `dax_fmap_parse()` with an answer for which there was `room`.
fn parse(mount: &Mount, blob: &[u8], room: u32) -> Result<Verdict, Failure> {
    let verdict = match mount.ops.parse(blob, room) {
        Ok(Verdict::NeedsRoom(wanted)) if wanted > BLOB_MAX => Err(too_large()),
        verdict => verdict.map_err(refused),
    };
    verdict.inspect_err(|_| mount.stats.inc(Counter::RefusedMaps))
}

fn too_large() -> Failure {
    Failure {
        errno: E2BIG,
        cause: "the map does not fit in 1 MiB",
    }
}

fn refused(errno: Error) -> Failure {
    Failure {
        errno,
        cause: "dax_fmap_parse() refuses the map",
    }
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
