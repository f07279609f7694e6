//! The halves around the plugins: a run with a mark, and what every run has to show whatever its plugin does.

use crate::common::program::{Done, Program, Running};
use crate::common::suite::{Case, Tested};
use crate::mark;

/// Status of a plugin that broke the protocol.
pub const PROTOCOL: i32 = 73;

/// A run whose processes carry a mark.
pub struct Marked {
    pub running: Running,
    pub mark: String,
}

/// Starts the run of a case.
pub fn start(case: &Case) -> Marked {
    start_program(&mut case.program())
}

/// Starts any run.
pub fn start_program(program: &mut Program) -> Marked {
    let mark = mark::fresh();
    program.command().env(mark::VARIABLE, &mark);
    Marked { running: program.start(), mark }
}

impl Marked {
    /// Waits for the end; asserts that the VMM did not panic and that nobody is left behind.
    pub fn ended(self) -> Done {
        let done = self.running.ended();
        assert!(
            !done.stderr.contains("panicked at src") && !done.stderr.contains("panicked at wire"),
            "{}",
            done.stderr
        );
        assert_eq!(mark::carriers(&self.mark), [] as [i32; 0], "left behind; it said {}", done.stderr);
        done
    }
}

/// Runs a case to its end.
pub fn run(case: &Case) -> Done {
    start(case).ended()
}

/// Asserts a status and that the VMM said one sentence, with these parts; nothing at all with no parts.
#[track_caller]
pub fn verdict(done: &Done, status: i32, parts: &[&str]) {
    done.expect(status);
    let sentences: Vec<&str> = done.stderr.lines().filter(|line| !line.starts_with("outboard: warning: ")).collect();
    assert_eq!(sentences.len(), usize::from(!parts.is_empty()), "sentences: {sentences:#?}");
    for part in parts {
        assert!(
            sentences[0].starts_with("outboard: ") && sentences[0].contains(part),
            "{part:?} in {:?}",
            sentences[0]
        );
    }
}

/// Runs a case whose plugin breaks the protocol.
pub fn broken(case: &Case, parts: &[&str]) -> Tested {
    let mut all = vec!["the plugin broke the protocol: "];
    all.extend(parts);
    verdict(&run(case), PROTOCOL, &all);
    Ok(())
}

/// A case whose plugin half breaks the protocol; the sentences that name the breach.
macro_rules! breach {
    ($plugin:ident: $($part:literal),+) => {
        $crate::common::suite::case!($plugin).around(|case| $crate::around::broken(case, &[$($part),+]))
    };
}
pub(crate) use breach;

/// A case whose run ends with a status and one sentence with these parts, or none.
macro_rules! ends {
    ($plugin:ident, $status:expr $(, $part:literal)*) => {
        $crate::common::suite::case!($plugin).around(|case| {
            $crate::around::verdict(&$crate::around::run(case), $status, &[$($part),*]);
            Ok(())
        })
    };
}
pub(crate) use ends;
