//! The KVM device: what the host offers, and the way to a VM.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kvm_bindings::{KVM_API_VERSION, kvm_cpuid_entry2};

use super::error::{KvmError, Object, OpenError};
use super::vm::Vm;
use crate::sys::Errno;
use crate::sys::ioctl;
use crate::sys::kvm_requests::*;

/// The open KVM device.
#[derive(Debug)]
pub struct System {
    device: File,
}

impl System {
    /// Opens the device, normally `/dev/kvm`, and checks that it is one and speaks the stable API.
    ///
    /// # Errors
    /// One for each thing to do about it: see [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open = OpenOptions::new().read(true).write(true).open(path);
        let device = open.map_err(|error| OpenError::new(path, error.into()))?;
        let system = Self { device };
        match ioctl::no_arg(system.as_fd(), KVM_GET_API_VERSION) {
            Ok(version) if version == KVM_API_VERSION as i32 => Ok(system),
            Ok(version) => Err(OpenError::Version { path: path.to_owned(), version }),
            Err(errno) => Err(OpenError::new(path, errno)),
        }
    }

    /// The same device by another descriptor.
    ///
    /// # Errors
    /// `EMFILE` if there is none left.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self { device: self.device.try_clone()? })
    }

    /// The version of the API, always 12.
    ///
    /// # Errors
    /// None that can happen.
    pub fn api_version(&self) -> Result<i32, KvmError> {
        ioctl::no_arg(self.as_fd(), KVM_GET_API_VERSION).map_err(of(KVM_GET_API_VERSION.name()))
    }

    /// What this capability (`KVM_CAP_*`) is worth: 0 if it is missing or its number unknown. A VM may
    /// answer differently, see [`Vm::check_extension`].
    ///
    /// # Errors
    /// None that can happen.
    pub fn check_extension(&self, cap: u32) -> Result<i32, KvmError> {
        let answer = ioctl::value(self.as_fd(), KVM_CHECK_EXTENSION, cap.into());
        answer.map_err(of(KVM_CHECK_EXTENSION.name()))
    }

    /// The size in bytes of what is mapped from each vCPU.
    ///
    /// # Errors
    /// None that can happen.
    pub fn vcpu_mmap_size(&self) -> Result<usize, KvmError> {
        let size = ioctl::no_arg(self.as_fd(), KVM_GET_VCPU_MMAP_SIZE);
        size.map(|size| size as usize).map_err(of(KVM_GET_VCPU_MMAP_SIZE.name()))
    }

    /// Creates a VM without memory, vCPUs or devices.
    ///
    /// # Errors
    /// Those of `KVM_CREATE_VM`: `ENOMEM`, or `EBUSY` if another hypervisor holds the hardware.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        Vm::new(self.as_fd(), self.vcpu_mmap_size()?)
    }

    /// The CPUID leaves that hardware and KVM support; what [`Vcpu::set_cpuid2`](super::Vcpu::set_cpuid2)
    /// takes.
    ///
    /// # Errors
    /// Those of the request.
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_SUPPORTED_CPUID).map_err(of(KVM_GET_SUPPORTED_CPUID.name()))
    }

    /// The CPUID leaves with features that KVM emulates, whatever the hardware has.
    ///
    /// # Errors
    /// Those of the request.
    pub fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_EMULATED_CPUID).map_err(of(KVM_GET_EMULATED_CPUID.name()))
    }

    /// The CPUID leaves with which a guest can be offered the Hyper-V interface.
    ///
    /// # Errors
    /// `EINVAL` or `ENOTTY` where KVM has none.
    pub fn supported_hv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_SUPPORTED_HV_CPUID).map_err(of(KVM_GET_SUPPORTED_HV_CPUID.name()))
    }

    /// The MSRs that a guest can have, to save and restore.
    ///
    /// # Errors
    /// Those of the request.
    pub fn msr_index_list(&self) -> Result<Vec<u32>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_MSR_INDEX_LIST).map_err(of(KVM_GET_MSR_INDEX_LIST.name()))
    }

    /// The MSRs that describe features of the host's CPUs.
    ///
    /// # Errors
    /// Those of the request.
    pub fn msr_feature_index_list(&self) -> Result<Vec<u32>, KvmError> {
        let list = ioctl::read_table(self.as_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST);
        list.map_err(of(KVM_GET_MSR_FEATURE_INDEX_LIST.name()))
    }
}

impl AsFd for System {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn of(call: &'static str) -> impl FnOnce(Errno) -> KvmError {
    KvmError::of(call, Object::System)
}
