// SPDX-License-Identifier: GPL-2.0

//! Memory management.

pub(crate) mod noio;
