//! The halves around hostile plugins.

use std::path::Path;

use crate::common::cage::Cage;
use crate::common::program::{Done, Program, Running};
use crate::common::suite::{Case, Tested};
use crate::mark;

/// A filter of one instruction, `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`: what is left of the jail has to do.
const ALLOW_ALL: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];

/// In the jail only.
pub const CAGED: &[Cage] = &[Cage::Caged, Cage::CagedByUser];

/// A run whose processes carry a mark, and the files that it needs.
pub struct Marked {
    pub running: Running,
    pub mark: String,
}

/// Starts a run.
pub fn start(program: &mut Program) -> Marked {
    let mark = mark::fresh();
    program.command().env(mark::VARIABLE, &mark);
    Marked { running: program.start(), mark }
}

impl Marked {
    /// Waits for the end; asserts that nobody is left behind.
    pub fn ended(self) -> Done {
        let done = self.running.ended();
        assert_eq!(mark::carriers(&self.mark), [] as [i32; 0], "left behind; it said {}", done.stderr);
        done
    }
}

/// The program with a filter that allows every system call. The folder holds the filter.
pub fn unfiltered(case: &Case, folder: &Path) -> Program {
    std::fs::write(folder.join("plugin.bpf"), ALLOW_ALL).expect("a file");
    let mut program = case.program();
    program.args(["--seccomp-policy-dir".as_ref(), folder.as_os_str()]);
    program
}

/// Asserts that the plugin ends well under the built-in policy.
pub fn ends_well(case: &Case) -> Tested {
    start(&mut case.program()).ended().expect(0);
    Ok(())
}

/// Asserts that the plugin ends well without a filter: it asserts itself that nothing it tries works.
pub fn ends_well_unfiltered(case: &Case) -> Tested {
    let folder = open_folder()?;
    start(&mut unfiltered(case, folder.path())).ended().expect(0);
    Ok(())
}

/// A folder that every user may read.
pub fn open_folder() -> std::io::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Asserts that the plugin was killed for a system call, which is named.
#[track_caller]
pub fn killed_for(done: &Done, call: &str) {
    done.expect(1).complained(&[&format!("outboard: the plugin was killed: it made the system call {call} (number ")]);
}
