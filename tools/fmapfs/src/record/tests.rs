// SPDX-License-Identifier: GPL-2.0

use super::*;

fn record() -> Record {
    let strip = |device, offset| Strip::new(device, offset);
    let device = |name: &str, id: Option<&str>| Device {
        name: name.to_owned(),
        path: format!("/dev/{name}").into(),
        id: id.map(str::to_owned),
    };
    let file = |path: &str, space, pieces| File {
        path: path.to_owned(),
        size: 5000,
        space,
        pieces,
        line: 0,
    };
    let piece = |extent, new| Piece { extent, new };
    let time = (-1, 999_999_999);
    Record {
        devices: vec![device("a \"\u{1b}\\", Some("nvdimm:1")), device("b", None)],
        files: vec![
            file("empty", Space::Found, vec![]),
            file(
                "d/\u{e9}\n",
                Space::Found,
                vec![
                    piece(Extent::linear(4 << 20, 1, 0), false),
                    piece(
                        Extent::interleaved(
                            8 << 20,
                            4096,
                            vec![strip(0, 2 << 20), strip(1, 8 << 20)],
                        ),
                        true,
                    ),
                ],
            ),
            file(
                "x",
                Space::Shared,
                vec![piece(Extent::linear(4096, 0, 4096), false)],
            ),
        ],
        times: [String::new(), "x".to_owned()]
            .map(|path| {
                let times = Times {
                    atime: time,
                    mtime: (1 << 40, 0),
                    ctime: (0, 1),
                };
                (path, times)
            })
            .into(),
    }
}

fn without_lines(mut record: Record) -> Record {
    for file in &mut record.files {
        assert_ne!(file.line, 0);
        file.line = 0;
    }
    record
}

#[test]
fn what_is_written_is_read() {
    for record in [record(), Record::default()] {
        let text = record.text("files.toml");
        assert_eq!(
            without_lines(Record::parse(&text).unwrap()),
            record,
            "{text}"
        );
    }
}

#[test]
fn what_is_not_reached_stays_new() {
    let mut some = record();
    assert_eq!(some.new_space(1), []);
    let strip = 4 << 20;
    assert_eq!(
        some.new_space(2),
        [(0, 2 << 20, strip), (1, 8 << 20, strip)]
    );
    some.zeroed(1);
    assert_eq!(some, record());
    some.zeroed(2);
    assert_eq!(some.new_space(2), []);
}

#[test]
fn no_part_of_a_record_is_one() {
    let text = record().text("files.toml");
    for end in 0..text.len() {
        let Some(part) = text.get(..end) else {
            continue;
        };
        assert!(Record::parse(part).is_err(), "{part}");
    }
}

#[test]
fn no_changed_record_is_one() {
    let text = record().text("files.toml");
    let body = text.find("\n[[device]]").unwrap();
    for at in body..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let error = Record::parse(&String::from_utf8_lossy(&bytes)).unwrap_err();
        assert!(error.starts_with("is damaged"), "{error}");
    }
    assert!(Record::parse(&(text + "\n")).is_err());
}

