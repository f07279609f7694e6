//! The few system calls and the one mapping that need `unsafe`; everything above is safe code.

#![allow(unsafe_code)]

use core::arch::asm;
use core::ops::Deref;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use outboard_wire::socket;

/// Takes the inherited control socket over, once per process: `None` the second time.
pub fn adopt_socket(number: i32) -> io::Result<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: the VMM made this descriptor for this library and named it in the environment, so no other code of the
    // process has a claim to it; `TAKEN` keeps this function from taking it twice.
    let adopted = unsafe { socket::adopt(number) };
    if adopted.is_err() {
        TAKEN.store(false, Ordering::Relaxed);
    }
    adopted.map(Some)
}

/// Takes a descriptor over that this process was started with: `EBADF` if the number is not open, or belongs to somebody.
pub fn inherit(number: i32) -> io::Result<OwnedFd> {
    let mine = || io::Error::from_raw_os_error(libc::EBADF);
    if number <= libc::STDERR_FILENO {
        return Err(mine());
    }
    // SAFETY: F_GETFD takes no pointer.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(mine());
    }
    // SAFETY: F_SETFD takes no pointer.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that survived the exec and nobody has marked since belongs to whoever the parent meant; Rust's
    // own are all opened with the mark, and this function has just set it, so nobody takes this one a second time.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A new memfd that allows seals.
pub fn memfd() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds seals that are not there yet.
pub fn seal(fd: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    // SAFETY: F_GET_SEALS takes no pointer.
    let now = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    if now < 0 {
        return Err(io::Error::last_os_error());
    }
    if now & seals == seals {
        return Ok(());
    }
    // SAFETY: F_ADD_SEALS takes no pointer.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until the descriptor is readable; `timeout` in milliseconds, negative for none. False: it is not.
pub fn readable(fd: BorrowedFd<'_>, timeout: i32) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `entry` is the one entry that the count announces.
        match unsafe { libc::poll(&mut entry, 1, timeout) } {
            0.. => return Ok(entry.revents != 0),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// A whole memfd, mapped shared and writable, seen as atomic words.
#[derive(Debug)]
pub struct Words {
    map: MmapRaw,
}

impl Words {
    /// Maps the first `length` bytes, a multiple of 4096, of a memfd, after making sure that it can not shrink.
    pub fn map(fd: BorrowedFd<'_>, length: usize) -> io::Result<Words> {
        if length == 0 || !length.is_multiple_of(4096) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        seal(fd, libc::F_SEAL_SHRINK)?;
        // SAFETY: `libc::stat` is plain data for which zero bytes are valid.
        let mut stat: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: `stat` is a valid place for the result.
        if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if (stat.st_size as u64) < length as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Words { map: MmapOptions::new().len(length).map_raw(fd.as_raw_fd())? })
    }

    /// Replaces the words `index` and `index + 1` in one step if they have this value, the first one being the low half.
    /// Returns what they had; `None` on a processor that cannot do this.
    ///
    /// # Panics
    /// If the index is odd or behind the last pair.
    pub fn compare_exchange_16(&self, index: usize, current: u128, new: u128) -> Option<u128> {
        assert!(index.is_multiple_of(2) && index < self.len());
        if !is_x86_feature_detected!("cmpxchg16b") {
            return None;
        }
        let place = self.map.as_mut_ptr().cast::<u128>();
        // SAFETY: the place is within the mapping and aligned to 16 bytes, because the mapping is page-aligned and of whole
        // pages and the index is even and inside (asserted above); the processor has the instruction (asked above). Others
        // meet this memory by atomic accesses only.
        Some(unsafe { exchange_16(place.add(index / 2), current, new) })
    }

    /// The first byte.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// `LOCK CMPXCHG16B`: `core::arch` has it, but calls a library function for it where the instruction may not be counted on.
///
/// # Safety
/// The processor has the instruction; the place is valid for reads and writes, aligned to 16 bytes, and met by atomic accesses
/// only.
unsafe fn exchange_16(place: *mut u128, current: u128, new: u128) -> u128 {
    let (mut low, mut high) = (current as u64, (current >> 64) as u64);
    // SAFETY: the caller promises what the instruction needs. RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") place,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `map.len()` bytes long and lives as long as `self`; the file behind it was
        // at least that long when it was sealed against shrinking, so no access ends in SIGBUS. Any bytes are a valid
        // AtomicU64, and writes of the guest or another process meet atomic accesses only.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.map.len() / 8) }
    }
}
