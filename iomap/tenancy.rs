// SPDX-License-Identifier: GPL-2.0

//! Who has which memory: a page of a device belongs to one place of one file at a time.
//!
//! A file becomes the tenant of memory at the first fault that maps it, and gives it up when it is
//! evicted or the device goes away. DAX notes the tenant in its entry and in the folio.
//!
//! What comes and goes in all page caches of a mount is guarded by one lock: the `invalidate_lock` of
//! the page cache that its mapped files share as `i_mapping` ([`MovingIn`]). Only the first touch of a
//! piece of memory takes it, and who gives memory up.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    container_of,
    ffi,
    prelude::*, //
};

use crate::{
    bindings::kernel as c,
    daxdev::Device,
    fuse::Connection, //
};

use super::{
    judge::Refusal,
    PAGE,
    PLAIN,
    PMD_SIZE, //
};

/// Makes sure that a fault maps memory that this place of the file has, or may have.
///
/// `pages` are the pages that the fault may map: from `pos` on, at `addr` of the device. DAX has an
/// entry for the first of them, and holds it locked: another fault does not change it meanwhile.
///
/// If nobody has the memory yet, the result is a lock to be held until DAX has noted the tenant.
#[inline]
pub(super) fn move_in(
    inode: *mut c::inode,
    device: &Device,
    addr: u64,
    pos: u64,
    pages: u64,
) -> Result<Option<MovingIn>, Refusal> {
    // SAFETY: `inode` is in use, as we are called for it.
    let entry = unsafe { DaxEntry::at(inode, pos / PAGE) };

    if let Some(pfn) = entry.and_then(|entry| entry.pfn_of(pos / PAGE)) {
        return match device.with_frames(addr, 1, |frames| frames.pfn) {
            Some(claimed) if claimed == Some(pfn) => Ok(None),
            Some(_) => Err(Refusal::Moved),
            None => Err(Refusal::FailedDevice),
        };
    }
    // SAFETY: As above, and it is mapped.
    let moving_in = unsafe { MovingIn::new(inode) };
    let vacant = device.with_frames(addr, pages, |frames| {
        // SAFETY: We are inside.
        unsafe { frames.are_vacant_but_for(ptr::null()) }
    });
    match vacant {
        Some(true) => Ok(Some(moving_in)),
        Some(false) => Err(Refusal::SharedMemory),
        None => Err(Refusal::FailedDevice),
    }
}

/// Makes sure that DAX can do what `flags` say where the program says that there is a hole.
///
/// A hole has no tenant, and its entry in the page cache is the zero page. DAX replaces that, should
/// the program say later that there is memory; but what is memory once, stays so, as in [`move_in`].
#[cold]
pub(super) fn may_be_hole(inode: *mut c::inode, pos: u64, flags: u32) -> Result<(), Refusal> {
    if flags & c::IOMAP_WRITE != 0 {
        return Err(Refusal::WriteToHole);
    }
    // SAFETY: `inode` is in use, as we are called for it.
    let entry = unsafe { DaxEntry::at(inode, pos / PAGE) };

    if flags & c::IOMAP_FAULT != 0 && entry.is_some_and(|entry| entry.pfn_of(pos / PAGE).is_some())
    {
        return Err(Refusal::Moved);
    }
    Ok(())
}

/// The right to change who has memory of a mount.
///
/// Whoever has it must not wait for it once more by freeing memory: reclaim evicts inodes, of this mount
/// too, and that takes the same lock. So it comes with a promise not to get there.
pub(super) struct MovingIn {
    lock: *mut c::rw_semaphore,
    /// What `memalloc_nofs_restore()` wants.
    nofs: ffi::c_uint,
}

impl MovingIn {
    /// Waits until nobody else has it.
    pub(super) fn of(conn: &Connection) -> Self {
        // SAFETY: The page cache is the connection's, and initialized.
        unsafe {
            Self::lock(ptr::addr_of_mut!(
                (*conn.empty_page_cache()).invalidate_lock
            ))
        }
    }

    /// Waits until nobody else has it.
    ///
    /// # Safety
    ///
    /// `inode` is a mapped one, and stays so as long as the result.
    pub(super) unsafe fn new(inode: *mut c::inode) -> Self {
        // SAFETY: By the safety requirements.
        unsafe { Self::lock(ptr::addr_of_mut!((*(*inode).i_mapping).invalidate_lock)) }
    }

    /// # Safety
    ///
    /// The lock is valid, and stays so as long as the result.
    unsafe fn lock(lock: *mut c::rw_semaphore) -> Self {
        // SAFETY: By the safety requirements.
        unsafe {
            let nofs = c::memalloc_nofs_save();
            c::down_write(lock);
            Self { lock, nofs }
        }
    }

    /// A bit of the address that an aligned lock does not use: whether `nofs` is 0.
    const NESTED: usize = 1;

    /// For `iomap->private`: null for nothing.
    pub(super) fn into_raw(moving_in: Option<Self>) -> *mut ffi::c_void {
        moving_in.map_or(ptr::null_mut(), |moving_in| {
            let moving_in = core::mem::ManuallyDrop::new(moving_in);
            let nested = usize::from(moving_in.nofs != 0);
            moving_in.lock.map_addr(|lock| lock | nested).cast()
        })
    }

