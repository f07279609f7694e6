//! Keeps the house in order by reading its source: who imports whom, where `unsafe` stands, how files look, and that
//! `PROTOCOL.md` names what the code has.

#[path = "house/circles.rs"]
mod circles;
#[path = "house/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use circles::{Module, circles};
use outboard_wire::block;
use outboard_wire::control::Kind;
use outboard_wire::kvm_abi::File;
use source::{code_of, line_of, paths_behind, words_at};

/// The modules of `src/`, highest first. A module imports only from lines below its own.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["config", "report"],
    &["floor"],
    &["plugin"],
    &["event", "jail", "vcpu"],
    &["machine"],
    &["kvm", "observe"],
    &["sys"],
];

/// What a module may take from a lower one, where that is not all of it.
const NARROW: &[(&str, &str, &[&str])] = &[("vcpu", "machine", &["ranges", "rules"])];

/// The crates of this workspace that the files below a folder may name. Longer folders come first.
const CRATES: &[(&str, &[&str])] = &[
    (
        "src/cli.rs",
        &["outboard_demo", "outboard_bench", "outboard_reach", "outboard_replay", "outboard_stat", "outboard_trace"],
    ),
    ("src/cli/pc.rs", &["outboard_pc", "outboard_wire"]),
    ("src/main.rs", &["outboard"]),
    ("src/sys/", &[]),
    ("src/", &["outboard_wire"]),
    ("wire/plugin/", &["outboard_plugin", "outboard_wire"]),
    ("wire/capi/", &["outboard_plugin", "outboard_wire"]),
    ("wire/tests/", &["outboard_wire"]),
    ("wire/src/", &[]),
    ("tools/demo/", &["outboard_plugin", "outboard_wire", "outboard_demo"]),
    ("tools/bench/", &["outboard_wire", "outboard_plugin", "outboard_bench"]),
    ("tools/replay/", &["outboard_wire", "outboard_reach", "outboard_trace", "outboard_replay"]),
    ("tools/fuzz/", &["outboard", "outboard_plugin", "outboard_trace", "outboard_wire", "outboard_fuzz"]),
    ("tools/trace/", &["outboard_wire", "outboard_reach", "outboard_trace"]),
    ("tools/reach/", &["outboard_wire", "outboard_reach"]),
    ("tools/soak/", &["outboard_plugin", "outboard_wire"]),
    ("tools/stat/", &["outboard_wire", "outboard_reach", "outboard_stat"]),
    ("tools/pc/", &["outboard_plugin", "outboard_pc"]),
];

/// Where `unsafe` may stand: files, and folders with a slash at the end.
const UNSAFE_ROOMS: &[&str] = &[
    "src/sys/",
    "src/kvm/run.rs",
    "wire/src/page.rs",
    "wire/src/prefetch.rs",
    "wire/src/futex.rs",
    "wire/src/clock.rs",
    "wire/src/kvm_abi.rs",
    "wire/src/socket.rs",
    "wire/tests/exchange.rs",
    "wire/tests/golden_lines.rs",
    "wire/plugin/src/sys.rs",
    // Functions that C calls with pointers.
    "wire/capi/src/",
    "tools/demo/src/guest.rs",
    "tools/soak/src/guest.rs",
    "tools/fuzz/src/bin/wild.rs",
    "benches/capi.rs",
    "benches/common/memfd.rs",
    "benches/common/pin.rs",
    "tests/common/guest.rs",
    "tests/cli/host.rs",
    "tests/faults/ring.rs",
    "tests/faults/trace.rs",
    "tests/hostile/sys.rs",
    "tests/jail/sys.rs",
];

/// Lines above an `unsafe` block in which its `SAFETY:` comment begins.
const SAFETY_WITHIN: usize = 8;

