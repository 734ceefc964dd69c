// SPDX-License-Identifier: GPL-2.0
//! Files in memory: DAX and the memory manager, as far as fast faults depend on them.

use std::cell::Cell;

use loom::sync::{Mutex, RwLock};

use crate::atomics::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::lockless::{DIRTY, Orders, Place, look_up, next_validity, renew, write_back};

pub const LOST: &str = "a page is writable, or has data that are not flushed, and is not dirty";
pub const NO_ENTRY: &str = "a page is mapped for which there is no entry";
pub const NOT_ITS_OWN: &str = "a page is mapped where it does not belong";

pub const HAS_COOKIE: &str = "a folio without an association has a cookie";

/// Page frames, and pages of a file.
const PAGES: usize = 2;

/// A page frame, with the fields of a folio if it is the first one of the folio.
struct Frame {
    /// `compound_head()`: the first frame of the folio.
    head: AtomicUsize,
    /// `folio_nr_pages()`.
    pages: AtomicUsize,
    /// `folio->mapping`: a file, or 0.
    mapping: AtomicUsize,
    /// `folio->index`.
    index: AtomicUsize,
    /// `folio->private`.
    cookie: AtomicU64,
}

/// A page of a file.
struct Page {
    /// DAX's lock of the entry. (It stands for the lock of the XArray, too.)
    entry_lock: Mutex<()>,
    /// 0 for none, or [`LOCKED`], or a frame as of [`entry_of`].
    entry: AtomicUsize,
    /// `PAGECACHE_TAG_DIRTY`.
    dirty: AtomicBool,
    /// The page table of a task that maps the file, with its lock.
    pte: Mutex<Pte>,
}

const LOCKED: usize = 1;

fn entry_of(frame: usize) -> usize {
    (frame + 1) << 1
}

#[derive(Clone, Copy, Default)]
pub struct Pte {
    pub present: bool,
    /// The frame, if it is present.
    frame: usize,
    pub writable: bool,
    /// Data were stored, and not flushed.
    pub stored: bool,
}

pub struct File {
    /// Never 0, which is none.
    id: usize,
    invalidate_lock: RwLock<()>,
    pub writers: AtomicU32,
    pub validity: AtomicU64,
    pages: Vec<Page>,
}

pub struct World {
    frames: Vec<Frame>,
    pub files: Vec<File>,
    /// Held to change associations.
    ownership: Mutex<()>,
    last_validity: AtomicU64,
}

/// What is left out, or done in another way than in the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    None,
    /// A fault reads the validity before it looks for writers.
    ValidityBeforeQuiet,
    /// A fault does not look for writers.
    NeverQuiet,
    /// A fault takes a locked entry for an unlocked one.
    LockedEntry,
    /// A fault uses an index that it has read before the cookie.
    IndexBeforeCookie,
    /// A fault takes the folio that it has found for one that the frame is still in.
    OldHead,
    /// A fault maps a frame that the folio has no more.
    OutsideFolio,
    /// A fault does not read the folio again after it has seen the entry.
    OldFolio,
    /// The writer does not wait for faults.
    NoPass,
    /// The new validity comes between waiting for faults and flushing.
    ValidityBeforeFlush,
    /// The new validity comes before waiting for faults.
    ValidityBeforePass,
    /// There is no new validity.
    NoNewValidity,
    /// The cookie of a folio is not cleared when its entry is dropped.
    CookieStays,
    /// There is no new validity, and the cookie is not cleared.
    NoNewValidityAndCookieStays,
    /// Entries are dropped without the lock.
    NoLock,
}

impl World {
    /// Makes files without entries, and memory without associations.
    pub fn new(files: usize) -> Self {
        let frame = |head| Frame {
            head: AtomicUsize::new(head),
            pages: AtomicUsize::new(1),
            mapping: AtomicUsize::new(0),
            index: AtomicUsize::new(0),
            cookie: AtomicU64::new(0),
        };
        let page = |_| Page {
            entry_lock: Mutex::new(()),
            entry: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
            pte: Mutex::new(Pte::default()),
        };
        let file = |id| File {
            id,
            invalidate_lock: RwLock::new(()),
            writers: AtomicU32::new(0),
            validity: AtomicU64::new(2 * id as u64),
            pages: (0..PAGES).map(page).collect(),
        };
        Self {
            frames: (0..PAGES).map(frame).collect(),
            files: (1..=files).map(file).collect(),
            ownership: Mutex::new(()),
            last_validity: AtomicU64::new(2 * files as u64),
        }
    }

