/* Routes: 1024 and more of them, MSIs through an irq event, and what is refused. */
#include "check.h"

#define ROUTES 1024
#define VECTOR 0x40

GUEST(guest, "mov al, 1; out 0x60, al; sti; 2: jmp 2b");
GUEST(first, "mov al, 2; out 0x60, al; iret");
GUEST(second, "mov al, 3; out 0x60, al; iret");


static struct crosvm_irq_route msi(uint32_t irq, uint32_t vector)
{
	struct crosvm_irq_route route = { .irq_id = irq, .kind = CROSVM_IRQ_ROUTE_MSI };

	route.msi.address = 0xfee00000;
	route.msi.data = vector;
	return route;
}

static void refusals(struct crosvm *vm)
{
	static struct crosvm_irq_route many[5000];
	struct crosvm_irq_route route = { .irq_id = 4, .kind = CROSVM_IRQ_ROUTE_IRQCHIP };

	for (uint32_t i = 0; i < 5000; i++)
		many[i] = msi(i, VECTOR);
	for (uint32_t count = 1; count <= 4096; count *= 2)
		OK(crosvm_set_irq_routing(vm, count, many));
	CHECK(crosvm_set_irq_routing(vm, 4097, many) < 0);
	CHECK(crosvm_set_irq_routing(vm, 5000, many) < 0);
	route.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	route.irqchip.pin = 4;
	OK(crosvm_set_irq_routing(vm, 1, &route));
	route.irqchip.pin = 24;
	GIVES(-EINVAL, crosvm_set_irq_routing(vm, 1, &route));
	route.irqchip.irqchip = 3;
	GIVES(-EINVAL, crosvm_set_irq_routing(vm, 1, &route));
	for (uint32_t kind = 2; kind < 9; kind++) {
		route = msi(4, VECTOR);
		route.kind = kind;
		GIVES(-EINVAL, crosvm_set_irq_routing(vm, 1, &route));
	}
	GIVES(-EINVAL, crosvm_set_irq_routing(vm, 1, NULL));
	OK(crosvm_set_irq_routing(vm, 0, many));
	OK(crosvm_set_irq_routing(vm, 0, NULL));
}

int main(void)
{
	struct machine m = machine();
	struct crosvm_vcpu *vcpu = vcpu_of(m.vm, 0);
	static struct crosvm_irq_route routes[ROUTES];
	struct kvm_lapic_state lapic;
	struct kvm_regs regs = { .rip = CODE };
	struct crosvm_irq *irq;
	uint16_t *vectors = (uint16_t *)m.memory;

	LOAD(m, CODE, guest);
	LOAD(m, 0x2000, first);
	LOAD(m, 0x2100, second);
	vectors[(VECTOR + 0x10) * 2] = 0x2000;
	vectors[(VECTOR + 1) * 2] = 0x2100;
	refusals(m.vm);
	OK(crosvm_reserve_range(m.vm, IOPORT, 0x60, 1));
	for (uint32_t i = 0; i < ROUTES; i++)
		routes[i] = msi(i + 100, VECTOR);
	routes[ROUTES - 1] = msi(4000, VECTOR + 1);
	OK(crosvm_set_irq_routing(m.vm, ROUTES, routes));
	OK(crosvm_create_irq_event(m.vm, 4000, &irq));
	OK(crosvm_start(m.vm));

	wait_init(vcpu);
	enter_at(vcpu, regs);
	/* The local APIC is switched on in its spurious vector register. */
	OK(crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	lapic.regs[0xf0] = (char)0xff;
	lapic.regs[0xf1] = 1;
	OK(crosvm_vcpu_set_lapic_state(vcpu, &lapic));
	OK(crosvm_vcpu_resume(vcpu));
	expect_write(vcpu, IOPORT, 0x60, 1, 1);
	ring(crosvm_irq_event_get_fd(irq));
	expect_write(vcpu, IOPORT, 0x60, 1, 3);

	/* Another table leads the same event to another vector; nobody ended the first, so this one is of higher rank. */
	routes[0] = msi(4000, VECTOR + 0x10);
	OK(crosvm_set_irq_routing(m.vm, 1, routes));
	ring(crosvm_irq_event_get_fd(irq));
	expect_write(vcpu, IOPORT, 0x60, 1, 2);
	OK(crosvm_destroy_irq_event(m.vm, &irq));
	return 0;
}
