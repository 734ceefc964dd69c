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
/// It is valid, and has its operations, as long as this is borrowed.
#[repr(transparent)]
pub(crate) struct SuperBlock(Opaque<c::super_block>);

// SAFETY: A superblock belongs to no task.
unsafe impl Send for SuperBlock {}
// SAFETY: What is used of a superblock here does not change, or is atomic.
unsafe impl Sync for SuperBlock {}

impl SuperBlock {
    /// # Safety
    ///
    /// For `'a` `sb` is valid, and has its operations.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(sb: *const c::super_block) -> &'a Self {
        // SAFETY: `sb` is valid by the safety requirements, and the types have one layout.
        unsafe { &*sb.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::super_block {
        self.0.get()
    }

    /// Its device number.
    pub(crate) fn dev(&self) -> c::dev_t {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_dev }
    }

    pub(crate) fn block_size(&self) -> usize {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_blocksize }
    }

    /// The size that no file of it exceeds.
    pub(crate) fn max_bytes(&self) -> c::loff_t {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_maxbytes }
    }

    /// Whether its user namespace is the initial one.
    pub(crate) fn is_of_initial_user_namespace(&self) -> bool {
        // SAFETY: By the type invariants the superblock is valid.
        let user_ns = unsafe { (*self.as_raw()).s_user_ns };

        core::ptr::eq(user_ns, &raw const c::init_user_ns)
    }

    /// What the file system has put there.
    #[inline]
    pub(crate) fn fs_info(&self) -> *mut ffi::c_void {
        // SAFETY: By the type invariants the superblock is valid.
        unsafe { (*self.as_raw()).s_fs_info }
    }

    /// Its operations, which may be changed meanwhile ([`Self::set_operations`]): loaded once.
    #[inline]
    pub(crate) fn operations(&self) -> NonNull<c::super_operations> {
        // SAFETY: By the type invariants the superblock is valid.
        let operations = unsafe { (&raw const (*self.as_raw()).s_op).read_volatile() };

        // SAFETY: By the type invariants the superblock has operations.
        unsafe { NonNull::new_unchecked(operations.cast_mut()) }
    }

    /// Gives it other operations. What loads them meanwhile gets the ones or the others.
    ///
    /// # Safety
    ///
    /// `operations` do for this superblock what the present ones do. They and the present ones stay
    /// valid as long as there may be a task that has loaded them.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::super_operations) {
        // SAFETY: By the type invariants the superblock is valid; the field is a word that others
        // load once.
        let s_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).s_op).cast()) };

        s_op.store(operations.cast_mut(), Ordering::Release);
    }

    /// An active reference, `None` if it is being shut down.
    pub(crate) fn try_get_active(&self) -> Option<ActiveSuper> {
        // SAFETY: By the type invariants the superblock is valid.
        if !unsafe { c::atomic_inc_not_zero(&raw mut (*self.as_raw()).s_active) } {
            return None;
        }
        // INVARIANT: The reference was taken just now.
        Some(ActiveSuper(NonNull::from(self)))
    }
}

/// An active reference to a superblock, which keeps it mounted. Dropping it may be the end of the
/// mount, and wait for that: see [`Self::put_unless_last`].
///
/// # Invariants
///
/// `self` owns an active reference.
#[must_use = "the reference is given up when it is dropped"]
pub(crate) struct ActiveSuper(NonNull<SuperBlock>);

// SAFETY: A reference belongs to no task.
unsafe impl Send for ActiveSuper {}
// SAFETY: Nothing is done with a shared reference.
unsafe impl Sync for ActiveSuper {}

impl ActiveSuper {
    /// Takes over a reference that was left behind ([`Self::into_raw`]).
    ///
    /// # Safety
    ///
    /// There is such a reference to `sb`.
    pub(crate) unsafe fn from_raw(sb: NonNull<SuperBlock>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(sb)
    }

    /// Leaves the reference behind, for [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<SuperBlock> {
        ManuallyDrop::new(self).0
    }

    /// Gives the reference up, without waiting.
    ///
    /// # Errors
    ///
    /// Returns it if it is the last one.
    pub(crate) fn put_unless_last(self) -> Result<(), Self> {
        // SAFETY: By the type invariants the superblock is there.
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
        // INVARIANT: The reference is another's now, or gone.
        let _ = self.into_raw();
        Ok(())
    }
}

impl Drop for ActiveSuper {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns an active reference, which is given up.
        unsafe { c::deactivate_super(self.0.as_ptr().cast()) }
    }
}
