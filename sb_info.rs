// SPDX-License-Identifier: GPL-2.0

//! What a bound mount has besides its FUSE connection. Every mapped file points here.

use core::ptr::NonNull;

use kernel::{
    fmt,
    impl_has_delayed_work,
    impl_has_work,
    new_delayed_work,
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
    abstractions::fs::super_block::ActiveSuper,
    bindings::kernel as c,
    daxdev::Devices,
    fmap_ops::PinnedOps,
    fuse::ModuleRef,
    ratelimit::RateLimit,
    single_flight::SingleFlight,
    stats::Stats, //
};

mod mapped_files;
mod released;
mod superblock;
mod ownership;

pub(crate) use mapped_files::{
    ListedFile,
    Lists,
    MappedFiles, //
};
pub(crate) use released::Released;
pub(crate) use superblock::{
    DeviceNumber,
    Superblock, //
};
pub(crate) use ownership::{
    OwnershipReadGuard,
    Ownership, //
};

/// What a bound mount has besides its FUSE connection. Every mapped file points here.
///
/// It outlives the superblock if memory of its files is still in use then: the devices stay held
/// until that is given up. The order of the last fields is the order in which they go away.
#[pin_data]
pub(crate) struct SbInfo {
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
    pub(crate) ownership: Ownership,
    pub(crate) stats: Stats,
    /// Limits what is logged about opens.
    #[pin]
    pub(crate) opens: RateLimit,
    /// Limits what is logged about mappings.
    #[pin]
    pub(crate) mappings: RateLimit,
    /// Files whose map is being fetched.
    #[pin]
    pub(crate) opening: SingleFlight,
    /// Inodes, by their address, whose bytes are being changed through FUSE by a file that will be
    /// a mapped one once the inode is, and how many system calls do so.
    #[pin]
    pub(crate) changing: SpinLock<RBTree<usize, u32>>,
    /// The server has no maps at all (ENOSYS).
    no_maps: Atomic<bool>,
    /// Gives up kept memory.
    #[pin]
    releasing: DelayedWork<Self, RELEASING>,
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
const _: () = assert!(size_of::<SbInfo>() <= 2048);

/// The work item that gives up kept memory. What it does is in `iomap`.
pub(crate) const RELEASING: u64 = 0;
/// The work item that looks for files whose inodes FUSE has marked bad. What it does is in `iomap`.
pub(crate) const LOOKING: u64 = 1;
/// The work item that ends a mount.
const ENDING: u64 = 2;

impl_has_delayed_work! {
    impl HasDelayedWork<Self, RELEASING> for SbInfo { self.releasing }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, LOOKING> for SbInfo { self.looking }
}

impl_has_work! {
    impl HasWork<Self, ENDING> for SbInfo { self.ending }
}

impl WorkItem<ENDING> for SbInfo {
    type Pointer = ARef<Self>;