    /// Page 0 of file 0 is in frame 0, and marked dirty. The cookie of the folio says so, or is
    /// clean, or is not of this file.
    pub fn with_dirty_page(cookie: fn(validity: u64) -> u64) -> Self {
        let world = Self::new(1);
        let file = &world.files[0];

        world.frames[0].mapping.store(file.id, Ordering::Relaxed);
        let validity = file.validity.load(Ordering::Relaxed);
        world.frames[0]
            .cookie
            .store(cookie(validity), Ordering::Relaxed);
        file.pages[0].entry.store(entry_of(0), Ordering::Relaxed);
        file.pages[0].dirty.store(true, Ordering::Relaxed);
        world
    }

    /// All memory is one folio of file 0, from its page 0 on, with a cookie. (Its entry is not
    /// modelled.)
    pub fn with_large_folio() -> Self {
        let world = Self::new(2);
        let first = &world.frames[0];

        for frame in &world.frames {
            frame.head.store(0, Ordering::Relaxed);
        }
        first.pages.store(PAGES, Ordering::Relaxed);
        first.mapping.store(1, Ordering::Relaxed);
        first.cookie.store(2, Ordering::Relaxed);
        world
    }

    /// The same, but only frame 0, and only one page.
    pub fn with_small_folio() -> Self {
        let world = Self::new(2);

        world.frames[0].mapping.store(1, Ordering::Relaxed);
        world.frames[0].cookie.store(2, Ordering::Relaxed);
        world
    }

    fn new_validity(&self) -> u64 {
        next_validity(&self.last_validity, 0)
    }

    // --- Faults ---------------------------------------------------------------------------------

    /// A fault: a fast one if possible, else a DAX fault.
    pub fn fault<O: Orders>(&self, at: At, slip: Slip) {
        let file = &self.files[at.file];
        let _shared = file.invalidate_lock.read().unwrap();

        if self.map_fast::<O>(at, slip) {
            return;
        }
        self.fault_dax(at);
    }

    /// A fast fault, which does nothing if DAX would be needed.
    pub fn fault_fast<O: Orders>(&self, at: At, slip: Slip) {
        let _shared = self.files[at.file].invalidate_lock.read().unwrap();

        self.map_fast::<O>(at, slip);
    }

    fn map_fast<O: Orders>(&self, at: At, slip: Slip) -> bool {
        let file = &self.files[at.file];
        let place = InWorld {
            world: self,
            at,
            slip,
            old: Cell::new(None),
        };
        // For an earlier load than that of `look_up()`, and for no writers at all.
        let (early, none);
        let mut validity = &file.validity;
        let mut writers = &file.writers;

        if slip == Slip::ValidityBeforeQuiet {
            early = AtomicU64::new(validity.load(Ordering::Relaxed));
            validity = &early;
        }
        if slip == Slip::NeverQuiet {
            none = AtomicU32::new(0);
            writers = &none;
        }
        match look_up::<O, _>(writers, validity, &place, at.write) {
            Some(((), true)) => {
                self.files[at.file].pages[at.index].insert(at);
                true
            }
            _ => false,
        }
    }

    /// `dax_iomap_fault()`, with what `iomap_begin()` does.
    fn fault_dax(&self, at: At) {
        let file = &self.files[at.file];
        let page = &file.pages[at.index];
        let _locked = page.entry_lock.lock().unwrap();
        let entry = page.entry.load(Ordering::Relaxed);
        let frame = &self.frames[at.frame];

        page.entry.store(entry | LOCKED, Ordering::Release);
        if entry == 0 {
            let _ownership = self.ownership.lock().unwrap();
            let head = &self.frames[frame.head.load(Ordering::Relaxed)];

            if head.mapping.load(Ordering::Relaxed) != 0 {
                page.entry.store(0, Ordering::Release);
                return;
            }
            frame.mapping.store(file.id, Ordering::Relaxed);
            frame.index.store(at.index, Ordering::Relaxed);
            page.entry
                .store(entry_of(at.frame) | LOCKED, Ordering::Release);
        } else if entry != entry_of(at.frame) {
            page.entry.store(entry, Ordering::Release);
            return;
        }
        if at.write {
            page.dirty.store(true, Ordering::Relaxed);
        }
        page.insert(at);
        page.entry.store(entry_of(at.frame), Ordering::Release);
    }

