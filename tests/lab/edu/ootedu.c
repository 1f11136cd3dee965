// SPDX-License-Identifier: GPL-3.0-or-later
/* An out-of-tree PCI driver for qemu's "-device edu": says when it loads and binds, and gives its second half one symbol. */
#include <linux/module.h>
#include <linux/pci.h>

#define EDU_IDENTIFICATION 0x00

static u32 identification;

u32 ootedu_identification(void)
{
	return identification;
}
EXPORT_SYMBOL_GPL(ootedu_identification);

static int ootedu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	void __iomem *registers;
	int err = pci_enable_device(pdev);

	if (err)
		return err;
	registers = pci_iomap(pdev, 0, 0);
	if (!registers) {
		pci_disable_device(pdev);
		return -ENOMEM;
	}
	identification = ioread32(registers + EDU_IDENTIFICATION);
	pci_iounmap(pdev, registers);
	pr_info("ootedu: bound to %s, identification %08x\n", pci_name(pdev), identification);
	return 0;
}

static void ootedu_remove(struct pci_dev *pdev)
{
	pci_disable_device(pdev);
}

static const struct pci_device_id ootedu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ootedu_ids);

static struct pci_driver ootedu_driver = {
	.name = "ootedu",
	.id_table = ootedu_ids,
	.probe = ootedu_probe,
	.remove = ootedu_remove,
};

static int __init ootedu_init(void)
{
	pr_info("ootedu: loaded, version %s\n", THIS_MODULE->version);
	return pci_register_driver(&ootedu_driver);
}

static void __exit ootedu_exit(void)
{
	pci_unregister_driver(&ootedu_driver);
}

module_init(ootedu_init);
module_exit(ootedu_exit);
MODULE_DESCRIPTION("Driver for the teaching device of QEMU");
MODULE_VERSION("1.0");
MODULE_LICENSE("GPL");
