// SPDX-License-Identifier: GPL-2.0

//! DAX: page caches whose entries refer to memory of a device.
//!
//! An entry is a value in the page cache. Its bits are private to fs/dax.c, which exports no
//! function to decode them; upstream, [`Entry`] would need one.
//!
//! C header: [`include/linux/dax.h`](srctree/include/linux/dax.h)

use core::ops::Deref;

use kernel::{
    error::to_result,
    ffi,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    str::CStr,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::{
    abstractions::{
        dax::DaxDevice,
        fs::{
            address_space::AddressSpace,
            inode::Inode,
            kiocb::Kiocb, //
        },
        iov::IovIter,
        mm::{
            fault::VmFault,
            folio::Folio, //
        },
        sync::srcu_fast::SrcuFast, //
    },
    bindings::kernel as c, //
};

/// Number of pages of a PMD entry.
const PMD_PAGES: u64 = (2 << 20) / PAGE_SIZE as u64;

// --- Entries ------------------------------------------------------------------------------------

/// A DAX entry: the page frames that back a page, or an aligned 2 MiB, of a file.
///
/// The bits from 4 on are the page frame number. Those below say whether the entry is locked (0), a
/// PMD entry (1), a zero page for a hole (2) or empty, i.e. not backed yet (3).
#[derive(Clone, Copy)]
pub(crate) struct Entry(usize);

impl Entry {
    const LOCKED: usize = 1 << 0;
    const PMD: usize = 1 << 1;
    const UNBACKED: usize = 1 << 2 | 1 << 3;
    const PFN_SHIFT: u32 = 4;

    #[inline]
    fn new(entry: *mut ffi::c_void) -> Option<Self> {
        // DAX entries are values. Anything else in the tree is not a DAX entry.
        let value = entry as usize;
        (value & 1 != 0).then_some(Self(value >> 1))
    }

    #[inline]
    pub(crate) fn is_huge(self) -> bool {
        self.0 & Self::PMD != 0
    }

    #[inline]
    pub(crate) fn is_locked(self) -> bool {
        self.0 & Self::LOCKED != 0
    }

    /// Returns the first page frame and the number of pages, if the entry is backed.
    pub(crate) fn frames(self) -> Option<(u64, u64)> {
        let pages = if self.is_huge() { PMD_PAGES } else { 1 };

        Some((self.pfn_of(0)?, pages))
    }

    /// Returns the page frame that backs page `index` of the file, if the entry is backed.
    #[inline]
    pub(crate) fn pfn_of(self, index: u64) -> Option<u64> {
        if self.0 & Self::UNBACKED != 0 {
            return None;
        }
        let first = (self.0 >> Self::PFN_SHIFT) as u64;
        let within = if self.is_huge() { index % PMD_PAGES } else { 0 };
        Some(first + within)
    }
}

// --- Page caches --------------------------------------------------------------------------------

/// A mark of page cache entries.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    /// Every entry has this mark.
    Present,
    /// The entry's memory may have to be flushed.
    Dirty,
}

impl Mark {
    fn as_raw(self) -> c::xa_mark_t {
        match self {
            Self::Present => c::XA_PRESENT,
            Self::Dirty => c::PAGECACHE_TAG_DIRTY,
        }
    }
}

/// A page cache of DAX entries.
///
/// # Invariants
///
/// The page cache is initialized, and has no entries but those of DAX. The memory map of the pages
/// of an entry stays as long as the entry.
#[repr(transparent)]
pub(crate) struct DaxMapping(AddressSpace);

impl Deref for DaxMapping {
    type Target = AddressSpace;

    #[inline]
    fn deref(&self) -> &AddressSpace {
        &self.0
    }
}

impl DaxMapping {
    #[inline]
    fn entries(&self) -> *mut c::xarray {
        // SAFETY: By the type invariants the page cache is valid.
        unsafe { &raw mut (*self.as_raw()).i_pages }
    }

    /// Returns the entry for page `index`, if there is one.
    #[inline]
    pub(crate) fn entry(&self, index: u64) -> Option<Entry> {
        // SAFETY: By the type invariants the tree is valid. It may change concurrently, under RCU.
        Entry::new(unsafe { c::xa_load(self.entries(), index as ffi::c_ulong) })
    }

