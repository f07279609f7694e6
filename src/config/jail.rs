//! Words about the jail: mounts, groups, variables, on the command line or in files of one a line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::jail::environment::Variable;
use crate::jail::ids::{IdMap, User};
use crate::jail::mounts::Wish;

/// Reads `SRC[:DST[:WRITABLE]]`: DST defaults to SRC, WRITABLE to `false`.
///
/// # Errors
/// A sentence that names what cannot be read.
pub fn mount(word: &OsStr) -> Result<Wish, String> {
    let parts: Vec<&[u8]> = word.as_bytes().split(|byte| *byte == b':').collect();
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let (source, target, writable) = match parts[..] {
        [source] => (source, source, "false".as_bytes()),
        [source, target] => (source, target, "false".as_bytes()),
        [source, target, writable] => (source, target, writable),
        _ => return Err("give SRC[:DST[:WRITABLE]]; a path cannot hold a colon".to_owned()),
    };
    let writable = match writable {
        b"true" => true,
        b"false" => false,
        other => return Err(format!("`{}` is neither true nor false", String::from_utf8_lossy(other))),
    };
    Ok(Wish { source: path(source), target: path(target), writable })
}

/// Reads `INNER[:OUTER[:COUNT]]`: OUTER defaults to INNER, COUNT to 1.
///
/// # Errors
/// A sentence that names what cannot be read.
pub fn gid_map(word: &str) -> Result<IdMap, String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| format!("`{text}` is not the number of a group, nor of groups"))
    };
    let parts = word.split(':').map(number).collect::<Result<Vec<u32>, _>>()?;
    match parts[..] {
        [inner] => Ok(IdMap { inner, outer: inner, count: 1 }),
        [inner, outer] => Ok(IdMap { inner, outer, count: 1 }),
        [inner, outer, count] => Ok(IdMap { inner, outer, count }),
        _ => Err("give INNER[:OUTER[:COUNT]]".to_owned()),
    }
}

/// Reads `--user`: `UID`, `UID:GID` (GID defaults to UID), or a name of `/etc/passwd`.
///
/// # Errors
/// A sentence that says what is accepted, or that there is no such user.
pub fn user(word: &str) -> Result<User, String> {
    let number =
        |text: &str| text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|byte| byte.is_ascii_digit()));
    let (uid, gid) = word.split_once(':').unwrap_or((word, word));
    match (number(uid), number(gid)) {
        (Some(0), _) => Err(format!("--user {word}: that is root, who is to be left behind; give another user")),
        (Some(uid), Some(gid)) => Ok(User { uid, gid }),
        _ if word.contains(':') => Err(format!("--user {word}: give a name, or UID[:GID]")),
        _ => {
            let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let user = account(&accounts, word);
            user.ok_or_else(|| format!("--user {word}: /etc/passwd has no such user; give a name of it, or UID[:GID]"))
        }
    }
}

/// The ids of a name, by the text of `passwd(5)`.
fn account(accounts: &str, name: &str) -> Option<User> {
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields.len() > 3 && fields[0] == name)?;
    Some(User { uid: found[2].parse().ok().filter(|uid| *uid != 0)?, gid: found[3].parse().ok()? })
}

/// Reads `NAME[=VALUE]`.
///
/// # Errors
/// A sentence if there is no name.
pub fn variable(word: &OsStr) -> Result<Variable, String> {
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let (name, value) = (&bytes[..at.unwrap_or(bytes.len())], at.map(|at| &bytes[at + 1..]));
    if name.is_empty() {
        return Err(format!("--plugin-env {}: give NAME or NAME=VALUE", word.display()));
    }
    let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    Ok(Variable { name: owned(name), value: value.map(owned) })
}

/// All mounts: of `--plugin-mount` and of the files of `--plugin-mount-file`.
///
/// # Errors
/// A sentence with the option, or the file and the line.
pub fn mounts(words: &[OsString], files: &[PathBuf]) -> Result<Vec<Wish>, String> {
    let read = |word: &OsString| mount(word).map_err(|said| format!("--plugin-mount {}: {said}", word.display()));
    let mut mounts = words.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    for file in files {
        mounts.extend(lines("--plugin-mount-file", file, |line| mount(OsStr::from_bytes(line)))?);
    }
    Ok(mounts)
}

/// All maps of groups: of `--plugin-gid-map` and of the files of `--plugin-gid-map-file`.
///
/// # Errors
/// A sentence with the option, or the file and the line.
pub fn gid_maps(words: &[String], files: &[PathBuf]) -> Result<Vec<IdMap>, String> {
    let read = |word: &String| gid_map(word).map_err(|said| format!("--plugin-gid-map {word}: {said}"));
    let mut maps = words.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    for file in files {
        maps.extend(lines("--plugin-gid-map-file", file, |line| gid_map(&String::from_utf8_lossy(line)))?);
    }
    Ok(maps)
}

