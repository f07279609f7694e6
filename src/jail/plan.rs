//! The plan of a jail: computed and checked before anything happens, from what the user asked for, what the caller may and
//! what the program needs. The same steps are printed for `--explain-jail` and carried out.

use std::ffi::{CString, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::choice::Choice;
use super::ids::{self, Caller, IdMap, Ids, IdsError, User};
use super::mounts::{self, Bind, Kind, Lookup, MountFault, Why, Wish};
use super::program::{self, Files};
use super::step::Step;
use crate::sys::Errno;
use crate::sys::creds;
use crate::sys::landlock::{self, access};
use crate::sys::namespaces::NAMESPACE_FLAGS;
use crate::sys::rlimit::{self, Limit, OpenFiles};

/// Bytes that the plugin can write into its root.
pub const ROOT_SIZE: u64 = 64 << 20;
/// Files that it can make there.
const ROOT_FILES: u64 = 16384;
/// Processes and threads that any plugin may have, and how many more for each vCPU.
const PROCESSES: u64 = 256;
const PROCESSES_PER_VCPU: u64 = 4;
/// Where the root is mounted until it is the root, unless the user says so: a folder that every host has.
const DEFAULT_ROOT: &str = "/";
/// Devices that every plugin has.
const DEVICES: [&str; 4] = ["/dev/full", "/dev/null", "/dev/urandom", "/dev/zero"];
/// The host name that it sees.
const HOST_NAME: &str = "plugin";

/// What the user asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The folder that the root is mounted on, or none.
    pub root: Option<PathBuf>,
    /// Mounts.
    pub mounts: Vec<Wish>,
    /// Groups.
    pub gid_maps: Vec<IdMap>,
    /// The user that the VMM becomes.
    pub user: Option<User>,
    /// Number of vCPUs.
    pub vcpus: u32,
}

/// What there is to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The calling process.
    pub caller: Caller,
    /// The hard limit of processes.
    pub process_limit: u64,
    /// The limit of open files that the plugin gets.
    pub open_files: OpenFiles,
    /// The version of Landlock; 0 for none.
    pub landlock: u32,
}

/// Why there is no jail as asked for: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The folder of the root cannot be used.
    #[error("--plugin-root {}: {fault}", root.display())]
    Root {
        /// The path given.
        root: PathBuf,
        /// What is wrong with it.
        fault: RootFault,
    },
    /// A mount cannot be made.
    #[error("--plugin-mount {}:{}: {fault}", wish.source.display(), wish.target.display())]
    Mount {
        /// The mount.
        wish: Wish,
        /// What is wrong with it.
        fault: MountFault,
    },
    /// A map of groups cannot be.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// The VMM cannot become another user.
    #[error("--user {}:{}: user {uid} cannot become another one; run outboard as root for that", user.uid, user.gid)]
    NoRight {
        /// The user to become.
        user: User,
        /// The caller.
        uid: u32,
    },
    /// The program is not where it was.
    #[error("the program {} cannot be found: {errno}; was it deleted or replaced?", program.display())]
    Lost {
        /// Its path.
        program: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// A path holds a zero byte.
    #[error("the path {} holds a zero byte", .0.display())]
    ZeroByte(PathBuf),
}

impl PlanError {
    /// Whether the arguments would do for another caller, or at another time.
    pub fn is_lack(&self) -> bool {
        match self {
            PlanError::Ids(ids) => ids.is_lack_of_right(),
            PlanError::NoRight { .. } | PlanError::Lost { .. } => true,
            _ => false,
        }
    }
}

/// What is wrong with the folder of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootFault {
    /// It does not begin with a slash.
    #[error("the path must be absolute")]
    Relative,
    /// It cannot be looked at.
    #[error("it cannot be found: {0}")]
    Missing(Errno),
    /// It is a file.
    #[error("it is not a directory")]
    NotAFolder,
}

/// A jail, ready to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The path of the program in the jail.
    pub program: PathBuf,
    /// Who the plugin is.
    pub ids: Ids,
    /// What the child does, in this order.
    pub steps: Vec<Step>,
    /// Number of files that it keeps at hand.
    pub slots: usize,
    /// The seccomp filter.
    pub filter: Choice,
    /// Libraries that were not found; the program will not start unless the user mounts them.
    pub missing: Vec<OsString>,
}

