// SPDX-License-Identifier: GPL-2.0

//! The state of an fmap mount, apart from its FUSE connection. Every mapped file points to it.

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
mod mapped_inodes;
mod ownership;
mod released;
mod superblock;

pub(crate) use mapped_files::{
    ListedFile,
    Lists,
    MappedFiles, //
};
pub(crate) use mapped_inodes::{
    ListedInode,
    MappedInodes, //
};
pub(crate) use ownership::{
    Ownership, //
    OwnershipReadGuard,
};
pub(crate) use released::Released;
pub(crate) use superblock::{
    DeviceNumber,
    MountName,
    Superblock, //
};

/// The result of a look for files whose inodes FUSE has marked bad.
pub(crate) struct Looked {
    /// Some of their memory is in use.
    pub(crate) busy: bool,
    /// How long the task slept, in microseconds.
    pub(crate) waited_us: i64,
}

/// The state of an fmap mount, apart from its FUSE connection. Every mapped file points to it.
///
/// It outlives the superblock if memory of its files is in use at unmount: the devices stay held
/// until that is released. They are given back first ([`Devices::release`]); the last fields must
/// be dropped in this order.
#[pin_data]
pub(crate) struct SbInfo {
    references: Refcount,
    /// The superblock, until `put_super()`.
    #[pin]
    pub(crate) superblock: Superblock,
    /// The number of mapped inodes.
    pub(crate) files: Atomic<i64>,
    #[pin]
    pub(crate) mapped_inodes: MappedInodes,
    #[pin]
    pub(crate) mapped_files: MappedFiles,
    pub(crate) stats: Stats,
    /// Limits the log messages about opens.
    #[pin]
    pub(crate) opens: RateLimit,
    /// Limits the log messages about mappings.
    #[pin]
    pub(crate) mappings: RateLimit,
    /// The first opens that are fetching a map, by inode.
    #[pin]
    pub(crate) opening: SingleFlight,
    /// The inodes, by address, that are being changed through an early open file, and the number of
    /// system calls that do so.
    #[pin]
    pub(crate) changing: SpinLock<RBTree<usize, u32>>,
    /// True if the server has no maps at all (ENOSYS).
    no_maps: Atomic<bool>,
    /// Releases kept memory.
    #[pin]
    releasing: DelayedWork<Self, RELEASING>,
    /// Looks for files whose inodes FUSE has marked bad.
    #[pin]
    looking: DelayedWork<Self, LOOKING>,
    /// Drops the last active reference to the superblock, for a task that must not wait.
    #[pin]
    ending: Work<Self, ENDING>,
    /// How long the last look took, in microseconds.
    look_us: Atomic<u64>,
    /// True if `looking` is queued, and has not begun to look.
    will_look: Atomic<bool>,
    /// The devices that its files have used so far.
    #[pin]
    pub(crate) devices: Devices,
    /// The ops that parse and resolve its files' maps. The log says their name.
    pub(crate) ops: PinnedOps,
    /// Completed when the devices are not held any more.
    pub(crate) released: Released,
    /// Locks which file owns which memory of the devices. Dropping it waits for its readers, which
    /// are gone, for a grace period: the devices do not wait for that.
    #[pin]
    pub(crate) ownership: Ownership,
    /// Set in `put_super()`. Before that, the connection keeps the module loaded.
    module: SetOnce<ModuleRef>,
}

// It is allocated with GFP_ATOMIC. (Lockdep's locks are large.)
#[cfg(not(CONFIG_LOCKDEP))]
const _: () = assert!(size_of::<SbInfo>() <= 2048);

/// The work item that releases kept memory (`iomap::kept`).
pub(crate) const RELEASING: u64 = 0;
/// The work item that looks for files whose inodes FUSE has marked bad (`iomap::bad_inodes`).
pub(crate) const LOOKING: u64 = 1;
/// The work item that drops the last active reference to a superblock.
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
        // SAFETY: Only `end_later()` queues this work item, and leaves it an active reference.
        unsafe { ActiveSb::end(&sbi) };
    }
}

