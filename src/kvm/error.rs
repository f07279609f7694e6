//! What goes wrong with KVM, in sentences.

use std::fmt;
use std::path::{Path, PathBuf};

use kvm_bindings::KVM_API_VERSION;

use crate::sys::Errno;

/// What a call was made on or for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The KVM device.
    System,
    /// The VM as a whole.
    Vm,
    /// The vCPU of this number.
    Vcpu(u32),
    /// The memory slot of this number.
    Slot(u32),
    /// This interrupt line.
    Gsi(u32),
    /// This guest address, port or physical.
    Address(u64),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Object::System => f.write_str("the KVM device"),
            Object::Vm => f.write_str("the VM"),
            Object::Vcpu(id) => write!(f, "vCPU {id}"),
            Object::Slot(slot) => write!(f, "memory slot {slot}"),
            Object::Gsi(gsi) => write!(f, "GSI {gsi}"),
            Object::Address(address) => write!(f, "address {address:#x}"),
        }
    }
}

/// A KVM call that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} for {object} failed: {errno}")]
pub struct KvmError {
    /// The name of the request, such as `"KVM_CREATE_VCPU"`.
    pub call: &'static str,
    /// What it was made for.
    pub object: Object,
    /// Why it failed.
    pub errno: Errno,
}

impl KvmError {
    /// For `map_err`: makes an error of the error number of a call.
    pub(super) fn of(call: &'static str, object: Object) -> impl FnOnce(Errno) -> KvmError {
        move |errno| KvmError { call, object, errno }
    }
}

/// Why the KVM device cannot be used, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such file, or no driver behind it.
    #[error(
        "{path} does not exist: load the kvm_intel or kvm_amd module, and check that virtualization is \
         switched on in the firmware or offered to this machine by its host"
    )]
    Missing {
        /// The path tried.
        path: PathBuf,
    },
    /// The user may not open it for reading and writing.
    #[error("may not open {path}: run as root, or add the user to the group that owns it (usually kvm)")]
    Permission {
        /// The path tried.
        path: PathBuf,
    },
    /// It opens, but is something else.
    #[error("{path} is not a KVM device: give the path of one, which is /dev/kvm unless it was moved")]
    NotKvm {
        /// The path tried.
        path: PathBuf,
    },
    /// KVM's interface is not the one that has been stable since Linux 2.6.22.
    #[error(
        "{path} has version {version} of the KVM API and version {KVM_API_VERSION} is needed: use Linux 6.1 or later"
    )]
    Version {
        /// The path tried.
        path: PathBuf,
        /// What the device says.
        version: i32,
    },
    /// Anything else.
    #[error("cannot open {path}: {errno}")]
    Other {
        /// The path tried.
        path: PathBuf,
        /// Why it cannot be opened.
        errno: Errno,
    },
}

impl OpenError {
    /// What open(2) or `KVM_GET_API_VERSION` has refused.
    pub(super) fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => OpenError::Missing { path },
            Errno::EACCES | Errno::EPERM => OpenError::Permission { path },
            Errno::ENOTTY => OpenError::NotKvm { path },
            errno => OpenError::Other { path, errno },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_each() {
        let error = KvmError::of("KVM_CREATE_VCPU", Object::Vcpu(3))(Errno::EEXIST);
        assert_eq!(error.to_string(), "KVM_CREATE_VCPU for vCPU 3 failed: EEXIST (File exists)");
        let path = Path::new("/dev/kvm");
        assert!(OpenError::new(path, Errno::EACCES).to_string().contains("add the user to the group"));
        assert!(OpenError::new(path, Errno::ENXIO).to_string().starts_with("/dev/kvm does not exist: load"));
        assert!(OpenError::new(path, Errno::EMFILE).to_string().ends_with("EMFILE (Too many open files)"));
    }
}