/// Namespaces that the plugin is cloned into.
pub const CLONED: u64 = (libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
/// Namespaces that it enters by itself: making them takes the kernel longer, and here nobody waits for that.
const ENTERED: u64 = (libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u64;
const _: () = assert!(CLONED | ENTERED == NAMESPACE_FLAGS);

impl Plan {
    /// Plans the jail of a program on this host, for the calling thread.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn of_host(request: &Request, filter: Choice, program: &Path) -> Result<Plan, PlanError> {
        let creds::Ids { uid, gid } = creds::effective_ids();
        let unlimited = OpenFiles { soft: 1024, hard: 1024 };
        let facts = Facts {
            caller: Caller { uid, gid, may_map: may_map(request.user) },
            process_limit: rlimit::process_limit().map_or(u64::MAX, |(_, hard)| hard),
            open_files: rlimit::open_files().unwrap_or(unlimited),
            landlock: landlock::version(),
        };
        // Its true path is what it sees of itself. The way over /proc/self/exe would lead to another mount namespace.
        let lost = |error: std::io::Error| PlanError::Lost { program: program.to_owned(), errno: error.into() };
        let path = program.canonicalize().map_err(lost)?;
        Plan::new(request, filter, &facts, &path, &program::HostFiles)
    }

    /// Plans the jail of a program, by its true path.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(
        request: &Request,
        filter: Choice,
        facts: &Facts,
        program: &Path,
        files: &(impl Files + Lookup),
    ) -> Result<Plan, PlanError> {
        let root = check_root(request.root.as_deref(), files)?;
        if let Some(user) = request.user.filter(|_| !facts.caller.may_map) {
            return Err(PlanError::NoRight { user, uid: facts.caller.uid });
        }
        let outer = request.user.map_or((ids::NOBODY, ids::NOBODY), |user| (user.uid, user.gid));
        let ids = Ids::new(facts.caller, outer, &request.gid_maps)?;
        let needs = program::needs(files, program);
        let binds = mounts::arrange(files, &request.mounts, needed(program, &needs))
            .map_err(|(wish, fault)| PlanError::Mount { wish, fault })?;
        let missing = needs.missing;
        let wanted = PROCESSES + PROCESSES_PER_VCPU * u64::from(request.vcpus);
        let processes = wanted.min(facts.process_limit);
        let steps = steps(root, &ids, &binds, facts, processes)?;
        Ok(Plan { program: program.to_owned(), ids, steps, slots: binds.len(), filter, missing })
    }
}

/// Whether the calling thread may give the plugin other ids than its own. It takes capabilities, and also that those ids
/// exist in its own user namespace: the root of a container may lack both.
fn may_map(user: Option<User>) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (uid, gid) = user.map_or((ids::NOBODY, ids::NOBODY), |user| (user.uid, user.gid));
    creds::may_set_ids()
        && ids::covers(&read("uid_map"), uid)
        && ids::covers(&read("gid_map"), gid)
        && read("setgroups").trim() != "deny"
}

fn check_root<'a>(root: Option<&'a Path>, files: &impl Lookup) -> Result<&'a Path, PlanError> {
    let Some(root) = root else { return Ok(Path::new(DEFAULT_ROOT)) };
    let refused = |fault| PlanError::Root { root: root.to_owned(), fault };
    if !root.is_absolute() {
        return Err(refused(RootFault::Relative));
    }
    match files.kind(root) {
        Ok(Kind::Folder) => Ok(root),
        Ok(_) => Err(refused(RootFault::NotAFolder)),
        Err(errno) => Err(refused(RootFault::Missing(errno))),
    }
}

/// The mounts without which the program would not start, and the devices.
fn needed(program: &Path, needs: &program::Needs) -> Vec<Bind> {
    let mut binds = vec![Bind::needed(program, Why::Program)];
    let mut add = |path: &Path, why| {
        if !binds.iter().any(|bind| bind.target == path) {
            binds.push(Bind::needed(path, why));
        }
    };
    needs.interpreters.iter().for_each(|path| add(path, Why::Interpreter));
    needs.libraries.iter().for_each(|path| add(path, Why::Library));
    if needs.cache {
        add(Path::new(program::CACHE), Why::Cache);
    }
    DEVICES.iter().for_each(|path| add(Path::new(path), Why::Device));
    binds
}

fn why(bind: &Bind) -> &'static str {
    match bind.why {
        Why::Program => "the plugin's program",
        Why::Interpreter => "its dynamic loader or interpreter",
        Why::Library => "a library that it is linked with",
        Why::Cache => "by which the dynamic loader finds libraries",
        Why::Device => "one of the four devices of every plugin",
        Why::Asked => "--plugin-mount asks for it",
    }
}

fn absolute(path: &Path) -> Result<CString, PlanError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| PlanError::ZeroByte(path.to_owned()))
}

/// A path of the jail as one that is relative to its root.
fn relative(path: &Path) -> Result<CString, PlanError> {
    absolute(path.strip_prefix("/").unwrap_or(path))
}

