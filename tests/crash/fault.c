/* Copyright: Contributors to the outoftree.kmod project
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The shim: follows a process and all that it starts (its tools too), numbers their system calls that change, read or start something, and
 * has a fault happen at chosen numbers. A seccomp filter stops the processes at those calls alone, so that a run is hardly slower than without.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the shim knows the registers of x86-64 alone"
#endif

enum kind { CHANGE = 1, READ = 2, START = 4 };
enum fault { NONE, FAIL, FAIL_FROM, KILL_BEFORE, KILL_AFTER, KILL_RUN, SIGNAL };  /* KILL_RUN: the run alone, its tools go on */
enum shape { FD, PATH, AT, AT2, PATH2, SYMLINK, SYMLINKAT, OPEN, OPENAT, FD_OUT2, FD_OUT3, NOTHING };

static const struct { int nr, kind, shape; const char *name; } CALLS[] = {
#define CALL(name, kind, shape) { SYS_##name, kind, shape, #name }
    CALL(open, READ, OPEN), CALL(openat, READ, OPENAT), CALL(creat, CHANGE, PATH),
    CALL(write, CHANGE, FD), CALL(pwrite64, CHANGE, FD), CALL(writev, CHANGE, FD), CALL(pwritev, CHANGE, FD),
    CALL(ftruncate, CHANGE, FD), CALL(truncate, CHANGE, PATH), CALL(fallocate, CHANGE, FD),
    CALL(fsync, CHANGE, FD), CALL(fdatasync, CHANGE, FD), CALL(syncfs, CHANGE, FD), CALL(sync, CHANGE, NOTHING),
    CALL(sendfile, CHANGE, FD), CALL(copy_file_range, CHANGE, FD_OUT3),
    CALL(fchmod, CHANGE, FD), CALL(chmod, CHANGE, PATH), CALL(fchmodat, CHANGE, AT),
    CALL(fchown, CHANGE, FD), CALL(chown, CHANGE, PATH), CALL(lchown, CHANGE, PATH), CALL(fchownat, CHANGE, AT),
    CALL(setxattr, CHANGE, PATH), CALL(lsetxattr, CHANGE, PATH), CALL(utimensat, CHANGE, AT),
    CALL(mkdir, CHANGE, PATH), CALL(mkdirat, CHANGE, AT), CALL(rmdir, CHANGE, PATH), CALL(unlink, CHANGE, PATH), CALL(unlinkat, CHANGE, AT),
    CALL(rename, CHANGE, PATH2), CALL(renameat, CHANGE, AT2), CALL(renameat2, CHANGE, AT2),
    CALL(link, CHANGE, PATH2), CALL(linkat, CHANGE, AT2), CALL(symlink, CHANGE, SYMLINK), CALL(symlinkat, CHANGE, SYMLINKAT),
    CALL(mknod, CHANGE, PATH), CALL(mknodat, CHANGE, AT), CALL(flock, CHANGE, FD),
    CALL(read, READ, FD), CALL(pread64, READ, FD), CALL(getdents64, READ, FD), CALL(fstat, READ, FD), CALL(stat, READ, PATH),
    CALL(lstat, READ, PATH), CALL(newfstatat, READ, AT), CALL(statx, READ, AT), CALL(statfs, READ, PATH), CALL(fstatfs, READ, FD),
    CALL(readlink, READ, PATH), CALL(readlinkat, READ, AT), CALL(access, READ, PATH), CALL(faccessat, READ, AT), CALL(faccessat2, READ, AT),
    CALL(execve, START, PATH), CALL(fork, START, NOTHING), CALL(vfork, START, NOTHING), CALL(clone, START, NOTHING),
    CALL(clone3, START, NOTHING), CALL(pipe2, START, NOTHING),
};
enum { COUNT = sizeof CALLS / sizeof *CALLS, PROCESSES = 512 };

