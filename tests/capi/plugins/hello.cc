// A plugin in C++: the guest writes one byte.
#include <crosvm.h>

#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

int main()
{
	static const unsigned char code[] = { 0xb0, 0x2a, 0xe6, 0x10, 0xf4 }; // mov al, 42; out 0x10, al; hlt
	crosvm *vm = nullptr;
	crosvm_memory *slot = nullptr;
	crosvm_vcpu *vcpu = nullptr;
	crosvm_vcpu_event event;
	int fd = memfd_create("guest", MFD_ALLOW_SEALING);

	if (ftruncate(fd, 0x10000) || pwrite(fd, code, sizeof(code), 0x1000) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return 2;
	if (crosvm_connect(&vm) || crosvm_create_memory(vm, fd, 0, 0x10000, 0, false, false, &slot) ||
	    crosvm_reserve_range(vm, CROSVM_ADDRESS_SPACE_IOPORT, 0x10, 1) || crosvm_start(vm) ||
	    crosvm_get_vcpu(vm, 0, &vcpu))
		return 3;
	while (crosvm_vcpu_wait(vcpu, &event) == 0) {
		if (event.kind == CROSVM_VCPU_EVENT_KIND_INIT) {
			kvm_sregs sregs;
			kvm_regs regs = {};
			if (crosvm_vcpu_get_sregs(vcpu, &sregs))
				return 4;
			sregs.cs.base = 0;
			sregs.cs.selector = 0;
			regs.rip = 0x1000;
			regs.rflags = 2;
			if (crosvm_vcpu_set_sregs(vcpu, &sregs) || crosvm_vcpu_set_regs(vcpu, &regs))
				return 5;
		} else if (event.kind == CROSVM_VCPU_EVENT_KIND_IO_ACCESS) {
			if (event.io_access.data[0] != 42)
				return 6;
			std::printf("hello from C++\n");
			return 0;
		}
		if (crosvm_vcpu_resume(vcpu))
			return 7;
	}
	return 8;
}
