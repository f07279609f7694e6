//! ioctl(2) with a type for each request, so that calling one is safe.
//!
//! What makes an ioctl unsafe is that its number decides what the kernel reads and writes behind the
//! pointer. Here that promise is made once, where the number is written down: a request is a constant whose
//! type says how the argument travels and what it is, and only the function for that kind accepts it.
//!
//! | kind | argument |
//! |---|---|
//! | [`NoArg`] | none |
//! | [`Value`] | an integer |
//! | [`NewFd`] | an integer; the result is a new descriptor |
//! | [`Read`] | the kernel fills a `T` |
//! | [`Write`] | the kernel reads a `T` |
//! | [`ReadWrite`] | the kernel reads a `T` and writes it back |
//! | [`Table`] | a count, and as many entries behind it |
//! | [`Pointing`] | a `T` that holds addresses: the one kind that stays unsafe to call |

#![allow(unsafe_code)]

use std::arch::asm;
use std::ffi::{c_int, c_ulong};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, align_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{ptr, slice};

use super::errno::{Errno, check};

/// No argument structure: `_IOC_NONE` of asm-generic/ioctl.h.
const DIR_NONE: c_ulong = 0;
/// User space writes, the kernel reads: `_IOC_WRITE`.
const DIR_WRITE: c_ulong = 1;
/// User space reads, the kernel writes: `_IOC_READ`.
const DIR_READ: c_ulong = 2;

/// Entries that a table for an answer of unknown length has at first: more than KVM's lists need on
/// most hosts.
const FIRST_ENTRIES: usize = 256;

/// Entries beyond which no larger table is tried.
const MAX_ENTRIES: usize = 1 << 16;

/// A request number as asm-generic/ioctl.h composes it: number in bits 0-7, type in 8-15, size of the
/// argument in 16-29, direction in 30-31.
const fn request_number(direction: c_ulong, kind: u8, number: u8, size: usize) -> c_ulong {
    assert!(size < 1 << 14, "the size has 14 bits");
    direction << 30 | (size as c_ulong) << 16 | (kind as c_ulong) << 8 | number as c_ulong
}

/// `_IO(kind, number)`: no argument structure.
pub const fn io(kind: u8, number: u8) -> c_ulong {
    request_number(DIR_NONE, kind, number, 0)
}

/// `_IOR(kind, number, T)`.
pub const fn ior<T>(kind: u8, number: u8) -> c_ulong {
    request_number(DIR_READ, kind, number, size_of::<T>())
}

/// `_IOW(kind, number, T)`.
pub const fn iow<T>(kind: u8, number: u8) -> c_ulong {
    request_number(DIR_WRITE, kind, number, size_of::<T>())
}

/// `_IOWR(kind, number, T)`.
pub const fn iowr<T>(kind: u8, number: u8) -> c_ulong {
    request_number(DIR_READ | DIR_WRITE, kind, number, size_of::<T>())
}

/// A structure that the kernel may fill with any bytes.
///
/// # Safety
/// Every bit pattern, all zeros included, is a valid value, and dropping one does nothing.
pub unsafe trait KernelData: 'static {}

// SAFETY: integers have no invalid bit patterns.
unsafe impl KernelData for u32 {}
// SAFETY: as above.
unsafe impl KernelData for u64 {}

