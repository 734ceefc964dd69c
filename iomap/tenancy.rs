// SPDX-License-Identifier: GPL-2.0

//! Who has which memory: a page of a device belongs to one place of one file at a time.
//!
//! A file becomes the tenant of memory at the first fault that maps it, and gives it up when it is
//! evicted or the device goes away. DAX notes the tenant in its entry and in the folio.
//!
//! What comes and goes in the DAX page caches of a mount is guarded by one lock ([`Tenants`]). Only
//! the first touch of a piece of memory takes it, and who gives memory up.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    prelude::*,
    sync::SetOnce,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    abstractions::{
        mm::noio::NoioScope,
        sync::{
            rw_semaphore::{
                ReadGuard,
                RwSemaphore,
                WriteGuard, //
            },
            srcu_fast::{
                Reader,
                SrcuFast, //
            }, //
        }, //
    },
    bindings::kernel as c,
    daxdev::Device,
    fmap_ops::Mount, //
};

use super::{
    judge::Refusal,
    mapped_files::MappedFiles,
    Header,
    PAGE,
    PMD_SIZE, //
};

/// Makes sure that a fault maps memory that this place of the file has, or may have.
///
/// `pages` are the pages that the fault may map: from `pos` on, at `addr` of the device. DAX has an
/// entry for the first of them, and holds it locked: another fault does not change it meanwhile.
///
/// If nobody has the memory yet, the result is a lock to be held until DAX has noted the tenant.
#[inline]
pub(super) fn move_in<'a>(
    header: &'a Header,
    device: &Device,
    addr: u64,
    pos: u64,
    pages: u64,
) -> Result<Option<MovingIn<'a>>, Refusal> {
    // SAFETY: The file is mapped, as we are called for it.
    let entry = unsafe { DaxEntry::at(header.dax_mapping(), pos / PAGE) };

    if let Some(pfn) = entry.and_then(|entry| entry.pfn_of(pos / PAGE)) {
        return match device.with_frames(addr, 1, |frames| frames.pfn) {
            Some(claimed) if claimed == Some(pfn) => Ok(None),
            Some(_) => Err(Refusal::Moved),
            None => Err(Refusal::FailedDevice),
        };
    }
    let moving_in = MovingIn::new(header.mount());
    // Who marks memory as failed takes the same lock afterwards (`kill_tenants()`).
    if device.may_be_unsound() {
        match device.sound_pages(addr, pages) {
            None => return Err(Refusal::FailedDevice),
            Some(sound) if sound < pages => return Err(Refusal::Poisoned),
            Some(_) => (),
        }
    }
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
/// A hole has no tenant, and its entry in the page cache is the zero page. DAX replaces that,
/// should the program say later that there is memory; but what is memory once, stays so, as in
/// [`move_in`].
#[cold]
pub(super) fn may_be_hole(header: &Header, pos: u64, flags: u32) -> Result<(), Refusal> {
    if flags & c::IOMAP_WRITE != 0 {
        return Err(Refusal::WriteToHole);
    }
    if flags & c::IOMAP_FAULT == 0 {
        return Ok(());
    }
    // SAFETY: A fault is of a file that is mapped by mmap(2).
    let entry = unsafe { DaxEntry::at(header.dax_mapping(), pos / PAGE) };
    if entry.is_some_and(|entry| entry.pfn_of(pos / PAGE).is_some()) {
        return Err(Refusal::Moved);
    }
    Ok(())
}

/// The locks on the memory of a mount.
#[pin_data]
pub(crate) struct Tenants {
    /// On who has which memory.
    #[pin]
    lock: RwSemaphore,
    /// A task that flushes, reads or writes memory by the kernel's own mapping of it is a reader.
    /// There before any file is mapped.
    users: SetOnce<Pin<KBox<SrcuFast>>>,
    /// The same, found faster; or null.
    shortcut: AtomicPtr<SrcuFast>,
}

