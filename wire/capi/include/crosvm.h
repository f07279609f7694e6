/*
 * crosvm.h - the hardware of a virtual machine as a C program.
 *
 * A program that includes this header and links -lcrosvm_plugin is a plugin:
 * `outboard run --plugin PROGRAM` starts a virtual machine on KVM and this
 * program beside it. The names and types are those that plugins of crosvm's
 * plugin mode (API 0.22) were written against. README.md, one folder up, tells
 * how to write a plugin, how to port one, and what to expect of threads.
 *
 * Conventions
 *
 *   - Functions return 0 or a file descriptor on success and a negative number
 *     from <errno.h> on failure, -EINVAL for a handle that is null, destroyed
 *     or of another kind and for a null pointer where something is expected.
 *     A refused request never ends the VM.
 *   - What creates something writes a handle through its last argument, which
 *     is left alone on failure. What destroys something takes the address of
 *     the handle and stores NULL there, unless it fails: then the handle stays
 *     good.
 *   - A handle is no address. It can be compared, stored and passed on.
 *   - One connection (struct crosvm) serves one thread at a time. Different
 *     vCPUs may be driven by different threads at the same time, also while
 *     other threads use connections.
 */
#ifndef CROSVM_H
#define CROSVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CROSVM_API_MAJOR 0
#define CROSVM_API_MINOR 22
#define CROSVM_API_PATCH 0

