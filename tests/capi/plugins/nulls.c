/* Handles that are none, and pointers to nowhere: -EINVAL from every function, and nothing else happens. */
#include "check.h"

static int word;

/* Every function that takes a connection, with good pointers for all else. */
static void without_connection(struct crosvm *vm)
{
	struct crosvm *connection = NULL;
	struct crosvm_io *io = NULL;
	struct crosvm_memory *slot = NULL;
	struct crosvm_irq *irq = NULL;
	struct crosvm_vcpu *vcpu = NULL;
	uint64_t args[4] = { 0 };
	bool has;
	int fd = make_memfd(0x1000, F_SEAL_SHRINK, NULL);
	struct kvm_cpuid_entry2 leaf = { 0 };
	struct crosvm_irq_route route = { 0 };
	struct kvm_pic_state pic = { 0 };
	struct kvm_ioapic_state ioapic = { 0 };
	struct kvm_pit_state2 pit = { 0 };
	struct kvm_clock_data clock = { 0 };
	struct crosvm_net_config net;
	uint32_t msr, count;

	GIVES(-EINVAL, crosvm_new_connection(vm, &connection));
	GIVES(-EINVAL, crosvm_destroy_connection(&vm));
	GIVES(-EINVAL, crosvm_get_shutdown_eventfd(vm));
	GIVES(-EINVAL, crosvm_check_extension(vm, 0, &has));
	GIVES(-EINVAL, crosvm_enable_capability(vm, 0, 0, args));
	GIVES(-EINVAL, crosvm_reserve_range(vm, IOPORT, 0x10, 1));
	GIVES(-EINVAL, crosvm_reserve_range(vm, IOPORT, 0x10, 0));
	GIVES(-EINVAL, crosvm_reserve_async_write_range(vm, IOPORT, 0x10, 1));
	GIVES(-EINVAL, crosvm_set_irq(vm, 0, true));
	GIVES(-EINVAL, crosvm_set_hypercall_hint(vm, 0, NULL));
	GIVES(-EINVAL, crosvm_pause_vcpus(vm, 0, NULL));
	GIVES(-EINVAL, crosvm_start(vm));
	GIVES(-EINVAL, crosvm_create_io_event(vm, IOPORT, 0x10, 1, NULL, &io));
	GIVES(-EINVAL, crosvm_create_memory(vm, fd, 0, 0x1000, 0x100000, false, false, &slot));
	GIVES(-EINVAL, crosvm_create_irq_event(vm, 0, &irq));
	GIVES(-EINVAL, crosvm_get_vcpu(vm, 0, &vcpu));
	GIVES(-EINVAL, crosvm_get_supported_cpuid(vm, 1, &leaf, &count));
	GIVES(-EINVAL, crosvm_get_emulated_cpuid(vm, 1, &leaf, &count));
	GIVES(-EINVAL, crosvm_get_msr_index_list(vm, 1, &msr, &count));
	GIVES(-EINVAL, crosvm_net_get_config(vm, &net));
	GIVES(-EINVAL, crosvm_set_irq_routing(vm, 1, &route));
	GIVES(-EINVAL, crosvm_set_irq_routing(vm, 0, NULL));
	GIVES(-EINVAL, crosvm_get_pic_state(vm, true, &pic));
	GIVES(-EINVAL, crosvm_set_pic_state(vm, true, &pic));
	GIVES(-EINVAL, crosvm_get_ioapic_state(vm, &ioapic));
	GIVES(-EINVAL, crosvm_set_ioapic_state(vm, &ioapic));
	GIVES(-EINVAL, crosvm_get_pit_state(vm, &pit));
	GIVES(-EINVAL, crosvm_set_pit_state(vm, &pit));
	GIVES(-EINVAL, crosvm_get_clock(vm, &clock));
	GIVES(-EINVAL, crosvm_set_clock(vm, &clock));
	GIVES(-EINVAL, crosvm_set_identity_map_addr(vm, 0xfeffc000));
	OK(close(fd));
	CHECK(!connection && !io && !slot && !irq && !vcpu);
}