    fn run(sbi: ARef<Self>) {
        // SAFETY: `end_later()`, which alone queues this, has left it an active reference.
        unsafe { ActiveSb::end(&sbi) };
    }
}

impl SbInfo {
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
            ownership <- Ownership::new(),
            stats: Stats::new(),
            opens <- RateLimit::new(),
            mappings <- RateLimit::new(),
            opening <- SingleFlight::new(),
            changing <- new_spinlock!(RBTree::new(), "fuse_dax_fmap::Mount::changing"),
            no_maps: Atomic::new(false),
            releasing <- new_delayed_work!("fuse_dax_fmap::Mount::giving_up"),
            looking <- new_delayed_work!("fuse_dax_fmap::Mount::looking"),
            ending <- new_work!("fuse_dax_fmap::Mount::ending"),
            look_us: Atomic::new(0),
            will_look: Atomic::new(false),
            devices <- Devices::new(),
            released,
            module: SetOnce::new(),
        });
        let sbi = KBox::pin_init(init, GFP_ATOMIC | __GFP_NOWARN)?;
        // SAFETY: It stays where it is until `dec_ref()` makes a box of it again, and has one
        // reference.
        Ok(unsafe {
            let sbi = KBox::into_raw(Pin::into_inner_unchecked(sbi));
            ARef::from_raw(NonNull::new_unchecked(sbi))
        })
    }

    /// Begins to count, and makes what files and devices need. May sleep. One task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        self.stats.start()?;
        self.ownership.start()?;
        self.devices.start()
    }

    /// Takes a reference to a mount, unless the last one has been given up.
    ///
    /// # Safety
    ///
    /// The mount has not been freed.
    pub(crate) unsafe fn hold(sbi: NonNull<Self>) -> Option<ARef<Self>> {
        // SAFETY: `sbi` has not been freed, by the safety requirements.
        let count = unsafe { sbi.as_ref() }.references.as_atomic();
        let mut seen = count.load(Relaxed);

        while seen != 0 {
            match count.cmpxchg(seen, seen + 1, Relaxed) {
                // SAFETY: The reference was taken just now.
                Ok(_) => return Some(unsafe { ARef::from_raw(sbi) }),
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

    /// The server has said so.
    pub(crate) fn has_no_maps_at_all(&self) {
        self.no_maps.store(true, Relaxed);
    }

    /// Has kept memory looked at again after a while.
    pub(crate) fn release_kept_later(&self) {
        let delay = msecs_to_jiffies(self.mapped_files.patience());
        let queued =
            workqueue::system_long().enqueue_delayed::<_, RELEASING>(ARef::from(self), delay);

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

    /// Looks for files whose inodes FUSE has marked bad, by `look`, which returns whether some of
    /// their memory is busy: then it looks again, soon.
    pub(crate) fn look(&self, look: impl FnOnce() -> bool) {
        let start = Instant::<Monotonic>::now();
        // What is bad before this is seen.
        self.will_look.xchg(false, Full);
        let busy = look();
        let us = start.elapsed().as_micros_ceil().max(0);

        self.look_us.store(us as u64, Relaxed);
        if busy {
            self.look_for_bad();
        }
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
unsafe impl AlwaysRefCounted for SbInfo {
    fn inc_ref(&self) {
        self.references.inc();
    }

    unsafe fn dec_ref(sbi: NonNull<Self>) {
        // SAFETY: By the safety requirements it is there, and a reference the caller's to give up.
        if unsafe { sbi.as_ref() }.references.dec_and_test() {
            // SAFETY: `new()` made it as a box, and nothing points to it any more.
            drop(unsafe { Pin::new_unchecked(KBox::from_raw(sbi.as_ptr())) });
        }
    }
}

/// For the log: `major:minor`, as in /proc/self/mountinfo.
impl fmt::Display for SbInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", self.superblock))
    }
}

/// A superblock that stays mounted.
///
/// Dropping it never waits. If it is what is left of the mount, a work item ends the mount: FUSE
/// waits for the server then, as long as that likes.
#[must_use = "the mount is kept only as long as this is there"]
pub(crate) struct ActiveSb {
    /// There until this is dropped.
    sb: Option<ActiveSuper>,
    sbi: ARef<SbInfo>,
}

impl ActiveSb {
    /// Keeps a mount, unless it is about to go.
    pub(crate) fn new(sbi: &SbInfo) -> Option<Self> {
        let locked = sbi.superblock.sb.lock();
        // SAFETY: By the type invariants of `Superblock` it is valid, with the lock held.
        let sb = unsafe { locked.0?.as_ref() }.try_get_active()?;

        Some(Self {
            sb: Some(sb),
            sbi: ARef::from(sbi),
        })
    }

    /// Gives up the last active reference, and waits for the end of the mount.
    ///
    /// # Safety
    ///
    /// An active reference of `sbi` was left behind, and is the caller's.
    pub(crate) unsafe fn end(sbi: &SbInfo) {
        let sb = sbi.superblock.sb.lock().0;

        // SAFETY: By the safety requirements. That reference keeps the superblock up to here.
        drop(sb.map(|sb| unsafe { ActiveSuper::from_raw(sb) }));
    }
}

impl Drop for ActiveSb {
    fn drop(&mut self) {
        if let Some(Err(last)) = self.sb.take().map(ActiveSuper::put_unless_last) {
            // What is left is ours, and becomes the work item's.
            let _ = last.into_raw();
            self.sbi.end_later();
        }
    }
}
