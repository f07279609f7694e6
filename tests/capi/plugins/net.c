/* The tap device of --host_ip, --netmask and --mac: its configuration, and a descriptor of the plugin's own each time. */
#include "check.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

int main(void)
{
	const uint8_t mac[] = { 0x02, 0x11, 0x22, 0x33, 0x44, 0x55 };
	struct crosvm *vm;
	struct crosvm_net_config net, again;
	struct ifreq name;

	OK(crosvm_connect(&vm));
	memset(&net, 0xee, sizeof(net));
	OK(crosvm_net_get_config(vm, &net));
	GIVES(inet_addr("10.117.0.1"), net.host_ip);
	GIVES(inet_addr("255.255.255.0"), net.netmask);
	OK(memcmp(mac, net.host_mac_address, sizeof(mac)));
	GIVES(0, net._padding[0] | net._padding[1]);
	memset(&name, 0, sizeof(name));
	OK(ioctl(net.tap_fd, TUNGETIFF, &name));
	CHECK(name.ifr_flags & IFF_TAP);
	OK(crosvm_net_get_config(vm, &again));
	CHECK(again.tap_fd >= 0 && again.tap_fd != net.tap_fd);
	OK(close(net.tap_fd));
	OK(ioctl(again.tap_fd, TUNGETIFF, &name));
	OK(close(again.tap_fd));
	return 0;
}
