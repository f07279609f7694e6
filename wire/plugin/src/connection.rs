//! The control connection: one request, one reply.

use std::env;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use outboard_wire::block;
use outboard_wire::control::{CheckExtension, Hello, HelloReply, NewConnection, Request, ShutdownEvent, Start};
use outboard_wire::error::FrameError;
use outboard_wire::frame::{self, FLAG_REPLY, Header};
use outboard_wire::limits::{MAX_FRAME, VERSION_MAJOR, VERSION_MINOR};
use outboard_wire::socket;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Error;
use crate::eventfd::EventFd;
use crate::machine::Machine;
use crate::sys;

/// The variables that may hold the control socket's number, in the order they are asked.
const VARIABLES: [&str; 2] = ["OUTBOARD_SOCKET", "CROSVM_SOCKET"];

/// A control connection to the VMM: everything that a plugin asks for goes through one.
///
/// A connection belongs to one thread at a time; [`Connection::new_connection`] makes one for another thread. Requests are
/// synchronous: they return when the VMM has done what was asked. A refusal is [`Error::Refused`] and never ends the VM.
/// When the last connection is dropped after the start, the VM goes on.
///
/// ```no_run
/// use outboard_plugin::{GuestMemory, Region, Space};
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// let mut vm = outboard_plugin::connect()?;
/// let memory = GuestMemory::new(0x10_0000)?;
/// vm.create_memory(&memory, &Region { length: memory.len(), ..Region::default() })?;
/// vm.reserve(Space::Port, 0x3f8..0x400)?;
/// vm.start()?;
/// let mut vcpu = vm.vcpu(0)?;
/// # Ok(())
/// # }
/// ```
pub struct Connection {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8; MAX_FRAME]>,
    machine: Arc<Machine>,
}

/// Connects to the VMM that started this process, over the socket it named in the environment variable
/// `OUTBOARD_SOCKET`, else `CROSVM_SOCKET`. The first call of every plugin; further connections come from
/// [`Connection::new_connection`].
///
/// # Errors
/// [`Error::NotConnected`] if neither variable is set, [`Error::SocketNumber`] if it holds no number, [`Error::Socket`]
/// if that is no control socket, [`Error::Version`] if the VMM speaks another protocol, [`Error::AlreadyConnected`]
/// the second time.
///
/// ```
/// let error = outboard_plugin::connect().unwrap_err();
/// assert_eq!(error.errno(), 107); // ENOTCONN: nobody started this test as a plugin
/// ```
pub fn connect() -> Result<Connection, Error> {
    let number = socket_number(|variable| env::var_os(variable).map(|value| value.to_string_lossy().into_owned()))?;
    let socket =
        sys::adopt_socket(number).map_err(|source| Error::Socket { number, source })?.ok_or(Error::AlreadyConnected)?;
    Connection::over(socket)
}

/// Takes over a file that this process was started with, by the number of its descriptor: whoever starts the VMM can open
/// files that the plugin in its jail cannot. Once for each number.
///
/// # Errors
/// [`Error::Io`] with `EBADF` if no descriptor of this number was inherited, or it was taken before.
///
/// ```
/// let error = outboard_plugin::inherited_file(1000).unwrap_err();
/// assert_eq!(error.errno(), 9); // EBADF
/// ```
pub fn inherited_file(number: i32) -> Result<File, Error> {
    sys::inherit(number).map(File::from).map_err(Error::io("take over a file"))
}

