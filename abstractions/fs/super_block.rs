// SPDX-License-Identifier: GPL-2.0

//! Superblocks.
//!
//! C header: [`include/linux/fs/super_types.h`](srctree/include/linux/fs/super_types.h)
//!
//! # Examples
//!
//! ```ignore
//! let active = inode.super_block().try_get_active().ok_or(ENODEV)?;
//! // It is not shut down here.
//! if let Err(last) = active.put_unless_last() {
//!     // This shuts it down, and may wait.
//!     drop(last);
//! }
//! ```

use core::{
    mem::ManuallyDrop,
    ptr::NonNull,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// A `struct super_block`.
///
/// # Invariants
///
/// The superblock is valid, and has its operations, as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct SuperBlock(Opaque<c::super_block>);

// SAFETY: A superblock is not tied to a task.
unsafe impl Send for SuperBlock {}
// SAFETY: The fields that are used here do not change, or are atomic.
unsafe impl Sync for SuperBlock {}

impl SuperBlock {
    /// Creates a reference to a [`SuperBlock`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// For `'a` `sb` must be valid, and have its operations.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(sb: *const c::super_block) -> &'a Self {
        // SAFETY: `sb` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*sb.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::super_block {
        self.0.get()
    }

    /// Returns the device number.
    pub(crate) fn dev(&self) -> c::dev_t {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_dev }
    }

    pub(crate) fn block_size(&self) -> usize {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_blocksize }
    }

    /// Returns the maximum size of a file.
    pub(crate) fn max_bytes(&self) -> c::loff_t {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_maxbytes }
    }

    /// Returns true if the user namespace of the superblock is the initial one.
    pub(crate) fn is_of_initial_user_namespace(&self) -> bool {
        // SAFETY: By the type invariants the superblock is valid.
        let user_ns = unsafe { (*self.as_raw()).s_user_ns };

        core::ptr::eq(user_ns, &raw const c::init_user_ns)
    }

    /// Returns `s_fs_info`, which belongs to the file system.
    #[inline]
    pub(crate) fn fs_info(&self) -> *mut ffi::c_void {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_fs_info }
    }

    /// Returns the operations, loaded once: [`Self::set_operations`] may change them concurrently.
    #[inline]
    pub(crate) fn operations(&self) -> NonNull<c::super_operations> {
        // SAFETY: By the type invariants the superblock is valid.
        let operations = unsafe { (&raw const (*self.as_raw()).s_op).read_volatile() };

        // SAFETY: By the type invariants the superblock has operations.
        unsafe { NonNull::new_unchecked(operations.cast_mut()) }
    }

    /// Replaces the operations. Other tasks load the pointer once, and get the old or the new ones.
    ///
    /// # Safety
    ///
    /// `operations` must do for this superblock what the present ones do. Both must stay valid as
    /// long as a task may have loaded them.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::super_operations) {
        // SAFETY: By the type invariants the superblock is valid; the field is a word, loaded once.
        let s_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).s_op).cast()) };

        s_op.store(operations.cast_mut(), Ordering::Release);
    }

    /// Takes an active reference. Returns [`None`] if the superblock is being shut down.
    pub(crate) fn try_get_active(&self) -> Option<ActiveSuper> {
        // SAFETY: By the type invariants the superblock is valid.
        if !unsafe { c::atomic_inc_not_zero(&raw mut (*self.as_raw()).s_active) } {
            return None;
        }
        // INVARIANT: The reference was taken just above.
        Some(ActiveSuper(NonNull::from(self)))
    }
}

/// An active reference to a superblock, which keeps it mounted. Dropping the last reference shuts
/// the superblock down, and waits for that; see [`Self::put_unless_last`].
///
/// # Invariants
///
/// `self` owns an active reference.
#[must_use = "the reference is dropped when it is dropped"]
pub(crate) struct ActiveSuper(NonNull<SuperBlock>);

// SAFETY: An active reference is not tied to a task.
unsafe impl Send for ActiveSuper {}
// SAFETY: No method takes a shared reference.
unsafe impl Sync for ActiveSuper {}

impl ActiveSuper {
    /// Takes over a reference from [`Self::into_raw`].
    ///
    /// # Safety
    ///
    /// `sb` must be from [`Self::into_raw`], and be used once.
    pub(crate) unsafe fn from_raw(sb: NonNull<SuperBlock>) -> Self {
        // INVARIANT: The reference of `into_raw()` is owned by the result.
        Self(sb)
    }

    /// Returns the raw pointer without dropping the reference, for [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<SuperBlock> {
        ManuallyDrop::new(self).0
    }

    /// Drops the reference without sleeping, unless it is the last one.
    ///
    /// # Errors
    ///
    /// Returns the reference if it is the last one.
    pub(crate) fn put_unless_last(self) -> Result<(), Self> {
        // SAFETY: By the type invariants the superblock is valid.
        let given_up = unsafe {
            c::atomic_add_unless(
                &raw mut (*self.0.as_ptr().cast::<c::super_block>()).s_active,
                -1,
                1,
            )
        };

        if !given_up {
            return Err(self);
        }
        // INVARIANT: The reference was dropped above, so `self` must not drop it.
        let _ = self.into_raw();
        Ok(())
    }
}

impl Drop for ActiveSuper {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns an active reference, which is dropped here.
        unsafe { c::deactivate_super(self.0.as_ptr().cast()) }
    }
}
