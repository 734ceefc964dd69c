// SPDX-License-Identifier: GPL-2.0
//! Running a model, and the orderings that are weaker than those of the module.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::atomics::Ordering;
use crate::lockless::Orders;

/// Runs a model through all interleavings, and all values that its loads may return.
pub fn run(model: impl Fn() + Sync + Send + 'static) {
    explore(None, model);
}

/// The same, but a task is interrupted, where it need not wait, only so many times. For three
/// tasks, of which there are too many interleavings.
pub fn run_interrupted(times: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(Some(times), model);
}

fn explore(interruptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();

    // Not a bound: loom expects fewer in one execution.
    builder.max_branches = 10_000;
    builder.preemption_bound = interruptions;
    builder.check(model);
}

/// Expects that some execution of a model ends with this panic.
pub fn fails(why: &str, model: impl Fn() + Sync + Send + 'static) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(model))) else {
        panic!("the model holds, and should fail: {why}");
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("?");
    assert!(text.contains(why), "it fails for another reason: {text}");
}

macro_rules! weaker {
    ($($name:ident: $order:ident;)*) => {
        $(
            pub enum $name {}

            impl Orders for $name {
                const $order: Ordering = Ordering::Relaxed;
            }
        )*
    };
}

/// All orderings as in the module, but for one, which is relaxed.
pub mod weaker {
    use super::{Ordering, Orders};

    weaker! {
        WrittenBack: WRITTEN_BACK;
        Quiet: QUIET;
        SetNote: SET_COOKIE;
        Note: COOKIE;
        Entry: ENTRY;
        Publish: PUBLISH;
        State: STATE;
        Fill: FILL;
        Sound: HEALTHY;
        Filled: FILLED;
        Marked: MARKED;
        Used: USED;
        Looking: LOOKING;
        Closed: CLOSED;
        UsedAgain: USED_AGAIN;
        Counted: COUNTED;
        Open: OPEN;
    }
}
