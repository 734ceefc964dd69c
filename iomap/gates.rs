// SPDX-License-Identifier: GPL-2.0

//! Gates: ranges of files where access waits until a change of the map is over.
//!
//! The task that changes a map drops what the page caches have of a range, and closes a gate there
//! in the same critical section of `invalidate_lock`. From then on nothing reaches that memory: a
//! fault waits without its locks ([`wait_in_fault`]), a read or write without `i_rwsem`
//! ([`wait_in_io`]), and both look again afterwards. So a fault sees the state before the change or
//! the one after it.
//!
//! A map knows only that it has gates (`Header::has_gates`), which costs a fault a comparison. The
//! ranges are in a tree of the mount.

use core::ptr;

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        mm::fault::VmFault,
        sync::completion::Completion,
        task, //
    },
    bindings::kernel as c,
    sb_info::{
        Gate,
        GateKey, //
    }, //
};

use super::{
    mapped_inode::{
        Header,
        MappedFile,
        MappedInode, //
    },
    no_faults::NoFaults, //
};

/// How long a task that waits sleeps at most before it looks again: nobody wakes it when FUSE marks
/// the inode bad, or when the server is gone.
const LOOK_MS: u32 = 100;

/// What is allocated for a gate before locks are taken.
pub(super) struct NewGate {
    node: RBTreeNodeReservation<GateKey, Gate>,
    opened: Arc<Completion>,
}

impl NewGate {
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            node: RBTreeNodeReservation::new(GFP_KERNEL)?,
            opened: Arc::pin_init(Completion::new(), GFP_KERNEL)?,
        })
    }

    /// Closes a gate from byte `start` to `end` of a map, which are neither mapped nor in use.
    /// There must be no other gate in this range.
    pub(super) fn close<'a>(
        self,
        no_faults: &NoFaults<'a>,
        map: &Header,
        (start, end): (u64, u64),
    ) -> ClosedGate<'a> {
        let file = no_faults.file();
        let key = (ptr::from_ref(map).addr(), end);
        let gate = Gate {
            start,
            opened: self.opened,
        };

        // With the ranges of a map in order, and none inside another, their ends are in order, too.
        file.sbi()
            .gates
            .lock()
            .insert(self.node.into_node(key, gate));
        map.has_gates.store(true, Relaxed);
        ClosedGate {
            file,
            key,
            is_open: false,
        }
    }
}

/// A gate that is closed. Dropping it opens the gate; the lock of [`NoFaults`] must not be held.
pub(super) struct ClosedGate<'a> {
    file: &'a MappedFile,
    key: GateKey,
    is_open: bool,
}

impl<'a> ClosedGate<'a> {
    pub(super) fn file(&self) -> &'a MappedFile {
        self.file
    }

    /// Opens the gate.
    pub(super) fn open(mut self, no_faults: &NoFaults<'a>) {
        self.open_once(no_faults);
    }

    fn open_once(&mut self, _no_faults: &NoFaults<'_>) {
        let sbi = self.file.sbi();
        // No other task puts a gate into the map now, or replaces the map.
        let mut gates = sbi.gates.lock();
        let gate: Option<RBTreeNode<GateKey, Gate>> = gates.remove_node(&self.key);
        let is_last = next_gate(&gates, self.key.0, 0).is_none();
        drop(gates);

        if is_last {
            // SAFETY: `invalidate_lock` is held.
            unsafe { self.file.present_map() }
                .has_gates
                .store(false, Relaxed);
        }
        if let Some((_, gate)) = gate.map(RBTreeNode::to_key_value) {
            gate.opened.complete_all();
        }
        self.is_open = true;
    }
}

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            self.open_once(&NoFaults::lock(self.file));
        }
    }
}

