// SPDX-License-Identifier: GPL-2.0

//! Pages that have failed.
//!
//! C header: [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h)

use kernel::ffi;

use crate::bindings::kernel as c;

/// Sets or clears PG_hwpoison, for all who look at it.
///
/// # Safety
///
/// The page frame has a memory map.
pub(crate) unsafe fn mark_page(pfn: u64, poisoned: bool) {
    // SAFETY: `pfn` has a memory map, by the safety requirements.
    let page = unsafe { c::fuse_dax_fmap_page(pfn as ffi::c_ulong) };

    if poisoned {
        // SAFETY: `page` is valid, as its frame has a memory map.
        unsafe { c::SetPageHWPoison(page) };
    } else {
        // SAFETY: `page` is valid, as its frame has a memory map.
        unsafe { c::ClearPageHWPoison(page) };
    }
}
