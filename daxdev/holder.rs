// SPDX-License-Identifier: GPL-2.0

//! Holders of devices (a mount, which is notified when one of its devices fails), and the list of
//! all devices that are held.
//!
//! Modelled on the kernel's `struct dax_holder_operations` (include/linux/dax.h), with two
//! functions for each of the two kinds of report.

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

use crate::abstractions::{
    dax::DaxDevice,
    device::DeviceId, //
};

/// The operations of a holder of devices, for when one of them fails.
pub(crate) trait HolderOps: Sync {
    /// Writes the name of the holder, for the log.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Takes a reference, unless the last one has been dropped. Does not sleep.
    fn get(&self) -> Option<HolderRef>;

    /// Marks a device that is about to be removed: from here on nothing of it is mapped anew.
    /// Returns true if something may be mapped already. Does not sleep.
    fn device_fails(&self, index: u32) -> bool;

    /// Unmaps what is mapped of a device that is being removed, and waits until no page of it is in
    /// use.
    fn device_removed(&self, index: u32);

    /// Marks a device of which some memory has failed: from here on
    /// [`is_poisoned`](super::is_poisoned) is checked before its memory is used. Does not sleep.
    fn memory_fails(&self, index: u32);

    /// Unmaps a page frame that has failed and is in the list of poison, and notifies the tasks
    /// that map it. `flags` are those of `memory_failure()`. May sleep.
    ///
    /// # Errors
    ///
    /// Those of `mf_dax_kill_procs()`.
    ///
    /// # Safety
    ///
    /// The frame must be of a device that this holder holds. The caller must handle a memory
    /// failure, in a read-side critical section of `dax_read_lock()` in which the device was alive,
    /// so that the frame has a memory map.
    unsafe fn memory_failed(&self, pfn: u64, flags: ffi::c_int) -> Result;
}

/// A reference to a holder of any type.
///
/// # Invariants
///
/// `self` owns a reference to `ops`, which `put` drops.
pub(crate) struct HolderRef {
    ops: NonNull<dyn HolderOps>,
    put: unsafe fn(NonNull<dyn HolderOps>),
}

impl HolderRef {
    pub(crate) fn new<T: HolderOps + AlwaysRefCounted + 'static>(holder: ARef<T>) -> Self {
        /// # Safety
        ///
        /// `ops` is a `T`. The caller owns a reference to it, which this drops.
        unsafe fn put<T: AlwaysRefCounted>(ops: NonNull<dyn HolderOps>) {
            // SAFETY: By the safety requirements `ops` is a `T`, to which the caller owns a
            // reference.
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

/// The `holder_data` that the dax core has for a holder: a number that is used once. The address of
/// a slot would not do, as it may be another slot's before the dax core clears it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Cookie(usize);

impl Cookie {
    /// Less than all others.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn new() -> Self {
        static LAST: Atomic<usize> = Atomic::new(0);

        Self(LAST.fetch_add(1, Relaxed) + 1)
    }

    /// Returns a pointer that is never null, and never dereferenced.
    pub(super) fn as_ptr(self) -> *mut ffi::c_void {
        ptr::without_provenance_mut(self.0)
    }
}

/// A device that is held, or about to be.
///
/// # Invariants
///
/// While it is in `HOLDERS`, `ops` is valid, and no field of it has been dropped.
pub(super) struct Holder {
    pub(super) cookie: Cookie,
    /// The index of the device, among those of `ops`.
    pub(super) index: u32,
    /// The holder, whose files are in the device.
    pub(super) ops: NonNull<dyn HolderOps>,
    /// The device's own name.
    pub(super) name: CString,
    /// The device, and its parent, whose driver has made it.
    pub(super) device: DeviceId,
    pub(super) parent: Option<DeviceId>,
    /// True once the device is held.
    pub(super) is_taken: bool,
    /// True once it has been logged that the device goes away.
    pub(super) is_logged: bool,
    /// True once the device has been taken out of use.
    pub(super) is_out_of_use: bool,
}

// SAFETY: Only used under the lock of `HOLDERS`.
unsafe impl Send for Holder {}

global_lock! {
    /// All slots that hold a device, or did until it was removed.
    ///
    /// The failure of a device may be reported until `fs_put_dax()`, and slightly later. A slot
    /// that is not in here any more gets no report.
    // SAFETY: `init()` runs before any mount is attached.
    pub(super) unsafe(uninit) static HOLDERS: Mutex<KVec<Holder>> = KVec::new();
}

/// Initializes the list. Called once, while the module is loaded.
pub(super) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { HOLDERS.init() }
}

impl Holder {
    /// Returns the holder of a device, if that is in `holders`.
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

/// For the log: the holder of a device.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ops().describe(f)?;
        f.write_fmt(fmt!(", index {}", self.index))
    }
}

/// Adds a slot to the list, and returns the cookie that it gets. The list is in the order of the
/// cookies. Called before the device is held, as a failure may be reported as soon as it is.
///
/// # Errors
///
/// [`ENOMEM`].
pub(super) fn register(mut holder: Holder) -> Result<Cookie> {
    let mut holders = HOLDERS.lock();
    let cookie = Cookie::new();

    holder.cookie = cookie;
    holders.push(holder, GFP_KERNEL)?;
    Ok(cookie)
}

/// Records that a device is held. The device is locked, and so is its parent: from now on the
/// holder is told before one of their drivers is unbound.
pub(super) fn taken(cookie: Cookie) {
    for holder in HOLDERS.lock().iter_mut() {
        holder.is_taken |= holder.cookie == cookie;
    }
}

/// Takes a slot out of the list, and calls `release` with the list locked: no report begins
/// before that is done.
pub(super) fn unregister(cookie: Cookie, release: impl FnOnce()) {
    let mut holders = HOLDERS.lock();

    holders.retain(|other| other.cookie != cookie);
    if holders.is_empty() {
        *holders = KVec::new();
    }
    release();
}

/// Calls `tell` with the holder of a device; with `None` if that is not in the list.
pub(super) fn with_holder(dax_dev: &DaxDevice, tell: impl FnOnce(Option<&Holder>)) {
    tell(Holder::of(&HOLDERS.lock(), dax_dev));
}
