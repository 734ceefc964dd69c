// SPDX-License-Identifier: GPL-2.0
//! Numbers for validities.

use loom::sync::Arc;
use loom::thread;

use crate::atomics::{AtomicU64, Ordering};
use crate::check::{fails, run};
use crate::lockless::{DIRTY, next_validity};

const TWICE: &str = "two files have the same validity";

fn two_at_once(next: fn(&AtomicU64, u64) -> u64) {
    let last = Arc::new(AtomicU64::new(6));
    let other = {
        let last = last.clone();
        thread::spawn(move || next(&last, 7))
    };
    let (one, two) = (next(&last, 4), other.join().unwrap());

    assert!(one != two, "{TWICE}");
    for validity in [one, two] {
        assert!(validity > 6 && validity & DIRTY == 0);
    }
}

#[test]
fn validities_that_are_made_at_once_differ() {
    run(|| two_at_once(next_validity));
}

#[test]
fn validities_that_are_read_and_written_in_two_steps_do_not_differ() {
    fails(TWICE, || {
        two_at_once(|last, now| {
            let next = (now & !DIRTY).max(last.load(Ordering::SeqCst) + 2);
            last.store(next, Ordering::SeqCst);
            next
        });
    });
}
