/* Connections: made, destroyed in any order, used by threads of their own; what a destroyed handle gives. */
#include "check.h"

GUEST(hello, "mov al, 7; out 0x10, al; hlt");

static void *starts(void *argument)
{
	struct crosvm *own = (struct crosvm *)argument;

	OK(crosvm_reserve_range(own, IOPORT, 0x20, 1));
	OK(crosvm_start(own));
	return NULL;
}

int main(void)
{
	struct machine m = machine();
	struct crosvm *again = NULL, *second = NULL, *third = NULL, *stale;
	struct crosvm_vcpu *vcpu;
	int shutdown, other;
	bool has;

	GIVES(0, CROSVM_API_MAJOR);
	GIVES(22, CROSVM_API_MINOR);
	GIVES(0, CROSVM_API_PATCH);
	GIVES(-EISCONN, crosvm_connect(&again));
	CHECK(again == NULL);

	OK(crosvm_check_extension(m.vm, KVM_CAP_IRQCHIP, &has));
	CHECK(has);
	has = true;
	OK(crosvm_check_extension(m.vm, 0x7fffffff, &has));
	CHECK(!has);
	has = true;
	OK(crosvm_check_extension(m.vm, 0xffffffff, &has));
	CHECK(!has);
	GIVES(-EINVAL, crosvm_enable_capability(m.vm, KVM_CAP_HYPERV_SYNIC, 0, (uint64_t[4]){ 0 }));

	/* Each call gives a descriptor of its own for the same eventfd. */
	shutdown = crosvm_get_shutdown_eventfd(m.vm);
	other = crosvm_get_shutdown_eventfd(m.vm);
	CHECK(shutdown >= 0 && other >= 0 && shutdown != other);
	CHECK(!rings(shutdown, 0));
	ring(other);
	CHECK(rings(shutdown, 1000));
	OK(close(shutdown));
	OK(close(other));

	OK(crosvm_new_connection(m.vm, &second));
	OK(crosvm_new_connection(second, &third));
	CHECK(second != m.vm && third != second);
	vcpu = vcpu_of(m.vm, 0);
	CHECK(vcpu_of(m.vm, 0) == vcpu && vcpu_of(second, 0) == vcpu && vcpu_of(third, 0) == vcpu);
	CHECK(vcpu_of(m.vm, 1) != vcpu);
	GIVES(-ENOENT, crosvm_get_vcpu(m.vm, 2, &vcpu));
	GIVES(-ENOENT, crosvm_get_vcpu(m.vm, 0xffffffff, &vcpu));
	CHECK(vcpu == vcpu_of(m.vm, 0));

	/* The VM is one, whoever asks. */
	OK(crosvm_reserve_range(second, IOPORT, 0x10, 1));
	GIVES(-EPERM, crosvm_reserve_range(third, IOPORT, 0x10, 1));

	/* The middle one goes first; its handle is none any more, also where a copy of it was kept. */
	stale = second;
	OK(crosvm_destroy_connection(&second));
	CHECK(second == NULL);
	GIVES(-EINVAL, crosvm_destroy_connection(&second));
	GIVES(-EINVAL, crosvm_start(stale));
	GIVES(-EINVAL, crosvm_destroy_connection(&stale));
	CHECK(stale != NULL);

	LOAD(m, CODE, hello);
	join(thread(starts, third));
	GIVES(-EINVAL, crosvm_start(m.vm));
	GIVES(-EINVAL, crosvm_start(third));

	/* A connection after the start works and goes on working. */
	OK(crosvm_new_connection(m.vm, &second));
	OK(crosvm_reserve_range(second, IOPORT, 0x30, 1));

	/* vCPUs outlive the connections that named them. */
	OK(crosvm_destroy_connection(&m.vm));
	OK(crosvm_destroy_connection(&third));
	begin(vcpu);
	expect_write(vcpu, IOPORT, 0x10, 1, 7);
	OK(crosvm_reserve_range(second, IOPORT, 0x30, 0));
	OK(crosvm_destroy_connection(&second));
	CHECK(m.vm == NULL && third == NULL && second == NULL);
	return 0;
}
