/*
 * Interrupts through KVM's PIC: by line, and by eventfd with resample. The guest sets the PIC up for vectors 0x20 on,
 * lets lines 4 and 5 through, level-triggered, and its handlers tell which line it was.
 */
#include "check.h"

GUEST(guest, "mov al, 0x11; out 0x20, al; mov al, 0x20; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al;"
	     "mov al, 0xcf; out 0x21, al;"
	     "mov dx, 0x4d0; mov al, 0x30; out dx, al;"
	     "mov al, 1; out 0x60, al; sti; 2: in al, 0x61; jmp 2b");
GUEST(four, "mov al, 4; out 0x60, al; mov al, 0x20; out 0x20, al; iret");
GUEST(five, "mov al, 5; out 0x60, al; mov al, 0x20; out 0x20, al; iret");

#define FOUR 0x2000
#define FIVE 0x2100

/* Answers the guest's polls until its handler says that it runs. */
static void until_handler_(struct crosvm_vcpu *vcpu, uint8_t line, int from)
{
	struct crosvm_vcpu_event event;

	for (int polls = 0; polls < 200000; polls++) {
		OK(crosvm_vcpu_wait(vcpu, &event));
		if (event.io_access.address == 0x60) {
			GIVES(line, *event.io_access.data);
			return;
		}
		OK(crosvm_vcpu_resume(vcpu));
	}
	fprintf(stderr, "line %d: ", from);
	CHECK(!"the interrupt arrives");
}

#define until_handler(vcpu, line) until_handler_(vcpu, line, __LINE__)

/* Answers some polls, in which no handler may run. */
static void no_handler(struct crosvm_vcpu *vcpu)
{
	for (int polls = 0; polls < 5; polls++) {
		expect(vcpu, IOPORT, 0x61, 1, 0);
		OK(crosvm_vcpu_resume(vcpu));
	}
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	struct crosvm_irq *irq = NULL;
	uint16_t *vectors = (uint16_t *)m.memory;
	int trigger, resample;

	LOAD(m, CODE, guest);
	LOAD(m, FOUR, four);
	LOAD(m, FIVE, five);
	vectors[0x24 * 2] = FOUR;
	vectors[0x25 * 2] = FIVE;
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x60, 2));
	OK(crosvm_create_irq_event(m.vm, 5, &irq));
	trigger = crosvm_irq_event_get_fd(irq);
	resample = crosvm_irq_event_get_resample_fd(irq);
	CHECK(trigger >= 0 && resample >= 0 && trigger != resample);
	GIVES(trigger, crosvm_irq_event_get_fd(irq));
	OK(crosvm_start(m.vm));
	begin(vcpu);
	expect_write(vcpu, IOPORT, 0x60, 1, 1);
	no_handler(vcpu);

	/* By line: it stays up until it is taken down. */
	OK(crosvm_set_irq(m.vm, 4, true));
	until_handler(vcpu, 4);
	OK(crosvm_set_irq(m.vm, 4, false));
	OK(crosvm_vcpu_resume(vcpu));
	no_handler(vcpu);

	/* By eventfd: the guest's end of interrupt takes the line down and signals the other one. */
	CHECK(!rings(resample, 0));
	ring(trigger);
	until_handler(vcpu, 5);
	CHECK(!rings(resample, 0));
	OK(crosvm_vcpu_resume(vcpu));
	no_handler(vcpu);
	CHECK(rings(resample, 1000));
	ring(trigger);
	until_handler(vcpu, 5);
	OK(crosvm_vcpu_resume(vcpu));
	no_handler(vcpu);
	CHECK(rings(resample, 1000));
	OK(crosvm_destroy_irq_event(m.vm, &irq));
	CHECK(irq == NULL);
	return 0;
}
