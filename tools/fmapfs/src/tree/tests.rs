// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::layout::place;
use crate::manifest::parse;

fn tree(files: &str) -> Result<Tree, Error> {
    let device = "[[device]]\nname = \"d\"\npath = \"/dev/dax0.0\"\nsize = \"1G\"\n";
    let manifest = parse(&format!("{device}{files}")).unwrap();
    let layout = place(&manifest, &[Some(1 << 30)]).unwrap();
    Tree::new(manifest, layout)
}

fn file(path: &str) -> String {
    format!("[[file]]\npath = \"{path}\"\nsize = 10\ndevices = [\"d\"]\n")
}

fn lookup(tree: &Tree, parent: u64, name: &str) -> Entry {
    let name = std::ffi::CString::new(name).unwrap();
    tree.lookup(&Context::default(), parent, &name).unwrap()
}

fn names(tree: &Tree, nodeid: u64, offset: u64, room: usize) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    let mut add = |entry: DirEntry<'_>| {
        if names.len() == room {
            return Ok(0);
        }
        names.push((String::from_utf8_lossy(entry.name).into(), entry.offset));
        Ok(1)
    };
    let context = Context::default();
    tree.readdir(&context, nodeid, 0, 0, offset, &mut add)
        .unwrap();
    names
}

#[test]
fn lookup_and_attributes() {
    let dir = "[[dir]]\npath = \"a\"\nmode = \"0700\"\nuid = 5\n";
    let tree = tree(&format!("{dir}{}{}", file("a/b/c"), file("a/d"))).unwrap();
    let a = lookup(&tree, ROOT, "a");
    assert_eq!(a.attr.st_mode, libc::S_IFDIR | 0o700);
    assert_eq!((a.attr.st_uid, a.attr.st_nlink), (5, 3));
    let b = lookup(&tree, a.inode, "b");
    assert_eq!(b.attr.st_mode, libc::S_IFDIR | 0o755);
    let c = lookup(&tree, b.inode, "c");
    assert_eq!(c.attr.st_mode, libc::S_IFREG | 0o644);
    assert_eq!(c.attr.st_size, 10);
    assert_eq!(lookup(&tree, b.inode, "x").inode, 0);
    assert!(tree.lookup(&Context::default(), c.inode, c"x").is_err());
    assert!(tree.getattr(&Context::default(), 0, None).is_err());
    assert!(tree.getattr(&Context::default(), 6, None).is_err());
    assert_eq!(tree.nr_files(), 2);
}

#[test]
fn every_name_once_whatever_the_room() {
    let files: String = (0..7).map(|at| file(&format!("f{at}"))).collect();
    let tree = tree(&files).unwrap();
    let all = names(&tree, ROOT, 0, 100);
    assert_eq!(
        (all.len(), all[0].0.as_str(), all[1].0.as_str()),
        (9, ".", "..")
    );
    for room in 1..9 {
        let mut seen = Vec::new();
        loop {
            let offset = seen.last().map_or(0, |&(_, offset)| offset);
            let more = names(&tree, ROOT, offset, room);
            if more.is_empty() {
                break;
            }
            seen.extend(more);
        }
        assert_eq!(seen, all);
    }
}

#[test]
fn setattr_keeps_all_but_the_size() {
    let tree = tree(&file("f")).unwrap();
    let context = Context::default();
    let f = lookup(&tree, ROOT, "f");
    let mut new = f.attr;
    new.st_mode = 0o600;
    new.st_mtime = 77;
    let valid = SetattrValid::MODE | SetattrValid::MTIME;
    let (stat, _) = tree.setattr(&context, f.inode, new, None, valid).unwrap();
    assert_eq!(stat.st_mode, libc::S_IFREG | 0o600);
    assert_eq!((stat.st_mtime, stat.st_size), (77, 10));
    let error = tree
        .setattr(&context, f.inode, new, None, SetattrValid::SIZE)
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn maps_and_devices() {
    let tree = tree(&file("f")).unwrap();
    let f = lookup(&tree, ROOT, "f").inode;
    assert!(tree.map(f).unwrap().starts_with(b"STRP"));
    assert_eq!(tree.map(ROOT), Err(Errno::ENODATA));
    assert_eq!(tree.map(99), Err(Errno::ENOENT));
    assert_eq!(tree.device(0), Ok(Path::new("/dev/dax0.0").into()));
    assert_eq!(tree.device(1), Err(Errno::ENODEV));
}

#[test]
fn hidden_files_are_there_until_they_are_hidden() {
    let tree = tree(&file("f")).unwrap();
    let [page, space] = [0, 1].map(|index| lookup(&tree, ROOT, &claim::name(index)));
    assert_eq!(page.attr.st_size, BLOCK as i64);
    assert_eq!(space.attr.st_size, crate::manifest::UNIT as i64);
    assert_eq!(tree.new_space().collect::<Vec<_>>(), [claim::name(1)]);
    assert_eq!(tree.bytes_to_zero(), crate::manifest::UNIT);
    for found in [page, space] {
        assert_eq!(found.entry_timeout, Duration::ZERO);
        assert!(tree.map(found.inode).unwrap().starts_with(b"STRP"));
    }
    assert_eq!(lookup(&tree, ROOT, &claim::name(2)).inode, 0);
    assert!(tree.map(space.inode + 1).is_err());
    assert_eq!((names(&tree, ROOT, 0, 9).len(), tree.nr_files()), (3, 1));

    assert!(!tree.has_asked_for(0));
    assert!(tree.device(0).is_ok());
    assert!(tree.has_asked_for(0) && !tree.has_asked_for(1));
    assert_eq!(tree.hide().count(), 2);
    assert_eq!(lookup(&tree, ROOT, &claim::name(0)).inode, 0);
}

#[test]
fn what_is_too_long_is_several() {
    let parts: Vec<_> = not_too_long((3, 4096, LONGEST + 5)).collect();
    assert_eq!(parts, [(3, 4096, LONGEST), (3, 4096 + LONGEST, 5)]);
    assert_eq!(not_too_long((0, 0, LONGEST)).count(), 1);
}

#[test]
fn one_name_one_thing() {
    let twice = tree(&(file("f") + &file("f"))).unwrap_err();
    assert_eq!(twice, Error::new(10, "\"f\" is already a file (line 6)"));
    let below = tree(&(file("f") + &file("f/g"))).unwrap_err();
    assert_eq!(below, Error::new(10, "\"f\" is already a file (line 6)"));
    let above = tree(&(file("f/g") + &file("f"))).unwrap_err();
    assert_eq!(above, Error::new(10, "\"f\" is already a directory"));
    let dirs = "[[dir]]\npath = \"a\"\n[[dir]]\npath = \"/a\"\n".to_owned() + &file("f");
    let dirs = tree(&dirs).unwrap_err();
    assert_eq!(dirs.line, 8);
}
