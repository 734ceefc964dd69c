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
/// The `struct address_space` is initialized.
#[repr(transparent)]
pub(crate) struct AddressSpace(Opaque<c::address_space>);

// SAFETY: A page cache is not tied to a task.
unsafe impl Send for AddressSpace {}
// SAFETY: Several tasks may use a page cache at once.
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// Creates a reference to an [`AddressSpace`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `mapping` must point to a page cache that is initialized, and stays valid, for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(mapping: *mut c::address_space) -> &'a Self {
        // SAFETY: `mapping` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*mapping.cast() }
    }

    /// Drops the pages that are clean, and neither locked nor mapped.
    pub(crate) fn drop_clean_pages(&self) {
        // SAFETY: By the type invariants the page cache is valid.
        unsafe { c::invalidate_mapping_pages(self.as_raw(), 0, !0) };
    }

    /// Initializes a page cache that is not embedded in an inode. It has no pages, but its flags
    /// claim that some are marked dirty, so that the VFS calls `->writepages()`.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writes, and must not move as long as it is used. `host` must be
    /// valid for as long, and `a_ops` must be for this page cache.
    pub(crate) unsafe fn init_dirty(
        slot: *mut c::address_space,
        host: *mut c::inode,
        a_ops: &'static c::address_space_operations,
        lock: (&'static CStr, Pin<&'static LockClassKey>),
    ) {
        // SAFETY: `slot` is valid for writes, by the safety requirements.
        unsafe { c::address_space_init_once(slot) };
        // SAFETY: `slot` was initialized just above; the caller guarantees the rest.
        unsafe { Self::set_up(slot, host, a_ops, lock) };
        // SAFETY: The caller has exclusive access to `slot`.
        unsafe { (*slot).i_pages.xa_flags |= c::XA_FLAGS_MARK_DIRTY };
    }

    /// Initializes the page cache of an inode, as `inode_init_always()` does.
    ///
    /// # Safety
    ///
    /// `slot` must have been initialized by `address_space_init_once()`, and the caller must have
    /// exclusive access to it. `host` must be valid as long as the page cache is used, and `a_ops`
    /// must be for this page cache.
    pub(super) unsafe fn set_up(
        slot: *mut c::address_space,
        host: *mut c::inode,
        a_ops: &'static c::address_space_operations,
        (name, key): (&'static CStr, Pin<&'static LockClassKey>),
    ) {
        // SAFETY: By the safety requirements `slot` is a page cache that only the caller uses.
        let mapping = unsafe { &mut *slot };

        // SAFETY: The lock is part of `mapping`; `name` and `key` are static.
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

    /// Returns the inode that hosts it, which may have other page caches, too.
    pub(crate) fn host(&self) -> *mut c::inode {
        // SAFETY: By the type invariants the page cache is valid. Its host does not change.
        unsafe { (*self.as_raw()).host }
    }

    /// Returns `invalidate_lock`, held shared to add pages, and exclusively to remove pages.
    #[inline]
    pub(crate) fn invalidate_lock(&self) -> &RwSemaphore {
        // SAFETY: By the type invariants the lock is initialized, and valid as long as `self`.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.as_raw()).invalidate_lock) }
    }

    /// Returns the operations, for an inode in use.
    pub(crate) fn operations(&self) -> &c::address_space_operations {
        // SAFETY: By the type invariants it is initialized; the pointer is read once.
        unsafe { &*(&raw const (*self.as_raw()).a_ops).read_volatile() }
    }

    /// Replaces the operations. Other tasks load the pointer once, and get the old or the new ones.
    ///
    /// # Safety
    ///
    /// The operations must be for this page cache, and stay valid as long as it.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::address_space_operations) {
        // SAFETY: By the type invariants it is initialized; the pointer is a word.
        let a_ops = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).a_ops).cast()) };

        a_ops.store(operations.cast_mut(), Ordering::Release);
    }

    /// Records a writeback error, which fsync(2) reports once per open file.
    pub(crate) fn set_error(&self, error: Error) {
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::mapping_set_error(self.as_raw(), error.to_errno()) }
    }

    /// Returns the `f_wb_err` of a file that is opened now: such a file does not report earlier
    /// writeback errors.
    pub(crate) fn sample_wb_err(&self) -> c::errseq_t {
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::filemap_sample_wb_err(self.as_raw()) }
    }
}
