//! The steps of a child half: data that can be printed, and that is carried out without allocating anything.

use std::cell::OnceCell;
use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use crate::sys::mount::{self, Attributes};
use crate::sys::process::{self, InChild};
use crate::sys::rlimit::{self, Limit, OpenFiles};
use crate::sys::{Errno, creds, landlock};
use crate::sys::{file, namespaces, pipe};

/// Something that the child does to itself before it becomes the program.
///
/// It runs in a process cloned from one that may have many threads: it must not allocate, take locks or panic, only
/// make system calls with what was prepared before.
pub trait ChildStep {
    /// What the step does, and on what, as the subject of "... failed". Called in the parent.
    fn name(&self) -> String;

    /// Does it.
    ///
    /// # Errors
    /// That of the system call; the start then fails with it, unless the step is optional.
    fn run(&self, child: &InChild) -> Result<(), Errno>;

    /// Whether the plugin is started without it where it fails.
    fn is_optional(&self) -> bool {
        false
    }

    /// Whether its failure says that the host lacks something, and not that the plugin is no good.
    fn is_host_s(&self) -> bool {
        false
    }
}

/// A step of the jail. Paths that the plugin will see are relative to its root, without a slash at the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave the session of the terminal.
    NewSession,
    /// Enter further namespaces, whose creation takes the kernel longer.
    Unshare {
        /// A set of [`namespaces::NAMESPACE_FLAGS`].
        namespaces: u64,
        /// Their names.
        names: &'static str,
    },
    /// Allow no user namespaces within this one.
    NoNamespaces,
    /// Keep a file or folder of the host at hand.
    Open {
        /// Its path.
        source: CString,
        /// With what is mounted below it.
        recursive: bool,
        /// Where it is kept.
        slot: usize,
        /// What for.
        why: &'static str,
    },
    /// Wait until the parent has written the id maps.
    AwaitMaps,
    /// Become user and group of the plugin.
    TakeIds {
        /// User in the namespace.
        uid: u32,
        /// Group in the namespace.
        gid: u32,
    },
    /// Make the file system that is to be the root.
    MakeRoot {
        /// Its size in bytes, as an option of tmpfs.
        size: CString,
        /// The most files it may hold, as an option of tmpfs.
        files: CString,
        /// The folder of the host that it is mounted on until it is the root.
        at: CString,
    },
    /// Make a folder to mount on.
    MakeFolder(CString),
    /// Make a file to mount on.
    MakeFile(CString),
    /// Mount what was kept.
    Attach {
        /// Where it is kept.
        slot: usize,
        /// Where it goes.
        target: CString,
        /// What it lets through.
        attributes: Attributes,
        /// With what is mounted below it.
        recursive: bool,
        /// Whether the target lies in another mount.
        nested: bool,
    },
    /// Mount /proc.
    MountProc,
    /// Keep a folder of the root writable.
    KeepWritable(CString),
    /// Make the root read-only.
    SealRoot,
    /// Make it the root, and let go of the host's.
    ChangeRoot,
    /// Take a host name that says nothing.
    HostName(CString),
    /// Limit a resource.
    Limit(Limit, u64),
    /// Give the plugin the limit of open files that the user had.
    OpenFiles(OpenFiles),
    /// Empty the bounding set.
    DropBounding,
    /// Lock the secure bits.
    LockSecureBits,
    /// Empty all other sets of capabilities.
    DropCapabilities,
    /// Never gain rights.
    NoNewPrivileges,
    /// Begin Landlock rules that forbid everything.
    BeginRules {
        /// The version that the kernel has.
        version: u32,
    },
    /// Allow rights at and below a path.
    Allow {
        /// The path, absolute.
        path: CString,
        /// The rights ([`landlock::access`]).
        access: u64,
        /// The same in words.
        said: &'static str,
    },
    /// Put the rules in force.
    Restrict,
}

/// The path of a C string, as the plugin sees it.
fn seen(path: &CStr) -> std::path::Display<'_> {
    Path::new(OsStr::from_bytes(path.to_bytes())).display()
}

