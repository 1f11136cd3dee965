// SPDX-License-Identifier: GPL-3.0-or-later
/* A module that needs the kernel alone: what most cases are made from. */
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/slab.h>

static struct kobject *object;
static int number = 1;
module_param(number, int, 0444);

static int __init labalone_init(void)
{
	void *memory = kmalloc(number + 64, GFP_KERNEL);

	if (!memory)
		return -ENOMEM;
	kfree(memory);
	object = kobject_create_and_add("labalone", kernel_kobj);
	return object ? 0 : -ENOMEM;
}

static void __exit labalone_exit(void)
{
	kobject_put(object);
}

module_init(labalone_init);
module_exit(labalone_exit);
MODULE_ALIAS("lab:alias-to-be-changed-by-a-byte");
MODULE_DESCRIPTION("A module for itself");
MODULE_LICENSE("GPL");
