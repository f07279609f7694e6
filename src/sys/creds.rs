//! Who a thread is and what it may: user and group ids (`credentials(7)`), capabilities (`capabilities(7)`), and the
//! promise never to gain any (`PR_SET_NO_NEW_PRIVS`).
//!
//! All of it belongs to a *thread*. libc's wrappers of the id calls tell the other threads, which takes locks; those here
//! are the bare calls.

#![allow(unsafe_code)]

use std::ptr;

use super::errno::{Errno, check, check_long};

/// Ids of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The effective ids of the calling thread.
pub fn effective_ids() -> Ids {
    // SAFETY: no arguments, no failure.
    unsafe { Ids { uid: libc::geteuid(), gid: libc::getegid() } }
}

/// Sets real, effective and saved user id (`setresuid(2)`).
///
/// # Errors
/// `EINVAL` for an id without a mapping, `EPERM` without `CAP_SETUID`.
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets real, effective and saved group id (`setresgid(2)`).
///
/// # Errors
/// `EINVAL` for an id without a mapping, `EPERM` without `CAP_SETGID`.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// The supplementary groups of the calling thread (`getgroups(2)`).
///
/// # Errors
/// None that apply.
pub fn groups() -> Result<Vec<u32>, Errno> {
    // SAFETY: a count of 0 asks for the number of groups only.
    let count = check(unsafe { libc::getgroups(0, ptr::null_mut()) })?;
    let mut groups = vec![0u32; count as usize];
    // SAFETY: room for as many groups as are said.
    let count = check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(count as usize);
    Ok(groups)
}

/// Sets the supplementary groups of the calling thread alone (`setgroups(2)`).
///
/// # Errors
/// `EPERM` without `CAP_SETGID`, or where `/proc/PID/setgroups` says `deny`.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: a pointer to as many groups as are said.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// `CAP_SETGID` and `CAP_SETUID` (linux/capability.h).
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// The version of the capability calls with two words for each set (`_LINUX_CAPABILITY_VERSION_3`).
const VERSION_3: u32 = 0x2008_0522;

/// struct __user_cap_header_struct.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// struct __user_cap_data_struct.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether the thread may map any ids into a new user namespace: `CAP_SETUID` and `CAP_SETGID` are in force.
pub fn may_set_ids() -> bool {
    let mut data = [Data::default(); 2];
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: a header of this version, and the two words of sets that it stands for.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    let has = |capability: u32| data[0].effective & 1 << capability != 0;
    got == 0 && has(CAP_SETUID) && has(CAP_SETGID)
}

/// Empties the permitted, effective, inheritable and ambient sets of the thread.
///
/// # Errors
/// None are documented for giving up.
pub fn drop_capabilities() -> Result<(), Errno> {
    let data = [Data::default(); 2];
    let mut header = Header { version: VERSION_3, pid: 0 };
    // The ambient set follows the permitted one.
    // SAFETY: a header of this version, and the two words of sets that it stands for.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Takes every capability out of the bounding set, so that no program can get one by `execve`.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..u64::BITS {
        match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            Ok(()) => {}
            // The first number that the kernel has no capability for.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets the secure bits for good: user id 0 means nothing, capabilities do not survive a change of ids on request, and
/// there are no ambient ones.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn lock_secure_bits() -> Result<(), Errno> {
    // linux/securebits.h: NOROOT, NO_SETUID_FIXUP, KEEP_CAPS (locked clear) and NO_CAP_AMBIENT_RAISE, with their locks.
    const LOCKED: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
    prctl(libc::PR_SET_SECUREBITS, LOCKED)
}

/// Promises that neither this thread nor its children gain rights by `execve` (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// None on Linux 3.5 and later.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn prctl(option: i32, value: u64) -> Result<(), Errno> {
    // SAFETY: these options take numbers.
    check(unsafe { libc::prctl(option, value, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Credentials belong to a thread, so one of its own may change them.
    fn in_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(body).join().expect("it does not panic"))
    }

    fn status(key: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }

    #[test]
    fn rights_are_given_up_for_good() {
        in_a_thread(|| {
            set_no_new_privileges().unwrap();
            if may_set_ids() {
                drop_bounding_set().unwrap();
                lock_secure_bits().unwrap();
                assert_eq!(status("CapBnd:"), "0".repeat(16));
            }
            drop_capabilities().unwrap();
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(status(set), "0".repeat(16), "{set}");
            }
            assert_eq!(status("NoNewPrivs:"), "1");
            assert!(!may_set_ids());
            assert_eq!(drop_bounding_set(), Err(Errno::EPERM));
        });
    }

    #[test]
    fn groups_are_the_threads_own() {
        if !may_set_ids() {
            return;
        }
        let before = groups().unwrap();
        in_a_thread(|| {
            set_groups(&[7, 9]).unwrap();
            assert_eq!(groups().unwrap(), [7, 9]);
            set_gid(5).unwrap();
            set_uid(4).unwrap();
            assert_eq!(effective_ids(), Ids { uid: 4, gid: 5 });
            assert_eq!(set_uid(0), Err(Errno::EPERM));
        });
        assert_eq!(groups().unwrap(), before);
    }
}
