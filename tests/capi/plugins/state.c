/* State beyond the common registers: XCRs, local APIC, pending events, and the capabilities of a vCPU. */
#include "check.h"

static void xcrs(struct crosvm_vcpu *vcpu)
{
	struct kvm_xcrs xcrs, back;

	OK(crosvm_vcpu_get_xcrs(vcpu, &xcrs));
	GIVES(1, xcrs.nr_xcrs);
	xcrs.xcrs[0].value = 3; /* x87 and SSE */
	OK(crosvm_vcpu_set_xcrs(vcpu, &xcrs));
	OK(crosvm_vcpu_get_xcrs(vcpu, &back));
	GIVES(3, back.xcrs[0].value);
	xcrs.xcrs[0].value = 2; /* SSE without x87 is no state */
	GIVES(-EINVAL, crosvm_vcpu_set_xcrs(vcpu, &xcrs));
}

static void lapic(struct crosvm_vcpu *vcpu)
{
	struct kvm_lapic_state lapic;

	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	lapic.regs[0x80] = 0x20; /* task priority */
	OK(crosvm_vcpu_set_lapic_state(vcpu, &lapic));
	memset(&lapic, 0, sizeof(lapic));
	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	GIVES(0x20, lapic.regs[0x80]);
}

static void events(struct crosvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	OK(crosvm_vcpu_get_vcpu_events(vcpu, &events));
	GIVES(0, events.nmi.masked);
	events.nmi.masked = 1;
	OK(crosvm_vcpu_set_vcpu_events(vcpu, &events));
	memset(&events, 0, sizeof(events));
	OK(crosvm_vcpu_get_vcpu_events(vcpu, &events));
	GIVES(1, events.nmi.masked);
	events.flags = 1u << 31;
	GIVES(-EINVAL, crosvm_vcpu_set_vcpu_events(vcpu, &events));
}

static void capabilities(struct crosvm *vm, struct crosvm_vcpu *vcpu)
{
	const uint32_t good[] = { KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2 };
	uint64_t none[4] = { 0 }, some[4] = { 0, 0, 0, 1 };
	bool has;

	for (int i = 0; i < 2; i++) {
		GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, good[i], 1, none));
		GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, good[i], 0, some));
		OK(crosvm_check_extension(vm, good[i], &has));
		GIVES(has ? 0 : -EINVAL, crosvm_vcpu_enable_capability(vcpu, good[i], 0, none));
		GIVES(-EINVAL, crosvm_enable_capability(vm, good[i], 0, none));
	}
	GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_SPLIT_IRQCHIP, 0, none));
	GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, 0, 0, none));
	GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, 0xffffffff, 0, none));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	static struct kvm_cpuid_entry2 leaves[256];
	uint32_t count;

	OK(crosvm_get_supported_cpuid(m.vm, 256, leaves, &count));
	OK(crosvm_start(m.vm));
	wait_init(vcpu);
	OK(crosvm_vcpu_set_cpuid(vcpu, count, leaves));
	xcrs(vcpu);
	lapic(vcpu);
	events(vcpu);
	capabilities(m.vm, vcpu);
	return 0;
}
