/* The VM is ended from outside while one vCPU waits for an event, one was never started and one was never waited for. */
#include "check.h"

GUEST(spins, "2: jmp 2b");

static void *waits_in_vain(void *argument)
{
	struct crosvm_vcpu *vcpu = (struct crosvm_vcpu *)argument;
	struct crosvm_vcpu_event event;

	memset(&event, 0xee, sizeof(event));
	CHECK(crosvm_vcpu_wait(vcpu, &event) < 0);
	GIVES(0xeeeeeeee, event.kind);
	/* And it stays the end. */
	GIVES(-ESHUTDOWN, crosvm_vcpu_wait(vcpu, &event));
	GIVES(-EPROTO, crosvm_vcpu_resume(vcpu));
	return NULL;
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *runs = vcpu_of(m.vm, 0), *stands = vcpu_of(m.vm, 1);
	struct kvm_sregs sregs;
	struct crosvm_vcpu_event event;
	pthread_t waiter;
	int shutdown = crosvm_get_shutdown_eventfd(m.vm);

	LOAD(m, CODE, spins);
	OK(crosvm_start(m.vm));
	begin(runs);
	wait_init(stands);
	waiter = thread(waits_in_vain, runs);
	printf("ready\n");
	fflush(stdout);
	CHECK(rings(shutdown, 30000));
	join(waiter);
	/* An event in hand: nobody is there to answer any more. */
	while (crosvm_vcpu_get_fpu(stands, &(struct kvm_fpu){ 0 }) == 0)
		usleep(1000);
	CHECK(crosvm_vcpu_get_sregs(stands, &sregs) < 0);
	crosvm_vcpu_resume(stands);
	GIVES(-ESHUTDOWN, crosvm_vcpu_wait(stands, &event));
	GIVES(-ESHUTDOWN, crosvm_vcpu_wait(vcpu_of(m.vm, 2), &event));
	printf("every wait failed\n");
	return 0;
}