/* Asserts the layout of a struct; for this header only. */
#ifdef __cplusplus
#define CROSVM_ASSERT_(what, message) static_assert(what, message)
#else
#define CROSVM_ASSERT_(what, message) _Static_assert(what, message)
#endif
#define CROSVM_SIZE_(type, size) \
	CROSVM_ASSERT_(sizeof(struct type) == (size), #type " has the wrong size")
#define CROSVM_PLACE_(type, member, place) \
	CROSVM_ASSERT_(offsetof(struct type, member) == (place), \
		       #type "." #member " is in the wrong place")

struct crosvm;
struct crosvm_io;
struct crosvm_memory;
struct crosvm_irq;
struct crosvm_vcpu;

enum crosvm_address_space {
	/* Port I/O, addresses 0 to 0xffff. */
	CROSVM_ADDRESS_SPACE_IOPORT = 0,
	/* Physical addresses without memory behind them. */
	CROSVM_ADDRESS_SPACE_MMIO
};

/* ------------------------------------------------------------------ *
 * Connections
 * ------------------------------------------------------------------ */

/*
 * Connects to the VMM: the first call of every plugin, once per process.
 * -ENOTCONN if CROSVM_SOCKET is not in the environment, -EINVAL if it is not
 * the number of a descriptor, -EISCONN the second time.
 */
int crosvm_connect(struct crosvm **out);

/* Makes another connection, independent of the first, for another thread. */
int crosvm_new_connection(struct crosvm *connection, struct crosvm **out);

/*
 * Closes a connection. The VM goes on, and so do the vCPUs: their handles stay
 * good until the process ends.
 */
int crosvm_destroy_connection(struct crosvm **connection);

/*
 * Returns a new descriptor of the eventfd that becomes readable when the plugin
 * should exit; the caller closes it. A plugin may write to it to wake a thread
 * of its own.
 */
int crosvm_get_shutdown_eventfd(struct crosvm *connection);

/*
 * Asks whether KVM has an extension (KVM_CAP_*). A number that nobody knows
 * gives false.
 */
int crosvm_check_extension(struct crosvm *connection, uint32_t extension,
			   bool *has);

/* Always -EINVAL: no capability of the whole VM is for plugins to enable. */
int crosvm_enable_capability(struct crosvm *connection, uint32_t capability,
			     uint32_t flags, uint64_t args[4]);

/*
 * Lets the vCPUs run. Each of them delivers its INIT event first and stands
 * still until that is resumed. -EINVAL the second time.
 */
int crosvm_start(struct crosvm *connection);

/*
 * What CPUID can tell the guest on this host, and what KVM can only emulate.
 * out_count is how many entries there are; if that exceeds `count`, nothing else
 * is written and the result is -E2BIG.
 */
int crosvm_get_supported_cpuid(struct crosvm *connection, uint32_t count,
			       struct kvm_cpuid_entry2 *entries,
			       uint32_t *out_count);
int crosvm_get_emulated_cpuid(struct crosvm *connection, uint32_t count,
			      struct kvm_cpuid_entry2 *entries,
			      uint32_t *out_count);

/* The MSRs that KVM saves and restores; counts as above. */
int crosvm_get_msr_index_list(struct crosvm *connection, uint32_t count,
			      uint32_t *msrs, uint32_t *out_count);

struct crosvm_net_config {
	/* The tap device. It belongs to the caller. */
	int tap_fd;
	/* Address and netmask of the host's side, in network byte order. */
	uint32_t host_ip;
	uint32_t netmask;
	uint8_t host_mac_address[6];
	uint8_t _padding[2];
};
CROSVM_SIZE_(crosvm_net_config, 20);

/* The VM's tap device; -ENODATA if it has none. */
int crosvm_net_get_config(struct crosvm *connection,
			  struct crosvm_net_config *config);

/* ------------------------------------------------------------------ *
 * Addresses
 * ------------------------------------------------------------------ */

/*
 * Reserves a range: an access that starts in it stops its vCPU and becomes an
 * event. With length 0, releases the range that starts at `start` (-ENOENT if
 * none does). -EPERM if the range meets another of either kind, -EINVAL for an
 * unknown space and for an end that does not fit 64 bits.
 */
int crosvm_reserve_range(struct crosvm *connection, uint32_t space,
			 uint64_t start, uint64_t length);

/*
 * The same for writes that nobody waits for: the vCPU runs on, and the event
 * comes with no_resume = 1. Reads from such a range are not delivered.
 */
int crosvm_reserve_async_write_range(struct crosvm *connection, uint32_t space,
				     uint64_t start, uint64_t length);

/*
 * Makes a doorbell: an eventfd that is signalled when the guest writes `length`
 * bytes (1, 2, 4 or 8; 0: any number) to the address. With datamatch, which
 * points at that many bytes, only that value rings.
 */
int crosvm_create_io_event(struct crosvm *connection, uint32_t space,
			   uint64_t address, uint32_t length,
			   const uint8_t *datamatch, struct crosvm_io **out);
int crosvm_destroy_io_event(struct crosvm *connection, struct crosvm_io **io);

/* The doorbell's eventfd. It is closed with the handle. */
int crosvm_io_event_fd(struct crosvm_io *io);

/* Numbers of hints, and of details in one of them. */
#define CROSVM_MAX_HINT_COUNT 1
#define CROSVM_MAX_HINT_DETAIL_COUNT 32

/* Flag of a hint: it is about writes, not reads. */
#define CROSVM_HINT_ON_WRITE 0x1

struct crosvm_hint_detail {
	/* Which of the four registers below have to be equal to the guest's. */
	bool match_rax;
	bool match_rbx;
	bool match_rcx;
	bool match_rdx;
	uint8_t _reserved[4];
	uint64_t rax;
	uint64_t rbx;
	uint64_t rcx;
	uint64_t rdx;
	/* What travels beside the general registers if they are. */
	bool send_sregs;
	bool send_debugregs;
	uint8_t _reserved2[6];
};
CROSVM_SIZE_(crosvm_hint_detail, 48);

struct crosvm_hint {
	/* Zero, both. */
	uint32_t hint_version;
	uint32_t _reserved;
	/* The access: its space, its direction and its address, which is not 0. */
	uint32_t address_space;
	uint16_t address_flags;
	uint16_t details_count;
	uint64_t address;
	union {
		struct crosvm_hint_detail *details;
		uint64_t _reserved2;
	};
};
CROSVM_SIZE_(crosvm_hint, 32);

/*
 * Says that the plugin will ask for registers at one access. Its event brings
 * the general registers along, and what the first detail that matches names.
 * To get these in that event, and to set them before the resume, then needs no
 * answer of the VMM. A count of 0 takes the hint back.
 */
int crosvm_set_hypercall_hint(struct crosvm *connection, uint32_t count,
			      const struct crosvm_hint *hints);

/* ------------------------------------------------------------------ *
 * Memory
 * ------------------------------------------------------------------ */

/*
 * Gives the guest `length` bytes of a memfd from `offset` on, at the physical
 * address `start`. The memfd has to be sealed with F_SEAL_SHRINK (-EPERM);
 * everything has to be a multiple of the page size and within the file
 * (-EINVAL, -EOVERFLOW); -EBADF for no descriptor, -EEXIST where memory is
 * already. Writes to read-only memory become MMIO events if they are reserved.
 */
int crosvm_create_memory(struct crosvm *connection, int fd, uint64_t offset,
			 uint64_t length, uint64_t start, bool read_only,
			 bool dirty_log, struct crosvm_memory **out);
int crosvm_destroy_memory(struct crosvm *connection,
			  struct crosvm_memory **memory);

/*
 * Writes one bit for each page that the guest has written since the last call,
 * the first page in the lowest bit: exactly ceil(pages / 8) bytes.
 */
int crosvm_memory_get_dirty_log(struct crosvm *connection,
				struct crosvm_memory *memory, uint8_t *log);

/* ------------------------------------------------------------------ *
 * Interrupts and the chips in the kernel
 * ------------------------------------------------------------------ */

/* Sets the level of an interrupt line. */
int crosvm_set_irq(struct crosvm *connection, uint32_t irq_id, bool active);

/*
 * Makes an eventfd that raises a line, and a second one that is signalled when
 * the guest has ended the interrupt. Both are closed with the handle.
 */
int crosvm_create_irq_event(struct crosvm *connection, uint32_t irq_id,
			    struct crosvm_irq **out);
int crosvm_destroy_irq_event(struct crosvm *connection, struct crosvm_irq **irq);
int crosvm_irq_event_get_fd(const struct crosvm_irq *irq);
int crosvm_irq_event_get_resample_fd(const struct crosvm_irq *irq);

enum crosvm_irq_route_kind {
	CROSVM_IRQ_ROUTE_IRQCHIP = 0,
	CROSVM_IRQ_ROUTE_MSI
};

struct crosvm_irq_route_irqchip_ {
	uint32_t irqchip;
	uint32_t pin;
};

struct crosvm_irq_route_msi_ {
	uint64_t address;
	uint32_t data;
	uint8_t _reserved[4];
};

struct crosvm_irq_route {
	/* The line that is routed, and one of enum crosvm_irq_route_kind. */
	uint32_t irq_id;
	uint32_t kind;
	union {
		struct crosvm_irq_route_irqchip_ irqchip;
		struct crosvm_irq_route_msi_ msi;
		uint8_t _reserved[16];
	};
};
CROSVM_SIZE_(crosvm_irq_route, 24);
CROSVM_PLACE_(crosvm_irq_route, msi.data, 16);

/*
 * Replaces the routes of all lines; with none, no line leads anywhere.
 * -EINVAL for an unknown kind.
 */
int crosvm_set_irq_routing(struct crosvm *connection, uint32_t count,
			   const struct crosvm_irq_route *routes);

/* State of the two PICs, the I/O APIC and the timer. */
int crosvm_get_pic_state(struct crosvm *connection, bool primary,
			 struct kvm_pic_state *state);
int crosvm_set_pic_state(struct crosvm *connection, bool primary,
			 const struct kvm_pic_state *state);
int crosvm_get_ioapic_state(struct crosvm *connection,
			    struct kvm_ioapic_state *state);
int crosvm_set_ioapic_state(struct crosvm *connection,
			    const struct kvm_ioapic_state *state);
int crosvm_get_pit_state(struct crosvm *connection,
			 struct kvm_pit_state2 *state);
int crosvm_set_pit_state(struct crosvm *connection,
			 const struct kvm_pit_state2 *state);

/* The clock that guests with KVM's own clock see. */
int crosvm_get_clock(struct crosvm *connection, struct kvm_clock_data *clock);
int crosvm_set_clock(struct crosvm *connection,
		     const struct kvm_clock_data *clock);

/* Where KVM keeps a page for guests in real mode; before the start. */
int crosvm_set_identity_map_addr(struct crosvm *connection, uint32_t address);

/* ------------------------------------------------------------------ *
 * vCPUs
 * ------------------------------------------------------------------ */

/*
 * The handle of a vCPU: the same each time and on every connection, not to be
 * destroyed. -ENOENT past the last one.
 */
int crosvm_get_vcpu(struct crosvm *connection, uint32_t cpu_id,
		    struct crosvm_vcpu **out);

/*
 * Asks vCPUs to pause, one per bit of the mask: each delivers a PAUSED event
 * with `user`. A request that comes before the pause replaces `user`.
 */
int crosvm_pause_vcpus(struct crosvm *connection, uint64_t cpu_mask,
		       void *user);

enum crosvm_vcpu_event_kind {
	/* The first of every vCPU: nothing has run yet. */
	CROSVM_VCPU_EVENT_KIND_INIT = 0,
	/* The guest reads or writes a reserved range. */
	CROSVM_VCPU_EVENT_KIND_IO_ACCESS,
	/* A pause was asked for. */
	CROSVM_VCPU_EVENT_KIND_PAUSED,
	/* A Hyper-V hypercall. */
	CROSVM_VCPU_EVENT_KIND_HYPERV_HCALL,
	/* The guest sets up Hyper-V's interrupt controller. */
	CROSVM_VCPU_EVENT_KIND_HYPERV_SYNIC
};

struct crosvm_vcpu_event_io_access_ {
	/* One of enum crosvm_address_space. */
	uint32_t address_space;
	uint8_t _padding[4];
	uint64_t address;
	/* `length` bytes, at most 8, that stay in place until the resume. */
	uint8_t *data;
	uint32_t length;
	uint8_t is_write;
	/* The vCPU runs already: wait again, do not resume. */
	uint8_t no_resume;
	uint8_t _reserved[2];
};

struct crosvm_vcpu_event_hyperv_call_ {
	uint64_t input;
	uint64_t *result;
	uint64_t params[2];
};

struct crosvm_vcpu_event_hyperv_synic_ {
	uint32_t msr;
	uint32_t _reserved;
	uint64_t control;
	uint64_t evt_page;
	uint64_t msg_page;
};

struct crosvm_vcpu_event {
	/* One of enum crosvm_vcpu_event_kind. */
	uint32_t kind;
	uint8_t _padding[4];
	union {
		struct crosvm_vcpu_event_io_access_ io_access;
		/* What the pause was asked for with. */
		void *user;
		struct crosvm_vcpu_event_hyperv_call_ hyperv_call;
		struct crosvm_vcpu_event_hyperv_synic_ hyperv_synic;
		uint8_t _reserved[64];
	};
};
CROSVM_SIZE_(crosvm_vcpu_event, 72);
CROSVM_PLACE_(crosvm_vcpu_event, io_access.data, 24);
CROSVM_PLACE_(crosvm_vcpu_event, io_access.length, 32);
CROSVM_PLACE_(crosvm_vcpu_event, io_access.is_write, 36);
CROSVM_PLACE_(crosvm_vcpu_event, io_access.no_resume, 37);
CROSVM_PLACE_(crosvm_vcpu_event, hyperv_call.params, 24);
CROSVM_PLACE_(crosvm_vcpu_event, hyperv_synic.msg_page, 32);

/*
 * Waits for the next event; fails with -ESHUTDOWN when the VM has ended.
 * -EPROTO while an event waits to be resumed.
 */
int crosvm_vcpu_wait(struct crosvm_vcpu *vcpu, struct crosvm_vcpu_event *event);

/*
 * Lets the vCPU run on. A read gives the guest what stands in `data` now, a
 * Hyper-V call what stands in `*result`. -EPROTO without an event to resume.
 */
int crosvm_vcpu_resume(struct crosvm_vcpu *vcpu);

/*
 * Everything below is for a vCPU whose event was delivered and not resumed;
 * at other times it fails with -EPROTO. What is set may reach KVM at the resume
 * only, but a get sees what KVM made of a set before it.
 */
int crosvm_vcpu_get_regs(struct crosvm_vcpu *vcpu, struct kvm_regs *regs);
int crosvm_vcpu_set_regs(struct crosvm_vcpu *vcpu, const struct kvm_regs *regs);
int crosvm_vcpu_get_sregs(struct crosvm_vcpu *vcpu, struct kvm_sregs *sregs);
int crosvm_vcpu_set_sregs(struct crosvm_vcpu *vcpu,
			  const struct kvm_sregs *sregs);
int crosvm_vcpu_get_debugregs(struct crosvm_vcpu *vcpu,
			      struct kvm_debugregs *debugregs);
int crosvm_vcpu_set_debugregs(struct crosvm_vcpu *vcpu,
			      const struct kvm_debugregs *debugregs);
int crosvm_vcpu_get_fpu(struct crosvm_vcpu *vcpu, struct kvm_fpu *fpu);
int crosvm_vcpu_set_fpu(struct crosvm_vcpu *vcpu, const struct kvm_fpu *fpu);
int crosvm_vcpu_get_xcrs(struct crosvm_vcpu *vcpu, struct kvm_xcrs *xcrs);
int crosvm_vcpu_set_xcrs(struct crosvm_vcpu *vcpu, const struct kvm_xcrs *xcrs);
int crosvm_vcpu_get_lapic_state(struct crosvm_vcpu *vcpu,
				struct kvm_lapic_state *state);
int crosvm_vcpu_set_lapic_state(struct crosvm_vcpu *vcpu,
				const struct kvm_lapic_state *state);
int crosvm_vcpu_get_mp_state(struct crosvm_vcpu *vcpu,
			     struct kvm_mp_state *state);
int crosvm_vcpu_set_mp_state(struct crosvm_vcpu *vcpu,
			     const struct kvm_mp_state *state);
int crosvm_vcpu_get_vcpu_events(struct crosvm_vcpu *vcpu,
				struct kvm_vcpu_events *events);
int crosvm_vcpu_set_vcpu_events(struct crosvm_vcpu *vcpu,
				const struct kvm_vcpu_events *events);

/*
 * Fills in `data` of each entry for its `index`. KVM stops at the first one that
 * it does not know: out_count is how many it read, and fewer is no failure.
 */
int crosvm_vcpu_get_msrs(struct crosvm_vcpu *vcpu, uint32_t count,
			 struct kvm_msr_entry *entries, uint32_t *out_count);

/* Sets MSRs in order; -EINVAL if KVM stops before the last one. */
int crosvm_vcpu_set_msrs(struct crosvm_vcpu *vcpu, uint32_t count,
			 const struct kvm_msr_entry *entries);

/* Sets what CPUID tells the guest. Flags of the entries are kept. */
int crosvm_vcpu_set_cpuid(struct crosvm_vcpu *vcpu, uint32_t count,
			  const struct kvm_cpuid_entry2 *entries);

/* The Hyper-V leaves that KVM can offer on this vCPU; counts as above. */
int crosvm_get_hyperv_cpuid(struct crosvm_vcpu *vcpu, uint32_t count,
			    struct kvm_cpuid_entry2 *entries,
			    uint32_t *out_count);

/*
 * Enables KVM_CAP_HYPERV_SYNIC or KVM_CAP_HYPERV_SYNIC2 on this vCPU; -EINVAL
 * for anything else and for flags or arguments that are not zero.
 */
int crosvm_vcpu_enable_capability(struct crosvm_vcpu *vcpu, uint32_t capability,
				  uint32_t flags, uint64_t args[4]);

#undef CROSVM_PLACE_
#undef CROSVM_SIZE_
#undef CROSVM_ASSERT_

#ifdef __cplusplus
}
#endif

#endif /* CROSVM_H */
