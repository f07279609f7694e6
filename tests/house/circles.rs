//! Which files of a crate import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::paths_behind;

/// A file of a crate: the path of its module, and its code without tests.
pub struct Module {
    pub file: String,
    pub path: Vec<String>,
    pub code: String,
}

impl Module {
    /// The module of a file, which lies at `path` below the `src` of its crate. `None` for files of tests, which import what they
    /// test.
    pub fn new(file: &str, path: &str, code: &str) -> Option<Module> {
        let stem = path.strip_suffix(".rs").expect("a file of Rust");
        if stem.ends_with("tests") || stem.ends_with("testing") || stem.starts_with("bin/") {
            return None;
        }
        let mut path: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if path.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
            path.pop();
        }
        let tests = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
            .iter()
            .filter_map(|kind| code.find(&format!("#[cfg(test)]\n{kind}")));
        let code = code[..tests.min().unwrap_or(code.len())].to_owned();
        Some(Module { file: file.to_owned(), path, code })
    }
}

/// The files of the modules that this one imports.
fn imports<'a>(module: &'a Module, all: &BTreeMap<&[String], &'a Module>) -> BTreeSet<&'a str> {
    let mut targets: Vec<Vec<String>> = paths_behind(&module.code, "crate");
    for (up, prefix) in ["super", "super::super"].iter().enumerate() {
        let Some(depth) = module.path.len().checked_sub(up + 1) else { continue };
        let below = |path: Vec<String>| [&module.path[..depth], &path].concat();
        targets.extend(
            paths_behind(&module.code, prefix)
                .into_iter()
                .filter(|path| path.first() != Some(&"super".into()))
                .map(below),
        );
    }
    // What a room only hands on it does not stand on.
    let own: String =
        module.code.split_inclusive(';').filter(|part| !part.trim_start().starts_with("pub use ")).collect();
    let children = all.keys().filter(|path| path.len() == module.path.len() + 1 && path.starts_with(&module.path));
    for name in children.filter_map(|path| path.last()) {
        if !paths_behind(&own, name).is_empty() {
            targets.push([&module.path[..], std::slice::from_ref(name)].concat());
        }
    }
    let file_of = |path: &Vec<String>| (1..=path.len()).rev().find_map(|end| all.get(&path[..end]));
    targets.iter().filter_map(file_of).map(|target| target.file.as_str()).filter(|file| *file != module.file).collect()
}

type Arrows<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Whatever can be reached from a file along the arrows.
fn reached<'a>(from: &'a str, arrows: &Arrows<'a>) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(arrows.get(file).into_iter().flatten().copied().filter(|next| seen.insert(*next)));
    }
    seen
}

/// The circles among the files of one crate, each as the files that lie on it.
pub fn circles(modules: &[Module]) -> Vec<Vec<String>> {
    let all: BTreeMap<&[String], &Module> = modules.iter().map(|module| (module.path.as_slice(), module)).collect();
    let arrows: Arrows<'_> = modules.iter().map(|module| (module.file.as_str(), imports(module, &all))).collect();
    let reach: Arrows<'_> = arrows.keys().map(|file| (*file, reached(file, &arrows))).collect();
    let mut found = BTreeSet::new();
    for (file, all) in &reach {
        if all.contains(file) {
            found.insert(
                all.iter().filter(|other| reach[*other].contains(file)).map(|&other| other.to_owned()).collect(),
            );
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_circle_is_found() {
    let module = |path, code| Module::new(path, path, code).unwrap();
    let straight = [
        module("lib.rs", "mod a; mod b; pub use a::A;"),
        module("a.rs", "use crate::b::{C, deep::D};"),
        module("b/mod.rs", "mod deep;\npub use deep::D;\nuse crate::A;"),
        module("b/deep.rs", "use super::C;\n#[cfg(test)]\nmod tests { use crate::a; }"),
    ];
    assert_eq!(circles(&straight), [] as [Vec<String>; 0]);
    let round =
        [module("a.rs", "use super::b::deep::D;"), module("b/mod.rs", ""), module("b/deep.rs", "use super::super::a;")];
    assert_eq!(circles(&round), [["a.rs", "b/deep.rs"]]);
    let nested = [module("b/mod.rs", "use deep::D;"), module("b/deep.rs", "use super::C;")];
    assert_eq!(circles(&nested), [["b/deep.rs", "b/mod.rs"]]);
}
