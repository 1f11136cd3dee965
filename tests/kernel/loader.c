// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * The first process of a machine that judges modules: hands every file that /list names to the kernel and says on the console what
 * the kernel answered, with the lines that it logged meanwhile.
 *
 *	/list:    <T or K> <flags of finit_module> <file> <module name>	T: removed again once taken, K: kept, as a provider
 *	console:  "= <file> <errno, 0: taken>" followed by "| <line of the kernel's log>", and "= end" at the end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static int kmsg;
static char console[1 << 16];

static void log_lines(int show)
{
	char record[8192];
	ssize_t size;

	for (;;) {
		size = read(kmsg, record, sizeof(record) - 1);
		if (size < 0 && errno == EPIPE) {	/* overwritten before it was read */
			printf("| LOST\n");
			continue;
		}
		if (size <= 0)
			return;
		record[size] = 0;
		char *text = strchr(record, ';');
		if (!show || !text)
			continue;
		text[strcspn(text, "\n")] = 0;	/* what follows are the record's properties */
		printf("| %s\n", text + 1);
	}
}

int main(void)
{
	char mode, path[64], name[64];
	int flags;
	FILE *list;

	setvbuf(stdout, console, _IOFBF, sizeof(console));
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	list = fopen("/list", "r");
	if (kmsg < 0 || !list) {
		printf("= no /dev/kmsg or no /list: %s\n", strerror(errno));
		list = NULL;
	}
	while (list && fscanf(list, " %c %d %63s %63s", &mode, &flags, path, name) == 4) {
		int file = open(path, O_RDONLY);
		int err;

		log_lines(0);
		err = syscall(SYS_finit_module, file, "", flags) ? errno : 0;
		printf("= %s %d\n", path, err);
		log_lines(1);
		if (!err && mode == 'T' && syscall(SYS_delete_module, name, O_NONBLOCK))
			printf("! %s stays: %s\n", name, strerror(errno));
		close(file);
		unlink(path);
	}
	printf("= end\n");
	fflush(stdout);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