struct plan {
    const char *places;  /* directories, ":" behind each; calls elsewhere are not counted */
    const char *log;     /* a file for one line a counted call, or NULL */
    long at[2];          /* numbers of the calls that something happens at, from 1; 0: none */
    int fault[2];
    int error[2];        /* the errno, or the signal */
    int kinds;           /* of the calls that FAIL_FROM has fail */
    int limit;           /* seconds that all of it may take */
    void (*changing)(int pid, long number, const char *name, int fd, const char *path, const char *path2);  /* or NULL */
    /* answers */
    long count;
    int status;          /* of the run, as of waitpid */
    int outlived;        /* processes that were left when the run had ended */
    int late;            /* whether the limit was reached; all was killed then */
};

static pid_t alive[PROCESSES];
static int entering[PROCESSES];
static volatile sig_atomic_t alarmed;

static void on_alarm(int number) { (void)number; alarmed = 1; }

/* In the child: stop until the tracer is there, then ask for the stops. */
int enter(void) {
    struct sock_filter filter[COUNT + 4];
    int n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < COUNT; i++)
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALLS[i].nr, COUNT - i, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    struct sock_fprog program = { n, filter };
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) || raise(SIGSTOP))
        return errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return errno;
    return 0;
}

static void text_at(pid_t pid, unsigned long address, char *to, size_t room) {
    size_t have = 0;
    to[0] = 0;
    while (have < room - 1) {  /* page by page, since the next one may not be mapped */
        size_t piece = 4096 - (address + have) % 4096;
        struct iovec local = { to + have, piece < room - 1 - have ? piece : room - 1 - have };
        struct iovec remote = { (void *)(address + have), local.iov_len };
        ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
        if (got <= 0)
            break;
        if (memchr(to + have, 0, got))
            return;
        have += got;
    }
    to[have] = 0;
}

static void link_of(pid_t pid, const char *what, char *to) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/%s", pid, what);
    ssize_t size = readlink(name, to, 4095);
    to[size < 0 ? 0 : size] = 0;
}

/* The path that a call names, with dirfd and chroot; symlinks in it are left as they are. */
static void resolve(pid_t pid, int dirfd, unsigned long address, char *to) {
    static char text[4096];
    char name[32], root[4096];
    if (address)
        text_at(pid, address, text, sizeof text);
    else
        text[0] = 0;
    if (text[0] == '/') {
        link_of(pid, "root", root);
        snprintf(to, 8192, "%s%s", strcmp(root, "/") ? root : "", text);
        return;
    }
    snprintf(name, sizeof name, dirfd == AT_FDCWD ? "cwd" : "fd/%d", dirfd);
    link_of(pid, name, to);
    if (text[0])
        snprintf(to + strlen(to), sizeof text, "/%s", text);
}

static int watched(const char *places, const char *path) {
    for (const char *end; (end = strchr(places, ':')); places = end + 1)
        if (!strncmp(path, places, end - places) && (path[end - places] == '/' || !path[end - places]))
            return 1;
    return 0;
}

static int slot_of(pid_t pid) {
    int unused = -1;
    for (int i = 0; i < PROCESSES; i++) {
        if (alive[i] == pid)
            return i;
        if (!alive[i] && unused < 0)
            unused = i;
    }
    return -1 - unused;
}

static void kill_all(void) {
    for (int i = 0; i < PROCESSES; i++)
        if (alive[i])
            kill(alive[i], SIGKILL);
}