    /// Returns the first entry of pages `first` to `last`, if there is one.
    pub(crate) fn first_entry(&self, first: u64, last: u64) -> Option<Entry> {
        let mut index = first as ffi::c_ulong;

        // SAFETY: By the type invariants the tree is valid. It may change concurrently, under RCU.
        let entry = unsafe {
            c::xa_find(
                self.entries(),
                &mut index,
                last as ffi::c_ulong,
                c::XA_PRESENT,
            )
        };
        Entry::new(entry)
    }

    /// Returns a page of the first entry of pages `first` to `last` that has a mark, if any.
    pub(crate) fn first_marked(&self, first: u64, last: u64, mark: Mark) -> Option<u64> {
        let (mut index, last) = (first as ffi::c_ulong, last as ffi::c_ulong);

        // SAFETY: By the type invariants the tree is valid. It may change concurrently, under RCU.
        let entry = unsafe { c::xa_find(self.entries(), &mut index, last, mark.as_raw()) };
        (!entry.is_null()).then_some(index as u64)
    }

    /// Calls `each` with a page of each entry of pages `first` to `last` that has a mark, and the
    /// entry.
    pub(crate) fn for_each(
        &self,
        first: u64,
        last: u64,
        mark: Mark,
        mut each: impl FnMut(u64, Entry),
    ) {
        let (mut index, last, mark) = (first as ffi::c_ulong, last as ffi::c_ulong, mark.as_raw());

        // SAFETY: By the type invariants the tree is valid. It may change concurrently, under RCU.
        let mut entry = unsafe { c::xa_find(self.entries(), &mut index, last, mark) };
        while !entry.is_null() {
            if let Some(entry) = Entry::new(entry) {
                each(index as u64, entry);
            }
            // SAFETY: By the type invariants the tree is valid, as above.
            entry = unsafe { c::xa_find_after(self.entries(), &mut index, last, mark) };
        }
    }

    /// Returns true if there are no entries.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: By the type invariants the tree is valid; its root is read once.
        unsafe { (&raw const (*self.entries()).xa_head).read_volatile() }.is_null()
    }

    /// Returns true if any entry may be marked dirty.
    pub(crate) fn any_dirty(&self) -> bool {
        // SAFETY: By the type invariants the tree is valid; its flags are read once.
        let flags = unsafe { (&raw const (*self.entries()).xa_flags).read_volatile() };

        flags & c::XA_FLAGS_MARK_DIRTY != 0
    }

    /// Returns true if the entry of page `index` is marked dirty.
    pub(crate) fn is_dirty(&self, index: u64) -> bool {
        let index = index as ffi::c_ulong;

        // SAFETY: By the type invariants the tree is valid.
        unsafe { c::xa_get_mark(self.entries(), index, c::PAGECACHE_TAG_DIRTY) }
    }

    /// Locks the tree and disables interrupts, which must be enabled.
    pub(crate) fn lock_entries(&self) -> LockedEntries<'_> {
        // SAFETY: By the type invariants the tree is valid.
        unsafe { c::fuse_dax_fmap_xa_lock_irq(self.entries()) };
        // INVARIANT: The tree was locked just above.
        LockedEntries {
            mapping: self,
            _same_task: NotThreadSafe,
        }
    }

    /// Unmaps bytes `start` to `end`. Returns true if a folio there has references other than those
    /// of page tables, i.e. is pinned.
    pub(crate) fn is_busy(&self, start: c::loff_t, end: c::loff_t) -> bool {
        // SAFETY: By the type invariants the page cache is valid. The result is not dereferenced.
        unsafe { !c::dax_layout_busy_page_range(self.as_raw(), start, end).is_null() }
    }

    /// Unmaps bytes `start` to `end`, and returns the first folio there that is pinned.
    ///
    /// # Safety
    ///
    /// For `'a` entries must not be removed, and their page frames must have struct pages.
    pub(crate) unsafe fn busy_folio<'a>(
        &self,
        start: c::loff_t,
        end: c::loff_t,
    ) -> Option<Folio<'a>> {
        // SAFETY: By the type invariants the page cache is valid.
        let busy = unsafe { c::dax_layout_busy_page_range(self.as_raw(), start, end) };
        if busy.is_null() {
            return None;
        }
        // DAX returns the first page of a folio. It is valid by the safety requirements.
        // SAFETY: `busy` is the first page of a folio.
        Some(unsafe { Folio::of_head(busy) })
    }

    /// Removes the entries of bytes `start` to `end`.
    ///
    /// # Safety
    ///
    /// The pages must be neither mapped nor pinned, and stay so until the entries are removed.
    pub(crate) unsafe fn delete_range(&self, start: c::loff_t, end: c::loff_t) {
        // SAFETY: By the type invariants the page cache is valid; the caller guarantees the rest.
        unsafe { c::dax_delete_mapping_range(self.as_raw(), start, end) }
    }

    /// Write-protects and flushes the pages that are marked dirty. Returns 0 or a negative errno.
    ///
    /// # Safety
    ///
    /// `dax_dev` must be held.
    pub(crate) unsafe fn write_back(
        &self,
        dax_dev: &DaxDevice,
        wbc: &mut c::writeback_control,
    ) -> ffi::c_int {
        // SAFETY: By the type invariants the page cache is valid. The caller holds `dax_dev`.
        unsafe { c::dax_writeback_mapping_range(self.as_raw(), dax_dev.as_raw(), wbc) }
    }

    /// Unmaps a page with a memory failure, and sends SIGBUS to the tasks that the policy selects.
    ///
    /// # Errors
    ///
    /// Those of `mf_dax_kill_procs()`.
    pub(crate) fn kill_procs(&self, index: u64, flags: ffi::c_int) -> Result {
        let index = index as ffi::c_ulong;

        // SAFETY: By the type invariants the page cache is valid.
        to_result(unsafe { c::mf_dax_kill_procs(self.as_raw(), index, 1, flags) })
    }
}

