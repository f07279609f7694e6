//! A vCPU's register files on their way between KVM and the plugin.
//!
//! Where KVM has `KVM_CAP_SYNC_REGS`, general and segment registers come and go through the run page, which costs no further
//! system call. Everything else, and everything on older kernels, takes the ioctls.

use bytemuck::{Pod, Zeroable, bytes_of, bytes_of_mut};
use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_cpuid_entry2,
    kvm_enable_cap, kvm_msr_entry, kvm_xsave,
};

use crate::kvm::{KvmError, Vcpu};
use crate::sys::Errno;
use outboard_wire::block::Files;
use outboard_wire::kvm_abi::{
    Capability, CpuidEntry, Debugregs, File, Fpu, GuestDebug, Lapic, MpState, MsrEntry, Regs, Sregs, VcpuEvents, Xcrs,
    Xsave,
};
use outboard_wire::line::{Answer, Event, FILE_DEBUGREGS, FILE_REGS, FILE_SREGS, answer_kind, event_kind};
use outboard_wire::vmm_end::VmmEnd;
use outboard_wire::words;

/// What is known of a vCPU's registers outside of KVM.
#[derive(Debug)]
pub struct Registers {
    /// `FILE_*` bits that KVM can exchange through the run page.
    synced: u8,
    /// `FILE_*` bits that the plugin wants with every event.
    wanted: u8,
    /// `FILE_*` bits whose copy in the run page holds what the vCPU has now.
    fresh: u8,
}

impl Registers {
    /// `sync_caps` is what `KVM_CAP_SYNC_REGS` gives: the files that KVM can exchange.
    pub fn new(sync_caps: i32) -> Registers {
        let has = |bit: u32, file| if sync_caps as u32 & bit != 0 { file } else { 0 };
        let synced = has(KVM_SYNC_X86_REGS, FILE_REGS) | has(KVM_SYNC_X86_SREGS, FILE_SREGS);
        Registers { synced, wanted: 0, fresh: 0 }
    }

    /// Files that the plugin wants with every event.
    #[inline]
    pub fn wanted(&self) -> u8 {
        self.wanted
    }

    /// Tells KVM which files the next exit shall leave in the run page; `hinted` are those that a hint may need.
    #[inline]
    pub fn prepare_run(&mut self, vcpu: &mut Vcpu, hinted: u8) {
        self.fresh = (self.wanted | hinted) & self.synced;
        let mask = sync_mask(self.fresh);
        if vcpu.page().valid_regs() != mask {
            vcpu.page_mut().set_valid_regs(mask);
        }
    }

    /// The registers that hints compare: rax, rbx, rcx, rdx.
    ///
    /// # Errors
    /// What `KVM_GET_REGS` says.
    pub fn compared(&self, vcpu: &Vcpu) -> Result<[u64; 4], KvmError> {
        let regs = self.regs(vcpu)?;
        Ok([regs.rax, regs.rbx, regs.rcx, regs.rdx])
    }

    /// Copies files into the block, to travel with the next event. Returns the files that could be read.
    pub fn attach(&self, vcpu: &Vcpu, files: u8, block: &Files) -> u8 {
        let mut attached = 0;
        if files & FILE_REGS != 0
            && let Ok(regs) = self.regs(vcpu)
        {
            words::store(&block.regs, bytes_of(&Regs(regs)));
            attached |= FILE_REGS;
        }
        if files & FILE_SREGS != 0
            && let Ok(sregs) = self.sregs(vcpu)
        {
            words::store(&block.sregs, bytes_of(&Sregs(sregs)));
            attached |= FILE_SREGS;
        }
        if files & FILE_DEBUGREGS != 0
            && let Ok(debugregs) = vcpu.debugregs()
        {
            words::store(&block.debugregs, bytes_of(&Debugregs(debugregs)));
            attached |= FILE_DEBUGREGS;
        }
        attached
    }

