// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * The first process of a machine that judges modules: hands every file that /list names to the kernel and says on the console what
 * the kernel answered, with the lines that it logged meanwhile.
 *
 *	/list:    <T or K> <flags of finit_module> <file>	T: removed again once taken, K: kept, as a provider
 *	console:  "= <file> <errno, 0: taken, 255: the kernel fell over it>" followed by "| <line of the kernel's log>", and "= end" at the end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CRASH 255

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

/* The newest module is the first line; the name in the file is what the caller may have changed. */
static void remove_newest(void)
{
	char name[64] = "";
	FILE *modules = fopen("/proc/modules", "r");

	if (!modules || fscanf(modules, "%63s", name) != 1 || syscall(SYS_delete_module, name, O_NONBLOCK))
		printf("! %s stays: %s\n", name, strerror(errno));
	if (modules)
		fclose(modules);
}

/* In a process of its own, which may die of it or never return. */
static int load(const char *path, int flags)
{
	struct timespec patience = { .tv_sec = 30 };
	sigset_t ended;
	int status;
	pid_t child;

	sigemptyset(&ended);
	sigaddset(&ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ended, NULL);
	child = fork();
	if (!child) {
		int file = open(path, O_RDONLY);

		prctl(PR_SET_NAME, "modprobe");	/* some lines of the log name the process */
		_exit(syscall(SYS_finit_module, file, "", flags) ? errno : 0);
	}
	sigtimedwait(&ended, NULL, &patience);
	if (waitpid(child, &status, WNOHANG) != child || !WIFEXITED(status))
		return CRASH;
	return WEXITSTATUS(status);
}

int main(void)
{
	char mode, path[64];
	int flags;
	FILE *list;

	setvbuf(stdout, console, _IOFBF, sizeof(console));
	mount("proc", "/proc", "proc", 0, NULL);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	list = fopen("/list", "r");
	if (kmsg < 0 || !list) {
		printf("= no /dev/kmsg or no /list: %s\n", strerror(errno));
		list = NULL;
	}
	while (list && fscanf(list, " %c %d %63s", &mode, &flags, path) == 3) {
		int err;

		log_lines(0);
		err = load(path, flags);
		printf("= %s %d\n", path, err);
		log_lines(1);
		if (!err && mode == 'T')
			remove_newest();
		if (err == CRASH)	/* whoever loads the next one would wait for the dead one's locks */
			break;
		unlink(path);
		fflush(stdout);
	}
	printf("= end\n");
	fflush(stdout);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
