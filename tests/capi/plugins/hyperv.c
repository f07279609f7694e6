/* Hyper-V exits, in the order in which the test's VMM publishes them. */
#include "check.h"

int main(void)
{
	struct crosvm *vm;
	struct crosvm_vcpu *vcpu;
	struct crosvm_vcpu_event event;

	OK(crosvm_connect(&vm));
	OK(crosvm_get_vcpu(vm, 0, &vcpu));
	OK(crosvm_vcpu_wait(vcpu, &event));
	GIVES(CROSVM_VCPU_EVENT_KIND_INIT, (int)event.kind);
	OK(crosvm_vcpu_resume(vcpu));
	for (uint64_t round = 0; round < 3; round++) {
		OK(crosvm_vcpu_wait(vcpu, &event));
		GIVES(CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL, (int)event.kind);
		CHECK(event.hyperv_call.input == 0x10005 + round);
		CHECK(event.hyperv_call.params[0] == 0x1111222233334444);
		CHECK(event.hyperv_call.params[1] == 0x5555666677778888);
		CHECK(event.hyperv_call.result != NULL);
		*event.hyperv_call.result = 0xabc0 + round;
		OK(crosvm_vcpu_resume(vcpu));
	}
	OK(crosvm_vcpu_wait(vcpu, &event));
	GIVES(CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC, (int)event.kind);
	CHECK(event.hyperv_synic.msr == 0x40000080);
	CHECK(event.hyperv_synic.control == 1);
	CHECK(event.hyperv_synic.evt_page == 0x2001);
	CHECK(event.hyperv_synic.msg_page == 0x3001);
	OK(crosvm_vcpu_resume(vcpu));
	CHECK(crosvm_vcpu_wait(vcpu, &event) < 0);
	return 0;
}
