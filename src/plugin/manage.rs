//! The management sockets: `outboard stop|pause|resume|status|trace`, and whoever speaks the same lines.
//!
//! A client sends lines and gets a line for each (`PROTOCOL.md`, section 14). There is always a socket in the abstract
//! namespace, which tools find by the number of the memfd with the counters, and one in the file system if the user names
//! it. Both take only the user of this process and root. Nothing a client does can make the main thread wait: reads and
//! writes do not block, and a client that sends too much or does not read is dropped.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::Token;
use crate::sys::peer;

/// Clients that are listened to at a time; further ones wait.
pub(super) const MAX_CLIENTS: usize = 16;

/// Longest line of a client: a path and a word.
const MAX_LINE: usize = 4200;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// End the VM as SIGTERM does.
    Stop,
    /// Let the guest stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// Say how it is.
    Status,
    /// Record what happens in this file.
    TraceStart(PathBuf),
    /// Stop recording.
    TraceStop,
}

impl Request {
    /// Reads a line without its end.
    pub(super) fn parse(line: &str) -> Result<Request, String> {
        match line {
            "stop" => Ok(Request::Stop),
            "pause" => Ok(Request::Pause),
            "resume" => Ok(Request::Resume),
            "status" => Ok(Request::Status),
            "trace stop" => Ok(Request::TraceStop),
            _ => match line.strip_prefix("trace start ") {
                Some(path) if Path::new(path).is_absolute() => Ok(Request::TraceStart(path.into())),
                Some(_) => Err("the path of a trace has to be absolute".to_owned()),
                None => Err("there are stop, pause, resume, status, trace start PATH and trace stop".to_owned()),
            },
        }
    }
}

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

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    fd: Arc<OwnedFd>,
    token: Token,
    read: Vec<u8>,
}

/// The sockets and their clients.
#[derive(Debug)]
pub(super) struct Manage {
    listeners: Vec<(UnixListener, Arc<OwnedFd>)>,
    /// The socket in the file system, with its inode number.
    path: Option<(PathBuf, u64)>,
    clients: [Option<Client>; MAX_CLIENTS],
    generation: u32,
}

/// What came of a readable client.
pub(super) struct Heard {
    /// Complete lines.
    pub lines: Vec<String>,
    /// Whether it is still there.
    pub goes_on: bool,
}

impl Manage {
    /// Makes the sockets. `number` is that of the memfd with the counters.
    ///
    /// # Errors
    /// A [`SocketError`] for the one in the file system. That in the abstract namespace is left out if it cannot be had.
    pub(super) fn new(number: u64, path: Option<&Path>) -> Result<Manage, SocketError> {
        let mut listeners = Vec::new();
        let name = SocketAddr::from_abstract_name(format!("outboard-{number}"));
        match name.and_then(|name| UnixListener::bind_addr(&name)).and_then(nonblocking) {
            Ok(listener) => listeners.push(listener),
            Err(error) => log::info!("tools cannot reach this VM through an abstract socket: {error}"),
        }
        let mut known = None;
        if let Some(path) = path {
            let made = bind(path)?;
            let inode = fs::symlink_metadata(path).map(|meta| meta.ino());
            known = Some((path.to_owned(), inode.unwrap_or(0)));
            listeners.push(nonblocking(made).map_err(|error| SocketError::Make(path.to_owned(), error))?);
        }
        Ok(Manage { listeners, path: known, clients: [const { None }; MAX_CLIENTS], generation: 0 })
    }

