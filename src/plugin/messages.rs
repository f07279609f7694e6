//! What the plugin says on its connections, and what it is answered: the requests, one at a time on each.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::lifecycle::Input;
use super::reply::Reply;
use super::setup::StartError;
use super::supervisor::Supervisor;
use crate::event::{Event, Message, Token};
use crate::sys::Errno;
use outboard_wire::control::Kind;
use outboard_wire::error::FrameError;
use outboard_wire::frame::Header;
use outboard_wire::limits::MAX_FDS;
use outboard_wire::socket;

impl Supervisor {
    /// Something has happened on a connection.
    pub(super) fn connection(&mut self, token: Token, event: Event) -> Result<(), StartError> {
        match event {
            Event::Received(mut message) => {
                let fds = message.take_fds();
                let turn = self.message(token, &message, fds);
                self.events.recycle(message);
                turn
            }
            Event::Sent => self.replied(token),
            Event::Closed => self.disconnected(token),
            _ => Ok(()),
        }
    }

    fn message(&mut self, token: Token, message: &Message, fds: Vec<OwnedFd>) -> Result<(), StartError> {
        let Some(connection) = self.connections.get(token) else { return Ok(()) };
        let greeted = connection.greeted;
        // The kernel drops descriptors for which there is no room: in the message, or in this process.
        let (truncated, dropped) = (message.truncated(), message.fds_truncated());
        let accepted = match dropped {
            _ if truncated => Err(FrameError::Long),
            true if fds.len() >= MAX_FDS => Err(FrameError::TooManyFds),
            true => connection.accept(message.bytes(), None),
            false => connection.accept(message.bytes(), Some(fds.len())),
        };
        let (header, body) = match accepted {
            Ok((header, _)) if dropped && greeted => return self.reply(token, &header, Err(Errno::EMFILE)),
            Ok(accepted) => accepted,
            Err(error) => return self.refuse_frame(token, &error),
        };
        if self.ended.is_some() {
            return self.replied(token);
        }
        match (Kind::from_number(header.kind), greeted) {
            (Some(Kind::Hello), false) => self.hello(token, &header, body),
            (_, false) => self.step(Input::Violation("it made a request before it said hello".into())),
            (Some(Kind::Hello), true) => self.reply(token, &header, Err(Errno::EINVAL)),
            (Some(Kind::NewConnection), true) => {
                let made = if body.is_empty() && fds.is_empty() { self.new_connection() } else { Err(Errno::EINVAL) };
                self.reply(token, &header, made)
            }
            (Some(kind), true) => {
                let reply = self.host.serve(kind, body, fds);
                self.host.recorder.request(header.kind, body, &reply);
                self.reply(token, &header, reply)
            }
            (None, true) => self.reply(token, &header, Err(Errno::ENOTTY)),
        }
    }

    /// A frame that is not sound ends the plugin. A frame of another version is answered first, and the plugin is given time
    /// to say what it met.
    fn refuse_frame(&mut self, token: Token, error: &FrameError) -> Result<(), StartError> {
        if matches!(error, FrameError::Version { .. }) {
            let header = Header::request(Kind::Hello as u16, 1, 0, 0);
            self.reply(token, &header, Err(Errno(libc::EPROTONOSUPPORT)))?;
            return self.step(Input::Mismatch(error.to_string()));
        }
        self.step(Input::Violation(error.to_string()))
    }

    fn hello(&mut self, token: Token, header: &Header, body: &[u8]) -> Result<(), StartError> {
        match self.host.welcome(body) {
            Ok((reply, agreed)) => {
                self.reply(token, header, Ok(reply))?;
                match agreed {
                    Ok(()) => {
                        if let Some(connection) = self.connections.get(token) {
                            connection.greeted = true;
                        }
                        self.step(Input::Connected)
                    }
                    Err(said) => self.step(Input::Mismatch(said)),
                }
            }
            Err(errno) => {
                self.reply(token, header, Err(errno))?;
                self.step(match errno {
                    Errno::EINVAL => Input::Violation("its hello has a body of the wrong size".into()),
                    errno => Input::HostFailure(format!("it could not answer the plugin's hello: {errno}")),
                })
            }
        }
    }

    fn new_connection(&mut self) -> Result<Reply, Errno> {
        let (ours, theirs) = socket::pair()?;
        let connection = self.connections.add(ours, true)?;
        let (socket, token) = (Arc::clone(&connection.socket), connection.token);
        if self.events.recv(&socket, token).is_err() {
            self.connections.remove(token);
            return Err(Errno::ENOMEM);
        }
        Ok(Reply { body: Vec::new(), fds: vec![theirs] })
    }

    /// Answers a request and waits for the next one of its connection.
    fn reply(&mut self, token: Token, request: &Header, reply: Result<Reply, Errno>) -> Result<(), StartError> {
        let (status, reply) = match reply {
            Ok(reply) => (0, reply),
            Err(errno) => {
                log::debug!("refused request kind {}: {errno}", request.kind);
                (-errno.0, Reply::default())
            }
        };
        let Some(connection) = self.connections.get(token) else { return Ok(()) };
        let header = Header::reply(request.kind, request.sequence, status, reply.body.len(), reply.fds.len());
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&reply.body);
        let socket = Arc::clone(&connection.socket);
        if reply.fds.is_empty() {
            return self.events.send_then_recv(&socket, &bytes, reply.fds, token).map_err(StartError::Events);
        }
        // Descriptors stay open here until the operation has ended. That must not be the next request: the end of a new
        // connection could not be seen as long as the plugin's end of it is open here too.
        self.events.send(&socket, &bytes, reply.fds, token).map_err(StartError::Events)
    }

    /// A reply with descriptors is on its way, or cannot be given: waits for the next request of its connection.
    pub(super) fn replied(&mut self, token: Token) -> Result<(), StartError> {
        let Some(connection) = self.connections.get(token) else { return Ok(()) };
        let socket = Arc::clone(&connection.socket);
        self.events.recv(&socket, token).map_err(StartError::Events)
    }
}
