/* Hints: registers that travel with one access, what the details add, and that nothing else changes. */
#include "check.h"

GUEST(guest, "xor ecx, ecx; mov eax, 7; mov ebx, 8; 2: inc ecx; out 0x10, al; in al, 0x10; out 0x11, al; jmp 2b");

/* One round of the guest; in the hinted write everything is got, and rbx is set to `next`. */
static void round_of(struct crosvm_vcpu *vcpu, uint64_t number, uint64_t next)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;

	expect(vcpu, IOPORT, 0x10, 1, 1);
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES((long long)number, regs.rcx);
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES(0, sregs.cs.base);
	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	regs.rbx = next;
	OK(crosvm_vcpu_set_regs(vcpu, &regs));
	sregs.fs.base = next << 4;
	sregs.fs.selector = (uint16_t)next;
	OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
	debugregs.db[1] = next << 8;
	OK(crosvm_vcpu_set_debugregs(vcpu, &debugregs));
	OK(crosvm_vcpu_resume(vcpu));

	expect(vcpu, IOPORT, 0x10, 1, 0);
	OK(crosvm_vcpu_resume(vcpu));
	expect(vcpu, IOPORT, 0x11, 1, 1);
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES((long long)next, regs.rbx);
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES((long long)(next << 4), sregs.fs.base);
	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	GIVES((long long)(next << 8), debugregs.db[1]);
	OK(crosvm_vcpu_resume(vcpu));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_hint_detail details[] = { { .match_rbx = true, .rbx = 99, .send_sregs = true, .send_debugregs = true },
						{ .match_rbx = true, .rbx = 20, .send_sregs = true },
						{ .send_debugregs = true } };
	struct crosvm_hint hint = { .address_space = IOPORT,
				    .address_flags = CROSVM_HINT_ON_WRITE,
				    .details_count = 3,
				    .address = 0x10,
				    .details = details };

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 2));
	OK(crosvm_set_hypercall_hint(m.vm, 1, &hint));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	/* rbx is 8, then what the round before set: the third detail, the second, the first. */
	round_of(vcpu, 1, 20);
	round_of(vcpu, 2, 99);
	round_of(vcpu, 3, 5);
	hint.details_count = 0;
	hint.details = NULL;
	OK(crosvm_set_hypercall_hint(m.vm, 1, &hint));
	round_of(vcpu, 4, 6);
	hint.address_flags = 0;
	OK(crosvm_set_hypercall_hint(m.vm, 1, &hint));
	round_of(vcpu, 5, 7);
	OK(crosvm_set_hypercall_hint(m.vm, 0, NULL));
	round_of(vcpu, 6, 8);
	return 0;
}
