//! Functions that take any bytes and must not mind: one for each door through which somebody who is not trusted can speak.
//!
//! [`TARGETS`] lists them. libFuzzer searches with them (`tools/fuzz/search`), and the test `corpus` runs them over the inputs
//! that are kept in `corpus/`, with the stable compiler. A target panics when a promise is broken; `README.md` tells the
//! promise of each.

pub mod commands;
pub mod frames;
mod host;
pub mod input;
pub mod lines;
pub mod machine;
pub mod policy;
pub mod trace;
pub mod wild;
pub mod words;

/// A target: takes any bytes, and panics if something is promised that does not hold.
pub type Target = fn(&[u8]);

/// All targets by name, which is also the name of the folder of their inputs.
pub const TARGETS: &[(&str, Target)] = &[
    ("commands", commands::commands),
    ("frames", frames::frames),
    ("machine", machine::machine),
    ("policy", policy::policy),
    ("trace", trace::trace),
    ("words", words::words),
];

/// The target with this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// Asserts that a message for people is one line that says something. What the message quotes may be any text, so the line is
/// only asked for where the program itself writes all of it.
#[track_caller]
fn assert_sentence(said: &str) {
    assert!(!said.trim().is_empty() && !said.contains('\n'), "no sentence: {said:?}");
}