impl fmt::Display for Step {
    /// The step and its object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::NewSession => write!(f, "setsid"),
            Step::Unshare { names, .. } => write!(f, "unshare({names})"),
            Step::NoNamespaces => write!(f, "user.max_user_namespaces = 0"),
            Step::Open { source, .. } => write!(f, "open_tree({})", seen(source)),
            Step::AwaitMaps => write!(f, "waiting for the id maps"),
            Step::TakeIds { uid, gid } => write!(f, "setresgid({gid}), setresuid({uid})"),
            Step::MakeRoot { size, at, .. } => {
                write!(f, "mounting a tmpfs of {} bytes on {}", size.to_string_lossy(), seen(at))
            }
            Step::MakeFolder(path) => write!(f, "mkdir(/{})", seen(path)),
            Step::MakeFile(path) => write!(f, "mknod(/{})", seen(path)),
            Step::Attach { target, attributes, .. } => write!(f, "mounting /{} {}", seen(target), said(*attributes)),
            Step::MountProc => write!(f, "mounting /proc (subset=pid, {})", words(ALL)),
            Step::KeepWritable(path) => write!(f, "mounting /{} on itself, writable", seen(path)),
            Step::SealRoot => write!(f, "making the root read-only"),
            Step::ChangeRoot => write!(f, "pivot_root"),
            Step::HostName(name) => write!(f, "sethostname({})", name.to_string_lossy()),
            Step::Limit(Limit::Processes, value) => write!(f, "setrlimit(RLIMIT_NPROC, {value})"),
            Step::Limit(Limit::CoreSize, value) => write!(f, "setrlimit(RLIMIT_CORE, {value})"),
            Step::OpenFiles(files) => write!(f, "setrlimit(RLIMIT_NOFILE, {})", files.soft),
            Step::DropBounding => write!(f, "emptying the bounding set"),
            Step::LockSecureBits => write!(f, "locking the secure bits"),
            Step::DropCapabilities => write!(f, "dropping all capabilities"),
            Step::NoNewPrivileges => write!(f, "PR_SET_NO_NEW_PRIVS"),
            Step::BeginRules { version } => write!(f, "Landlock, version {version}"),
            Step::Allow { path, said, .. } => write!(f, "Landlock: {said} below {}", seen(path)),
            Step::Restrict => write!(f, "landlock_restrict_self"),
        }
    }
}

/// All attributes.
const ALL: Attributes = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };

fn words(attributes: Attributes) -> String {
    let Attributes { read_only, no_suid, no_dev, no_exec } = attributes;
    let pairs = [(read_only, "ro"), (no_suid, "nosuid"), (no_dev, "nodev"), (no_exec, "noexec")];
    pairs.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

fn said(attributes: Attributes) -> String {
    format!("({})", words(attributes))
}

impl Step {
    /// Why it is done.
    pub fn why(&self) -> &'static str {
        match self {
            Step::NewSession => "no controlling terminal, so nothing can be typed into it",
            Step::Unshare { .. } => "no network, no shared memory, semaphores or names of the host",
            Step::NoNamespaces => "no further user namespace, in which there would be rights again",
            Step::Open { why, .. } => why,
            Step::AwaitMaps => "the parent writes uid_map, setgroups and gid_map",
            Step::TakeIds { .. } => "files of the caller are not the plugin's",
            Step::MakeRoot { .. } => "an empty root, whose memory is bounded",
            Step::MakeFolder(_) => "a place to mount on",
            Step::MakeFile(_) => "a place to mount on",
            Step::Attach { .. } => "what was opened above",
            Step::MountProc => "the plugin's own processes and nothing else",
            Step::KeepWritable(_) => "a place for temporary files, within the bounds of the root",
            Step::SealRoot => "nothing can be put beside what is there",
            Step::ChangeRoot => "the host's files are gone",
            Step::HostName(_) => "the host's name is nobody's business",
            Step::Limit(Limit::Processes, _) => "a fork bomb ends in EAGAIN",
            Step::Limit(Limit::CoreSize, _) => "no core dumps",
            Step::OpenFiles(_) => "the limit that the user had",
            Step::DropBounding => "no program can bring a capability",
            Step::LockSecureBits => "user id 0 means nothing",
            Step::DropCapabilities => "no right beyond the user's, not even over its own namespaces",
            Step::NoNewPrivileges => "no right is ever gained by execve",
            Step::BeginRules { .. } => "one more belt: no file, no TCP, no signal unless allowed",
            Step::Allow { .. } => "what the mounts allow too",
            Step::Restrict => "the rules are in force for good",
        }
    }
}

/// What the steps of one child share: descriptors that one of them makes and another uses.
///
/// They are filled in the child only, and its copies are closed by `execve`.
#[derive(Debug)]
pub struct Bench {
    slots: Vec<OnceCell<OwnedFd>>,
    root: OnceCell<OwnedFd>,
    rules: OnceCell<OwnedFd>,
    gate: OwnedFd,
}