impl Tenants {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- RwSemaphore::new(
                c"fuse_dax_fmap::Tenants::lock",
                kernel::static_lock_class!(),
            ),
            users: SetOnce::new(),
            shortcut: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Makes what files need. May sleep. One task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.users.as_ref().is_none() {
            let name = c"fuse_dax_fmap::Tenants::users";
            let users = SrcuFast::new(name, kernel::static_lock_class!());
            self.users.populate(KBox::pin_init(users, GFP_KERNEL)?);
        }
        if let Some(users) = self.users() {
            let users = ptr::from_ref(users).cast_mut();
            self.shortcut.store(users, Ordering::Release);
        }
        Ok(())
    }

    /// Waits for flushes, reads and writes that do not know what was marked as failed before this.
    /// Those that begin meanwhile know, and neither wait nor are waited for. None of them waits for
    /// a server.
    pub(super) fn wait_for_users(&self) {
        if let Some(users) = self.users.as_ref() {
            users.synchronize_expedited();
        }
    }

    fn users(&self) -> Option<&SrcuFast> {
        self.users.as_ref().map(|users| &**users)
    }

    /// Takes the lock on ownership shared: no folio changes its owner, is put together or taken
    /// apart until the result is dropped. May wait for another task, but not for a server.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] if it would have to wait and must not.
    pub(super) fn hold_still(&self, nowait: bool) -> Result<HoldsStill<'_>> {
        let lock = if nowait {
            self.lock.try_read().ok_or(EAGAIN)?
        } else {
            self.lock.read()
        };
        Ok(HoldsStill { _lock: lock })
    }

    /// What reads and writes of a mapped file are readers of.
    #[inline]
    pub(super) fn users_of_mapped(&self) -> Option<&SrcuFast> {
        let users = self.shortcut.load(Ordering::Relaxed);

        // SAFETY: If it is not null it is what `users` has, which stays as long as `self`. It was
        // stored before the file's map was published.
        unsafe { users.as_ref() }
    }
}

/// The lock on ownership, taken shared ([`Tenants::hold_still`]).
#[must_use = "folios may change as soon as this is dropped"]
pub(super) struct HoldsStill<'a> {
    _lock: ReadGuard<'a>,
}

/// The right to flush: what has failed by now is known as that, and a memory failure that comes
/// later waits ([`Tenants::wait_for_users`]). To get it never waits: eviction flushes, too, and
/// reclaim may have called that in a fault which a flush waits for.
pub(super) struct Flushing<'a> {
    _reader: Option<Reader<'a>>,
}

impl<'a> Flushing<'a> {
    pub(super) fn new(mount: &'a Mount) -> Self {
        Self {
            _reader: mount.tenants.users().map(SrcuFast::read_lock),
        }
    }
}

/// The right to change who has memory of a mount.
///
/// A task that holds it must not wait for it once more by allocating memory: reclaim evicts inodes
/// of this mount, and writes to swap, which may be a loop device over a file of this mount; both
/// take the same lock. So it begins a memalloc_noio scope.
pub(super) struct MovingIn<'a> {
    // Dropped in this order.
    lock: WriteGuard<'a>,
    noio: NoioScope,
}

impl<'a> MovingIn<'a> {
    /// Waits until no other task has it.
    pub(super) fn new(mount: &'a Mount) -> Self {
        let noio = NoioScope::new();

        Self {
            lock: mount.tenants.lock.write(),
            noio,
        }
    }

    /// A bit of the address that an aligned lock does not use: whether the scope is nested.
    const NESTED: usize = 1;

    /// For `iomap->private`: null for nothing.
    pub(super) fn into_raw(moving_in: Option<Self>) -> *mut ffi::c_void {
        moving_in.map_or(ptr::null_mut(), |Self { lock, noio }| {
            let nested = usize::from(noio.into_raw());
            lock.into_raw().map_addr(|lock| lock | nested).cast()
        })
    }

