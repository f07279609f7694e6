//! Sleeping on a word in shared memory, and waking who sleeps there.
//!
//! The words lie in pages that two processes map, so the calls are the shared ones (no `FUTEX_PRIVATE_FLAG`). Waiting and
//! waking only read the word: both work on a read-only mapping of a memfd (futex(2); the kernel takes the page's identity
//! from the file).

#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::AtomicU32;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most words that [`wait_any`] takes at a time (`FUTEX_WAITV_MAX`, linux/futex.h).
pub const MAX_WAIT_ANY: usize = 128;

/// Sleeps until somebody wakes the word, provided it still holds `expected`.
///
/// Returns at once if the word differs, and early when a signal arrives: the caller looks at its condition again.
pub fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call, is 4-byte aligned and only read by the kernel; a null timeout means none.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, ptr::null::<libc::timespec>());
    }
}

/// Wakes one thread that sleeps on the word.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word outlives the call and is 4-byte aligned; the kernel uses no more than its address.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// `struct futex_waitv` (linux/futex.h).
#[repr(C)]
struct WaitV {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// `FUTEX2_SIZE_U32`: the word has four bytes; without `FUTEX2_PRIVATE` it is shared.
const FUTEX2_SIZE_U32: u32 = 2;

/// Sleeps until one of the words is woken, provided each still holds the value beside it.
///
/// # Errors
/// `ENOSYS` on kernels before 5.16, which have no `futex_waitv`; `EINVAL` for more than [`MAX_WAIT_ANY`] words.
/// A word that differs, a wake and a signal all return `Ok`: the caller looks at its conditions again.
pub fn wait_any(words: &[(&AtomicU32, u32)]) -> Result<(), i32> {
    if words.is_empty() || words.len() > MAX_WAIT_ANY {
        return Err(libc::EINVAL);
    }
    let mut waiters = [const { WaitV { value: 0, address: 0, flags: FUTEX2_SIZE_U32, reserved: 0 } }; MAX_WAIT_ANY];
    for (waiter, (word, expected)) in waiters.iter_mut().zip(words) {
        waiter.value = u64::from(*expected);
        waiter.address = word.as_ptr() as u64;
    }
    // SAFETY: `waiters` holds `words.len()` filled entries whose words outlive the call; no timeout.
    let done = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            words.len() as libc::c_uint,
            0,
            ptr::null::<libc::timespec>(),
            libc::CLOCK_MONOTONIC,
        )
    };
    match done {
        0.. => Ok(()),
        _ => match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::EAGAIN | libc::EINTR => Ok(()),
            errno => Err(errno),
        },
    }
}

/// Adds one to an eventfd. A full counter is left alone: whoever polls it sees it readable either way.
pub fn signal_eventfd(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: the buffer holds the 8 bytes that eventfd(2) asks for.
    unsafe {
        libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn a_changed_word_does_not_put_to_sleep() {
        let word = AtomicU32::new(2);
        wait(&word, 1);
        // Miri has no futex_waitv.
        assert!(cfg!(miri) || wait_any(&[(&word, 1)]) == Ok(()));
    }

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 0 {
                    wait(&word, 0);
                }
            });
            word.store(1, Ordering::Release);
            wake(&word);
        });
    }

    #[test]
    fn too_many_words_are_refused() {
        let word = AtomicU32::new(0);
        assert_eq!(wait_any(&vec![(&word, 0); MAX_WAIT_ANY + 1]), Err(libc::EINVAL));
        assert_eq!(wait_any(&[]), Err(libc::EINVAL));
    }
}
