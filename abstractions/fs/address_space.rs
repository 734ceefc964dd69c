// SPDX-License-Identifier: GPL-2.0

//! Page caches.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use core::sync::atomic::{
    AtomicPtr,
    Ordering, //
};

use kernel::{
    prelude::*,
    str::CStr,
    sync::LockClassKey,
    types::Opaque, //
};

use crate::{
    abstractions::sync::rw_semaphore::RwSemaphore,
    bindings::kernel as c, //
};

/// A `struct address_space`.
///
/// # Invariants
///
/// It is initialized.
#[repr(transparent)]
pub(crate) struct AddressSpace(Opaque<c::address_space>);

// SAFETY: A page cache belongs to no task.
unsafe impl Send for AddressSpace {}
// SAFETY: Several tasks may use a page cache at once.
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// # Safety
    ///
    /// `mapping` points to an initialized page cache, which stays so for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(mapping: *mut c::address_space) -> &'a Self {
        // SAFETY: `mapping` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*mapping.cast() }
    }

    /// Initializes one that is no part of an inode. It has no pages, but claims that some are
    /// marked dirty: what looks for such pages then asks `->writepages()`.
    ///
    /// # Safety
    ///
    /// `slot` is valid for writes and stays where it is as long as it is used. `host` is valid as
    /// long, and `a_ops` are for this page cache.
    pub(crate) unsafe fn init_dirty(
        slot: *mut c::address_space,
        host: *mut c::inode,
        a_ops: &'static c::address_space_operations,
        lock: (&'static CStr, Pin<&'static LockClassKey>),
    ) {
        // SAFETY: `slot` is valid for writes, by the safety requirements.
        unsafe { c::address_space_init_once(slot) };
        // SAFETY: `slot` went through that just now; the rest is the caller's to promise.
        unsafe { Self::set_up(slot, host, a_ops, lock) };
        // SAFETY: `slot` is the caller's alone.
        unsafe { (*slot).i_pages.xa_flags |= c::XA_FLAGS_MARK_DIRTY };
    }

    /// What `inode_init_always()` does for the page cache of an inode.
    ///
    /// # Safety
    ///
    /// `slot` went through `address_space_init_once()`, and is the caller's alone. `host` is valid
    /// as long as it is used, and `a_ops` are for this page cache.
    pub(super) unsafe fn set_up(
        slot: *mut c::address_space,
        host: *mut c::inode,
        a_ops: &'static c::address_space_operations,
        (name, key): (&'static CStr, Pin<&'static LockClassKey>),
    ) {
        // SAFETY: `slot` is a page cache, and the caller's alone, by the safety requirements.
        let mapping = unsafe { &mut *slot };

        // SAFETY: The lock is a part of `mapping`; `name` and `key` are static.
        unsafe {
            c::__init_rwsem(
                &raw mut mapping.invalidate_lock,
                name.as_char_ptr(),
                key.as_ptr(),
            );
        }
        mapping.host = host;
        mapping.gfp_mask = c::GFP_KERNEL;
        mapping.a_ops = a_ops;
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::address_space {
        self.0.get()
    }

    /// `invalidate_lock`: who adds pages has it shared, who takes them away exclusively.
    #[inline]
    pub(crate) fn invalidate_lock(&self) -> &RwSemaphore {
        // SAFETY: By the type invariants the lock is initialized, and stays as long as `self`.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.as_raw()).invalidate_lock) }
    }

    /// Its operations, for an inode in use.
    pub(crate) fn operations(&self) -> &c::address_space_operations {
        // SAFETY: By the type invariants it is initialized; the pointer is read once.
        unsafe { &*(&raw const (*self.as_raw()).a_ops).read_volatile() }
    }

    /// Gives it other operations, which others load once.
    ///
    /// # Safety
    ///
    /// They are for this page cache, and stay as long.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::address_space_operations) {
        // SAFETY: By the type invariants it is initialized; the pointer is a word.
        let a_ops = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).a_ops).cast()) };

        a_ops.store(operations.cast_mut(), Ordering::Release);
    }

    /// Records an error of writeback, which fsync(2) reports once for each open file.
    pub(crate) fn set_error(&self, error: Error) {
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::mapping_set_error(self.as_raw(), error.to_errno()) }
    }

    /// What a file that is opened now has seen of the errors of writeback.
    pub(crate) fn sample_wb_err(&self) -> c::errseq_t {
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::filemap_sample_wb_err(self.as_raw()) }
    }
}
