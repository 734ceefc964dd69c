// SPDX-License-Identifier: GPL-2.0

//! Memory that has failed: which page frames, and how one gets well again.
//!
//! The list is the module's, not a mount's: poison stays where it is when the mount goes. It is
//! forgotten when the page is rewritten, or with the module. The kernel's own mark, PG_hwpoison, is
//! no substitute: it lands on the first page of a 2 MiB folio, whichever page failed, and
//! `unpoison_memory()` does not take pages of devices.
//!
//! Only who has a device with the mark `POISONED` looks here, so nobody else pays for it.
//!
//! A failure is not over when its report returns: only then does the machine check handler take the
//! page out of the kernel's own mapping (`set_mce_nospec()`), and nothing tells when it has done
//! so. A page that were written anew before that would be in use, and flushing it an oops. So each
//! report, also one of a page that is known, has to have *settled* before the page is written anew
//! ([`settle`]).

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
    sync::{
        atomic::{
            Atomic,
            Full, //
        },
        global_lock, //
    },
    time::msecs_to_jiffies, //
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
    unsafe(uninit) static POISONED: SpinLock<KVec<Failed>> = KVec::new();
}

/// A page frame that has failed.
#[derive(Clone, Copy)]
struct Failed {
    pfn: u64,
    /// Reports about it that are under way.
    under_way: u32,
    /// When a report last began or ended, by [`EVENTS`].
    last: u64,
    /// Whether the last report has settled.
    settled: bool,
}

/// Counts what happens to reports. It only ever grows, so a value names a moment.
static EVENTS: Atomic<u64> = Atomic::new(0);

fn now() -> u64 {
    EVENTS.fetch_add(1, Full) + 1
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

fn find(poisoned: &[Failed], pfn: u64) -> Result<usize, usize> {
    poisoned.binary_search_by_key(&pfn, |failed| failed.pfn)
}

/// A report about a page that is under way.
#[must_use = "the report ends when this is dropped"]
pub(super) struct Report(u64);

impl Report {
    /// Remembers that a page frame has failed.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn begin(pfn: u64) -> Result<Self> {
        let mut poisoned = POISONED.lock();
        let at = match find(&poisoned, pfn) {
            Ok(at) => at,
            Err(at) => {
                let failed = Failed {
                    pfn,
                    under_way: 0,
                    last: 0,
                    settled: false,
                };
                // There is room (`make_room()`), so this is short.
                poisoned.push(failed, GFP_ATOMIC)?;
                poisoned[at..].rotate_right(1);
                at
            }
        };
        let failed = &mut poisoned[at];
        failed.under_way += 1;
        failed.last = now();
        failed.settled = false;
        Ok(Self(pfn))
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let mut poisoned = POISONED.lock();

        // While this is under way, the page is not forgotten.
        if let Ok(at) = find(&poisoned, self.0) {
            let failed = &mut poisoned[at];
            failed.under_way -= 1;
            failed.last = now();
        }
    }
}

/// How long the task that reported a failure may sleep, after its report, until it has taken the
/// page out of the kernel's own mapping.
const SETTLE_MS: u32 = 100;

/// Waits until the reports that have ended by now have settled. Those that have not yet, are for
/// the next call. May sleep, for a few hundred milliseconds or so.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed.
pub(crate) fn settle() -> Result {
    let before = now();

    // A task that was preempted since its report has run on, and slept, after this.
    // SAFETY: The caller may sleep.
    unsafe { c::synchronize_rcu_tasks() };
    // SAFETY: The caller may sleep.
    unsafe { c::schedule_timeout_killable(msecs_to_jiffies(SETTLE_MS) as ffi::c_long) };
    // SAFETY: The current task is always valid.
    if unsafe { c::fatal_signal_pending(c::get_current()) } != 0 {
        return Err(EINTR);
    }
    for failed in POISONED.lock().iter_mut() {
        failed.settled |= failed.under_way == 0 && failed.last < before;
    }
    Ok(())
}

/// The moment of the last report about a page frame that has failed, if it has settled.
///
/// # Errors
///
/// [`EJUKEBOX`] if it has not: come again after [`settle`].
fn settled(pfn: u64) -> Result<u64> {
    let poisoned = POISONED.lock();

    match find(&poisoned, pfn) {
        Ok(at) if poisoned[at].settled => Ok(poisoned[at].last),
        Ok(_) => Err(EJUKEBOX),
        // Another task was faster.
        Err(_) => Err(EJUKEBOX),
    }
}

/// Forgets a page frame that was written anew, unless it was reported again after that moment.
///
/// # Errors
///
/// [`EJUKEBOX`] if it was.
fn forget(pfn: u64, moment: u64) -> Result {
    let mut poisoned = POISONED.lock();
    let Ok(at) = find(&poisoned, pfn) else {
        return Ok(());
    };
    if poisoned[at].last != moment {
        return Err(EJUKEBOX);
    }
    poisoned[at..].rotate_left(1);
    poisoned.pop();
    // Under the lock: a later report marks it after this.
    // SAFETY: The page is of a device that the caller holds.
    unsafe { mark_page(pfn, false) };
    Ok(())
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
    find(&POISONED.lock(), pfn).is_ok()
}

impl Frames {
    /// How many of these pages come before the first one that has failed.
    fn sound(&self) -> u64 {
        let Some(pfn) = self.pfn else {
            return 0;
        };
        let poisoned = POISONED.lock();
        let next = poisoned.partition_point(|failed| failed.pfn < pfn);

        poisoned
            .get(next)
            .map_or(self.pages, |next| (next.pfn - pfn).min(self.pages))
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
    /// [`EIO`] if the device is going away; [`EJUKEBOX`] if a report of the failure has not
    /// settled: come again after [`settle`], without locks.
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
        let moment = settled(pfn as u64)?;
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
        forget(pfn as u64, moment)?;
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