impl Bench {
    /// Room for so many kept files, and the pipe that says when the id maps are there.
    pub fn new(slots: usize, gate: OwnedFd) -> Bench {
        let slots = (0..slots).map(|_| OnceCell::new()).collect();
        Bench { slots, root: OnceCell::new(), rules: OnceCell::new(), gate }
    }

    fn slot(&self, index: usize) -> Result<&OnceCell<OwnedFd>, Errno> {
        self.slots.get(index).ok_or(Errno::EBADF)
    }
}

fn keep(cell: &OnceCell<OwnedFd>, fd: OwnedFd) -> Result<(), Errno> {
    cell.set(fd).map_err(|_| Errno::EEXIST)
}

fn kept(cell: &OnceCell<OwnedFd>) -> Result<BorrowedFd<'_>, Errno> {
    cell.get().map(|fd| fd.as_fd()).ok_or(Errno::EBADF)
}

/// A step on its bench.
pub struct JailStep {
    /// The step.
    pub step: Step,
    /// What it works with.
    pub bench: Rc<Bench>,
}

impl ChildStep for JailStep {
    fn name(&self) -> String {
        self.step.to_string()
    }

    fn is_optional(&self) -> bool {
        // A container may have made /proc/sys read-only, or covered parts of /proc, and then the kernel lets no new one be
        // mounted.
        matches!(self.step, Step::NoNamespaces | Step::MountProc)
    }

    fn is_host_s(&self) -> bool {
        true
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        let bench = &*self.bench;
        match &self.step {
            Step::NewSession => process::new_session(),
            Step::Unshare { namespaces, .. } => namespaces::unshare(*namespaces),
            Step::NoNamespaces => file::write_to(c"/proc/sys/user/max_user_namespaces", b"0"),
            Step::Open { source, recursive, slot, .. } => {
                keep(bench.slot(*slot)?, mount::clone_tree(None, source, *recursive)?)
            }
            Step::AwaitMaps => match pipe::read_byte(bench.gate.as_fd())? {
                true => Ok(()),
                // The parent failed, and says why itself.
                false => process::exit_now(127),
            },
            Step::TakeIds { uid, gid } => creds::set_gid(*gid).and_then(|()| creds::set_uid(*uid)),
            Step::MakeRoot { size, files, at } => {
                let options = [(c"size", &**size), (c"nr_inodes", &**files), (c"mode", c"755")];
                let attributes = Attributes { read_only: false, ..ALL };
                let root = mount::new_file_system(c"tmpfs", &options, attributes)?;
                mount::attach(root.as_fd(), None, at)?;
                keep(&bench.root, root)
            }
            Step::MakeFolder(path) => mount::make_folder(kept(&bench.root)?, path),
            Step::MakeFile(path) => mount::make_file(kept(&bench.root)?, path),
            Step::Attach { slot, target, attributes, recursive, nested } => {
                let (tree, root) = (kept(bench.slot(*slot)?)?, kept(&bench.root)?);
                mount::restrict(tree, *attributes, *recursive)?;
                match nested {
                    // Whoever owns the outer mount's files may have put a link there.
                    true => mount::attach_at(tree, mount::open_within(root, target)?.as_fd()),
                    false => mount::attach(tree, Some(root), target),
                }
            }
            Step::MountProc => {
                let proc = mount::new_file_system(c"proc", &[(c"subset", c"pid")], ALL)?;
                mount::attach(proc.as_fd(), Some(kept(&bench.root)?), c"proc")
            }
            Step::KeepWritable(path) => {
                let root = kept(&bench.root)?;
                let tree = mount::clone_tree(Some(root), path, false)?;
                mount::attach(tree.as_fd(), Some(root), path)
            }
            Step::SealRoot => mount::restrict(kept(&bench.root)?, ALL, false),
            Step::ChangeRoot => mount::change_root(kept(&bench.root)?),
            Step::HostName(name) => namespaces::set_host_name(name),
            Step::Limit(which, value) => rlimit::set_limit(*which, *value),
            Step::OpenFiles(files) => rlimit::set_open_files(*files),
            Step::DropBounding => creds::drop_bounding_set(),
            Step::LockSecureBits => creds::lock_secure_bits(),
            Step::DropCapabilities => creds::drop_capabilities(),
            Step::NoNewPrivileges => creds::set_no_new_privileges(),
            Step::BeginRules { version } => keep(&bench.rules, landlock::new_ruleset(*version)?),
            Step::Allow { path, access, .. } => landlock::allow(kept(&bench.rules)?, path, *access),
            Step::Restrict => landlock::restrict_self(kept(&bench.rules)?),
        }
    }
}
