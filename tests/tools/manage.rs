//! The management socket: what a pause is to guest and plugin, how a VM is stopped, and clients that mean harm.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use outboard_plugin::{Event, Space};

use super::stat::{fresh, tool};
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::Running;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(paused).around(a_paused_guest_stands_still),
    case!(stopped).around(a_stop_ends_the_vm_in_order),
    case!(killed).around(a_killed_vm_leaves_no_socket_that_hinders),
    case!(harmed).around(clients_that_mean_harm_hurt_nobody),
];

real_mode!(counts_up:
    "2: out 0x10, al",
    "jmp 2b",
);

/// Counts writes for ever; a line on standard input asks for the count.
fn serve() -> Tested {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (mut vm, _memory) = connect(counts_up())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    std::thread::spawn(move || {
        let mut vm = vm;
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == "reserve") {
                vm.reserve(Space::Port, 0x80..0x81).expect("requests are served in a pause");
            }
            println!("count {}", COUNT.load(Ordering::Relaxed));
        }
    });
    println!("ready");
    loop {
        match vcpu.wait()? {
            Event::Write(_) => COUNT.fetch_add(1, Ordering::Relaxed),
            Event::Shutdown => {
                println!("shut down");
                return Ok(());
            }
            other => panic!("{other:?}"),
        };
    }
}

fn paused() -> Tested {
    serve()
}

fn stopped() -> Tested {
    serve()
}

fn killed() -> Tested {
    serve()
}

fn harmed() -> Tested {
    serve()
}

fn count(vm: &mut Running, line: &str) -> u64 {
    vm.tell(line);
    vm.says("count ").trim().parse().expect("a number")
}

/// Waits until the guest has done something more.
fn moves(vm: &mut Running) {
    let before = count(vm, "");
    while count(vm, "") == before {}
}

fn a_paused_guest_stands_still(case: &Case) -> Tested {
    let name = fresh("paused");
    let mut vm = case.program().args(["--name", &name]).start();
    vm.says("ready");
    moves(&mut vm);
    let pid = vm.pid().to_string();
    tool(&["pause", &pid]).expect(0);
    let status = tool(&["status", &name]);
    assert!(status.stdout.contains("is paused"), "{}", status.stdout);
    // The thread is asleep on its way back to the guest, or on it: the kernel's word for the state is the witness.
    let mut still = count(&mut vm, "reserve");
    for _ in 0..1000 {
        let now = count(&mut vm, "");
        if now == still {
            break;
        }
        still = now;
    }
    for _ in 0..100 {
        assert_eq!(count(&mut vm, ""), still, "a paused guest goes on");
    }
    tool(&["pause", &pid]).expect(0);
    tool(&["resume", &pid]).expect(0);
    moves(&mut vm);
    tool(&["pause", &pid]).expect(0);
    tool(&["stop", &pid]).expect(0);
    let done = vm.ended();
    done.expect(0);
    assert!(done.stdout.contains("shut down"), "{}", done.stdout);
    Ok(())
}

fn a_stop_ends_the_vm_in_order(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let socket = folder.path().join("vm.sock");
    let path = socket.to_str().expect("plain names");
    let mut vm = case.program().args(["--socket", path]).start();
    vm.says("ready");
    assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
    let second = case.program().args(["--socket", path]).start().ended();
    second.expect(35);
    assert!(second.stderr.contains("another program listens"), "{}", second.stderr);
    let status = tool(&["status", "--json", path]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&status.stdout)?["pid"], vm.pid());
    tool(&["stop", path]).expect(0);
    let done = vm.ended();
    done.expect(0);
    assert!(done.stdout.contains("shut down"), "{}", done.stdout);
    assert!(!socket.exists(), "a VM that ends takes its socket along");
    let gone = tool(&["stop", path]);
    gone.expect(1);
    assert!(gone.stderr.contains(path), "{}", gone.stderr);
    let mut again = case.program().args(["--socket", path]).start();
    again.says("ready");
    tool(&["stop", path]).expect(0);
    again.ended().expect(0);
    Ok(())
}

fn a_killed_vm_leaves_no_socket_that_hinders(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let socket = folder.path().join("vm.sock");
    let path = socket.to_str().expect("plain names");
    let start = || {
        let mut vm = case.program().args(["--socket", path]).start();
        vm.says("ready");
        vm
    };
    let vm = start();
    vm.signal("KILL");
    vm.ended();
    // Whoever removes it does so when it sees the end; a VM that comes first takes the dead socket over.
    let vm = start();
    let inode = std::fs::metadata(&socket)?.ino();
    tool(&["status", path]).expect(0);
    assert_eq!(std::fs::metadata(&socket)?.ino(), inode, "the socket of another VM stays");
    vm.signal("KILL");
    vm.ended();
    while socket.exists() {
        std::thread::yield_now();
    }
    // One that nobody removed, as after a crash of the host.
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777))?;
    let vm = start();
    tool(&["stop", path]).expect(0);
    vm.ended().expect(0);
    std::fs::write(&socket, "mine")?;
    let occupied = case.program().args(["--socket", path]).start().ended();
    occupied.expect(35);
    assert!(occupied.stderr.contains("is no socket"), "{}", occupied.stderr);
    assert_eq!(std::fs::read(&socket)?, b"mine");
    Ok(())
}

fn clients_that_mean_harm_hurt_nobody(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let socket = folder.path().join("vm.sock");
    let mut vm = case.program().args(["--socket".as_ref(), socket.as_os_str()]).start();
    vm.says("ready");
    let mut line = String::new();
    let mut polite = BufReader::new(UnixStream::connect(&socket)?);
    polite.get_mut().write_all(b"nonsense\nstatus\n")?;
    polite.read_line(&mut line)?;
    assert!(line.starts_with("error there are stop"), "{line}");
    line.clear();
    polite.read_line(&mut line)?;
    assert!(line.starts_with("ok {"), "{line}");
    // Without end, without reading, without a word, with bytes that are no text.
    let mut endless = UnixStream::connect(&socket)?;
    while endless.write_all(&[b'x'; 4096]).is_ok() {}
    let mut deaf = UnixStream::connect(&socket)?;
    deaf.set_write_timeout(Some(std::time::Duration::from_millis(200)))?;
    while deaf.write_all(b"status\n").is_ok() {}
    let mut strange = UnixStream::connect(&socket)?;
    strange.write_all(b"\xff\0\n")?;
    let mut said = [0; 5];
    strange.read_exact(&mut said)?;
    assert_eq!(&said, b"error");
    let silent: Vec<UnixStream> = (0..40).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    moves(&mut vm);
    line.clear();
    polite.get_mut().write_all(b"status\n")?;
    polite.read_line(&mut line)?;
    assert!(line.starts_with("ok {"), "{line}");
    drop(silent);
    tool(&["stop", socket.to_str().expect("plain names")]).expect(0);
    vm.ended().expect(0);
    Ok(())
}
