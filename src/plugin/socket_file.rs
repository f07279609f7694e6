//! The management socket in the file system, and who removes it.
//!
//! The VMM's main thread may not remove files any more once the plugin runs, and a VMM that is killed cannot. A small
//! process of its own waits for the end of the VMM and removes the socket then, if it is still the one that was made.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::sys::pipe;
use crate::sys::process::{self, Child};
use crate::sys::{Errno, descriptors, file, peer};

/// Why there is no socket at the path that the user gave.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else lies there.
    #[error("{0} exists and is no socket; name another path with --socket")]
    Occupied(PathBuf),
    /// Somebody listens there.
    #[error("another program listens on {0}; name another path with --socket")]
    InUse(PathBuf),
    /// It cannot be made.
    #[error("cannot make the management socket {0}: {1}")]
    Make(PathBuf, io::Error),
}

/// The socket. It is gone when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// Open until it is dropped.
    alive: Option<OwnedFd>,
    remover: Child,
}

impl SocketFile {
    /// Makes it. Called while this process has one thread and no VM, of which the remover then has no copy.
    ///
    /// # Errors
    /// A [`SocketError`].
    pub(super) fn make(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
        let listener = bind(path)?;
        match Self::guard(path) {
            Ok(socket) => Ok((listener, socket)),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(SocketError::Make(path.to_owned(), error))
            }
        }
    }

    /// Has the socket that is there removed at the end.
    fn guard(path: &Path) -> io::Result<SocketFile> {
        let meta = fs::symlink_metadata(path)?;
        let same = (meta.dev(), meta.ino());
        let path = CString::new(path.as_os_str().as_bytes())?;
        let (reader, alive) = pipe::pipe()?;
        let remover = process::clone_process(0, |_| match remove_at_end(&path, same, &reader) {
            Ok(()) => 0,
            Err(_) => 1,
        })?;
        Ok(SocketFile { alive: Some(alive), remover })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = process::wait(self.remover.pidfd.as_fd());
    }
}

/// What the remover does, with all signals blocked: it outlives a terminal that hangs up. Memory can be had here, because no
/// other thread was there when this process was cloned.
fn remove_at_end(path: &CString, same: (u64, u64), alive: &OwnedFd) -> Result<(), Errno> {
    // Tools tell VMs by this name, and this is none.
    process::set_name(c"outboard-socket");
    let _ = process::new_session();
    descriptors::keep_only(&[alive.as_fd()])?;
    while pipe::read_byte(alive.as_fd())? {}
    file::remove_if_same(path, same)
}

/// Makes a socket in the file system for this user alone. One that nobody listens on is left over, and is replaced.
fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::Make(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
        Ok(_) => {
            let left_over = match UnixStream::connect(path) {
                Ok(socket) => !peer::is_alive(socket.as_fd()).unwrap_or(true),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(error)),
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            };
            if !left_over {
                return Err(SocketError::InUse(path.to_owned()));
            }
            // The remover of a VM that was killed may be faster.
            fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(failed(error)),
            })?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever slips in before this is turned away by the check of its user.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_over_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = bind(&path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o600);
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        // Closing it would not do: a process that another test has just cloned may have it as well.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        assert!(bind(&path).is_ok(), "nobody listens there");
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"mine").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::Occupied(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
