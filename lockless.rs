// SPDX-License-Identifier: GPL-2.0

//! What is done without a lock, or beside one: the steps, and the memory ordering of each.
//!
//! This file is compiled twice: into the module, and into `tools/model`, which runs it on the host
//! over all interleavings and all that memory may answer, and shows what goes wrong with an
//! ordering that is weaker. So it names nothing of the kernel. What includes it has the types of
//! atomic words in `atomics`, and says how DAX and the memory manager are asked ([`Place`]).
//!
//! A function takes the orderings as its first parameter, which is always [`AsWritten`] in the
//! module.

use super::atomics::{
    self,
    AtomicBool,
    AtomicPtr,
    AtomicU32,
    AtomicU64,
    Ordering, //
};

/// The ordering of each access that needs one, and what for. All others are relaxed.
pub(crate) trait Orders: 'static {
    /// A writer takes itself off ([`write_back`]): a fault that sees this sees the new stamp, and
    /// which marks are gone.
    const WRITTEN_BACK: Ordering = Ordering::Release;
    /// A fault looks for writers ([`look_up`]): pairs with `WRITTEN_BACK`.
    const QUIET: Ordering = Ordering::Acquire;
    /// A fault notes something in a folio: a fault that sees the note sees what the folio is.
    const SET_COOKIE: Ordering = Ordering::Release;
    /// A fault reads a note: pairs with `SET_COOKIE`. What the folio is, is looked at afterwards.
    const COOKIE: Ordering = Ordering::Acquire;
    /// A fault has seen DAX's entry: pairs with the release of DAX when it puts the entry there.
    /// (The kernel's own readers follow a pointer in the entry. A fault knows the page frame
    /// already.)
    const ENTRY: Ordering = Ordering::Acquire;
    /// A header is published: what sees it, sees it whole.
    const PUBLISH: Ordering = Ordering::Release;
    /// An open looks whether there is a header: pairs with `PUBLISH`.
    const STATE: Ordering = Ordering::Acquire;
    /// A device is put into its slot: what sees it, sees it whole.
    const FILL: Ordering = Ordering::Release;
    /// A fault, a read or a write looks for the device: pairs with `FILL`.
    const HEALTHY: Ordering = Ordering::Acquire;
    /// Between putting a device in and looking at the slot's health.
    const FILLED: Ordering = Ordering::SeqCst;
    /// Between marking the slot and taking its device away. Of these two tasks, one sees the other.
    const MARKED: Ordering = Ordering::SeqCst;
    /// A file is about to be mapped by mmap(2): who takes the flag off sees that it is open, or
    /// was.
    const USED: Ordering = Ordering::Release;
    /// Who lets an inode go takes the flag off: pairs with `USED` and `CLOSED`.
    const LOOKING: Ordering = Ordering::Acquire;
    /// The last file is closed, and the flag taken off: who sets it again sees that no file is
    /// open.
    const CLOSED: Ordering = Ordering::Release;
    /// Who lets an inode go sets the flag again: pairs with `CLOSED`. Of these two tasks, one sees
    /// the other.
    const USED_AGAIN: Ordering = Ordering::Acquire;
    /// A file is closed: what was in use through it is seen by who looks once no file is open.
    const COUNTED: Ordering = Ordering::AcqRel;
    /// Who lets an inode go looks whether a file is open: pairs with `COUNTED`.
    const OPEN: Ordering = Ordering::Acquire;
}

/// The orderings that the module has.
pub(crate) enum AsWritten {}

impl Orders for AsWritten {}

#[inline]
fn fence(order: Ordering) {
    // A relaxed one is none.
    if order != Ordering::Relaxed {
        atomics::fence(order);
    }
}

// --- Faults and writeback -----------------------------------------------------------------------

/// Beside the stamp in a folio's note: its entry in the page cache is marked dirty.
pub(crate) const DIRTY: u64 = 1;

/// A page of a file, and the page frame that the program says is there.
///
/// The fault has the `invalidate_lock` of the page cache shared meanwhile.
pub(crate) trait Place {
    /// A folio, of any tenant.
    type Folio: Copy;
    /// A folio whose tenant is this place, and all that is known of it.
    type Association;

    /// The folio that the frame is in now.
    fn folio(&self) -> Self::Folio;

    /// What a tenant has noted in a folio, maybe another one, maybe long ago.
    fn cookie(&self, folio: Self::Folio, order: Ordering) -> u64;

    /// Notes something else, in a folio of this place.
    fn set_cookie(&self, folio: Self::Folio, cookie: u64, order: Ordering);

    /// Whether DAX has an entry for this place that has this frame, and has done with it.
    fn has_entry(&self) -> bool;

    /// What the folio says of its tenant, if that is this place.
    fn association(&self, folio: Self::Folio) -> Option<Self::Association>;

    /// Whether the entry is marked dirty.
    fn is_marked(&self, association: &Self::Association) -> bool;
}

