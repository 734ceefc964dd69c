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

use kernel::ffi;

use crate::{
    abstractions::mm::{
        fault::VmFault,
        pgtable::Pte, //
    },
    bindings::kernel as c, //
};

use super::{
    fault_dax::{
        fault_dax,
        FAULT_FAILED, //
    },
    mapped_inode::{
        MappedFile,
        MappedInode,
        PAGE, //
    },
    mapping_error::{
        report_error,
        MappingError, //
    }, //
};

/// A fault of 2^`order` pages.
///
/// # Safety
///
/// The fault is of a page or of 2 MiB, in a mapping that is tracked, of `inode`, whose `file` is;
/// and the `invalidate_lock` of its page cache is not held.
#[cold]
pub(super) unsafe fn fault_uffd_wp(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'_>,
    file: &MappedFile,
) -> c::vm_fault_t {
    // The memory manager unmaps 2 MiB that are there, and asks for pages.
    if order != 0 {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // With the lock, the entries of the page cache stay.
    let _locked = file.mapping().invalidate_lock().read();
    // INVARIANT: By the safety requirements, and as it is locked.
    let fault = UffdWpFault { vmf, inode, file };

    if vmf.is_mkwrite() {
        fault.make_writable()
    } else if vmf.is_cow() {
        // The page is the task's own, and the memory manager inserts it, which knows markers.
        fault.dax()
    } else {
        fault.map_for_reading()
    }
}

/// A fault of a page.
///
/// # Invariants
///
/// It is in a mapping that is tracked, of `inode`, whose `file` is, and the `invalidate_lock` of
/// its page cache is held shared. So its table of pages is there, or nothing, and no task maps 2
/// MiB.
struct UffdWpFault<'a> {
    vmf: &'a VmFault,
    inode: MappedInode<'a>,
    file: &'a MappedFile,
}

impl UffdWpFault<'_> {
    /// DAX's part of it.
    fn dax(&self) -> c::vm_fault_t {
        // SAFETY: By the type invariants this is a fault of `inode`, with the lock.
        unsafe { fault_dax(self.vmf, 0, self.inode) }
    }

    /// The same as if it were for reading. Where the page table has something, that stays; but the
    /// program was asked, its answer judged, and noted in the page cache.
    fn read(&self) -> c::vm_fault_t {
        self.vmf.as_read(|| self.dax())
    }

    /// A page that is not there. A store comes back once it is, read-only.
    fn map_for_reading(&self) -> c::vm_fault_t {
        let vmf = self.vmf;
        let marker = vmf.orig_pte();
        let protected = vmf.has_orig_pte() && marker.is_uffd_wp_marker();
        let nothing = Pte::default();
        let take_off = |pte: Pte| pte.is_same(marker).then_some(nothing);

        // SAFETY: A marker is no page; nothing may be there.
        if protected && !unsafe { vmf.change_pte(take_off) } {
            // Somebody was quicker. The fault begins again, if it is still one.
            return c::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        let ret = self.read();
        let protect = |pte: Pte| {
            if pte.is_same(nothing) {
                Some(marker)
            } else if pte.is_present() && !pte.is_writable() {
                Some(pte.mkuffd())
            } else {
                // Protected again already, or stored to.
                None
            }
        };
        if protected {
            // SAFETY: The marker was there, and a page that is protected is as read-only as before.
            unsafe { vmf.change_pte(protect) };
        }
        ret
    }

    /// A store to a page that is there and read-only, and no longer protected.
    ///
    /// Nothing is done if that has changed, or somebody writes back the entry at this moment; then
    /// the fault begins again. DAX has waited for whoever had the entry locked before, so each time
    /// somebody else got on.
    fn make_writable(&self) -> c::vm_fault_t {
        let (vmf, mapping) = (self.vmf, self.file.mapping());
        let ret = self.read();
        if ret & FAULT_FAILED != 0 {
            return ret;
        }
        let seen = vmf.orig_pte();
        let index = vmf.pgoff();
        let mut is_hole = false;

        // Who has locked the page table may lock the page cache. DAX has mapped the page, if there
        // is one, so `pte` is its entry, but for the rights.
        let allow = |pte: Pte| {
            if !pte.is_same(seen) {
                return None;
            }
            let entries = mapping.lock_entries();
            let entry = entries.entry(index).filter(|entry| !entry.is_locked());
            let pfn = entry.map(|entry| entry.pfn_of(index));
            let may_write = pfn == Some(Some(pte.pfn()));
            if may_write {
                entries.set_dirty(index);
            }
            drop(entries);
            is_hole = pfn == Some(None);
            may_write.then(|| pte.mkwritten())
        };
        // SAFETY: The same page is there, which is the file's, and is marked dirty.
        unsafe { vmf.change_pte(allow) };
        if is_hole {
            let flags = c::IOMAP_FAULT | c::IOMAP_WRITE;
            let (inode, header) = (self.inode.inode, self.inode.header);
            let _ = report_error(
                inode,
                header,
                index * PAGE,
                PAGE,
                flags,
                MappingError::WriteToHole,
            );
            return c::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        ret
    }
}
