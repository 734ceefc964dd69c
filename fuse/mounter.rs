// SPDX-License-Identifier: GPL-2.0

//! Who mounted: what keeps the module, and opens devices, for a mount.

use core::{
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::from_err_ptr,
    ffi,
    new_work,
    prelude::*,
    str::CString,
    workqueue::{
        self,
        Work,
        WorkItem, //
    }, //
};

use crate::bindings::kernel as c;

/// A reference to this module. Dropping it may be the last thing that code of ours does.
pub(crate) struct ModuleRef;

impl ModuleRef {
    fn this() -> *mut c::module {
        kernel::module::this_module::<crate::LocalModule>().as_ptr()
    }

    /// `None` if the module is going away.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: This module is loaded: its code runs.
        let taken = unsafe { c::try_module_get(Self::this()) };
        // Made only if it is taken: dropping it gives it up.
        taken.then(|| Self)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: `new()` took the reference.
        unsafe { c::module_put(Self::this()) }
    }
}

/// The task that mounted: its credentials and its root directory, with which devices are opened.
///
/// # Invariants
///
/// `cred` and `root` are references that `self` owns.
#[pin_data(PinnedDrop)]
pub(crate) struct Mounter {
    cred: *const c::cred,
    root: c::path,
    #[pin]
    put: Work<Mounter>,
    /// Dropped last.
    _module: ModuleRef,
}

// SAFETY: References to credentials and directories belong to no task.
unsafe impl Send for Mounter {}
// SAFETY: Nothing of it is written once it is made.
unsafe impl Sync for Mounter {}

kernel::impl_has_work! {
    impl HasWork<Self> for Mounter { self.put }
}

impl WorkItem for Mounter {
    type Pointer = Pin<KBox<Self>>;

    fn run(mounter: Pin<KBox<Self>>) {
        drop(mounter);
    }
}

#[pinned_drop]
impl PinnedDrop for Mounter {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants `self` owns the reference.
        unsafe { c::path_put(&self.root) };
        // SAFETY: As above.
        unsafe { c::put_cred(self.cred) };
    }
}

/// A device file, opened by a [`Mounter`].
///
/// # Invariants
///
/// `self` owns a reference to the file.
pub(crate) struct DeviceFile(NonNull<c::file>);

impl DeviceFile {
    pub(crate) fn inode(&self) -> *mut c::inode {
        // SAFETY: By the type invariants.
        unsafe { (*self.0.as_ptr()).f_inode }
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns the reference.
        unsafe { c::fput(self.0.as_ptr()) }
    }
}

impl Mounter {
    /// The current task, if it may offer file maps to a server of `owner`. Does not sleep.
    ///
    /// It has to be that owner, and not by way of a set-user-ID program: fusermount3 has all
    /// capabilities when it mounts, and does so for a server of somebody who has none.
    pub(super) fn current(owner: c::kuid_t) -> Option<Pin<KBox<Self>>> {
        // SAFETY: The namespace is static; the check neither sleeps nor logs.
        let capable = unsafe {
            c::ns_capable_noaudit(&raw mut c::init_user_ns, c::CAP_SYS_RAWIO as ffi::c_int)
        };
        // SAFETY: The current task's own credentials.
        let (uid, euid) = unsafe {
            let cred = (*c::get_current()).cred;
            ((*cred).uid, (*cred).euid)
        };
        if !capable || uid.val != owner.val || euid.val != owner.val {
            return None;
        }
        // What can fail comes first: giving up the references below may sleep.
        let _module = ModuleRef::new()?;
        let mounter = KBox::<Self>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
        let mut root = c::path {
            mnt: ptr::null_mut(),
            dentry: ptr::null_mut(),
        };
        // SAFETY: The current task's own credentials and file system information; a task that is
        // exiting may have none of the latter.
        let cred = unsafe {
            let task = c::get_current();
            if (*task).fs.is_null() {
                return None;
            }
            c::get_fs_root((*task).fs, &mut root);
            c::get_cred((*task).cred)
        };
        // INVARIANT: The references were taken just now.
        let mounter = mounter.write_pin_init(pin_init!(Self {
            cred,
            root,
            put <- new_work!("fuse_dax_fmap::Mounter::put"),
            _module,
        }));
        mounter.ok()
    }

    /// Lets go of a mounter where it is not possible to sleep.
    pub(super) fn put_later(mounter: Pin<KBox<Self>>) {
        workqueue::system_long().enqueue(mounter);
    }

    /// Opens a character device as the task that mounted would. May sleep.
    ///
    /// The path is looked up before anything is opened: it comes from the server, and opening
    /// another kind of file may do anything, down to coming here again.
    ///
    /// # Errors
    ///
    /// Those of open(2); [`ENODEV`] if this is no character device.
    pub(crate) fn open(&self, path: &CString) -> Result<DeviceFile> {
        const FLAGS: u32 = c::O_RDWR | c::O_NONBLOCK | c::O_NOCTTY | c::O_LARGEFILE;

        let place = self.open_at(&self.root, path, c::O_PATH)?;
        // SAFETY: The file is open.
        let mode = unsafe { (*place.inode()).i_mode };
        if u32::from(mode) & c::S_IFMT != c::S_IFCHR {
            return Err(ENODEV);
        }
        // SAFETY: As above; its path does not change.
        let at = unsafe { &*ptr::addr_of!((*place.0.as_ptr()).__bindgen_anon_1.f_path) };
        self.open_at(at, c"", FLAGS)
    }

    fn open_at(&self, at: &c::path, path: &CStr, flags: u32) -> Result<DeviceFile> {
        // SAFETY: By the type invariants the credentials are valid; the former ones are put back
        // before anything else runs. `at` is valid, and so is the string.
        let file = unsafe {
            let old = c::override_creds(self.cred);
            let file = c::file_open_root(at, path.as_char_ptr(), flags as ffi::c_int, 0);
            c::revert_creds(old);
            file
        };
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENODEV)?;
        // INVARIANT: `file_open_root()` returned a reference.
        Ok(DeviceFile(file))
    }
}