    /// A task stores, if its page table allows it.
    fn store(&self, at: At) -> bool {
        let mut pte = self.files[at.file].pages[at.index].pte.lock().unwrap();
        let may = pte.present && pte.writable;

        pte.stored |= may;
        may
    }

    /// A store, with a fault if the page is not writable. (If the page is write-protected again in
    /// between, the store is left out.)
    pub fn store_with_fault<O: Orders>(&self, at: At, slip: Slip) {
        if !self.store(at) {
            self.fault::<O>(at, slip);
            self.store(at);
        }
    }

    // --- Writeback ------------------------------------------------------------------------------

    /// fsync(2), of file 0.
    pub fn fsync<O: Orders>(&self, slip: Slip) {
        let file = &self.files[0];
        let pass = || {
            if slip == Slip::ValidityBeforePass {
                renew(&file.validity, self.new_validity());
            }
            if slip != Slip::NoPass {
                drop(file.invalidate_lock.write().unwrap());
            }
        };
        let flush = || {
            if slip == Slip::ValidityBeforeFlush {
                renew(&file.validity, self.new_validity());
            }
            for page in &file.pages {
                page.flush();
            }
            if !matches!(
                slip,
                Slip::NoNewValidity | Slip::ValidityBeforePass | Slip::ValidityBeforeFlush
            ) {
                renew(&file.validity, self.new_validity());
            }
        };
        write_back::<O, _>(&file.writers, pass, flush);
    }

    // --- Breaking layouts -----------------------------------------------------------------------

    /// Unmaps and flushes page 0 of file 0, and drops its entry, as `collapse` and `invalidate` do.
    pub fn drop_entry(&self, slip: Slip) {
        let file = &self.files[0];
        let page = &file.pages[0];
        let _no_faults = (slip != Slip::NoLock).then(|| file.invalidate_lock.write().unwrap());

        {
            let mut pte = page.pte.lock().unwrap();
            pte.present = false;
            pte.writable = false;
        }
        page.flush();
        if !matches!(
            slip,
            Slip::NoNewValidity | Slip::NoNewValidityAndCookieStays
        ) {
            renew(&file.validity, self.new_validity());
        }
        let _ownership = self.ownership.lock().unwrap();
        self.disassociate(slip);
        page.entry.store(0, Ordering::Release);
    }

    /// Evicts the other file, which has the folio of frame 0 and is not modelled otherwise.
    pub fn evict_other(&self) {
        let _ownership = self.ownership.lock().unwrap();

        self.disassociate(Slip::None);
    }

    /// `dax_delete_mapping_range()`, after the cookie is cleared.
    fn disassociate(&self, slip: Slip) {
        let folio = &self.frames[0];

        if !matches!(slip, Slip::CookieStays | Slip::NoNewValidityAndCookieStays) {
            folio.cookie.store(0, Ordering::Relaxed);
        }
        folio.mapping.store(0, Ordering::Relaxed);
        let pages = folio.pages.load(Ordering::Relaxed);
        folio.pages.store(1, Ordering::Relaxed);
        for (number, frame) in self.frames.iter().enumerate().take(pages).skip(1) {
            frame.head.store(number, Ordering::Relaxed);
            frame.mapping.store(0, Ordering::Relaxed);
        }
    }

    // --- What has to hold -----------------------------------------------------------------------

    /// Checks the state after all tasks have ended.
    pub fn check(&self) {
        for frame in &self.frames {
            let unassociated = frame.mapping.load(Ordering::Relaxed) == 0;

            assert!(
                !unassociated || frame.cookie.load(Ordering::Relaxed) == 0,
                "{HAS_COOKIE}"
            );
        }
        for file in &self.files {
            for (index, page) in file.pages.iter().enumerate() {
                let pte = *page.pte.lock().unwrap();
                let dirty = page.dirty.load(Ordering::Relaxed);
                let entry = page.entry.load(Ordering::Relaxed);

                assert!(
                    dirty || !(pte.stored || pte.present && pte.writable),
                    "{LOST}"
                );
                if pte.present {
                    assert!(entry != 0, "{NO_ENTRY}");
                    let frame = &self.frames[pte.frame];
                    assert!(
                        entry == entry_of(pte.frame)
                            && frame.mapping.load(Ordering::Relaxed) == file.id
                            && frame.index.load(Ordering::Relaxed) == index,
                        "{NOT_ITS_OWN}"
                    );
                }
            }
        }
    }
}