/// A guard for the locked tree: entries do not change.
///
/// # Invariants
///
/// The current task has locked the tree of `mapping`.
#[must_use = "the entries are unlocked when the guard is dropped"]
pub(crate) struct LockedEntries<'a> {
    mapping: &'a DaxMapping,
    _same_task: NotThreadSafe,
}

impl LockedEntries<'_> {
    /// Returns the entry for page `index`, if there is one.
    pub(crate) fn entry(&self, index: u64) -> Option<Entry> {
        self.mapping.entry(index)
    }

    /// Marks the entry of page `index` as dirty.
    pub(crate) fn set_dirty(&self, index: u64) {
        let (entries, index) = (self.mapping.entries(), index as ffi::c_ulong);

        // SAFETY: By the type invariants this task has locked the tree.
        unsafe { c::__xa_set_mark(entries, index, c::PAGECACHE_TAG_DIRTY) }
    }

    /// Clears the dirty mark and the to-write mark of the entry of page `index`.
    pub(crate) fn clear_dirty(&self, index: u64) {
        let (entries, index) = (self.mapping.entries(), index as ffi::c_ulong);

        // SAFETY: By the type invariants this task has locked the tree.
        unsafe { c::__xa_clear_mark(entries, index, c::PAGECACHE_TAG_DIRTY) };
        // SAFETY: By the type invariants this task has locked the tree.
        unsafe { c::__xa_clear_mark(entries, index, c::PAGECACHE_TAG_TOWRITE) }
    }
}

impl Drop for LockedEntries<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked the tree.
        unsafe { c::fuse_dax_fmap_xa_unlock_irq(self.mapping.entries()) }
    }
}

/// An inode whose only purpose is to host a page cache of DAX entries. No superblock lists it, no
/// path leads to it, and no reference to it is taken.
///
/// # Invariants
///
/// The inode is initialized.
#[repr(transparent)]
pub(crate) struct Host(Opaque<c::inode>);

// SAFETY: An inode is not tied to a task.
unsafe impl Send for Host {}
// SAFETY: Several tasks may use an inode at once.
unsafe impl Sync for Host {}