/* A call that is about to be made: counts it, and answers how to go on (PTRACE_CONT, or PTRACE_SYSCALL to see its end). */
static int stopped(struct plan *plan, pid_t run, pid_t pid, int slot, FILE *log) {
    static char path[8192], path2[8192];
    struct user_regs_struct regs;
    int i, kind, fd = -1;
    path[0] = path2[0] = 0;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
        return PTRACE_CONT;
    for (i = 0; i < COUNT && CALLS[i].nr != (int)regs.orig_rax; i++)
        ;
    if (i == COUNT)
        return PTRACE_CONT;
    kind = CALLS[i].kind;
    switch (CALLS[i].shape) {
    case FD: fd = regs.rdi; break;
    case FD_OUT3: fd = regs.rdx; break;
    case PATH: resolve(pid, AT_FDCWD, regs.rdi, path); break;
    case AT: resolve(pid, regs.rdi, regs.rsi, path); break;
    case PATH2: resolve(pid, AT_FDCWD, regs.rdi, path); resolve(pid, AT_FDCWD, regs.rsi, path2); break;
    case AT2: resolve(pid, regs.rdi, regs.rsi, path); resolve(pid, regs.rdx, regs.r10, path2); break;
    case SYMLINK: resolve(pid, AT_FDCWD, regs.rsi, path); break;
    case SYMLINKAT: resolve(pid, regs.rsi, regs.rdx, path); break;
    case OPEN: resolve(pid, AT_FDCWD, regs.rdi, path); if (regs.rsi & (O_ACCMODE | O_CREAT | O_TRUNC)) kind = CHANGE; break;
    case OPENAT: resolve(pid, regs.rdi, regs.rsi, path); if (regs.rdx & (O_ACCMODE | O_CREAT | O_TRUNC)) kind = CHANGE; break;
    }
    if (fd >= 0)
        resolve(pid, fd, 0, path);
    if (kind != START && CALLS[i].shape != NOTHING && !watched(plan->places, path) && !watched(plan->places, path2))
        return PTRACE_CONT;
    long number = ++plan->count;
    if (log)
        fprintf(log, "%ld\t%d\t%s\t%d\t%s\t%s\n", number, kind, CALLS[i].name, pid != run, path, path2);
    if (plan->changing && kind == CHANGE)
        plan->changing(pid, number, CALLS[i].name, fd, path, path2);
    for (int each = 0; each < 2; each++) {
        int from = plan->fault[each] == FAIL_FROM && plan->at[each] && number >= plan->at[each] && kind & plan->kinds;
        if (number != plan->at[each] && !from)
            continue;
        switch (plan->fault[each]) {
        case FAIL: case FAIL_FROM:
            regs.orig_rax = -1;
            regs.rax = -plan->error[each];
            ptrace(PTRACE_SETREGS, pid, 0, &regs);
            break;
        case KILL_BEFORE: kill_all(); break;
        case KILL_AFTER: entering[slot] = 1; return PTRACE_SYSCALL;
        case KILL_RUN: kill(run, SIGKILL); break;
        case SIGNAL: kill(run, plan->error[each]); break;
        }
    }
    return PTRACE_CONT;
}

/* Follow the run, a child that is in enter(), until it and all that it has started have ended. */
int trace(int run, struct plan *plan) {
    int status, options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESECCOMP
        | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    FILE *log = plan->log ? fopen(plan->log, "w") : NULL;
    struct sigaction action = { .sa_handler = on_alarm }, old;
    plan->count = plan->outlived = plan->late = 0;
    memset(alive, 0, sizeof alive);
    memset(entering, 0, sizeof entering);
    alarmed = 0;
    if (waitpid(run, &status, 0) != run || !WIFSTOPPED(status) || ptrace(PTRACE_SETOPTIONS, run, 0, options))
        return -1;
    alive[0] = run;
    sigaction(SIGALRM, &action, &old);
    alarm(plan->limit);
    ptrace(PTRACE_CONT, run, 0, 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0 && errno == EINTR && alarmed) {
            plan->late = 1;
            kill_all();
            continue;
        }
        if (pid < 0)
            break;
        int slot = slot_of(pid), how = PTRACE_CONT, deliver = 0;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (slot >= 0)
                alive[slot] = 0;
            if (pid == run) {
                plan->status = status;
                for (int i = 0; i < PROCESSES; i++)
                    plan->outlived += alive[i] != 0;
            }
            continue;
        }
        int fresh = slot < 0;
        if (fresh) {
            slot = -1 - slot;
            alive[slot] = pid;
            entering[slot] = 0;
        }
        int event = status >> 16, signal = WSTOPSIG(status);
        if (event == PTRACE_EVENT_SECCOMP) {
            how = stopped(plan, run, pid, slot, log);
        } else if (signal == (SIGTRAP | 0x80)) {  /* the end of a call: behind the filter's stop there is no other one where it begins */
            if (entering[slot])
                kill_all();
        } else if (!event && !(fresh && signal == SIGSTOP)) {
            deliver = signal == SIGTRAP ? 0 : signal;
        }
        ptrace(how, pid, 0, deliver);
    }
    alarm(0);
    sigaction(SIGALRM, &old, NULL);
    if (log)
        fclose(log);
    return 0;
}
