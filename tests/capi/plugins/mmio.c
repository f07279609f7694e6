/* MMIO of each width up to four, in and out, and an access that nobody answers. */
#include "check.h"

GUEST(guest, "mov ax, 0xd000; mov ds, ax; mov eax, 0x44332211;"
	     "mov [0x10], al; mov [0x20], ax; mov [0x30], eax;"
	     "mov al, [0x10]; mov [0x40], eax; mov ax, [0x20]; mov [0x40], eax; mov eax, [0x30]; mov [0x40], eax;"
	     "mov eax, [0x50]; mov [0x40], eax; hlt");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, MMIO, 0xd0000, 0x1000));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	expect_write(vcpu, MMIO, 0xd0010, 1, 0x11);
	expect_write(vcpu, MMIO, 0xd0020, 2, 0x2211);
	expect_write(vcpu, MMIO, 0xd0030, 4, 0x44332211);
	answer_read(vcpu, MMIO, 0xd0010, 1, 0xa1);
	expect_write(vcpu, MMIO, 0xd0040, 4, 0x443322a1);
	answer_read(vcpu, MMIO, 0xd0020, 2, 0xb2b1);
	expect_write(vcpu, MMIO, 0xd0040, 4, 0x4433b2b1);
	answer_read(vcpu, MMIO, 0xd0030, 4, 0xc4c3c2c1);
	expect_write(vcpu, MMIO, 0xd0040, 4, 0xc4c3c2c1);
	/* Resumed without an answer: zero, not what the place held before. */
	expect(vcpu, MMIO, 0xd0050, 4, 0);
	OK(crosvm_vcpu_resume(vcpu));
	expect_write(vcpu, MMIO, 0xd0040, 4, 0);
	return 0;
}
