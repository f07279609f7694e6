//! The caller's memory.
//!
//! What C promises, and nobody here can check, is the same for every pointer of the header: it is null, or points at as
//! many values as the function's description says, which stay valid and unused by other threads for the length of the
//! call. Null is refused here with `EINVAL`, and so is an address without the alignment that C guarantees.

use core::mem::MaybeUninit;
use core::slice;

use crate::call::Errno;

/// A copy of what a pointer points at.
///
/// # Safety
/// The pointer is null or valid for reads of an initialized `T`; every byte pattern is a `T`.
#[inline]
pub unsafe fn read<T: Copy>(from: *const T) -> Result<T, Errno> {
    check(from)?;
    // SAFETY: not null and aligned, as checked; the caller vouches for the rest.
    Ok(unsafe { from.read() })
}

/// The place where a result goes. It is asked for before anything is done, so that nothing is done in vain.
///
/// # Safety
/// The pointer is null or valid for writes of a `T` during `'a`, and nobody else uses the place meanwhile.
#[inline]
pub unsafe fn place<'a, T>(to: *mut T) -> Result<&'a mut MaybeUninit<T>, Errno> {
    check(to)?;
    // SAFETY: not null and aligned, as checked; the caller vouches for the rest. `MaybeUninit` needs no initialized bytes.
    Ok(unsafe { &mut *to.cast::<MaybeUninit<T>>() })
}

/// A list to read. No pointer is needed for an empty one.
///
/// # Safety
/// The pointer is null or valid for reads of `count` initialized `T`s during `'a`, which nobody changes meanwhile; every
/// byte pattern is a `T`.
pub unsafe fn list<'a, T: Copy>(from: *const T, count: u32) -> Result<&'a [T], Errno> {
    if count == 0 {
        return Ok(&[]);
    }
    check(from)?;
    // SAFETY: not null and aligned, as checked; the caller vouches for the rest.
    Ok(unsafe { slice::from_raw_parts(from, count as usize) })
}

/// A list to read and write. No pointer is needed for an empty one.
///
/// # Safety
/// As [`list`], and valid for writes too; nobody else uses it during `'a`.
pub unsafe fn list_mut<'a, T: Copy>(list: *mut T, count: u32) -> Result<&'a mut [T], Errno> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(list)?;
    // SAFETY: not null and aligned, as checked; the caller vouches for the rest.
    Ok(unsafe { slice::from_raw_parts_mut(list, count as usize) })
}

/// Fills in a list of results and how many there are. If they are more than `room`, only the latter, and `E2BIG`.
///
/// # Safety
/// `to` is null or valid for writes of `room` values, `out_count` is null or valid for writes; nobody else uses either
/// meanwhile.
pub unsafe fn fill<T: Copy>(
    to: *mut T,
    room: u32,
    out_count: *mut u32,
    list: impl FnOnce() -> Result<Vec<T>, Errno>,
) -> Result<(), Errno> {
    // SAFETY: as the caller vouches.
    let out_count = unsafe { place(out_count)? };
    if room > 0 {
        check(to)?;
    }
    let list = list()?;
    out_count.write(u32::try_from(list.len()).unwrap_or(u32::MAX));
    if list.len() > room as usize {
        return Err(Errno(libc::E2BIG));
    }
    if !list.is_empty() {
        // SAFETY: not null and aligned, as checked, since there is room; the caller vouches for `room` values.
        unsafe { to.copy_from_nonoverlapping(list.as_ptr(), list.len()) };
    }
    Ok(())
}

#[inline]
fn check<T>(pointer: *const T) -> Result<(), Errno> {
    if pointer.is_null() || !pointer.is_aligned() { Err(Errno::INVALID) } else { Ok(()) }
}
