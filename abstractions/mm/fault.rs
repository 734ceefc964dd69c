// SPDX-License-Identifier: GPL-2.0

//! Page faults.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! # Examples
//!
//! ```ignore
//! unsafe extern "C" fn fault(vmf: *mut c::vm_fault) -> c::vm_fault_t {
//!     // SAFETY: The memory manager's argument, in a fault.
//!     let vmf = unsafe { VmFault::from_raw(vmf) };
//!     if vmf.is_write() && is_shared(vmf.vma()) { /* ... */ }
//! }
//! ```

use core::mem;

use kernel::{
    ffi,
    fs::LocalFile,
    mm::virt::VmaRef,
    page::PAGE_SIZE,
    types::Opaque, //
};

use crate::{
    abstractions::mm::{
        folio::FolioRef,
        pgtable::{
            Pmd,
            Pte, //
        }, //
    },
    bindings::kernel as c, //
};

/// A `struct vm_fault` in the VMA of a file.
///
/// # Invariants
///
/// The current task is handling the fault: the VMA is locked, and holds a file. The page table with
/// the PMD entry exists.
#[repr(transparent)]
pub(crate) struct VmFault(Opaque<c::vm_fault>);

impl VmFault {
    /// Creates a reference to a [`VmFault`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `vmf` must be the argument of a `->fault()`, `->huge_fault()` or similar that is being
    /// called for `'a`, for a VMA that holds a file. Nothing else may use `vmf`. A `->huge_fault()`
    /// must be for 2 MiB: one for 1 GiB is called before there is a table of PMD entries.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(vmf: *mut c::vm_fault) -> &'a Self {
        // SAFETY: `vmf` is valid, the caller has exclusive access to it, and `Self` is transparent.
        unsafe { &*vmf.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::vm_fault {
        self.0.get()
    }

    #[inline]
    pub(crate) fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants the VMA is valid, and locked.
        unsafe { VmaRef::from_raw((*self.as_raw()).__bindgen_anon_1.vma) }
    }

    /// Returns the file that the VMA holds.
    #[inline]
    pub(crate) fn file(&self) -> &LocalFile {
        // SAFETY: By the type invariants the VMA holds a file.
        unsafe { LocalFile::from_raw_file((*self.vma().as_ptr()).vm_file) }
    }

