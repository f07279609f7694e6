/* Port I/O of each width, in and out; what nobody reserved reads as zero and is dropped. */
#include "check.h"

GUEST(guest, "mov eax, 0x44332211; out 0x10, al; out 0x11, ax; out 0x12, eax;"
	     "in al, 0x10; out 0x13, eax; in ax, 0x11; out 0x13, eax; in eax, 0x12; out 0x13, eax;"
	     "mov eax, 0xffffffff; out 0x30, eax; in eax, 0x30; out 0x13, eax; mov dx, 0xfffe; out dx, ax; hlt");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 4));
	OK(crosvm_reserve_range(m.vm, IOPORT, 0xfffe, 2));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	expect_write(vcpu, IOPORT, 0x10, 1, 0x11);
	expect_write(vcpu, IOPORT, 0x11, 2, 0x2211);
	expect_write(vcpu, IOPORT, 0x12, 4, 0x44332211);
	answer_read(vcpu, IOPORT, 0x10, 1, 0xa1);
	expect_write(vcpu, IOPORT, 0x13, 4, 0x443322a1);
	answer_read(vcpu, IOPORT, 0x11, 2, 0xb2b1);
	expect_write(vcpu, IOPORT, 0x13, 4, 0x4433b2b1);
	answer_read(vcpu, IOPORT, 0x12, 4, 0xc4c3c2c1);
	expect_write(vcpu, IOPORT, 0x13, 4, 0xc4c3c2c1);
	expect_write(vcpu, IOPORT, 0x13, 4, 0);
	expect_write(vcpu, IOPORT, 0xfffe, 2, 0);
	return 0;
}