    /// # Safety
    ///
    /// `raw` comes from [`MovingIn::into_raw`], by the same task, and is used only once. The mount
    /// is there for `'a`.
    pub(super) unsafe fn from_raw(raw: *mut ffi::c_void) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        let lock = raw.map_addr(|lock| lock & !Self::NESTED).cast();
        Some(Self {
            // SAFETY: `raw` has the lock, which is locked, and the mount's.
            lock: unsafe { WriteGuard::from_raw(lock) },
            // SAFETY: `raw` has what the scope was, which this task has begun.
            noio: unsafe { NoioScope::from_raw(raw.addr() & Self::NESTED != 0) },
        })
    }
}

impl MovingIn<'_> {
    /// Takes what is backed from byte `start` to `end` out of the DAX page cache of a file, and
    /// what was noted in the folios out of them: pages that are put together to a folio have to be
    /// blank.
    ///
    /// # Safety
    ///
    /// The lock is that of the file's mount. The file is mapped, and its inode is evicted, or no
    /// fault is under way; nothing of the range is mapped or in use.
    pub(super) unsafe fn move_out(&self, header: &Header, start: c::loff_t, end: c::loff_t) {
        let last = end as u64 / PAGE;
        let mapping = header.dax_mapping();

        // SAFETY: By the safety requirements. The frame of an entry has a memory map.
        unsafe {
            DaxEntry::for_each(
                mapping,
                start as u64 / PAGE,
                last,
                c::XA_PRESENT,
                |index, entry| {
                    if let Some(pfn) = entry.pfn_of(index) {
                        Folio::of(pfn).set_note(0, Ordering::Relaxed);
                    }
                },
            );
            c::dax_delete_mapping_range(mapping, start, end);
        }
    }
}

/// What DAX has noted for a page of a file: the page frames that back it.
///
/// An entry is a value in the page cache. Its bits are DAX's own (fs/dax.c): from bit 4 on the page
/// frame, and below it whether it is locked (0), 2 MiB (1), a hole (2) or not backed yet (3).
#[derive(Clone, Copy)]
pub(super) struct DaxEntry(usize);

/// A folio of a device, whoever has it.
#[derive(Clone, Copy)]
pub(super) struct Folio(*const c::folio);

/// What DAX has noted in a folio: the pages of a file that it backs.
#[derive(Clone, Copy)]
pub(super) struct Tenancy {
    folio: Folio,
    pages: u64,
}

impl Folio {
    /// The one that a page frame is in now.
    ///
    /// # Safety
    ///
    /// The frame has a memory map, as long as the result is used.
    #[inline]
    pub(super) unsafe fn of(pfn: u64) -> Self {
        // SAFETY: Frame `pfn` has a memory map, by the safety requirements.
        Self(unsafe { c::pfn_folio(pfn as ffi::c_ulong) })
    }

    /// What a tenant has noted in the folio, maybe another one, maybe long ago. DAX leaves
    /// `folio->private` to the file system (include/linux/mm_types.h), and so does everybody else
    /// where PG_private is not set.
    #[inline]
    pub(super) fn note(self, order: Ordering) -> u64 {
        self.private().load(order) as u64
    }

    /// Notes something else, for a folio that is the caller's.
    #[inline]
    pub(super) fn set_note(self, note: u64, order: Ordering) {
        self.private().store(note as *mut ffi::c_void, order);
    }

    #[inline]
    fn private(&self) -> &AtomicPtr<ffi::c_void> {
        // SAFETY: By the safety requirements of `of()` the folio is there. Nobody but we access the
        // field.
        unsafe {
            let folio = ptr::addr_of_mut!((*self.0.cast_mut()).__bindgen_anon_1.__bindgen_anon_1);
            AtomicPtr::from_ptr(ptr::addr_of_mut!((*folio).__bindgen_anon_3.private))
        }
    }

