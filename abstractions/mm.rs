// SPDX-License-Identifier: GPL-2.0

//! Memory management.

pub(crate) mod fault;
pub(crate) mod folio;
pub(crate) mod hwpoison;
pub(crate) mod noio;
pub(crate) mod pgtable;
pub(crate) mod vma;
