// SPDX-License-Identifier: GPL-2.0

use super::*;

const TWO_DEVICES: &str = "\
[[device]]
name = \"a\"
path = \"/dev/dax0.0\"
[[device]]
name = \"b\"
path = \"/dev/dax1.0\"
size = \"1G\"
";

fn with(more: &str) -> Result<Manifest, Error> {
    parse(&format!("{TWO_DEVICES}{more}"))
}

#[test]
fn numbers_of_bytes() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("2 MiB", 2 << 20),
        ("1G", 1 << 30),
        ("3TiB", 3 << 40),
        ("7 B", 7),
    ] {
        assert_eq!(parse_bytes(text), Some(bytes), "{text}");
    }
    for text in ["", "K", "-1", "1.5G", "1 KB", "1k", "16777216T", " 1"] {
        assert_eq!(parse_bytes(text), None, "{text}");
    }
}

#[test]
fn a_whole_manifest() {
    let manifest = with(
        r#"
            [[dir]]
            path = "/logs"
            mode = "0750"
            gid = 4
            [[file]]
            path = "logs/a"
            size = "64M"
            devices = ["b", "a"]
            [[file]]
            path = "b"
            mode = "0600"
            uid = 1000
            shared = true
            [[file.extent]]
            length = "4M"
            device = "a"
            offset = "2M"
            [[file.extent]]
            length = "8M"
            chunk = "64K"
            strips = [{ device = "a", offset = "8M" }, { device = "b", offset = 0 }]
            "#,
    )
    .unwrap();

    assert_eq!(manifest.devices[0].size, None);
    assert_eq!(manifest.devices[1].size, Some(1 << 30));
    let dir = &manifest.dirs[0];
    assert_eq!(dir.path, ["logs"]);
    assert_eq!((dir.access.mode, dir.access.gid), (0o750, 4));

    let a = &manifest.files[0];
    assert_eq!(a.path, ["logs", "a"]);
    assert_eq!((a.size, a.access.mode), (64 << 20, 0o644));
    let Content::Striped { devices, chunk } = &a.content else {
        panic!("{a:?}");
    };
    assert_eq!((devices.as_slice(), *chunk), (&[1, 0][..], UNIT));

    let b = &manifest.files[1];
    assert_eq!((b.size, b.access.mode), (12 << 20, 0o600));
    let Content::Extents { extents, shared } = &b.content else {
        panic!("{b:?}");
    };
    assert!(shared);
    assert_eq!(extents[0].0, Extent::linear(4 << 20, 0, 2 << 20));
    assert_eq!(extents[1].0.strips.len(), 2);
}
