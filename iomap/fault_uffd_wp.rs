// SPDX-License-Identifier: GPL-2.0

//! uffd-wp faults: faults in a VMA that is registered with userfaultfd in WP_ASYNC mode
//! (UFFD_FEATURE_WP_ASYNC), which the kernel allows for any VMA.
//!
//! In the page tables of such a VMA, a page that is write-protected and not mapped is a marker. DAX
//! does not know markers: it inserts a page where the page table has nothing, and makes a present
//! page writable. If it finds a marker, it does nothing, and the task faults endlessly, or it warns
//! and sends SIGBUS. A marker may appear at any moment: of all locks that a fault holds or may
//! take, only the page table lock prevents that.
//!
//! So in such a VMA, a fault calls DAX only to map a page for reading, which silently does nothing
//! if the page table has something there. The rest is done here, under the page table lock:
//!
//! - A marker is removed, so that DAX can insert the page, and the page is then protected, as the
//!   marker demanded.
//! - A store comes back as the fault of a present, read-only page. The entry in the page cache is
//!   marked dirty, and the page becomes writable, if it still is what the memory manager saw.
//!   Writeback locks the entry, write-protects, flushes, and clears the mark. The fault waits for
//!   an entry that is locked; an entry that is not locked has its mark now, and writeback will find
//!   the writable page.
//!
//! PMD faults fall back: markers are PTEs, and a page table for them may also appear at any moment.
//! A PMD entry from before is used until the first store.
//!
//! A VMA is not registered or unregistered during a fault: that takes the VMA lock.

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

/// Handles a fault of 2^`order` pages.
///
/// # Safety
///
/// The fault is a PTE fault or a PMD fault of `inode`, in a VMA with uffd-wp; `file` is the mapped
/// file of `inode`, and the `invalidate_lock` of its page cache is not held.
#[cold]
pub(super) unsafe fn fault_uffd_wp(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'_>,
    file: &MappedFile,
) -> c::vm_fault_t {
    // The memory manager unmaps a PMD entry that is there, and retries with PTE faults.
    if order != 0 {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // With this held, no entry of the page cache is removed.
    let _locked = file.mapping().invalidate_lock().read();
    // INVARIANT: By the safety requirements, and as `invalidate_lock` is held shared.
    let fault = UffdWpFault { vmf, inode, file };

    if vmf.is_mkwrite() {
        fault.make_writable()
    } else if vmf.is_cow() {
        // The page is a private copy, which the memory manager inserts; it knows markers.
        fault.dax()
    } else {
        fault.map_for_reading()
    }
}

/// A PTE fault.
///
/// # Invariants
///
/// It is a fault of `inode`, in a VMA with uffd-wp; `file` is the mapped file of `inode`, and the
/// `invalidate_lock` of its page cache is held shared. So there is a page table, or nothing, and no
/// task maps 2 MiB.
struct UffdWpFault<'a> {
    vmf: &'a VmFault,
    inode: MappedInode<'a>,
    file: &'a MappedFile,
}

impl UffdWpFault<'_> {
    /// Calls DAX for this fault.
    fn dax(&self) -> c::vm_fault_t {
        // SAFETY: By the type invariants this is a fault of `inode`, and `invalidate_lock` is held.
        unsafe { fault_dax(self.vmf, 0, self.inode) }
    }

    /// Calls DAX as for a read fault. If the page table has something, that stays, but DAX has
    /// called the program and stored the validated mapping in the page cache.
    fn read(&self) -> c::vm_fault_t {
        self.vmf.as_read(|| self.dax())
    }

    /// Maps a page that is not present. A store faults again once the page is there, read-only.
    fn map_for_reading(&self) -> c::vm_fault_t {
        let vmf = self.vmf;
        let marker = vmf.orig_pte();
        let protected = vmf.has_orig_pte() && marker.is_uffd_wp_marker();
        let nothing = Pte::default();
        let take_off = |pte: Pte| pte.is_same(marker).then_some(nothing);

        // SAFETY: `take_off` replaces a marker, which is no page, by nothing, which may be there.
        if protected && !unsafe { vmf.change_pte(take_off) } {
            // Another task changed the entry. The fault is retried, if it still is one.
            return c::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        let ret = self.read();
        let protect = |pte: Pte| {
            if pte.is_same(nothing) {
                Some(marker)
            } else if pte.is_present() && !pte.is_writable() {
                Some(pte.mkuffd())
            } else {
                // Another task has protected the page again, or stored to it.
                None
            }
        };
        if protected {
            // SAFETY: The marker was there, and a page that `protect` protects is as read-only as
            // before.
            unsafe { vmf.change_pte(protect) };
        }
        ret
    }

    /// Handles a store to a page that is present and read-only, and no longer protected.
    ///
    /// Does nothing if the page table has changed, or the entry is being written back; the fault is
    /// then retried. DAX has waited for the previous holder of the entry's lock, so another task
    /// made progress each time.
    fn make_writable(&self) -> c::vm_fault_t {
        let (vmf, mapping) = (self.vmf, self.file.mapping());
        let ret = self.read();
        if ret & FAULT_FAILED != 0 {
            return ret;
        }
        let seen = vmf.orig_pte();
        let index = vmf.pgoff();
        let mut is_hole = false;

        // The page cache may be locked inside the page table lock. DAX has mapped the page, if
        // there is one, so `pte` is DAX's entry, except for the permissions.
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
        // SAFETY: `allow` keeps the page, which is the file's, and has marked it dirty.
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
