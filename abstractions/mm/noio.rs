// SPDX-License-Identifier: GPL-2.0

//! Scopes in which allocations neither start I/O nor enter a file system.
//!
//! Direct reclaim evicts inodes, and writes to swap, which may be on a loop device over any file. A
//! task that holds a lock which eviction or write(2) also takes must allocate in such a scope.
//! Otherwise it may deadlock on that lock.
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

/// A scope from `memalloc_noio_save()` to `memalloc_noio_restore()`. Scopes may be nested.
#[must_use = "the scope ends when it is dropped"]
pub(crate) struct NoioScope {
    /// The flag if this scope has set it, i.e. is the outermost scope, or else 0.
    added: ffi::c_uint,
    _same_task: NotThreadSafe,
}

impl NoioScope {
    /// Begins a scope for the current task.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: This only changes a flag of the current task.
        let added = unsafe { c::memalloc_noio_save() };

        Self {
            added,
            _same_task: NotThreadSafe,
        }
    }

    /// Leaves the scope open, for [`Self::from_raw`]. Returns true if the scope is the outermost.
    #[inline]
    pub(crate) fn into_raw(self) -> bool {
        core::mem::ManuallyDrop::new(self).added != 0
    }

    /// Continues a scope from [`Self::into_raw`].
    ///
    /// # Safety
    ///
    /// `is_outermost` must be from [`Self::into_raw`], by the same task, for the innermost scope,
    /// and be used once.
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
        // SAFETY: `added` is what `memalloc_noio_save()` returned for this scope, in this task.
        unsafe { c::memalloc_noio_restore(self.added) }
    }
}
