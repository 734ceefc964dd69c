// SPDX-License-Identifier: GPL-2.0

//! What holds devices: a mount, which is told when one of them fails; and the list of all that are
//! held.
//!
//! The shape is that of the kernel's `struct dax_holder_operations` (include/linux/dax.h), with one
//! function for each of the two things that are reported.

use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    ffi,
    fmt,
    prelude::*,
    str::CString,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    }, //
};

use crate::abstractions::dax::DaxDevice;

/// What a holder of devices does when one of them fails.
pub(crate) trait HolderOps: Sync {
    /// For the log: who it is.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Takes a reference, unless the last one has been given up. Does not sleep.
    fn get(&self) -> Option<HolderRef>;

    /// A device is about to go away: nothing of it is mapped anew from here on. Returns whether
    /// something may be mapped already. Does not sleep.
    fn device_fails(&self, index: u32) -> bool;

    /// Unmaps what is mapped of a device that goes away, and waits until no page of it is in use.
    fn device_removed(&self, index: u32);

    /// Some memory of a device has failed: from here on [`is_poisoned`](super::is_poisoned) is
    /// asked before it is used. Does not sleep.
    fn memory_fails(&self, index: u32);

    /// Memory has failed, and is known as poisoned: unmaps the page frame, and tells the tasks that
    /// map it. `flags` are those of `memory_failure()`. May sleep.
    ///
    /// # Errors
    ///
    /// Those of `mf_dax_kill_procs()`.
    ///
    /// # Safety
    ///
    /// The frame is of a device that the holder has. The caller handles a memory failure, in a read
    /// side of `dax_read_lock()` in which the device was alive: so the frame has a memory map.
    unsafe fn memory_failed(&self, pfn: u64, flags: ffi::c_int) -> Result;
}

/// A reference to a holder, whatever type it is of.
///
/// # Invariants
///
/// `self` owns a reference to `ops`, which `put` gives up.
pub(crate) struct HolderRef {
    ops: NonNull<dyn HolderOps>,
    put: unsafe fn(NonNull<dyn HolderOps>),
}

impl HolderRef {
    pub(crate) fn new<T: HolderOps + AlwaysRefCounted + 'static>(holder: ARef<T>) -> Self {
        /// # Safety
        ///
        /// `ops` is a `T`, with a reference that is the caller's to give up.
        unsafe fn put<T: AlwaysRefCounted>(ops: NonNull<dyn HolderOps>) {
            // SAFETY: `ops` is a `T`, with a reference of the caller's, by the safety requirements.
            unsafe { T::dec_ref(ops.cast()) }
        }

        let ops: NonNull<T> = ARef::into_raw(holder);
        // INVARIANT: The reference was `holder`'s, and `ops` is a `T`.
        Self { ops, put: put::<T> }
    }
}

impl Deref for HolderRef {
    type Target = dyn HolderOps;

    fn deref(&self) -> &Self::Target {
        // SAFETY: `ops` is kept by the reference of `self`, by the type invariants.
        unsafe { self.ops.as_ref() }
    }
}

impl Drop for HolderRef {
    fn drop(&mut self) {
        // SAFETY: The reference to `ops` is that of `self`, by the type invariants.
        unsafe { (self.put)(self.ops) }
    }
}

/// What the dax core knows a holder by: a number that is used once, as the address of a slot may be
/// another slot's by the time that the dax core forgets it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie(usize);

impl Cookie {
    pub(super) fn new() -> Self {
        static LAST: Atomic<usize> = Atomic::new(0);

        Self(LAST.fetch_add(1, Relaxed) + 1)
    }

    /// Never null, and never followed.
    pub(super) fn as_ptr(self) -> *mut ffi::c_void {
        ptr::without_provenance_mut(self.0)
    }
}

/// A device that is held, or about to be.
///
/// # Invariants
///
/// While it is in `HOLDERS`, `ops` is valid.
pub(super) struct Holder {
    pub(super) cookie: Cookie,
    /// Which device it is, of those of `ops`.
    pub(super) index: u32,
    /// Whose files are in the device.
    pub(super) ops: NonNull<dyn HolderOps>,
    /// The device's own name.
    pub(super) name: CString,
}

// SAFETY: Only used under the lock of `HOLDERS`.
unsafe impl Send for Holder {}

global_lock! {
    /// All slots that hold a device, or did until it went away.
    ///
    /// A failure is reported by device, at any time until `fs_put_dax()` and a moment longer; what
    /// is not in here any more gets no report.
    // SAFETY: `init()` runs before any mount is bound.
    pub(super) unsafe(uninit) static HOLDERS: Mutex<KVec<Holder>> = KVec::new();
}

/// Called once, while the module is loaded.
pub(super) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { HOLDERS.init() }
}

impl Holder {
    /// The holder of a device, if it is one of us.
    pub(super) fn of<'a>(holders: &'a [Self], dax_dev: &DaxDevice) -> Option<&'a Self> {
        let cookie = dax_dev.holder();

        holders
            .iter()
            .find(|holder| ptr::eq(holder.cookie.as_ptr(), cookie))
    }

    pub(super) fn ops(&self) -> &dyn HolderOps {
        // SAFETY: `ops` is valid by the type invariants, as `self` is in the list.
        unsafe { self.ops.as_ref() }
    }
}

/// For the log: who has a device.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ops().describe(f)?;
        f.write_fmt(fmt!(", index {}", self.index))
    }
}

/// Puts a slot into the list. First, then the device may be held: a failure may be reported as soon
/// as it is.
pub(super) fn register(holder: Holder) -> Result {
    Ok(HOLDERS.lock().push(holder, GFP_KERNEL)?)
}

/// Takes a slot out of the list, and calls `drop_range` meanwhile: no report begins before that is
/// done.
pub(super) fn unregister(cookie: Cookie, drop_range: impl FnOnce()) {
    let mut holders = HOLDERS.lock();

    holders.retain(|other| other.cookie != cookie);
    if holders.is_empty() {
        *holders = KVec::new();
    }
    drop_range();
}

/// Calls `tell` with the holder of a device, `None` if that is none of us.
pub(super) fn with_holder(dax_dev: &DaxDevice, tell: impl FnOnce(Option<&Holder>)) {
    tell(Holder::of(&HOLDERS.lock(), dax_dev));
}
