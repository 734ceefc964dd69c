// SPDX-License-Identifier: GPL-2.0

//! The page frames that a device of the dax bus is made of.

use kernel::{
    ffi,
    page::PAGE_SIZE, //
};

use crate::{
    abstractions::dax::DevDax,
    bindings::kernel as c, //
};

/// Pages of a device, as page frames.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    /// The first one, or `None` if they are not all there in one piece: DAX does not map those at
    /// once.
    pub(crate) pfn: Option<u64>,
    pub(crate) pages: u64,
}

/// Returns the frames of `pages` pages from `addr` on. They do not change as long as the device is
/// alive.
pub(super) fn frames_at(dev_dax: &DevDax, addr: u64, pages: u64) -> Frames {
    let page = PAGE_SIZE as u64;
    let phys = dev_dax.pgoff_to_phys(addr / page, pages * page);

    Frames {
        pfn: phys.map(|phys| phys / page),
        pages,
    }
}

impl Frames {
    /// Returns true if none of the pages is associated with a page cache other than `own`, which
    /// may be null.
    ///
    /// # Safety
    ///
    /// Called inside `Device::with_frames()`.
    pub(crate) unsafe fn are_vacant_but_for(&self, own: *const c::address_space) -> bool {
        let Some(pfn) = self.pfn else {
            return true;
        };
        // SAFETY: The frames have a memory map inside `with_frames()`, by the safety requirements.
        unsafe { c::fuse_dax_fmap_are_vacant(pfn as ffi::c_ulong, self.pages, own) }
    }
}
