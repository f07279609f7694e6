/* A slot of 10 GiB with a dirty log: the memory is only as large as what is touched, the log is whole. */
#include "check.h"

#define GIB (1ull << 30)
#define LENGTH (10 * GIB)
#define BYTES (LENGTH / 4096 / 8)

/* In real mode with a data segment whose base the plugin sets, so that each write goes somewhere else. */
GUEST(guest, "2: mov [0x10], al; out 0x10, al; jmp 2b");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_memory *slot;
	struct kvm_sregs sregs;
	uint8_t *log = (uint8_t *)malloc(BYTES + 1);
	/* Below 4 GiB, where real mode reaches; the last of these pages lies in the first 4 GiB. */
	const uint64_t base = 0x100000, at[] = { 0, 0x1000, 0x12345000, 0x7ffff000, 0xefe00000 };
	int fd = make_memfd(LENGTH, F_SEAL_SHRINK, NULL);
	uint64_t set = 0;

	CHECK(log != NULL);
	LOAD(m, CODE, guest);
	OK(crosvm_create_memory(m.vm, fd, 0, LENGTH, base, false, true, &slot));
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 1));
	OK(crosvm_start(m.vm));
	wait_init(vcpu);
	enter_at(vcpu, (struct kvm_regs){ .rip = CODE });
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
		sregs.ds.base = base + at[i];
		OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
		OK(crosvm_vcpu_resume(vcpu));
		expect(vcpu, IOPORT, 0x10, 1, 1);
	}
	memset(log, 0xee, BYTES + 1);
	OK(crosvm_memory_get_dirty_log(m.vm, slot, log));
	GIVES(0xee, log[BYTES]);
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		CHECK(log[at[i] / 4096 / 8] & 1 << at[i] / 4096 % 8);
	for (uint64_t i = 0; i < BYTES; i++)
		set += (uint64_t)__builtin_popcount(log[i]);
	GIVES(sizeof(at) / sizeof(at[0]), set);
	/* The last byte of the log is written too. */
	GIVES(0, log[BYTES - 1]);
	OK(crosvm_destroy_memory(m.vm, &slot));
	return 0;
}