impl SbInfo {
    /// The bounds of the delay before a look for bad inodes, in milliseconds.
    const LOOK_MS_MIN: u64 = 10;
    const LOOK_MS_MAX: u64 = 10_000;
    /// The looks take at most 1/`LOOK_SHARE` of a CPU, unless `LOOK_MS_MAX` bounds the delay.
    const LOOK_SHARE: u64 = 300;

    /// Creates the state of a mount that is being attached. Does not sleep.
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
            mapped_inodes <- MappedInodes::new(),
            mapped_files <- MappedFiles::new(),
            stats: Stats::new(),
            opens <- RateLimit::new(),
            mappings <- RateLimit::new(),
            opening <- SingleFlight::new(),
            changing <- new_spinlock!(RBTree::new(), "fuse_dax_fmap::SbInfo::changing"),
            no_maps: Atomic::new(false),
            releasing <- new_delayed_work!("fuse_dax_fmap::SbInfo::releasing"),
            looking <- new_delayed_work!("fuse_dax_fmap::SbInfo::looking"),
            ending <- new_work!("fuse_dax_fmap::SbInfo::ending"),
            look_us: Atomic::new(0),
            will_look: Atomic::new(false),
            devices <- Devices::new(),
            released,
            ownership <- Ownership::new(),
            module: SetOnce::new(),
        });
        let sbi = KBox::pin_init(init, GFP_ATOMIC | __GFP_NOWARN)?;
        // SAFETY: `sbi` is not moved until `dec_ref()` makes a box of it again.
        let sbi = NonNull::from(KBox::leak(unsafe { Pin::into_inner_unchecked(sbi) }));
        // SAFETY: `sbi` has one reference, which the `ARef` owns from here on.
        Ok(unsafe { ARef::from_raw(sbi) })
    }

    /// Allocates the counters and what files and devices need. May sleep. Callers must not run
    /// concurrently.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        self.stats.start()?;
        self.ownership.start()?;
        self.devices.start()
    }

    /// Takes a reference to a mount, unless the last one has been dropped.
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
                // SAFETY: The `cmpxchg()` took a reference to `sbi`, which the `ARef` owns.
                Ok(_) => return Some(unsafe { ARef::from_raw(sbi) }),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Keeps the module loaded until `self` is freed.
    pub(crate) fn keep_module(&self) {
        if let Some(module) = ModuleRef::new() {
            self.module.populate(module);
        }
    }

    /// Returns true if the server has answered that it has no maps at all.
    pub(crate) fn has_no_maps(&self) -> bool {
        self.no_maps.load(Relaxed)
    }

    /// Records that the server has no maps at all.
    pub(crate) fn set_no_maps(&self) {
        // A map is published with this lock held.
        let _changing = self.changing.lock();

        self.no_maps.store(true, Relaxed);
    }

    /// Queues `releasing`, later each time.
    pub(crate) fn release_kept_later(&self) {
        let delay = msecs_to_jiffies(self.mapped_files.patience());
        let queued =
            workqueue::system_long().enqueue_delayed::<_, RELEASING>(ARef::from(self), delay);

        // It may be queued already.
        drop(queued);
    }

    /// Queues a look for files whose inodes FUSE has marked bad.
    pub(crate) fn look_for_bad(&self) {
        if self.files.load(Relaxed) == 0 {
            return;
        }
        self.mapped_files.suspect();
        // Either a look that begins at this moment sees the bad inode, or this sees that it has
        // begun.
        if self.will_look.xchg(true, Full) {
            return;
        }
        let ms = self.look_us.load(Relaxed).saturating_mul(Self::LOOK_SHARE) / 1000;
        let ms = ms.clamp(Self::LOOK_MS_MIN, Self::LOOK_MS_MAX);
        let delay = msecs_to_jiffies(ms as u32);

        drop(workqueue::system_long().enqueue_delayed::<_, LOOKING>(ARef::from(self), delay));
    }

    /// Looks for files whose inodes FUSE has marked bad, by calling `look`. Queues another look if
    /// some of their memory is busy.
    pub(crate) fn look(&self, look: impl FnOnce() -> Looked) {
        let start = Instant::<Monotonic>::now();
        // `look` sees every inode that was marked bad before this.
        self.will_look.xchg(false, Full);
        let Looked { busy, waited_us } = look();
        let us = (start.elapsed().as_micros_ceil() - waited_us).max(0);

        self.look_us.store(us as u64, Relaxed);
        if busy {
            self.look_for_bad();
        }
    }

    /// Queues `ending`, which takes over the caller's active reference, the last one.
    pub(crate) fn end_later(&self) {
        // It cannot be queued already, as it would own an active reference, too.
        drop(workqueue::system_long().enqueue::<_, ENDING>(ARef::from(self)));
    }

    /// Cancels `looking`, when the superblock is being shut down and has no inodes.
    pub(crate) fn stop_looking(&self) {
        // SAFETY: The work item is part of `self`.
        let work = unsafe { DelayedWork::raw_as_work(&raw const self.looking) };
        // SAFETY: `work` points to the work item, as above.
        let work = unsafe { Work::raw_get(work) };
        // The `struct work_struct` is the first member of its `struct delayed_work`.
        // SAFETY: The work item was initialized with `self`.
        let pending = unsafe { c::cancel_delayed_work(work.cast()) };
        if pending {
            // SAFETY: The canceled work item owned a reference to `self`, which is dropped here.
            drop(unsafe { ARef::from_raw(NonNull::from(self)) });
        }
    }
}

