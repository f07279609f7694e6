/* Register files at INIT and at an access: what is set is what the guest has, and what the guest does is what is got. */
#include "check.h"

GUEST(guest, "mov bx, 0x1234; out 0x10, al; out 0x11, ax; hlt");

static void at_init(struct crosvm_vcpu *vcpu)
{
	struct kvm_regs regs, back;
	struct kvm_sregs sregs, sregs_back;
	struct kvm_debugregs debugregs, debugregs_back;
	struct kvm_fpu fpu, fpu_back;
	struct kvm_mp_state state = { .mp_state = 77 };

	OK(crosvm_vcpu_get_mp_state(vcpu, &state));
	GIVES(KVM_MP_STATE_RUNNABLE, state.mp_state);
	state.mp_state = KVM_MP_STATE_HALTED;
	OK(crosvm_vcpu_set_mp_state(vcpu, &state));
	state.mp_state = 77;
	OK(crosvm_vcpu_get_mp_state(vcpu, &state));
	GIVES(KVM_MP_STATE_HALTED, state.mp_state);
	state.mp_state = 77;
	CHECK(crosvm_vcpu_set_mp_state(vcpu, &state) < 0);

	/* Out of reset. */
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES(0xfff0, regs.rip);
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES(0xffff0000, sregs.cs.base);
	GIVES(0xf000, sregs.cs.selector);

	sregs.ds.base = 0x450;
	sregs.ds.selector = 0x45;
	OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs_back));
	GIVES(0x450, sregs_back.ds.base);
	GIVES(0x45, sregs_back.ds.selector);

	/* A get after a set sees what KVM made of it: bit 1 of the flags is always set. */
	memset(&regs, 0, sizeof(regs));
	regs.rax = 0xa5;
	regs.r15 = 0x123456789abcdef0;
	OK(crosvm_vcpu_set_regs(vcpu, &regs));
	OK(crosvm_vcpu_get_regs(vcpu, &back));
	GIVES(0xa5, back.rax);
	GIVES(0x123456789abcdef0, (long long)back.r15);
	GIVES(2, back.rflags);

	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	debugregs.db[0] = 0x5678;
	debugregs.db[3] = 0x9abc;
	OK(crosvm_vcpu_set_debugregs(vcpu, &debugregs));
	OK(crosvm_vcpu_get_debugregs(vcpu, &debugregs_back));
	GIVES(0x5678, debugregs_back.db[0]);
	GIVES(0x9abc, debugregs_back.db[3]);

	OK(crosvm_vcpu_get_fpu(vcpu, &fpu));
	fpu.fcw = 0x27f;
	fpu.xmm[3][5] = 0x99;
	OK(crosvm_vcpu_set_fpu(vcpu, &fpu));
	OK(crosvm_vcpu_get_fpu(vcpu, &fpu_back));
	GIVES(0x27f, fpu_back.fcw);
	GIVES(0x99, fpu_back.xmm[3][5]);
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs;
	struct crosvm_vcpu_event event;

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 2));
	OK(crosvm_start(m.vm));
	wait_init(vcpu);
	at_init(vcpu);
	regs.rip = CODE;
	regs.rax = 0x77;
	enter_at(vcpu, regs);
	OK(crosvm_vcpu_resume(vcpu));

	/* The guest began with what INIT set, and what it changed is there. */
	event = expect(vcpu, IOPORT, 0x10, 1, 1);
	GIVES(0x77, value_of(&event));
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES(0x1234, regs.rbx);
	GIVES(0x77, regs.rax);
	GIVES(STACK, regs.rsp);
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES(0, sregs.cs.base);
	/* The data of the event stays in place meanwhile. */
	GIVES(0x77, value_of(&event));
	regs.rax = 0xbeef;
	OK(crosvm_vcpu_set_regs(vcpu, &regs));
	OK(crosvm_vcpu_resume(vcpu));

	expect_write(vcpu, IOPORT, 0x11, 2, 0xbeef);
	return 0;
}
