// SPDX-License-Identifier: GPL-2.0

//! Faults of a task that has its stores tracked: userfaultfd with UFFD_FEATURE_WP_ASYNC, which the
//! kernel allows for any mapping.
//!
//! What such a task has write-protected, and what has been taken away since, is a marker in its
//! page tables. DAX does not know markers: it inserts a page where there is nothing, and makes a
//! page writable that is there. Finding a marker it does nothing, for ever, or warns and sends
//! SIGBUS. And a marker may come at any moment: no lock that a fault has or may take keeps it away,
//! but that of the page table.
//!
//! So in a mapping that is tracked, a fault asks DAX for one thing only: to map a page for reading,
//! which fails in silence where there is something. The rest is done here, with the page table
//! locked:
//!
//! - A marker is taken off, so that DAX can insert the page, and what it meant is put back: the
//!   page is protected.
//! - A store comes back as the fault of a page that is there and read-only. It becomes writable if
//!   it still is what the memory manager saw, and the entry in the page cache is marked dirty
//!   before. Who writes back locks the entry, write-protects, flushes, and takes the mark off. An
//!   entry that is locked is waited for; one that is not has its mark now, and what is writable now
//!   will be found.
//!
//! 2 MiB are not mapped: markers are of pages, and a table for them may come at any moment, too.
//! What was mapped so before goes on, up to the first store.
//!
//! That a mapping is tracked does not change in the middle of a fault: it takes the mapping's lock.

use core::mem;

use kernel::ffi;

use crate::bindings::kernel as c;

use super::{
    file::{
        dax_fault,
        ERROR, //
    },
    judge::{
        refused,
        Refusal, //
    },
    tenancy::DaxEntry,
    Header,
    PAGE, //
};

/// Whether stores through a mapping are tracked.
///
/// # Safety
///
/// Called in a fault of the mapping.
#[inline]
pub(super) unsafe fn is_tracked(vma: *const c::vm_area_struct) -> bool {
    const TRACKED: ffi::c_ulong = 1 << c::VMA_UFFD_WP_BIT;

    // SAFETY: By the safety requirements.
    unsafe { (*vma).__bindgen_anon_2.vm_flags & TRACKED != 0 }
}