/// Returns the first gate of a map that ends behind `pos`: where it begins, and its end.
fn next_gate(
    gates: &RBTree<GateKey, Gate>,
    map: usize,
    pos: u64,
) -> Option<(u64, &Arc<Completion>)> {
    let key = *gates
        .cursor_lower_bound(&(map, pos.checked_add(1)?))?
        .current()
        .0;
    let gate = gates.get(&key).filter(|_| key.0 == map)?;

    Some((gate.start, &gate.opened))
}

impl Header {
    /// Returns how many of `length` bytes from `pos` on come before a gate; `None` if `pos` is in
    /// one.
    #[cold]
    pub(super) fn before_gate(&self, pos: u64, length: u64) -> Option<u64> {
        let gates = self.sbi().gates.lock();

        match next_gate(&gates, ptr::from_ref(self).addr(), pos) {
            Some((start, _)) if start <= pos => None,
            Some((start, _)) => Some(length.min(start - pos)),
            None => Some(length),
        }
    }

    /// Returns the gate in which `pos` is, if it is in one.
    #[cold]
    fn gate_at(&self, pos: u64) -> Option<Arc<Completion>> {
        if !self.has_gates.load(Relaxed) {
            return None;
        }
        let gates = self.sbi().gates.lock();

        next_gate(&gates, ptr::from_ref(self).addr(), pos)
            .filter(|(start, _)| *start <= pos)
            .map(|(_, opened)| opened.clone())
    }
}

/// Returns what a fault has to wait for, if it is in a gate and the inode is not bad.
///
/// # Safety
///
/// The fault is of `inode`, whose mapped file is `file`, and holds its `invalidate_lock`.
pub(super) unsafe fn gate_of_fault(
    vmf: &VmFault,
    inode: MappedInode<'_>,
    file: &MappedFile,
) -> Option<Arc<Completion>> {
    // SAFETY: `invalidate_lock` is held, by the safety requirements.
    let map = unsafe { file.present_map() };
    // mremap(2) lets a VMA begin at any page, even beyond the largest file.
    let pos = vmf.pgoff().checked_mul(super::mapped_inode::PAGE)?;

    map.gate_at(pos).filter(|_| !inode.inode.is_bad())
}

/// Waits until a gate is open, with no lock held, and makes the memory manager retry the fault. The
/// caller must have dropped `invalidate_lock`.
///
/// `->page_mkwrite()` and `->pfn_mkwrite()` may not drop the lock of the VMA, and need not wait:
/// the page has been unmapped, so the access faults again.
#[cold]
pub(super) fn wait_in_fault(
    vmf: &VmFault,
    inode: MappedInode<'_>,
    opened: &Completion,
) -> c::vm_fault_t {
    let flags = vmf.flags();

    if vmf.is_mkwrite() {
        return c::vm_fault_reason_VM_FAULT_NOPAGE;
    }
    if flags & c::fault_flag_FAULT_FLAG_ALLOW_RETRY == 0 {
        return c::vm_fault_reason_VM_FAULT_SIGBUS;
    }
    if flags & c::fault_flag_FAULT_FLAG_RETRY_NOWAIT != 0 {
        return c::vm_fault_reason_VM_FAULT_RETRY;
    }
    let interruptible = flags & c::fault_flag_FAULT_FLAG_INTERRUPTIBLE != 0;

    let wait = || loop {
        let done = opened.wait_timeout(interruptible, msecs_to_jiffies(LOOK_MS));
        if done != Ok(false) || inode.inode.is_bad() {
            break;
        }
    };
    // SAFETY: The result is returned to the memory manager.
    unsafe { vmf.wait_unlocked(wait) }
}

/// Waits until no gate is at `pos`, with no lock held. Returns at once if there is none.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`EIO`] if FUSE has marked the inode bad.
pub(super) fn wait_in_io(inode: MappedInode<'_>, pos: u64) -> Result {
    // The map is not borrowed during the wait.
    while let Some(opened) = inode.map().gate_at(pos) {
        if inode.inode.is_bad() {
            return Err(EIO);
        }
        opened.wait_killable_timeout(msecs_to_jiffies(LOOK_MS));
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
    }
    Ok(())
}
