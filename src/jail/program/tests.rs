//! Searches over files that exist in a table only, and over this program.

use std::collections::BTreeMap;

use super::cache::testing::cache;
use super::elf::testing::elf;
use super::*;

const RPATH: u64 = 15;
const RUNPATH: u64 = 29;
const LOADER: &str = "/lib64/ld.so";

#[derive(Default)]
struct Table(BTreeMap<PathBuf, Vec<u8>>);

impl Table {
    fn with(mut self, path: &str, bytes: Vec<u8>) -> Table {
        self.0.insert(path.into(), bytes);
        self
    }

    /// A library that needs others.
    fn library(self, path: &str, needed: &[&str]) -> Table {
        self.with(path, elf(None, needed, None))
    }

    /// The program `/p/bin/x`, and its loader.
    fn program(self, needed: &[&str], path: Option<(u64, &str)>) -> Table {
        self.with("/p/bin/x", elf(Some(LOADER), needed, path)).library(LOADER, &[])
    }

    fn needs(&self) -> Needs {
        needs(self, Path::new("/p/bin/x"))
    }
}

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0[..].read_at(buffer, offset)
    }
}

impl Files for Table {
    type File = Bytes;

    fn open(&self, path: &Path) -> Option<Bytes> {
        self.read(path).map(Bytes)
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.0.get(path).cloned()
    }
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

#[test]
fn a_static_program_needs_nothing() {
    assert_eq!(Table::default().with("/p/bin/x", elf(None, &[], None)).needs(), Needs::default());
    assert_eq!(Table::default().with("/p/bin/x", b"no program".to_vec()).needs(), Needs::default());
    assert_eq!(Table::default().needs(), Needs::default());
}

#[test]
fn libraries_of_libraries_are_found_once() {
    let needs = Table::default()
        .program(&["liba.so", "libc.so.6"], None)
        .library("/usr/lib/x86_64-linux-gnu/liba.so", &["libb.so", "libc.so.6"])
        .library("/lib/x86_64-linux-gnu/libc.so.6", &["ld.so"])
        .library("/lib/libb.so", &["liba.so"])
        .needs();
    assert_eq!(needs.interpreters, paths(&[LOADER]));
    let wanted = ["/usr/lib/x86_64-linux-gnu/liba.so", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/libb.so"];
    assert_eq!(needs.libraries, paths(&wanted));
    assert_eq!((needs.cache, needs.missing), (false, vec![]));
}

#[test]
fn paths_in_objects_come_first_and_origin_is_their_folder() {
    let table = |tag| {
        Table::default()
            .program(&["liba.so"], Some((tag, "relative:$ORIGIN/../lib:${ORIGIN}")))
            .library("/p/lib/liba.so", &["libb.so"])
            .library("/p/lib/libb.so", &[])
            .library("/lib/liba.so", &[])
            .library("/lib/libb.so", &[])
    };
    // A RUNPATH is for an object's own needs, an RPATH also for those of its libraries.
    assert_eq!(table(RUNPATH).needs().libraries, paths(&["/p/lib/liba.so", "/lib/libb.so"]));
    assert_eq!(table(RPATH).needs().libraries, paths(&["/p/lib/liba.so", "/p/lib/libb.so"]));
}

#[test]
fn the_cache_comes_before_the_default_folders() {
    let entries =
        [(0x303, "liba.so", "/opt/v3/liba.so"), (0x303, "liba.so", "/opt/liba.so"), (0x303, "libb.so", "/gone")];
    let needs = Table::default()
        .program(&["liba.so", "libb.so"], None)
        .with(CACHE, cache(&entries))
        .library("/opt/v3/liba.so", &[])
        .library("/opt/liba.so", &[])
        .library("/lib/liba.so", &[])
        .library("/lib/glibc-hwcaps/x86-64-v3/libb.so", &[])
        .library("/lib/libb.so", &[])
        .needs();
    let wanted = ["/opt/v3/liba.so", "/opt/liba.so", "/lib/glibc-hwcaps/x86-64-v3/libb.so", "/lib/libb.so"];
    assert_eq!(needs.libraries, paths(&wanted));
    assert!(needs.cache && needs.missing.is_empty());
}

#[test]
fn a_name_with_a_slash_is_a_path() {
    let needs = Table::default().program(&["/x/liba.so", "/x/libb.so"], None).library("/x/liba.so", &[]).needs();
    assert_eq!(needs.libraries, paths(&["/x/liba.so"]));
    assert_eq!(needs.missing, ["/x/libb.so"]);
}

#[test]
fn scripts_need_their_interpreter_and_what_that_needs() {
    let script =
        |text: &str| Table::default().program(&["liba.so"], None).with("/s", text.into()).library("/lib/liba.so", &[]);
    for text in ["#!/p/bin/x", "#!/p/bin/x\n", "#! \t/p/bin/x -a b\nmore"] {
        let needs = needs(&script(text), Path::new("/s"));
        assert_eq!(needs.interpreters, paths(&["/p/bin/x", LOADER]), "{text:?}");
        assert_eq!(needs.libraries, paths(&["/lib/liba.so"]));
    }
    for text in ["#!", "#!\n", "#!relative", "#!/nowhere", "#!/s"] {
        let needs = needs(&script(text), Path::new("/s"));
        assert!(needs.libraries.is_empty(), "{text:?}: {needs:?}");
    }
}

#[test]
fn a_circle_of_libraries_ends() {
    let needs = Table::default().program(&["liba.so"], None).library("/lib/liba.so", &["liba.so"]).needs();
    assert_eq!(needs.libraries, paths(&["/lib/liba.so"]));
}

#[test]
fn what_this_program_has_mapped_was_found() {
    let needs = needs(&HostFiles, &std::env::current_exe().unwrap());
    assert_eq!(needs.missing, [] as [&str; 0]);
    let found: Vec<PathBuf> =
        [needs.interpreters, needs.libraries].concat().iter().map(|path| path.canonicalize().unwrap()).collect();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
    for path in mapped {
        assert!(found.contains(&PathBuf::from(path)), "{path} is not among {found:?}");
    }
}
