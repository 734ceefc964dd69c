// SPDX-License-Identifier: GPL-2.0

//! Lists through what is in them, which stay where they are and are owned elsewhere.
//!
//! The kernel crate's `List` owns what is in it. Here a list says what is there, and what goes away
//! is taken out first. A marker is a place in a list, for a walk that gives up the lock
//! every now and then.

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering::Relaxed, //
    }, //
};

use kernel::sync::SpinLock;

/// A place in a list, or in none.
///
/// # Invariants
///
/// In a list, `owner` is null for a marker, and else valid until the link is taken out.
pub(crate) struct Link<T> {
    next: AtomicPtr<Link<T>>,
    prev: AtomicPtr<Link<T>>,
    owner: AtomicPtr<T>,
}

impl<T> Link<T> {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            prev: AtomicPtr::new(ptr::null_mut()),
            owner: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// What this is the place of; `None` for a marker.
    fn owner(&self) -> Option<&T> {
        // SAFETY: By the type invariants it is null, or valid.
        unsafe { self.owner.load(Relaxed).as_ref() }
    }
}

/// A list.
///
/// # Invariants
///
/// `first` is null, or the first of links that know the next one and the one before.
pub(crate) struct List<T> {
    first: *mut Link<T>,
    _owners: PhantomData<*mut T>,
}

// SAFETY: What is in a list belongs to no task, if that may be shared.
unsafe impl<T: Send + Sync> Send for List<T> {}

impl<T> List<T> {
    pub(crate) const fn new() -> Self {
        // INVARIANT: There is nothing in it.
        Self {
            first: ptr::null_mut(),
            _owners: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// The link that a pointer in the list names.
    ///
    /// # Safety
    ///
    /// `link` is null, or in the list.
    unsafe fn next_of<'a>(link: *mut Link<T>) -> Option<&'a Link<T>> {
        // SAFETY: `link` is null or valid, by the safety requirements.
        unsafe { link.as_ref() }
    }

    /// Puts a link behind `prev`, or at the front.
    ///
    /// # Safety
    ///
    /// `link` is in no list, and stays where it is until it is taken out; `prev` is in this list.
    unsafe fn insert(&mut self, link: &Link<T>, prev: Option<&Link<T>>) {
        let raw = ptr::from_ref(link).cast_mut();
        let next = match prev {
            Some(prev) => prev.next.swap(raw, Relaxed),
            None => core::mem::replace(&mut self.first, raw),
        };

        link.prev.store(
            prev.map_or(ptr::null_mut(), |prev| ptr::from_ref(prev).cast_mut()),
            Relaxed,
        );
        link.next.store(next, Relaxed);
        // SAFETY: `next` is null, or in this list, by the type invariants.
        if let Some(next) = unsafe { Self::next_of(next) } {
            next.prev.store(raw, Relaxed);
        }
    }

    /// Puts something at the front.
    ///
    /// # Safety
    ///
    /// `link` is that of `owner`, and in no list. Both stay where they are until `link` is taken
    /// out.
    pub(crate) unsafe fn push(&mut self, owner: &T, link: &Link<T>) {
        link.owner.store(ptr::from_ref(owner).cast_mut(), Relaxed);
        // SAFETY: `link` is in no list, and stays, by the safety requirements.
        unsafe { self.insert(link, None) }
    }

    /// Takes a link out.
    ///
    /// # Safety
    ///
    /// It is in this list.
    pub(crate) unsafe fn remove(&mut self, link: &Link<T>) {
        let (prev, next) = (link.prev.load(Relaxed), link.next.load(Relaxed));

        // SAFETY: `prev` is null, or in this list, by the type invariants.
        match unsafe { Self::next_of(prev) } {
            Some(prev) => prev.next.store(next, Relaxed),
            None => self.first = next,
        }
        // SAFETY: `next` is null, or in this list, by the type invariants.
        if let Some(next) = unsafe { Self::next_of(next) } {
            next.prev.store(prev, Relaxed);
        }
    }

    /// Takes out the first thing. Markers before it stay.
    pub(crate) fn pop(&mut self) -> Option<NonNull<T>> {
        let mut next = self.first;

        // SAFETY: `next` is null, or in this list, by the type invariants.
        while let Some(link) = unsafe { Self::next_of(next) } {
            if let Some(owner) = NonNull::new(link.owner.load(Relaxed)) {
                // SAFETY: `link` is in this list.
                unsafe { self.remove(link) };
                return Some(owner);
            }
            next = link.next.load(Relaxed);
        }
        None
    }

    /// What is in the list from now on, for a walk without its lock. What is put in meanwhile is
    /// not seen.
    ///
    /// # Safety
    ///
    /// For `'a` nothing is taken out.
    pub(crate) unsafe fn iter<'a>(&self) -> impl Iterator<Item = &'a T>
    where
        T: 'a,
    {
        let mut next = self.first;

        core::iter::from_fn(move || {
            // SAFETY: `next` is null, or in the list, of which nothing is taken out.
            let link: &'a Link<T> = unsafe { Self::next_of(next) }?;

            next = link.next.load(Relaxed);
            Some(link)
        })
        .filter_map(Link::owner)
    }
}

/// A place in a list, for a walk.
///
/// # Invariants
///
/// `link` is in `list`, which is only accessed under its lock.
pub(crate) struct Marker<T> {
    link: Link<T>,
    list: *const List<T>,
}

impl<T> Marker<T> {
    /// Calls `walk` with a marker that is at the front of a list of `lists` at first, and is taken
    /// out afterwards.
    ///
    /// # Safety
    ///
    /// `list_of` always names the same list, which is neither moved nor replaced meanwhile.
    pub(crate) unsafe fn with<L, R>(
        lists: &SpinLock<L>,
        list_of: fn(&mut L) -> &mut List<T>,
        walk: impl FnOnce(&Self) -> R,
    ) -> R
    where
        L: Unpin,
    {
        let mut marker = Self {
            link: Link::new(),
            list: ptr::null(),
        };
        let mut locked = lists.lock();
        let list = list_of(&mut locked);

        marker.list = list;
        // INVARIANT: Put in here; nothing else takes a marker out.
        // SAFETY: `marker` is in no list, and stays where it is until it is taken out below.
        unsafe { list.insert(&marker.link, None) };
        drop(locked);
        let done = walk(&marker);
        // SAFETY: `marker` is in the list, which is the same, by the safety requirements.
        unsafe { list_of(&mut lists.lock()).remove(&marker.link) };
        done
    }

    /// What is behind it: nothing, another marker, or something. `list` is the one that it is in.
    pub(crate) fn next<'a>(&self, list: &'a List<T>) -> Option<Option<&'a T>> {
        if !ptr::eq(self.list, list) {
            return None;
        }
        // SAFETY: The next link is null, or in `list`, by the type invariants.
        unsafe { List::next_of(self.link.next.load(Relaxed)) }.map(Link::owner)
    }

    /// Moves it behind what is behind it. `list` is the one that it is in.
    pub(crate) fn advance(&self, list: &mut List<T>) {
        if !ptr::eq(self.list, list) {
            return;
        }
        // SAFETY: The next link is null, or in `list`, by the type invariants.
        let next = unsafe { List::next_of(self.link.next.load(Relaxed)) };

        if next.is_some() {
            // SAFETY: The link is in `list`, by the type invariants.
            unsafe { list.remove(&self.link) };
            // SAFETY: The link was taken out just now; `next` is in `list`.
            unsafe { list.insert(&self.link, next) };
        }
    }
}
