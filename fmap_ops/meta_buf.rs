// SPDX-License-Identifier: GPL-2.0

//! Memory for the metadata of a file, with headroom in front for a header, as in an skb.

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

/// Metadata that belongs to no file yet, or no longer to one.
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
    /// Returns the layout of the headroom and the metadata, which takes at least one cache line.
    fn layout(headroom: Layout, len: u32) -> Result<Layout> {
        let room = size_of::<c::fuse_dax_fmap_meta>().max(len as usize);
        let size = headroom.size().checked_add(room).ok_or(EINVAL)?;

        Layout::from_size_align(size, headroom.align()).map_err(|_| EINVAL)
    }

    /// Allocates `headroom`, whose size is a multiple of its alignment, and `len` bytes of
    /// metadata, all zeroed and accounted to the opener. May sleep.
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
        // SAFETY: By the type invariants the allocation at `start` is at least as large as the
        // headroom.
        let bytes = unsafe { self.start.add(self.headroom.size()) };
        // SAFETY: `bytes` are initialized, and `self` owns them, by the type invariants.
        unsafe { core::slice::from_raw_parts_mut(bytes.as_ptr(), self.len as usize) }
    }

    /// Returns the start of the headroom, which the caller writes. The memory is not freed until
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
    /// `start` comes from [`MetaBuf::into_raw`] of a buffer with this headroom and length, and
    /// nothing points into the buffer any more.
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
