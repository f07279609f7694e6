//! The plugin of the target `machine`: it does what the bytes in its file say.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use outboard_fuzz::wild::{Death, live};

/// Longer than a plugin may take to end once it is told to, and no longer than a run may last: a VM whose plugin is silent goes on
/// for good, which nobody promises otherwise.
const OUTSTAYED: Duration = Duration::from_millis(1500);

fn main() {
    let socket: RawFd = std::env::var("OUTBOARD_SOCKET").ok().and_then(|number| number.parse().ok()).expect("a plugin");
    // SAFETY: the VMM made this descriptor for this process, and nobody else here uses it.
    let control = unsafe { outboard_wire::socket::adopt(socket) }.expect("a control socket");
    // SAFETY: likewise; files come behind the socket.
    let file = unsafe { OwnedFd::from_raw_fd(socket + 1) };
    match live(control, File::from(file)) {
        Death::Exit(status) => std::process::exit(status.into()),
        Death::Abort => std::process::abort(),
        Death::Stay => {
            std::thread::sleep(OUTSTAYED);
            std::process::exit(0)
        }
    }
}
