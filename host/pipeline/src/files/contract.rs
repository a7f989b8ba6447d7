//! What every directory does, the real one and the simulated one.

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

use super::simulated::{Exchange, Simulated};
use super::{Access, Directory, Files};

fn content(files: &dyn Files, name: &str) -> String {
    files.read(name).map_or_else(|e| format!("{:?}", e.kind()), |data| String::from_utf8(data).unwrap())
}

fn write(files: &dyn Files, name: &str, access: Access, text: &str) {
    files.open(name, access).unwrap().write_all(text.as_bytes()).unwrap();
}

fn names(files: &dyn Files) -> Vec<String> {
    let mut names = files.names().unwrap();
    names.sort();
    names
}

fn files_are_made_written_over_and_added_to(files: &dyn Files) {
    for access in [Access::Read, Access::Append] {
        let refused = files.open("a", access).err().map(|e| e.kind());
        assert_eq!(refused, Some(ErrorKind::NotFound), "{access:?}");
    }
    assert_eq!(content(files, "a"), "NotFound");
    assert_eq!(files.stamp("a").unwrap_err().kind(), ErrorKind::NotFound);
    write(files, "a", Access::Overwrite, "first");
    write(files, "a", Access::Overwrite, "FI");
    assert_eq!(content(files, "a"), "FIrst");
    write(files, "a", Access::Append, "+");
    write(files, "b", Access::AppendOrCreate, "new");
    write(files, "b", Access::AppendOrCreate, "er");
    assert_eq!((content(files, "a"), content(files, "b")), ("FIrst+".into(), "newer".into()));
    write(files, "b", Access::Renew, "z");
    assert_eq!((content(files, "b"), names(files)), ("z".into(), vec!["a".into(), "b".into()]));
}

fn lengths_and_places_are_kept(files: &dyn Files) {
    let mut file = files.open("a", Access::AppendOrCreate).unwrap();
    file.write_all(b"123456").unwrap();
    file.set_length(4).unwrap();
    assert_eq!((file.length().unwrap(), files.stamp("a").unwrap().length), (4, 4));
    file.seek(SeekFrom::Start(1)).unwrap();
    let mut two = [0; 2];
    file.read_exact(&mut two).unwrap();
    assert_eq!(two, *b"23");
    file.write_all(b"!").unwrap();
    let mut rest = String::new();
    assert_eq!(file.read_to_string(&mut rest).unwrap(), 0, "adding moves to the end");
    file.set_length(7).unwrap();
    file.sync().unwrap();
    assert_eq!(content(files, "a"), "1234!\0\0");
}

fn names_are_given_exchanged_and_taken(files: &dyn Files) {
    write(files, "a", Access::Overwrite, "A");
    write(files, "b", Access::Overwrite, "B");
    let mut held = files.open("a", Access::Append).unwrap();
    let before = files.stamp("a").unwrap();
    match files.exchange("a", "b") {
        Ok(()) => {
            assert_eq!((content(files, "a"), content(files, "b")), ("B".into(), "A".into()));
            assert_eq!(files.stamp("b").unwrap(), before);
            assert_ne!(files.stamp("a").unwrap(), before);
            assert_eq!(files.exchange("a", "none").unwrap_err().kind(), ErrorKind::NotFound);
            files.exchange("a", "b").unwrap();
        }
        Err(e) => assert_ne!(e.kind(), ErrorKind::NotFound),
    }
    assert_eq!(files.rename("none", "a").unwrap_err().kind(), ErrorKind::NotFound);
    files.rename("a", "b").unwrap();
    held.write_all(b"+").unwrap();
    assert_eq!((names(files), content(files, "b")), (vec!["b".into()], "A+".into()));
    files.link("b", "c").unwrap();
    assert_eq!(files.link("b", "c").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(files.link("none", "d").unwrap_err().kind(), ErrorKind::NotFound);
    files.remove("b").unwrap();
    assert_eq!(files.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
    files.sync_names().unwrap();
    assert_eq!((names(files), content(files, "c")), (vec!["c".into()], "A+".into()));
}

#[test]
fn every_directory_keeps_the_contract() {
    for check in [
        files_are_made_written_over_and_added_to,
        lengths_and_places_are_kept,
        names_are_given_exchanged_and_taken,
    ] {
        let dir = tempfile::tempdir().unwrap();
        check(&Directory::open(dir.path()).unwrap());
        check(&Simulated::new(Exchange::Possible));
        check(&Simulated::new(Exchange::Impossible));
    }
}
