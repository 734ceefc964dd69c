// SPDX-License-Identifier: GPL-2.0

//! Folios of device memory.
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

/// A folio of device memory, as it was when it was looked up by a page frame: DAX may merge pages
/// into folios, and split folios, at any time.
///
/// # Invariants
///
/// For `'a` the page frame and the folio have struct pages.
#[derive(Clone, Copy)]
pub(crate) struct Folio<'a> {
    folio: *const c::folio,
    pfn: u64,
    _frame: PhantomData<&'a ()>,
}

impl<'a> Folio<'a> {
    /// Returns the folio that a page frame is currently part of.
    ///
    /// # Safety
    ///
    /// The page frame must have a struct page for `'a`.
    #[inline]
    pub(crate) unsafe fn of(pfn: u64) -> Self {
        Self {
            // SAFETY: By the safety requirements page frame `pfn` has a struct page.
            folio: unsafe { c::pfn_folio(pfn as ffi::c_ulong) },
            pfn,
            _frame: PhantomData,
        }
    }

    /// Returns the folio that begins with `page`, as if looked up by its first page frame.
    ///
    /// # Safety
    ///
    /// `page` must be the first page of a folio, and valid for `'a`.
    pub(crate) unsafe fn of_head(page: *mut c::page) -> Self {
        let folio = page.cast::<c::folio>();

        Self {
            folio,
            // SAFETY: By the safety requirements `folio` is valid.
            pfn: unsafe { c::folio_pfn(folio) } as u64,
            _frame: PhantomData,
        }
    }

    #[inline]
    fn fields(&self) -> *const c::folio__bindgen_ty_1__bindgen_ty_1 {
        // SAFETY: By the type invariants the folio has struct pages.
        unsafe { &raw const (*self.folio).__bindgen_anon_1.__bindgen_anon_1 }
    }

    #[inline]
    fn private(&self) -> &'a AtomicPtr<ffi::c_void> {
        // SAFETY: By the type invariants the folio has struct pages. DAX leaves the field to the
        // file system, which only accesses it through this function.
        unsafe {
            AtomicPtr::from_ptr((&raw const (*self.fields()).__bindgen_anon_3.private).cast_mut())
        }
    }

    /// Returns the cookie that the file system has stored in the folio. DAX leaves `folio->private`
    /// to the file system (include/linux/mm_types.h), and so does the rest of the kernel while
    /// PG_private is not set.
    #[inline]
    pub(crate) fn cookie(self, order: Ordering) -> u64 {
        self.private().load(order) as u64
    }

    /// Stores a cookie.
    #[inline]
    pub(crate) fn set_cookie(self, cookie: u64, order: Ordering) {
        self.private().store(cookie as *mut ffi::c_void, order);
    }

    /// Returns the page cache that the folio currently is in, or null.
    #[inline]
    pub(crate) fn mapping(self) -> *mut c::address_space {
        // SAFETY: By the type invariants the folio has struct pages; the field is read once.
        unsafe { (&raw const (*self.fields()).mapping).read_volatile() }
    }

    /// Returns the page offset of the folio in its file, if it is in a page cache.
    #[inline]
    pub(crate) fn index(self) -> u64 {
        // SAFETY: By the type invariants the folio has struct pages.
        unsafe { (*self.fields()).__bindgen_anon_2.index as u64 }
    }

    /// Returns the page frame that the folio was looked up by.
    #[inline]
    pub(crate) fn pfn(self) -> u64 {
        self.pfn
    }

    /// Returns the first page frame.
    #[inline]
    pub(crate) fn first_pfn(self) -> u64 {
        // SAFETY: By the type invariants the folio has struct pages.
        unsafe { c::folio_pfn(self.folio) as u64 }
    }

    #[inline]
    pub(crate) fn nr_pages(self) -> u64 {
        // SAFETY: By the type invariants the folio has struct pages.
        unsafe { c::folio_nr_pages(self.folio) as u64 }
    }

    /// Takes a reference. A DAX page that no task maps has no references, and the memory manager
    /// must not see a page without references while it maps it.
    ///
    /// # Safety
    ///
    /// The folio must be in the page cache of a file, and stay there as long as the result exists.
    #[inline]
    pub(crate) unsafe fn get(self) -> FolioRef<'a> {
        // SAFETY: By the safety requirements the folio is in a page cache.
        unsafe { c::folio_ref_inc(self.folio.cast_mut()) };
        // INVARIANT: The reference was taken just above.
        FolioRef(self)
    }
}

/// A reference to a folio.
///
/// # Invariants
///
/// `self` owns the reference.
#[must_use = "the reference is dropped when it is dropped"]
pub(crate) struct FolioRef<'a>(Folio<'a>);

impl FolioRef<'_> {
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::folio {
        self.0.folio.cast_mut()
    }

    /// Returns the page that the folio was looked up by.
    #[inline]
    pub(crate) fn page(&self) -> *mut c::page {
        // SAFETY: By the type invariants of `Folio` the page frame has a struct page.
        unsafe { c::fuse_dax_fmap_page(self.0.pfn as ffi::c_ulong) }
    }
}

impl Drop for FolioRef<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns the reference, which is dropped here.
        unsafe { c::folio_put(self.as_raw()) }
    }
}
