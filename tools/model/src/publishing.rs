// SPDX-License-Identifier: GPL-2.0
//! The header of a file: a task that sees it sees it whole.

use std::ptr::{null_mut, without_provenance_mut};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::atomics::{AtomicPtr, AtomicUsize, Ordering};
use crate::check::{fails, run, weaker};
use crate::lockless::{AsWritten, Orders, publish, published};

/// The message of loom if an access is not ordered after a write.
const TORN: &str = "Causality violation";
const NULL: &str = "an operation follows a null pointer";

struct Inode {
    i_private: AtomicPtr<Header>,
    /// 0 for that of FUSE.
    i_op: AtomicUsize,
    /// True once the opener has passed its descriptor on.
    passed: Mutex<bool>,
}

struct Header {
    mapped_size: UnsafeCell<u64>,
}

const PLAIN: *mut Header = without_provenance_mut(1);

impl Inode {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            i_private: AtomicPtr::new(null_mut()),
            i_op: AtomicUsize::new(0),
            passed: Mutex::new(false),
        })
    }

    /// Maps the file, as `publish()` in `iomap.rs` does.
    fn map<O: Orders>(&self, header: &'static Header) {
        // SAFETY: loom checks that no other task accesses it at the same time.
        header.mapped_size.with_mut(|size| unsafe { *size = 42 });
        self.i_op.store(1, Ordering::Release);
        publish::<O, _>(&self.i_private, (&raw const *header).cast_mut());
    }

    /// `state() == Mapped`.
    fn is_mapped<O: Orders>(&self) -> bool {
        let private = published::<O, _>(&self.i_private);

        !private.is_null() && private != PLAIN
    }

    /// `header()`: a plain load.
    fn header(&self) -> &'static Header {
        let private = self.i_private.load(Ordering::Relaxed);

        assert!(!private.is_null(), "{NULL}");
        // SAFETY: The header is leaked.
        unsafe { &*private }
    }

    fn read_header(&self) {
        // SAFETY: loom checks that no other task writes it at the same time.
        let size = self.header().mapped_size.with(|size| unsafe { *size });

        assert_eq!(size, 42);
    }
}

/// A model of an inode: a task that maps it, and other tasks.
fn with<O: Orders>(others: &[fn(&Inode)]) {
    let inode = Inode::new();
    // Eviction is not modelled.
    let header: &'static Header = Box::leak(Box::new(Header {
        mapped_size: UnsafeCell::new(0),
    }));
    let threads: Vec<_> = others
        .iter()
        .map(|other| {
            let (inode, other) = (inode.clone(), *other);
            thread::spawn(move || other(&inode))
        })
        .collect();

    inode.map::<O>(header);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Opens the file and uses it.
fn open<O: Orders>(inode: &Inode) {
    if inode.is_mapped::<O>() {
        inode.read_header();
    }
}

/// Opens the file and passes the descriptor on.
fn pass_on<O: Orders>(inode: &Inode) {
    if inode.is_mapped::<O>() {
        *inode.passed.lock().unwrap() = true;
    }
}

/// Uses a descriptor, or a VMA, of a file that another task has opened.
fn use_what_was_passed(inode: &Inode) {
    if *inode.passed.lock().unwrap() {
        inode.read_header();
    }
}

#[test]
fn a_header_is_seen_whole() {
    run(|| with::<AsWritten>(&[open::<AsWritten>]));
}

#[test]
fn a_header_is_seen_whole_by_plain_loads_of_a_task_that_was_given_the_file() {
    run(|| with::<AsWritten>(&[pass_on::<AsWritten>, use_what_was_passed]));
}

#[test]
fn a_header_is_torn_if_publishing_does_not_release() {
    fails(TORN, || with::<weaker::Publish>(&[open::<AsWritten>]));
}

#[test]
fn a_header_is_torn_if_the_open_does_not_acquire() {
    fails(TORN, || with::<AsWritten>(&[open::<weaker::State>]));
    fails(TORN, || {
        with::<AsWritten>(&[pass_on::<weaker::State>, use_what_was_passed]);
    });
}

/// An operation of the inode itself: needs no open file, and is the module's as soon as `i_op` is
/// set.
fn by_path(inode: &Inode, looks: bool) {
    if inode.i_op.load(Ordering::Relaxed) != 0 && (!looks || inode.is_mapped::<AsWritten>()) {
        inode.read_header();
    }
}

#[test]
fn an_operation_of_the_inode_looks_whether_there_is_a_header() {
    run(|| with::<AsWritten>(&[|inode| by_path(inode, true)]));
    fails(NULL, || with::<AsWritten>(&[|inode| by_path(inode, false)]));
}