impl Host {
    /// Creates a host on the superblock of `like`, with the inode number of `like`.
    ///
    /// # Safety
    ///
    /// The superblock of `like` must stay valid as long as the host, or until [`Self::move_to`].
    /// `a_ops` must be for this page cache, and expect `private` as the private data of the inode.
    pub(crate) unsafe fn new<'a>(
        like: &'a Inode,
        size: u64,
        private: *mut ffi::c_void,
        a_ops: &'static c::address_space_operations,
        lock: (&'static CStr, Pin<&'static LockClassKey>),
    ) -> impl PinInit<Self> + 'a {
        let init = move |slot: *mut Self| {
            // SAFETY: `slot` is valid for writes, and pinned; the caller guarantees the rest.
            unsafe { Self::init(slot.cast(), like, size, private, a_ops, lock) };
            Ok(())
        };

        // SAFETY: `init` initializes the slot, and never fails.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// # Safety
    ///
    /// `slot` must be valid for writes, and must not move while it is used; the rest is as for
    /// [`Self::new`].
    unsafe fn init(
        slot: *mut c::inode,
        like: &Inode,
        size: u64,
        private: *mut ffi::c_void,
        a_ops: &'static c::address_space_operations,
        lock: (&'static CStr, Pin<&'static LockClassKey>),
    ) {
        let (name, key) = (c"dax_host::i_lock", kernel::static_lock_class!());

        // SAFETY: `slot` is valid for writes, by the safety requirements.
        unsafe { c::inode_init_once(slot) };
        // SAFETY: `slot` is initialized, and the caller has exclusive access to it.
        let inode = unsafe { &mut *slot };
        // SAFETY: The lock is part of `inode`; `name` and `key` are static.
        unsafe { c::__spin_lock_init(&raw mut inode.i_lock, name.as_char_ptr(), key.as_ptr()) };
        // For tracepoints, and for checks that the inode is a regular file with DAX.
        // SAFETY: `like` is in use, so its fields are valid.
        inode.i_sb = unsafe { (*like.as_raw()).i_sb };
        inode.i_ino = like.number();
        inode.i_mode = c::S_IFREG as c::umode_t;
        inode.i_flags = c::S_DAX;
        inode.i_blkbits = PAGE_SHIFT as u8;
        inode.i_size = size as c::loff_t;
        inode.i_count.counter = 1;
        // The inode is permanently dirty, so that `__mark_inode_dirty()` returns early and flusher
        // threads never see it.
        inode.i_state.__state = c::inode_state_flags_enum_I_DIRTY_PAGES;
        inode.i_mapping = &raw mut inode.i_data;
        inode.i_private = private;
        // SAFETY: The page cache is initialized; the caller guarantees the rest.
        unsafe { AddressSpace::set_up(&raw mut inode.i_data, slot, a_ops, lock) };
    }

    /// Returns the page cache.
    #[inline]
    pub(crate) fn mapping(&self) -> &DaxMapping {
        // SAFETY: By the type invariants the page cache is initialized. Only DAX adds entries to
        // it, and `DaxMapping` is transparent.
        unsafe { &*(&raw const (*self.0.get()).i_data).cast() }
    }

    /// Replaces the superblock by that of a device, whose number tracepoints then report.
    ///
    /// # Safety
    ///
    /// `dax_dev` must be held while `self` is used. Only tracepoints may use the superblock from
    /// now on.
    pub(crate) unsafe fn move_to(&self, dax_dev: &DaxDevice) {
        // SAFETY: By the safety requirements `dax_dev` is held, and so its inode is valid.
        let sb = unsafe { (*c::dax_inode(dax_dev.as_raw())).i_sb };

        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.0.get()).i_sb = sb };
    }
}

// --- Faults and I/O -----------------------------------------------------------------------------

/// Handles a fault of 2^`order` pages.
///
/// # Safety
///
/// The `f_mapping` of the VMA's file must be a page cache of DAX entries, whose `invalidate_lock`
/// is held, and whose host `ops` are for.
#[inline]
pub(crate) unsafe fn iomap_fault(
    vmf: &VmFault,
    order: ffi::c_uint,
    ops: &'static c::iomap_ops,
) -> c::vm_fault_t {
    let mut pfn = 0;

    // SAFETY: `vmf` is valid; the caller guarantees the rest.
    unsafe { c::dax_iomap_fault(vmf.as_raw(), order, &mut pfn, core::ptr::null_mut(), ops) }
}

/// Reads or writes at most `max` bytes without faulting in the buffer: the I/O ends at the first
/// page of the buffer that is not present. The bytes are copied inside read-side critical sections
/// of `srcu`. Returns the number of bytes, or a negative errno.
///
/// # Safety
///
/// `ops` must be for the inode, which must be locked: exclusively for a write, or else shared.
#[inline]
pub(crate) unsafe fn iomap_rw_nofault(
    iocb: &Kiocb,
    iter: &IovIter,
    max: u64,
    ops: &'static c::iomap_ops,
    srcu: &SrcuFast,
) -> isize {
    let (iocb, iter, srcu) = (iocb.as_raw(), iter.as_raw(), srcu.as_raw());

    // SAFETY: `iocb`, `iter` and `srcu` are valid; the caller guarantees the rest.
    unsafe { c::fuse_dax_fmap_rw_nofault(iocb, iter, max, ops, srcu) }
}