    /// What to wait on for new clients, by number.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.listeners.iter().map(|(_, fd)| fd)
    }

    /// Takes the clients that wait at a listener, as far as there is room. Returns what to wait on for each.
    pub(super) fn accept(&mut self, listener: usize, first_source: u32) -> Vec<(Arc<OwnedFd>, Token)> {
        let mut fresh = Vec::new();
        let Some((listener, _)) = self.listeners.get(listener) else { return fresh };
        while let Ok((stream, _)) = listener.accept() {
            let Some(place) = self.clients.iter().position(Option::is_none) else {
                let _ = answer(&stream, "error too many clients; try again");
                continue;
            };
            let fd = stream.set_nonblocking(true).and_then(|()| stream.as_fd().try_clone_to_owned());
            match (fd, peer::may_manage(stream.as_fd())) {
                (Ok(fd), Ok(true)) => {
                    self.generation = self.generation.wrapping_add(1);
                    let token = Token { source: first_source + place as u32, generation: self.generation };
                    let fd = Arc::new(fd);
                    fresh.push((Arc::clone(&fd), token));
                    self.clients[place] = Some(Client { stream, fd, token, read: Vec::new() });
                }
                _ => drop(answer(&stream, "error only the user of this VM and root may manage it")),
            }
        }
        fresh
    }

    /// Reads what a client has sent. A client that is gone, or sends no lines, is forgotten.
    pub(super) fn hear(&mut self, place: usize, token: Token) -> Heard {
        let gone = Heard { lines: Vec::new(), goes_on: false };
        let Some(client) = self.clients.get_mut(place).and_then(Option::as_mut) else { return gone };
        if client.token != token {
            return gone;
        }
        let mut bytes = [0; MAX_LINE];
        let ended = match client.stream.read(&mut bytes) {
            Ok(0) => true,
            Ok(count) => {
                client.read.extend_from_slice(&bytes[..count]);
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted,
        };
        let mut lines = Vec::new();
        while let Some(end) = client.read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = client.read.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_owned());
        }
        let goes_on = !ended && client.read.len() < MAX_LINE;
        if !goes_on && lines.is_empty() {
            self.clients[place] = None;
        }
        Heard { lines, goes_on }
    }

    /// Answers a client with a line; returns what to wait on for its next one.
    pub(super) fn answer(&mut self, place: usize, line: &str, goes_on: bool) -> Option<Arc<OwnedFd>> {
        let client = self.clients.get(place)?.as_ref()?;
        if answer(&client.stream, line).is_ok() && goes_on {
            return Some(Arc::clone(&client.fd));
        }
        self.clients[place] = None;
        None
    }

    /// What to wait on for the next line of a client that has nothing to be answered.
    pub(super) fn again(&self, place: usize) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.clients.get(place)?.as_ref()?.fd))
    }
}

impl Drop for Manage {
    fn drop(&mut self) {
        // Only what is still ours: somebody may have put another socket there.
        if let Some((path, inode)) = &self.path
            && fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == *inode)
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn answer(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

fn nonblocking(listener: UnixListener) -> io::Result<(UnixListener, Arc<OwnedFd>)> {
    listener.set_nonblocking(true)?;
    let fd = listener.as_fd().try_clone_to_owned()?;
    Ok((listener, Arc::new(fd)))
}

/// Makes a socket in the file system for this user alone. One that nobody listens on is left over, and is replaced.
fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::Make(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            _ => return Err(SocketError::InUse(path.to_owned())),
        },
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
    use std::os::unix::fs::FileTypeExt;

    #[test]
    fn lines_are_read() {
        assert_eq!(Request::parse("stop"), Ok(Request::Stop));
        assert_eq!(Request::parse("trace start /tmp/a b"), Ok(Request::TraceStart("/tmp/a b".into())));
        assert!(Request::parse("trace start a").unwrap_err().contains("absolute"));
        for wrong in ["", "Stop", "stop now", "trace"] {
            assert!(Request::parse(wrong).unwrap_err().contains("pause"), "{wrong:?}");
        }
    }

    #[test]
    fn a_socket_that_was_left_over_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let manage = Manage::new(u64::MAX - 1, Some(&path)).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket() && meta.mode() & 0o777 == 0o600);
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        drop(manage);
        assert!(!path.exists(), "its own socket goes with it");
        drop(UnixListener::bind(&path).unwrap());
        assert!(bind(&path).is_ok(), "nobody listens there");
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"mine").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::Occupied(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_client_is_heard_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut manage = Manage::new(u64::MAX - 2, Some(&path)).unwrap();
        let listener = manage.listeners.len() - 1;
        let mut client = UnixStream::connect(&path).unwrap();
        let (_, token) = manage.accept(listener, 100).pop().unwrap();
        client.write_all(b"status\npa").unwrap();
        assert_eq!(manage.hear(0, token).lines, ["status"]);
        client.write_all(b"use\n").unwrap();
        assert_eq!(manage.hear(0, token).lines, ["pause"]);
        assert!(manage.answer(0, "ok", true).is_some());
        let mut said = [0; 3];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ok\n");
        client.write_all(&[b'x'; MAX_LINE]).unwrap();
        assert!(!manage.hear(0, token).goes_on, "no line is that long");
        assert!(manage.clients[0].is_none());
    }
}
