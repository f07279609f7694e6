//! Which variables of the environment reach the plugin: pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables that pass by name: language, time zone and terminal.
const NAMES: &[&str] = &["LANG", "LANGUAGE", "TZ", "TERM", "NO_COLOR"];
/// Beginnings of names that pass: locales, settings of Rust's runtime, and ours.
const PREFIXES: &[&str] = &["LC_", "RUST_", "OUTBOARD_", "CROSVM_"];

/// A variable that the user wants the plugin to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: OsString,
    /// Its value; `None` for the one that outboard itself has, if it has one.
    pub value: Option<OsString>,
}

/// The variables of a caged plugin: what passes by itself, and what the user wants.
pub fn caged(own: &[(OsString, OsString)], wanted: &[Variable]) -> Vec<(OsString, OsString)> {
    let passing: Vec<_> = own.iter().filter(|(name, _)| passes(name)).cloned().collect();
    with(passing, own, wanted)
}

/// The variables of a plugin without a jail: all there are, and what the user wants.
pub fn uncaged(own: &[(OsString, OsString)], wanted: &[Variable]) -> Vec<(OsString, OsString)> {
    with(own.to_vec(), own, wanted)
}

fn passes(name: &OsStr) -> bool {
    let starts = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
    NAMES.iter().any(|known| name == *known) || PREFIXES.iter().any(starts)
}

fn with(
    mut variables: Vec<(OsString, OsString)>,
    own: &[(OsString, OsString)],
    wanted: &[Variable],
) -> Vec<(OsString, OsString)> {
    for Variable { name, value } in wanted {
        let inherited = || own.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let Some(value) = value.clone().or_else(inherited) else { continue };
        variables.retain(|(other, _)| other != name);
        variables.push((name.clone(), value));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn secrets_stay_outside() {
        let own = pairs(&[
            ("LANG", "C"),
            ("LC_ALL", "C"),
            ("LC", "x"),
            ("AWS_SECRET", "x"),
            ("PATH", "/bin"),
            ("LD_PRELOAD", "/x.so"),
            ("RUST_BACKTRACE", "1"),
        ]);
        assert_eq!(caged(&own, &[]), pairs(&[("LANG", "C"), ("LC_ALL", "C"), ("RUST_BACKTRACE", "1")]));
        assert_eq!(uncaged(&own, &[]), own);
    }

    #[test]
    fn what_the_user_wants_comes_along() {
        let own = pairs(&[("LANG", "C"), ("SEED", "7")]);
        let want = |name: &str, value: Option<&str>| Variable { name: name.into(), value: value.map(OsString::from) };
        let wanted = [want("SEED", None), want("LANG", Some("de")), want("NONE", None), want("X", Some(""))];
        assert_eq!(caged(&own, &wanted), pairs(&[("SEED", "7"), ("LANG", "de"), ("X", "")]));
    }
}
