// SPDX-License-Identifier: GPL-2.0

//! Memory for the metadata of a file, with headroom in front for what its user keeps with it, as an
//! skb has for headers.

use core::{
    alloc::Layout,
    mem::{
        self,
        size_of, //
    },
    ptr::NonNull, //
};

use kernel::{
    alloc::{
        allocator::KVmalloc,
        Allocator,
        NumaNode, //
    },
    prelude::*, //
};

use crate::bindings::kernel as c;

/// Metadata that belong to no file yet, or to none any more.
///
/// # Invariants
///
/// `start` owns an allocation of [`MetaBuf::layout`], zeroed or written.
pub(crate) struct MetaBuf {
    start: NonNull<u8>,
    headroom: Layout,
    len: u32,
}

// SAFETY: Memory belongs to no task.
unsafe impl Send for MetaBuf {}

impl MetaBuf {
    /// Of the headroom, the metadata, and zeros up to the end of their first line.
    fn layout(headroom: Layout, len: u32) -> Result<Layout> {
        let room = size_of::<c::fuse_dax_fmap_meta>().max(len as usize);
        let size = headroom.size().checked_add(room).ok_or(EINVAL)?;

        Layout::from_size_align(size, headroom.align()).map_err(|_| EINVAL)
    }

    /// `headroom`, whose size is a multiple of its alignment, and `len` bytes of metadata, all
    /// zeroed and accounted to the opener. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(headroom: Layout, len: u32) -> Result<Self> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let memory = KVmalloc::alloc(Self::layout(headroom, len)?, flags, NumaNode::NO_NODE)?;

        // INVARIANT: Allocated just now.
        Ok(Self {
            start: memory.cast(),
            headroom,
            len,
        })
    }

    /// The number of bytes of metadata.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The metadata.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `start` owns at least this much, by the type invariants.
        let bytes = unsafe { self.start.add(self.headroom.size()) };
        // SAFETY: `bytes` are initialized, and `self` owns them, by the type invariants.
        unsafe { core::slice::from_raw_parts_mut(bytes.as_ptr(), self.len as usize) }
    }

    /// Where the headroom begins, to be written by the caller. Nothing frees it until
    /// [`MetaBuf::from_raw`] takes it back.
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        let start = self.start;

        mem::forget(self);
        start
    }

    /// Takes back what [`MetaBuf::into_raw`] returned.
    ///
    /// # Safety
    ///
    /// `start` comes from there, of a buffer with this headroom and length, and nothing points into
    /// it any more.
    pub(crate) unsafe fn from_raw(start: NonNull<u8>, headroom: Layout, len: u32) -> Self {
        // INVARIANT: The allocation is `start`'s, by the safety requirements.
        Self {
            start,
            headroom,
            len,
        }
    }
}

impl Drop for MetaBuf {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.headroom, self.len) {
            // SAFETY: `start` was allocated with this layout, by the type invariants.
            unsafe { KVmalloc::free(self.start, layout) };
        }
    }
}
