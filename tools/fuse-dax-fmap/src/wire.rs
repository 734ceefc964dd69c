// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layouts of `include/uapi/linux/fuse_dax_fmap.h`, and the few of FUSE's own around them.
//!
//! Everything is read and written at its offset, with a check of the length: a server must not
//! rely on the length of a request. `tests` compares each number here with what a C compiler
//! makes of the headers.

use crate::errno::Errno;

/// Bytes that a map may have: `FUSE_DAX_FMAP_BLOB_MAX`.
pub const BLOB_MAX: u32 = 1 << 20;
/// Bytes of the buffer that the kernel offers for a map at first: `FUSE_DAX_FMAP_BLOB_MIN`.
pub const BLOB_MIN: u32 = 4 << 10;
/// Bytes that a map may have in the reply to OPEN: `FUSE_DAX_FMAP_OPEN_MAP_MAX`.
pub const OPEN_MAP_MAX: usize = 504;
/// Devices that a mount may use: `FUSE_DAX_FMAP_DEVICES_MAX`.
pub const DEVICES_MAX: u32 = 64;
/// What marks an offer in INIT, "FMAP": `FUSE_DAX_FMAP_MAGIC`.
pub const MAGIC: u32 = 0x5041_4d46;
/// The version of the protocol that this crate speaks: `FUSE_DAX_FMAP_ABI_VERSION`.
pub const ABI_VERSION: u32 = 1;
/// Opcode: the map of a file: `FUSE_GET_FMAP`.
pub const GET_FMAP: u32 = 54;
/// Opcode: the path of a device: `FUSE_GET_DAXDEV`.
pub const GET_DAXDEV: u32 = 55;

/// `FUSE_INIT`, which carries the offer and the answer.
pub(crate) const INIT: u32 = 26;
/// `FUSE_OPEN`, whose reply may carry a map.
pub(crate) const OPEN: u32 = 14;

/// `struct fuse_in_header`, and where its fields are.
pub(crate) const IN_HEADER: usize = 40;
pub(crate) const IN_OPCODE: usize = 4;
pub(crate) const IN_UNIQUE: usize = 8;
pub(crate) const IN_NODEID: usize = 16;
/// `struct fuse_out_header`, and where its fields are; its length comes first.
pub(crate) const OUT_HEADER: usize = 16;
pub(crate) const OUT_ERROR: usize = 4;

/// `fuse_init_in.unused[9]` and `[10]`.
pub(crate) const INIT_IN_MAGIC: usize = IN_HEADER + 20 + 4 * 9;
pub(crate) const INIT_IN_VERSION: usize = IN_HEADER + 20 + 4 * 10;
/// `struct fuse_init_out`, and where it holds flags and name.
pub(crate) const INIT_OUT: usize = 64;
pub(crate) const INIT_OUT_FLAGS: usize = OUT_HEADER + 44;
pub(crate) const INIT_OUT_NAME: usize = OUT_HEADER + 48;
/// `FUSE_DAX_FMAP_MAP_IN_OPEN`.
pub(crate) const MAP_IN_OPEN: u32 = 1 << 0;

/// `fuse_open_in.open_flags`, and the flag in it: `FUSE_DAX_FMAP_OPEN_MAP`.
pub(crate) const OPEN_IN_FLAGS: usize = IN_HEADER + 4;
pub(crate) const OPEN_MAP: u32 = 1 << 31;
/// `struct fuse_open_out`.
pub(crate) const OPEN_OUT: usize = 16;
/// `struct fuse_open_fmap_out`, and where it holds the map; the size comes first.
pub(crate) const OPEN_FMAP_OUT: usize = OPEN_FMAP_MAP + OPEN_MAP_MAX;
pub(crate) const OPEN_FMAP_MAP: usize = 8;

/// `fuse_get_fmap_in.size` and `fuse_get_daxdev_in.index`.
pub(crate) const GET_IN_WORD: usize = IN_HEADER;
/// `struct fuse_get_daxdev_out`, and where it holds the path; the index comes first.
pub(crate) const DAXDEV_OUT: usize = 280;
pub(crate) const DAXDEV_NAME: usize = 24;

/// A reply that fails the request `unique` with an error, for example INIT after a
/// [`Refusal`](crate::Refusal).
pub fn error_reply(unique: u64, errno: Errno) -> Vec<u8> {
    out_message(unique, -errno.get(), &[])
}

/// The number that ties a reply to its request; 0 if this is no request.
pub fn unique(request: &[u8]) -> u64 {
    u64_at(request, IN_UNIQUE).unwrap_or(0)
}

/// The opcode of a request.
pub fn opcode(request: &[u8]) -> Option<u32> {
    u32_at(request, IN_OPCODE)
}

/// A reply that is no error.
pub(crate) fn reply(unique: u64, body: &[u8]) -> Vec<u8> {
    out_message(unique, 0, body)
}

