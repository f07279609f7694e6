/* KVM's own devices keep what they are told, and the identity map moves before the start only. */
#include "check.h"

static void pics(struct crosvm *vm)
{
	struct kvm_pic_state first, second, back;

	OK(crosvm_get_pic_state(vm, true, &first));
	OK(crosvm_get_pic_state(vm, false, &second));
	first.imr = 0xa5;
	first.irq_base = 0x20;
	second.imr = 0x5a;
	OK(crosvm_set_pic_state(vm, true, &first));
	OK(crosvm_set_pic_state(vm, false, &second));
	OK(crosvm_get_pic_state(vm, true, &back));
	GIVES(0xa5, back.imr);
	GIVES(0x20, back.irq_base);
	OK(crosvm_get_pic_state(vm, false, &back));
	GIVES(0x5a, back.imr);
}

static void others(struct crosvm *vm)
{
	struct kvm_ioapic_state ioapic, ioapic_back;
	struct kvm_pit_state2 pit, pit_back;
	struct kvm_clock_data clock, later;

	OK(crosvm_get_ioapic_state(vm, &ioapic));
	GIVES(0xfec00000, ioapic.base_address);
	ioapic.id = 3;
	ioapic.redirtbl[7].fields.vector = 0x41;
	ioapic.redirtbl[7].fields.mask = 1;
	OK(crosvm_set_ioapic_state(vm, &ioapic));
	OK(crosvm_get_ioapic_state(vm, &ioapic_back));
	GIVES(3, ioapic_back.id);
	GIVES(0x41, ioapic_back.redirtbl[7].fields.vector);

	OK(crosvm_get_pit_state(vm, &pit));
	pit.channels[2].count = 0x1234;
	OK(crosvm_set_pit_state(vm, &pit));
	OK(crosvm_get_pit_state(vm, &pit_back));
	GIVES(0x1234, pit_back.channels[2].count);

	OK(crosvm_get_clock(vm, &clock));
	OK(crosvm_set_clock(vm, &clock));
	OK(crosvm_get_clock(vm, &later));
	CHECK(later.clock >= clock.clock);
	memset(&clock, 0, sizeof(clock));
	clock.clock = 3600000000000;
	OK(crosvm_set_clock(vm, &clock));
	OK(crosvm_get_clock(vm, &later));
	CHECK(later.clock >= clock.clock && later.clock < 2 * clock.clock);
	clock.flags = 1u << 31;
	GIVES(-EINVAL, crosvm_set_clock(vm, &clock));
}

int main(void)
{
	struct machine m = machine();

	pics(m.vm);
	others(m.vm);
	OK(crosvm_set_identity_map_addr(m.vm, 0xfeffc000));
	OK(crosvm_start(m.vm));
	wait_init(vcpu_of(m.vm, 0));
	GIVES(-EINVAL, crosvm_set_identity_map_addr(m.vm, 0xfeffc000));
	pics(m.vm);
	others(m.vm);
	return 0;
}
