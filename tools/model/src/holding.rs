// SPDX-License-Identifier: GPL-2.0
//! The last file of an inode is closed while a page of it is in use, so the inode is held, and let
//! go later.

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::atomics::{AtomicBool, AtomicU32, Ordering};
use crate::check::{fails, run, run_interrupted, weaker};
use crate::lockless::{AsWritten, Orders, closed, left, look, may_be_left, use_again, used};

const LOST: &str = "a page is in use, no file is open, and the inode is not held";

/// An inode that is held.
struct World {
    open_files: AtomicU32,
    may_be_busy: AtomicBool,
    /// True if a page has a reference, which stays.
    in_use: AtomicBool,
    /// Under the lock of the list of mapped files.
    is_held: Mutex<bool>,
}

impl World {
    /// With so many open files, which have been mapped, so that a page is in use.
    fn new(open_files: u32) -> Arc<Self> {
        Arc::new(Self {
            open_files: AtomicU32::new(open_files),
            may_be_busy: AtomicBool::new(true),
            in_use: AtomicBool::new(open_files != 0),
            is_held: Mutex::new(true),
        })
    }

    fn is_busy(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    fn close<O: Orders>(&self) {
        self.close_and::<O>(left);
    }

    /// As `closed()` and `hold_if_busy()` do.
    fn close_and<O: Orders>(&self, leave: fn(&AtomicBool)) {
        if !closed::<O>(&self.open_files) {
            return;
        }
        if !may_be_left::<O>(&self.may_be_busy) || !self.is_busy() {
            return;
        }
        leave(&self.may_be_busy);
        *self.is_held.lock().unwrap() = true;
    }

    fn open_use_and_close<O: Orders>(&self) {
        self.open_use_and_close_and::<O>(left);
    }

    fn open_use_and_close_and<O: Orders>(&self, leave: fn(&AtomicBool)) {
        self.open_files.fetch_add(1, Ordering::Relaxed);
        used::<O>(&self.may_be_busy);
        self.in_use.store(true, Ordering::Relaxed);
        self.close_and::<O>(leave);
    }

    /// As `let_go()` does.
    fn let_go<O: Orders>(&self) {
        self.let_go_and::<O>(use_again::<O>);
    }

    fn let_go_and<O: Orders>(&self, again: fn(&AtomicBool, &AtomicU32) -> bool) {
        let was_open = look::<O>(&self.may_be_busy, &self.open_files);

        if !was_open && self.is_busy() {
            left(&self.may_be_busy);
            return;
        }
        let mut is_held = self.is_held.lock().unwrap();
        let was_used = was_open || self.may_be_busy.load(Ordering::Relaxed);
        if was_used && !again(&self.may_be_busy, &self.open_files) {
            return;
        }
        *is_held = false;
    }

    fn check(&self) {
        assert_eq!(self.open_files.load(Ordering::Relaxed), 0);
        assert!(!self.is_busy() || *self.is_held.lock().unwrap(), "{LOST}");
    }
}

fn at_once(world: Arc<World>, tasks: &[fn(&World)]) {
    let others: Vec<_> = tasks
        .iter()
        .map(|task| {
            let (world, task) = (world.clone(), *task);
            thread::spawn(move || task(&world))
        })
        .collect();

    for other in others {
        other.join().unwrap();
    }
    world.check();
}

fn closed_again<O: Orders>() {
    at_once(World::new(1), &[World::close::<O>, World::let_go::<O>]);
}

fn used_again<O: Orders>() {
    at_once(
        World::new(0),
        &[World::open_use_and_close::<O>, World::let_go::<O>],
    );
}

#[test]
fn an_inode_that_was_opened_again_is_held_again() {
    run(closed_again::<AsWritten>);
}

#[test]
fn an_inode_that_is_used_again_is_held_again() {
    run(used_again::<AsWritten>);
}

#[test]
fn an_inode_with_two_users_is_held_again() {
    run_interrupted(3, || {
        at_once(
            World::new(1),
            &[
                World::close::<AsWritten>,
                World::open_use_and_close::<AsWritten>,
                World::let_go::<AsWritten>,
            ],
        );
    });
}

#[test]
fn an_inode_is_not_held_if_one_ordering_is_weaker() {
    fails(LOST, used_again::<weaker::Used>);
    fails(LOST, used_again::<weaker::Looking>);
    fails(LOST, closed_again::<weaker::Closed>);
    fails(LOST, closed_again::<weaker::UsedAgain>);
    fails(LOST, used_again::<weaker::Counted>);
    fails(LOST, used_again::<weaker::Open>);
}

/// The load may be reordered before the store, on x86, too.
#[test]
fn an_inode_is_not_held_if_the_flag_is_stored_before_looking_for_open_files() {
    fails(LOST, || {
        at_once(
            World::new(1),
            &[World::close::<AsWritten>, |world| {
                world.let_go_and::<AsWritten>(|may_be_busy, open_files| {
                    may_be_busy.store(true, Ordering::Relaxed);
                    open_files.load(Ordering::Acquire) != 0
                });
            }],
        );
    });
}

#[test]
fn an_inode_is_not_held_if_the_flag_is_stored_when_it_is_left() {
    fails(LOST, || {
        at_once(
            World::new(0),
            &[
                |world| {
                    world.open_use_and_close_and::<AsWritten>(|may_be_busy| {
                        may_be_busy.store(true, Ordering::Relaxed);
                    });
                },
                World::let_go::<AsWritten>,
            ],
        );
    });
}
