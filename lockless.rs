// SPDX-License-Identifier: GPL-2.0

//! What is done without a lock, or beside one: the steps, and the memory ordering of each.
//!
//! This file is compiled twice: into the module, and into `tools/model`, which runs it on the host
//! with all interleavings and all values that a load may return, and shows what goes wrong with a
//! weaker ordering. So it names nothing of the kernel. The crate that includes it has the types of
//! atomic words in `atomics`, and implements the access to DAX and the memory manager ([`Place`]).
//!
//! A function takes the orderings as its first type parameter, which is always [`AsWritten`] in the
//! module.

use super::atomics::{
    self,
    AtomicBool,
    AtomicPtr,
    AtomicU32,
    AtomicU64,
    Ordering, //
};

/// The ordering of each access that needs one, and what for. All other accesses are relaxed.
pub(crate) trait Orders: 'static {
    /// Writeback ends ([`write_back`]): a fault that sees this sees the new validity, and which
    /// dirty marks were cleared.
    const WRITTEN_BACK: Ordering = Ordering::Release;
    /// A fault checks for writeback ([`look_up`]): pairs with `WRITTEN_BACK`.
    const QUIET: Ordering = Ordering::Acquire;
    /// A fault stores a cookie: a fault that sees the cookie sees the state of the folio.
    const SET_COOKIE: Ordering = Ordering::Release;
    /// A fault loads a cookie: pairs with `SET_COOKIE`. It reads the state of the folio after that.
    const COOKIE: Ordering = Ordering::Acquire;
    /// A fault has seen DAX's entry: pairs with the release of DAX when it stores the entry. (The
    /// kernel's own readers follow a pointer in the entry. A fault knows the page frame already.)
    const ENTRY: Ordering = Ordering::Acquire;
    /// A header is published: a task that sees the pointer sees the whole header.
    const PUBLISH: Ordering = Ordering::Release;
    /// An open checks for a header: pairs with `PUBLISH`.
    const STATE: Ordering = Ordering::Acquire;
    /// A device is put into its slot: a task that sees the pointer sees the whole device.
    const FILL: Ordering = Ordering::Release;
    /// A fault, a read or a write gets the device: pairs with `FILL`.
    const HEALTHY: Ordering = Ordering::Acquire;
    /// Between storing a device in its slot and loading the slot's health.
    const FILLED: Ordering = Ordering::SeqCst;
    /// Between marking a slot and removing its device. Pairs with `FILLED`: of the two tasks, one
    /// sees the other's store.
    const MARKED: Ordering = Ordering::SeqCst;
    /// A file is about to be mapped by mmap(2): a task that clears the flag sees that the file is
    /// open, or was.
    const USED: Ordering = Ordering::Release;
    /// A task that releases an inode clears the flag: pairs with `USED` and `CLOSED`.
    const LOOKING: Ordering = Ordering::Acquire;
    /// The last file was closed, and the flag is cleared: a task that sets it again sees that no
    /// file is open.
    const CLOSED: Ordering = Ordering::Release;
    /// A task that releases an inode sets the flag again: pairs with `CLOSED`. Of the two tasks,
    /// one sees the other's store.
    const USED_AGAIN: Ordering = Ordering::Acquire;
    /// A file is closed: a task that looks once no file is open sees what was in use through this
    /// file.
    const COUNTED: Ordering = Ordering::AcqRel;
    /// A task that releases an inode checks for open files: pairs with `COUNTED`.
    const OPEN: Ordering = Ordering::Acquire;
}

/// The orderings of the module.
pub(crate) enum AsWritten {}

impl Orders for AsWritten {}

#[inline]
fn fence(order: Ordering) {
    // A relaxed fence is none.
    if order != Ordering::Relaxed {
        atomics::fence(order);
    }
}

// --- Faults and writeback -----------------------------------------------------------------------

/// A bit of a cookie, besides the validity: the folio's entry in the page cache is marked dirty.
pub(crate) const DIRTY: u64 = 1;

/// A page of a file, and the page frame that the program says is there.
///
/// The fault holds the `invalidate_lock` of the page cache shared as long as it uses this.
pub(crate) trait Place {
    /// A folio, of any owner or none.
    type Folio: Copy;
    /// The association of a folio with this place.
    type Association;

    /// Returns the folio that the frame is in now.
    fn folio(&self) -> Self::Folio;

    /// Returns the cookie in a folio, which may be old, and of another file.
    fn cookie(&self, folio: Self::Folio, order: Ordering) -> u64;

    /// Stores a cookie in a folio of this place.
    fn set_cookie(&self, folio: Self::Folio, cookie: u64, order: Ordering);

    /// Returns true if DAX has an entry for this place with this frame, and is done with it.
    fn has_entry(&self) -> bool;

    /// Returns the association of a folio, if it is with this place.
    fn association(&self, folio: Self::Folio) -> Option<Self::Association>;

    /// Returns true if the entry is marked dirty.
    fn is_marked(&self, association: &Self::Association) -> bool;
}

