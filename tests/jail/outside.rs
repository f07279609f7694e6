//! What is outside stays there: processes, files, the network, descriptors.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use crate::around::{CAGED, ends_well, ends_well_unfiltered, open_folder, start, unfiltered};
use crate::common::suite::{Case, Tested, case};
use crate::sys::{refused, text};

pub const CASES: &[Case] = &[
    case!(reaches_no_process_outside).around(told_the_vmm).only(CAGED),
    case!(traces_no_process).around(told_the_vmm).only(CAGED),
    case!(opens_no_file_outside).around(told_a_secret_file).only(CAGED),
    case!(has_an_empty_root).around(ends_well_unfiltered).only(CAGED),
    case!(escapes_by_proc).around(told_a_secret_file).only(CAGED),
    case!(uses_the_network).around(told_three_addresses).only(CAGED),
    case!(makes_a_socket).around(ends_well).only(CAGED),
    case!(finds_inherited_descriptors).around(with_open_folders).only(CAGED),
    case!(sees_no_secret_variable).around(with_a_secret_variable).only(CAGED),
];

/// A line that the other half tells.
fn told() -> String {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

fn told_the_vmm(case: &Case) -> Tested {
    let folder = open_folder()?;
    let mut marked = start(&mut unfiltered(case, folder.path()));
    let vmm = marked.running.pid();
    marked.running.tell(&format!("{vmm} {}", std::process::id()));
    marked.ended().expect(0);
    Ok(())
}

fn pids() -> Vec<u64> {
    told().split(' ').map(|pid| pid.parse().expect("a number")).collect()
}

fn reaches_no_process_outside() -> Tested {
    assert_eq!(std::process::id(), 1);
    assert_eq!(std::os::unix::process::parent_id(), 0, "the VMM is nobody here");
    for pid in pids() {
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        for signal in [0, 9] {
            refused(libc::SYS_kill, [pid, signal, 0, 0, 0, 0], &[libc::ESRCH]);
        }
        refused(libc::SYS_tgkill, [pid, pid, 9, 0, 0, 0], &[libc::ESRCH]);
        refused(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0], &[libc::ESRCH]);
        refused(libc::SYS_kill, [pid.wrapping_neg(), 9, 0, 0, 0, 0], &[libc::ESRCH]);
        refused(libc::SYS_prlimit64, [pid, 0, 0, 0, 0, 0], &[libc::ESRCH]);
        refused(libc::SYS_sched_getaffinity, [pid, 0, 0, 0, 0, 0], &[libc::ESRCH, libc::EINVAL]);
        refused(libc::SYS_setpriority, [0, pid, 19, 0, 0, 0], &[libc::ESRCH]);
    }
    // Everybody but oneself and process 1 is nobody.
    refused(libc::SYS_kill, [u64::MAX, 9, 0, 0, 0, 0], &[libc::ESRCH]);
    let numbers = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    assert_eq!(numbers.collect::<Vec<_>>(), [1]);
    Ok(())
}

fn traces_no_process() -> Tested {
    let buffer = [0u8; 64];
    let local = [buffer.as_ptr() as u64, 64];
    let remote = [0x40_0000u64, 64];
    for pid in pids() {
        refused(libc::SYS_ptrace, [u64::from(libc::PTRACE_ATTACH), pid, 0, 0, 0, 0], &[libc::ESRCH]);
        refused(libc::SYS_ptrace, [u64::from(libc::PTRACE_SEIZE), pid, 0, 0, 0, 0], &[libc::ESRCH]);
        for number in [libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
            refused(number, [pid, local.as_ptr() as u64, 1, remote.as_ptr() as u64, 1, 0], &[libc::ESRCH]);
        }
        refused(libc::SYS_kcmp, [1, pid, 0, 0, 0, 0], &[libc::ESRCH, libc::ENOSYS]);
    }
    Ok(())
}

