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

/// A `struct vm_fault`, of a mapping of a file.
///
/// # Invariants
///
/// The fault is under way, in this task: its mapping is locked, and holds a file. Its table of 2
/// MiB entries is there.
#[repr(transparent)]
pub(crate) struct VmFault(Opaque<c::vm_fault>);

impl VmFault {
    /// # Safety
    ///
    /// `vmf` is the argument of `->fault()`, `->huge_fault()` or their kin for a mapping that holds
    /// a file; that is called for `'a`, and nothing else uses `vmf` meanwhile. `->huge_fault()` is
    /// called for 2 MiB: for 1 GiB it is called before there is a table of 2 MiB entries.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(vmf: *mut c::vm_fault) -> &'a Self {
        // SAFETY: `vmf` is valid and the caller's, and `Self` is transparent.
        unsafe { &*vmf.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::vm_fault {
        self.0.get()
    }

    #[inline]
    pub(crate) fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants the mapping is valid, and locked.
        unsafe { VmaRef::from_raw((*self.as_raw()).__bindgen_anon_1.vma) }
    }

    /// What the mapping holds.
    #[inline]
    pub(crate) fn file(&self) -> &LocalFile {
        // SAFETY: By the type invariants the mapping holds a file.
        unsafe { LocalFile::from_raw_file((*self.vma().as_ptr()).vm_file) }
    }

    /// The page of the file.
    #[inline]
    pub(crate) fn pgoff(&self) -> u64 {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).__bindgen_anon_1.pgoff as u64 }
    }

    /// The page's address.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).__bindgen_anon_1.address as u64 }
    }

    /// `FAULT_FLAG_WRITE` and others.
    #[inline]
    pub(crate) fn flags(&self) -> c::fault_flag {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.as_raw()).flags }
    }

    /// Whether it is a store.
    #[inline]
    pub(crate) fn is_write(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_WRITE != 0
    }

    /// Whether it is a store to a page that is there and read-only.
    #[inline]
    pub(crate) fn is_mkwrite(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_MKWRITE != 0
    }

    /// Whether the page is to be copied, into one that the memory manager maps itself.
    #[inline]
    pub(crate) fn is_cow(&self) -> bool {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { !(*self.as_raw()).cow_page.is_null() }
    }

    /// The entry of 2 MiB, now.
    #[inline]
    pub(crate) fn pmd(&self) -> Pmd {
        // SAFETY: By the type invariants the table is there; the entry is read once.
        Pmd::from_raw(unsafe { (*self.as_raw()).pmd.read_volatile() })
    }

    /// The entry of the page, as the memory manager has seen it.
    #[inline]
    pub(crate) fn orig_pte(&self) -> Pte {
        // SAFETY: By the type invariants `self` is valid; the other variant is as large.
        Pte::from_raw(unsafe { (*self.as_raw()).__bindgen_anon_2.orig_pte })
    }

    /// Whether [`Self::orig_pte`] says something of a page that is not there.
    #[inline]
    pub(crate) fn has_orig_pte(&self) -> bool {
        self.flags() & c::fault_flag_FAULT_FLAG_ORIG_PTE_VALID != 0
    }

    /// Calls `with` while the fault is one for reading.
    pub(crate) fn as_read<T>(&self, with: impl FnOnce() -> T) -> T {
        let flags = self.flags();
        let reading = flags & !c::fault_flag_FAULT_FLAG_WRITE;

        // SAFETY: By the type invariants `self` is valid, and this task's.
        unsafe { (*self.as_raw()).flags = reading };
        let done = with();
        // SAFETY: By the type invariants `self` is valid, and this task's.
        unsafe { (*self.as_raw()).flags = flags };
        done
    }

    /// Maps 2 MiB, the whole of a folio.
    ///
    /// # Safety
    ///
    /// The folio is 2 MiB, and what the file has there.
    #[inline]
    pub(crate) unsafe fn insert_folio_pmd(
        &self,
        folio: &FolioRef<'_>,
        write: bool,
    ) -> c::vm_fault_t {
        // SAFETY: `folio` is referenced, and the file's, by the safety requirements.
        unsafe { c::vmf_insert_folio_pmd(self.as_raw(), folio.as_raw(), write) }
    }

    /// Maps the page of a folio that this was found by.
    ///
    /// # Safety
    ///
    /// It is what the file has there.
    #[inline]
    pub(crate) unsafe fn insert_page(&self, folio: &FolioRef<'_>, write: bool) -> c::vm_fault_t {
        // SAFETY: `folio` is referenced, and the file's, by the safety requirements.
        unsafe { c::vmf_insert_page_mkwrite(self.as_raw(), folio.page(), write) }
    }

    /// Has `change` look at what the page table has for the page, with the table locked, and put
    /// something else there, if it wants to. Returns whether it did.
    ///
    /// TLBs are not flushed. If there is no memory for a table, nothing has changed.
    ///
    /// # Safety
    ///
    /// There is a table of pages, or nothing, and no task maps 2 MiB meanwhile. What `change` says
    /// may be there, and needs no TLB flushed: it allows more than before, or was not there, or is
    /// read-only as before.
    pub(crate) unsafe fn change_pte<F>(&self, change: F) -> bool
    where
        F: FnMut(Pte) -> Option<Pte>,
    {
        // SAFETY: By the type invariants the mapping is valid.
        let mm = unsafe { (*self.vma().as_ptr()).vm_mm };
        let mut this = ChangePte {
            mm,
            change,
            changed: false,
        };
        let (start, size) = (self.address() as ffi::c_ulong, PAGE_SIZE as ffi::c_ulong);
        let data = (&raw mut this).cast();

        // SAFETY: The page is the mapping's; `this` is there as long as it is called.
        unsafe { c::apply_to_page_range(mm, start, size, Some(ChangePte::<F>::apply), data) };
        this.changed
    }
}

/// What [`VmFault::change_pte`] is called for.
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
    /// `data` is a [`ChangePte`] that is the caller's, and `ptep` the entry of `addr` in a table
    /// that is locked.
    unsafe extern "C" fn apply(
        ptep: *mut c::pte_t,
        addr: ffi::c_ulong,
        data: *mut ffi::c_void,
    ) -> ffi::c_int {
        // SAFETY: `data` is of this type, and this function's alone, by the safety requirements.
        let this = unsafe { &mut *data.cast::<Self>() };
        // SAFETY: `ptep` is valid, by the safety requirements.
        let pte = unsafe { c::ptep_get(ptep) };

        if let Some(pte) = (this.change)(Pte::from_raw(pte)) {
            // SAFETY: The table that `ptep` is in is locked, by the safety requirements.
            unsafe { c::set_ptes(this.mm, addr, ptep, pte.into_raw(), 1) };
            this.changed = true;
        }
        0
    }
}

const _: () = assert!(mem::size_of::<Pte>() == mem::size_of::<Pmd>());
