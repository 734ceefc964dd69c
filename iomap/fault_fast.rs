// SPDX-License-Identifier: GPL-2.0

//! Fast faults: the DAX page cache has an entry for the page already, and only the page tables have
//! to be filled.
//!
//! Most faults of a long-lived file are fast, and all those of a new process that maps it. The
//! program is called and its answer validated as in any fault. What is left out is what
//! `dax_iomap_fault()` does for files whose map may change: it locks the entry in the page cache,
//! asks the driver for an address, stores the entry again, calls the file system a second time, and
//! unlocks the entry.
//!
//! Entries with memory do not change during a fast fault, which holds `invalidate_lock` shared:
//! removing one takes the lock exclusively (`collapse`, `device_failure`, `invalidate`), and DAX
//! itself replaces only entries without memory. So:
//!
//! - A page frame that the file owns stays the file's. If the program's answer leads to that frame,
//!   it may be mapped. A task that marks a device or its memory as failed takes the lock
//!   exclusively afterwards: until then the frame has a memory map, and the task finds what was
//!   mapped.
//! - An entry that is marked dirty stays so unless writeback clears the mark, once the page is
//!   write-protected everywhere. Writeback announces itself first, and waits for the faults that
//!   did not see that ([`super::writeback`]). During writeback, and if the mark is not set, a write
//!   fault is left to DAX.
//! - A page table and a PMD entry do not meet: the kernel warns if 2 MiB are mapped over a page
//!   table. DAX excludes that by locking the entry, which a fast fault does not do. Where a PTE
//!   entry exists, no fault maps 2 MiB; where none exists, and the VMA allows 2 MiB, a PTE fault
//!   takes the lock exclusively ([`Fault::NeedsDaxExclusive`]). COW faults do not, as the memory
//!   manager checks before it installs a page table for them.
//!
//! The result of a page cache lookup is cached in the folio ([`look_up`](lockless::look_up)), which
//! the fault needs anyway. This cookie has the file's `validity`, and whether the entry is marked
//! dirty. The file gets a new validity, which no file has had before, whenever entries were written
//! back or are about to be removed. A folio whose cookie has the current validity is completely set
//! up, including its association; with another cookie, DAX may be in the middle of setting it up.
//!
//! All other faults are left to DAX, which finds out the reason. A fault in a VMA with uffd-wp
//! never gets here ([`super::fault_uffd_wp`]).

use core::sync::atomic::Ordering;

use kernel::ffi;

use crate::{
    abstractions::{
        mm::{
            fault::VmFault,
            folio::Folio,
            vma::is_nohugepage, //
        }, //
    },
    bindings::kernel as c,
    daxdev::Device,
    lockless::{
        self,
        AsWritten,
        Place, //
    }, //
};

use super::{
    huge::{
        pmd_fits,
        PMD_ORDER,
        PMD_PAGE_MASK, //
    },
    mapped_inode::{
        MappedFile,
        MappedInode,
        PAGE, //
    },
    ownership::Association, //
};

/// The outcome of [`fault_fast`].
pub(super) enum Fault<'a> {
    /// The fault has mapped memory of this device.
    Mapped(&'a Device),
    /// The fault has mapped nothing, with this result.
    Failed(c::vm_fault_t),
    /// DAX has to handle the fault.
    NeedsDax,
    /// DAX has to handle the fault, with `invalidate_lock` held exclusively.
    NeedsDaxExclusive,
}

/// Handles a fault of 2^`order` pages, if that needs no more than the page tables.
///
/// # Safety
///
/// The fault is a PTE fault or a PMD fault of `inode`, and the `invalidate_lock` of its DAX page
/// cache is held shared.
#[inline]
pub(super) unsafe fn fault_fast<'a>(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'a>,
) -> Fault<'a> {
    // INVARIANT: By the safety requirements.
    let faulting = Faulting(inode);

    if order == PMD_ORDER {
        faulting.huge(vmf)
    } else {
        faulting.page(vmf)
    }
}

/// The inode of a fault that may be fast.
///
/// # Invariants
///
/// It has been mapped by mmap(2), and the `invalidate_lock` of its DAX page cache is held shared.
#[derive(Clone, Copy)]
struct Faulting<'a>(MappedInode<'a>);

impl<'a> Faulting<'a> {
    #[inline]
    fn huge(self, vmf: &VmFault) -> Fault<'a> {
        let first = vmf.pgoff() & !PMD_PAGE_MASK;
        let pmd = vmf.pmd();

