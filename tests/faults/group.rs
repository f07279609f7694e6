//! A control group with a limit of memory, of version 1 or 2 (`cgroups(7)`), that is removed at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where both versions are mounted by convention.
const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// How long a group may have members whose end was seen.
const LAST_MEMBER: Duration = Duration::from_secs(10);

/// The group.
pub struct Group {
    path: PathBuf,
    version: u32,
}

impl Group {
    /// Makes a group without a limit.
    pub fn new() -> io::Result<Group> {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let name = format!("outboard-test-{}-{}", std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
        let (version, file) = if Path::new(VERSION_1).join("memory.limit_in_bytes").exists() {
            (1, "memory.limit_in_bytes")
        } else {
            (2, "memory.max")
        };
        let group = Group { path: home(version).join(name), version };
        fs::create_dir(&group.path)?;
        // One whose parent does not give the controller away has no such file.
        fs::metadata(group.path.join(file))?;
        group.peak()?;
        Ok(group)
    }

    /// Why there are no groups here.
    pub fn lack() -> Option<String> {
        let error = Group::new().err()?;
        Some(format!(
            "there is no control group of ours to limit memory by, which takes root and a controller: {error}"
        ))
    }

    /// What a process writes its number to that joins the group.
    pub fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Limits the memory of all members, and lets nothing of it be swapped out.
    pub fn limit(&self, bytes: u64) -> io::Result<()> {
        let write = |file: &str, bytes: u64| fs::write(self.path.join(file), bytes.to_string());
        let (limit, swap, most) = if self.version == 1 {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes)
        } else {
            ("memory.max", "memory.swap.max", 0)
        };
        write(limit, bytes)?;
        match write(swap, most) {
            // Without swap in the kernel there is no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// The most memory that the members have had at a time.
    pub fn peak(&self) -> io::Result<u64> {
        self.number(if self.version == 1 { "memory.max_usage_in_bytes" } else { "memory.peak" }, "")
    }

    /// How many pages of files were taken back for want of room, and read again.
    pub fn read_again(&self) -> io::Result<u64> {
        self.number("memory.stat", "workingset_refault_file ")
    }

    /// How many processes were killed for it.
    pub fn killed(&self) -> io::Result<u64> {
        self.number(if self.version == 1 { "memory.oom_control" } else { "memory.events" }, "oom_kill ")
    }

    /// A number in a file, behind this word at the beginning of a line.
    fn number(&self, file: &str, word: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        let number = text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
        number.ok_or_else(|| io::Error::other(format!("{file} holds {text:?}")))
    }
}

impl Drop for Group {
    /// Removes it, once its last member has gone.
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_MEMBER;
        while fs::remove_dir(&self.path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            if Instant::now() > deadline {
                eprintln!("the group {} cannot be removed", self.path.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The group below which ours are made: that of this process in version 1; the first one of all in version 2, where a group
/// with members cannot have further ones.
fn home(version: u32) -> PathBuf {
    if version == 2 {
        return VERSION_2.into();
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.trim_start_matches('/')));
    let own = Path::new(VERSION_1).join(own.unwrap_or_default());
    if own.is_dir() { own } else { VERSION_1.into() }
}