fn steps(root: &Path, ids: &Ids, binds: &[Bind], facts: &Facts, processes: u64) -> Result<Vec<Step>, PlanError> {
    let number = |value: u64| CString::new(value.to_string()).expect("digits");
    let tmp = Path::new("/tmp");
    let own_tmp = !binds.iter().any(|bind| bind.target == tmp);
    let mut steps = vec![Step::NewSession];
    // Sources are opened as the caller, and before the ids change: folders on the way may be the caller's alone.
    for (slot, bind) in binds.iter().enumerate() {
        let (source, recursive) = (absolute(&bind.source)?, bind.kind == Kind::Folder);
        steps.push(Step::Open { source, recursive, slot, why: why(bind) });
    }
    steps.push(Step::Unshare { namespaces: ENTERED, names: "net, ipc, uts, cgroup" });
    steps.push(Step::NoNamespaces);
    steps.push(Step::HostName(CString::new(HOST_NAME).expect("letters")));
    steps.push(Step::AwaitMaps);
    steps.push(Step::TakeIds { uid: ids.uid, gid: ids.gid });
    let (size, files) = (number(ROOT_SIZE), number(ROOT_FILES));
    steps.push(Step::MakeRoot { size, files, at: absolute(root)? });
    let (folders, files) = mounts::mount_points(binds, &[Path::new("/proc"), tmp]);
    for folder in &folders {
        steps.push(Step::MakeFolder(relative(folder)?));
    }
    for file in &files {
        steps.push(Step::MakeFile(relative(file)?));
    }
    // Before what is mounted on it, which it would hide.
    if own_tmp {
        steps.push(Step::KeepWritable(relative(tmp)?));
    }
    for (slot, bind) in binds.iter().enumerate() {
        let (target, attributes, nested) = (relative(&bind.target)?, bind.attributes, bind.nested);
        steps.push(Step::Attach { slot, target, attributes, recursive: bind.kind == Kind::Folder, nested });
    }
    steps.push(Step::MountProc);
    steps.extend([Step::SealRoot, Step::ChangeRoot]);
    steps.extend([
        Step::Limit(Limit::CoreSize, 0),
        Step::Limit(Limit::Processes, processes),
        Step::OpenFiles(facts.open_files),
        Step::DropBounding,
        Step::LockSecureBits,
        Step::DropCapabilities,
        Step::NoNewPrivileges,
    ]);
    if facts.landlock > 0 {
        steps.extend(rules(binds, own_tmp.then_some(tmp), facts.landlock)?);
    }
    Ok(steps)
}

/// Landlock rules that allow what the mounts allow.
fn rules(binds: &[Bind], tmp: Option<&Path>, version: u32) -> Result<Vec<Step>, PlanError> {
    let known = landlock::known_access(version);
    let allow = |path: &Path, rights: u64, said| -> Result<Step, PlanError> {
        Ok(Step::Allow { path: absolute(path)?, access: rights & known, said })
    };
    let reading = access::READ_FILE | access::READ_DIR | access::EXECUTE;
    let of_file = access::READ_FILE | access::WRITE_FILE | access::TRUNCATE;
    let mut steps = vec![Step::BeginRules { version }];
    steps.push(allow(Path::new("/"), reading, "reading and executing")?);
    // Without the right to make device nodes, which nobody has anyway.
    let all = known & !(access::EXECUTE | access::IOCTL_DEV);
    if let Some(tmp) = tmp {
        steps.push(allow(tmp, all, "all but executing")?);
    }
    for bind in binds {
        match bind.kind {
            Kind::Device => steps.push(allow(&bind.target, of_file | access::IOCTL_DEV, "using the device")?),
            Kind::File if !bind.attributes.read_only => steps.push(allow(&bind.target, of_file, "writing")?),
            Kind::Folder if !bind.attributes.read_only => steps.push(allow(&bind.target, all, "all but executing")?),
            _ => {}
        }
    }
    steps.push(Step::Restrict);
    Ok(steps)
}

impl fmt::Display for Plan {
    /// One line per step, with why it is done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &dyn fmt::Display, why: &str| writeln!(f, "{:<72}  {why}", what.to_string());
        line(&"clone3(user, pid, mount)", "a process that sees no other, and has rights over its own namespaces only")?;
        let map = |maps: &[IdMap]| ids::text(maps).trim_end().replace('\n', ", ");
        line(&format_args!("uid_map: {}", map(&self.ids.uid_map)), "by the parent: inside, outside, how many")?;
        line(&"setgroups: deny", "by the parent: groups stay as they are")?;
        line(&format_args!("gid_map: {}", map(&self.ids.gid_map)), "by the parent: inside, outside, how many")?;
        if let Some(groups) = &self.ids.groups {
            line(
                &format_args!("setgroups({groups:?})"),
                "by the parent, for the clone: those of --plugin-gid-map alone",
            )?;
        }
        for step in &self.steps {
            line(step, step.why())?;
        }
        line(&"descriptors 0, 1, 2, 3", "standard streams and the control socket; all others close")?;
        line(&"PR_SET_PDEATHSIG(SIGKILL)", "the plugin does not outlive the VMM")?;
        let filter = format_args!("seccomp: {} instructions, {}", self.filter.program.len(), self.filter.source);
        let then =
            if self.filter.logs { "other calls are logged" } else { "any other call ends the plugin and is named" };
        line(&filter, then)?;
        line(&format_args!("execve({})", self.program.display()), "the plugin, as process 1 of its pid namespace")?;
        for name in &self.missing {
            writeln!(f, "not found: the library {}, which has to come by --plugin-mount", name.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
