/*
 * Threads: each with its own connection, several on one against the rule, and a vCPU that goes from hand to hand while
 * the others make requests.
 */
#include "check.h"

#define THREADS 4
#define ROUNDS 8

GUEST(guest, "2: in al, 0x10; out 0x11, al; jmp 2b");

static struct crosvm *shared;
static struct crosvm_vcpu *vcpu;
static int served;
static bool stop;

struct worker {
	struct crosvm *vm;
	uint64_t port;
};

static void *requests(void *argument)
{
	struct worker *worker = (struct worker *)argument;
	struct crosvm_irq *irq;
	struct crosvm_io *io;
	bool has;

	for (int i = 0; i < ROUNDS; i++) {
		OK(crosvm_reserve_range(worker->vm, IOPORT, worker->port, 4));
		GIVES(-EPERM, crosvm_reserve_range(worker->vm, IOPORT, worker->port + 1, 1));
		OK(crosvm_create_io_event(worker->vm, IOPORT, worker->port, 4, NULL, &io));
		OK(crosvm_create_irq_event(worker->vm, (uint32_t)worker->port % 16 + 3, &irq));
		CHECK(crosvm_io_event_fd(io) >= 0 && crosvm_irq_event_get_fd(irq) >= 0);
		OK(crosvm_check_extension(worker->vm, KVM_CAP_IRQCHIP, &has));
		CHECK(has && vcpu_of(worker->vm, 0) == vcpu);
		OK(crosvm_destroy_irq_event(worker->vm, &irq));
		OK(crosvm_destroy_io_event(worker->vm, &io));
		OK(crosvm_reserve_range(worker->vm, IOPORT, worker->port, 0));
	}
	return NULL;
}

/* Serves one event at a time, whoever served the one before; also half of an event each. */
static void *serves(void *unused)
{
	static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
	static bool in_hand;
	struct crosvm_vcpu_event event;
	struct kvm_regs regs;

	(void)unused;
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		OK(pthread_mutex_lock(&turn));
		if (in_hand) {
			OK(crosvm_vcpu_get_regs(vcpu, &regs));
			OK(crosvm_vcpu_resume(vcpu));
			served++;
		} else {
			OK(crosvm_vcpu_wait(vcpu, &event));
			GIVES(CROSVM_VCPU_EVENT_KIND_IO_ACCESS, event.kind);
		}
		in_hand = !in_hand;
		OK(pthread_mutex_unlock(&turn));
		/* Leave a processor to the others. */
		usleep(100);
	}
	return NULL;
}

int main(void)
{
	struct machine m = machine();
	struct worker workers[2 * THREADS];
	pthread_t threads[2 * THREADS], servers[2];

	LOAD(m, CODE, guest);
	vcpu = vcpu_of(m.vm, 0);
	OK(crosvm_new_connection(m.vm, &shared));
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x10, 2));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	for (int i = 0; i < 2; i++)
		servers[i] = thread(serves, NULL);
	for (int i = 0; i < 2 * THREADS; i++) {
		workers[i].vm = shared;
		if (i % 2)
			OK(crosvm_new_connection(m.vm, &workers[i].vm));
		workers[i].port = 0x400 + 0x10 * (uint64_t)i + (uint64_t)i;
	}
	for (int i = 0; i < 2 * THREADS; i++)
		threads[i] = thread(requests, &workers[i]);
	for (int i = 0; i < 2 * THREADS; i++)
		join(threads[i]);
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 2; i++)
		join(servers[i]);
	CHECK(served > 0);
	return 0;
}