/// Defines the kinds of request, which differ in the type of their argument only.
macro_rules! request_kinds {
    ($($(#[$doc:meta])* $kind:ident $(<$($param:ident),*>)?;)*) => {$(
        $(#[$doc])*
        pub struct $kind $(<$($param),*>)? {
            number: c_ulong,
            name: &'static str,
            $(argument: PhantomData<fn($($param),*)>,)?
        }

        impl $(<$($param),*>)? Clone for $kind $(<$($param),*>)? {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl $(<$($param),*>)? Copy for $kind $(<$($param),*>)? {}

        impl $(<$($param),*>)? $kind $(<$($param),*>)? {
            /// A request of this kind, with the name that kernel headers and messages give it.
            ///
            /// # Safety
            /// On every descriptor that accepts this number, the kernel treats the argument as the kind
            /// says: it reads and writes no more than the type named here, follows no address in it, and
            /// opens a descriptor exactly if the kind is [`NewFd`]. What [`Pointing`] points to is left
            /// to the call.
            pub const unsafe fn new(number: c_ulong, name: &'static str) -> Self {
                Self { number, name, $(argument: PhantomData::<fn($($param),*)>)? }
            }

            /// The request number.
            pub const fn number(&self) -> c_ulong {
                self.number
            }

            /// The name of the request, such as `"KVM_RUN"`.
            pub const fn name(&self) -> &'static str {
                self.name
            }
        }
    )*};
}

request_kinds! {
    /// A request without an argument.
    NoArg;
    /// A request whose argument is an integer.
    Value;
    /// A request whose argument is an integer and whose result is a new descriptor.
    NewFd;
    /// A request that fills a `T`.
    Read<T>;
    /// A request that takes a `T`.
    Write<T>;
    /// A request that takes a `T` and changes it.
    ReadWrite<T>;
    /// A request for a header `H`, whose first field counts the entries of type `E` behind it.
    Table<H, E>;
    /// A request that takes a `T` with addresses in it.
    Pointing<T>;
}

/// ThreadSanitizer keeps the handler of a signal back until the thread calls something that it knows, and would so lose a kick
/// that comes just before `KVM_RUN`. Its hooks around futex(2) say that a thread is about to wait in the kernel: handlers
/// that are due run before, and others at once.
#[cfg(tsan)]
mod waiting {
    use std::ffi::{c_int, c_long, c_void};
    use std::ptr::null_mut;

    // `PRE_SYSCALL(futex)` and `POST_SYSCALL(futex)` of compiler-rt/lib/sanitizer_common/sanitizer_common_syscalls.inc.
    unsafe extern "C" {
        fn __sanitizer_syscall_pre_impl_futex(
            word: *mut c_void,
            op: c_long,
            value: c_long,
            time: *mut c_void,
            word2: *mut c_void,
            value3: c_long,
        );
        fn __sanitizer_syscall_post_impl_futex(
            result: c_long,
            word: *mut c_void,
            op: c_long,
            value: c_long,
            time: *mut c_void,
            word2: *mut c_void,
            value3: c_long,
        );
    }

    /// The thread is about to wait. Until [`end`] it runs nothing but handlers.
    pub fn begin() {
        // SAFETY: the hook looks at none of its arguments.
        unsafe { __sanitizer_syscall_pre_impl_futex(null_mut(), 0, 0, null_mut(), null_mut(), 0) }
    }

    /// It is back.
    pub fn end(result: c_int) {
        // SAFETY: as above.
        unsafe { __sanitizer_syscall_post_impl_futex(result.into(), null_mut(), 0, 0, null_mut(), null_mut(), 0) }
    }
}

/// Makes a request without an argument.
///
/// # Errors
/// Those of the request.
#[inline]
pub fn no_arg(fd: BorrowedFd<'_>, request: NoArg) -> Result<c_int, Errno> {
    let number = isize::try_from(fd.as_raw_fd()).unwrap_or(-1);
    #[cfg(tsan)]
    waiting::begin();
    let result: isize;
    // SAFETY: the request takes no argument, by the contract of its constant. The instruction changes RAX, RCX and R11
    // (syscall(2)), and whatever memory the kernel shares with the caller.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_ioctl as isize => result,
            in("rdi") number,
            in("rsi") request.number,
            in("rdx") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    #[cfg(tsan)]
    waiting::end(result as c_int);
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as c_int) }
}

/// Makes a request with an integer for its argument.
///
/// # Errors
/// Those of the request.
pub fn value(fd: BorrowedFd<'_>, request: Value, value: c_ulong) -> Result<c_int, Errno> {
    // SAFETY: the argument is no address, by the contract of the request's constant.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, value) })
}

/// Makes a request that opens a descriptor.
///
/// # Errors
/// Those of the request.
pub fn new_fd(fd: BorrowedFd<'_>, request: NewFd, value: c_ulong) -> Result<OwnedFd, Errno> {
    // SAFETY: the argument is no address, by the contract of the request's constant.
    let fd = check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, value) })?;
    // SAFETY: the result is a descriptor by the same contract, and nothing else owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a request that fills a structure.
