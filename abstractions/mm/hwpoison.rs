// SPDX-License-Identifier: GPL-2.0

//! Pages with memory failures.
//!
//! C header: [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h)

use kernel::ffi;

use crate::bindings::kernel as c;

/// Sets or clears PG_hwpoison of a page.
///
/// # Safety
///
/// The page frame must have a struct page.
pub(crate) unsafe fn mark_page(pfn: u64, poisoned: bool) {
    // SAFETY: By the safety requirements `pfn` has a struct page.
    let page = unsafe { c::fuse_dax_fmap_page(pfn as ffi::c_ulong) };

    if poisoned {
        // SAFETY: `page` is valid, as its page frame has a struct page.
        unsafe { c::SetPageHWPoison(page) };
    } else {
        // SAFETY: `page` is valid, as its page frame has a struct page.
        unsafe { c::ClearPageHWPoison(page) };
    }
}
