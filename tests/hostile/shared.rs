//! What plugins try with the shared memory: each side keeps what is its own.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use memmap2::MmapOptions;
use outboard_wire::block::STRIDE;
use outboard_wire::control::CheckExtension;

use crate::around::ends;
use crate::common::suite::{Case, Tested};
use crate::raw::Raw;
use crate::sys;

pub const CASES: &[Case] = &[
    ends!(to_plugin_cannot_be_mapped_for_writing, 0),
    ends!(to_plugin_cannot_be_written, 0),
    ends!(neither_memfd_changes_its_size, 0),
    ends!(the_seals_stay_as_they_are, 0),
    ends!(pages_taken_from_to_vmm_do_no_harm, 0),
    ends!(nothing_of_the_vmm_is_inherited, 0),
];

/// Both memfds, and a connection to see that the VMM still lives.
fn memfds() -> (Raw, OwnedFd, OwnedFd) {
    let (raw, hello, fds) = Raw::greeted();
    assert_eq!(hello.vcpus, 1);
    let [to_plugin, to_vmm] = <[OwnedFd; 2]>::try_from(fds).expect("two memfds");
    (raw, to_plugin, to_vmm)
}

/// The same file, opened once more with all rights.
fn reopened(fd: &OwnedFd) -> File {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    File::options().read(true).write(true).open(path).expect("a memfd can be opened again")
}

#[track_caller]
fn refused<T>(done: std::io::Result<T>) {
    let errno = done.err().and_then(|error| error.raw_os_error());
    assert!(matches!(errno, Some(libc::EPERM | libc::EACCES)), "{errno:?}");
}

fn to_plugin_cannot_be_mapped_for_writing() -> Tested {
    let (_raw, to_plugin, to_vmm) = memfds();
    let again = reopened(&to_plugin);
    refused(MmapOptions::new().len(STRIDE).map_raw(&to_plugin));
    refused(MmapOptions::new().len(STRIDE).map_raw(&again));
    for fd in [to_plugin.as_fd(), again.as_fd()] {
        let map = MmapOptions::new().len(STRIDE).map_raw_read_only(&fd)?;
        refused(sys::make_writable(map.as_mut_ptr(), STRIDE));
    }
    // The same calls work where they may: it is the seal that refuses.
    let map = MmapOptions::new().len(STRIDE).map_raw_read_only(&to_vmm)?;
    sys::make_writable(map.as_mut_ptr(), STRIDE)?;
    Ok(())
}

fn to_plugin_cannot_be_written() -> Tested {
    let (_raw, to_plugin, _) = memfds();
    refused(reopened(&to_plugin).write(&[1]));
    refused(File::from(to_plugin.try_clone()?).write(&[1]));
    refused(sys::punch_hole(to_plugin.as_fd(), STRIDE as i64));
    Ok(())
}

fn neither_memfd_changes_its_size() -> Tested {
    let (_raw, to_plugin, to_vmm) = memfds();
    for fd in [to_plugin, to_vmm] {
        let file = reopened(&fd);
        assert_eq!(file.metadata()?.len(), STRIDE as u64);
        for size in [0, 1, STRIDE as u64 - 1, STRIDE as u64 + 1, 1 << 40] {
            refused(file.set_len(size));
        }
        assert_eq!(file.metadata()?.len(), STRIDE as u64);
    }
    Ok(())
}

fn the_seals_stay_as_they_are() -> Tested {
    let (_raw, to_plugin, to_vmm) = memfds();
    // A seal against writing would keep the other side from mapping, had it not done so.
    for fd in [to_plugin, to_vmm] {
        for seal in [libc::F_SEAL_WRITE, libc::F_SEAL_FUTURE_WRITE, libc::F_SEAL_GROW] {
            refused(sys::add_seals(fd.as_fd(), seal));
        }
    }
    Ok(())
}

/// The VMM reads zeros then.
fn pages_taken_from_to_vmm_do_no_harm() -> Tested {
    let (mut raw, _, to_vmm) = memfds();
    sys::punch_hole(to_vmm.as_fd(), STRIDE as i64)?;
    raw.must(&CheckExtension { capability: 0 }, &[]);
    Ok(())
}

/// Standard input, output and error, and the control socket: the KVM descriptors in particular stay with the VMM.
fn nothing_of_the_vmm_is_inherited() -> Tested {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        open.push((
            entry.file_name().into_string().expect("a number").parse::<i32>()?,
            std::fs::read_link(entry.path())?,
        ));
    }
    open.sort();
    // The last one is the folder that is being read.
    let beyond: Vec<_> =
        open.into_iter().filter(|(fd, _)| *fd > 2).map(|(_, path)| path.display().to_string()).collect();
    assert!(beyond.len() == 2 && beyond[0].starts_with("socket:") && beyond[1].ends_with("/fd"), "{beyond:?}");
    Ok(())
}