/// Reads a file of one thing a line; `#` begins a comment, at the start of a line or behind a blank.
fn lines<T>(option: &str, file: &Path, read: impl Fn(&[u8]) -> Result<T, String>) -> Result<Vec<T>, String> {
    let bytes = std::fs::read(file).map_err(|error| {
        format!("{option} {}: the file cannot be read: {}", file.display(), crate::sys::Errno::from(error))
    })?;
    let mut things = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = without_comment(line).trim_ascii();
        if !line.is_empty() {
            let said = |said| format!("{}:{}: {said}", file.display(), index + 1);
            things.push(read(line).map_err(said)?);
        }
    }
    Ok(things)
}

fn without_comment(line: &[u8]) -> &[u8] {
    let begins = |at: &usize| line[*at] == b'#' && (*at == 0 || line[at - 1].is_ascii_whitespace());
    &line[..(0..line.len()).find(begins).unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(source: &str, target: &str, writable: bool) -> Wish {
        Wish { source: source.into(), target: target.into(), writable }
    }

    #[test]
    fn mounts_have_up_to_three_parts() {
        assert_eq!(mount("/a".as_ref()), Ok(wish("/a", "/a", false)));
        assert_eq!(mount("/a:/b".as_ref()), Ok(wish("/a", "/b", false)));
        assert_eq!(mount("/a:/b:true".as_ref()), Ok(wish("/a", "/b", true)));
        assert_eq!(mount("/a:/b:false".as_ref()), Ok(wish("/a", "/b", false)));
        assert!(mount("/a:/b:rw".as_ref()).unwrap_err().contains("`rw`"));
        assert!(mount("/a:/b:true:x".as_ref()).unwrap_err().contains("SRC[:DST[:WRITABLE]]"));
    }

    #[test]
    fn gid_maps_have_up_to_three_numbers() {
        assert_eq!(gid_map("5"), Ok(IdMap { inner: 5, outer: 5, count: 1 }));
        assert_eq!(gid_map("5:6"), Ok(IdMap { inner: 5, outer: 6, count: 1 }));
        assert_eq!(gid_map("5:6:7"), Ok(IdMap { inner: 5, outer: 6, count: 7 }));
        for (word, part) in
            [("", "``"), ("x", "`x`"), ("1:", "``"), ("-1", "`-1`"), ("+1", "`+1`"), ("4294967296", "`4294967296`")]
        {
            assert!(gid_map(word).unwrap_err().contains(part), "{word:?}");
        }
        assert!(gid_map("1:2:3:4").unwrap_err().contains("INNER[:OUTER[:COUNT]]"));
    }

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(user("7"), Ok(User { uid: 7, gid: 7 }));
        assert_eq!(user("7:8"), Ok(User { uid: 7, gid: 8 }));
        for wrong in ["0", "0:5", "7:", ":8", "7:x", "-1", "4294967295", "no such user", "root", ""] {
            assert!(user(wrong).unwrap_err().starts_with(&format!("--user {wrong}: ")), "{wrong:?}");
        }
        let accounts = "root:x:0:0::/root:/bin/sh\nkvm:x:12:34::/:/bin/false\nshort:x\n";
        assert_eq!(account(accounts, "kvm"), Some(User { uid: 12, gid: 34 }));
        assert_eq!(
            (account(accounts, "short"), account(accounts, "root"), account(accounts, "kv")),
            (None, None, None)
        );
    }

    #[test]
    fn variables_have_a_name() {
        let of = |name: &str, value: Option<&str>| Variable { name: name.into(), value: value.map(OsString::from) };
        assert_eq!(variable("A".as_ref()), Ok(of("A", None)));
        assert_eq!(variable("A=".as_ref()), Ok(of("A", Some(""))));
        assert_eq!(variable("A=b=c".as_ref()), Ok(of("A", Some("b=c"))));
        assert!(variable("=b".as_ref()).is_err() && variable("".as_ref()).is_err());
    }

    #[test]
    fn files_hold_one_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mounts");
        std::fs::write(&file, "# what it needs\n/a\n\n  /b:/c:true # a comment\n/d#e\n").unwrap();
        let wanted =
            [wish("/x", "/x", false), wish("/a", "/a", false), wish("/b", "/c", true), wish("/d#e", "/d#e", false)];
        assert_eq!(mounts(&["/x".into()], std::slice::from_ref(&file)).unwrap(), wanted);
        std::fs::write(&file, "1\n2:x\n").unwrap();
        let said = gid_maps(&[], std::slice::from_ref(&file)).unwrap_err();
        assert_eq!(said, format!("{}:2: `x` is not the number of a group, nor of groups", file.display()));
        let missing = mounts(&[], &["/no such file".into()]).unwrap_err();
        assert!(missing.starts_with("--plugin-mount-file /no such file: the file cannot be read: ENOENT"), "{missing}");
    }
}
