//! The control connections of the plugin.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::event::Token;
use crate::sys::Errno;
use outboard_wire::error::FrameError;
use outboard_wire::frame::{self, Header};
use outboard_wire::limits::MAX_CONNECTIONS;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// This side's end of the socket.
    pub socket: Arc<OwnedFd>,
    /// Says that messages of this connection are meant, not those of an earlier one in the same place.
    pub token: Token,
    /// The plugin said hello, or this is a further connection, which needs no hello.
    pub greeted: bool,
    next_sequence: u32,
}

impl Connection {
    /// Checks the next request of this connection. `fds` is the number of descriptors that came with it; `None` takes the
    /// header's word for it.
    ///
    /// # Errors
    /// A [`FrameError`] for a frame that is not sound, is a reply, or is not the next one.
    pub fn accept<'bytes>(
        &mut self,
        message: &'bytes [u8],
        fds: Option<usize>,
    ) -> Result<(Header, &'bytes [u8]), FrameError> {
        let announced = || Header::read_from_prefix(message).map_or(0, |(header, _)| header.fd_count.into());
        let (header, body) = frame::parse(message, fds.unwrap_or_else(announced))?;
        if header.flags != 0 {
            return Err(FrameError::Reserved);
        }
        if header.sequence != self.next_sequence {
            return Err(FrameError::Sequence { expected: self.next_sequence, got: header.sequence });
        }
        self.next_sequence = self.next_sequence.wrapping_add(1);
        Ok((header, body))
    }
}

/// All connections, each in a place that its token names.
#[derive(Debug, Default)]
pub struct Connections {
    places: Vec<Option<Connection>>,
    generation: u32,
}

impl Connections {
    /// Adds a connection and returns its token.
    ///
    /// # Errors
    /// `EMFILE` past [`MAX_CONNECTIONS`].
    pub fn add(&mut self, socket: OwnedFd, greeted: bool) -> Result<&Connection, Errno> {
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.places.len() < MAX_CONNECTIONS => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => return Err(Errno::EMFILE),
        };
        self.generation = self.generation.wrapping_add(1);
        let token = Token { source: place as u32, generation: self.generation };
        let connection = Connection { socket: Arc::new(socket), token, greeted, next_sequence: 1 };
        Ok(self.places[place].insert(connection))
    }

    /// The connection that a token names, if it still exists.
    pub fn get(&mut self, token: Token) -> Option<&mut Connection> {
        self.places.get_mut(token.source as usize)?.as_mut().filter(|connection| connection.token == token)
    }

    /// Closes the connection that a token names.
    pub fn remove(&mut self, token: Token) {
        if self.get(token).is_some() {
            self.places[token.source as usize] = None;
        }
    }

    /// Number of connections.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// True if the plugin has closed them all.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_wire::socket;
    use zerocopy::IntoBytes;

    #[test]
    fn a_place_is_reused_under_another_token() {
        let mut connections = Connections::default();
        let (ours, theirs) = socket::pair().unwrap();
        let first = connections.add(ours, false).unwrap().token;
        connections.remove(first);
        let second = connections.add(theirs, true).unwrap().token;
        assert_eq!(first.source, second.source);
        assert!(connections.get(first).is_none());
        connections.remove(first);
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn the_number_of_connections_is_limited() {
        let mut connections = Connections::default();
        let (ours, _theirs) = socket::pair().unwrap();
        for _ in 0..MAX_CONNECTIONS {
            connections.add(ours.try_clone().unwrap(), true).unwrap();
        }
        assert_eq!(connections.add(ours, true).unwrap_err(), Errno::EMFILE);
    }

    #[test]
    fn requests_come_in_order() {
        let mut connections = Connections::default();
        let (ours, _theirs) = socket::pair().unwrap();
        let token = connections.add(ours, true).unwrap().token;
        let connection = connections.get(token).unwrap();
        let request = |sequence| Header::request(5, sequence, 0, 0);
        assert!(connection.accept(request(1).as_bytes(), Some(0)).is_ok());
        let repeated = connection.accept(request(1).as_bytes(), Some(0)).unwrap_err();
        assert_eq!(repeated, FrameError::Sequence { expected: 2, got: 1 });
        let reply = Header::reply(5, 2, 0, 0, 0);
        assert_eq!(connection.accept(reply.as_bytes(), Some(0)).unwrap_err(), FrameError::Reserved);
    }
}
