// SPDX-License-Identifier: GPL-3.0-or-later
/* A provider that says that it is not free. */
#include <linux/module.h>

int labprop_call(int number)
{
	return number;
}
EXPORT_SYMBOL(labprop_call);

MODULE_DESCRIPTION("A proprietary provider");
MODULE_LICENSE("Proprietary");
