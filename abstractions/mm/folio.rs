// SPDX-License-Identifier: GPL-2.0

//! Folios of a device's memory.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::{
    marker::PhantomData,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::ffi;

use crate::bindings::kernel as c;

/// A folio of a device, as it was when it was found by a page frame: DAX puts pages together, and
/// takes folios apart.
///
/// # Invariants
///
/// The frame has a memory map for `'a`, and so has the folio.
#[derive(Clone, Copy)]
pub(crate) struct Folio<'a> {
    folio: *const c::folio,
    pfn: u64,
    _frame: PhantomData<&'a ()>,
}

impl<'a> Folio<'a> {
    /// The one that a page frame is in now.
    ///
    /// # Safety
    ///
    /// The frame has a memory map for `'a`.
    #[inline]
    pub(crate) unsafe fn of(pfn: u64) -> Self {
        Self {
            // SAFETY: Frame `pfn` has a memory map, by the safety requirements.
            folio: unsafe { c::pfn_folio(pfn as ffi::c_ulong) },
            pfn,
            _frame: PhantomData,
        }
    }

    /// The one that begins with a page, found by its first page frame.
    ///
    /// # Safety
    ///
    /// `page` is the first page of a folio, and has a memory map for `'a`.
    pub(crate) unsafe fn of_head(page: *mut c::page) -> Self {
        let folio = page.cast::<c::folio>();

        Self {
            folio,
            // SAFETY: `folio` has a memory map, by the safety requirements.
            pfn: unsafe { c::folio_pfn(folio) } as u64,
            _frame: PhantomData,
        }
    }

    #[inline]
    fn fields(&self) -> *const c::folio__bindgen_ty_1__bindgen_ty_1 {
        // SAFETY: By the type invariants the folio has a memory map.
        unsafe { &raw const (*self.folio).__bindgen_anon_1.__bindgen_anon_1 }
    }

    #[inline]
    fn private(&self) -> &'a AtomicPtr<ffi::c_void> {
        // SAFETY: By the type invariants the folio has a memory map. DAX leaves the field to the
        // file system, which accesses it here.
        unsafe {
            AtomicPtr::from_ptr((&raw const (*self.fields()).__bindgen_anon_3.private).cast_mut())
        }
    }

    /// What the file system has noted in the folio. DAX leaves `folio->private` to it
    /// (include/linux/mm_types.h), and so does all else where PG_private is not set.
    #[inline]
    pub(crate) fn cookie(self, order: Ordering) -> u64 {
        self.private().load(order) as u64
    }

    /// Notes something else.
    #[inline]
    pub(crate) fn set_cookie(self, cookie: u64, order: Ordering) {
        self.private().store(cookie as *mut ffi::c_void, order);
    }

    /// The page cache that it is in now, or null.
    #[inline]
    pub(crate) fn mapping(self) -> *mut c::address_space {
        // SAFETY: By the type invariants the folio has a memory map; the field is read once.
        unsafe { (&raw const (*self.fields()).mapping).read_volatile() }
    }

    /// The page of the file where it begins, if it is in a page cache.
    #[inline]
    pub(crate) fn index(self) -> u64 {
        // SAFETY: By the type invariants the folio has a memory map.
        unsafe { (*self.fields()).__bindgen_anon_2.index as u64 }
    }

    /// The page frame that it was found by.
    #[inline]
    pub(crate) fn pfn(self) -> u64 {
        self.pfn
    }

    /// Its first page frame.
    #[inline]
    pub(crate) fn first_pfn(self) -> u64 {
        // SAFETY: By the type invariants the folio has a memory map.
        unsafe { c::folio_pfn(self.folio) as u64 }
    }

    #[inline]
    pub(crate) fn nr_pages(self) -> u64 {
        // SAFETY: By the type invariants the folio has a memory map.
        unsafe { c::folio_nr_pages(self.folio) as u64 }
    }

    /// Takes a reference. A page that no task maps has none, and is not to be seen so by the memory
    /// manager while it is mapped.
    ///
    /// # Safety
    ///
    /// The folio is in the page cache of a file, and stays there as long as the result.
    #[inline]
    pub(crate) unsafe fn get(self) -> FolioRef<'a> {
        // SAFETY: The folio is in a page cache, by the safety requirements.
        unsafe { c::folio_ref_inc(self.folio.cast_mut()) };
        // INVARIANT: Taken just now.
        FolioRef(self)
    }
}

/// A reference to a folio.
///
/// # Invariants
///
/// `self` owns it.
#[must_use = "the reference is given up when it is dropped"]
pub(crate) struct FolioRef<'a>(Folio<'a>);

impl FolioRef<'_> {
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::folio {
        self.0.folio.cast_mut()
    }

    /// The page that the folio was found by.
    #[inline]
    pub(crate) fn page(&self) -> *mut c::page {
        // SAFETY: By the type invariants of the folio the frame has a memory map.
        unsafe { c::fuse_dax_fmap_page(self.0.pfn as ffi::c_ulong) }
    }
}

impl Drop for FolioRef<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is this one's to give up.
        unsafe { c::folio_put(self.as_raw()) }
    }
}