/* Every function that takes another handle. */
static void without_handle(struct crosvm *vm, void *handle)
{
	struct crosvm_io *io = (struct crosvm_io *)handle;
	struct crosvm_memory *slot = (struct crosvm_memory *)handle;
	struct crosvm_irq *irq = (struct crosvm_irq *)handle;
	uint8_t log[16];

	GIVES(-EINVAL, crosvm_destroy_io_event(vm, &io));
	GIVES(-EINVAL, crosvm_io_event_fd(io));
	GIVES(-EINVAL, crosvm_destroy_memory(vm, &slot));
	GIVES(-EINVAL, crosvm_memory_get_dirty_log(vm, slot, log));
	GIVES(-EINVAL, crosvm_destroy_irq_event(vm, &irq));
	GIVES(-EINVAL, crosvm_irq_event_get_fd(irq));
	GIVES(-EINVAL, crosvm_irq_event_get_resample_fd(irq));
	CHECK(io == handle && slot == handle && irq == handle);
}

static void without_vcpu(struct crosvm_vcpu *vcpu)
{
	struct crosvm_vcpu_event event;
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };
	struct kvm_debugregs debugregs = { 0 };
	struct kvm_fpu fpu = { 0 };
	struct kvm_mp_state mp_state = { 0 };
	struct kvm_msr_entry msr = { 0 };
	struct kvm_cpuid_entry2 cpuid = { 0 };
	struct kvm_xcrs xcrs = { 0 };
	struct kvm_lapic_state lapic = { 0 };
	struct kvm_vcpu_events events = { 0 };
	uint64_t args[4] = { 0 };
	uint32_t count;

	GIVES(-EINVAL, crosvm_vcpu_wait(vcpu, &event));
	GIVES(-EINVAL, crosvm_vcpu_resume(vcpu));
	GIVES(-EINVAL, crosvm_vcpu_get_regs(vcpu, &regs));
	GIVES(-EINVAL, crosvm_vcpu_set_regs(vcpu, &regs));
	GIVES(-EINVAL, crosvm_vcpu_get_sregs(vcpu, &sregs));
	GIVES(-EINVAL, crosvm_vcpu_set_sregs(vcpu, &sregs));
	GIVES(-EINVAL, crosvm_vcpu_get_debugregs(vcpu, &debugregs));
	GIVES(-EINVAL, crosvm_vcpu_set_debugregs(vcpu, &debugregs));
	GIVES(-EINVAL, crosvm_vcpu_get_fpu(vcpu, &fpu));
	GIVES(-EINVAL, crosvm_vcpu_set_fpu(vcpu, &fpu));
	GIVES(-EINVAL, crosvm_vcpu_get_mp_state(vcpu, &mp_state));
	GIVES(-EINVAL, crosvm_vcpu_set_mp_state(vcpu, &mp_state));
	GIVES(-EINVAL, crosvm_vcpu_get_msrs(vcpu, 1, &msr, &count));
	GIVES(-EINVAL, crosvm_vcpu_set_msrs(vcpu, 1, &msr));
	GIVES(-EINVAL, crosvm_vcpu_set_cpuid(vcpu, 1, &cpuid));
	GIVES(-EINVAL, crosvm_vcpu_get_xcrs(vcpu, &xcrs));
	GIVES(-EINVAL, crosvm_vcpu_set_xcrs(vcpu, &xcrs));
	GIVES(-EINVAL, crosvm_vcpu_get_lapic_state(vcpu, &lapic));
	GIVES(-EINVAL, crosvm_vcpu_set_lapic_state(vcpu, &lapic));
	GIVES(-EINVAL, crosvm_vcpu_get_vcpu_events(vcpu, &events));
	GIVES(-EINVAL, crosvm_vcpu_set_vcpu_events(vcpu, &events));
	GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 0, args));
	GIVES(-EINVAL, crosvm_get_hyperv_cpuid(vcpu, 1, &cpuid, &count));
}