    /// # Safety
    ///
    /// `raw` comes from [`MovingIn::into_raw`], by the same task, and is used only once.
    pub(super) unsafe fn from_raw(raw: *mut ffi::c_void) -> Option<Self> {
        (!raw.is_null()).then(|| Self {
            lock: raw.map_addr(|lock| lock & !Self::NESTED).cast(),
            nofs: if raw.addr() & Self::NESTED != 0 {
                c::PF_MEMALLOC_NOFS
            } else {
                0
            },
        })
    }
}

impl MovingIn {
    /// Takes what is backed from byte `start` to `end` out of the page cache of `inode`, and what was
    /// noted in the folios out of them: pages that are put together to a folio have to be blank.
    ///
    /// # Safety
    ///
    /// The lock is that of `inode`, a mapped one that is being evicted, or in use with the
    /// `invalidate_lock` of its page cache held exclusively; nothing of the range is mapped or in use.
    pub(super) unsafe fn move_out(&self, inode: *mut c::inode, start: c::loff_t, end: c::loff_t) {
        let last = end as u64 / PAGE;

        // SAFETY: By the safety requirements. The frame of an entry has a memory map.
        unsafe {
            DaxEntry::for_each(inode, start as u64 / PAGE, last, |index, entry| {
                if let Some(pfn) = entry.pfn_of(index) {
                    Tenancy::of(pfn).set_note(0);
                }
            });
            c::dax_delete_mapping_range(ptr::addr_of_mut!((*inode).i_data), start, end);
        }
    }
}

impl Drop for MovingIn {
    fn drop(&mut self) {
        // SAFETY: `new()` took it, and its inode is still mapped; the task is the same.
        unsafe {
            c::up_write(self.lock);
            c::memalloc_nofs_restore(self.nofs);
        }
    }
}

/// What DAX has noted for a page of a file: the page frames that back it.
///
/// An entry is a value in the page cache. Its bits are DAX's own (fs/dax.c): from bit 4 on the page
/// frame, and below it whether it is locked (0), 2 MiB (1), a hole (2) or not backed yet (3).
#[derive(Clone, Copy)]
pub(super) struct DaxEntry(usize);

/// What DAX has noted in a folio: the pages of a file that it backs.
#[derive(Clone, Copy)]
pub(super) struct Tenancy {
    folio: *const c::folio,
    first: u64,
}

impl Tenancy {
    /// That of a page frame, which means something only if [`Tenancy::is_of`] says so.
    ///
    /// # Safety
    ///
    /// The frame has a memory map, as long as the result is used.
    #[inline]
    pub(super) unsafe fn of(pfn: u64) -> Self {
        // SAFETY: By the safety requirements.
        unsafe {
            let folio = c::pfn_folio(pfn as ffi::c_ulong);

            Self {
                folio,
                first: folio_index(folio),
            }
        }
    }

    /// Whether the frame is that of page `index`.
    ///
    /// # Safety
    ///
    /// The frame is the same, and nobody moves out of `mapping` meanwhile.
    #[inline]
    pub(super) unsafe fn is_of(
        &self,
        mapping: *const c::address_space,
        pfn: u64,
        index: u64,
    ) -> bool {
        // SAFETY: By the safety requirements.
        let (tenant, head) = unsafe {
            let folio = &(*self.folio).__bindgen_anon_1.__bindgen_anon_1;
            (
                ptr::addr_of!(folio.mapping).read_volatile(),
                c::folio_pfn(self.folio) as u64,
            )
        };
        ptr::eq(tenant, mapping) && self.first + (pfn - head) == index
    }

    /// The first page of the file.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// What a tenant has noted in the folio, maybe another one, maybe long ago. DAX leaves
    /// `folio->private` to the file system (include/linux/mm_types.h), and so does everybody else where
    /// PG_private is not set.
    #[inline]
    pub(super) fn note(&self) -> u64 {
        self.private().load(Ordering::Acquire) as u64
    }

    /// Notes something else, for a folio that is the caller's.
    pub(super) fn set_note(&self, note: u64) {
        self.private()
            .store(note as *mut ffi::c_void, Ordering::Release);
    }

    #[inline]
    fn private(&self) -> &AtomicPtr<ffi::c_void> {
        // SAFETY: By the safety requirements of `of()` the folio is there. Nobody but we access the field.
        unsafe {
            let folio = ptr::addr_of_mut!((*self.folio()).__bindgen_anon_1.__bindgen_anon_1);
            AtomicPtr::from_ptr(ptr::addr_of_mut!((*folio).__bindgen_anon_3.private))
        }
    }

    #[inline]
    pub(super) fn folio(&self) -> *mut c::folio {
        self.folio.cast_mut()
    }

    #[inline]
    pub(super) fn is_huge(&self) -> bool {
        // SAFETY: By the safety requirements of `of()`.
        unsafe { c::folio_nr_pages(self.folio) as u64 == PMD_SIZE / PAGE }
    }
}

