// SPDX-License-Identifier: GPL-2.0

//! Lists of entries that live on the stacks of tasks that wait.
//!
//! The kernel crate's `List` owns its entries, which takes an allocation for each.
//!
//! # Examples
//!
//! ```ignore
//! let mut entry = Entry::new(task);
//! let entry = NonNull::from(&mut entry);
//! // SAFETY: It is removed below, and not used before.
//! unsafe { LIST.lock().push(entry) };
//! // Other tasks find it here.
//! LIST.lock().remove(entry);
//! ```

use core::ptr::{
    self,
    NonNull, //
};

/// An entry, which is in a list, or in none.
pub(crate) struct Entry<T> {
    value: T,
    next: *mut Entry<T>,
}

impl<T> Entry<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value,
            next: ptr::null_mut(),
        }
    }
}

/// A list, the latest entry first.
///
/// # Invariants
///
/// All entries are valid, and used by nothing else ([`StackList::push`]).
pub(crate) struct StackList<T> {
    first: *mut Entry<T>,
    len: usize,
}

// SAFETY: The entries are used only by the owner of the list.
unsafe impl<T: Send> Send for StackList<T> {}

impl<T> StackList<T> {
    pub(crate) const fn new() -> Self {
        // INVARIANT: There are no entries.
        Self {
            first: ptr::null_mut(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// # Safety
    ///
    /// `entry` is valid, is in no list, and is used by nothing else until it has been removed.
    pub(crate) unsafe fn push(&mut self, entry: NonNull<Entry<T>>) {
        // SAFETY: `entry` is valid, and in no list, by the safety requirements.
        unsafe { (*entry.as_ptr()).next = self.first };
        // INVARIANT: By the safety requirements.
        self.first = entry.as_ptr();
        self.len += 1;
    }

    /// Removes the first entry that `matches`.
    fn take(&mut self, matches: impl Fn(*mut Entry<T>, &T) -> bool) -> Option<NonNull<Entry<T>>> {
        let mut link = &raw mut self.first;

        loop {
            // SAFETY: `link` is the head of the list, or part of an entry that is in it.
            let entry = NonNull::new(unsafe { *link })?;
            // SAFETY: By the type invariants `entry` is valid.
            if matches(entry.as_ptr(), unsafe { &(*entry.as_ptr()).value }) {
                // SAFETY: By the type invariants `entry` is valid.
                let next = unsafe { (*entry.as_ptr()).next };
                // SAFETY: `link` is the head of the list, or part of an entry that is in it.
                unsafe { *link = next };
                self.len -= 1;
                return Some(entry);
            }
            // SAFETY: By the type invariants `entry` is valid.
            link = unsafe { &raw mut (*entry.as_ptr()).next };
        }
    }

    /// Removes an entry, if it is still in the list.
    pub(crate) fn remove(&mut self, entry: NonNull<Entry<T>>) {
        self.take(|other, _| ptr::eq(other, entry.as_ptr()));
    }

    /// Removes the first entry that `matches`, and returns what was in it.
    pub(crate) fn remove_first(&mut self, matches: impl Fn(&T) -> bool) -> Option<T>
    where
        T: Copy,
    {
        let entry = self.take(|_, value| matches(value))?;

        // SAFETY: The entry is valid: who pushed it needs the list, which is borrowed, to remove
        // it.
        Some(unsafe { (*entry.as_ptr()).value })
    }
}
