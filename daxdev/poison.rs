// SPDX-License-Identifier: GPL-2.0

//! Memory that has failed: the list of its page frames, and how a page is taken back into use.
//!
//! The list belongs to the module and not to a mount, as poison stays where it is after the
//! unmount. A page is removed from the list when it is rewritten, or when the module is unloaded.
//! The kernel's own mark, PG_hwpoison, is no substitute: it is set on the first page of a 2 MiB
//! folio, whichever page failed, and `unpoison_memory()` does not accept pages of devices.
//!
//! The list is only looked at for devices that are marked `POISONED`, so it costs nothing
//! otherwise.
//!
//! A failure is not over when its report returns: only then does the machine check handler take the
//! page out of the direct map (`set_mce_nospec()`). If the page were rewritten before that, it
//! would be in use, and flushing it would oops. So each report, including one of a page that is in
//! the list already, has to have *settled* before the page is rewritten. If a task has consumed the
//! poison, the handler is task work, run on the way to user space, and task work that the report
//! adds runs after it ([`Ended`]). Nothing signals the end of a handler in a kernel thread; it is
//! given [`SETTLE_MS`].

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

use crate::abstractions::{
    dax::RecoveryPage,
    task, //
};

use super::frames::Frames;

pub(crate) use crate::abstractions::mm::hwpoison::mark_page;

global_lock! {
    /// The page frames that have failed, in ascending order.
    // SAFETY: `init()` runs before any mount is attached.
    unsafe(uninit) static POISONED: SpinLock<KVec<Failed>> = KVec::new();
}

/// A page frame that has failed.
#[derive(Clone, Copy)]
struct Failed {
    pfn: u64,
    /// The number of its last report. No other report has it, of this page or another.
    report: u64,
    /// The number of reports that have not ended.
    under_way: u32,
    /// When the last report ended. The handlers of all that have ended are done `settles_ms`
    /// milliseconds later.
    ended: Instant<Monotonic>,
    settles_ms: i64,
}

impl Failed {
    /// Returns for how many more milliseconds a handler may be running.
    fn unsettled_ms(&self) -> i64 {
        self.settles_ms - self.ended.elapsed().as_millis()
    }
}

/// The spare capacity that the list should always have, in page frames.
const SPARE: usize = 64;

/// Initializes the list. Called once, while the module is loaded. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(super) fn init() -> Result {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { POISONED.init() };
    make_room()
}

/// Ensures that [`SPARE`] page frames can be recorded without an allocation. May sleep.
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
    // Another task may have done the same.
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

/// A report about a page, until it returns to the machine check handler.
#[must_use = "the report ends when this is dropped"]
pub(super) struct Report(u64);

/// How long a handler in a kernel thread may take after its report.
const SETTLE_MS: i64 = 10_000;

/// The number of the last report.
static REPORTS: Atomic<u64> = Atomic::new(0);

impl Report {
    /// Records that a page frame has failed.
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
                // This allocates only if the spare entries are used up.
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
        let ended = Ended::new(self.0);
        if task::returns_to_user_space() {
            // Without memory, `ended` is dropped at once, as in a kernel thread.
            // SAFETY: Unloading waits for `ended` (`are_ending()`), and `Hooks::drop` for tasks.
            let _ = unsafe { task::run_on_return(ended) };
        }
    }
}

/// Task work that runs after the handler of the failure that the task has reported.
struct Ended {
    pfn: u64,
    /// How many more milliseconds the handler may take.
    settles_ms: i64,
}

/// The number of [`Ended`]. The module is not unloaded before it is 0.
static ENDING: Atomic<i64> = Atomic::new(0);

impl Ended {
    fn new(pfn: u64) -> Self {
        ENDING.add(1, Relaxed);
        // If the task does not run this, it is dropped, and nothing signals the end of the handler.
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

        // A page with a report that has not ended stays in the list.
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

/// Returns true if tasks have not yet returned from the handler of a failure.
pub(super) fn are_ending() -> bool {
    ENDING.load(Relaxed) != 0
}

/// Returns the number of the last report of a page frame that has failed, if all its reports have
/// settled.
///
/// # Errors
///
/// [`EJUKEBOX`] if not: the caller retries.
pub(super) fn settled(page: &RecoveryPage<'_>) -> Result<u64> {
    let poisoned = POISONED.lock();
    // If it is not in the list, another task has rewritten the page.
    let failed = find(&poisoned, page.pfn()).map(|at| poisoned[at]);

    match failed {
        Ok(failed) if failed.under_way == 0 && failed.unsettled_ms() <= 0 => Ok(failed.report),
        _ => Err(EJUKEBOX),
    }
}

/// Removes a page frame that was rewritten from the list, unless it was reported after `report`:
/// another task may have rewritten it, too, through another file, and it may have failed since.
///
/// # Errors
///
/// [`EJUKEBOX`] if it was reported after `report`.
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
    // Under the lock: a later report sets PG_hwpoison after this.
    // SAFETY: By the type invariants of `page` the frame is of a device, and has a memory map.
    unsafe { mark_page(page.pfn(), false) };
    Ok(())
}

/// Frees the list. If the module is loaded again, it does not know that the machine check handler
/// has taken those pages out of the direct map, and flushing one would oops. Unbinding the device
/// maps them again.
pub(super) fn forget_all() {
    let forgotten = mem::replace(&mut *POISONED.lock(), KVec::new());

    if !forgotten.is_empty() {
        pr_warn!(
            "{} pages that have failed are forgotten: unbind their devices before this is loaded again\n",
            forgotten.len()
        );
    }
}

/// Returns true if any page frame has failed.
pub(super) fn exists() -> bool {
    !POISONED.lock().is_empty()
}

/// Returns how many of `pages` page frames from `first` on have failed.
pub(super) fn known(first: u64, pages: u64) -> usize {
    let poisoned = POISONED.lock();
    let before = |end: u64| poisoned.partition_point(|failed| failed.pfn < end);

    before(first + pages) - before(first)
}

/// Returns true if page frame `pfn` has failed.
pub(crate) fn is_poisoned(pfn: u64) -> bool {
    find(&POISONED.lock(), pfn).is_ok()
}

impl Frames {
    /// Returns how many of these pages come before the first one that has failed.
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
