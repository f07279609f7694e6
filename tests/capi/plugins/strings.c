/* String I/O: 1000 bytes each way and words, delivered as accesses of the guest's own width. */
#include "check.h"

#define COUNT 1000
#define FROM 0x4000
#define TO 0x5000

GUEST(guest, "cld; mov si, 0x4000; mov dx, 0x10; mov cx, 1000; rep outsb; out 0x11, al;"
	     "mov di, 0x5000; mov cx, 1000; rep insb; out 0x11, al;"
	     "mov si, 0x4000; mov cx, 250; rep outsw; out 0x11, al;"
	     "mov di, 0x6000; mov cx, 3; rep insd; out 0x11, al;"
	     "mov si, 0x4000; mov cx, 2; rep outsb; out 0x11, al; hlt");

static uint8_t pattern(int at)
{
	return (uint8_t)(at % 251 ^ at / 251);
}

static void out(struct crosvm_vcpu *vcpu, int count, uint32_t width)
{
	struct crosvm_vcpu_event event;
	struct kvm_regs regs;

	for (int i = 0; i < count; i++) {
		event = expect(vcpu, IOPORT, 0x10, width, 1);
		for (uint32_t byte = 0; byte < width; byte++)
			GIVES(pattern(i * (int)width + (int)byte), event.io_access.data[byte]);
		if (i == 3) {
			/* Between two items the plugin has none in hand. */
			OK(crosvm_vcpu_get_regs(vcpu, &regs));
			GIVES(-EPROTO, crosvm_vcpu_wait(vcpu, &event));
			OK(crosvm_vcpu_resume(vcpu));
			GIVES(-EPROTO, crosvm_vcpu_resume(vcpu));
			GIVES(-EPROTO, crosvm_vcpu_get_regs(vcpu, &regs));
		} else {
			OK(crosvm_vcpu_resume(vcpu));
		}
	}
	event = expect(vcpu, IOPORT, 0x11, 1, 1);
	OK(crosvm_vcpu_resume(vcpu));
}

/* KVM may ask for items ahead that the guest does not take, but for none less. */
static void in(struct crosvm_vcpu *vcpu, int count, uint32_t width)
{
	struct crosvm_vcpu_event event;
	int item = 0;

	for (;;) {
		OK(crosvm_vcpu_wait(vcpu, &event));
		if (event.io_access.address == 0x11)
			break;
		GIVES(width, event.io_access.length);
		GIVES(0, event.io_access.is_write);
		for (uint32_t byte = 0; byte < width; byte++, item++)
			event.io_access.data[byte] = pattern(item);
		OK(crosvm_vcpu_resume(vcpu));
	}
	CHECK(item >= count * (int)width);
	OK(crosvm_vcpu_resume(vcpu));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);

	LOAD(m, CODE, guest);
	for (int i = 0; i < COUNT; i++)
		m.memory[FROM + i] = pattern(i);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 2));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	out(vcpu, COUNT, 1);
	in(vcpu, COUNT, 1);
	for (int i = 0; i < COUNT; i++)
		GIVES(pattern(i), m.memory[TO + i]);
	GIVES(0, m.memory[TO + COUNT]);
	out(vcpu, 250, 2);
	in(vcpu, 3, 4);
	for (int i = 0; i < 12; i++)
		GIVES(pattern(i), m.memory[0x6000 + i]);
	GIVES(0, m.memory[0x6000 + 12]);
	out(vcpu, 2, 1);
	return 0;
}
