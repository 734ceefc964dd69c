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
//! (`collapse`, `vacating`), and DAX itself replaces only what is not backed by memory. So under the
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
//!   fault of a page takes the lock exclusively ([`Fault::NeedsDaxExclusive`]). Only COW does not, as it looks
//!   before it puts a table anywhere.
//!
//! What the page cache says is looked up once, and noted in the folio
//! ([`look_up`](lockless::look_up)), which is needed anyway: the file's `validity`, and whether the
//! entry is marked dirty. The file gets another stamp, which nobody else ever had, whenever entries
//! were written back or are about to be removed. With the stamp that is valid, a folio is settled,
//! and so is what it says of its place in the file; without it, DAX may be in the middle of setting
//! it up.
//!
//! What does not fit goes to DAX, which finds out why. A mapping whose stores are tracked never
//! gets here ([`super::fault_uffd_wp`]).

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
    lockless::{
        self,
        AsWritten,
        Place, //
    },
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

/// What became of a fault.
pub(super) enum Fault {
    /// It is over, with this result.
    Mapped(c::vm_fault_t),
    /// It is DAX's.
    NeedsDax,
    /// It is DAX's, with the lock held exclusively.
    NeedsDaxExclusive,
}

/// Maps what a fault of 2^`order` pages asks for, if that needs no more than the page tables.
///
/// # Safety
///
/// The fault is of a page or of 2 MiB, of `inode`, and the `invalidate_lock` of its DAX page cache
/// is held shared.
#[inline]
pub(super) unsafe fn fault_fast(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'_>,
) -> Fault {
    // INVARIANT: By the safety requirements.
    let faulting = Faulting(inode);

    if order == PMD_ORDER {
        faulting.huge(vmf)
    } else {
        faulting.page(vmf)
    }
}

/// An inode in which a fault is under way that may be soft.
///
/// # Invariants
///
/// It has been mapped by mmap(2), and the `invalidate_lock` of its DAX page cache is held shared.
#[derive(Clone, Copy)]
struct Faulting<'a>(MappedInode<'a>);

impl<'a> Faulting<'a> {
    #[inline]
    fn huge(self, vmf: &VmFault) -> Fault {
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
        // SAFETY: The folio is in the page cache of the file, and stays there under the lock.
        let folio = unsafe { cached.association.folio().get() };
        // SAFETY: `folio` is 2 MiB, and those that the file has there.
        Fault::Mapped(unsafe { vmf.insert_folio_pmd(&folio, write) })
    }

    #[inline]
    fn page(self, vmf: &VmFault) -> Fault {
        let nohugepage = is_nohugepage(vmf.vma());

        if vmf.is_cow() {
            return Fault::NeedsDax;
        }
        let write = vmf.is_write();
        let cached = self.cached(vmf.pgoff(), 1, write);
        let small = cached.as_ref().is_some_and(|cached| !cached.association.is_huge());
        if !small && !nohugepage && pmd_fits(vmf) {
            return Fault::NeedsDaxExclusive;
        }
        let Some(cached) = cached else {
            return Fault::NeedsDax;
        };
        if !cached.may_map || vmf.pmd().is_huge() {
            return Fault::NeedsDax;
        }
        // SAFETY: The folio is in the page cache of the file, and stays there under the lock.
        let folio = unsafe { cached.association.folio().get() };
        // SAFETY: The page that `folio` was found by is what the file has there.
        Fault::Mapped(unsafe { vmf.insert_page(&folio, write) })
    }

    /// The frame where `pages` pages from `index` on begin, if they are in one piece and this file
    /// has that frame for this page already, and may store to it if that is what the fault does.
    #[inline]
    fn cached(self, index: u64, pages: u64, write: bool) -> Option<Cached<'a>> {
        let MappedInode { inode, header } = self.0;
        if inode.is_bad() {
            return None;
        }
        // mremap(2) lets a mapping begin at any page, also behind what a file can have.
        let pos = index.checked_mul(PAGE)?;
        let mapping = header.locate(pos, pages * PAGE, inode.size()).ok()?;
        if !mapping.healthy || mapping.length < pages * PAGE {
            return None;
        }
        let pfn = mapping.device?.frame(mapping.addr)?;

        // INVARIANT: The fault is under way, with the lock, and the frame's device was sound.
        let place = PlaceOfFile {
            // SAFETY: By the type invariants the file has been mapped by mmap(2).
            file: unsafe { header.file_unchecked() },
            index,
            pfn,
        };
        let (association, may_map) =
            lockless::look_up::<AsWritten, _>(&header.writers_back, &header.validity, &place, write)?;
        Some(Cached { association, may_map })
    }
}

/// Where a fault is, and the frame that the program says is there.
///
/// # Invariants
///
/// A fault of the file is under way for `'a`, with the `invalidate_lock` of its page cache held
/// shared. The frame's device has not failed, or at least nobody has got the lock since it has: its
/// memory map is there.
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

/// Memory that a file has.
struct Cached<'a> {
    association: Association<'a>,
    /// Nothing else has to be done for this fault.
    may_map: bool,
}

/// Whether the entry of a folio is marked dirty in the page cache of its tenant.
#[cold]
fn is_marked(file: &MappedFile, association: &Association<'_>) -> bool {
    file.mapping().is_dirty(association.first())
}
