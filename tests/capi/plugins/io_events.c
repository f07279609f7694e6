/* Doorbells: each rings for its own address, length and value, without an event of the vCPU. */
#include "check.h"

GUEST(guest, "mov ax, 0xd000; mov ds, ax;"
	     "mov al, 5; out 0x10, al; out 0x30, al;"
	     "mov al, 6; out 0x10, al; out 0x30, al;"
	     "mov eax, 0x12345678; out 0x14, eax; out 0x30, al;"
	     "mov [0x10], eax; out 0x30, al;"
	     "mov [0x20], ax; mov [0x20], eax; out 0x30, al; hlt");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_vcpu_event event;
	struct crosvm_io *five, *six, *wide, *mmio, *any;
	const uint8_t is_five = 5, is_six[] = { 6 }, is_wide[] = { 0x78, 0x56, 0x34, 0x12 };

	LOAD(m, CODE, guest);
	OK(crosvm_create_io_event(m.vm, IOPORT, 0x10, 1, &is_five, &five));
	OK(crosvm_create_io_event(m.vm, IOPORT, 0x10, 1, is_six, &six));
	OK(crosvm_create_io_event(m.vm, IOPORT, 0x14, 4, is_wide, &wide));
	OK(crosvm_create_io_event(m.vm, MMIO, 0xd0010, 4, NULL, &mmio));
	OK(crosvm_create_io_event(m.vm, MMIO, 0xd0020, 0, NULL, &any));
	CHECK(crosvm_io_event_fd(five) != crosvm_io_event_fd(six));
	CHECK(crosvm_io_event_fd(five) == crosvm_io_event_fd(five));
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x30, 1));
	/* A reservation around a doorbell sees only what does not ring. */
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 8));
	OK(crosvm_reserve_range(m.vm, MMIO, 0xd0000, 0x1000));
	OK(crosvm_start(m.vm));
	begin(vcpu);

	event = expect(vcpu, IOPORT, 0x30, 1, 1);
	GIVES(5, value_of(&event));
	CHECK(rings(crosvm_io_event_fd(five), 0) && !rings(crosvm_io_event_fd(six), 0));
	OK(crosvm_vcpu_resume(vcpu));
	expect(vcpu, IOPORT, 0x30, 1, 1);
	CHECK(!rings(crosvm_io_event_fd(five), 0) && rings(crosvm_io_event_fd(six), 0));
	OK(crosvm_destroy_io_event(m.vm, &five));
	CHECK(five == NULL);
	OK(crosvm_vcpu_resume(vcpu));
	event = expect(vcpu, IOPORT, 0x30, 1, 1);
	GIVES(0x78, value_of(&event));
	CHECK(rings(crosvm_io_event_fd(wide), 0));
	OK(crosvm_vcpu_resume(vcpu));
	event = expect(vcpu, IOPORT, 0x30, 1, 1);
	GIVES(0x78, value_of(&event));
	CHECK(rings(crosvm_io_event_fd(mmio), 0));
	OK(crosvm_vcpu_resume(vcpu));
	expect(vcpu, IOPORT, 0x30, 1, 1);
	CHECK(rings(crosvm_io_event_fd(any), 0));
	OK(crosvm_destroy_io_event(m.vm, &six));
	OK(crosvm_destroy_io_event(m.vm, &wide));
	OK(crosvm_destroy_io_event(m.vm, &mmio));
	OK(crosvm_destroy_io_event(m.vm, &any));
	OK(crosvm_vcpu_resume(vcpu));
	return 0;
}