/// The page of the file where a folio begins.
///
/// # Safety
///
/// The folio is in the page cache of a file, and stays there, or the result is not believed.
#[inline]
pub(super) unsafe fn folio_index(folio: *const c::folio) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe {
        let folio = &(*folio).__bindgen_anon_1.__bindgen_anon_1;
        folio.__bindgen_anon_2.index as u64
    }
}

impl DaxEntry {
    const LOCKED: usize = 1 << 0;
    const PMD: usize = 1 << 1;
    const UNBACKED: usize = 1 << 2 | 1 << 3;
    const PFN_SHIFT: u32 = 4;

    /// The entry for page `index`, if there is one.
    ///
    /// # Safety
    ///
    /// `inode` is a mapped one, in use.
    #[inline]
    pub(super) unsafe fn at(inode: *const c::inode, index: u64) -> Option<Self> {
        // SAFETY: By the safety requirements. The tree may change meanwhile, under RCU.
        let entry = unsafe {
            let pages = ptr::addr_of!((*inode).i_data.i_pages).cast_mut();
            c::xa_load(pages, index as ffi::c_ulong)
        };
        Self::new(entry)
    }

    /// The first entry of pages `first` to `last`, if there is one.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn first(inode: *const c::inode, first: u64, last: u64) -> Option<Self> {
        let mut index = first as ffi::c_ulong;
        // SAFETY: As in `at()`.
        let entry = unsafe {
            let pages = ptr::addr_of!((*inode).i_data.i_pages).cast_mut();
            c::xa_find(pages, &mut index, last as ffi::c_ulong, c::XA_PRESENT)
        };
        Self::new(entry)
    }

    /// Calls `each` with the entries of pages `first` to `last`, and a page of each.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    unsafe fn for_each(
        inode: *const c::inode,
        first: u64,
        last: u64,
        mut each: impl FnMut(u64, Self),
    ) {
        let (mut index, last) = (first as ffi::c_ulong, last as ffi::c_ulong);

        // SAFETY: As in `at()`.
        unsafe {
            let pages = ptr::addr_of!((*inode).i_data.i_pages).cast_mut();
            let mut entry = c::xa_find(pages, &mut index, last, c::XA_PRESENT);
            while !entry.is_null() {
                if let Some(entry) = Self::new(entry) {
                    each(index as u64, entry);
                }
                entry = c::xa_find_after(pages, &mut index, last, c::XA_PRESENT);
            }
        }
    }

    #[inline]
    fn new(entry: *mut ffi::c_void) -> Option<Self> {
        // What is not a value is no entry of DAX.
        let value = entry as usize;
        (value & 1 != 0).then_some(Self(value >> 1))
    }

    #[inline]
    pub(super) fn is_huge(self) -> bool {
        self.0 & Self::PMD != 0
    }

    #[inline]
    pub(super) fn is_locked(self) -> bool {
        self.0 & Self::LOCKED != 0
    }

    /// The page frame behind page `index` of the file, if it is backed.
    #[inline]
    pub(super) fn pfn_of(self, index: u64) -> Option<u64> {
        if self.0 & Self::UNBACKED != 0 {
            return None;
        }
        let first = (self.0 >> Self::PFN_SHIFT) as u64;
        let within = if self.0 & Self::PMD != 0 {
            index % (PMD_SIZE / PAGE)
        } else {
            0
        };
        Some(first + within)
    }
}

/// Calls `each` for every mapped inode of a mount, which is held meanwhile.
///
/// # Safety
///
/// `sb` is bound, and kept mounted by the caller.
pub(super) unsafe fn for_each_mapped(sb: *mut c::super_block, mut each: impl FnMut(*mut c::inode)) {
    // SAFETY: By the safety requirements. An inode that is held stays in the list, so the next one
    // can be found from it once the lock has been given up. A header that is seen stays until eviction.
    unsafe {
        let list = ptr::addr_of_mut!((*sb).s_inodes);
        let lock = ptr::addr_of_mut!((*sb).s_inode_list_lock);
        let mut held: *mut c::inode = ptr::null_mut();

        c::spin_lock(lock);
        let mut entry = (*list).next;
        while entry != list {
            let inode = container_of!(entry, c::inode, i_sb_list);

            if is_mapped(inode) && !c::igrab(inode).is_null() {
                c::spin_unlock(lock);
                if !held.is_null() {
                    c::iput(held);
                }
                held = inode;
                each(inode);
                c::spin_lock(lock);
            }
            entry = (*entry).next;
        }
        c::spin_unlock(lock);
        if !held.is_null() {
            c::iput(held);
        }
    }
}

/// # Safety
///
/// The inode is of a bound mount, and does not go away meanwhile.
unsafe fn is_mapped(inode: *const c::inode) -> bool {
    // SAFETY: By the safety requirements.
    unsafe {
        let private = ptr::addr_of!((*inode).i_private).read_volatile();

        u32::from((*inode).i_mode) & c::S_IFMT == c::S_IFREG
            && !private.is_null()
            && private != PLAIN
    }
}
