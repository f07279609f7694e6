//! Connections: how a plugin gets one, and what it asks about the VM as a whole.

use core::ffi::c_int;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_plugin::Connection;
use outboard_wire::socket;

use crate::call::{Errno, Fd, call};
use crate::handle::{Opaque, Table};
use crate::{place, pointer, stats};

/// The variable that names the control socket.
const VARIABLE: &str = "CROSVM_SOCKET";

static CONNECTIONS: Table<Mutex<Connection>> = Table::new(1);

/// `struct crosvm`. One thread at a time is the rule; a plugin that breaks it finds its threads queued up here.
pub type Crosvm = Opaque<Mutex<Connection>>;

/// Runs a request on the connection of a handle.
pub fn with<T>(
    crosvm: *const Crosvm,
    request: impl FnOnce(&mut Connection) -> Result<T, outboard_plugin::Error>,
) -> Result<T, Errno> {
    let connection = CONNECTIONS.get(crosvm)?;
    let mut connection: MutexGuard<'_, Connection> = connection.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(request(&mut connection)?)
}

/// Runs a request that is about no connection in particular on whichever there is.
pub fn with_any<T>(request: impl FnOnce(&mut Connection) -> Result<T, outboard_plugin::Error>) -> Result<T, Errno> {
    let connection = CONNECTIONS.any().ok_or(Errno(libc::ENOTCONN))?;
    let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(request(&mut connection)?)
}

/// `EINVAL` unless the handle is a connection's.
pub fn check(crosvm: *const Crosvm) -> Result<(), Errno> {
    CONNECTIONS.get(crosvm).map(drop)
}

/// Connects to the VMM over the socket that it named in the environment.
///
/// # Safety
/// `out` is null or valid for writes of a pointer. No other code of the process uses the descriptor that `CROSVM_SOCKET`
/// names, and no other thread changes the environment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_connect(out: *mut *mut Crosvm) -> c_int {
    stats::look();
    call!(crosvm_connect, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        let number = socket_number(std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned()))?;
        let connection = Connection::over(adopt(number)?)?;
        place::publish(&connection)?;
        out.write(CONNECTIONS.add(Mutex::new(connection)));
        Ok(())
    })
}

fn socket_number(value: Option<String>) -> Result<c_int, Errno> {
    match value.ok_or(Errno(libc::ENOTCONN))?.parse() {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(Errno::INVALID),
    }
}

/// Takes the inherited socket over, once per process.
fn adopt(number: c_int) -> Result<OwnedFd, Errno> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Errno(libc::EISCONN));
    }
    // SAFETY: the VMM made this descriptor for this library and named it in the environment; the caller of crosvm_connect
    // vouches that nobody else uses it, and `TAKEN` keeps this function from taking it twice.
    unsafe { socket::adopt(number) }.map_err(|error| {
        TAKEN.store(false, Ordering::Relaxed);
        Errno(error.raw_os_error().unwrap_or(libc::EINVAL))
    })
}

/// Makes an independent connection, for another thread.
///
/// # Safety
/// `out` is null or valid for writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_new_connection(crosvm: *mut Crosvm, out: *mut *mut Crosvm) -> c_int {
    call!(crosvm_new_connection, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        let connection = with(crosvm, Connection::new_connection)?;
        out.write(CONNECTIONS.add(Mutex::new(connection)));
        Ok(())
    })
}

/// Closes a connection; the VM goes on.
///
/// # Safety
/// `crosvm` is null or valid for reads and writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_destroy_connection(crosvm: *mut *mut Crosvm) -> c_int {
    let status = call!(crosvm_destroy_connection, {
        // SAFETY: as the caller vouches.
        unsafe {
            destroy(crosvm, |handle| {
                check(handle)?;
                CONNECTIONS.remove(handle);
                Ok(())
            })
        }
    });
    if status == 0 && CONNECTIONS.is_empty() {
        stats::print();
    }
    status
}

/// What all functions do that destroy something: the handle becomes NULL if `end` succeeds and stays as it is if not.
///
/// # Safety
/// `handle` is null or valid for reads and writes of a pointer.
pub unsafe fn destroy<T>(
    handle: *mut *mut Opaque<T>,
    end: impl FnOnce(*const Opaque<T>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    // SAFETY: as the caller vouches; any address is a handle to be looked up.
    let now = unsafe { pointer::read(handle)? };
    end(now)?;
    // SAFETY: as the caller vouches.
    unsafe { pointer::place(handle)? }.write(core::ptr::null_mut());
    Ok(())
}

/// A new descriptor of the eventfd that tells the plugin to exit.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_get_shutdown_eventfd(crosvm: *mut Crosvm) -> c_int {
    call!(crosvm_get_shutdown_eventfd, {
        let event = with(crosvm, Connection::shutdown_event)?;
        Ok(Fd(OwnedFd::from(event).into_raw_fd()))
    })
}

/// Whether KVM has an extension; a number that it does not know gives false.
///
/// # Safety
/// `has` is null or valid for writes of a `bool`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_check_extension(crosvm: *mut Crosvm, extension: u32, has: *mut bool) -> c_int {
    call!(crosvm_check_extension, {
        // SAFETY: as the caller vouches.
        let has = unsafe { pointer::place(has)? };
        has.write(with(crosvm, |connection| connection.check_extension(extension))? > 0);
        Ok(())
    })
}

/// There is no capability that a plugin could enable for the whole VM: always `-EINVAL`.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_enable_capability(
    _crosvm: *mut Crosvm,
    _capability: u32,
    _flags: u32,
    _args: *const u64,
) -> c_int {
    call!(crosvm_enable_capability, { Err::<(), Errno>(Errno::INVALID) })
}

/// Lets the vCPUs run.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_start(crosvm: *mut Crosvm) -> c_int {
    call!(crosvm_start, { with(crosvm, Connection::start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_contract_says() {
        let number = |value: Option<&str>| socket_number(value.map(String::from)).map_err(|errno| errno.0);
        assert_eq!(number(None), Err(libc::ENOTCONN));
        assert_eq!(number(Some("7")), Ok(7));
        for wrong in ["", "-1", "x", "3 ", "0x3", "99999999999"] {
            assert_eq!(number(Some(wrong)), Err(libc::EINVAL), "{wrong:?}");
        }
    }
}