/// Looks up whether a fault may map a page of a file without DAX. Returns `None` if the frame is
/// not associated with the place, or that is not certain. Otherwise returns the association, and
/// true if nothing else has to be done: for a write, if the entry is known to be dirty and to stay
/// so.
#[inline(always)]
pub(crate) fn look_up<O: Orders, P: Place>(
    writers: &AtomicU32,
    validity: &AtomicU64,
    place: &P,
    write: bool,
) -> Option<(P::Association, bool)> {
    // In this order: writeback that begins after this waits for the lock, and then changes the
    // validity.
    let quiet = writers.load(O::QUIET) == 0;
    let validity = validity.load(Ordering::Relaxed);
    let mut folio = place.folio();
    let mut cookie = place.cookie(folio, O::COOKIE);
    if cookie & !DIRTY != validity {
        if !place.has_entry() {
            return None;
        }
        fence(O::ENTRY);
        // Another task may have been changing the folio that was found before.
        folio = place.folio();
        cookie = validity;
        place.set_cookie(folio, cookie, O::SET_COOKIE);
    }
    // Only now, and all of it: what the folio was before it had the cookie does not count.
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

/// Writes back, while write faults of the file are left to DAX.
///
/// `pass` waits for the faults that are under way: they may have found an entry dirty before.
/// `flush` then finds what they have mapped, and gives the file a new validity.
pub(crate) fn write_back<O: Orders, T>(
    writers: &AtomicU32,
    pass: impl FnOnce(),
    flush: impl FnOnce() -> T,
) -> T {
    // A fault that begins after `pass` sees this count, or a later one.
    writers.fetch_add(1, Ordering::Relaxed);
    pass();
    let flushed = flush();
    writers.fetch_sub(1, O::WRITTEN_BACK);
    flushed
}

/// Gives a file a new validity, after dirty marks of its entries were cleared, or before entries
/// are removed.
pub(crate) fn renew(validity: &AtomicU64, new: u64) {
    validity.store(new, Ordering::Relaxed);
}

/// Returns an even number that `last` never was.
pub(crate) fn next_validity(last: &AtomicU64, now: u64) -> u64 {
    let after = |last: u64| (now & !DIRTY).max(last + 2);

    match last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(after(last))
    }) {
        Ok(last) | Err(last) => after(last),
    }
}

// --- A header that is published -----------------------------------------------------------------

/// Publishes a header, or what marks an inode as plain.
pub(crate) fn publish<O: Orders, T>(word: &AtomicPtr<T>, header: *mut T) {
    word.store(header, O::PUBLISH);
}

/// Returns what has been published of an inode. Later accesses to it, in this task or in one that
/// gets the inode from it, may load the word with any ordering.
pub(crate) fn published<O: Orders, T>(word: &AtomicPtr<T>) -> *mut T {
    word.load(O::STATE)
}

// --- A device that fails ------------------------------------------------------------------------

/// Puts a device into its slot, unless the slot has been marked.
pub(crate) fn fill<O: Orders, T>(healthy: &AtomicPtr<T>, health: &AtomicU32, device: *mut T) {
    healthy.store(device, O::FILL);
    fence(O::FILLED);
    // A task that marked the slot meanwhile may have found no device to remove.
    if health.load(Ordering::Relaxed) != 0 {
        healthy.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Marks a slot, and removes its device, so that later faults do not find it. Faults that have
/// found it hold a lock that the caller takes afterwards.
pub(crate) fn mark<O: Orders, T>(healthy: &AtomicPtr<T>, health: &AtomicU32, mark: u32) {
    health.fetch_or(mark, Ordering::Relaxed);
    fence(O::MARKED);
    healthy.store(core::ptr::null_mut(), Ordering::Relaxed);
}

/// Returns the device of a slot if it is healthy, else null.
#[inline]
pub(crate) fn healthy<O: Orders, T>(healthy: &AtomicPtr<T>) -> *mut T {
    healthy.load(O::HEALTHY)
}

// --- Pages that are in use when the last file is closed ------------------------------------------

// Two words: how many files of an inode are open, and a flag, whether pages of it may be in use.
// The flag is set before a file is mapped by mmap(2). The task that closes the last file clears it,
// looks, and holds the inode if pages are in use. A task that releases the inode clears it as well,
// and looks, unless a file is open; then it sets the flag again, for the task that closes that
// file.

/// Sets the flag: a file, which is counted as open, is about to be mapped by mmap(2).
pub(crate) fn used<O: Orders>(may_be_busy: &AtomicBool) {
    may_be_busy.swap(true, O::USED);
}

/// Counts a file as closed. Returns true if it was the last one.
pub(crate) fn closed<O: Orders>(open_files: &AtomicU32) -> bool {
    open_files.fetch_sub(1, O::COUNTED) == 1
}

/// Clears the flag, as the last file was closed. Returns true if pages may be in use. Pages of a
/// file that is mapped after this are looked at when that file is closed.
pub(crate) fn may_be_left<O: Orders>(may_be_busy: &AtomicBool) -> bool {
    may_be_busy.swap(false, O::CLOSED)
}

/// Sets the flag: pages are in use, and the inode is to be held.
pub(crate) fn left(may_be_busy: &AtomicBool) {
    // Not a store: a task that clears the flag sees what the task that cleared it before saw.
    may_be_busy.swap(true, Ordering::Relaxed);
}

/// Clears the flag: an inode may be released, if its pages are idle. Returns true if a file is
/// open.
pub(crate) fn look<O: Orders>(may_be_busy: &AtomicBool, open_files: &AtomicU32) -> bool {
    may_be_busy.swap(false, O::LOOKING);
    open_files.load(O::OPEN) != 0
}

/// Sets the flag: pages may be in use, still or again. Returns true if a file is open: then the
/// task that closes it looks.
pub(crate) fn use_again<O: Orders>(may_be_busy: &AtomicBool, open_files: &AtomicU32) -> bool {
    may_be_busy.swap(true, O::USED_AGAIN);
    open_files.load(O::OPEN) != 0
}
