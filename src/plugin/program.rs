//! The program of a plugin: whether a path can be one, and what it finds in its environment.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sys::errno::Errno;

/// What is wrong with the path of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    /// It does not begin with a slash.
    #[error("its path must be absolute")]
    Relative,
    /// It holds a zero byte, which no path can.
    #[error("its path holds a zero byte")]
    ZeroByte,
    /// It is not there, or cannot be looked at.
    #[error("it cannot be found: {0}")]
    Missing(Errno),
    /// It is a directory, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// Nobody may execute it.
    #[error("it is not executable; try `chmod +x`")]
    NotExecutable,
}

/// Checks that `path` can be the program of a plugin: absolute, there, a regular file, executable by someone. Whether
/// by us is for `execve` to say.
///
/// # Errors
/// [`ProgramFault`].
pub fn validate(path: &Path) -> Result<CString, ProgramFault> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| ProgramFault::ZeroByte)?;
    if !path.is_absolute() {
        return Err(ProgramFault::Relative);
    }
    let found = std::fs::metadata(path);
    let file = found.map_err(|error| ProgramFault::Missing(Errno(error.raw_os_error().unwrap_or(libc::EIO))))?;
    if !file.is_file() {
        return Err(ProgramFault::NotAFile);
    }
    if file.permissions().mode() & 0o111 == 0 {
        return Err(ProgramFault::NotExecutable);
    }
    Ok(c_path)
}

/// What the owner of the program might look at when it cannot be executed, as the rest of the sentence. `user` is who it has to
/// be executable for, if that is somebody else.
pub fn hint(errno: Errno, user: Option<u32>) -> String {
    let said = match (errno.0, user) {
        (libc::EACCES, Some(user)) => return format!("; may user {user} execute it?"),
        (libc::EACCES, None) => "; is it executable?",
        (libc::ENOENT, _) => "; is it there, and its interpreter or dynamic linker too?",
        (libc::ENOEXEC, _) => "; is it a program for this machine?",
        _ => "",
    };
    said.to_owned()
}

/// `KEY=value` entries; those with a zero byte, which no program can be given, are left out.
pub fn entries(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<CString> {
    let entry = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    variables.into_iter().filter_map(|pair| CString::new(entry(pair)).ok()).collect()
}
