/* No VMM: prints what connecting gives. */
#include "check.h"

int main(void)
{
	struct crosvm *vm = (struct crosvm *)&vm;
	int status = crosvm_connect(&vm);

	CHECK(vm == (struct crosvm *)&vm);
	printf("%d\n", status);
	return 0;
}
