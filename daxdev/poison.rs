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

use core::mem;

use kernel::{
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

use crate::{
    abstractions::{
        dax::RecoveryPage,
        task, //
    },
    bindings::kernel as c, //
};

use super::frames::Frames;

pub(crate) use crate::abstractions::mm::hwpoison::mark_page;

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
pub(super) struct Report(u64);

/// How long a handler in a kernel thread may take after its report.
const SETTLE_MS: i64 = 10_000;

/// The last number of a report.
static REPORTS: Atomic<u64> = Atomic::new(0);

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
        Ok(Self(pfn))
    }
}

impl Drop for Report {
    /// May sleep.
    fn drop(&mut self) {
        const NO_SYSTEM_CALL: u32 = c::PF_KTHREAD | c::PF_EXITING | c::PF_USER_WORKER;

        let ended = Ended::new(self.0);
        if task::flags() & NO_SYSTEM_CALL == 0 {
            // Without memory for it, this is as in a kernel thread.
            // SAFETY: Unloading waits for `ended` (`are_ending()`), and `Hooks::drop` for tasks.
            let _ = unsafe { task::run_on_return(ended) };
        }
    }
}

/// Work that a task does after the handler of the failure that it has reported.
struct Ended {
    pfn: u64,
    /// How many milliseconds the handler may take yet.
    settles_ms: i64,
}

/// How many [`Ended`] there are, before the module may go.
static ENDING: Atomic<i64> = Atomic::new(0);

impl Ended {
    fn new(pfn: u64) -> Self {
        ENDING.add(1, Relaxed);
        // What is not done by the task is dropped, and then nothing tells.
        Self {
            pfn,
            settles_ms: SETTLE_MS,
        }
    }
}

impl task::WorkOnReturn for Ended {
    fn run(mut self) {
        self.settles_ms = 0;
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut poisoned = POISONED.lock();

        // While this is under way, the page is not forgotten.
        if let Ok(at) = find(&poisoned, self.pfn) {
            let failed = &mut poisoned[at];
            failed.under_way -= 1;
            failed.settles_ms = failed.unsettled_ms().max(self.settles_ms);
            failed.ended = Instant::now();
        }
        drop(poisoned);
        ENDING.add(-1, Relaxed);
    }
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
pub(super) fn settled(page: &RecoveryPage<'_>) -> Result<u64> {
    let poisoned = POISONED.lock();
    // If it is not there, another task was faster.
    let failed = find(&poisoned, page.pfn()).map(|at| poisoned[at]);

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
pub(super) fn forget(page: &RecoveryPage<'_>, report: u64) -> Result {
    let mut poisoned = POISONED.lock();
    let Ok(at) = find(&poisoned, page.pfn()) else {
        return Ok(());
    };
    if poisoned[at].report != report {
        return Err(EJUKEBOX);
    }
    poisoned[at..].rotate_left(1);
    poisoned.pop();
    // Under the lock: a later report marks it after this.
    // SAFETY: By its type invariants `page` is there, with its memory map.
    unsafe { mark_page(page.pfn(), false) };
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
    pub(super) fn healthy(&self) -> u64 {
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
