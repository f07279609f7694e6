//! Finds running VMs: every process that keeps a memfd of counters, as `/proc` shows it.
//!
//! There is no registry, so nothing can be stale, and a VM is found by exactly those who may look into it. What is found
//! is only believed as far as its owner is: any program of this user may keep a file of that name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use outboard_wire::stats::FILE_NAME;
use outboard_wire::stats::read::{ReadError, Vm, read_vm};

/// Name of the VMM's executable, by which VMs are noticed that this user may not look into.
const PROGRAM: &str = "outboard";

/// How often a wait looks whether the VM has ended.
const STEP: Duration = Duration::from_millis(50);

/// A VM that was found.
#[derive(Debug)]
pub struct Running {
    /// Process id of its VMM.
    pub pid: u32,
    /// What it said about itself when it was found.
    pub vm: Vm,
    file: File,
    /// When the process started, to tell it from a later one with its number.
    started: u64,
}

impl Running {
    /// The counters.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// What people call it.
    pub fn title(&self) -> String {
        match self.vm.name.as_str() {
            "" => self.pid.to_string(),
            name => format!("{} ({name})", self.pid),
        }
    }

    /// Waits for this long, or until the VM ends.
    pub fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(STEP));
            if !self.is_alive() {
                return;
            }
        }
    }
}

/// Why no single VM was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None runs.
    #[error("no VM of yours is running; start one with outboard run")]
    None,
    /// None is called so.
    #[error("no running VM is called {0}; outboard stat --list shows those that run")]
    Unknown(String),
    /// More than one fits.
    #[error("several VMs fit: {0}; give the process id of one")]
    Several(String),
    /// There are some, of somebody else.
    #[error("you may not look into VM {pid}, which belongs to user {uid}; run this as that user or as root")]
    Denied {
        /// Process id.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// One was found whose counters make no sense.
    #[error("the counters of process {0} cannot be read: {1}")]
    Unreadable(u32, String),
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Find {
    /// VMs, by process id.
    pub running: Vec<Running>,
    /// VMs of others: process id and user.
    pub denied: Vec<(u32, u32)>,
    unreadable: Vec<(u32, ReadError)>,
}

impl Find {
    /// Looks through all processes.
    pub fn all() -> Find {
        let (mut find, mut seen) = (Find::default(), BTreeSet::new());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            find.look_into(pid, &mut seen);
        }
        find
    }

    /// A file of counters is a VM in the hands of its VMM only: a tool that looks at it has it too, also when the VM has
    /// ended, and so has a child of the VMM for a moment, that is about to be the plugin. `seen` holds the files of VMs that
    /// were found, because such a child may be process 1 of its own namespace as well as the VMM is of a container.
    fn look_into(&mut self, pid: u32, seen: &mut BTreeSet<(u64, u64)>) {
        let folder = format!("/proc/{pid}/fd");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                if error.kind() == io::ErrorKind::PermissionDenied && comm.trim_end() == PROGRAM {
                    let uid = fs::metadata(format!("/proc/{pid}")).map_or(0, |meta| meta.uid());
                    self.denied.push((pid, uid));
                }
                return;
            }
        };
        for entry in entries.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if !is_counters(&target) {
                continue;
            }
            let (Ok(file), Some(started)) = (File::open(entry.path()), started(pid)) else { continue };
            let Ok(meta) = file.metadata() else { continue };
            match read_vm(&file) {
                Ok(vm) if own_number(pid) != Some(vm.pid) => {}
                Ok(vm) => {
                    if seen.insert((meta.dev(), meta.ino())) {
                        self.running.push(Running { pid, vm, file, started });
                    }
                }
                Err(error) => self.unreadable.push((pid, error)),
            }
        }
    }

    /// The VM with this process id or name; the only one if nothing is given.
    ///
    /// # Errors
    /// A [`FindError`] unless exactly one fits.
    pub fn select(self, word: Option<&str>) -> Result<Running, FindError> {
        let Find { running, denied, unreadable } = self;
        let wanted = |pid: u32| word.is_none_or(|word| word.parse() == Ok(pid));
        let fits = |vm: &Running| wanted(vm.pid) || word == Some(vm.vm.name.as_str());
        let mut fitting: Vec<Running> = running.into_iter().filter(fits).collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(vm), true) => Ok(vm),
            (Some(vm), false) => {
                fitting.push(vm);
                let titles: Vec<String> = fitting.iter().map(Running::title).collect();
                Err(FindError::Several(titles.join(", ")))
            }
            (None, _) => {
                if let Some((pid, uid)) = denied.into_iter().find(|(pid, _)| wanted(*pid)) {
                    return Err(FindError::Denied { pid, uid });
                }
                if let Some((pid, error)) = unreadable.into_iter().find(|(pid, _)| wanted(*pid)) {
                    return Err(FindError::Unreadable(pid, error.to_string()));
                }
                Err(word.map_or(FindError::None, |word| FindError::Unknown(word.to_owned())))
            }
        }
    }
}

fn is_counters(target: &Path) -> bool {
    let name = target.to_str().and_then(|target| target.strip_prefix("/memfd:"));
    name.map(|name| name.strip_suffix(" (deleted)").unwrap_or(name)) == Some(FILE_NAME)
}

/// The process id that a process has in its own pid namespace (proc_pid_status(5), `NSpid`; Linux 4.1).
fn own_number(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

/// Start time of a process that has not ended, in clock ticks since boot (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also spaces and brackets; behind the last bracket come numbers only.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_started_and_others_have_not() {
        assert!(started(std::process::id()).is_some());
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn this_process_has_a_number_of_its_own() {
        assert_eq!(own_number(std::process::id()), Some(std::process::id()));
        assert_eq!(own_number(u32::MAX), None);
    }

    #[test]
    fn only_the_very_name_is_taken() {
        assert!(is_counters(Path::new("/memfd:outboard-stats (deleted)")));
        for other in ["/memfd:outboard-stats2 (deleted)", "/tmp/outboard-stats", "/memfd:x", "socket:[1]"] {
            assert!(!is_counters(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn nothing_fits_a_search_that_found_nothing() {
        assert!(matches!(Find::default().select(None), Err(FindError::None)));
        assert!(matches!(Find::default().select(Some("web")), Err(FindError::Unknown(_))));
        let denied = Find { denied: vec![(7, 1000)], ..Find::default() };
        assert!(matches!(denied.select(Some("7")), Err(FindError::Denied { pid: 7, uid: 1000 })));
    }
}
