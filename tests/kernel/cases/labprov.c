// SPDX-License-Identifier: GPL-3.0-or-later
/* A provider: one symbol for all, one for GPL modules, one in a namespace. Names are as long as those of the kernel they are changed to. */
#include <linux/module.h>
#include <linux/version.h>

int labject_get(int number)	/* kobject_get */
{
	return number;
}
EXPORT_SYMBOL(labject_get);

int labject_put(int number)	/* kobject_put */
{
	return -number;
}
EXPORT_SYMBOL_GPL(labject_put);

int labspace_call(void)
{
	return 0;
}
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
EXPORT_SYMBOL_NS_GPL(labspace_call, "LABSPACE");
#else
EXPORT_SYMBOL_NS_GPL(labspace_call, LABSPACE);
#endif

MODULE_DESCRIPTION("A provider of symbols");
MODULE_LICENSE("GPL");
