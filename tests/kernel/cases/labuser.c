// SPDX-License-Identifier: GPL-3.0-or-later
/* A module that needs something of every kind: of the kernel, of another module, out of a namespace, and weakly. */
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/version.h>

int labject_get(int number);
int labject_put(int number);
int labspace_call(void);
int lab_absent(int number) __attribute__((weak));

static struct kobject *object;
static int number = 1;
module_param(number, int, 0444);

static int __init labuser_init(void)
{
	void *memory = kmalloc(number + 64, GFP_KERNEL);

	if (!memory)
		return -ENOMEM;
	kfree(memory);
	if (lab_absent)
		number = lab_absent(number);
	number = labject_get(number) + labject_put(number) + labspace_call();
	object = kobject_create_and_add("labuser", kernel_kobj);
	return object ? 0 : -ENOMEM;
}

static void __exit labuser_exit(void)
{
	kobject_put(object);
}

module_init(labuser_init);
module_exit(labuser_exit);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("LABSPACE");
#else
MODULE_IMPORT_NS(LABSPACE);
#endif
MODULE_DESCRIPTION("A user of symbols");
MODULE_LICENSE("GPL");
