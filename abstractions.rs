// SPDX-License-Identifier: GPL-2.0

//! Objects of the kernel as safe types, where the kernel crate has none yet.
//!
//! Each file stands where its like would stand in `rust/kernel`, and knows nothing of this module.

pub(crate) mod mm;
pub(crate) mod sync;
