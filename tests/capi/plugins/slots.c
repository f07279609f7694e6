/* Memory: offsets, the dirty log to the byte, read-only slots, and slots that go away. */
#include "check.h"

#define BASE 0x20000
#define PAGES 9

/* Writes to pages 1 and 8, reads page 2, then to the read-only slot and the one behind it. */
GUEST(guest, "mov ax, 0x2000; mov ds, ax; mov bl, 0x55;"
	     "2: mov [0x1000], bl; mov [0x8ffe], bx; mov al, [0x2000]; out 0x10, al;"
	     "mov ax, 0x4000; mov ds, ax; mov al, [0x10]; out 0x10, al; mov [0x10], bl; mov al, [0x10]; out 0x10, al;"
	     "mov ax, 0x2000; mov ds, ax; jmp 2b");

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_memory *logged = NULL, *rom = NULL;
	struct crosvm_vcpu_event event;
	uint8_t *map, log[4];
	int fd = make_memfd(16 * 0x1000, F_SEAL_SHRINK | F_SEAL_GROW, &map);

	LOAD(m, CODE, guest);
	OK(crosvm_create_memory(m.vm, fd, 0x1000, PAGES * 0x1000, BASE, false, true, &logged));
	OK(crosvm_create_memory(m.vm, fd, 0xc000, 0x1000, 0x40000, true, false, &rom));
	/* Only a slot that keeps a log has one. */
	CHECK(crosvm_memory_get_dirty_log(m.vm, m.slot, log) < 0);
	map[0x3000] = 0x77;
	map[0xc010] = 0x99;
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 1));
	OK(crosvm_reserve_range(m.vm, MMIO, 0x40000, 0x1000));
	OK(crosvm_start(m.vm));
	begin(vcpu);

	for (int round = 0; round < 2; round++) {
		/* The guest's byte 0x2000 of the slot is the file's 0x3000. */
		event = expect(vcpu, IOPORT, 0x10, 1, 1);
		GIVES(0x77, value_of(&event));
		GIVES(0x55, map[0x2000]);
		GIVES(0x55, map[0x1000 + 0x8ffe]);
		memset(log, 0xee, sizeof(log));
		OK(crosvm_memory_get_dirty_log(m.vm, logged, log));
		GIVES(1 << 1, log[0] & 0x06);
		GIVES(1, log[1]);
		GIVES(0xee, log[2]);
		/* Asked again, nothing is dirty. */
		OK(crosvm_memory_get_dirty_log(m.vm, logged, log));
		GIVES(0, log[0] | log[1]);
		OK(crosvm_vcpu_resume(vcpu));

		/* A write to read-only memory is an event and changes nothing. */
		expect_write(vcpu, IOPORT, 0x10, 1, 0x99);
		expect_write(vcpu, MMIO, 0x40010, 1, 0x55);
		expect_write(vcpu, IOPORT, 0x10, 1, 0x99);
		GIVES(0x99, map[0xc010]);
	}
	expect(vcpu, IOPORT, 0x10, 1, 1);
	OK(crosvm_destroy_memory(m.vm, &rom));
	OK(crosvm_destroy_memory(m.vm, &logged));
	CHECK(rom == NULL && logged == NULL);
	return 0;
}
