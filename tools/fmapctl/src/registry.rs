// SPDX-License-Identifier: GPL-2.0
//! What is registered in the kernel, by any program.
//!
//! Ops are registered by a BPF link to a struct_ops map of the module's type. The kernel can
//! list all links; the name is in the map, whose value user space can read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use fuse_dax_fmap::module::NAME as MODULE;
use fuse_dax_fmap::{OPS_SIZE, OpsName};
use libbpf_rs::query::{BtfInfoIter, LinkInfo, LinkTypeInfo};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapInfo, libbpf_sys};

use crate::bpf;

/// Size of the kernel's state before the `struct fuse_dax_fmap_ops` in the value of a map, one
/// cache line.
const STATE_SIZE: usize = 64;

/// Ops that mounts find by their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub name: String,
    pub link: u32,
    pub map: u32,
}

/// All of them, sorted by name.
pub fn registered() -> Vec<Registered> {
    let mut all: Vec<_> = bpf::links()
        .filter_map(|link| ops_of(&LinkInfo::from_fd(link.as_fd()).ok()?))
        .collect();
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Those of one name.
pub fn find(name: &str) -> Option<Registered> {
    registered().into_iter().find(|ops| ops.name == name)
}

/// What a link has registered; nothing if it is of another type, or detached.
pub fn ops_of(info: &LinkInfo) -> Option<Registered> {
    let LinkTypeInfo::StructOps(ops) = &info.info else {
        return None;
    };
    // The map may be freed at any moment.
    let map = MapHandle::from_map_id(ops.map_id).ok()?;
    if !is_ours(map.as_fd()) {
        return None;
    }
    let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok()??;
    Some(Registered {
        name: ops_name(value.get(STATE_SIZE..)?)?,
        link: info.id,
        map: ops.map_id,
    })
}

/// Returns true if a link is a struct_ops link, of any type, that has been detached.
pub fn is_detached(info: &LinkInfo) -> bool {
    matches!(&info.info, LinkTypeInfo::StructOps(ops) if ops.map_id == 0)
}

/// The link of ops, if it still has ops of that name.
pub fn link_of(ops: &Registered) -> Option<OwnedFd> {
    let link = bpf::link_by_id(ops.link).ok()?;
    let now = ops_of(&LinkInfo::from_fd(link.as_fd()).ok()?)?;
    (now.name == ops.name).then_some(link)
}

/// Returns true if a map is of the module's type: the kernel knows the module's types by its
/// BTF, and there is one struct_ops type among them.
pub fn is_ours(map: BorrowedFd<'_>) -> bool {
    static BTF: OnceLock<Option<u32>> = OnceLock::new();

    let of_module = || BtfInfoIter::default().find(|btf| btf.name == MODULE);
    let Some(btf) = BTF.get_or_init(|| of_module().map(|btf| btf.id)) else {
        return false;
    };
    MapInfo::new(map).is_ok_and(|MapInfo { info }| {
        info.type_ == libbpf_sys::BPF_MAP_TYPE_STRUCT_OPS && info.btf_vmlinux_id == *btf
    })
}

/// The name in the image of a `struct fuse_dax_fmap_ops`, which begins with it.
pub fn ops_name(image: &[u8]) -> Option<String> {
    let name = image.get(..OPS_SIZE)?.first_chunk()?;
    OpsName::from_bytes(name).ok().map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &[u8]) -> Vec<u8> {
        let mut image = name.to_vec();
        image.resize(OPS_SIZE, 0);
        image
    }

    #[test]
    fn names_of_ops() {
        assert_eq!(ops_name(&image(b"striped")).as_deref(), Some("striped"));
        assert_eq!(
            ops_name(&image(b"123456789012345")).as_deref(),
            Some("123456789012345")
        );
        assert_eq!(ops_name(&image(b"")), None);
        assert_eq!(ops_name(&image(b"1234567890123456")), None);
        assert_eq!(ops_name(&image(b"../x")), None);
        assert_eq!(ops_name(&image(b"a b")), None);
        assert_eq!(ops_name(b"striped\0"), None);
    }
}