    /// Takes over what a resume says: the files it sets and those it wants from now on.
    ///
    /// `reentering` means that `KVM_RUN` follows in any case, so general registers may wait in the run page for it.
    ///
    /// # Errors
    /// What KVM says of files that it does not accept. The others are set all the same.
    pub fn resume(
        &mut self,
        vcpu: &mut Vcpu,
        answer: &Answer,
        block: &Files,
        reentering: bool,
    ) -> Result<(), KvmError> {
        self.wanted = answer.want;
        let mut done = Ok(());
        if answer.files == 0 {
            return done;
        }
        self.fresh = 0;
        if answer.files & FILE_REGS != 0 {
            let Regs(regs) = take(&block.regs);
            if reentering && self.synced & FILE_REGS != 0 {
                *vcpu.page_mut().regs_mut() = regs;
                vcpu.page_mut().mark_dirty_regs(KVM_SYNC_X86_REGS.into());
            } else {
                done = done.and(vcpu.set_regs(&regs));
            }
        }
        if answer.files & FILE_SREGS != 0 {
            done = done.and(vcpu.set_sregs(&take::<Sregs>(&block.sregs).0));
        }
        if answer.files & FILE_DEBUGREGS != 0 {
            done = done.and(vcpu.set_debugregs(&take::<Debugregs>(&block.debugregs).0));
        }
        done
    }

    /// Carries out a get or set command and makes the reply; its data is in the block already.
    pub fn command(&mut self, vcpu: &mut Vcpu, answer: &Answer, end: &VmmEnd) -> Event {
        let done = match (answer.kind, File::from_number(answer.file)) {
            (_, None) => Err(Errno::ENOTTY),
            (answer_kind::GET, Some(file)) => self.get(vcpu, file, answer, end),
            (_, Some(file)) => self.set(vcpu, file, answer, end),
        };
        let (status, length, count) = match done {
            Ok((length, count)) => (0, length as u32, count as u64),
            Err(errno) => (-errno.0, 0, 0),
        };
        Event { kind: event_kind::REPLY, status, length, count, ..Event::default() }
    }

    fn get(&mut self, vcpu: &Vcpu, file: File, answer: &Answer, end: &VmmEnd) -> Result<(usize, usize), Errno> {
        match file {
            File::Regs => give(end, &Regs(self.regs(vcpu).map_err(errno)?)),
            File::Sregs => give(end, &Sregs(self.sregs(vcpu).map_err(errno)?)),
            File::Debugregs => give(end, &Debugregs(vcpu.debugregs().map_err(errno)?)),
            File::Fpu => give(end, &Fpu(vcpu.fpu().map_err(errno)?)),
            File::MpState => give(end, &MpState(vcpu.mp_state().map_err(errno)?)),
            File::Xcrs => give(end, &Xcrs(vcpu.xcrs().map_err(errno)?)),
            File::Lapic => give(end, &Lapic(vcpu.lapic().map_err(errno)?)),
            File::VcpuEvents => give(end, &VcpuEvents(vcpu.vcpu_events().map_err(errno)?)),
            File::Xsave => give(end, &Xsave(vcpu.xsave().map_err(errno)?.region)),
            File::Capability | File::GuestDebug => Err(Errno::EINVAL),
            File::Msrs => {
                let mut entries: Vec<kvm_msr_entry> =
                    take_list::<MsrEntry>(file, answer, end)?.map(|msr| msr.0).collect();
                let count = vcpu.msrs(&mut entries).map_err(errno)?;
                give_list(end, entries[..count].iter().map(|msr| MsrEntry(*msr)))
            }
            File::Cpuid => give_list(end, vcpu.cpuid2().map_err(errno)?.into_iter().map(CpuidEntry)),
        }
    }