fn out_message(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let len = OUT_HEADER + body.len();
    let mut message = Vec::with_capacity(len);
    message.extend((len as u32).to_le_bytes());
    message.extend(error.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.extend(body);
    message
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// What a C compiler makes of the headers.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{OPS_NAME_LEN, OPS_SIZE};
    use std::env;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Each C expression, and its value here.
    fn expected() -> Vec<(&'static str, u64)> {
        let at = |offset: usize, header: usize| (offset - header) as u64;
        let mut all = vec![
            ("FUSE_DAX_FMAP_BLOB_MAX", BLOB_MAX.into()),
            ("FUSE_DAX_FMAP_BLOB_MIN", BLOB_MIN.into()),
            ("FUSE_DAX_FMAP_OPEN_MAP_MAX", OPEN_MAP_MAX as u64),
            ("FUSE_DAX_FMAP_DEVICES_MAX", DEVICES_MAX.into()),
            ("FUSE_DAX_FMAP_MAGIC", MAGIC.into()),
            ("FUSE_DAX_FMAP_ABI_VERSION", ABI_VERSION.into()),
            ("FUSE_GET_FMAP", GET_FMAP.into()),
            ("FUSE_GET_DAXDEV", GET_DAXDEV.into()),
            ("FUSE_INIT", INIT.into()),
            ("FUSE_OPEN", OPEN.into()),
            ("FUSE_DAX_FMAP_OPS_NAME_LEN", OPS_NAME_LEN as u64),
            ("sizeof(struct fuse_dax_fmap_ops)", OPS_SIZE as u64),
            ("FUSE_DAX_FMAP_MAP_IN_OPEN", MAP_IN_OPEN.into()),
            ("FUSE_DAX_FMAP_OPEN_MAP", OPEN_MAP.into()),
        ];
        all.extend([
            ("sizeof(struct fuse_in_header)", IN_HEADER as u64),
            ("offsetof(struct fuse_in_header, opcode)", IN_OPCODE as u64),
            ("offsetof(struct fuse_in_header, unique)", IN_UNIQUE as u64),
            ("offsetof(struct fuse_in_header, nodeid)", IN_NODEID as u64),
            ("sizeof(struct fuse_out_header)", OUT_HEADER as u64),
            ("offsetof(struct fuse_out_header, error)", OUT_ERROR as u64),
            ("offsetof(struct fuse_out_header, unique)", 8),
            (
                "offsetof(struct fuse_init_in, unused[FUSE_DAX_FMAP_INIT_IN_MAGIC])",
                at(INIT_IN_MAGIC, IN_HEADER),
            ),
            (
                "offsetof(struct fuse_init_in, unused[FUSE_DAX_FMAP_INIT_IN_VERSION])",
                at(INIT_IN_VERSION, IN_HEADER),
            ),
            ("sizeof(struct fuse_init_out)", INIT_OUT as u64),
            (
                "FUSE_DAX_FMAP_INIT_OUT_FLAGS",
                at(INIT_OUT_FLAGS, OUT_HEADER),
            ),
            ("FUSE_DAX_FMAP_INIT_OUT_NAME", at(INIT_OUT_NAME, OUT_HEADER)),
            (
                "offsetof(struct fuse_open_in, open_flags)",
                at(OPEN_IN_FLAGS, IN_HEADER),
            ),
            ("sizeof(struct fuse_open_out)", OPEN_OUT as u64),
            ("sizeof(struct fuse_open_fmap_out)", OPEN_FMAP_OUT as u64),
            ("offsetof(struct fuse_open_fmap_out, size)", 0),
            (
                "offsetof(struct fuse_open_fmap_out, map)",
                OPEN_FMAP_MAP as u64,
            ),
            (
                "offsetof(struct fuse_get_fmap_in, size)",
                at(GET_IN_WORD, IN_HEADER),
            ),
            (
                "offsetof(struct fuse_get_daxdev_in, index)",
                at(GET_IN_WORD, IN_HEADER),
            ),
            ("sizeof(struct fuse_get_daxdev_out)", DAXDEV_OUT as u64),
            ("offsetof(struct fuse_get_daxdev_out, index)", 0),
            (
                "offsetof(struct fuse_get_daxdev_out, name)",
                DAXDEV_NAME as u64,
            ),
        ]);
        all
    }

    /// Compiles assertions. For each wrong number the compiler prints a line, with the
    /// expression and the expected value.
    fn compile(expected: &[(&str, u64)]) -> (bool, String) {
        let mut source = String::from(
            "#include <stddef.h>\n#include <linux/fuse.h>\n#include <linux/fuse_dax_fmap.h>\n",
        );
        for (expression, value) in expected {
            source += &format!(
                "_Static_assert(({expression}) == {value}ULL, \"{expression} is not {value}\");\n"
            );
        }
        let mut compiler = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
            .args(["-std=gnu11", "-fsyntax-only", "-Wall", "-Werror", "-I"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
            .args(["-x", "c", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there has to be a C compiler: cc, or what CC names");
        let mut stdin = compiler.stdin.take().unwrap();
        stdin.write_all(source.as_bytes()).unwrap();
        drop(stdin);
        let output = compiler.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    #[test]
    fn as_in_the_headers() {
        let (same, said) = compile(&expected());
        assert!(same, "{said}");
    }

    /// The test can fail: it finds each number that is one too large.
    #[test]
    fn the_compiler_finds_each_of_them() {
        let wrong: Vec<_> = expected()
            .iter()
            .map(|&(e, value)| (e, value + 1))
            .collect();
        let (same, said) = compile(&wrong);
        assert!(!same);
        for (expression, value) in wrong {
            let line = format!("{expression} is not {value}");
            assert!(said.contains(&line), "{line}: {said}");
        }
    }
}
