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
//! page out of the kernel's own mapping (`set_mce_nospec()`). A page that were written anew before
//! that would be in use, and flushing it an oops. So each report, also one of a page that is known,
//! has to have *settled* before the page is written anew. The handler of memory that a task has
//! consumed is work which that task does on its way to user space; what it adds to that work is
//! done after it ([`Ended`]). Of a handler in a kernel thread nothing tells; it is given
//! [`SETTLE_MS`].

use core::{
    mem::{
        self,
        offset_of,
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
            Relaxed, //
        },
        global_lock, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
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
    /// The last report of it: a number that no other report has, of this page or another.
    report: u64,
    /// Reports whose handler may not be done yet.
    under_way: u32,
    /// The handlers of the others are done so many milliseconds after the last one has ended.
    ended: Instant<Monotonic>,
    settles_ms: i64,
}

impl Failed {
    /// How long some handler may take yet.
    fn unsettled_ms(&self) -> i64 {
        self.settles_ms - self.ended.elapsed().as_millis()
    }
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

/// A report about a page, until its handler is done.
#[must_use = "the report ends when this is dropped"]
pub(super) struct Report {
    pfn: u64,
    ended: Option<KBox<Ended>>,
}

/// Work that a task does after the handler of the failure that it has reported.
#[repr(C)]
struct Ended {
    work: c::callback_head,
    pfn: u64,
}

const _: () = assert!(offset_of!(Ended, work) == 0);

/// How long a handler in a kernel thread may take after its report.
const SETTLE_MS: i64 = 10_000;

/// The last number of a report.
static REPORTS: Atomic<u64> = Atomic::new(0);

/// Work of [`Ended`] that is not done yet, before the module may go.
static ENDING: Atomic<i64> = Atomic::new(0);

impl Report {
    /// Remembers that a page frame has failed. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn begin(pfn: u64) -> Result<Self> {
        let work = pin_init::zeroed();
        // Without, this is as in a kernel thread.
        let ended = KBox::new(Ended { work, pfn }, GFP_KERNEL).ok();
        let mut poisoned = POISONED.lock();
        let at = match find(&poisoned, pfn) {
            Ok(at) => at,
            Err(at) => {
                let failed = Failed {
                    pfn,
                    report: 0,
                    under_way: 0,
                    ended: Instant::now(),
                    settles_ms: 0,
                };
                // There is room (`make_room()`), so this is short.
                poisoned.push(failed, GFP_ATOMIC)?;
                poisoned[at..].rotate_right(1);
                at
            }
        };
        let failed = &mut poisoned[at];
        failed.under_way += 1;
        failed.report = REPORTS.fetch_add(1, Relaxed) + 1;
        Ok(Self { pfn, ended })
    }

    /// The handler is done, or will be after so many milliseconds.
    fn end(pfn: u64, ms: i64) {
        let mut poisoned = POISONED.lock();

        // While this is under way, the page is not forgotten.
        if let Ok(at) = find(&poisoned, pfn) {
            let failed = &mut poisoned[at];
            failed.under_way -= 1;
            failed.settles_ms = failed.unsettled_ms().max(ms);
            failed.ended = Instant::now();
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        const NO_SYSTEM_CALL: u32 = c::PF_KTHREAD | c::PF_EXITING | c::PF_USER_WORKER;

        // SAFETY: The current task is always valid.
        let returns = unsafe { (*c::get_current()).flags & NO_SYSTEM_CALL == 0 };
        let Some(mut ended) = self.ended.take().filter(|_| returns) else {
            return Self::end(self.pfn, SETTLE_MS);
        };
        ended.work.func = Some(handler_is_done);
        let work = KBox::into_raw(ended).cast::<c::callback_head>();
        ENDING.add(1, Relaxed);
        // SAFETY: `work` begins an `Ended`, and is the task's until it is called back.
        let added = unsafe {
            c::task_work_add(c::get_current(), work, c::task_work_notify_mode_TWA_RESUME)
        };
        if added != 0 {
            ENDING.add(-1, Relaxed);
            // SAFETY: `work` was not taken, and is ours still.
            drop(unsafe { KBox::from_raw(work.cast::<Ended>()) });
            Self::end(self.pfn, SETTLE_MS);
        }
    }
}

/// # Safety
///
/// Called by the task for which [`Report::drop`] has added this, with the work of an [`Ended`].
unsafe extern "C" fn handler_is_done(work: *mut c::callback_head) {
    // SAFETY: `work` begins an `Ended`, which is the callee's, by the safety requirements.
    let ended = unsafe { KBox::from_raw(work.cast::<Ended>()) };

    Report::end(ended.pfn, 0);
    drop(ended);
    ENDING.add(-1, Relaxed);
}

/// Whether tasks have yet to come back from the handler of a failure.
pub(super) fn are_ending() -> bool {
    ENDING.load(Relaxed) != 0
}

/// The last report of a page frame that has failed, if all of them have settled.
///
/// # Errors
///
/// [`EJUKEBOX`] if it has not: come again.
fn settled(pfn: u64) -> Result<u64> {
    let poisoned = POISONED.lock();
    // If it is not there, another task was faster.
    let failed = find(&poisoned, pfn).map(|at| poisoned[at]);

    match failed {
        Ok(failed) if failed.under_way == 0 && failed.unsettled_ms() <= 0 => Ok(failed.report),
        _ => Err(EJUKEBOX),
    }
}

/// Forgets a page frame that was written anew, unless it was reported after `report`. Another task
/// may have written it, too, by another file, and it may have failed since.
///
/// # Errors
///
/// [`EJUKEBOX`] if it was.
fn forget(pfn: u64, report: u64) -> Result {
    let mut poisoned = POISONED.lock();
    let Ok(at) = find(&poisoned, pfn) else {
        return Ok(());
    };
    if poisoned[at].report != report {
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
    /// settled: come again, without locks.
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
        let report = settled(pfn as u64)?;
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
        forget(pfn as u64, report)?;
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