/// A file that everybody may read, and where it lies.
fn told_a_secret_file(case: &Case) -> Tested {
    let folder = open_folder()?;
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret")?;
    let mut marked = start(&mut unfiltered(case, folder.path()));
    marked.running.tell(&secret.display().to_string());
    marked.ended().expect(0);
    Ok(())
}

#[track_caller]
fn is_not_there(path: &str) {
    match File::open(path) {
        Ok(_) => panic!("{path} is there"),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied), "{path}: {error}")
        }
    }
}

fn opens_no_file_outside() -> Tested {
    let secret = told();
    let up = "/..".repeat(20);
    for path in
        [&*secret, "/etc/passwd", "/etc/shadow", "/root", "/home", "/sys", "/run", "/dev/kvm", "/dev/mem", "/boot"]
    {
        is_not_there(path);
        is_not_there(&format!("{up}{path}"));
        is_not_there(&format!("/tmp{up}{path}"));
    }
    // A root of one's own is no way out either: that takes a right.
    refused(libc::SYS_chroot, [text("/tmp"), 0, 0, 0, 0, 0], &[libc::EPERM]);
    fs::create_dir("/tmp/x")?;
    refused(libc::SYS_pivot_root, [text("/tmp/x"), text("/tmp/x"), 0, 0, 0, 0], &[libc::EPERM]);
    let handle = [16u64, 0, 0, 0];
    refused(
        libc::SYS_open_by_handle_at,
        [libc::AT_FDCWD as u64, handle.as_ptr() as u64, 0, 0, 0, 0],
        &[libc::EPERM, libc::EINVAL, libc::EBADF],
    );
    // What links say is looked up in the plugin's own root.
    std::os::unix::fs::symlink(&secret, "/tmp/link")?;
    is_not_there("/tmp/link");
    Ok(())
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

fn has_an_empty_root() -> Tested {
    assert_eq!(names_in("/dev"), ["full", "null", "urandom", "zero"].map(str::to_owned).into());
    assert_eq!(names_in("/proc"), ["1", "self", "thread-self"].map(str::to_owned).into());
    // What leads to the program and its libraries, and nothing beside it.
    let program = std::env::current_exe()?;
    let below_tmp = program.strip_prefix("/tmp").ok().and_then(|rest| rest.iter().next());
    let expected: BTreeSet<String> = below_tmp.map(|name| name.to_string_lossy().into_owned()).into_iter().collect();
    assert_eq!(names_in("/tmp"), expected);
    for folder in program.ancestors().skip(1).filter(|folder| folder.parent().is_some()) {
        let names = names_in(folder.to_str().expect("a plain name"));
        assert_eq!(names.len(), 1, "{} holds {names:?}", folder.display());
    }
    Ok(())
}

fn escapes_by_proc() -> Tested {
    let secret = told();
    for root in ["/proc/1/root", "/proc/self/root", "/proc/thread-self/root", "/proc/1/cwd", "/proc/self/cwd"] {
        for up in ["", "/..", "/../../../.."] {
            is_not_there(&format!("{root}{up}{secret}"));
            is_not_there(&format!("{root}{up}/etc/passwd"));
        }
    }
    for path in ["/proc/sys", "/proc/kcore", "/proc/kallsyms", "/proc/sysrq-trigger", "/proc/mounts", "/proc/config.gz"]
    {
        assert!(fs::read(path).is_err() || path == "/proc/mounts", "{path} can be read");
    }
    // Mounts of the host are not to be learned either.
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    assert!(!mounts.contains(" /sys ") && !mounts.contains(" /run "), "{mounts}");
    for path in [
        "/proc/self/exe",
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
        "/proc/1/attr/current",
    ] {
        let Err(error) = File::options().write(true).open(path) else { panic!("{path} can be written") };
        let errno = error.raw_os_error().expect("a system call");
        assert!(
            [libc::EROFS, libc::EACCES, libc::EPERM, libc::ETXTBSY, libc::ENOENT].contains(&errno),
            "{path}: {error}"
        );
    }
    Ok(())
}

/// Listens on all that a process of the host could reach.
fn told_three_addresses(case: &Case) -> Tested {
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let name = format!("outboard-test-{}-{}", std::process::id(), case.cage.name());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let folder = open_folder()?;
    let mut marked = start(&mut unfiltered(case, folder.path()));
    marked.running.tell(&format!("{} {} {name}", tcp.local_addr()?, udp.local_addr()?));
    marked.ended().expect(0);
    Ok(())
}

fn uses_the_network() -> Tested {
    let line = told();
    let [tcp, udp, name] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words");
    assert!(TcpStream::connect(tcp).is_err(), "{tcp} is reached");
    assert!(TcpListener::bind("127.0.0.1:0").is_err(), "even that takes a network");
    if let Ok(socket) = UdpSocket::bind("0.0.0.0:0") {
        assert!(socket.send_to(b"x", udp).is_err(), "{udp} is reached");
    }
    let unix = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?);
    assert!(unix.is_err(), "the abstract socket {name} is reached");
    // Raw and netlink sockets: the one takes a right, the other shows an empty network.
    for (family, kind) in
        [(libc::AF_INET, libc::SOCK_RAW), (libc::AF_PACKET, libc::SOCK_RAW), (libc::AF_VSOCK, libc::SOCK_STREAM)]
    {
        let made = crate::sys::call(libc::SYS_socket, [family as u64, kind as u64, 1, 0, 0, 0]);
        assert!(made.is_err() || family == libc::AF_VSOCK, "family {family}: {made:?}");
    }
    Ok(())
}