// SAFETY: `self` is freed only in `dec_ref()`, by the last reference.
unsafe impl AlwaysRefCounted for SbInfo {
    fn inc_ref(&self) {
        self.references.inc();
    }

    unsafe fn dec_ref(sbi: NonNull<Self>) {
        // SAFETY: `sbi` is valid, as the caller owns a reference, by the safety requirements.
        if unsafe { sbi.as_ref() }.references.dec_and_test() {
            // As long as it holds devices, other tasks may look at any field: they find it without
            // a reference, in the list of holders.
            // SAFETY: `sbi` is valid, as above, until it is freed below.
            unsafe { sbi.as_ref() }.devices.release();
            // SAFETY: `sbi` was a pinned box in `new()`, and this was the last reference to it.
            drop(unsafe { Pin::new_unchecked(KBox::from_raw(sbi.as_ptr())) });
        }
    }
}

/// For the log: `major:minor`, as in /proc/self/mountinfo, and the mount point if it is known.
impl fmt::Display for SbInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", self.superblock))
    }
}

/// An active reference to the superblock of a mount, which keeps it mounted.
///
/// Dropping it does not wait. A work item drops the last one, as shutting down the superblock waits
/// for the server.
#[must_use = "the mount is kept only as long as this is there"]
pub(crate) struct ActiveSb {
    /// `Some` until `drop()`.
    sb: Option<ActiveSuper>,
    sbi: ARef<SbInfo>,
}

impl ActiveSb {
    /// Takes an active reference. Returns `None` if the superblock is being shut down, or is gone.
    pub(crate) fn new(sbi: &SbInfo) -> Option<Self> {
        let locked = sbi.superblock.sb.lock();
        // SAFETY: By the type invariants of `Superblock` it is valid while the lock is held.
        let sb = unsafe { locked.0?.as_ref() }.try_get_active()?;

        Some(Self {
            sb: Some(sb),
            sbi: ARef::from(sbi),
        })
    }

    /// Drops the last active reference, and waits until the superblock is shut down.
    ///
    /// # Safety
    ///
    /// The caller owns an active reference of `sbi` from [`ActiveSuper::into_raw`].
    pub(crate) unsafe fn end(sbi: &SbInfo) {
        let sb = sbi.superblock.sb.lock().0;

        // SAFETY: The caller owns an active reference, which has kept `sb` valid.
        drop(sb.map(|sb| unsafe { ActiveSuper::from_raw(sb) }));
    }
}

impl Drop for ActiveSb {
    fn drop(&mut self) {
        if let Some(Err(last)) = self.sb.take().map(ActiveSuper::put_unless_last) {
            // `ending` takes over the reference.
            let _ = last.into_raw();
            self.sbi.end_later();
        }
    }
}