    /// Returns the page offset in the file.
    #[inline]
    pub(crate) fn pgoff(&self) -> u64 {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).__bindgen_anon_1.pgoff as u64 }
    }

    /// Returns the address of the page.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).__bindgen_anon_1.address as u64 }
    }

    /// Returns the flags (`FAULT_FLAG_*`).
    #[inline]
    pub(crate) fn flags(&self) -> c::fault_flag {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).flags }
    }

    /// Returns true for a write fault.
    #[inline]
    pub(crate) fn is_write(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_WRITE != 0
    }

    /// Returns true for a write fault on a page that is mapped read-only.
    #[inline]
    pub(crate) fn is_mkwrite(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_MKWRITE != 0
    }

    /// Returns true if the page is to be copied to a page that the memory manager maps itself.
    #[inline]
    pub(crate) fn is_cow(&self) -> bool {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { !(*self.as_raw()).cow_page.is_null() }
    }

    /// Returns the current PMD entry.
    #[inline]
    pub(crate) fn pmd(&self) -> Pmd {
        // SAFETY: By the type invariants the page table exists; the entry is read once.
        Pmd::from_raw(unsafe { (*self.as_raw()).pmd.read_volatile() })
    }

    /// Returns the PTE that the memory manager has read.
    #[inline]
    pub(crate) fn orig_pte(&self) -> Pte {
        // SAFETY: By the type invariants `self` is valid; the union's other member is as large.
        Pte::from_raw(unsafe { (*self.as_raw()).__bindgen_anon_2.orig_pte })
    }

    /// Returns true if [`Self::orig_pte`] is valid for a page that is not present.
    #[inline]
    pub(crate) fn has_orig_pte(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_ORIG_PTE_VALID != 0
    }

    /// Calls `with` while the fault is a read fault.
    pub(crate) fn as_read<T>(&self, with: impl FnOnce() -> T) -> T {
        let flags = self.flags();
        let reading = flags & !c::fault_flag_FAULT_FLAG_WRITE;

        // SAFETY: By the type invariants `self` is valid, and only this task uses it.
        unsafe { (*self.as_raw()).flags = reading };
        let done = with();
        // SAFETY: By the type invariants `self` is valid, and only this task uses it.
        unsafe { (*self.as_raw()).flags = flags };
        done
    }

    /// Maps a folio with a PMD entry.
    ///
    /// # Safety
    ///
    /// The folio must be 2 MiB large, and be what backs that part of the file.
    #[inline]
    pub(crate) unsafe fn insert_folio_pmd(
        &self,
        folio: &FolioRef<'_>,
        write: bool,
    ) -> c::vm_fault_t {
        // SAFETY: `folio` has a reference, and by the safety requirements backs the file there.
        unsafe { c::vmf_insert_folio_pmd(self.as_raw(), folio.as_raw(), write) }
    }

    /// Maps the page by which a folio was looked up.
    ///
    /// # Safety
    ///
    /// The page must be what backs that part of the file.
    #[inline]
    pub(crate) unsafe fn insert_page(&self, folio: &FolioRef<'_>, write: bool) -> c::vm_fault_t {
        // SAFETY: `folio` has a reference, and by the safety requirements backs the file there.
        unsafe { c::vmf_insert_page_mkwrite(self.as_raw(), folio.page(), write) }
    }

    /// Calls `change` with the PTE of the page, under the page table lock, and replaces the PTE if
    /// `change` returns another one. Returns true if the PTE was replaced.
    ///
    /// TLBs are not flushed. If no page table can be allocated, nothing changes.
    ///
    /// # Safety
    ///
    /// The PMD entry must point to a page table, or be none, and no task may map a PMD entry there
    /// during the call. What `change` returns must be a valid PTE that needs no TLB flush: it
    /// allows more than before, replaces an entry that was not present, or stays read-only.
    pub(crate) unsafe fn change_pte<F>(&self, change: F) -> bool
    where
        F: FnMut(Pte) -> Option<Pte>,
    {
        // SAFETY: By the type invariants the VMA is valid.
        let mm = unsafe { (*self.vma().as_ptr()).vm_mm };
        let mut this = ChangePte {
            mm,
            change,
            changed: false,
        };
        let (start, size) = (self.address() as ffi::c_ulong, PAGE_SIZE as ffi::c_ulong);
        let data = (&raw mut this).cast();

        // SAFETY: The page is part of the VMA; `this` is valid during the call.
        unsafe { c::apply_to_page_range(mm, start, size, Some(ChangePte::<F>::apply), data) };
        this.changed
    }
}

/// The state of a [`VmFault::change_pte`].
struct ChangePte<F> {
    mm: *mut c::mm_struct,
    change: F,
    changed: bool,
}

impl<F> ChangePte<F>
where
    F: FnMut(Pte) -> Option<Pte>,
{
    /// # Safety
    ///
    /// `data` must be a [`ChangePte`] that nothing else uses, and `ptep` the PTE of `addr` in a
    /// page table that is locked.
    unsafe extern "C" fn apply(
        ptep: *mut c::pte_t,
        addr: ffi::c_ulong,
        data: *mut ffi::c_void,
    ) -> ffi::c_int {
        // SAFETY: By the safety requirements `data` is of this type, and used by nothing else.
        let this = unsafe { &mut *data.cast::<Self>() };
        // SAFETY: By the safety requirements `ptep` is valid.
        let pte = unsafe { c::ptep_get(ptep) };

        if let Some(pte) = (this.change)(Pte::from_raw(pte)) {
            // SAFETY: By the safety requirements the page table of `ptep` is locked.
            unsafe { c::set_ptes(this.mm, addr, ptep, pte.into_raw(), 1) };
            this.changed = true;
        }
        0
    }
}

const _: () = assert!(mem::size_of::<Pte>() == mem::size_of::<Pmd>());
