/*
 * What the plugins of this folder share: checks that end the plugin with status 1 and say where, guests as assembler
 * text, and the machine that most of them build: 64 KiB of memory at 0 with the guest's code at CODE.
 */
#ifndef CHECK_H
#define CHECK_H

#include <crosvm.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define IOPORT CROSVM_ADDRESS_SPACE_IOPORT
#define MMIO CROSVM_ADDRESS_SPACE_MMIO
#define MEMORY 0x10000
#define CODE 0x1000
#define STACK 0x8000

/* Ends the plugin unless the condition holds. */
#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

/* Ends the plugin unless the call returns this. */
#define GIVES(expected, call) \
	do { \
		long long got_ = (call), expected_ = (expected); \
		if (got_ != expected_) { \
			fprintf(stderr, "%s:%d: %s gave %lld instead of %lld\n", __FILE__, __LINE__, #call, got_, \
				expected_); \
			exit(1); \
		} \
	} while (0)

#define OK(call) GIVES(0, call)

/* Defines real-mode code in Intel's syntax: `name` and its end `name_end`. */
#define GUEST(name, text) \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code16\n" #name ": " text "\n" #name \
		"_end:\n.code64\n.att_syntax\n.popsection\n"); \
	extern const uint8_t name[], name##_end[]

/* Puts such code into the guest's memory. */
#define LOAD(machine, at, name) memcpy((machine).memory + (at), name, (size_t)(name##_end - name))

#define UNUSED __attribute__((unused))

struct machine {
	struct crosvm *vm;
	struct crosvm_memory *slot;
	uint8_t *memory;
	int fd;
};

/* A memfd with this seal, mapped. */
static UNUSED int make_memfd(size_t length, int seals, uint8_t **map)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0);
	OK(ftruncate(fd, (off_t)length));
	if (map) {
		*map = (uint8_t *)mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		CHECK(*map != MAP_FAILED);
	}
	if (seals)
		OK(fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

/* Connects and gives the guest its memory, which is mapped before it is sealed. */
static UNUSED struct machine machine(void)
{
	struct machine made = { 0 };

	OK(crosvm_connect(&made.vm));
	made.fd = make_memfd(MEMORY, F_SEAL_SHRINK, &made.memory);
	OK(crosvm_create_memory(made.vm, made.fd, 0, MEMORY, 0, false, false, &made.slot));
	return made;
}

static UNUSED struct crosvm_vcpu *vcpu_of(struct crosvm *vm, uint32_t id)
{
	struct crosvm_vcpu *vcpu = NULL;

	OK(crosvm_get_vcpu(vm, id, &vcpu));
	CHECK(vcpu != NULL);
	return vcpu;
}

/* Makes a stopped vCPU start in real mode at this address of segment 0. */
static UNUSED void enter_at(struct crosvm_vcpu *vcpu, struct kvm_regs regs)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs sregs;

	OK(crosvm_vcpu_set_mp_state(vcpu, &runnable));
	OK(crosvm_vcpu_get_sregs(vcpu, &sregs));
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	OK(crosvm_vcpu_set_sregs(vcpu, &sregs));
	regs.rflags |= 2;
	regs.rsp = STACK;
	OK(crosvm_vcpu_set_regs(vcpu, &regs));
}

/* Waits for the event that comes first. */
static UNUSED void wait_init(struct crosvm_vcpu *vcpu)
{
	struct crosvm_vcpu_event event;

	OK(crosvm_vcpu_wait(vcpu, &event));
	GIVES(CROSVM_VCPU_EVENT_KIND_INIT, event.kind);
}

/* Waits for INIT and lets the guest run from CODE with these registers. */
static UNUSED void begin_with(struct crosvm_vcpu *vcpu, struct kvm_regs regs)
{
	wait_init(vcpu);
	regs.rip = CODE;
	enter_at(vcpu, regs);
	OK(crosvm_vcpu_resume(vcpu));
}

static UNUSED void begin(struct crosvm_vcpu *vcpu)
{
	struct kvm_regs regs = { 0 };

	begin_with(vcpu, regs);
}

/* Waits for an access, which is to be this one; it is not resumed. */
static UNUSED struct crosvm_vcpu_event expect(struct crosvm_vcpu *vcpu, uint32_t space, uint64_t address,
					      uint32_t length, int is_write)
{
	struct crosvm_vcpu_event event;

	memset(&event, 0xee, sizeof(event));
	OK(crosvm_vcpu_wait(vcpu, &event));
	GIVES(CROSVM_VCPU_EVENT_KIND_IO_ACCESS, event.kind);
	GIVES(space, event.io_access.address_space);
	GIVES((long long)address, (long long)event.io_access.address);
	GIVES(length, event.io_access.length);
	GIVES(is_write, event.io_access.is_write);
	CHECK(event.io_access.data != NULL);
	return event;
}

/* The value of an access. */
static UNUSED uint64_t value_of(const struct crosvm_vcpu_event *event)
{
	uint64_t value = 0;

	CHECK(event->io_access.length <= sizeof(value));
	memcpy(&value, event->io_access.data, event->io_access.length);
	return value;
}

/* Waits for a write of this value and resumes. */
static UNUSED void expect_write(struct crosvm_vcpu *vcpu, uint32_t space, uint64_t address, uint32_t length,
				uint64_t value)
{
	struct crosvm_vcpu_event event = expect(vcpu, space, address, length, 1);

	GIVES(0, event.io_access.no_resume);
	GIVES((long long)value, (long long)value_of(&event));
	OK(crosvm_vcpu_resume(vcpu));
}

/* Waits for a read and answers it. */
static UNUSED void answer_read(struct crosvm_vcpu *vcpu, uint32_t space, uint64_t address, uint32_t length,
			       uint64_t value)
{
	struct crosvm_vcpu_event event = expect(vcpu, space, address, length, 0);

	GIVES(0, event.io_access.no_resume);
	memcpy(event.io_access.data, &value, length);
	OK(crosvm_vcpu_resume(vcpu));
}

/* Whether an eventfd is signalled, within this time; takes the signal. */
static UNUSED bool rings(int fd, int milliseconds)
{
	struct pollfd entry = { .fd = fd, .events = POLLIN };
	uint64_t count;

	if (poll(&entry, 1, milliseconds) != 1)
		return false;
	GIVES(sizeof(count), read(fd, &count, sizeof(count)));
	return true;
}

static UNUSED void ring(int fd)
{
	uint64_t one = 1;

	GIVES(sizeof(one), write(fd, &one, sizeof(one)));
}

static UNUSED pthread_t thread(void *(*body)(void *), void *argument)
{
	pthread_t made;

	OK(pthread_create(&made, NULL, body, argument));
	return made;
}

static UNUSED void join(pthread_t thread)
{
	OK(pthread_join(thread, NULL));
}

#endif
