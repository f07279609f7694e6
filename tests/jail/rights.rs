//! Rights: none, none to be had, and nothing that takes one works.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;

use crate::around::{CAGED, ends_well_unfiltered, open_folder, start, unfiltered};
use crate::common::cage::Cage;
use crate::common::suite::{Case, Tested, case};
use crate::sys::{call, refused, text};

pub const CASES: &[Case] = &[
    case!(has_no_capability).around(ends_well_unfiltered).only(CAGED),
    case!(regains_a_capability).around(ends_well_unfiltered).only(CAGED),
    case!(executes_a_set_user_id_program).around(with_a_set_user_id_program).only(&[Cage::Caged]),
    case!(makes_namespaces).around(ends_well_unfiltered).only(CAGED),
    case!(makes_a_device_node).around(ends_well_unfiltered).only(CAGED),
    case!(mounts_and_remounts).around(ends_well_unfiltered).only(CAGED),
    case!(changes_the_machine).around(ends_well_unfiltered).only(CAGED),
    case!(is_nobody_when_root_starts_it).around(ends_well_unfiltered).only(&[Cage::Caged]),
];

fn status(key: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").expect("a status");
    text.lines().find_map(|line| line.strip_prefix(key)).expect("the key").trim().to_owned()
}

fn no_rights() {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status(set), "0".repeat(16), "{set}");
    }
    assert_eq!(status("NoNewPrivs:"), "1");
    assert_eq!(status("Seccomp:"), "2");
}

fn has_no_capability() -> Tested {
    no_rights();
    let groups = status("Groups:");
    assert!(groups.split_whitespace().all(|group| group == "65534"), "groups {groups}");
    Ok(())
}

fn is_nobody_when_root_starts_it() -> Tested {
    assert_eq!(status("Uid:"), "65534\t65534\t65534\t65534");
    assert_eq!(status("Gid:"), "65534\t65534\t65534\t65534");
    assert_eq!(status("Groups:"), "");
    Ok(())
}

fn regains_a_capability() -> Tested {
    let header = [0x2008_0522u32, 0];
    let all = [u32::MAX; 6];
    let (header, all) = (header.as_ptr() as u64, all.as_ptr() as u64);
    refused(libc::SYS_capset, [header, all, 0, 0, 0, 0], &[libc::EPERM]);
    for id in [0u64, 1] {
        refused(libc::SYS_setuid, [id, 0, 0, 0, 0, 0], &[libc::EPERM, libc::EINVAL]);
        refused(libc::SYS_setgid, [id, 0, 0, 0, 0, 0], &[libc::EPERM, libc::EINVAL]);
    }
    let groups = [0u32];
    refused(libc::SYS_setgroups, [1, groups.as_ptr() as u64, 0, 0, 0, 0], &[libc::EPERM]);
    let prctl = |option: i32, a: u64, b: u64| call(libc::SYS_prctl, [option as u64, a, b, 0, 0, 0]);
    assert!(prctl(libc::PR_SET_SECUREBITS, 0, 0).is_err());
    assert!(prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, 12).is_err());
    assert!(prctl(libc::PR_SET_NO_NEW_PRIVS, 0, 0).is_err());
    no_rights();
    Ok(())
}

/// A copy of this executable that root owns, with the bit that makes it run as root.
fn with_a_set_user_id_program(case: &Case) -> Tested {
    let folder = open_folder()?;
    let program = folder.path().join("as-root");
    fs::copy(std::env::current_exe()?, &program)?;
    fs::set_permissions(&program, Permissions::from_mode(0o4755))?;
    let mut run = unfiltered(case, folder.path());
    run.args(["--plugin-mount", &format!("{}:/as-root", program.display())]);
    start(&mut run).ended().expect(0);
    Ok(())
}

fn executes_a_set_user_id_program() -> Tested {
    let half = std::env::args()
        .nth(2)
        .expect("the name of this half")
        .replace("executes_a_set_user_id_program", "has_no_capability");
    let status = std::process::Command::new("/as-root").args(["plugin", &half]).status()?;
    assert!(status.success(), "it has rights, or cannot be executed: {status}");
    Ok(())
}

fn makes_namespaces() -> Tested {
    let kinds = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for kind in kinds {
        // A user namespace is nobody's right to refuse but the limit's.
        let errnos = if kind == libc::CLONE_NEWUSER { [libc::ENOSPC] } else { [libc::EPERM] };
        refused(libc::SYS_unshare, [kind as u64, 0, 0, 0, 0, 0], &errnos);
        refused(libc::SYS_clone, [kind as u64 | libc::SIGCHLD as u64, 0, 0, 0, 0, 0], &errnos);
    }
    let own = File::open("/proc/self/ns/net")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&own) as u64;
    refused(libc::SYS_setns, [fd, 0, 0, 0, 0, 0], &[libc::EPERM]);
    Ok(())
}