    /// Whether it is in use through a file that is closed, and has another page cache than `own`.
    ///
    /// # Safety
    ///
    /// The folio is of a device that a mount of ours holds, and was looked up with [`HoldsStill`]:
    /// without it, the page may be a tail page by now, whose `mapping` is no pointer. This is
    /// called under RCU.
    pub(super) unsafe fn is_leftover_but_for(self, own: Option<*mut c::address_space>) -> bool {
        // SAFETY: The folio `self.0` has a memory map, by the safety requirements.
        unsafe {
            let folio = &(*self.0).__bindgen_anon_1.__bindgen_anon_1;
            let mapping = ptr::addr_of!(folio.mapping).read_volatile();

            !mapping.is_null() && own != Some(mapping) && MappedFiles::is_leftover(mapping)
        }
    }

    /// What it says of its tenant, if that is page `index` of `mapping` for page frame `pfn`.
    ///
    /// That it was the frame's folio a moment ago does not count: a folio may have been taken apart
    /// since. So what it is now says where in it the frame is, and a folio is aligned.
    #[inline]
    pub(super) fn tenancy_at(
        self,
        mapping: *const c::address_space,
        pfn: u64,
        index: u64,
    ) -> Option<Tenancy> {
        // SAFETY: By the safety requirements of `of()`.
        let (tenant, first, pages) = unsafe {
            let pages = c::folio_nr_pages(self.0) as u64;
            let folio = &(*self.0).__bindgen_anon_1.__bindgen_anon_1;
            let tenant = ptr::addr_of!(folio.mapping).read_volatile();
            (tenant, folio_index(self.0), pages)
        };
        let is_there = ptr::eq(tenant, mapping) && first + (pfn & pages.wrapping_sub(1)) == index;
        is_there.then_some(Tenancy { folio: self, pages })
    }
}

impl Tenancy {
    /// The first page of the file.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        // SAFETY: By the safety requirements of `Folio::of()`.
        unsafe { folio_index(self.folio.0) }
    }

    #[inline]
    pub(super) fn folio(&self) -> *mut c::folio {
        self.folio.0.cast_mut()
    }

    #[inline]
    pub(super) fn is_huge(&self) -> bool {
        self.pages == PMD_SIZE / PAGE
    }
}

