// Copyright: Contributors to the outoftree.kmod project
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// The init of a system that only says what a variant has left in /run.
#include <fcntl.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
	char text[200] = "";
	int file = open("/run/outoftree.kmod.variant", O_RDONLY);
	int console = open("/dev/console", O_WRONLY);

	if (file >= 0 && read(file, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	dprintf(console, "variant: %s\n", text);
	sync();
	sleep(1);
	return reboot(RB_POWER_OFF);
}
