// SPDX-License-Identifier: GPL-3.0-or-later
/* A driver for qemu's "-device edu" that crashes while it is loaded. */
#include <linux/module.h>
#include <linux/pci.h>

static const struct pci_device_id ootcrash_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ootcrash_ids);

static int *volatile nowhere;

static int __init ootcrash_init(void)
{
	*nowhere = 1;
	return 0;
}

static void __exit ootcrash_exit(void)
{
}

module_init(ootcrash_init);
module_exit(ootcrash_exit);
MODULE_DESCRIPTION("Crashes when it is loaded");
MODULE_VERSION("1.0");
MODULE_LICENSE("GPL");
