/* Lists that the host gives: how many there are, what fits, and that nothing is written where it does not. */
#include "check.h"

typedef int (*cpuid_list)(struct crosvm *, uint32_t, struct kvm_cpuid_entry2 *, uint32_t *);

static uint32_t cpuid(struct crosvm *vm, cpuid_list list, struct kvm_cpuid_entry2 *all)
{
	uint32_t count = 0, again = 0;

	/* Asked with no room, it says how many there are. */
	int status = list(vm, 0, NULL, &count);
	if (count == 0) {
		GIVES(0, status);
		return 0;
	}
	GIVES(-E2BIG, status);
	CHECK(count <= 256);
	memset(all, 0xee, 257 * sizeof(*all));
	GIVES(-E2BIG, list(vm, count - 1, all, &again));
	GIVES(count, again);
	GIVES(0xeeeeeeee, all[0].function);
	again = 0;
	OK(list(vm, count, all, &again));
	GIVES(count, again);
	GIVES(0xeeeeeeee, all[count].function);
	memset(all, 0xee, 257 * sizeof(*all));
	OK(list(vm, 257, all, &again));
	GIVES(count, again);
	GIVES(0xeeeeeeee, all[count].function);
	return count;
}

static void hyperv(struct crosvm *vm, struct crosvm_vcpu *vcpu, struct kvm_cpuid_entry2 *all)
{
	uint32_t count = 77;
	bool has;

	OK(crosvm_check_extension(vm, KVM_CAP_SYS_HYPERV_CPUID, &has));
	if (!has) {
		CHECK(crosvm_get_hyperv_cpuid(vcpu, 257, all, &count) < 0);
		GIVES(77, count);
		return;
	}
	OK(crosvm_get_hyperv_cpuid(vcpu, 257, all, &count));
	CHECK(count > 0 && count < 257);
	GIVES(0x40000000, all[0].function);
	GIVES(-E2BIG, crosvm_get_hyperv_cpuid(vcpu, 0, NULL, &count));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	static struct kvm_cpuid_entry2 all[257];
	struct crosvm_net_config net;
	static uint32_t msrs[5000];
	uint32_t count, again, leaves;
	bool indexed = false, sysenter = false;

	cpuid(m.vm, crosvm_get_emulated_cpuid, all);
	leaves = cpuid(m.vm, crosvm_get_supported_cpuid, all);
	CHECK(leaves > 5);
	for (uint32_t i = 0; i < leaves; i++)
		indexed |= all[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	CHECK(indexed);

	GIVES(-E2BIG, crosvm_get_msr_index_list(m.vm, 0, NULL, &count));
	CHECK(count > 5 && count < 5000);
	msrs[0] = 0;
	GIVES(-E2BIG, crosvm_get_msr_index_list(m.vm, count - 1, msrs, &again));
	GIVES(count, again);
	GIVES(0, msrs[0]);
	OK(crosvm_get_msr_index_list(m.vm, 5000, msrs, &again));
	GIVES(count, again);
	for (uint32_t i = 0; i < count; i++)
		sysenter |= msrs[i] == 0x174;
	CHECK(sysenter);

	memset(&net, 0xee, sizeof(net));
	GIVES(-ENODATA, crosvm_net_get_config(m.vm, &net));
	GIVES(0xeeeeeeee, net.netmask);

	OK(crosvm_start(m.vm));
	GIVES(-EPROTO, crosvm_get_hyperv_cpuid(vcpu, 257, all, &count));
	wait_init(vcpu);
	/* The usual way: what is supported is what the guest gets. */
	OK(crosvm_vcpu_set_cpuid(vcpu, leaves, all));
	hyperv(m.vm, vcpu, all);
	return 0;
}
