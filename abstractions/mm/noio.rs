// SPDX-License-Identifier: GPL-2.0

//! Allocations that must not begin I/O, nor enter a file system.
//!
//! Direct reclaim evicts inodes, and writes to swap, which may be a loop device over any file. A
//! task that holds a lock which eviction or write(2) takes, too, allocates in such a scope, or it
//! may wait for itself.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)
//!
//! # Examples
//!
//! ```ignore
//! let _noio = NoioScope::new();
//! // This reclaims no inode, and swaps nothing out.
//! let page = KBox::new([0; PAGE_SIZE], GFP_KERNEL)?;
//! ```

use kernel::{
    ffi,
    types::NotThreadSafe, //
};

use crate::bindings::kernel as c;

/// From `memalloc_noio_save()` to `memalloc_noio_restore()`. Scopes nest.
#[must_use = "the scope ends when it is dropped"]
pub(crate) struct NoioScope {
    /// The flag, if this scope has set it: then it is the outermost.
    added: ffi::c_uint,
    _same_task: NotThreadSafe,
}

impl NoioScope {
    /// Begins a scope of the current task.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: This changes a flag of the current task alone.
        let added = unsafe { c::memalloc_noio_save() };

        Self {
            added,
            _same_task: NotThreadSafe,
        }
    }

    /// Goes on without the value: whether the scope is the outermost, for [`Self::from_raw`].
    #[inline]
    pub(crate) fn into_raw(self) -> bool {
        core::mem::ManuallyDrop::new(self).added != 0
    }

    /// # Safety
    ///
    /// `is_outermost` is from [`Self::into_raw`], by the same task, and of the innermost scope. It
    /// is used once.
    #[inline]
    pub(crate) unsafe fn from_raw(is_outermost: bool) -> Self {
        Self {
            added: if is_outermost { c::PF_MEMALLOC_NOIO } else { 0 },
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for NoioScope {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `added` is what `new()` was given, in this task.
        unsafe { c::memalloc_noio_restore(self.added) }
    }
}