/// The built-in policy refuses sockets, which a program may take for an error like any other.
fn makes_a_socket() -> Tested {
    refused(libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0], &[libc::EACCES]);
    refused(libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0], &[libc::EACCES]);
    let (mut one, _other) = UnixStream::pair()?;
    one.write_all(b"x")?;
    Ok(())
}

/// Starts the program with folders and files open that it knows nothing of.
fn with_open_folders(case: &Case) -> Tested {
    let folder = open_folder()?;
    let mut program = unfiltered(case, folder.path());
    program.through_a_shell("exec 7</ 8</etc/passwd 9>/dev/null");
    start(&mut program).ended().expect(0);
    Ok(())
}

fn finds_inherited_descriptors() -> Tested {
    let mut open = names_in("/proc/self/fd");
    // The folder itself was open while it was read.
    let last = open.pop_last();
    assert!(last.is_some_and(|last| last.parse::<i32>().is_ok_and(|last| last > 3)));
    assert_eq!(open, ["0", "1", "2", "3"].map(str::to_owned).into());
    for fd in [7u64, 8, 9] {
        refused(libc::SYS_fcntl, [fd, libc::F_GETFD as u64, 0, 0, 0, 0], &[libc::EBADF]);
        refused(libc::SYS_openat, [fd, text("etc/passwd"), 0, 0, 0, 0], &[libc::EBADF]);
    }
    Ok(())
}

fn with_a_secret_variable(case: &Case) -> Tested {
    let mut program = case.program();
    program.command().env("SECRET", "told to nobody").env("LD_LIBRARY_PATH", "/nowhere").env("LANG", "C");
    program.args(["--plugin-env", "GIVEN=to the plugin"]);
    start(&mut program).ended().expect(0);
    Ok(())
}

fn sees_no_secret_variable() -> Tested {
    assert_eq!(std::env::var("GIVEN").as_deref(), Ok("to the plugin"));
    assert_eq!(std::env::var("LANG").as_deref(), Ok("C"));
    for name in ["SECRET", "LD_LIBRARY_PATH", "PATH", "HOME"] {
        assert!(std::env::var_os(name).is_none(), "{name} is known");
    }
    Ok(())
}
