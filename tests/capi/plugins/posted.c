/* Asynchronous writes: each value arrives, in order, before what the guest does next; reads there do not arrive. */
#include "check.h"

#define WRITES 2000

GUEST(guest, "mov cx, 2000; xor ax, ax; 2: out 0x10, ax; inc ax; dec cx; jnz 2b;"
	     "mov ax, 0xffff; in ax, 0x10; out 0x30, ax; out 0x30, ax; hlt");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_vcpu_event event;
	struct kvm_regs regs;

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_async_write_range(m.vm, IOPORT, 0x10, 1));
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x30, 1));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	for (uint64_t i = 0; i < WRITES; i++) {
		event = expect(vcpu, IOPORT, 0x10, 2, 1);
		GIVES(1, event.io_access.no_resume);
		GIVES((long long)i, value_of(&event));
		if (i == 100) {
			/* The vCPU runs: nothing to resume, no registers to get. */
			GIVES(-EPROTO, crosvm_vcpu_resume(vcpu));
			GIVES(-EPROTO, crosvm_vcpu_get_regs(vcpu, &regs));
			usleep(100000);
		}
	}
	expect_write(vcpu, IOPORT, 0x30, 2, 0);
	event = expect(vcpu, IOPORT, 0x30, 2, 1);
	OK(crosvm_reserve_async_write_range(m.vm, IOPORT, 0x10, 0));
	OK(crosvm_vcpu_resume(vcpu));
	return 0;
}
