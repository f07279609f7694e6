//! How the VMM confines itself: each of its threads has filters, unless they are switched off, and a vCPU's thread few
//! descriptors.

use std::path::Path;

use crate::around::start;
use crate::common::machine::{begin, connect};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(waits_beside_a_guest).around(every_thread_of_the_vmm_is_filtered),
    case!(waits_with_descriptors).around(a_vcpu_thread_has_few_descriptors),
    case!(waits_without_filters).around(no_thread_of_the_vmm_is_filtered),
];

/// A guest that runs for ever, until a line comes.
fn waits_beside_a_guest() -> Tested {
    let (mut vm, _memory) = connect(&[0xeb, 0xfe])?;
    vm.start()?;
    let _vcpu = begin(&vm, 0)?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn waits_with_descriptors() -> Tested {
    waits_beside_a_guest()
}

fn waits_without_filters() -> Tested {
    waits_beside_a_guest()
}

/// Name, `Seccomp` and `Seccomp_filters` of the thread whose folder of /proc this is.
fn thread(folder: &Path) -> (String, String, String) {
    let status = std::fs::read_to_string(folder.join("status")).expect("the status of a thread");
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the key");
        line.trim().to_owned()
    };
    (value("Name:"), value("Seccomp:"), value("Seccomp_filters:"))
}

/// The same of the calling thread. Others of this process run other tests, and come and go.
fn this_thread() -> (String, String, String) {
    thread(Path::new("/proc/thread-self"))
}

/// The same of each thread of a process.
fn threads(pid: i32) -> Vec<(String, String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the threads");
    let mut threads: Vec<_> = tasks.map(|task| thread(&task.expect("an entry").path())).collect();
    // A worker of KVM's is a task of the process, too, and runs no code of it.
    threads.retain(|(name, ..)| !name.starts_with("kvm-"));
    threads.sort();
    threads
}

fn seen(case: &Case, options: &[&str]) -> Vec<(String, String, String)> {
    let mut program = case.program();
    program.args(options);
    let mut marked = start(&mut program);
    marked.running.says("ready");
    let threads = threads(marked.running.pid());
    marked.running.tell("end");
    marked.ended().expect(0);
    threads
}

fn every_thread_of_the_vmm_is_filtered(case: &Case) -> Tested {
    // 2 is SECCOMP_MODE_FILTER. This test may itself run under filters.
    let before: u32 = this_thread().2.parse()?;
    let filtered = |name: &str, own: u32| (name.to_owned(), "2".to_owned(), (before + own).to_string());
    // The thread of a vCPU begins with the main thread's.
    assert_eq!(seen(case, &[]), [filtered("outboard", 1), filtered("vcpu0", 2)]);
    Ok(())
}

fn a_vcpu_thread_has_few_descriptors(case: &Case) -> Tested {
    let mut marked = start(&mut case.program());
    marked.running.says("ready");
    let pid = marked.running.pid();
    let of_vcpu0 = |task: &Path| thread(task).0 == "vcpu0";
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?.map(|task| task.expect("an entry").path());
    let vcpu0 = tasks.into_iter().find(|task| of_vcpu0(task)).expect("the thread of the vCPU");
    let targets = |folder: &Path| {
        let all = std::fs::read_dir(folder.join("fd")).expect("the descriptors");
        let link = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.expect("an entry").path());
        let mut all: Vec<_> = all.map(|entry| link(entry).expect("open").display().to_string()).collect();
        all.sort();
        all
    };
    let own = targets(&vcpu0);
    let all = targets(Path::new(&format!("/proc/{pid}")));
    marked.running.tell("end");
    marked.ended().expect(0);
    // Standard error is the fourth, whatever it is.
    let known: Vec<_> = own.iter().filter(|target| target.starts_with("anon_inode:")).collect();
    assert_eq!(known, ["anon_inode:[eventfd]", "anon_inode:[eventfd]", "anon_inode:kvm-vcpu:0"], "{own:?}");
    assert_eq!(own.len(), 4, "{own:?}");
    assert!(all.iter().any(|target| target.contains("kvm-vm")) && all.len() > 8, "{all:?}");
    Ok(())
}

fn no_thread_of_the_vmm_is_filtered(case: &Case) -> Tested {
    let before = this_thread();
    for (_, mode, filters) in seen(case, &["--no-vmm-seccomp"]) {
        assert_eq!((mode, filters), (before.1.clone(), before.2.clone()));
    }
    Ok(())
}
