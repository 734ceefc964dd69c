// SPDX-License-Identifier: GPL-2.0

//! The mounter: opens the devices of a mount, and owns the mount's reference to the module.

use kernel::{
    cred::Credential,
    fs::{
        file::flags,
        File, //
    },
    new_work,
    prelude::*,
    str::CString,
    sync::aref::ARef,
    task::Kuid,
    workqueue::{
        self,
        Work,
        WorkItem, //
    }, //
};

use crate::{
    abstractions::{
        cred,
        fs::{
            file::FileExt,
            path::Path, //
        },
        module::{
            self,
            Module, //
        }, //
    },
    bindings::kernel as c, //
};

/// A reference to this module. Dropping it may be the last thing that code of the module does.
pub(crate) struct ModuleRef {
    _module: module::ModuleRef,
}

impl ModuleRef {
    /// Returns `None` if the module is being unloaded.
    pub(crate) fn new() -> Option<Self> {
        let _module = Module::this::<crate::LocalModule>().try_get()?;

        Some(Self { _module })
    }
}

/// The credentials and the root directory of the task in mount(2), with which devices are opened.
#[pin_data]
pub(crate) struct Mounter {
    root: Path,
    cred: ARef<Credential>,
    #[pin]
    put: Work<Mounter>,
    /// Dropped last.
    _module: ModuleRef,
}

kernel::impl_has_work! {
    impl HasWork<Self> for Mounter { self.put }
}

impl WorkItem for Mounter {
    type Pointer = Pin<KBox<Self>>;

    fn run(mounter: Pin<KBox<Self>>) {
        drop(mounter);
    }
}

impl Mounter {
    /// Returns the current task as a mounter, if it may offer file maps to a server of `owner`.
    /// Does not sleep.
    ///
    /// The task must be that owner, and not by way of a set-user-ID program: fusermount3 has all
    /// capabilities when it mounts, and does so for servers of users who have none.
    pub(crate) fn current(owner: Kuid) -> Option<Pin<KBox<Self>>> {
        let cred = cred::current();

        if !cred::capable_noaudit(c::CAP_SYS_RAWIO)
            || cred::uid(&cred) != owner
            || cred.euid() != owner
        {
            return None;
        }
        // Allocated first: after a later failure the root directory would be put here, and may
        // sleep.
        let _module = ModuleRef::new()?;
        let mounter = KBox::<Self>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
        // A task that is exiting may have no root directory.
        let root = Path::root_of_current()?;
        let mounter = mounter.write_pin_init(pin_init!(Self {
            root,
            cred,
            put <- new_work!("fuse_dax_fmap::Mounter::put"),
            _module,
        }));
        mounter.ok()
    }

    /// Drops a mounter in a work item, for callers that must not sleep.
    pub(crate) fn put_later(mounter: Pin<KBox<Self>>) {
        workqueue::system_long().enqueue(mounter);
    }

    /// Opens a character device as the mounter would. May sleep.
    ///
    /// The path comes from the server, so it is looked up with O_PATH first: to open another kind
    /// of file may do anything, even call this function again.
    ///
    /// # Errors
    ///
    /// Those of open(2); [`ENODEV`] if this is no character device.
    pub(crate) fn open(&self, path: &CString) -> Result<ARef<File>> {
        const FLAGS: u32 = flags::O_RDWR | flags::O_NONBLOCK | flags::O_NOCTTY | flags::O_LARGEFILE;

        let place = cred::with(&self.cred, || self.root.open(path, flags::O_PATH))?;
        if !place.inode().is_character_device() {
            return Err(ENODEV);
        }
        cred::with(&self.cred, || place.path().open(c"", FLAGS))
    }
}