///
/// # Errors
/// Those of the request.
pub fn read<T: KernelData>(fd: BorrowedFd<'_>, request: Read<T>) -> Result<T, Errno> {
    let mut data = MaybeUninit::<T>::zeroed();
    // SAFETY: the kernel writes at most a T, by the contract of the request's constant.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, data.as_mut_ptr()) })?;
    // SAFETY: T is valid for every bit pattern, and what the kernel left alone is zero.
    Ok(unsafe { data.assume_init() })
}

/// Makes a request that takes a structure.
///
/// # Errors
/// Those of the request.
pub fn write<T: KernelData>(fd: BorrowedFd<'_>, request: Write<T>, data: &T) -> Result<c_int, Errno> {
    // SAFETY: the kernel reads at most a T, by the contract of the request's constant.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, ptr::from_ref(data)) })
}

/// Makes a request that takes a structure and changes it.
///
/// # Errors
/// Those of the request.
pub fn update<T: KernelData>(fd: BorrowedFd<'_>, request: ReadWrite<T>, data: &mut T) -> Result<c_int, Errno> {
    // SAFETY: the kernel reads and writes at most a T, by the contract of the request's constant, and
    // whatever it writes is valid.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, ptr::from_mut(data)) })
}

/// Makes a request with a table, see [`TableBuf`].
///
/// # Errors
/// Those of the request; `E2BIG` usually means that the table is too small for the answer.
pub fn table<H, E: KernelData>(
    fd: BorrowedFd<'_>,
    request: Table<H, E>,
    table: &mut TableBuf<H, E>,
) -> Result<c_int, Errno> {
    table.clamp_count();
    // SAFETY: the table is a header followed by at least as many entries as its count now says, and the kernel keeps to
    // that count by the contract of the request's constant. Whatever it writes is valid.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, table.words.as_mut_ptr()) })
}

/// Reads a table of unknown length: tries larger ones while the kernel finds them too small.
///
/// # Errors
/// Those of the request; `E2BIG` only if the answer is larger than any that makes sense.
pub fn read_table<H, E: KernelData + Copy>(fd: BorrowedFd<'_>, request: Table<H, E>) -> Result<Vec<E>, Errno> {
    let mut entries = FIRST_ENTRIES;
    loop {
        let mut buffer = TableBuf::zeroed(entries);
        match table(fd, request, &mut buffer) {
            Ok(_) => return Ok(buffer.entries().to_vec()),
            Err(Errno::E2BIG) if entries < MAX_ENTRIES => entries *= 2,
            Err(errno) => return Err(errno),
        }
    }
}

/// Makes a request that takes a structure with addresses in it.
///
/// # Safety
/// Whatever the kernel does with memory at those addresses, now and until the request is undone, is
/// sound.
///
/// # Errors
/// Those of the request.
pub unsafe fn pointing<T: Copy>(fd: BorrowedFd<'_>, request: Pointing<T>, data: &T) -> Result<c_int, Errno> {
    // SAFETY: the kernel reads at most a T, by the contract of the request's constant. The caller vouches
    // for the addresses in it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.number, ptr::from_ref(data)) })
}

/// A kernel structure that ends in an array: a header of type `H` that begins with a 32-bit count, and the
/// entries behind it.
pub struct TableBuf<H, E> {
    /// Header and entries; words keep both aligned.
    words: Vec<u64>,
    /// How many entries fit.
    capacity: usize,
    kind: PhantomData<(H, E)>,
}

impl<H, E: KernelData> TableBuf<H, E> {
    const LAYOUT: () = {
        assert!(size_of::<H>() >= size_of::<u32>(), "the count is part of the header");
        assert!(align_of::<H>() <= align_of::<u64>() && align_of::<E>() <= align_of::<u64>());
        assert!(size_of::<H>().is_multiple_of(align_of::<E>()), "the entries begin where the header ends");
    };

