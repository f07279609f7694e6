//! Arranging mounts over paths that exist in a table only.

use std::collections::BTreeMap;

use super::*;

struct Table(BTreeMap<&'static str, Kind>);

impl Lookup for Table {
    fn kind(&self, path: &Path) -> Result<Kind, Errno> {
        self.0.get(path.to_str().unwrap()).copied().ok_or(Errno::ENOENT)
    }
}

fn table() -> Table {
    Table(BTreeMap::from([
        ("/data", Kind::Folder),
        ("/data/inner", Kind::Folder),
        ("/data/file", Kind::File),
        ("/other", Kind::Folder),
        ("/file", Kind::File),
        ("/dev/gpu", Kind::Device),
    ]))
}

fn wish(source: &str, target: &str) -> Wish {
    Wish { source: source.into(), target: target.into(), writable: false }
}

fn fault(wishes: &[Wish]) -> MountFault {
    arrange(&table(), wishes, Vec::new()).unwrap_err().1
}

fn needed(path: &str, why: Why) -> Bind {
    Bind::needed(Path::new(path), why)
}

#[test]
fn wrong_mounts_are_refused() {
    for (source, target, wanted) in [
        ("data", "/data", MountFault::RelativeSource),
        ("/data", "data", MountFault::RelativeTarget),
        ("/data", "", MountFault::RelativeTarget),
        ("/data", "/", MountFault::Reserved),
        ("/data", "/proc", MountFault::Reserved),
        ("/data", "/proc/self", MountFault::Reserved),
        ("/data", "/./proc", MountFault::Reserved),
        ("/data", "/a/../b", MountFault::Parent),
        ("/data", "/../b", MountFault::Parent),
        ("/data", "/a\0b", MountFault::ZeroByte),
        ("/missing", "/data", MountFault::Missing(Errno::ENOENT)),
    ] {
        assert_eq!(fault(&[wish(source, target)]), wanted, "{source}:{target}");
    }
    assert_eq!(fault(&[wish("/data", "/x"), wish("/other", "/x/")]), MountFault::Twice);
    assert_eq!(fault(&[wish("/file", "/x"), wish("/other", "/x/y")]), MountFault::BelowFile);
    assert_eq!(fault(&[wish("/data", "/x"), wish("/other", "/x/y")]), MountFault::NoMountPoint);
    assert_eq!(fault(&[wish("/data", "/x"), wish("/other", "/x/file")]), MountFault::OtherKind);
    assert_eq!(fault(&[wish("/data", "/x"), wish("/file", "/x/inner")]), MountFault::OtherKind);
}

#[test]
fn outer_mounts_come_before_inner_ones() {
    let wishes = [wish("/other", "/x/inner"), wish("/data", "/x"), wish("/file", "/x/file")];
    let binds = arrange(&table(), &wishes, Vec::new()).unwrap();
    let seen: Vec<_> = binds.iter().map(|bind| (bind.target.to_str().unwrap(), bind.nested)).collect();
    assert_eq!(seen, [("/x", false), ("/x/inner", true), ("/x/file", true)]);
}

#[test]
fn attributes_say_no_wherever_they_can() {
    let writable = Wish { writable: true, ..wish("/other", "/w") };
    let wishes = [wish("/data", "/data"), writable, wish("/dev/gpu", "/dev/gpu")];
    let needs =
        vec![needed("/bin/x", Why::Program), needed("/etc/ld.so.cache", Why::Cache), needed("/dev/null", Why::Device)];
    let binds = arrange(&table(), &wishes, needs).unwrap();
    let of = |target: &str| {
        let Attributes { read_only, no_suid, no_dev, no_exec } =
            binds.iter().find(|bind| bind.target == Path::new(target)).unwrap().attributes;
        [read_only, no_suid, no_dev, no_exec]
    };
    assert_eq!(of("/data"), [true, true, true, false]);
    assert_eq!(of("/w"), [false, true, true, true]);
    assert_eq!(of("/dev/gpu"), [true, true, false, true]);
    assert_eq!(of("/bin/x"), [true, true, true, false]);
    assert_eq!(of("/etc/ld.so.cache"), [true, true, true, true]);
    assert_eq!(of("/dev/null"), [true, true, false, true]);
}

#[test]
fn what_the_user_mounts_is_not_mounted_again() {
    let needs = || vec![needed("/data/file", Why::Library), needed("/file", Why::Program)];
    let targets = |wishes: &[Wish]| {
        let binds = arrange(&table(), wishes, needs()).unwrap();
        binds.iter().map(|bind| bind.target.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(targets(&[wish("/data", "/data")]), ["/data", "/file"]);
    assert_eq!(targets(&[wish("/other", "/data/inner")]), ["/data/inner", "/data/file", "/file"]);
    assert_eq!(targets(&[wish("/data/file", "/file")]), ["/file", "/data/file"]);
    // Another folder under that name has to hold a place for it.
    let refused = arrange(&table(), &[wish("/other", "/data")], needs()).unwrap_err();
    assert_eq!(refused, (wish("/other", "/data"), MountFault::NoMountPoint));
}

#[test]
fn every_mount_has_its_place() {
    let wishes = [wish("/data", "/a/b"), wish("/other", "/a/b/inner"), wish("/file", "/c/d")];
    let binds = arrange(&table(), &wishes, vec![needed("/a/x", Why::Library)]).unwrap();
    let (folders, files) = mount_points(&binds, &[Path::new("/proc"), Path::new("/tmp")]);
    assert_eq!(folders, ["/proc", "/tmp", "/a", "/a/b", "/c"].map(PathBuf::from));
    assert_eq!(files, ["/c/d", "/a/x"].map(PathBuf::from));
}
