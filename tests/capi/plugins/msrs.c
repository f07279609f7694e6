/* MSRs that exist and one that does not, and CPUID. */
#include "check.h"

#define EFER 0xc0000080
#define LSTAR 0xc0000082
#define STAR 0xc0000081
#define NOBODYS 0xdeadbeef

GUEST(guest, "mov eax, 0x40000000; cpuid; mov eax, ebx; out 0x10, eax; hlt");

static void msrs(struct crosvm_vcpu *vcpu)
{
	struct kvm_msr_entry set[2] = { { .index = STAR, .data = 0x1122334400000000 },
					{ .index = LSTAR, .data = 0x123456 } };
	struct kvm_msr_entry get[3] = { { .index = LSTAR }, { .index = NOBODYS, .data = 5 }, { .index = STAR, .data = 6 } };
	struct kvm_msr_entry bad[2] = { { .index = STAR, .data = 0x5566778800000000 }, { .index = NOBODYS } };
	struct kvm_msr_entry many[300];
	uint32_t count = 77;

	OK(crosvm_vcpu_set_msrs(vcpu, 2, set));
	/* Stops at the unknown one, which is no failure. */
	OK(crosvm_vcpu_get_msrs(vcpu, 3, get, &count));
	GIVES(1, count);
	GIVES(0x123456, get[0].data);
	GIVES(5, get[1].data);
	GIVES(6, get[2].data);
	get[1].index = EFER;
	OK(crosvm_vcpu_get_msrs(vcpu, 3, get, &count));
	GIVES(3, count);
	GIVES(0x1122334400000000, get[2].data);
	/* The first is set, the second is not, and this is told. */
	GIVES(-EINVAL, crosvm_vcpu_set_msrs(vcpu, 2, bad));
	OK(crosvm_vcpu_get_msrs(vcpu, 1, bad, &count));
	GIVES(0x5566778800000000, bad[0].data);
	/* More than one exchange carries. */
	for (int i = 0; i < 300; i++)
		many[i].index = LSTAR, many[i].data = 0;
	OK(crosvm_vcpu_get_msrs(vcpu, 300, many, &count));
	GIVES(300, count);
	GIVES(0x123456, many[299].data);
	many[299].data = 0x777;
	OK(crosvm_vcpu_set_msrs(vcpu, 300, many));
	OK(crosvm_vcpu_get_msrs(vcpu, 1, many, &count));
	GIVES(0x777, many[0].data);
	many[256].index = NOBODYS;
	OK(crosvm_vcpu_get_msrs(vcpu, 300, many, &count));
	GIVES(256, count);
}

static void cpuid(struct crosvm_vcpu *vcpu)
{
	struct kvm_cpuid_entry2 entries[257] = { { .function = 0, .eax = 0x16, .ebx = 0x756e6547 },
						 { .function = 0x40000000, .eax = 0x40000001, .ebx = 0x6472626f },
						 { .function = 4,
						   .index = 1,
						   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX } };

	OK(crosvm_vcpu_set_cpuid(vcpu, 3, entries));
	GIVES(-E2BIG, crosvm_vcpu_set_cpuid(vcpu, 257, entries));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_vcpu_event event;
	struct kvm_regs regs = { .rip = CODE };

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 1));
	OK(crosvm_start(m.vm));
	wait_init(vcpu);
	msrs(vcpu);
	cpuid(vcpu);
	enter_at(vcpu, regs);
	OK(crosvm_vcpu_resume(vcpu));
	event = expect(vcpu, IOPORT, 0x10, 4, 1);
	/* Where CPUID does not trap, guests at CPL 0 are emulated, so this holds there too. */
	GIVES(0x6472626f, value_of(&event));
	return 0;
}