    /// A table of `capacity` zeroed entries, whose count is `capacity` too.
    ///
    /// # Panics
    /// If the capacity does not fit the 32-bit count.
    pub fn zeroed(capacity: usize) -> Self {
        let () = Self::LAYOUT;
        let count = u32::try_from(capacity).expect("the count of a table has 32 bits");
        let bytes = size_of::<H>() + capacity * size_of::<E>();
        let mut table = Self { words: vec![0; bytes.div_ceil(size_of::<u64>())], capacity, kind: PhantomData };
        table.words[0] = count.into();
        table
    }

    /// A table with a copy of these entries.
    ///
    /// # Panics
    /// If their number does not fit the 32-bit count.
    pub fn from_entries(entries: &[E]) -> Self
    where
        E: Copy,
    {
        let mut table = Self::zeroed(entries.len());
        table.entries_mut().copy_from_slice(entries);
        table
    }

    /// Takes back a count beyond the entries there are, which a request that failed may have left.
    fn clamp_count(&mut self) {
        let count = self.count().min(self.capacity) as u64;
        self.words[0] = self.words[0] & !u64::from(u32::MAX) | count;
    }

    /// The count in the header. After `E2BIG`, some requests leave here how many there are.
    pub fn count(&self) -> usize {
        self.words[0] as u32 as usize
    }

    /// The entries, as many as the header counts and the table has room for.
    pub fn entries(&self) -> &[E] {
        let count = self.count().min(self.capacity);
        // SAFETY: the buffer holds the header and `capacity` entries, aligned for both (LAYOUT), all of its
        // bytes are initialised, and E is valid for every bit pattern.
        unsafe { slice::from_raw_parts(self.words.as_ptr().byte_add(size_of::<H>()).cast(), count) }
    }

    /// The entries, to change them; as many as [`entries`](Self::entries) gives.
    pub fn entries_mut(&mut self) -> &mut [E] {
        let count = self.count().min(self.capacity);
        // SAFETY: as in `entries`; the borrow of the table is exclusive.
        unsafe { slice::from_raw_parts_mut(self.words.as_mut_ptr().byte_add(size_of::<H>()).cast(), count) }
    }
}

impl<H, E: KernelData + fmt::Debug> fmt::Debug for TableBuf<H, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn numbers_are_composed_as_the_headers_do() {
        // RNDGETENTCNT, RNDADDTOENTCNT, RNDCLEARPOOL and RNDADDENTROPY of linux/random.h.
        assert_eq!(ior::<c_int>(b'R', 0), 0x8004_5200);
        assert_eq!(iow::<c_int>(b'R', 1), 0x4004_5201);
        assert_eq!(io(b'R', 6), 0x5206);
        assert_eq!(iowr::<[u32; 2]>(b'R', 3), 0xc008_5203);
    }

    #[test]
    fn a_request_reaches_the_kernel() {
        let random = std::fs::File::open("/dev/urandom").unwrap();
        // SAFETY: linux/random.h: the request writes one int.
        let entropy = unsafe { Read::<u32>::new(ior::<u32>(b'R', 0), "RNDGETENTCNT") };
        assert!(read(random.as_fd(), entropy).is_ok());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(entropy.name(), "RNDGETENTCNT");
        assert_eq!(read(null.as_fd(), entropy), Err(Errno::ENOTTY));
    }

    #[test]
    fn tables_keep_header_and_entries_apart() {
        let mut table = TableBuf::<u32, u32>::from_entries(&[7, 8, 9]);
        assert_eq!((table.count(), table.entries()), (3, &[7, 8, 9][..]));
        assert_eq!(table.words, [7 << 32 | 3, 9 << 32 | 8]);
        // A count from the kernel that exceeds the table is not believed.
        table.words[0] = 7 << 32 | 1000;
        assert_eq!((table.count(), table.entries().len()), (1000, 3));
        table.clamp_count();
        assert_eq!((table.count(), table.entries()), (3, &[7, 8, 9][..]));
        assert_eq!(TableBuf::<u64, u64>::zeroed(2).entries_mut(), [0, 0]);
        assert!(TableBuf::<u64, u64>::zeroed(0).entries().is_empty());
    }
}
