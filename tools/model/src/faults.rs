// SPDX-License-Identifier: GPL-2.0
//! Fast faults: beside writeback, beside other faults, and beside entries that are dropped.

use loom::sync::{Arc, RwLock};
use loom::thread;

use crate::atomics::{AtomicBool, Ordering};
use crate::check::{fails, run, run_interrupted, weaker};
use crate::files::{
    At, COOKIES, HAS_COOKIE, LOST, NO_ENTRY, NOT_ITS_OWN, READ, Slip, WRITE, World,
};
use crate::lockless::{AsWritten, DIRTY, Orders};

type Task = Box<dyn FnOnce(&World) + Send>;

fn task(task: impl FnOnce(&World) + Send + 'static) -> Task {
    Box::new(task)
}

/// Runs tasks at once, and checks the state that they leave.
fn at_once(world: World, tasks: impl IntoIterator<Item = Task>) {
    let world = Arc::new(world);
    let mut tasks = tasks.into_iter();
    let here = tasks.next();
    let threads: Vec<_> = tasks
        .map(|task| {
            let world = world.clone();
            thread::spawn(move || task(&world))
        })
        .collect();

    if let Some(here) = here {
        here(&world);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    world.check();
}

// --- Writeback ----------------------------------------------------------------------------------

/// The first cookie of the folio, for a validity.
type Cookie = fn(u64) -> u64;

const DIRTY_COOKIE: Cookie = |validity| validity | DIRTY;

fn stores<O: Orders>(times: usize, slip: Slip) -> Task {
    task(move |world| {
        for _ in 0..times {
            world.store_with_fault::<O>(WRITE, slip);
        }
    })
}

fn fsync<O: Orders>(slip: Slip) -> Task {
    task(move |world| world.fsync::<O>(slip))
}

/// A task stores to a dirty page, in a VMA that does not map it yet, beside fsync(2): so many
/// times, with another fault if the page was write-protected in between.
fn stores_and_fsync<O: Orders>(times: usize, cookie: Cookie, slip: Slip) {
    at_once(
        World::with_dirty_page(cookie),
        [stores::<O>(times, slip), fsync::<O>(slip)],
    );
}

#[test]
fn what_is_stored_beside_fsync_is_not_lost() {
    for cookie in COOKIES {
        run(move || stores_and_fsync::<AsWritten>(1, cookie, Slip::None));
        run(move || stores_and_fsync::<AsWritten>(2, cookie, Slip::None));
    }
}

#[test]
fn what_two_tasks_store_beside_fsync_is_not_lost() {
    run_interrupted(3, || {
        at_once(
            World::with_dirty_page(DIRTY_COOKIE),
            [
                stores::<AsWritten>(1, Slip::None),
                stores::<AsWritten>(1, Slip::None),
                fsync::<AsWritten>(Slip::None),
            ],
        );
    });
}

#[test]
fn what_is_stored_beside_two_fsyncs_is_not_lost() {
    run_interrupted(3, || {
        at_once(
            World::with_dirty_page(DIRTY_COOKIE),
            [
                stores::<AsWritten>(1, Slip::None),
                fsync::<AsWritten>(Slip::None),
                fsync::<AsWritten>(Slip::None),
            ],
        );
    });
}

#[test]
fn a_store_is_lost_if_the_writer_does_not_release() {
    fails(LOST, || {
        stores_and_fsync::<weaker::WrittenBack>(1, DIRTY_COOKIE, Slip::None);
    });
}

#[test]
fn a_store_is_lost_if_the_fault_does_not_acquire() {
    fails(LOST, || {
        stores_and_fsync::<weaker::Quiet>(1, DIRTY_COOKIE, Slip::None);
    });
}

#[test]
fn a_store_is_lost_if_the_fault_reads_the_validity_before_it_looks_for_writers() {
    fails(LOST, || {
        stores_and_fsync::<AsWritten>(1, DIRTY_COOKIE, Slip::ValidityBeforeQuiet);
    });
}

#[test]
fn a_store_is_lost_if_the_fault_does_not_look_for_writers() {
    for cookie in COOKIES {
        fails(LOST, move || {
            stores_and_fsync::<AsWritten>(1, cookie, Slip::NeverQuiet);
        });
    }
}

#[test]
fn a_store_is_lost_if_the_writer_does_not_wait_for_faults() {
    for cookie in COOKIES {
        fails(LOST, move || {
            stores_and_fsync::<AsWritten>(1, cookie, Slip::NoPass);
        });
    }
}

#[test]
fn a_store_is_lost_without_a_new_validity() {
    fails(LOST, || {
        stores_and_fsync::<AsWritten>(1, DIRTY_COOKIE, Slip::NoNewValidity);
    });
}

#[test]
fn a_store_is_lost_if_the_new_validity_comes_before_the_writer_waits() {
    fails(LOST, || {
        stores_and_fsync::<AsWritten>(2, DIRTY_COOKIE, Slip::ValidityBeforePass);
    });
}

/// A fault that sees the new validity early sees the writer, too, and stores no cookie that could
/// be wrong later.
#[test]
fn whether_the_new_validity_comes_before_or_after_flushing_does_not_matter() {
    for cookie in COOKIES {
        run(move || stores_and_fsync::<AsWritten>(2, cookie, Slip::ValidityBeforeFlush));
    }
}

/// The lock orders the dirty bit of a cookie: the entry was marked before the cookie was stored,
/// and the writer that clears the mark has taken the lock in between.
#[test]
fn the_ordering_of_cookies_does_not_matter_for_the_mark() {
    run(|| stores_and_fsync::<weaker::Cookie>(2, DIRTY_COOKIE, Slip::None));
    run(|| stores_and_fsync::<weaker::SetCookie>(2, DIRTY_COOKIE, Slip::None));
}

// --- Memory that was associated with another file -----------------------------------------------

/// A read fault of file 1.
const fn at(index: usize, frame: usize) -> At {
    At {
        file: 1,
        index,
        frame,
        write: false,
    }
}

/// A file reads a page for the first time, twice at once.
fn first_faults<O: Orders>() {
    let read = || {
        task(|world| {
            world.fault::<O>(READ, Slip::None);
        })
    };
    at_once(World::new(1), [read(), read()]);
}

#[test]
fn two_first_faults_map_the_same() {
    run(first_faults::<AsWritten>);
}

/// A page frame of another file becomes page 1 of this file, whose program says that the frame is
/// page 0, too.
fn second_place<O: Orders>(slip: Slip) {
    at_once(
        World::with_small_folio(),
        [
            task(move |world| {
                world.evict_other();
                world.fault::<O>(at(1, 0), slip);
                world.fault::<O>(at(1, 0), slip);
            }),
            task(move |world| world.fault_fast::<O>(at(0, 0), slip)),
        ],
    );
}

#[test]
fn memory_has_one_place_in_a_file_whatever_the_program_says() {
    run(|| second_place::<AsWritten>(Slip::None));
}

#[test]
fn memory_has_two_places_if_cookies_are_not_released_or_not_acquired() {
    fails(NO_ENTRY, || second_place::<weaker::SetCookie>(Slip::None));
    fails(NO_ENTRY, || second_place::<weaker::Cookie>(Slip::None));
}

#[test]
fn memory_has_two_places_if_the_index_is_read_before_the_cookie() {
    fails(NO_ENTRY, || {
        second_place::<AsWritten>(Slip::IndexBeforeCookie);
    });
}

/// A large folio of another file is split. Its first page becomes page 0 of this file, and gets a
/// cookie. Beside that, there is a fast fault of the page that was behind it.
fn neighbour<O: Orders>(fast: At, slip: Slip) {
    at_once(
        World::with_large_folio(),
        [
            task(move |world| {
                world.evict_other();
                world.fault::<O>(at(0, 0), slip);
                world.fault::<O>(at(0, 0), slip);
            }),
            task(move |world| world.fault_fast::<O>(fast, slip)),
        ],
    );
}

/// The program says where page 1 is, and is right; but DAX has no entry for that.
const NEXT_PAGE: At = at(1, 1);
/// The program says that it is page 0, too.
const FORMER_TAIL: At = at(0, 1);

#[test]
fn the_cookie_of_a_page_does_not_count_for_what_was_behind_it_in_the_folio() {
    run(|| neighbour::<AsWritten>(NEXT_PAGE, Slip::None));
}

#[test]
fn a_neighbour_is_mapped_if_the_folio_is_believed_to_be_what_it_was() {
    fails(NO_ENTRY, || {
        neighbour::<AsWritten>(NEXT_PAGE, Slip::OldHead);
    });
}

#[test]
fn a_neighbour_is_mapped_if_cookies_are_not_released_or_not_acquired() {
    fails(NO_ENTRY, || {
        neighbour::<weaker::SetCookie>(NEXT_PAGE, Slip::None);
    });
    fails(NO_ENTRY, || {
        neighbour::<weaker::Cookie>(NEXT_PAGE, Slip::None);
    });
}

#[test]
fn no_page_is_mapped_that_the_folio_had_before_it_was_split() {
    run(|| neighbour::<AsWritten>(FORMER_TAIL, Slip::None));
}

#[test]
fn memory_of_nobody_is_mapped_if_the_frame_need_not_be_inside_the_folio() {
    fails(NOT_ITS_OWN, || {
        neighbour::<AsWritten>(FORMER_TAIL, Slip::OutsideFolio);
    });
}

/// A page of a large folio of another file becomes one of this file, beside a fast fault.
fn arrival<O: Orders>(slip: Slip) {
    at_once(
        World::with_large_folio(),
        [
            task(move |world| {
                world.evict_other();
                world.fault::<O>(at(1, 1), slip);
            }),
            task(move |world| world.fault_fast::<O>(at(1, 1), slip)),
        ],
    );
}

#[test]
fn a_fault_stores_cookies_in_folios_of_its_own_file_only() {
    run(|| arrival::<AsWritten>(Slip::None));
}

#[test]
fn a_fault_stores_a_cookie_elsewhere_if_it_does_not_acquire_the_entry() {
    fails(HAS_COOKIE, || arrival::<weaker::Entry>(Slip::None));
}

#[test]
fn a_fault_stores_a_cookie_elsewhere_if_it_does_not_look_for_the_folio_again() {
    fails(HAS_COOKIE, || arrival::<AsWritten>(Slip::OldFolio));
}

/// DAX puts the frame into the entry after it has set the association in the folio. So a frame in a
/// locked entry is right, too; with the check of the lock, a fault does not rely on that.
#[test]
fn whether_the_entry_is_locked_does_not_matter() {
    run(|| second_place::<AsWritten>(Slip::LockedEntry));
    run(|| neighbour::<AsWritten>(NEXT_PAGE, Slip::LockedEntry));
    run(|| arrival::<AsWritten>(Slip::LockedEntry));
    run(|| stores_and_fsync::<AsWritten>(2, DIRTY_COOKIE, Slip::LockedEntry));
}

// --- Entries that are dropped -------------------------------------------------------------------

/// The entry of a dirty page is dropped. A read fault brings it back clean, and a task stores to
/// the page.
fn drop_and_store<O: Orders>(slip: Slip) {
    at_once(
        World::with_dirty_page(DIRTY_COOKIE),
        [
            task(move |world| {
                world.drop_entry(slip);
                world.fault::<O>(READ, slip);
            }),
            stores::<O>(1, slip),
        ],
    );
}

/// The entry is dropped, and nothing else, beside a fault that finds the cookie.
fn drop_and_read<O: Orders>(slip: Slip) {
    at_once(
        World::with_dirty_page(DIRTY_COOKIE),
        [
            task(move |world| world.drop_entry(slip)),
            task(move |world| world.fault_fast::<O>(READ, slip)),
        ],
    );
}

#[test]
fn no_page_of_a_dropped_entry_is_mapped_and_what_is_stored_later_is_not_lost() {
    run(|| drop_and_read::<AsWritten>(Slip::None));
    run(|| drop_and_store::<AsWritten>(Slip::None));
}

#[test]
fn a_page_is_mapped_if_entries_are_dropped_without_the_lock() {
    fails(NO_ENTRY, || drop_and_read::<AsWritten>(Slip::NoLock));
}

#[test]
fn a_store_is_lost_with_neither_new_validity_nor_cleared_cookie() {
    fails(LOST, || {
        drop_and_store::<AsWritten>(Slip::NoNewValidityAndCookieStays);
    });
}

/// The new validity is part of flushing; the cookie has to be cleared for the next owner of the
/// memory.
#[test]
fn either_new_validity_or_cleared_cookie_would_do_for_the_file_itself() {
    run(|| drop_and_store::<AsWritten>(Slip::NoNewValidity));
    fails(HAS_COOKIE, || drop_and_read::<AsWritten>(Slip::CookieStays));
}

#[test]
fn the_ordering_of_cookies_and_writers_does_not_matter_under_the_lock() {
    run(|| drop_and_store::<weaker::Cookie>(Slip::None));
    run(|| drop_and_store::<weaker::SetCookie>(Slip::None));
    run(|| drop_and_store::<weaker::Quiet>(Slip::None));
    run(|| drop_and_store::<weaker::Entry>(Slip::None));
}

// --- Inodes that go bad -------------------------------------------------------------------------

/// FUSE marks an inode bad, a task finds the mark and unmaps the file, and another task faults.
fn goes_bad(looks_with_lock: bool) {
    struct File {
        is_bad: AtomicBool,
        invalidate_lock: RwLock<()>,
        mapped: AtomicBool,
    }
    let file = Arc::new(File {
        is_bad: AtomicBool::new(false),
        invalidate_lock: RwLock::new(()),
        mapped: AtomicBool::new(false),
    });
    let fault = {
        let file = file.clone();
        thread::spawn(move || {
            let early = file.is_bad.load(Ordering::Relaxed);
            let _shared = file.invalidate_lock.read().unwrap();
            let is_bad = match looks_with_lock {
                true => file.is_bad.load(Ordering::Relaxed),
                false => early,
            };
            if !is_bad {
                file.mapped.store(true, Ordering::Relaxed);
            }
        })
    };
    let fuse = {
        let file = file.clone();
        thread::spawn(move || file.is_bad.store(true, Ordering::Relaxed))
    };

    let found = file.is_bad.load(Ordering::Relaxed);
    if found {
        let _no_faults = file.invalidate_lock.write().unwrap();
        file.mapped.store(false, Ordering::Relaxed);
    }
    fault.join().unwrap();
    fuse.join().unwrap();
    assert!(!found || !file.mapped.load(Ordering::Relaxed), "{NO_ENTRY}");
}

#[test]
fn a_file_that_was_found_bad_is_not_mapped_again() {
    run(|| goes_bad(true));
    fails(NO_ENTRY, || goes_bad(false));
}
