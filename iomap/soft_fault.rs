// SPDX-License-Identifier: GPL-2.0

//! Soft faults: memory that DAX has noted for this place of the file already, and that only has to
//! be put into the page tables once more.
//!
//! That is nearly every fault of a long-lived file, and all that a mapping in a new process causes.
//! The program is asked and its answer judged as in any fault. What is left out is what
//! `dax_iomap_fault()` does for files whose map may change meanwhile: it locks the entry in the
//! page cache, asks the driver for an address, stores the entry again, asks the file system a
//! second time, and unlocks the entry.
//!
//! Here nobody changes the entry. What removes one has the `invalidate_lock` exclusively
//! (`upgrade`, `vacating`), and DAX itself replaces only what is not backed by memory. So under the
//! shared lock:
//!
//! - A page frame that is this file's stays so. If the program's answer leads to that frame, it may
//!   be mapped. Whoever marks a device or its memory as failed takes the lock exclusively
//!   afterwards: until then the frame has a memory map, and what was mapped is found.
//! - An entry that is marked dirty stays so unless somebody writes back, which takes the mark off
//!   once the page is write-protected everywhere. Whoever writes back says so, and waits until the
//!   faults that did not know are over ([`super::writeback`]). Meanwhile, and if the mark is not
//!   there, a write is left to DAX.
//! - A table of pages and 2 MiB do not meet: mapping 2 MiB over a table is a warning of the kernel.
//!   DAX excludes that by its lock of the entry, which this file does not take. Where an entry of a
//!   page exists, no fault maps 2 MiB; where it does not, and the mapping has room for 2 MiB, a
//!   fault of a page takes the lock exclusively ([`Fault::Alone`]). Only COW does not, as it looks
//!   before it puts a table anywhere.
//!
//! What the page cache says is looked up once, and noted in the folio
//! ([`look_up`](lockless::look_up)), which is needed anyway: the file's `stamp`, and whether the
//! entry is marked dirty. The file gets another stamp, which nobody else ever had, whenever entries
//! were written back or are about to be removed. With the stamp that is valid, a folio is settled,
//! and so is what it says of its place in the file; without it, DAX may be in the middle of setting
//! it up.
//!
//! What does not fit goes to DAX, which finds out why. A mapping whose stores are tracked never
//! gets here ([`super::tracked_fault`]).

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::ffi;

use crate::{
    bindings::kernel as c,
    fuse::is_bad,
    lockless::{
        self,
        AsWritten,
        Place, //
    },
};

use super::{
    i_size,
    tenancy::{
        DaxEntry,
        Folio,
        Tenancy, //
    },
    upgrade::{
        has_room_for_huge,
        PMD_ORDER,
        WITHIN, //
    },
    Header,
    PAGE, //
};

/// What became of a fault.
pub(super) enum Fault {
    /// It is over, with this result.
    Done(c::vm_fault_t),
    /// It is DAX's.
    Hard,
    /// It is DAX's, with the lock held exclusively.
    Alone,
}

/// Maps what a fault of 2^`order` pages asks for, if that needs no more than the page tables.
///
/// # Safety
///
/// Called in a fault, of a page or of 2 MiB, of the mapped `inode` that `header` is of, with the
/// `invalidate_lock` of its page cache held shared.
#[inline]
pub(super) unsafe fn soft_fault(
    vmf: *mut c::vm_fault,
    order: ffi::c_uint,
    inode: *const c::inode,
    header: &Header,
) -> Fault {
    // SAFETY: By the safety requirements.
    unsafe {
        if order == PMD_ORDER {
            soft_huge_fault(vmf, inode, header)
        } else {
            soft_page_fault(vmf, inode, header)
        }
    }
}

/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn soft_huge_fault(vmf: *mut c::vm_fault, inode: *const c::inode, header: &Header) -> Fault {
    // SAFETY: The fault's mapping is valid, and its table of 2 MiB entries is there.
    unsafe {
        let first = (*vmf).__bindgen_anon_1.pgoff as u64 & !WITHIN;
        let pmd = (*vmf).pmd.read_volatile();

        if !has_room_for_huge(vmf)
            || (first | WITHIN) >= i_size(inode).div_ceil(PAGE)
            || pmd.pmd != 0 && c::pmd_none(pmd) == 0 && c::pmd_trans_huge(pmd) == 0
        {
            return Fault::Hard;
        }
        let write = is_write(vmf);
        let Some(noted) = noted(inode, header, first, WITHIN + 1, write) else {
            return Fault::Hard;
        };
        if !noted.may_map || !noted.tenancy.is_huge() || noted.tenancy.first() != first {
            return Fault::Hard;
        }
        Fault::Done(while_in_use(noted.tenancy, |folio| {
            c::vmf_insert_folio_pmd(vmf, folio, write)
        }))
    }
}