impl Page {
    /// `vmf_insert_page_mkwrite()`.
    fn insert(&self, at: At) {
        let mut pte = self.pte.lock().unwrap();

        pte.writable = at.write || pte.present && pte.writable;
        pte.frame = at.frame;
        pte.present = true;
    }

    /// `dax_writeback_one()`, if the page is dirty.
    fn flush(&self) {
        let _locked = self.entry_lock.lock().unwrap();

        if self.dirty.load(Ordering::Relaxed) {
            {
                let mut pte = self.pte.lock().unwrap();
                pte.writable = false;
                pte.stored = false;
            }
            self.dirty.store(false, Ordering::Relaxed);
        }
    }
}

/// A fault: its page, and the frame that the program says is there.
#[derive(Clone, Copy)]
pub struct At {
    pub file: usize,
    pub index: usize,
    pub frame: usize,
    pub write: bool,
}

pub const READ: At = At {
    file: 0,
    index: 0,
    frame: 0,
    write: false,
};

pub const WRITE: At = At {
    write: true,
    ..READ
};

/// As `PlaceOfFile` in `iomap/fault_fast.rs`.
struct InWorld<'a> {
    world: &'a World,
    at: At,
    slip: Slip,
    /// The folio that was found first.
    old: Cell<Option<Folio>>,
}

/// The first frame of a folio, and the index of the folio when it was found.
#[derive(Clone, Copy)]
struct Folio(usize, usize);

impl InWorld<'_> {
    fn frame(&self, number: usize) -> &Frame {
        &self.world.frames[number]
    }

    fn page(&self) -> &Page {
        &self.world.files[self.at.file].pages[self.at.index]
    }
}

impl Place for InWorld<'_> {
    type Folio = Folio;
    type Association = ();

    fn folio(&self) -> Folio {
        if let (Some(old), Slip::OldFolio) = (self.old.get(), self.slip) {
            return old;
        }
        let head = self.frame(self.at.frame).head.load(Ordering::Relaxed);
        let early = self.slip == Slip::IndexBeforeCookie;
        let index = early.then(|| self.frame(head).index.load(Ordering::Relaxed));

        let folio = Folio(head, index.unwrap_or(0));
        self.old.set(Some(folio));
        folio
    }

    fn cookie(&self, folio: Folio, order: Ordering) -> u64 {
        self.frame(folio.0).cookie.load(order)
    }

    fn set_cookie(&self, folio: Folio, cookie: u64, order: Ordering) {
        self.frame(folio.0).cookie.store(cookie, order);
    }

    fn has_entry(&self) -> bool {
        let mut entry = self.page().entry.load(Ordering::Relaxed);

        if self.slip == Slip::LockedEntry {
            entry &= !LOCKED;
        }
        entry == entry_of(self.at.frame)
    }

    fn association(&self, folio: Folio) -> Option<()> {
        let head = self.frame(folio.0);
        let mapping = head.mapping.load(Ordering::Relaxed);
        let first = match self.slip {
            Slip::IndexBeforeCookie => folio.1,
            _ => head.index.load(Ordering::Relaxed),
        };
        let within = match self.slip {
            Slip::OldHead => self.at.frame - folio.0,
            _ => self.at.frame & (head.pages.load(Ordering::Relaxed) - 1),
        };
        let is_inside = self.slip == Slip::OutsideFolio || folio.0 + within == self.at.frame;
        let is_there = mapping == self.world.files[self.at.file].id
            && first + within == self.at.index
            && is_inside;
        is_there.then_some(())
    }

    fn is_marked(&self, (): &()) -> bool {
        self.page().dirty.load(Ordering::Relaxed)
    }
}

/// Cookies that a folio may have, for a validity.
pub const COOKIES: [fn(u64) -> u64; 3] = [|validity| validity | DIRTY, |validity| validity, |_| 0];
