/*
 * The shape of a usual plugin: one thread per vCPU that waits before the start, the start on a second connection, the
 * main thread asleep on the shutdown eventfd until a vCPU thread writes to it, everything destroyed in the end, and a
 * return from main.
 */
#include "check.h"

#define ROUNDS 50

GUEST(guest, "mov cx, 50; 2: out 0x10, ax; in ax, 0x10; dec cx; jnz 2b; out 0x11, al; 3: hlt; jmp 3b");

static struct crosvm *starter;
static int shutdown_fd;
static unsigned finished, vcpus;

struct driver {
	pthread_t thread;
	struct crosvm_vcpu *vcpu;
	uint64_t id;
};

static void *drive(void *argument)
{
	struct driver *driver = (struct driver *)argument;
	struct kvm_regs regs = { .rip = CODE, .rax = driver->id };
	uint64_t expected = driver->id;

	wait_init(driver->vcpu);
	enter_at(driver->vcpu, regs);
	OK(crosvm_vcpu_resume(driver->vcpu));
	for (int i = 0; i < ROUNDS; i++) {
		expect_write(driver->vcpu, IOPORT, 0x10, 2, expected);
		expected = (expected * 31 + driver->id) & 0xffff;
		answer_read(driver->vcpu, IOPORT, 0x10, 2, expected);
	}
	/* The last event is left as it is: the guest shall not run on while its memory goes away. */
	struct crosvm_vcpu_event last = expect(driver->vcpu, IOPORT, 0x11, 1, 1);
	GIVES((long long)(expected & 0xff), value_of(&last));
	if (__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST) == vcpus)
		ring(shutdown_fd);
	return NULL;
}

int main(void)
{
	struct machine m = machine();
	struct driver drivers[64];
	struct crosvm_vcpu *vcpu;
	uint64_t count;

	LOAD(m, CODE, guest);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 2));
	shutdown_fd = crosvm_get_shutdown_eventfd(m.vm);
	CHECK(shutdown_fd >= 0);
	while (crosvm_get_vcpu(m.vm, vcpus, &vcpu) == 0) {
		CHECK(vcpus < 64);
		drivers[vcpus].vcpu = vcpu;
		drivers[vcpus].id = vcpus;
		vcpus++;
	}
	GIVES(-ENOENT, crosvm_get_vcpu(m.vm, vcpus, &vcpu));
	for (unsigned i = 0; i < vcpus; i++)
		drivers[i].thread = thread(drive, &drivers[i]);
	OK(crosvm_new_connection(m.vm, &starter));
	OK(crosvm_start(starter));

	/* The usual sleep: poll, then read. */
	struct pollfd entry = { .fd = shutdown_fd, .events = POLLIN };
	GIVES(1, poll(&entry, 1, -1));
	GIVES(sizeof(count), read(shutdown_fd, &count, sizeof(count)));
	for (unsigned i = 0; i < vcpus; i++)
		join(drivers[i].thread);
	GIVES(vcpus, finished);

	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 0));
	OK(crosvm_destroy_memory(m.vm, &m.slot));
	OK(munmap(m.memory, MEMORY));
	OK(close(m.fd));
	OK(close(shutdown_fd));
	OK(crosvm_destroy_connection(&starter));
	OK(crosvm_destroy_connection(&m.vm));
	return 0;
}