/// A fault looks whether a page of a file may be mapped without DAX. Returns `None` if the place
/// does not have the frame, or it cannot be seen so; and whether nothing else has to be done, which
/// is so for a store if it is known that the entry is dirty and stays so.
#[inline(always)]
pub(crate) fn look_up<O: Orders, P: Place>(
    writers: &AtomicU32,
    validity: &AtomicU64,
    place: &P,
    write: bool,
) -> Option<(P::Association, bool)> {
    // In this order: who writes back from now on waits for the lock, and stamps afterwards.
    let quiet = writers.load(O::QUIET) == 0;
    let validity = validity.load(Ordering::Relaxed);
    let mut folio = place.folio();
    let mut cookie = place.cookie(folio, O::COOKIE);
    if cookie & !DIRTY != validity {
        if !place.has_entry() {
            return None;
        }
        fence(O::ENTRY);
        // What it was before, somebody may have been about to change.
        folio = place.folio();
        cookie = validity;
        place.set_cookie(folio, cookie, O::SET_COOKIE);
    }
    // Only now, and all of it: what the folio was before it had the note does not count.
    let association = place.association(folio)?;
    let mut may_map = !write;
    if write && quiet {
        if cookie & DIRTY == 0 && place.is_marked(&association) {
            cookie |= DIRTY;
            place.set_cookie(folio, cookie, O::SET_COOKIE);
        }
        may_map = cookie & DIRTY != 0;
    }
    Some((association, may_map))
}

/// Writes back while faults leave dirty entries alone.
///
/// `pass` waits until the faults are over that are under way: they may have found an entry dirty
/// before. `flush` then finds what they have mapped, and gives the file a new stamp.
pub(crate) fn write_back<O: Orders, T>(
    writers: &AtomicU32,
    pass: impl FnOnce(),
    flush: impl FnOnce() -> T,
) -> T {
    // A fault that begins after `pass` sees this number, or a later one.
    writers.fetch_add(1, Ordering::Relaxed);
    pass();
    let flushed = flush();
    writers.fetch_sub(1, O::WRITTEN_BACK);
    flushed
}

/// Gives a file a new stamp, once marks were taken off its entries, or before entries are removed.
pub(crate) fn renew(validity: &AtomicU64, new: u64) {
    validity.store(new, Ordering::Relaxed);
}

/// A number that `last` never was. Stamps are even.
pub(crate) fn next_validity(last: &AtomicU64, now: u64) -> u64 {
    let after = |last: u64| (now & !DIRTY).max(last + 2);

    match last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(after(last))
    }) {
        Ok(last) | Err(last) => after(last),
    }
}

// --- A header that is published -----------------------------------------------------------------

/// Publishes a header, or what else says what a file is.
pub(crate) fn publish<O: Orders, T>(word: &AtomicPtr<T>, header: *mut T) {
    word.store(header, O::PUBLISH);
}

/// What has been published of a file. What comes later to the same file, in this task or in one
/// that this one has given the file to, may load the word as it likes.
pub(crate) fn published<O: Orders, T>(word: &AtomicPtr<T>) -> *mut T {
    word.load(O::STATE)
}

// --- A device that fails ------------------------------------------------------------------------

/// Puts a device into its slot, unless the slot has been marked.
pub(crate) fn fill<O: Orders, T>(healthy: &AtomicPtr<T>, health: &AtomicU32, device: *mut T) {
    healthy.store(device, O::FILL);
    fence(O::FILLED);
    // What was marked meanwhile found nothing to take away.
    if health.load(Ordering::Relaxed) != 0 {
        healthy.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Marks a slot, and takes its device out of the sight of faults. Those that have seen it have a
/// lock that the caller takes afterwards.
pub(crate) fn mark<O: Orders, T>(healthy: &AtomicPtr<T>, health: &AtomicU32, mark: u32) {
    health.fetch_or(mark, Ordering::Relaxed);
    fence(O::MARKED);
    healthy.store(core::ptr::null_mut(), Ordering::Relaxed);
}

/// The device of a slot, if nothing is wrong with it.
#[inline]
pub(crate) fn healthy<O: Orders, T>(healthy: &AtomicPtr<T>) -> *mut T {
    healthy.load(O::HEALTHY)
}

// --- Pages that are in use when the last file is closed ------------------------------------------

// Two words: how many files of an inode are open, and a flag, whether pages of it may be in use.
// The flag is set before a file is mapped by mmap(2). Who closes the last file takes it off, looks,
// and holds the inode if pages are in use. Who lets the inode go takes it off as well, and looks,
// unless a file is open; then it is set again, for who closes that.

/// A file, which is counted as open, is about to be mapped by mmap(2).
pub(crate) fn used<O: Orders>(may_be_busy: &AtomicBool) {
    may_be_busy.swap(true, O::USED);
}

/// A file is closed. Returns whether it was the last one.
pub(crate) fn closed<O: Orders>(open_files: &AtomicU32) -> bool {
    open_files.fetch_sub(1, O::COUNTED) == 1
}

/// The last file was closed: whether pages may be in use. What is mapped anew after this is looked
/// at when that is closed.
pub(crate) fn may_be_left<O: Orders>(may_be_busy: &AtomicBool) -> bool {
    may_be_busy.swap(false, O::CLOSED)
}

/// Pages are in use, and the inode is to be held.
pub(crate) fn left(may_be_busy: &AtomicBool) {
    // Not a store: who takes the flag off sees what who took it off before has seen.
    may_be_busy.swap(true, Ordering::Relaxed);
}

/// An inode may be let go, if its pages are idle. Returns whether a file is open.
pub(crate) fn look<O: Orders>(may_be_busy: &AtomicBool, open_files: &AtomicU32) -> bool {
    may_be_busy.swap(false, O::LOOKING);
    open_files.load(O::OPEN) != 0
}

/// Pages may be in use, still or again. Returns whether a file is open: then who closes it looks.
pub(crate) fn use_again<O: Orders>(may_be_busy: &AtomicBool, open_files: &AtomicU32) -> bool {
    may_be_busy.swap(true, O::USED_AGAIN);
    open_files.load(O::OPEN) != 0
}
