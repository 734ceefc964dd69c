// SPDX-License-Identifier: GPL-2.0
//! Wrong manifests, each with the exact error message.
//!
//! A message names the line, what is wrong in it, and what to write instead, if that is
//! not obvious.

use crate::layout::place;
use crate::manifest::{Error, parse, text};
use crate::tree::Tree;

/// What `fmapfs --check` says to a manifest.
fn check(manifest: &[u8]) -> Result<(), Error> {
    let manifest = parse(&text(manifest.to_vec())?)?;
    let sizes: Vec<_> = manifest.devices.iter().map(|device| device.size).collect();
    let layout = place(&manifest, &sizes)?;
    Tree::new(manifest, layout)?;
    Ok(())
}

/// The first line of those manifests that begin with `&`: two devices of 64 MiB.
const DEVICES: &str = "device = [{ name = \"a\", path = \"/dev/dax0.0\", size = \"64M\" }, \
                       { name = \"b\", path = \"/dev/dax1.0\", size = \"64M\" }]\n";

fn whole(manifest: &str) -> String {
    match manifest.strip_prefix('&') {
        Some(rest) => format!("{DEVICES}{rest}"),
        None => manifest.to_owned(),
    }
}

const REFUSED: &[(&str, &str)] = &[
    ("", "1: there is nothing to mount: no [[file]]"),
    (
        "# only a comment\n",
        "1: there is nothing to mount: no [[file]]",
    ),
    (
        "[[dir]]\npath = \"d\"\n",
        "1: there is nothing to mount: no [[file]]",
    ),
    ("&", "1: there is nothing to mount: no [[file]]"),
    (
        "[file]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "1: there may be several of [file]: it needs double brackets, [[file]]",
    ),
    (
        "[device]\nname = \"a\"\npath = \"/dev/dax0.0\"\n",
        "1: there may be several of [device]: it needs double brackets, [[device]]",
    ),
    (
        "&[dir]\npath = \"d\"\n",
        "2: there may be several of [dir]: it needs double brackets, [[dir]]",
    ),
    (
        "&[[file]]\npath = \"x\"\n[file.extent]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n",
        "4: there may be several of [file.extent]: it needs double brackets, [[file.extent]]",
    ),
    (
        "file = 3\n",
        "1: invalid type: integer `3`, expected tables in double brackets, as in [[file]]",
    ),
    (
        "device = \"/dev/dax0.0\"\n",
        "1: invalid type: string \"/dev/dax0.0\", expected tables in double brackets, as in [[file]]",
    ),
    (
        "&[[fil]]\npath = \"x\"\n",
        "2: unknown field `fil`, expected one of `device`, `dir`, `file`",
    ),
    (
        "&[[file]]\npath = \"x\n",
        "3: the string has no end in this line",
    ),
    (
        "&[[file]]\npath = x\n",
        "3: string values must be quoted, expected literal string",
    ),
    (
        "&[[file]\npath = \"x\"\n",
        "2: unclosed array table, expected `]`",
    ),
    (
        "&[[file]]\npath \"x\"\n",
        "3: key with no value, expected `=`",
    ),
    (
        "&[[file]]\npath = \"x\"\npath = \"y\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: there is a `path` already",
    ),
    (
        "&[[file]]\nsize = 1\ndevices = [\"a\"]\n",
        "2: missing field `path`",
    ),
    (
        "&[[file]]\npath = 7\nsize = 1\ndevices = [\"a\"]\n",
        "3: invalid type: integer `7`, expected a string",
    ),
    (
        "&[[file]]\npath = \"x\"\nsise = 1\ndevices = [\"a\"]\n",
        "4: unknown field `sise`, expected one of `path`, `mode`, `uid`, `gid`, `size`, `devices`, `chunk`, `extent`, `shared`",
    ),
    (
        "&[[file]]\npath = \"x\"\n",
        "3: where is this file? Give `size` and `devices`, or [[file.extent]]",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\n",
        "3: where is this file? Give `size` and `devices`, or [[file.extent]]",
    ),
    (
        "&[[file]]\npath = \"\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: the top of the tree is a directory",
    ),
    (
        "&[[file]]\npath = \"/\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: the top of the tree is a directory",
    ),
    (
        "&[[file]]\npath = \"x/../y\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: \"x/../y\": a path has no empty, . or .. parts",
    ),
    (
        "&[[file]]\npath = \"x//y\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: \"x//y\": a path has no empty, . or .. parts",
    ),
    (
        "&[[file]]\npath = \"x/\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: \"x/\": a path has no empty, . or .. parts",
    ),
    (
        "&[[file]]\npath = \"x\\u0000\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: \"x\\0\": a name has no NUL",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"1 KB\"\ndevices = [\"a\"]\n",
        "4: invalid value: string \"1 KB\", expected a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"2m\"\ndevices = [\"a\"]\n",
        "4: invalid value: string \"2m\", expected a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1.5\ndevices = [\"a\"]\n",
        "4: invalid type: floating point `1.5`, expected a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = true\ndevices = [\"a\"]\n",
        "4: invalid type: boolean `true`, expected a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = -1\ndevices = [\"a\"]\n",
        "4: a number of bytes cannot be negative",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"\"\ndevices = [\"a\"]\n",
        "4: invalid value: string \"\", expected a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"99999999T\"\ndevices = [\"a\"]\n",
        "4: \"99999999T\" is no number of bytes: no device has so many",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 99999999999999999999\ndevices = [\"a\"]\n",
        "4: 99999999999999999999 is no number of bytes: no device has so many",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = 0644\nsize = 1\ndevices = [\"a\"]\n",
        "4: a mode is a string of octal digits, in quotes: \"0644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = 644\nsize = 1\ndevices = [\"a\"]\n",
        "4: a mode is a string of octal digits, in quotes: \"644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = \"0888\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: invalid value: string \"0888\", expected a string of octal digits, as in \"0644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = \"+644\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: invalid value: string \"+644\", expected a string of octal digits, as in \"0644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = \"10000\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: invalid value: string \"10000\", expected a string of octal digits, as in \"0644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nmode = \"u=rw\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: invalid value: string \"u=rw\", expected a string of octal digits, as in \"0644\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nuid = -1\nsize = 1\ndevices = [\"a\"]\n",
        "4: -1 is the number of no user: they are 0 to 4294967294",
    ),
    (
        "&[[file]]\npath = \"x\"\nuid = 4294967295\nsize = 1\ndevices = [\"a\"]\n",
        "4: 4294967295 is the number of no user: they are 0 to 4294967294",
    ),
    (
        "&[[file]]\npath = \"x\"\ngid = 4294967296\nsize = 1\ndevices = [\"a\"]\n",
        "4: 4294967296 is the number of no group: they are 0 to 4294967294",
    ),
    (
        "&[[file]]\npath = \"x\"\nuid = \"no such user\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: this machine has no user named \"no such user\"; a number needs no quotes",
    ),
    (
        "&[[file]]\npath = \"x\"\ngid = \"1000\"\nsize = 1\ndevices = [\"a\"]\n",
        "4: this machine has no group named \"1000\"; a number needs no quotes",
    ),
    (
        "&[[file]]\npath = \"x\"\nuid = 1.0\nsize = 1\ndevices = [\"a\"]\n",
        "4: invalid type: floating point `1.0`, expected the name or the number of a user",
    ),
    (
        "&[[file]]\npath = \"x\"\ndevices = [\"a\"]\n",
        "3: `devices` says where the file is, `size` is missing",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = []\n",
        "5: `devices` names no device",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = \"a\"\n",
        "5: invalid type: string \"a\", expected a list of names, as in [\"a\", \"b\"]",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"c\"]\n",
        "5: there is no [[device]] named \"c\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\",\n\"a\"]\n",
        "6: device \"a\" is named twice",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nchunk = 512\n",
        "6: `chunk` has to be a multiple of 4096",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nchunk = 0\n",
        "5: `chunk` cannot be 0",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nshared = true\n",
        "6: `shared` is for a file with [[file.extent]]: a file with `devices` gets space of its own",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nshared = \"yes\"\n",
        "6: invalid type: string \"yes\", expected a boolean",
    ),
    (
        "&[[file]]\npath = \"x\"\ndevices = [\"a\"]\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n",
        "4: a file has `devices` or [[file.extent]], not both",
    ),
    (
        "&[[file]]\npath = \"x\"\nchunk = \"2M\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n",
        "4: `chunk` belongs to `devices`, or into an extent",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\n",
        "5: an extent has `device` and `offset`, or `chunk` and `strips`",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\ndevice = \"a\"\noffset = 0\n",
        "4: missing field `length`",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 0\ndevice = \"a\"\noffset = 0\n",
        "5: an extent has at least one byte",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 5000\ndevice = \"a\"\noffset = 0\n",
        "5: `length` has to be a multiple of 4096",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\ndevice = \"a\"\noffset = 7\n",
        "7: `offset` has to be a multiple of 4096",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\ndevice = \"z\"\noffset = 0\n",
        "6: there is no [[device]] named \"z\"",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\nchunk = 4096\nstrips = []\n",
        "6: an interleaved extent has a chunk of at least one page, and strips",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\nchunk = 0\nstrips = [{ device = \"a\", offset = 0 }]\n",
        "6: an interleaved extent has a chunk of at least one page, and strips",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\nchunk = 4096\nstrips = [\n{ device = \"a\", offset = 0 },\n{ device = \"z\", offset = 0 }]\n",
        "9: there is no [[device]] named \"z\"",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"62M\"\ndevice = \"a\"\noffset = \"4M\"\n",
        "5: the extent reaches beyond the 67108864 bytes of device \"a\"",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"4M\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n",
        "3: the extents hold 2097152 bytes, and the last byte of the file has to be in the last of them",
    ),
    (
        "&[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n[[file]]\npath = \"y\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = \"1M\"\n",
        "11: the extent overlaps the one in line 5 (x); only different files that all have `shared = true` may do that",
    ),
    (
        "&[[file]]\npath = \"x\"\nshared = true\n[[file.extent]]\nlength = \"4M\"\ndevice = \"a\"\noffset = 0\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = 0\n",
        "10: the extent overlaps the one in line 6 (x); only different files that all have `shared = true` may do that",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"65M\"\ndevices = [\"a\"]\n",
        "3: device \"a\" has no 69206016 bytes in a row left for this file of 68157440 bytes: the largest hole has 67108864, and space is given out by 2097152",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"40M\"\ndevices = [\"a\"]\n[[file]]\npath = \"y\"\nsize = 4096\ndevices = [\"a\"]\n[[file]]\npath = \"z\"\nsize = \"30M\"\ndevices = [\"a\"]\n",
        "11: device \"a\" has no 31457280 bytes in a row left for this file of 31457280 bytes: the largest hole has 23068672, and space is given out by 2097152",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = \"15T\"\ndevices = [\"a\", \"b\"]\n",
        "3: device \"a\" has no 8246337208320 bytes in a row left for this file of 16492674416640 bytes: the largest hole has 67108864, and space is given out by 2097152",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "7: \"x\" is already a file (line 3)",
    ),
    (
        "&[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n[[file]]\npath = \"x/y\"\nsize = 1\ndevices = [\"a\"]\n",
        "7: \"x\" is already a file (line 3)",
    ),
    (
        "&[[file]]\npath = \"x/y\"\nsize = 1\ndevices = [\"a\"]\n[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "7: \"x\" is already a directory",
    ),
    (
        "&[[dir]]\npath = \"d\"\n[[dir]]\npath = \"/d\"\n[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "5: directory \"d\" is already in line 3",
    ),
    (
        "&[[dir]]\npath = \"x\"\n[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "5: \"x\" is already a directory (line 3)",
    ),
    ("&[[dir]]\nmode = \"0700\"\n", "2: missing field `path`"),
    (
        "[[device]]\npath = \"/dev/dax0.0\"\n",
        "1: missing field `name`",
    ),
    (
        "[[device]]\nname = \"a\"\n",
        "1: which device is this? Give `path`, or the `id` that `fmapfs --devices` shows",
    ),
    (
        "[[device]]\nname = \"a\"\npath = \"dax0.0\"\n",
        "3: the path of a device is absolute and has at most 255 bytes",
    ),
    (
        "[[device]]\nname = \"a\"\nid = \"dax0.0\"\n",
        "3: \"dax0.0\" is no id of a device: they begin with nvdimm:, cxl: or memory:, and `fmapfs --devices` shows them",
    ),
    (
        "[[device]]\nname = \"a\"\nid = \"cxl:\"\n",
        "3: \"cxl:\" is no id of a device: they begin with nvdimm:, cxl: or memory:, and `fmapfs --devices` shows them",
    ),
    (
        "[[device]]\nname = \"a\"\npath = \"/dev/dax0.0\"\n[[device]]\nname = \"a\"\npath = \"/dev/dax1.0\"\n",
        "5: device \"a\" is already in line 1",
    ),
    (
        "[[device]]\nname = \"a\"\npath = \"/dev/dax0.0\"\n[[device]]\nname = \"b\"\npath = \"/dev/dax0.0\"\n",
        "6: /dev/dax0.0 is already device \"a\"",
    ),
    (
        "[[device]]\nname = \"a\"\nid = \"nvdimm:7\"\n[[device]]\nname = \"b\"\nid = \"nvdimm:7\"\n",
        "6: nvdimm:7 is already device \"a\"",
    ),
    (
        "[[device]]\nname = \"a\"\npath = \"/dev/null\"\n[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\n",
        "1: the size of device \"a\" is unknown (/dev/null does not tell): give `size`, or name the extents of each file on it",
    ),
    (
        "&[[file]]\npath = \"\\u001b[31mred\"\nsize = 1\ndevices = [\"\\u001b[2J\"]\n",
        "5: there is no [[device]] named \"\\u{1b}[2J\"",
    ),
    (
        "&[[file]]\n\"\\u001b[31m\" = 1\npath = \"x\"\n",
        "3: unknown field `\\u{1b}[31m`, expected one of `path`, `mode`, `uid`, `gid`, `size`, `devices`, `chunk`, `extent`, `shared`",
    ),
    (
        "&[[file]]\npath = \"\\u001b]0;x\\u0007/../y\"\nsize = 1\ndevices = [\"a\"]\n",
        "3: \"\\u{1b}]0;x\\u{7}/../y\": a path has no empty, . or .. parts",
    ),
];

#[test]
fn each_is_told_what_is_wrong() {
    assert!(REFUSED.len() >= 60);
    for (manifest, sentence) in REFUSED {
        let error = check(whole(manifest).as_bytes()).expect_err(manifest);
        assert_eq!(error.to_string(), *sentence, "{manifest}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    for (bytes, sentence) in [
        (
            &b"\xff"[..],
            "1: a manifest is text in UTF-8, and byte 0xff is not",
        ),
        (
            b"# a\n\n# \xc3(\n",
            "3: a manifest is text in UTF-8, and byte 0xc3 is not",
        ),
        (
            b"\x7fELF\x02\x01\x00\x80",
            "1: a manifest is text in UTF-8, and byte 0x80 is not",
        ),
    ] {
        assert_eq!(check(bytes).unwrap_err().to_string(), sentence);
    }
}
