//! What the plugin finds in its file system: mounts, the folders and files they lie on, and in which order they come.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use crate::sys::Errno;
use crate::sys::mount::Attributes;

/// What stands at a path, through symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A character or block device.
    Device,
    /// Anything else.
    File,
}

/// Looks at paths of the host.
pub trait Lookup {
    /// What stands at a path.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    fn kind(&self, path: &Path) -> Result<Kind, Errno>;
}

impl Lookup for super::program::HostFiles {
    fn kind(&self, path: &Path) -> Result<Kind, Errno> {
        let kind = std::fs::metadata(path)?.file_type();
        Ok(match () {
            () if kind.is_dir() => Kind::Folder,
            () if kind.is_char_device() || kind.is_block_device() => Kind::Device,
            () => Kind::File,
        })
    }
}

/// A mount that the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// File or folder of the host.
    pub source: PathBuf,
    /// Where the plugin finds it.
    pub target: PathBuf,
    /// Whether it may write there.
    pub writable: bool,
}

/// Why a mount is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the program.
    Program,
    /// It is the dynamic loader, or the interpreter of a script.
    Interpreter,
    /// It is a library of the program.
    Library,
    /// It is the table by which the loader finds libraries.
    Cache,
    /// It is one of the four devices.
    Device,
    /// The user asked for it.
    Asked,
}

/// A file or folder of the host, shown to the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where the plugin finds it.
    pub target: PathBuf,
    /// What stands there.
    pub kind: Kind,
    /// What is not let through.
    pub attributes: Attributes,
    /// Whether the target lies in another mount, where it has to exist.
    pub nested: bool,
    /// Why it is there.
    pub why: Why,
}

impl Bind {
    /// A mount without which the plugin would not start, under the path that it has on the host.
    pub fn needed(path: &Path, why: Why) -> Bind {
        let kind = if why == Why::Device { Kind::Device } else { Kind::File };
        let runs = matches!(why, Why::Program | Why::Interpreter | Why::Library);
        let attributes = Attributes { read_only: true, no_suid: true, no_dev: why != Why::Device, no_exec: !runs };
        Bind { source: path.to_owned(), target: path.to_owned(), kind, attributes, nested: false, why }
    }

    /// A mount that the user asked for. What can be written there cannot be executed.
    fn asked(wish: &Wish, kind: Kind) -> Bind {
        let attributes = Attributes {
            read_only: !wish.writable,
            no_suid: true,
            no_dev: kind != Kind::Device,
            no_exec: wish.writable || kind == Kind::Device,
        };
        let (source, target) = (wish.source.clone(), wish.target.clone());
        Bind { source, target, kind, attributes, nested: false, why: Why::Asked }
    }
}

/// What is wrong with a mount; the sentence begins with its source and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountFault {
    /// The source is a relative path.
    #[error("the source must be an absolute path")]
    RelativeSource,
    /// The target is a relative path.
    #[error("the target must be an absolute path")]
    RelativeTarget,
    /// The target holds `..`.
    #[error("the target must not hold `..`")]
    Parent,
    /// The target cannot be mounted on.
    #[error("the target must not be /, nor /proc or below it")]
    Reserved,
    /// A path holds a zero byte.
    #[error("a path holds a zero byte")]
    ZeroByte,
    /// The source cannot be looked at.
    #[error("the source cannot be found: {0}")]
    Missing(Errno),
    /// Another mount has the same target.
    #[error("another mount has the same target")]
    Twice,
    /// The target lies below a file of another mount.
    #[error("the target lies below another mount that is no folder")]
    BelowFile,
    /// The target lies in another mount, which has nothing there.
    #[error("the target lies in another mount and is not there; make it in that mount's source first")]
    NoMountPoint,
    /// One is a folder and the other is not.
    #[error("a folder can be mounted on a folder only, and a file on a file")]
    OtherKind,
}