fn makes_a_device_node() -> Tested {
    for (kind, device) in [
        (libc::S_IFCHR, libc::makedev(1, 1)),
        (libc::S_IFCHR, libc::makedev(10, 232)),
        (libc::S_IFBLK, libc::makedev(254, 0)),
    ] {
        refused(
            libc::SYS_mknod,
            [text("/tmp/node"), u64::from(kind) | 0o666, device, 0, 0, 0],
            &[libc::EPERM, libc::EACCES],
        );
    }
    assert!(!std::path::Path::new("/tmp/node").exists());
    Ok(())
}

fn mounts_and_remounts() -> Tested {
    let program = std::env::current_exe()?;
    let program = program.to_str().expect("a plain name");
    let none = 0u64;
    let remount = libc::MS_REMOUNT | libc::MS_BIND;
    for place in ["/", "/proc", "/dev/null", program] {
        for flags in [remount, libc::MS_REMOUNT, libc::MS_BIND, libc::MS_MOVE, libc::MS_SHARED] {
            refused(libc::SYS_mount, [text("/tmp"), text(place), none, flags, 0, 0], &[libc::EPERM]);
        }
        refused(libc::SYS_umount2, [text(place), libc::MNT_DETACH as u64, 0, 0, 0, 0], &[libc::EPERM]);
        refused(libc::SYS_open_tree, [libc::AT_FDCWD as u64, text(place), 1, 0, 0, 0], &[libc::EPERM]);
    }
    refused(libc::SYS_mount, [text("none"), text("/tmp"), text("tmpfs"), 0, 0, 0], &[libc::EPERM]);
    refused(libc::SYS_fsopen, [text("tmpfs"), 0, 0, 0, 0, 0], &[libc::EPERM]);
    refused(libc::SYS_chroot, [text("/tmp"), 0, 0, 0, 0, 0], &[libc::EPERM]);
    for path in [program, "/new", "/dev/new", "/proc/new", "/etc/new"] {
        let Err(error) = File::options().write(true).create(true).truncate(true).open(path) else {
            panic!("{path} is written")
        };
        let errno = error.raw_os_error().expect("a system call");
        assert!([libc::EROFS, libc::EACCES, libc::ETXTBSY, libc::ENOENT].contains(&errno), "{path}: {error}");
    }
    // What can be written cannot be executed.
    // The head of it will do, since the kernel looks at the place first; the whole may be larger than the place.
    let mut head = vec![0; 1 << 20];
    File::open(program)?.read_exact(&mut head)?;
    fs::write("/tmp/program", head)?;
    let _ = fs::set_permissions("/tmp/program", Permissions::from_mode(0o755));
    let executed = std::process::Command::new("/tmp/program").status();
    assert_eq!(executed.expect_err("it is executed").raw_os_error(), Some(libc::EACCES));
    Ok(())
}

fn changes_the_machine() -> Tested {
    refused(libc::SYS_reboot, [0xfee1_dead, 0x2812_1969, 0, 0, 0, 0], &[libc::EPERM, libc::EINVAL]);
    refused(libc::SYS_sethostname, [text("x"), 1, 0, 0, 0, 0], &[libc::EPERM]);
    refused(libc::SYS_clock_settime, [0, [0u64; 2].as_ptr() as u64, 0, 0, 0, 0], &[libc::EPERM, libc::EINVAL]);
    refused(libc::SYS_init_module, [0, 0, text(""), 0, 0, 0], &[libc::EPERM, libc::ENOSYS]);
    refused(libc::SYS_swapon, [text("/tmp"), 0, 0, 0, 0, 0], &[libc::EPERM, libc::ENOSYS]);
    refused(libc::SYS_bpf, [0, 0, 0, 0, 0, 0], &[libc::EPERM, libc::EINVAL, libc::ENOSYS]);
    refused(libc::SYS_iopl, [3, 0, 0, 0, 0, 0], &[libc::EPERM, libc::ENOSYS]);
    refused(libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0], &[libc::EPERM, libc::ENOSYS]);
    assert_eq!(fs::read_to_string("/proc/self/uid_map")?.split_whitespace().nth(2), Some("1"));
    Ok(())
}