        if !pmd_fits(vmf)
            || (first | PMD_PAGE_MASK) >= self.0.inode.size().div_ceil(PAGE)
            || !pmd.is_none() && !pmd.is_huge()
        {
            return Fault::NeedsDax;
        }
        let write = vmf.is_write();
        let Some(cached) = self.cached(first, PMD_PAGE_MASK + 1, write) else {
            return Fault::NeedsDax;
        };
        if !cached.may_map || !cached.association.is_huge() || cached.association.first() != first {
            return Fault::NeedsDax;
        }
        // SAFETY: The folio is in the file's DAX page cache, and stays there with `invalidate_lock`
        // held.
        let folio = unsafe { cached.association.folio().get() };
        // SAFETY: `folio` has 2 MiB, and is what the file has at `first`.
        cached.outcome(unsafe { vmf.insert_folio_pmd(&folio, write) })
    }

    #[inline]
    fn page(self, vmf: &VmFault) -> Fault<'a> {
        let nohugepage = is_nohugepage(vmf.vma());

        if vmf.is_cow() {
            return Fault::NeedsDax;
        }
        let write = vmf.is_write();
        let cached = self.cached(vmf.pgoff(), 1, write);
        let small = cached
            .as_ref()
            .is_some_and(|cached| !cached.association.is_huge());
        if !small && !nohugepage && pmd_fits(vmf) {
            return Fault::NeedsDaxExclusive;
        }
        let Some(cached) = cached else {
            return Fault::NeedsDax;
        };
        if !cached.may_map || vmf.pmd().is_huge() {
            return Fault::NeedsDax;
        }
        // SAFETY: The folio is in the file's DAX page cache, and stays there with `invalidate_lock`
        // held.
        let folio = unsafe { cached.association.folio().get() };
        // SAFETY: The page that `folio` was found by is what the file has at `vmf.pgoff()`.
        cached.outcome(unsafe { vmf.insert_page(&folio, write) })
    }

    /// Looks up `pages` pages from `index` on. Returns `None` unless they are in one piece of a
    /// healthy device, whose first frame the file already has at `index`.
    #[inline]
    fn cached(self, index: u64, pages: u64, write: bool) -> Option<Cached<'a>> {
        let MappedInode { inode, header } = self.0;
        if inode.is_bad() {
            return None;
        }
        // mremap(2) lets a VMA begin at any page, even beyond the largest file.
        let pos = index.checked_mul(PAGE)?;
        let mapping = header.locate(pos, pages * PAGE, inode.size()).ok()?;
        if !mapping.healthy || mapping.length < pages * PAGE {
            return None;
        }
        let device = mapping.device?;
        let pfn = device.frame(mapping.addr)?;

        // INVARIANT: The fault holds `invalidate_lock`, and the frame's device was healthy above.
        let place = PlaceOfFile {
            // SAFETY: By the type invariants the file has been mapped by mmap(2).
            file: unsafe { header.file_unchecked() },
            index,
            pfn,
        };
        let (association, may_map) = lockless::look_up::<AsWritten, _>(
            &header.writers_back,
            &header.validity,
            &place,
            write,
        )?;
        Some(Cached {
            association,
            may_map,
            device,
        })
    }
}

/// The file and page of a fault, and the frame that the program says is there.
///
/// # Invariants
///
/// A fault of the file is under way for `'a`, with the `invalidate_lock` of its page cache held
/// shared. The frame's device has not failed, or at least no task has taken the lock exclusively
/// since it has: its memory map is there.
struct PlaceOfFile<'a> {
    file: &'a MappedFile,
    index: u64,
    pfn: u64,
}

impl<'a> Place for PlaceOfFile<'a> {
    type Folio = Folio<'a>;
    type Association = Association<'a>;

    #[inline(always)]
    fn folio(&self) -> Folio<'a> {
        // SAFETY: By the type invariants the frame has a memory map for `'a`.
        unsafe { Folio::of(self.pfn) }
    }

    #[inline(always)]
    fn cookie(&self, folio: Folio<'a>, order: Ordering) -> u64 {
        folio.cookie(order)
    }

    #[inline(always)]
    fn set_cookie(&self, folio: Folio<'a>, cookie: u64, order: Ordering) {
        folio.set_cookie(cookie, order);
    }

    #[inline(always)]
    fn has_entry(&self) -> bool {
        let entry = self.file.mapping().entry(self.index);

        entry.is_some_and(|entry| !entry.is_locked() && entry.pfn_of(self.index) == Some(self.pfn))
    }

    #[inline(always)]
    fn association(&self, folio: Folio<'a>) -> Option<Association<'a>> {
        Association::of(folio, self.file.mapping(), self.index)
    }

    #[inline(always)]
    fn is_marked(&self, association: &Association<'a>) -> bool {
        is_marked(self.file, association)
    }
}

/// Memory that the file owns.
struct Cached<'a> {
    association: Association<'a>,
    /// Nothing else has to be done before this fault may map it.
    may_map: bool,
    device: &'a Device,
}

impl<'a> Cached<'a> {
    /// Returns the outcome of a fault that has inserted it, with this result.
    #[inline]
    fn outcome(&self, ret: c::vm_fault_t) -> Fault<'a> {
        match ret {
            c::vm_fault_reason_VM_FAULT_NOPAGE => Fault::Mapped(self.device),
            ret => Fault::Failed(ret),
        }
    }
}

/// Returns true if the entry of a folio is marked dirty in the page cache of its owner.
#[cold]
fn is_marked(file: &MappedFile, association: &Association<'_>) -> bool {
    file.mapping().is_dirty(association.first())
}
