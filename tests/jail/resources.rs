//! Bounds: processes, threads, the memory of the root; and nobody stays when it is over.

use std::fs::{self, File};
use std::io::{BufRead, ErrorKind, Write};

use crate::around::{CAGED, ends_well, ends_well_unfiltered, open_folder, start, unfiltered};
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::suite::{Case, Tested, case};
use crate::mark;
use crate::sys;

pub const CASES: &[Case] = &[
    case!(forks_without_end).around(ends_well_unfiltered).only(CAGED),
    case!(starts_threads_without_end).around(ends_well).only(CAGED),
    case!(fills_the_root).around(ends_well).only(CAGED),
    case!(makes_files_without_end).around(ends_well).only(CAGED),
    case!(dumps_no_core).around(ends_well).only(CAGED),
    case!(leaves_daemons_and_ends).around(daemons_end_with_the_plugin).only(CAGED),
    case!(leaves_daemons_and_stays).around(daemons_end_with_the_vmm).only(CAGED),
    case!(has_a_host_name_of_no_host).around(ends_well).only(CAGED),
];

/// Processes and threads that a plugin with one vCPU may have.
const MOST: usize = 260;

real_mode!(idles: "2: hlt", "jmp 2b");

fn forks_without_end() -> Tested {
    let mut children = 0;
    let refused = loop {
        match sys::fork(|| {
            loop {
                std::thread::park()
            }
        }) {
            Ok(_) => children += 1,
            Err(error) => break error,
        }
        assert!(children <= MOST, "there is no bound");
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
    // The VM is none the worse for it.
    let (mut vm, _memory) = connect(idles())?;
    vm.start()?;
    begin(&vm, 0).map(drop).map_err(Into::into)
}

fn starts_threads_without_end() -> Tested {
    let mut threads = 0;
    let refused = loop {
        let thread = std::thread::Builder::new().stack_size(1 << 14).spawn(|| {
            loop {
                std::thread::park()
            }
        });
        match thread {
            Ok(_) => threads += 1,
            Err(error) => break error,
        }
        assert!(threads <= MOST, "there is no bound");
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
    assert!(threads > MOST / 2, "only {threads} threads");
    Ok(())
}

fn fills_the_root() -> Tested {
    let block = vec![0xa5u8; 1 << 20];
    let mut file = File::create("/tmp/big")?;
    let mut written = 0usize;
    let refused = loop {
        match file.write(&block) {
            Ok(size) => written += size,
            Err(error) => break error,
        }
        assert!(written <= 64 << 20, "there is no bound");
    };
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert!(written > 60 << 20, "only {written} bytes");
    drop(file);
    fs::remove_file("/tmp/big")?;
    fs::write("/tmp/small", b"there is room again")?;
    Ok(())
}

fn makes_files_without_end() -> Tested {
    for number in 0..20_000 {
        match File::create(format!("/tmp/{number}")) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                assert!(number > 16_000, "only {number} files");
                return Ok(());
            }
        }
    }
    panic!("there is no bound")
}

fn dumps_no_core() -> Tested {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().expect("soft"), words.next().expect("hard"))
    };
    assert_eq!(of("Max core file size"), ("0".to_owned(), "0".to_owned()));
    assert_eq!(of("Max processes"), (MOST.to_string(), MOST.to_string()));
    Ok(())
}

fn has_a_host_name_of_no_host() -> Tested {
    let mut name = [0u8; 6 * 65];
    sys::call(libc::SYS_uname, [name.as_mut_ptr() as u64, 0, 0, 0, 0, 0])?;
    assert!(name[65..].starts_with(b"plugin\0"));
    Ok(())
}

/// Processes that do all that they can to be forgotten.
fn leave_daemons() {
    for _ in 0..5 {
        let child = sys::fork(|| {
            sys::become_a_daemon();
            let _ = sys::fork(|| {
                sys::become_a_daemon();
                loop {
                    std::thread::park();
                }
            });
        });
        // It ends when its own child is there.
        sys::wait(child.expect("a child"));
    }
}

fn leaves_daemons_and_ends() -> Tested {
    leave_daemons();
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn daemons_end_with_the_plugin(case: &Case) -> Tested {
    let folder = open_folder()?;
    let mut marked = start(&mut unfiltered(case, folder.path()));
    marked.running.says("ready");
    assert!(mark::carriers(&marked.mark).len() >= 7, "VMM, plugin and daemons");
    marked.running.tell("end");
    marked.ended().expect(0);
    Ok(())
}

fn leaves_daemons_and_stays() -> Tested {
    leave_daemons();
    // No filter, not even one that allows everything, lets it take back that it dies with the VMM.
    sys::refused(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0], &[libc::EPERM]);
    sys::become_a_daemon();
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn daemons_end_with_the_vmm(case: &Case) -> Tested {
    let folder = open_folder()?;
    let mut marked = start(&mut unfiltered(case, folder.path()));
    marked.running.says("ready");
    assert!(mark::carriers(&marked.mark).len() >= 7, "VMM, plugin and daemons");
    marked.running.signal("KILL");
    // The end of all output is that of the last process that holds it.
    let mark = marked.mark.clone();
    let done = marked.running.ended();
    assert_eq!(done.status.code(), None);
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    Ok(())
}
