//! Which seccomp filter a plugin gets: the user's policy, the user's program, or the built-in policy.

use std::path::{Path, PathBuf};

use super::bpf::{self, Instruction};
use super::filter::listening;
use super::policy::{self, Blocking, Mode, PolicyError};
use crate::sys::Errno;

/// The policy in the folder of `--seccomp-policy-dir`, and the program that it may have been compiled to.
const POLICY: &str = "plugin.policy";
const PROGRAM: &str = "plugin.bpf";

/// A filter, ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The program.
    pub program: Vec<Instruction>,
    /// Where it comes from.
    pub source: String,
    /// Whether calls that it does not allow are logged and happen.
    pub logs: bool,
    /// What deserves a word.
    pub warnings: Vec<String>,
}

/// Why there is no filter: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The folder cannot be used.
    #[error("--seccomp-policy-dir {}: {why}", folder.display())]
    Folder {
        /// The path given.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The policy is wrong.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The program is wrong.
    #[error("cannot take the program {}: {why}", path.display())]
    Program {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Chooses the filter. In a folder the program comes before the policy, unless failures are to be logged, which a program
/// that kills cannot do.
///
/// # Errors
/// What is wrong with the folder, or with a file in it.
pub fn choose(folder: Option<&Path>, log_failures: bool) -> Result<Choice, ChoiceError> {
    let Some(folder) = folder else {
        return compiled(policy::builtin(mode(log_failures))?, log_failures, "the built-in policy".to_owned());
    };
    let refused = |why: &str| ChoiceError::Folder { folder: folder.to_owned(), why: why.to_owned() };
    match std::fs::metadata(folder) {
        Err(error) => return Err(refused(&format!("it cannot be found: {}", Errno::from(error)))),
        Ok(there) if !there.is_dir() => return Err(refused("it is not a directory")),
        Ok(_) => {}
    }
    let (policy, program) = (folder.join(POLICY), folder.join(PROGRAM));
    if !log_failures && program.exists() {
        return precompiled(program);
    }
    if !policy.exists() {
        let only = if program.exists() { "; plugin.bpf alone cannot log failures" } else { "" };
        return Err(refused(&format!("there is no {POLICY} in it{only}")));
    }
    compiled(policy::load(&policy, mode(log_failures))?, log_failures, policy.display().to_string())
}

fn mode(log_failures: bool) -> Mode {
    if log_failures { Mode::Log } else { Mode::Enforce }
}

fn compiled(policy: policy::Policy, logs: bool, source: String) -> Result<Choice, ChoiceError> {
    let program = policy.compile(if logs { Blocking::Log } else { Blocking::Notify })?;
    let warnings = policy.warnings.iter().map(ToString::to_string).collect();
    Ok(Choice { program, source, logs, warnings })
}

fn precompiled(path: PathBuf) -> Result<Choice, ChoiceError> {
    let refused = |why: String| ChoiceError::Program { path: path.clone(), why };
    let bytes = policy::read_file(&path).map_err(|errno| refused(errno.to_string()))?;
    let program = listening(bpf::from_bytes(&bytes).map_err(|error| refused(error.to_string()))?);
    Ok(Choice { program, source: path.display().to_string(), logs: false, warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_come_before_policies_unless_failures_are_logged() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let choose = |log| choose(Some(folder.path()), log);
        assert!(choose(false).unwrap_err().to_string().ends_with("there is no plugin.policy in it"));
        let allow = Blocking::Kill;
        write(PROGRAM, bpf::to_bytes(&policy::builtin(Mode::Enforce).unwrap().compile(allow).unwrap()));
        assert!(choose(false).unwrap().source.ends_with("plugin.bpf"));
        assert!(choose(true).unwrap_err().to_string().ends_with("plugin.bpf alone cannot log failures"));
        write(POLICY, b"read: 1\n");
        assert!(choose(false).unwrap().source.ends_with("plugin.bpf"));
        let logging = choose(true).unwrap();
        assert!(logging.source.ends_with("plugin.policy") && logging.logs);
        write(PROGRAM, b"short");
        assert!(choose(false).unwrap_err().to_string().contains("which is no multiple of 8"));
        write(POLICY, b"");
        assert!(choose(true).is_err(), "an empty policy is none");
    }

    #[test]
    fn folders_are_looked_at() {
        let refused = |path: &str| choose(Some(Path::new(path)), false).unwrap_err().to_string();
        assert!(
            refused("/no such folder").starts_with("--seccomp-policy-dir /no such folder: it cannot be found: ENOENT")
        );
        assert_eq!(refused("/dev/null"), "--seccomp-policy-dir /dev/null: it is not a directory");
        assert_eq!(choose(None, false).unwrap().source, "the built-in policy");
    }
}
