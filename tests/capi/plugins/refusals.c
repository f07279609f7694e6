/* Every refusal of the contract, by its number. None of them ends the VM. */
#include "check.h"

static void ranges(struct crosvm *vm, int (*reserve)(struct crosvm *, uint32_t, uint64_t, uint64_t),
		   int (*other)(struct crosvm *, uint32_t, uint64_t, uint64_t))
{
	OK(reserve(vm, MMIO, 0x100000, 0x100));
	GIVES(-EPERM, reserve(vm, MMIO, 0x100000, 0x100));
	GIVES(-EPERM, reserve(vm, MMIO, 0x100080, 1));
	GIVES(-EPERM, reserve(vm, MMIO, 0x0fffff, 2));
	GIVES(-EPERM, reserve(vm, MMIO, 0x0fff00, 0x1000));
	GIVES(-EPERM, other(vm, MMIO, 0x1000ff, 1));
	OK(other(vm, MMIO, 0x100100, 1));
	OK(other(vm, IOPORT, 0x100, 1));
	GIVES(-ENOENT, reserve(vm, MMIO, 0x100100, 0));
	GIVES(-ENOENT, reserve(vm, MMIO, 0x100001, 0));
	GIVES(-ENOENT, reserve(vm, IOPORT, 0x101, 0));
	GIVES(-EINVAL, reserve(vm, 2, 0x100, 1));
	GIVES(-EINVAL, reserve(vm, 0xffffffff, 0x100, 1));
	GIVES(-EINVAL, reserve(vm, 2, 0x100, 0));
	GIVES(-EINVAL, reserve(vm, MMIO, UINT64_MAX, 1));
	GIVES(-EINVAL, reserve(vm, MMIO, UINT64_MAX, 2));
	GIVES(-EINVAL, reserve(vm, MMIO, 1, UINT64_MAX));
	OK(reserve(vm, MMIO, UINT64_MAX - 1, 1));
	OK(reserve(vm, MMIO, UINT64_MAX - 1, 0));
	OK(reserve(vm, MMIO, 0x100000, 0));
	GIVES(-ENOENT, reserve(vm, MMIO, 0x100000, 0));
	OK(other(vm, MMIO, 0x100100, 0));
	OK(other(vm, IOPORT, 0x100, 0));
}

static void memory(struct crosvm *vm)
{
	struct crosvm_memory *slot = NULL, *first = NULL;
	int unsealed = make_memfd(0x4000, 0, NULL), sealed = make_memfd(0x4000, F_SEAL_SHRINK, NULL);
	int pipes[2], closed = dup(sealed);
	uint64_t at = 0x100000;

	OK(pipe(pipes));
	OK(close(closed));
	GIVES(-EBADF, crosvm_create_memory(vm, -1, 0, 0x1000, at, false, false, &slot));
	GIVES(-EBADF, crosvm_create_memory(vm, closed, 0, 0x1000, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, pipes[0], 0, 0x1000, at, false, false, &slot));
	GIVES(-EPERM, crosvm_create_memory(vm, unsealed, 0, 0x1000, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 1, 0x1000, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 0, 0x1001, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 0, 0x1000, at + 1, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 0, 0, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 0, 0x5000, at, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_memory(vm, sealed, 0x4000, 0x1000, at, false, false, &slot));
	GIVES(-EOVERFLOW,
	      crosvm_create_memory(vm, sealed, 0xfffffffffffff000, 0x1000, at, false, false, &slot));
	GIVES(-EOVERFLOW,
	      crosvm_create_memory(vm, sealed, 0xfffffffffffff000, 0x2000, at, false, false, &slot));
	CHECK(slot == NULL);
	OK(crosvm_create_memory(vm, sealed, 0x1000, 0x2000, at, false, false, &first));
	GIVES(-EEXIST, crosvm_create_memory(vm, sealed, 0, 0x1000, at, false, false, &slot));
	GIVES(-EEXIST, crosvm_create_memory(vm, sealed, 0, 0x1000, at + 0x1000, true, false, &slot));
	GIVES(-EEXIST, crosvm_create_memory(vm, sealed, 0, 0x2000, at - 0x1000, false, true, &slot));
	OK(crosvm_create_memory(vm, sealed, 0, 0x1000, at + 0x2000, false, false, &slot));

	slot = first;
	OK(crosvm_destroy_memory(vm, &first));
	CHECK(first == NULL);
	GIVES(-EINVAL, crosvm_destroy_memory(vm, &slot));
	CHECK(slot != NULL);
	OK(crosvm_create_memory(vm, sealed, 0, 0x1000, at, false, false, &first));
}

static void io_events(struct crosvm *vm)
{
	struct crosvm_io *one = NULL, *other = NULL;
	const uint8_t match[8] = { 1 };

	for (uint32_t length = 0; length < 20; length++) {
		if (length == 0 || length == 1 || length == 2 || length == 4 || length == 8)
			continue;
		GIVES(-EINVAL, crosvm_create_io_event(vm, MMIO, 0x200000, length, NULL, &other));
		GIVES(-EINVAL, crosvm_create_io_event(vm, MMIO, 0x200000, length, match, &other));
	}
	GIVES(-EINVAL, crosvm_create_io_event(vm, 2, 0x200000, 4, NULL, &other));
	OK(crosvm_create_io_event(vm, MMIO, 0x200000, 4, match, &one));
	GIVES(-EEXIST, crosvm_create_io_event(vm, MMIO, 0x200000, 4, match, &other));
	CHECK(other == NULL);
	other = one;
	OK(crosvm_destroy_io_event(vm, &one));
	CHECK(one == NULL);
	GIVES(-EINVAL, crosvm_destroy_io_event(vm, &other));
	GIVES(-EINVAL, crosvm_io_event_fd(other));
	OK(crosvm_create_io_event(vm, MMIO, 0x200000, 4, match, &one));
}

static void hints(struct crosvm *vm)
{
	struct crosvm_hint_detail details[33] = { { .match_rax = true, .rax = 1, .send_sregs = true } };
	const struct crosvm_hint good = { .address_space = IOPORT,
					  .address_flags = CROSVM_HINT_ON_WRITE,
					  .details_count = 32,
					  .address = 0x10,
					  .details = details };
	struct crosvm_hint hint[2] = { good, good };

	OK(crosvm_set_hypercall_hint(vm, 1, hint));
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 2, hint));
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, NULL));
	hint->hint_version = 1;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->_reserved = 1;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->address = 0;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->address_flags = 2;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->details_count = 33;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->details = NULL;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->address_space = 7;
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 1, hint));
	*hint = good, hint->details = NULL, hint->details_count = 0;
	OK(crosvm_set_hypercall_hint(vm, 1, hint));
	OK(crosvm_set_hypercall_hint(vm, 0, NULL));
	OK(crosvm_set_hypercall_hint(vm, 0, hint));
}

int main(void)
{
	struct machine m = machine();

	ranges(m.vm, crosvm_reserve_range, crosvm_reserve_async_write_range);
	ranges(m.vm, crosvm_reserve_async_write_range, crosvm_reserve_range);
	memory(m.vm);
	io_events(m.vm);
	hints(m.vm);
	OK(crosvm_start(m.vm));
	GIVES(-EINVAL, crosvm_start(m.vm));
	wait_init(vcpu_of(m.vm, 0));
	return 0;
}
