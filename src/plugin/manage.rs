//! The management sockets: `outboard stop|pause|resume|status|trace`, and whoever speaks the same lines.
//!
//! A client sends lines and gets a line for each (`PROTOCOL.md`, section 14). There is always a socket in the abstract
//! namespace, which tools find by the number of the memfd with the counters, and one in the file system if the user names
//! it. Both take only the user of this process and root. Nothing a client does can make the main thread wait: the event
//! loop reads and writes, the next line is looked at when the answer to the one before is gone, and a client that sends
//! no line end is dropped.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;

use super::socket_file::SocketFile;
use crate::event::Token;
use crate::sys::peer;

/// Clients that are listened to at a time; further ones are sent away.
pub(super) const MAX_CLIENTS: usize = 16;

/// Longest line of a client: a path and a word.
const MAX_LINE: usize = 4096;

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
    /// Record what happens in the file that comes along and is called so.
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
                Some(path) if !path.is_empty() => Ok(Request::TraceStart(path.into())),
                _ => Err("there are stop, pause, resume, status, trace start NAME and trace stop".to_owned()),
            },
        }
    }
}

#[derive(Debug)]
struct Client {
    fd: Arc<OwnedFd>,
    token: Token,
    read: Vec<u8>,
    /// A descriptor that came along and that no line has taken.
    file: Option<OwnedFd>,
}

/// The sockets and their clients.
#[derive(Debug)]
pub(super) struct Manage {
    listeners: Vec<Arc<OwnedFd>>,
    clients: [Option<Client>; MAX_CLIENTS],
    generation: u32,
    /// The one in the file system, to be removed.
    _socket: Option<SocketFile>,
}

impl Manage {
    /// Makes the socket in the abstract namespace, which is left out if it cannot be had. `number` is that of the memfd with
    /// the counters, `socket` the one in the file system.
    ///
    /// # Errors
    /// What fcntl(2) says of that one.
    pub(super) fn new(number: u64, socket: Option<(UnixListener, SocketFile)>) -> io::Result<Manage> {
        let mut listeners = Vec::new();
        let name = SocketAddr::from_abstract_name(format!("outboard-{number}"));
        match name.and_then(|name| UnixListener::bind_addr(&name)).and_then(nonblocking) {
            Ok(listener) => listeners.push(listener),
            Err(error) => log::info!("tools cannot reach this VM through an abstract socket: {error}"),
        }
        let (listener, socket) = socket.unzip();
        if let Some(listener) = listener {
            listeners.push(nonblocking(listener)?);
        }
        Ok(Manage { listeners, clients: [const { None }; MAX_CLIENTS], generation: 0, _socket: socket })
    }

    /// What to wait on for new clients, by number.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.listeners.iter()
    }

    /// Takes the clients that wait at a listener, as far as there is room. Returns what to receive from for each.
    pub(super) fn accept(&mut self, listener: usize, first_source: u32) -> Vec<(Arc<OwnedFd>, Token)> {
        let mut fresh = Vec::new();
        let Some(listener) = self.listeners.get(listener) else { return fresh };
        while let Ok(stream) = peer::accept(listener.as_fd()) {
            let place = self.clients.iter().position(Option::is_none);
            match (place, peer::may_manage(stream.as_fd())) {
                (Some(place), Ok(true)) => {
                    self.generation = self.generation.wrapping_add(1);
                    let token = Token { source: first_source + place as u32, generation: self.generation };
                    let fd = Arc::new(stream);
                    fresh.push((Arc::clone(&fd), token));
                    self.clients[place] = Some(Client { fd, token, read: Vec::new(), file: None });
                }
                (None, Ok(true)) => send_away(stream, "error too many clients; try again"),
                _ => send_away(stream, "error only the user of this VM and root may manage it"),
            }
        }
        fresh
    }

    /// Takes in what a client has sent. False if it is to be dropped: it sends no line end.
    pub(super) fn received(&mut self, place: usize, token: Token, bytes: &[u8], files: Vec<OwnedFd>) -> bool {
        let Some(client) = self.client(place, token) else { return false };
        client.read.extend_from_slice(bytes);
        client.file = files.into_iter().next().or(client.file.take());
        client.read.len() < MAX_LINE || client.read.contains(&b'\n')
    }

    /// The next whole line of a client, with the descriptor that came along.
    pub(super) fn line(&mut self, place: usize, token: Token) -> Option<(String, Option<OwnedFd>)> {
        let client = self.client(place, token)?;
        let end = client.read.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = client.read.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line[..end]).trim_end_matches('\r').to_owned();
        Some((line, client.file.take()))
    }

    /// What to send to and receive from.
    pub(super) fn fd(&mut self, place: usize, token: Token) -> Option<Arc<OwnedFd>> {
        self.client(place, token).map(|client| Arc::clone(&client.fd))
    }

    /// Forgets a client.
    pub(super) fn remove(&mut self, place: usize, token: Token) {
        if self.client(place, token).is_some() {
            self.clients[place] = None;
        }
    }

    fn client(&mut self, place: usize, token: Token) -> Option<&mut Client> {
        self.clients.get_mut(place)?.as_mut().filter(|client| client.token == token)
    }
}

/// Says why by write(2), the one way to send that the filter of this thread leaves; an empty socket has room for a line.
fn send_away(client: OwnedFd, line: &str) {
    let _ = File::from(client).write_all(format!("{line}\n").as_bytes());
}

fn nonblocking(listener: UnixListener) -> io::Result<Arc<OwnedFd>> {
    listener.set_nonblocking(true)?;
    Ok(Arc::new(listener.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_are_read() {
        assert_eq!(Request::parse("stop"), Ok(Request::Stop));
        assert_eq!(Request::parse("trace start /tmp/a b"), Ok(Request::TraceStart("/tmp/a b".into())));
        for wrong in ["", "Stop", "stop now", "trace", "trace start "] {
            assert!(Request::parse(wrong).unwrap_err().contains("pause"), "{wrong:?}");
        }
    }

    #[test]
    fn a_client_is_heard_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut manage = Manage::new(u64::MAX - 2, Some(SocketFile::make(&path).unwrap())).unwrap();
        let listener = manage.listeners.len() - 1;
        let _client = UnixStream::connect(&path).unwrap();
        let (_, token) = manage.accept(listener, 100).pop().unwrap();
        assert!(manage.received(0, token, b"status\npa", vec![]));
        assert_eq!(manage.line(0, token).unwrap().0, "status");
        assert!(manage.line(0, token).is_none());
        let file = OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(manage.received(0, token, b"use\r\nstop\n", vec![file]));
        let (line, file) = manage.line(0, token).unwrap();
        assert_eq!((line.as_str(), file.is_some()), ("pause", true));
        assert!(manage.line(0, token).is_some_and(|(line, file)| line == "stop" && file.is_none()));
        assert!(!manage.received(0, token, &[b'x'; MAX_LINE], vec![]), "no line is that long");
        manage.remove(0, Token { generation: 77, ..token });
        assert!(manage.fd(0, token).is_some(), "another client was meant");
        manage.remove(0, token);
        assert!(manage.fd(0, token).is_none());
        drop(manage);
        assert!(!path.exists(), "it is removed");
    }
}