/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn soft_page_fault(vmf: *mut c::vm_fault, inode: *const c::inode, header: &Header) -> Fault {
    const NOHUGEPAGE: ffi::c_ulong = c::VM_NOHUGEPAGE as ffi::c_ulong;

    // SAFETY: The fault's mapping is valid, and its table of 2 MiB entries is there.
    unsafe {
        let index = (*vmf).__bindgen_anon_1.pgoff as u64;
        let flags = (*(*vmf).__bindgen_anon_1.vma).__bindgen_anon_2.vm_flags;

        if !(*vmf).cow_page.is_null() {
            return Fault::Hard;
        }
        let write = is_write(vmf);
        let noted = noted(inode, header, index, 1, write);
        let small = noted.as_ref().is_some_and(|noted| !noted.tenancy.is_huge());
        if !small && flags & NOHUGEPAGE == 0 && has_room_for_huge(vmf) {
            return Fault::Alone;
        }
        let Some(noted) = noted else {
            return Fault::Hard;
        };
        if !noted.may_map || c::pmd_trans_huge((*vmf).pmd.read_volatile()) != 0 {
            return Fault::Hard;
        }
        Fault::Done(while_in_use(noted.tenancy, |_| {
            let page = c::fuse_dax_fmap_page(noted.pfn as ffi::c_ulong);
            c::vmf_insert_page_mkwrite(vmf, page, write)
        }))
    }
}

/// # Safety
///
/// Called in a fault.
#[inline]
unsafe fn is_write(vmf: *const c::vm_fault) -> bool {
    // SAFETY: By the safety requirements.
    unsafe { (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0 }
}

/// The frame where `pages` pages from `index` on begin, if they are in one piece and this file has
/// that frame for this page already, and may store to it if that is what the fault does.
///
/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn noted(
    inode: *const c::inode,
    header: &Header,
    index: u64,
    pages: u64,
    write: bool,
) -> Option<Noted> {
    // SAFETY: The inode is FUSE's and in use.
    let i_size = unsafe {
        if is_bad(inode) {
            return None;
        }
        i_size(inode)
    };
    // mremap(2) lets a mapping begin at any page, also behind what a file can have.
    let pos = index.checked_mul(PAGE)?;
    let mapping = header.locate(pos, pages * PAGE, i_size).ok()?;
    if !mapping.sound || mapping.length < pages * PAGE {
        return None;
    }
    let pfn = mapping.device?.frame(mapping.addr)?;

    let place = PlaceOfFile { header, index, pfn };
    let (tenancy, may_map) =
        lockless::look_up::<AsWritten, _>(&header.writers_back, &header.stamp, &place, write)?;
    Some(Noted {
        pfn,
        tenancy,
        may_map,
    })
}

/// Where a fault is, and the frame that the program says is there.
///
/// # Invariants
///
/// A fault of the file is under way, with the `invalidate_lock` of its page cache held shared. The
/// frame's device has not failed, or at least nobody has got the lock since it has: its memory map
/// is there.
struct PlaceOfFile<'a> {
    header: &'a Header,
    index: u64,
    pfn: u64,
}

impl Place for PlaceOfFile<'_> {
    type Folio = Folio;
    type Tenancy = Tenancy;

    #[inline]
    fn folio(&self) -> Folio {
        // SAFETY: By the type invariants.
        unsafe { Folio::of(self.pfn) }
    }

    #[inline]
    fn note(&self, folio: Folio, order: Ordering) -> u64 {
        folio.note(order)
    }

    #[inline]
    fn set_note(&self, folio: Folio, note: u64, order: Ordering) {
        folio.set_note(note, order);
    }

    #[inline]
    fn has_entry(&self) -> bool {
        // SAFETY: By the type invariants the inode is in use.
        let entry = unsafe { DaxEntry::at(self.header.dax_mapping(), self.index) };

        entry.is_some_and(|entry| !entry.is_locked() && entry.pfn_of(self.index) == Some(self.pfn))
    }

    #[inline]
    fn tenancy(&self, folio: Folio) -> Option<Tenancy> {
        folio.tenancy_at(self.header.dax_mapping(), self.pfn, self.index)
    }

    #[inline]
    fn is_marked(&self, tenancy: &Tenancy) -> bool {
        // SAFETY: By the type invariants.
        unsafe { is_marked(self.header, tenancy) }
    }
}

/// Memory that a file has.
struct Noted {
    pfn: u64,
    tenancy: Tenancy,
    /// Nothing else has to be done for this fault.
    may_map: bool,
}

/// A number that is in no folio's note, and never was since the machine was started: stamps are
/// even, and the clock is faster than anybody asks for them, also from one load of the module to
/// the next.
pub(super) fn new_stamp() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);

    // SAFETY: May be called anywhere.
    lockless::next_stamp(&LAST, unsafe { c::ktime_get() } as u64)
}

/// Whether the entry of a folio is marked dirty in the page cache.
///
/// # Safety
///
/// As [`soft_fault`]; the file is the tenant.
#[cold]
unsafe fn is_marked(header: &Header, tenancy: &Tenancy) -> bool {
    // SAFETY: By the safety requirements.
    unsafe {
        c::xa_get_mark(
            &raw mut (*header.dax_mapping()).i_pages,
            tenancy.first() as ffi::c_ulong,
            c::PAGECACHE_TAG_DIRTY,
        )
    }
}

/// A page that nobody maps has no references, and is not to be seen so by the memory manager.
///
/// # Safety
///
/// The folio is in the page cache of a file meanwhile.
#[inline]
unsafe fn while_in_use<T>(tenancy: Tenancy, map: impl FnOnce(*mut c::folio) -> T) -> T {
    // SAFETY: By the safety requirements.
    unsafe {
        c::folio_ref_inc(tenancy.folio());
        let mapped = map(tenancy.folio());
        c::folio_put(tenancy.folio());
        mapped
    }
}
