// SPDX-License-Identifier: GPL-2.0

//! Memory that has failed: which page frames, and how one gets well again.
//!
//! The list is the module's, not a mount's: poison stays where it is when the mount goes. It is
//! forgotten when the page is rewritten, or with the module. The kernel's own mark, PG_hwpoison, is
//! no substitute: it lands on the first page of a 2 MiB folio, whichever page failed, and
//! `unpoison_memory()` does not take pages of devices.
//!
//! Only who has a device with the mark `POISONED` looks here, so nobody else pays for it.

use core::{
    mem::{
        self,
        MaybeUninit, //
    },
    ptr, //
};

use kernel::{
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    sync::global_lock, //
};

use crate::bindings::kernel as c;

use super::{
    DaxReadLock,
    Device,
    Frames, //
};

global_lock! {
    /// Page frames that have failed, in order.
    // SAFETY: `init()` runs before any mount is bound.
    unsafe(uninit) static POISONED: SpinLock<KVec<u64>> = KVec::new();
}

/// Room for so many page frames there is always, if there is any memory at all to be had meanwhile.
const SPARE: usize = 64;

/// Called once, while the module is loaded. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(super) fn init() -> Result {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { POISONED.init() };
    make_room()
}

/// Sees to it that [`SPARE`] page frames can be remembered without memory. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(super) fn make_room() -> Result {
    let known = {
        let poisoned = POISONED.lock();
        let known = poisoned.len();
        if poisoned.capacity() - known >= SPARE {
            return Ok(());
        }
        known
    };
    let mut frames = KVec::with_capacity(known + 4 * SPARE, GFP_KERNEL)?;
    let mut poisoned = POISONED.lock();
    // Others may have been here.
    if frames.capacity() > poisoned.capacity() {
        frames.extend_from_slice(&poisoned, GFP_ATOMIC)?;
        let old = mem::replace(&mut *poisoned, frames);
        drop(poisoned);
        drop(old);
    }
    Ok(())
}

/// # Errors
///
/// [`ENOMEM`].
pub(super) fn remember(pfn: u64) -> Result {
    let mut poisoned = POISONED.lock();

    if let Err(at) = poisoned.binary_search(&pfn) {
        // There is room (`make_room()`), so this is short.
        poisoned.push(pfn, GFP_ATOMIC)?;
        poisoned[at..].rotate_right(1);
    }
    Ok(())
}

fn forget(pfn: u64) {
    POISONED.lock().retain(|other| *other != pfn);
}

/// Gives the memory of the list back. Nobody knows then that the machine check handler has taken
/// those pages out of the kernel's own mapping, and to flush one is an oops; unbinding the device
/// maps them anew.
pub(super) fn forget_all() {
    let forgotten = mem::replace(&mut *POISONED.lock(), KVec::new());

    if !forgotten.is_empty() {
        pr_warn!(
            "{} pages that have failed are forgotten: unbind their devices before this is loaded again\n",
            forgotten.len()
        );
    }
}

/// Whether there is any.
pub(super) fn exists() -> bool {
    !POISONED.lock().is_empty()
}

/// Whether page frame `pfn` has failed.
pub(crate) fn is_poisoned(pfn: u64) -> bool {
    POISONED.lock().binary_search(&pfn).is_ok()
}

impl Frames {
    /// How many of these pages come before the first one that has failed.
    fn sound(&self) -> u64 {
        let Some(pfn) = self.pfn else {
            return 0;
        };
        let poisoned = POISONED.lock();
        let next = poisoned.partition_point(|other| *other < pfn);

        poisoned
            .get(next)
            .map_or(self.pages, |next| (next - pfn).min(self.pages))
    }
}

impl Device {
    /// How many of `pages` pages from `addr` on come before the first one that has failed; `None`
    /// if the device is going away.
    #[cold]
    pub(crate) fn sound_pages(&self, addr: u64, pages: u64) -> Option<u64> {
        let sound = self.with_frames(addr, pages, |frames| {
            frames.pfn.is_some().then(|| frames.sound())
        })?;
        match sound {
            Some(sound) => Some(sound),
            // Not in one piece: then at least the first page is.
            None => self.with_frames(addr, 1, |frames| frames.sound()),
        }
    }

    /// Writes a page that has failed anew, and takes it back into use.
    ///
    /// The driver stores past the caches. That replaces whole lines, and with them the poison, on
    /// hardware that can; if it cannot, the next access reports it again.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device is going away.
    pub(crate) fn rewrite(&self, addr: u64, page: &mut [u8; PAGE_SIZE]) -> Result {
        let pgoff = (addr / PAGE_SIZE as u64) as ffi::c_ulong;
        let source = c::kvec {
            iov_base: page.as_mut_ptr().cast(),
            iov_len: PAGE_SIZE,
        };
        let mut iter = MaybeUninit::uninit();
        let mut kaddr = ptr::null_mut();
        let mut pfn = 0;

        let _srcu = DaxReadLock::new();
        // SAFETY: The device is held.
        let pages = unsafe {
            c::dax_direct_access(
                self.as_raw(),
                pgoff,
                1,
                c::dax_access_mode_DAX_RECOVERY_WRITE,
                &mut kaddr,
                &mut pfn,
            )
        };
        if pages < 1 {
            return Err(EIO);
        }
        // SAFETY: The page is the device's, and stays so as long as the lock is held. The machine
        // check handler may have taken it out of the kernel's own mapping.
        unsafe { c::clear_mce_nospec(pfn) };
        // SAFETY: `source` is valid as long as `iter`.
        unsafe { c::iov_iter_kvec(iter.as_mut_ptr(), c::ITER_SOURCE, &source, 1, PAGE_SIZE) };
        // SAFETY: `kaddr` is the page's.
        let written = unsafe {
            c::dax_recovery_write(self.as_raw(), pgoff, kaddr, PAGE_SIZE, iter.as_mut_ptr())
        };
        if written < PAGE_SIZE {
            return Err(EIO);
        }
        forget(pfn as u64);
        // SAFETY: The page is the device's.
        unsafe { mark_page(pfn as u64, false) };
        pr_info!(
            "{}: {:#x} was written anew and is in use again\n",
            &*self.name,
            addr
        );
        Ok(())
    }
}

/// Sets or clears PG_hwpoison, for all who look at it.
///
/// # Safety
///
/// The page frame has a memory map.
pub(crate) unsafe fn mark_page(pfn: u64, poisoned: bool) {
    // SAFETY: By the safety requirements.
    unsafe {
        let folio = c::pfn_folio(pfn as ffi::c_ulong);
        let within = pfn as usize - c::folio_pfn(folio) as usize;
        let page = folio.cast::<c::page>().add(within);

        if poisoned {
            c::SetPageHWPoison(page);
        } else {
            c::ClearPageHWPoison(page);
        }
    }
}