/// Puts the mounts in order: those that the user asked for come first, the outer before the inner, then those that are
/// needed and that none of these brings along already.
///
/// # Errors
/// The first wish that cannot be met, and why.
pub fn arrange(files: &impl Lookup, wishes: &[Wish], needed: Vec<Bind>) -> Result<Vec<Bind>, (Wish, MountFault)> {
    let mut sorted: Vec<&Wish> = wishes.iter().collect();
    sorted.sort_by_key(|wish| wish.target.components().count());
    let mut binds: Vec<Bind> = Vec::new();
    for wish in sorted {
        let refused = |fault| (wish.clone(), fault);
        check_paths(wish).map_err(refused)?;
        let kind = files.kind(&wish.source).map_err(MountFault::Missing).map_err(refused)?;
        let mut bind = Bind::asked(&Wish { target: super::program::tidy(&wish.target), ..wish.clone() }, kind);
        bind.nested = place(files, &binds, &bind).map_err(refused)?;
        binds.push(bind);
    }
    for mut bind in needed {
        match outer(&binds, &bind.target) {
            Some(outer) if outer.target == bind.target => continue,
            // The same file is there under the same path: nothing is missing.
            Some(outer) if outer.source == outer.target => continue,
            Some(outer) => {
                let wish = Wish { source: outer.source.clone(), target: outer.target.clone(), writable: false };
                bind.nested = place(files, &binds, &bind).map_err(|fault| (wish, fault))?;
            }
            None => {}
        }
        binds.push(bind);
    }
    Ok(binds)
}

fn check_paths(wish: &Wish) -> Result<(), MountFault> {
    let holds_zero = |path: &Path| CString::new(path.as_os_str().as_bytes()).is_err();
    if !wish.source.is_absolute() {
        return Err(MountFault::RelativeSource);
    }
    if !wish.target.is_absolute() {
        return Err(MountFault::RelativeTarget);
    }
    if holds_zero(&wish.source) || holds_zero(&wish.target) {
        return Err(MountFault::ZeroByte);
    }
    let mut components = wish.target.components().skip(1).peekable();
    match components.peek() {
        None => return Err(MountFault::Reserved),
        Some(first) if first.as_os_str() == "proc" => return Err(MountFault::Reserved),
        Some(_) => {}
    }
    if components.any(|component| component == Component::ParentDir) { Err(MountFault::Parent) } else { Ok(()) }
}

/// The innermost mount that a target lies in, or on.
fn outer<'a>(binds: &'a [Bind], target: &Path) -> Option<&'a Bind> {
    let around = binds.iter().filter(|bind| target.starts_with(&bind.target));
    around.max_by_key(|bind| bind.target.components().count())
}

/// Checks where a mount is to go; `true` if that is in another mount.
fn place(files: &impl Lookup, binds: &[Bind], bind: &Bind) -> Result<bool, MountFault> {
    let Some(outer) = outer(binds, &bind.target) else { return Ok(false) };
    if outer.target == bind.target {
        return Err(MountFault::Twice);
    }
    if outer.kind != Kind::Folder {
        return Err(MountFault::BelowFile);
    }
    let inside = bind.target.strip_prefix(&outer.target).expect("the target lies in it");
    let there = files.kind(&outer.source.join(inside)).map_err(|_| MountFault::NoMountPoint)?;
    if (there == Kind::Folder) != (bind.kind == Kind::Folder) { Err(MountFault::OtherKind) } else { Ok(true) }
}

/// Folders and files that have to be made before anything can be mounted: what is a folder, outer before inner, and what
/// is a file.
pub fn mount_points(binds: &[Bind], folders: &[&Path]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let outermost = || binds.iter().filter(|bind| !bind.nested);
    let files: Vec<PathBuf> =
        outermost().filter(|bind| bind.kind != Kind::Folder).map(|bind| bind.target.clone()).collect();
    let whole = outermost().filter(|bind| bind.kind == Kind::Folder).map(|bind| &*bind.target);
    let parents = outermost().filter_map(|bind| bind.target.parent());
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in folders.iter().copied().chain(whole).chain(parents) {
        let ancestors: Vec<&Path> = folder.ancestors().filter(|path| path.parent().is_some()).collect();
        for path in ancestors.into_iter().rev() {
            if !all.iter().any(|folder| folder == path) {
                all.push(path.to_owned());
            }
        }
    }
    (all, files)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
