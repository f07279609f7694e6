//! Talks to the management socket of a VM: a line there, a line back (`PROTOCOL.md`, section 14).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::find::{Find, FindError};
use super::status;
use outboard_wire::socket;

/// How long an answer may take; a VMM answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a VM cannot be talked to, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// It was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// There is no connection.
    #[error("no VM answers on {0}: {1}")]
    Connect(String, io::Error),
    /// The socket belongs to another user.
    #[error("the socket of {0} belongs to another user")]
    Stranger(String),
    /// It ended before it answered, or took too long.
    #[error("VM {0} ended before it answered: {1}")]
    Lost(String, io::Error),
    /// It will not.
    #[error("VM {0} refuses: {1}")]
    Refused(String, String),
}

impl ReachError {
    /// The exit status of a tool that met it.
    pub fn exit_status(&self) -> u8 {
        match self {
            ReachError::Find(FindError::Denied { .. } | FindError::Unreadable(..)) | ReachError::Stranger(_) => {
                status::HOST
            }
            ReachError::Connect(_, error) if error.kind() == io::ErrorKind::PermissionDenied => status::HOST,
            _ => status::NO_VM,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    title: String,
}

impl Client {
    /// Connects to a VM: the socket at a path if the word holds a slash, else the VM with this process id or name; the only
    /// one without a word.
    ///
    /// # Errors
    /// A [`ReachError`].
    pub fn reach(word: Option<&str>) -> Result<Client, ReachError> {
        match word.filter(|word| word.contains('/')) {
            Some(path) => {
                let stream = UnixStream::connect(Path::new(path));
                Client::over(stream.map_err(|error| ReachError::Connect(path.to_owned(), error))?, path.to_owned())
            }
            None => {
                let vm = Find::all().select(word)?;
                let title = vm.title();
                let connected = vm.file().metadata().and_then(|meta| {
                    UnixStream::connect_addr(&SocketAddr::from_abstract_name(format!("outboard-{}", meta.ino()))?)
                });
                let stream = connected.map_err(|error| ReachError::Connect(format!("VM {title}"), error))?;
                // Names of the abstract namespace are free for all to take.
                let peer = rustix::net::sockopt::socket_peercred(stream.as_fd());
                let own = rustix::process::geteuid();
                if !peer.is_ok_and(|peer| own.is_root() || peer.uid == own || peer.uid.is_root()) {
                    return Err(ReachError::Stranger(title));
                }
                Client::over(stream, title)
            }
        }
    }

    fn over(stream: UnixStream, title: String) -> Result<Client, ReachError> {
        let set = stream.set_read_timeout(Some(PATIENCE));
        set.map_err(|error| ReachError::Connect(title.clone(), error))?;
        Ok(Client { stream: BufReader::new(stream), title })
    }

    /// What people call the VM.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Sends a line and waits for the answer; returns what stands behind `ok`.
    ///
    /// # Errors
    /// [`ReachError::Lost`], [`ReachError::Refused`].
    pub fn ask(&mut self, line: &str) -> Result<String, ReachError> {
        let sent = self.stream.get_mut().write_all(format!("{line}\n").as_bytes());
        self.answer(sent)
    }

    /// The same with a descriptor that goes along.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_with(&mut self, line: &str, file: BorrowedFd<'_>) -> Result<String, ReachError> {
        let sent = socket::send(self.stream.get_ref().as_fd(), format!("{line}\n").as_bytes(), &[file]);
        self.answer(sent)
    }

    fn answer(&mut self, sent: io::Result<()>) -> Result<String, ReachError> {
        let lost = |error| ReachError::Lost(self.title.clone(), error);
        sent.map_err(lost)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer).map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let answer = answer.trim_end();
        match answer.strip_prefix("ok").map(str::trim_start) {
            Some(said) => Ok(said.to_owned()),
            None => {
                let said = answer.strip_prefix("error ").unwrap_or(answer);
                Err(ReachError::Refused(self.title.clone(), said.to_owned()))
            }
        }
    }

    /// Waits for so long, or until the VM has ended. Returns whether it has.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let _ = self.stream.get_ref().set_read_timeout(Some(time));
        let ended = self.stream.fill_buf().is_ok_and(|bytes| bytes.is_empty());
        let _ = self.stream.get_ref().set_read_timeout(Some(PATIENCE));
        ended
    }

    /// Waits until the VM has closed the connection, which it does when it ends.
    pub fn wait_end(&mut self) {
        let _ = self.stream.get_ref().set_read_timeout(None);
        let mut rest = String::new();
        while self.stream.read_line(&mut rest).is_ok_and(|count| count > 0) {}
    }
}