static void no_place_for_results(struct machine *m)
{
	struct kvm_cpuid_entry2 leaf;
	uint32_t count;

	GIVES(-EINVAL, crosvm_connect(NULL));
	GIVES(-EINVAL, crosvm_new_connection(m->vm, NULL));
	GIVES(-EINVAL, crosvm_destroy_connection(NULL));
	GIVES(-EINVAL, crosvm_check_extension(m->vm, 0, NULL));
	GIVES(-EINVAL, crosvm_enable_capability(m->vm, 0, 0, NULL));
	GIVES(-EINVAL, crosvm_create_io_event(m->vm, IOPORT, 0x10, 1, NULL, NULL));
	GIVES(-EINVAL, crosvm_destroy_io_event(m->vm, NULL));
	GIVES(-EINVAL, crosvm_create_memory(m->vm, m->fd, 0, 0x1000, 0x100000, false, false, NULL));
	GIVES(-EINVAL, crosvm_destroy_memory(m->vm, NULL));
	GIVES(-EINVAL, crosvm_memory_get_dirty_log(m->vm, m->slot, NULL));
	GIVES(-EINVAL, crosvm_create_irq_event(m->vm, 0, NULL));
	GIVES(-EINVAL, crosvm_destroy_irq_event(m->vm, NULL));
	GIVES(-EINVAL, crosvm_get_vcpu(m->vm, 0, NULL));
	GIVES(-EINVAL, crosvm_set_hypercall_hint(m->vm, 1, NULL));
	GIVES(-EINVAL, crosvm_get_supported_cpuid(m->vm, 1, NULL, &count));
	GIVES(-EINVAL, crosvm_get_supported_cpuid(m->vm, 1, &leaf, NULL));
	GIVES(-EINVAL, crosvm_get_emulated_cpuid(m->vm, 1, NULL, &count));
	GIVES(-EINVAL, crosvm_get_emulated_cpuid(m->vm, 1, &leaf, NULL));
	GIVES(-EINVAL, crosvm_get_msr_index_list(m->vm, 1, NULL, &count));
	GIVES(-EINVAL, crosvm_get_msr_index_list(m->vm, 1, &count, NULL));
	GIVES(-EINVAL, crosvm_net_get_config(m->vm, NULL));
	GIVES(-EINVAL, crosvm_set_irq_routing(m->vm, 1, NULL));
	GIVES(-EINVAL, crosvm_get_pic_state(m->vm, true, NULL));
	GIVES(-EINVAL, crosvm_set_pic_state(m->vm, true, NULL));
	GIVES(-EINVAL, crosvm_get_ioapic_state(m->vm, NULL));
	GIVES(-EINVAL, crosvm_set_ioapic_state(m->vm, NULL));
	GIVES(-EINVAL, crosvm_get_pit_state(m->vm, NULL));
	GIVES(-EINVAL, crosvm_set_pit_state(m->vm, NULL));
	GIVES(-EINVAL, crosvm_get_clock(m->vm, NULL));
	GIVES(-EINVAL, crosvm_set_clock(m->vm, NULL));
}

static void no_place_of_a_vcpu(struct crosvm_vcpu *vcpu)
{
	struct kvm_msr_entry msr = { 0 };
	uint32_t count;

	GIVES(-EINVAL, crosvm_vcpu_wait(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_regs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_regs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_sregs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_sregs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_debugregs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_debugregs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_fpu(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_fpu(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_mp_state(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_mp_state(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_msrs(vcpu, 1, NULL, &count));
	GIVES(-EINVAL, crosvm_vcpu_get_msrs(vcpu, 1, &msr, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_msrs(vcpu, 1, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_cpuid(vcpu, 1, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_xcrs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_xcrs(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_lapic_state(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_lapic_state(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_get_vcpu_events(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_set_vcpu_events(vcpu, NULL));
	GIVES(-EINVAL, crosvm_vcpu_enable_capability(vcpu, KVM_CAP_HYPERV_SYNIC, 0, NULL));
	GIVES(-EINVAL, crosvm_get_hyperv_cpuid(vcpu, 1, NULL, &count));
	/* An empty list needs no pointer. */
	OK(crosvm_vcpu_get_msrs(vcpu, 0, NULL, &count));
	GIVES(0, count);
	OK(crosvm_vcpu_set_msrs(vcpu, 0, NULL));
}

int main(void)
{
	struct machine m;
	struct crosvm_vcpu *vcpu;
	struct crosvm *none = NULL;
	void *handles[5];

	/* Before there is a connection at all. */
	without_connection(NULL);
	without_vcpu(NULL);
	m = machine();
	OK(crosvm_start(m.vm));
	vcpu = vcpu_of(m.vm, 0);
	handles[0] = NULL;
	handles[1] = &word;
	handles[2] = m.vm;
	handles[3] = vcpu;
	handles[4] = (void *)(uintptr_t)1;
	for (int i = 0; i < 5; i++) {
		if (i != 2)
			without_connection((struct crosvm *)handles[i]);
		if (i != 3)
			without_vcpu((struct crosvm_vcpu *)handles[i]);
		without_handle(m.vm, handles[i]);
	}
	without_connection((struct crosvm *)m.slot);
	/* A vCPU past the last one, made up from a good one. */
	without_vcpu((struct crosvm_vcpu *)((uintptr_t)vcpu + 1));
	GIVES(-EINVAL, crosvm_destroy_memory(none, &m.slot));
	CHECK(m.slot != NULL);
	no_place_for_results(&m);
	wait_init(vcpu);
	no_place_of_a_vcpu(vcpu);
	return 0;
}
