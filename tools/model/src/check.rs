// SPDX-License-Identifier: GPL-2.0
//! Running a model, and the orderings that are weaker than those of the module.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::atomics::Ordering;
use crate::lockless::Orders;

/// Runs a model through all interleavings, and all values that its loads may return.
pub fn run(model: impl Fn() + Sync + Send + 'static) {
    explore(None, model);
}

/// The same with at most `times` preemptions of tasks that need not wait. For three tasks, which
/// have too many interleavings.
pub fn run_interrupted(times: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(Some(times), model);
}

fn explore(interruptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();

    // No bound on the search: loom fails if one execution has more.
    builder.max_branches = 10_000;
    builder.preemption_bound = interruptions;
    builder.check(model);
}

/// Expects that some execution of a model panics with `why`.
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
        SetCookie: SET_COOKIE;
        Cookie: COOKIE;
        Entry: ENTRY;
        Publish: PUBLISH;
        State: STATE;
        Fill: FILL;
        Healthy: HEALTHY;
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
