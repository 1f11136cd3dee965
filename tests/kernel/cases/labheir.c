// SPDX-License-Identifier: GPL-3.0-or-later
/* A GPL module that needs a proprietary one and a GPL-only symbol of the kernel. */
#include <linux/kobject.h>
#include <linux/module.h>

int labprop_call(int number);

static int __init labheir_init(void)
{
	struct kobject *object = kobject_create_and_add("labheir", kernel_kobj);

	kobject_put(object);
	return labprop_call(0);
}

static void __exit labheir_exit(void)
{
}

module_init(labheir_init);
module_exit(labheir_exit);
MODULE_DESCRIPTION("Heir of a taint");
MODULE_LICENSE("GPL");
