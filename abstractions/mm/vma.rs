// SPDX-License-Identifier: GPL-2.0

//! Properties of VMAs that the kernel crate does not provide yet.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use kernel::{
    ffi,
    fs::LocalFile,
    mm::virt::VmaRef, //
};

use crate::bindings::kernel as c;

/// A VMA for which `->mmap()` is being called.
///
/// # Invariants
///
/// The VMA is in no tree yet, so only the current task uses it. It has a file.
pub(crate) struct VmaBeingMade<'a>(&'a mut c::vm_area_struct);

impl VmaBeingMade<'_> {
    /// Creates a [`VmaBeingMade`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `vma` must be the argument of an `->mmap()` that is being called for `'a`.
    pub(crate) unsafe fn from_raw<'a>(vma: *mut c::vm_area_struct) -> VmaBeingMade<'a> {
        // INVARIANT: `->mmap()` is called before the VMA is inserted into a tree.
        // SAFETY: By the safety requirements `vma` is valid, and used by nothing else.
        VmaBeingMade(unsafe { &mut *vma })
    }

    fn flags_mut(&mut self) -> &mut ffi::c_ulong {
        // SAFETY: By the type invariants only the current task uses the VMA.
        unsafe { &mut self.0.__bindgen_anon_2.vm_flags }
    }

    /// Returns true if mmap(2) was called with MAP_SYNC.
    pub(crate) fn is_sync(&mut self) -> bool {
        *self.flags_mut() & 1 << c::VMA_SYNC_BIT != 0
    }

    /// Returns true if a uprobe may put a breakpoint there.
    pub(crate) fn may_have_uprobes(&mut self) -> bool {
        const MAYEXEC: ffi::c_ulong = c::VM_MAYEXEC as ffi::c_ulong;
        const MAYSHARE: ffi::c_ulong = c::VM_MAYSHARE as ffi::c_ulong;

        *self.flags_mut() & (MAYEXEC | MAYSHARE) == MAYEXEC
    }

    /// Allows PMD faults, as `MADV_HUGEPAGE` does.
    pub(crate) fn set_hugepage(&mut self) {
        *self.flags_mut() |= 1 << c::VMA_HUGEPAGE_BIT;
    }

    /// Replaces the file that the VMA holds.
    pub(crate) fn set_file(&mut self, file: &LocalFile) {
        // SAFETY: By the type invariants only the current task uses the VMA. It takes a reference
        // to `file`, and drops its reference to the file that it held.
        unsafe { c::vma_set_file(self.0, file.as_ptr()) }
    }

    /// Sets the operations.
    ///
    /// # Safety
    ///
    /// The operations must be for a VMA of its file, which is not changed after this.
    pub(crate) unsafe fn set_operations(self, operations: &'static c::vm_operations_struct) {
        self.0.vm_ops = operations;
    }
}

/// Returns true if the VMA is shared.
#[inline]
pub(crate) fn is_shared(vma: &VmaRef) -> bool {
    vma.flags() & c::VM_SHARED as ffi::c_ulong != 0
}

/// Returns true if the VMA must not have PMD entries (`MADV_NOHUGEPAGE`).
#[inline]
pub(crate) fn is_nohugepage(vma: &VmaRef) -> bool {
    vma.flags() & c::VM_NOHUGEPAGE as ffi::c_ulong != 0
}

/// Returns true if the VMA is registered with userfaultfd for write protection.
#[inline]
pub(crate) fn is_uffd_wp(vma: &VmaRef) -> bool {
    vma.flags() & 1 << c::VMA_UFFD_WP_BIT != 0
}
