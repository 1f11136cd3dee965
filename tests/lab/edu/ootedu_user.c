// SPDX-License-Identifier: GPL-3.0-or-later
/* The driver's second half: needs a symbol of the first. */
#include <linux/module.h>

u32 ootedu_identification(void);

static int __init ootedu_user_init(void)
{
	pr_info("ootedu_user: loaded, identification %08x\n", ootedu_identification());
	return 0;
}

static void __exit ootedu_user_exit(void)
{
}

module_init(ootedu_user_init);
module_exit(ootedu_user_exit);
MODULE_DESCRIPTION("Second half of the driver for the teaching device of QEMU");
MODULE_VERSION("1.0");
MODULE_LICENSE("GPL");