/// Most lines of a file.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: its path from the root, its text, and its code alone.
struct Source {
    path: String,
    text: String,
    code: String,
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in ["src", "wire", "tools", "benches", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    let read = |file: PathBuf| {
        let path = file.strip_prefix(root()).expect("below the root").to_str().expect("plain names").to_owned();
        let text = std::fs::read_to_string(&file).expect("a source file");
        Source { path, code: code_of(&text), text }
    };
    let sources: Vec<Source> = files.into_iter().map(read).collect();
    assert!(sources.len() > 80, "only {} source files were found", sources.len());
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that a file of `src/` imports, each with the name taken from it.
fn imports(source: &Source) -> Vec<Vec<String>> {
    let mut paths = paths_behind(&source.code, "crate");
    paths.extend(paths_behind(&source.code, "super").into_iter().filter_map(|path| match path.as_slice() {
        [first, second] if first == "super" && layer(second).is_some() => Some(vec![second.clone()]),
        _ => None,
    }));
    if source.path == "src/main.rs" {
        paths.extend(paths_behind(&source.code, "outboard"));
    }
    paths
}

#[test]
fn modules_import_only_from_below() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in sources().iter().filter(|source| source.path.starts_with("src/") && source.path != "src/lib.rs") {
        let own = source.path["src/".len()..].split(['/', '.']).next().expect("a name");
        let mine = layer(own).unwrap_or_else(|| panic!("{} has no place in the table of layers", source.path));
        for path in imports(source) {
            let Some(theirs) = path.first() else { continue };
            if theirs == own {
                continue;
            }
            seen += 1;
            let below = layer(theirs).is_some_and(|layer| layer > mine);
            let narrow = NARROW.iter().find(|(from, to, _)| *from == own && to == theirs);
            let taken = narrow.is_none_or(|(_, _, parts)| path.get(1).is_some_and(|part| parts.contains(&&**part)));
            if !below || !taken {
                wrong.push(format!("{}: {}", source.path, path.join("::")));
            }
        }
    }
    assert!(seen > 60, "only {seen} imports were found: the search is broken");
    assert!(wrong.is_empty(), "imports against the order of the table: {wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let mut crates = BTreeMap::<String, Vec<Module>>::new();
    for source in &sources {
        let Some(at) = source.path.find("src/") else { continue };
        let (folder, path) = (&source.path[..at], &source.path[at + "src/".len()..]);
        crates.entry(folder.to_owned()).or_default().extend(Module::new(&source.path, path, &source.code));
    }
    assert!(crates.len() > 8, "only {} crates were found", crates.len());
    let found: Vec<Vec<String>> = crates.values().flat_map(|modules| circles(modules)).collect();
    assert!(found.is_empty(), "files that import each other: {found:#?}");
}

#[test]
fn every_module_has_its_layer_and_its_place_in_the_library() {
    let library = code_of(&std::fs::read_to_string(root().join("src/lib.rs")).expect("the library"));
    let declared: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(|line| line.trim_end_matches(';'))
        .collect();
    let listed: BTreeSet<&str> =
        LAYERS.iter().flat_map(|layer| layer.iter().copied()).filter(|m| *m != "main").collect();
    assert_eq!(declared, listed);
}

#[test]
fn crates_meet_only_where_they_may() {
    let all: BTreeSet<&str> = CRATES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in &sources() {
        let Some((_, allowed)) = CRATES.iter().find(|(folder, _)| source.path.starts_with(folder)) else { continue };
        for name in &all {
            for at in words_at(&source.code, name) {
                // `outboard` alone is also a word; only as the root of a path it is the crate.
                let is_path = source.code[at + name.len()..].starts_with("::");
                seen += usize::from(is_path);
                if is_path && !allowed.contains(name) {
                    wrong.push(format!("{}:{}: {name}", source.path, line_of(&source.code, at)));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} paths were found: the search is broken");
    assert!(wrong.is_empty(), "crates that may not be named there: {wrong:#?}");
}

#[test]
fn manifests_depend_only_downwards() {
    for (manifest, allowed) in [
        (
            "Cargo.toml",
            &[
                "outboard-wire",
                "outboard-demo",
                "outboard-pc",
                "outboard-bench",
                "outboard-reach",
                "outboard-replay",
                "outboard-stat",
                "outboard-trace",
            ][..],
        ),
        ("wire/Cargo.toml", &[]),
        ("wire/plugin/Cargo.toml", &["outboard-wire"]),
        ("wire/capi/Cargo.toml", &["outboard-plugin", "outboard-wire"]),
        ("tools/demo/Cargo.toml", &["outboard-plugin", "outboard-wire"]),
        ("tools/bench/Cargo.toml", &["outboard-plugin", "outboard-wire"]),
        ("tools/reach/Cargo.toml", &["outboard-wire"]),
        ("tools/fuzz/Cargo.toml", &["outboard", "outboard-plugin", "outboard-trace", "outboard-wire"]),
        ("tools/replay/Cargo.toml", &["outboard-reach", "outboard-trace", "outboard-wire"]),
        ("tools/trace/Cargo.toml", &["outboard-reach", "outboard-wire"]),
        ("tools/soak/Cargo.toml", &["outboard-plugin", "outboard-wire"]),
        ("tools/stat/Cargo.toml", &["outboard-reach", "outboard-wire"]),
        ("tools/pc/Cargo.toml", &["outboard-plugin"]),
    ] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("a manifest");
        let mut lines = text.lines().skip_while(|line| *line != "[dependencies]").skip(1);
        for line in lines.by_ref().take_while(|line| !line.starts_with('[')) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(!name.starts_with("outboard") || allowed.contains(&name), "{manifest} depends on {name}");
        }
    }
}

fn is_unsafe_room(path: &str) -> bool {
    UNSAFE_ROOMS.iter().any(|room| path == *room || (room.ends_with('/') && path.starts_with(room)))
}

#[test]
fn unsafe_stands_in_its_rooms_only() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !is_unsafe_room(&source.path)) {
        for word in ["unsafe", "unsafe_code"] {
            let places = words_at(&source.code, word);
            wrong.extend(places.iter().map(|at| format!("{}:{}", source.path, line_of(&source.code, *at))));
        }
    }
    assert!(wrong.is_empty(), "unsafe code outside of its rooms: {wrong:#?}");
    let idle = UNSAFE_ROOMS.iter().filter(|room| {
        !sources().iter().any(|source| source.path.starts_with(**room) && !words_at(&source.code, "unsafe").is_empty())
    });
    assert_eq!(idle.collect::<Vec<_>>(), [] as [&&str; 0], "rooms that need no unsafe code any more");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in &sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for at in words_at(&source.code, "unsafe") {
            let rest = source.code[at + "unsafe".len()..].trim_start();
            if !rest.starts_with('{') && !rest.starts_with("impl") {
                continue;
            }
            seen += 1;
            let line = line_of(&source.code, at);
            let above = &lines[line.saturating_sub(SAFETY_WITHIN + 1)..line];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                wrong.push(format!("{}:{line}", source.path));
            }
        }
    }
    assert!(seen > 80, "only {seen} blocks were found: the search is broken");
    assert!(wrong.is_empty(), "no SAFETY comment above: {wrong:#?}");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for source in &sources() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{} has {lines} lines", source.path));
        }
        if !source.text.starts_with("//!") {
            wrong.push(format!("{} does not begin with what it is", source.path));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_undone() {
    let macros = ["todo", "unimplemented", "dbg"];
    // Put together, so that this file does not hold them.
    let notes = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["../", "shared"].concat(), ["/work", "/"].concat()];
    let mut wrong = Vec::new();
    for source in &sources() {
        for name in macros {
            let called = |at: &usize| source.code[at + name.len()..].starts_with('!');
            let places = words_at(&source.code, name).into_iter().filter(called);
            wrong.extend(places.map(|at| format!("{}:{}: {name}!", source.path, line_of(&source.code, at))));
        }
        let found = notes.iter().filter(|note| source.text.contains(note.as_str()));
        wrong.extend(found.map(|note| format!("{}: {note}", source.path)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The constants `NAME: u8 = N` of a module within `line.rs`, by the code itself.
fn numbers_of(module: &str) -> Vec<(u32, String)> {
    let code = code_of(&std::fs::read_to_string(root().join("wire/src/line.rs")).expect("the lines"));
    let body = code.split(&format!("pub mod {module} {{")).nth(1).expect("the module").split("\n}").next();
    let constants = body.expect("its end").lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    let pair = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        Some((rest.split_once('=')?.1.trim().trim_end_matches(';').parse().ok()?, name.to_owned()))
    };
    constants.map(|line| pair(line).expect("NAME: u8 = N;")).collect()
}

/// Number and name, the first two cells of each row of the tables in PROTOCOL.md that begin with a number. Names are
/// compared without underscores and capitals.
fn table_rows(text: &str) -> BTreeSet<(u32, String)> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")).map(|row| row.split('|').map(str::trim));
    cells.filter_map(|mut cells| Some((cells.next()?.parse().ok()?, plain(cells.next()?)))).collect()
}

fn plain(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

#[test]
fn the_protocol_names_every_kind_and_number() {
    let text = std::fs::read_to_string(root().join("wire/PROTOCOL.md")).expect("wire/PROTOCOL.md");
    let rows = table_rows(&text);
    let events = numbers_of("event_kind");
    assert!(events.len() >= 6, "{events:?}");
    let mut wanted: Vec<(u32, String)> = Kind::ALL.map(|kind| (kind as u32, format!("{kind:?}"))).to_vec();
    wanted.extend(events);
    let missing: Vec<_> = wanted.iter().filter(|(number, name)| !rows.contains(&(*number, plain(name)))).collect();
    assert!(missing.is_empty(), "no table of PROTOCOL.md has {missing:?}");
    // A request has a section of its own too, and its number in the heading.
    let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("### 3.")).collect();
    for kind in Kind::ALL {
        let named = |line: &&str| plain(line).contains(&format!("{} ({})", plain(&format!("{kind:?}")), kind as u32));
        assert!(headings.iter().any(named), "no heading names {kind:?} ({})", kind as u32);
    }
    for (number, name) in numbers_of("answer_kind") {
        assert!(text.contains(&format!("{number} {name}")), "PROTOCOL.md does not name answer kind {number} {name}");
    }
    for file in File::ALL {
        let size = [file.entry_size().to_string(), file.max_entries().to_string()];
        let row = |line: &str| {
            line.starts_with(&format!("| {} |", file as u32))
                && line.ends_with(&format!("| {} | {} |", size[0], size[1]))
        };
        assert!(text.lines().any(row), "no row for register file {file:?} with sizes {size:?}");
    }
    let layout = format!("{:#010x}", block::LAYOUT);
    assert!(text.contains(&format!("**{layout}**")), "PROTOCOL.md does not name the layout {layout}");
}
