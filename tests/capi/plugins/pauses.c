/* Pauses: the cookie arrives, a later one replaces it, a paused vCPU can be paused again, none gets lost. */
#include "check.h"

GUEST(spins, "2: jmp 2b");

/* Waits for a pause that carries `user`; it is not resumed. */
static void expect_pause(struct crosvm_vcpu *vcpu, const void *user)
{
	struct crosvm_vcpu_event event;

	OK(crosvm_vcpu_wait(vcpu, &event));
	GIVES(CROSVM_VCPU_EVENT_KIND_PAUSED, event.kind);
	CHECK(event.user == user);
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0), *other = vcpu_of(m.vm, 1);
	struct kvm_regs regs;
	int here, there, third;

	LOAD(m, CODE, spins);
	/* Before the start it is kept; what names nobody does nothing. */
	OK(crosvm_start(m.vm));
	begin(vcpu);
	begin(other);
	OK(crosvm_pause_vcpus(m.vm, ~3ull, &here));
	OK(crosvm_pause_vcpus(m.vm, 0, &here));

	OK(crosvm_pause_vcpus(m.vm, 3, &here));
	expect_pause(vcpu, &here);
	expect_pause(other, &here);
	OK(crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES(CODE, regs.rip);

	/* While paused: the pause comes after the resume, with the last cookie. */
	OK(crosvm_pause_vcpus(m.vm, 1, &here));
	OK(crosvm_pause_vcpus(m.vm, 1, &there));
	OK(crosvm_vcpu_resume(vcpu));
	expect_pause(vcpu, &there);
	OK(crosvm_vcpu_resume(vcpu));
	OK(crosvm_vcpu_resume(other));

	/* Right when a vCPU leaves a pause. */
	for (int round = 0; round < 200; round++) {
		OK(crosvm_pause_vcpus(m.vm, 2, &third));
		expect_pause(other, &third);
		OK(crosvm_vcpu_resume(other));
	}
	OK(crosvm_pause_vcpus(m.vm, 1, NULL));
	expect_pause(vcpu, NULL);
	return 0;
}