/// The page of the file where a folio begins.
///
/// # Safety
///
/// The folio is in the page cache of a file, and stays there, or the result is not believed.
#[inline]
pub(super) unsafe fn folio_index(folio: *const c::folio) -> u64 {
    // SAFETY: `folio` has a memory map, by the safety requirements.
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
    /// `mapping` is a DAX page cache, of a file that stays mapped.
    #[inline]
    pub(super) unsafe fn at(mapping: *const c::address_space, index: u64) -> Option<Self> {
        // SAFETY: By the safety requirements. The tree may change meanwhile, under RCU.
        let entry = unsafe {
            let pages = ptr::addr_of!((*mapping).i_pages).cast_mut();
            c::xa_load(pages, index as ffi::c_ulong)
        };
        Self::new(entry)
    }

    /// The first entry of pages `first` to `last`, if there is one.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn first(
        mapping: *const c::address_space,
        first: u64,
        last: u64,
    ) -> Option<Self> {
        let mut index = first as ffi::c_ulong;
        // SAFETY: As in `at()`.
        let entry = unsafe {
            let pages = ptr::addr_of!((*mapping).i_pages).cast_mut();
            c::xa_find(pages, &mut index, last as ffi::c_ulong, c::XA_PRESENT)
        };
        Self::new(entry)
    }

    /// A page of the first entry of pages `first` to `last` that is marked dirty, if there is one.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn first_dirty(
        mapping: *const c::address_space,
        first: u64,
        last: u64,
    ) -> Option<u64> {
        let mut index = first as ffi::c_ulong;
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements. The tree may change
        // meanwhile, under RCU.
        let entry = unsafe {
            let pages = ptr::addr_of!((*mapping).i_pages).cast_mut();
            c::xa_find(
                pages,
                &mut index,
                last as ffi::c_ulong,
                c::PAGECACHE_TAG_DIRTY,
            )
        };
        (!entry.is_null()).then_some(index as u64)
    }

    /// Whether there is no entry at all.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn is_empty(mapping: *const c::address_space) -> bool {
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        unsafe { ptr::addr_of!((*mapping).i_pages.xa_head).read_volatile() }.is_null()
    }

    /// Whether an entry may be marked dirty.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn any_dirty(mapping: *const c::address_space) -> bool {
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        let flags = unsafe { ptr::addr_of!((*mapping).i_pages.xa_flags).read_volatile() };

        flags & c::XA_FLAGS_MARK_DIRTY != 0
    }

    /// Marks or unmarks the entry of page `index` as dirty.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn set_dirty(mapping: *mut c::address_space, index: u64, dirty: bool) {
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        unsafe {
            let pages = &raw mut (*mapping).i_pages;
            let index = index as ffi::c_ulong;

            c::fuse_dax_fmap_xa_lock_irq(pages);
            if dirty {
                c::__xa_set_mark(pages, index, c::PAGECACHE_TAG_DIRTY);
            } else {
                c::__xa_clear_mark(pages, index, c::PAGECACHE_TAG_DIRTY);
                c::__xa_clear_mark(pages, index, c::PAGECACHE_TAG_TOWRITE);
            }
            c::fuse_dax_fmap_xa_unlock_irq(pages);
        }
    }

    /// Marks the entries of pages `first` to `last` that are backed as dirty. Who writes one back
    /// meanwhile is waited for: he may have flushed it already, and takes the mark off later.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`], and no fault is under way.
    pub(super) unsafe fn mark_dirty(mapping: *mut c::address_space, first: u64, last: u64) {
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        unsafe {
            Self::for_each(mapping, first, last, c::XA_PRESENT, |index, _| {
                while !Self::try_mark_dirty(mapping, index) {
                    fsleep(Delta::from_millis(1));
                }
            });
        }
    }

    /// Marks the entry of page `index` as dirty, if it is backed. Returns whether it was not
    /// locked: only then.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    unsafe fn try_mark_dirty(mapping: *mut c::address_space, index: u64) -> bool {
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        let pages = unsafe { &raw mut (*mapping).i_pages };

        // SAFETY: The tree of `mapping` is there as long as `mapping`.
        unsafe { c::fuse_dax_fmap_xa_lock_irq(pages) };
        // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
        let entry = unsafe { Self::at(mapping, index) };
        let is_locked = entry.is_some_and(Self::is_locked);
        if !is_locked && entry.is_some_and(|entry| entry.pfn_of(index).is_some()) {
            // SAFETY: The tree is locked, and the entry there.
            unsafe { c::__xa_set_mark(pages, index as ffi::c_ulong, c::PAGECACHE_TAG_DIRTY) };
        }
        // SAFETY: Locked above.
        unsafe { c::fuse_dax_fmap_xa_unlock_irq(pages) };
        !is_locked
    }

    /// Calls `each` with the entries of pages `first` to `last` that have a mark, and a page of
    /// each.
    ///
    /// # Safety
    ///
    /// As [`DaxEntry::at`].
    pub(super) unsafe fn for_each(
        mapping: *const c::address_space,
        first: u64,
        last: u64,
        mark: c::xa_mark_t,
        mut each: impl FnMut(u64, Self),
    ) {
        let (mut index, last) = (first as ffi::c_ulong, last as ffi::c_ulong);

        // SAFETY: As in `at()`.
        unsafe {
            let pages = ptr::addr_of!((*mapping).i_pages).cast_mut();
            let mut entry = c::xa_find(pages, &mut index, last, mark);
            while !entry.is_null() {
                if let Some(entry) = Self::new(entry) {
                    each(index as u64, entry);
                }
                entry = c::xa_find_after(pages, &mut index, last, mark);
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

    /// The first page frame and the number of pages, if it is backed.
    pub(super) fn frames(self) -> Option<(u64, u64)> {
        let pages = if self.is_huge() { PMD_SIZE / PAGE } else { 1 };

        Some((self.pfn_of(0)?, pages))
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