    fn set(&mut self, vcpu: &Vcpu, file: File, answer: &Answer, end: &VmmEnd) -> Result<(usize, usize), Errno> {
        let block = end.to_vmm();
        if file.max_entries() == 1 && answer.length as usize != file.entry_size() {
            return Err(Errno::EINVAL);
        }
        // Whatever KVM makes of it, the copy in the run page is no longer what the vCPU has.
        self.fresh = 0;
        match file {
            File::Regs => vcpu.set_regs(&take::<Regs>(&block.bulk).0),
            File::Sregs => vcpu.set_sregs(&take::<Sregs>(&block.bulk).0),
            File::Debugregs => vcpu.set_debugregs(&take::<Debugregs>(&block.bulk).0),
            File::Fpu => vcpu.set_fpu(&take::<Fpu>(&block.bulk).0),
            File::MpState => vcpu.set_mp_state(&take::<MpState>(&block.bulk).0),
            File::Xcrs => vcpu.set_xcrs(&take::<Xcrs>(&block.bulk).0),
            File::Lapic => vcpu.set_lapic(&take::<Lapic>(&block.bulk).0),
            File::VcpuEvents => vcpu.set_vcpu_events(&take::<VcpuEvents>(&block.bulk).0),
            File::Xsave => {
                let Xsave(region) = take(&block.bulk);
                vcpu.set_xsave(&kvm_xsave { region, ..kvm_xsave::default() })
            }
            File::GuestDebug => vcpu.set_guest_debug(&take::<GuestDebug>(&block.bulk).0),
            File::Capability => return enable(vcpu, &take::<Capability>(&block.bulk).0).map(|()| (0, 0)),
            File::Msrs => {
                let entries: Vec<kvm_msr_entry> = take_list::<MsrEntry>(file, answer, end)?.map(|msr| msr.0).collect();
                return vcpu.set_msrs(&entries).map(|count| (0, count)).map_err(errno);
            }
            File::Cpuid => {
                let entries: Vec<kvm_cpuid_entry2> =
                    take_list::<CpuidEntry>(file, answer, end)?.map(|leaf| leaf.0).collect();
                vcpu.set_cpuid2(&entries)
            }
        }
        .map(|()| (0, 0))
        .map_err(errno)
    }

    fn regs(&self, vcpu: &Vcpu) -> Result<kvm_bindings::kvm_regs, KvmError> {
        if self.fresh & FILE_REGS != 0 { Ok(*vcpu.page().regs()) } else { vcpu.regs() }
    }

    fn sregs(&self, vcpu: &Vcpu) -> Result<kvm_bindings::kvm_sregs, KvmError> {
        if self.fresh & FILE_SREGS != 0 { Ok(*vcpu.page().sregs()) } else { vcpu.sregs() }
    }
}

fn sync_mask(files: u8) -> u64 {
    let bit = |file, mask: u32| if files & file != 0 { u64::from(mask) } else { 0 };
    bit(FILE_REGS, KVM_SYNC_X86_REGS) | bit(FILE_SREGS, KVM_SYNC_X86_SREGS)
}

/// Switches a capability of the vCPU on: one of those that have to do with the vCPU alone and take no argument.
fn enable(vcpu: &Vcpu, request: &kvm_enable_cap) -> Result<(), Errno> {
    let plain = request.flags == 0 && request.args == [0; 4] && request.pad == [0; 64];
    match request.cap {
        KVM_CAP_HYPERV_SYNIC | KVM_CAP_HYPERV_SYNIC2 if plain => vcpu.enable_cap(request.cap, 0, [0; 4]).map_err(errno),
        _ => Err(Errno::EINVAL),
    }
}

fn errno(error: KvmError) -> Errno {
    error.errno
}

/// Copies a file out of memory that the plugin writes.
fn take<T: Pod + Zeroable>(from: &[core::sync::atomic::AtomicU64]) -> T {
    let mut value = T::zeroed();
    words::load(from, bytes_of_mut(&mut value));
    value
}

/// Copies a list out of the plugin's bulk area, after checking its length.
fn take_list<T: Pod>(file: File, answer: &Answer, end: &VmmEnd) -> Result<impl Iterator<Item = T>, Errno> {
    let count = usize::try_from(answer.count).unwrap_or(usize::MAX);
    if count > file.max_entries() {
        return Err(Errno::E2BIG);
    }
    if answer.length as usize != count * file.entry_size() {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count * file.entry_size()];
    words::load(&end.to_vmm().bulk, &mut bytes);
    let size = file.entry_size();
    Ok((0..count).map(move |at| bytemuck::pod_read_unaligned(&bytes[at * size..][..size])))
}

fn give<T: Pod>(end: &VmmEnd, value: &T) -> Result<(usize, usize), Errno> {
    words::store(&end.to_plugin().bulk, bytes_of(value));
    Ok((size_of::<T>(), 1))
}

fn give_list<T: Pod>(end: &VmmEnd, entries: impl Iterator<Item = T>) -> Result<(usize, usize), Errno> {
    let entries: Vec<T> = entries.collect();
    let bytes = bytemuck::cast_slice::<T, u8>(&entries);
    if bytes.len() > outboard_wire::limits::MAX_BULK {
        return Err(Errno::E2BIG);
    }
    words::store(&end.to_plugin().bulk, bytes);
    Ok((bytes.len(), entries.len()))
}