#[test]
fn what_is_no_record() {
    let newer = record().text("m").replace("version = 1", "version = 2");
    for (text, wanted) in [
        ("", "is no record of fmapfs"),
        ("[[file]]\npath = \"x\"\n", "is no record of fmapfs"),
        (
            "format = \"another\"\nversion = 1\n",
            "is no record of fmapfs",
        ),
        (
            newer.as_str(),
            "has version 2, and this fmapfs knows version 1 only",
        ),
    ] {
        let error = Record::parse(text).unwrap_err();
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
}

/// A body with the header that belongs to it.
fn sealed(body: &str) -> String {
    let empty = Record::default().text("m");
    let (head, _) = empty.split_once(CHECKSUM).unwrap();
    let sum = crc32fast::hash(body.as_bytes());
    format!("{head}{CHECKSUM}{sum:08x}\"\n{body}")
}

#[test]
fn what_makes_no_sense() {
    let device = "[[device]]\nname = \"a\"\npath = \"/dev/a\"\n";
    let file = "[[file]]\npath = \"x\"\nsize = 1\nspace = \"found\"\n";
    let extent = "[[file.extent]]\nlength = 4096\n";
    let strip = "{ device = \"a\", offset = 0 }";
    let good = format!("{device}{file}{extent}strips = [{strip}]\n");
    assert!(Record::parse(&sealed(&good)).is_ok());
    for body in [
        format!("{device}{device}"),
        format!("{file}{extent}strips = [{strip}]\n"),
        format!("{device}{file}{extent}strips = []\n"),
        format!("{device}{file}{extent}strips = [{strip}, {strip}]\n"),
        format!("{device}{file}{extent}chunk = 4096\nstrips = []\n"),
        format!("{device}{file}{extent}strips = [{strip}]\nmore = 1\n"),
        good.replace("length = 4096", "length = 0"),
        good.replace("length = 4096", "length = -1"),
        good.replace("found", "lost"),
    ] {
        assert!(Record::parse(&sealed(&body)).is_err(), "{body}");
    }
}

#[test]
fn the_lock_goes_with_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("files.toml");
    fs::write(&manifest, "").unwrap();
    let path = beside(&manifest).unwrap();
    assert_eq!(path.file_name().unwrap(), "files.toml.layout");

    let (mut store, empty) = Store::lock(&path, &manifest).unwrap();
    assert_eq!(empty, Record::default());
    let (mut second, _) = Store::lock(&path, &manifest).unwrap();
    store.save(&record()).unwrap();
    let error = second.save(&record()).unwrap_err();
    assert!(
        error.ends_with("has just been made by another fmapfs"),
        "{error}"
    );

    // Each save is another file.
    let is_locked = || {
        let file = OsFile::open(&path).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    };
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(is_locked());
    store.save(&record()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    store.save(&Record::default()).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(is_locked());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

    // A waiting process gets the lock, with the last saved record.
    let waiting = {
        let (path, manifest) = (path.clone(), manifest.clone());
        thread::spawn(move || Store::lock(&path, &manifest).unwrap().1)
    };
    thread::sleep(Duration::from_millis(100));
    store.save(&record()).unwrap();
    drop(store);
    assert_eq!(without_lines(waiting.join().unwrap()), record());
}

#[test]
fn a_record_stays_in_its_directory() {
    let top = tempfile::tempdir().unwrap();
    let [dir, moved, other] = ["dir", "moved", "other"].map(|name| top.path().join(name));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&other).unwrap();
    let path = dir.join("record");
    let (mut store, _) = Store::lock(&path, Path::new("m")).unwrap();
    store.save(&Record::default()).unwrap();

    // The owner of the directory above can do that.
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4755)).unwrap();
    fs::rename(&dir, &moved).unwrap();
    std::os::unix::fs::symlink(&other, &dir).unwrap();
    store.save(&record()).unwrap();
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    let there = moved.join("record");
    assert_eq!(without_lines(read(&there).unwrap()), record());
    assert_eq!(fs::metadata(&there).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn records_that_are_not_files() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("files.toml");
    fs::write(&manifest, "").unwrap();
    let path = beside(&manifest).unwrap();
    std::os::unix::fs::symlink(&manifest, &path).unwrap();
    let error = Store::lock(&path, &manifest).unwrap_err();
    assert!(error.ends_with("is a symbolic link"), "{error}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(read(&path).unwrap_err().ends_with("is no regular file"));
    assert!(beside(dir.path()).unwrap_err().contains("--record"));

    // A link to a manifest leads to the record of the manifest.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&manifest, &link).unwrap();
    assert_eq!(beside(&link).unwrap(), fs::canonicalize(&path).unwrap());
}

#[test]
fn times_are_saved_a_moment_later() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("files.toml");
    let path = dir.path().join("record");
    let (store, _) = Store::lock(&path, &manifest).unwrap();
    let keeper = Keeper::new(store, record());
    keeper.save().unwrap();
    keeper.save_in_background();
    let times = Times {
        mtime: (7, 8),
        ..keeper.times("x").unwrap()
    };
    keeper.set_times("x", times);
    let begin = Instant::now();
    while read(&path).unwrap().times.get("x") != Some(&times) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(10));
    }
    keeper.keep_times_of(|path| path.is_empty());
    assert_eq!(keeper.times("x"), Some(times));
    keeper.set_times("nowhere", times);
    keeper.keep_times_of(|path| path.is_empty());
    assert_eq!(keeper.times("nowhere"), None);
}
