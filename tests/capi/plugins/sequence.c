/* What comes too early or too late is refused with -EPROTO, and a vCPU number past the last one with -ENOENT. */
#include "check.h"

GUEST(reads, "2: in al, 0x10; jmp 2b");

static struct crosvm_vcpu *waited;

/* Every request that needs an event in hand. */
static void all_refused(struct crosvm_vcpu *vcpu)
{
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };
	struct kvm_debugregs debugregs = { 0 };
	struct kvm_fpu fpu = { 0 };
	struct kvm_mp_state mp_state = { 0 };
	struct kvm_msr_entry msr = { 0 };
	struct kvm_cpuid_entry2 cpuid = { 0 };
	struct kvm_xcrs xcrs = { 0 };
	struct kvm_lapic_state lapic = { 0 };
	struct kvm_vcpu_events events = { 0 };
	uint64_t args[4] = { 0 };
	uint32_t count = 77;

	GIVES(-EPROTO, crosvm_vcpu_resume(vcpu));
	GIVES(-EPROTO, crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES(-EPROTO, crosvm_vcpu_set_regs(vcpu, &regs));
	GIVES(-EPROTO, crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES(-EPROTO, crosvm_vcpu_set_sregs(vcpu, &sregs));
	GIVES(-EPROTO, crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	GIVES(-EPROTO, crosvm_vcpu_set_debugregs(vcpu, &debugregs));
	GIVES(-EPROTO, crosvm_vcpu_get_fpu(vcpu, &fpu));
	GIVES(-EPROTO, crosvm_vcpu_set_fpu(vcpu, &fpu));
	GIVES(-EPROTO, crosvm_vcpu_get_mp_state(vcpu, &mp_state));
	GIVES(-EPROTO, crosvm_vcpu_set_mp_state(vcpu, &mp_state));
	GIVES(-EPROTO, crosvm_vcpu_get_msrs(vcpu, 1, &msr, &count));
	GIVES(-EPROTO, crosvm_vcpu_set_msrs(vcpu, 1, &msr));
	GIVES(-EPROTO, crosvm_vcpu_set_cpuid(vcpu, 1, &cpuid));
	GIVES(-EPROTO, crosvm_vcpu_get_xcrs(vcpu, &xcrs));
	GIVES(-EPROTO, crosvm_vcpu_set_xcrs(vcpu, &xcrs));
	GIVES(-EPROTO, crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	GIVES(-EPROTO, crosvm_vcpu_set_lapic_state(vcpu, &lapic));
	GIVES(-EPROTO, crosvm_vcpu_get_vcpu_events(vcpu, &events));
	GIVES(-EPROTO, crosvm_vcpu_set_vcpu_events(vcpu, &events));
	GIVES(-EPROTO, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 0, args));
	GIVES(-EPROTO, crosvm_get_hyperv_cpuid(vcpu, 1, &cpuid, &count));
	GIVES(77, count);
}

static void *waits(void *done)
{
	wait_init(waited);
	OK(eventfd_write(*(int *)done, 1));
	return NULL;
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0), *none = NULL;
	struct crosvm_vcpu_event event;
	struct kvm_regs regs;
	pthread_t waiter;
	int done = eventfd(0, 0);

	LOAD(m, CODE, reads);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 1));
	GIVES(-ENOENT, crosvm_get_vcpu(m.vm, 2, &none));
	CHECK(none == NULL);

	/* Before the first wait, before and after the start. */
	all_refused(vcpu);
	waited = vcpu_of(m.vm, 1);
	waiter = thread(waits, &done);
	/* Another thread waits: there is no event in hand either. */
	while (crosvm_vcpu_get_regs(waited, &regs) != -EPROTO)
		;
	usleep(20000);
	all_refused(waited);
	GIVES(-EBUSY, crosvm_vcpu_wait(waited, &event));
	OK(crosvm_start(m.vm));
	join(waiter);
	CHECK(rings(done, 0));
	/* The event that the thread took is in hand, for any thread. */
	OK(crosvm_vcpu_get_regs(waited, &regs));
	OK(crosvm_vcpu_resume(waited));

	usleep(20000);
	all_refused(vcpu);
	begin(vcpu);
	/* The read may have happened by now, but it was not delivered. */
	usleep(20000);
	all_refused(vcpu);
	for (int round = 0; round < 3; round++) {
		event = expect(vcpu, IOPORT, 0x10, 1, 0);
		memset(&event, 0xee, sizeof(event));
		GIVES(-EPROTO, crosvm_vcpu_wait(vcpu, &event));
		GIVES(0xeeeeeeee, event.kind);
		OK(crosvm_vcpu_get_regs(vcpu, &regs));
		OK(crosvm_vcpu_resume(vcpu));
		GIVES(-EPROTO, crosvm_vcpu_resume(vcpu));
		all_refused(vcpu);
	}
	return 0;
}
