//! Words and lists of the command line: CPUs, addresses, mounts, maps of groups, variables.
//!
//! The first byte chooses what the rest is read as. A list of several words is cut at zero bytes, which no word can hold.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use outboard::config;
use outboard::jail::environment;
use outboard::jail::ids::{Caller, Ids};
use outboard::jail::mounts::{self, Bind, Kind, Lookup, Why};
use outboard::plugin::Affinity;
use outboard::sys::Errno;

/// The target.
pub fn words(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match choice % 10 {
        0 => affinity(&text),
        1 => said(config::spin(&text)),
        2 => said(config::name(&text).map(|name| assert_eq!(name, text))),
        3 => said(config::mac(&text).map(|mac| assert!(mac[0] & 1 == 0))),
        4 => said(config::netmask(&text)),
        5 => said(config::irqchip(&text)),
        6 => said(config::jail::user(&text).map(|user| assert_ne!(user.uid, 0))),
        7 => groups(&text),
        8 => mounts(bytes),
        _ => variables(bytes),
    }
}

/// A refusal says something, and not at greater length than what it quotes asks for.
fn said<T>(read: Result<T, String>) {
    if let Err(said) = read {
        assert!(!said.trim().is_empty());
    }
}

fn affinity(text: &str) {
    let rising = |cpus: &[usize]| cpus.windows(2).all(|pair| pair[0] < pair[1]);
    match config::affinity(text) {
        Ok(Affinity::Any) => {}
        Ok(Affinity::All(cpus)) => assert!(rising(&cpus) && !cpus.is_empty()),
        Ok(Affinity::PerVcpu(sets)) => assert!(sets.values().all(|cpus| rising(cpus) && !cpus.is_empty())),
        Err(error) => assert!(!error.trim().is_empty()),
    }
}

/// Maps of groups, and what they make of the plugin's ids for root and for somebody else.
fn groups(text: &str) {
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let Ok(maps) = config::jail::gid_maps(&words, &[]) else { return };
    for (uid, may_map) in [(0, true), (1000, false)] {
        let caller = Caller { uid, gid: uid, may_map };
        match Ids::new(caller, (65534, 65534), &maps) {
            Ok(ids) => {
                assert!(ids.uid != 0 && ids.gid != 0);
                // The kernel refuses maps that meet, and longer ones.
                let spans = |outer: bool| {
                    ids.gid_map
                        .iter()
                        .map(move |map| if outer { (map.outer, map.count) } else { (map.inner, map.count) })
                };
                for outer in [false, true] {
                    let mut spans: Vec<(u64, u64)> = spans(outer)
                        .map(|(first, count)| (first.into(), u64::from(first) + u64::from(count)))
                        .collect();
                    spans.sort_unstable();
                    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", ids.gid_map);
                    assert!(spans.iter().all(|span| span.1 <= u32::MAX.into()));
                }
            }
            Err(error) => crate::assert_sentence(&error.to_string()),
        }
    }
}

/// A host on which names that begin with `f` are files, those with `n` are not there, and all others are folders.
struct Host;

impl Lookup for Host {
    fn kind(&self, path: &Path) -> Result<Kind, Errno> {
        match path.file_name().and_then(|name| name.as_bytes().first()) {
            Some(b'f') => Ok(Kind::File),
            Some(b'n') => Err(Errno::ENOENT),
            _ => Ok(Kind::Folder),
        }
    }
}

/// Mounts, and how they are arranged.
fn mounts(bytes: &[u8]) {
    let words: Vec<OsString> = bytes.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let Ok(wishes) = config::jail::mounts(&words, &[]) else { return };
    let needed =
        vec![Bind::needed(Path::new("/f/program"), Why::Program), Bind::needed(Path::new("/lib/fc.so"), Why::Library)];
    match mounts::arrange(&Host, &wishes, needed) {
        Err((_, fault)) => crate::assert_sentence(&fault.to_string()),
        Ok(binds) => {
            for (at, bind) in binds.iter().enumerate() {
                assert!(bind.target.is_absolute(), "{bind:?}");
                // Nothing that is mounted later covers what was mounted before.
                let covered = binds[at + 1..].iter().find(|later| bind.target.starts_with(&later.target));
                assert!(covered.is_none(), "{bind:?} is covered by {covered:?}");
                assert!(bind.attributes.no_suid && (bind.attributes.read_only || bind.attributes.no_exec), "{bind:?}");
            }
            let folders = [Path::new("/proc"), Path::new("/tmp")];
            let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = mounts::mount_points(&binds, &folders);
            assert!(folders.iter().chain(&files).all(|path| path.is_absolute()));
        }
    }
}

fn variables(bytes: &[u8]) {
    let words: Vec<&OsStr> = bytes.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    let Ok(wanted) = words.iter().map(|word| config::jail::variable(word)).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let own = [("LANG".into(), "C".into()), ("SECRET".into(), "x".into())];
    let names: Vec<OsString> = environment::caged(&own, &wanted).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| name != "SECRET") || wanted.iter().any(|wanted| wanted.name == "SECRET"));
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "a variable twice");
}
