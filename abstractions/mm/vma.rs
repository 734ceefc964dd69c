// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's mappings do not say yet.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use kernel::{
    ffi,
    fs::LocalFile,
    mm::virt::VmaRef, //
};

use crate::bindings::kernel as c;

/// A mapping that `->mmap()` is being called for.
///
/// # Invariants
///
/// It is of `'a` file, and of no other task.
pub(crate) struct VmaBeingMade<'a>(&'a mut c::vm_area_struct);

impl VmaBeingMade<'_> {
    /// # Safety
    ///
    /// `vma` is the argument of `->mmap()`, which is called for `'a`.
    pub(crate) unsafe fn from_raw<'a>(vma: *mut c::vm_area_struct) -> VmaBeingMade<'a> {
        // INVARIANT: It is not in any tree yet.
        // SAFETY: `vma` is valid and the caller's, by the safety requirements.
        VmaBeingMade(unsafe { &mut *vma })
    }

    fn flags_mut(&mut self) -> &mut ffi::c_ulong {
        // SAFETY: By the type invariants the flags are the caller's to read and to change.
        unsafe { &mut self.0.__bindgen_anon_2.vm_flags }
    }

    /// Whether it was asked for with MAP_SYNC.
    pub(crate) fn is_sync(&mut self) -> bool {
        *self.flags_mut() & 1 << c::VMA_SYNC_BIT != 0
    }

    /// Has it mapped in 2 MiB pieces where that is possible.
    pub(crate) fn set_hugepage(&mut self) {
        *self.flags_mut() |= 1 << c::VMA_HUGEPAGE_BIT;
    }

    /// Has it hold `file` instead.
    pub(crate) fn set_file(&mut self, file: &LocalFile) {
        // SAFETY: By the type invariants the mapping is the caller's; it gets a reference of its
        // own to `file`, and gives up the one to the file that it had.
        unsafe { c::vma_set_file(self.0, file.as_ptr()) }
    }

    /// # Safety
    ///
    /// The operations are for a mapping of its file, which is not changed any more.
    pub(crate) unsafe fn set_operations(self, operations: &'static c::vm_operations_struct) {
        self.0.vm_ops = operations;
    }
}

/// Whether stores through a mapping are shared.
#[inline]
pub(crate) fn is_shared(vma: &VmaRef) -> bool {
    vma.flags() & c::VM_SHARED as ffi::c_ulong != 0
}

/// Whether it is not to be mapped in 2 MiB pieces.
#[inline]
pub(crate) fn is_nohugepage(vma: &VmaRef) -> bool {
    vma.flags() & c::VM_NOHUGEPAGE as ffi::c_ulong != 0
}

/// Whether userfaultfd protects pages of it from being written to.
#[inline]
pub(crate) fn is_uffd_wp(vma: &VmaRef) -> bool {
    vma.flags() & 1 << c::VMA_UFFD_WP_BIT != 0
}