fn socket_number(variable: impl Fn(&'static str) -> Option<String>) -> Result<i32, Error> {
    let found = VARIABLES.into_iter().find_map(|name| Some((name, variable(name)?)));
    let (variable, value) = found.ok_or(Error::NotConnected)?;
    match value.parse() {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(Error::SocketNumber { variable, value }),
    }
}

impl Connection {
    /// Connects over a socket that this process has already: `AF_UNIX`, `SOCK_SEQPACKET`, the VMM on the other end.
    ///
    /// # Errors
    /// As [`connect`].
    ///
    /// ```
    /// use outboard_plugin::Connection;
    ///
    /// let (ours, theirs) = outboard_wire::socket::pair().unwrap();
    /// drop(theirs);
    /// assert_eq!(Connection::over(ours).unwrap_err().errno(), 32); // EPIPE
    /// ```
    pub fn over(socket: OwnedFd) -> Result<Connection, Error> {
        let mut buffer = Box::new([0; MAX_FRAME]);
        let (reply, fds) = match exchange(&socket, 1, &mut buffer, &Hello::ours(), &[]) {
            Ok(done) => done,
            Err(Error::Refused { errno: libc::EPROTONOSUPPORT, .. }) => {
                return Err(version("another version or block layout, and refused this one"));
            }
            Err(Error::Frame(FrameError::Version { got })) => return Err(version(&format!("version {got}"))),
            Err(error) => return Err(error),
        };
        check_hello(&reply)?;
        let machine = Arc::new(Machine::new(&reply, &fds)?);
        Ok(Connection { socket, sequence: 1, buffer, machine })
    }

    /// Makes an independent connection to the same VM, for another thread.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EMFILE` when the plugin holds 256 already.
    pub fn new_connection(&mut self) -> Result<Connection, Error> {
        let (_, fds) = self.call(&NewConnection {}, &[])?;
        let socket = one(fds)?;
        Ok(Connection { socket, sequence: 0, buffer: Box::new([0; MAX_FRAME]), machine: Arc::clone(&self.machine) })
    }

    /// What all connections of the process share.
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Number of vCPUs; they are counted from 0.
    pub fn vcpu_count(&self) -> u32 {
        self.machine.vcpu_count()
    }

    /// Frequency of the TSC in kHz, the unit of the `tsc` fields of events.
    pub fn tsc_khz(&self) -> u64 {
        self.machine.tsc_khz
    }

    /// A new descriptor for the eventfd that the VMM signals when the plugin should exit. A plugin may signal it too, to
    /// wake a thread of its own. See [`EventFd`] for an example.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Closed`].
    pub fn shutdown_event(&mut self) -> Result<EventFd, Error> {
        let (_, fds) = self.call(&ShutdownEvent {}, &[])?;
        Ok(EventFd::from(one(fds)?))
    }

    /// What `KVM_CHECK_EXTENSION` says about a capability (`KVM_CAP_*`) of the VM: 0 for no, else its value. A number that
    /// KVM does not know gives 0.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let read_only_slots = vm.check_extension(81)? != 0; // KVM_CAP_READONLY_MEM
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_extension(&mut self, capability: u32) -> Result<i32, Error> {
        Ok(self.call(&CheckExtension { capability }, &[])?.0.value)
    }

    /// Lets the vCPUs run. Each of them delivers [`Event::Init`](crate::Event::Init) first and waits for it to be resumed.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` the second time.
    pub fn start(&mut self) -> Result<(), Error> {
        self.call(&Start {}, &[]).map(drop).map_err(|error| error.about(|| "start the VM".into()))
    }

    /// Sends any request of the wire protocol and waits for its reply; the typed methods are built on this.
    ///
    /// # Errors
    /// [`Error::Refused`] with the VMM's errno, [`Error::Closed`], or [`Error::Reply`] and [`Error::Frame`] if what came is
    /// not the reply to this request; the connection is of no use after those.
    ///
    /// ```no_run
    /// use outboard_wire::control::CheckExtension;
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let (reply, _fds) = vm.call(&CheckExtension { capability: 3 }, &[])?;
    /// println!("KVM_CAP_USER_MEMORY: {}", reply.value);
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<R: Request>(&mut self, request: &R, fds: &[BorrowedFd<'_>]) -> Result<(R::Reply, Vec<OwnedFd>), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        exchange(&self.socket, self.sequence, &mut self.buffer, request, fds)
    }
}

impl AsFd for Connection {
    /// The control socket: readable without a request in flight means that the VMM closed it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("socket", &self.socket).field("sequence", &self.sequence).finish()
    }
}

/// Sends a request and receives its reply.
fn exchange<R: Request>(
    socket: &OwnedFd,
    sequence: u32,
    buffer: &mut [u8; MAX_FRAME],
    request: &R,
    fds: &[BorrowedFd<'_>],
) -> Result<(R::Reply, Vec<OwnedFd>), Error> {
    let body = request.as_bytes();
    let header = Header::request(R::KIND as u16, sequence, body.len(), fds.len());
    let total = size_of::<Header>() + body.len();
    buffer[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    buffer[size_of::<Header>()..total].copy_from_slice(body);
    socket::send(socket.as_fd(), &buffer[..total], fds).map_err(lost("send a request"))?;
    let (length, fds) = socket::receive(socket.as_fd(), buffer).map_err(lost("receive a reply"))?;
    if length == 0 {
        return Err(Error::Closed);
    }
    let (header, body) = frame::parse(&buffer[..length], fds.len())?;
    if header.flags & FLAG_REPLY == 0 || header.kind != R::KIND as u16 {
        return Err(Error::Reply("it sent a frame that is no reply to the request"));
    }
    if header.sequence != sequence {
        return Err(FrameError::Sequence { expected: sequence, got: header.sequence }.into());
    }
    match header.status {
        0 => {}
        1.. => return Err(Error::Reply("it sent a reply with a positive status")),
        errno => return Err(Error::Refused { what: format!("serve {:?}", R::KIND), errno: errno.saturating_neg() }),
    }
    if fds.len() > R::REPLY_FDS {
        return Err(Error::Reply("it sent a reply with more descriptors than the request has"));
    }
    let reply = R::Reply::read_from_bytes(body).map_err(|_| Error::Reply("it sent a reply of the wrong length"))?;
    Ok((reply, fds))
}

/// A socket error: the other side is gone, or something is wrong here.
fn lost(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| match source.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET) => Error::Closed,
        _ => Error::Io { what, source },
    }
}

/// The only descriptor of a reply.
pub(crate) fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => Err(Error::Reply("it sent a reply without its descriptor")),
    }
}

fn check_hello(reply: &HelloReply) -> Result<(), Error> {
    if (reply.major, reply.layout) != (VERSION_MAJOR, block::LAYOUT) || !(VERSION_MINOR..).contains(&reply.minor) {
        return Err(version(&name(reply.major, reply.minor, reply.layout)));
    }
    Ok(())
}

fn version(theirs: &str) -> Error {
    Error::Version { ours: name(VERSION_MAJOR, VERSION_MINOR, block::LAYOUT), theirs: theirs.into() }
}

fn name(major: u16, minor: u16, layout: u32) -> String {
    format!("version {major}.{minor} with block layout {layout:#010x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(outboard: Option<&str>, crosvm: Option<&str>) -> Result<i32, i32> {
        let value = |name| if name == "OUTBOARD_SOCKET" { outboard } else { crosvm };
        socket_number(|name| value(name).map(String::from)).map_err(|error| error.errno())
    }

    #[test]
    fn the_socket_number_comes_from_either_variable() {
        assert_eq!(number(Some("5"), Some("6")), Ok(5));
        assert_eq!(number(None, Some("6")), Ok(6));
        assert_eq!(number(None, None), Err(libc::ENOTCONN));
        for wrong in ["", "-1", "x", "3 ", "99999999999"] {
            assert_eq!(number(None, Some(wrong)), Err(libc::EINVAL), "{wrong:?}");
        }
    }
}
