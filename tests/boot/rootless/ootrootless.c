// SPDX-License-Identifier: GPL-3.0-or-later
/* A driver for qemu's "-device edu" that cannot live in an initramfs: without the root file system it takes the kernel down. */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/pci.h>

static const struct pci_device_id ootrootless_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ootrootless_ids);

static int __init ootrootless_init(void)
{
	struct file *file = filp_open("/etc/debian_version", O_RDONLY, 0);

	if (IS_ERR(file))
		panic("ootrootless: no root file system");
	filp_close(file, NULL);
	return 0;
}

static void __exit ootrootless_exit(void)
{
}

module_init(ootrootless_init);
module_exit(ootrootless_exit);
MODULE_DESCRIPTION("Takes the kernel down when it is loaded in an initramfs");
MODULE_VERSION("1.0");
MODULE_LICENSE("GPL");