/// A fault of 2^`order` pages.
///
/// # Safety
///
/// Called in a fault, of a page or of 2 MiB, in a mapping that is tracked, of the mapped `inode`
/// that `header` is of; without the `invalidate_lock` of its page cache.
#[cold]
pub(super) unsafe fn tracked_fault(
    vmf: *mut c::vm_fault,
    order: ffi::c_uint,
    inode: *mut c::inode,
    header: &Header,
) -> c::vm_fault_t {
    // The memory manager unmaps 2 MiB that are there, and asks for pages.
    if order != 0 {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // SAFETY: The file is mapped by mmap(2), as this is a fault. With the lock, the entries of the
    // page cache stay.
    let _locked = unsafe { header.invalidate_lock() }.read();
    // SAFETY: `vmf` is the caller's.
    let (flags, cow_page) = unsafe { ((*vmf).flags, (*vmf).cow_page) };

    if flags & c::fault_flag_FAULT_FLAG_MKWRITE != 0 {
        // SAFETY: `vmf`, `inode` and `header` are the caller's.
        unsafe { make_writable(vmf, inode, header) }
    } else if !cow_page.is_null() {
        // The page is the task's own, and the memory manager inserts it, which knows markers.
        // SAFETY: This is a fault of `inode`, with the lock.
        unsafe { dax_fault(vmf, 0, inode) }
    } else {
        // SAFETY: `vmf` and `inode` are the caller's.
        unsafe { map_for_reading(vmf, inode) }
    }
}

/// DAX's part of a fault, as if it were for reading. Where the page table has something, that
/// stays; but the program was asked, its answer judged, and noted in the page cache.
///
/// # Safety
///
/// As [`dax_fault`].
unsafe fn read_fault(vmf: *mut c::vm_fault, inode: *mut c::inode) -> c::vm_fault_t {
    // SAFETY: By the safety requirements the fault is the caller's.
    unsafe {
        let flags = mem::replace(
            &mut (*vmf).flags,
            (*vmf).flags & !c::fault_flag_FAULT_FLAG_WRITE,
        );
        let ret = dax_fault(vmf, 0, inode);
        (*vmf).flags = flags;
        ret
    }
}

/// A page that is not there. A store comes back once it is, read-only.
///
/// # Safety
///
/// As [`dax_fault`].
unsafe fn map_for_reading(vmf: *mut c::vm_fault, inode: *mut c::inode) -> c::vm_fault_t {
    // SAFETY: By the safety requirements; in a fault of a page, the entry is that of a page.
    unsafe {
        let marker = (*vmf).__bindgen_anon_2.orig_pte;
        let protected = (*vmf).flags & c::fault_flag_FAULT_FLAG_ORIG_PTE_VALID != 0
            && c::pte_is_uffd_wp_marker(marker);
        let nothing = c::pte_t::default();

        if protected && !change_pte(vmf, |pte| is_same(pte, marker).then_some(nothing)) {
            // Somebody was quicker. The fault begins again, if it is still one.
            return c::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        let ret = read_fault(vmf, inode);
        if protected {
            change_pte(vmf, |pte| {
                if is_same(pte, nothing) {
                    Some(marker)
                } else if c::pte_present(pte) != 0 && c::pte_write(pte) == 0 {
                    Some(c::pte_mkuffd(pte))
                } else {
                    // Protected again already, or stored to.
                    None
                }
            });
        }
        ret
    }
}

/// A store to a page that is there and read-only, and no longer protected.
///
/// Nothing is done if that has changed, or somebody writes back the entry at this moment; then the
/// fault begins again. DAX has waited for whoever had the entry locked before, so each time
/// somebody else got on.
///
/// # Safety
///
/// As [`dax_fault`], for `->pfn_mkwrite()`.
unsafe fn make_writable(
    vmf: *mut c::vm_fault,
    inode: *mut c::inode,
    header: &Header,
) -> c::vm_fault_t {
    // SAFETY: By the safety requirements. Who has locked the page table may lock the page cache.
    // DAX has mapped the page, if there is one, so `pte` is its entry, but for the rights.
    unsafe {
        let ret = read_fault(vmf, inode);
        if ret & ERROR != 0 {
            return ret;
        }
        let seen = (*vmf).__bindgen_anon_2.orig_pte;
        let index = (*vmf).__bindgen_anon_1.pgoff;
        let mapping = header.dax_mapping();
        let pages = &raw mut (*mapping).i_pages;
        let mut is_hole = false;

        change_pte(vmf, |pte| {
            if !is_same(pte, seen) {
                return None;
            }
            c::fuse_dax_fmap_xa_lock_irq(pages);
            let entry = DaxEntry::at(mapping, index as u64).filter(|entry| !entry.is_locked());
            let pfn = entry.map(|entry| entry.pfn_of(index as u64));
            let may_write = pfn == Some(Some(c::pte_pfn(pte) as u64));
            if may_write {
                c::__xa_set_mark(pages, index, c::PAGECACHE_TAG_DIRTY);
            }
            c::fuse_dax_fmap_xa_unlock_irq(pages);
            is_hole = pfn == Some(None);
            may_write.then(|| c::pte_mkyoung(c::pte_mkdirty(c::pte_mkwrite_novma(pte))))
        });
        if is_hole {
            let flags = c::IOMAP_FAULT | c::IOMAP_WRITE;
            let pos = index as u64 * PAGE;
            let _ = refused(inode, header, pos, PAGE, flags, Refusal::WriteToHole);
            return c::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        ret
    }
}

fn is_same(a: c::pte_t, b: c::pte_t) -> bool {
    // SAFETY: Compares values.
    unsafe { c::pte_same(a, b) != 0 }
}

/// Has `change` look at what the page table has for a fault, with the table locked, and put
/// something else there, if it wants to. Whether it did.
///
/// Nothing has to be flushed from TLBs: what is new allows more than before, or was not there, or
/// is read-only as before.
///
/// # Safety
///
/// As [`dax_fault`]: there is a table of pages, or nothing, and nobody maps 2 MiB. What `change`
/// says may be there, and needs no more than that.
unsafe fn change_pte<F>(vmf: *mut c::vm_fault, change: F) -> bool
where
    F: FnMut(c::pte_t) -> Option<c::pte_t>,
{
    struct Change<F> {
        mm: *mut c::mm_struct,
        change: F,
        changed: bool,
    }

    /// # Safety
    ///
    /// Called with the table locked, for a [`Change`] that is the caller's.
    unsafe extern "C" fn apply<F>(
        ptep: *mut c::pte_t,
        addr: ffi::c_ulong,
        data: *mut ffi::c_void,
    ) -> ffi::c_int
    where
        F: FnMut(c::pte_t) -> Option<c::pte_t>,
    {
        // SAFETY: By the safety requirements.
        unsafe {
            let this = &mut *data.cast::<Change<F>>();
            if let Some(pte) = (this.change)(c::ptep_get(ptep)) {
                c::set_ptes(this.mm, addr, ptep, pte, 1);
                this.changed = true;
            }
        }
        0
    }

    // SAFETY: By the safety requirements; the address is the mapping's. If there is no memory for a
    // table, nothing has changed.
    unsafe {
        let mm = (*(*vmf).__bindgen_anon_1.vma).vm_mm;
        let mut this = Change {
            mm,
            change,
            changed: false,
        };
        c::apply_to_page_range(
            mm,
            (*vmf).__bindgen_anon_1.address,
            PAGE as ffi::c_ulong,
            Some(apply::<F>),
            (&raw mut this).cast(),
        );
        this.changed
    }
}
